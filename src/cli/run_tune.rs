//! `foretune tune`: a run from the data set to the adapter.

use super::args::Global;
use super::job::TuneJob;
use super::screen::Screen;
use super::table::Table;
use super::{interrupt, load, memory, output};
use foretune::adapter::Adapter;
use foretune::data::{Dataset, Split};
use foretune::engine;
use foretune::model::{Head, Model};
use foretune::tune::{Compare, Job, Outcome, Resources, Saving, Score};
use foretune::{Error, Result};
use indicatif::HumanBytes;
use serde_json::json;
use std::fs::{self, OpenOptions};
use std::path::Path;

pub(super) fn run(job: &TuneJob, global: &Global) -> Result<()> {
    check_writable(&job.out)?;
    let model = Model::open(&job.model.path, &job.model.options)?;
    let mut dataset = load::dataset(&job.data)?;
    dataset.split_validation(job.options.val_fraction, job.options.seed);
    let train = dataset.items_of(Split::Train).len();
    if train == 0 {
        let problem = "no training images; tuning needs some in the train split".to_owned();
        return Err(Error::Data { path: dataset.root, problem });
    }
    let options = job.resolve(train)?;
    let head_from = match &job.head_from {
        Some(path) => foreign_head(path, &model, &dataset)?,
        None => None,
    };
    if job.resume && !job.checkpoint.exists() {
        log::warn!("--resume: there is no {}; starting anew", job.checkpoint.display());
    }
    let resources = Resources {
        micro_batch: job.micro_batch.min(options.batch),
        decode_threads: load::decode_threads(&job.data, global),
        saving: Saving { path: Some(job.checkpoint.clone()), every: job.checkpoint_every },
        resume: job.resume,
    };
    let native = engine::cpu(&model, global.threads.unwrap_or(0))?;
    interrupt::install("stopping after this step and saving a checkpoint; once more to stop at once")?;
    let mut screen = Screen::new(global);
    let run = Job {
        model: &model,
        native: &native,
        dataset: &dataset,
        options: &options,
        resources: &resources,
        head_from: head_from.as_ref(),
    };
    let outcome = run.run(Compare { test: job.evaluate, ..Compare::default() }, &mut screen);
    screen.finish()?;
    let outcome = outcome.map_err(|error| load::all_unreadable(error, &dataset))?;
    outcome.adapter.save(&job.out)?;
    report(&outcome, &job.out, global)
}

/// The head stored in the adapter at `path`, if it belongs to this model and these classes.
fn foreign_head(path: &Path, model: &Model, dataset: &Dataset) -> Result<Option<Head>> {
    let adapter = Adapter::open(path)?;
    adapter.check_backbone(path, &model.spec, &model.fingerprint())?;
    if adapter.classes != dataset.classes {
        let (theirs, ours) = (adapter.classes.len(), dataset.classes.len());
        let at = adapter.classes.iter().zip(&dataset.classes).position(|(a, b)| a != b);
        let differ = at.map_or(String::new(), |at| {
            format!("; class {at} is `{}` there and `{}` here", adapter.classes[at], dataset.classes[at])
        });
        let problem = format!("its head is for other classes: {theirs} there, {ours} in the data set{differ}");
        return Err(Error::Adapter { path: path.to_owned(), problem });
    }
    Ok(adapter.head)
}

/// Fails now rather than after hours when the adapter could not be written.
fn check_writable(out: &Path) -> Result<()> {
    let fail = |source| Error::Io { action: "write", path: out.to_owned(), source };
    let probe = out.with_extension(format!("{}.probe", std::process::id()));
    OpenOptions::new().write(true).create_new(true).open(&probe).map_err(fail)?;
    fs::remove_file(&probe).map_err(fail)
}

fn report(outcome: &Outcome, out: &Path, global: &Global) -> Result<()> {
    let Outcome { adapter, scores, validation, images_per_second, skipped } = outcome;
    let peak = memory::peak();
    if global.json {
        return output::json(&json!({
            "event": "result",
            "adapter": out,
            "step": adapter.step,
            "test": {"frozen": scores.frozen, "tuned": scores.tuned},
            "validation": validation,
            "images_per_second": images_per_second,
            "skipped_steps": skipped,
            "peak_memory_bytes": peak,
        }));
    }
    if global.quiet {
        return Ok(());
    }
    let mut table = Table::new(["split", "model", "accuracy", "loss", "images"]);
    let mut row = |split: &str, model: &str, score: &Option<Score>| {
        if let Some(Score { accuracy, loss, examples }) = score {
            let accuracy = format!("{:.2} %", accuracy * 100.0);
            table.row([split.into(), model.into(), accuracy, format!("{loss:.4}"), examples.to_string()]);
        }
    };
    row("validation", "tuned", validation);
    row("test", "frozen", &scores.frozen);
    row("test", "tuned", &scores.tuned);
    output::line(&table.render())?;
    let skips = if *skipped > 0 { format!(", {skipped} steps skipped") } else { String::new() };
    let peak = peak.map_or(String::new(), |bytes| format!(", peak memory {}", HumanBytes(bytes)));
    output::line(&format!("{images_per_second:.1} img/s{peak}{skips}"))?;
    output::line(&format!("{}: prompts of step {}", output::printable(&out.display().to_string()), adapter.step))
}
