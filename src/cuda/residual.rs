//! Launches `kernels/residual.cu`.

use super::memory::Buffer;
use super::module::{Kernel, Launch, Module};
use super::rows::RowSet;
use super::weights::address;
use super::{CudaBackend, Vector, narrow};
use crate::Result;
use crate::backend::Rows;
use std::ops::Range;

/// Twin of `RowArgs`.
#[repr(C)]
struct RowArgs {
    x: u64,
    f: u64,
    scale: u64,
    rows: RowSet,
    width: u32,
    unused: u32,
}

/// Twin of `PoolArgs`.
#[repr(C)]
struct PoolArgs {
    y: u64,
    out: u64,
    rows: RowSet,
    width: u32,
    group: u32,
    groups: u32,
    start: u32,
    len: u32,
    unused: u32,
}

pub(super) struct Kernels {
    pub residual: Kernel,
    pub gather: Kernel,
    pub scatter: Kernel,
    pool: Kernel,
}

impl Kernels {
    pub(super) fn load(module: &Module) -> Result<Self> {
        let kernel = |name| module.kernel(name);
        Ok(Kernels {
            residual: kernel("residual")?,
            gather: kernel("gather")?,
            scatter: kernel("scatter")?,
            pool: kernel("pool")?,
        })
    }
}

/// Moves `rows` between the stream `x` and compact `f` as `kernel` does.
pub(super) fn move_rows(
    gpu: &CudaBackend,
    kernel: Kernel,
    rows: &Rows,
    width: usize,
    scale: Option<&Vector>,
    f: &Buffer,
    x: &Buffer,
) -> Result<()> {
    let args = RowArgs {
        x: x.at(0, (1 + rows.tangents) * rows.examples * rows.tokens * width),
        f: f.at(0, rows.len() * width),
        scale: address(scale),
        rows: gpu.row_set(rows)?,
        width: narrow("the width of a row", width)?,
        unused: 0,
    };
    let block = (width.div_ceil(4).next_multiple_of(32)).clamp(32, 256) as u32;
    // SAFETY: the twin; the buffers' sizes were checked.
    unsafe { kernel.launch(&gpu.stream, Launch::rows(rows.len(), block), &args) }
}

pub(super) fn pool(
    gpu: &CudaBackend,
    rows: &Rows,
    width: usize,
    groups: &[Range<usize>],
    y: &Buffer,
    out: &Buffer,
) -> Result<()> {
    const BLOCK: u32 = 256;
    let planes = (1 + rows.tangents) * rows.examples;
    let args = PoolArgs {
        y: y.at(0, rows.len() * width),
        out: out.at(0, planes * groups.len() * width),
        rows: gpu.row_set(rows)?,
        width: narrow("the width of a row", width)?,
        group: 0,
        groups: narrow("groups of tokens", groups.len())?,
        start: 0,
        len: 0,
        unused: 0,
    };
    for (group, tokens) in (0..).zip(groups) {
        assert!(tokens.end <= rows.primal().len(), "groups are of the rows' tokens");
        let args = PoolArgs { group, start: tokens.start as u32, len: tokens.len() as u32, ..args };
        let grid = [narrow("pooled rows", planes)?, args.width.div_ceil(BLOCK), 1];
        // SAFETY: as above.
        unsafe { gpu.kernels.residual.pool.launch(&gpu.stream, Launch { grid, block: BLOCK, shared: 0 }, &args)? };
    }
    Ok(())
}
