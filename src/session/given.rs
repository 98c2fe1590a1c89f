//! A step's images on their way from the program to the learner.

use super::Progress;
use crate::data::{Images, prepare_all};
use crate::engine::Engine;
use crate::tune::{Batch, Event, Feed, Observer};
use crate::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Images as they were handed over.
pub(super) struct Given<'a> {
    pub images: &'a mut dyn Images,
    pub labels: &'a [u32],
    pub image_len: usize,
    pub done: usize,
    pub progress: Option<&'a mut Progress>,
    pub cancel: &'a AtomicBool,
}

impl Feed for Given<'_> {
    fn fill(&mut self, _: &mut dyn Engine, batch: &mut Batch, most: usize) -> Result<usize> {
        if self.progress.as_mut().is_some_and(|go_on| !go_on(self.done, self.labels.len())) {
            self.cancel.store(true, Relaxed);
            return Err(Error::Interrupted { step: 0 });
        }
        let taken = self.done..self.labels.len().min(self.done + most);
        batch.labels.clear();
        batch.labels.extend_from_slice(&self.labels[taken.clone()]);
        batch.images.resize(taken.len() * self.image_len, 0.0);
        prepare_all(self.images, taken.start, self.image_len, &mut batch.images)?;
        self.done = taken.end;
        Ok(taken.len())
    }
}

/// Watches the flag and reports nothing.
pub(super) struct Flag<'a>(pub &'a AtomicBool);

impl Observer for Flag<'_> {
    fn event(&mut self, _: &Event) {}

    fn cancelled(&self) -> bool {
        self.0.load(Relaxed)
    }
}
