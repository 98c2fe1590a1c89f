//! A Vision Transformer described without reference to the library its weights came from.

use serde::{Deserialize, Serialize};

/// Element-wise non-linearity of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x·Φ(x), exact (erf).
    Gelu,
    /// ½x(1 + tanh(√(2/π)(x + 0.044715x³))).
    GeluTanh,
    /// x·σ(1.702x), as in CLIP.
    QuickGelu,
    /// max(x, 0).
    Relu,
    /// x·σ(x).
    Silu,
}

/// The block's feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mlp {
    /// fc2(φ(fc1(x))).
    Plain(Activation),
    /// fc2(silu(a)·b) with [a, b] = fc1(x) split in halves; fc1 has 2·hidden rows.
    SwiGlu,
}

/// Which tokens the classifier's feature comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The class token.
    Cls,
    /// Mean over patch tokens (class, prompt, register and distillation tokens excluded).
    PatchMean,
    /// Class token and patch mean, concatenated (DINOv2's classifier). Features are the class token.
    ClsAndPatchMean,
    /// Class and distillation token, concatenated (timm's distilled DeiT, whose two classifiers are averaged).
    /// Features are the mean of the two tokens.
    ClsAndDistillation,
}

/// Where layer norms stand around pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalNorm {
    /// Every token is normalised, then pooled (`norm`, `layernorm`).
    BeforePool,
    /// Tokens are pooled, then the pooled feature is normalised (timm's `fc_norm`).
    AfterPool,
    /// `norm` before and `fc_norm` after pooling.
    Both,
    /// Neither.
    None,
}

/// Everything the encoder needs to know about a ViT besides its tensors. All sizes are in elements or pixels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Image height and width the encoder runs at (position embeddings are interpolated to it on load).
    pub image: [usize; 2],
    /// Patch height and width.
    pub patch: [usize; 2],
    /// Image channels.
    pub channels: usize,
    /// Token width d.
    pub width: usize,
    /// Blocks L.
    pub depth: usize,
    /// Attention heads h; `width / heads` is the head size.
    pub heads: usize,
    /// Rows of fc2's input (for SwiGLU: half of fc1's rows).
    pub hidden: usize,
    /// Feed-forward kind.
    pub mlp: Mlp,
    /// ε of every block norm and of the final norm.
    pub norm_eps: f64,
    /// Whether a class token comes first.
    pub class_token: bool,
    /// Register or distillation tokens that stand between the class token and the patches.
    pub extra_tokens: usize,
    /// Layer norm on the embedded tokens, before block 0 (CLIP).
    pub pre_norm: bool,
    /// Per-channel scale of both residual branches.
    pub layer_scale: bool,
    /// Pooling that feeds the classifier.
    pub pooling: Pooling,
    /// Norms around pooling.
    pub final_norm: FinalNorm,
    /// Classes of the checkpoint's own classifier; 0 when it has none.
    pub classes: usize,
}

impl ModelSpec {
    /// Patches along height and width.
    pub fn grid(&self) -> [usize; 2] {
        [self.image[0] / self.patch[0], self.image[1] / self.patch[1]]
    }

    /// Patch tokens.
    pub fn patches(&self) -> usize {
        let [gh, gw] = self.grid();
        gh * gw
    }

    /// Index of the first prompt token: after the class token if there is one.
    pub fn prompt_start(&self) -> usize {
        usize::from(self.class_token)
    }

    /// Tokens T of a sequence that carries `prompts` prompt tokens.
    pub fn tokens(&self, prompts: usize) -> usize {
        usize::from(self.class_token) + prompts + self.extra_tokens + self.patches()
    }

    /// Values c·H·W of one image.
    pub fn image_len(&self) -> usize {
        self.channels * self.image[0] * self.image[1]
    }

    /// Values of what a block ahead of the prompts reads of one image: (T − p)·d.
    pub fn prefix_len(&self) -> usize {
        self.tokens(0) * self.width
    }

    /// Head size.
    pub fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    /// Width D of the head input: what the checkpoint's classifier reads.
    pub fn head_width(&self) -> usize {
        match self.pooling {
            Pooling::Cls | Pooling::PatchMean => self.width,
            Pooling::ClsAndPatchMean | Pooling::ClsAndDistillation => 2 * self.width,
        }
    }
}
