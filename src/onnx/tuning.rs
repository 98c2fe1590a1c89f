//! The graphs that tune: what [`engine::ort`](crate::engine) runs.

use super::dual::Dual;
use super::graph::{Constant, Dim, Element, Graph, Value};
use super::head::{self, HeadForm, Parameters};
use super::loss::cross_entropy;
use super::proto::DataType;
use super::vit::{Prompts, Vit};
use super::write;
use crate::Result;
use crate::model::{Model, PromptLayout};
use std::fmt;

/// A tensor that goes into a graph or comes out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// `[B, c, H, W]`.
    Images,
    /// What block ℓ reads: `[B, T − p, d]`.
    Prefix,
    /// Of a set: `[1, p, d]`.
    Prompts(usize),
    /// Of a set: `[K, B, p, d]`.
    Tangents(usize),
    /// `[C, D]`.
    HeadWeight,
    /// `[C]`.
    HeadBias,
    /// `[D]`.
    HeadCenter,
    /// `[C, D]`.
    HeadMeans,
    /// `[1]`.
    HeadTau,
    /// `[B]`, 64-bit integers.
    Labels,
    /// The tokens that a set joins, `[B, T, d]`.
    Joined(usize),
    /// Head inputs `[B, D]`.
    Features,
    /// Theirs: `[K, B, D]`.
    FeatureTangents,
    /// `[B, C]`.
    Logits,
    /// L `[B]`.
    Losses,
    /// ∂L/∂z `[B, C]`.
    Slopes,
    /// L̇ `[K, B]`.
    Derivatives,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Port::Images => "images",
            Port::Prefix => "prefix",
            Port::Prompts(set) => return write!(f, "prompts_in.{set}"),
            Port::Tangents(set) => return write!(f, "tangents_in.{set}"),
            Port::HeadWeight => "head.weight",
            Port::HeadBias => "head.bias",
            Port::HeadCenter => "head.center",
            Port::HeadMeans => "head.means",
            Port::HeadTau => "head.tau",
            Port::Labels => "labels",
            Port::Joined(set) => return write!(f, "joined.{set}"),
            Port::Features => "features",
            Port::FeatureTangents => "feature_tangents",
            Port::Logits => "logits",
            Port::Losses => "losses",
            Port::Slopes => "slopes",
            Port::Derivatives => "derivatives",
        };
        f.write_str(name)
    }
}

/// What a graph computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// What block ℓ reads of images.
    Prefix,
    /// The tokens that every prompt set joins.
    Joined,
    /// Head inputs, and their tangents where prompts have some.
    Features,
    /// What a head and the cross entropy make of them.
    Losses(HeadForm),
}

/// Which of the graphs of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// Whether it begins with images, not with what block ℓ reads.
    pub images: bool,
    /// Whether there are prompts, not the frozen model.
    pub prompts: bool,
    /// Whether prompts have tangents.
    pub dual: bool,
    pub goal: Goal,
}

/// The sizes that a graph leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// B.
    pub examples: usize,
    /// K.
    pub tangents: usize,
    /// C.
    pub classes: usize,
}

const B: Dim = Dim::Named("batch");
const K: Dim = Dim::Named("planes");
const C: Dim = Dim::Named("classes");

/// A tensor's place in a graph, and its shape.
pub(crate) struct Described {
    pub port: Port,
    dims: Vec<Dim>,
}

impl Described {
    pub fn shape(&self, size: Size) -> Vec<usize> {
        let known = |dim: &Dim| match *dim {
            Dim::Of(n) => n,
            B => size.examples,
            K => size.tangents,
            Dim::Named(_) => size.classes,
        };
        self.dims.iter().map(known).collect()
    }
}

/// A graph whose larger tensors are given to ONNX Runtime beside it.
pub(crate) struct Tuning<'m> {
    graph: Graph<'m>,
    pub inputs: Vec<Described>,
    pub outputs: Vec<Described>,
}

