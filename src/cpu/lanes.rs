//! Vector access to slices whose length need not be a multiple of the vector's.

use pulp::Simd;

/// One vector of `x` from element `at` on, zero beyond the end.
#[inline(always)]
pub(super) fn load<S: Simd>(simd: S, x: &[f32], at: usize) -> S::f32s {
    let rest = &x[at..];
    match simd_of::<S>(rest) {
        Some(vector) => vector,
        None => simd.partial_load_f32s(rest),
    }
}

#[inline(always)]
fn simd_of<S: Simd>(rest: &[f32]) -> Option<S::f32s> {
    if rest.len() < S::F32_LANES {
        return None;
    }
    Some(S::as_simd_f32s(&rest[..S::F32_LANES]).0[0])
}

/// Stores one vector to `x` from element `at` on, as far as it reaches.
#[inline(always)]
pub(super) fn store<S: Simd>(simd: S, x: &mut [f32], at: usize, value: S::f32s) {
    let rest = &mut x[at..];
    if rest.len() < S::F32_LANES {
        simd.partial_store_f32s(rest, value);
    } else {
        S::as_mut_simd_f32s(&mut rest[..S::F32_LANES]).0[0] = value;
    }
}

/// Starts of the vectors that cover `n` elements.
#[inline(always)]
pub(super) fn starts<S: Simd>(n: usize) -> impl Iterator<Item = usize> {
    (0..n).step_by(S::F32_LANES)
}

/// Asks for a row that is read soon to be in L2 by then.
#[inline(always)]
pub(super) fn prefetch(row: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in row.chunks(16) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: prefetching has no effect on memory, and every x86-64 CPU has it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    let _ = row;
}
