//! A graph under construction: standard operators, and tensors that are read when the graph is written.

use super::proto::{
    AttributeProto, AttributeType, DataType, DimensionProto, GraphProto, NodeProto, TensorProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto, dimension,
};
use crate::Result;
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Version of the standard operators that graphs use.
pub(super) const OPSET: i64 = 18;

/// A value of the graph, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value(Rc<str>);

impl Value {
    /// Stands for an input that is left out.
    pub fn absent() -> Self {
        Value("".into())
    }
}

/// What floating-point tensors consist of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Element {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits: IEEE half precision.
    F16,
}

impl Element {
    pub(super) fn data_type(self) -> DataType {
        match self {
            Element::F32 => DataType::Float,
            Element::F16 => DataType::Float16,
        }
    }

    fn bytes(self, values: &[f32]) -> Vec<u8> {
        match self {
            Element::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Element::F16 => {
                let mut halves = vec![f16::ZERO; values.len()];
                halves.convert_from_f32_slice(values);
                halves.iter().flat_map(|value| value.to_le_bytes()).collect()
            }
        }
    }
}

/// The size of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dim {
    Of(usize),
    Named(&'static str),
}

/// A constant of the graph whose values are made when it is written.
pub(crate) struct Constant<'m> {
    pub name: String,
    pub dims: Vec<usize>,
    pub data_type: DataType,
    values: Values<'m>,
}

type Read<'m> = Box<dyn Fn() -> Result<Vec<f32>> + 'm>;

enum Values<'m> {
    Bytes(Vec<u8>),
    Read(Element, Read<'m>),
}

impl Constant<'_> {
    /// Bytes of its values.
    pub fn len(&self) -> usize {
        let size = match self.data_type {
            DataType::Int64 => 8,
            DataType::Float16 => 2,
            _ => 4,
        };
        self.dims.iter().product::<usize>() * size
    }

    /// Its values, little-endian. Errors: a tensor of the model cannot be read.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        match &self.values {
            Values::Bytes(bytes) => Ok(bytes.clone()),
            Values::Read(element, read) => Ok(element.bytes(&read()?)),
        }
    }

    /// Its values as numbers. Errors: a tensor of the model cannot be read; it consists of integers.
    pub fn values(&self) -> Result<Vec<f32>> {
        match &self.values {
            Values::Read(_, read) => read(),
            Values::Bytes(bytes) if self.data_type == DataType::Float => {
                Ok(bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
            }
            Values::Bytes(_) => Err(crate::Error::Tensor {
                path: Default::default(),
                name: self.name.clone(),
                problem: "is not f32".into(),
            }),
        }
    }

    /// All but its values.
    pub fn header(&self) -> TensorProto {
        TensorProto {
            name: self.name.clone(),
            dims: self.dims.iter().map(|&n| n as i64).collect(),
            data_type: self.data_type as i32,
            ..TensorProto::default()
        }
    }
}

/// Nodes, constants, inputs and outputs, in the order in which they were added.
pub(super) struct Graph<'m> {
    /// What constants without a type of their own are.
    pub element: Element,
    proto: GraphProto,
    pub constants: Vec<Constant<'m>>,
    /// Small constants by their type, shape and bytes: each is there once.
    shared: BTreeMap<(i32, Vec<usize>, Vec<u8>), Value>,
    /// What node names begin with.
    scope: String,
}

impl<'m> Graph<'m> {
    pub fn new(name: &str, element: Element) -> Self {
        let proto = GraphProto { name: name.to_owned(), ..GraphProto::default() };
        Graph { element, proto, constants: Vec::new(), shared: BTreeMap::new(), scope: String::new() }
    }

    /// The graph but for its constants' values.
    pub fn proto(&self) -> &GraphProto {
        &self.proto
    }

    /// From now on node names begin with `scope`.
    pub fn enter(&mut self, scope: impl Into<String>) {
        self.scope = scope.into();
    }

    pub fn input(&mut self, name: &str, data_type: DataType, dims: &[Dim]) -> Value {
        self.proto.input.push(described(name, data_type, dims));
        Value(name.into())
    }

    /// Makes `value` an output of that name.
    pub fn output(&mut self, name: &str, value: &Value, data_type: DataType, dims: &[Dim]) {
        self.push("Identity", &[value], vec![name.to_owned()], Vec::new());
        self.proto.output.push(described(name, data_type, dims));
    }

