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

mod blocks;
mod flops;
mod input;
mod layout;
mod limits;
mod pullback;
mod sizes;
mod vjp;
mod weights;

pub use flops::{Flops, attention_flops};
pub use input::Input;
pub(crate) use limits::{Limits, expect};
pub use pullback::{Cotangents, TokenSink};
pub use sizes::Sizes;
pub use vjp::{HeadGradient, tape_needs};
pub(crate) use weights::constant_tokens;
pub use weights::{Block, Weights, products, weight_bytes};

use crate::backend::{Backend, Needs};
use crate::model::{FinalNorm, Head, ModelSpec, PromptLayout};
use crate::ops::loss::Judged;
use crate::{Error, Result};
use layout::{Chunks, Geometry};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Fills the tangents of the prompt set that is entering: `(set, out)` with `out` `[K, B, p, d]`.
pub type TangentSource<'a, T> = dyn FnMut(usize, &mut [T]) -> Result<()> + Send + 'a;

/// One pass's inputs.
pub struct Pass<'a, T> {
    /// The examples.
    pub input: Input<'a, T>,
    /// `[S, p, d]`, or empty for the frozen model.
    pub prompts: &'a [T],
    /// Tangents K.
    pub tangents: usize,
}

/// Runs dual passes of one model with one prompt placement.
pub struct Encoder<B: Backend> {
    backend: Arc<B>,
    weights: Arc<Weights<B>>,
    prompts: PromptLayout,
    /// Row sets of the (B, K) met so far.
    geometries: Vec<Arc<Geometry>>,
    /// Of small passes met so far.
    recordings: Vec<blocks::Recorded<B>>,
    /// The buffers' memory, with what the guess needs.
    arena: B::Arena,
    most_examples: usize,
    most_tangents: usize,
    /// Examples that go through a block at a time.
    chunk: usize,
    /// Of each chunk.
    x: Vec<B::Buffer>,
    y: B::Buffer,
    work: B::Buffer,
    /// Pooled tokens `[1+K, B, D]` before and after `fc_norm`.
    pooled: B::Buffer,
    head_input: B::Buffer,
    /// Prompt values on their way to the device: `[1+K, B, p, d]`.
    staging: B::Staging,
    /// Stops a pass between two blocks.
    cancel: Arc<AtomicBool>,
    /// Buffers of the exact gradient, made on first use.
    tape: Option<vjp::Tape<B>>,
}

impl<B: Backend> Encoder<B> {
    /// Buffers for up to `examples` examples and `tangents` tangents a pass, in memory obtained at once; `guess`: what is to be
    /// carved from [`Encoder::arena`] later. `chunk` examples go through a block at a time, all of them before the next block,
    /// which changes no bit: fewer need less memory. Errors: the placement does not fit the model, or memory is short.
    pub fn new(
        backend: Arc<B>,
        weights: Arc<Weights<B>>,
        prompts: PromptLayout,
        [examples, chunk, tangents]: [usize; 3],
        guess: &Needs,
    ) -> Result<Self> {
        let spec = &weights.spec;
        prompts.check(spec)?;
        backend.reserve_scratch(spec, spec.tokens(prompts.prompts), tangents)?;
        let sizes = Sizes::by_blocks(spec, prompts, examples, chunk, tangents);
        let arena = backend.reserve(&sizes.needs().with(guess))?;
        let Sizes { stream, streams, work, pooled, staging, .. } = sizes;
        Ok(Encoder {
            x: (0..streams).map(|_| backend.carve(&arena, stream)).collect::<Result<_>>()?,
            y: backend.carve(&arena, stream)?,
            work: backend.carve(&arena, work)?,
            pooled: backend.carve(&arena, pooled)?,
            head_input: backend.carve(&arena, pooled)?,
            staging: backend.carve_staging(&arena, staging)?,
            arena,
            geometries: Vec::new(),
            recordings: Vec::new(),
            chunk: chunk.clamp(1, examples.max(1)),
            most_examples: examples,
            most_tangents: tangents,
            cancel: Arc::default(),
            tape: None,
            backend,
            weights,
            prompts,
        })
    }

