//! Commands from outside.

#[path = "../common/mod.rs"]
mod common;
mod compare;
mod corrupt;
mod demo;
mod prefix_cache;
mod usage;
