//! Operators that compute: on constants their result, on anything else its shape.

use super::node::{attribute, axis, int, ints};
use super::source::{MOST_NUMBERS, elements};
use super::term::{Term, made};
use super::view::{View, broadcast};
use crate::onnx::proto::NodeProto;

/// What `node` makes of `inputs`. Errors: why that is not known.
pub(super) fn computed(node: &NodeProto, inputs: &[Option<Term>]) -> Result<Term, String> {
    let input = |at: usize| inputs.get(at).and_then(Option::as_ref);
    let odd = || {
        let shapes: Vec<_> = inputs.iter().flatten().map(|term| format!("{:?}", term.shape())).collect();
        format!("its operands, of shapes {}, do not fit it, or each other", shapes.join(", "))
    };
    let x = input(0);
    let term = match node.op_type.as_str() {
        "Shape" => shape(node, x),
        "Size" => x.map(|x| Term::numbers(vec![x.view.len() as f64], &[], true)),
        "ConstantOfShape" => constant_of_shape(node, x),
        "Range" => range(input(0), input(1), input(2)),
        "Concat" => concat(node, inputs),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Max" | "Min" | "Equal" | "Less" | "LessOrEqual"
        | "Greater" | "GreaterOrEqual" | "And" | "Or"
            if inputs.len() == 2 =>
        {
            x.zip(input(1)).and_then(|(a, b)| binary(&node.op_type, a, b))
        }
        "Where" => x.zip(input(1)).zip(input(2)).and_then(|((c, a), b)| choose(c, a, b)),
        "Sqrt" | "Neg" | "Floor" | "Ceil" | "Abs" | "Reciprocal" | "Exp" | "Not" | "Erf" | "Sigmoid" | "Tanh"
        | "Relu" | "Gelu" | "Swish" | "IsNaN" | "Sign" | "Round" | "Softmax" | "HardSwish" | "LeakyRelu" | "Elu"
        | "Log" | "Mish" | "Softplus" | "Softsign" | "Selu" | "LogSoftmax" | "QuickGelu" | "HardSigmoid" => {
            x.map(|x| unary(node, x))
        }
        "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => x.map(|x| made(&x.shape())),
        "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceL2" | "ReduceProd" => {
            x.and_then(|x| reduce(node, x, input(1)))
        }
        "MatMul" => x.zip(input(1)).and_then(|(a, b)| product(&a.shape(), &b.shape())),
        "Gemm" => x.zip(input(1)).and_then(|(a, b)| gemm(node, &a.shape(), &b.shape())),
        "Conv" => x.zip(input(1)).and_then(|(x, weight)| convolved(node, &x.shape(), &weight.shape())),
        "Attention" => attention(node, inputs),
        _ => return Err("it is not an operator that a Vision Transformer has".into()),
    };
    term.ok_or_else(odd)
}

fn shape(node: &NodeProto, x: Option<&Term>) -> Option<Term> {
    let shape = x?.shape();
    let rank = shape.len() as i64;
    let bound = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
    let (from, to) = (bound(int(node, "start").unwrap_or(0)), bound(int(node, "end").unwrap_or(rank)));
    let sizes: Vec<f64> = shape.get(from..to)?.iter().map(|&n| n as f64).collect();
    Some(list(sizes, true))
}

/// Numbers along one axis.
fn list(values: Vec<f64>, integer: bool) -> Term {
    match values.len() {
        0 => Term { view: View::none(), ..Term::numbers(values, &[], integer) },
        len => Term::numbers(values, &[len], integer),
    }
}

fn constant_of_shape(node: &NodeProto, x: Option<&Term>) -> Option<Term> {
    let shape: Vec<usize> = x?.values()?.into_iter().map(|n| n as usize).collect();
    elements(&shape)?;
    let tensor = attribute(node, "value").and_then(|attribute| attribute.t.as_ref());
    let (value, integer) = match tensor {
        None => (0.0, false),
        Some(tensor) => {
            let raw = &tensor.raw_data;
            use crate::onnx::proto::DataType;
            match tensor.data_type() {
                DataType::Float => (
                    raw.first_chunk().map(|b| f32::from_le_bytes(*b)).or(tensor.float_data.first().copied())?.into(),
                    false,
                ),
                DataType::Int64 => {
                    let value = raw.first_chunk().map(|b| i64::from_le_bytes(*b));
                    (value.or(tensor.int64_data.first().copied())? as f64, true)
                }
                DataType::Int32 | DataType::Bool => {
                    let value = raw.first().map(|&b| i32::from(b)).or(tensor.int32_data.first().copied());
                    (value?.into(), true)
                }
                DataType::Float16 => (half::f16::from_le_bytes(*raw.first_chunk()?).into(), false),
                _ => return None,
            }
        }
    };
    Some(Term::uniform(value, &shape, integer))
}

fn range(start: Option<&Term>, end: Option<&Term>, step: Option<&Term>) -> Option<Term> {
    let [start, end, step] = [start?, end?, step?].map(Term::same_everywhere);
    let (start, end, step) = (start?, end?, step?);
    let count = ((end - start) / step).ceil();
    if !(count >= 0.0 && count <= MOST_NUMBERS as f64) {
        return None;
    }
    Some(list((0..count as usize).map(|i| start + step * i as f64).collect(), true))
}

