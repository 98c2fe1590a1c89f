//! Operators that only move elements about.

use super::node::{axis, floating, int, ints, text};
use super::term::{Term, made};
use super::view::View;
use crate::onnx::proto::NodeProto;

type Terms = Result<Vec<Term>, String>;

/// What `node` makes of `inputs`, if it is such an operator.
pub(super) fn moved(node: &NodeProto, inputs: &[Option<Term>]) -> Option<Terms> {
    let moved = match node.op_type.as_str() {
        "Identity" | "Dropout" => same(node, inputs),
        "Cast" => return cast(node, inputs),
        "CastLike" => cast_like(inputs),
        "Reshape" => reshape(node, inputs),
        "Flatten" => flatten(node, inputs),
        "Transpose" => transpose(node, inputs),
        "Squeeze" => squeeze(node, inputs),
        "Unsqueeze" => unsqueeze(node, inputs),
        "Slice" => slice(node, inputs),
        "Gather" => gather(node, inputs),
        "Split" => return Some(split(node, inputs).ok_or_else(|| "its parts are not known sizes".into())),
        "Expand" => expand(inputs),
        "Resize" | "Upsample" => resize(inputs),
        _ => return None,
    };
    Some(moved.map(|term| vec![term]).ok_or_else(|| match node.op_type.as_str() {
        "Resize" | "Upsample" => {
            "it resizes something in the graph; export the model at the image size it was made for".into()
        }
        _ => "what it moves, or where to, is not known ahead of the images".into(),
    }))
}

fn input(inputs: &[Option<Term>], at: usize) -> Option<&Term> {
    inputs.get(at)?.as_ref()
}

fn same(node: &NodeProto, inputs: &[Option<Term>]) -> Option<Term> {
    let training = input(inputs, 2).and_then(Term::same_everywhere).is_some_and(|flag| flag != 0.0);
    if node.op_type == "Dropout" && training { None } else { input(inputs, 0).cloned() }
}

fn cast(node: &NodeProto, inputs: &[Option<Term>]) -> Option<Terms> {
    let x = input(inputs, 0)?;
    let float = floating(int(node, "to")?);
    let cast = match (float, x.is_constant()) {
        // Another width of the same number.
        (true, _) if !x.integer => Ok(x.clone()),
        (_, true) => match x.values() {
            Some(values) => {
                let values = if float { values } else { values.into_iter().map(f64::trunc).collect() };
                Ok(Term::numbers(values, &x.shape(), !float))
            }
            None => match x.same_everywhere() {
                Some(value) => Ok(Term::uniform(if float { value } else { value.trunc() }, &x.shape(), !float)),
                None => Err("it converts a large tensor between integers and fractions".into()),
            },
        },
        _ => Err("it converts between integers and fractions".into()),
    };
    Some(cast.map(|term| vec![term]))
}

/// A number to the width of another; never between integers and fractions.
fn cast_like(inputs: &[Option<Term>]) -> Option<Term> {
    let (x, like) = (input(inputs, 0)?, input(inputs, 1)?);
    (x.integer == like.integer).then(|| x.clone())
}

fn reshape(node: &NodeProto, inputs: &[Option<Term>]) -> Option<Term> {
    let x = input(inputs, 0)?;
    let target = ints(node, "shape", input(inputs, 1))?;
    let zero_is_zero = int(node, "allowzero").unwrap_or(0) != 0;
    let own = x.shape();
    let mut shape = Vec::with_capacity(target.len());
    let (mut free, mut product) = (None, 1usize);
    for (at, &size) in target.iter().enumerate() {
        let size = match size {
            -1 if free.is_none() => {
                free = Some(at);
                1
            }
            0 if !zero_is_zero => *own.get(at)?,
            n => usize::try_from(n).ok()?,
        };
        product = product.checked_mul(size)?;
        shape.push(size);
    }
    let total = x.view.len();
    if let Some(at) = free {
        shape[at] = total.checked_div(product).filter(|n| n * product == total)?;
    } else if product != total {
        return None;
    }
    super::source::elements(&shape)?;
    // An order that strides cannot say is a value of its own.
    x.view.reshape(&shape).map(|view| x.with(view)).or_else(|| (!x.is_constant()).then(|| made(&shape)))
}

