//! ĝ = 1/(B·K) Σ_b Σ_k L̇_bk·y_bk with y = A_s·n: noise is regenerated from its address, never stored.

use crate::Result;
use crate::guess::Guess;
use crate::rng::{Purpose, Stream};
use std::ops::Range;

/// Draws guesses for dual passes and turns their derivatives into a gradient.
pub struct Estimator {
    guess: Box<dyn Guess>,
    seed: u64,
    sets: usize,
    prompts: usize,
    width: usize,
    noise: Vec<f32>,
    sum: Vec<f64>,
}

impl Estimator {
    /// For prompts `[sets, prompts, width]`.
    pub fn new(guess: Box<dyn Guess>, seed: u64, [sets, prompts, width]: [usize; 3]) -> Self {
        Estimator { guess, seed: Purpose::Guess.seed(seed), sets, prompts, width, noise: Vec::new(), sum: Vec::new() }
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
        let len = self.prompts * self.guess.noise_width(set);
        self.noise.resize(tangents.len() * examples.len() * len, 0.0);
        let shared = self.guess.shared();
        let addresses = tangents.flat_map(|k| examples.clone().map(move |b| (k, if shared { 0 } else { b })));
        for ((k, b), row) in addresses.zip(self.noise.chunks_exact_mut(len)) {
            stream(self.seed, step, b, k, set).normals(row);
        }
        self.guess.map(set, &self.noise, out)
    }

    /// ĝ `[S, p, d]` of a step from all its derivatives L̇ `[B, K]`, summed in (example, tangent) order.
    pub fn gradient(&mut self, step: u64, tangents: usize, derivatives: &[f32], out: &mut [f32]) -> Result<()> {
        let shared = self.guess.shared();
        let scale = 1.0 / derivatives.len() as f64;
        for (set, out) in (0..self.sets).zip(out.chunks_exact_mut(self.prompts * self.width)) {
            let len = self.prompts * self.guess.noise_width(set);
            self.noise.resize(len, 0.0);
            self.sum.clear();
            self.sum.resize(len, 0.0);
            for (b, derivatives) in derivatives.chunks_exact(tangents).enumerate() {
                for (k, &derivative) in derivatives.iter().enumerate() {
                    stream(self.seed, step, if shared { 0 } else { b }, k, set).normals(&mut self.noise);
                    let weight = f64::from(derivative) * scale;
                    self.sum.iter_mut().zip(&self.noise).for_each(|(sum, &n)| *sum += weight * f64::from(n));
                }
            }
            self.noise.iter_mut().zip(&self.sum).for_each(|(n, &sum)| *n = sum as f32);
            self.guess.map(set, &self.noise, out)?;
        }
        Ok(())
    }
}

fn stream(seed: u64, step: u64, example: usize, tangent: usize, set: usize) -> Stream {
    Stream { seed, step, example: example as u32, tangent: tangent as u32, set: set as u32 }
}
