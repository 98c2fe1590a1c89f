//! The native engine: this crate's encoder over one of its backends.

use super::{Engine, Loaded, NativeBackend};
use crate::Result;
use crate::backend::{Backend, Precision};
use crate::cpu::{CpuBackend, CpuOptions};
use crate::encoder::{Cotangents, Encoder, HeadGradient, Input, Pass, TangentSource, TokenSink, Weights};
use crate::guess::{
    self, Activation, Directional, Directions, GuessKind, Guessing, Norm, SelfSharpening, WeightTranspose,
    weight_transpose,
};
use crate::model::{Head, Model, ModelSpec, PromptLayout};
use crate::ops::loss::Judged;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A model's weights on a backend, from which engines with different prompt placements are made.
pub struct Native<B: Backend> {
    backend: Arc<B>,
    weights: Arc<Weights<B>>,
    /// Examples that go through a block at a time.
    chunk: usize,
}

/// Loads `model` onto the CPU. Errors: tensors cannot be read, memory is short, `FORETUNE_ISA` names an instruction set this
/// CPU lacks, or the CPU has no products in the precision asked for.
pub fn cpu(model: &Model, options: CpuOptions) -> Result<Native<CpuBackend>> {
    Native::load(CpuBackend::new(options)?, model)
}

impl<B: Backend> Native<B> {
    /// Loads `model` onto `backend`.
    pub fn load(backend: B, model: &Model) -> Result<Self> {
        let weights = Arc::new(Weights::load(&backend, model)?);
        Ok(Native { backend: Arc::new(backend), weights, chunk: usize::MAX })
    }

    /// Engines made from now on let at most `chunk` examples of a pass through a block at a time, and all of them before the
    /// next block: weights that do not stay on the device are then brought once a pass. No bit of a result depends on it.
    pub fn by_blocks(self, chunk: usize) -> Self {
        Native { chunk: chunk.max(1), ..self }
    }

    /// The device.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// What the model looks like.
    pub fn spec(&self) -> &ModelSpec {
        self.weights.spec()
    }

    /// What its linear layers multiply.
    pub fn precision(&self) -> Precision {
        self.backend.precision()
    }

    /// An engine for passes of up to `examples` examples and `tangents` tangents, with room for no guess that needs memory.
    /// Errors: the placement does not fit the model, or memory is short.
    pub fn engine(&self, layout: PromptLayout, examples: usize, tangents: usize) -> Result<Encoder<B>> {
        self.engine_with_guess(layout, examples, tangents, GuessKind::None)
    }

    /// As [`Native::engine`], with room for [`Engine::directions`] of this kind: both in memory that is obtained at once.
    pub fn engine_with_guess(
        &self,
        layout: PromptLayout,
        examples: usize,
        tangents: usize,
        guess: GuessKind,
    ) -> Result<Encoder<B>> {
        let guess = guess::needs(guess, self.spec(), layout, examples, tangents);
        let extent = [examples, self.chunk.min(examples), tangents];
        Encoder::new(self.backend.clone(), self.weights.clone(), layout, extent, &guess)
    }
}

impl<B: NativeBackend> Loaded for Native<B> {
    fn make(
        &self,
        layout: PromptLayout,
        examples: usize,
        tangents: usize,
        guess: GuessKind,
    ) -> Result<Box<dyn Engine + Send>> {
        Ok(Box::new(self.engine_with_guess(layout, examples, tangents, guess)?))
    }

    fn precision(&self) -> Precision {
        Native::precision(self)
    }

    fn arithmetic(&self) -> String {
        self.backend.arithmetic()
    }
}

impl<B: NativeBackend> Engine for Encoder<B> {
    fn spec(&self) -> &ModelSpec {
        self.weights().spec()
    }

    fn layout(&self) -> PromptLayout {
        self.prompts()
    }

    fn most_examples(&self) -> usize {
        Encoder::most_examples(self)
    }

    fn most_tangents(&self) -> usize {
        Encoder::most_tangents(self)
    }

    fn dual(&mut self, pass: Pass<f32>, tangents: &mut TangentSource<f32>, head_input: &mut [f32]) -> Result<()> {
        self.backend().clone().enter(|| Encoder::dual(self, pass, tangents, head_input))
    }

    fn judge(
        &mut self,
        pass: Pass<f32>,
        tangents: &mut TangentSource<f32>,
        head: &Head,
        labels: &[u32],
        judged: &mut Judged<f32>,
    ) -> Result<()> {
        self.backend().clone().enter(|| Encoder::judge(self, pass, tangents, head, labels, judged))
    }

    fn gradient(
        &mut self,
        input: Input<f32>,
        prompts: &[f32],
        head_gradient: &mut HeadGradient<f32>,
        grads: &mut [f32],
    ) -> Result<()> {
        self.backend().clone().enter(|| Encoder::gradient(self, input, prompts, head_gradient, grads))
    }

    fn prefix(&mut self, images: &[f32], out: &mut [f32]) -> Result<()> {
        self.backend().clone().enter(|| Encoder::prefix(self, images, out))
    }

    fn set_cancel(&mut self, flag: Arc<AtomicBool>) {
        Encoder::set_cancel(self, flag);
    }

    fn tokens(
        &mut self,
        input: Input<f32>,
        prompts: &[f32],
        host: &mut [f32],
        each: &mut TokenSink<f32>,
    ) -> Result<()> {
        self.backend().clone().enter(|| Encoder::tokens(self, input, prompts, host, each))
    }

    fn pullback(
        &mut self,
        input: Input<f32>,
        prompts: &[f32],
        blocks: usize,
        tangents: usize,
        cotangents: &mut dyn Cotangents<f32>,
    ) -> Result<()> {
        self.backend().clone().enter(|| Encoder::pullback(self, input, prompts, blocks, tangents, cotangents))
    }

    fn directions(&self, guessing: &Guessing) -> Result<Option<Directions>> {
        let isotropic = Activation { width: self.spec().width };
        let layout = self.prompts();
        let transposed = || {
            let (examples, tangents) = (Encoder::most_examples(self), Encoder::most_tangents(self));
            let chunk = weight_transpose::chunk(examples, tangents, layout.prompts);
            let (backend, weights) = (self.backend().clone(), self.weights().clone());
            WeightTranspose::new(backend, weights, layout, guessing, chunk, self.arena())
        };
        Ok(Some(match guessing.kind {
            GuessKind::Activation => Directions::Linear(Box::new(isotropic)),
            GuessKind::Directional => Directions::Linear(Box::new(Directional(isotropic))),
            GuessKind::WeightTranspose | GuessKind::MatchedCosine => Directions::Linear(Box::new(transposed()?)),
            GuessKind::SelfSharpening => Directions::Linear(Box::new(SelfSharpening(transposed()?))),
            GuessKind::Mixing => {
                let blocks = self.weights().blocks.iter().skip(layout.insert_at);
                let norms = blocks.take(layout.sets(self.spec().depth)).map(|block| {
                    Ok(Norm { gamma: self.backend().read_vector(&block.norm1.gamma)?, eps: block.norm1.eps })
                });
                Directions::Mixing(norms.collect::<Result<_>>()?)
            }
            GuessKind::Downstream(blocks) => Directions::Downstream(usize::from(blocks)),
            GuessKind::Backprop | GuessKind::None => return Ok(None),
        }))
    }
}
