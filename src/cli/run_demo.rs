//! `foretune demo`: the built-in model on generated images, from nothing to an adapter.

use super::args::Global;
use super::job::{DataSource, DemoJob};
use super::screen::Screen;
use super::table::Table;
use super::{interrupt, load, memory, output};
use foretune::classifier;
use foretune::cpu::{CpuBackend, CpuOptions};
use foretune::data::{Dataset, Format, OpenOptions, Split};
use foretune::demo::{self, Folder};
use foretune::engine::{self, Native};
use foretune::model::{Model, PromptLayout};
use foretune::tune::{
    AugmentKind, Compare, DecodeOptions, GuessKind, HeadKind, Job, Observer, Photos, Preset, Resources, Score, Splits,
    TuneOptions, score, usual_warmup,
};
use foretune::{Error, Result};
use indicatif::{FormattedDuration, HumanBytes};
use serde::Serialize;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the demo found.
struct Findings {
    scores: Scores,
    images_per_second: f64,
    /// Peak resident memory of tuning forward-only, and with the oracle.
    peak: [Option<u64>; 2],
    elapsed: Duration,
}

#[derive(Serialize)]
struct Scores {
    /// The frozen model on the scenes as drawn.
    clean: Score,
    /// The frozen model on the same scenes, shifted.
    frozen: Score,
    /// With the tuned prompts, shifted.
    tuned: Score,
    /// Prompts tuned by the exact gradient, shifted.
    oracle: Score,
}

/// False when it was interrupted.
pub(super) fn run(job: &DemoJob, global: &Global) -> Result<bool> {
    let started = Instant::now();
    let folder = Folder::claim(&job.out)?;
    interrupt::install("stopping after this step; once more to stop at once")?;
    let mut screen = Screen::new(global);
    let found = write_and_tune(&folder, job.seed, global, &mut screen);
    screen.finish()?;
    let (scores, images_per_second, peak) = match found {
        Err(Error::Interrupted { .. }) => {
            output::note("interrupted; the same command starts the demo anew");
            return Ok(false);
        }
        found => found?,
    };
    let findings = Findings { scores, images_per_second, peak, elapsed: started.elapsed() };
    report(&findings, job, &folder, global)?;
    Ok(true)
}

/// Enough of a run to see it learn.
const STEPS: u64 = 120;

/// What is tuned and how: what `tune` does by itself, but for what this model and these images need.
fn options(seed: u64, depth: usize) -> TuneOptions {
    TuneOptions {
        head: HeadKind::Pretrained,
        // A mirrored crescent is nothing the model knows.
        augment: AugmentKind::None,
        val_fraction: 0.25,
        steps: STEPS,
        warmup: usual_warmup(STEPS),
        seed,
        ..Preset::default().options(depth)
    }
}

fn write_and_tune(
    folder: &Folder,
    seed: u64,
    global: &Global,
    observer: &mut dyn Observer,
) -> Result<(Scores, f64, [Option<u64>; 2])> {
    folder.write(seed)?;
    let model = demo::model()?;
    let cpu = CpuOptions::threads(load::threads(global));
    let native = engine::cpu(&model, cpu)?;
    let options = options(seed, model.spec.depth);
    let open = |root| {
        let source = DataSource { root, format: Format::Cub, options: OpenOptions::default(), decode_threads: None };
        load::dataset(&source, None)
    };
    let clean = open(folder.clean())?;
    let mut shifted = open(folder.shifted())?;
    shifted.split_validation(options.val_fraction, options.seed);
    let threads = load::wishes(options.batch, None, global).decode_threads;
    let decode = DecodeOptions { threads, ..DecodeOptions::default() };
    let resources = Resources { micro_batch: options.batch, decode, ..Resources::default() };

    let clean = frozen(&model, &native, &clean, &resources, observer)?;
    let run = |guess, compare, observer: &mut dyn Observer| {
        let options = TuneOptions { guess, ..options.clone() };
        let (model, loaded, dataset) = (&model, &native, &shifted);
        let job = Job { model, loaded, dataset, options: &options, resources: &resources, head_from: None };
        let trained = job.train(observer)?;
        job.scores(&trained, compare, observer).map(|scores| (trained, scores))
    };
    let compare = Compare { test: true, ..Compare::default() };
    let (trained, scores) = run(options.guess, Compare { frozen: true, ..compare }, observer)?;
    let peak = memory::peak();
    // A run of its own rather than a part of that one, so that the peak is known before the oracle takes more.
    let (_, oracle) = run(GuessKind::Backprop, compare, observer)?;
    trained.adapter.save(folder.adapter())?;
    let known = |splits: Option<Splits>| {
        let problem = "no test images; the demo's folder was changed while it ran".to_owned();
        splits.and_then(|s| s.test).ok_or_else(|| Error::Data { path: folder.shifted(), problem })
    };
    let images_per_second = trained.images_per_second;
    let scores = Scores {
        clean,
        frozen: known(scores.frozen)?,
        tuned: known(Some(scores.tuned))?,
        oracle: known(Some(oracle.tuned))?,
    };
    Ok((scores, images_per_second, [peak, memory::peak()]))
}

