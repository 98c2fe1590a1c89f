//! ĝ = 1/(B·K) Σ_b Σ_k L̇_bk·y_bk with y = A_s·n: noise is regenerated from its address, never stored.

use crate::Result;
use crate::guess::Guess;
use crate::rng::{Draw, Purpose};
use std::ops::Range;

/// Draws guesses for dual passes and turns their derivatives into a gradient.
pub struct Estimator {
    guess: Box<dyn Guess>,
    seed: u64,
    sets: usize,
    prompts: usize,
    width: usize,
    noise: Vec<f32>,
    weights: Vec<f64>,
    sum: Vec<f64>,
}

impl Estimator {
    /// For prompts `[sets, prompts, width]`.
    pub fn new(guess: Box<dyn Guess>, seed: u64, [sets, prompts, width]: [usize; 3]) -> Self {
        let seed = Purpose::Guess.seed(seed);
        let (noise, weights, sum) = (Vec::new(), Vec::new(), Vec::new());
        Estimator { guess, seed, sets, prompts, width, noise, weights, sum }
    }

    /// Once per step, with the prompts the step starts from.
    pub fn prepare(&mut self, prompts: &[f32]) -> Result<()> {
        self.guess.prepare(prompts)
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
        if self.guess.draw(&draw, out)? {
            return Ok(());
        }
        let len = self.prompts * self.guess.noise_width(set);
        self.noise.resize(draw.rows() * len, 0.0);
        self.noise.chunks_exact_mut(len).enumerate().for_each(|(row, noise)| draw.stream(row).normals(noise));
        self.guess.map(set, &self.noise, out)
    }

    fn draw(&self, step: u64, set: usize, tangents: Range<usize>, examples: Range<usize>) -> Draw {
        Draw { seed: self.seed, step, set, tangents, examples, shared: self.guess.shared() }
    }

    /// ĝ `[S, p, d]` of a step from all its derivatives L̇ `[B, K]`, summed in (example, tangent) order.
    pub fn gradient(&mut self, step: u64, tangents: usize, derivatives: &[f32], out: &mut [f32]) -> Result<()> {
        let scale = 1.0 / derivatives.len() as f64;
        self.weights.clear();
        self.weights.extend(derivatives.iter().map(|&derivative| f64::from(derivative) * scale));
        for (set, out) in (0..self.sets).zip(out.chunks_exact_mut(self.prompts * self.width)) {
            let len = self.prompts * self.guess.noise_width(set);
            let draw = self.draw(step, set, 0..tangents, 0..derivatives.len() / tangents);
            self.noise.resize(len, 0.0);
            self.sum.clear();
            self.sum.resize(len, 0.0);
            if !self.guess.sum(&draw, &self.weights, &mut self.sum)? {
                for (b, weights) in self.weights.chunks_exact(tangents).enumerate() {
                    for (k, weight) in weights.iter().enumerate() {
                        draw.of(b, k).normals(&mut self.noise);
                        self.sum.iter_mut().zip(&self.noise).for_each(|(sum, &n)| *sum += weight * f64::from(n));
                    }
                }
            }
            self.noise.iter_mut().zip(&self.sum).for_each(|(n, &sum)| *n = sum as f32);
            self.guess.map(set, &self.noise, out)?;
        }
        Ok(())
    }
}
