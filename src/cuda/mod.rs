//! The CUDA backend: dual passes on an NVIDIA GPU, within a number of bytes.
//!
//! A file with the name of an operation in [`crate::ops`], where its formula is, launches its kernel, which is in
//! `kernels/` under the same name. Kernels are compiled ahead of time to PTX (`scripts/build_ptx.py`); the driver is loaded at
//! run time, so that one program runs with and without it. Where cuBLASLt can be loaded it computes the matrix products,
//! else our own kernels do.
//!
//! Everything is launched in one stream, in order. Results have the same bits from run to run at the same micro-batch.

mod activation;
mod attention;
mod attention_vjp;
mod backend;
mod blas;
mod device;
mod embed;
mod head;
mod linear;
mod loss;
pub mod memory;
mod module;
mod noise;
mod norm;
mod replay;
mod residual;
mod rows;
mod source;
mod stream;
mod streamed;
#[cfg(test)]
mod tests;
mod upload;
mod weights;
mod window;

pub use attention_vjp::statistics_bytes;
pub use device::{Device, DeviceInfo, devices, first_usable};
pub use replay::Recording;
pub use weights::{Matrix, Vector, WeightBytes};

use crate::backend::{Precision, Rows};
use crate::model::ModelSpec;
use crate::{Error, Model, Result};
use blas::Blas;
use memory::DeviceArena;
use module::Module;
use rows::{RowSet, RowTables};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use stream::Stream;
use weights::Store;
use window::Window;

/// Examples a pass that more would not make much faster.
pub const USUAL_MICRO_BATCH: usize = 256;

/// How a GPU computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CudaOptions {
    /// Which device, from 0.
    pub device: usize,
    /// What weights and activations are stored in; statistics, softmax and sums are f32. Decides the bits of the result.
    pub precision: Precision,
    /// Weights of two blocks at a time are on the device, copied from the mapped file while others compute.
    pub streamed: bool,
    /// Bytes of device memory, obtained at once, that everything is carved from. Without: whatever is needed, in a few pieces.
    pub memory: Option<u64>,
    /// Matrix products by our own kernels even where cuBLASLt is there.
    pub own_products: bool,
    /// Every launch on its own, even where those of a small pass could be made at once.
    pub separate_launches: bool,
}

/// The type of what is stored on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storage {
    F32,
    F16,
    Bf16,
}

impl From<Precision> for Storage {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Storage::F32,
            Precision::F16 => Storage::F16,
            Precision::Bf16 => Storage::Bf16,
        }
    }
}

impl Storage {
    /// Bytes of an element.
    const fn size(self) -> usize {
        match self {
            Storage::F32 => 4,
            Storage::F16 | Storage::Bf16 => 2,
        }
    }

    /// As kernels are called by it.
    fn name(self) -> &'static str {
        match self {
            Storage::F32 => "f32",
            Storage::F16 => "f16",
            Storage::Bf16 => "bf16",
        }
    }
}

/// Bytes of an element in `precision`.
pub fn element_size(precision: Precision) -> usize {
    Storage::from(precision).size()
}

/// Bytes of device memory that a backend needs besides weights and buffers, in passes over `tokens` tokens: lists of tokens, and
/// what passes between host and device goes through.
pub fn overhead_bytes(spec: &ModelSpec, tokens: usize) -> usize {
    RowTables::bytes(tokens) + Window::bytes(spec.image_len())
}

/// A GPU. Values on the host are f32.
///
/// Fields are dropped in order: what uses the stream goes before it.
pub struct CudaBackend {
    precision: Precision,
    storage: Storage,
    weights: Store,
    window: Mutex<Option<Window>>,
    rows: Mutex<RowTables>,
    separate_launches: bool,
    /// What everything is carved from, if it was obtained at once.
    arena: Option<DeviceArena>,
    stream: Stream,
    blas: Option<Blas>,
    kernels: Kernels,
    module: Module,
    device: Arc<Device>,
}

/// Of every operation.
struct Kernels {
    activation: activation::Kernels,
    attention: attention::Kernels,
    attention_vjp: attention_vjp::Kernels,
    embed: embed::Kernels,
    head: head::Kernels,
    linear: linear::Kernels,
    loss: loss::Kernels,
    noise: noise::Kernels,
    norm: norm::Kernels,
    residual: residual::Kernels,
}

