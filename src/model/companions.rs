//! The small files that lie beside weights.

use crate::weights::read_companion;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// A file's path, for errors, and its bytes.
pub(super) struct Companion {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

/// What of `config.json`, `preprocessor_config.json` and `labels.txt` exists.
#[derive(Default)]
pub(super) struct Companions {
    pub config: Option<Companion>,
    pub processor: Option<Companion>,
    pub labels: Option<Companion>,
}

impl Companions {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            match read_companion(&path) {
                Ok(bytes) => Ok(Some(Companion { path, bytes })),
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
            }
        };
        Ok(Companions {
            config: read("config.json")?,
            processor: read("preprocessor_config.json")?,
            labels: read("labels.txt")?,
        })
    }
}
