//! Every operation of the backend: arguments checked and shared out to tasks, whose kernels are in the file of its name.

use super::gemm::{Layout, Start, Strided, StridedMut, Weight};
use super::memory::{Buffer, Shared};
use super::rows::for_ranges;
use super::{CpuBackend, Matrix, Precision, Vector, lock, vector_len};
use super::{activation, attention, attention_vjp, embed, norm, residual, vector};
use crate::Result;
use crate::backend::{At, Backend, Heads, Linear, Needs, Norm, PatchGrid, Rows};
use crate::memory::Arena;
use crate::model::{Head, Mlp, ModelSpec};
use crate::ops::loss::{self, Judged};
use crate::weights::{LinearRef, VectorRef};
use std::ops::Range;

/// γ and β, converted into `scratch` where they are mapped.
fn affine<'a>(norm: &'a Norm<Vector>, scratch: &'a mut Buffer) -> Result<norm::Affine<'a>> {
    let [gamma, beta] = vector::values([Some(&norm.gamma), Some(&norm.beta)], scratch)?;
    Ok(norm::Affine { gamma: gamma.unwrap_or_default(), beta: beta.unwrap_or_default(), eps: norm.eps })
}

impl Backend for CpuBackend {
    type Elem = f32;
    type Buffer = Buffer;
    type Staging = Buffer;
    type Arena = Arena;
    type Matrix = Matrix;
    type Vector = Vector;
    type Recording = ();

    fn precision(&self) -> Precision {
        self.gemm.precision()
    }

    fn arithmetic(&self) -> String {
        self.gemm.arithmetic()
    }

    fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.pool.install(f)
    }

    fn reserve(&self, needs: &Needs) -> Result<Arena> {
        let lens = needs.buffers.iter().chain(&needs.staging);
        let bytes = lens.fold(0, |sum: usize, &len| sum.saturating_add(Buffer::bytes(len)));
        Arena::reserve_from(&self.allocator, bytes, "the buffers of the passes")
    }

    fn carve(&self, arena: &Arena, len: usize) -> Result<Buffer> {
        Buffer::carved(arena, len, "a buffer of the passes")
    }

    fn carve_staging(&self, arena: &Arena, len: usize) -> Result<Buffer> {
        self.carve(arena, len)
    }

    fn reserve_scratch(&self, spec: &ModelSpec, tokens: usize, tangents: usize) -> Result<()> {
        lock(&self.vectors).at_least(vector_len(spec), "vectors of an operation")?;
        self.gemm.reserve_scratch(attention::scratch_len(spec.head_dim(), tokens, tangents))
    }

    fn matrix(&self, rows: usize, cols: usize, data: Vec<f32>) -> Result<Matrix> {
        Ok(Matrix::from_values(rows, cols, data))
    }

    fn weights(&self, linear: &LinearRef, outputs: &[Range<usize>], _block: Option<usize>) -> Result<Matrix> {
        let mut matrix = Matrix::mapped(&linear.weight, linear.cols())?;
        if self.resident {
            self.gemm.pack(&self.pool, &mut matrix, outputs)?;
        }
        Ok(matrix)
    }

    fn vector(&self, data: Vec<f32>) -> Result<Vector> {
        Ok(data.into())
    }

    fn stored_vector(&self, vector: &VectorRef) -> Result<Vector> {
        Vector::mapped(vector)
    }

    fn read_vector(&self, vector: &Vector) -> Result<Vec<f32>> {
        match vector {
            Vector::Values(values) => Ok(values.clone()),
            Vector::Mapped(vector) => vector.read(),
        }
    }

    fn write(&self, buffer: &mut Buffer, offset: usize, data: &[f32]) -> Result<()> {
        buffer[offset..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn read(&self, buffer: &Buffer, offset: usize, data: &mut [f32]) -> Result<()> {
        data.copy_from_slice(&buffer[offset..][..data.len()]);
        Ok(())
    }

    fn zero(&self, buffer: &mut Buffer, range: Range<usize>) -> Result<()> {
        buffer[range].fill(0.0);
        Ok(())
    }

    fn patches(&self, grid: PatchGrid, examples: usize, images: &[f32], out: &mut Buffer) -> Result<()> {
        embed::patches(&self.pool, grid, examples, images, Shared::new(out));
        Ok(())
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
        let mut scratch = lock(&self.vectors);
        let [constant] = vector::values([Some(constant)], &mut scratch)?;
        let constant = constant.unwrap_or_default();
        embed::embed(&self.pool, rows, patches, width, projected, constant, Shared::new(x));
        Ok(())
    }

    fn scatter(&self, rows: &Rows, width: usize, values: &Buffer, x: &mut Buffer) -> Result<()> {
        let x = Shared::new(x);
        for_ranges(&self.pool, rows.primal_len(), |range| residual::scatter(rows, range, width, values, x));
        Ok(())
    }

    fn gather(&self, rows: &Rows, width: usize, x: &Buffer, scale: Option<&Vector>, y: &mut Buffer) -> Result<()> {
        let mut scratch = lock(&self.vectors);
        let ([scale], y) = (vector::values([scale], &mut scratch)?, Shared::new(y));
        for_ranges(&self.pool, rows.primal_len(), |range| residual::gather(rows, range, width, x, scale, y));
        Ok(())
    }

    fn norm(&self, rows: &Rows, norm: &Norm<Vector>, x: &Buffer, y: &mut Buffer) -> Result<()> {
        let mut scratch = lock(&self.vectors);
        let (affine, y) = (affine(norm, &mut scratch)?, Shared::new(y));
        for_ranges(&self.pool, rows.primal_len(), |range| self.isa.dispatch(norm::Norm { rows, range, affine, x, y }));
        Ok(())
    }

    fn linear(
        &self,
        count: usize,
        biased: usize,
        linear: &Linear<Matrix, Vector>,
        outputs: Range<usize>,
        x: At<Buffer>,
        y: &mut Buffer,
        y_offset: usize,
    ) -> Result<()> {
        let n = outputs.len();
        let mut scratch = lock(&self.vectors);
        let start = match vector::values([linear.bias.as_ref()], &mut scratch)? {
            [None] => Start::Zero,
            [Some(bias)] => Start::Bias { bias: &bias[outputs.clone()], rows: biased },
        };
        let x = Strided { data: &x.buffer[x.offset..], stride: x.stride };
        let y = StridedMut { data: &mut y[y_offset..], stride: n };
        let weight = Weight { matrix: &linear.weight, rows: outputs, layout: Layout::Transposed };
        self.gemm.run(&self.pool, count, x, weight, start, y);
        Ok(())
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
        let (queries, keys) = (q_rows.primal().len(), kv_rows.primal().len());
        self.gemm.reserve_scratch(attention::scratch_len(heads.dim, queries.max(keys), out_rows.tangents))?;
        let inputs = attention::Inputs {
            heads,
            q_rows,
            kv_rows,
            q: &q.buffer[q.offset..],
            q_stride: q.stride,
            kv: &kv.buffer[kv.offset..],
            kv_stride: kv.stride,
        };
        let pairs = q_rows.examples * heads.count;
        let block = attention::block(&self.kernels, queries, pairs, self.pool.threads());
        let blocks = queries.div_ceil(block.max(1));
        let y = Shared::new(y);
        self.pool.for_each(pairs * blocks, |task, worker| {
            let (pair, start) = (task / blocks, task % blocks * block);
            let (isa, kernels, scratch) = (self.isa, &self.kernels, &mut *self.gemm.scratch(worker));
            isa.dispatch(attention::Task {
                inputs,
                out_rows,
                isa,
                kernels,
                example: pair / heads.count,
                head: pair % heads.count,
                queries: start..(start + block).min(queries),
                scratch,
                y,
            });
        });
        Ok(())
    }

    fn activation(&self, rows: &Rows, hidden: usize, mlp: Mlp, h: &mut Buffer) -> Result<()> {
        let h = Shared::new(h);
        let count = rows.primal_len();
        for_ranges(&self.pool, count, |range| self.isa.dispatch(activation::Dual { rows, range, hidden, mlp, h }));
        Ok(())
    }

    fn residual(&self, rows: &Rows, width: usize, scale: Option<&Vector>, f: &Buffer, x: &mut Buffer) -> Result<()> {
        let mut scratch = lock(&self.vectors);
        let ([scale], x) = (vector::values([scale], &mut scratch)?, Shared::new(x));
        let count = rows.primal_len();
        for_ranges(&self.pool, count, |range| {
            self.isa.dispatch(residual::Residual { rows, range, width, scale, f, x });
        });
        Ok(())
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
        let mut scratch = lock(&self.vectors);
        let [gamma, beta, scale] = vector::values([Some(&norm.gamma), Some(&norm.beta), scale], &mut scratch)?;
        let residual = norm::Residual { scale, branch: f.map(|f| &f[..]) };
        let affine = norm::Affine { gamma: gamma.unwrap_or_default(), beta: beta.unwrap_or_default(), eps: norm.eps };
        let (x, y) = (Shared::new(x), Shared::new(y));
        for_ranges(&self.pool, rows.primal_len(), |range| {
            self.isa.dispatch(norm::ResidualNorm { rows, range, residual, affine, x, y });
        });
        Ok(())
    }

    fn pool(&self, rows: &Rows, width: usize, groups: &[Range<usize>], y: &Buffer, out: &mut Buffer) -> Result<()> {
        let out = Shared::new(out);
        self.pool.for_each((1 + rows.tangents) * rows.examples, |index, _| {
            self.isa.dispatch(residual::Pool { rows, index, width, groups, y, out });
        });
        Ok(())
    }

    fn judge(
        &self,
        head: &Head,
        labels: &[u32],
        tangents: usize,
        f: &Buffer,
        _work: &mut Buffer,
        out: &mut Judged<f32>,
    ) -> Result<()> {
        loss::judge(head, labels, tangents, f, out);
        Ok(())
    }

    fn linear_vjp(
        &self,
        count: usize,
        linear: &Linear<Matrix, Vector>,
        outputs: Range<usize>,
        dy: At<Buffer>,
        accumulate: bool,
        dx: &mut Buffer,
        dx_offset: usize,
    ) -> Result<()> {
        let start = if accumulate { Start::Keep } else { Start::Zero };
        let dy = Strided { data: &dy.buffer[dy.offset..], stride: dy.stride };
        let dx = StridedMut { data: &mut dx[dx_offset..], stride: linear.weight.cols() };
        let weight = Weight { matrix: &linear.weight, rows: outputs, layout: Layout::Plain };
        self.gemm.run(&self.pool, count, dy, weight, start, dx);
        Ok(())
    }

    fn norm_vjp(&self, rows: &Rows, norm: &Norm<Vector>, x: &Buffer, dy: &Buffer, dx: &mut Buffer) -> Result<()> {
        let mut scratch = lock(&self.vectors);
        let (affine, dx) = (affine(norm, &mut scratch)?, Shared::new(dx));
        for_ranges(&self.pool, rows.primal_len(), |range| {
            self.isa.dispatch(norm::NormVjp { rows, range, affine, x, dy, dx });
        });
        Ok(())
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
        self.gemm.reserve_scratch(attention_vjp::scratch_len(&self.kernels, heads.dim, rows.primal().len()))?;
        let inputs = attention::Inputs {
            heads,
            q_rows: rows,
            kv_rows: rows,
            q: &q.buffer[q.offset..],
            q_stride: q.stride,
            kv: &kv.buffer[kv.offset..],
            kv_stride: kv.stride,
        };
        let (dq, dkv) = dqkv.split_at_mut(rows.len() * heads.count * heads.dim);
        let (dq, dkv) = (Shared::new(dq), Shared::new(dkv));
        self.pool.for_each(rows.examples * heads.count, |task, worker| {
            let (example, head) = (task / heads.count, task % heads.count);
            let scratch = &mut *self.gemm.scratch(worker);
            let kernels = &self.kernels;
            self.isa.dispatch(attention_vjp::Head { inputs, kernels, example, head, dy, scratch, dq, dkv });
        });
        Ok(())
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
        let dh = Shared::new(dh);
        for_ranges(&self.pool, count, |range| {
            self.isa.dispatch(activation::Vjp { range, hidden, mlp, h, dg, dh });
        });
        Ok(())
    }
}
