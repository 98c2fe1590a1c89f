//! Between C and Rust: panics become a status, and handles know whether they can be used.

use crate::status::{
    FORETUNE_BUSY, FORETUNE_OK, FORETUNE_PANIC, FORETUNE_POISONED, Failure, Result, foretune_status, remember,
};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, Once, TryLockError};

/// Runs the body of a call.
pub(crate) fn call(body: impl FnOnce() -> Result) -> foretune_status {
    silence();
    let result = catch_unwind(AssertUnwindSafe(|| {
        #[cfg(feature = "fault-injection")]
        inject();
        body()
    }));
    match result.unwrap_or_else(|panic| Err(panicked(&*panic))) {
        Ok(()) => FORETUNE_OK,
        Err(failure) => {
            remember(&failure);
            failure.status
        }
    }
}

/// The library writes nothing to stderr, panics included. This is its own copy of the standard library, not the host's.
fn silence() {
    static ONCE: Once = Once::new();
    if cfg!(not(test)) {
        ONCE.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure::new(FORETUNE_PANIC, format!("a bug in foretune, please report it: {}", text.unwrap_or("no text")))
}

/// What a handle holds, for one call at a time.
pub(crate) struct Exclusive<T> {
    inner: Mutex<T>,
}

impl<T> Exclusive<T> {
    pub fn new(inner: T) -> Self {
        Exclusive { inner: Mutex::new(inner) }
    }

    /// Errors: another call is using it, one has panicked, or `body`'s own.
    pub fn with<R>(&self, body: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        let fail = |status, text| Err(Failure::new(status, text));
        match self.inner.try_lock() {
            Ok(mut inner) => {
                #[cfg(feature = "fault-injection")]
                inject();
                body(&mut inner)
            }
            Err(TryLockError::WouldBlock) => {
                fail(FORETUNE_BUSY, "another thread is using this handle; wait for its call to end")
            }
            // By the panic that unwound through it.
            Err(TryLockError::Poisoned(_)) => {
                fail(FORETUNE_POISONED, "an earlier call on this handle panicked; destroy it")
            }
        }
    }
}

/// Destroys the handle at `*handle`, if there is one, and nulls it.
///
/// # Safety
/// `handle` is null, or points to null or to a pointer that `Box::into_raw` gave for a `T` and nobody uses any more.
pub(crate) unsafe fn destroy<T>(handle: *mut *mut T) {
    silence();
    // SAFETY: the caller's promise.
    let Some(slot) = (unsafe { handle.as_mut() }) else { return };
    let taken = std::mem::replace(slot, std::ptr::null_mut());
    if !taken.is_null() {
        // SAFETY: as above. A panic while dropping must not leave the library; what is not dropped then is lost.
        catch_unwind(AssertUnwindSafe(|| drop(unsafe { Box::from_raw(taken) }))).ok();
    }
}

#[cfg(feature = "fault-injection")]
thread_local! {
    static INJECT: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

#[cfg(feature = "fault-injection")]
fn inject() {
    let left = INJECT.get();
    INJECT.set(left.saturating_sub(1));
    assert!(left != 1, "injected");
}

/// Only in builds for tests: the `calls`-th of the places where this thread may panic does, counted from now on; 0: none. A call has
/// one before it does anything, and one on a session a second, inside.
#[cfg(feature = "fault-injection")]
#[unsafe(no_mangle)]
pub extern "C" fn foretune_inject_panic(calls: u32) {
    INJECT.set(calls);
}
