//! Guesses of the prompts' gradient direction.
//!
//! Most guesses are linear in their noise: y = A_s·n with n ~ N(0, I), drawn for every prompt token of every example and tangent,
//! and an A_s that does not depend on the example. The dual pass needs y; the estimator accumulates ΣL̇·n and applies A_s once per
//! step. Where A_s depends on the example, or an example's directions are changed together, the estimator keeps y instead.

mod activation;
mod directional;
mod kind;
mod matched_cosine;
mod mixing;
mod orthonormal;
mod self_sharpening;
mod spectrum;
pub(crate) mod weight_transpose;

pub use activation::Activation;
pub use directional::Directional;
pub use kind::{GuessKind, Guessing};
pub(crate) use matched_cosine::turn;
pub(crate) use mixing::Mixing;
pub use mixing::Norm;
pub use orthonormal::orthonormalise;
pub(crate) use orthonormal::unit_rms;
pub use self_sharpening::SelfSharpening;
pub use weight_transpose::WeightTranspose;
pub(crate) use weight_transpose::spectrum_bytes;

use crate::Result;
use crate::backend::Needs;
use crate::model::{ModelSpec, PromptLayout};
use crate::rng::{Draw, Stream};

/// What the guess of this kind carves, in passes of up to `examples` examples and `tangents` tangents.
pub fn needs(kind: GuessKind, spec: &ModelSpec, layout: PromptLayout, examples: usize, tangents: usize) -> Needs {
    if !kind.transposes_weights() {
        return Needs::default();
    }
    weight_transpose::needs(spec, layout, weight_transpose::chunk(examples, tangents, layout.prompts))
}

/// Where an example's directions come from.
pub enum Directions {
    /// From noise, the same way for every example.
    Linear(Box<dyn Guess>),
    /// From the example's own tokens, through the norms of the blocks that sets enter.
    Mixing(Vec<Norm>),
    /// From noise on the outputs of so many blocks below a set.
    Downstream(usize),
}

/// A guess that needs nothing but the weights and the prompts.
pub trait Guess: Send {
    /// Noise values m per prompt token of `set`.
    fn noise_width(&self, set: usize) -> usize;

    /// Whether all examples of a batch share example 0's noise.
    fn shared(&self) -> bool {
        false
    }

    /// The noise of one row: N(0, 1) unless a guess says otherwise.
    fn noise(&self, stream: Stream, out: &mut [f32]) {
        stream.normals(out);
    }

    /// Called once per step, before [`Guess::map`], with the prompts `[S, p, d]`.
    fn prepare(&mut self, prompts: &[f32]) -> Result<()>;

    /// y = A_s·n for all of the draw's noise, `[rows, p, d]`, where the guess can make the noise nearer to where it is used. False:
    /// it cannot, and the caller makes it for [`Guess::map`].
    fn draw(&mut self, draw: &Draw, y: &mut [f32]) -> Result<bool> {
        let _ = (draw, y);
        Ok(false)
    }

    /// Σ weights·n over the draw's noise, as [`Backend::noise_sum`](crate::backend::Backend::noise_sum).
    fn sum(&self, draw: &Draw, weights: &[f64], out: &mut [f64]) -> Result<bool> {
        let _ = (draw, weights, out);
        Ok(false)
    }

    /// y = A_s·n row by row: `noise` `[rows, m]` → `y` `[rows, d]`. Row r belongs to prompt r mod p; rows is a multiple of p.
    fn map(&mut self, set: usize, noise: &[f32], y: &mut [f32]) -> Result<()>;
}
