//! What the shapes of a checkpoint say about the model, whatever its configuration says.

use super::names::Parts;
use super::tensor::TensorRef;
use crate::Result;
use crate::model::FinalNorm;

/// Sizes read off the tensors. They have been checked to be non-zero and of the right rank, nothing more.
#[derive(Debug)]
pub(crate) struct Facts {
    /// Token width d.
    pub width: usize,
    /// Image channels.
    pub channels: usize,
    /// Patch height and width.
    pub patch: [usize; 2],
    /// `[d, channels, ph, pw]`.
    pub patch_weight: TensorRef,
    /// Blocks L.
    pub depth: usize,
    /// fc2 of block 0, `[d, hidden]`.
    pub fc2: TensorRef,
    /// Columns of fc2.
    pub hidden: usize,
    /// Rows of fc1, or of gate and up together.
    pub fc1_rows: usize,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the blocks' other linear layers have biases.
    pub proj_bias: bool,
    /// Whether the patch projection has one.
    pub patch_bias: bool,
    /// Whether there is a class token.
    pub class_token: bool,
    /// Register tokens.
    pub registers: usize,
    /// Whether there is a distillation token.
    pub distillation: bool,
    /// `[.., positions, d]`.
    pub position: Option<TensorRef>,
    /// Rows of `position`.
    pub positions: usize,
    /// Whether tokens are normalised before block 0.
    pub pre_norm: bool,
    /// Whether residual branches are scaled.
    pub layer_scale: bool,
    /// Whether there is a norm before pooling.
    pub norm: bool,
    /// Whether there is a norm after pooling.
    pub fc_norm: bool,
    /// The classifier's weight, `[C, D]`.
    pub head: Option<TensorRef>,
    /// Classes C; 0 without a classifier.
    pub classes: usize,
    /// Whether a second classifier reads the distillation token.
    pub two_heads: bool,
}

impl Facts {
    pub(crate) fn new(parts: &Parts) -> Result<Self> {
        let patch_weight = parts.require("patch.weight")?.clone();
        let [width, channels, ph, pw] = sizes(&patch_weight, "[width, channels, patch height, patch width]")?;
        let fc2 = parts.require("blocks.0.fc2.weight")?.clone();
        let [_, hidden] = sizes(&fc2, "[width, hidden]")?;
        let fc1_rows = match parts.get("blocks.0.gate.weight") {
            Some(gate) => {
                let [gate, _] = sizes(gate, "[hidden, width]")?;
                let [up, _] = sizes(parts.require("blocks.0.up.weight")?, "[hidden, width]")?;
                gate.saturating_add(up)
            }
            None => sizes::<2>(parts.require("blocks.0.fc1.weight")?, "[hidden, width]")?[0],
        };
        let position = parts.get("position").cloned();
        let positions = position.as_ref().map(|p| rows(p, width)).transpose()?.unwrap_or(0);
        let registers = parts.get("register").map(|r| rows(r, width)).transpose()?.unwrap_or(0);
        let head = parts.get("head.weight").cloned();
        let classes = head.as_ref().map(|h| sizes::<2>(h, "[classes, width]")).transpose()?.map_or(0, |s| s[0]);
        let has = |role: &str| parts.get(role).is_some();
        Ok(Facts {
            width,
            channels,
            patch: [ph, pw],
            patch_weight,
            depth: parts.depth(),
            fc2,
            hidden,
            fc1_rows,
            qkv_bias: has("blocks.0.qkv.bias") || has("blocks.0.q.bias"),
            proj_bias: has("blocks.0.proj.bias"),
            patch_bias: has("patch.bias"),
            class_token: has("class_token"),
            registers,
            distillation: has("distillation"),
            position,
            positions,
            pre_norm: has("pre_norm.weight"),
            layer_scale: has("blocks.0.scale1"),
            norm: has("norm.weight"),
            fc_norm: has("fc_norm.weight"),
            head,
            classes,
            two_heads: has("head_dist.weight"),
        })
    }

    /// Which norms there are around pooling.
    pub(crate) fn final_norm(&self) -> FinalNorm {
        match (self.norm, self.fc_norm) {
            (true, true) => FinalNorm::Both,
            (true, false) => FinalNorm::BeforePool,
            (false, true) => FinalNorm::AfterPool,
            (false, false) => FinalNorm::None,
        }
    }

    /// Register and distillation tokens.
    pub(crate) fn extra_tokens(&self) -> usize {
        self.registers + usize::from(self.distillation)
    }
}

/// The shape as `N` non-zero sizes.
fn sizes<const N: usize>(tensor: &TensorRef, meaning: &str) -> Result<[usize; N]> {
    match <[usize; N]>::try_from(tensor.shape()) {
        Ok(shape) if !shape.contains(&0) => Ok(shape),
        _ => Err(tensor.error(format!("has shape {:?}, expected {meaning}, none of them 0", tensor.shape()))),
    }
}

/// Rows of a `[1, rows, width]` (or `[rows, width]`) table.
fn rows(table: &TensorRef, width: usize) -> Result<usize> {
    match *table.shape() {
        [1, rows, w] | [rows, w] if w == width && rows > 0 => Ok(rows),
        _ => Err(table.error(format!("has shape {:?}, expected [1, rows, {width}]", table.shape()))),
    }
}
