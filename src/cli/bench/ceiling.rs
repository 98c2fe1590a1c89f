//! What this machine can do at all: matrix products at the model's shapes, and copies.

use foretune::Result;
use foretune::backend::{Precision, hidden_columns};
use foretune::cpu::gemm::{Gemm, Layout, Matrix, Start, Strided, StridedMut, Weight};
use foretune::cpu::{isa::Isa, memory::Buffer, pool::Pool};
use foretune::model::ModelSpec;
use gemm_common::Parallelism;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Least time that a median is taken over.
const LEAST: Duration = Duration::from_millis(20);

/// One linear layer of the model.
struct Shape {
    /// Rows, outputs and depth of the product.
    size: [usize; 3],
    /// Times it occurs in a pass.
    times: usize,
}

/// Measures the linear layers of a forward pass, by our products and by the `gemm` crate's.
pub(super) struct Ceiling {
    pool: Pool,
    gemm: Gemm,
    shapes: Vec<Shape>,
    x: Buffer,
    w: Vec<Matrix>,
    values: Vec<Vec<f32>>,
    y: Buffer,
}

/// Seconds of one pass's linear layers, layer by layer the better of the two, and of each alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seconds {
    pub(super) best: f64,
    pub(super) ours: f64,
    /// The `gemm` crate computes in f32 only.
    pub(super) peer: Option<f64>,
}

impl Ceiling {
    pub(super) fn new(spec: &ModelSpec, examples: usize, precision: Precision, threads: usize) -> Result<Self> {
        let rows = examples * spec.tokens(0);
        let (d, columns) = (spec.width, spec.hidden * hidden_columns(spec.mlp));
        let patch = spec.channels * spec.patch[0] * spec.patch[1];
        let shapes = vec![
            Shape { size: [examples * spec.patches(), d, patch], times: 1 },
            Shape { size: [rows, 3 * d, d], times: spec.depth },
            Shape { size: [rows, d, d], times: spec.depth },
            Shape { size: [rows, columns, d], times: spec.depth },
            Shape { size: [rows, d, spec.hidden], times: spec.depth },
        ];
        let most = |f: fn([usize; 3]) -> usize| shapes.iter().map(|shape| f(shape.size)).max().unwrap_or(0);
        let values: Vec<Vec<f32>> = shapes.iter().map(|s| numbers(s.size[1] * s.size[2])).collect();
        let w = shapes.iter().zip(&values).map(|(s, v)| Matrix::from_values(s.size[1], s.size[2], v.clone())).collect();
        // In memory like that of a pass.
        let mut x = Buffer::zeroed(most(|[m, _, k]| m * k), "rows")?;
        let len = x.len();
        x.copy_from_slice(&numbers(len));
        Ok(Ceiling {
            pool: Pool::new(threads)?,
            gemm: Gemm::new(Isa::detect()?, precision, threads)?,
            x,
            y: Buffer::zeroed(most(|[m, n, _]| m * n), "products")?,
            w,
            values,
            shapes,
        })
    }

    pub(super) fn flops(&self) -> f64 {
        self.shapes.iter().map(|Shape { size: [m, n, k], times }| 2.0 * (m * n * k * times) as f64).sum()
    }

    pub(super) fn measure(&mut self) -> Seconds {
        let peer = self.gemm.precision() == Precision::F32;
        let mut total = Seconds { best: 0.0, ours: 0.0, peer: peer.then_some(0.0) };
        for index in 0..self.shapes.len() {
            let times = self.shapes[index].times as f64;
            let ours = timed(|| self.ours(index)) * times;
            let peer = peer.then(|| timed(|| self.peer(index)) * times);
            total.ours += ours;
            total.peer = total.peer.zip(peer).map(|(sum, peer)| sum + peer);
            total.best += peer.map_or(ours, |peer| ours.min(peer));
        }
        total
    }

    fn ours(&mut self, index: usize) {
        let [m, n, k] = self.shapes[index].size;
        let weight = Weight { matrix: &self.w[index], rows: 0..n, layout: Layout::Transposed };
        let y = StridedMut { data: &mut self.y, stride: n };
        self.gemm.run(&self.pool, m, Strided { data: &self.x, stride: k }, weight, Start::Zero, y);
    }

    fn peer(&mut self, index: usize) {
        let [m, n, k] = self.shapes[index].size;
        let parallelism = match self.pool.threads() {
            1 => Parallelism::None,
            threads => Parallelism::Rayon(threads),
        };
        let peer = gemm_f32::gemm::f32::get_gemm_fn();
        let (w, x, y) = (&self.values[index], &self.x, &mut self.y);
        assert!(w.len() >= n * k && x.len() >= m * k && y.len() >= m * n);
        self.pool.install(|| {
            let (n_, k_) = (n as isize, k as isize);
            // SAFETY: yᵀ [n, m] = W [n, k] · xᵀ [k, m], all slices of at least that size.
            unsafe {
                let (w, x, y) = (w.as_ptr(), x.as_ptr(), y.as_mut_ptr());
                peer(n, m, k, y, n_, 1, false, w, 1, k_, x, k_, 1, 0.0, 1.0, false, false, false, parallelism);
            }
        });
    }

    /// Bytes a second that all threads together copy between buffers of the size of an MLP's hidden rows, read and written.
    pub(super) fn bandwidth(&mut self) -> f64 {
        let (len, threads) = (self.y.len().min(self.x.len()), self.pool.threads());
        let part = len.div_ceil(threads).max(1);
        let (pool, x, y) = (&self.pool, &self.x[..len], &mut self.y[..len]);
        let seconds = timed(|| {
            let parts: Vec<_> = x.chunks(part).zip(y.chunks_mut(part)).map(Mutex::new).collect();
            pool.for_each(parts.len(), |task, _| {
                let (from, to) = &mut *parts[task].lock().unwrap_or_else(PoisonError::into_inner);
                to.copy_from_slice(from);
            });
        });
        2.0 * (len * size_of::<f32>()) as f64 / seconds
    }
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect()
}

/// Median seconds of a few calls, after one that warms the caches.
fn timed(mut run: impl FnMut()) -> f64 {
    run();
    let (began, mut all) = (Instant::now(), Vec::new());
    while all.len() < 3 || began.elapsed() < LEAST {
        let start = Instant::now();
        run();
        all.push(start.elapsed().as_secs_f64());
    }
    super::median(all.into_iter())
}
