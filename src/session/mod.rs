//! Tuning on images that the program hands over, a step at a time.

mod given;
mod saved;

use crate::data::{Images, Preprocess, prepare_all};
use crate::encoder::Input;
use crate::engine::{Engine, Loaded};
use crate::model::{Head, Model};
use crate::ops::head;
use crate::tune::{
    GuessKind, HeadKind, Learner, MOST_SKIPS, Outcome, Prototypes, RunIdentity, Taught, TrainState, TuneOptions,
    initial_prompts, zero_linear_head,
};
use crate::{Error, Result};
use given::{Flag, Given};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What stands for the data set in a session's checkpoints.
const GIVEN: &str = "given by the program";

/// How a session learns and what it may use.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// What decides the result. `batch` is the most examples of a step, `steps` the length of the cosine schedule (`u64::MAX`: the
    /// rate stays). `augment`, `val_fraction`, `eval_every`, `keep` and `prefix_f16` are not looked at: the program chooses what it hands
    /// over.
    pub tune: TuneOptions,
    /// Examples per pass; no bit depends on it.
    pub micro_batch: usize,
    /// Tangents per pass; no bit depends on it.
    pub tangents_per_pass: usize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        let tune = TuneOptions { steps: u64::MAX, ..TuneOptions::default() };
        SessionOptions { tune, micro_batch: 8, tangents_per_pass: 8 }
    }
}

/// What the last step came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Complete steps, skipped ones included.
    pub step: u64,
    /// The batch's mean cross entropy before the update, nats; NaN if the step was skipped.
    pub loss: f64,
    /// The batch's accuracy before the update, 0..1; NaN if the step was skipped.
    pub accuracy: f64,
    /// Learning rate of the prompts; 0 if the step was skipped.
    pub lr: f64,
    /// Steps skipped so far because something was not finite.
    pub skipped: u64,
}

/// Called ahead of each micro-batch and at the end with the examples of the call that are done and all of them; false stops the call.
pub type Progress = Box<dyn FnMut(usize, usize) -> bool + Send>;

type MakeEngine = Box<dyn Fn() -> Result<Box<dyn Engine + Send>> + Send>;

/// Prompts being tuned, and perhaps a head, on a frozen model. One call at a time; whatever ends a call early, the state is that of
/// the last complete step.
pub struct Session {
    model: Model,
    options: SessionOptions,
    identity: RunIdentity,
    make: MakeEngine,
    live: Live,
    taught: Taught,
    metrics: Metrics,
    cancel: Arc<AtomicBool>,
    progress: Option<Progress>,
}

/// What computes, or what is left where it has been given back.
enum Live {
    Ready(Box<dyn Engine + Send>, Box<Learner>),
    Trimmed(Box<TrainState>),
}

impl Session {
    /// A session on `loaded`, which holds the weights of `model`. `classes`: names of those known so far; a linear head has these
    /// for good.
    ///
    /// # Errors
    /// [`Error::Options`] for options that contradict each other or the model; [`Error::OutOfMemory`], or the backend's own.
    pub fn new(model: &Model, loaded: Arc<dyn Loaded>, options: SessionOptions, classes: Vec<String>) -> Result<Self> {
        let tune = &options.tune;
        tune.validate()?;
        let layout = tune.layout();
        layout.check(&model.spec)?;
        let head = match tune.head {
            HeadKind::Prototype => None,
            HeadKind::Linear if classes.is_empty() => {
                return Err(Error::Options("a linear head needs its classes from the start; name them".into()));
            }
            HeadKind::Linear => Some(zero_linear_head(classes.len(), model.spec.head_width())),
            HeadKind::Pretrained => None,
            HeadKind::Adapter => return Err(Error::Options("a session takes an adapter's head by loading it".into())),
        };
        let mut classes = classes;
        if tune.head == HeadKind::Pretrained {
            let own = crate::classifier::own_head(model)?.classes();
            let names = model.class_names.clone();
            classes = names.unwrap_or_else(|| (0..own).map(|i| format!("class {i}")).collect());
        }
        let prototypes =
            (tune.head == HeadKind::Prototype).then(|| Prototypes::new(model.spec.head_width(), classes.len()));
        let identity = RunIdentity {
            options: tune.clone(),
            // Reads all weights, so not before it is asked for.
            fingerprint: String::new(),
            dataset: GIVEN.into(),
            preprocess: model.preprocess.clone(),
            precision: loaded.precision(),
        };
        let shape = [layout.sets(model.spec.depth), layout.prompts, model.spec.width];
        let prompts = initial_prompts(&model.spec, shape, tune.seed);
        let state = TrainState::new(identity.clone(), prompts, head);
        let cancel = Arc::<AtomicBool>::default();
        let (micro_batch, guess, flag) = (options.micro_batch.clamp(1, tune.batch), tune.guess, cancel.clone());
        let tangents = if guess.is_forward_only() { tune.tangents.min(options.tangents_per_pass.max(1)) } else { 0 };
        let make = move || -> Result<Box<dyn Engine + Send>> {
            let mut engine = loaded.make(layout, micro_batch, tangents, guess)?;
            engine.set_cancel(flag.clone());
            Ok(engine)
        };
        let mut session = Session {
            model: model.clone(),
            options,
            identity,
            make: Box::new(make),
            live: Live::Trimmed(Box::new(state)),
            taught: Taught { classes, prototypes },
            metrics: Metrics::default(),
            cancel,
            progress: None,
        };
        session.live()?;
        Ok(session)
    }

