//! Launches `kernels/norm.cu`.

use super::memory::Buffer;
use super::module::{Kernel, Launch, Module};
use super::rows::RowSet;
use super::weights::address;
use super::{CudaBackend, Vector, narrow};
use crate::Result;
use crate::backend::{Norm, Rows};

/// Twin of `NormArgs`.
#[repr(C)]
struct NormArgs {
    x: u64,
    f: u64,
    y: u64,
    gamma: u64,
    beta: u64,
    scale: u64,
    rows: RowSet,
    width: u32,
    eps: f32,
}

/// Twin of `NormVjpArgs`.
#[repr(C)]
struct NormVjpArgs {
    x: u64,
    dy: u64,
    dx: u64,
    gamma: u64,
    rows: RowSet,
    width: u32,
    eps: f32,
}

pub(super) struct Kernels {
    norm: Kernel,
    norm_vjp: Kernel,
}

impl Kernels {
    pub(super) fn load(module: &Module) -> Result<Self> {
        Ok(Kernels { norm: module.kernel("norm")?, norm_vjp: module.kernel("norm_vjp")? })
    }
}

/// A warp a row, four of them a block where shared memory allows.
fn launch(rows: &Rows, width: usize) -> Launch {
    const SHARED: usize = 48 << 10;
    let warps = (SHARED / (width * size_of::<f32>()).max(1)).clamp(1, 4);
    let shared = warps * width * size_of::<f32>();
    Launch { shared, ..Launch::rows(rows.primal_len().div_ceil(warps), 32 * warps as u32) }
}

/// y = LN(x[rows]), after x[rows] += λ⊙f where there is an f (0: none).
pub(super) fn norm(
    gpu: &CudaBackend,
    rows: &Rows,
    norm: &Norm<Vector>,
    branch: Option<(u64, Option<&Vector>)>,
    x: &Buffer,
    y: &Buffer,
) -> Result<()> {
    let width = norm.gamma.len;
    let (f, scale) = branch.unwrap_or((0, None));
    let args = NormArgs {
        x: x.at(0, (1 + rows.tangents) * rows.examples * rows.tokens * width),
        f,
        y: y.at(0, rows.len() * width),
        gamma: norm.gamma.address(),
        beta: norm.beta.address(),
        scale: address(scale),
        rows: gpu.row_set(rows)?,
        width: narrow("the width of a norm", width)?,
        eps: norm.eps as f32,
    };
    // SAFETY: the twin; the buffers' sizes were checked.
    unsafe { gpu.kernels.norm.norm.launch(&gpu.stream, launch(rows, width), &args) }
}

pub(super) fn norm_vjp(
    gpu: &CudaBackend,
    rows: &Rows,
    norm: &Norm<Vector>,
    x: &Buffer,
    dy: &Buffer,
    dx: &Buffer,
) -> Result<()> {
    let width = norm.gamma.len;
    let stream = rows.examples * rows.tokens * width;
    let args = NormVjpArgs {
        x: x.at(0, stream),
        dy: dy.at(0, rows.primal_len() * width),
        dx: dx.at(0, stream),
        gamma: norm.gamma.address(),
        rows: gpu.row_set(rows)?,
        width: narrow("the width of a norm", width)?,
        eps: norm.eps as f32,
    };
    // SAFETY: as above.
    unsafe { gpu.kernels.norm.norm_vjp.launch(&gpu.stream, launch(rows, width), &args) }
}
