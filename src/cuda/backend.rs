//! Every operation of the backend: arguments checked, kernels launched by the file of the operation's name.

use super::memory::{Buffer, DeviceArena};
use super::{CudaBackend, Matrix, Precision, Recording, Vector, lock};
use super::{activation, attention, attention_vjp, embed, linear, loss, noise, norm, replay, residual};
use crate::Result;
use crate::backend::{At, Backend, Heads, Linear, Needs, Norm, PatchGrid, Rows};
use crate::cpu::memory::Buffer as Staging;
use crate::memory::Arena;
use crate::model::{Head, Mlp, Model, ModelSpec};
use crate::ops::loss::Judged;
use crate::rng::Draw;
use crate::weights::{LinearRef, VectorRef};
use std::ops::Range;

/// Memory of the passes on both sides.
pub struct Arenas {
    device: DeviceArena,
    host: Arena,
}

impl Backend for CudaBackend {
    type Elem = f32;
    type Buffer = Buffer;
    type Staging = Staging;
    type Arena = Arenas;
    type Matrix = Matrix;
    type Vector = Vector;
    type Recording = Recording;

    fn precision(&self) -> Precision {
        self.precision
    }

    fn arithmetic(&self) -> String {
        let info = self.device.info();
        format!("{} {:?}, driver {}, {}", info.name, info.capability, info.driver, self.products())
    }

    fn replay(&self, recording: &mut Recording, operations: impl FnMut() -> Result<()>) -> Result<()> {
        replay::replay(self, recording, operations)
    }

    fn reserve(&self, needs: &Needs) -> Result<Arenas> {
        const WHAT: &str = "the buffers of the passes";
        let bytes = needs.buffers.iter().fold(0, |sum: usize, &len| sum.saturating_add(self.buffer_bytes(len)));
        let device = match &self.arena {
            Some(arena) => arena.within(bytes, WHAT)?,
            None => DeviceArena::allocate(&self.device, bytes, WHAT)?,
        };
        let bytes = needs.staging.iter().fold(0, |sum: usize, &len| sum.saturating_add(Staging::bytes(len)));
        Ok(Arenas { device, host: Arena::reserve(bytes, WHAT)? })
    }

    fn carve(&self, arena: &Arenas, len: usize) -> Result<Buffer> {
        Buffer::carved(&arena.device, &self.stream, len, self.storage.size())
    }

    fn carve_staging(&self, arena: &Arenas, len: usize) -> Result<Staging> {
        Staging::carved(&arena.host, len, "values on their way to the device")
    }

    fn reserve_scratch(&self, spec: &ModelSpec, tokens: usize, _tangents: usize) -> Result<()> {
        lock(&self.rows).reserve(&self.device, self.arena.as_ref(), tokens)?;
        self.through_window(spec.image_len(), |_| Ok(()))
    }

    fn begin_weights(&self, model: &Model) -> Result<()> {
        self.weights.prepare(self.arena.as_ref(), model)
    }

    fn end_weights(&self) -> Result<()> {
        self.weights.finish()
    }

    fn matrix(&self, rows: usize, cols: usize, data: Vec<f32>) -> Result<Matrix> {
        self.weights.matrix_of(&self.stream, rows, cols, &data)
    }

    fn weights(&self, linear: &LinearRef, _outputs: &[Range<usize>], block: Option<usize>) -> Result<Matrix> {
        self.weights.matrix(&self.stream, linear, block)
    }

    fn vector(&self, data: Vec<f32>) -> Result<Vector> {
        self.weights.vector_of(&self.stream, &data)
    }

    fn stored_vector(&self, vector: &VectorRef) -> Result<Vector> {
        self.weights.vector(&self.stream, vector)
    }

    fn read_vector(&self, vector: &Vector) -> Result<Vec<f32>> {
        let mut values = vec![0.0; vector.len];
        embed::read_at(self, vector.address(), self.storage, &mut values)?;
        Ok(values)
    }

    fn write(&self, buffer: &mut Buffer, offset: usize, data: &[f32]) -> Result<()> {
        embed::write(self, buffer, offset, data)
    }

    fn read(&self, buffer: &Buffer, offset: usize, data: &mut [f32]) -> Result<()> {
        embed::read(self, buffer, offset, data)
    }

