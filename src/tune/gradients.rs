//! One step: dual passes over a batch, micro-batch by micro-batch and a few tangents at a time → losses, L̇ and gradients.
//!
//! Everything is kept per example and summed once, in (example, tangent) order, so that neither the micro-batch nor the
//! tangents per pass change a bit. A step needs 8 + 4K bytes per example of its batch; all else depends on the micro-batch.

use super::exact::Exact;
use super::learner::Feed;
use super::photos::Batch;
use super::{Estimator, Noise, Observer, TuneOptions};
use crate::encoder::Pass;
use crate::engine::Engine;
use crate::model::Head;
use crate::ops::loss::Judged;
use crate::ops::{head, loss};
use crate::{Error, Result};
use std::ops::Range;

/// Steps between measurements of the estimate's noise, which draw the guesses' noise once or twice more.
const MEASURED: u64 = 10;

/// What a step starts from.
pub(super) struct StepInputs<'a> {
    /// Complete steps.
    pub step: u64,
    /// Examples B.
    pub batch: usize,
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
    /// Of the micro-batch.
    judged: Judged<f32>,
    losses: Vec<f32>,
    /// L̇ `[B, K]`.
    derivatives: Vec<f32>,
    exact: Exact,
    noise: Option<Noise>,
    prompts: Vec<f32>,
    /// ∂/∂W `[C, D]` then ∂/∂b `[C]` of a linear head.
    head: Vec<f32>,
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

    /// Takes the next batch from `feed`. Errors: an image cannot be had, the engine's own, or
    /// [`Error::Interrupted`] between two micro-batches.
    pub fn run(
        &mut self,
        step: StepInputs,
        engine: &mut dyn Engine,
        mut estimator: Option<&mut Estimator>,
        feed: &mut dyn Feed,
        observer: &dyn Observer,
    ) -> Result<()> {
        let StepInputs { options, classifier, prompts, batch, .. } = step;
        let tangents = if estimator.is_some() { options.tangents } else { 0 };
        self.begin(batch, tangents, prompts.len(), step.trains_head.then_some(classifier));
        if let Some(estimator) = &mut estimator {
            estimator.prepare(prompts, batch, tangents)?;
        }
        self.exact.begin(prompts.len(), options.clip);
        let mut first = 0;
        while first < batch {
            if observer.cancelled() {
                return Err(Error::Interrupted { step: step.step });
            }
            let count = engine.most_examples().min(batch - first);
            let filled = feed.fill(engine, &mut self.batch, count)?;
            assert_eq!(filled, count, "a batch was promised");
            if let Some(estimator) = &mut estimator {
                let drawn = [0..tangents, first..first + count];
                estimator.draw_for(engine, self.batch.input(), prompts, step.step, drawn)?;
            }
            if options.guess.is_exact() {
                self.exact(&step, engine, estimator.as_deref_mut(), first)?;
            } else {
                let per_pass = engine.most_tangents().max(1);
                for from in (0..tangents.max(1)).step_by(per_pass) {
                    let range = from..(from + per_pass).min(tangents);
                    self.dual(&step, engine, estimator.as_deref_mut(), first, range)?;
                }
            }
            if step.trains_head {
                self.add_head_gradient(classifier, 1.0 / batch as f32);
            }
            first += count;
        }
        self.noise = None;
        match estimator {
            Some(estimator) if options.guess.is_forward_only() => {
                estimator.gradient(step.step, tangents, &self.derivatives, &mut self.prompts)?;
                if step.step.is_multiple_of(MEASURED) {
                    self.noise = estimator.measure(step.step, tangents, &self.derivatives, &self.prompts)?;
                }
            }
            _ => self.exact.finish(options.clip, &mut self.prompts),
        }
        Ok(())
    }

    /// How far the gradient can be trusted, every [`MEASURED`] steps.
    pub fn noise(&self) -> Option<Noise> {
        self.noise
    }

    fn begin(&mut self, batch: usize, tangents: usize, parameters: usize, trained: Option<&Head>) {
        fn zeros<T: Clone + Default>(values: &mut Vec<T>, len: usize) {
            values.clear();
            values.resize(len, T::default());
        }
        self.judged.inputs = trained.map(|_| self.judged.inputs.take().unwrap_or_default());
        self.losses.clear();
        self.losses.reserve(batch);
        self.correct = 0;
        zeros(&mut self.derivatives, batch * tangents);
        zeros(&mut self.prompts, parameters);
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
        // Without prompts there is nothing to tune in front of the head: the frozen model runs.
        let prompts = if engine.layout().prompts == 0 { &[] } else { step.prompts };
        let pass = Pass { input: self.batch.input(), prompts, tangents: range.len() };
        let mut draw = |set: usize, out: &mut [f32]| match &mut estimator {
            Some(estimator) => estimator.tangents(step.step, set, range.clone(), examples.clone(), out),
            None => Ok(()),
        };
        engine.judge(pass, &mut draw, step.classifier, &self.batch.labels, &mut self.judged)?;
        if range.start == 0 {
            self.count();
        }
        let derivatives = self.judged.derivatives.chunks_exact(range.len().max(1));
        for (to, found) in self.derivatives.chunks_exact_mut(step.options.tangents.max(1)).skip(first).zip(derivatives)
        {
            to[range.clone()].copy_from_slice(found);
        }
        Ok(())
    }

    /// Exact gradients of the micro-batch whose first example is `first` of the batch, or what `estimator` makes of them.
    fn exact(
        &mut self,
        step: &StepInputs,
        engine: &mut dyn Engine,
        estimator: Option<&mut Estimator>,
        first: usize,
    ) -> Result<()> {
        let StepInputs { classifier, prompts, options, .. } = *step;
        let labels = std::mem::take(&mut self.batch.labels);
        let (batch, mut exact) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.exact));
        self.batch.labels = labels;
        let count = self.batch.labels.len();
        let mut slope = |f: &[f32], df: &mut [f32]| {
            self.judged.clear();
            loss::judge(classifier, &self.batch.labels, 0, f, &mut self.judged);
            self.count();
            let (width, classes) = (classifier.width(), classifier.classes());
            let slopes = self.judged.slopes.chunks_exact(classes);
            for ((f, df), dz) in f.chunks_exact(width).zip(df.chunks_exact_mut(width)).zip(slopes) {
                head::vjp(classifier, f, dz, df);
            }
            Ok(())
        };
        let gradients = exact.next(count);
        let done = engine.gradient(batch.input(), prompts, &mut slope, gradients);
        if let Some(estimator) = estimator {
            for (i, gradient) in gradients.chunks_exact_mut(prompts.len()).enumerate() {
                estimator.turn(step.step, first + i, options.tangents, gradient);
            }
        }
        exact.add(count);
        self.exact = exact;
        (self.batch.images, self.batch.prefix) = (batch.images, batch.prefix);
        done
    }

    /// Adds the micro-batch's losses and hits to the batch's.
    fn count(&mut self) {
        self.losses.extend_from_slice(&self.judged.losses);
        let hits = self.judged.best.iter().zip(&self.batch.labels).filter(|(best, label)| best == label);
        self.correct += hits.count();
    }

    /// Adds the micro-batch's share of a linear head's exact gradient, example by example.
    fn add_head_gradient(&mut self, classifier: &Head, scale: f32) {
        let (classes, width) = (classifier.classes(), classifier.width());
        let (matrix, vector) = self.head.split_at_mut(classes * width);
        let inputs = self.judged.inputs.iter().flat_map(|inputs| inputs.chunks_exact(width));
        for (f, slope) in inputs.zip(self.judged.slopes.chunks_exact(classes)) {
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
