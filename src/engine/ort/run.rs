//! The engine: a session for each form of pass, made when the first such pass comes.

use super::OrtOptions;
use super::bound::{Bound, Slot};
use super::tensors::Tensors;
use crate::cpu::CpuBackend;
use crate::encoder::{Cotangents, Encoder, HeadGradient, Input, Limits, Pass, TangentSource, TokenSink, expect};
use crate::engine::{Engine, Native};
use crate::guess::{Directions, GuessKind, Guessing};
use crate::model::{Head, Model, ModelSpec, PromptLayout};
use crate::onnx::{Form, Goal, Port, Size, Tuning};
use crate::ops::loss::{self, Judged};
use crate::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Runs one model with one prompt placement on ONNX Runtime. Made by [`OrtModel`](super::OrtModel).
///
/// The exact gradient and what guesses need of transposed blocks have no forward form; the native engine computes them.
pub struct OrtEngine {
    model: Arc<Model>,
    native: Arc<Native<CpuBackend>>,
    /// For passes of one example only, until there is a call that needs more of it.
    encoder: Encoder<CpuBackend>,
    guess: GuessKind,
    layout: PromptLayout,
    examples: usize,
    tangents: usize,
    options: Arc<OrtOptions>,
    tensors: Arc<Mutex<Tensors>>,
    sessions: Vec<(Form, Bound)>,
    cancel: Arc<AtomicBool>,
}

impl OrtEngine {
    pub(super) fn new(
        made_of: &super::OrtModel,
        layout: PromptLayout,
        [examples, tangents]: [usize; 2],
        guess: GuessKind,
    ) -> Result<Self> {
        let super::OrtModel { model, native, tensors, options, .. } = made_of;
        let weights = guess.transposes_weights() || guess.transposed_blocks(layout, model.spec.depth) > 0;
        let encoder = match weights {
            true => native.engine_with_guess(layout, examples, tangents, guess)?,
            false => native.engine(layout, 1, 0)?,
        };
        Ok(OrtEngine {
            model: model.clone(),
            native: native.clone(),
            encoder,
            guess,
            layout,
            examples,
            tangents,
            options: options.clone(),
            tensors: tensors.clone(),
            sessions: Vec::new(),
            cancel: Arc::default(),
        })
    }

    fn limits(&self) -> Limits<'_> {
        let OrtEngine { layout, examples, tangents, .. } = *self;
        Limits { spec: &self.model.spec, layout, examples, tangents }
    }

    /// The native engine, for passes of any size.
    fn oracle(&mut self) -> Result<&mut Encoder<CpuBackend>> {
        if self.encoder.most_examples() < self.examples || self.encoder.most_tangents() < self.tangents {
            self.encoder = self.native.engine_with_guess(self.layout, self.examples, self.tangents, self.guess)?;
            Encoder::set_cancel(&mut self.encoder, self.cancel.clone());
        }
        Ok(&mut self.encoder)
    }

    fn session(&mut self, form: Form) -> Result<&mut Bound> {
        let at = match self.sessions.iter().position(|(known, _)| *known == form) {
            Some(at) => at,
            None => {
                let graph = Tuning::new(&self.model, self.layout, form)?;
                let mut tensors = self.tensors.lock().unwrap_or_else(PoisonError::into_inner);
                let session = tensors.session(&graph, &self.options)?;
                self.sessions.push((form, Bound::new(session, graph.inputs, graph.outputs)));
                self.sessions.len() - 1
            }
        };
        Ok(&mut self.sessions[at].1)
    }

    /// A pass, once its sizes have been checked: `judge` is the head and the labels of what is to be judged.
    fn run(
        &mut self,
        goal: Goal,
        pass: &Pass<f32>,
        source: &mut TangentSource<f32>,
        judge: Option<(&Head, &[u32])>,
        take: &mut dyn FnMut(Port, &[f32]) -> Result<()>,
    ) -> Result<()> {
        if self.cancel.load(Relaxed) {
            return Err(Error::Interrupted { step: 0 });
        }
        let (images, values) = match pass.input {
            Input::Images(values) => (true, values),
            Input::Prefix(values) => (false, values),
        };
        let size = Size {
            examples: self.limits().count(pass.input)?,
            tangents: pass.tangents,
            classes: judge.map_or(0, |(head, _)| head.classes()),
        };
        let form = Form { images, prompts: !pass.prompts.is_empty(), dual: pass.tangents > 0, goal };
        let len = self.layout.prompts * self.model.spec.width;
        let mut fill = |port, slot: Slot| {
            match (slot, port, judge) {
                (Slot::Labels(to), _, Some((_, labels))) => {
                    to.iter_mut().zip(labels).for_each(|(to, &label)| *to = i64::from(label));
                }
                (Slot::Numbers(to), Port::Images | Port::Prefix, _) => to.copy_from_slice(values),
                (Slot::Numbers(to), Port::Prompts(set), _) => to.copy_from_slice(&pass.prompts[set * len..][..len]),
                (Slot::Numbers(to), Port::Tangents(set), _) => source(set, to)?,
                (Slot::Numbers(to), port, Some((head, _))) => parameter(head, port, to),
                (Slot::Numbers(_) | Slot::Labels(_), _, None) => {}
            }
            Ok(())
        };
        self.session(form)?.run(size, &mut fill, take)
    }
}

