//! How a pass begins: with images, or with what the block ahead of which prompts enter reads of them.

use super::Encoder;
use super::layout::{Chunks, Geometry};
use super::limits::expect;
use crate::Result;
use crate::backend::{At, Backend, PatchGrid};

/// What a pass begins with.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a, T> {
    /// Images `[B, c, H, W]`, normalised.
    Images(&'a [T]),
    /// What block ℓ reads of the images, prompts left out, as [`Encoder::prefix`] gives it: `[B, T−p, d]`.
    Prefix(&'a [T]),
}

impl<B: Backend> Encoder<B> {
    /// Values of one image.
    pub fn image_len(&self) -> usize {
        self.spec().image_len()
    }

    /// What block ℓ reads of `images` `[B, c, H, W]`, prompts left out: `out` `[B, T−p, d]`, tokens in the model's order. A pass
    /// over [`Input::Prefix`] of it has the bits of one over the images, with prompts and without. Errors: ℓ is 0, or as
    /// [`Encoder::dual`].
    pub fn prefix(&mut self, images: &[B::Elem], out: &mut [B::Elem]) -> Result<()> {
        let examples = self.limits().count(Input::Images(images))?;
        let len = self.limits().input_len(Input::<B::Elem>::Prefix(&[]))?;
        expect("prefix", examples * len, out.len())?;
        let chunks = self.chunks(self.prompts, examples, 0);
        let first = self.begin(&chunks, Input::Images(images))?;
        self.go_through(&chunks, first..self.prompts.insert_at, false)?;
        let width = self.spec().width;
        for (c, out) in out.chunks_mut(self.chunk * len).enumerate() {
            self.backend.gather(&chunks.of(c).image, width, &self.x[c], None, &mut self.y)?;
            self.backend.read(&self.y, 0, out)?;
        }
        Ok(())
    }

    /// Puts the input where the first block reads it, prompt rows left as they are; that block.
    pub(super) fn begin(&mut self, chunks: &Chunks, input: Input<B::Elem>) -> Result<usize> {
        let most = self.chunk * self.limits().input_len(input)?;
        let (values, first) = match input {
            Input::Images(values) => (values, 0),
            Input::Prefix(values) => (values, self.prompts.insert_at),
        };
        for (c, values) in values.chunks(most).enumerate() {
            self.go_on()?;
            let g = chunks.of(c);
            match input {
                Input::Images(_) => self.embed(g, values, c)?,
                Input::Prefix(_) => {
                    self.backend.write(&mut self.y, 0, values)?;
                    self.backend.scatter(&g.image, self.weights.spec.width, &self.y, &mut self.x[c])?;
                }
            }
        }
        Ok(first)
    }

    /// Images of chunk `c` to the tokens block 0 reads, prompt rows left as they are.
    fn embed(&mut self, g: &Geometry, images: &[B::Elem], c: usize) -> Result<()> {
        let (backend, weights) = (&*self.backend, &*self.weights);
        let spec = &weights.spec;
        let grid = PatchGrid { channels: spec.channels, image: spec.image, patch: spec.patch };
        let rows = g.examples * grid.len();
        backend.patches(grid, g.examples, images, &mut self.work)?;
        let patches = At::start(&self.work, grid.patch_len());
        backend.linear(rows, rows, &weights.patch, 0..spec.width, patches, &mut self.y, 0)?;
        backend.embed(&g.image, grid.len(), spec.width, &self.y, &weights.constant, &mut self.x[c])?;
        if let Some(norm) = &weights.pre_norm {
            backend.norm(&g.image, norm, &self.x[c], &mut self.y)?;
            backend.scatter(&g.image, spec.width, &self.y, &mut self.x[c])?;
        }
        Ok(())
    }
}
