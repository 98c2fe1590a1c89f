//! How large an encoder's buffers are.

use crate::backend::{Needs, hidden_columns};
use crate::model::{ModelSpec, PromptLayout};

/// Elements of an encoder's buffers. They do not depend on the depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Tokens T, prompts included.
    pub tokens: usize,
    /// A dual buffer `[1+K, m, T, d]` of the m examples that go through a block at a time.
    pub stream: usize,
    /// Such buffers that hold all examples between blocks.
    pub streams: usize,
    /// The workspace: the widest of patches, q, k and v, and the MLP's hidden rows.
    pub work: usize,
    /// Head inputs `[1+K, B, D]`, before and after `fc_norm`.
    pub pooled: usize,
    /// A prompt set on its way to the device, `[1+K, B, p, d]`.
    pub staging: usize,
}

impl Sizes {
    /// For passes of up to `examples` examples, all through a block at once, and `tangents` tangents.
    pub fn new(spec: &ModelSpec, prompts: PromptLayout, examples: usize, tangents: usize) -> Self {
        Sizes::by_blocks(spec, prompts, examples, examples, tangents)
    }

    /// As [`Sizes::new`], `chunk` examples through a block at a time.
    pub fn by_blocks(spec: &ModelSpec, prompts: PromptLayout, examples: usize, chunk: usize, tangents: usize) -> Self {
        let chunk = chunk.clamp(1, examples.max(1));
        let tokens = spec.tokens(prompts.prompts);
        let planes = (1 + tangents) * chunk;
        let wide = (3 * spec.width).max(spec.hidden * hidden_columns(spec.mlp));
        let patch = chunk * spec.patches() * spec.channels * spec.patch[0] * spec.patch[1];
        Sizes {
            tokens,
            stream: planes * tokens * spec.width,
            streams: examples.div_ceil(chunk),
            work: (planes * tokens * wide).max(patch),
            pooled: planes * spec.head_width(),
            staging: (1 + tangents) * examples * prompts.prompts * spec.width,
        }
    }

    /// What an encoder carves.
    pub fn needs(&self) -> Needs {
        let Sizes { stream, streams, work, pooled, staging, .. } = *self;
        let buffers = std::iter::repeat_n(stream, streams).chain([stream, work, pooled, pooled]).collect();
        Needs { buffers, staging: vec![staging] }
    }
}
