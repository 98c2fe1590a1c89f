//! Vision Transformers as ONNX graphs.

mod dual;
mod export;
mod graph;
mod head;
mod loss;
mod preprocess;
mod proto;
mod tuning;
mod vit;
mod write;

pub use export::{ExportOptions, export};
pub use graph::Element;
#[cfg(feature = "ort")]
pub(crate) use tuning::{Described, Form, Goal, Port, Size, Tuning};
