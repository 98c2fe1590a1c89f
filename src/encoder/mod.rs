//! The dual pass over blocks, written once over [`Backend`].
//!
//! Two stream-sized buffers (`x`, `y`) and one workspace live at any time, whatever the depth. A block is
//!
//! ```text
//! y = LN(x)   q, kv = linear(y)   y = attention(q, kv)   w = proj(y)
//! x += λ1·w, y = LN(x)   w = φ(fc1(y))   y = fc2(w)   x += λ2·y, y = LN_next(x)
//! ```
//!
//! with every step over primal and tangent rows at once, on the rows that matter (`layout.rs`).

mod flops;
mod layout;
mod vjp;
mod weights;

pub use flops::{Flops, attention_flops};
pub use vjp::HeadGradient;
pub use weights::{Block, Weights, products, weight_bytes};

use crate::backend::{At, Backend, Heads, PatchGrid, hidden_columns};
use crate::model::{FinalNorm, ModelSpec, PromptLayout};
use crate::{Error, Result};
use layout::Geometry;
use std::sync::Arc;

/// Fills the tangents of the prompt set that is entering: `(set, out)` with `out` `[K, B, p, d]`.
pub type TangentSource<'a, T> = dyn FnMut(usize, &mut [T]) -> Result<()> + Send + 'a;

/// One pass's inputs.
pub struct Pass<'a, T> {
    /// `[B, c, H, W]`, normalised.
    pub images: &'a [T],
    /// `[S, p, d]`, or empty for the frozen model.
    pub prompts: &'a [T],
    /// Tangents K.
    pub tangents: usize,
}

/// Elements of an encoder's buffers. They do not depend on the depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Tokens T, prompts included.
    pub tokens: usize,
    /// One of the two dual buffers `[1+K, B, T, d]`.
    pub stream: usize,
    /// The workspace: the widest of patches, q, k and v, and the MLP's hidden rows.
    pub work: usize,
    /// Head inputs `[1+K, B, D]`, before and after `fc_norm`.
    pub pooled: usize,
    /// A prompt set on its way to the device, `[1+K, B, p, d]`.
    pub staging: usize,
}

impl Sizes {
    /// For passes of up to `examples` examples and `tangents` tangents.
    pub fn new(spec: &ModelSpec, prompts: PromptLayout, examples: usize, tangents: usize) -> Self {
        let tokens = spec.tokens(prompts.prompts);
        let planes = (1 + tangents) * examples;
        let wide = (3 * spec.width).max(spec.hidden * hidden_columns(spec.mlp));
        let patch = examples * spec.patches() * spec.channels * spec.patch[0] * spec.patch[1];
        Sizes {
            tokens,
            stream: planes * tokens * spec.width,
            work: (planes * tokens * wide).max(patch),
            pooled: planes * spec.head_width(),
            staging: planes * prompts.prompts * spec.width,
        }
    }

    /// Every buffer of an encoder, in the order they are carved in.
    pub fn buffers(&self) -> [usize; 6] {
        let Sizes { stream, work, pooled, staging, .. } = *self;
        [stream, stream, work, pooled, pooled, staging]
    }
}

/// Runs dual passes of one model with one prompt placement.
pub struct Encoder<B: Backend> {
    backend: Arc<B>,
    weights: Arc<Weights<B>>,
    prompts: PromptLayout,
    /// Row sets of the (B, K) met so far.
    geometries: Vec<Arc<Geometry>>,
    /// The buffers' memory, with what the guess needs.
    arena: B::Arena,
    most_examples: usize,
    most_tangents: usize,
    x: B::Buffer,
    y: B::Buffer,
    work: B::Buffer,
    /// Pooled tokens `[1+K, B, D]` before and after `fc_norm`.
    pooled: B::Buffer,
    head_input: B::Buffer,
    /// Prompt values on their way to the device: `[1+K, B, p, d]`.
    staging: B::Staging,
    /// Buffers of the exact gradient, made on first use.
    tape: Option<vjp::Tape<B>>,
}

impl<B: Backend> Encoder<B> {
    /// Buffers for up to `examples` examples and `tangents` tangents a pass, in memory obtained at once; `guess`: elements of
    /// the buffers that are to be carved from [`Encoder::arena`] later. Errors: the placement does not fit the model, or
    /// memory is short.
    pub fn new(
        backend: Arc<B>,
        weights: Arc<Weights<B>>,
        prompts: PromptLayout,
        examples: usize,
        tangents: usize,
        guess: &[usize],
    ) -> Result<Self> {
        let spec = &weights.spec;
        prompts.check(spec)?;
        backend.reserve_scratch(spec, spec.tokens(prompts.prompts), tangents)?;
        let sizes = Sizes::new(spec, prompts, examples, tangents).buffers();
        let arena = backend.reserve(&[&sizes, guess].concat())?;
        let [x, y, work, pooled, head_input, staging] = sizes;
        Ok(Encoder {
            x: backend.carve(&arena, x)?,
            y: backend.carve(&arena, y)?,
            work: backend.carve(&arena, work)?,
            pooled: backend.carve(&arena, pooled)?,
            head_input: backend.carve(&arena, head_input)?,
            staging: backend.carve_staging(&arena, staging)?,
            arena,
            geometries: Vec::new(),
            most_examples: examples,
            most_tangents: tangents,
            tape: None,
            backend,
            weights,
            prompts,
        })
    }

