//! Launches `kernels/activation.cu`.

use super::memory::Buffer;
use super::module::{Kernel, Launch, Module};
use super::rows::RowSet;
use super::{CudaBackend, narrow};
use crate::Result;
use crate::backend::{Rows, hidden_columns, mlp_activation};
use crate::model::{Activation, Mlp};

/// Twin of `ActivationArgs`.
#[repr(C)]
struct ActivationArgs {
    h: u64,
    rows: RowSet,
    hidden: u32,
    stride: u32,
    kind: u32,
    gated: u32,
}

/// Twin of `ActivationVjpArgs`.
#[repr(C)]
struct ActivationVjpArgs {
    h: u64,
    dg: u64,
    dh: u64,
    hidden: u32,
    stride: u32,
    kind: u32,
    gated: u32,
}

pub(super) struct Kernels {
    activation: Kernel,
    activation_vjp: Kernel,
}

impl Kernels {
    pub(super) fn load(module: &Module) -> Result<Self> {
        Ok(Kernels { activation: module.kernel("activation")?, activation_vjp: module.kernel("activation_vjp")? })
    }
}

/// As kernels number them.
fn kind(mlp: Mlp) -> u32 {
    match mlp_activation(mlp) {
        Activation::Gelu => 0,
        Activation::GeluTanh => 1,
        Activation::QuickGelu => 2,
        Activation::Relu => 3,
        Activation::Silu => 4,
    }
}

/// Four units a thread.
fn launch(rows: usize, hidden: u32) -> Result<Launch> {
    let threads = hidden.div_ceil(4);
    let block = threads.next_multiple_of(32).min(256);
    Ok(Launch { grid: [narrow("rows of an activation", rows)?, threads.div_ceil(block), 1], block, shared: 0 })
}

pub(super) fn activation(gpu: &CudaBackend, rows: &Rows, hidden: usize, mlp: Mlp, h: &Buffer) -> Result<()> {
    let columns = hidden_columns(mlp);
    let args = ActivationArgs {
        h: h.at(0, rows.len() * hidden * columns),
        rows: gpu.row_set(rows)?,
        hidden: narrow("hidden units", hidden)?,
        stride: narrow("columns of the MLP", hidden * columns)?,
        kind: kind(mlp),
        gated: u32::from(mlp == Mlp::SwiGlu),
    };
    // SAFETY: the twin; the buffer's size was checked.
    unsafe { gpu.kernels.activation.activation.launch(&gpu.stream, launch(rows.primal_len(), args.hidden)?, &args) }
}

pub(super) fn activation_vjp(
    gpu: &CudaBackend,
    count: usize,
    hidden: usize,
    mlp: Mlp,
    h: &Buffer,
    dg: &Buffer,
    dh: &Buffer,
) -> Result<()> {
    let columns = hidden_columns(mlp);
    let args = ActivationVjpArgs {
        h: h.at(0, count * hidden * columns),
        dg: dg.at(0, count * hidden),
        dh: dh.at(0, count * hidden * columns),
        hidden: narrow("hidden units", hidden)?,
        stride: narrow("columns of the MLP", hidden * columns)?,
        kind: kind(mlp),
        gated: u32::from(mlp == Mlp::SwiGlu),
    };
    // SAFETY: as above.
    unsafe { gpu.kernels.activation.activation_vjp.launch(&gpu.stream, launch(count, args.hidden)?, &args) }
}
