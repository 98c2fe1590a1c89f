//! The dual pass in standard operators. A rule stands beside its primal, as in [`ops`](crate::ops), where the formulas are; without
//! tangents what is left is the plain forward graph.

use super::graph::{Graph, Value, float, int};
use crate::model::{Activation, Mlp};
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// A primal `[B, T, ·]` and its tangents `[K, B, T, ·]`.
#[derive(Clone)]
pub(super) struct Dual {
    pub primal: Value,
    pub tangents: Option<Value>,
    /// Where the only tokens with tangents are, `[K, B, count, ·]`; those of all others are zero.
    pub only: Option<Only>,
}

/// `count` tokens of `of`, from `start` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Only {
    pub start: i64,
    pub count: i64,
    pub of: i64,
}

impl Only {
    /// Its tokens, along `axis`, of something that has all of them.
    fn of(self, g: &mut Graph, x: &Value, axis: i64) -> Value {
        g.slice(x, axis, self.start, self.start + self.count)
    }

    /// All tokens, along axis `axis` of 5 or 4, of something that has its.
    fn among(self, g: &mut Graph, x: &Value, rank: usize, axis: usize) -> Value {
        g.pad(x, rank, axis, [self.start, self.of - self.start - self.count])
    }
}

impl From<Value> for Dual {
    fn from(primal: Value) -> Self {
        Dual { primal, tangents: None, only: None }
    }
}

impl Dual {
    /// The same operation on primal and tangents: a linear one that leaves their leading axes alone.
    pub fn map(&self, mut linear: impl FnMut(&Value) -> Value) -> Dual {
        Dual { primal: linear(&self.primal), tangents: self.tangents.as_ref().map(linear), only: self.only }
    }

    /// With tangents of all tokens.
    pub fn whole(&self, g: &mut Graph) -> Dual {
        let tangents = match (&self.tangents, self.only) {
            (Some(dx), Some(only)) => Some(only.among(g, dx, 4, 2)),
            (tangents, _) => tangents.clone(),
        };
        Dual { primal: self.primal.clone(), tangents, only: None }
    }
}

/// xW + b with W `[k, n]`: one product for primal and tangents, where they are of the same tokens.
pub(super) fn linear(g: &mut Graph, x: &Dual, weight: &Value, bias: Option<&Value>) -> Dual {
    let (primal, tangents) = match (&x.tangents, x.only) {
        (None, _) => (g.matmul(&x.primal, weight), None),
        (Some(tangents), Some(_)) => (g.matmul(&x.primal, weight), Some(g.matmul(tangents, weight))),
        (Some(tangents), None) => {
            let primal = g.unsqueeze(&x.primal, 0);
            let planes = g.concat(&[&primal, tangents], 0);
            let planes = g.matmul(&planes, weight);
            let primal = g.slice(&planes, 0, 0, 1);
            (g.squeeze(&primal, 0), Some(g.slice(&planes, 0, 1, i64::MAX)))
        }
    };
    let primal = match bias {
        Some(bias) => g.add(&primal, bias),
        None => primal,
    };
    Dual { primal, tangents, only: x.only }
}

/// Layer norm over the last axis.
pub(super) fn norm(g: &mut Graph, x: &Dual, gamma: &Value, beta: &Value, eps: f64) -> Dual {
    let Some(dx) = &x.tangents else {
        let attributes = vec![int("axis", -1), float("epsilon", eps)];
        return g.node("LayerNormalization", &[&x.primal, gamma, beta], attributes).into();
    };
    let mean = g.mean(&x.primal, -1, true);
    let centred = g.sub(&x.primal, &mean);
    let squares = g.mul(&centred, &centred);
    let variance = g.mean(&squares, -1, true);
    let variance = g.plus(&variance, eps);
    let sigma = g.node("Sqrt", &[&variance], Vec::new());
    let unit = g.div(&centred, &sigma);
    let scaled = g.mul(&unit, gamma);
    let primal = g.add(&scaled, beta);

    let (unit, sigma) = match x.only {
        Some(only) => (only.of(g, &unit, 1), only.of(g, &sigma, 1)),
        None => (unit, sigma),
    };
    let mean = g.mean(dx, -1, true);
    let products = g.mul(&unit, dx);
    let along = g.mean(&products, -1, true);
    let along = g.mul(&unit, &along);
    let rest = g.sub(dx, &mean);
    let rest = g.sub(&rest, &along);
    let factor = g.div(gamma, &sigma);
    Dual { primal, tangents: Some(g.mul(&rest, &factor)), only: x.only }
}

