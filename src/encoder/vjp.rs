//! The exact gradient to the prompts, one block at a time: block inputs are kept, each block is recomputed and
//! transposed. This is the oracle the guesses are judged by and the engine of downstream guesses; forward-only tuning
//! never calls it, and its memory grows with depth as theirs does not.

use super::layout::{Chunks, Geometry};
use super::{Block, Encoder, Input, Pass, expect};
use crate::backend::{At, Backend, Heads, Needs, Rows, hidden_columns};
use crate::model::{ModelSpec, PromptLayout};
use crate::weights::Element;
use crate::{Error, Result};
use num_traits::Zero;
use std::sync::Arc;

/// Buffers of the VJP.
pub(super) struct Tape<B: Backend> {
    /// Inputs `[B, T, d]` of the blocks from ℓ on.
    inputs: Vec<B::Buffer>,
    /// Gradient to the stream `[B, T, d]`.
    pub(super) dx: B::Buffer,
    /// The block's middle stream, after attention.
    middle: B::Buffer,
    /// q, then k and v; `[B·T, 3d]` in all.
    qkv: B::Buffer,
    /// Gradient to `qkv`, or to fc1's output.
    wide: B::Buffer,
    /// Gradient of d columns.
    pub(super) narrow: B::Buffer,
    /// Gradient of `hidden` columns.
    hidden: B::Buffer,
    pub(super) host: B::Staging,
}

/// Widths of the tape's buffers but for the block inputs.
fn widths(spec: &ModelSpec) -> [usize; 6] {
    let (d, columns) = (spec.width, spec.hidden * hidden_columns(spec.mlp));
    [d, d, 3 * d, columns.max(3 * d), d, spec.hidden]
}

/// What a VJP of `inputs` blocks carves besides, on its first use.
pub fn tape_needs(spec: &ModelSpec, prompts: PromptLayout, inputs: usize, examples: usize) -> Needs {
    let rows = examples * spec.tokens(prompts.prompts);
    let buffers = std::iter::repeat_n(spec.width, inputs).chain(widths(spec)).map(|width| rows * width).collect();
    Needs { buffers, staging: vec![rows * spec.width] }
}

/// ∂L/∂(head input): `(head inputs [B, D], out [B, D])`.
pub type HeadGradient<'a, T> = dyn FnMut(&[T], &mut [T]) -> Result<()> + Send + 'a;

impl<B: Backend> Encoder<B> {
    /// Exact gradient of each example's own loss to its own prompt copy, `grads` `[B, S, p, d]`. `head_gradient` turns head
    /// inputs into their gradient (and may keep losses). Errors: as [`Encoder::dual`].
    pub fn gradient(
        &mut self,
        input: Input<B::Elem>,
        prompts: &[B::Elem],
        head_gradient: &mut HeadGradient<B::Elem>,
        grads: &mut [B::Elem],
    ) -> Result<()> {
        let g = self.whole(input, prompts)?;
        expect("gradients", g.examples * prompts.len(), grads.len())?;
        self.record_forward(&g, input, prompts)?;

        let len = g.examples * self.spec().head_width();
        let mut f = vec![B::Elem::zero(); len];
        let mut df = vec![B::Elem::zero(); len];
        self.backend.read(&self.head_input, 0, &mut f)?;
        head_gradient(&f, &mut df)?;

        self.with_tape(|this, tape| this.transpose(&g, tape, &mut df, grads))
    }

    /// VJP of one block from a cotangent on its output tokens to its input tokens, both `[B, T, d]`. Errors: as
    /// [`Encoder::dual`]; the block must not come before the prompts enter.
    pub fn block_vjp(
        &mut self,
        images: &[B::Elem],
        prompts: &[B::Elem],
        block: usize,
        cotangent: &mut [B::Elem],
    ) -> Result<()> {
        let input = Input::Images(images);
        let g = self.whole(input, prompts)?;
        expect("cotangent", g.examples * g.tokens * self.spec().width, cotangent.len())?;
        self.record_forward(&g, input, prompts)?;
        let weights = self.weights.clone();
        self.with_tape(|this, tape| {
            this.backend.write(&mut tape.dx, 0, cotangent)?;
            let input = block - this.prompts.insert_at;
            this.transpose_block(&g, &weights.blocks[block], input, tape)?;
            this.backend.read(&tape.dx, 0, cotangent)
        })
    }

    /// Gives `f` the tape, which [`Encoder::need_tape`] has made.
    pub(super) fn with_tape(&mut self, f: impl FnOnce(&mut Self, &mut Tape<B>) -> Result<()>) -> Result<()> {
        let mut tape = self.tape.take().expect("made by need_tape");
        let done = f(self, &mut tape);
        self.tape = Some(tape);
        done
    }

