//! The one matrix product of the CPU backend: y = x·Wᵀ or x·W on packed micro-kernels of this crate.
//!
//! 2·m·n·k FLOPs. A task owns some rows and columns of y. For one block of the depth k after the other it packs its
//! columns of W into panels (`pack`), which then stay in L2, and takes its rows through them a group at a time, which
//! stays in L1: a step of the micro-kernel streams only a panel's weights from L2. W is read once per task, x once per task
//! and y once per block of the depth. Threads share out the columns first, so that few rows' worth of packing is repeated.
//!
//! Every output is Σ over k in order, in blocks that depend on k alone, whatever the tile, the task and the thread it
//! falls into: a row's bits depend only on that row and on W. All f32 instruction sets with fused multiply-add give the
//! same bits. Nothing is allocated after [`Gemm::new`].

// Only x86-64 has bf16 kernels.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
// The loops over rows and vectors of a micro-kernel number registers.
#![allow(clippy::needless_range_loop)]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
mod kernels;
mod matrix;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pack_avx512;
mod resident;
mod scalar;

pub use matrix::Matrix;

use super::isa::Isa;
use super::memory::{Buffer, Shared};
use super::pool::Pool;
pub use crate::backend::Precision;
use crate::{Error, Result};
pub(super) use kernels::{Across, Along, Kernels};
use kernels::{Format, Tile};
use pack::Block;
pub(super) use pack::transpose;
use std::ops::Range;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How a weight matrix takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// W is [n, k]: y = x·Wᵀ.
    Transposed,
    /// W is [k, n]: y = x·W.
    Plain,
}

/// Some rows of a matrix as an operand.
#[derive(Clone)]
pub struct Weight<'a> {
    /// The matrix.
    pub matrix: &'a Matrix,
    /// The rows of it that W consists of.
    pub rows: Range<usize>,
    /// How they take part.
    pub layout: Layout,
}

impl<'a> Weight<'a> {
    /// The packed weights, if exactly these were packed before.
    fn resident(&self) -> Option<&'a resident::Panels> {
        let packed = self.matrix.panels.iter().find(|panels| panels.rows == self.rows);
        packed.filter(|_| self.layout == Layout::Transposed)
    }

    /// `[n, k]`.
    pub fn shape(&self) -> [usize; 2] {
        match self.layout {
            Layout::Transposed => [self.rows.len(), self.matrix.cols()],
            Layout::Plain => [self.matrix.cols(), self.rows.len()],
        }
    }
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

/// Sizes of the blocks a task works in.
#[derive(Clone, Copy)]
struct Blocking {
    /// Most terms summed in registers before they are added to memory. Part of the result: it decides its rounding.
    depth: usize,
    /// Most columns whose packed weights a task keeps in L2.
    columns: usize,
    /// Columns below which a group of rows is hardly worth loading: rows are pages apart.
    few_columns: usize,
    /// Columns that a task has at least.
    min_columns: usize,
    /// Rows below which a task is not worth repacking the weights for.
    min_rows: usize,
    /// Tasks a thread should get, so that a late one holds up the others little.
    tasks: usize,
}

/// 576 KiB of panels; 288 columns measured 2 % slower.
const F32: Blocking = Blocking { depth: 384, columns: 384, few_columns: 192, min_columns: 96, min_rows: 128, tasks: 4 };
/// 576 KiB of panels. Products are so fast that converting rows and weights, and moving y, must be amortised over more.
const BF16: Blocking =
    Blocking { depth: 768, columns: 384, few_columns: 192, min_columns: 192, min_rows: 512, tasks: 1 };

impl Blocking {
    /// Rows and columns of a task. Bits do not depend on them.
    fn task(&self, [m, n]: [usize; 2], threads: usize, [rows, panel]: [usize; 2]) -> [usize; 2] {
        let wanted = if threads == 1 { 1 } else { threads * self.tasks };
        let most_row_blocks = (m / self.min_rows).max(1);
        let mut column_blocks = wanted.min(n.div_ceil(self.few_columns)).max(n.div_ceil(self.columns));
        if column_blocks * most_row_blocks < wanted {
            let enough = wanted.div_ceil(most_row_blocks);
            column_blocks = column_blocks.max(enough.min(n.div_ceil(self.min_columns)));
        }
        let columns = n.div_ceil(column_blocks).next_multiple_of(panel);
        let column_blocks = n.div_ceil(columns);
        // As many for each thread, if rows suffice.
        let enough = wanted.div_ceil(column_blocks);
        let even = (enough..enough + threads).find(|blocks| (blocks * column_blocks).is_multiple_of(threads));
        let row_blocks = even.unwrap_or(enough).min(most_row_blocks);
        [m.div_ceil(row_blocks).next_multiple_of(rows), columns]
    }

