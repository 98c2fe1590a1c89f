//! The tensors of a ViT by their role, still in the file's dtype and memory.

use super::tensor::{Element, TensorRef, append};
use crate::Result;
use std::sync::Arc;

/// A linear layer y = xWᵀ + b, its rows possibly spread over several tensors (transformers keeps q, k and v apart).
#[derive(Clone, Debug)]
pub struct LinearRef {
    /// Row blocks of W, each `[n_i, k]`, stacked along n.
    pub weight: Vec<TensorRef>,
    /// Bias of each row block, `[n_i]`; `None` means zero.
    pub bias: Vec<Option<TensorRef>>,
}

impl LinearRef {
    /// Rows n of W.
    pub fn rows(&self) -> usize {
        self.weight.iter().filter_map(|w| w.shape().first()).sum()
    }

    /// Columns k of W: the product of all axes but the first.
    pub fn cols(&self) -> usize {
        self.weight.first().map_or(0, |w| w.shape().iter().skip(1).product())
    }

    /// W, `[n, k]`, its row blocks stacked.
    ///
    /// # Errors
    /// As [`TensorRef::read`].
    pub fn read<T: Element>(&self) -> Result<Vec<T>> {
        let mut out = Vec::new();
        self.weight.iter().try_for_each(|w| append(&mut out, w))?;
        Ok(out)
    }

    /// b, `[n]`, zero where a row block has none; `None` when no block has one.
    pub fn bias(&self) -> Option<VectorRef> {
        if self.bias.iter().all(Option::is_none) {
            return None;
        }
        let rows = self.weight.iter().map(|weight| weight.shape().first().copied().unwrap_or(0));
        Some(VectorRef { pieces: rows.zip(self.bias.iter().cloned()).collect() })
    }
}

/// A vector that one or several tensors make up.
#[derive(Clone, Debug)]
pub struct VectorRef {
    /// Lengths and values of its pieces, one after another; zeros where there is no tensor.
    pieces: Arc<[(usize, Option<TensorRef>)]>,
}

impl From<&TensorRef> for VectorRef {
    fn from(tensor: &TensorRef) -> Self {
        VectorRef { pieces: Arc::new([(tensor.len(), Some(tensor.clone()))]) }
    }
}

impl VectorRef {
    /// Values.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|(len, _)| len).sum()
    }

    /// Lengths and tensors, one after another; zeros stand for a tensor that is absent.
    #[cfg(feature = "cuda")]
    pub(crate) fn pieces(&self) -> &[(usize, Option<TensorRef>)] {
        &self.pieces
    }

    /// Its tensors.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorRef> {
        self.pieces.iter().filter_map(|(_, tensor)| tensor.as_ref())
    }

    /// Its values.
    ///
    /// # Errors
    /// As [`TensorRef::read`].
    pub fn read<T: Element>(&self) -> Result<Vec<T>> {
        let mut out = vec![T::default(); self.len()];
        self.read_into(&mut out)?;
        Ok(out)
    }

    /// Its values into `out`, of its length.
    ///
    /// # Errors
    /// As [`TensorRef::read_into`].
    pub fn read_into<T: Element>(&self, mut out: &mut [T]) -> Result<()> {
        for (len, tensor) in self.pieces.iter() {
            let (piece, rest) = out.split_at_mut((*len).min(out.len()));
            match tensor {
                Some(tensor) => tensor.read_into(piece)?,
                None => piece.fill(T::default()),
            }
            out = rest;
        }
        Ok(())
    }
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
    /// `[positions, d]`; rows are the class token, extra tokens, then the grid in row-major order, as far as covered.
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

impl VitRef {
    /// Every tensor but the classifier's, in a fixed order, with its role.
    pub(crate) fn for_each_backbone_tensor(&self, mut visit: impl FnMut(&str, &TensorRef)) {
        let mut linear = |role: String, linear: &LinearRef| {
            linear.weight.iter().for_each(|w| visit(&role, w));
            linear.bias.iter().flatten().for_each(|b| visit(&role, b));
        };
        linear("patch".into(), &self.patch);
        for (i, block) in self.blocks.iter().enumerate() {
            for (role, part) in [("qkv", &block.qkv), ("proj", &block.proj), ("fc1", &block.fc1), ("fc2", &block.fc2)] {
                linear(format!("blocks.{i}.{role}"), part);
            }
        }
        self.class_token.iter().for_each(|t| visit("class_token", t));
        self.extra_tokens.iter().for_each(|t| visit("extra_tokens", t));
        self.position.iter().for_each(|p| visit("position", &p.table));
        let mut norm = |role: String, norm: &NormRef| {
            visit(&role, &norm.weight);
            visit(&role, &norm.bias);
        };
        for (role, part) in [("pre_norm", &self.pre_norm), ("norm", &self.norm), ("fc_norm", &self.fc_norm)] {
            part.iter().for_each(|n| norm(role.into(), n));
        }
        for (i, block) in self.blocks.iter().enumerate() {
            norm(format!("blocks.{i}.norm1"), &block.norm1);
            norm(format!("blocks.{i}.norm2"), &block.norm2);
        }
        for (i, block) in self.blocks.iter().enumerate() {
            block.scale1.iter().for_each(|t| visit(&format!("blocks.{i}.scale1"), t));
            block.scale2.iter().for_each(|t| visit(&format!("blocks.{i}.scale2"), t));
        }
    }
}
