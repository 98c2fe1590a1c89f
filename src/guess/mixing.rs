//! `mixing`: y = c·J_LNᵀ·Xᵀn, n ~ N(0, I_T): a random mixture of the example's own tokens (arXiv 2312.04709, "activation mixing").
//!
//! X `[T, d]` holds the centred tokens at the input of the block the set enters, the prompts among them: what a layer's gradient to its
//! input is made of varies as its inputs do. c = √d/‖J_LNᵀXᵀ‖_F, so that every coordinate has unit mean variance and no prompt's or
//! set's noise drowns another's. 2·T·d FLOPs a row of y, and 6·T·d to send X through a prompt's J_LN.

use super::orthonormal::norm;
use crate::ops;

/// One block's first norm, through which its prompts are read.
pub struct Norm {
    /// γ `[d]`.
    pub gamma: Vec<f32>,
    /// ε.
    pub eps: f64,
}

/// Tokens of an example on their way through a prompt's norm.
#[derive(Default)]
pub struct Mixing {
    /// `[d]`.
    mean: Vec<f64>,
    centred: Vec<f32>,
    /// `[T, d]`, through J_LNᵀ and scaled.
    sent: Vec<f32>,
}

impl Mixing {
    /// Makes the example's `tokens` `[T, d]` ready for the prompt `prompt` `[d]`, read through `norm`.
    pub fn prepare(&mut self, tokens: &[f32], prompt: &[f32], through: &Norm) {
        let width = prompt.len();
        let count = tokens.len() / width;
        self.mean.clear();
        self.mean.resize(width, 0.0);
        for token in tokens.chunks_exact(width) {
            self.mean.iter_mut().zip(token).for_each(|(m, &v)| *m += f64::from(v) / count as f64);
        }
        self.centred.resize(width, 0.0);
        self.sent.clear();
        self.sent.resize(tokens.len(), 0.0);
        for (token, sent) in tokens.chunks_exact(width).zip(self.sent.chunks_exact_mut(width)) {
            for ((c, &v), &mean) in self.centred.iter_mut().zip(token).zip(&self.mean) {
                *c = (f64::from(v) - mean) as f32;
            }
            ops::norm::vjp(prompt, &self.centred, &through.gamma, through.eps, sent);
        }
        let frobenius = norm(&self.sent);
        let scale = if frobenius > 0.0 { (width as f64).sqrt() / frobenius } else { 0.0 };
        self.sent.iter_mut().for_each(|v| *v = (f64::from(*v) * scale) as f32);
    }

    /// y `[d]` of `noise` `[T]`.
    pub fn mix(&self, noise: &[f32], y: &mut [f32]) {
        y.fill(0.0);
        for (sent, &n) in self.sent.chunks_exact(y.len()).zip(noise) {
            y.iter_mut().zip(sent).for_each(|(y, &v)| *y += n * v);
        }
    }
}
