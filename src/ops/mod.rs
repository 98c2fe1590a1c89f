//! Contract, formula, cost and scalar reference of every operation: primal, tangent and VJP side by side.
//!
//! The reference is plain loops over a generic float. It is what the fast backends are compared with, and, at f64, what
//! the golden cases are reproduced with to 1e-9.

pub mod activation;
pub mod attention;
pub mod embed;
pub mod head;
pub mod linear;
pub mod loss;
pub mod norm;
mod reference;
pub mod residual;
#[cfg(test)]
pub(crate) mod table;

pub use reference::Reference;

use crate::weights::Element;
use num_traits::{Float, NumAssign};
use std::fmt::Debug;
use std::iter::Sum;

/// A float the reference can compute in.
pub trait Real: Element + Float + NumAssign + Sum + Default + Debug + Send + Sync + 'static {
    /// This value, exactly.
    fn f64(self) -> f64;
    /// The error function.
    fn erf(self) -> Self;
}

impl Real for f32 {
    fn f64(self) -> f64 {
        f64::from(self)
    }
    fn erf(self) -> Self {
        libm::erff(self)
    }
}

impl Real for f64 {
    fn f64(self) -> f64 {
        self
    }
    fn erf(self) -> Self {
        libm::erf(self)
    }
}

/// Σ aᵢbᵢ, left to right.
pub(crate) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}
