//! Where prompts enter.

use super::ModelSpec;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Placement of prompt tokens in the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptLayout {
    /// Prompts p per set; 0 for none.
    pub prompts: usize,
    /// One set per block from `insert_at` on (replacing the previous one), instead of one set that stays.
    pub deep: bool,
    /// Block ℓ ahead of which (the first) prompts enter.
    pub insert_at: usize,
}

impl PromptLayout {
    /// No prompts: the frozen model.
    pub const NONE: PromptLayout = PromptLayout { prompts: 0, deep: false, insert_at: 0 };

    /// Prompt sets S in a model of `depth` blocks.
    pub fn sets(&self, depth: usize) -> usize {
        match (self.prompts, self.deep) {
            (0, _) => 0,
            (_, false) => 1,
            (_, true) => depth - self.insert_at,
        }
    }

    /// The set that enters ahead of `block`, if one does.
    pub fn entering(&self, block: usize) -> Option<usize> {
        let set = block.checked_sub(self.insert_at)?;
        (self.prompts > 0 && (set == 0 || self.deep)).then_some(set)
    }

    /// Blocks from ℓ on, in a model of `depth` blocks, that any of the `blocks` blocks below a set is.
    pub fn blocks_below(&self, depth: usize, blocks: usize) -> usize {
        let from = depth - self.insert_at;
        if self.deep { from } else { blocks.min(from) }
    }

    /// Tuned parameters N = S·p·d.
    pub fn parameters(&self, spec: &ModelSpec) -> usize {
        self.sets(spec.depth) * self.prompts * spec.width
    }

    /// Checks the placement against a model. Errors: [`Error::Options`].
    pub fn check(&self, spec: &ModelSpec) -> Result<()> {
        /// Tokens grow the stream; beyond this a typo is likelier than a wish.
        const MOST: usize = 4096;
        if (self.prompts > 0 || self.insert_at > 0) && self.insert_at >= spec.depth {
            return Err(Error::Options(format!(
                "--insert-at {}: the model has {} blocks; give 0..={}",
                self.insert_at,
                spec.depth,
                spec.depth - 1
            )));
        }
        if self.prompts > MOST {
            return Err(Error::Options(format!("--prompts {}: at most {MOST} prompts per set", self.prompts)));
        }
        Ok(())
    }
}
