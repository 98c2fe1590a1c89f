//! The one matrix product of the CPU backend.
//!
//! `gemm`'s micro-kernels are entered below its dispatcher and its blocking: the dispatcher would ignore a forced
//! instruction set, and the blocking changes the order of summation with the number of rows and allocates per call. Here
//! every output is Σ over k in order, in blocks of `DEPTH`, whatever the tile, the task and the thread it falls into,
//! so a row's bits depend only on that row and on W. All instruction sets with fused multiply-add give the same bits.

use super::isa::Isa;
use super::memory::{Buffer, Shared};
use super::pool::Pool;
use crate::Result;
use gemm_common::microkernel::MicroKernelFn;
use gemm_f32::microkernel;
use std::sync::{Mutex, PoisonError};

/// Terms summed in registers before they are added to memory.
const DEPTH: usize = 256;
/// Output columns whose packed weights one task keeps in its L2 cache.
const COLUMNS: usize = 384;
/// Rows below which a task is not worth repacking the weights for.
const MIN_ROWS: usize = 96;
/// Rows transposed at once while packing.
const PACK: usize = 16;

/// How a weight matrix takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// W is [n, k]: y = x·Wᵀ.
    Transposed,
    /// W is [k, n]: y = x·W.
    Plain,
}

/// What y holds before the product is added.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Nothing: y is overwritten.
    Zero,
    /// Its own values: y += x·W.
    Keep,
    /// `bias` `[n]` in the first `rows` rows, nothing in the others.
    Bias {
        /// `[n]`.
        bias: &'a [f32],
        /// Rows that get the bias.
        rows: usize,
    },
}

/// A matrix in row-major order whose rows are `stride` apart.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a> {
    /// Row i starts at `i·stride`.
    pub data: &'a [f32],
    /// Elements from one row to the next.
    pub stride: usize,
}

/// As [`Strided`], to be written.
#[derive(Debug)]
pub struct StridedMut<'a> {
    /// Row i starts at `i·stride`.
    pub data: &'a mut [f32],
    /// Elements from one row to the next.
    pub stride: usize,
}

/// The micro-kernels of one instruction set: `lanes·vectors` outputs along the contiguous side by `rows` on the other.
pub(super) struct Kernels {
    lanes: usize,
    vectors: usize,
    rows: usize,
    table: &'static [MicroKernelFn<f32>],
}

/// The operand that runs along the contiguous side of the output: element (i, p) at `depth·p + i`, with i restarting and
/// the pointer advancing by `panel` every [`Kernels::panel`] elements. Readable up to whole vectors.
#[derive(Clone, Copy)]
pub(super) struct Along {
    pub data: *const f32,
    pub depth: usize,
    pub panel: usize,
}

/// The other operand: element (p, j) at `depth·p + across·j`.
#[derive(Clone, Copy)]
pub(super) struct Across {
    pub data: *const f32,
    pub depth: usize,
    pub across: usize,
}

