//! Heads on the head input f, in f32: formulas in [`ops::head`](crate::ops::head).

use super::dual::Dual;
use super::graph::{Element, Graph, Value, int};
use crate::model::Head;

/// What kind of head a graph has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadForm {
    Linear,
    Prototype,
}

impl From<&Head> for HeadForm {
    fn from(head: &Head) -> Self {
        match head {
            Head::Linear { .. } => HeadForm::Linear,
            Head::Prototype { .. } => HeadForm::Prototype,
        }
    }
}

/// A head's parameters in a graph.
pub(super) enum Parameters {
    Linear {
        /// `[C, D]`.
        weight: Value,
        /// `[C]`.
        bias: Value,
    },
    Prototype {
        /// `[D]`.
        center: Value,
        /// `[C, D]`.
        means: Value,
        /// `[1]`.
        tau: Value,
    },
}

impl Parameters {
    /// Those of `head`, as constants.
    pub fn of<'m>(g: &mut Graph<'m>, head: &'m Head) -> Self {
        let (classes, width) = (head.classes(), head.width());
        let mut tensor = |name: &str, dims: &[usize], values: &'m [f32]| {
            g.tensor_of(Element::F32, format!("head.{name}"), dims, move || Ok(values.to_vec()))
        };
        let rows = |matrix: &'m ndarray::Array2<f32>| matrix.as_slice().expect("head matrices are row-major");
        let vector = |vector: &'m ndarray::Array1<f32>| vector.as_slice().expect("one axis");
        match head {
            Head::Linear { weight, bias } => Parameters::Linear {
                weight: tensor("weight", &[classes, width], rows(weight)),
                bias: tensor("bias", &[classes], vector(bias)),
            },
            Head::Prototype { center, means, tau } => Parameters::Prototype {
                center: tensor("center", &[width], vector(center)),
                means: tensor("means", &[classes, width], rows(means)),
                tau: tensor("tau", &[1], std::slice::from_ref(tau)),
            },
        }
    }
}

/// Logits `[B, C]` of head inputs `[B, D]`, tangents `[K, B, C]` of theirs.
pub(super) fn logits(g: &mut Graph, head: &Parameters, f: &Dual) -> Dual {
    g.enter("head");
    match head {
        Parameters::Linear { weight, bias } => {
            let primal = g.node("Gemm", &[&f.primal, weight, bias], vec![int("transB", 1)]);
            Dual { tangents: f.tangents.as_ref().map(|df| by_rows(g, df, weight)), ..primal.into() }
        }
        Parameters::Prototype { center, means, tau } => {
            let tiny = g.number(1e-30);
            let offset = g.sub(&f.primal, center);
            let axis = g.ints(&[-1]);
            let length = g.node("ReduceL2", &[&offset, &axis], vec![int("keepdims", 1)]);
            let length = g.node("Max", &[&length, &tiny], Vec::new());
            let direction = g.div(&offset, &length);
            let z = g.node("Gemm", &[&direction, means], vec![int("transB", 1)]);
            let primal = g.mul(&z, tau);
            let tangents = f.tangents.as_ref().map(|df| {
                let along = g.mul(&direction, df);
                let along = g.sum(&along);
                let along = g.mul(&direction, &along);
                let rest = g.sub(df, &along);
                let turned = g.div(&rest, &length);
                let dz = by_rows(g, &turned, means);
                g.mul(&dz, tau)
            });
            Dual { tangents, ..primal.into() }
        }
    }
}

/// `[K, B, D]` times the rows of `[C, D]`: `[K, B, C]`.
fn by_rows(g: &mut Graph, x: &Value, rows: &Value) -> Value {
    let columns = g.transpose(rows, &[1, 0]);
    g.matmul(x, &columns)
}
