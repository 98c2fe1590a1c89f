//! The tuner: options, events, optimizer, schedule, checkpoints and the loop over them.

mod checkpoint;
mod event;
mod optimizer;
mod options;
mod schedule;

pub use checkpoint::{Best, OptimizerState, RunIdentity, TrainState, is_checkpoint};
pub use event::{Event, Observer, Score};
pub use optimizer::{Optimizer, OptimizerSettings};
pub use options::{AugmentKind, GuessKind, HeadKind, OptimizerKind, TuneOptions};
pub use schedule::warmup_cosine;
