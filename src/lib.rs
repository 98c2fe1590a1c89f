//! Forward-only prompt tuning of pretrained Vision Transformers.
#![warn(missing_docs)]

pub mod data;
pub mod error;
mod files;
pub mod model;
pub mod tune;
pub mod weights;

pub use error::{Error, Result};
pub use model::{LoadOptions, Model, ModelSpec};