fn concat(node: &NodeProto, inputs: &[Option<Term>]) -> Option<Term> {
    let terms: Vec<&Term> = inputs.iter().map(Option::as_ref).collect::<Option<_>>()?;
    let shapes: Vec<Vec<usize>> = terms.iter().map(|term| term.shape()).collect();
    let first = shapes.first()?;
    let at = axis(int(node, "axis")?, first.len())?;
    let mut shape = first.clone();
    shape[at] = 0;
    for other in &shapes {
        let fits = other.len() == shape.len() && (0..shape.len()).all(|i| i == at || other[i] == shape[i]);
        if !fits {
            return None;
        }
        shape[at] = shape[at].checked_add(other[at])?;
    }
    if let [only] = terms.as_slice() {
        return Some((*only).clone());
    }
    let few = shape.len() == 1 && shape[0] <= MOST_NUMBERS;
    if few && terms.iter().all(|term| term.is_constant()) {
        let values: Vec<Vec<f64>> = terms.iter().map(|term| term.values()).collect::<Option<_>>()?;
        return Some(list(values.concat(), terms.iter().all(|term| term.integer)));
    }
    elements(&shape)?;
    Some(made(&shape))
}

fn binary(operator: &str, a: &Term, b: &Term) -> Option<Term> {
    let shape = broadcast(&a.shape(), &b.shape())?;
    let (left, right) = (a.same_everywhere(), b.same_everywhere());
    let integer =
        a.integer && b.integer || !matches!(operator, "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Max" | "Min");
    let calculate = |x: f64, y: f64| {
        let whole = a.integer && b.integer;
        let truth = |holds: bool| f64::from(u8::from(holds));
        Some(match operator {
            "Add" => x + y,
            "Sub" => x - y,
            "Mul" => x * y,
            "Div" if whole => (x / y).trunc(),
            "Div" => x / y,
            "Pow" => x.powf(y),
            "Mod" => x.rem_euclid(y),
            "Max" => x.max(y),
            "Min" => x.min(y),
            "Equal" => truth(x == y),
            "Less" => truth(x < y),
            "LessOrEqual" => truth(x <= y),
            "Greater" => truth(x > y),
            "GreaterOrEqual" => truth(x >= y),
            "And" => truth(x != 0.0 && y != 0.0),
            "Or" => truth(x != 0.0 || y != 0.0),
            _ => return None,
        })
    };
    if let (Some(x), Some(y)) = (left, right) {
        return Some(Term::uniform(calculate(x, y)?, &shape, integer));
    }
    if a.is_constant() && b.is_constant() {
        let numbers = |term: &Term| term.with(term.view.expand(&shape)?).values();
        return match (numbers(a), numbers(b)) {
            (Some(x), Some(y)) => {
                let values = x.into_iter().zip(y).map(|(x, y)| calculate(x, y)).collect::<Option<_>>()?;
                Some(Term::numbers(values, &shape, integer))
            }
            _ => Some(made(&shape)),
        };
    }
    let keeps = |term: &Term| (term.shape() == shape).then(|| term.clone());
    let times = |term: &Term, factor: f64| {
        let usable = factor.is_finite() && factor != 0.0;
        keeps(term).filter(|_| usable).map(|term| Term { factor: term.factor * factor, ..term })
    };
    let simpler = match (operator, left, right) {
        ("Add", Some(0.0), _) => keeps(b),
        ("Add" | "Sub", _, Some(0.0)) => keeps(a),
        ("Add", ..) if !b.integer && b.hides_nothing() => keeps(a),
        ("Mul", Some(x), _) => times(b, x),
        ("Mul", _, Some(y)) => times(a, y),
        ("Div", _, Some(y)) => times(a, 1.0 / y),
        ("Pow", _, Some(1.0)) => keeps(a),
        _ => None,
    };
    Some(simpler.unwrap_or_else(|| made(&shape)))
}

fn choose(condition: &Term, a: &Term, b: &Term) -> Option<Term> {
    let shape = broadcast(&broadcast(&condition.shape(), &a.shape())?, &b.shape())?;
    match condition.same_everywhere() {
        Some(value) => {
            let chosen = if value != 0.0 { a } else { b };
            Some(chosen.with(chosen.view.expand(&shape)?))
        }
        None => {
            let numbers = |term: &Term| term.with(term.view.expand(&shape)?).values();
            let (Some(c), Some(x), Some(y)) = (numbers(condition), numbers(a), numbers(b)) else {
                return Some(made(&shape));
            };
            let pick = c.into_iter().zip(x).zip(y).map(|((c, x), y)| if c != 0.0 { x } else { y });
            Some(Term::numbers(pick.collect(), &shape, a.integer && b.integer))
        }
    }
}

