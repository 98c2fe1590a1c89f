//! `foretune selftest`: is this build's arithmetic right on this machine?

use super::args::{Dtype, Global};
use super::job::SelftestJob;
use super::output;
use foretune::Result;
use foretune::selftest::{Arithmetic, Check, run_case, run_random};
use serde_json::json;

/// Seed of the random model.
const SEED: u64 = 0;

/// Whether every check passed.
pub(super) fn run(job: &SelftestJob, global: &Global) -> Result<bool> {
    let arithmetic = match job.dtype {
        Dtype::F32 => Arithmetic::F32,
        Dtype::Bf16 => Arithmetic::Bf16,
        Dtype::F64 => Arithmetic::F64,
    };
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
