//! An allocator that counts: live bytes and their peak, the allocations of arenas, and those on computing threads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// The system's allocator, counted.
pub struct Counting;

/// Bytes that are allocated.
pub static LIVE: AtomicUsize = AtomicUsize::new(0);
/// The most that they have been.
pub static PEAK: AtomicUsize = AtomicUsize::new(0);
/// Reservations, and their bytes: nothing else is aligned to a cache line.
pub static ARENAS: AtomicUsize = AtomicUsize::new(0);
pub static ARENA_BYTES: AtomicUsize = AtomicUsize::new(0);
/// Whether the allocations of computing threads are being counted.
pub static WATCHED: AtomicBool = AtomicBool::new(false);
pub static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this thread computes; looked up when it first allocates under watch.
    pub static COMPUTES: Cell<Option<bool>> = const { Cell::new(None) };
}

/// The pool's threads compute, those that decode do not, and the loop's own says so itself.
fn computes() -> bool {
    COMPUTES.with(|known| {
        known.get().unwrap_or_else(|| {
            let computes = pool_thread();
            known.set(Some(computes));
            computes
        })
    })
}

/// Asked of the system, for the standard library may allocate to tell a thread's name.
#[cfg(target_os = "linux")]
fn pool_thread() -> bool {
    let mut name = [0u8; 16];
    // SAFETY: the system writes at most 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name.strip_prefix(b"foretune-").is_some_and(|rest| rest[0].is_ascii_digit())
}

#[cfg(not(target_os = "linux"))]
fn pool_thread() -> bool {
    false
}

// SAFETY: every call is the system allocator's; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        if layout.align() == 64 {
            ARENAS.fetch_add(1, Relaxed);
            ARENA_BYTES.fetch_add(layout.size(), Relaxed);
        }
        if WATCHED.load(Relaxed) && computes() {
            ALLOCATIONS.fetch_add(1, Relaxed);
        }
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}
