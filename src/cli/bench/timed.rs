//! A backend that times another's operations: where the time of a pass goes.

use foretune::Result;
use foretune::backend::{At, Backend, Heads, Linear, Needs, Norm, PatchGrid, Precision, Rows, hidden_columns};
use foretune::cpu::memory::Buffer;
use foretune::cpu::{CpuBackend, Matrix, Vector};
use foretune::encoder::attention_flops;
use foretune::memory::Arena;
use foretune::model::{Head, Mlp, ModelSpec};
use foretune::ops::loss::Judged;
use foretune::weights::{LinearRef, VectorRef};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What an operation did, over all its calls.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) calls: u64,
    /// Of products; elementwise work is bound by bytes.
    pub(super) flops: u64,
    /// Read and written, each once.
    pub(super) bytes: u64,
    pub(super) time: Duration,
}

/// Costs by operation.
#[derive(Clone, Default)]
pub(super) struct Costs(Arc<Mutex<BTreeMap<String, Cost>>>);

impl Costs {
    /// Those since the last call.
    pub(super) fn take(&self) -> BTreeMap<String, Cost> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, name: String, flops: u64, bytes: u64, time: Duration) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = all.entry(name).or_default();
        cost.calls += 1;
        cost.flops += flops;
        cost.bytes += bytes;
        cost.time += time;
    }
}

pub(super) struct Timed {
    pub(super) inner: CpuBackend,
    pub(super) costs: Costs,
}

impl Timed {
    /// Times `run`, which takes `flops` and moves `values` f32 values.
    fn time<R>(&self, name: impl Into<String>, flops: usize, values: usize, run: impl FnOnce(&CpuBackend) -> R) -> R {
        let start = Instant::now();
        let result = run(&self.inner);
        self.costs.add(name.into(), flops as u64, (values * size_of::<f32>()) as u64, start.elapsed());
        result
    }
}

type Layer = Linear<Matrix, Vector>;

impl Backend for Timed {
    type Elem = f32;
    type Buffer = Buffer;
    type Staging = Buffer;
    type Arena = Arena;
    type Matrix = Matrix;
    type Vector = Vector;
    type Recording = ();

