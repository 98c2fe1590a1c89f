//! Guesses of the prompts' gradient direction.
//!
//! A forward-only guess is linear in its noise: y = A_s·n with n ~ N(0, I), drawn for every prompt token of every
//! example and tangent, and an A_s that does not depend on the example. The dual pass needs y; the estimator
//! accumulates ΣL̇·n and applies A_s once per step.

mod activation;
mod directional;
pub(crate) mod weight_transpose;

pub use activation::Activation;
pub use directional::Directional;
pub use weight_transpose::WeightTranspose;

use crate::Result;
use crate::backend::Needs;
use crate::model::{ModelSpec, PromptLayout};
use crate::rng::Draw;
use crate::tune::GuessKind;

/// What the guess of this kind carves, in passes of up to `examples` examples and `tangents` tangents.
pub fn needs(kind: GuessKind, spec: &ModelSpec, layout: PromptLayout, examples: usize, tangents: usize) -> Needs {
    match kind {
        GuessKind::WeightTranspose => {
            let chunk = weight_transpose::chunk(examples, tangents, layout.prompts);
            weight_transpose::needs(spec, layout, chunk)
        }
        GuessKind::Activation | GuessKind::Directional | GuessKind::Backprop | GuessKind::None => Needs::default(),
    }
}

/// A guess that needs nothing but the weights and the prompts.
pub trait Guess: Send {
    /// Noise values m per prompt token of `set`.
    fn noise_width(&self, set: usize) -> usize;

    /// Whether all examples of a batch share example 0's noise.
    fn shared(&self) -> bool {
        false
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