/// The values of a head that go in at `port`.
fn parameter(head: &Head, port: Port, to: &mut [f32]) {
    fn copy<'a>(to: &mut [f32], values: impl IntoIterator<Item = &'a f32>) {
        to.iter_mut().zip(values).for_each(|(to, &value)| *to = value);
    }
    match (head, port) {
        (Head::Linear { weight, .. }, Port::HeadWeight) => copy(to, weight),
        (Head::Linear { bias, .. }, Port::HeadBias) => copy(to, bias),
        (Head::Prototype { center, .. }, Port::HeadCenter) => copy(to, center),
        (Head::Prototype { means, .. }, Port::HeadMeans) => copy(to, means),
        (Head::Prototype { tau, .. }, Port::HeadTau) => to.fill(*tau),
        _ => {}
    }
}

impl Engine for OrtEngine {
    fn spec(&self) -> &ModelSpec {
        &self.model.spec
    }

    fn layout(&self) -> PromptLayout {
        self.layout
    }

    fn most_examples(&self) -> usize {
        self.examples
    }

    fn most_tangents(&self) -> usize {
        self.tangents
    }

    fn dual(&mut self, pass: Pass<f32>, tangents: &mut TangentSource<f32>, head_input: &mut [f32]) -> Result<()> {
        let primal = self.limits().examples(&pass)? * self.spec().head_width();
        expect("head inputs", (1 + pass.tangents) * primal, head_input.len())?;
        self.run(Goal::Features, &pass, tangents, None, &mut |port, values| {
            let to = if port == Port::Features { 0 } else { primal };
            head_input[to..][..values.len()].copy_from_slice(values);
            Ok(())
        })
    }

    fn judge(
        &mut self,
        pass: Pass<f32>,
        tangents: &mut TangentSource<f32>,
        head: &Head,
        labels: &[u32],
        judged: &mut Judged<f32>,
    ) -> Result<()> {
        self.limits().examples(&pass)?;
        self.limits().judgeable(pass.input, head, labels)?;
        judged.clear();
        self.run(Goal::Losses(head.into()), &pass, tangents, Some((head, labels)), &mut |port, values| {
            match port {
                Port::Losses => judged.losses.extend_from_slice(values),
                Port::Slopes => judged.slopes.extend_from_slice(values),
                Port::Logits => judged.best.extend(values.chunks_exact(head.classes()).map(|z| loss::top(z) as u32)),
                Port::Features => judged.inputs.iter_mut().for_each(|inputs| inputs.extend_from_slice(values)),
                Port::Derivatives => {
                    // `[K, B]` to `[B, K]`.
                    let examples = labels.len();
                    let of = |b: usize| values[b..].iter().step_by(examples);
                    (0..examples).for_each(|b| judged.derivatives.extend(of(b)));
                }
                _ => {}
            }
            Ok(())
        })
    }

    fn gradient(
        &mut self,
        input: Input<f32>,
        prompts: &[f32],
        head_gradient: &mut HeadGradient<f32>,
        grads: &mut [f32],
    ) -> Result<()> {
        Engine::gradient(self.oracle()?, input, prompts, head_gradient, grads)
    }

    fn prefix(&mut self, images: &[f32], out: &mut [f32]) -> Result<()> {
        let (limits, pass) = (self.limits(), Pass { input: Input::Images(images), prompts: &[], tangents: 0 });
        expect("prefix", limits.count(pass.input)? * limits.input_len(Input::<f32>::Prefix(&[]))?, out.len())?;
        self.run(Goal::Prefix, &pass, &mut |_, _| Ok(()), None, &mut |_, values| {
            out.copy_from_slice(values);
            Ok(())
        })
    }

    fn tokens(
        &mut self,
        input: Input<f32>,
        prompts: &[f32],
        host: &mut [f32],
        each: &mut TokenSink<f32>,
    ) -> Result<()> {
        let pass = Pass { input, prompts, tangents: 0 };
        let len = self.spec().tokens(self.layout.prompts) * self.spec().width;
        expect("tokens", self.limits().examples(&pass)? * len, host.len())?;
        self.run(Goal::Joined, &pass, &mut |_, _| Ok(()), None, &mut |port, values| {
            let Port::Joined(set) = port else { return Ok(()) };
            host.copy_from_slice(values);
            each(set, host)
        })
    }

    fn pullback(
        &mut self,
        input: Input<f32>,
        prompts: &[f32],
        blocks: usize,
        tangents: usize,
        cotangents: &mut dyn Cotangents<f32>,
    ) -> Result<()> {
        Engine::pullback(self.oracle()?, input, prompts, blocks, tangents, cotangents)
    }

    fn directions(&self, guessing: &Guessing) -> Result<Option<Directions>> {
        Engine::directions(&self.encoder, guessing)
    }

    fn set_cancel(&mut self, flag: Arc<AtomicBool>) {
        Engine::set_cancel(&mut self.encoder, flag.clone());
        self.cancel = flag;
    }
}