fn flatten(node: &NodeProto, inputs: &[Option<Term>]) -> Option<Term> {
    let x = input(inputs, 0)?;
    let shape = x.shape();
    let at = int(node, "axis").unwrap_or(1);
    let at = if at as usize == shape.len() { shape.len() } else { axis(at, shape.len())? };
    let rows = shape[..at].iter().product();
    x.view.reshape(&[rows, shape[at..].iter().product()]).map(|view| x.with(view))
}

fn transpose(node: &NodeProto, inputs: &[Option<Term>]) -> Option<Term> {
    let x = input(inputs, 0)?;
    let rank = x.shape().len();
    let order: Vec<usize> = match ints(node, "perm", None) {
        Some(order) => order.into_iter().map(|n| axis(n, rank)).collect::<Option<_>>()?,
        None => (0..rank).rev().collect(),
    };
    x.view.transpose(&order).map(|view| x.with(view))
}

/// Sorted, without repetition.
fn axes(list: &[i64], rank: usize) -> Option<Vec<usize>> {
    let mut axes: Vec<usize> = list.iter().map(|&n| axis(n, rank)).collect::<Option<_>>()?;
    axes.sort_unstable();
    axes.dedup();
    Some(axes)
}

fn squeeze(node: &NodeProto, inputs: &[Option<Term>]) -> Option<Term> {
    let x = input(inputs, 0)?;
    let shape = x.shape();
    let list = match ints(node, "axes", input(inputs, 1)) {
        Some(list) => axes(&list, shape.len())?,
        None if input(inputs, 1).is_none() => (0..shape.len()).filter(|&at| shape[at] == 1).collect(),
        None => return None,
    };
    let view = list.iter().rev().try_fold(x.view.clone(), |view, &at| view.squeeze(at))?;
    Some(x.with(view))
}

fn unsqueeze(node: &NodeProto, inputs: &[Option<Term>]) -> Option<Term> {
    let x = input(inputs, 0)?;
    let list = ints(node, "axes", input(inputs, 1))?;
    let rank = x.shape().len().checked_add(list.len()).filter(|&rank| rank <= super::source::MOST_AXES)?;
    let view = axes(&list, rank)?.iter().try_fold(x.view.clone(), |view, &at| view.unsqueeze(at))?;
    Some(x.with(view))
}

/// A position along an axis of `size`, as `Slice` counts it.
fn bound(at: i64, size: usize) -> usize {
    let size = size as i64;
    (if at < 0 { at.saturating_add(size) } else { at }).clamp(0, size) as usize
}

fn slice(node: &NodeProto, inputs: &[Option<Term>]) -> Option<Term> {
    let x = input(inputs, 0)?;
    let shape = x.shape();
    let list = |name, at| ints(node, name, input(inputs, at));
    let (starts, ends) = (list("starts", 1)?, list("ends", 2)?);
    let all: Vec<i64> = (0..starts.len() as i64).collect();
    let along = list("axes", 3).unwrap_or(all);
    let steps = list("steps", 4).unwrap_or(vec![1; starts.len()]);
    if starts.len() != ends.len() || starts.len() != along.len() || steps.iter().any(|&step| step != 1) {
        return None;
    }
    let mut view = x.view.clone();
    let mut empty = false;
    for ((&from, &to), &at) in starts.iter().zip(&ends).zip(&along) {
        let at = axis(at, shape.len())?;
        let (from, to) = (bound(from, shape[at]), bound(to, shape[at]));
        if from >= to {
            empty = true;
        } else {
            view = view.slice(at, from, to)?;
        }
    }
    // An empty list: the leading axes of which there are none.
    if empty {
        return (shape.len() == 1).then(|| x.with(View::none()));
    }
    Some(x.with(view))
}

