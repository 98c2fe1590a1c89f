//! Data sets, image decoding and loading, through the public API.

mod images;
mod loading;
mod mat;
mod mat_writer;
mod sets;

use std::path::PathBuf;

/// `../shared/<path>`, or `None`, said aloud, where it is absent.
fn shared(path: &str) -> Option<PathBuf> {
    let full = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if full.exists() {
        return Some(full);
    }
    eprintln!("SKIPPED: {} is absent", full.display());
    None
}

/// A small image of the repository.
fn image(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/images").join(name)
}
