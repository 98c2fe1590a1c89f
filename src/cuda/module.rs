//! The kernels of one storage type, compiled ahead of time to PTX by `scripts/build_ptx.py`, and how they are launched.

use super::Storage;
use super::device::Device;
use super::stream::Stream;
use crate::{Error, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};
use flate2::read::GzDecoder;
use std::ffi::{CString, c_void};
use std::io::Read;
use std::sync::Arc;

/// PTX for compute capability 7.5 and, where it gains something, 8.0; every later one runs it too.
const MODULES: [((u32, u32), Storage, &[u8]); 4] = [
    ((8, 0), Storage::F16, include_bytes!("ptx/f16_80.ptx.gz")),
    ((8, 0), Storage::Bf16, include_bytes!("ptx/bf16_80.ptx.gz")),
    ((7, 5), Storage::F32, include_bytes!("ptx/f32_75.ptx.gz")),
    ((7, 5), Storage::F16, include_bytes!("ptx/f16_75.ptx.gz")),
];

/// A loaded module.
pub(super) struct Module {
    device: Arc<Device>,
    handle: sys::CUmodule,
    storage: Storage,
    /// The architecture it was compiled for.
    pub architecture: (u32, u32),
}

/// One kernel of a [`Module`], which the owner keeps.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    function: sys::CUfunction,
    /// Name, for messages.
    name: &'static str,
}

// SAFETY: handles may be used from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}
// SAFETY: as above.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// How a kernel's threads are laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: usize,
}

impl Launch {
    /// A block of `block` threads for each of `count` rows.
    pub(super) fn rows(count: usize, block: u32) -> Self {
        Launch { grid: [u32::try_from(count).expect("rows are counted in 32 bits"), 1, 1], block, shared: 0 }
    }
}

impl Module {
    /// Loads the newest module that the device runs.
    ///
    /// # Errors
    /// [`Error::NoDevice`] when the device has no such arithmetic or its driver cannot load the module.
    pub(super) fn load(device: &Arc<Device>, storage: Storage) -> Result<Module> {
        let info = device.info();
        let found = MODULES.iter().find(|(least, of, _)| *of == storage && info.capability >= *least);
        let &(architecture, _, ptx) = found.ok_or_else(|| {
            let (major, minor) = info.capability;
            Error::NoDevice(format!(
                "{}: bf16 needs compute capability 8.0, and it has {major}.{minor}; use f16 or f32",
                info.name
            ))
        })?;
        let mut text = Vec::new();
        GzDecoder::new(ptx)
            .read_to_end(&mut text)
            .map_err(|error| device.problem("unpack our kernels", error.to_string()))?;
        let image = CString::new(text).map_err(|error| device.problem("unpack our kernels", error.to_string()))?;
        let _current = device.enter()?;
        // SAFETY: a null-terminated PTX image.
        let handle = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | CUresult::CUDA_ERROR_INVALID_PTX
            | CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
            | CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND => Error::NoDevice(format!(
                "{}: its driver cannot load our kernels ({error}); update NVIDIA's driver",
                info.name
            )),
            _ => device.error("load our kernels", error),
        })?;
        Ok(Module { device: device.clone(), handle, storage, architecture })
    }

    /// The kernel called `name`, a name without the storage type's.
    pub(super) fn kernel(&self, name: &'static str) -> Result<Kernel> {
        let full = CString::new(format!("{name}_{}", self.storage.name())).expect("names are text");
        let _current = self.device.enter()?;
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(self.handle, full) };
        Ok(Kernel { function: function.map_err(|error| self.device.error("find a kernel", error))?, name })
    }

    /// As [`Module::kernel`], for launches with up to `shared` bytes of dynamic shared memory.
    pub(super) fn kernel_with_shared(&self, name: &'static str, shared: usize) -> Result<Kernel> {
        let kernel = self.kernel(name)?;
        let bytes = i32::try_from(shared).unwrap_or(i32::MAX);
        let _current = self.device.enter()?;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is loaded.
        unsafe { result::function::set_function_attribute(kernel.function, attribute, bytes) }
            .map_err(|error| self.device.error("give a kernel its shared memory", error))?;
        Ok(kernel)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if let Ok(_current) = self.device.enter() {
            // SAFETY: loaded here; no kernel of it is launched any more.
            unsafe { result::module::unload(self.handle) }.ok();
        }
    }
}

impl Kernel {
    /// Launches it. `args` is the kernel's one argument.
    ///
    /// # Safety
    /// `A` is the twin of the kernel's struct, and what it points to is live memory of the sizes the kernel is told.
    pub(super) unsafe fn launch<A>(&self, stream: &Stream, launch: Launch, args: &A) -> Result<()> {
        let Launch { grid: [x, y, z], block, shared } = launch;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let mut params = [std::ptr::from_ref(args).cast_mut().cast::<c_void>()];
        let shared = u32::try_from(shared).unwrap_or(u32::MAX);
        let device = stream.device();
        let _current = device.enter()?;
        // SAFETY: the caller's promise; the arguments are copied before this returns.
        unsafe { result::launch_kernel(self.function, (x, y, z), (block, 1, 1), shared, stream.handle(), &mut params) }
            .map_err(|error: DriverError| device.error(self.name, error))
    }
}
