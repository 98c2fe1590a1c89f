//! What is known of every value of a graph before it runs: its shape, the numbers it holds if it is constant, and where its elements
//! come from if they were only moved about or multiplied by a number.

use super::fold;
use super::moves;
use super::node::attribute;
use super::source::{Constant, MOST_NUMBERS, Source};
use super::term::{Base, Term, made, stored};
use crate::onnx::proto::{NodeProto, ValueInfoProto, dimension};
use crate::weights::malformed;
use crate::{Error, Result};
use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

/// Images of a graph that takes any number of them: a size that no other axis has.
const ANY: usize = 7919;

/// Why nothing is known of a value.
#[derive(Debug)]
pub(super) struct Unknown {
    /// The node that was not understood.
    pub node: usize,
    pub problem: String,
}

#[derive(Clone, Debug)]
pub(super) enum Fact {
    Known(Term),
    Unknown(Rc<Unknown>),
    /// A tensor that nothing can be made of: why.
    Unusable(Rc<str>),
}

/// A graph and what is known of its values.
pub(super) struct Flow<'s> {
    pub source: &'s Source,
    pub nodes: &'s [NodeProto],
    names: Vec<&'s str>,
    ids: HashMap<&'s str, usize>,
    facts: Vec<Fact>,
    /// The node that makes each value.
    makers: Vec<Option<usize>>,
    /// The graph's images.
    pub images: usize,
    /// Numbers that were computed.
    computed: usize,
    /// Values that an embedding may still be looked for in.
    left: Cell<usize>,
}

/// Numbers that are computed of a graph: it can ask for far more than it holds.
const MOST_COMPUTED: usize = 1 << 22;
/// Values that may belong to the embedding: a graph can name far more than it has.
const MOST_EMBEDDED: usize = 1 << 14;

/// How a graph's axes are filled in that it leaves open.
#[derive(Clone, Copy)]
pub(super) struct Open {
    /// Height and width of the images.
    pub image: Option<[usize; 2]>,
    /// The node whose output stands for prepared images of this size.
    pub prepared: Option<(usize, [usize; 2])>,
}

/// The shape of an input, as far as it is said.
pub(super) fn described(input: &ValueInfoProto) -> Option<Vec<Option<usize>>> {
    let shape = input.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()?;
    let size = |dim: &crate::onnx::proto::DimensionProto| match dim.value {
        Some(dimension::Value::Size(n)) => usize::try_from(n).ok().filter(|n| *n > 0),
        _ => None,
    };
    Some(shape.dim.iter().map(size).collect())
}

impl<'s> Flow<'s> {
    /// Follows the graph from its one input.
    pub fn new(source: &'s Source, open: Open) -> Result<Self> {
        let graph = source.model.graph.as_ref().ok_or_else(|| malformed(&source.path, "holds no graph"))?;
        let mut flow = Flow {
            source,
            nodes: &graph.node,
            names: Vec::new(),
            ids: HashMap::new(),
            facts: Vec::new(),
            makers: Vec::new(),
            images: 0,
            computed: 0,
            left: Cell::new(MOST_EMBEDDED),
        };
        for tensor in &graph.initializer {
            let fact = match source.constant(tensor)? {
                Constant::Other(problem) => Fact::Unusable(problem.into()),
                constant => Fact::Known(stored(constant)),
            };
            flow.define(&tensor.name, fact, None)?;
        }
        let inputs: Vec<_> = graph.input.iter().filter(|input| !flow.ids.contains_key(input.name.as_str())).collect();
        let [input] = inputs.as_slice() else {
            return Err(malformed(
                &source.path,
                format!("has {} inputs, expected one: images; export the classifier alone", inputs.len()),
            ));
        };
        let shape = match (described(input), open.prepared) {
            (_, Some(_)) => vec![1],
            (Some(shape), None) => match shape[..] {
                [b, c, h, w] => {
                    let image = open.image.unwrap_or([1, 1]);
                    vec![b.unwrap_or(ANY), c.unwrap_or(3), h.unwrap_or(image[0]), w.unwrap_or(image[1])]
                }
                _ => return Err(flow.no_images(&input.name, &format!("{} axes", shape.len()))),
            },
            (None, None) => return Err(flow.no_images(&input.name, "no shape")),
        };
        if super::source::elements(&shape).is_none() {
            return Err(flow.no_images(&input.name, &format!("shape {shape:?}")));
        }
        flow.images = flow.define(&input.name, Fact::Known(made(&shape)), None)?;
        for index in 0..flow.nodes.len() {
            flow.follow(index, open)?;
        }
        Ok(flow)
    }

    fn no_images(&self, name: &str, found: &str) -> Error {
        let name = name.escape_debug();
        let problem = format!(
            "input `{name}` has {found}, expected images [batch, channels, height, width]; is this a Vision Transformer?"
        );
        malformed(&self.source.path, problem)
    }

