//! Linear layer. y = xWᵀ + b; ẏ = ẋWᵀ; dx = dy·W. One GEMM over all (1+K)·B·T rows, bias on the primal rows only.
//!
//! 2·rows·n·k FLOPs; reads rows·k + n·k, writes rows·n elements.

use super::{Real, dot};
use std::ops::Range;

/// `y[r] = x[r]·Wᵀ` (+ b for r < `biased`), W = `weight` `[n, k]`; x rows `x_stride` apart.
pub fn forward<T: Real>(
    count: usize,
    biased: usize,
    (weight, k): (&[T], usize),
    bias: Option<&[T]>,
    (x, x_stride): (&[T], usize),
    y: &mut [T],
) {
    let n = weight.len() / k;
    for r in 0..count {
        let row = &x[r * x_stride..][..k];
        for o in 0..n {
            let b = bias.filter(|_| r < biased).map_or(T::zero(), |b| b[o]);
            y[r * n + o] = dot(row, &weight[o * k..][..k]) + b;
        }
    }
}

/// `dx[r] = dy[r]·W`, or `+=`.
pub fn vjp<T: Real>(
    count: usize,
    (weight, k): (&[T], usize),
    (dy, dy_stride): (&[T], usize),
    accumulate: bool,
    dx: &mut [T],
) {
    let n = weight.len() / k;
    for r in 0..count {
        let out = &mut dx[r * k..][..k];
        if !accumulate {
            out.fill(T::zero());
        }
        for o in 0..n {
            let g = dy[r * dy_stride + o];
            for (out, &w) in out.iter_mut().zip(&weight[o * k..][..k]) {
                *out += g * w;
            }
        }
    }
}

/// Range of the elements of rows `outputs` of a matrix with k columns.
pub fn rows_of(outputs: &Range<usize>, k: usize) -> Range<usize> {
    outputs.start * k..outputs.end * k
}
