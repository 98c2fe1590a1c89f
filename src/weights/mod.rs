//! Checkpoints: safetensors files read through memory maps, and the tensors of a ViT found in them.

pub mod vit;
