//! Checkpoints and their configurations: real, damaged and malicious.

mod classifier;
#[path = "../common/mod.rs"]
mod common;
mod configs;
mod hostile_checkpoints;
mod hostile_onnx;
mod import;
mod open;
