//! The training loop: batches → dual passes → (losses, L̇) → estimator → optimizer → prompts.

use super::checkpoint::{Best, RunIdentity, TrainState};
use super::learner::{Learner, MOST_SKIPS, Outcome};
use super::order::requests;
use super::photos::Photos;
use super::score::score;
use super::{Event, GuessKind, Keep, Observer, TuneOptions};
use crate::engine::Engine;
use crate::model::{Head, ModelSpec};
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};
use ndarray::{Array1, Array2, Array3};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where and how often a run saves itself.
#[derive(Clone, Debug, Default)]
pub struct Saving {
    /// The checkpoint file; `None` saves nothing.
    pub path: Option<PathBuf>,
    /// Steps between checkpoints; 0 for only on interruption.
    pub every: u64,
}

/// One run of prompt tuning, or of its baseline or oracle.
pub struct Tuner<'a> {
    engine: &'a mut dyn Engine,
    photos: Photos,
    train: Vec<usize>,
    val: Vec<usize>,
    learner: Learner,
    saving: Saving,
    busy: Duration,
    /// Of `busy`, what compute waited for decoding.
    waited: Duration,
    images: u64,
}

impl<'a> Tuner<'a> {
    /// A run that starts anew. `head`: fitted or taken from elsewhere (then frozen, except a zero linear head for
    /// [`HeadKind::Linear`](super::HeadKind::Linear)); `pretrained`: the checkpoint's own head when that is what is used. Errors: options that
    /// contradict each other, the model or the data.
    pub fn new(
        engine: &'a mut dyn Engine,
        photos: Photos,
        train: Vec<usize>,
        val: Vec<usize>,
        identity: RunIdentity,
        head: Option<Head>,
        pretrained: Option<Head>,
    ) -> Result<Self> {
        let options = &identity.options;
        check(options, engine.spec(), &train)?;
        let layout = engine.layout();
        let shape = [layout.sets(engine.spec().depth), layout.prompts, engine.spec().width];
        let prompts = initial_prompts(engine.spec(), shape, options.seed);
        let state = TrainState::new(identity, prompts, head);
        Self::from_state(engine, photos, train, val, state, pretrained)
    }

    /// A run that continues `state`, whose identity the caller has checked.
    pub fn from_state(
        engine: &'a mut dyn Engine,
        photos: Photos,
        train: Vec<usize>,
        val: Vec<usize>,
        state: TrainState,
        pretrained: Option<Head>,
    ) -> Result<Self> {
        let options = &state.identity.options;
        check(options, engine.spec(), &train)?;
        for head in [&state.head, &pretrained].into_iter().chain(state.best.as_ref().map(|best| &best.head)).flatten() {
            let classes = photos.items.iter().map(|item| item.label as usize + 1).max().unwrap_or(0);
            if head.width() != engine.spec().head_width() || head.classes() < classes {
                return Err(Error::Shape {
                    what: "head",
                    expected: format!("at least {classes} classes, width {}", engine.spec().head_width()),
                    found: format!("{} classes, width {}", head.classes(), head.width()),
                });
            }
        }
        let learner = Learner::new(engine, state, pretrained)?;
        Ok(Tuner {
            engine,
            photos,
            train,
            val,
            learner,
            saving: Saving::default(),
            busy: Duration::ZERO,
            waited: Duration::ZERO,
            images: 0,
        })
    }

    /// Saves the run as `saving` says.
    pub fn saving(mut self, saving: Saving) -> Self {
        self.saving = saving;
        self
    }

    /// Training throughput so far, images per second; decoding, head gradient and update included, scoring not.
    pub fn images_per_second(&self) -> f64 {
        self.images as f64 / self.busy.as_secs_f64().max(1e-9)
    }

    /// Share of the training time so far that compute has waited for photos to be decoded.
    pub fn stalled(&self) -> f64 {
        self.waited.as_secs_f64() / self.busy.as_secs_f64().max(1e-9)
    }