    fn push(&mut self, op: &str, inputs: &[&Value], output: Vec<String>, attribute: Vec<AttributeProto>) {
        let input = inputs.iter().map(|value| value.0.to_string()).collect();
        let name = format!("{}/{op}_{}", self.scope, self.proto.node.len());
        let node = NodeProto { input, output, name, op_type: op.to_owned(), attribute, domain: String::new() };
        self.proto.node.push(node);
    }

    /// A node with `N` outputs.
    pub fn nodes<const N: usize>(
        &mut self,
        op: &str,
        inputs: &[&Value],
        attributes: Vec<AttributeProto>,
    ) -> [Value; N] {
        let index = self.proto.node.len();
        let names: [String; N] = std::array::from_fn(|i| match N {
            1 => format!("{}/{op}_{index}_output", self.scope),
            _ => format!("{}/{op}_{index}_output_{i}", self.scope),
        });
        self.push(op, inputs, names.to_vec(), attributes);
        names.map(|name| Value(name.into()))
    }

    pub fn node(&mut self, op: &str, inputs: &[&Value], attributes: Vec<AttributeProto>) -> Value {
        let [value] = self.nodes(op, inputs, attributes);
        value
    }

    /// A tensor of the model, of this name.
    pub fn tensor(&mut self, name: String, dims: &[usize], read: impl Fn() -> Result<Vec<f32>> + 'm) -> Value {
        let element = self.element;
        self.tensor_of(element, name, dims, read)
    }

    /// As [`Graph::tensor`], of another type.
    pub fn tensor_of(
        &mut self,
        element: Element,
        name: String,
        dims: &[usize],
        read: impl Fn() -> Result<Vec<f32>> + 'm,
    ) -> Value {
        let values = Values::Read(element, Box::new(read));
        let value = Value(name.as_str().into());
        self.constants.push(Constant { name, dims: dims.to_vec(), data_type: element.data_type(), values });
        value
    }

    fn constant(&mut self, data_type: DataType, dims: Vec<usize>, bytes: Vec<u8>) -> Value {
        let key = (data_type as i32, dims, bytes);
        if let Some(value) = self.shared.get(&key) {
            return value.clone();
        }
        let name = format!("constant_{}", self.shared.len());
        let value = Value(name.as_str().into());
        let (_, dims, bytes) = key.clone();
        self.constants.push(Constant { name, dims, data_type, values: Values::Bytes(bytes) });
        self.shared.insert(key, value.clone());
        value
    }

    /// A list of integers.
    pub fn ints(&mut self, values: &[i64]) -> Value {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(DataType::Int64, vec![values.len()], bytes)
    }

    /// A number in f32, whatever else is.
    pub fn number(&mut self, value: f32) -> Value {
        self.constant(DataType::Float, Vec::new(), Element::F32.bytes(&[value]))
    }

    /// Numbers in f32, whatever else is.
    pub fn numbers(&mut self, name: &str, dims: &[usize], values: Vec<f32>) -> Value {
        self.tensor_of(Element::F32, name.to_owned(), dims, move || Ok(values.clone()))
    }

    /// A number.
    pub fn scalar(&mut self, value: f64) -> Value {
        let element = self.element;
        self.constant(element.data_type(), Vec::new(), element.bytes(&[value as f32]))
    }

