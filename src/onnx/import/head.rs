//! From logits back to the tokens they are computed from.

use super::flow::Flow;
use super::fold::reduced;
use super::layers::{Linear, Norm, near};
use super::node::{axis, int};
use super::term::Term;
use super::view::View;
use crate::Result;

/// The tokens that a head input consists of, by their place among the tokens that are left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    One(usize),
    Mean(Vec<usize>),
    OneAndMean(usize, Vec<usize>),
    /// Two tokens, side by side.
    Pair(usize, usize),
}

/// Everything behind the last block.
pub(super) struct Head {
    /// No classifier, one, or one for each of two tokens, averaged.
    pub linears: Vec<Linear>,
    pub pool: Pool,
    pub norm: Option<Norm>,
    pub fc_norm: Option<Norm>,
    /// What the last block makes.
    pub tokens: Term,
}

struct Pooled {
    pool: Pool,
    tokens: Term,
    fc_norm: Option<Norm>,
}

impl Flow<'_> {
    /// What made the output `term`. Errors: no classifier and no pooled tokens.
    pub fn head(&self, term: &Term) -> Result<Head> {
        if let [_, _, _] = term.shape()[..] {
            return Err(self.unlike(
                term,
                "logits [batch, classes] (or pooled features; export the model with its classifier or its pooling)",
            ));
        }
        let (linears, pooled) = match self.averaged(term)? {
            Some(both) => both,
            None if self.is_linear(term) => {
                let linear = self.linear(term, "a classifier")?;
                let pooled = self.pooled(&linear.input)?;
                (vec![linear], pooled)
            }
            None => (Vec::new(), self.pooled(term)?),
        };
        let norm = self.norm(&pooled.tokens)?;
        let tokens = norm.as_ref().map_or(pooled.tokens, |norm| norm.input.clone());
        Ok(Head { linears, pool: pooled.pool, norm, fc_norm: pooled.fc_norm, tokens })
    }

    /// The mean of two classifiers, each on a token of its own.
    fn averaged(&self, term: &Term) -> Result<Option<(Vec<Linear>, Pooled)>> {
        let sum = Term { factor: 1.0, ..term.clone() };
        let Some(node) = self.made_by_a(&sum, &["Add"]).filter(|_| near(term.factor, 0.5)) else { return Ok(None) };
        let [first, second] = [0, 1].map(|at| self.linear(self.operand(node, at)?, "one of two classifiers"));
        let mut linears = [first?, second?];
        let [a, b] = [self.pooled(&linears[0].input)?, self.pooled(&linears[1].input)?];
        let (&Pool::One(first), &Pool::One(second)) = (&a.pool, &b.pool) else {
            return Err(self.unlike(term, "the mean of two classifiers on one token each"));
        };
        if !a.tokens.same(&b.tokens) || a.fc_norm.is_some() || b.fc_norm.is_some() {
            return Err(self.unlike(term, "the mean of two classifiers on tokens of one network"));
        }
        if first > second {
            linears.swap(0, 1);
        }
        let pool = Pool::Pair(first.min(second), first.max(second));
        Ok(Some((linears.into(), Pooled { pool, tokens: a.tokens, fc_norm: None })))
    }

    fn pooled(&self, term: &Term) -> Result<Pooled> {
        if let Some(pooled) = self.pool(term)? {
            return Ok(pooled);
        }
        let norm = self.norm_of(term, "a token, the mean of tokens, or a layer norm of them,")?;
        match self.pool(&norm.input)? {
            Some(pooled) => Ok(Pooled { fc_norm: Some(norm), ..pooled }),
            None => Err(self.unlike(&norm.input, "a token or the mean of tokens")),
        }
    }

    fn pool(&self, term: &Term) -> Result<Option<Pooled>> {
        let pooled = |pool, tokens: &Term| Some(Pooled { pool, tokens: tokens.clone(), fc_norm: None });
        if let Some(node) = self.made_by_a(term, &["ReduceMean"]) {
            let x = self.operand(node, 0)?;
            let axes = if self.has_operand(node, 1) { Some(self.operand(node, 1)?) } else { None };
            if reduced(node, x.shape().len(), axes) != Some(vec![1]) {
                return Ok(None);
            }
            return Ok(self.rows(x)?.and_then(|(of, rows)| pooled(Pool::Mean(rows), &of)));
        }
        if let Some(node) = self.made_by_a(term, &["Concat"]) {
            let rank = term.shape().len();
            if node.input.len() != 2 || axis(int(node, "axis").unwrap_or(0), rank) != Some(rank - 1) {
                return Ok(None);
            }
            let [one, mean] = [0, 1].map(|at| self.pool(self.operand(node, at)?));
            return Ok(match (one?, mean?) {
                (Some(one), Some(mean)) if one.tokens.same(&mean.tokens) => match (one.pool, mean.pool) {
                    (Pool::One(one), Pool::Mean(rows)) => pooled(Pool::OneAndMean(one, rows), &mean.tokens),
                    (Pool::One(first), Pool::One(second)) => pooled(Pool::Pair(first, second), &mean.tokens),
                    _ => None,
                },
                _ => None,
            });
        }
        let Some(whole) = self.whole(term).filter(|_| term.factor == 1.0) else { return Ok(None) };
        let shape = whole.shape();
        let [b, tokens, d] = shape[..] else { return Ok(None) };
        let first = term.view.start / d;
        let count = term.view.len() / (b * d);
        let cut = View::whole(&shape).slice(1, first, first + count);
        if first + count > tokens || !cut.is_some_and(|cut| cut.same(&term.view)) {
            return Ok(None);
        }
        Ok(match count {
            1 => pooled(Pool::One(first), whole),
            2 => pooled(Pool::Pair(first, first + 1), whole),
            _ => None,
        })
    }
}