impl Kernels {
    pub(super) fn of(isa: Isa) -> Self {
        macro_rules! kernels {
            ($set: ident, $lanes: expr) => {{
                use microkernel::$set::f32::{MR_DIV_N, NR, UKR};
                static TABLE: [[MicroKernelFn<f32>; NR]; MR_DIV_N] = UKR;
                Kernels { lanes: $lanes, vectors: MR_DIV_N, rows: NR, table: TABLE.as_flattened() }
            }};
        }
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => kernels!(fma, 8),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => kernels!(avx512f, 16),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => kernels!(neon, 4),
            _ => kernels!(scalar, 1),
        }
    }

    /// Elements a micro-kernel covers along the contiguous side.
    pub(super) fn panel(&self) -> usize {
        self.lanes * self.vectors
    }

    /// `n` rounded up to whole vectors.
    pub(super) fn padded(&self, n: usize) -> usize {
        n.next_multiple_of(self.lanes)
    }

    /// out[i, j] (+)= Σ_p along(i, p)·across(p, j) for i < m, j < n, p < k in order; (i, j) at `stride·j + i`.
    ///
    /// # Safety
    /// Both operands are readable in these ranges (`along` up to whole vectors of i), and `out` is exclusively ours.
    pub(super) unsafe fn multiply(
        &self,
        [m, n, k]: [usize; 3],
        along: Along,
        across: Across,
        add: bool,
        out: *mut f32,
        stride: usize,
    ) {
        let panel = self.panel();
        for j in (0..n).step_by(self.rows) {
            let count = self.rows.min(n - j);
            for (index, i) in (0..m).step_by(panel).enumerate() {
                let width = panel.min(m - i);
                let kernel = self.table[(width.div_ceil(self.lanes) - 1) * self.rows + count - 1];
                // SAFETY: promised by the caller.
                unsafe {
                    kernel(
                        width,
                        count,
                        k,
                        out.add(stride * j + i),
                        along.data.add(along.panel * index),
                        across.data.add(across.across * j),
                        stride as isize,
                        1,
                        along.depth as isize,
                        across.depth as isize,
                        across.across as isize,
                        1.0,
                        1.0,
                        u8::from(add),
                        false,
                        false,
                        false,
                        std::ptr::null(),
                    );
                }
            }
        }
    }
}

/// Matrix products on a fixed instruction set, with the memory for packed weights.
pub struct Gemm {
    kernels: Kernels,
    packed: Vec<Mutex<Buffer>>,
}

impl Gemm {
    /// Bytes of packing memory per thread.
    pub const BYTES_PER_THREAD: usize = (COLUMNS + 64) * DEPTH * size_of::<f32>();

    /// Allocates packing memory for `threads` threads. Errors: [`crate::Error::OutOfMemory`].
    pub fn new(isa: Isa, threads: usize) -> Result<Self> {
        assert!(isa.is_available());
        let length = Self::BYTES_PER_THREAD / size_of::<f32>();
        let packed = (0..threads).map(|_| Ok(Mutex::new(Buffer::zeroed(length, "packed weights")?)));
        Ok(Gemm { kernels: Kernels::of(isa), packed: packed.collect::<Result<_>>()? })
    }

    /// y[m, n] = start + x[m, k]·W, with W stored once in either [`Weight`] layout, dense.
    ///
    /// # Panics
    /// If a slice is too short for its shape.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        pool: &Pool,
        [m, n, k]: [usize; 3],
        x: Strided<'_>,
        w: &[f32],
        layout: Weight,
        start: Start<'_>,
        y: StridedMut<'_>,
    ) {
        if m == 0 || n == 0 {
            return;
        }
        let extent = |stride: usize, width: usize| (m - 1) * stride + width;
        assert!(x.data.len() >= extent(x.stride, k) && (m == 1 || x.stride >= k), "x is too short");
        assert!(y.data.len() >= extent(y.stride, n) && (m == 1 || y.stride >= n), "y is too short");
        assert!(w.len() >= n * k, "W is too short");
        let biased = match start {
            Start::Bias { bias, rows } => {
                assert!(bias.len() >= n, "bias is too short");
                rows.min(m)
            }
            _ => 0,
        };

        let panel = self.kernels.panel();
        let threads = pool.threads();
        let blocks = (m / MIN_ROWS).clamp(1, 4 * threads);
        let row_block = m.div_ceil(blocks).next_multiple_of(self.kernels.rows);
        let row_blocks = m.div_ceil(row_block);
        let chunks = n.div_ceil(COLUMNS).max(if row_blocks < threads { threads } else { 1 });
        let column_block = n.div_ceil(chunks).next_multiple_of(panel);
        let column_blocks = n.div_ceil(column_block);
        let product = Product { m, n, k, x, w, layout, start, biased, y: Shared::new(y.data), y_stride: y.stride };

        pool.for_each(row_blocks * column_blocks, |task, worker| {
            let rows = (task / column_blocks) * row_block;
            let columns = (task % column_blocks) * column_block;
            let rows = rows..(rows + row_block).min(m);
            let columns = columns..(columns + column_block).min(n);
            let mut packed = self.packed[worker].lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: tasks cover disjoint tiles of y; extents were checked above.
            unsafe { product.tile(&self.kernels, rows, columns, packed.as_mut_ptr()) };
        });
    }
}

