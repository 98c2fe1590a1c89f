//! The engine: one session for what comes ahead of the prompts, one for what follows, one for its dual.

use super::tensors::Tensors;
use super::{OrtOptions, failed};
use crate::cpu::CpuBackend;
use crate::encoder::{Cotangents, Encoder, HeadGradient, Input, Pass, TangentSource, TokenSink};
use crate::engine::Engine;
use crate::guess::{Directions, GuessKind, Guessing};
use crate::model::{Head, Model, ModelSpec, PromptLayout};
use crate::onnx::{Tuning, name};
use crate::ops::loss::{self, Judged};
use crate::{Error, Result};
use ort::memory::MemoryInfo;
use ort::session::Session;
use ort::value::TensorRef;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Runs one model with one prompt placement on ONNX Runtime. Made by [`OrtModel`](super::OrtModel).
///
/// The exact gradient and what guesses need of transposed blocks have no forward form; the native engine computes them.
pub struct OrtEngine {
    native: Encoder<CpuBackend>,
    /// Images to what block ℓ reads.
    prefix: Session,
    /// From there on without prompts, with them, and with their tangents.
    frozen: Session,
    forward: Option<Session>,
    dual: Option<Session>,
    /// The tokens that prompts join, for the guess that asks for them.
    joined: Option<Session>,
    /// `[B, T − p, d]` of a pass that begins with images.
    tokens: Vec<f32>,
    /// `[S, K, B, p, d]`.
    tangents: Vec<f32>,
    /// Head inputs `[1+K, B, D]` of a pass that is judged.
    head_input: Vec<f32>,
    cancel: Arc<AtomicBool>,
}

/// A tensor on its way into a session: name, shape and values.
type Given<'a> = (String, Vec<usize>, &'a [f32]);
/// One on its way out; its shape is checked.
type Taken<'a> = (String, Vec<usize>, &'a mut [f32]);

impl OrtEngine {
    pub(super) fn new(
        model: &Model,
        native: Encoder<CpuBackend>,
        guess: GuessKind,
        tensors: &mut Tensors,
        options: &OrtOptions,
    ) -> Result<Self> {
        let (layout, tangents) = (native.prompts(), native.most_tangents());
        let at = layout.insert_at;
        let mut session = |graph: Tuning| tensors.session(&graph, options);
        let prompts = layout.prompts > 0;
        Ok(OrtEngine {
            prefix: session(Tuning::prefix(model, at)?)?,
            frozen: session(Tuning::body(model, PromptLayout::NONE, at, false)?)?,
            forward: prompts.then(|| session(Tuning::body(model, layout, at, false)?)).transpose()?,
            dual: (prompts && tangents > 0).then(|| session(Tuning::body(model, layout, at, true)?)).transpose()?,
            joined: (guess == GuessKind::Mixing).then(|| session(Tuning::joined(model, layout)?)).transpose()?,
            tokens: Vec::new(),
            tangents: Vec::new(),
            head_input: Vec::new(),
            cancel: Arc::default(),
            native,
        })
    }

    /// What block ℓ reads of `input`, in `tokens` where it is made from images.
    fn begin(&mut self, input: Input<f32>, examples: usize) -> Result<()> {
        let Input::Images(images) = input else { return Ok(()) };
        let spec = self.native.spec();
        let shape = vec![examples, spec.tokens(0), spec.width];
        let [h, w] = spec.image;
        let given = (name::IMAGES.to_owned(), vec![examples, spec.channels, h, w], images);
        self.tokens.resize(shape.iter().product(), 0.0);
        go_on(&self.cancel)?;
        run(&mut self.prefix, &[given], &mut [(name::TOKENS.to_owned(), shape, &mut self.tokens)])
    }

