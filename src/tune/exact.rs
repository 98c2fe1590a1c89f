//! Exact gradients of a step's examples, and their mean.

use super::clip;

/// Gradients `[m, N]` of a micro-batch; of the whole batch `[B, N]` where what an example may count depends on all of them.
#[derive(Default)]
pub(super) struct Exact {
    gradients: Vec<f32>,
    parameters: usize,
    keeps: bool,
    sum: Vec<f64>,
    examples: usize,
    magnitudes: Vec<f64>,
    factors: Vec<f64>,
    sorted: Vec<f64>,
}

impl Exact {
    /// Forgets the last step. `clip`: as [`super::TuneOptions::clip`].
    pub fn begin(&mut self, parameters: usize, clip: f64) {
        (self.parameters, self.keeps, self.examples) = (parameters, clip > 0.0, 0);
        self.sum.clear();
        self.sum.resize(parameters, 0.0);
        self.magnitudes.clear();
    }

    /// Room for the next `count` examples' gradients.
    pub fn next(&mut self, count: usize) -> &mut [f32] {
        let first = if self.keeps { self.examples * self.parameters } else { 0 };
        let len = count * self.parameters;
        self.gradients.resize(first + len, 0.0);
        &mut self.gradients[first..]
    }

    /// Takes them in.
    pub fn add(&mut self, count: usize) {
        self.examples += count;
        let first = self.gradients.len() - count * self.parameters;
        for gradient in self.gradients[first..].chunks_exact(self.parameters.max(1)) {
            if self.keeps {
                self.magnitudes.push(gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt());
            } else {
                self.sum.iter_mut().zip(gradient).for_each(|(sum, &g)| *sum += f64::from(g));
            }
        }
    }

    /// Their mean, each counting what `clip` allows: `out` `[N]`.
    pub fn finish(&mut self, clip: f64, out: &mut [f32]) {
        if self.keeps {
            clip::factors(&self.magnitudes, clip, &mut self.sorted, &mut self.factors);
            let gradients = self.gradients.chunks_exact(self.parameters.max(1));
            for (gradient, factor) in gradients.zip(&self.factors) {
                self.sum.iter_mut().zip(gradient).for_each(|(sum, &g)| *sum += factor * f64::from(g));
            }
        }
        let scale = 1.0 / self.examples.max(1) as f64;
        out.iter_mut().zip(&self.sum).for_each(|(g, &sum)| *g = (sum * scale) as f32);
    }
}
