//! A CUDA device through its driver, which is loaded when it is first asked for.
//!
//! Devices are never reset and none of their settings is changed. The device's primary context is shared with whatever else in
//! this process uses it, or the caller hands in a context; it is current on a thread only during a call.

use crate::backend::Precision;
use crate::{Error, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};
use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Kernels are compiled to PTX ISA 8.0, which drivers of CUDA 12.0 and later load.
const OLDEST_DRIVER: i32 = 12_000;
/// The oldest architecture kernels are compiled for: Turing.
const OLDEST_CAPABILITY: (u32, u32) = (7, 5);

/// What is known of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number, from 0.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// The newest CUDA version its driver supports, as 1000·major + 10·minor.
    pub driver: i32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Most bytes of shared memory a block can have.
    pub shared: u32,
    /// Bytes of memory.
    pub memory: u64,
}

/// An open device.
pub struct Device {
    info: DeviceInfo,
    handle: i32,
    context: sys::CUcontext,
    /// Whether the primary context was retained, to be released.
    retained: bool,
    bytes: AtomicU64,
    peak: AtomicU64,
}

// SAFETY: contexts may be used from any thread; it is made current around every call.
unsafe impl Send for Device {}
// SAFETY: as above; the driver's functions are thread-safe.
unsafe impl Sync for Device {}

/// Every device of this machine. Errors: [`Error::NoDevice`], saying what is missing.
pub fn devices() -> Result<Vec<DeviceInfo>> {
    (0..count()?).map(|ordinal| describe(ordinal).map(|(info, _)| info)).collect()
}

/// Number of the first device that computes in `precision`. Errors: [`Error::NoDevice`], saying why there is none.
pub fn first_usable(precision: Precision) -> Result<usize> {
    let least = if precision == Precision::Bf16 { (8, 0) } else { (7, 5) };
    let found = devices()?.into_iter().find(|device| device.capability >= least);
    found.map(|device| device.ordinal).ok_or_else(|| {
        Error::NoDevice(format!(
            "no device computes {precision}, which needs compute capability {}.{}",
            least.0, least.1
        ))
    })
}

fn count() -> Result<usize> {
    // SAFETY: looks for the library and closes it again.
    if !unsafe { sys::is_culib_present() } {
        let problem = "NVIDIA's driver library (libcuda.so.1 or nvcuda.dll) is not installed";
        return Err(Error::NoDevice(problem.into()));
    }
    let none = |error: DriverError| Error::NoDevice(format!("the driver does not start: {}", describe_error(error)));
    result::init().map_err(none)?;
    let driver = driver_version()?;
    if driver < OLDEST_DRIVER {
        let [major, minor] = [driver / 1000, driver % 1000 / 10];
        let problem = format!("the driver is for CUDA {major}.{minor} and 12.0 is needed; update NVIDIA's driver");
        return Err(Error::NoDevice(problem));
    }
    let count = result::device::get_count().map_err(none)?;
    if count < 1 {
        return Err(Error::NoDevice("the driver is installed and finds no device".into()));
    }
    Ok(usize::try_from(count).unwrap_or(0))
}

fn driver_version() -> Result<i32> {
    let mut version = 0;
    // SAFETY: writes one integer.
    let status = unsafe { sys::cuDriverGetVersion(&mut version) };
    status.result().map_err(|error| Error::NoDevice(describe_error(error)))?;
    Ok(version)
}

