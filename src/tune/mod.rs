//! The tuner: options, events, optimizer, schedule, checkpoints and the loop over them.

mod event;
mod options;

pub use event::{Event, Observer, Score};
pub use options::{AugmentKind, GuessKind, HeadKind, OptimizerKind, TuneOptions};
