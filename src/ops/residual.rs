//! Row movement between the stream and compact buffers: residual with layer scale (x += λ⊙f, ẋ += λ⊙ḟ), gather,
//! scatter and pooling. All are bound by memory: one or two reads and one write per element.

use super::Real;
use crate::backend::Rows;
use std::ops::Range;

/// `x[rows] += λ ⊙ f`.
pub fn residual<T: Real>(rows: &Rows, width: usize, scale: Option<&[T]>, f: &[T], x: &mut [T]) {
    for (compact, stream) in rows.pairs() {
        let f = &f[compact * width..][..width];
        let x = &mut x[stream * width..][..width];
        for i in 0..width {
            x[i] += scale.map_or(f[i], |s| s[i] * f[i]);
        }
    }
}

/// `y = λ ⊙ x[rows]`.
pub fn gather<T: Real>(rows: &Rows, width: usize, x: &[T], scale: Option<&[T]>, y: &mut [T]) {
    for (compact, stream) in rows.pairs() {
        let x = &x[stream * width..][..width];
        let y = &mut y[compact * width..][..width];
        for i in 0..width {
            y[i] = scale.map_or(x[i], |s| s[i] * x[i]);
        }
    }
}

/// `x[rows] = values`.
pub fn scatter<T: Real>(rows: &Rows, width: usize, values: &[T], x: &mut [T]) {
    for (compact, stream) in rows.pairs() {
        x[stream * width..][..width].copy_from_slice(&values[compact * width..][..width]);
    }
}

/// Means over groups of tokens: compact y → `out` `[1+K, B, |groups|·width]`.
pub fn pool<T: Real>(rows: &Rows, width: usize, groups: &[Range<usize>], y: &[T], out: &mut [T]) {
    for plane in 0..=rows.tangents {
        for b in 0..rows.examples {
            for (g, group) in groups.iter().enumerate() {
                let to = &mut out[((plane * rows.examples + b) * groups.len() + g) * width..][..width];
                to.fill(T::zero());
                for i in group.clone() {
                    let row = if plane == 0 { rows.primal_row(b, i) } else { rows.tangent_row(plane - 1, b, i) };
                    to.iter_mut().zip(&y[row * width..][..width]).for_each(|(to, &y)| *to += y);
                }
                let n = T::from_f64(group.len() as f64);
                to.iter_mut().for_each(|v| *v /= n);
            }
        }
    }
}
