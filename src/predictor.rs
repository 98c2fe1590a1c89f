//! A classifier that several threads use at a time.

use crate::classifier::Classifier;
use crate::data::{Images, prepare_all};
use crate::engine::Engine;
use crate::{Error, Result};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Classifies images; never changes. Each call takes one of a fixed number of engines, and waits while all are taken.
pub struct Predictor {
    classifier: Classifier,
    /// Examples of an engine's largest pass.
    most: usize,
    free: Mutex<Vec<Box<dyn Engine + Send>>>,
    returned: Condvar,
}

/// An engine that goes back when this is dropped.
struct Taken<'a> {
    predictor: &'a Predictor,
    engine: Option<Box<dyn Engine + Send>>,
}

impl Predictor {
    /// `engines` run the classifier's model with its layout, and allow as many calls at a time.
    ///
    /// # Errors
    /// [`Error::Options`] without any.
    pub fn new(classifier: Classifier, engines: Vec<Box<dyn Engine + Send>>) -> Result<Self> {
        let most = engines.iter().map(|engine| engine.most_examples()).min().filter(|&most| most > 0);
        let most =
            most.ok_or_else(|| Error::Options("a predictor needs an engine; ask for one call at a time".into()))?;
        Ok(Predictor { classifier, most, free: Mutex::new(engines), returned: Condvar::new() })
    }

    /// The model, its preprocessing, and its classes.
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// Logits `[n, C]` of n `images`, prepared with the classifier's preprocessing.
    ///
    /// # Errors
    /// [`Error::Shape`] when there are none, one is not finite, or `logits` has another length; [`Images::prepare`]'s and the
    /// engine's own.
    pub fn predict(&self, images: &mut dyn Images, logits: &mut [f32]) -> Result<()> {
        let (len, classes, count) =
            (self.classifier.model.preprocess.image_len(), self.classifier.head.classes(), images.count());
        if count == 0 || logits.len() != count * classes {
            let (expected, found) = (format!("{count}·{classes} values, not none"), format!("{} values", logits.len()));
            return Err(Error::Shape { what: "logits", expected, found });
        }
        let mut taken = self.take();
        let engine = taken.engine.as_mut().expect("taken");
        let mut batch = vec![0.0; self.most.min(count) * len];
        for (i, logits) in logits.chunks_mut(self.most * classes).enumerate() {
            let batch = &mut batch[..logits.len() / classes * len];
            prepare_all(images, i * self.most, len, batch)?;
            let found = self.classifier.logits(&mut **engine, batch)?;
            logits.copy_from_slice(found.as_slice().expect("new arrays are row-major"));
        }
        Ok(())
    }

    fn take(&self) -> Taken<'_> {
        let mut free = self.lock();
        loop {
            match free.pop() {
                Some(engine) => return Taken { predictor: self, engine: Some(engine) },
                None => free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Box<dyn Engine + Send>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            self.predictor.lock().push(engine);
            self.predictor.returned.notify_one();
        }
    }
}
