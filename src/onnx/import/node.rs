//! A node's attributes.

use super::term::Term;
use crate::onnx::proto::{AttributeProto, AttributeType, DataType, NodeProto};

pub(super) fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

pub(super) fn int(node: &NodeProto, name: &str) -> Option<i64> {
    attribute(node, name).map(|attribute| attribute.i)
}

pub(super) fn float(node: &NodeProto, name: &str) -> Option<f64> {
    attribute(node, name).map(|attribute| shortest(attribute.f))
}

pub(super) fn text<'n>(node: &'n NodeProto, name: &str) -> Option<&'n [u8]> {
    attribute(node, name).map(|attribute| attribute.s.as_slice())
}

/// Integers: an attribute, or an input since some version of the operator.
pub(super) fn ints(node: &NodeProto, name: &str, input: Option<&Term>) -> Option<Vec<i64>> {
    if let Some(term) = input {
        return term.values().map(|values| values.into_iter().map(|v| v as i64).collect());
    }
    attribute(node, name).filter(|a| a.r#type != AttributeType::Int as i32).map(|attribute| attribute.ints.clone())
}

/// The number whose f32 this is: 1e-6, not 9.99999997e-7.
pub(super) fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// An axis counted from the end if it is negative.
pub(super) fn axis(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    usize::try_from(if axis < 0 { axis.checked_add(rank)? } else { axis }).ok().filter(|&axis| (axis as i64) < rank)
}

/// Whether elements of this type are floating-point numbers.
pub(super) fn floating(data_type: i64) -> bool {
    [DataType::Float, DataType::Float16, DataType::Bfloat16, DataType::Double].iter().any(|t| *t as i64 == data_type)
}
