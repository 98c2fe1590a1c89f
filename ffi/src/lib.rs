//! The C ABI of Foretune: `include/foretune.h` is generated from this crate, and `docs/embedding.md` tells how it is used.
//!
//! Every function that can fail returns a [`foretune_status`]; the text of a thread's last failure is
//! [`foretune_last_error`]. No panic leaves the library: it becomes [`FORETUNE_PANIC`], and the handle it happened on is
//! poisoned. This is the only crate with `extern "C"`; it converts, checks and forwards, and computes nothing.
#![allow(non_camel_case_types, reason = "the names are C's")]

mod allocator;
mod argument;
mod dataset;
mod export;
mod guard;
mod guess;
mod image;
mod info;
mod logging;
mod model;
mod onnx_runtime;
mod options;
mod output;
mod plan;
mod predictor;
mod session;
mod session_files;
mod session_head;
mod session_memory;
pub mod status;
mod target;

pub use allocator::foretune_allocator;
pub use dataset::*;
pub use export::*;
#[cfg(feature = "fault-injection")]
pub use guard::foretune_inject_panic;
pub use guess::*;
pub use image::*;
pub use info::*;
pub use logging::*;
pub use model::*;
pub use onnx_runtime::*;
pub use options::*;
pub use plan::*;
pub use predictor::*;
pub use session::*;
pub use session_files::*;
pub use session_head::*;
pub use session_memory::*;
pub use status::*;