impl<'m> Tuning<'m> {
    /// Errors: a tensor cannot be read.
    pub fn new(model: &'m Model, layout: PromptLayout, form: Form) -> Result<Self> {
        let (vit, spec, d) = (Vit { model }, &model.spec, Dim::Of(model.spec.width));
        let at = layout.insert_at;
        let graph = Graph::new("tuning", Element::F32);
        let mut this = Tuning { graph, inputs: Vec::new(), outputs: Vec::new() };
        let none = Prompts { layout: PromptLayout::NONE, sets: Vec::new() };
        let before = [B, Dim::Of(spec.tokens(0)), d];
        let tokens = match form.images {
            false => this.input(Port::Prefix, &before),
            true => {
                let [h, w] = spec.image;
                let images = this.input(Port::Images, &[B, Dim::Of(spec.channels), Dim::Of(h), Dim::Of(w)]);
                let tokens = vit.embed(&mut this.graph, &images)?;
                vit.blocks(&mut this.graph, tokens.into(), 0..at, &none)?.primal
            }
        };
        if form.goal == Goal::Prefix {
            this.output(Port::Prefix, &tokens, &before);
            return Ok(this);
        }
        let prompts = if form.prompts { this.prompts(layout, spec.depth, d, form.dual) } else { none };
        if form.goal == Goal::Joined {
            let mut tokens: Dual = tokens.into();
            let dims = [B, Dim::Of(spec.tokens(layout.prompts)), d];
            for (set, values) in prompts.sets.iter().enumerate() {
                let block = at + set;
                tokens = vit.join(&mut this.graph, &tokens, values, layout, block);
                this.output(Port::Joined(set), &tokens.primal, &dims);
                if set + 1 < prompts.sets.len() {
                    tokens = vit.block(&mut this.graph, &tokens, block, layout.prompts);
                }
            }
            return Ok(this);
        }
        let tokens = vit.blocks(&mut this.graph, tokens.into(), at..spec.depth, &prompts)?;
        let features = vit.pool(&mut this.graph, &tokens);
        let width = Dim::Of(spec.head_width());
        match form.goal {
            Goal::Losses(head) => this.judge(head, &features, width),
            _ => {
                this.output(Port::Features, &features.primal, &[B, width]);
                if let Some(tangents) = &features.tangents {
                    this.output(Port::FeatureTangents, tangents, &[K, B, width]);
                }
            }
        }
        Ok(this)
    }

    fn prompts(&mut self, layout: PromptLayout, depth: usize, d: Dim, dual: bool) -> Prompts {
        let p = Dim::Of(layout.prompts);
        let sets = (0..layout.sets(depth)).map(|set| Dual {
            tangents: dual.then(|| self.input(Port::Tangents(set), &[K, B, p, d])),
            ..self.input(Port::Prompts(set), &[Dim::Of(1), p, d]).into()
        });
        Prompts { sets: sets.collect(), layout }
    }

    fn judge(&mut self, form: HeadForm, features: &Dual, width: Dim) {
        let parameters = match form {
            HeadForm::Linear => Parameters::Linear {
                weight: self.input(Port::HeadWeight, &[C, width]),
                bias: self.input(Port::HeadBias, &[C]),
            },
            HeadForm::Prototype => Parameters::Prototype {
                center: self.input(Port::HeadCenter, &[width]),
                means: self.input(Port::HeadMeans, &[C, width]),
                tau: self.input(Port::HeadTau, &[Dim::Of(1)]),
            },
        };
        let labels = self.input_of(DataType::Int64, Port::Labels, &[B]);
        let logits = head::logits(&mut self.graph, &parameters, features);
        let judged = cross_entropy(&mut self.graph, &logits, &labels);
        self.output(Port::Features, &features.primal, &[B, width]);
        self.output(Port::Logits, &logits.primal, &[B, C]);
        self.output(Port::Losses, &judged.losses, &[B]);
        self.output(Port::Slopes, &judged.slopes, &[B, C]);
        if let Some(derivatives) = &judged.derivatives {
            self.output(Port::Derivatives, derivatives, &[K, B]);
        }
    }

    fn input(&mut self, port: Port, dims: &[Dim]) -> Value {
        self.input_of(DataType::Float, port, dims)
    }

    fn input_of(&mut self, data_type: DataType, port: Port, dims: &[Dim]) -> Value {
        self.inputs.push(Described { port, dims: dims.to_vec() });
        self.graph.input(&port.to_string(), data_type, dims)
    }

    fn output(&mut self, port: Port, value: &Value, dims: &[Dim]) {
        self.outputs.push(Described { port, dims: dims.to_vec() });
        self.graph.output(&port.to_string(), value, DataType::Float, dims);
    }

    /// The model but for its larger tensors. Errors: a tensor cannot be read.
    pub fn encode(&self) -> Result<Vec<u8>> {
        write::without_tensors(&self.graph)
    }

    /// These.
    pub fn tensors(&self) -> impl Iterator<Item = &Constant<'m>> {
        self.graph.constants.iter().filter(|constant| write::is_external(constant))
    }
}
