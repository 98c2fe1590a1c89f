//! The files Foretune writes itself, adapters and training checkpoints: a safetensors file with one JSON document in its
//! metadata and a checksum over everything, so that damage is noticed wherever it is.
//!
//! Metadata key `foretune` holds `{"format": …, "version": …, "content": …}`. Tensor `blake3` (U8 `[32]`) is the hash of that
//! string and of every other tensor's name, shape and bytes in the order of names. All other tensors are little-endian F32, sums F64.
//! Equal content gives equal bytes.

use crate::{Error, Result};
use ndarray::{Array, Array1, Dimension};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

const KEY: &str = "foretune";
const CHECKSUM: &str = "blake3";
/// safetensors' own limit on headers.
const MAX_HEADER: u64 = 100_000_000;
/// Beyond the head of any classifier that exists: 21 841 classes × 4 096, its optimizer state and best copy take 1.5 GB.
const MAX_FILE: u64 = 4 << 30;

/// What a file is: its format's name and the version of it that this crate writes and reads.
pub(crate) struct Format {
    pub(crate) name: &'static str,
    pub(crate) version: u32,
    /// For messages: "an adapter".
    pub(crate) what: &'static str,
}

/// Tensors to write, already in the file's byte order.
#[derive(Default)]
pub(crate) struct Tensors(Vec<(String, Dtype, Vec<usize>, Vec<u8>)>);

impl Tensors {
    /// Adds `array` as `name`.
    pub(crate) fn push<D: Dimension>(&mut self, name: &str, array: &Array<f32, D>) {
        let bytes = array.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.0.push((name.to_owned(), Dtype::F32, array.shape().to_vec(), bytes));
    }

    /// Adds `values`, sums that later ones are added to, as `name` `[len]`.
    pub(crate) fn push_sums(&mut self, name: &str, values: &[f64]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.0.push((name.to_owned(), Dtype::F64, vec![values.len()], bytes));
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a, T> {
    #[serde(borrow)]
    format: std::borrow::Cow<'a, str>,
    version: u32,
    content: T,
}

/// The file's bytes.
pub(crate) fn encode<T: Serialize>(path: &Path, format: &Format, content: &T, tensors: &Tensors) -> Result<Vec<u8>> {
    let fail = |problem: String| Error::Adapter { path: path.to_owned(), problem };
    let envelope = Envelope { format: format.name.into(), version: format.version, content };
    let document = serde_json::to_string(&envelope).map_err(|e| fail(format!("cannot describe the content: {e}")))?;
    let mut views = Vec::with_capacity(tensors.0.len() + 1);
    for (name, dtype, shape, bytes) in &tensors.0 {
        let view = TensorView::new(*dtype, shape.clone(), bytes)
            .map_err(|e| fail(format!("cannot write tensor `{name}`: {e}")))?;
        views.push((name.as_str(), view));
    }
    let checksum = checksum(&document, views.clone());
    let view = TensorView::new(Dtype::U8, vec![checksum.len()], &checksum).map_err(|e| fail(e.to_string()))?;
    views.push((CHECKSUM, view));
    // One key only: a map's order is not fixed.
    let metadata = HashMap::from([(KEY.to_owned(), document)]);
    safetensors::serialize(views, Some(metadata)).map_err(|e| fail(format!("cannot write the header: {e}")))
}

/// A file whose format, version and checksum have been verified.
pub(crate) struct Decoded<'a, T> {
    pub(crate) content: T,
    tensors: SafeTensors<'a>,
    path: &'a Path,
}

/// Reads what [`encode`] wrote. Fails with [`Error::Adapter`] on anything else.
pub(crate) fn decode<'a, T: DeserializeOwned>(
    path: &'a Path,
    format: &Format,
    bytes: &'a [u8],
) -> Result<Decoded<'a, T>> {
    let fail = |problem: String| Error::Adapter { path: path.to_owned(), problem };
    let not_ours = |why: &str| fail(format!("not {} written by foretune: {why}", format.what));
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| {
        fail(format!("not a complete safetensors file ({e}); it is truncated, damaged, or something else"))
    })?;
    let document = header
        .metadata()
        .as_ref()
        .and_then(|metadata| metadata.get(KEY))
        .ok_or_else(|| not_ours("its metadata has no `foretune` entry"))?;
    let kind: Envelope<IgnoredAny> =
        serde_json::from_str(document).map_err(|e| not_ours(&format!("its description is malformed ({e})")))?;
    if kind.format != format.name {
        return Err(not_ours(&format!("it is a `{}` file", kind.format.escape_debug())));
    }
    if kind.version != format.version {
        let (found, known) = (kind.version, format.version);
        return Err(fail(format!(
            "format version {found}, but this foretune reads version {known}; use a matching one"
        )));
    }
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| fail(e.to_string()))?;
    let stored = tensors.tensor(CHECKSUM).map_err(|_| not_ours("it has no checksum"))?;
    let others = tensors.iter().filter(|(name, _)| *name != CHECKSUM).collect();
    // A fuzzer cannot guess checksums; what is behind them must hold without.
    if !cfg!(fuzzing) && stored.data() != checksum(document, others) {
        return Err(fail("its content does not match its checksum; the file is damaged or was edited".into()));
    }
    let envelope: Envelope<T> =
        serde_json::from_str(document).map_err(|e| not_ours(&format!("its description is malformed ({e})")))?;
    Ok(Decoded { content: envelope.content, tensors, path })
}

