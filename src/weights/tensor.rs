//! One tensor of a checkpoint: a name, a shape and a range of a shared memory map.

use super::file::WeightFile;
use crate::{Error, Result};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// What weights are read as: `f32` or `f64`.
pub trait Element: sealed::Sealed + Copy + Default + Send + Sync + 'static {
    /// Exact.
    fn from_f32(value: f32) -> Self;
    /// Exact, or rounded to nearest.
    fn from_f64(value: f64) -> Self;
    /// Neither infinite nor NaN.
    fn finite(self) -> bool;
}

impl Element for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn finite(self) -> bool {
        self.is_finite()
    }
}

impl Element for f64 {
    fn from_f32(value: f32) -> Self {
        value.into()
    }
    fn from_f64(value: f64) -> Self {
        value
    }
    fn finite(self) -> bool {
        self.is_finite()
    }
}

/// How a tensor is stored. Weights are one of the first four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// Anything else a safetensors file may hold; it cannot be read as weights.
    Other(Dtype),
}

impl From<Dtype> for DType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::Bf16,
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            other => DType::Other(other),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DType::F16 => f.write_str("F16"),
            DType::Bf16 => f.write_str("BF16"),
            DType::F32 => f.write_str("F32"),
            DType::F64 => f.write_str("F64"),
            DType::Other(other) => write!(f, "{other:?}"),
        }
    }
}

/// A tensor in its file's dtype and memory. Cloning is cheap; the file stays mapped as long as any clone lives.
#[derive(Clone)]
pub struct TensorRef {
    file: Arc<WeightFile>,
    name: Arc<str>,
    shape: Arc<[usize]>,
    dtype: DType,
    range: Range<usize>,
}

impl TensorRef {
    /// `range` must lie within `file` and hold `shape` elements of `dtype`; the file's parser has checked both.
    pub(crate) fn new(
        file: Arc<WeightFile>,
        name: Arc<str>,
        shape: Arc<[usize]>,
        dtype: DType,
        range: Range<usize>,
    ) -> Self {
        TensorRef { file, name, shape, dtype, range }
    }

    /// The elements from `start` on that fill `shape`, under another name. They must be there.
    pub(crate) fn part(&self, name: &str, start: usize, shape: &[usize]) -> Self {
        let size = self.bytes().len() / self.len().max(1);
        let from = self.range.start + start * size;
        let range = from..from + shape.iter().product::<usize>() * size;
        TensorRef { file: self.file.clone(), name: name.into(), shape: shape.into(), dtype: self.dtype, range }
    }

    /// The name the file gives it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file it is in.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Shape, row-major.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Stored dtype.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Elements.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The stored bytes, little-endian.
    pub fn bytes(&self) -> &[u8] {
        &self.file.bytes()[self.range.clone()]
    }

    /// An [`Error::Tensor`] about this tensor.
    pub(crate) fn error(&self, problem: impl Into<String>) -> Error {
        Error::Tensor { path: self.path().to_owned(), name: self.name.to_string(), problem: problem.into() }
    }

    /// Converts into `out`: exactly, except that f64 read as f32 is rounded to nearest.
    ///
    /// # Errors
    /// [`Error::Shape`] when `out` has another length, [`Error::Tensor`] when the tensor is not floating point or holds
    /// a value that is not finite.
    pub fn read_into<T: Element>(&self, out: &mut [T]) -> Result<()> {
        if out.len() != self.len() {
            return Err(Error::Shape {
                what: "buffer for a tensor",
                expected: format!("{} elements for `{}`", self.len(), self.name),
                found: out.len().to_string(),
            });
        }
        self.read_at(0, out)
    }

