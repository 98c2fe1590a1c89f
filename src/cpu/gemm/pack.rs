//! Weights from where they are stored to panels: blocks of as many outputs as a micro-kernel is wide, in which the
//! weights of one element p of the sums are contiguous, converted to the kernels' format on the way.
//!
//! Reads every stored byte of the block once and writes n·k elements; 0.1 to 0.3 cycles a weight with AVX-512, against
//! m/32 (f32) or m/1024 (AMX) cycles for the products, so that a block is packed once for as many rows as a task has.

use super::Layout;
#[cfg(target_arch = "x86_64")]
use super::kernels::Format;
use super::kernels::Kernels;
use super::matrix::{Matrix, Stored};
use crate::cpu::isa::Isa;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::ops::Range;

/// Elements widened at once: no fewer than the widest panel has columns.
const BLOCK: usize = 48;

/// A block of W: `columns` of the product's n, `depth` of its k, where rows of `matrix` count from `first`.
#[derive(Clone)]
pub(super) struct Block<'a> {
    pub matrix: &'a Matrix,
    pub first: usize,
    pub layout: Layout,
    pub columns: Range<usize>,
    pub depth: Range<usize>,
}

impl Block<'_> {
    /// Writes panels [`Kernels::elements`]`(depth) × panel`, the last one zero-padded.
    ///
    /// # Safety
    /// The CPU has `isa`, whose `kernels` these are; the block lies within the matrix; `out` has room.
    pub(super) unsafe fn pack(&self, isa: Isa, kernels: &Kernels, out: *mut f32) {
        let panel = kernels.panel();
        let elements = kernels.elements(self.depth.len());
        for (index, column) in self.columns.clone().step_by(panel).enumerate() {
            let part = Block { columns: column..(column + panel).min(self.columns.end), ..self.clone() };
            // SAFETY: as promised by the caller; panels do not overlap. bf16 kernels exist for AVX-512 only.
            unsafe {
                let out = out.add(index * panel * elements);
                if part.columns.len() < panel {
                    out.write_bytes(0, panel * elements);
                }
                match (kernels.format(), isa) {
                    #[cfg(target_arch = "x86_64")]
                    (Format::F32, Isa::Avx512) => super::pack_avx512::panel(&part, panel, out),
                    #[cfg(target_arch = "x86_64")]
                    (Format::Bf16 { .. }, _) => super::pack_avx512::bf16_panel(&part, elements, out),
                    _ => part.portable(panel, std::slice::from_raw_parts_mut(out, panel * elements)),
                }
            }
        }
    }

    fn portable(&self, panel: usize, out: &mut [f32]) {
        if self.depth.is_empty() {
            return;
        }
        let mut line = 0;
        for run in self.runs() {
            let (size, row) = (run.stored.size(), self.matrix.cols() * run.stored.size());
            for bytes in run.bytes.chunks_exact(row) {
                match self.layout {
                    Layout::Plain => {
                        let values = &bytes[self.columns.start * size..self.columns.end * size];
                        widen(run.stored, values, &mut out[line * panel..][..self.columns.len()]);
                    }
                    Layout::Transposed => {
                        let values = &bytes[self.depth.start * size..self.depth.end * size];
                        for (bytes, out) in values.chunks(BLOCK * size).zip(out.chunks_mut(BLOCK * panel)) {
                            let mut block = [0.0; BLOCK];
                            let block = &mut block[..bytes.len() / size];
                            widen(run.stored, bytes, block);
                            out[line..].iter_mut().step_by(panel).zip(block).for_each(|(to, v)| *to = *v);
                        }
                    }
                }
                line += 1;
            }
        }
    }

    /// The rows of the matrix that take part: the block's columns where it is transposed, else its depth.
    pub(super) fn runs(&self) -> impl Iterator<Item = super::matrix::Run<'_>> {
        let rows = if self.layout == Layout::Transposed { &self.columns } else { &self.depth };
        self.matrix.runs(self.first + rows.start..self.first + rows.end)
    }
}

/// Transposes `count` rows of `depth` values, `stride` apart, into columns of `out`, whose lines are `line` apart: element
/// p of row i goes to `p·line + i`.
///
/// # Safety
/// The CPU has `isa`; the rows are readable and the columns writable.
pub(in crate::cpu) unsafe fn transpose(
    isa: Isa,
    from: *const f32,
    stride: usize,
    [count, depth]: [usize; 2],
    out: *mut f32,
    line: usize,
) {
    // SAFETY: as promised by the caller.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Avx512 {
            return super::pack_avx512::transpose_rows(from, stride, [count, depth], out, line);
        }
        let _ = isa;
        for p in 0..depth {
            for i in 0..count {
                *out.add(p * line + i) = *from.add(i * stride + p);
            }
        }
    }
}

/// Stored values to f32, exactly; at most [`BLOCK`] of them.
fn widen(stored: Stored, bytes: &[u8], out: &mut [f32]) {
    match stored {
        Stored::F32 => {
            for (to, from) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *to = f32::from_le_bytes(*from);
            }
        }
        Stored::F16 => {
            let mut narrow = [f16::ZERO; BLOCK];
            let narrow = &mut narrow[..out.len()];
            for (to, from) in narrow.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *to = f16::from_le_bytes(*from);
            }
            narrow.convert_to_f32_slice(out);
        }
        Stored::Bf16 => {
            for (to, from) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *to = bf16::from_le_bytes(*from).to_f32();
            }
        }
    }
}