/// φ(x) and φ′(x)ẋ.
pub(super) fn activation(g: &mut Graph, x: &Dual, kind: Activation) -> Dual {
    let Dual { primal: x, tangents, .. } = x;
    // y = x·s with s′ known: φ′ = s + x·s′.
    let with = tangents.is_some();
    let (y, slope) = match kind {
        Activation::Relu => {
            let y = g.node("Relu", &[x], Vec::new());
            let slope = with.then(|| g.node("Sign", &[&y], Vec::new()));
            (y, slope)
        }
        Activation::Gelu => {
            let scaled = g.times(x, FRAC_1_SQRT_2);
            let erf = g.node("Erf", &[&scaled], Vec::new());
            let sum = g.plus(&erf, 1.0);
            let product = g.mul(x, &sum);
            let y = g.times(&product, 0.5);
            let slope = with.then(|| {
                let squares = g.mul(x, x);
                let exponent = g.times(&squares, -0.5);
                let density = g.node("Exp", &[&exponent], Vec::new());
                let density = g.times(&density, 1.0 / (2.0 * PI).sqrt());
                let rest = g.mul(x, &density);
                let half = g.times(&sum, 0.5);
                g.add(&half, &rest)
            });
            (y, slope)
        }
        Activation::GeluTanh => {
            let (a, b) = ((2.0 / PI).sqrt(), 0.044715);
            let squares = g.mul(x, x);
            let inner = g.times(&squares, a * b);
            let inner = g.plus(&inner, a);
            let inner = g.mul(&inner, x);
            let tanh = g.node("Tanh", &[&inner], Vec::new());
            let sum = g.plus(&tanh, 1.0);
            let product = g.mul(x, &sum);
            let y = g.times(&product, 0.5);
            let slope = with.then(|| {
                let squared = g.mul(&tanh, &tanh);
                let one = g.scalar(1.0);
                let sech = g.sub(&one, &squared);
                let inner = g.times(&squares, 3.0 * a * b);
                let inner = g.plus(&inner, a);
                let rest = g.mul(&sech, &inner);
                let rest = g.mul(&rest, x);
                let all = g.add(&sum, &rest);
                g.times(&all, 0.5)
            });
            (y, slope)
        }
        Activation::QuickGelu => sigmoid_times(g, x, 1.702, with),
        Activation::Silu => sigmoid_times(g, x, 1.0, with),
    };
    let tangents = tangents.as_ref().zip(slope).map(|(dx, slope)| g.mul(dx, &slope));
    Dual { primal: y, tangents, only: None }
}

/// x·σ(ax), and its derivative where it is asked for.
fn sigmoid_times(g: &mut Graph, x: &Value, a: f64, with: bool) -> (Value, Option<Value>) {
    let scaled = if a == 1.0 { x.clone() } else { g.times(x, a) };
    let sigmoid = g.node("Sigmoid", &[&scaled], Vec::new());
    let y = g.mul(x, &sigmoid);
    let slope = with.then(|| {
        // σ + a·y·(1 − σ)
        let one = g.scalar(1.0);
        let rest = g.sub(&one, &sigmoid);
        let rest = g.mul(&rest, &y);
        let rest = g.times(&rest, a);
        g.add(&sigmoid, &rest)
    });
    (y, slope)
}

