//! FLOPs of a dual pass, counted from the row sets it works on, so that work that is skipped is not counted.

use super::layout::Geometry;
use crate::backend::{PatchGrid, Rows, hidden_columns};
use crate::model::{ModelSpec, PromptLayout};

/// Multiplications and additions of one pass; norms, activations and residuals, some 1 % of them, are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flops {
    /// Patch embedding, q, k and v, projections and the MLP.
    pub linear: u64,
    /// Scores and their use.
    pub attention: u64,
}

impl Flops {
    /// Of a pass over `examples` examples with `tangents` tangents.
    pub fn of_pass(spec: &ModelSpec, prompts: PromptLayout, examples: usize, tangents: usize) -> Self {
        Self::of_blocks(spec, &Geometry::new(spec, prompts, examples, tangents), spec.depth)
    }

    /// Of what a pass over [`Input::Prefix`](super::Input::Prefix) leaves out: patch embedding, and the blocks ahead of the prompts.
    pub fn of_prefix(spec: &ModelSpec, prompts: PromptLayout, examples: usize) -> Self {
        Self::of_blocks(spec, &Geometry::new(spec, prompts, examples, 0), prompts.insert_at)
    }

    /// Of patch embedding and the first `blocks` blocks.
    fn of_blocks(spec: &ModelSpec, g: &Geometry, blocks: usize) -> Self {
        let examples = g.examples;
        let grid = PatchGrid { channels: spec.channels, image: spec.image, patch: spec.patch };
        let [d, hidden] = [spec.width, spec.hidden].map(|n| n as u64);
        let columns = hidden * hidden_columns(spec.mlp) as u64;
        let mut flops = Flops { linear: 2 * (examples * grid.len() * grid.patch_len()) as u64 * d, attention: 0 };
        for rows in g.blocks.iter().take(blocks) {
            let [q, kv, out] = [&rows.q, &rows.kv, &rows.out].map(|rows| rows.len() as u64);
            flops.linear += 2 * (q * d * d + kv * d * 2 * d + out * (d * d + d * columns + hidden * d));
            flops.attention += attention_flops(&rows.q, &rows.kv, &rows.out, spec.width);
        }
        flops
    }

    /// Both together.
    pub fn total(&self) -> u64 {
        self.linear + self.attention
    }
}

/// Of dual attention. A query meets all keys: q·k and P·v. A tangent adds q̇·k and P·ṡ·v over all of them, q·k̇ and P·v̇ over
/// those that have tangents.
pub fn attention_flops(q: &Rows, kv: &Rows, out: &Rows, width: usize) -> u64 {
    let [keys, moving] = [kv.primal(), kv.tangent()].map(|tokens| tokens.len() as u64);
    let queries = |tokens: &[u32]| (q.examples * tokens.len()) as u64;
    let (d, planes) = (width as u64, q.tangents as u64);
    queries(q.primal()) * 4 * keys * d
        + planes * queries(q.tangent()) * 2 * keys * d
        + planes * queries(out.tangent()) * (2 * keys + 4 * moving) * d
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Activation, FinalNorm, Mlp, Pooling};

    /// ViT-B/16 at 224 pixels: 17.6 GMACs in the literature, 16.9 of them in the layers that every token passes.
    #[test]
    fn the_forward_pass_has_the_literatures_count() {
        let spec = ModelSpec {
            image: [224, 224],
            patch: [16, 16],
            channels: 3,
            width: 768,
            depth: 12,
            heads: 12,
            hidden: 3072,
            mlp: Mlp::Plain(Activation::Gelu),
            norm_eps: 1e-6,
            class_token: true,
            extra_tokens: 0,
            pre_norm: false,
            layer_scale: false,
            pooling: Pooling::PatchMean,
            final_norm: FinalNorm::BeforePool,
            classes: 1000,
        };
        let flops = Flops::of_pass(&spec, PromptLayout::NONE, 1, 0);
        let gmacs = flops.total() as f64 / 2e9;
        assert!((gmacs / 17.56 - 1.0).abs() < 0.01, "{gmacs}");
        // Class pooling reads one row of the last block.
        let class = Flops::of_pass(&ModelSpec { pooling: Pooling::Cls, ..spec.clone() }, PromptLayout::NONE, 1, 0);
        assert!(class.total() < flops.total());
        // A tangent costs about what the primal does, less where it is zero.
        let prompts = PromptLayout { prompts: 4, deep: false, insert_at: 6 };
        let [zero, one] = [0, 1].map(|k| Flops::of_pass(&spec, prompts, 1, k).total() as f64);
        assert!((0.4..0.55).contains(&(one / zero - 1.0)), "{}", one / zero);
        // Embedding and half of the blocks, in which there are no prompts yet.
        let prefix = Flops::of_prefix(&spec, prompts, 1).total() as f64;
        assert!((0.49..0.51).contains(&(prefix / zero)), "{}", prefix / zero);
    }
}
