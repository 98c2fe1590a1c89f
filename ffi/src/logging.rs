//! What the library logs, for the host that asks for it.

use crate::guard::call;
use crate::output::c_text;
use crate::status::{Failure, foretune_status};
use log::{LevelFilter, Log, Metadata, Record};
use std::ffi::{c_char, c_void};
use std::sync::{PoisonError, RwLock};

/// A message of `level` 1 (error) to 5 (trace), UTF-8, valid during the call. Called on whichever thread logs; it must not call the
/// library.
pub type foretune_log_callback =
    Option<unsafe extern "C" fn(level: i32, message: *const c_char, user_data: *mut c_void)>;

struct Sink {
    callback: unsafe extern "C" fn(i32, *const c_char, *mut c_void),
    user_data: *mut c_void,
}

// SAFETY: the header asks for a callback that any thread may call.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

static SINK: RwLock<Option<Sink>> = RwLock::new(None);

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        let sink = SINK.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(Sink { callback, user_data }) = &*sink {
            let text = c_text(&record.args().to_string());
            // SAFETY: the host's function, with the host's data.
            unsafe { callback(record.level() as i32, text.as_ptr(), *user_data) };
        }
    }

    fn flush(&self) {}
}

/// Sends messages up to `level` (0: none, 1: errors, 2: warnings, 3: information, 4: debugging, 5: all) to `callback` from now on; null
/// ends it, and after this returns it is not called any more. Without, nothing is logged anywhere. Any thread but one in the callback.
///
/// Errors: `FORETUNE_INVALID_ARGUMENT` for another level.
///
/// # Safety
/// `callback` may be called from any thread until another takes its place.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_set_log(
    callback: foretune_log_callback,
    level: i32,
    user_data: *mut c_void,
) -> foretune_status {
    call(|| {
        let levels = [
            LevelFilter::Off,
            LevelFilter::Error,
            LevelFilter::Warn,
            LevelFilter::Info,
            LevelFilter::Debug,
            LevelFilter::Trace,
        ];
        let level = usize::try_from(level).ok().and_then(|level| levels.get(level));
        let level = level.ok_or_else(|| Failure::argument("level is none of 0 to 5"))?;
        *SINK.write().unwrap_or_else(PoisonError::into_inner) = callback.map(|callback| Sink { callback, user_data });
        log::set_max_level(if callback.is_some() { *level } else { LevelFilter::Off });
        // Fails where the program that this crate is linked into, a Rust one then, has a logger of its own.
        log::set_logger(&Logger).ok();
        Ok(())
    })
}
