//! What several commands begin with: a data set, and the plan of a run over it.

use super::args::Global;
use super::device::Target;
use super::job::{DataSource, ModelSource};
use super::tune_job::TuneJob;
use foretune::cpu::CpuOptions;
use foretune::data::{Dataset, Problem, Split};
use foretune::memory::{Plan, Planned, Wishes, listing_bytes};
use foretune::model::Model;
use foretune::tune::{DecodeOptions, TuneOptions};
use foretune::{Error, Result};
use std::thread::available_parallelism;

/// Opens the data set, and with `--skip-bad` decodes every image, within `limits` if there are any, to leave out those that
/// would stop the run later.
pub(super) fn dataset(source: &DataSource, limits: Option<DecodeOptions>) -> Result<Dataset> {
    let mut dataset = Dataset::open(&source.root, source.format, &source.options)?;
    if source.options.skip_bad {
        let problems = verify(&dataset, limits);
        for problem in &problems {
            log::warn!("left out: {problem}");
        }
        dataset.skip(problems);
    }
    Ok(dataset)
}

fn verify(dataset: &Dataset, limits: Option<DecodeOptions>) -> Vec<Problem> {
    match limits {
        None => dataset.verify(&mut |_| {}),
        Some(DecodeOptions { threads, limit, .. }) => dataset.verify_within(Some(threads), limit, &mut |_| {}),
    }
}

/// When an image stopped the run, finds all the others that would have.
pub(super) fn all_unreadable(error: Error, dataset: &Dataset, limits: Option<DecodeOptions>) -> Error {
    const LISTED: usize = 20;
    let Error::Image { .. } = error else { return error };
    let problems = verify(dataset, limits);
    if problems.len() < 2 {
        return error;
    }
    let mut text = format!("{} images cannot be read", problems.len());
    for problem in problems.iter().take(LISTED) {
        text += &format!("\n  {problem}");
    }
    if problems.len() > LISTED {
        text += &format!("\n  and {} more; `foretune data verify` lists them all", problems.len() - LISTED);
    }
    Error::Data { path: dataset.root.clone(), problem: text + "\n--skip-bad continues without them" }
}

/// All cores compute, where nothing else was asked for.
pub(super) fn threads(global: &Global) -> usize {
    global.threads.unwrap_or_else(|| available_parallelism().map_or(1, usize::from))
}

/// How the CPU runs a model.
pub(super) fn cpu(model: &ModelSource, global: &Global) -> CpuOptions {
    let ModelSource { precision, resident, .. } = *model;
    CpuOptions { threads: threads(global), precision, resident }
}

/// What a run uses with memory to spare: half as many threads decode as compute, where nothing else was asked for.
pub(super) fn wishes(micro_batch: usize, decode_threads: Option<usize>, global: &Global) -> Wishes {
    Wishes { micro_batch, decode_threads: decode_threads.unwrap_or(threads(global).div_ceil(2)) }
}

/// How the run of `options` that `job` asks for is carried out on `target`, within its budget.
pub(super) fn plan(
    target: &Target,
    model: &Model,
    job: &TuneJob,
    options: &TuneOptions,
    dataset: &Dataset,
    global: &Global,
) -> Result<Plan> {
    let micro_batch = job.micro_batch.unwrap_or_else(|| target.micro_batch(options.batch));
    let planned = Planned {
        model,
        options,
        classes: dataset.classes.len(),
        listing: listing_bytes(dataset),
        photos: dataset.items_of(Split::Train).len(),
        cpu: cpu(&job.model, global),
        wishes: wishes(micro_batch, job.data.decode_threads, global),
    };
    target.plan(planned, job.budget)
}
