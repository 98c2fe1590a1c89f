//! Weights packed once: the panels that [`pack`](super::pack) otherwise makes in every pass, kept with the matrix.
//!
//! For one block of the depth after the other, all panels of some outputs. A task reads its columns of a block from memory
//! once and then from L2, as it does with panels of its own.

use super::pack::Block;
use super::{BF16, Blocking, F32, Gemm, Kernels, Layout, Matrix, Precision};
use crate::Result;
use crate::cpu::isa::Isa;
use crate::cpu::memory::{Buffer, Shared};
use crate::cpu::pool::Pool;
use std::ops::Range;

/// The packed weights of some rows of a matrix, as y = x·Wᵀ needs them.
pub(super) struct Panels {
    pub(super) rows: Range<usize>,
    /// Outputs, the padding of the last panel included.
    padded: usize,
    data: Buffer,
}

impl Panels {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.data.len()
    }

    /// The panels from `column` (the first of one) on, in the block of the depth ahead of which `before` elements of every
    /// sum lie and which has `elements` of them.
    pub(super) fn at(&self, column: usize, before: usize, elements: usize) -> &[f32] {
        &self.data[self.padded * before + column * elements..self.padded * (before + elements)]
    }
}

/// f32 values that the packed weights of `n` outputs over a depth of `k` take.
fn len(kernels: &Kernels, blocking: Blocking, [n, k]: [usize; 2]) -> usize {
    n.next_multiple_of(kernels.panel()) * blocking.depths(k).map(|depth| kernels.elements(depth.len())).sum::<usize>()
}

impl Gemm {
    /// Bytes of the packed weights of `n` outputs over a depth of `k` on the widest instruction set; no other takes more.
    pub(in crate::cpu) fn resident_bytes(precision: Precision, shape: [usize; 2]) -> u64 {
        let isa = Isa::widest();
        let (kernels, blocking) = match precision {
            Precision::F32 => (Kernels::streaming(isa), F32),
            Precision::Bf16 | Precision::F16 => (Kernels::bf16(isa).unwrap_or_else(|| Kernels::streaming(isa)), BF16),
        };
        (len(&kernels, blocking, shape) * size_of::<f32>()) as u64
    }

    /// Packs the rows of `matrix` that products will be asked for, range by range. Bits of products do not depend on it.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub(in crate::cpu) fn pack(&self, pool: &Pool, matrix: &mut Matrix, ranges: &[Range<usize>]) -> Result<()> {
        let k = matrix.cols();
        let panel = self.kernels.panel();
        let mut packed = Vec::with_capacity(ranges.len());
        for rows in ranges {
            let mut data = Buffer::zeroed(len(&self.kernels, self.blocking, [rows.len(), k]), "resident weights")?;
            let out = Shared::new(&mut data);
            let padded = rows.len().next_multiple_of(panel);
            pool.for_each(padded / panel, |index, _| {
                let columns = index * panel..((index + 1) * panel).min(rows.len());
                let mut before = 0;
                for depth in self.blocking.depths(k) {
                    let elements = self.kernels.elements(depth.len());
                    let block = Block {
                        matrix,
                        first: rows.start,
                        layout: Layout::Transposed,
                        columns: columns.clone(),
                        depth,
                    };
                    // SAFETY: the block lies within the matrix; panels of different tasks and depths do not overlap.
                    unsafe {
                        let to = out.slice_mut(padded * before + columns.start * elements, panel * elements);
                        block.pack(self.isa, &self.kernels, to.as_mut_ptr());
                    }
                    before += elements;
                }
            });
            packed.push(Panels { rows: rows.clone(), padded, data });
        }
        matrix.panels = packed;
        Ok(())
    }
}
