//! Device memory, obtained in few pieces that buffers are carved from, and those buffers.

use super::device::{Allocation, Device};
use super::stream::Stream;
use crate::backend::At;
use crate::memory::free::Free;
use crate::{Error, Result};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Every part starts at a multiple of this, which all copies and cuBLASLt like, and is padded to one.
pub(super) const ALIGN: usize = 256;

/// Bytes that a part of `bytes` bytes takes.
pub const fn padded(bytes: usize) -> usize {
    bytes.saturating_add(ALIGN - 1) & !(ALIGN - 1)
}

/// Device memory of a fixed size. Clones share it; it is given back with the last clone and the last part.
#[derive(Clone)]
pub struct DeviceArena {
    region: Arc<Region>,
}

struct Region {
    start: u64,
    free: Mutex<Free>,
    /// Held until this goes.
    _owner: Owner,
}

#[expect(dead_code, reason = "held for their drops")]
enum Owner {
    Allocation(Allocation),
    Part(Part),
}

/// A part of a [`DeviceArena`], exclusively its owner's. It returns to the arena when dropped; the device may still be using
/// it, which is harmless as all that use the arena work in one stream.
pub(super) struct Part {
    region: Arc<Region>,
    range: Range<usize>,
}

impl DeviceArena {
    /// `bytes` bytes of `device`. Errors: [`Error::DeviceMemory`].
    pub(super) fn allocate(device: &Arc<Device>, bytes: usize, what: &'static str) -> Result<Self> {
        let allocation = device.allocate(bytes, what)?;
        Ok(DeviceArena::new(allocation.start, bytes, Owner::Allocation(allocation)))
    }

    /// `bytes` bytes of this arena as an arena of their own. Errors: [`Error::Arena`].
    pub(super) fn within(&self, bytes: usize, what: &'static str) -> Result<Self> {
        let part = self.carve(bytes, what)?;
        Ok(DeviceArena::new(part.start(), bytes, Owner::Part(part)))
    }

    fn new(start: u64, bytes: usize, owner: Owner) -> Self {
        let free = Mutex::new(Free::new(0..bytes / ALIGN * ALIGN));
        DeviceArena { region: Arc::new(Region { start, free, _owner: owner }) }
    }

    /// A part of `bytes` bytes, contents undefined. Errors: [`Error::Arena`] when less than that is left in one piece.
    pub(super) fn carve(&self, bytes: usize, what: &'static str) -> Result<Part> {
        let size = padded(bytes);
        if size == 0 {
            return Ok(Part { region: self.region.clone(), range: 0..0 });
        }
        let start = self.region.free().take(size).map_err(|left| Error::Arena { what, bytes, left })?;
        Ok(Part { region: self.region.clone(), range: start..start + size })
    }
}

impl Region {
    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    /// Its device address, a multiple of [`ALIGN`].
    pub(super) fn start(&self) -> u64 {
        self.region.start + self.range.start as u64
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.range.is_empty() {
            self.region.free().put_back(self.range.clone());
        }
    }
}

/// Address of `count` rows of `width` elements at `at`. Panics: as [`Buffer::at`].
pub(super) fn rows(at: &At<Buffer>, count: usize, width: usize) -> u64 {
    at.buffer.at(at.offset, if count == 0 { 0 } else { (count - 1) * at.stride + width })
}

/// Values on the device, in its storage type.
pub struct Buffer {
    part: Part,
    len: usize,
    /// Bytes of an element.
    size: usize,
}

impl Buffer {
    /// Bytes of an arena that `len` elements of `size` bytes take.
    pub(super) const fn bytes(len: usize, size: usize) -> usize {
        padded(len.saturating_mul(size))
    }

    /// `len` zeroed elements of `arena`. Errors: as [`DeviceArena::carve`], or the device's own.
    pub(super) fn carved(arena: &DeviceArena, stream: &Stream, len: usize, size: usize) -> Result<Self> {
        let part = arena.carve(len.saturating_mul(size), "a buffer of the passes")?;
        // SAFETY: the part is live memory of that size.
        unsafe { stream.zero(part.start(), len * size)? };
        Ok(Buffer { part, len, size })
    }

    /// f32 values that there is room for.
    pub(super) fn words(&self) -> usize {
        self.len * self.size / size_of::<f32>()
    }

    /// Address of `count` elements from `offset` on.
    ///
    /// # Panics
    /// If the buffer ends before them: kernels must not be given more than there is.
    pub(super) fn at(&self, offset: usize, count: usize) -> u64 {
        assert!(offset <= self.len && count <= self.len - offset, "elements {offset}+{count} of {}", self.len);
        self.part.start() + (offset * self.size) as u64
    }
}
