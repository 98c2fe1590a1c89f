//! The training loop: batches → dual passes → (losses, L̇) → estimator → optimizer → prompts.

use super::checkpoint::{Best, OptimizerState, RunIdentity, TrainState};
use super::gradients::{Gradients, StepInputs};
use super::order::requests;
use super::photos::Photos;
use super::score::score;
use super::{
    Estimator, Event, GuessKind, HeadKind, Observer, Optimizer, OptimizerSettings, TuneOptions, warmup_cosine,
};
use crate::data::Loader;
use crate::engine::Engine;
use crate::model::{Head, ModelSpec};
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};
use ndarray::{Array1, Array2, Array3};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Steps in a row that may be skipped for values that are not finite; the next stops the run.
const MOST_SKIPS: u64 = 2;

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
    state: TrainState,
    /// A frozen head that is not part of the state: the checkpoint's own.
    pretrained: Option<Head>,
    saving: Saving,
    estimator: Option<Estimator>,
    prompt_optimizer: Optimizer,
    /// Of a linear head's matrix and bias.
    head_optimizers: Option<[Optimizer; 2]>,
    gradients: Gradients,
    busy: Duration,
    /// Of `busy`, what compute waited for decoding.
    waited: Duration,
    images: u64,
}

impl<'a> Tuner<'a> {
    /// A run that starts anew. `head`: fitted or taken from elsewhere (then frozen, except a zero linear head for
    /// [`HeadKind::Linear`]); `pretrained`: the checkpoint's own head when that is what is used. Errors: options that
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
        let state = TrainState {
            prompts: initial_prompts(engine.spec(), shape, options.seed),
            step: 0,
            updates: 0,
            prompt_optimizer: Vec::new(),
            head,
            head_optimizer: Vec::new(),
            best: None,
            scored: None,
            skipped: 0,
            consecutive_skips: 0,
            identity,
        };
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
        let layout = engine.layout();
        let shape = [layout.sets(engine.spec().depth), layout.prompts, engine.spec().width];
        let found = state.prompts.dim();
        if <[usize; 3]>::from(found) != shape {
            return Err(Error::Shape {
                what: "prompts of the training state",
                expected: format!("{shape:?}"),
                found: format!("{found:?}"),
            });
        }
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
        if let Some(found) = state.best.as_ref().map(|best| <[usize; 3]>::from(best.prompts.dim()))
            && found != shape
        {
            let (expected, found) = (format!("{shape:?}"), format!("{found:?}"));
            return Err(Error::Shape { what: "best prompts of the training state", expected, found });
        }
        let settings = OptimizerSettings {
            momentum: options.momentum,
            weight_decay: options.weight_decay,
            ..OptimizerSettings::default()
        };
        let mut prompt_optimizer = Optimizer::new(options.optimizer, state.prompts.len(), settings);
        restore(&mut prompt_optimizer, &state.prompt_optimizer, "")?;
        let head_optimizers = match (&state.head, options.head) {
            (Some(Head::Linear { weight, bias }), HeadKind::Linear) => {
                let mut matrix = Optimizer::new(options.optimizer, weight.len(), settings);
                let no_decay = OptimizerSettings { weight_decay: 0.0, ..settings };
                let mut vector = Optimizer::new(options.optimizer, bias.len(), no_decay);
                restore(&mut matrix, &state.head_optimizer, "weight.")?;
                restore(&mut vector, &state.head_optimizer, "bias.")?;
                Some([matrix, vector])
            }
            _ => None,
        };
        let estimator = engine.guess(options.guess)?.map(|guess| Estimator::new(guess, options.seed, shape));
        Ok(Tuner {
            engine,
            photos,
            train,
            val,
            pretrained,
            saving: Saving::default(),
            estimator,
            prompt_optimizer,
            head_optimizers,
            gradients: Gradients::default(),
            busy: Duration::ZERO,
            waited: Duration::ZERO,
            images: 0,
            state,
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
        let options = self.state.identity.options.clone();
        let from = self.state.step * options.batch as u64;
        let augment = options.augment.into();
        let mut loader = self.photos.stream(requests(self.train.clone(), options.seed, augment, from))?;
        if self.state.step == 0 {
            self.save(observer)?;
        }
        // A run that was stopped while it was being scored goes on with that.
        if self.evaluate_if_due(&options, observer)? {
            self.save(observer)?;
        }
        while self.state.step < options.steps {
            let started = Instant::now();
            let outcome = match self.step(&options, &mut loader, observer) {
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
            let step = self.state.step;
            if step == options.steps || (self.saving.every > 0 && step.is_multiple_of(self.saving.every)) {
                self.save(observer)?;
            }
        }
        Ok(&self.state)
    }

    /// The head in use.
    fn head(&self) -> Result<&Head> {
        self.state.head.as_ref().or(self.pretrained.as_ref()).ok_or_else(no_classifier)
    }

    /// Gradients of one batch: (loss, accuracy), or what was not finite.
    fn step(
        &mut self,
        options: &TuneOptions,
        loader: &mut Loader,
        observer: &mut dyn Observer,
    ) -> Result<Result<(f64, f64), String>> {
        let classifier = self.state.head.as_ref().or(self.pretrained.as_ref());
        let inputs = StepInputs {
            step: self.state.step,
            options,
            classifier: classifier.ok_or_else(no_classifier)?,
            trains_head: self.head_optimizers.is_some(),
            prompts: self.state.prompts.as_slice().expect("prompts are row-major"),
        };
        self.gradients.run(inputs, self.engine, self.estimator.as_mut(), loader, observer)?;
        Ok(self.gradients.verdict())
    }

    /// Updates the parameters, or counts a skip.
    fn finish_step(
        &mut self,
        options: &TuneOptions,
        outcome: Result<(f64, f64), String>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let rate = warmup_cosine(self.state.step, options.warmup, options.steps);
        self.state.step += 1;
        let (loss, accuracy) = match outcome {
            Ok(scores) => scores,
            Err(reason) => {
                self.state.skipped += 1;
                self.state.consecutive_skips += 1;
                observer.event(&Event::Skipped { step: self.state.step, reason: reason.clone() });
                let skips = self.state.consecutive_skips;
                return match skips > MOST_SKIPS {
                    true => Err(self.diverged(&format!("{skips} steps in a row were not finite ({reason})"))),
                    false => Ok(()),
                };
            }
        };
        self.state.consecutive_skips = 0;
        self.state.updates += 1;
        let updates = self.state.updates;
        let prompts = self.state.prompts.as_slice_mut().expect("prompts are row-major");
        if !prompts.is_empty() && options.guess != GuessKind::None {
            self.prompt_optimizer.step(prompts, self.gradients.prompts(), options.lr * rate, updates);
        }
        if let (Some([matrix, vector]), Some(Head::Linear { weight, bias })) =
            (&mut self.head_optimizers, &mut self.state.head)
        {
            let (weight_gradient, bias_gradient) = self.gradients.head().split_at(weight.len());
            let lr = options.head_lr * rate;
            matrix.step(weight.as_slice_mut().expect("row-major"), weight_gradient, lr, updates);
            vector.step(bias.as_slice_mut().expect("contiguous"), bias_gradient, lr, updates);
        }
        // What is not finite must not replace a checkpoint that is.
        if !self.is_finite() {
            let step = self.state.step;
            return Err(self.diverged(&format!("the update of step {step} overflowed")));
        }
        observer.event(&Event::Step {
            step: self.state.step,
            steps: options.steps,
            loss,
            accuracy,
            lr: options.lr * rate,
            images_per_second: self.images_per_second(),
        });
        Ok(())
    }

    /// Whether parameters and optimizers are finite.
    fn is_finite(&self) -> bool {
        let head = match (&self.head_optimizers, &self.state.head) {
            (Some(_), Some(Head::Linear { weight, bias })) => [weight.as_slice(), bias.as_slice()],
            _ => [None, None],
        };
        let optimizers = self.head_optimizers.iter().flatten().chain([&self.prompt_optimizer]);
        let states = optimizers.flat_map(Optimizer::state).map(|(_, values)| values);
        let parameters = head.into_iter().chain([self.state.prompts.as_slice()]).flatten();
        parameters.chain(states).all(|values| values.iter().all(|v| v.is_finite()))
    }

    /// Scores the validation split where the run has come to a step after which that is done, and it has not been; says
    /// whether it did. Errors: the engine's own, or [`Error::Interrupted`] once the last complete step has been saved.
    fn evaluate_if_due(&mut self, options: &TuneOptions, observer: &mut dyn Observer) -> Result<bool> {
        let step = self.state.step;
        let every = options.eval_every > 0 && step > 0 && step.is_multiple_of(options.eval_every);
        if !(every || step == options.steps) || self.state.scored == Some(step) || self.val.is_empty() {
            return Ok(false);
        }
        match self.evaluate(observer) {
            Err(Error::Interrupted { .. }) => Err(self.interrupted(observer)),
            other => other.map(|()| true),
        }
    }

    /// Scores the validation split and keeps the best.
    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let prompts = self.state.prompts.as_slice().expect("prompts are row-major").to_vec();
        let head = self.head()?.clone();
        let mut score = score(self.engine, &self.photos, &self.val, &prompts, &head, "validation", observer)?;
        if score.loss.is_nan() {
            // Comparable, and what a checkpoint can hold: worse than any loss.
            score.loss = f64::INFINITY;
        }
        self.state.scored = Some(self.state.step);
        let better = self.state.best.as_ref().is_none_or(|best| {
            let gain = (score.accuracy, -score.loss);
            gain > (best.score.accuracy, -best.score.loss)
        });
        if better {
            self.state.best = Some(Best {
                step: self.state.step,
                score,
                prompts: self.state.prompts.clone(),
                head: self.head_optimizers.is_some().then_some(head),
            });
        }
        observer.event(&Event::Evaluated { step: self.state.step, score, best: better });
        Ok(())
    }

    fn save(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let Some(path) = self.saving.path.clone() else { return Ok(()) };
        self.state.prompt_optimizer = named(&self.prompt_optimizer, "");
        self.state.head_optimizer = match &self.head_optimizers {
            Some([matrix, vector]) => {
                let mut all = named(matrix, "weight.");
                all.extend(named(vector, "bias."));
                all
            }
            None => Vec::new(),
        };
        self.state.save(&path)?;
        observer.event(&Event::Checkpoint { step: self.state.step, path });
        Ok(())
    }

    /// The error of an interrupted run, its last complete step saved.
    fn interrupted(&mut self, observer: &mut dyn Observer) -> Error {
        match self.save(observer) {
            Ok(()) => Error::Interrupted { step: self.state.step },
            Err(error) => error,
        }
    }

    /// Goes back to the last checkpoint and says what to try.
    fn diverged(&mut self, what: &str) -> Error {
        let lr = self.state.identity.options.lr / 3.0;
        let advice = format!("{what}; try --lr {lr:.1e} or a longer --warmup");
        let Some(path) = self.saving.path.clone() else { return Error::Diverged(advice) };
        match TrainState::open(&path).and_then(|state| self.roll_back(state)) {
            Ok(()) => {
                Error::Diverged(format!("{advice}; rolled back to step {} in {}", self.state.step, path.display()))
            }
            Err(error) => Error::Diverged(format!("{advice}; the last checkpoint cannot be read back: {error}")),
        }
    }

    fn roll_back(&mut self, state: TrainState) -> Result<()> {
        restore(&mut self.prompt_optimizer, &state.prompt_optimizer, "")?;
        if let Some([matrix, vector]) = &mut self.head_optimizers {
            restore(matrix, &state.head_optimizer, "weight.")?;
            restore(vector, &state.head_optimizer, "bias.")?;
        }
        self.state = state;
        Ok(())
    }
}

fn no_classifier() -> Error {
    Error::Options("--head pretrained: the checkpoint has no classifier; use --head prototype or linear".into())
}

/// A linear head at zero: every class equally likely.
pub fn zero_linear_head(classes: usize, width: usize) -> Head {
    Head::Linear { weight: Array2::zeros((classes, width)), bias: Array1::zeros(classes) }
}

/// VPT's initialisation: U(−v, v), v = √(6/(3·ph·pw + d)) (Jia et al. 2022).
fn initial_prompts(spec: &ModelSpec, shape: [usize; 3], seed: u64) -> Array3<f32> {
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

fn named(optimizer: &Optimizer, prefix: &str) -> OptimizerState {
    optimizer.state().map(|(name, values)| (format!("{prefix}{name}"), values.to_vec())).collect()
}

fn restore(optimizer: &mut Optimizer, saved: &OptimizerState, prefix: &str) -> Result<()> {
    let own = saved.iter().filter_map(|(name, values)| name.strip_prefix(prefix).map(|n| (n, values.as_slice())));
    if saved.is_empty() { Ok(()) } else { optimizer.restore(own) }
}
