//! `foretune selftest`: is this build's arithmetic right on this machine?

use super::args::{Dtype, Global};
use super::device::DeviceChoice;
#[cfg(feature = "ort")]
use super::device::EngineChoice;
use super::job::SelftestJob;
use super::output;
#[cfg(feature = "cuda")]
use foretune::backend::Precision;
#[cfg(feature = "ort")]
use foretune::engine::ort;
use foretune::selftest::{Arithmetic, Check, run_case, run_random};
use foretune::{Error, Result};
use serde_json::json;

/// Seed of the random model.
const SEED: u64 = 0;

/// Whether every check passed.
pub(super) fn run(job: &SelftestJob, global: &Global) -> Result<bool> {
    let arithmetic = arithmetic(job)?;
    let checks = match &job.case {
        Some(case) => run_case(case, job.model.as_deref(), arithmetic, job.dump.as_deref())?,
        None => run_random(SEED, arithmetic)?,
    };
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    for check in &checks {
        print(check, width, global.json)?;
    }
    let failed = checks.iter().filter(|check| !check.passed()).count();
    if failed > 0 {
        output::note(&format!("error: {failed} of {} checks failed", checks.len()));
    }
    Ok(failed == 0)
}

fn arithmetic(job: &SelftestJob) -> Result<Arithmetic> {
    #[cfg(feature = "ort")]
    if let EngineChoice::Ort(provider) = job.engine.engine {
        ort::load(job.engine.ort_lib.as_deref())?;
        return Ok(Arithmetic::OnnxRuntime(provider));
    }
    match (job.device, job.dtype) {
        (_, Dtype::F64) => Ok(Arithmetic::F64),
        #[cfg(feature = "cuda")]
        (DeviceChoice::Cuda(device), dtype) => Ok(Arithmetic::Cuda(
            device,
            match dtype {
                Dtype::F16 => Precision::F16,
                Dtype::Bf16 => Precision::Bf16,
                _ => Precision::F32,
            },
        )),
        (DeviceChoice::Auto | DeviceChoice::Cpu, Dtype::F32) => Ok(Arithmetic::F32),
        (DeviceChoice::Auto | DeviceChoice::Cpu, Dtype::Bf16) => Ok(Arithmetic::Bf16),
        (DeviceChoice::Auto | DeviceChoice::Cpu, Dtype::F16) => {
            Err(Error::Options("the CPU has no f16 products; f16 is for --device cuda".into()))
        }
    }
}

fn print(check: &Check, width: usize, json: bool) -> Result<()> {
    let Check { name, error, tolerance, pytorch } = check;
    let passed = check.passed();
    if json {
        let line = json!({"check": name, "error": error, "tolerance": tolerance, "pytorch": pytorch, "passed": passed});
        return output::json(&line);
    }
    let verdict = if passed { "ok" } else { "FAILED" };
    let beside = pytorch.map_or(String::new(), |error| format!("  PyTorch {error:.2e}"));
    output::line(&format!("{name:<width$}  relative error {error:.2e}  (at most {tolerance:.1e})  {verdict}{beside}"))
}
