//! Frozen values to the device, in pieces through pinned memory, so that reading the file and copying overlap.

use super::Storage;
use super::device::{Device, Pinned};
use super::source::Source;
use super::stream::{Event, Stream};
use crate::Result;
use std::sync::Arc;

/// Bytes of a piece, and how many are under way at a time.
const PIECE: usize = 1 << 20;
const PIECES: usize = 4;

pub(super) struct Uploader {
    pinned: Pinned,
    sent: [Event; PIECES],
    next: usize,
}

impl Uploader {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self> {
        let event = || Event::new(device);
        Ok(Uploader { pinned: device.pinned(PIECE * PIECES)?, sent: [event()?, event()?, event()?, event()?], next: 0 })
    }

    /// Sends `source` in `storage` to device address `to`, in `stream`. Errors: as [`Source::narrow`].
    ///
    /// # Safety
    /// There is live device memory of its size.
    pub(super) unsafe fn source(
        &mut self,
        stream: &Stream,
        source: &Source,
        storage: Storage,
        check: bool,
        to: u64,
    ) -> Result<()> {
        let (size, len) = (storage.size(), source.len());
        for first in (0..len).step_by(PIECE / size) {
            let range = first..(first + PIECE / size).min(len);
            let fill = |out: &mut [u8]| source.narrow(storage, range.clone(), check && first == 0, out);
            // SAFETY: within what the caller promised.
            unsafe { self.piece(stream, to + (first * size) as u64, range.len() * size, fill)? };
        }
        Ok(())
    }

    /// Sends one piece of `bytes` bytes.
    ///
    /// # Safety
    /// As above.
    pub(super) unsafe fn piece(
        &mut self,
        stream: &Stream,
        to: u64,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let piece = self.next;
        self.next = (piece + 1) % PIECES;
        self.sent[piece].synchronize()?;
        let pinned = self.pinned.bytes(piece * PIECE..piece * PIECE + bytes);
        fill(pinned)?;
        // SAFETY: the caller's promise; the bytes stay until the event.
        unsafe { stream.upload(to, pinned)? };
        self.sent[piece].record(stream)
    }

    /// Sends `values` in `storage`. Errors: a value is too large for f16 (it becomes infinite and is met downstream), or the
    /// device's own.
    ///
    /// # Safety
    /// As above.
    pub(super) unsafe fn values(&mut self, stream: &Stream, values: &[f32], storage: Storage, to: u64) -> Result<()> {
        let size = storage.size();
        for (i, values) in values.chunks(PIECE / size).enumerate() {
            let fill = |out: &mut [u8]| {
                super::source::encode(storage, values, out);
                Ok(())
            };
            // SAFETY: the caller's promise.
            unsafe { self.piece(stream, to + (i * PIECE) as u64, values.len() * size, fill)? };
        }
        Ok(())
    }
}

impl Drop for Uploader {
    /// The device may still be reading the pinned memory.
    fn drop(&mut self) {
        self.sent.iter().for_each(|sent| {
            sent.synchronize().ok();
        });
    }
}
