//! The one matrix product of the CPU backend.
//!
//! `gemm`'s micro-kernels are entered below its dispatcher and its blocking: the dispatcher would ignore a forced
//! instruction set, and the blocking changes the order of summation with the number of rows and allocates per call. Here
//! every output is Σ over k in order, in blocks of [`DEPTH`], whatever the tile, the task and the thread it falls into,
//! so a row's bits depend only on that row and on W. All instruction sets with fused multiply-add give the same bits.

use super::{isa::Isa, pool::Pool};
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
    /// `bias` [n] in the first `rows` rows, nothing in the others.
    Bias {
        /// [n].
        bias: &'a [f32],
        /// Rows that get the bias.
        rows: usize,
    },
}

/// A matrix in row-major order whose rows are `stride` apart.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Row i starts at `i·stride`.
    pub data: &'a [f32],
    /// Elements from one row to the next.
    pub stride: usize,
}

/// As [`Rows`], to be written.
#[derive(Debug)]
pub struct RowsMut<'a> {
    /// Row i starts at `i·stride`.
    pub data: &'a mut [f32],
    /// Elements from one row to the next.
    pub stride: usize,
}

/// The micro-kernels of one instruction set: `lanes·vectors` outputs of a row by `rows` rows.
struct Kernels {
    lanes: usize,
    vectors: usize,
    rows: usize,
    table: &'static [MicroKernelFn<f32>],
}

impl Kernels {
    fn of(isa: Isa) -> Self {
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

    fn panel(&self) -> usize {
        self.lanes * self.vectors
    }
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Pointer to y for tasks that write disjoint tiles of it.
#[derive(Clone, Copy)]
struct Output(*mut f32);
// SAFETY: every task writes its own rows and columns only, within the exclusive borrow that `Gemm::run` holds.
unsafe impl Send for Output {}
unsafe impl Sync for Output {}

/// Matrix products on a fixed instruction set, with the memory for packed weights.
pub struct Gemm {
    kernels: Kernels,
    packed: Vec<Mutex<Box<[Line]>>>,
}

impl Gemm {
    /// Bytes of packing memory per thread.
    pub const BYTES_PER_THREAD: usize = (COLUMNS + 64) * DEPTH * size_of::<f32>();

    /// Allocates packing memory for `threads` threads.
    pub fn new(isa: Isa, threads: usize) -> Self {
        assert!(isa.is_available());
        let lines = Self::BYTES_PER_THREAD / size_of::<Line>();
        let packed = (0..threads).map(|_| Mutex::new(vec![Line([0.0; 16]); lines].into_boxed_slice())).collect();
        Gemm { kernels: Kernels::of(isa), packed }
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
        x: Rows<'_>,
        w: &[f32],
        layout: Weight,
        start: Start<'_>,
        y: RowsMut<'_>,
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
        let product =
            Product { m, n, k, x, w, layout, start, biased, y: Output(y.data.as_mut_ptr()), y_stride: y.stride };

        pool.for_each(row_blocks * column_blocks, |task, worker| {
            let rows = (task / column_blocks) * row_block;
            let columns = (task % column_blocks) * column_block;
            let rows = rows..(rows + row_block).min(m);
            let columns = columns..(columns + column_block).min(n);
            let mut packed = self.packed[worker].lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: tasks cover disjoint tiles of y; extents were checked above.
            unsafe { product.tile(&self.kernels, rows, columns, packed.as_mut_ptr().cast()) };
        });
    }
}

/// One product, shared by the tasks that compute it.
struct Product<'a> {
    m: usize,
    n: usize,
    k: usize,
    x: Rows<'a>,
    w: &'a [f32],
    layout: Weight,
    start: Start<'a>,
    biased: usize,
    y: Output,
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
                            // SAFETY: row r of y has n elements.
                            unsafe {
                                let y = self.y.0.add(r * self.y_stride + columns.start);
                                y.copy_from_nonoverlapping(bias.as_ptr().add(columns.start), columns.len());
                            }
                        }
                        true
                    }
                    (0, Start::Bias { .. }) => false,
                    _ => true,
                };
                let mut column = columns.start;
                let mut source: *const f32 = packed;
                while column < columns.end {
                    let width = panel.min(columns.end - column);
                    let kernel = kernels.table[(width.div_ceil(kernels.lanes) - 1) * kernels.rows + count - 1];
                    // SAFETY: the panel is packed and zero-padded to whole vectors; the tile lies within x and y.
                    unsafe {
                        kernel(
                            width,
                            count,
                            depth.len(),
                            self.y.0.add(row * self.y_stride + column),
                            source,
                            self.x.data.as_ptr().add(row * self.x.stride + depth.start),
                            self.y_stride as isize,
                            1,
                            panel as isize,
                            1,
                            self.x.stride as isize,
                            1.0,
                            1.0,
                            u8::from(add),
                            false,
                            false,
                            false,
                            std::ptr::null(),
                        );
                        source = source.add(panel * depth.len());
                    }
                    column += width;
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
