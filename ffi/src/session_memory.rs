//! Memory of sessions: given back, and counted.

use crate::argument::{self, versioned};
use crate::guard::call;
use crate::session::{foretune_session, with};
use crate::status::foretune_status;
#[cfg(feature = "cuda")]
use foretune::cuda::CudaBackend;
#[cfg(feature = "cuda")]
use foretune::engine::Native;
use foretune::memory::Counted;
use std::sync::Arc;

/// Who knows what is in use.
pub(crate) enum Memory {
    Host(Arc<Counted>),
    #[cfg(feature = "cuda")]
    Device(Arc<Native<CudaBackend>>),
    /// ONNX Runtime, which does not say.
    #[cfg(feature = "ort")]
    Unknown,
}

/// Bytes in use; 0 with ONNX Runtime, which does not say.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct foretune_memory {
    /// sizeof, set by the caller.
    pub struct_size: usize,
    /// Of passes, in the host's memory.
    pub host_bytes: u64,
    /// The most that has been in use.
    pub host_peak: u64,
    /// Of the GPU's memory, all that is ours.
    pub device_bytes: u64,
    /// The most that has been in use.
    pub device_peak: u64,
}

versioned!(foretune_memory);

/// Gives back the memory of passes, of the host and the GPU; what has been learnt stays, and the next call that computes obtains it
/// again. On a GPU weights stay. One thread at a time.
///
/// Errors: `FORETUNE_BUSY`, `FORETUNE_POISONED`, `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// `session` is null or a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_trim(session: *mut foretune_session) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        with(session, |inner| {
            inner.session.trim();
            Ok(())
        })
    })
}

/// Writes bytes in use and their peak to `*memory`, whose size is set. One thread at a time.
///
/// Errors: `FORETUNE_BUSY`, `FORETUNE_POISONED`, `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_get_memory(
    session: *const foretune_session,
    memory: *mut foretune_memory,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let mut found =
            foretune_memory { struct_size: 0, host_bytes: 0, host_peak: 0, device_bytes: 0, device_peak: 0 };
        with(session, |inner| {
            match &inner.memory {
                Memory::Host(counted) => {
                    (found.host_bytes, found.host_peak) = (counted.bytes() as u64, counted.peak() as u64);
                }
                #[cfg(feature = "cuda")]
                Memory::Device(native) => {
                    let device = native.backend().device();
                    (found.device_bytes, found.device_peak) = (device.bytes(), device.peak());
                }
                #[cfg(feature = "ort")]
                Memory::Unknown => {}
            }
            Ok(())
        })?;
        argument::write(memory, found)
    })
}
