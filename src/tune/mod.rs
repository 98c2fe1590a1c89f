//! The tuner: options, events, optimizer, schedule, checkpoints and the loop over them.

mod checkpoint;
mod clip;
mod estimator;
mod event;
mod exact;
mod gradients;
mod kept;
mod learner;
mod optimizer;
mod options;
mod order;
mod photos;
mod prefixes;
mod preset;
mod prototype;
mod run;
mod schedule;
mod score;
mod tuner;

pub use crate::guess::{GuessKind, Guessing};
pub use crate::ops::loss::top;
pub use checkpoint::{Best, OptimizerState, RunIdentity, Taught, TrainState, is_checkpoint};
pub use estimator::{Estimator, Noise};
pub use event::{Event, Observer, Score};
pub use learner::Feed;
pub use optimizer::{Optimizer, OptimizerSettings};
pub use options::{AugmentKind, HeadKind, Keep, OptimizerKind, TuneOptions};
pub use photos::{Batch, DecodeOptions, PhotoStream, Photos};
pub use prefixes::Prefixes;
pub use preset::{Preset, usual_insertion};
pub use prototype::Prototypes;
pub use run::{Compare, Job, Resources, Scores, Splits, Trained, digest};
pub use schedule::{usual_warmup, warmup_cosine};
pub use score::{HeadInputs, for_each_head_input, score};
pub use tuner::{Saving, Tuner, zero_linear_head};

pub(crate) use learner::{Learner, MOST_SKIPS, Outcome};
pub(crate) use tuner::initial_prompts;
