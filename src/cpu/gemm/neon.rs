//! NEON f32 micro-kernel: up to 6 rows × 4 vectors of 4.
//!
//! 24 of the 32 registers are sums, four hold weights and one the broadcast row value. A step makes 24 multiply-adds
//! (192 FLOPs) from 10 loads.

use super::kernels::Tile;
use std::arch::aarch64::*;

const LANES: usize = 4;

/// # Safety
/// As [`super::kernels::MicroKernel`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn tile<const ROWS: usize, const VECTORS: usize>(t: &Tile) {
    let mut sums = [[vdupq_n_f32(0.0); VECTORS]; ROWS];
    let (mut along, mut across) = (t.along, t.across);
    // SAFETY: the caller promises all elements addressed here; of the last vector only the first `last` are.
    unsafe {
        for _ in 0..t.depth {
            let mut w = [vdupq_n_f32(0.0); VECTORS];
            for v in 0..VECTORS {
                w[v] = vld1q_f32(along.add(v * LANES));
            }
            for r in 0..ROWS {
                let x = vdupq_n_f32(*across.add(r * t.across_row));
                for v in 0..VECTORS {
                    sums[r][v] = vfmaq_f32(sums[r][v], x, w[v]);
                }
            }
            along = along.wrapping_add(t.along_depth);
            across = across.wrapping_add(t.across_depth);
        }
        for r in 0..ROWS {
            for v in 0..VECTORS {
                let out = t.out.add(r * t.out_row + v * LANES);
                let base = t.base.wrapping_add(r * t.base_row + v * LANES);
                if v + 1 < VECTORS || t.last == LANES {
                    let sum = if t.base.is_null() { sums[r][v] } else { vaddq_f32(vld1q_f32(base), sums[r][v]) };
                    vst1q_f32(out, sum);
                } else {
                    let mut sum = [0.0; LANES];
                    vst1q_f32(sum.as_mut_ptr(), sums[r][v]);
                    for (i, sum) in sum.into_iter().enumerate().take(t.last) {
                        *out.add(i) = if t.base.is_null() { sum } else { *base.add(i) + sum };
                    }
                }
            }
        }
    }
}