    pub fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Add", &[a, b], Vec::new())
    }

    pub fn sub(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Sub", &[a, b], Vec::new())
    }

    pub fn mul(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Mul", &[a, b], Vec::new())
    }

    pub fn div(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Div", &[a, b], Vec::new())
    }

    /// x times a number.
    pub fn times(&mut self, x: &Value, factor: f64) -> Value {
        let factor = self.scalar(factor);
        self.mul(x, &factor)
    }

    /// x plus a number.
    pub fn plus(&mut self, x: &Value, term: f64) -> Value {
        let term = self.scalar(term);
        self.add(x, &term)
    }

    pub fn matmul(&mut self, a: &Value, b: &Value) -> Value {
        self.node("MatMul", &[a, b], Vec::new())
    }

    pub fn cast(&mut self, x: &Value, to: DataType) -> Value {
        self.node("Cast", &[x], vec![int("to", to as i64)])
    }

    pub fn concat(&mut self, parts: &[&Value], axis: i64) -> Value {
        self.node("Concat", parts, vec![int("axis", axis)])
    }

    /// 0 keeps an axis, −1 is what is left.
    pub fn reshape(&mut self, x: &Value, dims: &[i64]) -> Value {
        let dims = self.ints(dims);
        self.node("Reshape", &[x, &dims], Vec::new())
    }

    pub fn transpose(&mut self, x: &Value, axes: &[i64]) -> Value {
        self.node("Transpose", &[x], vec![ints("perm", axes)])
    }

    pub fn unsqueeze(&mut self, x: &Value, axis: i64) -> Value {
        let axes = self.ints(&[axis]);
        self.node("Unsqueeze", &[x, &axes], Vec::new())
    }

    pub fn squeeze(&mut self, x: &Value, axis: i64) -> Value {
        let axes = self.ints(&[axis]);
        self.node("Squeeze", &[x, &axes], Vec::new())
    }

    /// Rows `start..end` along `axis`; `i64::MAX` is the end.
    pub fn slice(&mut self, x: &Value, axis: i64, start: i64, end: i64) -> Value {
        let [start, end, axis] = [start, end, axis].map(|n| self.ints(&[n]));
        self.node("Slice", &[x, &start, &end, &axis], Vec::new())
    }

    /// These rows along `axis`.
    pub fn gather(&mut self, x: &Value, axis: i64, rows: &[i64]) -> Value {
        let rows = self.ints(rows);
        self.node("Gather", &[x, &rows], vec![int("axis", axis)])
    }

    /// `N` parts of equal size along the last axis.
    pub fn split<const N: usize>(&mut self, x: &Value, size: usize) -> [Value; N] {
        let sizes = self.ints(&[size as i64; N]);
        self.nodes("Split", &[x, &sizes], vec![int("axis", -1)])
    }

    /// The mean along `axis`, which stays, with size 1, or goes.
    pub fn mean(&mut self, x: &Value, axis: i64, keep: bool) -> Value {
        let axes = self.ints(&[axis]);
        self.node("ReduceMean", &[x, &axes], vec![int("keepdims", i64::from(keep))])
    }

    /// The sum along the last axis, which stays.
    pub fn sum(&mut self, x: &Value) -> Value {
        let axes = self.ints(&[-1]);
        self.node("ReduceSum", &[x, &axes], vec![int("keepdims", 1)])
    }

    /// The sum along the last axis, which goes.
    pub fn total(&mut self, x: &Value) -> Value {
        let axes = self.ints(&[-1]);
        self.node("ReduceSum", &[x, &axes], vec![int("keepdims", 0)])
    }

    /// `before` and `after` zeros ahead of `x` and behind it along axis `axis` of `rank`.
    pub fn pad(&mut self, x: &Value, rank: usize, axis: usize, [before, after]: [i64; 2]) -> Value {
        let mut sizes = vec![0; 2 * rank];
        (sizes[axis], sizes[rank + axis]) = (before, after);
        let (sizes, zero) = (self.ints(&sizes), self.scalar(0.0));
        self.node("Pad", &[x, &sizes, &zero], Vec::new())
    }

    /// Repeats `x` `[1, …]` along its first axis as often as `like` has rows.
    pub fn repeat(&mut self, x: &Value, like: &Value, rest: &[i64]) -> Value {
        let shape = self.node("Shape", &[like], vec![int("start", 0), int("end", 1)]);
        let rest = self.ints(rest);
        let shape = self.concat(&[&shape, &rest], 0);
        self.node("Expand", &[x, &shape], Vec::new())
    }
}

fn described(name: &str, data_type: DataType, dims: &[Dim]) -> ValueInfoProto {
    let dim = dims.iter().map(|dim| DimensionProto {
        value: Some(match *dim {
            Dim::Of(n) => dimension::Value::Size(n as i64),
            Dim::Named(name) => dimension::Value::Name(name.to_owned()),
        }),
    });
    let shape = Some(TensorShapeProto { dim: dim.collect() });
    let tensor_type = Some(TensorTypeProto { elem_type: data_type as i32, shape });
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type }) }
}

pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), i: value, r#type: AttributeType::Int as i32, ..Default::default() }
}

pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        ints: values.to_vec(),
        r#type: AttributeType::Ints as i32,
        ..Default::default()
    }
}

pub(super) fn float(name: &str, value: f64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), f: value as f32, r#type: AttributeType::Float as i32, ..Default::default() }
}

pub(super) fn string(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        s: value.as_bytes().to_vec(),
        r#type: AttributeType::String as i32,
        ..Default::default()
    }
}
