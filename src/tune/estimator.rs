//! ĝ = 1/(B·K) Σ_b Σ_k c_b·L̇_bk·y_bk. Where y = A_s·n, noise is regenerated from its address, never stored.
//!
//! c_b = min(1, clip·median/‖L̇_b‖) keeps a few examples from deciding the step; it is 1 without `clip`.

use super::clip;
use super::kept::{Drawing, Kept};
use crate::Result;
use crate::encoder::Input;
use crate::engine::Engine;
use crate::guess::{self, Directions, Guessing};
use crate::rng::{Draw, Purpose};
use serde::Serialize;
use std::ops::Range;

/// How far a step's gradient can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Noise {
    /// ‖E ĝ‖² over the variance of ĝ, estimated from halves of the batch; of one step, and noisy itself.
    pub signal_to_noise: f64,
    /// Share of that variance that comes of guessing and that more tangents would lessen, from halves of the tangents; the rest is the
    /// batch's, which the exact gradient has too. `None` with one tangent.
    pub guessing: Option<f64>,
}

/// Draws guesses for dual passes and turns their derivatives into a gradient.
pub struct Estimator {
    directions: Directions,
    /// Where directions are not linear in their noise.
    kept: Option<Kept>,
    seed: u64,
    /// S, p, d.
    shape: [usize; 3],
    clip: f64,
    noise: Vec<f32>,
    weights: Vec<f64>,
    magnitudes: Vec<f64>,
    factors: Vec<f64>,
    sorted: Vec<f64>,
    sum: Vec<f64>,
    /// An estimate of half a step.
    half: Vec<f32>,
}

impl Estimator {
    /// For prompts `shape` `[S, p, d]`. `clip`: see the module.
    pub fn new(directions: Directions, guessing: Guessing, seed: u64, shape: [usize; 3], clip: f64) -> Self {
        Estimator {
            directions,
            kept: guessing.is_kept().then(|| Kept::new(guessing, shape)),
            seed: Purpose::Guess.seed(seed),
            shape,
            clip,
            noise: Vec::new(),
            weights: Vec::new(),
            magnitudes: Vec::new(),
            factors: Vec::new(),
            sorted: Vec::new(),
            sum: Vec::new(),
            half: Vec::new(),
        }
    }

    /// Once per step of `batch` examples and `tangents` tangents, with the prompts the step starts from.
    pub fn prepare(&mut self, prompts: &[f32], batch: usize, tangents: usize) -> Result<()> {
        if let Some(kept) = &mut self.kept {
            kept.begin(batch, tangents);
        }
        match &mut self.directions {
            Directions::Linear(guess) => guess.prepare(prompts),
            Directions::Mixing(_) | Directions::Downstream(_) => Ok(()),
        }
    }

    /// Once per micro-batch, ahead of its passes. Errors: the engine's own.
    pub fn draw_for(
        &mut self,
        engine: &mut dyn Engine,
        input: Input<f32>,
        prompts: &[f32],
        step: u64,
        [tangents, examples]: [Range<usize>; 2],
    ) -> Result<()> {
        let draw = self.draw(step, 0, tangents, examples);
        match &mut self.kept {
            Some(kept) => kept.fill(&mut self.directions, Drawing { engine, input, prompts, draw }),
            None => Ok(()),
        }
    }

    /// [Turns](guess::turn) the exact gradient `[N]` of an example of the batch, whose directions are kept.
    pub(super) fn turn(&mut self, step: u64, example: usize, tangents: usize, gradient: &mut [f32]) {
        let stream = self.draw(step, 0, 0..tangents, 0..1).of(example, tangents);
        let Some(kept) = &self.kept else { return };
        // A tangent that no direction has.
        self.noise.resize(gradient.len(), 0.0);
        stream.normals(&mut self.noise);
        guess::turn(gradient, kept.of(example), &mut self.noise);
    }

    /// Tangents of `set` for the batch's examples `examples`: `out` `[|tangents|, |examples|, p, d]`.
    pub fn tangents(
        &mut self,
        step: u64,
        set: usize,
        tangents: Range<usize>,
        examples: Range<usize>,
        out: &mut [f32],
    ) -> Result<()> {
        let draw = self.draw(step, set, tangents, examples);
        let guess = match (&self.kept, &mut self.directions) {
            (None, Directions::Linear(guess)) => guess,
            (Some(kept), _) => return kept.copy(&draw, out),
            (None, _) => unreachable!("directions that depend on the example are kept"),
        };
        if guess.draw(&draw, out)? {
            return Ok(());
        }
        let len = self.shape[1] * guess.noise_width(set);
        self.noise.resize(draw.rows() * len, 0.0);
        self.noise.chunks_exact_mut(len).enumerate().for_each(|(row, noise)| guess.noise(draw.stream(row), noise));
        guess.map(set, &self.noise, out)
    }

