//! Portable f32 micro-kernel: up to 4 rows × 2 vectors of 4, which the compiler lays out as it can. Multiplication and
//! addition round separately.

use super::kernels::Tile;

/// Elements of what stands for a vector: one register of the baseline of x86-64.
pub(super) const LANES: usize = 4;

/// # Safety
/// As [`super::kernels::MicroKernel`].
pub(super) unsafe fn tile<const ROWS: usize, const VECTORS: usize>(t: &Tile) {
    let mut sums = [[[0.0_f32; LANES]; VECTORS]; ROWS];
    let (mut along, mut across) = (t.along, t.across);
    // SAFETY: the caller promises all elements addressed here; of the last vector only the first `last` are.
    unsafe {
        for _ in 0..t.depth {
            for r in 0..ROWS {
                let x = *across.add(r * t.across_row);
                for v in 0..VECTORS {
                    for i in 0..LANES {
                        sums[r][v][i] += x * *along.add(v * LANES + i);
                    }
                }
            }
            along = along.wrapping_add(t.along_depth);
            across = across.wrapping_add(t.across_depth);
        }
        for r in 0..ROWS {
            for v in 0..VECTORS {
                let count = if v + 1 == VECTORS { t.last } else { LANES };
                for i in 0..count {
                    let sum = sums[r][v][i];
                    let base = t.base.wrapping_add(r * t.base_row + v * LANES + i);
                    *t.out.add(r * t.out_row + v * LANES + i) = if t.base.is_null() { sum } else { *base + sum };
                }
            }
        }
    }
}
