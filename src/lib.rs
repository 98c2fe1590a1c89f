//! Forward-only prompt tuning of pretrained Vision Transformers.
#![warn(missing_docs)]

pub mod error;
pub mod model;

pub use error::{Error, Result};
