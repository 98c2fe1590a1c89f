//! `foretune eval`: accuracy and loss over a split.

use super::args::Global;
use super::device::Target;
use super::job::EvalJob;
use super::load;
use super::screen::Screen;
use super::table::Table;
use super::{memory, output};
use foretune::data::Split;
use foretune::tune::{DecodeOptions, Photos, Score, score};
use foretune::{Classifier, Error, Result};
use indicatif::HumanBytes;
use serde_json::json;
use std::time::Instant;

pub(super) fn run(job: &EvalJob, global: &Global) -> Result<()> {
    let classifier = Classifier::open(&job.model.path, job.adapter.as_deref(), &job.model.options)?;
    let mut dataset = load::dataset(&job.data, None)?;
    classifier.relabel(&mut dataset)?;
    let indices = dataset.items_of(job.split);
    let name = split_name(job.split);
    if indices.is_empty() {
        let problem = format!("no images in the {name} split; choose another with --split");
        return Err(Error::Data { path: dataset.root, problem });
    }
    let micro_batch = job.micro_batch.min(indices.len());
    let mut engine = Target::new(&job.model, global).engine(&classifier.model, classifier.layout, micro_batch)?;
    let wishes = load::wishes(micro_batch, job.data.decode_threads, global);
    let photos = Photos {
        items: dataset.items.clone(),
        preprocess: classifier.model.preprocess.clone(),
        decode: DecodeOptions { threads: wishes.decode_threads, ..DecodeOptions::default() },
        seed: 0,
        prefixes: None,
    };
    let mut screen = Screen::new(global);
    let mut run = |prompts: &[f32], name| {
        let started = Instant::now();
        let scored = score(&mut *engine, &photos, &indices, prompts, &classifier.head, name, &mut screen)?;
        Ok((scored, indices.len() as f64 / started.elapsed().as_secs_f64()))
    };
    // What the same head makes of the frozen model tells what the prompts are worth.
    let both = run(&classifier.prompts, name).and_then(|scored| {
        let frozen = if classifier.prompts.is_empty() { None } else { Some(run(&[], "frozen")?) };
        Ok((scored, frozen))
    });
    screen.finish()?;
    let (scored, frozen) = both.map_err(|error| load::all_unreadable(error, &dataset, None))?;
    report(name, scored, frozen, global)
}

fn report(split: &str, (scored, rate): (Score, f64), frozen: Option<(Score, f64)>, global: &Global) -> Result<()> {
    let peak = memory::peak();
    if global.json {
        return output::json(&json!({
            "event": "result",
            "split": split,
            "accuracy": scored.accuracy,
            "loss": scored.loss,
            "examples": scored.examples,
            "frozen": frozen.map(|(frozen, _)| frozen),
            "images_per_second": rate,
            "peak_memory_bytes": peak,
        }));
    }
    let mut table = Table::new(["split", "model", "accuracy", "loss", "images", "img/s"]);
    let mut row = |model: &str, (score, rate): (Score, f64)| {
        let Score { accuracy, loss, examples } = score;
        let [accuracy, loss] = [format!("{:.2} %", accuracy * 100.0), format!("{loss:.4}")];
        table.row([split.into(), model.into(), accuracy, loss, examples.to_string(), format!("{rate:.1}")]);
    };
    match frozen {
        Some(frozen) => {
            row("frozen, head only", frozen);
            row("with the adapter's prompts", (scored, rate));
        }
        None => row("frozen, head only", (scored, rate)),
    }
    output::line(&table.render())?;
    match peak {
        Some(bytes) => output::line(&format!("peak memory {}", HumanBytes(bytes))),
        None => Ok(()),
    }
}

fn split_name(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Val => "val",
        Split::Test => "test",
    }
}