    /// What the encoder looks like.
    pub fn spec(&self) -> &ModelSpec {
        &self.weights.spec
    }

    /// Prompt placement.
    pub fn prompts(&self) -> PromptLayout {
        self.prompts
    }

    /// The frozen weights.
    pub fn weights(&self) -> &Arc<Weights<B>> {
        &self.weights
    }

    /// The device.
    pub fn backend(&self) -> &Arc<B> {
        &self.backend
    }

    /// The memory its buffers are carved from.
    pub fn arena(&self) -> &B::Arena {
        &self.arena
    }

    /// Examples of the largest pass.
    pub fn most_examples(&self) -> usize {
        self.most_examples
    }

    /// Tangents of the largest pass.
    pub fn most_tangents(&self) -> usize {
        self.most_tangents
    }

    /// Values of one image.
    pub fn image_len(&self) -> usize {
        let spec = &self.weights.spec;
        spec.channels * spec.image[0] * spec.image[1]
    }

    /// Dual pass: head inputs `[1+K, B, D]`, plane 0 primal. `tangents` is asked once per prompt set, in order. Errors:
    /// shapes that do not fit, or the device's own.
    pub fn dual(
        &mut self,
        pass: Pass<B::Elem>,
        tangents: &mut TangentSource<B::Elem>,
        head_input: &mut [B::Elem],
    ) -> Result<()> {
        let geometry = self.geometry(&pass)?;
        expect("head inputs", (1 + pass.tangents) * geometry.examples * self.spec().head_width(), head_input.len())?;
        self.embed(&geometry, pass.images)?;
        self.run_blocks(&geometry, pass.prompts, tangents, false)?;
        self.backend.read(&self.head_input, 0, head_input)
    }

    /// Forward pass without tangents: head inputs `[B, D]`.
    pub fn forward(&mut self, images: &[B::Elem], prompts: &[B::Elem], head_input: &mut [B::Elem]) -> Result<()> {
        self.dual(Pass { images, prompts, tangents: 0 }, &mut |_, _| Ok(()), head_input)
    }

    fn geometry(&mut self, pass: &Pass<B::Elem>) -> Result<Arc<Geometry>> {
        let examples = pass.images.len() / self.image_len();
        expect("images", examples * self.image_len(), pass.images.len())?;
        let layout = if pass.prompts.is_empty() { PromptLayout::NONE } else { self.prompts };
        expect("prompts", layout.parameters(self.spec()), pass.prompts.len())?;
        if examples == 0 || examples > self.most_examples {
            return Err(Error::Shape {
                what: "examples of a pass",
                expected: format!("1..={}", self.most_examples),
                found: examples.to_string(),
            });
        }
        if pass.tangents > self.most_tangents || (pass.tangents > 0 && layout.prompts == 0) {
            return Err(Error::Shape {
                what: "tangents of a pass",
                expected: if layout.prompts == 0 {
                    "0, as there are no prompts".to_owned()
                } else {
                    format!("0..={}", self.most_tangents)
                },
                found: pass.tangents.to_string(),
            });
        }
        let wanted = (layout, examples, pass.tangents);
        if let Some(known) = self.geometries.iter().find(|g| (g.layout, g.examples, g.tangents) == wanted) {
            return Ok(known.clone());
        }
        let geometry = Arc::new(Geometry::new(self.spec(), layout, examples, pass.tangents));
        self.geometries.push(geometry.clone());
        Ok(geometry)
    }

    /// Images to the tokens block 0 reads, prompt rows left as they are.
    fn embed(&mut self, g: &Geometry, images: &[B::Elem]) -> Result<()> {
        let (backend, weights) = (&*self.backend, &*self.weights);
        let spec = &weights.spec;
        let grid = PatchGrid { channels: spec.channels, image: spec.image, patch: spec.patch };
        let rows = g.examples * grid.len();
        backend.patches(grid, g.examples, images, &mut self.work)?;
        let patches = At::start(&self.work, grid.patch_len());
        backend.linear(rows, rows, &weights.patch, 0..spec.width, patches, &mut self.y, 0)?;
        backend.embed(&g.image, grid.len(), spec.width, &self.y, &weights.constant, &mut self.x)?;
        if let Some(norm) = &weights.pre_norm {
            backend.norm(&g.image, norm, &self.x, &mut self.y)?;
            backend.scatter(&g.image, spec.width, &self.y, &mut self.x)?;
        }
        Ok(())
    }

