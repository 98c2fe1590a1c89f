//! Graphs that are exported and graphs that tune, on a real ONNX Runtime; without one the tests say so and are skipped, or fail where
//! `FORETUNE_NEED_ORT` is set.
#![cfg(feature = "ort")]

#[path = "../common/mod.rs"]
mod common;
mod export;
mod golden;
mod hostile;
mod photos;
mod tune;

use foretune::engine::ort::load;
use std::path::{Path, PathBuf};

/// Whether there is an ONNX Runtime.
fn runtime() -> bool {
    match load(None) {
        Ok(_) => true,
        Err(error) if std::env::var_os("FORETUNE_NEED_ORT").is_some() => panic!("{error}"),
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            false
        }
    }
}

/// Golden cases and, where it is not in their folder, their checkpoint.
fn cases() -> Vec<(PathBuf, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("tests/golden")];
    folders.extend(common::shared("fixtures"));
    let entries = folders.iter().flat_map(|folder| folder.read_dir().unwrap()).map(|entry| entry.unwrap().path());
    let mut cases: Vec<_> = entries.filter(|path| path.join("case.safetensors").exists()).collect();
    cases.sort();
    let model = |case: PathBuf| {
        let real = case.ends_with("real_vit_tiny").then(|| root.join("../shared/models/vit_tiny_patch16_224"));
        (real.unwrap_or_else(|| case.clone()), case)
    };
    cases.into_iter().map(model).map(|(model, case)| (case, model)).collect()
}
