//! Golden cases of this repository, and of `../shared/fixtures` where it is there, in every precision.

use foretune::backend::Precision;
use foretune::cpu::{CpuBackend, CpuOptions};
use foretune::selftest::{Arithmetic, run_case};
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

fn check(case: &Path, model: Option<&Path>) {
    for arithmetic in arithmetics() {
        let checks = run_case(case, model, arithmetic, None).unwrap_or_else(|e| panic!("{e}"));
        for check in &checks {
            assert!(check.passed(), "{}: {arithmetic:?}: {check:?}", case.display());
        }
    }
}

#[test]
fn every_family_reproduces_its_library() {
    let cases = cases(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"));
    assert!(cases.len() >= 13, "only {} golden cases were found", cases.len());
    cases.iter().for_each(|case| check(case, None));
}

#[test]
fn shared_fixtures() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    if !shared.exists() {
        return eprintln!("SKIPPED: {} is not there", shared.display());
    }
    for case in cases(&shared.join("fixtures")) {
        let tiny = shared.join("models/vit_tiny_patch16_224");
        check(&case, case.ends_with("real_vit_tiny").then_some(tiny.as_path()));
    }
}
