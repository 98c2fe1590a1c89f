//! Heads on the head input f. Linear: z = Wf + b, ż = Wḟ. Prototype: z = τ·M·u, u = (f−c)/‖f−c‖,
//! u̇ = (ḟ − u(u·ḟ))/‖f−c‖.
//!
//! 2·C·D FLOPs per example and plane. The products have few rows, so they are fixed-order dots, not a GEMM: a row's
//! result never depends on how many rows there are.

use super::Real;
use crate::model::Head;
use ndarray::{ArrayView1, ArrayView2};

/// Length below which f − c counts as zero; its direction is undefined and the logits are zero.
const TINY: f64 = 1e-30;

/// Σ w·x in eight interleaved partial sums, so that it vectorises and has one order everywhere.
fn dot<T: Real>(w: &[f32], x: &[T]) -> T {
    let mut lanes = [T::zero(); 8];
    let (w8, w_rest) = w.as_chunks::<8>();
    let (x8, x_rest) = x.as_chunks::<8>();
    for (w, x) in w8.iter().zip(x8) {
        for i in 0..8 {
            lanes[i] += T::from_f32(w[i]) * x[i];
        }
    }
    let rest: T = w_rest.iter().zip(x_rest).map(|(&w, &x)| T::from_f32(w) * x).sum();
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (b + f)) + ((c + g) + (d + h)) + rest
}

fn matvec<T: Real>(matrix: ArrayView2<f32>, x: &[T], scale: T, z: &mut [T]) {
    for (z, row) in z.iter_mut().zip(matrix.rows()) {
        let row = row.to_slice().expect("head matrices are row-major");
        *z = scale * dot(row, x);
    }
}

/// u = (f − c)/‖f − c‖ into `u`; returns ‖f − c‖.
fn direction<T: Real>(f: &[T], center: ArrayView1<f32>, u: &mut [T]) -> T {
    for ((u, &f), &c) in u.iter_mut().zip(f).zip(center) {
        *u = f - T::from_f32(c);
    }
    let norm = u.iter().map(|&v| v * v).sum::<T>().sqrt();
    if norm > T::from_f64(TINY) {
        u.iter_mut().for_each(|v| *v /= norm);
    } else {
        u.fill(T::zero());
    }
    norm
}

/// Logits `[1+K, B, C]` of head inputs `[1+K, B, D]`; plane 0 primal, the others tangents. `scratch` serves any number of
/// calls and allocates in the first only.
pub fn dual<T: Real>(head: &Head, examples: usize, planes: usize, f: &[T], z: &mut [T], scratch: &mut Vec<T>) {
    let (width, classes) = (head.width(), head.classes());
    scratch.resize(2 * width, T::zero());
    let (u, v) = scratch.split_at_mut(width);
    for b in 0..examples {
        let primal = &f[b * width..][..width];
        let norm = match head {
            Head::Prototype { center, .. } => direction(primal, center.view(), u),
            Head::Linear { .. } => T::one(),
        };
        for plane in 0..planes {
            let row = plane * examples + b;
            let from = &f[row * width..][..width];
            let to = &mut z[row * classes..][..classes];
            match head {
                Head::Linear { weight, bias } => {
                    matvec(weight.view(), from, T::one(), to);
                    if plane == 0 {
                        to.iter_mut().zip(bias).for_each(|(z, &b)| *z += T::from_f32(b));
                    }
                }
                Head::Prototype { means, tau, .. } => {
                    if plane == 0 {
                        matvec(means.view(), u, T::from_f32(*tau), to);
                    } else {
                        project(u, from, norm, v);
                        matvec(means.view(), v, T::from_f32(*tau), to);
                    }
                }
            }
        }
    }
}

/// (g − u(u·g))/‖f − c‖: the Jacobian of u, which is symmetric.
fn project<T: Real>(u: &[T], g: &[T], norm: T, out: &mut [T]) {
    if norm <= T::from_f64(TINY) {
        out.fill(T::zero());
        return;
    }
    let along = super::dot(u, g);
    for ((out, &u), &g) in out.iter_mut().zip(u).zip(g) {
        *out = (g - u * along) / norm;
    }
}

/// df = Jᵀdz of one example.
pub fn vjp<T: Real>(head: &Head, f: &[T], dz: &[T], df: &mut [T]) {
    let back = |matrix: &ndarray::Array2<f32>, scale: T, out: &mut [T]| {
        out.fill(T::zero());
        for (row, &g) in matrix.rows().into_iter().zip(dz) {
            let g = g * scale;
            out.iter_mut().zip(row).for_each(|(out, &w)| *out += g * T::from_f32(w));
        }
    };
    match head {
        Head::Linear { weight, .. } => back(weight, T::one(), df),
        Head::Prototype { center, means, tau } => {
            let mut u = vec![T::zero(); f.len()];
            let mut g = vec![T::zero(); f.len()];
            let norm = direction(f, center.view(), &mut u);
            back(means, T::from_f32(*tau), &mut g);
            project(&u, &g, norm, df);
        }
    }
}
