//! What a run changes: prompts, perhaps a head, and their optimizers; a step at a time, wherever its images come from.

use super::checkpoint::{OptimizerState, TrainState};
use super::gradients::{Gradients, StepInputs};
use super::photos::Batch;
use super::{Estimator, GuessKind, HeadKind, Noise, Observer, Optimizer, OptimizerSettings, warmup_cosine};
use crate::engine::Engine;
use crate::model::Head;
use crate::{Error, Result};

/// Steps in a row that may be skipped for values that are not finite; one more, and the run has diverged.
pub(crate) const MOST_SKIPS: u64 = 2;

/// Where a step's images come from, a micro-batch at a time.
pub trait Feed {
    /// Puts up to `most` images into `batch`, whose contents are replaced; fewer only at the end of what there is. Returns how
    /// many. `engine` computes what blocks ahead of the prompts make of them, where that is handed over in their place. Errors: an
    /// image cannot be had, or the engine's own.
    fn fill(&mut self, engine: &mut dyn Engine, batch: &mut Batch, most: usize) -> Result<usize>;
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// The parameters moved. Loss and accuracy are the batch's before the update, `lr` the prompts' learning rate.
    Updated { loss: f64, accuracy: f64, lr: f64, noise: Option<Noise> },
    /// Something was not finite, and nothing was updated.
    Skipped { reason: String },
    /// The parameters moved, and are not finite any more.
    Overflowed,
}

/// Parameters and what they are updated with.
pub(crate) struct Learner {
    state: TrainState,
    /// A frozen head that is not part of the state: the checkpoint's own.
    pretrained: Option<Head>,
    estimator: Option<Estimator>,
    prompt_optimizer: Optimizer,
    /// Of a linear head's matrix and bias.
    head_optimizers: Option<[Optimizer; 2]>,
    gradients: Gradients,
    kept: Kept,
}

/// What a step changes, as it was.
#[derive(Default)]
struct Kept {
    values: Vec<f32>,
    /// Steps, updates, skips, and skips in a row.
    counts: [u64; 4],
}

