//! One step: dual passes over a batch, micro-batch by micro-batch and a few tangents at a time → losses, L̇ and gradients.
//!
//! Everything is kept per example and summed once, in (example, tangent) order, so that neither the micro-batch nor the
//! tangents per pass change a bit. A step needs 8 + 4K bytes per example of its batch; all else depends on the micro-batch.

use super::photos::Batch;
use super::score::top;
use super::{Estimator, GuessKind, Observer, TuneOptions};
use crate::data::Loader;
use crate::encoder::Pass;
use crate::engine::Engine;
use crate::model::Head;
use crate::ops::{dot, head, loss};
use crate::{Error, Result};
use std::ops::Range;

/// What a step starts from.
pub(super) struct StepInputs<'a> {
    /// Complete steps.
    pub step: u64,
    pub options: &'a TuneOptions,
    pub classifier: &'a Head,
    /// Whether the classifier, then linear, is trained too.
    pub trains_head: bool,
    /// `[S, p, d]`.
    pub prompts: &'a [f32],
}

/// Gradients of a step and the buffers they are made in, reused from step to step.
#[derive(Default)]
pub(super) struct Gradients {
    batch: Batch,
    /// Head inputs `[1+K', m, D]`.
    inputs: Vec<f32>,
    logits: Vec<f32>,
    /// ∂L/∂z `[m, C]`.
    slopes: Vec<f32>,
    losses: Vec<f32>,
    /// L̇ `[B, K]`.
    derivatives: Vec<f32>,
    /// Exact gradients of a micro-batch's examples, `[m, S, p, d]`, and their sum over the batch.
    exact: Vec<f32>,
    exact_sum: Vec<f64>,
    prompts: Vec<f32>,
    /// ∂/∂W `[C, D]` then ∂/∂b `[C]` of a linear head.
    head: Vec<f32>,
    /// Of the head.
    scratch: Vec<f32>,
    correct: usize,
}

impl Gradients {
    /// ĝ, or the exact gradient: `[S, p, d]`.
    pub fn prompts(&self) -> &[f32] {
        &self.prompts
    }

    /// Gradient of a trained linear head: W `[C, D]`, then b `[C]`.
    pub fn head(&self) -> &[f32] {
        &self.head
    }

    /// Takes the next batch from `loader`. Errors: a photo cannot be decoded, the engine's own, or
    /// [`Error::Interrupted`] between two micro-batches.
    pub fn run(
        &mut self,
        step: StepInputs,
        engine: &mut dyn Engine,
        mut estimator: Option<&mut Estimator>,
        loader: &mut Loader,
        observer: &dyn Observer,
    ) -> Result<()> {
        let StepInputs { options, classifier, prompts, .. } = step;
        let tangents = if estimator.is_some() { options.tangents } else { 0 };
        self.begin(options.batch, tangents, prompts.len(), step.trains_head.then_some(classifier));
        if let Some(estimator) = &mut estimator {
            estimator.prepare(prompts)?;
        }
        let mut first = 0;
        while first < options.batch {
            if observer.cancelled() {
                return Err(Error::Interrupted { step: step.step });
            }
            let count = engine.most_examples().min(options.batch - first);
            let filled = self.batch.fill(loader, count)?;
            debug_assert_eq!(filled, count, "the stream of requests has no end");
            if options.guess == GuessKind::Backprop {
                self.exact(engine, classifier, prompts)?;
            } else {
                let per_pass = engine.most_tangents().max(1);
                for from in (0..tangents.max(1)).step_by(per_pass) {
                    let range = from..(from + per_pass).min(tangents);
                    self.dual(&step, engine, estimator.as_deref_mut(), first, range)?;
                }
            }
            if step.trains_head {
                self.add_head_gradient(classifier, 1.0 / options.batch as f32);
            }
            first += count;
        }
        match estimator {
            Some(estimator) => estimator.gradient(step.step, tangents, &self.derivatives, &mut self.prompts),
            None => {
                let scale = 1.0 / options.batch as f64;
                self.prompts.iter_mut().zip(&self.exact_sum).for_each(|(g, &sum)| *g = (sum * scale) as f32);
                Ok(())
            }
        }
    }

    fn begin(&mut self, batch: usize, tangents: usize, parameters: usize, trained: Option<&Head>) {
        fn zeros<T: Clone + Default>(values: &mut Vec<T>, len: usize) {
            values.clear();
            values.resize(len, T::default());
        }
        self.losses.clear();
        self.losses.reserve(batch);
        self.correct = 0;
        zeros(&mut self.derivatives, batch * tangents);
        zeros(&mut self.prompts, parameters);
        zeros(&mut self.exact_sum, parameters);
        zeros(&mut self.head, trained.map_or(0, |head| head.classes() * (head.width() + 1)));
    }

