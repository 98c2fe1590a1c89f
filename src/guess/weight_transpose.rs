//! `weight-transpose`: y = A_s·n, A_s = c·J_LNᵀ·Wᵀ (arXiv 2312.04709, W of the layer the prompt meets first).
//!
//! W is W_qkv of the block the set enters, or W_kv where the set's own output rows are never read: deep sets, which are
//! replaced, and the last block, whose pooled tokens are never prompts; there the q-gradient is exactly zero.
//! c = √d/‖A‖_F per prompt, so that every coordinate has unit mean variance and no prompt's or set's noise drowns another's.
//!
//! With P = I − 11ᵀ/d − x̂x̂ᵀ/d, J_LNᵀ = P·diag(γ)/σ, and G = ΓWᵀWΓ:
//! ‖J_LNᵀWᵀ‖_F² = (tr G − 1ᵀG1/d − (2 − x̂ᵀx̂/d)·x̂ᵀGx̂/d)/σ². The first two are constants of the layer; the third is one
//! product with W per prompt and step. A row of y costs 2·n·d FLOPs for n rows of W.

use super::Guess;
use crate::Result;
use crate::backend::{At, Backend};
use crate::encoder::Weights;
use crate::model::PromptLayout;
use crate::ops::norm;
use std::ops::Range;
use std::sync::Arc;

/// One set's layer.
struct Layer {
    block: usize,
    outputs: Range<usize>,
    gamma: Vec<f32>,
    eps: f64,
    /// tr G.
    trace: f64,
    /// 1ᵀG1.
    ones: f64,
    /// c of every prompt at the current values.
    scale: Vec<f32>,
}

/// Noise sent back through the transposed weights of the layer that reads the prompts.
pub struct WeightTranspose<B: Backend<Elem = f32>> {
    backend: Arc<B>,
    weights: Arc<Weights<B>>,
    width: usize,
    prompts: usize,
    layers: Vec<Layer>,
    /// `[S, p, d]` as of the last `prepare`.
    values: Vec<f32>,
    noise: B::Buffer,
    product: B::Buffer,
    host: Vec<f32>,
}

impl<B: Backend<Elem = f32>> WeightTranspose<B> {
    /// The guess for prompts placed by `layout`, mapping up to `chunk` rows of noise at a time (at least p). Errors:
    /// memory is short.
    pub fn new(backend: Arc<B>, weights: Arc<Weights<B>>, layout: PromptLayout, chunk: usize) -> Result<Self> {
        let d = weights.spec().width;
        let depth = weights.spec().depth;
        let chunk = chunk.max(layout.prompts);
        let mut guess = WeightTranspose {
            noise: backend.buffer(chunk * 3 * d)?,
            product: backend.buffer(chunk * 3 * d)?,
            host: vec![0.0; chunk * 3 * d],
            values: vec![0.0; layout.parameters(weights.spec())],
            layers: Vec::new(),
            width: d,
            prompts: layout.prompts,
            backend,
            weights,
        };
        for set in 0..layout.sets(depth) {
            let block = layout.insert_at + set;
            let unread = layout.deep || block + 1 == depth;
            let outputs = if unread { d..3 * d } else { 0..3 * d };
            let layer = guess.layer(block, outputs, layout.prompts)?;
            guess.layers.push(layer);
        }
        Ok(guess)
    }

    fn layer(&mut self, block: usize, outputs: Range<usize>, prompts: usize) -> Result<Layer> {
        let d = self.width;
        let norm = &self.weights.blocks[block].norm1;
        let gamma = self.backend.read_vector(&norm.gamma)?;
        let mut layer =
            Layer { block, outputs, eps: norm.eps, trace: 0.0, ones: 0.0, scale: vec![0.0; prompts], gamma };
        let chunk = self.host.len() / (3 * d);
        for first in (0..d).step_by(chunk) {
            let rows = chunk.min(d - first);
            let mut basis = vec![0.0; rows * d];
            for r in 0..rows {
                basis[r * d + first + r] = layer.gamma[first + r];
            }
            // One after another: the sum must not depend on the chunk.
            self.squares(&layer, &basis)?.iter().for_each(|square| layer.trace += square);
        }
        layer.ones = self.squares(&layer, &layer.gamma.clone())?[0];
        Ok(layer)
    }

