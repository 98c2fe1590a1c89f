//! A whole job: head, training, the adapter, and the scores it is reported with.

use super::checkpoint::{RunIdentity, TrainState};
use super::photos::Photos;
use super::score::score;
use super::tuner::{Saving, Tuner, zero_linear_head};
use super::{GuessKind, HeadKind, Observer, Score, TuneOptions, prototype};
use crate::adapter::{Adapter, Backbone};
use crate::backend::Backend;
use crate::data::{Dataset, Split};
use crate::encoder::Encoder;
use crate::engine::{Engine, Native};
use crate::model::{Head, Model, PromptLayout};
use crate::{Error, Result};
use ndarray::Array3;
use serde::Serialize;

/// What a run may use; none of it changes the result.
#[derive(Clone, Debug)]
pub struct Resources {
    /// Examples per pass. A step's gradient does not depend on it.
    pub micro_batch: usize,
    /// Threads that decode ahead of compute.
    pub decode_threads: usize,
    /// Where and how often the run saves itself.
    pub saving: Saving,
    /// Continue from the checkpoint in `saving` when there is one.
    pub resume: bool,
}

/// What stands beside the tuned score.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compare {
    /// Score the test split at all.
    pub test: bool,
    /// Score the frozen model with the same head: one scoring, or a run of the head alone where the head is trained.
    pub baseline: bool,
    /// Run the exact gradient under the same data order.
    pub oracle: bool,
}

/// A finished run's test scores; `None` where it was not asked for or the set has no test split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Scores {
    /// Head only, no prompts.
    pub frozen: Option<Score>,
    /// With the tuned prompts.
    pub tuned: Option<Score>,
    /// Prompts tuned by the exact gradient.
    pub oracle: Option<Score>,
}

/// What a run produced.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The adapter, not yet saved.
    pub adapter: Adapter,
    /// Test scores.
    pub scores: Scores,
    /// Best validation score, if a validation split was scored.
    pub validation: Option<Score>,
    /// Training images per second.
    pub images_per_second: f64,
    /// Steps skipped because something was not finite.
    pub skipped: u64,
}

/// Identifies a data set's content as far as a run depends on it: files, labels, split and boxes, hex.
pub fn digest(dataset: &Dataset) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(dataset.classes.len() as u64).to_le_bytes());
    for item in &dataset.items {
        let path = item.path.strip_prefix(&dataset.root).unwrap_or(&item.path);
        hasher.update(path.to_string_lossy().as_bytes());
        hasher.update(&[0, item.split as u8]);
        hasher.update(&item.label.to_le_bytes());
        for v in item.crop.into_iter().flatten() {
            hasher.update(&v.to_le_bytes());
        }
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// One job: a model, a data set whose validation split has been made, and options.
pub struct Job<'a, B: Backend> {
    /// The model's description, preprocessing and classifier.
    pub model: &'a Model,
    /// Its weights on a device.
    pub native: &'a Native<B>,
    /// The data.
    pub dataset: &'a Dataset,
    /// What decides the result.
    pub options: &'a TuneOptions,
    /// What does not.
    pub resources: &'a Resources,
    /// The head of [`HeadKind::Adapter`].
    pub head_from: Option<&'a Head>,
}

