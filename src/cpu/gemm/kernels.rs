//! The micro-kernels of an instruction set behind one table, and the small products of attention on top of them.
//!
//! A micro-kernel computes a tile of `rows` × `vectors`·`lanes` outputs. Its sums live in registers while p runs over the
//! whole depth, so that one step costs `vectors` loads, `rows` broadcasts and rows·vectors multiply-adds of 2·lanes
//! FLOPs. Every output is the sum over p in order, whatever the tile, then base + sum: the tile an output falls into
//! cannot change its bits. The bf16 kernels take two terms a step, in the order their instruction defines.

use crate::cpu::isa::Isa;
use std::ptr;

/// Rows of the tallest tile of any instruction set.
const MOST_ROWS: usize = 32;

/// out[j, i] = base[j, i] + Σ_p along(p, i)·across(j, p). For bf16 kernels an element of `along` or `across` is a pair
/// (terms 2p and 2p + 1, the first in the low half).
pub(super) struct Tile {
    /// Elements of every sum.
    pub depth: usize,
    /// Element (p, i) at `along_depth·p + i`, readable up to whole vectors of i.
    pub along: *const f32,
    pub along_depth: usize,
    /// Element (j, p) at `across_depth·p + across_row·j`.
    pub across: *const f32,
    pub across_depth: usize,
    pub across_row: usize,
    /// Element (j, i) at `base_row·j + i`; null for zero. May be `out`.
    pub base: *const f32,
    pub base_row: usize,
    /// Element (j, i) at `out_row·j + i`.
    pub out: *mut f32,
    pub out_row: usize,
    /// Rows j.
    pub rows: usize,
    /// Outputs of the last vector that exist, 1..=lanes.
    pub last: usize,
}

/// # Safety
/// The CPU has the kernel's instruction set, and all elements are readable, those of `out` writable and exclusively ours.
pub(super) type MicroKernel = unsafe fn(&Tile);

/// Kernels by vectors, then rows.
pub(super) type Table<const VECTORS: usize> = [[MicroKernel; MOST_ROWS]; VECTORS];

/// Instances of a micro-kernel by rows; entries beyond those listed are never used.
macro_rules! table {
    ($tile:ident, $vectors:literal: $($rows:literal),*) => {{
        let mut row: [MicroKernel; MOST_ROWS] = [$tile::<1, $vectors>; MOST_ROWS];
        $(row[$rows - 1] = $tile::<$rows, $vectors>;)*
        row
    }};
    ($tile:ident, $vectors:literal, $prefetch:literal: $($rows:literal),*) => {{
        let mut row: [MicroKernel; MOST_ROWS] = [$tile::<1, $vectors, $prefetch>; MOST_ROWS];
        $(row[$rows - 1] = $tile::<$rows, $vectors, $prefetch>;)*
        row
    }};
}

/// What the operands' elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// f32.
    F32,
    /// Pairs of bf16; the depth is padded with zeros to a multiple of this many terms.
    Bf16 { multiple: usize },
}

/// The micro-kernels of one instruction set.
pub(in crate::cpu) struct Kernels {
    format: Format,
    lanes: usize,
    vectors: usize,
    rows: usize,
    table: &'static [[MicroKernel; MOST_ROWS]],
}

/// The operand that runs along the contiguous side of the output: element (i, p) at `depth·p + i`, with i restarting and
/// the pointer advancing by `panel` every [`Kernels::panel`] elements. Readable up to whole vectors.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Along {
    pub data: *const f32,
    pub depth: usize,
    pub panel: usize,
}

/// The other operand: element (p, j) at `depth·p + across·j`.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Across {
    pub data: *const f32,
    pub depth: usize,
    pub across: usize,
}