    /// Engine and learner, made again if they have been given back.
    fn live(&mut self) -> Result<(&mut dyn Engine, &mut Learner)> {
        if let Live::Trimmed(state) = &self.live {
            let engine = (self.make)()?;
            let pretrained = match self.options.tune.head {
                HeadKind::Pretrained => Some(crate::classifier::own_head(&self.model)?),
                _ => None,
            };
            let learner = Learner::new(&*engine, (**state).clone(), pretrained)?;
            self.live = Live::Ready(engine, Box::new(learner));
        }
        match &mut self.live {
            Live::Ready(engine, learner) => Ok((&mut **engine, learner)),
            Live::Trimmed(_) => unreachable!("made above"),
        }
    }

    /// As of the last complete step.
    fn state(&self) -> &TrainState {
        match &self.live {
            Live::Ready(_, learner) => learner.state(),
            Live::Trimmed(state) => state,
        }
    }

    /// The flag that stops a call at the next block, from whichever thread sets it. A call that begins clears it.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        self.cancel.clone()
    }

    /// Has `progress` called from now on.
    pub fn set_progress(&mut self, progress: Option<Progress>) {
        self.progress = progress;
    }

    /// How images are to be prepared: [`Preparer`](crate::data::Preparer) does it.
    pub fn preprocess(&self) -> &Preprocess {
        &self.model.preprocess
    }

    /// Class names by class id.
    pub fn classes(&self) -> &[String] {
        &self.taught.classes
    }

    /// What the last step came to.
    pub fn metrics(&self) -> Metrics {
        self.metrics
    }

    /// Values of one image `[3, H, W]`.
    pub fn image_len(&self) -> usize {
        self.model.preprocess.image_len()
    }

    /// Takes one step on n `images` and their `labels` `[n]`; 1 ≤ n ≤ `batch`.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Options`] for images or labels that do not fit, [`Error::Interrupted`] when it was stopped,
    /// [`Error::Diverged`] after three steps in a row that were not finite, or the engine's own.
    pub fn step(&mut self, images: &mut dyn Images, labels: &[u32]) -> Result<Metrics> {
        self.check(images.count(), Some(labels), self.options.tune.batch)?;
        self.begin();
        let step = self.state().step;
        let (cancel, image_len, mut progress) = (self.cancel.clone(), self.image_len(), self.progress.take());
        let mut given = Given { images, labels, image_len, done: 0, progress: progress.as_mut(), cancel: &cancel };
        let taken = self.live().and_then(|(engine, learner)| {
            learner.keep();
            match learner.step(engine, &mut given, labels.len(), &Flag(&cancel))? {
                // What is not finite must not stay.
                Outcome::Overflowed => {
                    learner.undo();
                    Err(Error::Diverged(format!("the update of step {} overflowed; try a lower lr", step + 1)))
                }
                outcome => Ok((outcome, learner.state().skipped, learner.state().consecutive_skips)),
            }
        });
        if let (Ok(_), Some(progress)) = (&taken, &mut progress) {
            progress(labels.len(), labels.len());
        }
        self.progress = progress;
        let (outcome, skipped, in_a_row) = taken.map_err(|error| at_step(error, step))?;
        let (loss, accuracy, lr) = match &outcome {
            Outcome::Updated { loss, accuracy, lr, .. } => (*loss, *accuracy, *lr),
            _ => (f64::NAN, f64::NAN, 0.0),
        };
        self.metrics = Metrics { step: step + 1, loss, accuracy, lr, skipped };
        match outcome {
            Outcome::Skipped { reason } if in_a_row > MOST_SKIPS => {
                Err(Error::Diverged(format!("{in_a_row} steps in a row were not finite ({reason}); try a lower lr")))
            }
            _ => Ok(self.metrics),
        }
    }

    /// Logits `[n, C]` of n `images` under the prompts and head as they are now.
    ///
    /// # Errors
    /// As [`Session::step`]; [`Error::Options`] before there is a head.
    pub fn predict(&mut self, images: &mut dyn Images, logits: &mut [f32]) -> Result<()> {
        let count = images.count();
        self.check(count, None, usize::MAX)?;
        let classes = self.head()?.classes();
        if logits.len() != count * classes {
            let (expected, found) = (format!("{count}·{classes} values"), format!("{} values", logits.len()));
            return Err(Error::Shape { what: "logits", expected, found });
        }
        let inputs = self.head_inputs(images, self.options.tune.guess != GuessKind::None)?;
        head::dual(self.head()?, count, 1, &inputs, logits, &mut Vec::new());
        Ok(())
    }

    /// One more class, called `name`; its number. Errors: [`Error::Options`] where the head cannot grow.
    pub fn add_class(&mut self, name: &str) -> Result<u32> {
        let problem = || Error::Options("only a prototype head takes more classes".into());
        let class = self.taught.prototypes.as_mut().ok_or_else(problem)?.add_class();
        self.taught.classes.push(name.to_owned());
        self.refresh_head()?;
        Ok(class as u32)
    }

    /// Adds examples of known classes to a prototype head: its means move, its temperature stays.
    ///
    /// # Errors
    /// As [`Session::step`]; [`Error::Options`] for another head.
    pub fn add_examples(&mut self, images: &mut dyn Images, labels: &[u32]) -> Result<()> {
        self.check(images.count(), Some(labels), usize::MAX)?;
        let inputs = self.head_inputs(images, false)?;
        self.prototypes()?.add(&inputs, labels);
        self.refresh_head()
    }

    /// Fits a prototype head to these examples alone, its temperature too.
    ///
    /// # Errors
    /// As [`Session::add_examples`], and when a class has no example.
    pub fn fit_head(&mut self, images: &mut dyn Images, labels: &[u32]) -> Result<()> {
        self.check(images.count(), Some(labels), usize::MAX)?;
        let inputs = self.head_inputs(images, false)?;
        self.prototypes()?.fit(&inputs, labels)?;
        self.refresh_head()
    }

    fn prototypes(&mut self) -> Result<&mut Prototypes> {
        let problem = || Error::Options("only a prototype head is fitted; others are trained or frozen".into());
        self.taught.prototypes.as_mut().ok_or_else(problem)
    }

    /// The head in use. Errors: there is none yet.
    fn head(&mut self) -> Result<&Head> {
        if self.taught.prototypes.is_some() && self.state().head.is_none() {
            return Err(Error::Options("there is no head yet; fit one, or add classes and examples".into()));
        }
        self.live()?.1.head()
    }

    fn refresh_head(&mut self) -> Result<()> {
        let head = self.taught.prototypes.as_ref().map(Prototypes::head);
        self.live()?.1.state_mut().head = head;
        Ok(())
    }

    /// Gives back what passes need: buffers of the host and the device. The next call obtains it again.
    pub fn trim(&mut self) {
        if let Live::Ready(_, learner) = &mut self.live {
            let state = Box::new(learner.saved().clone());
            self.live = Live::Trimmed(state);
        }
    }

    /// Whether `count` images and their labels fit this session.
    fn check(&self, count: usize, labels: Option<&[u32]>, most: usize) -> Result<()> {
        let wrong = |what, expected: String, found: String| Err(Error::Shape { what, expected, found });
        if !(1..=most).contains(&count) {
            let expected = if most == usize::MAX { "at least 1".to_owned() } else { format!("1 to {most}") };
            return wrong("images of a call", expected, count.to_string());
        }
        let Some(labels) = labels else { return Ok(()) };
        if labels.len() != count {
            return wrong("labels", format!("{count}, one an image"), labels.len().to_string());
        }
        let classes = self.taught.classes.len();
        match labels.iter().find(|&&label| label as usize >= classes) {
            Some(label) => wrong("labels", format!("classes below {classes}"), label.to_string()),
            None => Ok(()),
        }
    }

    fn begin(&self) {
        self.cancel.store(false, Relaxed);
    }

    /// Head inputs `[n, D]` of `images`: under the prompts, or of the frozen model.
    fn head_inputs(&mut self, images: &mut dyn Images, prompted: bool) -> Result<Vec<f32>> {
        self.begin();
        let (len, width, step) = (self.image_len(), self.model.spec.head_width(), self.state().step);
        let (cancel, mut progress) = (self.cancel.clone(), self.progress.take());
        let count = images.count();
        let mut inputs = vec![0.0; count * width];
        let ran = self.live().and_then(|(engine, learner)| {
            let prompts = learner.state().prompts.as_slice().filter(|_| prompted).unwrap_or_default();
            let most = engine.most_examples();
            let mut batch = vec![0.0; most.min(count) * len];
            for (i, inputs) in inputs.chunks_mut(most * width).enumerate() {
                if progress.as_mut().is_some_and(|go_on| !go_on(i * most, count)) || cancel.load(Relaxed) {
                    return Err(Error::Interrupted { step });
                }
                let batch = &mut batch[..inputs.len() / width * len];
                prepare_all(images, i * most, len, batch)?;
                engine.forward(Input::Images(batch), prompts, inputs)?;
            }
            if let Some(progress) = &mut progress {
                progress(count, count);
            }
            Ok(())
        });
        self.progress = progress;
        ran.map_err(|error| at_step(error, step)).map(|()| inputs)
    }
}

/// An interruption says after which step.
fn at_step(error: Error, step: u64) -> Error {
    if matches!(error, Error::Interrupted { .. }) { Error::Interrupted { step } } else { error }
}
