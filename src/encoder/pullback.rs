//! What guesses that depend on the example ask of the encoder: the tokens that prompts join, and noise sent back from the outputs of
//! the next blocks.

use super::layout::Chunks;
use super::{Encoder, Input, expect};
use crate::Result;
use crate::backend::{Backend, Rows};

/// Receives a prompt set and its block's input tokens `[B, T, d]`, the prompts among them.
pub type TokenSink<'a, T> = dyn FnMut(usize, &[T]) -> Result<()> + Send + 'a;

/// What noise is sent back, and where the result goes.
pub trait Cotangents<T>: Send {
    /// Fills `out` `[B, rows, d]` for tangent `tangent` of set `set`: a value for every element of the rows that are read.
    fn draw(&mut self, set: usize, tangent: usize, out: &mut [T]);
    /// Takes Jᵀ of it: `y` `[B, p, d]`.
    fn take(&mut self, set: usize, tangent: usize, y: &[T]);
}

impl<B: Backend> Encoder<B> {
    /// Gives `each` the tokens that every prompt set joins, in order. `host` `[B, T, d]` is overwritten. Errors: as
    /// [`Encoder::gradient`].
    pub fn tokens(
        &mut self,
        input: Input<B::Elem>,
        prompts: &[B::Elem],
        host: &mut [B::Elem],
        each: &mut TokenSink<B::Elem>,
    ) -> Result<()> {
        let g = self.whole(input, prompts)?;
        let (width, layout) = (self.spec().width, g.layout);
        expect("tokens", g.examples * g.tokens * width, host.len())?;
        let (chunks, rows) = (Chunks::one(&g), Rows::full(g.examples, 0, g.tokens));
        let mut first = self.begin(&chunks, input)?;
        for set in 0..layout.sets(self.spec().depth) {
            let block = layout.insert_at + set;
            if first < block {
                self.go_through(&chunks, first..block, false)?;
                first = block;
            }
            self.draw(&chunks, set, prompts, &mut |_, _| Ok(()))?;
            self.place_prompts(&chunks, 0, set)?;
            self.backend.gather(&rows, width, &self.x[0], None, &mut self.y)?;
            self.backend.read(&self.y, 0, host)?;
            each(set, host)?;
        }
        Ok(())
    }

    /// Sends noise back from the outputs of the `blocks` blocks from where a set enters on (fewer where the encoder ends) to the set,
    /// `tangents` times for every set. One block at a time is recomputed for each. Errors: as [`Encoder::gradient`].
    pub fn pullback(
        &mut self,
        input: Input<B::Elem>,
        prompts: &[B::Elem],
        blocks: usize,
        tangents: usize,
        cotangents: &mut dyn Cotangents<B::Elem>,
    ) -> Result<()> {
        let g = self.whole(input, prompts)?;
        let weights = self.weights.clone();
        let (spec, layout) = (&weights.spec, g.layout);
        let inputs = layout.blocks_below(spec.depth, blocks);
        self.need_tape(inputs)?;
        let chunks = Chunks::one(&g);
        let first = self.begin(&chunks, input)?;
        self.run_blocks(&chunks, first..layout.insert_at + inputs, prompts, &mut |_, _| Ok(()), true)?;
        self.with_tape(|this, tape| {
            for set in 0..layout.sets(spec.depth) {
                let block = layout.insert_at + set;
                let last = (block + blocks).min(spec.depth) - 1;
                let rows = Rows::new(g.examples, 0, g.tokens, g.blocks[last].out.primal().to_vec(), Vec::new());
                for tangent in 0..tangents {
                    this.backend.zero(&mut tape.dx, 0..g.examples * g.tokens * spec.width)?;
                    let noise = &mut tape.host[..rows.len() * spec.width];
                    cotangents.draw(set, tangent, noise);
                    this.backend.write(&mut tape.narrow, 0, noise)?;
                    this.backend.scatter(&rows, spec.width, &tape.narrow, &mut tape.dx)?;
                    for i in (block..=last).rev() {
                        this.go_on()?;
                        this.transpose_block(&g, &weights.blocks[i], i - layout.insert_at, tape)?;
                        if layout.entering(i).is_some() {
                            // The last is the set's own; those before it were replaced.
                            this.take_prompts(&g, tape, |y| {
                                if i == block {
                                    cotangents.take(set, tangent, y);
                                }
                            })?;
                        }
                    }
                }
            }
            Ok(())
        })
    }
}
