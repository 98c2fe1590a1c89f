//! A value of the graph: elements of a tensor, where they are known.

use super::source::{Constant, MOST_NUMBERS};
use super::view::View;
use crate::weights::TensorRef;
use std::rc::Rc;

/// The tensor that a value's elements come from.
#[derive(Clone, Debug)]
pub(super) enum Base {
    /// What an operation makes, or an input of the graph.
    Value(usize),
    /// A tensor of the file.
    Stored(Rc<TensorRef>),
    /// Known numbers.
    Numbers(Rc<Vec<f64>>),
}

/// A value: elements of `base`, each times `factor`.
#[derive(Clone, Debug)]
pub(super) struct Term {
    pub base: Base,
    pub factor: f64,
    pub view: View,
    /// Integers or truth values.
    pub integer: bool,
}

impl Term {
    pub fn numbers(values: Vec<f64>, shape: &[usize], integer: bool) -> Self {
        Term { base: Base::Numbers(Rc::new(values)), factor: 1.0, view: View::whole(shape), integer }
    }

    pub fn uniform(value: f64, shape: &[usize], integer: bool) -> Self {
        let base = Base::Numbers(Rc::new(vec![value]));
        Term { base, factor: 1.0, view: View::repeated(shape), integer }
    }

    pub fn shape(&self) -> Vec<usize> {
        self.view.shape()
    }

    pub fn with(&self, view: View) -> Self {
        Term { view, ..self.clone() }
    }

    pub fn is_constant(&self) -> bool {
        !matches!(self.base, Base::Value(_))
    }

    /// Its elements, if they are constant and few.
    pub fn values(&self) -> Option<Vec<f64>> {
        if self.view.len() > MOST_NUMBERS {
            return None;
        }
        let pick = |all: &[f64]| self.view.places().map(|place| all.get(place).map(|v| v * self.factor)).collect();
        match &self.base {
            Base::Value(_) => None,
            Base::Numbers(values) => pick(values),
            Base::Stored(tensor) => {
                let mut one = [0.0f64];
                let read = |place| tensor.read_at(place, &mut one).ok().map(|()| one[0] * self.factor);
                self.view.places().map(read).collect()
            }
        }
    }

    /// The number that all elements are.
    pub fn same_everywhere(&self) -> Option<f64> {
        if !self.is_constant() || !self.view.single() {
            return None;
        }
        self.with(View::one(self.view.start)).values()?.first().copied()
    }

    /// Whether a mask hides nothing: it is true, or zero where it is added.
    pub fn hides_nothing(&self) -> bool {
        match (&self.base, self.same_everywhere()) {
            (_, Some(value)) => {
                if self.integer {
                    value != 0.0
                } else {
                    value == 0.0
                }
            }
            (Base::Stored(tensor), None) => self.shape().len() == 4 && tensor.bytes().iter().all(|&byte| byte == 0),
            _ => false,
        }
    }

    /// The same elements in the same order, whatever the axes, up to a common factor.
    pub fn proportional(&self, other: &Term) -> bool {
        let base = match (&self.base, &other.base) {
            (Base::Value(a), Base::Value(b)) => a == b,
            (Base::Stored(a), Base::Stored(b)) => Rc::ptr_eq(a, b),
            (Base::Numbers(a), Base::Numbers(b)) => Rc::ptr_eq(a, b),
            _ => false,
        };
        base && self.view.same(&other.view)
    }

    /// The same elements in the same order, whatever the axes.
    pub fn same(&self, other: &Term) -> bool {
        self.factor == other.factor && self.proportional(other)
    }
}

/// What an operation computes; it gets its number when it is defined.
pub(super) fn made(shape: &[usize]) -> Term {
    Term { base: Base::Value(usize::MAX), factor: 1.0, view: View::whole(shape), integer: false }
}

/// A tensor of the file as a value.
pub(super) fn stored(constant: Constant) -> Term {
    match constant {
        Constant::Stored(tensor) => {
            let view = View::whole(tensor.shape());
            Term { base: Base::Stored(Rc::new(tensor)), factor: 1.0, view, integer: false }
        }
        Constant::Numbers { values, shape, integer } if shape == [0] => {
            // Nothing: what reshapes to a single number read.
            Term { base: Base::Numbers(Rc::new(values)), factor: 1.0, view: View::none(), integer }
        }
        Constant::Numbers { values, shape, integer } => Term::numbers(values, &shape, integer),
        Constant::Uniform { value, shape, integer } => Term::uniform(value, &shape, integer),
        Constant::Other(_) => Term::numbers(vec![f64::NAN], &[], false),
    }
}