impl CudaBackend {
    /// A backend on the device that `options` names, in its primary context and a stream of its own.
    ///
    /// # Errors
    /// [`Error::NoDevice`] when there is none that can be used, [`Error::DeviceMemory`], or [`Error::Device`].
    pub fn new(options: CudaOptions) -> Result<Self> {
        let device = Device::open(options.device)?;
        let stream = Stream::new(&device)?;
        Self::with(device, stream, options)
    }

    /// As [`CudaBackend::new`], in the caller's context and stream (a `CUcontext` and a `CUstream`).
    ///
    /// # Safety
    /// Both are of the device that `options` names and outlive the backend and all that is made with it.
    pub unsafe fn in_context(context: NonNull<c_void>, stream: NonNull<c_void>, options: CudaOptions) -> Result<Self> {
        // SAFETY: the caller's promise.
        let device = unsafe { Device::in_context(options.device, context)? };
        // SAFETY: as above.
        let stream = unsafe { Stream::of_caller(&device, stream) };
        Self::with(device, stream, options)
    }

    fn with(device: Arc<Device>, stream: Stream, options: CudaOptions) -> Result<Self> {
        let storage = options.precision.into();
        let module = Module::load(&device, storage)?;
        let kernels = Kernels {
            activation: activation::Kernels::load(&module)?,
            attention: attention::Kernels::load(&module, storage)?,
            attention_vjp: attention_vjp::Kernels::load(&module)?,
            embed: embed::Kernels::load(&module)?,
            head: head::Kernels::load(&module)?,
            linear: linear::Kernels::load(&module, storage)?,
            loss: loss::Kernels::load(&module)?,
            noise: noise::Kernels::load(&module)?,
            norm: norm::Kernels::load(&module)?,
            residual: residual::Kernels::load(&module)?,
        };
        let arena = match options.memory {
            Some(bytes) => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                Some(DeviceArena::allocate(&device, bytes, "the whole run")?)
            }
            None => None,
        };
        Ok(CudaBackend {
            precision: options.precision,
            storage,
            weights: Store::new(&device, storage, options.streamed),
            window: Mutex::new(None),
            rows: Mutex::new(RowTables::EMPTY),
            separate_launches: options.separate_launches,
            arena,
            stream,
            blas: if options.own_products { None } else { Blas::load(&device, storage) },
            kernels,
            module,
            device,
        })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Compute capability that the kernels in use were compiled for.
    pub fn architecture(&self) -> (u32, u32) {
        self.module.architecture
    }

    /// What computes matrix products.
    pub fn products(&self) -> &'static str {
        if self.blas.is_some() { "cuBLASLt" } else { "our own kernels" }
    }

    /// Waits until the device has done all that it was given. Errors: [`Error::Device`], also of what was given before.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize()
    }

    fn row_set(&self, rows: &Rows) -> Result<RowSet> {
        lock(&self.rows).get(&self.stream, self.arena.as_ref(), rows)
    }

    /// Runs `f` with the way to and from the host, in pieces of at least `len` values.
    fn through_window<R>(&self, len: usize, f: impl FnOnce(&mut Window) -> Result<R>) -> Result<R> {
        let mut window = lock(&self.window);
        match &mut *window {
            Some(window) if window.len() >= len => f(window),
            window => {
                *window = None;
                f(window.insert(Window::new(&self.device, self.arena.as_ref(), len)?))
            }
        }
    }
}

impl Drop for CudaBackend {
    fn drop(&mut self) {
        // Pinned memory that the device still reads or writes must not go before it is done.
        self.stream.synchronize().ok();
    }
}

/// Loads `model` onto a GPU. Errors: as [`CudaBackend::new`], or a tensor cannot be read.
pub fn load(model: &Model, options: CudaOptions) -> Result<crate::engine::Native<CudaBackend>> {
    crate::engine::Native::load(CudaBackend::new(options)?, model)
}

/// A panic while the lock was held leaves nothing half done on the host.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A size for a kernel. Errors: [`Error::Shape`] when it does not fit in 32 bits.
fn narrow(what: &'static str, value: usize) -> Result<u32> {
    u32::try_from(value)
        .map_err(|_| Error::Shape { what, expected: "less than 2³²".into(), found: value.to_string() })
}
