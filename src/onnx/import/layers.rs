//! Layers, found from their output backwards: linear layers, layer norms and non-linearities, however they are spelt.

use super::flow::Flow;
use super::fold::reduced;
use super::moves::is;
use super::node::{axis, float, int, shortest};
use super::term::{Base, Term};
use super::view::View;
use crate::Result;
use crate::model::Activation;
use crate::onnx::proto::NodeProto;

/// What constants may be off by: the rounding of half precision.
const ROUNDING: f64 = 2e-3;
/// Factors of a product.
const MOST_FACTORS: usize = 8;

pub(super) fn near(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= ROUNDING * expected.abs()
}

/// y = xWᵀ + b.
#[derive(Clone)]
pub(super) struct Linear {
    /// W, `[n, k]`.
    pub weight: Term,
    /// b, `[n]`.
    pub bias: Option<Term>,
    pub input: Term,
}

impl Linear {
    pub fn rows(&self) -> usize {
        self.weight.shape()[0]
    }

    /// The same layer on the same tokens, if it is one.
    pub fn is(&self, other: &Linear) -> bool {
        self.weight.same(&other.weight) && self.input.same(&other.input)
    }
}

/// A layer norm with weight and bias.
#[derive(Clone)]
pub(super) struct Norm {
    pub weight: Term,
    pub bias: Term,
    pub eps: f64,
    pub input: Term,
}

/// What stands between the layers of an MLP.
pub(super) enum Between {
    Plain(Activation, Term),
    /// silu(a)·b.
    Gated(Term, Term),
}

