//! Buffers, and shared access to them by tasks that write disjoint parts.

use crate::Result;
use crate::memory::{Arena, Part};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// f32 values on a cache-line boundary, so that rows whose width is a multiple of 16 start on one.
pub struct Buffer {
    /// `None` for no values.
    part: Option<Part>,
    len: usize,
}

impl Buffer {
    /// No values.
    pub const EMPTY: Buffer = Buffer { part: None, len: 0 };

    /// Bytes of an arena that `len` values take.
    pub const fn bytes(len: usize) -> usize {
        Arena::padded(len.saturating_mul(size_of::<f32>()))
    }

    /// `len` zeros of `arena`. Errors: [`Error::Arena`](crate::Error::Arena), naming `what` they were for.
    pub fn carved(arena: &Arena, len: usize, what: &'static str) -> Result<Self> {
        Ok(Buffer { part: Some(arena.carve(len.saturating_mul(size_of::<f32>()), what)?), len })
    }

    /// `len` zeros in memory of their own. Errors: [`Error::OutOfMemory`](crate::Error::OutOfMemory), naming `what` they were for.
    pub fn zeroed(len: usize, what: &'static str) -> Result<Self> {
        Buffer::carved(&Arena::reserve(Buffer::bytes(len), what)?, len, what)
    }

    /// At least `len` values, contents unspecified; allocates only to grow. Errors: as [`Buffer::zeroed`].
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
        match &self.part {
            None => &[],
            // SAFETY: the part holds `len` initialised values on a boundary of more than theirs; any bytes are an f32.
            Some(part) => unsafe { std::slice::from_raw_parts(part.start().cast(), self.len) },
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.part {
            None => &mut [],
            // SAFETY: as above, and borrowed exclusively.
            Some(part) => unsafe { std::slice::from_raw_parts_mut(part.start_mut().cast(), self.len) },
        }
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
