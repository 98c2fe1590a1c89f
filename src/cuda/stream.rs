//! Streams and events: the order in which a device works.

use super::device::Device;
use crate::Result;
use cudarc::driver::result;
use cudarc::driver::sys;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

/// Work for the device, done in order.
pub(super) struct Stream {
    device: Arc<Device>,
    handle: sys::CUstream,
    owned: bool,
}

/// A point in a stream that others can wait for.
pub(super) struct Event {
    device: Arc<Device>,
    handle: sys::CUevent,
}

// SAFETY: handles may be used from any thread, and the driver's functions are thread-safe.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}
// SAFETY: as above.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Stream {
    /// One that waits for no other.
    pub(super) fn new(device: &Arc<Device>) -> Result<Stream> {
        let _current = device.enter()?;
        let handle = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|error| device.error("make a stream", error))?;
        Ok(Stream { device: device.clone(), handle, owned: true })
    }

    /// The caller's own, of the device's context.
    ///
    /// # Safety
    /// It is a `CUstream` of that context and outlives this.
    pub(super) unsafe fn of_caller(device: &Arc<Device>, stream: NonNull<c_void>) -> Stream {
        Stream { device: device.clone(), handle: stream.as_ptr().cast(), owned: false }
    }

    pub(super) fn handle(&self) -> sys::CUstream {
        self.handle
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Waits for everything so far.
    pub(super) fn synchronize(&self) -> Result<()> {
        let _current = self.device.enter()?;
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.handle) }.map_err(|error| self.device.error("finish its work", error))
    }

    /// What follows waits for `event`.
    pub(super) fn wait(&self, event: &Event) -> Result<()> {
        let _current = self.device.enter()?;
        // SAFETY: both are alive.
        unsafe { result::stream::wait_event(self.handle, event.handle, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
            .map_err(|error| self.device.error("wait for an event", error))
    }

    /// Copies `from` to device address `to`.
    ///
    /// # Safety
    /// `to` is that many bytes of live device memory, and pinned bytes stay as they are until the copy has been made.
    pub(super) unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        let _current = self.device.enter()?;
        // SAFETY: the caller's promise.
        unsafe { result::memcpy_htod_async(to, from, self.handle) }
            .map_err(|error| self.device.error("copy to it", error))
    }

    /// Copies device address `from` to `to`.
    ///
    /// # Safety
    /// `from` is that many bytes of live device memory, and nobody looks at pinned bytes until the copy has been made.
    pub(super) unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        let _current = self.device.enter()?;
        // SAFETY: the caller's promise.
        unsafe { result::memcpy_dtoh_async(to, from, self.handle) }
            .map_err(|error| self.device.error("copy from it", error))
    }

    /// Zeroes `bytes` bytes at `start`.
    ///
    /// # Safety
    /// They are live device memory.
    pub(super) unsafe fn zero(&self, start: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let _current = self.device.enter()?;
        // SAFETY: the caller's promise.
        unsafe { result::memset_d8_async(start, 0, bytes, self.handle) }
            .map_err(|error| self.device.error("zero memory", error))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.owned
            && let Ok(_current) = self.device.enter()
        {
            // SAFETY: made here. What it still has to do is done first.
            unsafe { result::stream::synchronize(self.handle) }.ok();
            unsafe { result::stream::destroy(self.handle) }.ok();
        }
    }
}

impl Event {
    /// One that has nothing to wait for yet.
    pub(super) fn new(device: &Arc<Device>) -> Result<Event> {
        let _current = device.enter()?;
        let handle = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
            .map_err(|error| device.error("make an event", error))?;
        Ok(Event { device: device.clone(), handle })
    }

    /// Moves it to where `stream` is now.
    pub(super) fn record(&self, stream: &Stream) -> Result<()> {
        let _current = self.device.enter()?;
        // SAFETY: both are alive.
        unsafe { result::event::record(self.handle, stream.handle) }
            .map_err(|error| self.device.error("record an event", error))
    }

    /// Returns when the device has come to it.
    pub(super) fn synchronize(&self) -> Result<()> {
        let _current = self.device.enter()?;
        // SAFETY: the event is alive.
        unsafe { result::event::synchronize(self.handle) }.map_err(|error| self.device.error("reach an event", error))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(_current) = self.device.enter() {
            // SAFETY: made here.
            unsafe { result::event::destroy(self.handle) }.ok();
        }
    }
}
