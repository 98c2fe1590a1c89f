//! Dual passes against the golden cases.

use super::{cases, runtime};
use foretune::engine::ort::Provider;
use foretune::selftest::{Arithmetic, run_case};

#[test]
fn dual_passes_reproduce_every_library() {
    if !runtime() {
        return;
    }
    let mut derivatives = 0;
    for (case, model) in cases() {
        let checks = run_case(&case, Some(&model), Arithmetic::OnnxRuntime(Provider::Cpu), None)
            .unwrap_or_else(|error| panic!("{error}"));
        for check in &checks {
            assert!(check.passed(), "{}: {check:?}", case.display());
            derivatives += usize::from(check.name == "jvps");
        }
    }
    assert!(derivatives >= 10, "{derivatives} cases have derivatives");
}