/// The frozen model's test score.
fn frozen(
    model: &Model,
    native: &Native<CpuBackend>,
    dataset: &Dataset,
    resources: &Resources,
    observer: &mut dyn Observer,
) -> Result<Score> {
    let mut engine = native.engine(PromptLayout::NONE, resources.micro_batch, 0)?;
    let classifier = classifier::own_head(model)?;
    let photos = Photos {
        items: dataset.items.clone(),
        preprocess: model.preprocess.clone(),
        decode: resources.decode,
        seed: 0,
        prefixes: None,
    };
    score(&mut engine, &photos, &dataset.items_of(Split::Test), &[], &classifier, "clean images", observer)
}

fn report(findings: &Findings, job: &DemoJob, folder: &Folder, global: &Global) -> Result<()> {
    let Findings { scores, images_per_second, peak: [peak, with_oracle], elapsed } = findings;
    if global.json {
        return output::json(&json!({
            "event": "result",
            "out": job.out,
            "seed": job.seed,
            "adapter": folder.adapter(),
            "test": scores,
            "images_per_second": images_per_second,
            "seconds": elapsed.as_secs_f64(),
            "peak_memory_bytes": peak,
            "peak_memory_bytes_with_oracle": with_oracle,
            "next": commands(folder, job.seed),
        }));
    }
    let mut table = Table::new(["test images", "model", "accuracy", "loss"]);
    for (images, model, score) in [
        ("clean", "frozen", &scores.clean),
        ("shifted", "frozen", &scores.frozen),
        ("shifted", "prompts tuned by random guesses", &scores.tuned),
        ("shifted", "prompts tuned by the exact gradient (oracle)", &scores.oracle),
    ] {
        let accuracy = format!("{:.2} %", score.accuracy * 100.0);
        table.row([images.into(), model.into(), accuracy, format!("{:.4}", score.loss)]);
    }
    output::line(&table.render())?;
    let peaks = match (peak, with_oracle) {
        (Some(peak), Some(all)) => {
            format!(", peak memory {} ({} with the oracle)", HumanBytes(*peak), HumanBytes(*all))
        }
        _ => String::new(),
    };
    output::line(&format!("{images_per_second:.1} img/s{peaks}, {} in all", FormattedDuration(*elapsed)))?;
    if global.quiet {
        return Ok(());
    }
    output::line(&format!("\nTry next:\n  {}", commands(folder, job.seed).join("\n  ")))
}

/// Commands that go on from the demo's folder; the first tunes the same adapter again.
fn commands(folder: &Folder, seed: u64) -> [String; 4] {
    let program = std::env::args().next().unwrap_or_else(|| "foretune".into());
    let program = quoted(Path::new(&program));
    let [model, shifted, adapter] = [folder.model(), folder.shifted(), folder.adapter()].map(|path| quoted(&path));
    let again = quoted(&folder.adapter().with_file_name("again.safetensors"));
    let image = quoted(&folder.shifted().join("images/009.star/test_0000.png"));
    let data = format!("--model {model} --data {shifted} --format cub");
    [
        format!(
            "{program} tune {data} --out {again} --head pretrained --augment none --val-fraction 0.25 --steps {STEPS} \
             --seed {seed}"
        ),
        format!("{program} eval {data} --adapter {adapter}"),
        format!("{program} predict --model {model} --adapter {adapter} {image}"),
        format!("{program} inspect {adapter}"),
    ]
}

/// `path` as one word of a shell's command line.
fn quoted(path: &Path) -> String {
    let text = output::printable(&path.display().to_string());
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
