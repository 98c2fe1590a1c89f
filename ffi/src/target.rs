//! What computes: the CPU, a GPU, or ONNX Runtime.

use crate::argument;
use crate::info::{FORETUNE_DEVICE_AUTO, FORETUNE_DEVICE_CPU};
use crate::status::{FORETUNE_BAD_OPTIONS, Failure, Result};
use foretune::backend::Precision;
use foretune::cpu;
#[cfg(feature = "cuda")]
use foretune::cuda;
#[cfg(feature = "ort")]
use foretune::engine::ort::{self, OrtOptions, Provider};
use std::ffi::c_char;

pub(crate) enum Target {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(usize),
    #[cfg(feature = "ort")]
    Ort(OrtOptions),
}

impl Target {
    /// Images a pass that more would not make much faster.
    pub fn usual_micro_batch(&self) -> usize {
        match self {
            Target::Cpu => cpu::USUAL_MICRO_BATCH,
            #[cfg(feature = "cuda")]
            Target::Cuda(_) => cuda::USUAL_MICRO_BATCH,
            #[cfg(feature = "ort")]
            Target::Ort(_) => ort::USUAL_MICRO_BATCH,
        }
    }

    /// Whether the memory it takes is known.
    pub fn is_bounded(&self) -> bool {
        match self {
            Target::Cpu => true,
            #[cfg(feature = "cuda")]
            Target::Cuda(_) => true,
            #[cfg(feature = "ort")]
            Target::Ort(_) => false,
        }
    }
}

/// What options say of it.
#[cfg_attr(not(feature = "ort"), expect(dead_code, reason = "some of it is looked at for ONNX Runtime alone"))]
pub(crate) struct Asked<const N: usize> {
    pub engine: *const c_char,
    pub ort_lib: *const c_char,
    pub device: i32,
    pub precision: Precision,
    pub threads: usize,
    /// Options for the native engine alone, and whether they are given.
    pub native: [(&'static str, bool); N],
}

impl<const N: usize> Asked<N> {
    /// Errors: names that nothing has; options of the other engine; a GPU or ONNX Runtime in a build without.
    ///
    /// # Safety
    /// The texts are null or valid for the call.
    pub unsafe fn target(&self) -> Result<Target> {
        // SAFETY: the caller's promise.
        let (engine, library) = unsafe {
            (argument::optional_text("engine", self.engine)?, argument::optional_text("ort_lib", self.ort_lib)?)
        };
        let engine = engine.unwrap_or("native");
        match engine.split_once(':').map_or((engine, None), |(name, provider)| (name, Some(provider))) {
            ("native", None) if library.is_some() => {
                Err(Failure::new(FORETUNE_BAD_OPTIONS, "ort_lib is for the engines ort and ort:PROVIDER"))
            }
            ("native", None) => device(self.device, self.precision),
            ("ort", provider) => self.ort(provider.unwrap_or("cpu"), library),
            _ => Err(Failure::argument(format!("engine is `{engine}`; give native, ort, or ort:PROVIDER"))),
        }
    }

    #[cfg(feature = "ort")]
    fn ort(&self, provider: &str, library: Option<&str>) -> Result<Target> {
        let provider: Provider =
            provider.parse().map_err(|error: foretune::Error| Failure::argument(format!("engine: {error}")))?;
        let others = [
            ("device", ![FORETUNE_DEVICE_CPU, FORETUNE_DEVICE_AUTO].contains(&self.device)),
            ("precision", self.precision != Precision::F32),
        ];
        match others.iter().chain(&self.native).find(|(_, given)| *given) {
            None => Ok(Target::Ort(OrtOptions { library: library.map(Into::into), provider, threads: self.threads })),
            Some(("budget", _)) => {
                let problem = "budget: what ONNX Runtime takes is not bounded; set it to 0, or the engine to native";
                Err(Failure::new(FORETUNE_BAD_OPTIONS, problem))
            }
            Some((name, _)) => Err(Failure::new(
                FORETUNE_BAD_OPTIONS,
                format!(
                    "{name} is for the native engine; leave its default, as the engine ort:PROVIDER says what computes"
                ),
            )),
        }
    }

    #[cfg(not(feature = "ort"))]
    fn ort(&self, _: &str, _: Option<&str>) -> Result<Target> {
        Err(crate::onnx_runtime::absent())
    }
}

/// Errors: a GPU was asked for by a number that none has, or in a build without.
fn device(device: i32, precision: Precision) -> Result<Target> {
    #[cfg(feature = "cuda")]
    return match device {
        FORETUNE_DEVICE_CPU => Ok(Target::Cpu),
        FORETUNE_DEVICE_AUTO => Ok(cuda::first_usable(precision).map_or(Target::Cpu, Target::Cuda)),
        ordinal => match usize::try_from(ordinal) {
            Ok(ordinal) => Ok(Target::Cuda(ordinal)),
            Err(_) => Err(Failure::argument(format!(
                "device is {ordinal}; give FORETUNE_DEVICE_CPU, _AUTO, or a GPU's number"
            ))),
        },
    };
    #[cfg(not(feature = "cuda"))]
    {
        let _ = precision;
        match device {
            FORETUNE_DEVICE_CPU | FORETUNE_DEVICE_AUTO => Ok(Target::Cpu),
            _ => Err(Failure::new(
                crate::status::FORETUNE_NO_DEVICE,
                "this build computes on the CPU only (feature `cuda`)",
            )),
        }
    }
}
