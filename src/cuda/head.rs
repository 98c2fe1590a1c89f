//! Launches `kernels/head.cu`: head inputs to logits. The head comes from the host, whole rows of its matrix at a time.

use super::module::{Kernel, Launch, Module};
use super::window::Window;
use super::{CudaBackend, narrow};
use crate::Result;
use crate::model::Head;
use std::ops::Range;

/// Twin of `DirectionArgs`.
#[repr(C)]
struct DirectionArgs {
    f: u64,
    center: u64,
    out: u64,
    examples: u32,
    first: u32,
    count: u32,
    width: u32,
}

/// Twin of `LogitsArgs`.
#[repr(C)]
struct LogitsArgs {
    f: u64,
    matrix: u64,
    bias: u64,
    z: u64,
    rows: u32,
    classes: u32,
    width: u32,
    stride: u32,
    biased: u32,
    scale: f32,
}

pub(super) struct Kernels {
    direction: Kernel,
    logits: Kernel,
}

impl Kernels {
    pub(super) fn load(module: &Module) -> Result<Self> {
        Ok(Kernels { direction: module.kernel("direction")?, logits: module.kernel("logits")? })
    }
}

/// Where a pass's head inputs are.
pub(super) struct Inputs {
    /// `[1+K, B, D]`, in the storage type.
    pub address: u64,
    /// B.
    pub examples: usize,
    /// K.
    pub tangents: usize,
}

/// `z` `[1+K, n, C]`, f32, of the n examples `range`; `rows` has room for `[1+K, n, D]` f32.
pub(super) fn logits(
    gpu: &CudaBackend,
    window: &mut Window,
    head: &Head,
    f: &Inputs,
    range: Range<usize>,
    rows: u64,
    z: u64,
) -> Result<()> {
    let Kernels { direction, logits } = &gpu.kernels.head;
    let (width, classes, planes) = (head.width(), head.classes(), 1 + f.tangents);
    let (matrix, bias, center, scale) = match head {
        Head::Linear { weight, bias } => (weight, bias.as_slice(), None, 1.0),
        Head::Prototype { center, means, tau } => (means, None, Some(center), *tau),
    };
    let directions = |center| {
        let args = DirectionArgs {
            f: f.address,
            center,
            out: rows,
            examples: narrow("examples", f.examples)?,
            first: narrow("examples", range.start)?,
            count: narrow("examples", range.len())?,
            width: narrow("columns of a head", width)?,
        };
        let launch =
            Launch { grid: [narrow("examples", range.len())?, narrow("planes", planes)?, 1], block: 32, shared: 0 };
        // SAFETY: the twin; the caller checked both ends.
        unsafe { direction.launch(&gpu.stream, launch, &args) }
    };
    match center {
        None => directions(0)?,
        Some(center) => {
            window.send(&gpu.stream, &[center.as_slice().expect("vectors are contiguous")], directions)?;
        }
    }
    let matrix = matrix.as_slice().expect("head matrices are row-major");
    let bias = bias.unwrap_or_default();
    let most = window.len() / (width + 1);
    for first in (0..classes).step_by(most) {
        let count = most.min(classes - first);
        let matrix = &matrix[first * width..][..count * width];
        let bias = if bias.is_empty() { bias } else { &bias[first..][..count] };
        window.send(&gpu.stream, &[matrix, bias], |address| {
            let args = LogitsArgs {
                f: rows,
                matrix: address,
                bias: if bias.is_empty() { 0 } else { address + size_of_val(matrix) as u64 },
                z: z + (first * size_of::<f32>()) as u64,
                rows: narrow("rows of a head", planes * range.len())?,
                classes: narrow("classes", count)?,
                width: narrow("columns of a head", width)?,
                stride: narrow("classes", classes)?,
                biased: narrow("examples", range.len())?,
                scale,
            };
            // Four classes and eight rows a block.
            let grid = [
                narrow("classes", count.div_ceil(4))?,
                narrow("rows of a head", (planes * range.len()).div_ceil(8))?,
                1,
            ];
            // SAFETY: the twin; as above.
            unsafe { logits.launch(&gpu.stream, Launch { grid, block: 128, shared: 0 }, &args) }
        })?;
    }
    Ok(())
}