    fn precision(&self) -> Precision {
        self.inner.precision()
    }
    fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.inner.enter(f)
    }
    fn reserve(&self, needs: &Needs) -> Result<Arena> {
        self.inner.reserve(needs)
    }
    fn carve(&self, arena: &Arena, len: usize) -> Result<Buffer> {
        self.inner.carve(arena, len)
    }
    fn carve_staging(&self, arena: &Arena, len: usize) -> Result<Buffer> {
        self.inner.carve_staging(arena, len)
    }
    fn reserve_scratch(&self, spec: &ModelSpec, tokens: usize, tangents: usize) -> Result<()> {
        self.inner.reserve_scratch(spec, tokens, tangents)
    }
    fn matrix(&self, rows: usize, cols: usize, data: Vec<f32>) -> Result<Matrix> {
        self.inner.matrix(rows, cols, data)
    }
    fn weights(&self, linear: &LinearRef, outputs: &[Range<usize>], block: Option<usize>) -> Result<Matrix> {
        self.inner.weights(linear, outputs, block)
    }
    fn vector(&self, data: Vec<f32>) -> Result<Vector> {
        self.inner.vector(data)
    }
    fn stored_vector(&self, vector: &VectorRef) -> Result<Vector> {
        self.inner.stored_vector(vector)
    }
    fn read_vector(&self, vector: &Vector) -> Result<Vec<f32>> {
        self.inner.read_vector(vector)
    }
    fn write(&self, buffer: &mut Buffer, offset: usize, data: &[f32]) -> Result<()> {
        self.time("copies", 0, 2 * data.len(), |b| b.write(buffer, offset, data))
    }
    fn read(&self, buffer: &Buffer, offset: usize, data: &mut [f32]) -> Result<()> {
        self.time("copies", 0, 2 * data.len(), |b| b.read(buffer, offset, data))
    }
    fn zero(&self, buffer: &mut Buffer, range: Range<usize>) -> Result<()> {
        self.time("zero", 0, range.len(), |b| b.zero(buffer, range))
    }

    fn patches(&self, grid: PatchGrid, examples: usize, images: &[f32], out: &mut Buffer) -> Result<()> {
        self.time("patches", 0, 2 * images.len(), |b| b.patches(grid, examples, images, out))
    }
    fn embed(
        &self,
        rows: &Rows,
        patches: usize,
        width: usize,
        projected: &Buffer,
        constant: &Vector,
        x: &mut Buffer,
    ) -> Result<()> {
        let values = 3 * rows.len() * width;
        self.time("embed", 0, values, |b| b.embed(rows, patches, width, projected, constant, x))
    }
    fn scatter(&self, rows: &Rows, width: usize, values: &Buffer, x: &mut Buffer) -> Result<()> {
        self.time("scatter", 0, 2 * rows.len() * width, |b| b.scatter(rows, width, values, x))
    }
    fn gather(&self, rows: &Rows, width: usize, x: &Buffer, scale: Option<&Vector>, y: &mut Buffer) -> Result<()> {
        self.time("gather", 0, 2 * rows.len() * width, |b| b.gather(rows, width, x, scale, y))
    }
    fn norm(&self, rows: &Rows, norm: &Norm<Vector>, x: &Buffer, y: &mut Buffer) -> Result<()> {
        self.time("norm", 0, 2 * rows.len() * norm.gamma.len(), |b| b.norm(rows, norm, x, y))
    }
    fn linear(
        &self,
        count: usize,
        biased: usize,
        linear: &Layer,
        outputs: Range<usize>,
        x: At<Buffer>,
        y: &mut Buffer,
        y_offset: usize,
    ) -> Result<()> {
        let (n, k) = (outputs.len(), linear.weight.cols());
        // Weights count as stored in 16 bits.
        let values = count * (n + k) + n * k / 2;
        self.time(format!("linear {k}→{n}"), 2 * count * n * k, values, |b| {
            b.linear(count, biased, linear, outputs, x, y, y_offset)
        })
    }
    fn attention(
        &self,
        heads: Heads,
        q_rows: &Rows,
        kv_rows: &Rows,
        out_rows: &Rows,
        q: At<Buffer>,
        kv: At<Buffer>,
        y: &mut Buffer,
    ) -> Result<()> {
        let width = heads.count * heads.dim;
        let flops = attention_flops(q_rows, kv_rows, out_rows, width) as usize;
        let values = (q_rows.len() + 2 * kv_rows.len() + out_rows.len()) * width;
        self.time("attention", flops, values, |b| b.attention(heads, q_rows, kv_rows, out_rows, q, kv, y))
    }
    fn activation(&self, rows: &Rows, hidden: usize, mlp: Mlp, h: &mut Buffer) -> Result<()> {
        let values = rows.len() * hidden * (1 + hidden_columns(mlp));
        self.time("activation", 0, values, |b| b.activation(rows, hidden, mlp, h))
    }
    fn residual(&self, rows: &Rows, width: usize, scale: Option<&Vector>, f: &Buffer, x: &mut Buffer) -> Result<()> {
        self.time("residual", 0, 3 * rows.len() * width, |b| b.residual(rows, width, scale, f, x))
    }
    fn residual_norm(
        &self,
        rows: &Rows,
        scale: Option<&Vector>,
        norm: &Norm<Vector>,
        f: Option<&Buffer>,
        x: &mut Buffer,
        y: &mut Buffer,
    ) -> Result<()> {
        let values = 4 * rows.len() * norm.gamma.len();
        self.time("residual + norm", 0, values, |b| b.residual_norm(rows, scale, norm, f, x, y))
    }
    fn pool(&self, rows: &Rows, width: usize, groups: &[Range<usize>], y: &Buffer, out: &mut Buffer) -> Result<()> {
        self.time("pool", 0, rows.len() * width, |b| Backend::pool(b, rows, width, groups, y, out))
    }
    fn judge(
        &self,
        head: &Head,
        labels: &[u32],
        tangents: usize,
        f: &Buffer,
        work: &mut Buffer,
        out: &mut Judged<f32>,
    ) -> Result<()> {
        let (rows, classes, width) = ((1 + tangents) * labels.len(), head.classes(), head.width());
        let values = rows * (classes + width) + classes * width;
        self.time("head + loss", 2 * rows * classes * width, values, |b| b.judge(head, labels, tangents, f, work, out))
    }

    fn linear_vjp(
        &self,
        count: usize,
        linear: &Layer,
        outputs: Range<usize>,
        dy: At<Buffer>,
        accumulate: bool,
        dx: &mut Buffer,
        dx_offset: usize,
    ) -> Result<()> {
        self.inner.linear_vjp(count, linear, outputs, dy, accumulate, dx, dx_offset)
    }
    fn norm_vjp(&self, rows: &Rows, norm: &Norm<Vector>, x: &Buffer, dy: &Buffer, dx: &mut Buffer) -> Result<()> {
        self.inner.norm_vjp(rows, norm, x, dy, dx)
    }
    fn attention_vjp(
        &self,
        heads: Heads,
        rows: &Rows,
        q: At<Buffer>,
        kv: At<Buffer>,
        dy: &Buffer,
        dqkv: &mut Buffer,
    ) -> Result<()> {
        self.inner.attention_vjp(heads, rows, q, kv, dy, dqkv)
    }
    fn activation_vjp(
        &self,
        count: usize,
        hidden: usize,
        mlp: Mlp,
        h: &Buffer,
        dg: &Buffer,
        dh: &mut Buffer,
    ) -> Result<()> {
        self.inner.activation_vjp(count, hidden, mlp, h, dg, dh)
    }
}
