//! Values between host and device: through pinned memory in pieces, converted on the device.
//!
//! There are two pieces, so that the host fills one while the device takes the other. Whatever the size of what passes, the
//! bytes do not grow.

use super::device::{Device, Pinned};
use super::memory::{DeviceArena, Part, padded};
use super::stream::{Event, Stream};
use crate::Result;
use std::sync::Arc;

/// Least values of a piece.
const LEAST: usize = 1 << 16;

/// A number as the device has it.
pub(super) trait Plain: Copy {
    fn store(self, to: &mut [u8]);
    fn load(from: &[u8]) -> Self;
}

macro_rules! plain {
    ($($number:ty),*) => {$(
        impl Plain for $number {
            fn store(self, to: &mut [u8]) {
                to.copy_from_slice(&self.to_ne_bytes());
            }
            fn load(from: &[u8]) -> Self {
                Self::from_ne_bytes(from.try_into().expect("as many bytes as it has"))
            }
        }
    )*};
}
plain!(u32, f32, f64);

/// Two pieces of pinned memory and their counterparts on the device.
pub(super) struct Window {
    pinned: Pinned,
    landing: Part,
    /// Reached when the device is done with a piece.
    done: [Event; 2],
    /// Values of a piece.
    len: usize,
    next: usize,
}

impl Window {
    /// Bytes of device memory for pieces of at least `len` values.
    pub(super) fn bytes(len: usize) -> usize {
        2 * padded(len.max(LEAST) * size_of::<f32>())
    }

    /// Pieces of at least `len` values, carved from `arena` if there is one.
    pub(super) fn new(device: &Arc<Device>, arena: Option<&DeviceArena>, len: usize) -> Result<Self> {
        const WHAT: &str = "copies to and from the host";
        let bytes = Self::bytes(len);
        let landing = match arena {
            Some(arena) => arena.carve(bytes, WHAT)?,
            None => DeviceArena::allocate(device, bytes, WHAT)?.carve(bytes, WHAT)?,
        };
        let done = [Event::new(device)?, Event::new(device)?];
        Ok(Window { pinned: device.pinned(bytes)?, landing, done, len: len.max(LEAST), next: 0 })
    }

    /// Values of a piece.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn piece(&mut self) -> (usize, usize) {
        let piece = self.next;
        self.next = 1 - piece;
        (piece, piece * padded(self.len * size_of::<f32>()))
    }

    /// Sends `parts`, one after another, of together at most [`Window::len`] values; `take` gets their address on the device,
    /// where they stay until what it launches in `stream` has run.
    pub(super) fn send(
        &mut self,
        stream: &Stream,
        parts: &[&[f32]],
        take: impl FnOnce(u64) -> Result<()>,
    ) -> Result<()> {
        let address = self.landing.start();
        let (piece, start) = self.piece();
        self.done[piece].synchronize()?;
        let mut end = start;
        for part in parts {
            self.pinned.floats(end, part.len()).copy_from_slice(part);
            end += size_of_val(*part);
        }
        let to = address + start as u64;
        // SAFETY: within the part; the pinned bytes stay until the event.
        unsafe { stream.upload(to, self.pinned.bytes(start..end))? };
        take(to)?;
        self.done[piece].record(stream)
    }

    /// Sends `data` in one piece and receives `out` in the other; `work` gets their addresses on the device.
    pub(super) fn exchange<D: Plain, O: Plain>(
        &mut self,
        stream: &Stream,
        data: &[D],
        out: &mut [O],
        work: impl FnOnce(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let piece = self.len * size_of::<f32>();
        assert!(size_of_val(data).max(size_of_val(out)) <= piece, "a piece holds each");
        let address = self.landing.start();
        let [(first, from), (second, to)] = [self.piece(), self.piece()];
        self.done[first].synchronize()?;
        self.done[second].synchronize()?;
        let bytes = self.pinned.bytes(from..from + size_of_val(data));
        bytes.chunks_exact_mut(size_of::<D>()).zip(data).for_each(|(to, v)| v.store(to));
        // SAFETY: within the part; the pinned bytes stay until the stream has come to its end below.
        unsafe { stream.upload(address + from as u64, bytes)? };
        work(address + from as u64, address + to as u64)?;
        let bytes = self.pinned.bytes(to..to + size_of_val(out));
        // SAFETY: as above.
        unsafe { stream.download(address + to as u64, bytes)? };
        stream.synchronize()?;
        out.iter_mut().zip(bytes.chunks_exact(size_of::<O>())).for_each(|(out, v)| *out = O::load(v));
        Ok(())
    }

    /// Receives at most [`Window::len`] values, which `give` puts at the address it gets.
    pub(super) fn receive(
        &mut self,
        stream: &Stream,
        data: &mut [f32],
        give: impl FnOnce(u64) -> Result<()>,
    ) -> Result<()> {
        let address = self.landing.start();
        let (piece, start) = self.piece();
        self.done[piece].synchronize()?;
        let from = address + start as u64;
        give(from)?;
        // SAFETY: within the part; nobody looks at the pinned bytes before the stream has come here.
        unsafe { stream.download(from, self.pinned.bytes(start..start + size_of_val(data)))? };
        stream.synchronize()?;
        data.copy_from_slice(self.pinned.floats(start, data.len()));
        Ok(())
    }
}

impl Drop for Window {
    /// The device may still be copying.
    fn drop(&mut self) {
        self.done.iter().for_each(|done| {
            done.synchronize().ok();
        });
    }
}
