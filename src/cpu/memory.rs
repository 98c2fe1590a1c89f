//! Buffers, and shared access to them by tasks that write disjoint parts.

use crate::{Error, Result};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// One cache line, so that rows whose width is a multiple of 16 start on one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// f32 values on a cache-line boundary.
pub struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    /// No values.
    pub const EMPTY: Buffer = Buffer { lines: Vec::new(), len: 0 };

    /// `len` zeros. Errors: [`Error::OutOfMemory`], naming `what` they were for.
    pub fn zeroed(len: usize, what: &'static str) -> Result<Self> {
        let count = len.div_ceil(16);
        let mut lines = Vec::new();
        lines
            .try_reserve_exact(count)
            .map_err(|_| Error::OutOfMemory { bytes: len.saturating_mul(size_of::<f32>()), what })?;
        lines.resize(count, Line([0.0; 16]));
        Ok(Buffer { lines, len })
    }

    /// At least `len` values, contents unspecified; allocates only to grow. Errors: [`Error::OutOfMemory`].
    pub fn at_least(&mut self, len: usize, what: &'static str) -> Result<&mut [f32]> {
        if self.len < len {
            *self = Buffer::EMPTY;
            *self = Buffer::zeroed(len, what)?;
        }
        Ok(&mut self[..len])
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `lines` holds at least `len` initialised values, and Line is an array of them without padding.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// An exclusively borrowed slice that tasks on several threads write disjoint parts of.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    data: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: access goes through unsafe methods whose callers promise that no two threads touch the same elements.
unsafe impl Send for Shared<'_> {}
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(super) fn new(data: &'a mut [f32]) -> Self {
        Shared { data: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// Elements `start..start + len`.
    ///
    /// # Safety
    /// No other reference to any of them lives at the same time.
    pub(super) unsafe fn slice_mut(&self, start: usize, len: usize) -> &'a mut [f32] {
        assert!(start <= self.len && len <= self.len - start, "{start}+{len} of {}", self.len);
        // SAFETY: in bounds; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }

    /// Pointer to element `start`.
    pub(super) fn at(&self, start: usize) -> *mut f32 {
        assert!(start <= self.len);
        // SAFETY: in bounds, or one past the end.
        unsafe { self.data.add(start) }
    }
}
