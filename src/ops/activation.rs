//! Activations. φ(x) and φ′(x)ẋ; gated (SwiGLU): silu(a)·b and silu′(a)ȧ·b + silu(a)ḃ.
//!
//! About 30 FLOPs per primal element (one exponential), 1 per tangent element; every element read and written once.

use super::Real;
use crate::backend::{Rows, hidden_columns, mlp_activation};
use crate::model::{Activation, Mlp};

/// (φ(x), φ′(x)).
pub fn value_and_slope<T: Real>(kind: Activation, x: T) -> (T, T) {
    let one = T::one();
    let half = T::from_f64(0.5);
    match kind {
        Activation::Gelu => {
            let cdf = half * (one + (x * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf());
            let density = (-half * x * x).exp() * T::from_f64(0.398_942_280_401_432_7);
            (x * cdf, cdf + x * density)
        }
        Activation::GeluTanh => {
            let c = T::from_f64((2.0 / std::f64::consts::PI).sqrt());
            let a = T::from_f64(0.044715);
            let t = (c * (x + a * x * x * x)).tanh();
            let slope = half * (one + t) + half * x * (one - t * t) * c * (one + T::from_f64(3.0) * a * x * x);
            (half * x * (one + t), slope)
        }
        Activation::QuickGelu => {
            let c = T::from_f64(1.702);
            let s = sigmoid(c * x);
            (x * s, s + x * c * s * (one - s))
        }
        Activation::Relu => {
            if x > T::zero() {
                (x, one)
            } else {
                (T::zero(), T::zero())
            }
        }
        Activation::Silu => {
            let s = sigmoid(x);
            (x * s, s + x * s * (one - s))
        }
    }
}

fn sigmoid<T: Real>(x: T) -> T {
    // exp of a negative number only, so neither branch overflows.
    if x >= T::zero() {
        (T::one() + (-x).exp()).recip()
    } else {
        let e = x.exp();
        e / (T::one() + e)
    }
}

/// In place on compact rows of fc1's output (see [`crate::backend::Backend::activation`]).
pub fn dual<T: Real>(rows: &Rows, hidden: usize, mlp: Mlp, h: &mut [T]) {
    let stride = hidden * hidden_columns(mlp);
    let kind = mlp_activation(mlp);
    for b in 0..rows.examples {
        for i in 0..rows.primal().len() {
            let primal = rows.primal_row(b, i) * stride;
            for c in 0..hidden {
                let (value, slope) = value_and_slope(kind, h[primal + c]);
                let gate = match mlp {
                    Mlp::Plain(_) => T::one(),
                    Mlp::SwiGlu => h[primal + hidden + c],
                };
                for (k, j) in rows.pair(i).into_iter().flat_map(|j| (0..rows.tangents).map(move |k| (k, j))) {
                    let at = rows.tangent_row(k, b, j) * stride + c;
                    h[at] = slope * h[at] * gate;
                    if mlp == Mlp::SwiGlu {
                        let gate_tangent = h[at + hidden];
                        h[at] += value * gate_tangent;
                    }
                }
                h[primal + c] = value * gate;
            }
        }
    }
}

/// dh from dg (see [`crate::backend::Backend::activation_vjp`]).
pub fn vjp<T: Real>(count: usize, hidden: usize, mlp: Mlp, h: &[T], dg: &[T], dh: &mut [T]) {
    let stride = hidden * hidden_columns(mlp);
    let kind = mlp_activation(mlp);
    for r in 0..count {
        for c in 0..hidden {
            let g = dg[r * hidden + c];
            let (value, slope) = value_and_slope(kind, h[r * stride + c]);
            match mlp {
                Mlp::Plain(_) => dh[r * stride + c] = slope * g,
                Mlp::SwiGlu => {
                    dh[r * stride + c] = slope * g * h[r * stride + hidden + c];
                    dh[r * stride + hidden + c] = value * g;
                }
            }
        }
    }
}
