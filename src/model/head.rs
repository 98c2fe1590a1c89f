//! What turns a head input into logits.

use ndarray::{Array1, Array2};

/// A classifier on the head input of D elements (see [`ModelSpec::head_width`](super::ModelSpec::head_width)).
#[derive(Clone, Debug, PartialEq)]
pub enum Head {
    /// z = τ·M·u with u = (f − c)/‖f − c‖: scaled cosine to class means.
    Prototype {
        /// c, `[D]`: the mean of the training set's head inputs.
        center: Array1<f32>,
        /// M, `[C, D]`: centred class means of unit norm.
        means: Array2<f32>,
        /// τ.
        tau: f32,
    },
    /// z = Wf + b.
    Linear {
        /// W, `[C, D]`.
        weight: Array2<f32>,
        /// b, `[C]`.
        bias: Array1<f32>,
    },
}

impl Head {
    /// Classes C.
    pub fn classes(&self) -> usize {
        match self {
            Head::Prototype { means, .. } => means.nrows(),
            Head::Linear { weight, .. } => weight.nrows(),
        }
    }

    /// Head input width D.
    pub fn width(&self) -> usize {
        match self {
            Head::Prototype { means, .. } => means.ncols(),
            Head::Linear { weight, .. } => weight.ncols(),
        }
    }
}
