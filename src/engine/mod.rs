//! What the tuner needs from a model on a device, and the native engine that provides it.

mod native;
#[cfg(feature = "ort")]
pub mod ort;

pub use native::{Native, cpu};

use crate::Result;
use crate::backend::{Backend, Precision};
use crate::encoder::{Cotangents, HeadGradient, Input, Pass, TangentSource, TokenSink};
use crate::guess::{Directions, GuessKind, Guessing};
use crate::model::{Head, ModelSpec, PromptLayout};
use crate::ops::loss::Judged;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A backend that [`Native`] runs engines on.
pub trait NativeBackend:
    Backend<Elem = f32, Buffer: Send, Matrix: Send + Sync, Vector: Send + Sync> + Send + Sync + 'static
{
}

impl<B> NativeBackend for B where
    B: Backend<Elem = f32, Buffer: Send, Matrix: Send + Sync, Vector: Send + Sync> + Send + Sync + 'static
{
}

/// A model's weights on a device, from which engines with different prompt placements are made.
pub trait Loaded: Send + Sync {
    /// An engine for passes of up to `examples` examples and `tangents` tangents, with room for [`Engine::directions`] of this kind.
    /// Errors: the placement does not fit the model, memory is short, or the device's own.
    fn make(
        &self,
        layout: PromptLayout,
        examples: usize,
        tangents: usize,
        guess: GuessKind,
    ) -> Result<Box<dyn Engine + Send>>;

    /// What linear layers multiply.
    fn precision(&self) -> Precision;

    /// Stands for all that decides the last bits of a pass: instruction set, device, library.
    fn arithmetic(&self) -> String;
}

/// Runs one model with one prompt placement. All host tensors are f32, row-major.
pub trait Engine {
    /// What the model looks like.
    fn spec(&self) -> &ModelSpec;

    /// Prompt placement.
    fn layout(&self) -> PromptLayout;

    /// Examples of the largest pass.
    fn most_examples(&self) -> usize;

    /// Tangents of the largest pass.
    fn most_tangents(&self) -> usize;

    /// Dual pass: head inputs `[1+K, B, D]`, plane 0 primal; empty prompts run the frozen model. Errors: shapes that do
    /// not fit, or the device's own.
    fn dual(&mut self, pass: Pass<f32>, tangents: &mut TangentSource<f32>, head_input: &mut [f32]) -> Result<()>;

    /// Dual pass, and the cross entropy of `head` on `labels` `[B]`: into `judged`, which is cleared first. Errors: as
    /// [`Engine::dual`].
    fn judge(
        &mut self,
        pass: Pass<f32>,
        tangents: &mut TangentSource<f32>,
        head: &Head,
        labels: &[u32],
        judged: &mut Judged<f32>,
    ) -> Result<()>;

    /// Exact gradient of each example's own loss to its own prompt copy, `[B, S, p, d]`. Errors: as [`Engine::dual`].
    fn gradient(
        &mut self,
        input: Input<f32>,
        prompts: &[f32],
        head_gradient: &mut HeadGradient<f32>,
        grads: &mut [f32],
    ) -> Result<()>;

    /// What block ℓ reads of `images` `[B, c, H, W]`, prompts left out: `out` `[B, T−p, d]`, for [`Input::Prefix`]. Errors: ℓ is 0,
    /// or as [`Engine::dual`].
    fn prefix(&mut self, images: &[f32], out: &mut [f32]) -> Result<()>;

    /// Gives `each` the tokens that every prompt set joins, in order; `host` `[B, T, d]` is overwritten. Errors: as
    /// [`Engine::dual`].
    fn tokens(&mut self, input: Input<f32>, prompts: &[f32], host: &mut [f32], each: &mut TokenSink<f32>)
    -> Result<()>;

    /// Sends noise back from the outputs of the `blocks` blocks below every set to the set, `tangents` times. Errors: as
    /// [`Engine::dual`].
    fn pullback(
        &mut self,
        input: Input<f32>,
        prompts: &[f32],
        blocks: usize,
        tangents: usize,
        cotangents: &mut dyn Cotangents<f32>,
    ) -> Result<()>;

    /// Where the directions of a guess come from; `None` for the exact gradient and the baseline, which have none. Errors: the
    /// engine was not made with room for it.
    fn directions(&self, guessing: &Guessing) -> Result<Option<Directions>>;

    /// From now on a pass that finds `flag` set stops at the next block with [`Error::Interrupted`](crate::Error::Interrupted).
    fn set_cancel(&mut self, flag: Arc<AtomicBool>);

    /// Forward pass without tangents: head inputs `[B, D]`.
    fn forward(&mut self, input: Input<f32>, prompts: &[f32], head_input: &mut [f32]) -> Result<()> {
        self.dual(Pass { input, prompts, tangents: 0 }, &mut |_, _| Ok(()), head_input)
    }
}