    /// Blocks of equal size that make up a depth of `k`.
    fn depths(&self, k: usize) -> impl Iterator<Item = Range<usize>> {
        let blocks = k.div_ceil(self.depth).max(1);
        let block = k.div_ceil(blocks);
        (0..blocks).map(move |i| (i * block).min(k)..((i + 1) * block).min(k))
    }
}

/// Matrix products on a fixed instruction set, with the memory for packed weights.
pub struct Gemm {
    isa: Isa,
    kernels: Kernels,
    blocking: Blocking,
    /// Memory of each thread: packed weights here, tiles in attention, which never runs at the same time.
    scratch: Vec<Mutex<Buffer>>,
}

impl Gemm {
    /// Bytes of packing memory per thread: panels of weights, and with bf16 a group of rows.
    pub const fn bytes_per_thread(precision: Precision) -> usize {
        match precision {
            Precision::F32 => F32.columns * F32.depth * size_of::<f32>(),
            Precision::Bf16 | Precision::F16 => (BF16.columns + GROUP) * BF16.depth * size_of::<half::bf16>(),
        }
    }

    /// Allocates packing memory for `threads` threads.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Options`] if `isa` or the CPU has no bf16 products.
    ///
    /// # Panics
    /// If the CPU lacks `isa`.
    pub fn new(isa: Isa, precision: Precision, threads: usize) -> Result<Self> {
        assert!(isa.is_available());
        let kernels = match precision {
            Precision::F32 => Kernels::streaming(isa),
            Precision::Bf16 => Kernels::bf16(isa).ok_or_else(|| {
                Error::Options(format!(
                    "bf16 products need AVX-512 BF16, which this CPU or {} lacks; compute in f32",
                    isa.name()
                ))
            })?,
            Precision::F16 => {
                let problem = "the CPU has no f16 products; f16 is for --device cuda, use f32 or bf16 here";
                return Err(Error::Options(problem.into()));
            }
        };
        Self::with_kernels(isa, kernels, precision, threads)
    }

    fn with_kernels(isa: Isa, kernels: Kernels, precision: Precision, threads: usize) -> Result<Self> {
        let length = Self::bytes_per_thread(precision) / size_of::<f32>();
        let scratch = (0..threads).map(|_| Ok(Mutex::new(Buffer::zeroed(length, "packed weights")?)));
        let blocking = if precision == Precision::F32 { F32 } else { BF16 };
        Ok(Gemm { isa, kernels, blocking, scratch: scratch.collect::<Result<_>>()? })
    }

    /// What products are made of.
    pub fn precision(&self) -> Precision {
        if self.kernels.format() == Format::F32 { Precision::F32 } else { Precision::Bf16 }
    }

    /// What else decides the bits of products.
    pub fn arithmetic(&self) -> String {
        let tiles = if self.kernels.uses_tiles() { ", AMX tiles" } else { "" };
        format!("{} {}{tiles}", std::env::consts::ARCH, self.isa.name())
    }

    /// The scratch of thread `worker`: a panic while it was held leaves only scratch values behind.
    pub(super) fn scratch(&self, worker: usize) -> MutexGuard<'_, Buffer> {
        self.scratch[worker].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every thread's scratch at least `len` values long.
    pub(super) fn reserve_scratch(&self, len: usize) -> Result<()> {
        (0..self.scratch.len()).try_for_each(|worker| self.scratch(worker).at_least(len, "attention tiles").map(|_| ()))
    }

    /// y[m, n] = start + x[m, k]·W, where W gives n and k.
    ///
    /// # Panics
    /// If a slice is too short for its shape.
    pub fn run(&self, pool: &Pool, m: usize, x: Strided<'_>, weight: Weight<'_>, start: Start<'_>, y: StridedMut<'_>) {
        let [n, k] = weight.shape();
        if m == 0 || n == 0 {
            return;
        }
        let extent = |stride: usize, width: usize| (m - 1) * stride + width;
        assert!(x.data.len() >= extent(x.stride, k) && (m == 1 || x.stride >= k), "x is too short");
        assert!(y.data.len() >= extent(y.stride, n) && (m == 1 || y.stride >= n), "y is too short");
        assert!(weight.rows.end <= weight.matrix.rows(), "W has too few rows");
        let biased = match start {
            Start::Bias { bias, rows } => {
                assert!(bias.len() >= n, "bias is too short");
                rows.min(m)
            }
            _ => 0,
        };

        let tile = [self.kernels.rows(), self.kernels.panel()];
        let [row_block, column_block] = self.blocking.task([m, n], pool.threads(), tile);
        let (row_blocks, column_blocks) = (m.div_ceil(row_block), n.div_ceil(column_block));
        let product = Product { gemm: self, x, weight, start, biased, y: Shared::new(y.data), y_stride: y.stride };
        let length = Self::bytes_per_thread(self.precision()) / size_of::<f32>();
        pool.for_each(row_blocks * column_blocks, |task, worker| {
            let rows = (task / column_blocks) * row_block;
            let columns = (task % column_blocks) * column_block;
            let packed = &mut self.scratch(worker)[..length];
            let (rows, columns) = (rows..(rows + row_block).min(m), columns..(columns + column_block).min(n));
            // SAFETY: tasks cover disjoint tiles of y; extents were checked above.
            unsafe { product.task(rows, columns, packed) };
        });
    }
}

