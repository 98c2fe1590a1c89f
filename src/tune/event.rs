//! What a run tells its caller while it runs.

use super::Noise;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Accuracy and loss over a split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Share of examples whose top class is their label, 0..1.
    pub accuracy: f64,
    /// Mean cross entropy, nats.
    pub loss: f64,
    /// Examples scored.
    pub examples: usize,
}

/// One thing that happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A named phase of known length began ("head inputs", "evaluate test"); `Progress` counts towards `total`.
    Phase {
        /// What is being done.
        name: &'static str,
        /// Examples it will take.
        total: usize,
    },
    /// Examples of the current phase done so far.
    Progress {
        /// Examples done.
        done: usize,
    },
    /// An optimizer step is complete.
    Step {
        /// Steps complete.
        step: u64,
        /// Steps of the run.
        steps: u64,
        /// Batch mean cross entropy, before the update.
        loss: f64,
        /// Batch accuracy, before the update.
        accuracy: f64,
        /// Learning rate used.
        lr: f64,
        /// Training throughput since the run (or its resumption) began.
        images_per_second: f64,
    },
    /// The noise of a step's gradient was measured, as it is every few steps.
    Noise {
        /// Steps complete.
        step: u64,
        /// What was found.
        #[serde(flatten)]
        noise: Noise,
    },
    /// A step's loss or derivatives were not finite; nothing was updated.
    Skipped {
        /// The step.
        step: u64,
        /// What was not finite.
        reason: String,
    },
    /// The validation split was scored.
    Evaluated {
        /// Steps complete.
        step: u64,
        /// The score.
        #[serde(flatten)]
        score: Score,
        /// Whether it is the best so far, and so what will be kept; never where the last prompts are kept.
        best: bool,
    },
    /// A training checkpoint was written.
    Checkpoint {
        /// Steps complete.
        step: u64,
        /// The file.
        path: PathBuf,
    },
}

/// Receives events on the thread that runs the tuner; called between steps, never inside one.
pub trait Observer {
    /// One event.
    fn event(&mut self, event: &Event);
    /// Asked between micro-batches; true stops the run at the last complete step.
    fn cancelled(&self) -> bool {
        false
    }
}

/// A closure is an observer that never cancels.
impl<F: FnMut(&Event)> Observer for F {
    fn event(&mut self, event: &Event) {
        self(event);
    }
}