    fn draw(&self, step: u64, set: usize, tangents: Range<usize>, examples: Range<usize>) -> Draw {
        let shared = matches!(&self.directions, Directions::Linear(guess) if guess.shared());
        Draw { seed: self.seed, step, set, tangents, examples, shared }
    }

    /// ĝ `[S, p, d]` of a step from all its derivatives L̇ `[B, K]`, summed in (example, tangent) order.
    pub fn gradient(&mut self, step: u64, tangents: usize, derivatives: &[f32], out: &mut [f32]) -> Result<()> {
        if self.clip > 0.0 {
            let magnitude = |row: &[f32]| row.iter().map(|&l| f64::from(l).powi(2)).sum::<f64>().sqrt();
            self.magnitudes.clear();
            self.magnitudes.extend(derivatives.chunks_exact(tangents).map(magnitude));
            clip::factors(&self.magnitudes, self.clip, &mut self.sorted, &mut self.factors);
        }
        self.weighted(step, tangents, derivatives, |_, _| 1.0, out)
    }

    /// 1/(B·K) Σ_b Σ_k part(b, k)·c_b·L̇_bk·y_bk `[S, p, d]`.
    fn weighted(
        &mut self,
        step: u64,
        tangents: usize,
        derivatives: &[f32],
        part: impl Fn(usize, usize) -> f64,
        out: &mut [f32],
    ) -> Result<()> {
        let scale = 1.0 / derivatives.len() as f64;
        let mut weights = std::mem::take(&mut self.weights);
        weights.clear();
        for (b, row) in derivatives.chunks_exact(tangents).enumerate() {
            let scale = scale * self.factors.get(b).copied().unwrap_or(1.0);
            weights.extend(row.iter().enumerate().map(|(k, &l)| f64::from(l) * scale * part(b, k)));
        }
        let done = self.sum_up(step, tangents, &weights, out);
        self.weights = weights;
        done
    }

    /// Σ weights·y `[S, p, d]`, weights `[B, K]`.
    fn sum_up(&mut self, step: u64, tangents: usize, weights: &[f64], out: &mut [f32]) -> Result<()> {
        let [sets, prompts, width] = self.shape;
        let examples = weights.len() / tangents;
        if let Some(kept) = &self.kept {
            self.sum.clear();
            self.sum.resize(out.len(), 0.0);
            kept.add(weights, &mut self.sum);
            out.iter_mut().zip(&self.sum).for_each(|(g, &sum)| *g = sum as f32);
            return Ok(());
        }
        for (set, out) in (0..sets).zip(out.chunks_exact_mut(prompts * width)) {
            let draw = self.draw(step, set, 0..tangents, 0..examples);
            let Directions::Linear(guess) = &mut self.directions else { break };
            let len = prompts * guess.noise_width(set);
            self.noise.resize(len, 0.0);
            self.sum.clear();
            self.sum.resize(len, 0.0);
            if !guess.sum(&draw, weights, &mut self.sum)? {
                for (b, weights) in weights.chunks_exact(tangents).enumerate() {
                    for (k, weight) in weights.iter().enumerate() {
                        guess.noise(draw.of(b, k), &mut self.noise);
                        self.sum.iter_mut().zip(&self.noise).for_each(|(sum, &n)| *sum += weight * f64::from(n));
                    }
                }
            }
            self.noise.iter_mut().zip(&self.sum).for_each(|(n, &sum)| *n = sum as f32);
            guess.map(set, &self.noise, out)?;
        }
        Ok(())
    }

