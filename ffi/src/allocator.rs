//! The host's allocator.

use crate::status::{Failure, Result};
use foretune::memory::Allocate;
use std::alloc::Layout;
use std::ffi::c_void;
use std::ptr::NonNull;

/// Serves the memory that the passes of a session or predictor need on the CPU, in few large pieces. All zero: the library's own.
/// Called by whichever thread makes, trims or destroys the handle, and by those that use it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct foretune_allocator {
    /// `size` bytes at a multiple of `alignment`, a power of two; null when there are none.
    pub allocate: Option<unsafe extern "C" fn(size: usize, alignment: usize, user_data: *mut c_void) -> *mut c_void>,
    /// Takes back what `allocate` gave, of the same size and alignment.
    pub release:
        Option<unsafe extern "C" fn(memory: *mut c_void, size: usize, alignment: usize, user_data: *mut c_void)>,
    /// Handed to both.
    pub user_data: *mut c_void,
}

impl foretune_allocator {
    pub(crate) const NONE: foretune_allocator =
        foretune_allocator { allocate: None, release: None, user_data: std::ptr::null_mut() };

    pub(crate) fn is_given(&self) -> bool {
        self.allocate.is_some() || self.release.is_some()
    }

    /// `None` for the library's own. Errors: only one of the two functions is there.
    pub(crate) fn host(self) -> Result<Option<Host>> {
        match (self.allocate, self.release) {
            (None, None) => Ok(None),
            (Some(allocate), Some(release)) => Ok(Some(Host { allocate, release, user_data: self.user_data })),
            _ => Err(Failure::argument("an allocator needs both `allocate` and `release`")),
        }
    }
}

pub(crate) struct Host {
    allocate: unsafe extern "C" fn(usize, usize, *mut c_void) -> *mut c_void,
    release: unsafe extern "C" fn(*mut c_void, usize, usize, *mut c_void),
    user_data: *mut c_void,
}

// SAFETY: the header asks the host for functions that any thread may call.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

// SAFETY: the header asks the host for memory of that size and alignment; what is not aligned is given back.
unsafe impl Allocate for Host {
    fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the host's functions, with the host's data.
        let memory = unsafe { (self.allocate)(layout.size(), layout.align(), self.user_data) };
        let start = NonNull::new(memory.cast::<u8>())?;
        if start.as_ptr().align_offset(layout.align()) != 0 {
            // SAFETY: allocated above with this layout.
            unsafe { self.release(start, layout) };
            return None;
        }
        Some(start)
    }

    unsafe fn release(&self, start: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { (self.release)(start.as_ptr().cast(), layout.size(), layout.align(), self.user_data) };
    }
}
