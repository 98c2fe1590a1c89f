//! One seed gives one adapter, whatever the threads and the micro-batch.

use crate::common::{Bench, failure, smallest_budget, success};
use foretune::backend::Precision;
use foretune::cpu::{CpuBackend, CpuOptions};
use std::fs;

const COMMON: &str =
    "--steps 4 --batch 64 --tangents 2 --prompts 3 --eval-every 2 --val-fraction 0.2 --head-lr 0.1 --lr 0.1";

/// Every gradient source, shallow and deep, at and behind block 0, with both heads and every optimizer.
const RUNS: [&str; 16] = [
    "--guess weight-transpose --insert-at 0 --head prototype --optimizer adamw",
    "--guess weight-transpose --insert-at 1 --deep --head linear --optimizer stable-adamw",
    "--guess directional --insert-at 0 --deep --head prototype --optimizer stable-adamw --augment vpt",
    "--guess directional --insert-at 1 --head linear --optimizer sgd --augment flip",
    "--guess activation --insert-at 0 --head linear --optimizer adamw",
    "--guess activation --insert-at 1 --deep --head prototype --optimizer sgd",
    "--guess backprop --insert-at 0 --deep --head linear --optimizer adamw",
    "--guess backprop --insert-at 2 --head prototype --optimizer adamw --augment none",
    "--guess none --head linear --optimizer adamw",
    "--guess mixing --insert-at 1 --deep --head linear --optimizer adamw",
    "--guess downstream:2 --orthonormal --insert-at 0 --head prototype --optimizer adamw",
    "--guess self-sharpening --clip 1 --insert-at 1 --head prototype --optimizer adamw",
    "--guess weight-transpose --power 0.5 --rank 6 --unit-rms --clip 2 --insert-at 0 --head linear --optimizer adamw",
    "--guess activation --orthonormal --clip 0.5 --insert-at 1 --deep --head prototype --momentum 0",
    "--guess matched-cosine --clip 1 --insert-at 0 --head prototype --optimizer adamw",
    "--guess backprop --clip 1 --insert-at 1 --head prototype --optimizer adamw",
];

#[test]
fn threads_and_micro_batch_do_not_change_a_bit() {
    let bench = Bench::new(9, 1);
    let tune = |options: &str, how: &str| {
        success(&bench.tune("a.safetensors", &format!("{COMMON} {options} {how} --quiet")));
        fs::read(bench.path("out/a.safetensors")).unwrap()
    };
    for options in RUNS {
        let reference = tune(options, "--threads 1 --micro-batch 64");
        for how in [
            "--threads 2 --micro-batch 64 --decode-threads 3",
            "--threads 2 --micro-batch 5 --decode-threads 1",
            "--threads 1 --micro-batch 1",
        ] {
            assert!(
                tune(options, how) == reference,
                "{options} {how}: other bytes than with one thread and 64 at once"
            );
        }
        let other = tune(options, "--threads 2 --micro-batch 64 --seed 1");
        assert!(other != reference, "{options}: the seed changes nothing");
    }
    assert_eq!(bench.outputs(), ["a.checkpoint.safetensors", "a.safetensors"], "nothing else is left");
}

/// bf16 is another result, as reproducible as f32's; where the weights are packed is none.
#[test]
fn bf16_and_resident_weights_are_deterministic() {
    let bench = Bench::new(6, 1);
    let tune = |options: &str| {
        success(&bench.tune("a.safetensors", &format!("{COMMON} {options} --quiet")));
        fs::read(bench.path("out/a.safetensors")).unwrap()
    };
    let f32 = tune(&format!("{} --threads 1 --micro-batch 64", RUNS[1]));
    assert!(tune(&format!("{} --threads 2 --micro-batch 3 --resident", RUNS[1])) == f32, "resident weights");
    let bf16 = CpuOptions { precision: Precision::Bf16, ..CpuOptions::default() };
    if let Err(error) = CpuBackend::new(bf16) {
        return eprintln!("SKIPPED: bf16: {error}");
    }
    for options in [RUNS[0], RUNS[1], RUNS[3], RUNS[7]] {
        let reference = tune(&format!("{options} --precision bf16 --threads 1 --micro-batch 64"));
        assert!(options != RUNS[1] || reference != f32, "bf16 changes nothing");
        for how in
            ["--threads 2 --micro-batch 5", "--threads 2 --micro-batch 64 --resident", "--threads 1 --micro-batch 1"]
        {
            assert!(tune(&format!("{options} --precision bf16 {how}")) == reference, "{options} {how}");
        }
    }
    // The checkpoint that the last run left is another run's in f32.
    let message = failure(&bench.tune("a.safetensors", &format!("{COMMON} {} --resume", RUNS[7])), 1);
    assert!(message.contains("precision"), "{message}");
}

/// The smallest budget cuts a step into single examples and single tangents.
#[test]
fn a_budget_does_not_change_a_bit() {
    let bench = Bench::new(5, 3);
    let options = "--steps 3 --batch 6 --tangents 3 --prompts 2 --insert-at 1 --threads 2 --decode-threads 2 --quiet";
    let tune = |more: &str| bench.tune("a.safetensors", &format!("{options} {more}"));
    for head in ["--head prototype", "--head linear"] {
        success(&tune(head));
        let reference = fs::read(bench.path("out/a.safetensors")).unwrap();
        fs::remove_file(bench.path("out/a.safetensors")).unwrap();

        let message = failure(&tune(&format!("{head} --budget 1KiB")), 1);
        let smallest = smallest_budget(&message);
        failure(&tune(&format!("{head} --budget {}", smallest - 1)), 1);
        assert!(!bench.path("out/a.safetensors").exists());

        for budget in [smallest, smallest + 10_000, 4 * smallest] {
            success(&tune(&format!("{head} --budget {budget}")));
            assert!(fs::read(bench.path("out/a.safetensors")).unwrap() == reference, "{head} within {budget} bytes");
        }
    }
}

#[test]
fn scores_do_not_depend_on_the_micro_batch() {
    let bench = Bench::new(4, 7);
    success(&bench.tune("a.safetensors", "--steps 2 --batch 8 --quiet --insert-at 1"));
    let [model, data, adapter] = ["model", "data", "out/a.safetensors"].map(|name| bench.arg(name));
    let eval = |more: &str| {
        let fixed = ["eval", "--model", &model, "--data", &data, "--format", "folder", "--adapter", &adapter, "--json"];
        let output = success(&fixed.into_iter().chain(more.split_whitespace()).collect::<Vec<_>>());
        let result: serde_json::Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
        [&result["accuracy"], &result["loss"], &result["examples"]].map(|value| {
            assert!(value.is_number(), "{result}");
            value.clone()
        })
    };
    let reference = eval("--micro-batch 21 --threads 1");
    assert_eq!(reference[2], 21);
    for how in ["--micro-batch 1 --threads 2", "--micro-batch 5 --threads 1", "--micro-batch 64 --threads 2"] {
        assert_eq!(eval(how), reference, "{how}");
    }
}