    /// Head inputs `[1+K, B, D]` of a pass.
    fn pass(&mut self, pass: &Pass<f32>, source: &mut TangentSource<f32>, head_input: &mut [f32]) -> Result<()> {
        let (examples, planes) = (self.native.examples(pass)?, pass.tangents);
        let (depth, width, columns) = (self.spec().depth, self.spec().width, self.spec().head_width());
        let layout = self.native.prompts();
        self.begin(pass.input, examples)?;
        let len = layout.prompts * width;
        let sets = if pass.prompts.is_empty() { 0 } else { layout.sets(depth) };
        let set_len = planes * examples * len;
        self.tangents.resize(sets * set_len, 0.0);
        if planes > 0 {
            for (set, out) in self.tangents.chunks_exact_mut(set_len).enumerate() {
                source(set, out)?;
            }
        }
        let spec = self.native.spec();
        let tokens = match pass.input {
            Input::Images(_) => &self.tokens,
            Input::Prefix(tokens) => tokens,
        };
        let mut given: Vec<Given> = vec![(name::TOKENS.to_owned(), vec![examples, spec.tokens(0), width], tokens)];
        for set in 0..sets {
            given.push((name::prompts(set), vec![1, layout.prompts, width], &pass.prompts[set * len..][..len]));
            if planes > 0 {
                let values = &self.tangents[set * set_len..][..set_len];
                given.push((name::tangents(set), vec![planes, examples, layout.prompts, width], values));
            }
        }
        let (primal, rest) = head_input.split_at_mut(examples * columns);
        let mut taken: Vec<Taken> = vec![(name::HEAD_INPUT.to_owned(), vec![examples, columns], primal)];
        let session = match (sets, planes) {
            (0, _) => Some(&mut self.frozen),
            (_, 0) => self.forward.as_mut(),
            _ => {
                taken.push((name::HEAD_TANGENTS.to_owned(), vec![planes, examples, columns], rest));
                self.dual.as_mut()
            }
        };
        let session = session.ok_or_else(|| Error::OnnxRuntime("this engine was made without prompts".into()))?;
        go_on(&self.cancel)?;
        run(session, &given, &mut taken)
    }
}

/// Errors: the pass has been cancelled.
fn go_on(cancel: &AtomicBool) -> Result<()> {
    if cancel.load(Relaxed) { Err(Error::Interrupted { step: 0 }) } else { Ok(()) }
}

/// Runs a session: inputs are read where they lie.
fn run(session: &mut Session, given: &[Given], taken: &mut [Taken]) -> Result<()> {
    let failed = |error: ort::Error| failed("run the model", &error);
    let mut binding = session.create_binding().map_err(failed)?;
    let mut inputs = Vec::with_capacity(given.len());
    for (name, shape, values) in given {
        let tensor = TensorRef::from_array_view((shape.clone(), *values)).map_err(failed)?;
        binding.bind_input(name.as_str(), &tensor).map_err(failed)?;
        // Until the run is over.
        inputs.push(tensor);
    }
    for (name, ..) in taken.iter() {
        binding.bind_output_to_device(name.as_str(), &MemoryInfo::default()).map_err(failed)?;
    }
    let outputs = session.run_binding(&binding).map_err(failed)?;
    for (name, shape, to) in taken {
        let value = outputs.get(name.as_str());
        let value = value.ok_or_else(|| Error::OnnxRuntime(format!("it returned no `{name}`")))?;
        let (found, values) = value.try_extract_tensor::<f32>().map_err(failed)?;
        let fits = found.len() == shape.len() && found.iter().zip(&*shape).all(|(&found, &n)| found == n as i64);
        if !fits || values.len() != to.len() {
            return Err(Error::OnnxRuntime(format!("it returned `{name}` of shape {found:?}, expected {shape:?}")));
        }
        to.copy_from_slice(values);
    }
    Ok(())
}

impl Engine for OrtEngine {
    fn spec(&self) -> &ModelSpec {
        self.native.spec()
    }

    fn layout(&self) -> PromptLayout {
        self.native.prompts()
    }

    fn most_examples(&self) -> usize {
        self.native.most_examples()
    }

    fn most_tangents(&self) -> usize {
        self.native.most_tangents()
    }