impl Learner {
    /// Continues `state` on `engine`. Errors: the two do not fit together.
    pub fn new(engine: &dyn Engine, state: TrainState, pretrained: Option<Head>) -> Result<Self> {
        let options = &state.identity.options;
        let layout = engine.layout();
        let shape = [layout.sets(engine.spec().depth), layout.prompts, engine.spec().width];
        let of_best = state.best.as_ref().map(|best| best.prompts.dim());
        for (what, found) in [
            ("prompts of the training state", Some(state.prompts.dim())),
            ("best prompts of the training state", of_best),
        ] {
            if found.is_some_and(|found| <[usize; 3]>::from(found) != shape) {
                let (expected, found) = (format!("{shape:?}"), format!("{:?}", found.unwrap_or_default()));
                return Err(Error::Shape { what, expected, found });
            }
        }
        let usual = OptimizerSettings::default();
        let settings = OptimizerSettings {
            momentum: options.momentum,
            betas: [options.momentum, usual.betas[1]],
            weight_decay: options.weight_decay,
            ..usual
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
        let guessing = options.guessing();
        let estimator = engine.directions(&guessing)?;
        let estimator = estimator.map(|from| Estimator::new(from, guessing, options.seed, shape, options.clip));
        let (gradients, kept) = Default::default();
        Ok(Learner { state, pretrained, estimator, prompt_optimizer, head_optimizers, gradients, kept })
    }

    /// As of the last complete step; optimizers as of the last [`Learner::saved`].
    pub fn state(&self) -> &TrainState {
        &self.state
    }

    /// To be changed where no optimizer is concerned.
    pub fn state_mut(&mut self) -> &mut TrainState {
        &mut self.state
    }

    /// The state with its optimizers, ready to be written.
    pub fn saved(&mut self) -> &TrainState {
        self.state.prompt_optimizer = named(&self.prompt_optimizer, "");
        self.state.head_optimizer = match &self.head_optimizers {
            Some([matrix, vector]) => {
                let mut all = named(matrix, "weight.");
                all.extend(named(vector, "bias."));
                all
            }
            None => Vec::new(),
        };
        &self.state
    }

    /// Goes back to `state`, of the same run. Errors: it is of another.
    pub fn roll_back(&mut self, state: TrainState) -> Result<()> {
        restore(&mut self.prompt_optimizer, &state.prompt_optimizer, "")?;
        if let Some([matrix, vector]) = &mut self.head_optimizers {
            restore(matrix, &state.head_optimizer, "weight.")?;
            restore(vector, &state.head_optimizer, "bias.")?;
        }
        self.state = state;
        Ok(())
    }

    /// Keeps everything that a step changes, for [`Learner::undo`].
    pub fn keep(&mut self) {
        let mut kept = std::mem::take(&mut self.kept);
        kept.values.clear();
        self.for_each_changed(|values| kept.values.extend_from_slice(values));
        let state = &self.state;
        kept.counts = [state.step, state.updates, state.skipped, state.consecutive_skips];
        self.kept = kept;
    }

    /// Goes back to where it was [kept](Learner::keep).
    pub fn undo(&mut self) {
        let kept = std::mem::take(&mut self.kept);
        let mut from = kept.values.as_slice();
        self.for_each_changed(|values| {
            let (head, rest) = from.split_at(values.len());
            values.copy_from_slice(head);
            from = rest;
        });
        let state = &mut self.state;
        [state.step, state.updates, state.skipped, state.consecutive_skips] = kept.counts;
        self.kept = kept;
    }

    /// Parameters and optimizers, always in the same order.
    fn for_each_changed(&mut self, mut each: impl FnMut(&mut [f32])) {
        each(self.state.prompts.as_slice_mut().expect("prompts are row-major"));
        self.prompt_optimizer.state_mut().into_iter().for_each(&mut each);
        if let (Some(optimizers), Some(Head::Linear { weight, bias })) =
            (&mut self.head_optimizers, &mut self.state.head)
        {
            each(weight.as_slice_mut().expect("row-major"));
            each(bias.as_slice_mut().expect("contiguous"));
            optimizers.iter_mut().flat_map(Optimizer::state_mut).for_each(each);
        }
    }

    /// Whether a linear head is trained with the prompts.
    pub fn trains_head(&self) -> bool {
        self.head_optimizers.is_some()
    }

    /// The head in use. Errors: there is none.
    pub fn head(&self) -> Result<&Head> {
        self.state.head.as_ref().or(self.pretrained.as_ref()).ok_or_else(no_classifier)
    }

    /// Takes one step on `batch` images of `feed`. Errors: an image cannot be had, the engine's own, or
    /// [`Error::Interrupted`]; the state is that before the step then.
    pub fn step(
        &mut self,
        engine: &mut dyn Engine,
        feed: &mut dyn Feed,
        batch: usize,
        observer: &dyn Observer,
    ) -> Result<Outcome> {
        let classifier = self.state.head.as_ref().or(self.pretrained.as_ref());
        let inputs = StepInputs {
            step: self.state.step,
            batch,
            options: &self.state.identity.options,
            classifier: classifier.ok_or_else(no_classifier)?,
            trains_head: self.head_optimizers.is_some(),
            prompts: self.state.prompts.as_slice().expect("prompts are row-major"),
        };
        self.gradients.run(inputs, engine, self.estimator.as_mut(), feed, observer)?;
        Ok(self.update(self.gradients.verdict()))
    }

    fn update(&mut self, verdict: Result<(f64, f64), String>) -> Outcome {
        let options = &self.state.identity.options;
        let rate = warmup_cosine(self.state.step, options.warmup, options.steps);
        self.state.step += 1;
        let (loss, accuracy) = match verdict {
            Ok(scores) => scores,
            Err(reason) => {
                self.state.skipped += 1;
                self.state.consecutive_skips += 1;
                return Outcome::Skipped { reason };
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
        let lr = options.lr * rate;
        let noise = self.gradients.noise();
        if self.is_finite() { Outcome::Updated { loss, accuracy, lr, noise } } else { Outcome::Overflowed }
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
}

fn no_classifier() -> Error {
    Error::Options("--head pretrained: the checkpoint has no classifier; use --head prototype or linear".into())
}

fn named(optimizer: &Optimizer, prefix: &str) -> OptimizerState {
    optimizer.state().map(|(name, values)| (format!("{prefix}{name}"), values.to_vec())).collect()
}

fn restore(optimizer: &mut Optimizer, saved: &OptimizerState, prefix: &str) -> Result<()> {
    let own = saved.iter().filter_map(|(name, values)| name.strip_prefix(prefix).map(|n| (n, values.as_slice())));
    if saved.is_empty() { Ok(()) } else { optimizer.restore(own) }
}
