//! Which device computes: `--device`.

use super::args::Global;
use super::job::ModelSource;
use super::load;
use clap::Args;
use foretune::cpu::{self, CpuOptions};
use foretune::engine::{self, Engine};
use foretune::memory::{Plan, Planned};
use foretune::model::{Model, PromptLayout};
use foretune::{Error, Result};
#[cfg(feature = "ort")]
use foretune::{
    engine::ort::{self, OrtModel, OrtOptions, Provider},
    tune::GuessKind,
};
use std::path::PathBuf;
use std::str::FromStr;

#[cfg(feature = "cuda")]
use foretune::{cuda, cuda::CudaOptions};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeviceChoice {
    /// The first GPU that can be used, else the CPU.
    Auto,
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => cuda(0),
            _ => match text.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(ordinal)) => cuda(ordinal),
                _ => Err(Error::Options("expected auto, cpu, cuda, or cuda:N".into())),
            },
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<DeviceChoice> {
    Ok(DeviceChoice::Cuda(ordinal))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<DeviceChoice> {
    Err(Error::Options("this build has no CUDA (feature `cuda`)".into()))
}

/// Whose kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EngineChoice {
    Native,
    #[cfg(feature = "ort")]
    Ort(Provider),
}

impl FromStr for EngineChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':').map_or((text, None), |(name, provider)| (name, Some(provider))) {
            ("native", None) => Ok(EngineChoice::Native),
            #[cfg(feature = "ort")]
            ("ort", provider) => provider.unwrap_or("cpu").parse().map(EngineChoice::Ort),
            #[cfg(not(feature = "ort"))]
            ("ort", _) => Err(Error::Options("this build has no ONNX Runtime (feature `ort`)".into())),
            _ => Err(Error::Options("expected native, ort, or ort:PROVIDER".into())),
        }
    }
}

/// Whose kernels run, and where they are.
#[derive(Clone, Debug, Args)]
pub(super) struct EngineArgs {
    /// Whose kernels run: native (this program's), or ort[:PROVIDER] (ONNX Runtime's; cpu, cuda, tensorrt, openvino, coreml,
    /// directml, qnn or xnnpack)
    ///
    /// ONNX Runtime is loaded when it is asked for; `foretune doctor` says what was found of it.
    #[arg(long, value_name = "ENGINE", default_value = "native")]
    pub(super) engine: EngineChoice,
    /// ONNX Runtime's library, or the folder that has it [default: ORT_DYLIB_PATH, then the usual places]
    #[arg(long, value_name = "PATH")]
    pub(super) ort_lib: Option<PathBuf>,
}

impl EngineArgs {
    /// Errors: a library for an engine that loads none.
    pub(super) fn check(&self) -> Result<()> {
        match (self.engine, &self.ort_lib) {
            (EngineChoice::Native, Some(_)) => Err(Error::Options("--ort-lib is for --engine ort".into())),
            _ => Ok(()),
        }
    }
}

/// What computes, and how.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Cpu(CpuOptions),
    #[cfg(feature = "cuda")]
    Cuda(CudaOptions),
    #[cfg(feature = "ort")]
    Ort(OrtOptions),
}

impl Target {
    /// Where `model` is to run; a GPU that was asked for and is not there is found out later.
    pub(super) fn new(model: &ModelSource, global: &Global) -> Target {
        #[cfg(feature = "ort")]
        if let EngineChoice::Ort(provider) = model.engine.engine {
            return Target::Ort(OrtOptions {
                library: model.engine.ort_lib.clone(),
                provider,
                threads: load::threads(global),
            });
        }
        let cpu = Target::Cpu(load::cpu(model, global));
        #[cfg(feature = "cuda")]
        let options =
            |device| Target::Cuda(CudaOptions { device, precision: model.precision, ..CudaOptions::default() });
        match model.device {
            DeviceChoice::Cpu => cpu,
            #[cfg(feature = "cuda")]
            DeviceChoice::Cuda(device) => options(device),
            #[cfg(feature = "cuda")]
            DeviceChoice::Auto => match cuda::first_usable(model.precision) {
                Ok(device) => options(device),
                Err(reason) => {
                    log::info!("computing on the CPU: {reason}");
                    cpu
                }
            },
            #[cfg(not(feature = "cuda"))]
            DeviceChoice::Auto => cpu,
        }
    }

    /// How a job is carried out here within `budget`.
    pub(super) fn plan(&self, job: Planned, budget: Option<foretune::memory::Budget>) -> Result<Plan> {
        match self {
            Target::Cpu(_) => Plan::new(job, budget),
            #[cfg(feature = "cuda")]
            Target::Cuda(options) => Plan::on_device(job, options.precision, budget),
            #[cfg(feature = "ort")]
            Target::Ort(_) if budget.is_some() => {
                Err(Error::Options("--budget: what ONNX Runtime takes is not bounded; drop it, or --engine ort".into()))
            }
            #[cfg(feature = "ort")]
            Target::Ort(_) => Plan::new(job, budget),
        }
    }

    /// An engine for passes of up to `examples` examples without tangents. Errors: as the engine's own.
    pub(super) fn engine(&self, model: &Model, layout: PromptLayout, examples: usize) -> Result<Box<dyn Engine>> {
        Ok(match self {
            Target::Cpu(options) => Box::new(engine::cpu(model, *options)?.engine(layout, examples, 0)?),
            #[cfg(feature = "cuda")]
            Target::Cuda(options) => Box::new(cuda::load(model, *options)?.engine(layout, examples, 0)?),
            #[cfg(feature = "ort")]
            Target::Ort(options) => {
                Box::new(OrtModel::new(model, options.clone())?.engine(layout, examples, 0, GuessKind::None)?)
            }
        })
    }

    /// Images a pass that more would not make much faster, of a batch of `batch`.
    pub(super) fn micro_batch(&self, batch: usize) -> usize {
        match self {
            Target::Cpu(_) => batch.min(cpu::USUAL_MICRO_BATCH),
            #[cfg(feature = "cuda")]
            Target::Cuda(_) => batch.min(cuda::USUAL_MICRO_BATCH),
            #[cfg(feature = "ort")]
            Target::Ort(_) => batch.min(ort::USUAL_MICRO_BATCH),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        let choice = |text: &str| text.parse::<DeviceChoice>();
        assert_eq!(choice("auto").unwrap(), DeviceChoice::Auto);
        #[cfg(feature = "cuda")]
        for (name, ordinal) in [("cuda", 0), ("cuda:3", 3)] {
            assert_eq!(choice(name).unwrap(), DeviceChoice::Cuda(ordinal));
        }
        for bad in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            assert!(choice(bad).expect_err(bad).is_usage());
        }
    }
}
