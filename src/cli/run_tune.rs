//! `foretune tune`: a run from the data set to the adapter.

use super::args::Global;
use super::device::Target;
use super::screen::Screen;
use super::table::Table;
use super::tune_job::TuneJob;
use super::{interrupt, load, memory, output};
use foretune::adapter::{Adapter, check_writable};
#[cfg(feature = "cuda")]
use foretune::cuda::{self, CudaOptions};
use foretune::data::{Dataset, Split};
#[cfg(feature = "ort")]
use foretune::engine::ort::OrtModel;
use foretune::engine::{self, Loaded};
use foretune::model::{Head, Model};
use foretune::tune::{Compare, Job, Resources, Saving, Score, Scores, Splits, Trained, TuneOptions};
use foretune::{Error, Result};
use indicatif::HumanBytes;
use serde_json::json;
use std::path::Path;

pub(super) fn run(job: &TuneJob, global: &Global) -> Result<()> {
    let model = Model::open(&job.model.path, &job.model.options)?;
    let target = Target::new(&job.model, global);
    let plan = |dataset: &Dataset, options: &TuneOptions| load::plan(&target, &model, job, options, dataset, global);
    // A budget that is too small is refused before an image is opened or anything is written.
    let limits = match job.budget {
        Some(_) => {
            let listed = Dataset::list(&job.data.root, job.data.format, &job.data.options)?;
            Some(plan(&listed, &job.on_depth(model.spec.depth))?.decode)
        }
        None => None,
    };
    check_writable(&job.out)?;
    let mut dataset = load::dataset(&job.data, limits)?;
    dataset.split_validation(job.options.val_fraction, job.options.seed);
    let train = dataset.items_of(Split::Train).len();
    if train == 0 {
        let problem = "no training images; tuning needs some in the train split".to_owned();
        return Err(Error::Data { path: dataset.root, problem });
    }
    let options = job.resolve(model.spec.depth, train)?;
    let head_from = match &job.head_from {
        Some(path) => foreign_head(path, &model, &dataset)?,
        None => None,
    };
    if job.resume && !job.checkpoint.exists() {
        log::warn!("--resume: there is no {}; starting anew", job.checkpoint.display());
    }
    let plan = plan(&dataset, &options)?;
    let saving = Saving { path: Some(job.checkpoint.clone()), every: job.checkpoint_every };
    let prefix_cache = job.prefix_cache.clone();
    let resources = Resources { prefix_cache, ..Resources::of_plan(&plan, saving, job.resume) };
    interrupt::install("stopping after this step and saving a checkpoint; once more to stop at once")?;
    let mut screen = Screen::new(global);
    let run =
        Run { job, model: &model, dataset: &dataset, options: &options, resources, head_from: head_from.as_ref() };
    let done = match &target {
        Target::Cpu(cpu) => engine::cpu(&model, *cpu).and_then(|native| run.on(&native, &mut screen)),
        #[cfg(feature = "ort")]
        Target::Ort(options) => OrtModel::new(&model, options.clone()).and_then(|loaded| run.on(&loaded, &mut screen)),
        #[cfg(feature = "cuda")]
        Target::Cuda(cuda) => {
            // The plan's bytes are obtained at once. The oracle needs more than the plan, which is not bounded then.
            let memory = Some(plan.total()).filter(|_| !job.oracle);
            let cuda = CudaOptions { streamed: plan.streamed, memory, ..*cuda };
            cuda::load(&model, cuda).and_then(|native| run.on(&native.by_blocks(plan.chunk), &mut screen))
        }
    };
    screen.finish()?;
    let (trained, scores) = done.map_err(|error| load::all_unreadable(error, &dataset, limits))?;
    report(&trained, &scores, &job.out, global)
}

/// What is trained and scored, on whichever device.
struct Run<'a> {
    job: &'a TuneJob,
    model: &'a Model,
    dataset: &'a Dataset,
    options: &'a TuneOptions,
    resources: Resources,
    head_from: Option<&'a Head>,
}

impl Run<'_> {
    fn on(&self, loaded: &dyn Loaded, screen: &mut Screen) -> Result<(Trained, Scores)> {
        let Run { job, model, dataset, options, ref resources, head_from } = *self;
        let run = Job { model, loaded, dataset, options, resources, head_from };
        let trained = run.train(screen)?;
        // Saved before it is compared, which may take longer than the run.
        trained.adapter.save(&job.out)?;
        let compare = Compare { test: job.evaluate, frozen: job.evaluate, oracle: job.oracle };
        run.scores(&trained, compare, screen).map(|scores| (trained, scores))
    }
}

/// The head stored in the adapter at `path`, if it belongs to this model and these classes.
pub(super) fn foreign_head(path: &Path, model: &Model, dataset: &Dataset) -> Result<Option<Head>> {
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

fn report(trained: &Trained, scores: &Scores, out: &Path, global: &Global) -> Result<()> {
    let Trained { adapter, images_per_second, stalled, skipped, .. } = trained;
    let peak = memory::peak();
    if global.json {
        return output::json(&json!({
            "event": "result",
            "adapter": out,
            "step": adapter.step,
            "scores": scores,
            "images_per_second": images_per_second,
            "stalled": stalled,
            "skipped_steps": skipped,
            "peak_memory_bytes": peak,
        }));
    }
    if global.quiet {
        return Ok(());
    }
    let tuned = format!("tuned ({})", adapter.guess);
    let models = [
        ("frozen, head only", scores.frozen),
        (tuned.as_str(), Some(scores.tuned)),
        ("tuned (exact gradient)", scores.oracle),
    ];
    let mut table = Table::new(["split", "model", "accuracy", "loss", "images"]);
    for (split, of) in [("validation", (|s| s.validation) as fn(Splits) -> Option<Score>), ("test", |s| s.test)] {
        for (model, splits) in models {
            if let Some(Score { accuracy, loss, examples }) = splits.and_then(of) {
                let accuracy = format!("{:.2} %", accuracy * 100.0);
                table.row([split.into(), model.into(), accuracy, format!("{loss:.4}"), examples.to_string()]);
            }
        }
    }
    output::line(&table.render())?;
    if scores.oracle.is_none() && adapter.guess.is_forward_only() {
        output::line("(--oracle also tunes by the exact gradient, for comparison)")?;
    }
    let skips = if *skipped > 0 { format!(", {skipped} steps skipped") } else { String::new() };
    let peak = peak.map_or(String::new(), |bytes| format!(", peak memory {}", HumanBytes(bytes)));
    let stalled = format!(", {:.1} % of the time waiting for photos", 100.0 * stalled);
    output::line(&format!("{images_per_second:.1} img/s{stalled}{peak}{skips}"))?;
    output::line(&format!("{}: prompts of step {}", output::printable(&out.display().to_string()), adapter.step))
}
