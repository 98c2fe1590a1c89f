//! `foretune corrupt`: a corrupted copy of a data set.

use super::args::Global;
use super::job::CorruptJob;
use super::run_verify::{note_problems, open_quietly, print_problem};
use super::screen::Screen;
use super::{interrupt, output};
use foretune::Result;
use foretune::data::corrupt::{CopyOptions, Report, corrupt_dataset};
use serde_json::json;

/// Whether the copy is complete.
pub(super) fn run(job: &CorruptJob, global: &Global) -> Result<bool> {
    let dataset = open_quietly(&job.data)?;
    interrupt::install("stopping after the images at hand; once more to stop at once")?;
    // Standard output gets the result alone.
    let mut screen = Screen::new(&Global { quiet: global.quiet || global.json, ..*global });
    let skip_bad = job.data.options.skip_bad;
    let options = CopyOptions { threads: global.threads, skip_bad };
    let report = corrupt_dataset(&dataset, &job.out, &job.corruption, &options, &mut screen);
    screen.finish()?;
    let report = report?;
    print(job, &report, global)?;
    if interrupt::requested() && report.left > 0 {
        let Report { written, kept, left, .. } = report;
        let done = written + kept;
        output::note(&format!("interrupted: {done} of {} images are written; the same command goes on", done + left));
        return Ok(false);
    }
    if report.problems.is_empty() || skip_bad {
        return Ok(true);
    }
    note_problems(&job.data, report.problems.len(), "listed above; --skip-bad continues without them");
    Ok(false)
}

fn print(job: &CorruptJob, report: &Report, global: &Global) -> Result<()> {
    let Report { written, kept, copied, unlisted, left, problems } = report;
    let corruption = &job.corruption;
    if global.json {
        let problems: Vec<_> =
            problems.iter().map(|problem| json!({"path": problem.path, "problem": problem.what})).collect();
        return output::json(&json!({
            "event": "result",
            "path": job.out,
            "format": job.data.format,
            "kind": corruption.kind,
            "severity": corruption.severity,
            "seed": corruption.seed,
            "written": written,
            "kept": kept,
            "copied": copied,
            "unlisted": unlisted,
            "left": left,
            "problems": problems,
        }));
    }
    for problem in problems {
        print_problem(problem, false)?;
    }
    if written + kept == 0 {
        return Ok(());
    }
    let resumed = if *kept > 0 { format!(", {kept} had been there") } else { String::new() };
    output::line(&format!("copy       {} ({}, severity {})", job.out.display(), corruption.kind, corruption.severity))?;
    output::line(&format!("images     {written} written{resumed}"))?;
    output::line(&format!("files      {copied} copied as they are"))?;
    if *unlisted > 0 {
        output::line(&format!("left out   {unlisted} images that the data set does not list"))?;
    }
    Ok(())
}