    /// All blocks, the final norms and pooling. With `record`, every block input from ℓ on is kept for the VJP.
    fn run_blocks(
        &mut self,
        g: &Geometry,
        prompts: &[B::Elem],
        tangents: &mut TangentSource<B::Elem>,
        record: bool,
    ) -> Result<()> {
        let weights = self.weights.clone();
        let width = weights.spec.width;
        let mut normed = false;
        for (i, block) in weights.blocks.iter().enumerate() {
            if let Some(set) = g.layout.entering(i) {
                self.place_prompts(g, set, prompts, tangents)?;
            }
            if record && i >= g.layout.insert_at {
                self.record(g, i)?;
            }
            let next = weights.blocks.get(i + 1).map(|b| &b.norm1);
            let next = if next.is_some() { next.filter(|_| g.blocks[i].fuse_next) } else { weights.norm.as_ref() };
            self.block(block, &g.blocks[i], normed, next)?;
            normed = next.is_some();
        }
        let Some(last) = g.blocks.last() else { return Ok(()) };
        let backend = &*self.backend;
        if !normed {
            backend.gather(&last.out, width, &self.x, None, &mut self.y)?;
        }
        match &weights.fc_norm {
            None => backend.pool(&last.out, width, &g.groups, &self.y, &mut self.head_input),
            Some(norm) => {
                backend.pool(&last.out, width, &g.groups, &self.y, &mut self.pooled)?;
                backend.norm(&g.pooled, norm, &self.pooled, &mut self.head_input)
            }
        }
    }

    /// Writes a set's values into the prompt rows of every example, and its tangents into planes 1..K.
    fn place_prompts(
        &mut self,
        g: &Geometry,
        set: usize,
        prompts: &[B::Elem],
        tangents: &mut TangentSource<B::Elem>,
    ) -> Result<()> {
        let width = self.weights.spec.width;
        let len = g.layout.prompts * width;
        let values = &prompts[set * len..][..len];
        let (primal, rest) = self.staging.split_at_mut(g.examples * len);
        primal.chunks_exact_mut(len).for_each(|to| to.copy_from_slice(values));
        if g.tangents > 0 {
            tangents(set, &mut rest[..g.tangents * g.examples * len])?;
            if set == 0 {
                let plane = g.examples * g.tokens * width;
                self.backend.zero(&mut self.x, plane..(1 + g.tangents) * plane)?;
            }
        }
        self.backend.write(&mut self.y, 0, &self.staging[..(1 + g.tangents) * g.examples * len])?;
        self.backend.scatter(&g.prompts, width, &self.y, &mut self.x)
    }

    /// One block. `normed`: y already holds LN1 of the rows. `next`: norm to leave in y for the rows of `out`.
    fn block(
        &mut self,
        block: &Block<B>,
        rows: &layout::BlockRows,
        normed: bool,
        next: Option<&crate::backend::Norm<B::Vector>>,
    ) -> Result<()> {
        let backend = &*self.backend;
        let spec = &self.weights.spec;
        let (x, y, work) = (&mut self.x, &mut self.y, &mut self.work);
        let d = spec.width;
        let heads = Heads { count: spec.heads, dim: spec.head_dim() };

        if !normed {
            backend.norm(&rows.q, &block.norm1, x, y)?;
        }
        backend.linear(rows.q.len(), rows.q.primal_len(), &block.qkv, 0..d, At::start(y, d), work, 0)?;
        if !rows.shared {
            backend.norm(&rows.kv, &block.norm1, x, y)?;
        }
        let kv = rows.q.len() * d;
        backend.linear(rows.kv.len(), rows.kv.primal_len(), &block.qkv, d..3 * d, At::start(y, d), work, kv)?;
        let (q, kv) = (At::start(&*work, d), At { buffer: &*work, offset: kv, stride: 2 * d });
        backend.attention(heads, &rows.q, &rows.kv, &rows.out, q, kv, y)?;

        let (count, biased) = (rows.out.len(), rows.out.primal_len());
        backend.linear(count, biased, &block.proj, 0..d, At::start(y, d), work, 0)?;
        backend.residual_norm(&rows.out, block.scale1.as_ref(), &block.norm2, Some(work), x, y)?;
        let columns = spec.hidden * hidden_columns(spec.mlp);
        backend.linear(count, biased, &block.fc1, 0..columns, At::start(y, d), work, 0)?;
        backend.activation(&rows.out, spec.hidden, spec.mlp, work)?;
        backend.linear(count, biased, &block.fc2, 0..d, At::start(work, columns), y, 0)?;
        match next {
            Some(norm) => backend.residual_norm(&rows.out, block.scale2.as_ref(), norm, None, x, y),
            None => backend.residual(&rows.out, d, block.scale2.as_ref(), y, x),
        }
    }

    /// Whether `norm` runs before pooling.
    fn norm_before_pool(&self) -> bool {
        matches!(self.spec().final_norm, FinalNorm::BeforePool | FinalNorm::Both)
    }
}

fn expect(what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Shape { what, expected: format!("{expected} values"), found: format!("{found} values") })
}
