//! Forward-only prompt tuning of pretrained Vision Transformers.
#![warn(missing_docs)]

pub mod adapter;
pub mod backend;
mod container;
pub mod cpu;
pub mod data;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod demo;
pub mod encoder;
pub mod engine;
pub mod error;
mod files;
pub mod guess;
pub mod model;
pub mod ops;
pub mod rng;
pub mod selftest;
pub mod tune;
pub mod weights;

pub use error::{Error, Result};
pub use model::{LoadOptions, Model, ModelSpec};
