//! Heads on the head input f, in f32: formulas in [`ops::head`](crate::ops::head).

use super::graph::{Element, Graph, Value, int};
use crate::model::Head;

/// Logits `[B, C]` of head inputs `[B, D]`.
pub(super) fn logits<'m>(g: &mut Graph<'m>, head: &'m Head, f: &Value) -> Value {
    let (classes, width) = (head.classes(), head.width());
    g.enter("head");
    let mut tensor = |name: &str, dims: &[usize], values: &'m [f32], scale: f32| {
        g.tensor_of(Element::F32, format!("head.{name}"), dims, move || {
            Ok(values.iter().map(|value| value * scale).collect())
        })
    };
    let rows = |matrix: &'m ndarray::Array2<f32>| matrix.as_slice().expect("head matrices are row-major");
    let transposed = vec![int("transB", 1)];
    match head {
        Head::Linear { weight, bias } => {
            let weight = tensor("weight", &[classes, width], rows(weight), 1.0);
            let bias = tensor("bias", &[classes], bias.as_slice().expect("one axis"), 1.0);
            g.node("Gemm", &[f, &weight, &bias], transposed)
        }
        Head::Prototype { center, means, tau } => {
            let center = tensor("center", &[width], center.as_slice().expect("one axis"), 1.0);
            let means = tensor("means", &[classes, width], rows(means), *tau);
            let tiny = g.tensor_of(Element::F32, "head.tiny".into(), &[], || Ok(vec![1e-30]));
            let offset = g.sub(f, &center);
            let axis = g.ints(&[-1]);
            let length = g.node("ReduceL2", &[&offset, &axis], vec![int("keepdims", 1)]);
            let length = g.node("Max", &[&length, &tiny], Vec::new());
            let direction = g.div(&offset, &length);
            g.node("Gemm", &[&direction, &means], transposed)
        }
    }
}
