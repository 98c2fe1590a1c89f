//! One safetensors file, mapped and checked.

use super::tensor::{DType, TensorRef};
use crate::{Error, Result};
use memmap2::Mmap;
use safetensors::tensor::Metadata;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// safetensors' own limit on headers.
const MAX_HEADER: u64 = 100_000_000;

enum Storage {
    Mapped(Mmap),
    Shared(Box<dyn AsRef<[u8]> + Send + Sync>),
}

/// A file's bytes and where they came from.
pub(crate) struct WeightFile {
    path: PathBuf,
    storage: Storage,
}

impl WeightFile {
    /// Maps `path`. The pages are read when tensors are; a file that is cut short by another process while it is mapped
    /// raises SIGBUS, as with every memory map.
    pub(crate) fn map(path: &Path) -> Result<Arc<Self>> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let meta = file.metadata().map_err(|e| Error::io("open", path, e))?;
        if !meta.is_file() {
            return Err(malformed(
                path,
                "is not a regular file; give a .safetensors or .onnx file, or a folder that holds one",
            ));
        }
        if meta.len() == 0 {
            return Err(malformed(path, "is empty; fetch it again"));
        }
        // SAFETY: the map is read-only and private to this value; the bytes are only ever read as plain integers, so
        // another process that changes them can yield wrong numbers but no invalid value.
        let mmap = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        Ok(Arc::new(WeightFile { path: path.to_owned(), storage: Storage::Mapped(mmap) }))
    }

    pub(crate) fn from_bytes(path: &Path, bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(WeightFile { path: path.to_owned(), storage: Storage::Shared(Box::new(bytes)) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::Mapped(mmap) => mmap,
            Storage::Shared(bytes) => (**bytes).as_ref(),
        }
    }
}

/// Reads a JSON or text file that accompanies weights, up to the size safetensors allows its headers.
pub(crate) fn read_companion(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_HEADER + 1).read_to_end(&mut bytes))
        .map_err(|e| Error::io("read", path, e))?;
    if bytes.len() as u64 > MAX_HEADER {
        return Err(malformed(path, format!("is larger than {MAX_HEADER} bytes; it cannot be what its name says")));
    }
    Ok(bytes)
}

/// An [`Error::Checkpoint`].
pub(crate) fn malformed(path: &Path, problem: impl Into<String>) -> Error {
    Error::Checkpoint { path: path.to_owned(), problem: problem.into() }
}

/// Reads the header of `file`: every tensor, in name order, its range checked against the file.
pub(super) fn tensors(file: &Arc<WeightFile>) -> Result<Vec<TensorRef>> {
    let bytes = file.bytes();
    let bad = |problem: String| malformed(file.path(), problem);
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(bad(format!("has {} bytes, too few for a safetensors file; fetch it again", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER || length > rest.len() as u64 {
        return Err(bad(format!(
            "is not a whole safetensors file: read as one, it announces a header of {length} bytes but {} follow; fetch it \
             again, or give the file or folder that holds the weights",
            rest.len()
        )));
    }
    let (header, data) = rest.split_at(length as usize);
    // `Metadata` checks that offsets are in order without gap or overlap, and that every shape, its product checked for
    // overflow, fills its range.
    let metadata: Metadata = serde_json::from_slice(header)
        .map_err(|e| bad(format!("has a damaged safetensors header ({e}); fetch it again")))?;
    if metadata.data_len() != data.len() {
        return Err(bad(format!(
            "is truncated or damaged: its header describes {} bytes of tensors, {} follow; fetch it again",
            metadata.data_len(),
            data.len()
        )));
    }
    let start = 8 + header.len();
    let mut found: Vec<_> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| {
            let (from, to) = info.data_offsets;
            let range = start + from..start + to;
            TensorRef::new(file.clone(), name.into(), info.shape.as_slice().into(), DType::from(info.dtype), range)
        })
        .collect();
    found.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(found)
}