    /// Tangents `range` of the micro-batch whose first example is `first` of the batch.
    fn dual(
        &mut self,
        step: &StepInputs,
        engine: &mut dyn Engine,
        mut estimator: Option<&mut Estimator>,
        first: usize,
        range: Range<usize>,
    ) -> Result<()> {
        let count = self.batch.labels.len();
        let examples = first..first + count;
        self.inputs.resize((1 + range.len()) * count * engine.spec().head_width(), 0.0);
        // Without prompts there is nothing to tune in front of the head: the frozen model runs.
        let prompts = if engine.layout().prompts == 0 { &[] } else { step.prompts };
        let pass = Pass { images: &self.batch.images, prompts, tangents: range.len() };
        let mut draw = |set: usize, out: &mut [f32]| match &mut estimator {
            Some(estimator) => estimator.tangents(step.step, set, range.clone(), examples.clone(), out),
            None => Ok(()),
        };
        engine.dual(pass, &mut draw, &mut self.inputs)?;
        self.judge(step.classifier, range.len(), range.start == 0);
        let (classes, most) = (step.classifier.classes(), step.options.tangents);
        for (b, slope) in self.slopes.chunks_exact(classes).enumerate() {
            for k in range.clone() {
                let tangent = &self.logits[((1 + k - range.start) * count + b) * classes..][..classes];
                self.derivatives[(first + b) * most + k] = dot(slope, tangent);
            }
        }
        Ok(())
    }

    /// Exact gradients of the micro-batch.
    fn exact(&mut self, engine: &mut dyn Engine, classifier: &Head, prompts: &[f32]) -> Result<()> {
        let (images, mut exact) = (std::mem::take(&mut self.batch.images), std::mem::take(&mut self.exact));
        exact.resize(self.batch.labels.len() * prompts.len(), 0.0);
        let mut slope = |f: &[f32], df: &mut [f32]| {
            self.inputs.clear();
            self.inputs.extend_from_slice(f);
            self.judge(classifier, 0, true);
            let (width, classes) = (classifier.width(), classifier.classes());
            let slopes = self.slopes.chunks_exact(classes);
            for ((f, df), dz) in f.chunks_exact(width).zip(df.chunks_exact_mut(width)).zip(slopes) {
                head::vjp(classifier, f, dz, df);
            }
            Ok(())
        };
        let done = engine.gradient(&images, prompts, &mut slope, &mut exact);
        for gradient in exact.chunks_exact(prompts.len().max(1)) {
            self.exact_sum.iter_mut().zip(gradient).for_each(|(sum, &g)| *sum += f64::from(g));
        }
        (self.batch.images, self.exact) = (images, exact);
        done
    }

    /// Logits of all planes and slopes ∂L/∂z of the micro-batch; with `count`, also losses and hits.
    fn judge(&mut self, classifier: &Head, tangents: usize, count: bool) {
        let (examples, classes) = (self.batch.labels.len(), classifier.classes());
        self.logits.resize((1 + tangents) * examples * classes, 0.0);
        self.slopes.resize(examples * classes, 0.0);
        head::dual(classifier, examples, 1 + tangents, &self.inputs, &mut self.logits, &mut self.scratch);
        let rows = self.logits.chunks_exact(classes).zip(self.slopes.chunks_exact_mut(classes));
        for ((z, slope), &label) in rows.zip(&self.batch.labels) {
            let loss = loss::cross_entropy(z, label as usize, slope);
            if count {
                self.losses.push(loss);
                self.correct += usize::from(top(z) == label as usize);
            }
        }
    }

    /// Adds the micro-batch's share of a linear head's exact gradient, example by example.
    fn add_head_gradient(&mut self, classifier: &Head, scale: f32) {
        let (classes, width) = (classifier.classes(), classifier.width());
        let (matrix, vector) = self.head.split_at_mut(classes * width);
        for (f, slope) in self.inputs.chunks_exact(width).zip(self.slopes.chunks_exact(classes)) {
            for ((row, bias), &g) in matrix.chunks_exact_mut(width).zip(vector.iter_mut()).zip(slope) {
                let g = g * scale;
                *bias += g;
                row.iter_mut().zip(f).for_each(|(w, &f)| *w += g * f);
            }
        }
    }

    /// Mean loss and accuracy of the batch, or what was not finite.
    pub fn verdict(&self) -> Result<(f64, f64), String> {
        for (what, values) in [
            ("losses", &self.losses),
            ("derivatives", &self.derivatives),
            ("prompt gradient values", &self.prompts),
            ("head gradient values", &self.head),
        ] {
            let bad = values.iter().filter(|v| !v.is_finite()).count();
            if bad > 0 {
                return Err(format!("{bad} of {} {what} are not finite", values.len()));
            }
        }
        let batch = self.losses.len() as f64;
        let loss = self.losses.iter().map(|&l| f64::from(l)).sum::<f64>() / batch;
        Ok((loss, self.correct as f64 / batch))
    }
}
