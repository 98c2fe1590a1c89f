//! The command on a GPU, here an emulated one: what it finds, what it does when the device fails, and that it keeps to its budget.
#![cfg(feature = "cuda")]

mod common;
#[allow(dead_code, reason = "not every test loads it into itself")]
mod emulator;

use common::{Bench, command, failure, smallest_budget, text};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// What the emulator is to do wrong: see `tests/emulator`.
fn on_gpu(folder: &Path, args: &[impl AsRef<std::ffi::OsStr>], faults: &str) -> std::process::Output {
    let mut command = command(args);
    command.env("LD_LIBRARY_PATH", folder).env("FORETUNE_EMULATOR_FAIL", faults);
    command.output().unwrap()
}

/// Runs on the GPU, expects success, and returns standard output.
fn succeeds(folder: &Path, args: &[impl AsRef<std::ffi::OsStr>]) -> String {
    let output = on_gpu(folder, args, "");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs on a GPU with faults, expects exit code 1 and one error, and returns its message.
fn fails(folder: &Path, args: &[impl AsRef<std::ffi::OsStr>], faults: &str) -> String {
    let output = on_gpu(folder, args, faults);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{faults}: {message}");
    assert_eq!(message.matches("error: ").count(), 1, "{message}");
    message
}

fn values(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const TUNE: &str = "--steps 20 --batch 4 --prompts 2 --tangents 2 --threads 1 --head linear";

/// Losses of a run's steps.
fn losses(lines: &str) -> Vec<f64> {
    let steps = values(lines).into_iter().filter(|line| line["event"] == "step");
    steps.map(|step| step["loss"].as_f64().unwrap()).collect()
}

#[test]
fn without_a_driver_the_cpu_computes() {
    let bench = Bench::new(4, 2);
    // An empty folder in place of the system's: only what is installed for all would still be found.
    if !failure(&["selftest", "--device", "cuda:99"], 1).contains("not installed") {
        return eprintln!("SKIPPED: this machine has NVIDIA's driver");
    }
    let message = failure(&bench.tune("a.safetensors", &format!("{TUNE} --device cuda --quiet")), 1);
    assert!(message.contains("no CUDA device") && message.contains("--device cpu"), "{message}");
    assert!(bench.outputs().is_empty());
    common::success(&bench.tune("a.safetensors", &format!("{TUNE} --device auto --quiet")));
    assert!(common::success(&["doctor"]).contains("no CUDA device"));
}

#[test]
fn what_is_wrong_with_a_device_is_said() {
    let Some(folder) = emulator::folder() else { return };
    let selftest = ["selftest", "--device", "cuda"];
    for (faults, expected) in [
        ("init:100", "driver does not start"),
        ("driver:11080", "CUDA 11.8 and 12.0 is needed"),
        ("devices:0", "CUDA_ERROR_NO_DEVICE"),
        ("capability:70", "compute capability 7.0 and 7.5 is needed"),
        ("context:2", "its memory is full"),
        ("context:46", "another process has it"),
    ] {
        let message = fails(folder, &selftest, faults);
        assert!(message.contains("no CUDA device") && message.contains(expected), "{faults}: {message}");
    }
    let bf16 = ["selftest", "--device", "cuda", "--dtype", "bf16"];
    assert!(fails(folder, &bf16, "capability:75").contains("bf16 needs compute capability 8.0"));
    let found = values(&succeeds(folder, &["doctor", "--json"]));
    assert!(found.iter().any(|line| line["device"] == "cuda:0" && line["usable"] == true), "{found:?}");
    assert!(found.iter().all(|line| line["failed"].as_u64().unwrap_or(0) == 0), "{found:?}");
    // A device without bf16 is one like any other.
    assert!(on_gpu(folder, &["doctor"], "capability:75").status.success());
}

#[test]
fn twenty_steps_follow_the_cpus_and_repeat() {
    let Some(folder) = emulator::folder() else { return };
    let bench = Bench::new(4, 2);
    let run = |name: &str, device: &str| bench.tune(name, &format!("{TUNE} --json --device {device}"));
    let cpu = losses(&common::success(&run("cpu.safetensors", "cpu")));
    let gpu = losses(&succeeds(folder, &run("gpu.safetensors", "cuda")));
    assert_eq!((cpu.len(), gpu.len()), (20, 20));
    for (step, (cpu, gpu)) in cpu.iter().zip(&gpu).enumerate() {
        assert!((cpu - gpu).abs() <= 1e-3 * cpu.abs(), "step {step}: {cpu} on the CPU, {gpu} on the GPU");
    }
    assert_ne!(cpu[0], cpu[19]);
    succeeds(folder, &run("again.safetensors", "cuda"));
    let file = |name: &str| fs::read(bench.path("out").join(name)).unwrap();
    assert!(file("gpu.safetensors") == file("again.safetensors"), "two runs on one device differ");
    for precision in ["f16", "bf16"] {
        let half = losses(&succeeds(folder, &run("half.safetensors", &format!("cuda --precision {precision}"))));
        for (step, (cpu, half)) in cpu.iter().zip(&half).enumerate() {
            assert!((cpu - half).abs() <= 0.1 * cpu.abs(), "{precision}, step {step}: {cpu} and {half}");
        }
    }
}

#[test]
fn a_budget_is_kept_to_and_all_is_given_back() {
    let Some(folder) = emulator::folder() else { return };
    let bench = Bench::new(4, 2);
    let options = "--steps 3 --batch 4 --prompts 2 --tangents 2 --threads 1 --device cuda --precision f16 --quiet";
    let tune = |name: &str, more: &str| bench.tune(name, &format!("{options} {more}"));
    let named = smallest_budget(&fails(folder, &tune("a.safetensors", "--budget 1KiB"), ""));
    assert!(bench.outputs().is_empty());
    let report = |name: &str, more: &str| -> Value {
        let path = bench.path("report.json");
        let mut command = command(&tune(name, more));
        command.env("LD_LIBRARY_PATH", folder).env("FORETUNE_EMULATOR_REPORT", &path);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    let [smallest, larger] = [("small.safetensors", named), ("large.safetensors", 4 * named)].map(|(name, budget)| {
        let found = report(name, &format!("--budget {budget}"));
        assert!(found["device_bytes_peak"].as_u64().unwrap() <= budget, "{found}");
        assert_eq!(found["device_bytes_live"], 0, "{found}");
        assert_eq!(found["pinned_live"], 0, "{found}");
        // All of it at once.
        assert_eq!(found["allocations"], 1, "{found}");
        fs::read(bench.path("out").join(name)).unwrap()
    });
    // Streamed a few images at a time, or resident and all together.
    assert!(smallest == larger, "the budget changed the result");
    let free = report("free.safetensors", "");
    assert!(free["replays"].as_u64().unwrap() >= 2, "the blocks of small passes are launched at once: {free}");
    assert!(fs::read(bench.path("out/free.safetensors")).unwrap() == smallest, "replays changed the result");
    fails(folder, &tune("a.safetensors", &format!("--budget {}", named - 1)), "");
    // The exact gradient's buffers are in its plan too.
    let exact = tune("exact.safetensors", "--guess backprop --budget 1KiB");
    let named = smallest_budget(&fails(folder, &exact, ""));
    let found = report("exact.safetensors", &format!("--guess backprop --budget {named}"));
    assert!(found["device_bytes_peak"].as_u64().unwrap() <= named, "{found}");
}

#[test]
fn a_device_that_fails_leaves_a_run_that_can_be_resumed() {
    let Some(folder) = emulator::folder() else { return };
    let bench = Bench::new(4, 2);
    let tune =
        |name: &str, more: &str| bench.tune(name, &format!("{TUNE} --device cuda --quiet --checkpoint-every 2 {more}"));
    succeeds(folder, &tune("whole.safetensors", ""));
    for launch in [1, 400, 1000] {
        let name = format!("cut{launch}.safetensors");
        let message = fails(folder, &tune(&name, ""), &format!("launch:{launch}"));
        assert!(
            message.contains("cuda:0") && message.contains("ILLEGAL_ADDRESS") && message.contains("--resume"),
            "{message}"
        );
        assert!(!bench.path("out").join(&name).exists());
        succeeds(folder, &tune(&name, "--resume"));
        let file = |name: &str| fs::read(bench.path("out").join(name)).unwrap();
        assert!(file("whole.safetensors") == file(&name), "cut at launch {launch}");
    }
    let message = fails(folder, &tune("full.safetensors", ""), "alloc:1");
    assert!(message.contains("cannot allocate") && message.contains("free"), "{message}");
}
