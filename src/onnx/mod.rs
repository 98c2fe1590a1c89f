//! Vision Transformers as ONNX graphs: written, run, and read back, those of other programs too.

mod body;
mod dual;
mod export;
mod graph;
mod head;
mod import;
mod preprocess;
mod proto;
mod vit;
mod write;

pub(crate) use body::{Tuning, name};
pub use export::{ExportOptions, export};
pub use graph::Element;
pub(crate) use import::{Imported, read};
