//! AVX2 + FMA f32 micro-kernel: up to 6 rows × 2 vectors of 8.
//!
//! 12 of the 16 registers are sums, two hold weights and one the broadcast row value. A step makes 12 multiply-adds
//! (192 FLOPs, 6 cycles on two ports) from 8 loads. With `PREFETCH` one more fetches the panel's line 16 steps ahead.

use super::kernels::Tile;
use std::arch::x86_64::*;

const LANES: usize = 8;
/// Steps that the panel is prefetched ahead of its use; beyond its end the next panel follows.
const AHEAD: usize = 16;

/// # Safety
/// As [`super::kernels::MicroKernel`], with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn tile<const ROWS: usize, const VECTORS: usize, const PREFETCH: bool>(t: &Tile) {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let last = _mm256_cmpgt_epi32(_mm256_set1_epi32(t.last as i32), lanes);
    let mask = |v: usize| if v + 1 == VECTORS { last } else { _mm256_set1_epi32(-1) };
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; ROWS];
    let (mut along, mut across) = (t.along, t.across);
    // SAFETY: the caller promises all elements addressed here; masked lanes are not touched.
    unsafe {
        for _ in 0..t.depth {
            if PREFETCH {
                _mm_prefetch::<_MM_HINT_T0>(along.wrapping_add(AHEAD * t.along_depth).cast());
            }
            let mut w = [_mm256_setzero_ps(); VECTORS];
            for v in 0..VECTORS {
                w[v] = _mm256_loadu_ps(along.add(v * LANES));
            }
            for r in 0..ROWS {
                let x = _mm256_set1_ps(*across.add(r * t.across_row));
                for v in 0..VECTORS {
                    sums[r][v] = _mm256_fmadd_ps(x, w[v], sums[r][v]);
                }
            }
            along = along.wrapping_add(t.along_depth);
            across = across.wrapping_add(t.across_depth);
        }
        for r in 0..ROWS {
            for v in 0..VECTORS {
                let mut sum = sums[r][v];
                if !t.base.is_null() {
                    sum = _mm256_add_ps(_mm256_maskload_ps(t.base.add(r * t.base_row + v * LANES), mask(v)), sum);
                }
                _mm256_maskstore_ps(t.out.add(r * t.out_row + v * LANES), mask(v), sum);
            }
        }
    }
}