/// One product, shared by the tasks that compute it.
struct Product<'a> {
    m: usize,
    n: usize,
    k: usize,
    x: Strided<'a>,
    w: &'a [f32],
    layout: Weight,
    start: Start<'a>,
    biased: usize,
    y: Shared<'a>,
    y_stride: usize,
}

impl Product<'_> {
    /// # Safety
    /// `packed` holds [`Gemm::BYTES_PER_THREAD`]; no other thread touches this tile of y.
    unsafe fn tile(
        &self,
        kernels: &Kernels,
        rows: std::ops::Range<usize>,
        columns: std::ops::Range<usize>,
        packed: *mut f32,
    ) {
        debug_assert!(rows.end <= self.m && columns.end <= self.n);
        let panel = kernels.panel();
        let blocks = self.k.div_ceil(DEPTH).max(1);
        let depth_block = self.k.div_ceil(blocks);
        for block in 0..blocks {
            let depth = block * depth_block..((block + 1) * depth_block).min(self.k);
            // SAFETY: columns and depth lie within W; the panels fit COLUMNS rounded up to one panel.
            unsafe { self.pack(panel, columns.clone(), depth.clone(), packed) };
            let mut row = rows.start;
            while row < rows.end {
                // A group of rows lies entirely before or after the end of the biased rows.
                let limit = if row < self.biased { self.biased.min(rows.end) } else { rows.end };
                let count = kernels.rows.min(limit - row);
                let add = match (block, self.start) {
                    (0, Start::Zero) => false,
                    (0, Start::Bias { bias, .. }) if row < self.biased => {
                        for r in row..row + count {
                            // SAFETY: this tile of y is ours.
                            let y = unsafe { self.y.slice_mut(r * self.y_stride + columns.start, columns.len()) };
                            y.copy_from_slice(&bias[columns.clone()]);
                        }
                        true
                    }
                    (0, Start::Bias { .. }) => false,
                    _ => true,
                };
                let x = &self.x.data[row * self.x.stride + depth.start..];
                // SAFETY: panels are packed and zero-padded to whole vectors; the tile lies within x and y.
                unsafe {
                    kernels.multiply(
                        [columns.len(), count, depth.len()],
                        Along { data: packed, depth: panel, panel: panel * depth.len() },
                        Across { data: x.as_ptr(), depth: 1, across: self.x.stride },
                        add,
                        self.y.at(row * self.y_stride + columns.start),
                        self.y_stride,
                    );
                }
                row += count;
            }
        }
    }

    /// Lays W out as panels of `panel` columns, each [depth, panel], the last one zero-padded.
    ///
    /// # Safety
    /// The ranges lie within W and `packed` has room for the panels.
    unsafe fn pack(
        &self,
        panel: usize,
        columns: std::ops::Range<usize>,
        depth: std::ops::Range<usize>,
        packed: *mut f32,
    ) {
        let size = panel * depth.len();
        for (index, column) in columns.clone().step_by(panel).enumerate() {
            let width = panel.min(columns.end - column);
            // SAFETY: as promised by the caller; panels do not overlap.
            let panel_data = unsafe { std::slice::from_raw_parts_mut(packed.add(index * size), size) };
            if width < panel {
                panel_data.fill(0.0);
            }
            match self.layout {
                Weight::Plain => {
                    for (p, line) in depth.clone().zip(panel_data.chunks_exact_mut(panel)) {
                        line[..width].copy_from_slice(&self.w[p * self.n + column..][..width]);
                    }
                }
                Weight::Transposed => {
                    for (first, lines) in depth.clone().step_by(PACK).zip(panel_data.chunks_mut(PACK * panel)) {
                        let count = lines.len() / panel;
                        for j in 0..width {
                            let source = &self.w[(column + j) * self.k + first..][..count];
                            for (line, &value) in lines.chunks_exact_mut(panel).zip(source) {
                                line[j] = value;
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "gemm_tests.rs"]
mod tests;