impl<B> Job<'_, B>
where
    B: Backend<Elem = f32> + Send + Sync + 'static,
    B::Buffer: Send,
    B::Matrix: Send + Sync,
    B::Vector: Send + Sync,
    Encoder<B>: Engine,
{
    /// Trains, then scores the test split. Errors: bad options, unreadable photos, the engine's own, divergence, or
    /// interruption after the last complete step was saved.
    pub fn run(&self, compare: Compare, observer: &mut dyn Observer) -> Result<Outcome> {
        let photos = self.photos();
        let mut engine = self.engine(self.options)?;
        let mut tuner = self.tuner(&mut engine, self.options, self.resources.saving.clone(), observer)?;
        let state = tuner.run(observer)?.clone();
        let images_per_second = tuner.images_per_second();
        drop(tuner);

        let (prompts, head, step, validation) = match &state.best {
            Some(best) => (best.prompts.clone(), best.head.clone().or(state.head.clone()), best.step, Some(best.score)),
            None => (state.prompts.clone(), state.head.clone(), state.step, None),
        };
        let scores = self.scores(&compare, &mut engine, &photos, (&prompts, head.as_ref()), observer);
        let scores = scores.map_err(|error| match error {
            Error::Interrupted { .. } => Error::Interrupted { step: state.step },
            error => error,
        })?;
        let adapter = self.adapter(prompts, head, step)?;
        Ok(Outcome { adapter, scores, validation, images_per_second, skipped: state.skipped })
    }

    /// Test scores of the tuned `prompts` and head, and of what stands beside them.
    fn scores(
        &self,
        compare: &Compare,
        engine: &mut Encoder<B>,
        photos: &Photos,
        (prompts, head): (&Array3<f32>, Option<&Head>),
        observer: &mut dyn Observer,
    ) -> Result<Scores> {
        let test = self.dataset.items_of(Split::Test);
        let mut scores = Scores::default();
        if !compare.test || test.is_empty() {
            return Ok(scores);
        }
        let classifier = head.cloned().map_or_else(|| self.pretrained(), Ok)?;
        let values = prompts.as_slice().expect("row-major");
        scores.tuned = Some(score(engine, photos, &test, values, &classifier, "test", observer)?);
        let prompt_free = prompts.is_empty();
        scores.frozen = match self.options.head {
            _ if prompt_free => scores.tuned,
            _ if !compare.baseline => None,
            HeadKind::Linear => self.other(GuessKind::None, photos, &test, observer)?,
            _ => Some(score(engine, photos, &test, &[], &classifier, "frozen baseline", observer)?),
        };
        if compare.oracle {
            scores.oracle = match self.options.guess {
                GuessKind::Backprop => scores.tuned,
                GuessKind::None => None,
                _ => self.other(GuessKind::Backprop, photos, &test, observer)?,
            };
        }
        Ok(scores)
    }

    fn photos(&self) -> Photos {
        Photos {
            items: self.dataset.items.clone().into(),
            preprocess: self.model.preprocess.clone(),
            decode_threads: self.resources.decode_threads,
            seed: self.options.seed,
        }
    }

    fn layout(options: &TuneOptions) -> PromptLayout {
        match options.guess {
            GuessKind::None => PromptLayout::NONE,
            _ => PromptLayout { prompts: options.prompts, deep: options.deep, insert_at: options.insert_at },
        }
    }

    fn engine(&self, options: &TuneOptions) -> Result<Encoder<B>> {
        let tangents = match options.guess {
            GuessKind::Backprop | GuessKind::None => 0,
            _ => options.tangents,
        };
        let micro_batch = self.resources.micro_batch.max(1);
        self.native.engine(Self::layout(options), micro_batch, tangents)
    }

    /// The checkpoint's own classifier, refused when the data has labels it lacks.
    fn pretrained(&self) -> Result<Head> {
        let head = self.model.head()?.ok_or_else(|| {
            Error::Options(format!(
                "--head pretrained: {} has no classifier; use --head prototype or linear",
                self.model.path.display()
            ))
        })?;
        self.fits(head, "the checkpoint's classifier")
    }

    fn fits(&self, head: Head, whose: &str) -> Result<Head> {
        let classes = self.dataset.classes.len();
        if head.classes() != classes {
            return Err(Error::Options(format!(
                "{whose} knows {} classes and the data set has {classes}; use --head prototype or linear",
                head.classes()
            )));
        }
        let width = self.model.spec.head_width();
        if head.width() != width {
            return Err(Error::Options(format!(
                "{whose} reads {} values and this model's head input has {width}; use a head made for it",
                head.width()
            )));
        }
        Ok(head)
    }

    fn tuner<'e>(
        &self,
        engine: &'e mut Encoder<B>,
        options: &TuneOptions,
        saving: Saving,
        observer: &mut dyn Observer,
    ) -> Result<Tuner<'e>> {
        let photos = self.photos();
        let [train, val] = [Split::Train, Split::Val].map(|split| self.dataset.items_of(split));
        let identity = RunIdentity {
            options: options.clone(),
            fingerprint: self.model.fingerprint(),
            dataset: digest(self.dataset),
            preprocess: self.model.preprocess.clone(),
        };
        let pretrained = match options.head {
            HeadKind::Pretrained => Some(self.pretrained()?),
            _ => None,
        };
        if let Some(path) = saving.path.as_ref().filter(|path| self.resources.resume && path.exists()) {
            let state = TrainState::open(path)?;
            state.check(path, &identity)?;
            return Ok(Tuner::from_state(engine, photos, train, val, state, pretrained)?.saving(saving));
        }
        let classes = self.dataset.classes.len();
        let head = match options.head {
            HeadKind::Pretrained => None,
            HeadKind::Linear => Some(zero_linear_head(classes, self.model.spec.head_width())),
            HeadKind::Prototype => Some(prototype::fit(engine, &photos, &train, classes, observer)?),
            HeadKind::Adapter => {
                let head = self.head_from.cloned();
                let head = head.ok_or_else(|| Error::Options("--head-from: that adapter stores no head".into()))?;
                Some(self.fits(head, "the head of --head-from")?)
            }
        };
        Ok(Tuner::new(engine, photos, train, val, identity, head, pretrained)?.saving(saving))
    }

    /// Test score of the same run with another gradient source: the baseline or the oracle.
    fn other(
        &self,
        guess: GuessKind,
        photos: &Photos,
        test: &[usize],
        observer: &mut dyn Observer,
    ) -> Result<Option<Score>> {
        let options = TuneOptions { guess, ..self.options.clone() };
        let mut engine = self.engine(&options)?;
        let mut tuner = self.tuner(&mut engine, &options, Saving::default(), observer)?;
        let state = tuner.run(observer)?.clone();
        drop(tuner);
        let (prompts, head) = match state.best {
            Some(best) => (best.prompts, best.head.or(state.head)),
            None => (state.prompts, state.head),
        };
        let head = head.map_or_else(|| self.pretrained(), Ok)?;
        let name = if guess == GuessKind::None { "frozen baseline" } else { "oracle" };
        score(&mut engine, photos, test, prompts.as_slice().expect("row-major"), &head, name, observer).map(Some)
    }

    fn adapter(&self, prompts: Array3<f32>, head: Option<Head>, step: u64) -> Result<Adapter> {
        let layout = Self::layout(self.options);
        Ok(Adapter {
            prompts,
            insert_at: layout.insert_at,
            deep: layout.deep,
            head,
            pooling: self.model.spec.pooling,
            classes: self.dataset.classes.clone(),
            preprocess: self.model.preprocess.clone(),
            guess: self.options.guess,
            seed: self.options.seed,
            step,
            backbone: Backbone::new(&self.model.spec, &self.model.fingerprint()),
        })
    }
}