    /// ‖W v‖² of each row v of `rows` `[rows, d]`.
    fn squares(&mut self, layer: &Layer, rows: &[f32]) -> Result<Vec<f64>> {
        let (d, n) = (self.width, layer.outputs.len());
        let count = rows.len() / d;
        let linear = &self.weights.blocks[layer.block].qkv;
        self.backend.write(&mut self.noise, 0, rows)?;
        let x = At::start(&self.noise, d);
        self.backend.linear(count, 0, linear, layer.outputs.clone(), x, &mut self.product, 0)?;
        let host = &mut self.host[..count * n];
        self.backend.read(&self.product, 0, host)?;
        Ok(host.chunks_exact(n).map(|row| row.iter().map(|&v| f64::from(v) * f64::from(v)).sum()).collect())
    }
}

impl<B> Guess for WeightTranspose<B>
where
    B: Backend<Elem = f32> + Send + Sync,
    B::Buffer: Send,
    B::Matrix: Send + Sync,
    B::Vector: Send + Sync,
{
    fn noise_width(&self, set: usize) -> usize {
        self.layers[set].outputs.len()
    }

    fn prepare(&mut self, prompts: &[f32]) -> Result<()> {
        let (d, p) = (self.width, self.prompts);
        self.values.copy_from_slice(prompts);
        let mut layers = std::mem::take(&mut self.layers);
        let mut scaled = vec![0.0; p * d];
        for (layer, values) in layers.iter_mut().zip(prompts.chunks_exact(p * d)) {
            for (x, out) in values.chunks_exact(d).zip(scaled.chunks_exact_mut(d)) {
                let (mean, rstd) = norm::statistics(x, layer.eps);
                for i in 0..d {
                    out[i] = layer.gamma[i] * (x[i] - mean) * rstd;
                }
            }
            let products = self.squares(layer, &scaled)?;
            let n = d as f64;
            for (i, (x, product)) in values.chunks_exact(d).zip(products).enumerate() {
                let (mean, rstd) = norm::statistics(x, layer.eps);
                let c = x.iter().map(|&v| f64::from((v - mean) * rstd).powi(2)).sum::<f64>() / n;
                let rstd = f64::from(rstd);
                let frobenius = (layer.trace - layer.ones / n - (2.0 - c) * product / n) * rstd * rstd;
                layer.scale[i] = (n / frobenius.max(f64::MIN_POSITIVE)).sqrt() as f32;
            }
        }
        self.layers = layers;
        Ok(())
    }

    fn map(&mut self, set: usize, noise: &[f32], y: &mut [f32]) -> Result<()> {
        let (d, p) = (self.width, self.prompts);
        let layer = &self.layers[set];
        let m = layer.outputs.len();
        let linear = &self.weights.blocks[layer.block].qkv;
        let values = &self.values[set * p * d..][..p * d];
        // Whole groups of p rows per product, so that row r keeps belonging to prompt r mod p.
        let chunk = (self.host.len() / (3 * d) / p * p).max(p);
        for (noise, y) in noise.chunks(chunk * m).zip(y.chunks_mut(chunk * d)) {
            let rows = noise.len() / m;
            self.backend.write(&mut self.noise, 0, noise)?;
            let from = At::start(&self.noise, m);
            self.backend.linear_vjp(rows, linear, layer.outputs.clone(), from, false, &mut self.product, 0)?;
            let host = &mut self.host[..rows * d];
            self.backend.read(&self.product, 0, host)?;
            for (r, (g, y)) in host.chunks_exact(d).zip(y.chunks_exact_mut(d)).enumerate() {
                y.fill(0.0);
                norm::vjp(&values[r % p * d..][..d], g, &layer.gamma, layer.eps, y);
                y.iter_mut().for_each(|v| *v *= layer.scale[r % p]);
            }
        }
        Ok(())
    }
}
