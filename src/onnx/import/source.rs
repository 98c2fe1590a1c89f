//! An ONNX file and its tensors, in the file's memory where it holds them as they are used.

use crate::onnx::proto::{DataLocation, DataType, ModelProto, TensorProto};
use crate::weights::{DType, TensorRef, WeightFile, malformed};
use crate::{Error, Result};
use prost::Message;
use prost::bytes::Bytes;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Numbers that arithmetic on shapes and scales may work on at once.
pub(super) const MOST_NUMBERS: usize = 4096;
/// Axes of a tensor.
pub(super) const MOST_AXES: usize = 8;
/// Elements of a tensor, stored or not: products of them with any element size stay far from overflow.
const MOST_ELEMENTS: usize = 1 << 48;

/// The product of `shape`. `None` for shapes that no tensor of a Vision Transformer has.
pub(super) fn elements(shape: &[usize]) -> Option<usize> {
    if shape.len() > MOST_AXES {
        return None;
    }
    let product = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n))?;
    (1..=MOST_ELEMENTS).contains(&product).then_some(product)
}

/// What a tensor of the file is to the graph.
pub(super) enum Constant {
    /// Floating-point numbers, where they are.
    Stored(TensorRef),
    /// A few numbers, and whether they are integers or truth values.
    Numbers { values: Vec<f64>, shape: Vec<usize>, integer: bool },
    /// The same number everywhere.
    Uniform { value: f64, shape: Vec<usize>, integer: bool },
    /// Nothing that weights can be: why.
    Other(String),
}

/// A parsed file.
pub(super) struct Source {
    pub path: PathBuf,
    pub model: ModelProto,
    file: Arc<WeightFile>,
    beside: RefCell<BTreeMap<String, Arc<WeightFile>>>,
}

struct Whole(Arc<WeightFile>);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl Source {
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(path, WeightFile::map(path)?)
    }

    fn parse(path: &Path, file: Arc<WeightFile>) -> Result<Self> {
        let bytes = Bytes::from_owner(Whole(file.clone()));
        let model = ModelProto::decode(bytes).map_err(|error| {
            malformed(path, format!("is not a whole ONNX model ({error}); fetch or export it again"))
        })?;
        if model.graph.is_none() {
            return Err(malformed(path, "holds no graph, so it is not an ONNX model; fetch or export it again"));
        }
        Ok(Source { path: path.to_owned(), model, file, beside: RefCell::default() })
    }

    /// Metadata under `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.model.metadata_props.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }

    /// Bytes of the file and of those beside it that were read.
    pub fn len(&self) -> usize {
        self.beside.borrow().values().fold(self.file.bytes().len(), |sum, file| sum.saturating_add(file.bytes().len()))
    }

    /// Checks a tensor's shape against its data.
    pub fn constant(&self, tensor: &TensorProto) -> Result<Constant> {
        let bad = |problem: String| Err(Error::Tensor { path: self.path.clone(), name: tensor.name.clone(), problem });
        let shape: Option<Vec<usize>> = tensor.dims.iter().map(|&n| usize::try_from(n).ok()).collect();
        let Some(shape) = shape else {
            return bad(format!(
                "has the negative shape {:?}; the file is damaged, fetch or export it again",
                tensor.dims
            ));
        };
        let Some(size) = size(tensor.data_type()) else {
            return Ok(Constant::Other(format!(
                "tensor `{}` has ONNX's data type {}, which is not supported; weights are f32, f16, bf16 or f64",
                tensor.name, tensor.data_type
            )));
        };
        if shape.contains(&0) {
            return Ok(match shape.as_slice() {
                [0] => Constant::Numbers { values: Vec::new(), shape, integer: true },
                _ => Constant::Other(format!("tensor `{}` is empty", tensor.name)),
            });
        }
        let Some(count) = elements(&shape) else {
            return bad(format!(
                "has shape {shape:?}, which is larger than any tensor; the file is damaged, fetch or export it again"
            ));
        };
        let (file, start, len) = match tensor.data_location == DataLocation::External as i32 {
            true => self.external(tensor)?,
            false if !tensor.raw_data.is_empty() => self.within(&tensor.raw_data),
            false => {
                let bytes = typed(tensor);
                let len = bytes.len();
                (WeightFile::from_bytes(&self.path, bytes), 0, len)
            }
        };
        if len != count * size {
            return bad(format!(
                "has shape {shape:?}, which takes {} bytes, but {len} are there; the file is damaged, fetch or export it again",
                count * size
            ));
        }
        let dtype = match tensor.data_type() {
            DataType::Float => DType::F32,
            DataType::Float16 => DType::F16,
            DataType::Bfloat16 => DType::Bf16,
            DataType::Double => DType::F64,
            kind => return Ok(integers(tensor, kind, shape, &file.bytes()[start..start + len])),
        };
        let (name, shape) = (tensor.name.as_str().into(), shape.as_slice().into());
        Ok(Constant::Stored(TensorRef::new(file, name, shape, dtype, start..start + len)))
    }

    /// Where `raw` lies in the file.
    fn within(&self, raw: &Bytes) -> (Arc<WeightFile>, usize, usize) {
        let start = (raw.as_ptr() as usize).wrapping_sub(self.file.bytes().as_ptr() as usize);
        match start.checked_add(raw.len()) {
            Some(end) if end <= self.file.bytes().len() => (self.file.clone(), start, raw.len()),
            _ => (WeightFile::from_bytes(&self.path, raw.clone()), 0, raw.len()),
        }
    }

    fn external(&self, tensor: &TensorProto) -> Result<(Arc<WeightFile>, usize, usize)> {
        let bad = |problem: String| Error::Tensor { path: self.path.clone(), name: tensor.name.clone(), problem };
        let field = |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
        let location = field("location").map(String::as_str).unwrap_or_default();
        let mut parts = Path::new(location).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || location.contains(['/', '\\', '\0']) {
            return Err(bad(format!(
                "is said to be in `{}`; data outside the model must be in a file beside it, named without a folder",
                location.escape_debug()
            )));
        }
        let number = |key: &str| match field(key) {
            None => Ok(None),
            Some(text) => text.parse::<usize>().map(Some).map_err(|_| {
                bad(format!("has the {key} `{}` in `{location}`, which is no number of bytes", text.escape_debug()))
            }),
        };
        let (start, len) = (number("offset")?.unwrap_or(0), number("length")?);
        let known = self.beside.borrow().get(location).cloned();
        let file = match known {
            Some(file) => file,
            None => {
                let path = self.path.with_file_name(location);
                if !path.is_file() {
                    return Err(bad(format!("is in `{location}`, which is not beside the model; fetch it too")));
                }
                let file = WeightFile::map(&path)?;
                self.beside.borrow_mut().insert(location.to_owned(), file.clone());
                file
            }
        };
        let all = file.bytes().len();
        let len = len.or_else(|| all.checked_sub(start)).unwrap_or(usize::MAX);
        match start.checked_add(len) {
            Some(end) if end <= all => Ok((file, start, len)),
            _ => Err(bad(format!(
                "takes {len} bytes from byte {start} on of `{location}`, which has {all}; fetch or export it again"
            ))),
        }
    }
}

