//! One piece of memory, obtained at once, that the buffers of a run are carved from.

use super::allocator::{Allocate, System};
use super::free::Free;
use crate::{Error, Result};
use std::alloc::Layout;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Memory of a fixed size. Clones share it; it is given back with the last clone and the last [`Part`].
#[derive(Clone)]
pub struct Arena {
    memory: Arc<Memory>,
}

/// A part of an [`Arena`], exclusively its owner's. It returns to the arena when dropped.
pub struct Part {
    memory: Arc<Memory>,
    range: Range<usize>,
}

struct Memory {
    start: NonNull<u8>,
    layout: Layout,
    source: Arc<dyn Allocate>,
    /// What no part holds.
    free: Mutex<Free>,
}

// SAFETY: the memory is reached through parts only, whose ranges are disjoint.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Arena {
    /// Every part starts at a multiple of this, a cache line, and is padded to one.
    pub const ALIGN: usize = 64;

    /// Bytes that a part of `bytes` bytes takes.
    pub const fn padded(bytes: usize) -> usize {
        bytes.saturating_add(Self::ALIGN - 1) & !(Self::ALIGN - 1)
    }

    /// Obtains memory for parts whose [padded](Arena::padded) sizes come to `bytes`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], naming `what` it was for.
    pub fn reserve(bytes: usize, what: &'static str) -> Result<Arena> {
        Self::reserve_from(&(Arc::new(System) as Arc<dyn Allocate>), bytes, what)
    }

    /// As [`Arena::reserve`], from `source`.
    ///
    /// # Errors
    /// As [`Arena::reserve`].
    pub fn reserve_from(source: &Arc<dyn Allocate>, bytes: usize, what: &'static str) -> Result<Arena> {
        let layout = Layout::from_size_align(bytes, Self::ALIGN).ok();
        let memory = layout.and_then(|layout| Memory::obtain(source, layout));
        let memory = memory.ok_or(Error::OutOfMemory { bytes, what })?;
        Ok(Arena { memory: Arc::new(memory) })
    }

    /// A zeroed part of `bytes` bytes.
    ///
    /// # Errors
    /// [`Error::Arena`] when less than that is left in one piece, naming `what` it was for.
    pub fn carve(&self, bytes: usize, what: &'static str) -> Result<Part> {
        let size = Self::padded(bytes);
        if size == 0 {
            return Ok(self.part(0..0));
        }
        let start = self.memory.free().take(size).map_err(|left| Error::Arena { what, bytes, left })?;
        let mut part = self.part(start..start + size);
        // SAFETY: the range lies within the memory and is this part's alone.
        unsafe { part.start_mut().write_bytes(0, size) };
        Ok(part)
    }

    fn part(&self, range: Range<usize>) -> Part {
        Part { memory: self.memory.clone(), range }
    }
}

impl Part {
    /// Its first byte, at a multiple of [`Arena::ALIGN`]. All its bytes are initialised, up to its padded size.
    pub fn start(&self) -> *const u8 {
        // SAFETY: the range lies within the memory.
        unsafe { self.memory.start.as_ptr().add(self.range.start) }
    }

    /// As [`Part::start`], to be written.
    pub fn start_mut(&mut self) -> *mut u8 {
        self.start().cast_mut()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.range.is_empty() {
            self.memory.free().put_back(self.range.clone());
        }
    }
}

