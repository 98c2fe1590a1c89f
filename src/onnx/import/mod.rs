//! Weights and description of a Vision Transformer from an ONNX graph.
//!
//! Names say nothing in an exported graph, so a tensor's part is told by what is done with it. [`flow`] follows the graph forwards and
//! finds every value's shape, constants and mere moves; [`head`], [`block`] and [`embed`] then go from the logits backwards, where a
//! value has one maker, and accept nothing but what a plain Vision Transformer computes. [`tensors`] collects the weights under timm's
//! names, in the file's memory unless they must be transposed or joined.

mod block;
mod embed;
mod flow;
mod fold;
mod head;
mod layers;
mod moves;
mod node;
mod open;
mod source;
mod tensors;
mod term;
mod view;

use crate::data::Preprocess;
use crate::model::{FinalNorm, ModelSpec, Pooling};
use crate::weights::{Arrangement, Checkpoint, PositionLayout, PositionResize, malformed};
use crate::{Error, Result};
use block::Block;
use embed::{Embedding, Patches, Tokens};
use flow::Flow;
use head::{Head, Pool};
use source::Source;
use std::path::Path;
use std::slice::from_ref;
use tensors::Tensors;
use term::Term;

/// What an ONNX file holds of a model.
pub(crate) struct Imported {
    /// Tensors under timm's names.
    pub checkpoint: Checkpoint,
    pub spec: ModelSpec,
    pub arrangement: Arrangement,
    /// What our own exports say besides.
    pub preprocess: Option<Preprocess>,
    pub class_names: Option<Vec<String>>,
}

