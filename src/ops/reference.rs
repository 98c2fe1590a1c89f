//! The reference backend: every operation is the scalar loop of its own file.

use super::loss::{self, Judged};
use super::{Real, activation, attention, embed, linear, norm, residual};
use crate::backend::{At, Backend, Heads, Linear, Needs, Norm, PatchGrid, Rows};
use crate::model::{Head, Mlp};
use crate::{Error, Result};
use std::marker::PhantomData;
use std::ops::Range;

/// Plain loops over `T`: f64 for parity with the golden cases, f32 as the yardstick of rounding.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference<T>(PhantomData<T>);

impl<T: Real> Reference<T> {
    /// The backend.
    pub fn new() -> Self {
        Reference(PhantomData)
    }
}

/// A row-major matrix in host memory.
pub struct HostMatrix<T> {
    data: Vec<T>,
    cols: usize,
}

impl<T> HostMatrix<T> {
    fn rows(&self, outputs: &Range<usize>) -> (&[T], usize) {
        (&self.data[linear::rows_of(outputs, self.cols)], self.cols)
    }
}

impl<T: Real> Backend for Reference<T> {
    type Elem = T;
    type Buffer = Vec<T>;
    type Staging = Vec<T>;
    type Arena = ();
    type Matrix = HostMatrix<T>;
    type Vector = Vec<T>;
    type Recording = ();

    fn reserve(&self, _: &Needs) -> Result<()> {
        Ok(())
    }

    fn carve(&self, (): &(), len: usize) -> Result<Vec<T>> {
        let mut buffer = Vec::new();
        buffer
            .try_reserve_exact(len)
            .map_err(|_| Error::OutOfMemory { bytes: len.saturating_mul(size_of::<T>()), what: "an encoder buffer" })?;
        buffer.resize(len, T::zero());
        Ok(buffer)
    }

    fn carve_staging(&self, (): &(), len: usize) -> Result<Vec<T>> {
        self.carve(&(), len)
    }

    fn matrix(&self, rows: usize, cols: usize, data: Vec<T>) -> Result<HostMatrix<T>> {
        debug_assert_eq!(data.len(), rows * cols);
        Ok(HostMatrix { data, cols })
    }

    fn vector(&self, data: Vec<T>) -> Result<Vec<T>> {
        Ok(data)
    }

    fn read_vector(&self, vector: &Vec<T>) -> Result<Vec<T>> {
        Ok(vector.clone())
    }

