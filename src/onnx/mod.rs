//! Vision Transformers as ONNX graphs: written, run, and read back, those of other programs too.

mod dual;
mod export;
mod graph;
mod head;
mod import;
#[cfg(feature = "ort")]
mod loss;
mod preprocess;
mod proto;
#[cfg(feature = "ort")]
mod tuning;
mod vit;
mod write;

pub use export::{ExportOptions, export};
pub use graph::Element;
pub(crate) use import::{Imported, read};
#[cfg(feature = "ort")]
pub(crate) use tuning::{Described, Form, Goal, Port, Size, Tuning};