/// Bytes of an element. `None` for types that are no numbers, or of less than a byte.
fn size(kind: DataType) -> Option<usize> {
    Some(match kind {
        DataType::Undefined | DataType::String => return None,
        DataType::Bool | DataType::Int8 | DataType::Uint8 => 1,
        DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16 => 2,
        DataType::Float | DataType::Int32 => 4,
        DataType::Double | DataType::Int64 => 8,
    })
}

/// Data that is not `raw_data`, little-endian.
fn typed(tensor: &TensorProto) -> Vec<u8> {
    match tensor.data_type() {
        DataType::Float => tensor.float_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DataType::Double => tensor.double_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DataType::Int64 => tensor.int64_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        kind => {
            let bytes = size(kind).unwrap_or(0);
            tensor.int32_data.iter().flat_map(|value| value.to_le_bytes().into_iter().take(bytes)).collect()
        }
    }
}

fn integers(tensor: &TensorProto, kind: DataType, shape: Vec<usize>, bytes: &[u8]) -> Constant {
    let first = &bytes[..size(kind).unwrap_or(1)];
    let read = |bytes: &[u8]| -> f64 {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let unsigned = i64::from_le_bytes(wide);
        match kind {
            DataType::Int8 => f64::from(unsigned as i8),
            DataType::Int16 => f64::from(unsigned as i16),
            DataType::Int32 => f64::from(unsigned as i32),
            _ => unsigned as f64,
        }
    };
    let integer = true;
    if bytes.len() > first.len() && bytes.chunks_exact(first.len()).all(|bytes| bytes == first) {
        return Constant::Uniform { value: read(first), shape, integer };
    }
    if bytes.len() / first.len() > MOST_NUMBERS {
        return Constant::Other(format!(
            "tensor `{}` holds {} integers ({kind:?}); quantised models are not supported, use the one they were made from",
            tensor.name,
            bytes.len() / first.len()
        ));
    }
    Constant::Numbers { values: bytes.chunks_exact(first.len()).map(read).collect(), shape, integer }
}
