//! What library this is, and which devices it finds.

use crate::argument::{self, versioned};
use crate::guard::call;
use crate::status::{Failure, foretune_status};
use std::ffi::{CString, c_char};
use std::sync::OnceLock;

/// Computes on the first GPU that can be used, else on the CPU.
pub const FORETUNE_DEVICE_AUTO: i32 = -2;
/// Computes on the CPU. GPUs are 0, 1, and so on.
pub const FORETUNE_DEVICE_CPU: i32 = -1;

/// A device.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct foretune_device_info {
    /// sizeof, set by the caller.
    pub struct_size: usize,
    /// What `foretune_session_options.device` calls it.
    pub device: i32,
    /// Compute capability, major·10 + minor; 0 for the CPU.
    pub compute_capability: i32,
    /// Bytes of its memory; 0 where that is not known.
    pub total_bytes: u64,
    /// Its name, UTF-8, ending with a zero.
    pub name: [c_char; 128],
}

versioned!(foretune_device_info);

/// What `foretune_abi_version` returns of the library this header belongs to.
pub const FORETUNE_ABI_VERSION: u32 = 1002;

/// The library's version, "major.minor.patch", static. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn foretune_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// Version of the ABI: major·1000 + minor. Programs run with a library of the same major number and no smaller minor one. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn foretune_abi_version() -> u32 {
    FORETUNE_ABI_VERSION
}

/// How the library was built and what it found of the CPU, UTF-8, static: "foretune 0.1.0 x86_64-linux, avx512, cuda, ort". Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn foretune_build_info() -> *const c_char {
    static INFO: OnceLock<CString> = OnceLock::new();
    let made = INFO.get_or_init(|| {
        let isa = foretune::cpu::isa::Isa::detect().map_or("unknown instructions", |isa| isa.name());
        let cuda = if cfg!(feature = "cuda") { ", cuda" } else { "" };
        let ort = if cfg!(feature = "ort") { ", ort" } else { "" };
        let (version, arch, os) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, std::env::consts::OS);
        CString::new(format!("foretune {version} {arch}-{os}, {isa}{cuda}{ort}")).unwrap_or_default()
    });
    made.as_ptr()
}

/// Writes the number of devices to `*count`: the CPU and every GPU that the driver shows. Loads the driver. Any thread.
///
/// Errors: `FORETUNE_INVALID_ARGUMENT` when `count` is null.
///
/// # Safety
/// `count` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_device_count(count: *mut usize) -> foretune_status {
    call(|| {
        // SAFETY: the caller's promise.
        unsafe { argument::output("count", count)? }.write(1 + gpus().len());
        Ok(())
    })
}

/// Describes device `index`, from 0 on: first the CPU, then the GPUs. Any thread.
///
/// Errors: `FORETUNE_INVALID_ARGUMENT` when there is none of that index, or `info` is null.
///
/// # Safety
/// `info` is null or a struct whose size is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_device_get(index: usize, info: *mut foretune_device_info) -> foretune_status {
    call(|| {
        let found = match index.checked_sub(1) {
            None => describe(FORETUNE_DEVICE_CPU, 0, 0, "CPU"),
            Some(gpu) => {
                *gpus().get(gpu).ok_or_else(|| Failure::argument(format!("there is no device of index {index}")))?
            }
        };
        // SAFETY: the caller's promise.
        unsafe { argument::write(info, found) }
    })
}

fn describe(device: i32, compute_capability: i32, total_bytes: u64, name: &str) -> foretune_device_info {
    let mut info = foretune_device_info {
        struct_size: size_of::<foretune_device_info>(),
        device,
        compute_capability,
        total_bytes,
        name: [0; 128],
    };
    let mut end = name.len().min(info.name.len() - 1);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    info.name.iter_mut().zip(name.as_bytes()[..end].iter()).for_each(|(to, &byte)| *to = byte as c_char);
    info
}

#[cfg(feature = "cuda")]
fn gpus() -> Vec<foretune_device_info> {
    let found = foretune::cuda::devices().unwrap_or_default();
    let describe = |device: &foretune::cuda::DeviceInfo| {
        let (major, minor) = device.capability;
        describe(device.ordinal as i32, (major * 10 + minor) as i32, device.memory, &device.name)
    };
    found.iter().map(describe).collect()
}

#[cfg(not(feature = "cuda"))]
fn gpus() -> Vec<foretune_device_info> {
    Vec::new()
}
