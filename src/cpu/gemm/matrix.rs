//! Frozen matrices where they are stored: values in memory, or the mapped tensors of a checkpoint in their own dtype.

use super::resident::Panels;
use crate::Result;
use crate::weights::{DType, TensorRef};
use std::ops::Range;

/// How an element is stored, little-endian and at any address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    F32,
    F16,
    Bf16,
}

impl Stored {
    /// Bytes of an element.
    pub(super) fn size(self) -> usize {
        match self {
            Stored::F32 => 4,
            Stored::F16 | Stored::Bf16 => 2,
        }
    }
}

/// Where some rows are.
enum Data {
    Values(Vec<f32>),
    Mapped(TensorRef, Stored),
}

impl Data {
    fn bytes(&self) -> (&[u8], Stored) {
        match self {
            // SAFETY: f32 has no padding, and any bytes are valid u8.
            Data::Values(v) => {
                (unsafe { std::slice::from_raw_parts(v.as_ptr().cast(), size_of_val(&v[..])) }, Stored::F32)
            }
            Data::Mapped(tensor, stored) => (tensor.bytes(), *stored),
        }
    }
}

/// A frozen matrix, row-major, its rows possibly spread over several tensors of different dtypes.
pub struct Matrix {
    /// The data of rows up to `end`, from where the part before ends.
    parts: Vec<(usize, Data)>,
    cols: usize,
    /// What of it has been packed for good.
    pub(super) panels: Vec<Panels>,
}

/// Consecutive rows in one piece of memory.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    /// The rows, dense.
    pub bytes: &'a [u8],
    pub stored: Stored,
    pub rows: usize,
}

impl Matrix {
    /// `[rows, cols]` from values.
    ///
    /// # Panics
    /// If there are not rows·cols of them.
    pub fn from_values(rows: usize, cols: usize, mut values: Vec<f32>) -> Self {
        assert_eq!(values.len(), rows * cols, "values of a {rows}×{cols} matrix");
        if cfg!(target_endian = "big") {
            values.iter_mut().for_each(|v| *v = f32::from_bits(v.to_bits().to_le()));
        }
        Matrix { parts: vec![(rows, Data::Values(values))], cols, panels: Vec::new() }
    }

    /// The row blocks of `tensors` `[n_i, cols]`, stacked. They stay mapped, but for f64, which is rounded to f32.
    ///
    /// # Errors
    /// As [`TensorRef::read`]; all values are looked at once.
    pub fn mapped(tensors: &[TensorRef], cols: usize) -> Result<Self> {
        let mut end = 0;
        let mut parts = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            end += tensor.len() / cols.max(1);
            let mapped = |stored| tensor.check_finite().map(|()| Data::Mapped(tensor.clone(), stored));
            let data = match tensor.dtype() {
                DType::F32 => mapped(Stored::F32)?,
                DType::F16 => mapped(Stored::F16)?,
                DType::Bf16 => mapped(Stored::Bf16)?,
                DType::F64 | DType::Other(_) => Data::Values(tensor.read()?),
            };
            parts.push((end, data));
        }
        Ok(Matrix { parts, cols, panels: Vec::new() })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.parts.last().map_or(0, |&(end, _)| end)
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The pieces that `rows` are in, in order.
    pub(super) fn runs(&self, rows: Range<usize>) -> impl Iterator<Item = Run<'_>> {
        let mut start = 0;
        self.parts.iter().filter_map(move |(end, data)| {
            let part = std::mem::replace(&mut start, *end)..*end;
            let (from, to) = (rows.start.max(part.start), rows.end.min(part.end));
            (from < to).then(|| {
                let (bytes, stored) = data.bytes();
                let row = self.cols * stored.size();
                let bytes = &bytes[(from - part.start) * row..(to - part.start) * row];
                Run { bytes, stored, rows: to - from }
            })
        })
    }
}
