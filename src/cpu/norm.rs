//! Layer norm, alone or after a residual addition. The statistics of a primal row serve all its tangents.

use super::lanes::{load, starts, store};
use super::memory::Shared;
use super::residual::add_row;
use super::rows::planes;
use crate::backend::Rows;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// γ, β and ε.
#[derive(Clone, Copy)]
pub(super) struct Affine<'a> {
    pub gamma: &'a [f32],
    pub beta: &'a [f32],
    pub eps: f64,
}

/// What is added to x before it is normalised.
#[derive(Clone, Copy)]
pub(super) struct Residual<'a> {
    pub scale: Option<&'a [f32]>,
    /// The branch's output; `None` if it stands in y.
    pub branch: Option<&'a [f32]>,
}

/// y = LN(x) for a range of primal rows and their tangents.
pub(super) struct Norm<'a> {
    pub rows: &'a Rows,
    pub range: Range<usize>,
    pub affine: Affine<'a>,
    pub x: &'a [f32],
    pub y: Shared<'a>,
}

impl WithSimd for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let d = self.affine.gamma.len();
        for r in self.range {
            let mut statistics = None;
            for (compact, stream) in planes(self.rows, r) {
                let row = &self.x[stream * d..][..d];
                // SAFETY: compact rows of different primal rows differ.
                let y = unsafe { self.y.slice_mut(compact * d, d) };
                normalise(simd, self.affine, &mut statistics, row, y);
            }
        }
    }
}

/// x += λ ⊙ f, then y = LN(x), for a range of primal rows and their tangents.
pub(super) struct ResidualNorm<'a> {
    pub rows: &'a Rows,
    pub range: Range<usize>,
    pub residual: Residual<'a>,
    pub affine: Affine<'a>,
    pub x: Shared<'a>,
    pub y: Shared<'a>,
}

impl WithSimd for ResidualNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let d = self.affine.gamma.len();
        for r in self.range {
            let mut statistics = None;
            for (compact, stream) in planes(self.rows, r) {
                // SAFETY: rows of different primal rows differ, in x as in y.
                let (x, y) = unsafe { (self.x.slice_mut(stream * d, d), self.y.slice_mut(compact * d, d)) };
                let branch = self.residual.branch.map_or(&*y, |f| &f[compact * d..][..d]);
                add_row(simd, self.residual.scale, branch, x);
                normalise(simd, self.affine, &mut statistics, x, y);
            }
        }
    }
}

/// A primal row with its mean and 1/σ, kept while its tangents pass.
type Statistics<'a> = Option<(&'a [f32], f32, f32)>;

/// The first row after `None` is primal, those that follow are its tangents.
#[inline(always)]
fn normalise<'a, S: Simd>(simd: S, affine: Affine, primal: &mut Statistics<'a>, row: &'a [f32], y: &mut [f32]) {
    match *primal {
        None => {
            let (mean, rstd) = statistics(simd, row, affine.eps);
            primal_row(simd, affine, row, mean, rstd, y);
            *primal = Some((row, mean, rstd));
        }
        Some((x, mean, rstd)) => tangent_row(simd, affine.gamma, (x, mean, rstd), row, y),
    }
}

/// Mean and 1/σ.
#[inline(always)]
fn statistics<S: Simd>(simd: S, x: &[f32], eps: f64) -> (f32, f32) {
    let n = x.len() as f64;
    let mut sum = simd.splat_f32s(0.0);
    for at in starts::<S>(x.len()) {
        sum = simd.add_f32s(sum, load(simd, x, at));
    }
    let mean = (f64::from(simd.reduce_sum_f32s(sum)) / n) as f32;
    let (shift, mut squares) = (simd.splat_f32s(mean), simd.splat_f32s(0.0));
    let whole = x.len() - x.len() % S::F32_LANES;
    for at in starts::<S>(whole) {
        let centred = simd.sub_f32s(load(simd, x, at), shift);
        squares = simd.mul_add_e_f32s(centred, centred, squares);
    }
    // Lanes beyond the end would add mean² each.
    let rest: f32 = x[whole..].iter().map(|v| (v - mean) * (v - mean)).sum();
    let variance = (f64::from(simd.reduce_sum_f32s(squares)) + f64::from(rest)) / n;
    (mean, (1.0 / (variance + eps).sqrt()) as f32)
}