impl<T> Decoded<'_, T> {
    /// The tensor `name`, if there is one. Fails unless it is F32, finite, and has the dimensions of `D`.
    pub(crate) fn optional<D: Dimension>(&self, name: &str) -> Result<Option<Array<f32, D>>> {
        let Ok(view) = self.tensors.tensor(name) else { return Ok(None) };
        let fail = |problem: String| {
            let shape = view.shape();
            Error::Adapter { path: self.path.to_owned(), problem: format!("tensor `{name}` {shape:?}: {problem}") }
        };
        if view.dtype() != Dtype::F32 {
            return Err(fail(format!("expected F32, found {:?}", view.dtype())));
        }
        let values: Vec<f32> =
            view.data().as_chunks().0.iter().map(|&element: &[u8; 4]| f32::from_le_bytes(element)).collect();
        if !values.iter().all(|v| v.is_finite()) {
            return Err(fail("holds NaN or infinity".into()));
        }
        let array = Array::from_shape_vec(view.shape(), values).map_err(|e| fail(e.to_string()))?;
        let dimensions = D::NDIM.unwrap_or(array.ndim());
        array.into_dimensionality().map(Some).map_err(|_| fail(format!("expected {dimensions} dimensions")))
    }

    /// The tensor `name`. Fails when it is absent, and where [`optional`](Self::optional) does.
    pub(crate) fn required<D: Dimension>(&self, name: &str) -> Result<Array<f32, D>> {
        self.optional(name)?.ok_or_else(|| self.error(format!("tensor `{name}` is missing")))
    }

    /// The sums `name` `[len]`. Fails unless they are there, F64 and finite.
    pub(crate) fn sums(&self, name: &str) -> Result<Vec<f64>> {
        let view = self.tensors.tensor(name).map_err(|_| self.error(format!("tensor `{name}` is missing")))?;
        let values: Vec<f64> = view.data().as_chunks().0.iter().map(|v| f64::from_le_bytes(*v)).collect();
        if view.dtype() != Dtype::F64 || view.shape().len() != 1 || !values.iter().all(|v| v.is_finite()) {
            return Err(self.error(format!("tensor `{name}`: expected one row of finite F64")));
        }
        Ok(values)
    }

    /// The one element of the tensor `name` of shape `[1]`.
    pub(crate) fn scalar(&self, name: &str) -> Result<f32> {
        let values: Array1<f32> = self.required(name)?;
        match values.as_slice() {
            Some(&[value]) => Ok(value),
            _ => Err(self.error(format!("tensor `{name}` [{}]: expected one element", values.len()))),
        }
    }

    /// An error about this file.
    pub(crate) fn error(&self, problem: String) -> Error {
        Error::Adapter { path: self.path.to_owned(), problem }
    }
}

fn checksum(document: &str, mut tensors: Vec<(&str, TensorView)>) -> [u8; 32] {
    tensors.sort_by(|a, b| a.0.cmp(b.0));
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    field(document.as_bytes());
    for (name, view) in &tensors {
        field(name.as_bytes());
        field(format!("{:?}{:?}", view.dtype(), view.shape()).as_bytes());
        field(view.data());
    }
    *hasher.finalize().as_bytes()
}

/// The whole file, refusing sizes no file of ours has.
pub(crate) fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let length = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
    if length > MAX_FILE {
        let problem = format!("not {what}: {length} bytes is more than any has ({MAX_FILE})");
        return Err(Error::Adapter { path: path.to_owned(), problem });
    }
    let mut bytes = Vec::new();
    let capacity = length as usize;
    bytes.try_reserve_exact(capacity).map_err(|_| Error::OutOfMemory { bytes: capacity, what: "reading a file" })?;
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    Ok(bytes)
}

/// The format's name if `path` is a file of ours, from its header alone.
pub(crate) fn format_of(path: &Path) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Header {
        __metadata__: Option<HashMap<String, String>>,
    }
    let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut length = [0; 8];
    if file.read_exact(&mut length).is_err() || u64::from_le_bytes(length) > MAX_HEADER {
        return Ok(None);
    }
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length)).read_to_end(&mut header).map_err(|e| Error::io("read", path, e))?;
    let document = serde_json::from_slice::<Header>(&header).ok().and_then(|h| h.__metadata__?.remove(KEY));
    let format = document.and_then(|document| {
        serde_json::from_str::<Envelope<IgnoredAny>>(&document).ok().map(|envelope| envelope.format.into_owned())
    });
    Ok(format)
}
