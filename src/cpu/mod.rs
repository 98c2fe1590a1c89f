//! The fast CPU backend: SIMD kernels on a private thread pool.
//!
//! A file with the name of an operation in [`crate::ops`], where its formula and cost are, holds its kernel. Results have the
//! same bits for any thread count and any split of the examples over calls; different instruction sets may differ in the last
//! bits.

mod backend;
pub mod gemm;
pub mod isa;
mod lanes;
pub mod math;
pub mod memory;
pub mod pool;
mod rows;
mod vector;

mod activation;
mod attention;
mod attention_vjp;
mod embed;
mod norm;
mod residual;

#[cfg(test)]
mod tests;

use crate::Result;
use crate::backend::hidden_columns;
use crate::encoder::products;
use crate::guess::GuessKind;
use crate::memory::{Allocate, System};
use crate::model::{Model, ModelSpec};
use gemm::{Gemm, Kernels};
pub use gemm::{Matrix, Precision};
use isa::Isa;
use memory::Buffer;
use pool::Pool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
pub use vector::Vector;

/// Examples a pass that more would not make much faster.
pub const USUAL_MICRO_BATCH: usize = 16;

/// How the CPU computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads of the backend's own; 0: one per core. Results do not depend on them.
    pub threads: usize,
    /// What linear layers multiply; everything else is f32. Decides the bits of the result.
    pub precision: Precision,
    /// Weights are packed once, into memory of their size in `precision`, instead of from the mapped file in every pass.
    pub resident: bool,
}

impl CpuOptions {
    /// `threads` threads (0: one per core), f32, weights mapped.
    pub fn threads(threads: usize) -> Self {
        CpuOptions { threads, ..CpuOptions::default() }
    }
}

/// The fast backend: values are f32.
pub struct CpuBackend {
    isa: Isa,
    pool: Pool,
    gemm: Gemm,
    resident: bool,
    kernels: Kernels,
    /// The vectors that an operation uses.
    vectors: Mutex<Buffer>,
    /// Of engines' arenas.
    allocator: Arc<dyn Allocate>,
}

/// Bytes of scratch that each thread needs, for packed weights and attention in turn, in passes over `tokens` tokens with
/// `tangents` tangents.
pub fn scratch_bytes(spec: &ModelSpec, precision: Precision, tokens: usize, tangents: usize, guess: GuessKind) -> u64 {
    let dual = attention::scratch_len(spec.head_dim(), tokens, tangents);
    let vjp = match guess.transposes_blocks() {
        true => attention_vjp::scratch_len(&Kernels::of(Isa::widest()), spec.head_dim(), tokens),
        false => 0,
    };
    Gemm::bytes_per_thread(precision).max(Buffer::bytes(dual.max(vjp))) as u64
}

/// Bytes of the vectors that an operation uses at a time.
pub fn vector_bytes(spec: &ModelSpec) -> u64 {
    Buffer::bytes(vector_len(spec)) as u64
}

/// q, k and v's or the MLP's bias; or a norm and a layer scale.
fn vector_len(spec: &ModelSpec) -> usize {
    (3 * spec.width).max(spec.hidden * hidden_columns(spec.mlp))
}

/// Bytes of the weights that [`CpuOptions::resident`] keeps.
pub fn resident_bytes(model: &Model, options: CpuOptions) -> u64 {
    let bytes = || products(model).map(|shape| Gemm::resident_bytes(options.precision, shape)).sum();
    if options.resident { bytes() } else { 0 }
}

impl CpuBackend {
    /// A backend with the widest instruction set of this CPU, or the one that [`isa::ISA_VARIABLE`] forces.
    ///
    /// # Errors
    /// [`crate::Error::Options`] for an instruction set this CPU lacks, one without products in the precision asked for, or
    /// threads the system refuses; [`crate::Error::OutOfMemory`].
    pub fn new(options: CpuOptions) -> Result<Self> {
        Self::with_isa(Isa::detect()?, options)
    }

    /// As [`CpuBackend::new`], with a given instruction set.
    ///
    /// # Panics
    /// If the CPU lacks it.
    pub fn with_isa(isa: Isa, options: CpuOptions) -> Result<Self> {
        let pool = Pool::new(options.threads)?;
        Ok(CpuBackend {
            isa,
            gemm: Gemm::new(isa, options.precision, pool.threads())?,
            resident: options.resident,
            kernels: Kernels::of(isa),
            vectors: Mutex::new(Buffer::EMPTY),
            allocator: Arc::new(System),
            pool,
        })
    }

    /// The memory of engines made from now on comes from `allocator`.
    pub fn with_allocator(self, allocator: Arc<dyn Allocate>) -> Self {
        CpuBackend { allocator, ..self }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

/// A panic while the lock was held leaves only scratch values behind.
fn lock(scratch: &Mutex<Buffer>) -> MutexGuard<'_, Buffer> {
    scratch.lock().unwrap_or_else(PoisonError::into_inner)
}
