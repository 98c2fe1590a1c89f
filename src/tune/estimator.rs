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
    halves: Halves,
}

/// Estimates of half a step.
#[derive(Default)]
struct Halves {
    weights: Vec<f64>,
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
            halves: Halves::default(),
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
        let scale = 1.0 / derivatives.len() as f64;
        self.magnitudes.clear();
        let magnitude = |row: &[f32]| row.iter().map(|&l| f64::from(l).powi(2)).sum::<f64>().sqrt();
        self.magnitudes.extend(derivatives.chunks_exact(tangents).map(magnitude));
        clip::factors(&self.magnitudes, self.clip, &mut self.sorted, &mut self.factors);
        self.weights.clear();
        for (row, factor) in derivatives.chunks_exact(tangents).zip(&self.factors) {
            self.weights.extend(row.iter().map(|&l| f64::from(l) * scale * factor));
        }
        let weights = std::mem::take(&mut self.weights);
        let done = self.weighted(step, tangents, &weights, out);
        self.weights = weights;
        done
    }

    /// Σ weights·y `[S, p, d]`, weights `[B, K]`.
    fn weighted(&mut self, step: u64, tangents: usize, weights: &[f64], out: &mut [f32]) -> Result<()> {
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

    /// How far the estimate `gradient` that [`Estimator::gradient`] has just made can be trusted; `None` for one example.
    ///
    /// With a and b the estimates of two halves, E⟨a, b⟩ is the squared norm of what they share: of the mean gradient for halves of the
    /// batch, of the batch's own for halves of the tangents.
    pub fn measure(&mut self, step: u64, tangents: usize, gradient: &[f32]) -> Result<Option<Noise>> {
        if self.weights.len() < 2 * tangents {
            return Ok(None);
        }
        let total: f64 = gradient.iter().map(|&g| f64::from(g).powi(2)).sum();
        let signal = self.shared_part(step, tangents, gradient, |example, _| example)?;
        let of_batch = match tangents {
            1 => None,
            _ => Some(self.shared_part(step, tangents, gradient, |_, tangent| tangent)?),
        };
        let variance = (total - signal).max(f64::MIN_POSITIVE);
        let guessing = of_batch.map(|of_batch| ((total - of_batch) / variance).clamp(0.0, 1.0));
        Ok(Some(Noise { signal_to_noise: signal.max(0.0) / variance, guessing }))
    }

    /// ⟨a, b⟩ of the estimates of the even and the odd.
    fn shared_part(
        &mut self,
        step: u64,
        tangents: usize,
        gradient: &[f32],
        number: fn(usize, usize) -> usize,
    ) -> Result<f64> {
        let Halves { mut weights, mut half } = std::mem::take(&mut self.halves);
        weights.clear();
        weights.extend(self.weights.iter().enumerate().map(|(i, &weight)| {
            let even = number(i / tangents, i % tangents).is_multiple_of(2);
            if even { 2.0 * weight } else { 0.0 }
        }));
        half.resize(gradient.len(), 0.0);
        let done = self.weighted(step, tangents, &weights, &mut half);
        let product = half.iter().zip(gradient).map(|(&a, &g)| {
            let (a, g) = (f64::from(a), f64::from(g));
            a * (2.0 * g - a)
        });
        let product = product.sum();
        self.halves = Halves { weights, half };
        done.map(|()| product)
    }
}
