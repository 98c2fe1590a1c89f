//! Frozen values where a checkpoint stores them, on their way to the device's storage type.

use super::Storage;
use crate::Result;
use crate::weights::{DType, LinearRef, TensorRef, VectorRef};
use half::{bf16, f16};
use std::ops::Range;

/// Values one after another, over several tensors; zeros stand for one that is absent.
#[derive(Clone)]
pub(super) struct Source {
    pieces: Vec<(usize, Option<TensorRef>)>,
}

impl From<&LinearRef> for Source {
    fn from(linear: &LinearRef) -> Self {
        Source { pieces: linear.weight.iter().map(|tensor| (tensor.len(), Some(tensor.clone()))).collect() }
    }
}

impl From<&VectorRef> for Source {
    fn from(vector: &VectorRef) -> Self {
        Source { pieces: vector.pieces().to_vec() }
    }
}

impl Source {
    /// Values.
    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(|(len, _)| len).sum()
    }

    /// Values `range` in `storage`, rounded to nearest, into `out` of just their size. Values that are stored so are copied
    /// and, with `check`, looked at. Errors: a value is not finite, or too large for f16.
    pub(super) fn narrow(&self, storage: Storage, range: Range<usize>, check: bool, out: &mut [u8]) -> Result<()> {
        let (mut start, size) = (0, storage.size());
        for (len, tensor) in &self.pieces {
            let piece = start..start + len;
            let (from, to) = (range.start.max(piece.start), range.end.min(piece.end));
            if from < to {
                let out = &mut out[(from - range.start) * size..(to - range.start) * size];
                match tensor {
                    None => out.fill(0),
                    Some(tensor) => narrow(tensor, storage, from - start..to - start, check, out)?,
                }
            }
            start = piece.end;
        }
        Ok(())
    }
}

fn narrow(tensor: &TensorRef, storage: Storage, range: Range<usize>, check: bool, out: &mut [u8]) -> Result<()> {
    let same = match storage {
        Storage::F32 => DType::F32,
        Storage::F16 => DType::F16,
        Storage::Bf16 => DType::Bf16,
    };
    if tensor.dtype() == same && cfg!(target_endian = "little") {
        if check {
            tensor.check_finite()?;
        }
        let size = storage.size();
        out.copy_from_slice(&tensor.bytes()[range.start * size..range.end * size]);
        return Ok(());
    }
    const BLOCK: usize = 1024;
    let mut wide = [0f32; BLOCK];
    for (block, out) in out.chunks_mut(BLOCK * storage.size()).enumerate() {
        let wide = &mut wide[..out.len() / storage.size()];
        let first = range.start + block * BLOCK;
        tensor.read_at(first, wide)?;
        if !encode(storage, wide, out) {
            let large = wide.iter().position(|&v| f16::from_f32(v).is_infinite()).unwrap_or(0);
            let problem =
                format!("element {} is {} and f16 ends at 65504; use --precision bf16", first + large, wide[large]);
            return Err(tensor.error(problem));
        }
    }
    Ok(())
}

/// Finite `values` in `storage`, rounded to nearest; false when one has become infinite.
pub(super) fn encode(storage: Storage, values: &[f32], out: &mut [u8]) -> bool {
    match storage {
        Storage::F32 => {
            out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(out, v)| *out = v.to_ne_bytes());
            true
        }
        Storage::F16 => {
            let mut finite = true;
            for (out, &v) in out.as_chunks_mut().0.iter_mut().zip(values) {
                let narrow = f16::from_f32(v);
                finite &= narrow.is_finite();
                *out = narrow.to_ne_bytes();
            }
            finite
        }
        Storage::Bf16 => {
            out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(out, &v)| *out = bf16::from_f32(v).to_ne_bytes());
            true
        }
    }
}
