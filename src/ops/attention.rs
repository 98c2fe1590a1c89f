//! Dual multi-head attention. s = scale·q·k, P = softmax s, o = ΣPv;
//! ṡ = scale(q̇·k + q·k̇), ȯ = ΣP(ṡv + v̇) − (ΣPṡ)·o.
//!
//! Per head and query row against T keys: 4T·dim FLOPs and T exponentials primal, 8T·dim per tangent. Scores serve all K
//! tangents; T×T is never stored. The VJP holds one row of T probabilities at a time.

use super::{Real, dot};
use crate::backend::{Heads, Rows};

/// One query row's view of a head's keys and values, primal and tangent.
struct Keys<'a, T> {
    kv: &'a [T],
    rows: &'a Rows,
    width: usize,
    head: usize,
    dim: usize,
}

impl<T: Real> Keys<'_, T> {
    fn key(&self, row: usize) -> &[T] {
        &self.kv[row * 2 * self.width + self.head * self.dim..][..self.dim]
    }

    fn value(&self, row: usize) -> &[T] {
        &self.kv[row * 2 * self.width + self.width + self.head * self.dim..][..self.dim]
    }
}

/// See [`crate::backend::Backend::attention`]. Rows of q are d apart, rows of kv 2d.
pub fn dual<T: Real>(heads: Heads, (q_rows, kv_rows, out_rows): (&Rows, &Rows, &Rows), q: &[T], kv: &[T], y: &mut [T]) {
    let Heads { count, dim } = heads;
    let d = count * dim;
    let scale = T::from_f64(dim as f64).sqrt().recip();
    let keys = kv_rows.primal().len();
    let mut p = vec![T::zero(); keys];
    let mut out = vec![T::zero(); dim];
    let mut weighted = vec![T::zero(); dim];
    for b in 0..q_rows.examples {
        for head in 0..count {
            let view = Keys { kv, rows: kv_rows, width: d, head, dim };
            for i in 0..q_rows.primal().len() {
                let query = &q[q_rows.primal_row(b, i) * d + head * dim..][..dim];
                softmax_row(&view, b, query, scale, &mut p);
                out.fill(T::zero());
                for (j, &p) in p.iter().enumerate() {
                    axpy(p, view.value(kv_rows.primal_row(b, j)), &mut out);
                }
                y[out_rows.primal_row(b, i) * d + head * dim..][..dim].copy_from_slice(&out);
                let Some(out_pair) = out_rows.pair(i) else { continue };
                for k in 0..out_rows.tangents {
                    let query_tangent =
                        q_rows.pair(i).map(|j| &q[q_rows.tangent_row(k, b, j) * d + head * dim..][..dim]);
                    weighted.fill(T::zero());
                    let mut mean = T::zero();
                    for (j, &p) in p.iter().enumerate() {
                        let row = view.rows.primal_row(b, j);
                        let mut s = query_tangent.map_or(T::zero(), |q| dot(q, view.key(row)));
                        if let Some(pair) = kv_rows.pair(j) {
                            let tangent = kv_rows.tangent_row(k, b, pair);
                            s += dot(query, view.key(tangent));
                            axpy(p, view.value(tangent), &mut weighted);
                        }
                        let ps = p * s * scale;
                        mean += ps;
                        axpy(ps, view.value(row), &mut weighted);
                    }
                    let to = &mut y[out_rows.tangent_row(k, b, out_pair) * d + head * dim..][..dim];
                    for ((to, &w), &o) in to.iter_mut().zip(&weighted).zip(&out) {
                        *to = w - mean * o;
                    }
                }
            }
        }
    }
}

/// See [`crate::backend::Backend::attention_vjp`].
pub fn vjp<T: Real>(heads: Heads, rows: &Rows, q: &[T], kv: &[T], dy: &[T], dqkv: &mut [T]) {
    let Heads { count, dim } = heads;
    let d = count * dim;
    let scale = T::from_f64(dim as f64).sqrt().recip();
    let tokens = rows.primal().len();
    let (dq, dkv) = dqkv.split_at_mut(rows.len() * d);
    dq[..rows.len() * d].fill(T::zero());
    dkv[..rows.len() * 2 * d].fill(T::zero());
    let mut p = vec![T::zero(); tokens];
    let mut dp = vec![T::zero(); tokens];
    for b in 0..rows.examples {
        for head in 0..count {
            let view = Keys { kv, rows, width: d, head, dim };
            for i in 0..tokens {
                let at = rows.primal_row(b, i) * d + head * dim;
                let query = &q[at..][..dim];
                let gradient = &dy[at..][..dim];
                softmax_row(&view, b, query, scale, &mut p);
                for (j, dp) in dp.iter_mut().enumerate() {
                    *dp = dot(gradient, view.value(rows.primal_row(b, j)));
                }
                let mean = dot(&p, &dp);
                for j in 0..tokens {
                    let row = rows.primal_row(b, j);
                    let ds = p[j] * (dp[j] - mean) * scale;
                    axpy(ds, view.key(row), &mut dq[at..][..dim]);
                    let to = row * 2 * d + head * dim;
                    axpy(ds, query, &mut dkv[to..][..dim]);
                    axpy(p[j], gradient, &mut dkv[to + d..][..dim]);
                }
            }
        }
    }
}

fn softmax_row<T: Real>(view: &Keys<T>, b: usize, query: &[T], scale: T, p: &mut [T]) {
    for (j, p) in p.iter_mut().enumerate() {
        *p = scale * dot(query, view.key(view.rows.primal_row(b, j)));
    }
    let max = p.iter().copied().fold(T::neg_infinity(), T::max);
    let mut sum = T::zero();
    for p in p.iter_mut() {
        *p = (*p - max).exp();
        sum += *p;
    }
    p.iter_mut().for_each(|p| *p /= sum);
}

fn axpy<T: Real>(a: T, x: &[T], y: &mut [T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}
