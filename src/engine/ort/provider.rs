//! What ONNX Runtime computes on.

use super::failed;
use crate::{Error, Result};
use ort::ep::{self, ExecutionProvider};
use ort::session::builder::SessionBuilder;
use std::fmt;
use std::str::FromStr;

/// An execution provider of ONNX Runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provider {
    /// The CPU: in every ONNX Runtime.
    #[default]
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
    /// NVIDIA GPUs, by TensorRT.
    TensorRt,
    /// Intel CPUs, GPUs and NPUs.
    OpenVino,
    /// Apple's devices.
    CoreMl,
    /// GPUs on Windows.
    DirectMl,
    /// Qualcomm's devices.
    Qnn,
    /// CPUs, by XNNPACK.
    Xnnpack,
}

const ALL: [(Provider, &str); 8] = [
    (Provider::Cpu, "cpu"),
    (Provider::Cuda, "cuda"),
    (Provider::TensorRt, "tensorrt"),
    (Provider::OpenVino, "openvino"),
    (Provider::CoreMl, "coreml"),
    (Provider::DirectMl, "directml"),
    (Provider::Qnn, "qnn"),
    (Provider::Xnnpack, "xnnpack"),
];

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ALL.iter().find(|(provider, _)| provider == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for Provider {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = ALL.iter().find(|(_, name)| *name == text).map(|(provider, _)| *provider);
        found.ok_or_else(|| {
            let names = ALL.map(|(_, name)| name).join(", ");
            Error::Options(format!("`{text}` is no execution provider; there are {names}"))
        })
    }
}

impl Provider {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Provider> {
        ALL.into_iter().map(|(provider, _)| provider)
    }

    fn with<T>(self, run: impl FnOnce(&dyn ExecutionProvider) -> T) -> T {
        match self {
            Provider::Cpu => run(&ep::CPU::default()),
            Provider::Cuda => run(&ep::CUDA::default()),
            Provider::TensorRt => run(&ep::TensorRT::default()),
            Provider::OpenVino => run(&ep::OpenVINO::default()),
            Provider::CoreMl => run(&ep::CoreML::default()),
            Provider::DirectMl => run(&ep::DirectML::default()),
            Provider::Qnn => run(&ep::QNN::default()),
            Provider::Xnnpack => run(&ep::XNNPACK::default()),
        }
    }

    /// Whether the ONNX Runtime that is loaded was built with it. Errors: [`Error::OnnxRuntime`].
    pub fn is_built_in(self) -> Result<bool> {
        self.with(|provider| provider.is_available()).map_err(|error| failed("list execution providers", &error))
    }

    /// Errors: [`Error::OnnxRuntime`] when the ONNX Runtime that is loaded was built without it.
    pub(super) fn demand(self) -> Result<()> {
        if self == Provider::Cpu || self.is_built_in()? {
            return Ok(());
        }
        let built: Vec<String> = Provider::all()
            .filter(|provider| provider.is_built_in().unwrap_or(false))
            .map(|provider| provider.to_string())
            .collect();
        Err(Error::OnnxRuntime(format!(
            "this build has no execution provider `{self}`, only {}; give the path of another build (--ort-lib, ort_lib)",
            built.join(", ")
        )))
    }

    /// Adds it to a session. Errors: [`Error::OnnxRuntime`] when it cannot start.
    pub(super) fn register(self, builder: &mut SessionBuilder) -> Result<()> {
        if self == Provider::Cpu {
            return Ok(());
        }
        self.with(|provider| provider.register(builder))
            .map_err(|error| failed(&format!("start the execution provider `{self}`"), &error))
    }
}
