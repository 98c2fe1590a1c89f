//! Launches `kernels/attention.cu` and, in f32, `kernels/attention_f32.cu`.

use super::memory::{Buffer, rows};
use super::module::{Kernel, Launch, Module};
use super::rows::RowSet;
use super::{CudaBackend, Storage, narrow};
use crate::backend::{At, Heads, Rows};
use crate::{Error, Result};

/// The widest head there are kernels for.
const MOST_DIM: usize = 128;

/// Twin of `AttentionArgs`.
#[repr(C)]
struct AttentionArgs {
    q: u64,
    kv: u64,
    y: u64,
    q_stride: u64,
    kv_stride: u64,
    q_rows: RowSet,
    kv_rows: RowSet,
    out_rows: RowSet,
    heads: u32,
    dim: u32,
    first_tangent: u32,
    tangents: u32,
    primal: u32,
    scale: f32,
}

/// A kernel for heads of up to `dim` that carries `tangents` tangents through a sweep.
#[derive(Clone, Copy)]
struct Instance {
    kernel: Kernel,
    dim: usize,
    tangents: usize,
}

pub(super) struct Kernels {
    storage: Storage,
    /// By dim, then by tangents.
    instances: Vec<Instance>,
}

/// Queries of a block, keys of a tile.
const QUERIES: [usize; 2] = [64, 32];
const KEYS: usize = 32;

impl Kernels {
    pub(super) fn load(module: &Module, storage: Storage) -> Result<Self> {
        let names: &[(&'static str, usize, usize)] = match storage {
            Storage::F32 => &[("attention", MOST_DIM, 1)],
            Storage::F16 | Storage::Bf16 => &[
                ("attention_32_0", 32, 0),
                ("attention_32_1", 32, 1),
                ("attention_32_2", 32, 2),
                ("attention_64_0", 64, 0),
                ("attention_64_1", 64, 1),
                ("attention_64_2", 64, 2),
                ("attention_128_0", 128, 0),
                ("attention_128_1", 128, 1),
            ],
        };
        let instance = |&(name, dim, tangents): &(&'static str, usize, usize)| -> Result<Instance> {
            Ok(Instance { kernel: module.kernel_with_shared(name, shared(storage, dim, tangents))?, dim, tangents })
        };
        Ok(Kernels { storage, instances: names.iter().map(instance).collect::<Result<_>>()? })
    }

    /// The one for heads of `dim` with room for `tangents` tangents, or the most there is.
    fn choose(&self, dim: usize, tangents: usize) -> Result<Instance> {
        check(dim)?;
        let fits = self.instances.iter().filter(|instance| instance.dim >= dim);
        let narrowest = fits.clone().map(|instance| instance.dim).min();
        let mut fits = fits.filter(|instance| Some(instance.dim) == narrowest);
        let enough = fits.clone().find(|instance| instance.tangents >= tangents);
        Ok(enough.or_else(|| fits.next_back()).copied().expect("one was found"))
    }
}

/// Bytes of dynamic shared memory: see the kernels.
fn shared(storage: Storage, dim: usize, tangents: usize) -> usize {
    match storage {
        Storage::F32 => 4 * (2 * KEYS * (dim + 1) + 2 * KEYS * KEYS),
        Storage::F16 | Storage::Bf16 => (1 + tangents) * (QUERIES[0] + 2 * KEYS) * dim * storage.size(),
    }
}

/// Errors: there are no kernels for heads of `dim`.
pub(super) fn check(dim: usize) -> Result<()> {
    if dim <= MOST_DIM {
        return Ok(());
    }
    let (expected, found) = (format!("at most {MOST_DIM}"), dim.to_string());
    Err(Error::Shape { what: "head size on a GPU", expected, found })
}

pub(super) fn attention(
    gpu: &CudaBackend,
    heads: Heads,
    [q_rows, kv_rows, out_rows]: [&Rows; 3],
    q: At<Buffer>,
    kv: At<Buffer>,
    y: &Buffer,
) -> Result<()> {
    let kernels = &gpu.kernels.attention;
    let width = heads.count * heads.dim;
    let all = out_rows.tangents;
    let args = |first_tangent: usize, tangents: usize| -> Result<AttentionArgs> {
        Ok(AttentionArgs {
            q: rows(&q, q_rows.len(), width),
            kv: rows(&kv, kv_rows.len(), 2 * width),
            y: y.at(0, out_rows.len() * width),
            q_stride: q.stride as u64,
            kv_stride: kv.stride as u64,
            q_rows: gpu.row_set(q_rows)?,
            kv_rows: gpu.row_set(kv_rows)?,
            out_rows: gpu.row_set(out_rows)?,
            heads: narrow("heads", heads.count)?,
            dim: narrow("head size", heads.dim)?,
            first_tangent: narrow("tangents", first_tangent)?,
            tangents: narrow("tangents", tangents)?,
            primal: u32::from(first_tangent == 0),
            scale: (heads.dim as f32).sqrt().recip(),
        })
    };
    let (queries, pairs) = (q_rows.primal().len(), q_rows.examples * heads.count);
    let mut first = 0;
    loop {
        let instance = kernels.choose(heads.dim, all - first)?;
        let tangents = instance.tangents.min(all - first);
        let (block, threads) = if kernels.storage == Storage::F32 { (QUERIES[1], 256) } else { (QUERIES[0], 128) };
        let dim = if kernels.storage == Storage::F32 { heads.dim } else { instance.dim };
        let shared = shared(kernels.storage, dim, instance.tangents);
        let launch = Launch { shared, ..Launch::rows(pairs * queries.div_ceil(block), threads) };
        // SAFETY: the twin; the buffers' sizes were checked.
        unsafe { instance.kernel.launch(&gpu.stream, launch, &args(first, tangents)?)? };
        first += tangents;
        if first >= all {
            return Ok(());
        }
    }
}
