//! A whole job: head, training, the adapter, and the scores it is reported with.

use super::checkpoint::{RunIdentity, TrainState};
use super::photos::{DecodeOptions, Photos};
use super::prefixes::Prefixes;
use super::score::score;
use super::tuner::{Saving, Tuner, zero_linear_head};
use super::{GuessKind, HeadKind, Observer, Score, TuneOptions, prototype};
use crate::adapter::{Adapter, Backbone};
use crate::data::{Dataset, PrefixCache, PrefixCacheOptions, Split};
use crate::engine::{Engine, Loaded};
use crate::memory::Plan;
use crate::model::{Head, Model, PromptLayout};
use crate::{Error, Result};
use ndarray::Array3;
use serde::Serialize;
use std::sync::Arc;

/// What a run may use; none of it changes the result.
#[derive(Clone, Debug)]
pub struct Resources {
    /// Examples per pass. A step's gradient does not depend on it.
    pub micro_batch: usize,
    /// Tangents per pass; K takes as many passes as it needs.
    pub tangents_per_pass: usize,
    /// Most bytes of head inputs kept between the two passes of fitting a prototype head; more are computed again.
    pub keep: u64,
    /// How decoding runs ahead of compute.
    pub decode: DecodeOptions,
    /// Where and how often the run saves itself.
    pub saving: Saving,
    /// Continue from the checkpoint in `saving` when there is one.
    pub resume: bool,
    /// Where what [`TuneOptions::prefix_f16`] rounds is kept; without, it is computed every time.
    pub prefix_cache: Option<PrefixCacheOptions>,
}

impl Default for Resources {
    /// 16 examples and up to 8 tangents a pass, one decoding thread, nothing saved on the way.
    fn default() -> Self {
        Resources {
            micro_batch: 16,
            tangents_per_pass: 8,
            keep: u64::MAX,
            decode: DecodeOptions::default(),
            saving: Saving::default(),
            resume: false,
            prefix_cache: None,
        }
    }
}

impl Resources {
    /// What `plan` allows.
    pub fn of_plan(plan: &Plan, saving: Saving, resume: bool) -> Self {
        let Plan { micro_batch, tangents_per_pass, keep, decode, .. } = *plan;
        Resources { micro_batch, tangents_per_pass, keep, decode, saving, resume, prefix_cache: None }
    }
}

/// Which scores a run is reported with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compare {
    /// Score the test split, not only the validation split.
    pub test: bool,
    /// Score the frozen model with the same head: one pass, or a run of the head alone where the head is trained.
    pub frozen: bool,
    /// Tune by the exact gradient under the same data order and score that.
    pub oracle: bool,
}

/// Scores of one set of prompts and head; `None` where there is no such split or it was not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Splits {
    /// Validation split.
    pub validation: Option<Score>,
    /// Test split.
    pub test: Option<Score>,
}

/// The tuned prompts' scores beside those that tell what the prompts are worth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Head only, no prompts.
    pub frozen: Option<Splits>,
    /// With the tuned prompts.
    pub tuned: Splits,
    /// With prompts tuned by the exact gradient.
    pub oracle: Option<Splits>,
}

/// What training produced.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The adapter, not yet saved.
    pub adapter: Adapter,
    /// Its validation score, if there is a validation split.
    pub validation: Option<Score>,
    /// Training images per second.
    pub images_per_second: f64,
    /// Share of the training time that compute waited for photos to be decoded.
    pub stalled: f64,
    /// Steps skipped because something was not finite.
    pub skipped: u64,
}

/// Identifies a data set's content as far as a run depends on it: files, labels, split and boxes, hex.
pub fn digest(dataset: &Dataset) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(dataset.classes.len() as u64).to_le_bytes());
    for item in dataset.items.iter() {
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
pub struct Job<'a> {
    /// The model's description, preprocessing and classifier.
    pub model: &'a Model,
    /// Its weights on a device.
    pub loaded: &'a dyn Loaded,
    /// The data.
    pub dataset: &'a Dataset,
    /// What decides the result.
    pub options: &'a TuneOptions,
    /// What does not.
    pub resources: &'a Resources,
    /// The head of [`HeadKind::Adapter`].
    pub head_from: Option<&'a Head>,
}

