//! Options that learn, for whoever has no wishes of their own. `docs/learning.md` has what was measured of them.

use super::TuneOptions;
use crate::guess::GuessKind;
use serde::{Deserialize, Serialize};

/// What a run may cost for what it learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// A first look: half the tangents, half the steps.
    Fast,
    /// The usual.
    #[default]
    Balanced,
    /// Four times as many steps.
    Accurate,
}

impl Preset {
    /// All of them, the cheapest first.
    pub const ALL: [Preset; 3] = [Preset::Fast, Preset::Balanced, Preset::Accurate];

    /// The preset for a model of `depth` blocks.
    pub fn options(self, depth: usize) -> TuneOptions {
        let (tangents, steps) = match self {
            Preset::Fast => (4, 100),
            Preset::Balanced => (8, 200),
            Preset::Accurate => (8, 800),
        };
        TuneOptions {
            guess: GuessKind::Activation,
            tangents,
            clip: 1.0,
            prompts: 1,
            insert_at: usual_insertion(depth),
            lr: 0.1,
            batch: 64,
            steps,
            warmup: super::usual_warmup(steps),
            ..TuneOptions::default()
        }
    }
}

/// Block ahead of which prompts enter a model of `depth` blocks where nothing else is asked for.
pub fn usual_insertion(depth: usize) -> usize {
    depth / 4
}