fn gather(node: &NodeProto, inputs: &[Option<Term>]) -> Option<Term> {
    let (x, rows) = (input(inputs, 0)?, input(inputs, 1)?);
    let shape = x.shape();
    let at = axis(int(node, "axis").unwrap_or(0), shape.len())?;
    let size = shape[at] as i64;
    let places = rows.values()?.into_iter().map(|v| v as i64);
    let places: Vec<usize> = places
        .map(|n| usize::try_from(if n < 0 { n + size } else { n }).ok().filter(|&n| n < shape[at]))
        .collect::<Option<_>>()?;
    let first = *places.first()?;
    if rows.shape().is_empty() {
        return x.view.slice(at, first, first + 1)?.squeeze(at).map(|view| x.with(view));
    }
    if rows.shape().len() == 1 && places.iter().enumerate().all(|(i, &place)| place == first + i) {
        return x.view.slice(at, first, first + places.len()).map(|view| x.with(view));
    }
    if let Some(values) = x.values().filter(|_| shape.len() == 1) {
        let values: Vec<f64> = places.iter().map(|&place| values[place]).collect();
        return Some(Term::numbers(values, &rows.shape(), x.integer));
    }
    let mut out = shape;
    out.splice(at..=at, rows.shape());
    super::source::elements(&out)?;
    (!x.is_constant()).then(|| made(&out))
}

fn split(node: &NodeProto, inputs: &[Option<Term>]) -> Option<Vec<Term>> {
    let x = input(inputs, 0)?;
    let shape = x.shape();
    let at = axis(int(node, "axis").unwrap_or(0), shape.len())?;
    let sizes = match ints(node, "split", input(inputs, 1)) {
        Some(sizes) => sizes.into_iter().map(|n| usize::try_from(n).ok()).collect::<Option<Vec<_>>>()?,
        None if input(inputs, 1).is_none() => {
            let parts = node.output.len();
            let size = shape[at].div_ceil(parts.max(1));
            let part = |i: usize| shape[at].saturating_sub(i.saturating_mul(size)).min(size);
            (0..parts).map(part).collect()
        }
        None => return None,
    };
    let mut from = 0usize;
    let mut terms = Vec::with_capacity(sizes.len());
    for size in sizes.into_iter().take(node.output.len()) {
        let to = from.checked_add(size)?;
        terms.push(x.with(x.view.slice(at, from, to)?));
        from = to;
    }
    (from == shape[at]).then_some(terms)
}

fn expand(inputs: &[Option<Term>]) -> Option<Term> {
    let (x, target) = (input(inputs, 0)?, input(inputs, 1)?);
    let target = target.values()?.into_iter().map(|n| if n >= 0.0 { Some(n as usize) } else { None });
    let shape = super::view::broadcast(&x.shape(), &target.collect::<Option<Vec<_>>>()?)?;
    x.view.expand(&shape).map(|view| x.with(view))
}

/// To the size that it has.
fn resize(inputs: &[Option<Term>]) -> Option<Term> {
    let x = input(inputs, 0)?;
    let shape: Vec<f64> = x.shape().into_iter().map(|n| n as f64).collect();
    let same = match (input(inputs, 3), input(inputs, 2).or(input(inputs, 1))) {
        (Some(sizes), _) => {
            let sizes = sizes.values()?;
            shape.ends_with(&sizes)
        }
        (None, Some(scales)) => scales.values()?.iter().all(|&scale| scale == 1.0),
        _ => false,
    };
    same.then(|| x.clone())
}

/// Whether a text attribute has this value or is absent.
pub(super) fn is(node: &NodeProto, name: &str, value: &str) -> bool {
    text(node, name).is_none_or(|text| text == value.as_bytes())
}