impl Job<'_> {
    /// Trains. Errors: bad options, unreadable photos, the engine's own, divergence, or interruption after the last
    /// complete step was saved.
    pub fn train(&self, observer: &mut dyn Observer) -> Result<Trained> {
        self.train_with(self.options, self.resources.saving.clone(), observer)
    }

    /// Scores what [`Job::train`] produced, and what it is to be compared with. Errors: as [`Job::train`].
    pub fn scores(&self, trained: &Trained, compare: Compare, observer: &mut dyn Observer) -> Result<Scores> {
        self.compare(trained, compare, observer).map_err(|error| match error {
            // Whatever was being scored: the run itself is complete.
            Error::Interrupted { .. } => Error::Interrupted { step: self.options.steps },
            error => error,
        })
    }

    fn compare(&self, trained: &Trained, compare: Compare, observer: &mut dyn Observer) -> Result<Scores> {
        let tuned = self.splits(trained, compare, "test", observer)?;
        let prompts_are_absent = trained.adapter.prompts.is_empty();
        let frozen = match self.options.head {
            _ if !compare.frozen => None,
            _ if prompts_are_absent => Some(tuned),
            HeadKind::Linear => Some(self.other(GuessKind::None, compare, "test, frozen", observer)?),
            _ => {
                let adapter = trained.adapter.without_prompts();
                let val = self.dataset.items_of(Split::Val);
                let validation = self.score(&adapter, &val, "validation, frozen", observer)?;
                Some(self.splits(&Trained { adapter, validation, ..*trained }, compare, "test, frozen", observer)?)
            }
        };
        let oracle = match self.options.guess {
            _ if !compare.oracle => None,
            GuessKind::None => None,
            GuessKind::Backprop => Some(tuned),
            _ => Some(self.other(GuessKind::Backprop, compare, "test, exact gradient", observer)?),
        };
        Ok(Scores { frozen, tuned, oracle })
    }

    fn train_with(&self, options: &TuneOptions, saving: Saving, observer: &mut dyn Observer) -> Result<Trained> {
        let tangents = match options.guess.is_forward_only() {
            true => options.tangents.min(self.resources.tangents_per_pass.max(1)),
            false => 0,
        };
        let mut engine = self.loaded.make(placement(options), self.micro_batch(), tangents, options.guess)?;
        let mut tuner = self.tuner(&mut *engine, options, saving, observer)?;
        let state = tuner.run(observer)?.clone();
        let (images_per_second, stalled) = (tuner.images_per_second(), tuner.stalled());
        let (prompts, head, step, validation) = match state.best {
            Some(best) => (best.prompts, best.head.or(state.head), best.step, Some(best.score)),
            None => (state.prompts, state.head, state.step, None),
        };
        let adapter = self.adapter(options, prompts, head, step);
        Ok(Trained { adapter, validation, images_per_second, stalled, skipped: state.skipped })
    }

    /// Scores of the same run with another gradient source: the baseline or the oracle.
    fn other(
        &self,
        guess: GuessKind,
        compare: Compare,
        name: &'static str,
        observer: &mut dyn Observer,
    ) -> Result<Splits> {
        let options = TuneOptions { guess, ..self.options.clone() };
        let trained = self.train_with(&options, Saving::default(), observer)?;
        self.splits(&trained, compare, name, observer)
    }

    fn splits(
        &self,
        trained: &Trained,
        compare: Compare,
        name: &'static str,
        observer: &mut dyn Observer,
    ) -> Result<Splits> {
        let test = if compare.test { self.dataset.items_of(Split::Test) } else { Vec::new() };
        Ok(Splits { validation: trained.validation, test: self.score(&trained.adapter, &test, name, observer)? })
    }

    /// `None` for no photos.
    fn score(
        &self,
        adapter: &Adapter,
        photos: &[usize],
        name: &'static str,
        observer: &mut dyn Observer,
    ) -> Result<Option<Score>> {
        if photos.is_empty() {
            return Ok(None);
        }
        let layout = PromptLayout { insert_at: placement(self.options).insert_at, ..adapter.layout() };
        let mut engine = self.loaded.make(layout, self.micro_batch(), 0, GuessKind::None)?;
        let head = adapter.head.clone().map_or_else(|| self.pretrained(), Ok)?;
        let prompts = adapter.prompts.as_slice().expect("prompts are row-major");
        let all = self.photos(&adapter.backbone.fingerprint)?;
        score(&mut *engine, &all, photos, prompts, &head, name, observer).map(Some)
    }

    fn micro_batch(&self) -> usize {
        self.resources.micro_batch.max(1)
    }

    /// `fingerprint`: the backbone's.
    fn photos(&self, fingerprint: &str) -> Result<Photos> {
        let items = self.dataset.items.clone();
        let prefixes = match (self.options.prefix_f16, &self.resources.prefix_cache) {
            (false, None) => None,
            (false, Some(_)) => {
                let problem = "a prefix cache is for runs whose options have prefix_f16: it holds rounded values";
                return Err(Error::Options(problem.into()));
            }
            (true, cache) => {
                self.options.check_prefix()?;
                let (key, values) = (self.prefix_key(fingerprint), self.model.spec.prefix_len());
                let open = |cache| PrefixCache::open(cache, key, &items, values).map(Arc::new);
                Some(Prefixes::new(items.clone(), cache.as_ref().map(open).transpose()?))
            }
        };
        let (preprocess, decode) = (self.model.preprocess.clone(), self.resources.decode);
        Ok(Photos { items, preprocess, decode, seed: self.options.seed, prefixes })
    }

    /// Stands for all that decides the values of a prefix but the image: the program's version, which may compute otherwise; the
    /// backbone, the image's size and preprocessing; ℓ; and the arithmetic, whose last bits differ between instruction sets.
    fn prefix_key(&self, fingerprint: &str) -> [u8; 32] {
        let parts = serde_json::json!([
            env!("CARGO_PKG_VERSION"),
            fingerprint,
            self.model.spec.image,
            self.model.preprocess,
            self.options.insert_at,
            self.loaded.precision(),
            self.loaded.arithmetic(),
        ]);
        *blake3::hash(parts.to_string().as_bytes()).as_bytes()
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
        engine: &'e mut dyn Engine,
        options: &TuneOptions,
        saving: Saving,
        observer: &mut dyn Observer,
    ) -> Result<Tuner<'e>> {
        let fingerprint = self.model.fingerprint();
        let photos = self.photos(&fingerprint)?;
        let [train, val] = [Split::Train, Split::Val].map(|split| self.dataset.items_of(split));
        let identity = RunIdentity {
            options: options.clone(),
            fingerprint,
            dataset: digest(self.dataset),
            preprocess: self.model.preprocess.clone(),
            precision: self.loaded.precision(),
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
            HeadKind::Prototype => {
                Some(prototype::fit(engine, &photos, &train, classes, self.resources.keep, observer)?)
            }
            HeadKind::Adapter => {
                let head = self.head_from.cloned();
                let head = head.ok_or_else(|| Error::Options("--head-from: that adapter stores no head".into()))?;
                Some(self.fits(head, "the head of --head-from")?)
            }
        };
        Ok(Tuner::new(engine, photos, train, val, identity, head, pretrained)?.saving(saving))
    }

    fn adapter(&self, options: &TuneOptions, prompts: Array3<f32>, head: Option<Head>, step: u64) -> Adapter {
        let layout = options.layout();
        Adapter {
            prompts,
            insert_at: layout.insert_at,
            deep: layout.deep,
            head,
            pooling: self.model.spec.pooling,
            classes: self.dataset.classes.clone(),
            preprocess: self.model.preprocess.clone(),
            guess: options.guess,
            seed: options.seed,
            step,
            backbone: Backbone::new(&self.model.spec, &self.model.fingerprint()),
        }
    }
}

/// Where prompts enter; without any, where passes over prefixes begin.
fn placement(options: &TuneOptions) -> PromptLayout {
    let layout = options.layout();
    PromptLayout { insert_at: if options.prefix_f16 { options.insert_at } else { layout.insert_at }, ..layout }
}
