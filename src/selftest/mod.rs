//! Checks of this build on this machine: golden cases, and a random model whose backends, derivatives and gradients must
//! agree with each other.

mod case;
mod peer;
mod probe;
mod random;

pub use case::{Case, run_case};
pub use random::run_random;

use crate::backend::Precision;
use crate::cpu::CpuOptions;
#[cfg(feature = "ort")]
use crate::engine::ort::Provider;
use serde::Serialize;

/// Arithmetic of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// The CPU backend.
    F32,
    /// The CPU backend with linear layers in bf16.
    Bf16,
    /// The reference backend.
    F64,
    /// The GPU of this number, everything stored in this precision.
    #[cfg(feature = "cuda")]
    Cuda(usize, Precision),
    /// ONNX Runtime, f32: dual passes; exact gradients are the CPU backend's.
    #[cfg(feature = "ort")]
    OnnxRuntime(Provider),
}

impl Arithmetic {
    /// Largest relative errors of values and of derivatives.
    fn tolerances(self) -> [f64; 2] {
        match self {
            Arithmetic::F32 => [2e-5, 1e-4],
            Arithmetic::F64 => [1e-9, 1e-9],
            #[cfg(feature = "ort")]
            Arithmetic::OnnxRuntime(_) => [2e-5, 1e-4],
            Arithmetic::Bf16 => [3e-2, 2e-1],
            #[cfg(feature = "cuda")]
            Arithmetic::Cuda(_, Precision::F32) => [2e-5, 1e-3],
            #[cfg(feature = "cuda")]
            Arithmetic::Cuda(_, Precision::F16) => [5e-3, 5e-2],
            #[cfg(feature = "cuda")]
            Arithmetic::Cuda(_, Precision::Bf16) => [3e-2, 2e-1],
        }
    }

    /// Whether PyTorch's errors in the same precision were measured, and in which.
    fn measured(self) -> Option<Precision> {
        match self {
            Arithmetic::F32 | Arithmetic::F64 => None,
            #[cfg(feature = "ort")]
            Arithmetic::OnnxRuntime(_) => None,
            Arithmetic::Bf16 => Some(Precision::Bf16),
            #[cfg(feature = "cuda")]
            Arithmetic::Cuda(_, precision) => Some(precision).filter(|&precision| precision != Precision::F32),
        }
    }

    /// The CPU backend that computes so, or comes closest.
    fn cpu_options(self) -> CpuOptions {
        let precision = if self == Arithmetic::Bf16 { Precision::Bf16 } else { Precision::F32 };
        CpuOptions { precision, ..CpuOptions::default() }
    }
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
    /// PyTorch's error on the same case in the same precision, where it was measured.
    pub pytorch: Option<f64>,
}

impl Check {
    fn new(name: impl Into<String>, found: &[f64], expected: &[f64], tolerance: f64) -> Self {
        Check { name: name.into(), error: relative_error(found, expected), tolerance, pytorch: None }
    }

    /// Beside PyTorch's error, which bounds it too, but for losses: a case has two to four of them, and the error of so few
    /// numbers is chance. Over all cases together theirs bounds ours (`tests/golden.rs`), on a GPU of everything: what is stored
    /// there is rounded as often as in PyTorch, so that on a single case either may be the luckier one.
    fn bounded_by(self, pytorch: Option<f64>) -> Self {
        let bound = pytorch.filter(|_| self.name != "losses").map_or(f64::INFINITY, |theirs| peer::MOST * theirs);
        Check { tolerance: self.tolerance.min(bound), pytorch, ..self }
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
