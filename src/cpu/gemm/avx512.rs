//! AVX-512 f32 micro-kernel: up to 14 rows × 2 vectors of 16.
//!
//! 28 of the 32 registers are sums, two hold weights and one the broadcast row value. A step makes 28 multiply-adds
//! (896 FLOPs, 14 cycles on two ports) from 16 loads; only the two of weights (128 bytes, 9 bytes a cycle) come from L2,
//! the rows stay in L1 while all panels pass by.

use super::kernels::Tile;
use std::arch::x86_64::*;

const LANES: usize = 16;

/// # Safety
/// As [`super::kernels::MicroKernel`], with AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn tile<const ROWS: usize, const VECTORS: usize>(t: &Tile) {
    let last: __mmask16 = u16::MAX >> (LANES - t.last);
    let mask = |v: usize| if v + 1 == VECTORS { last } else { u16::MAX };
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    let (mut along, mut across) = (t.along, t.across);
    // SAFETY: the caller promises all elements addressed here; masked lanes are not touched.
    unsafe {
        if !t.base.is_null() {
            for r in 0..ROWS {
                for v in 0..VECTORS {
                    _mm_prefetch::<_MM_HINT_T0>(t.base.add(r * t.base_row + v * LANES).cast());
                }
            }
        }
        for _ in 0..t.depth {
            let mut w = [_mm512_setzero_ps(); VECTORS];
            for v in 0..VECTORS {
                w[v] = _mm512_loadu_ps(along.add(v * LANES));
            }
            for r in 0..ROWS {
                let x = _mm512_set1_ps(*across.add(r * t.across_row));
                for v in 0..VECTORS {
                    sums[r][v] = _mm512_fmadd_ps(x, w[v], sums[r][v]);
                }
            }
            along = along.wrapping_add(t.along_depth);
            across = across.wrapping_add(t.across_depth);
        }
        for r in 0..ROWS {
            for v in 0..VECTORS {
                let mut sum = sums[r][v];
                if !t.base.is_null() {
                    sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask(v), t.base.add(r * t.base_row + v * LANES)), sum);
                }
                _mm512_mask_storeu_ps(t.out.add(r * t.out_row + v * LANES), mask(v), sum);
            }
        }
    }
}
