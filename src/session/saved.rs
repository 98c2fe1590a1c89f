//! What a session leaves behind, and goes on from.

use super::{Live, Metrics, Session};
use crate::adapter::{Adapter, Backbone};
use crate::files::write_atomic;
use crate::model::PromptLayout;
use crate::tune::{HeadKind, Prototypes, TrainState};
use crate::{Classifier, Error, Result, container};
use ndarray::Array3;
use std::path::Path;

impl Session {
    /// Looks up the backbone's fingerprint, for what is written and read.
    fn identify(&mut self) {
        if self.identity.fingerprint.is_empty() {
            self.identity.fingerprint = self.model.fingerprint();
        }
        let fingerprint = &self.identity.fingerprint;
        let state = match &mut self.live {
            Live::Ready(_, learner) => learner.state_mut(),
            Live::Trimmed(state) => state,
        };
        state.identity.fingerprint.clone_from(fingerprint);
    }

    /// What has been learnt, ready to be saved. Errors: [`Error::Options`] before there is a head.
    pub fn adapter(&mut self) -> Result<Adapter> {
        self.identify();
        let head = match self.options.tune.head {
            HeadKind::Pretrained => None,
            _ => Some(self.head()?.clone()),
        };
        let tune = &self.options.tune;
        let (spec, layout, state) = (&self.model.spec, tune.layout(), self.state());
        let prompts = match layout == PromptLayout::NONE {
            true => Array3::zeros((0, 0, spec.width)),
            false => state.prompts.clone(),
        };
        Ok(Adapter {
            prompts,
            insert_at: layout.insert_at,
            deep: layout.deep,
            head,
            pooling: spec.pooling,
            classes: self.taught.classes.clone(),
            preprocess: self.model.preprocess.clone(),
            guess: tune.guess,
            seed: tune.seed,
            step: state.step,
            backbone: Backbone::new(spec, &self.identity.fingerprint),
        })
    }

    /// What has been learnt, on the session's model: what predicts and what is exported. Errors: [`Error::Options`] before there is a
    /// head; the model's own classifier cannot be read.
    pub fn classifier(&mut self) -> Result<Classifier> {
        let adapter = self.adapter()?;
        Classifier::new(self.model.clone(), Some((adapter, Path::new("(adapter of the session)"))))
    }

    /// The bytes of a checkpoint: everything needed to go on and give the bits this session would give. `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Adapter`] when it cannot be encoded.
    pub fn checkpoint(&mut self, path: &Path) -> Result<Vec<u8>> {
        self.identify();
        let taught = Some(self.taught.clone());
        let state = match &mut self.live {
            Live::Ready(_, learner) => learner.saved().clone(),
            Live::Trimmed(state) => (**state).clone(),
        };
        TrainState { taught, ..state }.encode(path)
    }

    /// Replaces `path` by a checkpoint, whole or not at all. Errors: [`Error::Io`].
    pub fn save_checkpoint(&mut self, path: &Path) -> Result<()> {
        let bytes = self.checkpoint(path)?;
        write_atomic(path, |writer| writer.write_all(&bytes))
    }

    /// Goes on from the checkpoint at `path`. Errors: [`Error::Io`], or as [`Session::restore`].
    pub fn load_checkpoint(&mut self, path: &Path) -> Result<()> {
        self.restore(path, &container::read(path, "a checkpoint of a session")?)
    }

    /// Goes on from the checkpoint `bytes` of a session with the same model and options. `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Adapter`] when it is damaged or another session's; nothing has changed then.
    pub fn restore(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.identify();
        let mut state = TrainState::from_bytes(path, bytes)?;
        state.check(path, &self.identity)?;
        let fail = |problem: &str| Error::Adapter { path: path.to_owned(), problem: problem.into() };
        let taught = state.taught.take();
        let taught = taught.ok_or_else(|| fail("this is the checkpoint of a run over a data set, not of a session"))?;
        if taught.prototypes.is_some() != self.taught.prototypes.is_some() {
            return Err(fail("it has another kind of head"));
        }
        let prototypes = taught.prototypes.as_ref().map(Prototypes::head);
        let shape = (taught.classes.len(), self.model.spec.head_width());
        if [&prototypes, &state.head].into_iter().flatten().any(|head| (head.classes(), head.width()) != shape) {
            return Err(fail("its head does not fit its classes and this model; the file is damaged"));
        }
        let (step, skipped) = (state.step, state.skipped);
        let before = std::mem::replace(&mut self.live, Live::Trimmed(Box::new(state)));
        if let Err(error) = self.live() {
            self.live = before;
            return Err(error);
        }
        self.taught = taught;
        self.metrics = Metrics { step, skipped, ..Metrics::default() };
        Ok(())
    }
}