    /// Row sets of a pass whose examples all go through a block at once.
    pub(super) fn whole(&mut self, input: Input<B::Elem>, prompts: &[B::Elem]) -> Result<Arc<Geometry>> {
        let pass = Pass { input, prompts, tangents: 0 };
        let examples = self.limits().examples(&pass)?;
        if self.x.len() > 1 {
            let expected = format!("an engine for {} examples, all of which go through a block at once", self.chunk);
            let found = format!("one for {}", self.most_examples);
            return Err(Error::Shape {
                what: "engine of exact gradients and of guesses that depend on the example",
                expected,
                found,
            });
        }
        Ok(self.chunks(self.layout(&pass), examples, 0).whole)
    }

    fn record_forward(&mut self, g: &Arc<Geometry>, input: Input<B::Elem>, prompts: &[B::Elem]) -> Result<()> {
        let depth = self.spec().depth;
        self.need_tape(depth - self.prompts.insert_at)?;
        let chunks = Chunks::one(g);
        let first = self.begin(&chunks, input)?;
        let normed = self.run_blocks(&chunks, first..depth, prompts, &mut |_, _| Ok(()), true)?;
        self.pool(g, 0, normed)
    }

    /// Makes a tape for the inputs of `inputs` blocks from ℓ on, unless there is one. Errors: memory is short.
    pub(super) fn need_tape(&mut self, inputs: usize) -> Result<()> {
        if self.tape.as_ref().is_none_or(|tape| tape.inputs.len() < inputs) {
            self.tape = None;
            self.tape = Some(self.new_tape(inputs)?);
        }
        Ok(())
    }

    fn new_tape(&self, inputs: usize) -> Result<Tape<B>> {
        let spec = self.spec();
        let rows = self.most_examples * spec.tokens(self.prompts.prompts);
        let arena = self.backend.reserve(&tape_needs(spec, self.prompts, inputs, self.most_examples))?;
        let carve = |width| self.backend.carve(&arena, rows * width);
        let [dx, middle, qkv, wide, narrow, hidden] = widths(spec);
        Ok(Tape {
            inputs: (0..inputs).map(|_| carve(spec.width)).collect::<Result<_>>()?,
            dx: carve(dx)?,
            middle: carve(middle)?,
            qkv: carve(qkv)?,
            wide: carve(wide)?,
            narrow: carve(narrow)?,
            hidden: carve(hidden)?,
            host: self.backend.carve_staging(&arena, rows * spec.width)?,
        })
    }

    /// Keeps the stream as block `i` reads it.
    pub(super) fn record(&mut self, g: &Geometry, i: usize) -> Result<()> {
        let rows = Rows::full(g.examples, 0, g.tokens);
        let width = self.weights.spec.width;
        let tape = self.tape.as_mut().expect("made by need_tape");
        self.backend.gather(&rows, width, &self.x[0], None, &mut tape.inputs[i - self.prompts.insert_at])
    }

    /// From the head input's gradient `df` down to the prompts.
    fn transpose(&mut self, g: &Geometry, tape: &mut Tape<B>, df: &mut [B::Elem], grads: &mut [B::Elem]) -> Result<()> {
        let weights = self.weights.clone();
        let d = weights.spec.width;
        self.backend.zero(&mut tape.dx, 0..g.examples * g.tokens * d)?;
        self.transpose_pooling(g, tape, df)?;
        let len = self.prompts.prompts * d;
        let sets = self.prompts.sets(weights.spec.depth);
        for (i, block) in weights.blocks.iter().enumerate().skip(self.prompts.insert_at).rev() {
            self.go_on()?;
            self.transpose_block(g, block, i - self.prompts.insert_at, tape)?;
            let Some(set) = self.prompts.entering(i) else { continue };
            self.take_prompts(g, tape, |gradients| {
                for (b, values) in gradients.chunks_exact(len).enumerate() {
                    grads[(b * sets + set) * len..][..len].copy_from_slice(values);
                }
            })?;
        }
        Ok(())
    }

    /// Gives `each` the gradient `[B, p, d]` of the prompt rows where a set enters, and zeroes it: what the rows held before the set
    /// replaced it does not reach the loss.
    pub(super) fn take_prompts(
        &self,
        g: &Geometry,
        tape: &mut Tape<B>,
        mut each: impl FnMut(&[B::Elem]),
    ) -> Result<()> {
        let width = self.weights.spec.width;
        let rows = Rows::new(g.examples, 0, g.tokens, g.prompts.primal().to_vec(), Vec::new());
        let host = &mut tape.host[..rows.len() * width];
        self.backend.gather(&rows, width, &tape.dx, None, &mut tape.narrow)?;
        self.backend.read(&tape.narrow, 0, host)?;
        each(host);
        host.fill(B::Elem::zero());
        self.backend.write(&mut tape.narrow, 0, host)?;
        self.backend.scatter(&rows, width, &tape.narrow, &mut tape.dx)
    }