impl Flow<'_> {
    /// A constant with `len` elements along its last axis and no other.
    fn vector(&self, term: &Term, len: usize) -> Option<Term> {
        let shape = term.shape();
        let vector = shape.last() == Some(&len) && term.view.len() == len && !term.view.repeats();
        (term.is_constant() && !term.integer && vector).then(|| term.clone()).and_then(|term| {
            let view = term.view.reshape(&[len])?;
            Some(Term { view, ..term })
        })
    }

    /// Whether a linear layer made `term`.
    pub fn is_linear(&self, term: &Term) -> bool {
        matches!(self.try_linear(term), Ok(Some(_)))
    }

    /// The linear layer that made `term`. Errors: none did.
    pub fn linear(&self, term: &Term, what: &str) -> Result<Linear> {
        self.try_linear(term)?.ok_or_else(|| self.unlike(term, what))
    }

    fn try_linear(&self, term: &Term) -> Result<Option<Linear>> {
        let Some(node) = self.made_by_a(term, &["MatMul", "Gemm", "Add"]) else { return Ok(None) };
        match node.op_type.as_str() {
            "MatMul" => self.matmul(node),
            "Gemm" => self.gemm(node),
            _ => {
                let (a, b) = (self.operand(node, 0)?, self.operand(node, 1)?);
                let (x, bias) = if a.is_constant() { (b, a) } else { (a, b) };
                let Some(product) = self.made_by_a(x, &["MatMul", "Gemm"]) else { return Ok(None) };
                let linear = if product.op_type == "MatMul" { self.matmul(product)? } else { self.gemm(product)? };
                let Some(linear) = linear.filter(|linear| linear.bias.is_none()) else { return Ok(None) };
                Ok(self.vector(bias, linear.rows()).map(|bias| Linear { bias: Some(bias), ..linear }))
            }
        }
    }

    fn matmul(&self, node: &NodeProto) -> Result<Option<Linear>> {
        let (x, weight) = (self.operand(node, 0)?, self.operand(node, 1)?);
        if x.is_constant() || !weight.is_constant() {
            return Ok(None);
        }
        let transposed = weight.view.transpose(&[1, 0]);
        Ok(transposed.map(|view| Linear { weight: weight.with(view), bias: None, input: x.clone() }))
    }

    fn gemm(&self, node: &NodeProto) -> Result<Option<Linear>> {
        let (x, weight) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let number = |name| float(node, name).unwrap_or(1.0);
        let plain = number("alpha") == 1.0 && number("beta") == 1.0 && int(node, "transA").unwrap_or(0) == 0;
        if !plain || x.is_constant() || !weight.is_constant() || weight.shape().len() != 2 {
            return Ok(None);
        }
        let view = match int(node, "transB").unwrap_or(0) {
            0 => weight.view.transpose(&[1, 0]),
            _ => Some(weight.view.clone()),
        };
        let Some(weight) = view.map(|view| weight.with(view)) else { return Ok(None) };
        let mut linear = Linear { weight, bias: None, input: x.clone() };
        if self.has_operand(node, 2) {
            let Some(bias) = self.vector(self.operand(node, 2)?, linear.rows()) else { return Ok(None) };
            linear.bias = Some(bias);
        }
        Ok(Some(linear))
    }

    /// x and λ of λ·x with a number λ for each channel.
    pub fn scaled(&self, term: &Term) -> Result<Option<(Term, Term)>> {
        let Some(node) = self.made_by_a(term, &["Mul"]) else { return Ok(None) };
        let (a, b) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let (x, scale) = if a.is_constant() { (b, a) } else { (a, b) };
        let width = x.shape().last().copied().unwrap_or(0);
        Ok(self.vector(scale, width).filter(|_| !x.is_constant()).map(|scale| (x.clone(), scale)))
    }

    /// The layer norm that made `term`. `None`: another operation did.
    pub fn norm(&self, term: &Term) -> Result<Option<Norm>> {
        if let Some(node) = self.made_by_a(term, &["LayerNormalization"]) {
            let x = self.operand(node, 0)?;
            let shape = x.shape();
            let width = shape.last().copied().unwrap_or(0);
            if axis(int(node, "axis").unwrap_or(-1), shape.len()).map(|at| at + 1) != Some(shape.len()) {
                return Err(self.odd(node, "it does not normalise the last axis alone"));
            }
            if !self.has_operand(node, 2) {
                return Err(self.odd(node, "it has no bias; norms without bias are not supported"));
            }
            let [weight, bias] = [1, 2].map(|at| Ok(self.vector(self.operand(node, at)?, width)));
            let (Some(weight), Some(bias)) = (weight?, bias?) else {
                return Err(self.odd(node, "its weight and bias are not constants, one for each channel"));
            };
            let eps = float(node, "epsilon").unwrap_or(1e-5);
            return Ok(Some(Norm { weight, bias, eps, input: x.clone() }));
        }
        self.norm_in_parts(term)
    }

    /// γ·(x − μ)/√(σ² + ε) + β as operations of its own.
    fn norm_in_parts(&self, term: &Term) -> Result<Option<Norm>> {
        let split = |term: &Term, operator: &str| -> Result<Option<(Term, Term)>> {
            let Some(node) = self.made_by_a(term, &[operator]) else { return Ok(None) };
            let (a, b) = (self.operand(node, 0)?, self.operand(node, 1)?);
            let (x, constant) = if a.is_constant() { (b, a) } else { (a, b) };
            let width = x.shape().last().copied().unwrap_or(0);
            Ok(self.vector(constant, width).filter(|_| !x.is_constant()).map(|constant| (x.clone(), constant)))
        };
        let Some((scaled, bias)) = split(term, "Add")? else { return Ok(None) };
        let Some((unit, weight)) = split(&scaled, "Mul")? else { return Ok(None) };
        let Some(node) = self.made_by_a(&unit, &["Div"]) else { return Ok(None) };
        let (centred, sigma) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let Some(node) = self.made_by_a(centred, &["Sub"]) else { return Ok(None) };
        let (x, mean) = (self.operand(node, 0)?, self.operand(node, 1)?);
        if !self.mean_over_channels(mean)?.is_some_and(|of| of.same(x)) {
            return Ok(None);
        }
        let Some(node) = self.made_by_a(sigma, &["Sqrt"]) else { return Ok(None) };
        let Some(node) = self.made_by_a(self.operand(node, 0)?, &["Add"]) else { return Ok(None) };
        let (a, b) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let (variance, eps) = if a.is_constant() { (b, a) } else { (a, b) };
        let Some(eps) = eps.same_everywhere() else { return Ok(None) };
        let Some(squares) = self.mean_over_channels(variance)? else { return Ok(None) };
        let square = self.product(&squares)?;
        let squared = match square.1.as_slice() {
            [a, b] => a.same(centred) && b.same(centred),
            [one] => match self.made_by_a(one, &["Pow"]) {
                Some(node) => {
                    self.operand(node, 0)?.same(centred) && self.operand(node, 1)?.same_everywhere() == Some(2.0)
                }
                None => false,
            },
            _ => false,
        };
        let eps = shortest(eps as f32);
        Ok((squared && square.0 == 1.0).then(|| Norm { weight, bias, eps, input: x.clone() }))
    }

    /// What `term` is the mean of, over the last axis.
    fn mean_over_channels(&self, term: &Term) -> Result<Option<Term>> {
        let Some(node) = self.made_by_a(term, &["ReduceMean"]) else { return Ok(None) };
        let x = self.operand(node, 0)?;
        let axes = if self.has_operand(node, 1) { Some(self.operand(node, 1)?) } else { None };
        let rank = x.shape().len();
        Ok((reduced(node, rank, axes) == Some(vec![rank - 1])).then(|| x.clone()))
    }

    /// `term` as a number and what it is multiplied by.
    pub fn product(&self, term: &Term) -> Result<(f64, Vec<Term>)> {
        let (mut factor, mut found, mut open) = (1.0, Vec::new(), vec![term.clone()]);
        while let Some(term) = open.pop() {
            factor *= term.factor;
            let term = Term { factor: 1.0, ..term };
            match self.made_by_a(&term, &["Mul"]) {
                Some(node) if open.len() + found.len() < MOST_FACTORS => {
                    open.push(self.operand(node, 1)?.clone());
                    open.push(self.operand(node, 0)?.clone());
                }
                _ => found.push(term),
            }
        }
        Ok((factor, found))
    }

    /// The coefficients of 1, x, x² and x³ of `term`, if it is such a polynomial.
    fn polynomial(&self, term: &Term, x: &Term, depth: usize) -> Result<Option<[f64; 4]>> {
        if let Some(value) = term.same_everywhere() {
            return Ok(Some([value, 0.0, 0.0, 0.0]));
        }
        if term.proportional(x) {
            return Ok(Some([0.0, term.factor / x.factor, 0.0, 0.0]));
        }
        let unit = Term { factor: 1.0, ..term.clone() };
        let (Some(node), true) = (self.made_by_a(&unit, &["Add", "Mul", "Pow"]), depth < 6) else { return Ok(None) };
        let (a, b) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let Some(a) = self.polynomial(a, x, depth + 1)? else { return Ok(None) };
        let Some(b) = self.polynomial(b, x, depth + 1)? else { return Ok(None) };
        let times = |a: [f64; 4], b: [f64; 4]| {
            let mut out = [0.0; 4];
            for (i, x) in a.iter().enumerate().filter(|(_, x)| **x != 0.0) {
                for (j, y) in b.iter().enumerate().filter(|(_, y)| **y != 0.0) {
                    *out.get_mut(i + j)? += x * y;
                }
            }
            Some(out)
        };
        let made = match node.op_type.as_str() {
            "Add" => Some(std::array::from_fn(|i| a[i] + b[i])),
            "Mul" => times(a, b),
            _ if b == [2.0, 0.0, 0.0, 0.0] => times(a, a),
            _ if b == [3.0, 0.0, 0.0, 0.0] => times(a, a).and_then(|square| times(square, a)),
            _ => None,
        };
        Ok(made.map(|made| made.map(|c| c * term.factor)))
    }

    /// φ(x), or silu(a)·b. Errors: `term` is neither.
    pub fn between(&self, term: &Term) -> Result<Between> {
        if let Some(node) = self.made_by_a(term, &["Gelu", "Relu", "Swish"]) {
            let x = self.operand(node, 0)?.clone();
            let kind = match node.op_type.as_str() {
                "Relu" => Activation::Relu,
                "Swish" if near(float(node, "alpha").unwrap_or(1.0), 1.702) => Activation::QuickGelu,
                "Swish" if float(node, "alpha").unwrap_or(1.0) == 1.0 => Activation::Silu,
                "Gelu" if is(node, "approximate", "none") => Activation::Gelu,
                "Gelu" if is(node, "approximate", "tanh") => Activation::GeluTanh,
                _ => return Err(self.odd(node, "its attributes make it another activation")),
            };
            return Ok(Between::Plain(kind, x));
        }
        let (factor, factors) = self.product(term)?;
        for (at, gate) in factors.iter().enumerate() {
            let rest: Vec<&Term> =
                (0..factors.len()).filter(|other| *other != at).map(|other| &factors[other]).collect();
            if let Some(node) = self.made_by_a(gate, &["Sigmoid", "Swish"]) {
                let inner = self.operand(node, 0)?;
                let x = Term { factor: 1.0, ..inner.clone() };
                if node.op_type == "Swish" {
                    if let ([b], true, true) = (&rest[..], factor == 1.0, float(node, "alpha").unwrap_or(1.0) == 1.0) {
                        return Ok(Between::Gated(inner.clone(), (*b).clone()));
                    }
                    continue;
                }
                match rest.as_slice() {
                    [one] if one.same(&x) && factor == 1.0 && inner.factor == 1.0 => {
                        return Ok(Between::Plain(Activation::Silu, x));
                    }
                    [one] if one.same(&x) && factor == 1.0 && near(inner.factor, 1.702) => {
                        return Ok(Between::Plain(Activation::QuickGelu, x));
                    }
                    [a, b] if factor == 1.0 && inner.factor == 1.0 && (a.same(&x) || b.same(&x)) => {
                        let up = if a.same(&x) { b } else { a };
                        return Ok(Between::Gated(x, (*up).clone()));
                    }
                    _ => {}
                }
            }
            let (Some(node), [x]) = (self.made_by_a(gate, &["Add"]), rest.as_slice()) else { continue };
            let (a, b) = (self.operand(node, 0)?, self.operand(node, 1)?);
            let (inner, one) = if a.is_constant() { (b, a) } else { (a, b) };
            if one.same_everywhere() != Some(1.0) || !near(factor, 0.5) {
                continue;
            }
            let Some(node) = self.made_by_a(inner, &["Erf", "Tanh"]) else { continue };
            let Some([0.0, first, 0.0, third]) = self.polynomial(self.operand(node, 0)?, x, 0)? else { continue };
            let sharp = (2.0 / std::f64::consts::PI).sqrt();
            if node.op_type == "Erf" && near(first, std::f64::consts::FRAC_1_SQRT_2) && third == 0.0 {
                return Ok(Between::Plain(Activation::Gelu, (*x).clone()));
            }
            if node.op_type == "Tanh" && near(first, sharp) && near(third, sharp * 0.044715) {
                return Ok(Between::Plain(Activation::GeluTanh, (*x).clone()));
            }
        }
        Err(self.unlike(term, "an activation (gelu, its tanh form, quick-gelu, relu, silu) or a SwiGLU product"))
    }

    /// `rows` of the tokens of `term`, `[B, R, d]`, and the tokens `[B, T, d]` they are taken from.
    pub fn rows(&self, term: &Term) -> Result<Option<(Term, Vec<usize>)>> {
        if term.factor != 1.0 || !matches!(term.base, Base::Value(_)) {
            return Ok(None);
        }
        if let Some(node) = self.made_by_a(term, &["Gather"]) {
            let (x, rows) = (self.operand(node, 0)?, self.operand(node, 1)?);
            let shape = x.shape();
            let along = axis(int(node, "axis").unwrap_or(0), shape.len());
            let (3, Some(1), Some(rows)) = (shape.len(), along, rows.values()) else { return Ok(None) };
            let place = |row: f64| (if row < 0.0 { row + shape[1] as f64 } else { row }) as usize;
            return Ok(Some((x.clone(), rows.into_iter().map(place).collect())));
        }
        let Some(whole) = self.whole(term) else { return Ok(None) };
        let shape = whole.shape();
        let [b, tokens, d] = shape[..] else { return Ok(None) };
        let found = term.view.len() / (b * d);
        if found == 0 || found * b * d != term.view.len() || !term.view.start.is_multiple_of(d) {
            return Ok(None);
        }
        let first = term.view.start / d;
        let cut = View::whole(&shape).slice(1, first, first + found);
        let same = first + found <= tokens && cut.is_some_and(|cut| cut.same(&term.view));
        Ok(same.then(|| (whole.clone(), (first..first + found).collect())))
    }
}
