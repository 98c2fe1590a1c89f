//! PyTorch's own errors on the golden cases in bf16 and f16, made by `benches/peers/half_errors.py`.

use crate::backend::Precision;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// How many times PyTorch's error ours may be.
pub(super) const MOST: f64 = 1.5;

#[derive(Deserialize)]
struct Errors {
    cases: BTreeMap<String, BTreeMap<String, f64>>,
}

/// Relative error of a quantity of the golden case in `folder`, told by the folder's name; `None` for what was not measured.
pub(super) fn torch(precision: Precision, folder: &Path, quantity: &str) -> Option<f64> {
    let errors = match precision {
        Precision::F32 => return None,
        Precision::Bf16 => include_str!("../../tests/golden/torch_bf16.json"),
        Precision::F16 => include_str!("../../tests/golden/torch_f16.json"),
    };
    let errors: Errors = serde_json::from_str(errors).ok()?;
    // `.` and `..` have no name of their own.
    let folder = folder.canonicalize().ok()?;
    errors.cases.get(folder.file_name()?.to_str()?)?.get(quantity).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_of_the_repository_was_measured() {
        for case in std::fs::read_dir("tests/golden").unwrap().map(|entry| entry.unwrap().path()) {
            if case.join("case.safetensors").exists() {
                for (precision, quantity) in [Precision::Bf16, Precision::F16].into_iter().flat_map(|precision| {
                    ["features", "logits", "losses", "jvps"].map(|quantity| (precision, quantity))
                }) {
                    let error = torch(precision, &case, quantity);
                    assert!(error.is_some_and(|e| 0.0 < e && e < 0.2), "{}: {quantity}: {error:?}", case.display());
                }
            }
        }
        assert_eq!(torch(Precision::Bf16, Path::new("tests/golden/timm_gap"), "weather"), None);
        assert_eq!(torch(Precision::Bf16, Path::new("tests"), "jvps"), None);
    }
}
