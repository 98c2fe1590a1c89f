//! An encoder with a head and a loss on top: everything a golden case records, computed in one place.

use crate::Result;
use crate::backend::Backend;
use crate::encoder::{Encoder, Input, Pass, TangentSource};
use crate::engine::Native;
use crate::model::{Head, ModelSpec, Pooling, PromptLayout};
use crate::ops::{head, loss};
use crate::weights::Element;
use num_traits::Zero;

/// Inputs, all exactly representable in f32.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// `[B, c, H, W]`.
    pub images: Vec<f32>,
    /// `[S, p, d]`.
    pub prompts: Vec<f64>,
    /// `[B, K, S, p, d]`.
    pub tangents: Vec<f32>,
    /// `[B]`.
    pub labels: Vec<usize>,
    /// K.
    pub count: usize,
}

/// What a head makes of a dual pass; all f64, exact values of the backend's own type.
pub struct Results {
    /// `[B, C]`.
    pub logits: Vec<f64>,
    /// `[B]`.
    pub losses: Vec<f64>,
    /// `[B, K]`.
    pub jvps: Vec<f64>,
}

pub struct Probe<B: Backend> {
    encoder: Encoder<B>,
    inputs: Inputs,
    images: Vec<B::Elem>,
    prompts: Vec<B::Elem>,
}

impl<B: Backend> Probe<B> {
    pub fn new(native: &Native<B>, layout: PromptLayout, inputs: Inputs) -> Result<Self> {
        Ok(Probe {
            encoder: native.engine(layout, inputs.labels.len(), inputs.count)?,
            images: inputs.images.iter().map(|&v| B::Elem::from_f32(v)).collect(),
            prompts: inputs.prompts.iter().map(|&v| B::Elem::from_f64(v)).collect(),
            inputs,
        })
    }

    fn spec(&self) -> &ModelSpec {
        self.encoder.spec()
    }

    /// Head inputs `[1+K, B, D]` that `dual` computes.
    pub fn head_inputs(
        &mut self,
        dual: impl FnOnce(&mut Encoder<B>, Pass<B::Elem>, &mut TangentSource<B::Elem>, &mut [B::Elem]) -> Result<()>,
    ) -> Result<Vec<B::Elem>> {
        let (examples, k) = (self.inputs.labels.len(), self.inputs.count);
        let mut out = vec![B::Elem::zero(); (1 + k) * examples * self.spec().head_width()];
        let set_len = self.encoder.prompts().prompts * self.spec().width;
        let sets = self.encoder.prompts().sets(self.spec().depth);
        let tangents = &self.inputs.tangents;
        let mut source = |set: usize, to: &mut [B::Elem]| {
            for (i, row) in to.chunks_exact_mut(set_len).enumerate() {
                let (k_index, b) = (i / examples, i % examples);
                let from = &tangents[((b * k + k_index) * sets + set) * set_len..][..set_len];
                row.iter_mut().zip(from).for_each(|(to, &v)| *to = B::Elem::from_f32(v));
            }
            Ok(())
        };
        let pass = Pass { input: Input::Images(&self.images), prompts: &self.prompts, tangents: k };
        dual(&mut self.encoder, pass, &mut source, &mut out)?;
        Ok(out)
    }

    /// Pooled features `[B, d]` of head inputs.
    pub fn features(&self, head_inputs: &[B::Elem]) -> Vec<f64> {
        let (width, d) = (self.spec().head_width(), self.spec().width);
        let rows = head_inputs.chunks_exact(width).take(self.inputs.labels.len());
        rows.flat_map(|row| {
            (0..d).map(move |i| match self.spec().pooling {
                Pooling::ClsAndDistillation => 0.5 * (f64(row[i]) + f64(row[d + i])),
                _ => f64(row[i]),
            })
        })
        .collect()
    }

    /// Logits, losses and derivatives of head inputs under `classifier`. `bias` `[C]` (or nothing) is added to the
    /// logits: what rounding the classifier's own bias to f32 left out.
    pub fn judge(&self, classifier: &Head, bias: &[f64], head_inputs: &[B::Elem]) -> Results {
        let (examples, k, classes) = (self.inputs.labels.len(), self.inputs.count, classifier.classes());
        let mut z = vec![B::Elem::zero(); (1 + k) * examples * classes];
        head::dual(classifier, examples, 1 + k, head_inputs, &mut z, &mut Vec::new());
        add_bias(&mut z[..examples * classes], bias);
        let mut slope = vec![B::Elem::zero(); classes];
        let mut results = Results { logits: to_f64(&z[..examples * classes]), losses: Vec::new(), jvps: Vec::new() };
        for (b, &label) in self.inputs.labels.iter().enumerate() {
            results.losses.push(f64(loss::cross_entropy(&z[b * classes..][..classes], label, &mut slope)));
            for plane in 1..=k {
                let tangent = &z[(plane * examples + b) * classes..][..classes];
                results.jvps.push(f64(crate::ops::dot(&slope, tangent)));
            }
        }
        results
    }

    /// Exact gradient of each example's loss to its prompts, `[B, S, p, d]`.
    pub fn gradients(&mut self, classifier: &Head, bias: &[f64]) -> Result<Vec<f64>> {
        let width = self.spec().head_width();
        let mut grads = vec![B::Elem::zero(); self.inputs.labels.len() * self.prompts.len()];
        let labels = &self.inputs.labels;
        let mut source = |f: &[B::Elem], df: &mut [B::Elem]| {
            let mut z = vec![B::Elem::zero(); labels.len() * classifier.classes()];
            let mut slope = vec![B::Elem::zero(); classifier.classes()];
            head::dual(classifier, labels.len(), 1, f, &mut z, &mut Vec::new());
            add_bias(&mut z, bias);
            for (b, &label) in labels.iter().enumerate() {
                loss::cross_entropy(&z[b * slope.len()..][..slope.len()], label, &mut slope);
                head::vjp(classifier, &f[b * width..][..width], &slope, &mut df[b * width..][..width]);
            }
            Ok(())
        };
        self.encoder.gradient(Input::Images(&self.images), &self.prompts, &mut source, &mut grads)?;
        Ok(to_f64(&grads))
    }

    /// Block 0's VJP from `cotangent` `[B, T, d]` to the prompt rows, `[B, p, d]`.
    pub fn block0_vjp(&mut self, cotangent: &[f64]) -> Result<Vec<f64>> {
        let mut values: Vec<B::Elem> = cotangent.iter().map(|&v| B::Elem::from_f64(v)).collect();
        self.encoder.block_vjp(&self.images, &self.prompts, 0, &mut values)?;
        let (start, p, d) = (self.spec().prompt_start(), self.encoder.prompts().prompts, self.spec().width);
        let example = values.len() / self.inputs.labels.len().max(1);
        Ok(values.chunks_exact(example).flat_map(|x| to_f64(&x[start * d..][..p * d])).collect())
    }
}

fn add_bias<T: crate::ops::Real>(z: &mut [T], bias: &[f64]) {
    if !bias.is_empty() {
        z.chunks_mut(bias.len()).for_each(|row| row.iter_mut().zip(bias).for_each(|(z, &b)| *z += T::from_f64(b)));
    }
}

fn f64<T: crate::ops::Real>(v: T) -> f64 {
    v.f64()
}

fn to_f64<T: crate::ops::Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|&v| v.f64()).collect()
}
