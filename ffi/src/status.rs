//! What calls return, and the text that goes with it.

use foretune::Error;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};

/// What a call returns: `FORETUNE_OK`, or why it failed.
pub type foretune_status = i32;

/// It succeeded.
pub const FORETUNE_OK: foretune_status = 0;
/// A pointer is null, a text is no UTF-8, a value is none of those that are allowed, or a struct's size is wrong.
pub const FORETUNE_INVALID_ARGUMENT: foretune_status = 1;
/// The system refused to read or write a file.
pub const FORETUNE_IO: foretune_status = 2;
/// A model's weights or configuration are malformed, or do not belong together.
pub const FORETUNE_BAD_MODEL: foretune_status = 3;
/// A data set or one of its images cannot be read.
pub const FORETUNE_BAD_DATA: foretune_status = 4;
/// An adapter or checkpoint is damaged, or was made for another model or session.
pub const FORETUNE_BAD_ADAPTER: foretune_status = 5;
/// Options contradict each other, the model, or what has been done so far.
pub const FORETUNE_BAD_OPTIONS: foretune_status = 6;
/// Images, labels or logits do not fit: their number, a label beyond the classes, a pixel that is not finite.
pub const FORETUNE_BAD_SHAPE: foretune_status = 7;
/// Losses or derivatives were not finite three steps in a row.
pub const FORETUNE_DIVERGED: foretune_status = 8;
/// It was cancelled, or a callback asked it to stop. The state is that of the last complete step.
pub const FORETUNE_CANCELLED: foretune_status = 9;
/// The budget is too small; the text names the smallest that works.
pub const FORETUNE_BUDGET: foretune_status = 10;
/// Memory could not be obtained.
pub const FORETUNE_OUT_OF_MEMORY: foretune_status = 11;
/// No such device can be used.
pub const FORETUNE_NO_DEVICE: foretune_status = 12;
/// Memory of the device could not be obtained.
pub const FORETUNE_DEVICE_MEMORY: foretune_status = 13;
/// The device failed. What is on the host is whole; the handle can be saved, and no longer computes.
pub const FORETUNE_DEVICE_FAILED: foretune_status = 14;
/// The buffer is too small; the size needed has been written.
pub const FORETUNE_BUFFER_TOO_SMALL: foretune_status = 15;
/// Another thread is using the handle.
pub const FORETUNE_BUSY: foretune_status = 16;
/// An earlier call on the handle panicked; destroy it.
pub const FORETUNE_POISONED: foretune_status = 17;
/// A bug in the library was met; the process and every other handle are sound. Please report the text.
pub const FORETUNE_PANIC: foretune_status = 18;
/// Something that none of the others says.
pub const FORETUNE_INTERNAL: foretune_status = 19;
/// ONNX Runtime was not found, cannot be used, or failed; or the library was built without it.
pub const FORETUNE_ONNX_RUNTIME: foretune_status = 20;

/// A status and its text.
#[derive(Debug)]
pub(crate) struct Failure {
    pub status: foretune_status,
    pub text: String,
}

pub(crate) type Result<T = (), E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub fn new(status: foretune_status, text: impl Into<String>) -> Self {
        Failure { status, text: text.into() }
    }

    pub fn argument(text: impl Into<String>) -> Self {
        Failure::new(FORETUNE_INVALID_ARGUMENT, text)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Io { .. } => FORETUNE_IO,
            Error::Checkpoint { .. } | Error::Tensor { .. } | Error::Config { .. } => FORETUNE_BAD_MODEL,
            Error::Data { .. } | Error::Image { .. } => FORETUNE_BAD_DATA,
            Error::Adapter { .. } => FORETUNE_BAD_ADAPTER,
            Error::Options(_) => FORETUNE_BAD_OPTIONS,
            Error::Shape { .. } => FORETUNE_BAD_SHAPE,
            Error::Diverged(_) => FORETUNE_DIVERGED,
            Error::Interrupted { .. } => FORETUNE_CANCELLED,
            Error::Budget { .. } => FORETUNE_BUDGET,
            Error::OutOfMemory { .. } => FORETUNE_OUT_OF_MEMORY,
            Error::NoDevice(_) => FORETUNE_NO_DEVICE,
            Error::DeviceMemory { .. } => FORETUNE_DEVICE_MEMORY,
            Error::Device { .. } => FORETUNE_DEVICE_FAILED,
            Error::OnnxRuntime(_) => FORETUNE_ONNX_RUNTIME,
            _ => FORETUNE_INTERNAL,
        };
        let text = match error {
            Error::Interrupted { step } => format!("stopped; the state is that after step {step}"),
            error => error.to_string(),
        };
        Failure { status, text }
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Keeps the text for [`foretune_last_error`].
pub(crate) fn remember(failure: &Failure) {
    let text = CString::new(failure.text.replace('\0', "\\0")).unwrap_or_default();
    // A thread that is ending has nobody left to ask.
    LAST.try_with(|last| *last.borrow_mut() = text).ok();
}

/// Text of the last call on this thread that failed, UTF-8: what was wrong, where, and what to do. Empty before the first. It holds
/// until the next call on this thread that fails. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn foretune_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// A status in words, UTF-8, static. For what went wrong this time see `foretune_last_error`. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn foretune_status_string(status: foretune_status) -> *const c_char {
    let text: &CStr = match status {
        FORETUNE_OK => c"success",
        FORETUNE_INVALID_ARGUMENT => c"invalid argument",
        FORETUNE_IO => c"a file cannot be read or written",
        FORETUNE_BAD_MODEL => c"malformed model",
        FORETUNE_BAD_DATA => c"unreadable data set or image",
        FORETUNE_BAD_ADAPTER => c"unusable adapter or checkpoint",
        FORETUNE_BAD_OPTIONS => c"options that do not go together",
        FORETUNE_BAD_SHAPE => c"images, labels or logits that do not fit",
        FORETUNE_DIVERGED => c"training diverged",
        FORETUNE_CANCELLED => c"cancelled",
        FORETUNE_BUDGET => c"budget too small",
        FORETUNE_OUT_OF_MEMORY => c"out of memory",
        FORETUNE_NO_DEVICE => c"no such device",
        FORETUNE_DEVICE_MEMORY => c"out of device memory",
        FORETUNE_DEVICE_FAILED => c"the device failed",
        FORETUNE_BUFFER_TOO_SMALL => c"buffer too small",
        FORETUNE_BUSY => c"another thread uses the handle",
        FORETUNE_POISONED => c"the handle is poisoned by an earlier panic",
        FORETUNE_PANIC => c"a bug in the library",
        FORETUNE_INTERNAL => c"internal error",
        FORETUNE_ONNX_RUNTIME => c"ONNX Runtime cannot be used or failed",
        _ => c"unknown status",
    };
    text.as_ptr()
}
