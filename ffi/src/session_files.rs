//! Adapters and checkpoints of sessions, in files and in the host's memory.

use crate::argument;
use crate::guard::call;
use crate::output::{self, Texts};
use crate::session::{foretune_session, with};
use crate::status::foretune_status;
use std::ffi::c_char;
use std::path::Path;

/// Replaces the file at `path` by the adapter: prompts, head, class names and preprocessing; whole or not at all. Equal sessions give
/// equal bytes. One thread at a time.
///
/// Errors: `FORETUNE_IO`, `FORETUNE_BAD_OPTIONS` before there is a head, `FORETUNE_BUSY`, `FORETUNE_POISONED`,
/// `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_save_adapter(
    session: *mut foretune_session,
    path: *const c_char,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let path = argument::text("path", path)?;
        with(session, |inner| Ok(inner.session.adapter()?.save(path)?))
    })
}

/// The adapter's bytes, as `foretune_session_save_adapter` writes them, to `buffer` of `capacity` bytes; their number to `*size`. With a
/// null buffer and capacity 0 only that. One thread at a time.
///
/// Errors: `FORETUNE_BUFFER_TOO_SMALL`, and as `foretune_session_save_adapter`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_write_adapter(
    session: *mut foretune_session,
    buffer: *mut u8,
    capacity: usize,
    size: *mut usize,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let bytes = with(session, |inner| Ok(inner.session.adapter()?.to_bytes(Path::new("(adapter in memory)"))?))?;
        output::bytes(&bytes, buffer, capacity, size)
    })
}

/// Replaces the file at `path` by a checkpoint: everything needed to go on and give the bits that this session would give; whole or not
/// at all. One thread at a time.
///
/// Errors: as `foretune_session_save_adapter`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_save_checkpoint(
    session: *mut foretune_session,
    path: *const c_char,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let path = argument::text("path", path)?;
        with(session, |inner| Ok(inner.session.save_checkpoint(Path::new(path))?))
    })
}

/// The checkpoint's bytes, as `foretune_session_write_adapter` the adapter's. One thread at a time.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_write_checkpoint(
    session: *mut foretune_session,
    buffer: *mut u8,
    capacity: usize,
    size: *mut usize,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let bytes = with(session, |inner| Ok(inner.session.checkpoint(Path::new("(checkpoint in memory)"))?))?;
        output::bytes(&bytes, buffer, capacity, size)
    })
}

/// Goes on from the checkpoint at `path`, of a session with the same model and options. One thread at a time.
///
/// Errors: `FORETUNE_IO`, `FORETUNE_BAD_ADAPTER` (nothing has changed), `FORETUNE_BUSY`, `FORETUNE_POISONED`,
/// `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_load_checkpoint(
    session: *mut foretune_session,
    path: *const c_char,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let path = Path::new(argument::text("path", path)?);
        with(session, |inner| {
            inner.session.load_checkpoint(path)?;
            inner.names = Texts::new(inner.session.classes());
            Ok(())
        })
    })
}

/// As `foretune_session_load_checkpoint`, from `size` bytes in memory, needed during the call only.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_read_checkpoint(
    session: *mut foretune_session,
    bytes: *const u8,
    size: usize,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let bytes = argument::slice("bytes", bytes, size)?;
        with(session, |inner| {
            inner.session.restore(Path::new("(checkpoint in memory)"), bytes)?;
            inner.names = Texts::new(inner.session.classes());
            Ok(())
        })
    })
}
