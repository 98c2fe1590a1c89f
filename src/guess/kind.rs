//! Which guess, and its options.

use crate::model::PromptLayout;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Where the prompts' gradient comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuessKind {
    /// A_s·n, A_s = J_LNᵀ·Wᵀ normalised: forward only, the default.
    WeightTranspose,
    /// n ~ N(0, I), the same for the whole batch: forward only.
    Directional,
    /// n ~ N(0, I) per example: forward only.
    Activation,
    /// A random mixture of the example's own tokens: forward only.
    Mixing,
    /// Noise sent back through the next so many blocks, which are recomputed one at a time.
    Downstream(u8),
    /// As `WeightTranspose`, of noise that is uniform in [0, 1) and so has a mean.
    SelfSharpening,
    /// The exact gradient turned away from itself at random, as far as `WeightTranspose` is away from it: an oracle that tells a
    /// guess's bias from its variance.
    MatchedCosine,
    /// The exact gradient by per-block recompute: the oracle.
    Backprop,
    /// No prompts at all: only the head, on the frozen backbone. The baseline.
    None,
}

const NAMES: [(&str, GuessKind); 8] = [
    ("weight-transpose", GuessKind::WeightTranspose),
    ("directional", GuessKind::Directional),
    ("activation", GuessKind::Activation),
    ("mixing", GuessKind::Mixing),
    ("self-sharpening", GuessKind::SelfSharpening),
    ("matched-cosine", GuessKind::MatchedCosine),
    ("backprop", GuessKind::Backprop),
    ("none", GuessKind::None),
];

impl GuessKind {
    /// Whether the gradient is guessed and scaled by derivatives of the forward pass.
    pub fn is_forward_only(self) -> bool {
        !self.is_exact() && self != GuessKind::None
    }

    /// Whether the exact gradient is computed.
    pub fn is_exact(self) -> bool {
        matches!(self, GuessKind::Backprop | GuessKind::MatchedCosine)
    }

    /// Blocks from ℓ on, of a model of `depth`, that are recomputed and transposed.
    pub fn transposed_blocks(self, layout: PromptLayout, depth: usize) -> usize {
        match self {
            GuessKind::Downstream(blocks) => layout.blocks_below(depth, usize::from(blocks)),
            _ if self.is_exact() => depth - layout.insert_at,
            _ => 0,
        }
    }

    /// Whether blocks are recomputed and transposed.
    pub fn transposes_blocks(self) -> bool {
        self.is_exact() || matches!(self, GuessKind::Downstream(_))
    }

    /// Whether all examples of a pass have to go through a block at once.
    pub fn needs_whole_passes(self) -> bool {
        self.transposes_blocks() || self == GuessKind::Mixing
    }

    /// Whether directions y are drawn, to be scaled by derivatives or to be compared with.
    pub fn draws(self) -> bool {
        self.is_forward_only() || self == GuessKind::MatchedCosine
    }

    /// Whether y = A_s·n with A_s = J_LNᵀ·Wᵀ.
    pub fn transposes_weights(self) -> bool {
        matches!(self, GuessKind::WeightTranspose | GuessKind::SelfSharpening | GuessKind::MatchedCosine)
    }
}

impl FromStr for GuessKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(blocks) = text.strip_prefix("downstream:") {
            return match blocks.parse() {
                Ok(blocks @ 1..) => Ok(GuessKind::Downstream(blocks)),
                _ => Err(format!(
                    "`{text}`: give downstream:1 to downstream:255, the blocks that noise is sent back through"
                )),
            };
        }
        NAMES.iter().find(|(name, _)| *name == text).map(|&(_, kind)| kind).ok_or_else(|| {
            let names = NAMES.map(|(name, _)| name).join(", ");
            format!("unknown guess `{text}`; use one of {names}, downstream:M")
        })
    }
}

impl fmt::Display for GuessKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GuessKind::Downstream(blocks) => write!(f, "downstream:{blocks}"),
            kind => f.pad(NAMES.iter().find(|(_, known)| known == kind).map_or("", |(name, _)| name)),
        }
    }
}

impl Serialize for GuessKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GuessKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A guess with its options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guessing {
    /// Which.
    pub kind: GuessKind,
    /// Power that the singular values of W are raised to, where it is [transposed](GuessKind::transposes_weights): 1 leaves W as
    /// it is, 0 makes it orthogonal (arXiv 2511.03110).
    pub power: f64,
    /// Largest singular values of W that are kept; 0 for all.
    pub rank: usize,
    /// The K directions of an example are made orthogonal, each of length √N.
    pub orthonormal: bool,
    /// Every prompt token of y is scaled to a root mean square of 1.
    pub unit_rms: bool,
}

impl Guessing {
    /// Whether the directions of a batch are kept until its derivatives are known: they depend on the example, or are not linear in
    /// their noise, so that they cannot be summed as noise.
    pub fn is_kept(&self) -> bool {
        let of_example = matches!(self.kind, GuessKind::Mixing | GuessKind::Downstream(_) | GuessKind::MatchedCosine);
        self.kind.draws() && (of_example || self.orthonormal || self.unit_rms)
    }

    /// Whether W is transposed as it is.
    pub fn is_plain(&self) -> bool {
        self.power == 1.0 && self.rank == 0
    }
}

impl From<GuessKind> for Guessing {
    fn from(kind: GuessKind) -> Self {
        Guessing { kind, power: 1.0, rank: 0, orthonormal: false, unit_rms: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let all = NAMES.map(|(_, kind)| kind).into_iter().chain([1, 2, 255].map(GuessKind::Downstream));
        for kind in all {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(serde_json::from_value::<GuessKind>(serde_json::to_value(kind).unwrap()).unwrap(), kind);
        }
        for bad in ["downstream", "downstream:0", "downstream:256", "downstream:x", "Mixing", ""] {
            assert!(bad.parse::<GuessKind>().is_err(), "{bad}");
        }
    }
}
