//! Texts and bytes that C receives.

use crate::argument;
use crate::status::{FORETUNE_BUFFER_TOO_SMALL, Failure, Result};
use std::ffi::{CString, c_char};

/// Texts kept for pointers into them.
pub(crate) struct Texts(Vec<CString>);

impl Texts {
    pub fn new(texts: &[String]) -> Self {
        Texts(texts.iter().map(|text| c_text(text)).collect())
    }

    /// Text `index`, or null.
    pub fn get(&self, index: usize) -> *const c_char {
        self.0.get(index).map_or(std::ptr::null(), |text| text.as_ptr())
    }
}

/// A text without its zero bytes.
pub(crate) fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}

/// Copies `bytes` to `buffer` if it holds them, and their number to `*len` in any case.
///
/// # Safety
/// `buffer` is null or holds `capacity` bytes; `len` is null or may be written.
pub(crate) unsafe fn bytes(bytes: &[u8], buffer: *mut u8, capacity: usize, len: *mut usize) -> Result {
    // SAFETY: the caller's promise.
    unsafe { argument::output("len", len)? }.write(bytes.len());
    if buffer.is_null() && capacity == 0 {
        return Ok(());
    }
    if capacity < bytes.len() {
        let text = format!("the buffer has {capacity} bytes, and {} are needed", bytes.len());
        return Err(Failure::new(FORETUNE_BUFFER_TOO_SMALL, text));
    }
    // SAFETY: as above.
    unsafe { argument::slice_mut("buffer", buffer, bytes.len())? }.copy_from_slice(bytes);
    Ok(())
}