fn unary(node: &NodeProto, x: &Term) -> Term {
    let shape = x.shape();
    let calculate = |x: f64| {
        Some(match node.op_type.as_str() {
            "Sqrt" => x.sqrt(),
            "Neg" => -x,
            "Floor" => x.floor(),
            "Ceil" => x.ceil(),
            "Abs" => x.abs(),
            "Reciprocal" => 1.0 / x,
            "Exp" => x.exp(),
            "Not" => f64::from(u8::from(x == 0.0)),
            _ => return None,
        })
    };
    if let Some(value) = x.same_everywhere().and_then(calculate) {
        return Term::uniform(value, &shape, x.integer);
    }
    let values = x.values().and_then(|values| values.into_iter().map(calculate).collect::<Option<Vec<_>>>());
    match values {
        Some(values) if !values.is_empty() => Term::numbers(values, &shape, x.integer),
        _ => made(&shape),
    }
}

/// The axes that are reduced; all of them where the node does not say.
pub(super) fn reduced(node: &NodeProto, rank: usize, input: Option<&Term>) -> Option<Vec<usize>> {
    match ints(node, "axes", input) {
        Some(axes) if !axes.is_empty() => axes.into_iter().map(|n| axis(n, rank)).collect(),
        None if input.is_some() => None,
        _ if int(node, "noop_with_empty_axes").unwrap_or(0) != 0 => None,
        _ => Some((0..rank).collect()),
    }
}

fn reduce(node: &NodeProto, x: &Term, axes: Option<&Term>) -> Option<Term> {
    let mut shape = x.shape();
    let mut gone = reduced(node, shape.len(), axes)?;
    if let Some(values) = x.values().filter(|_| gone.len() == shape.len() && !shape.contains(&0)) {
        let all = values.into_iter();
        let value = match node.op_type.as_str() {
            "ReduceProd" => all.product(),
            "ReduceSum" => all.sum(),
            "ReduceMax" => all.fold(f64::NEG_INFINITY, f64::max),
            "ReduceMin" => all.fold(f64::INFINITY, f64::min),
            _ => return None,
        };
        let shape = if int(node, "keepdims").unwrap_or(1) != 0 { vec![1; shape.len()] } else { Vec::new() };
        return Some(Term::uniform(value, &shape, x.integer));
    }
    gone.sort_unstable();
    gone.dedup();
    for &at in gone.iter().rev() {
        match int(node, "keepdims").unwrap_or(1) {
            0 => drop(shape.remove(at)),
            _ => shape[at] = 1,
        }
    }
    Some(made(&shape))
}

fn product(a: &[usize], b: &[usize]) -> Option<Term> {
    let ([lead @ .., m, k], [others @ .., inner, n]) = (a, b) else { return None };
    if k != inner {
        return None;
    }
    let mut shape = broadcast(lead, others)?;
    shape.extend([m, n]);
    elements(&shape)?;
    Some(made(&shape))
}

fn gemm(node: &NodeProto, a: &[usize], b: &[usize]) -> Option<Term> {
    let (&[mut m, mut k], &[mut inner, mut n]) = (a, b) else { return None };
    if int(node, "transA").unwrap_or(0) != 0 {
        (m, k) = (k, m);
    }
    if int(node, "transB").unwrap_or(0) != 0 {
        (inner, n) = (n, inner);
    }
    elements(&[m, n]).filter(|_| k == inner).map(|_| made(&[m, n]))
}

fn convolved(node: &NodeProto, x: &[usize], weight: &[usize]) -> Option<Term> {
    let (&[b, _, h, w], &[d, _, kh, kw]) = (x, weight) else { return None };
    let strides = ints(node, "strides", None).unwrap_or(vec![1, 1]);
    let pads = ints(node, "pads", None).unwrap_or(vec![0; 4]);
    let (&[down, right], &[top, left, bottom, end]) = (strides.as_slice(), pads.as_slice()) else { return None };
    let along = |size: usize, kernel: usize, stride: i64, pads: i64| {
        let spare = i64::try_from(size).ok()?.checked_add(pads)?.checked_sub(i64::try_from(kernel).ok()?)?;
        usize::try_from(spare.checked_div(stride)?).ok().filter(|_| spare >= 0 && stride > 0).map(|n| n + 1)
    };
    let shape = [b, d, along(h, kh, down, top.checked_add(bottom)?)?, along(w, kw, right, left.checked_add(end)?)?];
    elements(&shape).map(|_| made(&shape))
}

/// The operator of opset 23: `[B, h, T, d]` of each head.
fn attention(node: &NodeProto, inputs: &[Option<Term>]) -> Option<Term> {
    let plain = node.output.iter().filter(|name| !name.is_empty()).count() == 1
        && inputs.iter().skip(3).flatten().all(Term::hides_nothing)
        && int(node, "is_causal").unwrap_or(0) == 0;
    let [q, v] = [0, 2].map(|at| inputs.get(at).and_then(Option::as_ref).map(Term::shape));
    let (q, v) = (q?, v?);
    let (&[b, h, t, _], &[_, _, _, d]) = (q.as_slice(), v.as_slice()) else { return None };
    plain.then(|| made(&[b, h, t, d]))
}
