//! Checks of this build on this machine: golden cases, and a random model whose backends, derivatives and gradients must
//! agree with each other.

mod case;
mod probe;
mod random;

pub use case::{Case, run_case};
pub use random::run_random;

use serde::Serialize;

/// Arithmetic of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// The CPU backend.
    F32,
    /// The CPU backend with linear layers in bf16.
    Bf16,
    /// The reference backend.
    F64,
}

/// One compared quantity.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was compared.
    pub name: String,
    /// ‖out − ref‖/‖ref‖, or the absolute norm where the reference is zero.
    pub error: f64,
    /// Largest error that passes.
    pub tolerance: f64,
}

impl Check {
    fn new(name: impl Into<String>, found: &[f64], expected: &[f64], tolerance: f64) -> Self {
        Check { name: name.into(), error: relative_error(found, expected), tolerance }
    }

    /// Whether the error is within the tolerance; a NaN is not.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// ‖found − expected‖/‖expected‖.
fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    let reference = norm(&mut expected.iter().copied());
    if reference > 0.0 { difference / reference } else { difference }
}
