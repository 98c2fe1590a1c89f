//! A run while it is made: its curve, kept beside its checkpoint so that a run which is continued has all of it.

use super::super::screen::Screen;
use super::runs::Point;
use foretune::tune::{Event, Observer};
use foretune::{Error, Result, write_atomic};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::PathBuf;

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Throughput of training so far.
    pub(super) images_per_second: Option<f64>,
    pub(super) curve: Vec<Point>,
}

pub(super) struct Watch<'a> {
    screen: &'a mut Screen,
    path: PathBuf,
    pub(super) seen: Seen,
    /// Complete steps.
    pub(super) step: u64,
    /// Why the curve could not be kept.
    failed: Option<Error>,
}

impl<'a> Watch<'a> {
    /// Goes on with what `path` keeps of a run that was stopped, if there is anything.
    pub(super) fn new(screen: &'a mut Screen, path: PathBuf) -> Result<Self> {
        let seen = match std::fs::read(&path) {
            Err(source) if source.kind() == ErrorKind::NotFound => Seen::default(),
            Err(source) => return Err(Error::Io { action: "read", path, source }),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| Error::Data {
                path: path.clone(),
                problem: format!("not what a comparison wrote: {error}; remove its folder, and its run begins anew"),
            })?,
        };
        Ok(Watch { screen, path, seen, step: 0, failed: None })
    }

    /// What was seen. Errors: it could not be kept, and the run was cancelled for that.
    pub(super) fn finish(self) -> Result<(Seen, u64)> {
        self.failed.map_or(Ok((self.seen, self.step)), Err)
    }

    fn keep(&mut self) {
        let kept = serde_json::to_vec(&self.seen)
            .map_err(|error| Error::Io { action: "write", path: self.path.clone(), source: error.into() })
            .and_then(|bytes| write_atomic(&self.path, |writer| writer.write_all(&bytes)));
        if let Err(error) = kept {
            self.failed.get_or_insert(error);
        }
    }
}

impl Observer for Watch<'_> {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Step { step, images_per_second, .. } => {
                (self.step, self.seen.images_per_second) = (*step, Some(*images_per_second));
            }
            Event::Skipped { step, .. } => self.step = *step,
            Event::Evaluated { step, score, .. } => {
                let loss = Some(score.loss).filter(|loss| loss.is_finite());
                // A run that goes on from an earlier checkpoint comes by here again.
                self.seen.curve.retain(|point| point.step < *step);
                self.seen.curve.push(Point { step: *step, loss, accuracy: score.accuracy });
                self.keep();
            }
            _ => {}
        }
        self.screen.event(event);
    }

    fn cancelled(&self) -> bool {
        self.screen.cancelled() || self.failed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::args::Global;
    use super::*;
    use foretune::tune::Score;

    #[test]
    fn a_curve_goes_on_where_it_was_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.curve.json");
        let mut screen = Screen::new(&Global { json: false, quiet: true, threads: None });
        let evaluated = |step, loss| {
            let score = Score { accuracy: 0.5, loss, examples: 4 };
            Event::Evaluated { step, score, best: false }
        };
        let point = |step, loss| Point { step, loss, accuracy: 0.5 };
        let mut watch = Watch::new(&mut screen, path.clone()).unwrap();
        watch.event(&Event::Step { step: 1, steps: 9, loss: 1.0, accuracy: 0.0, lr: 0.1, images_per_second: 7.0 });
        for step in [2, 4] {
            watch.event(&evaluated(step, f64::INFINITY));
        }
        drop(watch);
        // From the checkpoint of step 3.
        let mut watch = Watch::new(&mut screen, path.clone()).unwrap();
        for step in [4, 6] {
            watch.event(&evaluated(step, 2.0));
        }
        let (seen, _) = watch.finish().unwrap();
        assert_eq!(seen.curve, [point(2, None), point(4, Some(2.0)), point(6, Some(2.0))]);
        assert_eq!(seen.images_per_second, Some(7.0));
        std::fs::write(&path, "{").unwrap();
        assert!(Watch::new(&mut screen, path).is_err());
    }

    #[test]
    fn a_curve_that_cannot_be_kept_stops_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let mut screen = Screen::new(&Global { json: false, quiet: true, threads: None });
        let mut watch = Watch::new(&mut screen, folder.path().join("absent/a.curve.json")).unwrap();
        let score = Score { accuracy: 0.5, loss: 1.0, examples: 4 };
        watch.event(&Event::Evaluated { step: 2, score, best: false });
        assert!(watch.cancelled());
        assert!(watch.finish().is_err());
    }
}
