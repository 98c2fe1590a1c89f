//! `weight-transpose`: y = A_s·n, A_s = c·J_LNᵀ·Wᵀ (arXiv 2312.04709, W of the layer the prompt meets first).
//!
//! W is W_qkv of the block the set enters, or W_kv where the set's own output rows are never read: deep sets, which are
//! replaced, and the last block, whose pooled tokens are never prompts; there the q-gradient is exactly zero.
//! c = √d/‖A‖_F per prompt, so that every coordinate has unit mean variance and no prompt's or set's noise drowns another's.
//!
//! Other spectra: W may have its singular values changed first (`spectrum.rs`); its place is then taken by a matrix F of d rows.
//!
//! With P = I − 11ᵀ/d − x̂x̂ᵀ/d, J_LNᵀ = P·diag(γ)/σ, and G = ΓWᵀWΓ:
//! ‖J_LNᵀWᵀ‖_F² = (tr G − 1ᵀG1/d − (2 − x̂ᵀx̂/d)·x̂ᵀGx̂/d)/σ². The first two are constants of the layer; the third is one
//! product with W per prompt and step. A row of y costs 2·n·d FLOPs for n rows of W.

use super::{Guess, Guessing, spectrum};
use crate::Result;
use crate::backend::{At, Backend, Linear, Needs};
use crate::encoder::Weights;
use crate::engine::NativeBackend;
use crate::model::{ModelSpec, PromptLayout};
use crate::ops::norm;
use crate::rng::Draw;
use std::ops::Range;
use std::sync::Arc;

/// Rows of noise to map at once in passes of up to `examples` examples and `tangents` tangents.
pub fn chunk(examples: usize, tangents: usize, prompts: usize) -> usize {
    const MOST: usize = 256;
    // Fewer would make the layers' constants slow to compute, d rows at a time.
    const LEAST: usize = 8;
    (examples * tangents.max(1) * prompts).clamp(prompts.max(LEAST), MOST.max(prompts))
}

/// What [`WeightTranspose::new`] carves, for the same `chunk`.
pub fn needs(spec: &ModelSpec, layout: PromptLayout, chunk: usize) -> Needs {
    let rows = rows(spec, layout, chunk);
    Needs { buffers: vec![rows, rows], staging: vec![rows, layout.parameters(spec)] }
}

/// Elements of `chunk` rows of noise.
fn rows(spec: &ModelSpec, layout: PromptLayout, chunk: usize) -> usize {
    chunk.max(layout.prompts) * 3 * spec.width
}

/// Bytes beside those, of the matrices that take the weights' place: of f32 for every set, and of f64 while one is made.
pub fn spectrum_bytes(spec: &ModelSpec, layout: PromptLayout, guessing: &Guessing) -> u64 {
    if guessing.is_plain() || !guessing.kind.transposes_weights() {
        return 0;
    }
    let square = (spec.width * spec.width) as u64;
    square * (4 * layout.sets(spec.depth) as u64 + 4 * 3 + 8)
}

/// One set's layer.
struct Layer<B: Backend> {
    block: usize,
    /// In place of the block's own.
    reshaped: Option<Linear<B::Matrix, B::Vector>>,
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
    prompts: usize,
    layers: Vec<Layer<B>>,
    /// `[S, p, d]` as of the last `prepare`.
    values: B::Staging,
    products: Products<B>,
}

/// Products with a layer's weights, of up to `chunk` rows.
struct Products<B: Backend<Elem = f32>> {
    backend: Arc<B>,
    weights: Arc<Weights<B>>,
    width: usize,
    chunk: usize,
    /// `[chunk, 3d]`, as the others.
    input: B::Buffer,
    output: B::Buffer,
    host: B::Staging,
}