    /// Runs to the end and returns the final state. Errors: a photo cannot be decoded, the engine's own,
    /// [`Error::Diverged`], or [`Error::Interrupted`] once the last complete step has been saved.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<&TrainState> {
        let options = self.state().identity.options.clone();
        let from = self.state().step * options.batch as u64;
        let augment = options.augment.into();
        let mut loader = self.photos.stream(requests(self.train.clone(), options.seed, augment, from))?;
        if self.state().step == 0 {
            self.save(observer)?;
        }
        // A run that was stopped while it was being scored goes on with that.
        if self.evaluate_if_due(&options, observer)? {
            self.save(observer)?;
        }
        while self.state().step < options.steps {
            let started = Instant::now();
            let outcome = match self.learner.step(self.engine, &mut loader, options.batch, observer) {
                Err(Error::Interrupted { .. }) => return Err(self.interrupted(observer)),
                Err(error @ Error::Device { .. }) => {
                    // The last complete step is on the host, whatever has become of the device.
                    if let Err(unsaved) = self.save(observer) {
                        log::warn!("the run could not be saved: {unsaved}");
                    }
                    return Err(error);
                }
                other => other?,
            };
            self.busy += started.elapsed();
            self.waited = loader.waited();
            self.images += options.batch as u64;
            self.finish_step(&options, outcome, observer)?;
            self.evaluate_if_due(&options, observer)?;
            let step = self.state().step;
            if step == options.steps || (self.saving.every > 0 && step.is_multiple_of(self.saving.every)) {
                self.save(observer)?;
            }
        }
        Ok(self.state())
    }

    /// As of the last complete step.
    fn state(&self) -> &TrainState {
        self.learner.state()
    }

    /// Reports a step that has been taken. Errors: [`Error::Diverged`].
    fn finish_step(&mut self, options: &TuneOptions, outcome: Outcome, observer: &mut dyn Observer) -> Result<()> {
        let step = self.state().step;
        match outcome {
            Outcome::Updated { loss, accuracy, lr, noise } => {
                let (steps, images_per_second) = (options.steps, self.images_per_second());
                observer.event(&Event::Step { step, steps, loss, accuracy, lr, images_per_second });
                if let Some(noise) = noise {
                    observer.event(&Event::Noise { step, noise });
                }
                Ok(())
            }
            Outcome::Skipped { reason } => {
                observer.event(&Event::Skipped { step, reason: reason.clone() });
                let skips = self.state().consecutive_skips;
                if skips <= MOST_SKIPS {
                    return Ok(());
                }
                Err(self.diverged(&format!("{skips} steps in a row were not finite ({reason})")))
            }
            // What is not finite must not replace a checkpoint that is.
            Outcome::Overflowed => Err(self.diverged(&format!("the update of step {step} overflowed"))),
        }
    }

    /// Scores the validation split where the run has come to a step after which that is done, and it has not been; says
    /// whether it did. Errors: the engine's own, or [`Error::Interrupted`] once the last complete step has been saved.
    fn evaluate_if_due(&mut self, options: &TuneOptions, observer: &mut dyn Observer) -> Result<bool> {
        let step = self.state().step;
        let every = options.eval_every > 0 && step > 0 && step.is_multiple_of(options.eval_every);
        if !(every || step == options.steps) || self.state().scored == Some(step) || self.val.is_empty() {
            return Ok(false);
        }
        match self.evaluate(observer) {
            Err(Error::Interrupted { .. }) => Err(self.interrupted(observer)),
            other => other.map(|()| true),
        }
    }

    /// Scores the validation split and keeps the best, or the latest.
    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let prompts = self.state().prompts.as_slice().expect("prompts are row-major").to_vec();
        let head = self.learner.head()?.clone();
        let mut score = score(self.engine, &self.photos, &self.val, &prompts, &head, "validation", observer)?;
        if score.loss.is_nan() {
            // Comparable, and what a checkpoint can hold: worse than any loss.
            score.loss = f64::INFINITY;
        }
        let step = self.state().step;
        self.learner.state_mut().scored = Some(step);
        let keeps_last = self.state().identity.options.keep == Keep::Last;
        let better = self.state().best.as_ref().is_none_or(|best| {
            let gain = (score.accuracy, -score.loss);
            gain > (best.score.accuracy, -best.score.loss)
        });
        if better || keeps_last {
            let head = self.learner.trains_head().then_some(head);
            let state = self.learner.state_mut();
            state.best = Some(Best { step, score, prompts: state.prompts.clone(), head });
        }
        observer.event(&Event::Evaluated { step, score, best: better && !keeps_last });
        Ok(())
    }

    fn save(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let Some(path) = self.saving.path.clone() else { return Ok(()) };
        self.learner.saved().save(&path)?;
        observer.event(&Event::Checkpoint { step: self.state().step, path });
        Ok(())
    }

    /// The error of an interrupted run, its last complete step saved.
    fn interrupted(&mut self, observer: &mut dyn Observer) -> Error {
        match self.save(observer) {
            Ok(()) => Error::Interrupted { step: self.state().step },
            Err(error) => error,
        }
    }

    /// Goes back to the last checkpoint and says what to try.
    fn diverged(&mut self, what: &str) -> Error {
        let lr = self.state().identity.options.lr / 3.0;
        let advice = format!("{what}; try --lr {lr:.1e} or a longer --warmup");
        let Some(path) = self.saving.path.clone() else { return Error::Diverged(advice) };
        match TrainState::open(&path).and_then(|state| self.learner.roll_back(state)) {
            Ok(()) => {
                Error::Diverged(format!("{advice}; rolled back to step {} in {}", self.state().step, path.display()))
            }
            Err(error) => Error::Diverged(format!("{advice}; the last checkpoint cannot be read back: {error}")),
        }
    }
}