    fn write(&self, buffer: &mut Vec<T>, offset: usize, data: &[T]) -> Result<()> {
        buffer[offset..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn read(&self, buffer: &Vec<T>, offset: usize, data: &mut [T]) -> Result<()> {
        data.copy_from_slice(&buffer[offset..][..data.len()]);
        Ok(())
    }

    fn zero(&self, buffer: &mut Vec<T>, range: Range<usize>) -> Result<()> {
        buffer[range].fill(T::zero());
        Ok(())
    }

    fn patches(&self, grid: PatchGrid, examples: usize, images: &[T], out: &mut Vec<T>) -> Result<()> {
        embed::patches(grid, examples, images, out);
        Ok(())
    }

    fn embed(
        &self,
        rows: &Rows,
        patches: usize,
        width: usize,
        projected: &Vec<T>,
        constant: &Vec<T>,
        x: &mut Vec<T>,
    ) -> Result<()> {
        embed::embed(rows, patches, width, projected, constant, x);
        Ok(())
    }

    fn scatter(&self, rows: &Rows, width: usize, values: &Vec<T>, x: &mut Vec<T>) -> Result<()> {
        residual::scatter(rows, width, values, x);
        Ok(())
    }

    fn gather(&self, rows: &Rows, width: usize, x: &Vec<T>, scale: Option<&Vec<T>>, y: &mut Vec<T>) -> Result<()> {
        residual::gather(rows, width, x, scale.map(Vec::as_slice), y);
        Ok(())
    }

    fn norm(&self, rows: &Rows, norm: &Norm<Self::Vector>, x: &Vec<T>, y: &mut Vec<T>) -> Result<()> {
        norm::dual(rows, &norm.gamma, &norm.beta, norm.eps, x, y);
        Ok(())
    }

    fn linear(
        &self,
        count: usize,
        biased: usize,
        linear: &Linear<Self::Matrix, Self::Vector>,
        outputs: Range<usize>,
        x: At<Vec<T>>,
        y: &mut Vec<T>,
        y_offset: usize,
    ) -> Result<()> {
        let bias = linear.bias.as_ref().map(|b| &b[outputs.clone()]);
        let x = (&x.buffer[x.offset..], x.stride);
        linear::forward(count, biased, linear.weight.rows(&outputs), bias, x, &mut y[y_offset..]);
        Ok(())
    }

    fn attention(
        &self,
        heads: Heads,
        q_rows: &Rows,
        kv_rows: &Rows,
        out_rows: &Rows,
        q: At<Vec<T>>,
        kv: At<Vec<T>>,
        y: &mut Vec<T>,
    ) -> Result<()> {
        attention::dual(heads, (q_rows, kv_rows, out_rows), &q.buffer[q.offset..], &kv.buffer[kv.offset..], y);
        Ok(())
    }

    fn activation(&self, rows: &Rows, hidden: usize, mlp: Mlp, h: &mut Vec<T>) -> Result<()> {
        activation::dual(rows, hidden, mlp, h);
        Ok(())
    }

    fn residual(&self, rows: &Rows, width: usize, scale: Option<&Vec<T>>, f: &Vec<T>, x: &mut Vec<T>) -> Result<()> {
        residual::residual(rows, width, scale.map(Vec::as_slice), f, x);
        Ok(())
    }

    fn residual_norm(
        &self,
        rows: &Rows,
        scale: Option<&Vec<T>>,
        norm: &Norm<Self::Vector>,
        f: Option<&Vec<T>>,
        x: &mut Vec<T>,
        y: &mut Vec<T>,
    ) -> Result<()> {
        let width = norm.gamma.len();
        residual::residual(rows, width, scale.map(Vec::as_slice), f.unwrap_or(y), x);
        self.norm(rows, norm, x, y)
    }

    fn pool(&self, rows: &Rows, width: usize, groups: &[Range<usize>], y: &Vec<T>, out: &mut Vec<T>) -> Result<()> {
        residual::pool(rows, width, groups, y, out);
        Ok(())
    }

    fn judge(
        &self,
        head: &Head,
        labels: &[u32],
        tangents: usize,
        f: &Vec<T>,
        _work: &mut Vec<T>,
        out: &mut Judged<T>,
    ) -> Result<()> {
        loss::judge(head, labels, tangents, f, out);
        Ok(())
    }

    fn linear_vjp(
        &self,
        count: usize,
        linear: &Linear<Self::Matrix, Self::Vector>,
        outputs: Range<usize>,
        dy: At<Vec<T>>,
        accumulate: bool,
        dx: &mut Vec<T>,
        dx_offset: usize,
    ) -> Result<()> {
        let dy = (&dy.buffer[dy.offset..], dy.stride);
        linear::vjp(count, linear.weight.rows(&outputs), dy, accumulate, &mut dx[dx_offset..]);
        Ok(())
    }

    fn norm_vjp(&self, rows: &Rows, norm: &Norm<Self::Vector>, x: &Vec<T>, dy: &Vec<T>, dx: &mut Vec<T>) -> Result<()> {
        let d = norm.gamma.len();
        for (compact, stream) in rows.pairs().take(rows.primal_len()) {
            let x = &x[stream * d..][..d];
            norm::vjp(x, &dy[compact * d..][..d], &norm.gamma, norm.eps, &mut dx[stream * d..][..d]);
        }
        Ok(())
    }

    fn attention_vjp(
        &self,
        heads: Heads,
        rows: &Rows,
        q: At<Vec<T>>,
        kv: At<Vec<T>>,
        dy: &Vec<T>,
        dqkv: &mut Vec<T>,
    ) -> Result<()> {
        attention::vjp(heads, rows, &q.buffer[q.offset..], &kv.buffer[kv.offset..], dy, dqkv);
        Ok(())
    }

    fn activation_vjp(
        &self,
        count: usize,
        hidden: usize,
        mlp: Mlp,
        h: &Vec<T>,
        dg: &Vec<T>,
        dh: &mut Vec<T>,
    ) -> Result<()> {
        activation::vjp(count, hidden, mlp, h, dg, dh);
        Ok(())
    }
}
