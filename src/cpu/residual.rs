//! Row movement between the stream and compact buffers.

use super::lanes::{load, starts, store};
use super::memory::Shared;
use super::rows::planes;
use crate::backend::Rows;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// x += λ ⊙ f.
#[inline(always)]
pub(super) fn add_row<S: Simd>(simd: S, scale: Option<&[f32]>, f: &[f32], x: &mut [f32]) {
    for at in starts::<S>(x.len()) {
        let (value, old) = (load(simd, f, at), load(simd, x, at));
        let value = match scale {
            None => simd.add_f32s(old, value),
            Some(scale) => simd.mul_add_e_f32s(load(simd, scale, at), value, old),
        };
        store(simd, x, at, value);
    }
}

/// x[rows] += λ ⊙ f for a range of primal rows and their tangents.
pub(super) struct Residual<'a> {
    pub rows: &'a Rows,
    pub range: Range<usize>,
    pub width: usize,
    pub scale: Option<&'a [f32]>,
    pub f: &'a [f32],
    pub x: Shared<'a>,
}

impl WithSimd for Residual<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (compact, stream) in self.range.flat_map(|r| planes(self.rows, r)) {
            // SAFETY: stream rows of different primal rows differ.
            let x = unsafe { self.x.slice_mut(stream * self.width, self.width) };
            add_row(simd, self.scale, &self.f[compact * self.width..][..self.width], x);
        }
    }
}

/// y = λ ⊙ x[rows].
pub(super) fn gather(rows: &Rows, range: Range<usize>, width: usize, x: &[f32], scale: Option<&[f32]>, y: Shared) {
    for (compact, stream) in range.flat_map(|r| planes(rows, r)) {
        let x = &x[stream * width..][..width];
        // SAFETY: compact rows of different primal rows differ.
        let y = unsafe { y.slice_mut(compact * width, width) };
        match scale {
            None => y.copy_from_slice(x),
            Some(scale) => y.iter_mut().zip(x).zip(scale).for_each(|((y, x), s)| *y = s * x),
        }
    }
}

/// x[rows] = values.
pub(super) fn scatter(rows: &Rows, range: Range<usize>, width: usize, values: &[f32], x: Shared) {
    for (compact, stream) in range.flat_map(|r| planes(rows, r)) {
        // SAFETY: stream rows of different primal rows differ.
        let x = unsafe { x.slice_mut(stream * width, width) };
        x.copy_from_slice(&values[compact * width..][..width]);
    }
}

/// Means over groups of tokens, for row `index` = plane·B + example of `out`.
pub(super) struct Pool<'a> {
    pub rows: &'a Rows,
    pub index: usize,
    pub width: usize,
    pub groups: &'a [Range<usize>],
    pub y: &'a [f32],
    pub out: Shared<'a>,
}

impl WithSimd for Pool<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (plane, b) = (self.index / self.rows.examples, self.index % self.rows.examples);
        for (g, group) in self.groups.iter().enumerate() {
            let at = (self.index * self.groups.len() + g) * self.width;
            // SAFETY: every index has its own rows.
            let out = unsafe { self.out.slice_mut(at, self.width) };
            out.fill(0.0);
            for i in group.clone() {
                let row = match plane {
                    0 => self.rows.primal_row(b, i),
                    _ => self.rows.tangent_row(plane - 1, b, i),
                };
                add_row(simd, None, &self.y[row * self.width..][..self.width], out);
            }
            let n = group.len() as f32;
            out.iter_mut().for_each(|v| *v /= n);
        }
    }
}
