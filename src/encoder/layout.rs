//! Which rows each block reads and writes, so that work known to be zero or unread is not done.

use crate::backend::Rows;
use crate::model::{ModelSpec, Pooling, PromptLayout};
use std::ops::Range;
use std::sync::Arc;

/// Row sets of one block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BlockRows {
    /// Rows that ask in attention.
    pub q: Rows,
    /// Rows that are attended to.
    pub kv: Rows,
    /// Rows the block's output is read at: residuals and the MLP run here.
    pub out: Rows,
    /// `q` and `kv` are the same rows: one norm serves both.
    pub shared: bool,
    /// The next block's first norm may be fused into this block's last residual.
    pub fuse_next: bool,
}

/// Row sets of a pass over `examples` examples and `tangents` tangents.
#[derive(Debug)]
pub(super) struct Geometry {
    /// Placement in force: the encoder's own, or none when a pass brings no prompts.
    pub layout: PromptLayout,
    pub examples: usize,
    pub tangents: usize,
    /// T, prompts included.
    pub tokens: usize,
    /// All but the prompt tokens, primal only: what the image gives.
    pub image: Rows,
    /// The prompt tokens.
    pub prompts: Rows,
    /// Few of them differ, and those that do not are one: row sets do not grow with the depth.
    pub blocks: Vec<Arc<BlockRows>>,
    /// Token groups of the head input, as indices into the last block's `out`.
    pub groups: Vec<Range<usize>>,
    /// The pooled rows as a stream of one token.
    pub pooled: Rows,
}

impl Geometry {
    pub fn new(spec: &ModelSpec, layout: PromptLayout, examples: usize, tangents: usize) -> Self {
        let tokens = spec.tokens(layout.prompts);
        let start = spec.prompt_start();
        let prompt_range = start..start + layout.prompts;
        let all: Vec<u32> = (0..tokens as u32).collect();
        let prompts: Vec<u32> = prompt_range.clone().map(|t| t as u32).collect();
        let image: Vec<u32> = all.iter().copied().filter(|t| !prompt_range.contains(&(*t as usize))).collect();
        let (pooled, groups) = pooled_tokens(spec, layout.prompts);

        // Sorted lists; the part of `set` that is also in `keep`.
        let intersect = |set: &[u32], keep: &[u32]| -> Vec<u32> {
            set.iter().copied().filter(|t| keep.binary_search(t).is_ok()).collect()
        };
        let rows = |block: usize, next: Option<&Arc<BlockRows>>| {
            let prefix = block < layout.insert_at || layout.prompts == 0;
            let k = if prefix { 0 } else { tangents };
            let present = if prefix { &image } else { &all };
            let out = if block + 1 == spec.depth {
                &pooled
            } else if layout.deep && !prefix {
                &image
            } else {
                present
            };
            // Where prompts first enter, only they carry tangents.
            let carrying = if block == layout.insert_at { &prompts } else { &all };
            let kv = Rows::new(examples, k, tokens, present.clone(), carrying.clone());
            let q = Rows::new(examples, k, tokens, out.clone(), intersect(out, carrying));
            let out = Rows::new(examples, k, tokens, out.clone(), out.clone());
            let shared = q == kv;
            let fuse_next =
                next.is_some_and(|next| next.shared && next.kv == out && layout.entering(block + 1).is_none());
            BlockRows { q, kv, out, shared, fuse_next }
        };
        let mut blocks: Vec<Arc<BlockRows>> = Vec::with_capacity(spec.depth);
        for block in (0..spec.depth).rev() {
            let next = blocks.last();
            let rows = rows(block, next);
            let same = next.filter(|next| ***next == rows).cloned();
            blocks.push(same.unwrap_or_else(|| Arc::new(rows)));
        }
        blocks.reverse();
        Geometry {
            layout,
            examples,
            tangents,
            tokens,
            image: Rows::new(examples, 0, tokens, image, Vec::new()),
            prompts: Rows::new(examples, tangents, tokens, prompts.clone(), prompts),
            blocks,
            groups,
            pooled: Rows::full(examples, tangents, 1),
        }
    }
}

/// How the examples of a pass go through the blocks: in chunks of equal size, but for the last.
pub(super) struct Chunks {
    pub whole: Arc<Geometry>,
    pub last: Arc<Geometry>,
    pub count: usize,
}

impl Chunks {
    /// All at once.
    pub fn one(g: &Arc<Geometry>) -> Self {
        Chunks { whole: g.clone(), last: g.clone(), count: 1 }
    }

    pub fn of(&self, c: usize) -> &Geometry {
        if c + 1 < self.count { &self.whole } else { &self.last }
    }

    pub fn examples(&self) -> usize {
        (self.count - 1) * self.whole.examples + self.last.examples
    }
}

/// Tokens the head input is pooled from, ascending, and its groups of them.
#[expect(clippy::single_range_in_vec_init, reason = "one group of tokens is meant")]
fn pooled_tokens(spec: &ModelSpec, prompts: usize) -> (Vec<u32>, Vec<Range<usize>>) {
    let tokens = spec.tokens(prompts);
    let patches = (tokens - spec.patches()) as u32..tokens as u32;
    let n = spec.patches();
    match spec.pooling {
        Pooling::Cls => (vec![0], vec![0..1]),
        Pooling::PatchMean => (patches.collect(), vec![0..n]),
        Pooling::ClsAndPatchMean => (std::iter::once(0).chain(patches).collect(), vec![0..1, 1..1 + n]),
        Pooling::ClsAndDistillation => {
            // The distillation token is the first of the extra tokens.
            (vec![0, (spec.prompt_start() + prompts) as u32], vec![0..1, 1..2])
        }
    }
}