#[inline(always)]
fn primal_row<S: Simd>(simd: S, affine: Affine, x: &[f32], mean: f32, rstd: f32, y: &mut [f32]) {
    let (mean, rstd) = (simd.splat_f32s(mean), simd.splat_f32s(rstd));
    for at in starts::<S>(x.len()) {
        let normal = simd.mul_f32s(simd.sub_f32s(load(simd, x, at), mean), rstd);
        let value = simd.mul_add_e_f32s(load(simd, affine.gamma, at), normal, load(simd, affine.beta, at));
        store(simd, y, at, value);
    }
}

/// Sums of t and of (x − μ)·t.
#[inline(always)]
fn moments<S: Simd>(simd: S, x: &[f32], mean: f32, weight: Option<&[f32]>, t: &[f32]) -> (f32, f32) {
    let mean = simd.splat_f32s(mean);
    let (mut sum, mut along) = (simd.splat_f32s(0.0), simd.splat_f32s(0.0));
    for at in starts::<S>(x.len()) {
        // Lanes beyond the end hold t = 0.
        let mut value = load(simd, t, at);
        if let Some(weight) = weight {
            value = simd.mul_f32s(value, load(simd, weight, at));
        }
        sum = simd.add_f32s(sum, value);
        along = simd.mul_add_e_f32s(simd.sub_f32s(load(simd, x, at), mean), value, along);
    }
    (simd.reduce_sum_f32s(sum), simd.reduce_sum_f32s(along))
}

/// ẏ = γ/σ ⊙ (ẋ − mean ẋ − x̂·mean(x̂ẋ)).
#[inline(always)]
fn tangent_row<S: Simd>(simd: S, gamma: &[f32], (x, mean, rstd): (&[f32], f32, f32), t: &[f32], y: &mut [f32]) {
    let (sum, along) = moments(simd, x, mean, None, t);
    let n = x.len() as f32;
    let (average, slope) = (simd.splat_f32s(sum / n), simd.splat_f32s(-along * rstd * rstd / n));
    let (mean, rstd) = (simd.splat_f32s(mean), simd.splat_f32s(rstd));
    for at in starts::<S>(x.len()) {
        let centred = simd.sub_f32s(load(simd, x, at), mean);
        let value = simd.mul_add_e_f32s(centred, slope, simd.sub_f32s(load(simd, t, at), average));
        store(simd, y, at, simd.mul_f32s(simd.mul_f32s(load(simd, gamma, at), rstd), value));
    }
}

/// dx += J_LN(x)ᵀ·dy for a range of primal rows.
pub(super) struct NormVjp<'a> {
    pub rows: &'a Rows,
    pub range: Range<usize>,
    pub affine: Affine<'a>,
    pub x: &'a [f32],
    pub dy: &'a [f32],
    pub dx: Shared<'a>,
}

impl WithSimd for NormVjp<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let gamma = self.affine.gamma;
        let d = gamma.len();
        let tokens = self.rows.primal().len();
        for r in self.range {
            let stream = self.rows.stream_row(0, r / tokens, self.rows.primal()[r % tokens]);
            let (x, dy) = (&self.x[stream * d..][..d], &self.dy[r * d..][..d]);
            // SAFETY: rows of the range differ, and so do ranges.
            let dx = unsafe { self.dx.slice_mut(stream * d, d) };
            let (mean, rstd) = statistics(simd, x, self.affine.eps);
            let (sum, along) = moments(simd, x, mean, Some(gamma), dy);
            let n = d as f32;
            let (average, slope) = (simd.splat_f32s(sum / n), simd.splat_f32s(-along * rstd * rstd / n));
            let (mean, rstd) = (simd.splat_f32s(mean), simd.splat_f32s(rstd));
            for at in starts::<S>(d) {
                let centred = simd.sub_f32s(load(simd, x, at), mean);
                let g = simd.mul_f32s(load(simd, gamma, at), load(simd, dy, at));
                let value = simd.mul_add_e_f32s(centred, slope, simd.sub_f32s(g, average));
                let value = simd.mul_add_e_f32s(rstd, value, load(simd, dx, at));
                store(simd, dx, at, value);
            }
        }
    }
}
