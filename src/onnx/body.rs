//! The graphs that tune: what [`engine::ort`](crate::engine) runs.

use super::dual::Dual;
use super::graph::{Constant, Dim, Element, Graph, Value};
use super::proto::DataType;
use super::vit::{Prompts, Vit};
use super::write;
use crate::Result;
use crate::model::{Model, PromptLayout};

/// A graph whose larger tensors are given to ONNX Runtime beside it.
pub(crate) struct Tuning<'m>(Graph<'m>);

/// Names of inputs and outputs.
pub(crate) mod name {
    pub(crate) const IMAGES: &str = "images";
    pub(crate) const TOKENS: &str = "tokens_in";
    pub(crate) const HEAD_INPUT: &str = "head_input";
    pub(crate) const HEAD_TANGENTS: &str = "head_tangents";

    pub(crate) fn prompts(set: usize) -> String {
        format!("prompts_in.{set}")
    }

    pub(crate) fn tangents(set: usize) -> String {
        format!("tangents_in.{set}")
    }

    /// What a prompt set joins.
    pub(crate) fn joined(set: usize) -> String {
        format!("joined.{set}")
    }
}

const B: Dim = Dim::Named("batch");
const K: Dim = Dim::Named("planes");

impl<'m> Tuning<'m> {
    /// Images `[B, c, H, W]` to what block `insert_at` reads, `[B, T − p, d]`. Errors: a tensor cannot be read.
    pub fn prefix(model: &'m Model, insert_at: usize) -> Result<Self> {
        let spec = &model.spec;
        let mut g = Graph::new("prefix", Element::F32);
        let dims = [B, Dim::Of(spec.channels), Dim::Of(spec.image[0]), Dim::Of(spec.image[1])];
        let images = g.input(name::IMAGES, DataType::Float, &dims);
        let vit = Vit { model };
        let tokens = vit.embed(&mut g, &images)?;
        let none = Prompts { layout: PromptLayout::NONE, sets: Vec::new() };
        let tokens = vit.blocks(&mut g, tokens.into(), 0..insert_at, &none)?.primal;
        g.output(name::TOKENS, &tokens, DataType::Float, &[B, Dim::Of(spec.tokens(0)), Dim::Of(spec.width)]);
        Ok(Tuning(g))
    }

    /// What block `insert_at` reads and the prompts of `layout`, `[1, p, d]` a set, to head inputs `[B, D]`. With `dual` tangents
    /// `[K, B, p, d]` of each set, and of the head inputs `[K, B, D]`. Errors: a tensor cannot be read.
    pub fn body(model: &'m Model, layout: PromptLayout, insert_at: usize, dual: bool) -> Result<Self> {
        let (mut g, tokens, prompts) = Self::begin(model, layout, dual);
        let (vit, spec) = (Vit { model }, &model.spec);
        let tokens = vit.blocks(&mut g, tokens.into(), insert_at..spec.depth, &prompts)?;
        let head = vit.pool(&mut g, &tokens);
        let width = Dim::Of(spec.head_width());
        g.output(name::HEAD_INPUT, &head.primal, DataType::Float, &[B, width]);
        if let Some(tangents) = &head.tangents {
            g.output(name::HEAD_TANGENTS, tangents, DataType::Float, &[K, B, width]);
        }
        Ok(Tuning(g))
    }

    /// As [`Tuning::body`], to the tokens `[B, T, d]` that every set joins.
    pub fn joined(model: &'m Model, layout: PromptLayout) -> Result<Self> {
        let (mut g, tokens, prompts) = Self::begin(model, layout, false);
        let (vit, spec) = (Vit { model }, &model.spec);
        let mut tokens: Dual = tokens.into();
        let dims = [B, Dim::Of(spec.tokens(layout.prompts)), Dim::Of(spec.width)];
        for set in 0..layout.sets(spec.depth) {
            let block = layout.insert_at + set;
            tokens = vit.join(&mut g, &tokens, &prompts.sets[set], layout, block);
            g.output(&name::joined(set), &tokens.primal, DataType::Float, &dims);
            if set + 1 < layout.sets(spec.depth) {
                tokens = vit.block(&mut g, &tokens, block, layout.prompts);
            }
        }
        Ok(Tuning(g))
    }

    fn begin(model: &'m Model, layout: PromptLayout, dual: bool) -> (Graph<'m>, Value, Prompts) {
        let spec = &model.spec;
        let mut g = Graph::new("body", Element::F32);
        let (d, p) = (Dim::Of(spec.width), Dim::Of(layout.prompts));
        let tokens = g.input(name::TOKENS, DataType::Float, &[B, Dim::Of(spec.tokens(0)), d]);
        let sets = (0..layout.sets(spec.depth)).map(|set| Dual {
            primal: g.input(&name::prompts(set), DataType::Float, &[Dim::Of(1), p, d]),
            tangents: dual.then(|| g.input(&name::tangents(set), DataType::Float, &[K, B, p, d])),
        });
        let sets = sets.collect();
        (g, tokens, Prompts { layout, sets })
    }

    /// The model but for its larger tensors.
    pub fn encode(&self) -> Result<Vec<u8>> {
        write::without_tensors(&self.0)
    }

    /// These.
    pub fn tensors(&self) -> impl Iterator<Item = &Constant<'m>> {
        self.0.constants.iter().filter(|constant| write::is_external(constant))
    }
}
