//! AVX-512 bf16 micro-kernel (`vdpbf16ps`, f32 sums): up to 14 rows × 2 vectors of 16, and the conversion of rows.
//!
//! The register tile and its traffic are those of the f32 kernel; an element is a pair of terms, so a step makes twice
//! the FLOPs from the same loads. The instruction adds the odd term, then the even one, without intermediate rounding to
//! bf16, and flushes subnormals. On Sapphire Rapids it issues at a quarter of the rate of f32 multiply-adds, so only
//! CPUs without AMX use it.

use super::kernels::Tile;
use std::arch::x86_64::*;
use std::mem::transmute;

const LANES: usize = 16;

/// # Safety
/// As [`super::kernels::MicroKernel`], with AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn tile<const ROWS: usize, const VECTORS: usize>(t: &Tile) {
    let last: __mmask16 = u16::MAX >> (LANES - t.last);
    let mask = |v: usize| if v + 1 == VECTORS { last } else { u16::MAX };
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    let (mut along, mut across) = (t.along, t.across);
    // SAFETY: the caller promises all elements addressed here; masked lanes are not touched; any 512 bits are a
    // valid __m512bh.
    unsafe {
        for _ in 0..t.depth {
            let mut w = [_mm512_setzero_si512(); VECTORS];
            for v in 0..VECTORS {
                w[v] = _mm512_loadu_si512(along.add(v * LANES).cast());
            }
            for r in 0..ROWS {
                let x: __m512bh = transmute(_mm512_set1_epi32(across.add(r * t.across_row).cast::<i32>().read()));
                for v in 0..VECTORS {
                    sums[r][v] = _mm512_dpbf16_ps(sums[r][v], x, transmute::<__m512i, __m512bh>(w[v]));
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

/// Rounds `depth` f32 values to nearest bf16 and writes them as `elements` pairs, zeros beyond the end.
///
/// # Safety
/// The CPU has AVX-512 F and BF16; both ranges are accessible.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn narrow(x: *const f32, depth: usize, out: *mut f32, elements: usize) {
    for p in (0..elements).step_by(LANES) {
        let rest = depth.saturating_sub(2 * p);
        // SAFETY: masked lanes are not touched.
        unsafe {
            let low = _mm512_maskz_loadu_ps(first(rest), x.wrapping_add(2 * p));
            let high = _mm512_maskz_loadu_ps(first(rest.saturating_sub(LANES)), x.wrapping_add(2 * p + LANES));
            let pairs: __m512i = transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_mask_storeu_epi32(out.add(p).cast(), first(elements - p), pairs);
        }
    }
}

/// Mask of the first `count` lanes.
#[inline]
pub(super) fn first(count: usize) -> __mmask16 {
    if count >= LANES { u16::MAX } else { (1 << count) - 1 }
}
