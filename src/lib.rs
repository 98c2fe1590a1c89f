//! Forward-only prompt tuning of pretrained Vision Transformers.
#![warn(missing_docs)]

pub mod cpu;
pub mod data;
pub mod error;
mod files;
pub mod model;
pub mod tune;

pub use error::{Error, Result};
