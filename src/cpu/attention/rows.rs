//! What happens to a row of scores and to a row of the output between the products.

use crate::cpu::lanes::{load, starts, store};
use crate::cpu::math::exp_nonpositive;
use pulp::Simd;

/// Scores of a row to e^{s − max}, with the running maximum and sum; returns what earlier sums shrink by.
///
/// `tail` is added to the last scores: −∞ where there is no key.
#[inline(always)]
pub(super) fn softmax<S: Simd>(simd: S, row: &mut [f32], tail: &[f32], max: &mut f32, sum: &mut f32) -> f32 {
    let last = row.len() - tail.len();
    for (s, tail) in vectors_mut::<S>(&mut row[last..]).iter_mut().zip(vectors::<S>(tail)) {
        *s = simd.add_f32s(*s, *tail);
    }
    let row = vectors_mut::<S>(row);
    let mut new = simd.splat_f32s(*max);
    for s in row.iter() {
        new = simd.max_f32s(new, *s);
    }
    let new = simd.reduce_max_f32s(new);
    let at = simd.splat_f32s(new);
    let mut total = simd.splat_f32s(0.0);
    for s in row.iter_mut() {
        *s = exp_nonpositive(simd, simd.sub_f32s(*s, at));
        total = simd.add_f32s(total, *s);
    }
    let total = simd.reduce_sum_f32s(total);
    let mut shrink = 0.0;
    if *max > f32::NEG_INFINITY {
        shrink = simd.reduce_max_f32s(exp_nonpositive(simd, simd.splat_f32s(*max - new)));
    }
    *max = new;
    *sum = *sum * shrink + total;
    shrink
}

/// w ← p·w; returns its sum.
#[inline(always)]
pub(super) fn weigh<S: Simd>(simd: S, p: &[f32], w: &mut [f32]) -> f32 {
    let mut total = simd.splat_f32s(0.0);
    for (w, p) in vectors_mut::<S>(w).iter_mut().zip(vectors::<S>(p)) {
        *w = simd.mul_f32s(*w, *p);
        total = simd.add_f32s(total, *w);
    }
    simd.reduce_sum_f32s(total)
}

/// to = scale·from.
#[inline(always)]
pub(super) fn scaled<S: Simd>(simd: S, scale: f32, from: &[f32], to: &mut [f32]) {
    let scale = simd.splat_f32s(scale);
    for at in starts::<S>(from.len()) {
        store(simd, to, at, simd.mul_f32s(load(simd, from, at), scale));
    }
}

/// y ← scale·y.
#[inline(always)]
pub(super) fn scale<S: Simd>(simd: S, scale: f32, y: &mut [f32]) {
    let scale = simd.splat_f32s(scale);
    for at in starts::<S>(y.len()) {
        store(simd, y, at, simd.mul_f32s(load(simd, y, at), scale));
    }
}

/// ẏ ← scale·(ẏ − mean·y).
#[inline(always)]
pub(super) fn centre<S: Simd>(simd: S, scale: f32, mean: f32, y: &[f32], dot: &mut [f32]) {
    let (scale, mean) = (simd.splat_f32s(scale), simd.splat_f32s(-mean));
    for at in starts::<S>(y.len()) {
        let centred = simd.mul_add_e_f32s(mean, load(simd, y, at), load(simd, dot, at));
        store(simd, dot, at, simd.mul_f32s(centred, scale));
    }
}

/// Whole vectors of a row.
#[inline(always)]
pub(super) fn vectors<S: Simd>(row: &[f32]) -> &[S::f32s] {
    S::as_simd_f32s(row).0
}

/// As [`vectors`].
#[inline(always)]
pub(super) fn vectors_mut<S: Simd>(row: &mut [f32]) -> &mut [S::f32s] {
    S::as_mut_simd_f32s(row).0
}