    /// As [`TensorRef::read_into`], the elements from `start` on.
    pub(crate) fn read_at<T: Element>(&self, start: usize, out: &mut [T]) -> Result<()> {
        let bytes = self.bytes();
        match self.dtype {
            DType::F32 => {
                for (y, x) in out.iter_mut().zip(&bytes.as_chunks::<4>().0[start..]) {
                    *y = T::from_f32(f32::from_le_bytes(*x));
                }
            }
            DType::F64 => {
                for (y, x) in out.iter_mut().zip(&bytes.as_chunks::<8>().0[start..]) {
                    *y = T::from_f64(f64::from_le_bytes(*x));
                }
            }
            DType::F16 => widen::<f16, T>(&bytes[2 * start..], out, f16::from_le_bytes),
            DType::Bf16 => widen::<bf16, T>(&bytes[2 * start..], out, bf16::from_le_bytes),
            DType::Other(_) => return Err(self.not_floating()),
        }
        match out.iter().position(|x| !x.finite()) {
            None => Ok(()),
            Some(i) => Err(self.not_finite(start + i)),
        }
    }

    /// Looks at every element without converting it.
    ///
    /// # Errors
    /// As [`read_into`](Self::read_into).
    pub(crate) fn check_finite(&self) -> Result<()> {
        fn first<const N: usize>(bytes: &[u8], infinite: impl Fn(&[u8; N]) -> bool) -> Option<usize> {
            // Whole blocks without an early exit, so that the comparison runs in vectors.
            let elements = bytes.as_chunks::<N>().0;
            let block = elements.chunks(4096).position(|b| b.iter().fold(false, |found, x| found | infinite(x)))?;
            elements[block * 4096..].iter().position(infinite).map(|i| block * 4096 + i)
        }
        let bytes = self.bytes();
        let found = match self.dtype {
            DType::F32 => first(bytes, |x| !f32::from_le_bytes(*x).is_finite()),
            DType::F64 => first(bytes, |x| !(f64::from_le_bytes(*x) as f32).is_finite()),
            DType::F16 => first(bytes, |x| u16::from_le_bytes(*x) & 0x7c00 == 0x7c00),
            DType::Bf16 => first(bytes, |x| u16::from_le_bytes(*x) & 0x7f80 == 0x7f80),
            DType::Other(_) => return Err(self.not_floating()),
        };
        found.map_or(Ok(()), |i| Err(self.not_finite(i)))
    }

    fn not_floating(&self) -> Error {
        self.error(format!("is stored as {}; weights are F32, F16, BF16 or F64", self.dtype))
    }

    fn not_finite(&self, i: usize) -> Error {
        self.error(format!("element {i} is not finite; the file is damaged, fetch it again"))
    }

    /// The elements, converted as [`read_into`](Self::read_into) does.
    ///
    /// # Errors
    /// As [`read_into`](Self::read_into), and [`Error::OutOfMemory`].
    pub fn read<T: Element>(&self) -> Result<Vec<T>> {
        let mut out = Vec::new();
        append(&mut out, self)?;
        Ok(out)
    }
}

/// Appends the elements of `tensor` to `out`.
pub(super) fn append<T: Element>(out: &mut Vec<T>, tensor: &TensorRef) -> Result<()> {
    let start = out.len();
    out.try_reserve_exact(tensor.len())
        .map_err(|_| Error::OutOfMemory { bytes: tensor.len().saturating_mul(size_of::<T>()), what: "weights" })?;
    out.resize(start + tensor.len(), T::default());
    tensor.read_into(&mut out[start..])
}

/// Widens 16-bit floats a block at a time, so that `half` can use the processor's own conversion.
fn widen<H, T>(bytes: &[u8], out: &mut [T], decode: fn([u8; 2]) -> H)
where
    H: Copy + Default,
    [H]: HalfFloatSliceExt,
    T: Element,
{
    const BLOCK: usize = 512;
    let mut narrow = [H::default(); BLOCK];
    let mut wide = [0f32; BLOCK];
    for (y, x) in out.chunks_mut(BLOCK).zip(bytes.chunks(2 * BLOCK)) {
        let n = y.len();
        for (h, b) in narrow[..n].iter_mut().zip(x.as_chunks::<2>().0) {
            *h = decode(*b);
        }
        narrow[..n].convert_to_f32_slice(&mut wide[..n]);
        for (y, w) in y.iter_mut().zip(&wide[..n]) {
            *y = T::from_f32(*w);
        }
    }
}

impl fmt::Debug for TensorRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.name, self.shape, self.dtype)
    }
}