    fn noise(&self, draw: &Draw, rows: Range<usize>, len: usize, out: &mut Buffer) -> Result<bool> {
        noise::noise(self, draw, rows, len, out).map(|()| true)
    }

    fn noise_sum(&self, draw: &Draw, weights: &[f64], out: &mut [f64]) -> Result<bool> {
        noise::noise_sum(self, draw, weights, out).map(|()| true)
    }

    fn zero(&self, buffer: &mut Buffer, range: Range<usize>) -> Result<()> {
        let start = buffer.at(range.start, range.len());
        // SAFETY: within the buffer.
        unsafe { self.stream.zero(start, range.len() * self.storage.size()) }
    }

    fn patches(&self, grid: PatchGrid, examples: usize, images: &[f32], out: &mut Buffer) -> Result<()> {
        embed::patches(self, grid, examples, images, out)
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
        embed::embed(self, rows, patches, width, projected, constant, x)
    }

    fn scatter(&self, rows: &Rows, width: usize, values: &Buffer, x: &mut Buffer) -> Result<()> {
        residual::move_rows(self, self.kernels.residual.scatter, rows, width, None, values, x)
    }

    fn gather(&self, rows: &Rows, width: usize, x: &Buffer, scale: Option<&Vector>, y: &mut Buffer) -> Result<()> {
        residual::move_rows(self, self.kernels.residual.gather, rows, width, scale, y, x)
    }

    fn norm(&self, rows: &Rows, layer: &Norm<Vector>, x: &Buffer, y: &mut Buffer) -> Result<()> {
        norm::norm(self, rows, layer, None, x, y)
    }

    fn linear(
        &self,
        count: usize,
        biased: usize,
        layer: &Linear<Matrix, Vector>,
        outputs: Range<usize>,
        x: At<Buffer>,
        y: &mut Buffer,
        y_offset: usize,
    ) -> Result<()> {
        linear::linear(self, count, biased, layer, outputs, x, y, y_offset)
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
        attention::attention(self, heads, [q_rows, kv_rows, out_rows], q, kv, y)
    }

    fn activation(&self, rows: &Rows, hidden: usize, mlp: Mlp, h: &mut Buffer) -> Result<()> {
        activation::activation(self, rows, hidden, mlp, h)
    }

    fn residual(&self, rows: &Rows, width: usize, scale: Option<&Vector>, f: &Buffer, x: &mut Buffer) -> Result<()> {
        residual::move_rows(self, self.kernels.residual.residual, rows, width, scale, f, x)
    }

    fn residual_norm(
        &self,
        rows: &Rows,
        scale: Option<&Vector>,
        layer: &Norm<Vector>,
        f: Option<&Buffer>,
        x: &mut Buffer,
        y: &mut Buffer,
    ) -> Result<()> {
        let branch = f.unwrap_or(y).at(0, rows.len() * layer.gamma.len);
        norm::norm(self, rows, layer, Some((branch, scale)), x, y)
    }

    fn pool(&self, rows: &Rows, width: usize, groups: &[Range<usize>], y: &Buffer, out: &mut Buffer) -> Result<()> {
        residual::pool(self, rows, width, groups, y, out)
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
        loss::judge(self, head, labels, tangents, f, work, out)
    }

    fn linear_vjp(
        &self,
        count: usize,
        layer: &Linear<Matrix, Vector>,
        outputs: Range<usize>,
        dy: At<Buffer>,
        accumulate: bool,
        dx: &mut Buffer,
        dx_offset: usize,
    ) -> Result<()> {
        linear::linear_vjp(self, count, layer, outputs, dy, accumulate, dx, dx_offset)
    }

    fn norm_vjp(&self, rows: &Rows, layer: &Norm<Vector>, x: &Buffer, dy: &Buffer, dx: &mut Buffer) -> Result<()> {
        norm::norm_vjp(self, rows, layer, x, dy, dx)
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
        attention_vjp::attention_vjp(self, heads, rows, q, kv, dy, dqkv)
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
        activation::activation_vjp(self, count, hidden, mlp, h, dg, dh)
    }
}

impl CudaBackend {
    fn buffer_bytes(&self, len: usize) -> usize {
        Buffer::bytes(len, self.storage.size())
    }
}
