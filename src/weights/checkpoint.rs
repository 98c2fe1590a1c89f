//! A checkpoint: the tensors of one safetensors file, or of the shards its index lists.

use super::file::{self, WeightFile, malformed};
use super::tensor::TensorRef;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Tensors by name, memory-mapped.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    path: PathBuf,
    tensors: BTreeMap<String, TensorRef>,
}

impl Checkpoint {
    /// Opens a `.safetensors` file, an index (`*.safetensors.index.json`), or a folder that holds `model.safetensors`,
    /// `model.safetensors.index.json`, or exactly one `.safetensors` file.
    ///
    /// Nothing but the headers is read. A file that another process cuts short later raises SIGBUS when its tensors
    /// are read, as with every memory map.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Checkpoint`] for anything that is not a whole and well-formed checkpoint.
    pub fn open(path: &Path) -> Result<Self> {
        let path = locate(path)?;
        if path.extension().is_some_and(|e| e == "json") { Self::sharded(&path) } else { Self::single(&path) }
    }

    /// A checkpoint held in memory; `path` is only named in errors.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when `bytes` are not a whole and well-formed safetensors file.
    pub fn from_bytes(path: &Path, bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Self> {
        Ok(Self::from_tensors(path, file::tensors(&WeightFile::from_bytes(path, bytes))?))
    }

    fn single(path: &Path) -> Result<Self> {
        Ok(Self::from_tensors(path, file::tensors(&WeightFile::map(path)?)?))
    }

    /// Tensors that `path` was found to hold, each with a name of its own.
    pub(crate) fn from_tensors(path: &Path, tensors: Vec<TensorRef>) -> Self {
        let tensors = tensors.into_iter().map(|t| (t.name().to_owned(), t)).collect();
        Checkpoint { path: path.to_owned(), tensors }
    }

    fn sharded(index: &Path) -> Result<Self> {
        let bytes = file::read_companion(index)?;
        let places = parse_index(index, &bytes)?;
        let folder = index.parent().unwrap_or(Path::new(""));
        let mut shards: BTreeMap<&str, BTreeMap<String, TensorRef>> = BTreeMap::new();
        for shard in places.values() {
            if !shards.contains_key(shard.as_str()) {
                let path = folder.join(shard);
                if !path.is_file() {
                    return Err(malformed(
                        index,
                        format!("lists the shard `{shard}`, which is not beside it; fetch it"),
                    ));
                }
                let found = file::tensors(&WeightFile::map(&path)?)?;
                shards.insert(shard, found.into_iter().map(|t| (t.name().to_owned(), t)).collect());
            }
        }
        let mut tensors = BTreeMap::new();
        for (name, shard) in &places {
            let tensor = shards.get(shard.as_str()).and_then(|found| found.get(name)).ok_or_else(|| Error::Tensor {
                path: folder.join(shard),
                name: name.clone(),
                problem: format!("is missing, although {INDEX} lists it here; fetch the shard again"),
            })?;
            tensors.insert(name.clone(), tensor.clone());
        }
        for (shard, found) in &shards {
            if let Some(extra) = found.keys().find(|name| !places.contains_key(*name)) {
                log::warn!("{}: shard `{shard}` holds `{extra}`, which the index does not list", index.display());
            }
        }
        Ok(Checkpoint { path: index.to_owned(), tensors })
    }

    /// The file or index that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder the checkpoint's `config.json` would be in.
    pub fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    /// Tensors in name order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorRef> {
        self.tensors.values()
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&TensorRef> {
        self.tensors.get(name)
    }

    /// Total stored bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|t| t.bytes().len() as u64).sum()
    }
}

/// The file to read for what the user named.
fn locate(path: &Path) -> Result<PathBuf> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io("open", path, e))?;
    if !meta.is_dir() {
        return Ok(path.to_owned());
    }
    for name in [WEIGHTS, INDEX] {
        let candidate = path.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| Error::io("list", path, e))? {
        let entry = entry.map_err(|e| Error::io("list", path, e))?.path();
        if entry.extension().is_some_and(|e| e == "safetensors") && entry.is_file() {
            found.push(entry);
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(malformed(
            path,
            format!("holds no {WEIGHTS} and no {INDEX}; give the folder or the file that holds the weights"),
        )),
        many => {
            Err(malformed(path, format!("holds {} .safetensors files and no {INDEX}; name the one to use", many.len())))
        }
    }
}

/// Tensor name → shard file name. Shards must lie beside the index.
fn parse_index(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(bytes).map_err(|e| {
        malformed(path, format!("is not a safetensors index ({e}); it needs a `weight_map` of file names"))
    })?;
    for (name, shard) in &index.weight_map {
        let mut parts = Path::new(shard).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || shard.contains(['/', '\\', '\0']) {
            return Err(malformed(
                path,
                format!("puts `{name}` in `{shard}`; shards must be files in the same folder as the index"),
            ));
        }
    }
    if index.weight_map.is_empty() {
        return Err(malformed(path, "lists no tensors; fetch it again"));
    }
    Ok(index.weight_map)
}
