//! `foretune doctor`: devices, what was found of their software, and whether they compute correctly.

use super::args::Global;
use super::output;
use foretune::Result;
use foretune::cpu::isa::Isa;
#[cfg(feature = "ort")]
use foretune::engine::ort;
use foretune::selftest::{Arithmetic, run_random};
use serde_json::json;

#[cfg(feature = "cuda")]
use foretune::{
    backend::Precision,
    cuda::{self, CudaBackend, CudaOptions, DeviceInfo},
    memory::Budget,
};

/// Whether every device that can be used computes correctly.
pub(super) fn run(global: &Global) -> Result<bool> {
    let isa = Isa::detect()?.name();
    let sound = parity(global, "cpu", "f32", Arithmetic::F32, &format!("CPU, {isa}, f32"))?;
    let sound = sound & gpus(global)?;
    onnx_runtime(global).map(|runtime| sound && runtime)
}

/// Whether ONNX Runtime, if there is one, computes correctly.
#[cfg(not(feature = "ort"))]
fn onnx_runtime(_: &Global) -> Result<bool> {
    output::line("this build has no ONNX Runtime (feature `ort`)").map(|()| true)
}

/// Whether ONNX Runtime, if there is one, computes correctly.
#[cfg(feature = "ort")]
fn onnx_runtime(global: &Global) -> Result<bool> {
    let runtime = match ort::load(None) {
        Ok(runtime) => runtime,
        Err(reason) if global.json => {
            let line = json!({"device": "ort", "usable": false, "reason": reason.to_string()});
            return output::json(&line).map(|()| true);
        }
        Err(reason) => return output::line(&reason.to_string()).map(|()| true),
    };
    let mut providers = Vec::new();
    for provider in ort::Provider::all() {
        if provider.is_built_in()? {
            providers.push(provider.to_string());
        }
    }
    if global.json {
        output::json(&json!({
            "device": "ort", "usable": true, "path": runtime.path, "version": runtime.version, "providers": providers,
        }))?;
    } else {
        let (version, path) = (&runtime.version, runtime.path.display());
        output::line(&format!("ONNX Runtime {version}, {path}"))?;
        output::line(&format!("  execution providers: {}", providers.join(", ")))?;
    }
    parity(global, "ort:cpu", "f32", Arithmetic::OnnxRuntime(ort::Provider::Cpu), "  ort:cpu, f32")
}

/// Whether every GPU that can be used computes correctly.
#[cfg(not(feature = "cuda"))]
fn gpus(_: &Global) -> Result<bool> {
    output::line("this build has no CUDA (feature `cuda`)").map(|()| true)
}

/// Whether every GPU that can be used computes correctly.
#[cfg(feature = "cuda")]
fn gpus(global: &Global) -> Result<bool> {
    let mut sound = true;
    match cuda::devices() {
        Ok(devices) => {
            for device in devices {
                sound &= check(&device, global)?;
            }
        }
        Err(reason) if global.json => {
            output::json(&json!({"device": "cuda", "usable": false, "reason": reason.to_string()}))?
        }
        Err(reason) => output::line(&reason.to_string())?,
    }
    Ok(sound)
}

#[cfg(feature = "cuda")]
fn check(info: &DeviceInfo, global: &Global) -> Result<bool> {
    let DeviceInfo { ordinal, name, capability: (major, minor), driver, multiprocessors, .. } = info;
    let device = format!("cuda:{ordinal}");
    let open = |precision| CudaBackend::new(CudaOptions { device: *ordinal, precision, ..CudaOptions::default() });
    let backend = match open(Precision::F32) {
        Ok(backend) => backend,
        Err(reason) => {
            match global.json {
                true => output::json(
                    &json!({"device": device, "name": name, "usable": false, "reason": reason.to_string()}),
                )?,
                false => output::line(&format!("{device}: {name}: {reason}"))?,
            }
            return Ok(true);
        }
    };
    let (free, total) = backend.device().free_memory()?;
    let (kernels, products) = (backend.architecture(), backend.products());
    let version = format!("{}.{}", driver / 1000, driver % 1000 / 10);
    if global.json {
        output::json(&json!({
            "device": device,
            "name": name,
            "usable": true,
            "compute_capability": [major, minor],
            "driver_cuda": version,
            "multiprocessors": multiprocessors,
            "free_bytes": free,
            "total_bytes": total,
            "kernels_for": [kernels.0, kernels.1],
            "products": products,
        }))?;
    } else {
        output::line(&format!(
            "{device}: {name}, compute capability {major}.{minor}, {multiprocessors} multiprocessors"
        ))?;
        output::line(&format!("  driver for CUDA {version}; {} of {} free", Budget(free), Budget(total)))?;
        output::line(&format!("  kernels compiled for {}.{}; matrix products by {products}", kernels.0, kernels.1))?;
    }
    drop(backend);
    let mut sound = true;
    for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
        if precision == Precision::Bf16 && info.capability < (8, 0) {
            continue;
        }
        let what = format!("  {device}, {precision}");
        sound &= parity(global, &device, &precision.to_string(), Arithmetic::Cuda(*ordinal, precision), &what)?;
    }
    Ok(sound)
}

/// Runs the self-test of a random model and says how it went.
fn parity(global: &Global, device: &str, precision: &str, arithmetic: Arithmetic, what: &str) -> Result<bool> {
    let checks = run_random(0, arithmetic)?;
    let failed = checks.iter().filter(|check| !check.passed()).count();
    let closest = checks.iter().map(|check| check.error / check.tolerance).fold(0.0, f64::max);
    if global.json {
        let line = json!({
            "device": device, "precision": precision, "checks": checks.len(), "failed": failed,
            "largest_error_over_tolerance": closest,
        });
        output::json(&line)?;
    } else {
        let verdict = if failed == 0 { "ok".to_owned() } else { format!("{failed} FAILED") };
        output::line(&format!(
            "{what}: parity with the reference over {} checks: {verdict} (largest error {:.0} % of what is allowed)",
            checks.len(),
            100.0 * closest
        ))?;
    }
    Ok(failed == 0)
}
