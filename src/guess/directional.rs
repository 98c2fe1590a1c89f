//! `directional`: one n ~ N(0, I_N) for the whole batch, scaled by the batch's mean derivative (Baydin et al. 2022).

use super::{Activation, Guess};
use crate::Result;

/// Isotropic noise, the same for every example.
pub struct Directional(pub Activation);

impl Guess for Directional {
    fn noise_width(&self, set: usize) -> usize {
        self.0.noise_width(set)
    }

    fn shared(&self) -> bool {
        true
    }

    fn prepare(&mut self, prompts: &[f32]) -> Result<()> {
        self.0.prepare(prompts)
    }

    fn map(&mut self, set: usize, noise: &[f32], y: &mut [f32]) -> Result<()> {
        self.0.map(set, noise, y)
    }
}