    /// How far the estimate `gradient` that [`Estimator::gradient`] has just made of `derivatives` can be trusted; `None` for one
    /// example.
    ///
    /// With a and b the estimates of two halves, E⟨a, b⟩ is the squared norm of what they share: of the mean gradient for halves of the
    /// batch, of the batch's own for halves of the tangents.
    pub fn measure(
        &mut self,
        step: u64,
        tangents: usize,
        derivatives: &[f32],
        gradient: &[f32],
    ) -> Result<Option<Noise>> {
        if derivatives.len() < 2 * tangents {
            return Ok(None);
        }
        let total: f64 = gradient.iter().map(|&g| f64::from(g).powi(2)).sum();
        let even = |number: usize| if number.is_multiple_of(2) { 2.0 } else { 0.0 };
        let mut half = std::mem::take(&mut self.half);
        half.resize(gradient.len(), 0.0);
        let mut shared = |this: &mut Self, part: &dyn Fn(usize, usize) -> f64| -> Result<f64> {
            this.weighted(step, tangents, derivatives, part, &mut half)?;
            let product = half.iter().zip(gradient).map(|(&a, &g)| f64::from(a) * (2.0 * f64::from(g) - f64::from(a)));
            Ok(product.sum())
        };
        let signal = shared(self, &|example, _| even(example))?;
        let of_batch = if tangents > 1 { Some(shared(self, &|_, tangent| even(tangent))?) } else { None };
        self.half = half;
        let variance = (total - signal).max(f64::MIN_POSITIVE);
        let guessing = of_batch.map(|of_batch| ((total - of_batch) / variance).clamp(0.0, 1.0));
        Ok(Some(Noise { signal_to_noise: signal.max(0.0) / variance, guessing }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guess::{Activation, GuessKind};
    use crate::rng::Stream;

    /// Derivatives of examples whose gradients are `mean` and noise of `spread`, in a step.
    fn derivatives(
        estimator: &mut Estimator,
        step: u64,
        mean: &[f32],
        spread: f32,
        [batch, tangents]: [usize; 2],
    ) -> Vec<f32> {
        let n = mean.len();
        let mut y = vec![0f32; tangents * batch * n];
        estimator.tangents(step, 0, 0..tangents, 0..batch, &mut y).unwrap();
        let mut out = vec![0f32; batch * tangents];
        for b in 0..batch {
            let mut gradient = vec![0f32; n];
            Stream { seed: 99, step, example: b as u32, tangent: 0, set: 0 }.normals(&mut gradient);
            gradient.iter_mut().zip(mean).for_each(|(g, m)| *g = *g * spread + m);
            for k in 0..tangents {
                let y = &y[(k * batch + b) * n..][..n];
                out[b * tangents + k] = y.iter().zip(&gradient).map(|(a, b)| a * b).sum();
            }
        }
        out
    }

    /// The mean over steps of what is measured, ratios taken of the means.
    #[test]
    fn noise_is_what_it_is_made_of() {
        let (n, batch, tangents, spread) = (24, 16, 4, 0.5f32);
        let guess = Directions::Linear(Box::new(Activation { width: n }));
        let mut estimator = Estimator::new(guess, GuessKind::Activation.into(), 1, [1, 1, n], 0.0);
        let mean: Vec<f32> = (0..n).map(|i| 0.2 * (i % 3) as f32).collect();
        let (mut ratios, mut shares) = (0.0, 0.0);
        let steps = 400;
        for step in 0..steps {
            let derivatives = derivatives(&mut estimator, step, &mean, spread, [batch, tangents]);
            let mut gradient = vec![0f32; n];
            estimator.gradient(step, tangents, &derivatives, &mut gradient).unwrap();
            let noise = estimator.measure(step, tangents, &derivatives, &gradient).unwrap().unwrap();
            ratios += noise.signal_to_noise / steps as f64;
            shares += noise.guessing.unwrap() / steps as f64;
        }
        // Of n coordinates: ‖g_b‖²(n + 1)/K of guessing and n·spread² of examples, each over B.
        let (n, batch, tangents, spread) = (n as f64, batch as f64, tangents as f64, f64::from(spread));
        let signal: f64 = mean.iter().map(|&m| f64::from(m).powi(2)).sum();
        let guessing = (signal + n * spread * spread) * (n + 1.0) / tangents / batch;
        let examples = n * spread * spread / batch;
        let (ratio, share) = (signal / (guessing + examples), guessing / (guessing + examples));
        // Ratios of noisy figures are biased upwards a little.
        assert!((0.8..1.6).contains(&(ratios / ratio)), "{ratios} {ratio}");
        assert!((shares - share).abs() < 0.15, "{shares} {share}");
    }

    #[test]
    fn an_outlier_counts_what_clip_allows() {
        let (n, batch, tangents) = (8, 9, 2);
        let guess = || Directions::Linear(Box::new(Activation { width: n }));
        let estimate = |clip: f64, derivatives: &[f32]| {
            let mut estimator = Estimator::new(guess(), GuessKind::Activation.into(), 1, [1, 1, n], clip);
            let mut out = vec![0f32; n];
            estimator.gradient(0, tangents, derivatives, &mut out).unwrap();
            out
        };
        let mut derivatives = vec![1f32; batch * tangents];
        let plain = estimate(0.0, &derivatives);
        assert_eq!(estimate(1.0, &derivatives), plain);
        derivatives[2 * tangents..3 * tangents].fill(1e6);
        let cut = estimate(1.0, &derivatives);
        assert!(cut.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-6), "{cut:?} {plain:?}");
        assert!(estimate(0.0, &derivatives).iter().any(|v| v.abs() > 1e3));
    }
}
