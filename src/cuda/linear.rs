//! Matrix products: by cuBLASLt where it can be loaded, else by `kernels/linear.cu` and, in f32, `kernels/linear_f32.cu`.
//!
//! The bias of the primal rows is added by the product itself: in our kernels to the first rows of the one product over all
//! rows, in cuBLASLt, which adds a bias to all rows or none, by splitting the product where the tangents begin.

use super::blas::{Operands, Shape};
use super::memory::{Buffer, rows};
use super::module::{Kernel, Launch, Module};
use super::{CudaBackend, Matrix, Storage, Vector, narrow};
use crate::Result;
use crate::backend::{At, Linear};
use std::ops::Range;

/// Twin of `LinearArgs`.
#[repr(C)]
struct LinearArgs {
    x: u64,
    w: u64,
    bias: u64,
    y: u64,
    x_stride: u64,
    y_stride: u64,
    w_stride: u64,
    count: u32,
    biased: u32,
    n: u32,
    k: u32,
    accumulate: u32,
    unused: u32,
}

#[expect(clippy::too_many_arguments, reason = "the trait's")]
pub(super) fn linear(
    gpu: &CudaBackend,
    count: usize,
    biased: usize,
    layer: &Linear<Matrix, Vector>,
    outputs: Range<usize>,
    x: At<Buffer>,
    y: &Buffer,
    y_offset: usize,
) -> Result<()> {
    let Matrix { rows: most, cols: k, .. } = layer.weight;
    assert!(outputs.end <= most && layer.bias.as_ref().is_none_or(|bias| bias.len == most), "outputs of the layer");
    let (n, size) = (outputs.len(), gpu.storage.size() as u64);
    let weight = gpu.weights.find(&gpu.stream, &layer.weight)?;
    let bias = layer.bias.as_ref().map_or(0, |bias| bias.address() + outputs.start as u64 * size);
    let operands = Operands {
        x: rows(&x, count, k),
        w: weight.address + (outputs.start * k) as u64 * size,
        bias,
        y: y.at(y_offset, count * n),
    };
    let biased = if bias == 0 { 0 } else { biased.min(count) };
    let shape = |count, bias| Shape {
        count,
        n,
        k,
        x_stride: x.stride,
        y_stride: n,
        w_stride: k,
        transposed: true,
        bias,
        accumulate: false,
    };
    product(gpu, shape, operands, count, biased)
}

#[expect(clippy::too_many_arguments, reason = "the trait's")]
pub(super) fn linear_vjp(
    gpu: &CudaBackend,
    count: usize,
    layer: &Linear<Matrix, Vector>,
    outputs: Range<usize>,
    dy: At<Buffer>,
    accumulate: bool,
    dx: &Buffer,
    dx_offset: usize,
) -> Result<()> {
    let Matrix { rows: most, cols: n, .. } = layer.weight;
    assert!(outputs.end <= most, "outputs of the layer");
    let weight = gpu.weights.find(&gpu.stream, &layer.weight)?;
    let operands = Operands {
        x: rows(&dy, count, outputs.len()),
        w: weight.address + (outputs.start * n * gpu.storage.size()) as u64,
        bias: 0,
        y: dx.at(dx_offset, count * n),
    };
    let shape = |count, bias| Shape {
        count,
        n,
        k: outputs.len(),
        x_stride: dy.stride,
        y_stride: n,
        w_stride: n,
        transposed: false,
        bias,
        accumulate,
    };
    product(gpu, shape, operands, count, 0)
}

/// The product of the first `biased` rows with bias and that of the others without.
fn product(
    gpu: &CudaBackend,
    shape: impl Fn(usize, bool) -> Shape,
    operands: Operands,
    count: usize,
    biased: usize,
) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let Some(blas) = &gpu.blas else { return gpu.kernels.linear.run(gpu, &shape(count, false), &operands, biased) };
    for (range, bias) in [(0..biased, true), (biased..count, false)] {
        if range.is_empty() {
            continue;
        }
        let shape = shape(range.len(), bias);
        let size = gpu.storage.size();
        let operands = Operands {
            x: operands.x + (range.start * shape.x_stride * size) as u64,
            y: operands.y + (range.start * shape.y_stride * size) as u64,
            ..operands
        };
        // SAFETY: the operands' sizes were checked.
        if !unsafe { blas.run(&gpu.stream, shape, operands)? } {
            gpu.kernels.linear.run(gpu, &shape, &operands, if bias { range.len() } else { 0 })?;
        }
    }
    Ok(())
}

/// Our own.
pub(super) struct Kernels {
    /// Of y = x·Wᵀ and of y = x·W.
    products: [[Instance; 2]; 2],
}

/// A kernel, the sides of its tile, and how it is launched.
#[derive(Clone, Copy)]
struct Instance {
    kernel: Kernel,
    side: usize,
    block: u32,
    shared: usize,
}

impl Kernels {
    pub(super) fn load(module: &Module, storage: Storage) -> Result<Self> {
        // Three stages of two tiles that are 32 values deep; in f32 there is one size and its memory is not dynamic.
        let shared = |side: usize| if storage == Storage::F32 { 0 } else { 3 * 2 * side * 32 * storage.size() };
        let instance = |name, side, block| -> Result<Instance> {
            Ok(Instance { kernel: module.kernel(name)?, side, block, shared: shared(side) })
        };
        let both = |large: &'static str, small: &'static str| -> Result<[Instance; 2]> {
            if storage == Storage::F32 {
                let only = instance(large, 64, 256)?;
                return Ok([only, only]);
            }
            Ok([instance(large, 128, 256)?, instance(small, 64, 128)?])
        };
        Ok(Kernels { products: [both("linear", "linear_small")?, both("linear_vjp", "linear_vjp_small")?] })
    }

    fn run(&self, gpu: &CudaBackend, shape: &Shape, operands: &Operands, biased: usize) -> Result<()> {
        let &Shape { count, n, k, x_stride, y_stride, w_stride, transposed, accumulate, .. } = shape;
        let &Operands { x, w, bias, y } = operands;
        let args = LinearArgs {
            x,
            w,
            bias,
            y,
            x_stride: x_stride as u64,
            y_stride: y_stride as u64,
            w_stride: w_stride as u64,
            count: narrow("rows of a product", count)?,
            biased: narrow("rows of a product", biased)?,
            n: narrow("columns of a product", n)?,
            k: narrow("depth of a product", k)?,
            accumulate: u32::from(accumulate),
            unused: 0,
        };
        let [large, small] = self.products[usize::from(!transposed)];
        let tiles = |side: usize| count.div_ceil(side) * n.div_ceil(side);
        // Large tiles once there are enough to keep all multiprocessors busy.
        let busy = tiles(large.side) >= 2 * gpu.device.info().multiprocessors as usize;
        let Instance { kernel, side, block, shared } = if busy { large } else { small };
        let launch = Launch { shared, ..Launch::rows(tiles(side), block) };
        // SAFETY: the twin; the operands' sizes were checked.
        unsafe { kernel.launch(&gpu.stream, launch, &args) }
    }
}