/// The non-linearity between the layers of the MLP.
pub(super) fn between(g: &mut Graph, x: &Dual, mlp: Mlp, hidden: usize) -> Dual {
    let kind = match mlp {
        Mlp::Plain(kind) => return activation(g, x, kind),
        Mlp::SwiGlu => Activation::Silu,
    };
    let [gate, up]: [Value; 2] = g.split(&x.primal, hidden);
    let parts: Option<[Value; 2]> = x.tangents.as_ref().map(|dx| g.split(dx, hidden));
    let (dgate, dup) = parts.map_or((None, None), |[dgate, dup]| (Some(dgate), Some(dup)));
    let gate = activation(g, &Dual { primal: gate, tangents: dgate, only: None }, kind);
    let primal = g.mul(&gate.primal, &up);
    let tangents = gate.tangents.zip(dup).map(|(dgate, dup)| {
        let first = g.mul(&dgate, &up);
        let second = g.mul(&gate.primal, &dup);
        g.add(&first, &second)
    });
    Dual { primal, tangents, only: None }
}

/// `[B, T, d]` and `[K, B, T, d]` to `[B, h, T, d/h]` and `[K, B, h, T, d/h]`; `keys`: with the last two axes exchanged.
fn heads(g: &mut Graph, x: &Dual, heads: usize, size: usize, keys: bool) -> Dual {
    let (heads, size) = (heads as i64, size as i64);
    let apart = g.reshape(&x.primal, &[0, 0, heads, size]);
    let primal = g.transpose(&apart, if keys { &[0, 2, 3, 1] } else { &[0, 2, 1, 3] });
    let tangents = x.tangents.as_ref().map(|dx| {
        let apart = g.reshape(dx, &[0, 0, 0, heads, size]);
        g.transpose(&apart, if keys { &[0, 1, 3, 4, 2] } else { &[0, 1, 3, 2, 4] })
    });
    Dual { primal, tangents, only: x.only }
}

/// Multi-head attention of `q` `[B, Tq, d]` to `k` and `v` `[B, T, d]`, which have tangents of the same tokens as `q`, or all of
/// them. All tokens that come out have tangents.
pub(super) fn attention(g: &mut Graph, [q, k, v]: [&Dual; 3], count: usize, size: usize) -> Dual {
    let q = heads(g, q, count, size, false).map(|q| g.times(q, 1.0 / (size as f64).sqrt()));
    let (k, v) = (heads(g, k, count, size, true), heads(g, v, count, size, false));
    let scores = g.matmul(&q.primal, &k.primal);
    let weights = g.node("Softmax", &[&scores], vec![int("axis", -1)]);
    let out = g.matmul(&weights, &v.primal);
    let tangents = match (&q.tangents, &k.tangents, &v.tangents) {
        (Some(dq), Some(dk), Some(dv)) => {
            let mut of_q = g.matmul(dq, &k.primal);
            let mut of_k = g.matmul(&q.primal, dk);
            if let Some(only) = q.only {
                (of_q, of_k) = (only.among(g, &of_q, 5, 3), only.among(g, &of_k, 5, 4));
            }
            let ds = g.add(&of_q, &of_k);
            let weighted = g.mul(&ds, &weights);
            let sum = g.sum(&weighted);
            let of_weights = g.matmul(&weighted, &v.primal);
            let of_v = match v.only {
                None => g.matmul(&weights, dv),
                Some(only) => {
                    let weights = only.of(g, &weights, 3);
                    g.matmul(&weights, dv)
                }
            };
            let gained = g.add(&of_weights, &of_v);
            let lost = g.mul(&out, &sum);
            let all = g.sub(&gained, &lost);
            let together = g.transpose(&all, &[0, 1, 3, 2, 4]);
            Some(g.reshape(&together, &[0, 0, 0, -1]))
        }
        _ => None,
    };
    let together = g.transpose(&out, &[0, 2, 1, 3]);
    Dual { primal: g.reshape(&together, &[0, 0, -1]), tangents, only: None }
}

/// x + λ·f, where f has tangents of all tokens.
pub(super) fn residual(g: &mut Graph, x: &Dual, f: &Dual, scale: Option<&Value>) -> Dual {
    let f = match scale {
        Some(scale) => f.map(|f| g.mul(f, scale)),
        None => f.clone(),
    };
    let x = x.whole(g);
    let primal = g.add(&x.primal, &f.primal);
    let tangents = x.tangents.as_ref().zip(f.tangents.as_ref()).map(|(dx, df)| g.add(dx, df));
    Dual { primal, tangents, only: None }
}
