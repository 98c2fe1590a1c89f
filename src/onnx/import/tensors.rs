//! The tensors of an import: in the file's memory where they lie there as they are used, else copied.

use super::block::Rows;
use super::layers::{Linear, Norm};
use super::source::Source;
use super::term::{Base, Term};
use crate::weights::{Checkpoint, DType, TensorRef, WeightFile, malformed};
use crate::{Error, Result};
use std::path::PathBuf;
use std::slice::from_ref;

/// What is copied besides tensors of the file: zeros for biases that one of several layers lacks.
const SPARE: usize = 1 << 20;

/// Collects tensors under timm's names.
pub(super) struct Tensors {
    path: PathBuf,
    made: Vec<TensorRef>,
    /// Bytes that may still be copied: what a graph shares between layers is copied for each.
    left: usize,
}

impl Tensors {
    pub fn new(source: &Source) -> Self {
        let left = source.len().saturating_mul(2).saturating_add(SPARE);
        Tensors { path: source.path.clone(), made: Vec::new(), left }
    }

    pub fn into_checkpoint(self) -> Checkpoint {
        Checkpoint::from_tensors(&self.path, self.made)
    }

    /// The elements of `parts`, one after another, as `name`.
    pub fn add(&mut self, name: &str, shape: Vec<usize>, parts: &[Term]) -> Result<()> {
        let bad = |problem: String| Error::Tensor { path: self.path.clone(), name: name.to_owned(), problem };
        let count: usize = parts.iter().map(|part| part.view.len()).sum();
        if Some(count) != super::source::elements(&shape) {
            return Err(bad(format!(
                "would have {count} elements, but its place in the graph asks for {shape:?}; export the model again"
            )));
        }
        if parts.iter().any(|part| part.view.repeats()) {
            return Err(bad("repeats one number; it is not a weight".into()));
        }
        if let Some((tensor, start)) = in_place(parts) {
            self.made.push(tensor.part(name, start, &shape));
            return Ok(());
        }
        let mut types = parts.iter().map(|part| match &part.base {
            Base::Stored(tensor) if part.factor == 1.0 || tensor.dtype() == DType::F64 => tensor.dtype(),
            _ => DType::F32,
        });
        let dtype = types.next().filter(|first| types.all(|other| other == *first)).unwrap_or(DType::F32);
        let size = match dtype {
            DType::F16 | DType::Bf16 => 2,
            DType::F64 => 8,
            _ => 4,
        };
        let len = count * size;
        self.left = self.left.checked_sub(len).ok_or_else(|| {
            malformed(&self.path, "uses the same tensors in many layers, which would take far more memory than the file; that is not supported")
        })?;
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(len)
            .map_err(|_| Error::OutOfMemory { bytes: len, what: "weights of an ONNX model" })?;
        for part in parts {
            append(&mut bytes, part, dtype, size)?;
        }
        if bytes.len() != len {
            return Err(malformed(
                &self.path,
                format!("tensor `{name}` reads beyond its numbers; export the model again"),
            ));
        }
        let file = WeightFile::from_bytes(&self.path, bytes);
        self.made.push(TensorRef::new(file, name.into(), shape.into(), dtype, 0..len));
        Ok(())
    }

    pub fn norm(&mut self, name: &str, norm: &Norm, width: usize) -> Result<()> {
        self.add(&format!("{name}.weight"), vec![width], from_ref(&norm.weight))?;
        self.add(&format!("{name}.bias"), vec![width], from_ref(&norm.bias))
    }

    /// A linear layer of `columns`, with a bias, zero if it has none, if `bias`.
    pub fn linear(&mut self, name: &str, linear: &Linear, columns: usize, bias: bool) -> Result<()> {
        let count = linear.rows();
        self.rows(name, &[Rows { linear: linear.clone(), first: 0, count }], columns, bias)
    }

    /// Rows of linear layers, as one layer.
    pub fn rows(&mut self, name: &str, parts: &[Rows], columns: usize, bias: bool) -> Result<()> {
        let unfit = || {
            malformed(
                &self.path,
                format!("the layer `{name}` has another shape than its input; export the model again"),
            )
        };
        let total = parts.iter().map(|part| part.count).sum();
        // Parts of one layer, in order, are that layer.
        let whole = parts.first().filter(|first| {
            let mut next = 0;
            let in_order = parts.iter().all(|part| {
                let fits = part.first == next && part.linear.is(&first.linear);
                next += part.count;
                fits
            });
            in_order && next == first.linear.rows()
        });
        let joined: Vec<Rows> = match whole {
            Some(first) => vec![Rows { linear: first.linear.clone(), first: 0, count: total }],
            None => parts.to_vec(),
        };
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for Rows { linear, first, count } in &joined {
            let cut = |term: &Term| term.view.slice(0, *first, first + count).map(|view| term.with(view));
            weights.push(cut(&linear.weight).ok_or_else(unfit)?);
            biases.push(match &linear.bias {
                Some(bias) => cut(bias).ok_or_else(unfit)?,
                None if bias => Term::numbers(vec![0.0; *count], &[*count], false),
                None => continue,
            });
        }
        self.add(&format!("{name}.weight"), vec![total, columns], &weights)?;
        if bias { self.add(&format!("{name}.bias"), vec![total], &biases) } else { Ok(()) }
    }
}

/// The tensor, and the first element in it, whose elements `parts` are, one after another.
fn in_place(parts: &[Term]) -> Option<(&TensorRef, usize)> {
    let first = parts.first()?;
    let Base::Stored(tensor) = &first.base else { return None };
    let mut next = first.view.start;
    for part in parts {
        let Base::Stored(other) = &part.base else { return None };
        let here = std::rc::Rc::ptr_eq(tensor, other) && part.view.start == next && part.view.contiguous();
        if !here || part.factor != 1.0 {
            return None;
        }
        next += part.view.len();
    }
    Some((tensor, first.view.start))
}

/// Appends the elements of `part` as `dtype`, of `size` bytes each; without a change where the tensor has this type.
fn append(bytes: &mut Vec<u8>, part: &Term, dtype: DType, size: usize) -> Result<()> {
    match &part.base {
        Base::Stored(tensor) if tensor.dtype() == dtype && part.factor == 1.0 => {
            let all = tensor.bytes();
            part.view
                .places()
                .filter_map(|place| all.get(place * size..(place + 1) * size))
                .for_each(|b| bytes.extend(b));
        }
        Base::Stored(tensor) => {
            let all: Vec<f64> = tensor.read()?;
            let values = part.view.places().filter_map(|place| all.get(place)).map(|value| value * part.factor);
            match dtype {
                DType::F64 => values.for_each(|value| bytes.extend(value.to_le_bytes())),
                _ => values.for_each(|value| bytes.extend((value as f32).to_le_bytes())),
            }
        }
        _ => {
            let values = part.values().unwrap_or_default();
            values.into_iter().for_each(|value| bytes.extend((value as f32).to_le_bytes()));
        }
    }
    Ok(())
}
