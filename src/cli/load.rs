//! What several commands begin with: a data set.

use super::args::Global;
use super::job::{DataSource, ModelSource};
use foretune::cpu::CpuOptions;
use foretune::data::{Dataset, Problem};
use foretune::memory::Wishes;
use foretune::tune::DecodeOptions;
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