impl<B: Backend<Elem = f32>> WeightTranspose<B> {
    /// The guess for prompts placed by `layout`, mapping up to `chunk` rows of noise at a time (at least p). Errors:
    /// `arena` has no room for its [needs](super::needs), or a layer's singular values cannot be found.
    pub fn new(
        backend: Arc<B>,
        weights: Arc<Weights<B>>,
        layout: PromptLayout,
        guessing: &Guessing,
        chunk: usize,
        arena: &B::Arena,
    ) -> Result<Self> {
        let depth = weights.spec().depth;
        let rows = rows(weights.spec(), layout, chunk);
        let values = layout.parameters(weights.spec());
        let products = Products {
            input: backend.carve(arena, rows)?,
            output: backend.carve(arena, rows)?,
            host: backend.carve_staging(arena, rows)?,
            chunk: chunk.max(layout.prompts),
            width: weights.spec().width,
            backend: backend.clone(),
            weights,
        };
        let values = backend.carve_staging(arena, values)?;
        let mut guess = WeightTranspose { prompts: layout.prompts, layers: Vec::new(), values, products };
        for set in 0..layout.sets(depth) {
            let block = layout.insert_at + set;
            let unread = layout.deep || block + 1 == depth;
            let d = guess.products.width;
            let outputs = if unread { d..3 * d } else { 0..3 * d };
            let layer = guess.products.layer(block, outputs, layout.prompts, guessing)?;
            guess.layers.push(layer);
        }
        Ok(guess)
    }
}

impl<B: Backend<Elem = f32>> Products<B> {
    fn layer(&mut self, block: usize, outputs: Range<usize>, prompts: usize, guessing: &Guessing) -> Result<Layer<B>> {
        let d = self.width;
        let norm = &self.weights.blocks[block].norm1;
        let gamma = self.backend.read_vector(&norm.gamma)?;
        let eps = norm.eps;
        let mut layer =
            Layer { block, reshaped: None, outputs, eps, trace: 0.0, ones: 0.0, scale: vec![0.0; prompts], gamma };
        if !guessing.is_plain() {
            let mut columns = Vec::with_capacity(d * layer.outputs.len());
            self.for_each_column(&layer, |_| 1.0, |column| columns.extend_from_slice(column))?;
            let weight = spectrum::reshaped(&columns, d, guessing.power, guessing.rank)?;
            layer.reshaped = Some(Linear { weight: self.backend.matrix(d, d, weight)?, bias: None });
            layer.outputs = 0..d;
        }
        let (mut trace, gamma) = (0.0, layer.gamma.clone());
        // One after another: the sum must not depend on the chunk.
        self.for_each_column(&layer, |i| gamma[i], |column| trace += squares(column))?;
        layer.trace = trace;
        self.host[..d].copy_from_slice(&layer.gamma);
        layer.ones = self.products(&layer, 1)?.map(squares).sum();
        Ok(layer)
    }

    /// Gives `each` the columns of the layer's W, column i times `factor(i)`.
    fn for_each_column(
        &mut self,
        layer: &Layer<B>,
        factor: impl Fn(usize) -> f32,
        mut each: impl FnMut(&[f32]),
    ) -> Result<()> {
        let d = self.width;
        for first in (0..d).step_by(self.chunk) {
            let rows = self.chunk.min(d - first);
            self.host[..rows * d].fill(0.0);
            for r in 0..rows {
                self.host[r * d + first + r] = factor(first + r);
            }
            self.products(layer, rows)?.for_each(&mut each);
        }
        Ok(())
    }

    /// W v of the `count` rows v that stand in `host` `[count, d]`, which is overwritten.
    fn products<'a>(
        &'a mut self,
        layer: &Layer<B>,
        count: usize,
    ) -> Result<impl Iterator<Item = &'a [f32]> + use<'a, B>> {
        let (d, n) = (self.width, layer.outputs.len());
        self.backend.write(&mut self.input, 0, &self.host[..count * d])?;
        let x = At::start(&self.input, d);
        let linear = layer.linear(&self.weights);
        self.backend.linear(count, 0, linear, layer.outputs.clone(), x, &mut self.output, 0)?;
        let host = &mut self.host[..count * n];
        self.backend.read(&self.output, 0, host)?;
        Ok(host.chunks_exact(n))
    }

    /// Wᵀ g of each row g of `rows` `[count, n]`, `[count, d]`.
    fn transposed(&mut self, layer: &Layer<B>, rows: &[f32]) -> Result<&[f32]> {
        self.backend.write(&mut self.input, 0, rows)?;
        self.transpose_input(layer, rows.len() / layer.outputs.len())
    }

    /// Wᵀ g of each of the `count` rows g that stand in `input`.
    fn transpose_input(&mut self, layer: &Layer<B>, count: usize) -> Result<&[f32]> {
        let (d, n) = (self.width, layer.outputs.len());
        let linear = layer.linear(&self.weights);
        let from = At::start(&self.input, n);
        self.backend.linear_vjp(count, linear, layer.outputs.clone(), from, false, &mut self.output, 0)?;
        let host = &mut self.host[..count * d];
        self.backend.read(&self.output, 0, host)?;
        Ok(host)
    }
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v) * f64::from(v)).sum()
}

