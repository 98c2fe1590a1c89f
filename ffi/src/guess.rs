//! Guesses by number.

use crate::options::{foretune_session_options, one_of};
use crate::status::{Failure, Result};
use foretune::tune::GuessKind;

/// Noise sent back through the transposed weights that read the prompts: forward only.
pub const FORETUNE_GUESS_WEIGHT_TRANSPOSE: u32 = 0;
/// Noise, the same for the whole batch: forward only.
pub const FORETUNE_GUESS_DIRECTIONAL: u32 = 1;
/// Noise of each example's own: forward only, the default.
pub const FORETUNE_GUESS_ACTIVATION: u32 = 2;
/// The exact gradient by recomputing blocks, whose memory grows with depth: the oracle.
pub const FORETUNE_GUESS_BACKPROP: u32 = 3;
/// No prompts: only the head, on the frozen model. The baseline.
pub const FORETUNE_GUESS_NONE: u32 = 4;
/// Random mixtures of the example's own tokens: forward only.
pub const FORETUNE_GUESS_MIXING: u32 = 5;
/// Noise sent back through the next `downstream_blocks` blocks, recomputed one at a time: forward only.
pub const FORETUNE_GUESS_DOWNSTREAM: u32 = 6;
/// Weight-transpose of noise that all leans one way: forward only.
pub const FORETUNE_GUESS_SELF_SHARPENING: u32 = 7;
/// The exact gradient with an error as large as weight-transpose's, but unbiased. For comparison.
pub const FORETUNE_GUESS_MATCHED_COSINE: u32 = 8;

/// The guess by its number. Errors: none has it, or its blocks are out of range.
pub(crate) fn guess_of(raw: &foretune_session_options) -> Result<GuessKind> {
    let blocks = match (raw.guess, raw.downstream_blocks) {
        (FORETUNE_GUESS_DOWNSTREAM, 1..=255) | (_, 0) => raw.downstream_blocks as u8,
        (FORETUNE_GUESS_DOWNSTREAM, n) => {
            return Err(Failure::argument(format!("downstream_blocks is {n}; give 1 to 255")));
        }
        (_, n) => {
            let problem = "only FORETUNE_GUESS_DOWNSTREAM has any";
            return Err(Failure::argument(format!("downstream_blocks is {n}; {problem}")));
        }
    };
    one_of("guess", raw.guess, &guesses(blocks))
}

/// In the order of their numbers.
fn guesses(downstream_blocks: u8) -> [GuessKind; 9] {
    [
        GuessKind::WeightTranspose,
        GuessKind::Directional,
        GuessKind::Activation,
        GuessKind::Backprop,
        GuessKind::None,
        GuessKind::Mixing,
        GuessKind::Downstream(downstream_blocks),
        GuessKind::SelfSharpening,
        GuessKind::MatchedCosine,
    ]
}

/// `FORETUNE_GUESS_*` of a guess; its blocks, if any, are an option of their own.
pub(crate) fn number_of(guess: GuessKind) -> u32 {
    guesses(0).iter().position(|&known| known == guess).unwrap_or_default() as u32
}
