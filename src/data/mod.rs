//! Data sets and the way from a photo on disk to the encoder's input.

mod preprocess;

pub use preprocess::{Interpolation, Preprocess, Resize};
