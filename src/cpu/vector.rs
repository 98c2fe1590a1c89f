//! Frozen vectors where they are stored, so that a model's bytes do not grow with its depth.
//!
//! An operation converts the few vectors it uses into scratch: 3d to 4d values, next to rows of which it has hundreds.

use super::memory::Buffer;
use crate::Result;
use crate::weights::{DType, VectorRef};

/// A frozen vector.
pub enum Vector {
    /// In memory.
    Values(Vec<f32>),
    /// In the mapped file, in its own dtype; all values are finite.
    Mapped(VectorRef),
}

impl From<Vec<f32>> for Vector {
    fn from(values: Vec<f32>) -> Self {
        Vector::Values(values)
    }
}

impl Vector {
    /// `vector` where it is; f64 is rounded to f32 once. Errors: a tensor cannot be read.
    pub(super) fn mapped(vector: &VectorRef) -> Result<Self> {
        let narrow = |dtype| matches!(dtype, DType::F32 | DType::F16 | DType::Bf16);
        if vector.tensors().all(|tensor| narrow(tensor.dtype())) {
            vector.tensors().try_for_each(|tensor| tensor.check_finite())?;
            return Ok(Vector::Mapped(vector.clone()));
        }
        vector.read().map(Vector::Values)
    }

    /// Values.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        match self {
            Vector::Values(values) => values.len(),
            Vector::Mapped(vector) => vector.len(),
        }
    }
}

/// The values of `vectors`, those that are mapped in `scratch`. Errors: memory is short, or the file has changed.
pub(super) fn values<'a, const N: usize>(
    vectors: [Option<&'a Vector>; N],
    scratch: &'a mut Buffer,
) -> Result<[Option<&'a [f32]>; N]> {
    let mapped = |vector: &&Vector| matches!(vector, Vector::Mapped(_));
    let len = vectors.iter().flatten().filter(|v| mapped(v)).map(|v| v.len()).sum();
    let mut rest = scratch.at_least(len, "vectors of an operation")?;
    let mut all: [Option<&[f32]>; N] = [None; N];
    for (out, vector) in all.iter_mut().zip(vectors) {
        *out = match vector {
            None => None,
            Some(Vector::Values(values)) => Some(values.as_slice()),
            Some(Vector::Mapped(vector)) => {
                let (head, tail) = std::mem::take(&mut rest).split_at_mut(vector.len());
                rest = tail;
                vector.read_into(head)?;
                Some(head)
            }
        };
    }
    Ok(all)
}
