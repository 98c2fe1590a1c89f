//! Golden cases in float64 from timm and transformers: those beside the repository (`../shared/fixtures`) and those
//! generated into it (`tests/golden`).

use foretune::selftest::{Precision, run_case};
use std::path::{Path, PathBuf};

fn folders(root: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let Ok(entries) = std::fs::read_dir(&root) else {
        eprintln!("SKIPPED: {} is absent", root.display());
        return Vec::new();
    };
    let mut folders: Vec<_> =
        entries.flatten().map(|e| e.path()).filter(|p| p.join("case.safetensors").is_file()).collect();
    folders.sort();
    folders
}

fn check(root: &str, precision: Precision) {
    let mut failures = Vec::new();
    for folder in folders(root) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let model = (name == "real_vit_tiny").then(|| folder.join("../../models/vit_tiny_patch16_224"));
        match run_case(&folder, model.as_deref(), precision, None) {
            Ok(checks) => {
                for check in checks {
                    println!("{name} {}: {:.2e}", check.name, check.error);
                    if !check.passed() {
                        failures.push(format!("{name} {}: {:.2e} > {:e}", check.name, check.error, check.tolerance));
                    }
                }
            }
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn shared_cases_on_the_reference_backend_in_f64() {
    check("../shared/fixtures", Precision::F64);
}

#[test]
fn shared_cases_on_the_cpu_backend() {
    check("../shared/fixtures", Precision::F32);
}

#[test]
fn own_cases_on_the_reference_backend_in_f64() {
    check("tests/golden", Precision::F64);
}

#[test]
fn own_cases_on_the_cpu_backend() {
    check("tests/golden", Precision::F32);
}

#[test]
fn random_models_agree_with_themselves() {
    for seed in 0..3 {
        for check in foretune::selftest::run_random(seed).unwrap() {
            assert!(check.passed(), "seed {seed}: {}: {:.2e} > {:e}", check.name, check.error, check.tolerance);
        }
    }
}
