//! Checkpoints: safetensors files read through memory maps, and the tensors of a ViT found in them.

mod assemble;
mod checkpoint;
mod facts;
mod file;
mod names;
mod tensor;
mod vit;

pub use checkpoint::Checkpoint;
pub use tensor::{DType, Element, TensorRef};
pub use vit::{BlockRef, LinearRef, NormRef, PositionRef, PositionResize, VectorRef, VitRef};

pub(crate) use assemble::{Arrangement, PositionLayout, assemble};
pub(crate) use facts::Facts;
pub(crate) use file::{WeightFile, malformed, read_companion};
pub(crate) use names::{Layout, Parts};