impl<B: Backend> Layer<B> {
    fn linear<'a>(&'a self, weights: &'a Weights<B>) -> &'a Linear<B::Matrix, B::Vector> {
        self.reshaped.as_ref().unwrap_or(&weights.blocks[self.block].qkv)
    }

    /// y = c·J_LNᵀ g of each row g of `products`, `[rows, d]`, at the prompts `values` `[p, d]` in turn.
    fn through_norm(&self, values: &[f32], products: &[f32], y: &mut [f32]) {
        let (d, p) = (self.gamma.len(), self.scale.len());
        for (r, (g, y)) in products.chunks_exact(d).zip(y.chunks_exact_mut(d)).enumerate() {
            y.fill(0.0);
            norm::vjp(&values[r % p * d..][..d], g, &self.gamma, self.eps, y);
            y.iter_mut().for_each(|v| *v *= self.scale[r % p]);
        }
    }
}

impl<B: NativeBackend> Guess for WeightTranspose<B> {
    fn noise_width(&self, set: usize) -> usize {
        self.layers[set].outputs.len()
    }

    fn prepare(&mut self, prompts: &[f32]) -> Result<()> {
        let (d, p) = (self.products.width, self.prompts);
        self.values.copy_from_slice(prompts);
        for (layer, values) in self.layers.iter_mut().zip(prompts.chunks_exact(p * d)) {
            for (x, scaled) in values.chunks_exact(d).zip(self.products.host.chunks_exact_mut(d)) {
                let (mean, rstd) = norm::statistics(x, layer.eps);
                for i in 0..d {
                    scaled[i] = layer.gamma[i] * (x[i] - mean) * rstd;
                }
            }
            let products = self.products.products(layer, p)?.map(squares);
            let n = d as f64;
            let Layer { trace, ones, eps, .. } = *layer;
            for ((scale, x), product) in layer.scale.iter_mut().zip(values.chunks_exact(d)).zip(products) {
                let (mean, rstd) = norm::statistics(x, eps);
                let c = x.iter().map(|&v| f64::from((v - mean) * rstd).powi(2)).sum::<f64>() / n;
                let rstd = f64::from(rstd);
                let frobenius = (trace - ones / n - (2.0 - c) * product / n) * rstd * rstd;
                *scale = (n / frobenius.max(f64::MIN_POSITIVE)).sqrt() as f32;
            }
        }
        Ok(())
    }

    fn draw(&mut self, draw: &Draw, y: &mut [f32]) -> Result<bool> {
        let (d, p) = (self.products.width, self.prompts);
        let layer = &self.layers[draw.set];
        let values = &self.values[draw.set * p * d..][..p * d];
        // A row of noise is p rows of W's outputs.
        let most = (self.products.chunk / p).max(1);
        for (i, y) in y.chunks_mut(most * p * d).enumerate() {
            let rows = i * most..i * most + y.len() / (p * d);
            let Products { backend, input, .. } = &mut self.products;
            if !backend.noise(draw, rows, p * layer.outputs.len(), input)? {
                return Ok(false);
            }
            layer.through_norm(values, self.products.transpose_input(layer, y.len() / d)?, y);
        }
        Ok(true)
    }

    fn sum(&self, draw: &Draw, weights: &[f64], out: &mut [f64]) -> Result<bool> {
        self.products.backend.noise_sum(draw, weights, out)
    }

    fn map(&mut self, set: usize, noise: &[f32], y: &mut [f32]) -> Result<()> {
        let (d, p) = (self.products.width, self.prompts);
        let layer = &self.layers[set];
        let m = layer.outputs.len();
        let values = &self.values[set * p * d..][..p * d];
        // Whole groups of p rows per product, so that row r keeps belonging to prompt r mod p.
        let chunk = (self.products.chunk / p * p).max(p);
        for (noise, y) in noise.chunks(chunk * m).zip(y.chunks_mut(chunk * d)) {
            layer.through_norm(values, self.products.transposed(layer, noise)?, y);
        }
        Ok(())
    }
}
