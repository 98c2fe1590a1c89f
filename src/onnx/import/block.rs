//! Transformer blocks, from their output backwards.

use super::flow::Flow;
use super::layers::{Between, Linear, Norm, near};
use super::node::{axis, float, int};
use super::term::Term;
use super::view::View;
use crate::Result;
use crate::model::Mlp;

/// Rows of a linear layer's weight and bias.
#[derive(Clone)]
pub(super) struct Rows {
    pub linear: Linear,
    pub first: usize,
    pub count: usize,
}

/// A block and what it reads.
pub(super) struct Block {
    pub norm1: Norm,
    /// Query, key and value projections.
    pub qkv: [Rows; 3],
    pub heads: usize,
    pub proj: Linear,
    pub scale1: Option<Term>,
    pub norm2: Norm,
    pub mlp: Mlp,
    /// One layer, or gate and up.
    pub fc1: Vec<Rows>,
    pub fc2: Linear,
    pub scale2: Option<Term>,
    /// The tokens that go in.
    pub input: Term,
    /// The tokens it computes, where that is not all of them.
    pub kept: Option<Vec<usize>>,
}

/// x and f of x + λ·f.
struct Residual {
    trunk: Term,
    branch: Linear,
    scale: Option<Term>,
}

impl Flow<'_> {
    /// The residual sum that made `term`. `None`: another operation did.
    fn residual(&self, term: &Term) -> Result<Option<Residual>> {
        let Some(node) = self.made_by_a(term, &["Add"]) else { return Ok(None) };
        let (a, b) = (self.operand(node, 0)?, self.operand(node, 1)?);
        for (trunk, branch) in [(a, b), (b, a)] {
            let (inner, scale) = match self.scaled(branch)? {
                Some((inner, scale)) => (inner, Some(scale)),
                None => (branch.clone(), None),
            };
            if !trunk.is_constant() && self.is_linear(&inner) {
                let branch = self.linear(&inner, "a linear layer")?;
                return Ok(Some(Residual { trunk: trunk.clone(), branch, scale }));
            }
        }
        Ok(None)
    }

    /// The block that made `term`. `None`: something else did.
    pub fn block(&self, term: &Term) -> Result<Option<Block>> {
        let Some(Residual { trunk: middle, branch: fc2, scale: scale2 }) = self.residual(term)? else {
            return Ok(None);
        };
        let (mlp, fc1, before) = self.mlp(&fc2.input)?;
        let norm2 = self.norm_of(&before, "the layer norm ahead of an MLP")?;
        if !norm2.input.same(&middle) {
            return Err(self.unlike(&norm2.input, "the sum that the MLP's output is added to"));
        }
        let Some(Residual { trunk, branch: proj, scale: scale1 }) = self.residual(&middle)? else {
            return Err(self.unlike(&middle, "a residual sum: tokens and the output of attention's last linear layer"));
        };
        let (qkv, heads) = self.attention(&proj.input)?;
        let [q, k, v] = &qkv;
        let norm1 = self.norm_of(&k.linear.input, "the layer norm ahead of attention")?;
        if !v.linear.input.same(&k.linear.input) {
            return Err(self.unlike(&v.linear.input, "the norm that the keys are made of"));
        }
        let input = norm1.input.clone();
        let kept = if q.linear.input.same(&k.linear.input) {
            None
        } else {
            match self.rows(&q.linear.input)? {
                Some((of, rows)) if of.same(&k.linear.input) => Some(rows),
                _ => return Err(self.unlike(&q.linear.input, "the norm that the keys are made of, or rows of it")),
            }
        };
        let straight = match &kept {
            None => trunk.same(&input),
            Some(rows) => self.rows(&trunk)?.is_some_and(|(of, taken)| of.same(&input) && taken == *rows),
        };
        if !straight {
            return Err(self.unlike(&trunk, "the tokens that the block's first norm reads"));
        }
        Ok(Some(Block { norm1, qkv, heads, proj, scale1, norm2, mlp, fc1, fc2, scale2, input, kept }))
    }

    pub fn norm_of(&self, term: &Term, what: &str) -> Result<Norm> {
        self.norm(term)?.ok_or_else(|| self.unlike(term, what))
    }

    /// The MLP's kind, its first layers, and what they read.
    fn mlp(&self, term: &Term) -> Result<(Mlp, Vec<Rows>, Term)> {
        let fc1 = "the first linear layer of an MLP";
        match self.between(term)? {
            Between::Plain(kind, x) => {
                let linear = self.linear(&x, fc1)?;
                let (count, input) = (linear.rows(), linear.input.clone());
                Ok((Mlp::Plain(kind), vec![Rows { linear, first: 0, count }], input))
            }
            Between::Gated(gate, up) => {
                let (gate, up) = (self.part(&gate, fc1)?, self.part(&up, fc1)?);
                if !gate.linear.input.same(&up.linear.input) || gate.count != up.count {
                    return Err(self.unlike(&up.linear.input, "what the gate of a SwiGLU reads"));
                }
                let input = gate.linear.input.clone();
                Ok((Mlp::SwiGlu, vec![gate, up], input))
            }
        }
    }

    /// Channels of a linear layer's output.
    fn part(&self, term: &Term, what: &str) -> Result<Rows> {
        let unlike = || self.unlike(term, what);
        let whole = self.whole(term).filter(|_| term.factor == 1.0).ok_or_else(unlike)?;
        let linear = self.linear(whole, what)?;
        let shape = whole.shape();
        let last = shape.len() - 1;
        let count = term.shape().last().copied().unwrap_or(0);
        let first = term.view.start;
        match View::whole(&shape).slice(last, first, first + count) {
            Some(view) if view.same(&term.view) => Ok(Rows { linear, first, count }),
            _ => Err(unlike()),
        }
    }

    /// Projections and heads of the attention whose heads side by side are `term`, `[B, N, d]`.
    fn attention(&self, term: &Term) -> Result<([Rows; 3], usize)> {
        let out = "the heads of an attention, side by side";
        let shape = term.shape();
        let made = self.whole(term).filter(|_| term.factor == 1.0).ok_or_else(|| self.unlike(term, out))?;
        let node = self.maker(made).filter(|node| ["MatMul", "Attention"].contains(&node.op_type.as_str()));
        let node = node.ok_or_else(|| self.unlike(term, out))?;
        // [B, N, d], or what it is as rows of one matrix.
        let each = made.shape();
        let (&[.., tokens, size], Some(&width)) = (each.as_slice(), shape.last()) else {
            return Err(self.unlike(term, out));
        };
        let heads = width / size;
        let batch = made.view.len().checked_div(heads * tokens * size).unwrap_or(0);
        let together = View::checked(&[batch, heads, tokens, size]).and_then(|view| view.transpose(&[0, 2, 1, 3]));
        let side_by_side = heads * size == width
            && batch * heads * tokens * size == made.view.len()
            && together.is_some_and(|view| view.same(&term.view));
        if !side_by_side {
            return Err(self.unlike(term, out));
        }
        let (q, k, v, scale) = match node.op_type.as_str() {
            "Attention" => {
                let [q, k, v] = [0, 1, 2].map(|at| self.operand(node, at));
                let scale = float(node, "scale").unwrap_or(1.0 / (size as f64).sqrt());
                (q?.clone(), k?.clone(), v?.clone(), scale)
            }
            _ => self.spelt_out(self.operand(node, 0)?, self.operand(node, 1)?)?,
        };
        let scale = scale * q.factor * k.factor;
        if !near(scale, 1.0 / (size as f64).sqrt()) {
            let problem = format!("attention is scaled by {scale}, not by 1/√{size}");
            return Err(self.odd(node, &problem));
        }
        let parts = [(&q, "query"), (&k, "key"), (&v, "value")].map(|(term, which)| {
            let what = format!("the {which} projection of an attention, cut into heads");
            let whole = self.whole(term).ok_or_else(|| self.unlike(term, &what))?;
            let linear = self.linear(whole, &what)?;
            let rows = linear.rows();
            let tokens = whole.view.len().checked_div(batch.saturating_mul(rows)).unwrap_or(0);
            let first = term.view.start;
            // Heads of channels `first..first + d` of `[B, N, rows]`.
            let cut = View::checked(&[batch, tokens, rows])
                .and_then(|view| view.slice(2, first, first + width))
                .and_then(|view| view.reshape(&[batch, tokens, heads, size]))
                .and_then(|view| view.transpose(&[0, 2, 1, 3]));
            let unscaled = which != "value" || term.factor == 1.0;
            match cut {
                Some(view) if unscaled && view.same(&term.view) => Ok(Rows { linear, first, count: width }),
                _ => Err(self.unlike(term, &what)),
            }
        });
        let [q, k, v] = parts;
        Ok(([q?, k?, v?], heads))
    }

    /// Queries, keys `[.., N, d]`, values and the scale of softmax(scale·QKᵀ)V, of which the two factors are given.
    fn spelt_out(&self, weights: &Term, v: &Term) -> Result<(Term, Term, Term, f64)> {
        let weights = self.without_nan_guard(weights)?;
        let softmax = self.made_by_a(&weights, &["Softmax"]);
        let softmax = softmax.ok_or_else(|| self.unlike(&weights, "the softmax of an attention"))?;
        let scores = self.operand(softmax, 0)?;
        if axis(int(softmax, "axis").unwrap_or(self.softmax_axis()), scores.shape().len()).map(|at| at + 1)
            != Some(scores.shape().len())
        {
            return Err(self.odd(softmax, "it does not run over the keys, the last axis"));
        }
        let plain = Term { factor: 1.0, ..scores.clone() };
        let Some(node) = self.made_by_a(&plain, &["MatMul"]) else {
            return Err(self.unlike(&plain, "the product of queries and keys, without mask or bias,"));
        };
        let (q, keys) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let rank = keys.shape().len();
        let mut order: Vec<usize> = (0..rank).collect();
        if rank >= 2 {
            order.swap(rank - 1, rank - 2);
        }
        let k = keys.view.transpose(&order).map(|view| keys.with(view)).unwrap_or(keys.clone());
        Ok((q.clone(), k, v.clone(), scores.factor))
    }

    /// p of where(isnan(p), 0, p), which only masks need.
    fn without_nan_guard(&self, term: &Term) -> Result<Term> {
        let Some(node) = self.made_by_a(term, &["Where"]) else { return Ok(term.clone()) };
        let [condition, zero, p] = [0, 1, 2].map(|at| self.operand(node, at));
        let (condition, zero, p) = (condition?, zero?, p?);
        let guarded = match self.made_by_a(condition, &["IsNaN"]) {
            Some(node) => self.operand(node, 0)?.same(p),
            None => false,
        };
        Ok(if guarded && zero.same_everywhere() == Some(0.0) { p.clone() } else { term.clone() })
    }
}

impl Block {
    /// The hidden units of the MLP.
    pub fn hidden(&self) -> usize {
        self.fc1[0].count
    }
}
