//! `self-sharpening`: y = A_s·u with u uniform in [0, 1), A_s that of `weight-transpose` (arXiv 2312.04709).
//!
//! The noise has a mean, so that all guesses lean the same way: E[yyᵀ] = A_s(I/12 + 11ᵀ/4)A_sᵀ. In the paper, where the weights
//! themselves are tuned, that sharpens their spectrum; here they are frozen, and it shows what the lean alone does.

use super::{Guess, WeightTranspose};
use crate::Result;
use crate::engine::NativeBackend;
use crate::rng::Stream;

/// Uniform noise through the transposed weights.
pub struct SelfSharpening<B: NativeBackend>(pub WeightTranspose<B>);

impl<B: NativeBackend> Guess for SelfSharpening<B> {
    fn noise_width(&self, set: usize) -> usize {
        self.0.noise_width(set)
    }

    fn noise(&self, stream: Stream, out: &mut [f32]) {
        stream.uniforms(out);
    }

    fn prepare(&mut self, prompts: &[f32]) -> Result<()> {
        self.0.prepare(prompts)
    }

    fn map(&mut self, set: usize, noise: &[f32], y: &mut [f32]) -> Result<()> {
        self.0.map(set, noise, y)
    }
}