    fn define(&mut self, name: &'s str, fact: Fact, maker: Option<usize>) -> Result<usize> {
        let id = self.facts.len();
        if self.ids.insert(name, id).is_some() {
            let problem = format!("makes `{}` twice; the file is damaged, export it again", name.escape_debug());
            return Err(malformed(&self.source.path, problem));
        }
        if let Fact::Known(Term { base: Base::Numbers(numbers), .. }) = &fact {
            self.computed += if Rc::strong_count(numbers) == 1 { numbers.len() } else { 0 };
            if self.computed > MOST_COMPUTED {
                let problem = "computes more numbers than the shapes of a Vision Transformer need; it is another model";
                return Err(malformed(&self.source.path, problem));
            }
        }
        let fact = match fact {
            // What an operation makes is known by its own number.
            Fact::Known(Term { base: Base::Value(usize::MAX), factor, view, integer }) => {
                Fact::Known(Term { base: Base::Value(id), factor, view, integer })
            }
            fact => fact,
        };
        self.facts.push(fact);
        self.names.push(name);
        self.makers.push(maker);
        Ok(id)
    }

    fn follow(&mut self, index: usize, open: Open) -> Result<()> {
        let node = &self.nodes[index];
        let mut inputs = Vec::with_capacity(node.input.len());
        let mut unknown = None;
        for name in &node.input {
            if name.is_empty() {
                inputs.push(None);
                continue;
            }
            let Some(&id) = self.ids.get(name.as_str()) else {
                let problem = format!(
                    "{} reads `{}`, which is neither an input nor a tensor of the graph, and nothing ahead of it makes it: \
                     the graph is incomplete, or goes in a circle; export it again",
                    self.node_name(index),
                    name.escape_debug()
                );
                return Err(malformed(&self.source.path, problem));
            };
            match &self.facts[id] {
                Fact::Known(term) => inputs.push(Some(term.clone())),
                other => {
                    unknown.get_or_insert(other.clone());
                }
            }
        }
        let made = match (open.prepared, unknown) {
            (Some((last, _)), _) if index < last => {
                Err(Fact::Unknown(Rc::new(Unknown { node: index, problem: "prepares images".into() })))
            }
            (Some((last, [h, w])), _) if index == last => Ok(vec![made(&[ANY, 3, h, w])]),
            (_, Some(unknown)) => Err(unknown),
            (_, None) => {
                self.outputs(node, &inputs).map_err(|problem| Fact::Unknown(Rc::new(Unknown { node: index, problem })))
            }
        };
        for (at, name) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            let fact = match &made {
                Ok(terms) => match terms.get(at) {
                    Some(term) => Fact::Known(term.clone()),
                    None => Fact::Unknown(Rc::new(Unknown {
                        node: index,
                        problem: format!("its output {at} is not one that a Vision Transformer uses"),
                    })),
                },
                Err(fact) => fact.clone(),
            };
            let id = self.define(name, fact, Some(index))?;
            if open.prepared.is_some_and(|(last, _)| last == index) {
                self.images = id;
            }
        }
        Ok(())
    }

    /// What `node` makes of `inputs`. Errors: why that is not known.
    fn outputs(&self, node: &NodeProto, inputs: &[Option<Term>]) -> Result<Vec<Term>, String> {
        if !node.domain.is_empty() && node.domain != "ai.onnx" {
            return Err(format!(
                "it is an operator of `{}`; export the model with standard operators only, without fusing any",
                node.domain.escape_debug()
            ));
        }
        if node.op_type == "Constant" {
            return self.constant(node).map(|term| vec![term]);
        }
        if let Some(terms) = moves::moved(node, inputs) {
            return terms;
        }
        fold::computed(node, inputs).map(|term| vec![term])
    }

    fn constant(&self, node: &NodeProto) -> Result<Term, String> {
        let attribute = |name| attribute(node, name);
        if let Some(tensor) = attribute("value").and_then(|attribute| attribute.t.as_ref()) {
            return match self.source.constant(tensor).map_err(|error| error.to_string())? {
                Constant::Other(problem) => Err(problem),
                constant => Ok(stored(constant)),
            };
        }
        if let Some(value) = attribute("value_float") {
            return Ok(Term::numbers(vec![value.f.into()], &[], false));
        }
        if let Some(value) = attribute("value_int") {
            return Ok(Term::numbers(vec![value.i as f64], &[], true));
        }
        let (values, integer): (Vec<f64>, _) = match (attribute("value_floats"), attribute("value_ints")) {
            (Some(list), _) => (list.floats.iter().map(|&v| v.into()).collect(), false),
            (_, Some(list)) => (list.ints.iter().map(|&v| v as f64).collect(), true),
            _ => return Err("it holds neither numbers nor a tensor".into()),
        };
        if values.len() > MOST_NUMBERS {
            return Err(format!("it lists {} numbers", values.len()));
        }
        let len = values.len();
        Ok(Term::numbers(values, &[len], integer))
    }

    /// The axis that `Softmax` runs over where it does not say.
    pub fn softmax_axis(&self) -> i64 {
        let own = self.source.model.opset_import.iter().find(|set| set.domain.is_empty() || set.domain == "ai.onnx");
        if own.is_some_and(|set| set.version < 13) { 1 } else { -1 }
    }

    /// Counts a value of the embedding; whether there may be so many.
    pub fn embeds(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    /// What is known of the value called `name`.
    pub fn named(&self, name: &str) -> Result<&Term> {
        let id = self.ids.get(name).ok_or_else(|| {
            malformed(&self.source.path, format!("does not make its output `{}`; export it again", name.escape_debug()))
        })?;
        self.known(&self.facts[*id])
    }

    fn known<'f>(&self, fact: &'f Fact) -> Result<&'f Term> {
        match fact {
            Fact::Known(term) => Ok(term),
            Fact::Unusable(problem) => Err(malformed(&self.source.path, problem.to_string())),
            Fact::Unknown(unknown) => Err(self.refuse(unknown.node, &unknown.problem)),
        }
    }

    /// Input `at` of the node that makes `term`.
    pub fn operand(&self, node: &NodeProto, at: usize) -> Result<&Term> {
        match node.input.get(at) {
            Some(name) if !name.is_empty() => self.named(name),
            _ => {
                let problem =
                    format!("a {} node lacks its input {at}; export the model again", node.op_type.escape_debug());
                Err(malformed(&self.source.path, problem))
            }
        }
    }

    pub fn has_operand(&self, node: &NodeProto, at: usize) -> bool {
        node.input.get(at).is_some_and(|name| !name.is_empty())
    }

    /// Height and width of the images.
    pub fn image(&self) -> Option<[usize; 2]> {
        match &self.facts[self.images] {
            Fact::Known(term) => match term.shape()[..] {
                [_, _, h, w] => Some([h, w]),
                _ => None,
            },
            _ => None,
        }
    }

    /// All of what made the tensor that `term` comes from.
    pub fn whole(&self, term: &Term) -> Option<&Term> {
        match term.base {
            Base::Value(id) => match &self.facts[id] {
                Fact::Known(term) => Some(term),
                _ => None,
            },
            _ => None,
        }
    }

    /// The node that made what `term` comes from.
    pub fn maker(&self, term: &Term) -> Option<&'s NodeProto> {
        match term.base {
            Base::Value(id) => self.makers[id].map(|index| &self.nodes[index]),
            _ => None,
        }
    }

    /// The node whose output `term` is, all of it, in order.
    pub fn made_by(&self, term: &Term) -> Option<&'s NodeProto> {
        let whole = self.whole(term)?;
        if term.factor == 1.0 && term.view.same(&whole.view) { self.maker(term) } else { None }
    }

    /// As [`Flow::made_by`], of one of these operators.
    pub fn made_by_a(&self, term: &Term, operators: &[&str]) -> Option<&'s NodeProto> {
        self.made_by(term).filter(|node| operators.contains(&node.op_type.as_str()))
    }

    fn node_name(&self, index: usize) -> String {
        let node = &self.nodes[index];
        let operator = node.op_type.escape_debug();
        match (node.name.as_str(), node.output.first()) {
            ("", Some(output)) => format!("the {operator} node that makes `{}`", output.escape_debug()),
            (name, _) => format!("node `{}` ({operator})", name.escape_debug()),
        }
    }

    fn refuse(&self, node: usize, problem: &str) -> Error {
        malformed(&self.source.path, format!("{}: {problem}; {NOT_A_VIT}", self.node_name(node)))
    }

    /// The error that `term` is not what was `expected`.
    pub fn unlike(&self, term: &Term, expected: &str) -> Error {
        let found = match &term.base {
            Base::Value(id) => match self.makers[*id] {
                Some(index) => {
                    let moved = self.made_by(term).is_none();
                    format!("{}{}", if moved { "what is moved about or scaled of " } else { "" }, self.node_name(index))
                }
                None => format!("input `{}`", self.names[*id].escape_debug()),
            },
            Base::Stored(tensor) => format!("tensor `{}` {:?}", tensor.name().escape_debug(), tensor.shape()),
            Base::Numbers(_) => format!("a constant of shape {:?}", term.shape()),
        };
        malformed(&self.source.path, format!("{found} stands where {expected} was expected; {NOT_A_VIT}"))
    }

    /// The error that `node` is not as expected.
    pub fn odd(&self, node: &NodeProto, problem: &str) -> Error {
        match self.nodes.iter().position(|other| std::ptr::eq(other, node)) {
            Some(index) => self.refuse(index, problem),
            None => malformed(&self.source.path, problem.to_owned()),
        }
    }
}

const NOT_A_VIT: &str =
    "only plain Vision Transformers, as timm and transformers define them and torch.onnx exports them, can be imported";
