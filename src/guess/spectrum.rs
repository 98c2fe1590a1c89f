//! W with its singular values changed, as far as a guess can tell: F with FᵀF = V·f(S)²·Vᵀ where W = U·S·Vᵀ.
//!
//! Wᵀn of n ~ N(0, I) has the covariance V·S²·Vᵀ whatever U is, so that d rows of noise do for F in place of n rows for W. V and S²
//! are the eigenvectors and eigenvalues of WᵀW, by Householder's reduction to a tridiagonal matrix and QL iterations with implicit
//! shifts (Golub and Van Loan 2013, 8.3); 9·d³ FLOPs or so in f64, once a run and set.

use super::orthonormal::dot;
use crate::{Error, Result};

/// F `[d, d]`, row-major, of the `columns` `[d, n]` of W: singular values raised to `power`, the largest `rank` of them (0: all), and scaled to
/// ‖F‖_F = ‖W‖_F. Row j is f(s_j)·v_jᵀ, largest first. Errors: [`Error::Options`] when W is not finite.
pub fn reshaped(columns: &[f32], width: usize, power: f64, rank: usize) -> Result<Vec<f32>> {
    let mut gram = vec![0f64; width * width];
    let column = |i: usize| &columns[i * (columns.len() / width)..][..columns.len() / width];
    for (i, row) in gram.chunks_exact_mut(width).enumerate() {
        row[..=i].iter_mut().enumerate().for_each(|(j, g)| *g = dot(column(i), column(j)));
    }
    let total: f64 = (0..width).map(|i| gram[i * width + i]).sum();
    if !total.is_finite() {
        return Err(Error::Options(
            "--power, --rank: a weight of the layer that reads the prompts is not finite".into(),
        ));
    }
    let values = eigen(&mut gram, width)?;
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    let largest = order.first().map_or(0.0, |&j| values[j]);
    let kept = if rank == 0 { width } else { rank.min(width) };
    // What is zero but for rounding has no direction, and no power of it is meant.
    let tiny = largest * width as f64 * f64::EPSILON;
    let factor = |j: usize| if values[j] > tiny { values[j].powf(0.5 * power) } else { 0.0 };
    let squares: f64 = order[..kept].iter().map(|&j| factor(j).powi(2)).sum();
    let scale = if squares > 0.0 { (total / squares).sqrt() } else { 0.0 };
    let mut out = vec![0f32; width * width];
    for (row, &j) in out.chunks_exact_mut(width).zip(&order[..kept]) {
        let factor = factor(j) * scale;
        row.iter_mut().enumerate().for_each(|(i, v)| *v = (factor * gram[i * width + j]) as f32);
    }
    Ok(out)
}

/// Eigenvalues of the symmetric matrix whose lower triangle is `a` `[n, n]`; its eigenvectors become the columns of `a`. Errors: the
/// iterations do not converge.
fn eigen(a: &mut [f64], n: usize) -> Result<Vec<f64>> {
    let (mut diagonal, mut off) = (vec![0.0; n], vec![0.0; n]);
    tridiagonal(a, n, &mut diagonal, &mut off);
    off.rotate_left(1);
    for l in 0..n {
        for sweep in 0.. {
            let small = |m: usize| off[m].abs() <= f64::EPSILON * (diagonal[m].abs() + diagonal[m + 1].abs());
            let m = (l..n - 1).find(|&m| small(m)).unwrap_or(n - 1);
            if m == l {
                break;
            }
            if sweep == 60 {
                return Err(Error::Options(
                    "--power, --rank: the singular values of a layer could not be found".into(),
                ));
            }
            rotate(a, n, &mut diagonal, &mut off, l..m);
        }
    }
    Ok(diagonal)
}

/// Householder's reduction: `a` becomes the orthogonal matrix that reduces it, `off[0]` is unused.
fn tridiagonal(a: &mut [f64], n: usize, diagonal: &mut [f64], off: &mut [f64]) {
    for i in (1..n).rev() {
        let scale: f64 = a[i * n..][..i].iter().map(|v| v.abs()).sum();
        if i == 1 || scale == 0.0 {
            (off[i], diagonal[i]) = (a[i * n + i - 1], 0.0);
            continue;
        }
        let mut h = 0.0;
        for v in &mut a[i * n..][..i] {
            *v /= scale;
            h += *v * *v;
        }
        let f = a[i * n + i - 1];
        let g = -h.sqrt().copysign(f);
        off[i] = scale * g;
        h -= f * g;
        a[i * n + i - 1] = f - g;
        let mut sum = 0.0;
        for j in 0..i {
            a[j * n + i] = a[i * n + j] / h;
            let below: f64 = (j + 1..i).map(|k| a[k * n + j] * a[i * n + k]).sum();
            let row: f64 = (0..=j).map(|k| a[j * n + k] * a[i * n + k]).sum();
            off[j] = (row + below) / h;
            sum += off[j] * a[i * n + j];
        }
        let half = sum / (h + h);
        for j in 0..i {
            let f = a[i * n + j];
            off[j] -= half * f;
            let g = off[j];
            for k in 0..=j {
                a[j * n + k] -= f * off[k] + g * a[i * n + k];
            }
        }
        diagonal[i] = h;
    }
    (diagonal[0], off[0]) = (0.0, 0.0);
    let mut projections = vec![0.0; n];
    for i in 0..n {
        if diagonal[i] != 0.0 {
            projections[..i].fill(0.0);
            for k in 0..i {
                let factor = a[i * n + k];
                projections[..i].iter_mut().zip(&a[k * n..]).for_each(|(p, &v)| *p += factor * v);
            }
            for k in 0..i {
                let factor = a[k * n + i];
                let row = &mut a[k * n..][..i];
                row.iter_mut().zip(&projections).for_each(|(v, &p)| *v -= p * factor);
            }
        }
        diagonal[i] = a[i * n + i];
        a[i * n + i] = 1.0;
        for j in 0..i {
            (a[j * n + i], a[i * n + j]) = (0.0, 0.0);
        }
    }
}

