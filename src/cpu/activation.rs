//! Activations: φ and φ′ of a primal element from one exponential serve all its tangents.

use super::lanes::{load, starts, store};
use super::math::{normal_cdf_pdf, sigmoid_pair};
use super::memory::Shared;
use super::rows::tangents;
use crate::backend::{Rows, hidden_columns, mlp_activation};
use crate::model::{Activation, Mlp};
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// (φ(x), φ′(x)).
#[inline(always)]
fn value_and_slope<S: Simd>(simd: S, kind: Activation, x: S::f32s) -> (S::f32s, S::f32s) {
    let zero = simd.splat_f32s(0.0);
    match kind {
        Activation::Gelu => {
            let (cdf, pdf) = normal_cdf_pdf(simd, x);
            (simd.mul_f32s(x, cdf), simd.mul_add_e_f32s(x, pdf, cdf))
        }
        Activation::GeluTanh => {
            // ½(1 + tanh u) = σ(2u). Beyond ±30 the gate is 0 or 1 to the last bit, and x³ could overflow.
            const C: f32 = 1.595_769;
            let bounded = simd.min_f32s(simd.max_f32s(x, simd.splat_f32s(-30.0)), simd.splat_f32s(30.0));
            let square = simd.mul_f32s(bounded, bounded);
            let inner = simd.mul_add_e_f32s(square, simd.splat_f32s(C * 0.044715), simd.splat_f32s(C));
            let inner_slope = simd.mul_add_e_f32s(square, simd.splat_f32s(3.0 * C * 0.044715), simd.splat_f32s(C));
            gated(simd, x, simd.mul_f32s(bounded, inner), simd.mul_f32s(bounded, inner_slope))
        }
        Activation::QuickGelu => {
            let scaled = simd.mul_f32s(x, simd.splat_f32s(1.702));
            gated(simd, x, scaled, scaled)
        }
        Activation::Relu => {
            let positive = simd.greater_than_f32s(x, zero);
            (simd.select_f32s(positive, x, zero), simd.select_f32s(positive, simd.splat_f32s(1.0), zero))
        }
        Activation::Silu => gated(simd, x, x, x),
    }
}

/// x·σ(g) and its slope σ(g) + σ(g)σ(−g)·`x_slope`, with `x_slope` = x·g′.
#[inline(always)]
fn gated<S: Simd>(simd: S, x: S::f32s, g: S::f32s, x_slope: S::f32s) -> (S::f32s, S::f32s) {
    let (s, complement) = sigmoid_pair(simd, g);
    let slope = simd.mul_add_e_f32s(simd.mul_f32s(s, complement), x_slope, s);
    (simd.mul_f32s(x, s), slope)
}

/// In place on a range of primal rows of fc1's output and their tangents.
pub(super) struct Dual<'a> {
    pub rows: &'a Rows,
    pub range: Range<usize>,
    pub hidden: usize,
    pub mlp: Mlp,
    pub h: Shared<'a>,
}

impl WithSimd for Dual<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Dual { rows, range, hidden, mlp, h } = self;
        let stride = hidden * hidden_columns(mlp);
        let kind = mlp_activation(mlp);
        for r in range {
            // SAFETY: compact rows of different primal rows differ.
            let (x, gate) = unsafe { h.slice_mut(r * stride, stride) }.split_at_mut(hidden);
            let tangents = tangents(rows, r);
            for at in starts::<S>(hidden) {
                let (value, slope) = value_and_slope(simd, kind, load(simd, x, at));
                let (value_out, slope) = match mlp {
                    Mlp::Plain(_) => (value, slope),
                    Mlp::SwiGlu => {
                        let gate = load(simd, gate, at);
                        (simd.mul_f32s(value, gate), simd.mul_f32s(slope, gate))
                    }
                };
                store(simd, x, at, value_out);
                for compact in tangents.clone() {
                    // SAFETY: as above, and a tangent row is not its primal row.
                    let (t, gate) = unsafe { h.slice_mut(compact * stride, stride) }.split_at_mut(hidden);
                    let mut tangent = simd.mul_f32s(slope, load(simd, t, at));
                    if mlp == Mlp::SwiGlu {
                        tangent = simd.mul_add_e_f32s(value, load(simd, gate, at), tangent);
                    }
                    store(simd, t, at, tangent);
                }
            }
        }
    }
}

/// dh from dg on a range of rows.
pub(super) struct Vjp<'a> {
    pub range: Range<usize>,
    pub hidden: usize,
    pub mlp: Mlp,
    pub h: &'a [f32],
    pub dg: &'a [f32],
    pub dh: Shared<'a>,
}

impl WithSimd for Vjp<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Vjp { range, hidden, mlp, h, dg, dh } = self;
        let stride = hidden * hidden_columns(mlp);
        let kind = mlp_activation(mlp);
        for r in range {
            let (x, gate) = h[r * stride..][..stride].split_at(hidden);
            let dg = &dg[r * hidden..][..hidden];
            // SAFETY: rows of the range differ, and so do ranges.
            let (dx, dgate) = unsafe { dh.slice_mut(r * stride, stride) }.split_at_mut(hidden);
            for at in starts::<S>(hidden) {
                let (value, slope) = value_and_slope(simd, kind, load(simd, x, at));
                let g = load(simd, dg, at);
                let mut d = simd.mul_f32s(slope, g);
                if mlp == Mlp::SwiGlu {
                    d = simd.mul_f32s(d, load(simd, gate, at));
                    store(simd, dgate, at, simd.mul_f32s(value, g));
                }
                store(simd, dx, at, d);
            }
        }
    }
}