/// A linear head at zero: every class equally likely.
pub fn zero_linear_head(classes: usize, width: usize) -> Head {
    Head::Linear { weight: Array2::zeros((classes, width)), bias: Array1::zeros(classes) }
}

/// VPT's initialisation: U(−v, v), v = √(6/(3·ph·pw + d)) (Jia et al. 2022).
pub(crate) fn initial_prompts(spec: &ModelSpec, shape: [usize; 3], seed: u64) -> Array3<f32> {
    let v = (6.0 / (3 * spec.patch[0] * spec.patch[1] + spec.width) as f64).sqrt() as f32;
    let mut prompts = Array3::zeros(shape);
    for (set, mut values) in prompts.outer_iter_mut().enumerate() {
        let stream = Stream { seed: Purpose::Init.seed(seed), step: 0, example: 0, tangent: 0, set: set as u32 };
        let values = values.as_slice_mut().expect("row-major");
        stream.uniforms(values);
        values.iter_mut().for_each(|u| *u = (2.0 * *u - 1.0) * v);
    }
    prompts
}

fn check(options: &TuneOptions, spec: &ModelSpec, train: &[usize]) -> Result<()> {
    let fail = |message: String| Err(Error::Options(message));
    if train.is_empty() {
        return fail("the training split is empty; check --data, --format and --val-fraction".into());
    }
    if options.batch == 0 || options.batch > 1 << 20 {
        return fail(format!("--batch {}: give 1..=1048576", options.batch));
    }
    if options.guess.is_forward_only() && !(1..=1 << 10).contains(&options.tangents) {
        return fail(format!("--tangents {}: a forward-only guess needs 1..=1024", options.tangents));
    }
    if options.guess != GuessKind::None && options.prompts == 0 {
        return fail("--prompts 0: there is nothing to tune; use --guess none for the head alone".into());
    }
    for (name, value) in [("--lr", options.lr), ("--head-lr", options.head_lr)] {
        if !(value.is_finite() && value > 0.0) {
            return fail(format!("{name} {value}: give a positive number"));
        }
    }
    if !(0.0..1.0).contains(&options.val_fraction) {
        return fail(format!("--val-fraction {}: give 0 ≤ fraction < 1", options.val_fraction));
    }
    if spec.channels != 3 {
        return fail(format!("the model reads {} channels; photos have 3", spec.channels));
    }
    Ok(())
}
