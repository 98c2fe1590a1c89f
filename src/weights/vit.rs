//! The tensors of a ViT by their role, still in the file's dtype and memory.

use super::TensorRef;

/// A linear layer y = xWᵀ + b, its rows possibly spread over several tensors (transformers keeps q, k and v apart).
#[derive(Clone, Debug)]
pub struct LinearRef {
    /// Row blocks of W, each `[n_i, k]`, stacked along n.
    pub weight: Vec<TensorRef>,
    /// Bias of each row block, `[n_i]`; `None` means zero.
    pub bias: Vec<Option<TensorRef>>,
}

/// γ and β of a layer norm, each `[d]`.
#[derive(Clone, Debug)]
pub struct NormRef {
    /// γ.
    pub weight: TensorRef,
    /// β.
    pub bias: TensorRef,
}

/// One transformer block.
#[derive(Clone, Debug)]
pub struct BlockRef {
    /// Norm ahead of attention.
    pub norm1: NormRef,
    /// `[3d, d]`, rows in the order q, k, v.
    pub qkv: LinearRef,
    /// `[d, d]`.
    pub proj: LinearRef,
    /// λ of the attention branch, `[d]`.
    pub scale1: Option<TensorRef>,
    /// Norm ahead of the MLP.
    pub norm2: NormRef,
    /// `[hidden, d]`, or `[2·hidden, d]` for SwiGLU (gate rows first).
    pub fc1: LinearRef,
    /// `[d, hidden]`.
    pub fc2: LinearRef,
    /// λ of the MLP branch, `[d]`.
    pub scale2: Option<TensorRef>,
}

/// All tensors of a ViT. Shapes have been checked against the [`ModelSpec`](crate::model::ModelSpec).
#[derive(Clone, Debug)]
pub struct VitRef {
    /// Patch projection `[d, channels·ph·pw]`, flattened from `[d, channels, ph, pw]`.
    pub patch: LinearRef,
    /// `[d]`.
    pub class_token: Option<TensorRef>,
    /// Register tokens, then distillation tokens, in sequence order; each tensor holds one or more rows of `[d]`.
    pub extra_tokens: Vec<TensorRef>,
    /// Position embedding `[positions, d]` at the checkpoint's own grid.
    pub position: Option<PositionRef>,
    /// Norm on the embedded tokens (CLIP).
    pub pre_norm: Option<NormRef>,
    /// The blocks, first to last.
    pub blocks: Vec<BlockRef>,
    /// `norm` / `layernorm`, before pooling.
    pub norm: Option<NormRef>,
    /// `fc_norm`, after pooling.
    pub fc_norm: Option<NormRef>,
    /// The checkpoint's classifiers: one `[C, D]`; for timm's distilled DeiT two `[C, d]`, averaged.
    pub head: Vec<LinearRef>,
}

/// A position embedding and which tokens it covers.
#[derive(Clone, Debug)]
pub struct PositionRef {
    /// `[positions, d]`; rows are [class][extra] then the grid in row-major order, as far as covered.
    pub table: TensorRef,
    /// Grid height and width the table was trained at.
    pub grid: [usize; 2],
    /// Whether its first row belongs to the class token.
    pub covers_class: bool,
    /// How many of its following rows belong to extra tokens.
    pub covers_extra: usize,
    /// How the library that wrote the checkpoint resizes it.
    pub resize: PositionResize,
}

/// How a position embedding is brought to another grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionResize {
    /// PyTorch bicubic (a = −0.75), antialiased (a = −0.5): timm.
    BicubicAntialias,
    /// PyTorch bicubic (a = −0.75), align_corners = false, not antialiased: transformers.
    Bicubic,
}
