//! Ctrl-C: the first asks the run to stop at a complete step, the second ends the process.

use super::output::note;
use foretune::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Whether the run should stop.
pub(super) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Takes over SIGINT, SIGTERM and SIGHUP; the first prints `notice`. To be called once, by commands that have something to
/// finish when they are stopped.
pub(super) fn install(notice: &'static str) -> Result<()> {
    ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::Relaxed) {
            std::process::exit(1);
        }
        note(notice);
    })
    .map_err(|error| Error::Options(format!("cannot handle Ctrl-C: {error}")))
}