/// Reads the model at `path`; `image` is the size of its images where neither the graph nor a position embedding of a square grid says.
///
/// # Errors
/// [`Error::Io`]; [`Error::Checkpoint`] and [`Error::Tensor`] for files that are damaged, and for graphs that are no plain Vision
/// Transformer, with the node where they differ.
pub(crate) fn read(path: &Path, image: Option<[usize; 2]>) -> Result<Imported> {
    let source = Source::open(path)?;
    let mut first = None;
    for open in open::candidates(&source, image)? {
        match Flow::new(&source, open).and_then(|flow| import(&source, &flow)) {
            Ok(imported) => return Ok(imported),
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    Err(first.unwrap_or_else(|| {
        let problem = "leaves the size of its images open, and no position embedding of a square grid tells it; give it with --image-size";
        malformed(path, problem)
    }))
}

fn import(source: &Source, flow: &Flow) -> Result<Imported> {
    let graph = source.model.graph.as_ref();
    let outputs: Vec<&str> = graph.iter().flat_map(|graph| &graph.output).map(|output| output.name.as_str()).collect();
    let Some(output) = outputs.iter().find(|name| **name == "logits").or(outputs.first()) else {
        return Err(malformed(&source.path, "has no output; export it again"));
    };
    let head = flow.head(flow.named(output)?)?;
    let (mut blocks, mut tokens) = (Vec::new(), head.tokens.clone());
    while let Some(block) = flow.block(&tokens)? {
        if block.kept.is_some() && !blocks.is_empty() {
            return Err(flow.unlike(&block.input, "a block that computes all tokens, as every one but the last does,"));
        }
        tokens = block.input.clone();
        blocks.push(block);
    }
    blocks.reverse();
    if blocks.is_empty() {
        return Err(flow.unlike(&tokens, "a transformer block: the sum of tokens and an MLP's output"));
    }
    let embedding = flow.embedding(&tokens)?;
    flow.in_order(&embedding.groups)?;
    Vit { source, flow, head, blocks, embedding }.collect()
}

/// The parts of a model.
struct Vit<'f, 's> {
    source: &'s Source,
    flow: &'f Flow<'s>,
    head: Head,
    blocks: Vec<Block>,
    embedding: Embedding,
}

/// Tokens ahead of the patches.
struct Lead {
    rows: Vec<Term>,
    positions: Vec<Option<Term>>,
    /// Whether the first is one of its own.
    alone: bool,
}

impl Vit<'_, '_> {
    fn collect(&self) -> Result<Imported> {
        let patches = self.patches()?;
        let lead = self.lead()?;
        let (pooling, class_token) = self.pooling(patches, &lead)?;
        let spec = self.spec(patches, &lead, pooling, class_token)?;
        let mut tensors = Tensors::new(self.source);
        let arrangement = self.embed(&mut tensors, patches, &lead, &spec)?;
        let arrangement = self.body(&mut tensors, &spec, arrangement)?;
        self.classifier(&mut tensors, &spec)?;
        Ok(Imported {
            checkpoint: tensors.into_checkpoint(),
            spec,
            arrangement,
            preprocess: open::preprocess(self.source)?,
            class_names: open::class_names(self.source)?,
        })
    }

    fn refuse(&self, problem: impl Into<String>) -> Error {
        malformed(&self.source.path, problem)
    }

    fn patches(&self) -> Result<&Patches> {
        match self.embedding.groups.last().map(|group| &group.source) {
            Some(Tokens::Patches(patches)) => Ok(patches),
            _ => Err(self.refuse("has no patches")),
        }
    }

    fn lead(&self) -> Result<Lead> {
        let mut lead = Lead { rows: Vec::new(), positions: Vec::new(), alone: false };
        for group in &self.embedding.groups {
            let Tokens::Constant(rows) = &group.source else { break };
            lead.alone |= lead.rows.is_empty() && group.count == 1;
            for row in 0..group.count {
                let pick = |term: &Term| term.view.slice(0, row, row + 1).map(|view| term.with(view));
                lead.rows.push(pick(rows).ok_or_else(|| self.refuse("has a token that cannot be told from others"))?);
                lead.positions.push(group.position.as_ref().and_then(pick));
            }
            if lead.rows.len() > MOST_LEAD {
                return Err(self.refuse(format!("has more than {MOST_LEAD} constant tokens; these are no registers")));
            }
        }
        Ok(lead)
    }

    /// What the classifier reads, and whether the first token is a class token.
    fn pooling(&self, patches: &Patches, lead: &Lead) -> Result<(Pooling, bool)> {
        let count = lead.rows.len();
        let tokens = count + patches.grid[0] * patches.grid[1];
        let kept = self.blocks.last().and_then(|block| block.kept.as_ref());
        let place = |row: usize| kept.map_or(Some(row), |kept| kept.get(row).copied());
        let all = |rows: &[usize]| rows.iter().map(|&row| place(row)).eq((count..tokens).map(Some));
        Ok(match &self.head.pool {
            Pool::One(row) if count > 0 && place(*row) == Some(0) => (Pooling::Cls, true),
            Pool::Mean(rows) if all(rows) => (Pooling::PatchMean, lead.alone),
            Pool::OneAndMean(row, rows) if count > 0 && place(*row) == Some(0) && all(rows) => {
                (Pooling::ClsAndPatchMean, true)
            }
            Pool::Pair(a, b) if count == 2 && place(*a) == Some(0) && place(*b) == Some(1) => {
                (Pooling::ClsAndDistillation, true)
            }
            _ => {
                return Err(self.refuse(format!(
                    "pools other tokens than a class token, a class and a distillation token, or the mean of all {} patches",
                    tokens - count
                )));
            }
        })
    }

    fn spec(&self, patches: &Patches, lead: &Lead, pooling: Pooling, class_token: bool) -> Result<ModelSpec> {
        let (Head { linears, norm, fc_norm, .. }, Embedding { pre_norm, .. }) = (&self.head, &self.embedding);
        let first = &self.blocks[0];
        let norms = self.blocks.iter().flat_map(|block| [&block.norm1, &block.norm2]);
        let norm_eps = first.norm1.eps;
        if let Some(other) = norms.chain(norm).chain(fc_norm).chain(pre_norm).find(|other| other.eps != norm_eps) {
            let problem = format!(
                "has layer norms with ε of {:e} and {norm_eps:e}; models whose norms differ are not supported",
                other.eps
            );
            return Err(self.refuse(problem));
        }
        for (index, block) in self.blocks.iter().enumerate() {
            let shape = |block: &Block| {
                (block.heads, block.hidden(), block.mlp, block.scale1.is_some(), block.scale2.is_some())
            };
            if shape(block) != shape(first) || block.scale1.is_some() != block.scale2.is_some() {
                let problem = format!(
                    "has block {index} with other heads, hidden units, activation or layer scale than block 0; blocks must be alike"
                );
                return Err(self.refuse(problem));
            }
        }
        let &[width, channels, ph, pw] = patches.weight.shape().as_slice() else {
            return Err(self.refuse("has patches that are no images"));
        };
        Ok(ModelSpec {
            image: self.image()?,
            patch: [ph, pw],
            channels,
            width,
            depth: self.blocks.len(),
            heads: first.heads,
            hidden: first.hidden(),
            mlp: first.mlp,
            norm_eps,
            class_token,
            extra_tokens: lead.rows.len() - usize::from(class_token),
            pre_norm: pre_norm.is_some(),
            layer_scale: first.scale1.is_some(),
            pooling,
            final_norm: match (norm, fc_norm) {
                (Some(_), Some(_)) => FinalNorm::Both,
                (Some(_), None) => FinalNorm::BeforePool,
                (None, Some(_)) => FinalNorm::AfterPool,
                (None, None) => FinalNorm::None,
            },
            classes: linears.first().map_or(0, layers::Linear::rows),
        })
    }

    fn image(&self) -> Result<[usize; 2]> {
        match self.flow.image() {
            Some(image) => Ok(image),
            None => Err(self.refuse("has images of no known size")),
        }
    }

    fn embed(&self, tensors: &mut Tensors, patches: &Patches, lead: &Lead, spec: &ModelSpec) -> Result<Arrangement> {
        let d = spec.width;
        tensors.add("patch_embed.proj.weight", patches.weight.shape(), from_ref(&patches.weight))?;
        if let Some(bias) = &patches.bias {
            tensors.add("patch_embed.proj.bias", vec![d], from_ref(bias))?;
        }
        let class = usize::from(spec.class_token);
        let extra = &lead.rows[class..];
        if spec.class_token {
            tensors.add("cls_token", vec![1, 1, d], &lead.rows[..1])?;
        }
        let distilled = spec.pooling == Pooling::ClsAndDistillation;
        if !extra.is_empty() {
            let name = if distilled { "dist_token" } else { "reg_token" };
            tensors.add(name, vec![1, extra.len(), d], extra)?;
        }
        let of_class: Vec<Term> = lead.positions[..class].iter().flatten().cloned().collect();
        let of_extra: Vec<Term> = lead.positions[class..].iter().flatten().cloned().collect();
        let of_patches = self.embedding.groups.last().and_then(|group| group.position.clone());
        let position = match of_patches {
            None if of_class.is_empty() && of_extra.is_empty() => None,
            Some(grid) if of_extra.is_empty() || of_extra.len() == extra.len() => {
                let layout = PositionLayout {
                    grid: patches.grid,
                    covers_class: !of_class.is_empty(),
                    covers_extra: of_extra.len(),
                    resize: PositionResize::BicubicAntialias,
                };
                let rows = of_class.len() + of_extra.len() + spec.patches();
                let pieces: Vec<Term> = of_class.into_iter().chain(of_extra).chain([grid]).collect();
                tensors.add("pos_embed", vec![1, rows, d], &pieces)?;
                Some(layout)
            }
            _ => {
                return Err(self.refuse(
                    "has a position embedding for some register tokens or no patches, which is not supported",
                ));
            }
        };
        if let Some(norm) = &self.embedding.pre_norm {
            tensors.norm("norm_pre", norm, d)?;
        }
        let registers = if distilled { 0 } else { extra.len() };
        let patch_bias = patches.bias.is_some();
        Ok(Arrangement { qkv_bias: false, proj_bias: false, patch_bias, registers, position })
    }

    fn body(&self, tensors: &mut Tensors, spec: &ModelSpec, arrangement: Arrangement) -> Result<Arrangement> {
        let (d, hidden) = (spec.width, spec.hidden);
        let qkv_bias = self.blocks.iter().flat_map(|block| &block.qkv).any(|rows| rows.linear.bias.is_some());
        let others = |block: &Block| {
            let fc1 = block.fc1.iter().map(|rows| rows.linear.bias.is_some());
            [block.proj.bias.is_some(), block.fc2.bias.is_some()].into_iter().chain(fc1).collect::<Vec<_>>()
        };
        let proj_bias = self.blocks.iter().flat_map(others).any(|bias| bias);
        for (index, block) in self.blocks.iter().enumerate() {
            let name = |part: &str| format!("blocks.{index}.{part}");
            tensors.norm(&name("norm1"), &block.norm1, d)?;
            tensors.rows(&name("attn.qkv"), &block.qkv, d, qkv_bias)?;
            tensors.linear(&name("attn.proj"), &block.proj, d, proj_bias)?;
            tensors.norm(&name("norm2"), &block.norm2, d)?;
            tensors.rows(&name("mlp.fc1"), &block.fc1, d, proj_bias)?;
            tensors.linear(&name("mlp.fc2"), &block.fc2, hidden, proj_bias)?;
            for (part, scale) in [("ls1.gamma", &block.scale1), ("ls2.gamma", &block.scale2)] {
                if let Some(scale) = scale {
                    tensors.add(&name(part), vec![d], from_ref(scale))?;
                }
            }
        }
        Ok(Arrangement { qkv_bias, proj_bias, ..arrangement })
    }

    fn classifier(&self, tensors: &mut Tensors, spec: &ModelSpec) -> Result<()> {
        let d = spec.width;
        for (name, norm) in [("norm", &self.head.norm), ("fc_norm", &self.head.fc_norm)] {
            if let Some(norm) = norm {
                tensors.norm(name, norm, d)?;
            }
        }
        match (spec.pooling, self.head.linears.as_slice()) {
            (Pooling::ClsAndDistillation, [one]) => {
                // Half of it for each token, as the mean of two classifiers.
                for (name, from) in [("head", 0), ("head_dist", d)] {
                    let half = one.weight.view.slice(1, from, from + d);
                    let half = half.ok_or_else(|| self.refuse("has a classifier that does not read two tokens"))?;
                    let weight = Term { factor: 2.0 * one.weight.factor, ..one.weight.with(half) };
                    tensors.linear(name, &layers::Linear { weight, ..one.clone() }, d, true)?;
                }
                Ok(())
            }
            (_, linears) => linears
                .iter()
                .zip(["head", "head_dist"])
                .try_for_each(|(linear, name)| tensors.linear(name, linear, linear.weight.shape()[1], true)),
        }
    }
}

/// Constant tokens of a model.
const MOST_LEAD: usize = 1024;
