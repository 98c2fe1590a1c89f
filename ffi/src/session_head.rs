//! Heads and classes of sessions.

use crate::argument;
use crate::guard::call;
use crate::image::foretune_image;
use crate::output::Texts;
use crate::session::{foretune_session, with, with_labelled};
use crate::status::foretune_status;
use std::ffi::c_char;

/// Fits a prototype head to `count` labelled images alone: class means of the frozen model, and the temperature. Each class needs one
/// image at least. One thread at a time.
///
/// Errors: as `foretune_session_step`; `FORETUNE_BAD_OPTIONS` for another head or a class without images.
///
/// # Safety
/// As `foretune_session_step`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_fit_head(
    session: *mut foretune_session,
    images: *const foretune_image,
    labels: *const u32,
    count: usize,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        with_labelled(session, images, labels, count, |session, images, labels| session.fit_head(images, labels))
    })
}

/// Adds labelled images of known classes to a prototype head: their means move, the temperature stays. One image will do. One thread at
/// a time.
///
/// Errors: as `foretune_session_step`; `FORETUNE_BAD_OPTIONS` for another head.
///
/// # Safety
/// As `foretune_session_step`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_add_examples(
    session: *mut foretune_session,
    images: *const foretune_image,
    labels: *const u32,
    count: usize,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        with_labelled(session, images, labels, count, |session, images, labels| session.add_examples(images, labels))
    })
}

/// Adds a class called `name`, UTF-8, to a prototype head, and writes its number, which labels call it by, to `*class_id` (null: not). Its
/// logit is 0 until it has an example. One thread at a time.
///
/// Errors: `FORETUNE_BAD_OPTIONS` for another head, `FORETUNE_BUSY`, `FORETUNE_POISONED`, `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_add_class(
    session: *mut foretune_session,
    name: *const c_char,
    class_id: *mut u32,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let name = argument::text("name", name)?;
        let class = with(session, |inner| {
            let class = inner.session.add_class(name)?;
            inner.names = Texts::new(inner.session.classes());
            Ok(class)
        })?;
        if let Some(to) = class_id.as_mut() {
            *to = class;
        }
        Ok(())
    })
}

/// Writes the number of classes to `*count`. One thread at a time.
///
/// Errors: `FORETUNE_BUSY`, `FORETUNE_POISONED`, `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_class_count(
    session: *const foretune_session,
    count: *mut usize,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let found = with(session, |inner| Ok(inner.session.classes().len()))?;
        argument::output("count", count)?.write(found);
        Ok(())
    })
}

/// Writes the name of class `index`, UTF-8, to `*name`; null if there is none. It holds until classes are added or a checkpoint is loaded.
/// One thread at a time.
///
/// Errors: `FORETUNE_BUSY`, `FORETUNE_POISONED`, `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_class_name(
    session: *const foretune_session,
    index: usize,
    name: *mut *const c_char,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let found = with(session, |inner| Ok(inner.names.get(index)))?;
        argument::output("name", name)?.write(found);
        Ok(())
    })
}