    /// From now on a pass that finds `flag` set between two blocks ends with [`Error::Interrupted`].
    pub fn set_cancel(&mut self, flag: Arc<AtomicBool>) {
        self.cancel = flag;
    }

    /// Errors: the pass has been cancelled.
    fn go_on(&self) -> Result<()> {
        if self.cancel.load(Relaxed) { Err(Error::Interrupted { step: 0 }) } else { Ok(()) }
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

    /// What a pass may be.
    fn limits(&self) -> Limits<'_> {
        let Encoder { prompts, most_examples, most_tangents, .. } = *self;
        Limits { spec: self.spec(), layout: prompts, examples: most_examples, tangents: most_tangents }
    }

    /// Dual pass: head inputs `[1+K, B, D]`, plane 0 primal. `tangents` is asked once per prompt set, in order. Errors:
    /// shapes that do not fit, or the device's own.
    pub fn dual(
        &mut self,
        pass: Pass<B::Elem>,
        tangents: &mut TangentSource<B::Elem>,
        head_input: &mut [B::Elem],
    ) -> Result<()> {
        let (width, planes) = (self.spec().head_width(), 1 + pass.tangents);
        let examples = self.limits().count(pass.input)?;
        expect("head inputs", planes * examples * width, head_input.len())?;
        self.run(pass, tangents, |this, c, g| {
            let len = g.examples * width;
            if g.examples == examples {
                return this.backend.read(&this.head_input, 0, head_input);
            }
            for plane in 0..planes {
                let to = (plane * examples + c * this.chunk) * width;
                this.backend.read(&this.head_input, plane * len, &mut head_input[to..][..len])?;
            }
            Ok(())
        })
    }

    /// Dual pass, and the cross entropy of `head` on `labels` `[B]`: into `judged`, which is cleared first. Errors: as
    /// [`Encoder::dual`].
    pub fn judge(
        &mut self,
        pass: Pass<B::Elem>,
        tangents: &mut TangentSource<B::Elem>,
        head: &Head,
        labels: &[u32],
        judged: &mut Judged<B::Elem>,
    ) -> Result<()> {
        self.limits().judgeable(pass.input, head, labels)?;
        judged.clear();
        let count = pass.tangents;
        self.run(pass, tangents, |this, c, g| {
            let labels = &labels[c * this.chunk..][..g.examples];
            this.backend.judge(head, labels, count, &this.head_input, &mut this.work, judged)
        })
    }

    /// A pass; `each` finds the head inputs of a chunk, its number and rows given, in `head_input`.
    fn run(
        &mut self,
        pass: Pass<B::Elem>,
        tangents: &mut TangentSource<B::Elem>,
        mut each: impl FnMut(&mut Self, usize, &Geometry) -> Result<()>,
    ) -> Result<()> {
        let examples = self.limits().examples(&pass)?;
        let chunks = self.chunks(self.layout(&pass), examples, pass.tangents);
        let first = self.begin(&chunks, pass.input)?;
        let range = first..self.spec().depth;
        let normed = self.run_blocks(&chunks, range, pass.prompts, tangents, false)?;
        for c in 0..chunks.count {
            let g = chunks.of(c);
            self.pool(g, c, normed)?;
            each(self, c, g)?;
        }
        Ok(())
    }

    /// Forward pass without tangents: head inputs `[B, D]`.
    pub fn forward(&mut self, input: Input<B::Elem>, prompts: &[B::Elem], head_input: &mut [B::Elem]) -> Result<()> {
        self.dual(Pass { input, prompts, tangents: 0 }, &mut |_, _| Ok(()), head_input)
    }

    /// The placement in force.
    fn layout(&self, pass: &Pass<B::Elem>) -> PromptLayout {
        if pass.prompts.is_empty() { PromptLayout::NONE } else { self.prompts }
    }

