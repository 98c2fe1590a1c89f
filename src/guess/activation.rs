//! `activation`: n ~ N(0, I_N) per example; A = I. Unbiased, variance grows with N.

use super::Guess;
use crate::Result;

/// Isotropic noise, its own for every example.
pub struct Activation {
    /// Width d.
    pub width: usize,
}

impl Guess for Activation {
    fn noise_width(&self, _set: usize) -> usize {
        self.width
    }

    fn prepare(&mut self, _prompts: &[f32]) -> Result<()> {
        Ok(())
    }

    fn map(&mut self, _set: usize, noise: &[f32], y: &mut [f32]) -> Result<()> {
        y.copy_from_slice(noise);
        Ok(())
    }
}
