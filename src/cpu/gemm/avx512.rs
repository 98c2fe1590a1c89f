//! AVX-512 f32 micro-kernel, in two shapes.
//!
//! 8 rows × 3 vectors of 16 with `PREFETCH`, where the panel streams from L2: a step makes 24 multiply-adds (768 FLOPs, 12
//! cycles on two ports) from 11 loads, 192 bytes of them from L2 (16 bytes a cycle), and leaves room on the load ports
//! to prefetch the panel 16 steps ahead; without that the kernel waits for L2 a tenth of the time. 24 of the 32
//! registers are sums, three hold weights and one the broadcast row value. (9 × 3 measured 2 % slower.)
//!
//! 14 rows × 2 vectors where both operands are in L1: 28 multiply-adds from 16 loads.

use super::kernels::Tile;
use std::arch::x86_64::*;

const LANES: usize = 16;
/// Steps that the panel is prefetched ahead of its use; beyond its end the next panel follows.
const AHEAD: usize = 16;

/// # Safety
/// As [`super::kernels::MicroKernel`], with AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn tile<const ROWS: usize, const VECTORS: usize, const PREFETCH: bool>(t: &Tile) {
    let last: __mmask16 = u16::MAX >> (LANES - t.last);
    let mask = |v: usize| if v + 1 == VECTORS { last } else { u16::MAX };
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    let (mut along, mut across) = (t.along, t.across);
    // SAFETY: the caller promises all elements addressed here; masked lanes are not touched.
    unsafe {
        if PREFETCH {
            for r in 0..ROWS {
                for v in 0..VECTORS {
                    _mm_prefetch::<_MM_HINT_ET0>(t.out.wrapping_add(r * t.out_row + v * LANES).cast());
                }
            }
        }
        for _ in 0..t.depth {
            let mut w = [_mm512_setzero_ps(); VECTORS];
            for v in 0..VECTORS {
                w[v] = _mm512_loadu_ps(along.add(v * LANES));
                if PREFETCH {
                    _mm_prefetch::<_MM_HINT_T0>(along.wrapping_add(AHEAD * t.along_depth + v * LANES).cast());
                }
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