impl Memory {
    /// The one place that memory is obtained in; [`Drop`] is the one that it is given back in.
    fn obtain(source: &Arc<dyn Allocate>, layout: Layout) -> Option<Memory> {
        let source = source.clone();
        if layout.size() == 0 {
            // Nothing is read or written at this address, nor is it given back.
            return Some(Memory { start: NonNull::<Line>::dangling().cast(), layout, source, free: Mutex::default() });
        }
        let start = source.allocate(layout)?;
        advise_huge_pages(start, layout.size());
        let whole = 0..layout.size();
        Some(Memory { start, layout, source, free: Mutex::new(Free::new(whole)) })
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the whole huge pages within be such: products read rows that are a page or more apart, and dual passes are some 4 %
/// faster when the processor need not look each of them up. The memory is about to be written whole in any case.
#[cfg(target_os = "linux")]
fn advise_huge_pages(start: NonNull<u8>, bytes: usize) {
    const HUGE: usize = 2 << 20;
    let from = start.as_ptr().align_offset(HUGE);
    let whole = bytes.saturating_sub(from) / HUGE * HUGE;
    if whole > 0 {
        // SAFETY: the range lies within memory that is ours. Failure changes nothing but the speed.
        unsafe { libc::madvise(start.as_ptr().add(from).cast(), whole, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_: NonNull<u8>, _: usize) {}

/// What is aligned as arenas are.
#[repr(align(64))]
struct Line;
const _: () = assert!(align_of::<Line>() == Arena::ALIGN);

impl Drop for Memory {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: obtained with this layout, and no part lives, for each holds the memory.
            unsafe { self.source.release(self.start, self.layout) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(part: &mut Part) -> &mut [u8] {
        let len = part.range.len();
        // SAFETY: initialised, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(part.start_mut(), len) }
    }

    #[test]
    fn what_was_measured_can_be_carved_and_no_more() {
        let sizes = [1, 64, 0, 65, 4096];
        let total = sizes.map(Arena::padded).iter().sum();
        assert_eq!(total, 64 + 64 + 128 + 4096);
        let arena = Arena::reserve(total, "a test").unwrap();
        let mut parts: Vec<Part> = sizes.map(|size| arena.carve(size, "a part").unwrap()).into();
        for (i, part) in parts.iter_mut().enumerate() {
            assert_eq!(part.start() as usize % Arena::ALIGN, 0);
            assert!(bytes(part).iter().all(|&b| b == 0));
            bytes(part).fill(i as u8 + 1);
        }
        for (i, part) in parts.iter_mut().enumerate() {
            assert!(bytes(part).iter().all(|&b| usize::from(b) == i + 1), "part {i} overlaps another");
        }
        let error = arena.carve(10, "one more").map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Arena { what: "one more", bytes: 10, left: 0 }), "{error}");
        // Parts outlive the handle.
        drop(arena);
        assert_eq!(bytes(&mut parts[4])[4095], 5);
    }

    #[test]
    fn dropped_parts_are_carved_again_in_any_order() {
        let arena = Arena::reserve(6 * 64, "a test").unwrap();
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1], [1, 2, 0], [2, 0, 1]] {
            let mut parts = [1, 2, 3].map(|lines| Some(arena.carve(lines * 64, "a part").unwrap()));
            bytes(parts[1].as_mut().unwrap()).fill(7);
            order.into_iter().for_each(|i| parts[i] = None);
            let mut whole = arena.carve(6 * 64, "all of it").unwrap();
            assert!(bytes(&mut whole).iter().all(|&b| b == 0), "{order:?}");
        }
        let held = [0; 6].map(|_| arena.carve(64, "a line").unwrap());
        let [_, b, _, d, e, _] = held;
        drop((b, d, e));
        // Two lines in one piece are what can be had, though three are free.
        assert!(matches!(arena.carve(129, "three lines").map(|_| ()), Err(Error::Arena { left: 128, .. })));
        assert!(arena.carve(128, "two lines").is_ok());
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        for bytes in [usize::MAX, isize::MAX as usize & !63, isize::MAX as usize] {
            let error = Arena::reserve(bytes, "a test").map(|_| ()).unwrap_err();
            assert!(matches!(error, Error::OutOfMemory { what: "a test", .. }), "{error}");
        }
        let arena = Arena::reserve(0, "nothing").unwrap();
        assert!(arena.carve(0, "nothing").is_ok());
        assert!(arena.carve(usize::MAX, "everything").is_err());
    }
}