    fn dual(&mut self, pass: Pass<f32>, tangents: &mut TangentSource<f32>, head_input: &mut [f32]) -> Result<()> {
        let expected = (1 + pass.tangents) * self.native.count(pass.input)? * self.spec().head_width();
        if head_input.len() != expected {
            let found = head_input.len().to_string();
            return Err(Error::Shape { what: "head inputs", expected: expected.to_string(), found });
        }
        self.pass(&pass, tangents, head_input)
    }

    fn judge(
        &mut self,
        pass: Pass<f32>,
        tangents: &mut TangentSource<f32>,
        head: &Head,
        labels: &[u32],
        judged: &mut Judged<f32>,
    ) -> Result<()> {
        self.native.judgeable(pass.input, head, labels)?;
        judged.clear();
        let mut head_input = std::mem::take(&mut self.head_input);
        head_input.resize((1 + pass.tangents) * labels.len() * head.width(), 0.0);
        let done = self.pass(&pass, tangents, &mut head_input);
        if done.is_ok() {
            loss::judge(head, labels, pass.tangents, &head_input, judged);
        }
        self.head_input = head_input;
        done
    }

    fn gradient(
        &mut self,
        input: Input<f32>,
        prompts: &[f32],
        head_gradient: &mut HeadGradient<f32>,
        grads: &mut [f32],
    ) -> Result<()> {
        Engine::gradient(&mut self.native, input, prompts, head_gradient, grads)
    }

    fn prefix(&mut self, images: &[f32], out: &mut [f32]) -> Result<()> {
        let spec = self.native.spec();
        let examples = self.native.count(Input::Images(images))?;
        if self.native.prompts().insert_at == 0 || out.len() != examples * spec.prefix_len() {
            // Its error says what is wrong.
            return Engine::prefix(&mut self.native, images, out);
        }
        let (shape, [h, w]) = (vec![examples, spec.tokens(0), spec.width], spec.image);
        let given = (name::IMAGES.to_owned(), vec![examples, spec.channels, h, w], images);
        go_on(&self.cancel)?;
        run(&mut self.prefix, &[given], &mut [(name::TOKENS.to_owned(), shape, out)])
    }

    fn tokens(
        &mut self,
        input: Input<f32>,
        prompts: &[f32],
        host: &mut [f32],
        each: &mut TokenSink<f32>,
    ) -> Result<()> {
        let examples = self.native.examples(&Pass { input, prompts, tangents: 0 })?;
        let Some(mut session) = self.joined.take() else {
            return Engine::tokens(&mut self.native, input, prompts, host, each);
        };
        let (layout, spec) = (self.native.prompts(), self.native.spec().clone());
        let (len, sets) = (layout.prompts * spec.width, layout.sets(spec.depth));
        let begun = self.begin(input, examples);
        let tokens = match input {
            Input::Images(_) => &self.tokens,
            Input::Prefix(tokens) => tokens,
        };
        let mut given: Vec<Given> = vec![(name::TOKENS.to_owned(), vec![examples, spec.tokens(0), spec.width], tokens)];
        for set in 0..sets {
            given.push((name::prompts(set), vec![1, layout.prompts, spec.width], &prompts[set * len..][..len]));
        }
        let shape = vec![examples, spec.tokens(layout.prompts), spec.width];
        let mut joined = vec![0.0; sets * host.len()];
        let taken = joined.chunks_exact_mut(host.len()).enumerate();
        let mut taken: Vec<Taken> = taken.map(|(set, out)| (name::joined(set), shape.clone(), out)).collect();
        let done = begun.and_then(|()| run(&mut session, &given, &mut taken));
        self.joined = Some(session);
        done?;
        joined.chunks_exact(host.len()).enumerate().try_for_each(|(set, joined)| {
            host.copy_from_slice(joined);
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
        Engine::pullback(&mut self.native, input, prompts, blocks, tangents, cotangents)
    }

    fn directions(&self, guessing: &Guessing) -> Result<Option<Directions>> {
        Engine::directions(&self.native, guessing)
    }

    fn set_cancel(&mut self, flag: Arc<AtomicBool>) {
        Engine::set_cancel(&mut self.native, flag.clone());
        self.cancel = flag;
    }
}