impl Kernels {
    /// f32 kernels for operands that are in L1.
    pub(in crate::cpu) fn of(isa: Isa) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                use super::avx512::tile;
                static TABLE: Table<2> = [
                    table!(tile, 1, false: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14),
                    table!(tile, 2, false: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14),
                ];
                Kernels { format: Format::F32, lanes: 16, vectors: 2, rows: 14, table: &TABLE }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                use super::avx2::tile;
                static TABLE: Table<2> =
                    [table!(tile, 1, false: 1, 2, 3, 4, 5, 6), table!(tile, 2, false: 1, 2, 3, 4, 5, 6)];
                Kernels { format: Format::F32, lanes: 8, vectors: 2, rows: 6, table: &TABLE }
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => {
                use super::neon::tile;
                static TABLE: Table<4> = [
                    table!(tile, 1: 1, 2, 3, 4, 5, 6),
                    table!(tile, 2: 1, 2, 3, 4, 5, 6),
                    table!(tile, 3: 1, 2, 3, 4, 5, 6),
                    table!(tile, 4: 1, 2, 3, 4, 5, 6),
                ];
                Kernels { format: Format::F32, lanes: 4, vectors: 4, rows: 6, table: &TABLE }
            }
            _ => {
                use super::scalar::{LANES, tile};
                static TABLE: Table<2> = [table!(tile, 1: 1, 2, 3, 4), table!(tile, 2: 1, 2, 3, 4)];
                Kernels { format: Format::F32, lanes: LANES, vectors: 2, rows: 4, table: &TABLE }
            }
        }
    }

    /// f32 kernels for panels that stream from L2.
    pub(super) fn streaming(isa: Isa) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                use super::avx512::tile;
                static TABLE: Table<3> = [
                    table!(tile, 1, true: 1, 2, 3, 4, 5, 6, 7, 8),
                    table!(tile, 2, true: 1, 2, 3, 4, 5, 6, 7, 8),
                    table!(tile, 3, true: 1, 2, 3, 4, 5, 6, 7, 8),
                ];
                Kernels { format: Format::F32, lanes: 16, vectors: 3, rows: 8, table: &TABLE }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                use super::avx2::tile;
                static TABLE: Table<2> =
                    [table!(tile, 1, true: 1, 2, 3, 4, 5, 6), table!(tile, 2, true: 1, 2, 3, 4, 5, 6)];
                Kernels { format: Format::F32, lanes: 8, vectors: 2, rows: 6, table: &TABLE }
            }
            _ => Self::of(isa),
        }
    }

    /// bf16 kernels for `isa`, if it and this CPU have any: AMX tiles where they may be used, else `vdpbf16ps`.
    pub(super) fn bf16(isa: Isa) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Avx512 && Self::has_dot() {
            return Some(Self::amx().unwrap_or_else(Self::dot));
        }
        let _ = isa;
        None
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn has_dot() -> bool {
        Isa::Avx512.is_available() && std::arch::is_x86_feature_detected!("avx512bf16")
    }

    /// `vdpbf16ps`; only where [`Kernels::has_dot`].
    #[cfg(target_arch = "x86_64")]
    pub(super) fn dot() -> Self {
        use super::avx512_bf16::tile;
        static TABLE: Table<2> = [
            table!(tile, 1: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14),
            table!(tile, 2: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14),
        ];
        Kernels { format: Format::Bf16 { multiple: 2 }, lanes: 16, vectors: 2, rows: 14, table: &TABLE }
    }

    /// `tdpbf16ps`, where the CPU has it and the system lets this process use it.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn amx() -> Option<Self> {
        use super::amx;
        static TABLE: Table<2> = [amx::kernels::<1>(), amx::kernels::<2>()];
        amx::is_available().then_some(Kernels {
            format: Format::Bf16 { multiple: amx::TERMS },
            lanes: 16,
            vectors: 2,
            rows: 32,
            table: &TABLE,
        })
    }

    /// Whether the kernels need this thread's AMX tiles set up.
    pub(super) fn uses_tiles(&self) -> bool {
        self.rows == MOST_ROWS
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Elements a sum over `depth` terms has in the kernels' format.
    pub(super) fn elements(&self, depth: usize) -> usize {
        match self.format {
            Format::F32 => depth,
            Format::Bf16 { multiple } => depth.next_multiple_of(multiple) / 2,
        }
    }

    /// Outputs of a tile along the contiguous side.
    pub(in crate::cpu) fn panel(&self) -> usize {
        self.lanes * self.vectors
    }

    /// Outputs of a tile on the other side.
    pub(in crate::cpu) fn rows(&self) -> usize {
        self.rows
    }

    /// `n` rounded up to whole vectors.
    pub(in crate::cpu) fn padded(&self, n: usize) -> usize {
        n.next_multiple_of(self.lanes)
    }

    /// The kernel for `rows` × `width` outputs, and how many of them are in its last vector.
    pub(super) fn get(&self, rows: usize, width: usize) -> (MicroKernel, usize) {
        let vectors = width.div_ceil(self.lanes);
        debug_assert!((1..=self.rows).contains(&rows) && (1..=self.vectors).contains(&vectors));
        (self.table[vectors - 1][rows - 1], width - (vectors - 1) * self.lanes)
    }

    /// out[i, j] (+)= Σ_p along(i, p)·across(p, j) for i < m, j < n, p < k in order; (i, j) at `stride·j + i`.
    ///
    /// # Safety
    /// Both operands are readable in these ranges (`along` up to whole vectors of i), and `out` is exclusively ours.
    pub(in crate::cpu) unsafe fn multiply(
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
            let rows = self.rows.min(n - j);
            for (index, i) in (0..m).step_by(panel).enumerate() {
                let (kernel, last) = self.get(rows, panel.min(m - i));
                // SAFETY: within the ranges promised by the caller; `Kernels::of` chose kernels this CPU has.
                unsafe {
                    let out = out.add(stride * j + i);
                    kernel(&Tile {
                        depth: k,
                        along: along.data.add(along.panel * index),
                        along_depth: along.depth,
                        across: across.data.add(across.across * j),
                        across_depth: across.depth,
                        across_row: across.across,
                        base: if add { out } else { ptr::null() },
                        base_row: stride,
                        out,
                        out_row: stride,
                        rows,
                        last,
                    });
                }
            }
        }
    }
}
