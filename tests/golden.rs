//! Golden cases of this repository, and of `../shared/fixtures` where it is there, in every precision.

use foretune::backend::Precision;
use foretune::cpu::{CpuBackend, CpuOptions};
use foretune::selftest::{Arithmetic, Check, run_case};
use std::path::{Path, PathBuf};

fn cases(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = entries.filter(|path| path.join("case.safetensors").exists()).collect();
    cases.sort();
    cases
}

/// All that this CPU has.
fn arithmetics() -> Vec<Arithmetic> {
    let mut all = vec![Arithmetic::F32, Arithmetic::F64];
    match CpuBackend::new(CpuOptions { precision: Precision::Bf16, ..CpuOptions::default() }) {
        Ok(_) => all.push(Arithmetic::Bf16),
        Err(error) => eprintln!("SKIPPED: bf16: {error}"),
    }
    all
}

/// The checks of a case in bf16, if this CPU has it.
fn check(case: &Path, model: Option<&Path>) -> Vec<Check> {
    let mut bf16 = Vec::new();
    for arithmetic in arithmetics() {
        let checks = run_case(case, model, arithmetic, None).unwrap_or_else(|e| panic!("{e}"));
        for check in &checks {
            assert!(check.passed(), "{}: {arithmetic:?}: {check:?}", case.display());
        }
        if arithmetic == Arithmetic::Bf16 {
            bf16 = checks;
        }
    }
    bf16
}

/// Over all cases our errors in bf16 are at most 1.5 times PyTorch's; both are printed.
fn beside_pytorch(cases: &[Check]) {
    for quantity in ["features", "logits", "losses", "jvps"] {
        let both = cases.iter().filter(|check| check.name == quantity).filter_map(|c| Some([c.error, c.pytorch?]));
        let [ours, theirs] = both.fold([0.0; 2], |sums, pair| [0, 1].map(|i| sums[i] + pair[i] * pair[i]));
        println!("bf16 {quantity}, root of the sum of squares: {:.2e}, PyTorch {:.2e}", ours.sqrt(), theirs.sqrt());
        assert!(ours.sqrt() <= 1.5 * theirs.sqrt(), "bf16 {quantity}");
    }
}

#[test]
fn every_family_reproduces_its_library() {
    let cases = cases(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"));
    assert!(cases.len() >= 13, "only {} golden cases were found", cases.len());
    let checks: Vec<Check> = cases.iter().flat_map(|case| check(case, None)).collect();
    beside_pytorch(&checks);
}

#[test]
fn shared_fixtures() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    if !shared.exists() {
        return eprintln!("SKIPPED: {} is not there", shared.display());
    }
    let tiny = shared.join("models/vit_tiny_patch16_224");
    let model = |case: &Path| case.ends_with("real_vit_tiny").then_some(tiny.as_path());
    let cases = cases(&shared.join("fixtures"));
    let checks: Vec<Check> = cases.iter().flat_map(|case| check(case, model(case))).collect();
    beside_pytorch(&checks);
}