    /// Head input's gradient to the last block's output.
    fn transpose_pooling(&mut self, g: &Geometry, tape: &mut Tape<B>, df: &mut [B::Elem]) -> Result<()> {
        let backend = &*self.backend;
        let weights = &*self.weights;
        let d = weights.spec.width;
        if let Some(norm) = &weights.fc_norm {
            let pooled = Rows::new(g.examples, 0, 1, vec![0], Vec::new());
            backend.write(&mut tape.narrow, 0, df)?;
            backend.zero(&mut tape.middle, 0..df.len())?;
            backend.norm_vjp(&pooled, norm, &self.pooled, &tape.narrow, &mut tape.middle)?;
            backend.read(&tape.middle, 0, df)?;
        }
        let Some(last) = g.blocks.last() else { return Ok(()) };
        let rows = Rows::new(g.examples, 0, g.tokens, last.out.primal().to_vec(), Vec::new());
        let host = &mut tape.host[..rows.len() * d];
        host.fill(B::Elem::zero());
        for b in 0..g.examples {
            for (n, group) in g.groups.iter().enumerate() {
                let from = &df[(b * g.groups.len() + n) * d..][..d];
                let share = B::Elem::from_f64(group.len() as f64);
                for i in group.clone() {
                    let to = &mut host[rows.primal_row(b, i) * d..][..d];
                    to.iter_mut().zip(from).for_each(|(to, &g)| *to += g / share);
                }
            }
        }
        backend.write(&mut tape.narrow, 0, host)?;
        match weights.norm.as_ref().filter(|_| self.norm_before_pool()) {
            Some(norm) => backend.norm_vjp(&rows, norm, &self.x[0], &tape.narrow, &mut tape.dx),
            None => backend.scatter(&rows, d, &tape.narrow, &mut tape.dx),
        }
    }

    /// `tape.dx`: gradient to a block's output → to its input. The block is recomputed from its kept input.
    pub(super) fn transpose_block(
        &mut self,
        g: &Geometry,
        block: &Block<B>,
        input: usize,
        tape: &mut Tape<B>,
    ) -> Result<()> {
        let backend = &*self.backend;
        let spec = &self.weights.spec;
        let d = spec.width;
        let columns = spec.hidden * hidden_columns(spec.mlp);
        let heads = Heads { count: spec.heads, dim: spec.head_dim() };
        let rows = Rows::full(g.examples, 0, g.tokens);
        let count = rows.len();
        let (y, work) = (&mut self.y, &mut self.work);
        let Tape { inputs, dx, middle, qkv, wide, narrow, hidden, .. } = tape;
        let x = &inputs[input];

        backend.norm(&rows, &block.norm1, x, y)?;
        backend.linear(count, count, &block.qkv, 0..d, At::start(y, d), qkv, 0)?;
        backend.linear(count, count, &block.qkv, d..3 * d, At::start(y, d), qkv, count * d)?;
        let q = || At::start(&*qkv, d);
        let kv = || At { buffer: &*qkv, offset: count * d, stride: 2 * d };
        backend.attention(heads, &rows, &rows, &rows, q(), kv(), y)?;
        backend.linear(count, count, &block.proj, 0..d, At::start(y, d), work, 0)?;
        backend.gather(&rows, d, x, None, middle)?;
        backend.residual_norm(&rows, block.scale1.as_ref(), &block.norm2, Some(work), middle, y)?;
        backend.linear(count, count, &block.fc1, 0..columns, At::start(y, d), work, 0)?;

        backend.gather(&rows, d, dx, block.scale2.as_ref(), narrow)?;
        backend.linear_vjp(count, &block.fc2, 0..d, At::start(narrow, d), false, hidden, 0)?;
        backend.activation_vjp(count, spec.hidden, spec.mlp, work, hidden, wide)?;
        backend.linear_vjp(count, &block.fc1, 0..columns, At::start(wide, columns), false, narrow, 0)?;
        backend.norm_vjp(&rows, &block.norm2, middle, narrow, dx)?;

        backend.gather(&rows, d, dx, block.scale1.as_ref(), narrow)?;
        backend.linear_vjp(count, &block.proj, 0..d, At::start(narrow, d), false, y, 0)?;
        backend.attention_vjp(heads, &rows, q(), kv(), y, wide)?;
        backend.linear_vjp(count, &block.qkv, 0..d, At::start(wide, d), false, narrow, 0)?;
        let dkv = At { buffer: &*wide, offset: count * d, stride: 2 * d };
        backend.linear_vjp(count, &block.qkv, d..3 * d, dkv, true, narrow, 0)?;
        backend.norm_vjp(&rows, &block.norm1, x, narrow, dx)
    }
}
