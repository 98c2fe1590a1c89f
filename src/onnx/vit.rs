//! A Vision Transformer as a graph: from images or a block's input to head inputs, with prompts that are constants or inputs of the
//! graph, and their tangents where there are any. The encoder's other form is [`encoder`](crate::encoder); rows that nothing reads
//! are left out in the last block alone.

use super::dual::{self, Dual, Only};
use super::graph::{Graph, Value, ints};
use crate::encoder::constant_tokens;
use crate::model::{Model, Pooling, PromptLayout};
use crate::weights::{BlockRef, LinearRef, NormRef, TensorRef};
use crate::{Error, Result};

/// The prompts of a graph.
pub(super) struct Prompts {
    pub layout: PromptLayout,
    /// `[1, p, d]` or `[B, p, d]` of each set; tangents `[K, B, p, d]`.
    pub sets: Vec<Dual>,
}

/// A model whose tensors are put into a graph.
pub(super) struct Vit<'m> {
    pub model: &'m Model,
}

impl<'m> Vit<'m> {
    /// Patches of `images` `[B, c, H, W]` with all tokens but the prompts: `[B, T − p, d]`.
    pub fn embed(&self, g: &mut Graph<'m>, images: &Value) -> Result<Value> {
        let model = self.model;
        let (spec, vit) = (&model.spec, &model.vit);
        let (d, [ph, pw], patches) = (spec.width, spec.patch, spec.patches());
        g.enter("embed");
        let dims = [d, spec.channels, ph, pw];
        let weight = g.tensor("patch.weight".into(), &dims, || vit.patch.read());
        let stride = [ph as i64, pw as i64];
        let mut inputs = vec![images, &weight];
        let bias = vit.patch.bias().map(|bias| g.tensor("patch.bias".into(), &[d], move || bias.read()));
        inputs.extend(&bias);
        let grid = g.node("Conv", &inputs, vec![ints("strides", &stride), ints("kernel_shape", &stride)]);
        let tokens = g.reshape(&grid, &[0, d as i64, -1]);
        let tokens = g.transpose(&tokens, &[0, 2, 1]);

        let lead = spec.tokens(0) - patches;
        let constant = move |rows: std::ops::Range<usize>| {
            move || Ok(constant_tokens::<f32>(model)?[rows.start * d..rows.end * d].to_vec())
        };
        let mut tokens = match &vit.position {
            None => tokens,
            Some(_) => {
                let table = g.tensor("position".into(), &[1, patches, d], constant(lead..lead + patches));
                g.add(&tokens, &table)
            }
        };
        if lead > 0 {
            let first = g.tensor("tokens".into(), &[1, lead, d], constant(0..lead));
            let first = g.repeat(&first, &tokens, &[lead as i64, d as i64]);
            tokens = g.concat(&[&first, &tokens], 1);
        }
        let tokens = tokens.into();
        Ok(match &vit.pre_norm {
            Some(norm) => self.norm(g, "pre_norm", &tokens, norm).primal,
            None => tokens.primal,
        })
    }

    /// The blocks `range` and the prompts that enter them; after the last block only what the head input is pooled from is left.
    pub fn blocks(
        &self,
        g: &mut Graph<'m>,
        mut x: Dual,
        range: std::ops::Range<usize>,
        prompts: &Prompts,
    ) -> Result<Dual> {
        for index in range {
            if let Some(set) = prompts.layout.entering(index) {
                g.enter(format!("prompts.{set}"));
                let set = prompts.sets.get(set).ok_or_else(|| Error::Shape {
                    what: "prompt sets",
                    expected: format!("{}", prompts.layout.sets(self.model.spec.depth)),
                    found: format!("{}", prompts.sets.len()),
                })?;
                x = self.join(g, &x, set, prompts.layout, index);
            }
            x = self.block(g, &x, index, prompts.layout.prompts);
        }
        Ok(x)
    }

