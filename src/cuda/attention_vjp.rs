//! Launches `kernels/attention_vjp.cu`.

use super::attention;
use super::memory::{self, Buffer, DeviceArena};
use super::module::{Kernel, Launch, Module};
use super::{CudaBackend, narrow};
use crate::Result;
use crate::backend::{At, Heads, Rows};

/// Twin of `AttentionVjpArgs`.
#[repr(C)]
struct AttentionVjpArgs {
    q: u64,
    kv: u64,
    dy: u64,
    dq: u64,
    dkv: u64,
    statistics: u64,
    q_stride: u64,
    kv_stride: u64,
    examples: u32,
    tokens: u32,
    heads: u32,
    dim: u32,
    scale: f32,
    unused: u32,
}

pub(super) struct Kernels {
    q: Kernel,
    kv: Kernel,
}

impl Kernels {
    pub(super) fn load(module: &Module) -> Result<Self> {
        Ok(Kernels { q: module.kernel("attention_vjp_q")?, kv: module.kernel("attention_vjp_kv")? })
    }
}

/// Bytes of device memory for the statistics log ΣeS and ΣP·dP, f32 `[B, h, T, 2]`, of an exact gradient over `examples` examples.
pub fn statistics_bytes(examples: usize, heads: usize, tokens: usize) -> usize {
    memory::padded(examples * heads * tokens * 2 * size_of::<f32>())
}

pub(super) fn attention_vjp(
    gpu: &CudaBackend,
    heads: Heads,
    rows: &Rows,
    q: At<Buffer>,
    kv: At<Buffer>,
    dy: &Buffer,
    dqkv: &Buffer,
) -> Result<()> {
    attention::check(heads.dim)?;
    let (width, count, tokens) = (heads.count * heads.dim, rows.len(), rows.primal().len());
    const WHAT: &str = "statistics of an exact gradient";
    let bytes = statistics_bytes(rows.examples, heads.count, tokens);
    let statistics = match &gpu.arena {
        Some(arena) => arena.carve(bytes, WHAT)?,
        None => DeviceArena::allocate(&gpu.device, bytes, WHAT)?.carve(bytes, WHAT)?,
    };
    let args = AttentionVjpArgs {
        q: memory::rows(&q, count, width),
        kv: memory::rows(&kv, count, 2 * width),
        dy: dy.at(0, count * width),
        dq: dqkv.at(0, count * width),
        dkv: dqkv.at(count * width, 2 * count * width),
        statistics: statistics.start(),
        q_stride: q.stride as u64,
        kv_stride: kv.stride as u64,
        examples: narrow("examples", rows.examples)?,
        tokens: narrow("tokens", tokens)?,
        heads: narrow("heads", heads.count)?,
        dim: narrow("head size", heads.dim)?,
        scale: (heads.dim as f32).sqrt().recip(),
        unused: 0,
    };
    let launch = Launch::rows((rows.examples * heads.count * tokens).div_ceil(4), 128);
    // SAFETY: the twin; the buffers' sizes were checked.
    unsafe { gpu.kernels.attention_vjp.q.launch(&gpu.stream, launch, &args)? };
    // SAFETY: as above.
    unsafe { gpu.kernels.attention_vjp.kv.launch(&gpu.stream, launch, &args) }
}
