//! Layer norm. x̂ = (x−μ)/σ, y = γ⊙x̂ + β; ẏ = (γ/σ)⊙(ẋ − mean ẋ − x̂·mean(x̂⊙ẋ)); σ² = mean (x−μ)² + ε.
//!
//! Per row of d: 8d FLOPs primal, 8d per tangent; one read and one write of every row. The VJP is the same map with γ
//! moved inside: dx = (1/σ)(g − mean g − x̂·mean(x̂⊙g)), g = γ⊙dy.

use super::Real;
use crate::backend::Rows;

/// Mean and 1/σ of a row.
pub fn statistics<T: Real>(x: &[T], eps: f64) -> (T, T) {
    let n = T::from_f64(x.len() as f64);
    let mean = x.iter().copied().sum::<T>() / n;
    let variance = x.iter().map(|&v| (v - mean) * (v - mean)).sum::<T>() / n;
    (mean, (variance + T::from_f64(eps)).sqrt().recip())
}

/// y = LN(x) of one row.
pub fn primal<T: Real>(x: &[T], gamma: &[T], beta: &[T], eps: f64, y: &mut [T]) {
    let (mean, rstd) = statistics(x, eps);
    for i in 0..x.len() {
        y[i] = gamma[i] * (x[i] - mean) * rstd + beta[i];
    }
}

/// ẏ = J_LN(x)·ẋ of one row.
pub fn tangent<T: Real>(x: &[T], dx: &[T], gamma: &[T], eps: f64, dy: &mut [T]) {
    let (mean, rstd) = statistics(x, eps);
    let n = T::from_f64(x.len() as f64);
    let mean_t = dx.iter().copied().sum::<T>() / n;
    let mean_xt = x.iter().zip(dx).map(|(&x, &t)| (x - mean) * rstd * t).sum::<T>() / n;
    for i in 0..x.len() {
        dy[i] = gamma[i] * rstd * (dx[i] - mean_t - (x[i] - mean) * rstd * mean_xt);
    }
}

/// dx += J_LN(x)ᵀ·dy of one row.
pub fn vjp<T: Real>(x: &[T], dy: &[T], gamma: &[T], eps: f64, dx: &mut [T]) {
    let (mean, rstd) = statistics(x, eps);
    let n = T::from_f64(x.len() as f64);
    let mean_g = gamma.iter().zip(dy).map(|(&g, &d)| g * d).sum::<T>() / n;
    let mean_xg = (0..x.len()).map(|i| (x[i] - mean) * rstd * gamma[i] * dy[i]).sum::<T>() / n;
    for i in 0..x.len() {
        dx[i] += rstd * (gamma[i] * dy[i] - mean_g - (x[i] - mean) * rstd * mean_xg);
    }
}

/// Dual norm of stream rows `x` `[1+K, B, T, d]` into compact `y`.
pub fn dual<T: Real>(rows: &Rows, gamma: &[T], beta: &[T], eps: f64, x: &[T], y: &mut [T]) {
    let d = gamma.len();
    for b in 0..rows.examples {
        for (i, &t) in rows.primal().iter().enumerate() {
            let row = &x[rows.stream_row(0, b, t) * d..][..d];
            primal(row, gamma, beta, eps, &mut y[rows.primal_row(b, i) * d..][..d]);
            let Some(j) = rows.pair(i) else { continue };
            for k in 0..rows.tangents {
                let from = &x[rows.stream_row(1 + k, b, t) * d..][..d];
                tangent(row, from, gamma, eps, &mut y[rows.tangent_row(k, b, j) * d..][..d]);
            }
        }
    }
}