    /// `set` takes its place behind the class token.
    pub fn join(&self, g: &mut Graph<'m>, x: &Dual, set: &Dual, layout: PromptLayout, block: usize) -> Dual {
        let (start, p, d) =
            (self.model.spec.prompt_start() as i64, layout.prompts as i64, self.model.spec.width as i64);
        let old = if block > layout.insert_at { p } else { 0 };
        let values = g.repeat(&set.primal, &x.primal, &[p, d]);
        let around = |g: &mut Graph<'m>, x: &Value, axis: i64, middle: &Value| {
            let rest = g.slice(x, axis, start + old, i64::MAX);
            if start == 0 {
                return g.concat(&[middle, &rest], axis);
            }
            let first = g.slice(x, axis, 0, start);
            g.concat(&[&first, middle, &rest], axis)
        };
        let primal = around(g, &x.primal, 1, &values);
        match (&set.tangents, &x.tangents) {
            (Some(dy), Some(_)) => {
                let dx = x.whole(g).tangents;
                Dual { tangents: dx.map(|dx| around(g, &dx, 2, dy)), ..primal.into() }
            }
            // Of the tokens that were there none has tangents.
            (dy, _) => {
                let of = self.model.spec.tokens(layout.prompts) as i64;
                Dual { primal, tangents: dy.clone(), only: dy.as_ref().map(|_| Only { start, count: p, of }) }
            }
        }
    }

    pub fn block(&self, g: &mut Graph<'m>, x: &Dual, index: usize, prompts: usize) -> Dual {
        let spec = &self.model.spec;
        let block: &'m BlockRef = &self.model.vit.blocks[index];
        let name = format!("blocks.{index}");
        g.enter(format!("{name}.attention"));
        let y = self.norm(g, &format!("{name}.norm1"), x, &block.norm1);
        let kept = (index + 1 == spec.depth).then(|| self.pooled(prompts)).flatten();
        let (x, q, k, v) = match kept {
            None => {
                let qkv = self.linear(g, &format!("{name}.qkv"), &y, &block.qkv, 0..3 * spec.width);
                let [q, k, v] = thirds(g, &qkv, spec.width);
                (x.clone(), q, k, v)
            }
            Some(rows) => {
                let pick = |g: &mut Graph<'m>, x: &Dual| Dual {
                    tangents: x.tangents.as_ref().map(|dx| g.gather(dx, 2, &rows)),
                    ..g.gather(&x.primal, 1, &rows).into()
                };
                let (x, y) = (&x.whole(g), &y.whole(g));
                let asking = pick(g, y);
                let q = self.linear(g, &format!("{name}.q"), &asking, &block.qkv, 0..spec.width);
                let kv = self.linear(g, &format!("{name}.kv"), y, &block.qkv, spec.width..3 * spec.width);
                let [k, v] = thirds(g, &kv, spec.width);
                (pick(g, x), q, k, v)
            }
        };
        let out = dual::attention(g, [&q, &k, &v], spec.heads, spec.head_dim());
        let out = self.linear(g, &format!("{name}.proj"), &out, &block.proj, 0..spec.width);
        let scale = self.scale(g, &format!("{name}.scale1"), &block.scale1);
        let x = dual::residual(g, &x, &out, scale.as_ref());

        g.enter(format!("{name}.mlp"));
        let y = self.norm(g, &format!("{name}.norm2"), &x, &block.norm2);
        let y = self.linear(g, &format!("{name}.fc1"), &y, &block.fc1, 0..block.fc1.rows());
        let y = dual::between(g, &y, spec.mlp, spec.hidden);
        let y = self.linear(g, &format!("{name}.fc2"), &y, &block.fc2, 0..spec.width);
        let scale = self.scale(g, &format!("{name}.scale2"), &block.scale2);
        dual::residual(g, &x, &y, scale.as_ref())
    }

    /// The tokens that the head input is pooled from, where that is not all of them.
    fn pooled(&self, prompts: usize) -> Option<Vec<i64>> {
        let spec = &self.model.spec;
        let tokens = spec.tokens(prompts);
        let patches = tokens - spec.patches()..tokens;
        let rows: Vec<usize> = match spec.pooling {
            Pooling::Cls => vec![0],
            Pooling::PatchMean => patches.collect(),
            Pooling::ClsAndPatchMean => std::iter::once(0).chain(patches).collect(),
            Pooling::ClsAndDistillation => vec![0, spec.prompt_start() + prompts],
        };
        (rows.len() < tokens).then(|| rows.into_iter().map(|row| row as i64).collect())
    }

    /// Head inputs `[B, D]`, tangents `[K, B, D]`, of what [`Vit::blocks`] left.
    pub fn pool(&self, g: &mut Graph<'m>, x: &Dual) -> Dual {
        let (spec, vit) = (&self.model.spec, &self.model.vit);
        g.enter("pool");
        let x = match &vit.norm {
            Some(norm) => self.norm(g, "norm", x, norm),
            None => x.clone(),
        };
        let pool = |g: &mut Graph<'m>, x: &Value, axis: i64| match spec.pooling {
            Pooling::Cls => g.squeeze(x, axis),
            Pooling::PatchMean => g.mean(x, axis, false),
            Pooling::ClsAndPatchMean => {
                let class = g.slice(x, axis, 0, 1);
                let class = g.squeeze(&class, axis);
                let patches = g.slice(x, axis, 1, i64::MAX);
                let patches = g.mean(&patches, axis, false);
                g.concat(&[&class, &patches], -1)
            }
            Pooling::ClsAndDistillation => {
                let keep = vec![0i64; axis as usize].into_iter().chain([-1]).collect::<Vec<_>>();
                g.reshape(x, &keep)
            }
        };
        let primal = pool(g, &x.primal, 1);
        let tangents = x.tangents.as_ref().map(|dx| pool(g, dx, 2));
        let pooled = Dual { tangents, ..primal.into() };
        match &vit.fc_norm {
            Some(norm) => self.norm(g, "fc_norm", &pooled, norm),
            None => pooled,
        }
    }

    fn norm(&self, g: &mut Graph<'m>, name: &str, x: &Dual, norm: &'m NormRef) -> Dual {
        let [gamma, beta] = [("weight", &norm.weight), ("bias", &norm.bias)]
            .map(|(part, tensor)| g.tensor(format!("{name}.{part}"), &[tensor.len()], || tensor.read()));
        dual::norm(g, x, &gamma, &beta, self.model.spec.norm_eps)
    }

    fn scale(&self, g: &mut Graph<'m>, name: &str, scale: &'m Option<TensorRef>) -> Option<Value> {
        scale.as_ref().map(|tensor| g.tensor(name.to_owned(), &[tensor.len()], || tensor.read()))
    }

    /// The outputs `rows` of a linear layer.
    fn linear(
        &self,
        g: &mut Graph<'m>,
        name: &str,
        x: &Dual,
        linear: &'m LinearRef,
        rows: std::ops::Range<usize>,
    ) -> Dual {
        let (n, k) = (rows.len(), linear.cols());
        let of = rows.clone();
        let weight = g.tensor(format!("{name}.weight"), &[k, n], move || {
            Ok(transposed(&linear.read()?[of.start * k..of.end * k], k))
        });
        let bias = linear
            .bias()
            .map(|bias| g.tensor(format!("{name}.bias"), &[n], move || Ok(bias.read::<f32>()?[rows.clone()].to_vec())));
        dual::linear(g, x, &weight, bias.as_ref())
    }
}

/// Parts of size d along the last axis.
fn thirds<const N: usize>(g: &mut Graph, x: &Dual, d: usize) -> [Dual; N] {
    let primal: [Value; N] = g.split(&x.primal, d);
    let tangents: Option<[Value; N]> = x.tangents.as_ref().map(|dx| g.split(dx, d));
    let mut tangents = tangents.map(|parts| parts.into_iter());
    primal.map(|primal| Dual { primal, tangents: tangents.as_mut().and_then(Iterator::next), only: x.only })
}

/// `[n, k]` to `[k, n]`.
fn transposed(rows: &[f32], k: usize) -> Vec<f32> {
    let n = rows.len() / k;
    let mut out = vec![0.0; rows.len()];
    for (i, row) in rows.chunks_exact(k).enumerate() {
        row.iter().enumerate().for_each(|(j, &value)| out[j * n + i] = value);
    }
    out
}