/// One QL step with an implicit shift on the unreduced part `range` and one row further.
fn rotate(a: &mut [f64], n: usize, diagonal: &mut [f64], off: &mut [f64], range: std::ops::Range<usize>) {
    let (l, m) = (range.start, range.end);
    let g = (diagonal[l + 1] - diagonal[l]) / (2.0 * off[l]);
    let r = g.hypot(1.0);
    let mut g = diagonal[m] - diagonal[l] + off[l] / (g + r.copysign(g));
    let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
    for i in (l..m).rev() {
        let (f, b) = (s * off[i], c * off[i]);
        let r = f.hypot(g);
        off[i + 1] = r;
        if r == 0.0 {
            diagonal[i + 1] -= p;
            off[m] = 0.0;
            return;
        }
        (s, c) = (f / r, g / r);
        let shifted = diagonal[i + 1] - p;
        let turned = (diagonal[i] - shifted) * s + 2.0 * c * b;
        p = s * turned;
        diagonal[i + 1] = shifted + p;
        g = c * turned - b;
        for row in a.chunks_exact_mut(n) {
            let (u, v) = (row[i], row[i + 1]);
            (row[i + 1], row[i]) = (s * u + c * v, c * u - s * v);
        }
    }
    diagonal[l] -= p;
    off[l] = g;
    off[m] = 0.0;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn random(n: usize, d: usize) -> Vec<f32> {
        let mut out = vec![0f32; n * d];
        Stream { seed: 3, step: n as u64, example: 0, tangent: 0, set: 0 }.normals(&mut out);
        out
    }

    /// Of a matrix's columns.
    fn transposed(matrix: &[f32], d: usize) -> Vec<f32> {
        let n = matrix.len() / d;
        (0..d * n).map(|at| matrix[at % n * d + at / n]).collect()
    }

    fn gram(matrix: &[f32], d: usize) -> Vec<f64> {
        let entry = |i: usize, j: usize| matrix.chunks_exact(d).map(|r| f64::from(r[i]) * f64::from(r[j])).sum();
        (0..d * d).map(|at| entry(at / d, at % d)).collect()
    }

    fn distance(a: &[f64], b: &[f64]) -> f64 {
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
    }

    #[test]
    fn power_one_keeps_the_covariance() {
        for (n, d) in [(12, 1), (12, 2), (24, 8), (5, 9), (90, 33)] {
            let w = random(n, d);
            let f = reshaped(&transposed(&w, d), d, 1.0, 0).unwrap();
            assert!(distance(&gram(&f, d), &gram(&w, d)) < 1e-6, "{n} {d}");
        }
    }

    #[test]
    fn power_zero_is_orthogonal() {
        let (n, d) = (60, 21);
        let w = random(n, d);
        let f = reshaped(&transposed(&w, d), d, 0.0, 0).unwrap();
        let total: f64 = w.iter().map(|&v| f64::from(v).powi(2)).sum();
        let identity: Vec<f64> = (0..d * d).map(|at| if at % (d + 1) == 0 { total / d as f64 } else { 0.0 }).collect();
        assert!(distance(&gram(&f, d), &identity) < 1e-6);
    }

    #[test]
    fn powers_and_ranks_of_a_known_matrix() {
        // Singular values 3, 2 and 1 along the axes.
        let w = [0.0, 2.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, -1.0];
        for (power, rank, squares) in
            [(2.0, 0, [81.0, 16.0, 1.0]), (0.5, 2, [3.0, 2.0, 0.0]), (1.0, 1, [1.0, 0.0, 0.0])]
        {
            let scale = 14.0 / squares.iter().sum::<f64>();
            let found = gram(&reshaped(&transposed(&w, 3), 3, power, rank).unwrap(), 3);
            let expected: Vec<f64> = (0..9).map(|at| if at % 4 == 0 { squares[at / 4] * scale } else { 0.0 }).collect();
            assert!(distance(&found, &expected) < 1e-6, "{found:?} {expected:?}");
        }
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        assert!(reshaped(&[1.0, f32::NAN], 2, 0.5, 0).is_err());
        assert_eq!(reshaped(&[0.0; 6], 3, 0.0, 0).unwrap(), [0.0; 9]);
    }
}