/// Rows of the largest group of bf16 rows.
const GROUP: usize = 32;

/// One product, shared by the tasks that compute it.
struct Product<'a> {
    gemm: &'a Gemm,
    x: Strided<'a>,
    weight: Weight<'a>,
    start: Start<'a>,
    biased: usize,
    y: Shared<'a>,
    y_stride: usize,
}

impl Product<'_> {
    /// Computes y[rows, columns].
    ///
    /// # Safety
    /// The ranges lie within y, and no other thread touches this part of it.
    unsafe fn task(&self, rows: Range<usize>, columns: Range<usize>, packed: &mut [f32]) {
        let Gemm { isa, kernels, blocking, .. } = self.gemm;
        let [_, k] = self.weight.shape();
        let narrow = kernels.format() != Format::F32;
        let group = packed.len() - if narrow { GROUP * blocking.depth / 2 } else { 0 };
        let (panels, group) = packed.split_at_mut(group);
        // SAFETY: such kernels are only made where AMX is available.
        #[cfg(target_arch = "x86_64")]
        let _tiles = kernels.uses_tiles().then(|| unsafe { amx::Tiles::new() });
        let resident = self.weight.resident();
        let mut before = 0;
        for (index, depth) in blocking.depths(k).enumerate() {
            let elements = kernels.elements(depth.len());
            let panels = match resident {
                Some(resident) => resident.at(columns.start, before, elements),
                None => {
                    debug_assert!(columns.len().next_multiple_of(kernels.panel()) * elements <= panels.len());
                    let block = Block {
                        matrix: self.weight.matrix,
                        first: self.weight.rows.start,
                        layout: self.weight.layout,
                        columns: columns.clone(),
                        depth: depth.clone(),
                    };
                    // SAFETY: the block lies within W and its panels fit, as asserted.
                    unsafe { block.pack(*isa, kernels, panels.as_mut_ptr()) };
                    &*panels
                }
            };
            before += elements;
            let mut row = rows.start;
            while row < rows.end {
                // A group of rows lies entirely before or after the end of the biased rows.
                let limit = if row < self.biased { self.biased.min(rows.end) } else { rows.end };
                let count = kernels.rows().min(limit - row);
                let (base, base_row) = match self.start {
                    Start::Bias { bias, .. } if index == 0 && row < self.biased => (bias[columns.start..].as_ptr(), 0),
                    Start::Zero | Start::Bias { .. } if index == 0 => (ptr::null(), 0),
                    _ => (self.y.at(row * self.y_stride + columns.start).cast_const(), self.y_stride),
                };
                let x = &self.x.data[row * self.x.stride + depth.start..];
                // SAFETY: the group's rows lie within x, and `group` holds as many.
                let (across, across_row) = if narrow {
                    unsafe { self.narrow(x, count, depth.len(), group) };
                    (group.as_ptr(), elements)
                } else {
                    (x.as_ptr(), self.x.stride)
                };
                for (panel, i) in (0..columns.len()).step_by(kernels.panel()).enumerate() {
                    let (kernel, last) = kernels.get(count, kernels.panel().min(columns.len() - i));
                    // SAFETY: panels are packed and zero-padded to whole vectors; the tile lies within x and y.
                    unsafe {
                        kernel(&Tile {
                            depth: elements,
                            along: panels.as_ptr().add(panel * kernels.panel() * elements),
                            along_depth: kernels.panel(),
                            across,
                            across_depth: 1,
                            across_row,
                            base: if base.is_null() { base } else { base.add(i) },
                            base_row,
                            out: self.y.at(row * self.y_stride + columns.start + i),
                            out_row: self.y_stride,
                            rows: count,
                            last,
                        });
                    }
                }
                row += count;
            }
        }
    }

    /// Rounds `count` rows of x to bf16.
    ///
    /// # Safety
    /// They lie within x, and `group` holds them; the kernels are bf16 ones.
    unsafe fn narrow(&self, x: &[f32], count: usize, depth: usize, group: &mut [f32]) {
        let elements = self.gemm.kernels.elements(depth);
        debug_assert!(count * elements <= group.len());
        #[cfg(target_arch = "x86_64")]
        for r in 0..count {
            // SAFETY: as promised by the caller.
            unsafe {
                avx512_bf16::narrow(
                    x.as_ptr().add(r * self.x.stride),
                    depth,
                    group.as_mut_ptr().add(r * elements),
                    elements,
                );
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = x;
    }
}

#[cfg(test)]
mod tests;
