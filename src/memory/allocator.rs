//! Where arenas get their memory from: the program's own allocator, or one that it hands over.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Where arenas get their memory from.
///
/// # Safety
/// [`allocate`](Self::allocate) returns memory of that layout that is nobody else's until it is released, or nothing.
pub unsafe trait Allocate: Send + Sync {
    /// Memory of this layout, whose size is not zero; its contents may be anything.
    fn allocate(&self, layout: Layout) -> Option<NonNull<u8>>;
    /// Takes it back.
    ///
    /// # Safety
    /// It was allocated here with this layout, and nobody uses it any more.
    unsafe fn release(&self, start: NonNull<u8>, layout: Layout);
}

/// The program's own allocator.
pub struct System;

// SAFETY: the global allocator's promise.
unsafe impl Allocate for System {
    fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the size is not zero.
        NonNull::new(unsafe { alloc(layout) })
    }

    unsafe fn release(&self, start: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { dealloc(start.as_ptr(), layout) }
    }
}

/// Counts what goes through another allocator.
pub struct Counted {
    inner: Box<dyn Allocate>,
    bytes: AtomicUsize,
    peak: AtomicUsize,
}

impl Counted {
    /// Nothing yet.
    pub fn new(inner: Box<dyn Allocate>) -> Self {
        Counted { inner, bytes: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// The most that [`Counted::bytes`] has been.
    pub fn peak(&self) -> usize {
        self.peak.load(Relaxed)
    }
}

// SAFETY: the inner allocator's promise.
unsafe impl Allocate for Counted {
    fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        let start = self.inner.allocate(layout)?;
        let bytes = self.bytes.fetch_add(layout.size(), Relaxed) + layout.size();
        self.peak.fetch_max(bytes, Relaxed);
        Some(start)
    }

    unsafe fn release(&self, start: NonNull<u8>, layout: Layout) {
        self.bytes.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { self.inner.release(start, layout) }
    }
}
