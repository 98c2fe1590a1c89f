//! Vision Transformers as ONNX graphs.

mod dual;
mod export;
mod graph;
mod head;
mod preprocess;
mod proto;
mod vit;
mod write;

pub use export::{ExportOptions, export};
pub use graph::Element;
