//! `foretune eval`: accuracy and loss over a split.

use super::args::Global;
use super::job::EvalJob;
use super::load::{self, Classifier};
use super::screen::Screen;
use super::table::Table;
use super::{memory, output};
use foretune::data::Split;
use foretune::engine;
use foretune::tune::{Photos, score};
use foretune::{Error, Result};
use indicatif::HumanBytes;
use serde_json::json;
use std::time::Instant;

pub(super) fn run(job: &EvalJob, global: &Global) -> Result<()> {
    let classifier = Classifier::open(&job.model, job.adapter.as_deref())?;
    let mut dataset = load::dataset(&job.data)?;
    classifier.relabel(&mut dataset, job.adapter.is_some())?;
    let indices = dataset.items_of(job.split);
    let name = split_name(job.split);
    if indices.is_empty() {
        let problem = format!("no images in the {name} split; choose another with --split");
        return Err(Error::Data { path: dataset.root, problem });
    }
    let native = engine::cpu(&classifier.model, global.threads.unwrap_or(0))?;
    let mut engine = native.engine(classifier.layout, job.micro_batch.min(indices.len()), 0)?;
    let photos = Photos {
        items: dataset.items.clone().into(),
        preprocess: classifier.model.preprocess.clone(),
        decode_threads: load::decode_threads(&job.data, global),
        seed: 0,
    };
    let mut screen = Screen::new(global);
    let started = Instant::now();
    let scored = score(&mut engine, &photos, &indices, &classifier.prompts, &classifier.head, name, &mut screen);
    let rate = indices.len() as f64 / started.elapsed().as_secs_f64();
    screen.finish()?;
    let scored = scored.map_err(|error| load::all_unreadable(error, &dataset))?;
    let peak = memory::peak();
    if global.json {
        return output::json(&json!({
            "event": "result",
            "split": name,
            "accuracy": scored.accuracy,
            "loss": scored.loss,
            "examples": scored.examples,
            "images_per_second": rate,
            "peak_memory_bytes": peak,
        }));
    }
    let mut table = Table::new(["split", "accuracy", "loss", "images", "img/s", "peak memory"]);
    table.row([
        name.into(),
        format!("{:.2} %", scored.accuracy * 100.0),
        format!("{:.4}", scored.loss),
        scored.examples.to_string(),
        format!("{rate:.1}"),
        peak.map_or("–".into(), |bytes| HumanBytes(bytes).to_string()),
    ]);
    output::line(&table.render())
}

fn split_name(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Val => "val",
        Split::Test => "test",
    }
}
