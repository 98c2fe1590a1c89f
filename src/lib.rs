//! Forward-only prompt tuning of pretrained Vision Transformers.
#![warn(missing_docs)]

pub mod adapter;
mod container;
pub mod cpu;
pub mod data;
pub mod error;
mod files;
pub mod model;
pub mod rng;
pub mod tune;

pub use error::{Error, Result};