    /// How the examples of a pass go through the blocks.
    fn chunks(&mut self, layout: PromptLayout, examples: usize, tangents: usize) -> Chunks {
        let count = examples.div_ceil(self.chunk);
        let last = examples - (count - 1) * self.chunk;
        let whole = self.geometry(layout, examples.min(self.chunk), tangents);
        Chunks { whole, last: self.geometry(layout, last, tangents), count }
    }

    fn geometry(&mut self, layout: PromptLayout, examples: usize, tangents: usize) -> Arc<Geometry> {
        let wanted = (layout, examples, tangents);
        if let Some(known) = self.geometries.iter().find(|g| (g.layout, g.examples, g.tangents) == wanted) {
            return known.clone();
        }
        let geometry = Arc::new(Geometry::new(self.spec(), layout, examples, tangents));
        self.geometries.push(geometry.clone());
        geometry
    }

    /// The final norms and pooling of chunk `c`: its head inputs. `normed`: see [`Encoder::run_blocks`].
    fn pool(&mut self, g: &Geometry, c: usize, normed: bool) -> Result<()> {
        let (backend, weights) = (&*self.backend, &*self.weights);
        let width = weights.spec.width;
        let Some(last) = g.blocks.last() else { return Ok(()) };
        match &weights.norm {
            _ if normed => {}
            Some(norm) => backend.norm(&last.out, norm, &self.x[c], &mut self.y)?,
            None => backend.gather(&last.out, width, &self.x[c], None, &mut self.y)?,
        }
        match &weights.fc_norm {
            None => backend.pool(&last.out, width, &g.groups, &self.y, &mut self.head_input),
            Some(norm) => {
                backend.pool(&last.out, width, &g.groups, &self.y, &mut self.pooled)?;
                backend.norm(&g.pooled, norm, &self.pooled, &mut self.head_input)
            }
        }
    }

    /// A set's values and tangents, for all examples: into `staging`.
    fn draw(
        &mut self,
        chunks: &Chunks,
        set: usize,
        prompts: &[B::Elem],
        tangents: &mut TangentSource<B::Elem>,
    ) -> Result<()> {
        let Geometry { layout, tangents: count, .. } = *chunks.whole;
        let (len, examples) = (layout.prompts * self.weights.spec.width, chunks.examples());
        let values = &prompts[set * len..][..len];
        let (primal, rest) = self.staging.split_at_mut(examples * len);
        primal.chunks_exact_mut(len).for_each(|to| to.copy_from_slice(values));
        if count > 0 { tangents(set, &mut rest[..count * examples * len]) } else { Ok(()) }
    }

    /// Writes what was drawn into the prompt rows of chunk `c`, and its tangents into planes 1..K.
    fn place_prompts(&mut self, chunks: &Chunks, c: usize, set: usize) -> Result<()> {
        let g = chunks.of(c);
        let (width, planes) = (self.weights.spec.width, 1 + g.tangents);
        let len = g.layout.prompts * width;
        if g.tangents > 0 && set == 0 {
            let plane = g.examples * g.tokens * width;
            self.backend.zero(&mut self.x[c], plane..planes * plane)?;
        }
        if chunks.count == 1 {
            self.backend.write(&mut self.y, 0, &self.staging[..planes * g.examples * len])?;
        } else {
            for plane in 0..planes {
                let from = (plane * chunks.examples() + c * self.chunk) * len;
                let values = &self.staging[from..][..g.examples * len];
                self.backend.write(&mut self.y, plane * g.examples * len, values)?;
            }
        }
        self.backend.scatter(&g.prompts, width, &self.y, &mut self.x[c])
    }

    /// Whether `norm` runs before pooling.
    fn norm_before_pool(&self) -> bool {
        matches!(self.spec().final_norm, FinalNorm::BeforePool | FinalNorm::Both)
    }
}