fn describe(ordinal: usize) -> Result<(DeviceInfo, i32)> {
    let none = |error| Error::NoDevice(format!("cuda:{ordinal} cannot be asked: {}", describe_error(error)));
    let handle = result::device::get(i32::try_from(ordinal).unwrap_or(i32::MAX)).map_err(none)?;
    // SAFETY: `handle` is a device.
    let attribute = |which| unsafe { result::device::get_attribute(handle, which) }.map_err(none);
    let unsigned = |which| attribute(which).map(|value| u32::try_from(value).unwrap_or(0));
    let info = DeviceInfo {
        ordinal,
        name: result::device::get_name(handle).map_err(none)?,
        capability: (
            unsigned(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            unsigned(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        driver: driver_version()?,
        multiprocessors: unsigned(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared: unsigned(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(handle) }.map_err(none)? as u64,
    };
    Ok((info, handle))
}

/// `NAME: text`.
fn describe_error(error: DriverError) -> String {
    let text = |text: Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| format!("error {}", error.0 as u32), |text| text.to_string_lossy().into_owned())
    };
    format!("{}: {}", text(error.error_name()), text(error.error_string()))
}

impl Device {
    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// [`Error::NoDevice`] when there is no such device, or it or its driver is too old, or in use by another process alone.
    pub fn open(ordinal: usize) -> Result<Arc<Device>> {
        let (info, handle) = usable(ordinal)?;
        // SAFETY: `handle` is a device; released when dropped.
        let context = unsafe { result::primary_ctx::retain(handle) }.map_err(|error| {
            let problem = match error.0 {
                CUresult::CUDA_ERROR_OUT_OF_MEMORY => "its memory is full, perhaps of another process",
                CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => "it is lost, or another process has it to itself",
                _ => "it cannot be opened",
            };
            Error::NoDevice(format!("{}: {problem} ({})", name(&info), describe_error(error)))
        })?;
        Ok(Arc::new(Device { info, handle, context, retained: true, bytes: 0.into(), peak: 0.into() }))
    }

    /// As [`Device::open`], in the caller's own context.
    ///
    /// # Safety
    /// `context` is a `CUcontext` of that device and outlives the device and all that was made on it.
    pub unsafe fn in_context(ordinal: usize, context: NonNull<c_void>) -> Result<Arc<Device>> {
        let (info, handle) = usable(ordinal)?;
        let context = context.as_ptr().cast();
        Ok(Arc::new(Device { info, handle, context, retained: false, bytes: 0.into(), peak: 0.into() }))
    }

    /// What it is.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Bytes of its memory that this crate holds.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The most that [`Device::bytes`] has been.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Free and total bytes of its memory, whoever holds the rest.
    pub fn free_memory(&self) -> Result<(u64, u64)> {
        let _current = self.enter()?;
        let (free, total) = result::mem_get_info().map_err(|error| self.error("ask for free memory", error))?;
        Ok((free as u64, total as u64))
    }

    /// Its context, current on this thread until the guard is dropped.
    pub(super) fn enter(&self) -> Result<Current> {
        // SAFETY: the context is alive.
        let status = unsafe { sys::cuCtxPushCurrent_v2(self.context) };
        status.result().map_err(|error| self.error("use its context", error))?;
        Ok(Current)
    }

    pub(super) fn error(&self, action: &'static str, error: DriverError) -> Error {
        self.problem(action, describe_error(error))
    }

    pub(super) fn problem(&self, action: &'static str, problem: String) -> Error {
        Error::Device { device: name(&self.info), action, problem }
    }

    /// `bytes` bytes of its memory, contents undefined.
    pub(super) fn allocate(self: &Arc<Self>, bytes: usize, what: &'static str) -> Result<Allocation> {
        let _current = self.enter()?;
        // SAFETY: freed once, by the allocation's drop.
        let start = unsafe { result::malloc_sync(bytes.max(1)) }.map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = result::mem_get_info().unwrap_or((0, 0));
                Error::DeviceMemory {
                    device: name(&self.info),
                    what,
                    bytes: bytes as u64,
                    free: free as u64,
                    total: total as u64,
                }
            }
            _ => self.error("allocate memory", error),
        })?;
        let held = self.bytes.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        self.peak.fetch_max(held, Ordering::Relaxed);
        Ok(Allocation { device: self.clone(), start, bytes })
    }

    /// `bytes` bytes of host memory that the device copies from and to by itself.
    pub(super) fn pinned(self: &Arc<Self>, bytes: usize) -> Result<Pinned> {
        let _current = self.enter()?;
        // SAFETY: freed once, by the drop.
        let start = unsafe { result::malloc_host(bytes.max(1), 0) }.map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { bytes, what: "copies to and from the device" },
            _ => self.error("pin host memory", error),
        })?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(Error::OutOfMemory { bytes, what: "pinned memory" })?;
        // SAFETY: that many bytes, which are to be initialised.
        unsafe { start.write_bytes(0, bytes.max(1)) };
        Ok(Pinned { device: self.clone(), start, bytes })
    }
}

fn usable(ordinal: usize) -> Result<(DeviceInfo, i32)> {
    let count = count()?;
    if ordinal >= count {
        return Err(Error::NoDevice(format!(
            "there is no cuda:{ordinal}; this machine has cuda:0 to cuda:{}",
            count - 1
        )));
    }
    let (info, handle) = describe(ordinal)?;
    if info.capability < OLDEST_CAPABILITY {
        let ((major, minor), (least, and)) = (info.capability, OLDEST_CAPABILITY);
        let problem = format!("{} has compute capability {major}.{minor} and {least}.{and} is needed", name(&info));
        return Err(Error::NoDevice(problem));
    }
    Ok((info, handle))
}

fn name(info: &DeviceInfo) -> String {
    format!("cuda:{} ({})", info.ordinal, info.name)
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.retained {
            // SAFETY: retained once. Failure means that the driver has gone, and the context with it.
            unsafe { result::primary_ctx::release(self.handle) }.ok();
        }
    }
}

/// A context that is current on this thread.
pub(super) struct Current;

impl Drop for Current {
    fn drop(&mut self) {
        let mut context = null_mut();
        // SAFETY: pushed by this thread.
        unsafe { sys::cuCtxPopCurrent_v2(&mut context) };
    }
}

/// Device memory.
pub(super) struct Allocation {
    device: Arc<Device>,
    /// Its address.
    pub start: u64,
    /// Its size.
    pub bytes: usize,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if let Ok(_current) = self.device.enter() {
            // SAFETY: allocated by this device, and no part of it lives. Waits for what uses it. A lost device has freed it.
            unsafe { result::free_sync(self.start) }.ok();
        }
        self.device.bytes.fetch_sub(self.bytes as u64, Ordering::Relaxed);
    }
}

/// Pinned host memory, zeroed at first.
pub(super) struct Pinned {
    device: Arc<Device>,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: plain memory.
unsafe impl Send for Pinned {}

impl Pinned {
    /// `range` of its bytes, 64-byte aligned where the range is.
    pub(super) fn bytes(&mut self, range: std::ops::Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.bytes);
        // SAFETY: in bounds and initialised. Copies that the device makes from or to it have ended: callers wait for their events.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(range.start), range.len()) }
    }

    /// `len` f32 values from byte `start` on, a multiple of 4.
    pub(super) fn floats(&mut self, start: usize, len: usize) -> &mut [f32] {
        let bytes = self.bytes(start..start + 4 * len);
        // SAFETY: aligned, as pinned memory begins on a page; any bytes are an f32.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Ok(_current) = self.device.enter() {
            // SAFETY: pinned by this device.
            unsafe { result::free_host(self.start.as_ptr().cast()) }.ok();
        }
    }
}
