//! Whole runs, mostly through the binary: what they promise when repeated, stopped, starved and fed bad input.

mod bad_files;
mod bad_images;
mod bad_outputs;
mod budget;
#[path = "../common/mod.rs"]
mod common;
mod determinism;
mod divergence;
mod photos;
mod resume;
