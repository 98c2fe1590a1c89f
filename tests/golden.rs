//! Golden cases of this repository, and of `../shared/fixtures` where it is there, in every precision of every backend.

use foretune::backend::Precision;
use foretune::cpu::{CpuBackend, CpuOptions};
use foretune::selftest::{Arithmetic, Check, run_case};
use std::path::{Path, PathBuf};

#[cfg(feature = "cuda")]
mod emulator;

fn cases(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = entries.filter(|path| path.join("case.safetensors").exists()).collect();
    cases.sort();
    cases
}

/// Cases of this repository, and the shared ones with the checkpoint of those that have none of their own.
fn all_cases() -> [Vec<(PathBuf, Option<PathBuf>)>; 2] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own: Vec<_> = cases(&root.join("tests/golden")).into_iter().map(|case| (case, None)).collect();
    assert!(own.len() >= 13, "only {} golden cases were found", own.len());
    let shared = root.join("../shared");
    if !shared.exists() {
        eprintln!("SKIPPED: {} is not there", shared.display());
        return [own, Vec::new()];
    }
    let tiny = shared.join("models/vit_tiny_patch16_224");
    let model = |case: PathBuf| {
        let model = case.ends_with("real_vit_tiny").then(|| tiny.clone());
        (case, model)
    };
    [own, cases(&shared.join("fixtures")).into_iter().map(model).collect()]
}

/// Runs the `wanted` cases. Where PyTorch's errors in the same precision are known, ours over all cases of a set are at most 1.5 times
/// those; both are printed.
fn check(arithmetic: Arithmetic, wanted: fn(&Path) -> bool) {
    for set in all_cases() {
        let mut checks: Vec<Check> = Vec::new();
        for (case, model) in set.into_iter().filter(|(case, _)| wanted(case)) {
            let found = run_case(&case, model.as_deref(), arithmetic, None).unwrap_or_else(|e| panic!("{e}"));
            for check in found {
                assert!(check.passed(), "{}: {arithmetic:?}: {check:?}", case.display());
                checks.push(check);
            }
        }
        for quantity in ["features", "logits", "losses", "jvps"] {
            let both = checks.iter().filter(|check| check.name == quantity).filter_map(|c| Some([c.error, c.pytorch?]));
            let [ours, theirs] = both.fold([0.0; 2], |sums, pair| [0, 1].map(|i| sums[i] + pair[i] * pair[i]));
            if theirs > 0.0 {
                let [ours, theirs] = [ours.sqrt(), theirs.sqrt()];
                println!("{arithmetic:?} {quantity}, root of the sum of squares: {ours:.2e}, PyTorch {theirs:.2e}");
                assert!(ours <= 1.5 * theirs, "{arithmetic:?} {quantity}");
            }
        }
    }
}

#[test]
fn f32_and_the_reference_reproduce_every_library() {
    check(Arithmetic::F32, |_| true);
    check(Arithmetic::F64, |_| true);
}

#[test]
fn bf16() {
    match CpuBackend::new(CpuOptions { precision: Precision::Bf16, ..CpuOptions::default() }) {
        Ok(_) => check(Arithmetic::Bf16, |_| true),
        Err(error) => eprintln!("SKIPPED: bf16: {error}"),
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use super::*;

    /// On the emulator without the case of a real size, which needs minutes for its billions of multiply-adds.
    fn check_on_gpu(precision: Precision) {
        if emulator::load() {
            let device = std::env::var_os("FORETUNE_TEST_DEVICE").is_some();
            let small = |case: &Path| !case.ends_with("real_vit_tiny");
            check(Arithmetic::Cuda(0, precision), if device { |_| true } else { small });
        }
    }

    #[test]
    fn f32() {
        check_on_gpu(Precision::F32);
    }

    #[test]
    fn f16() {
        check_on_gpu(Precision::F16);
    }

    #[test]
    fn bf16() {
        check_on_gpu(Precision::Bf16);
    }
}
