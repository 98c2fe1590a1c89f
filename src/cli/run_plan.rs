//! `foretune plan`: where a run's bytes go.

use super::args::Global;
use super::device::Target;
use super::table::Table;
use super::tune_job::PlanJob;
use super::{load, output};
use foretune::Result;
use foretune::encoder::Flops;
use foretune::memory::{Budget, Plan, Planned};
use foretune::model::Model;
use foretune::tune::{GuessKind, TuneOptions};
use serde_json::json;

/// Bytes of a path and its entry in the list of photos: CUB's are about this long.
const LISTED: u64 = 180;

pub(super) fn run(job: &PlanJob, global: &Global) -> Result<()> {
    let model = Model::open(&job.model.path, &job.model.options)?;
    let options = job.on_depth(model.spec.depth);
    let cpu = load::cpu(&job.model, global);
    let target = Target::new(&job.model, global);
    let micro_batch = job.micro_batch.unwrap_or_else(|| target.micro_batch(options.batch));
    let planned = |options| Planned {
        model: &model,
        options,
        classes: job.classes,
        photos: job.images,
        listing: job.images as u64 * LISTED,
        cpu,
        wishes: load::wishes(micro_batch, job.decode_threads, global),
    };
    let plan = target.plan(planned(&options), job.budget)?;
    let exact = TuneOptions { guess: GuessKind::Backprop, ..options.clone() };
    let wishes = load::wishes(plan.micro_batch, job.decode_threads, global);
    let oracle = target.plan(Planned { wishes, ..planned(&exact) }, None)?;
    if global.json {
        let (spec, layout) = (&model.spec, options.layout());
        let tangents = if options.guess.is_forward_only() { options.tangents } else { 0 };
        let (pass, prefix) = (Flops::of_pass(spec, layout, 1, tangents), Flops::of_prefix(spec, layout, 1));
        return output::json(&json!({
            "event": "plan",
            "budget": job.budget.map(|budget| budget.0),
            "total": plan.total(),
            "micro_batch": plan.micro_batch,
            "by_blocks": plan.chunk,
            "streamed": plan.streamed,
            "tangents_per_pass": plan.tangents_per_pass,
            "decode_threads": plan.decode.threads,
            "decode_ahead": plan.decode.ahead,
            "decode_limit": plan.decode.limit,
            "lines": plan.lines,
            "flops_per_image": {"pass": pass.total(), "ahead_of_prompts": prefix.total()},
            "exact_gradient": {"total": oracle.total(), "micro_batch": oracle.micro_batch, "lines": oracle.lines},
        }));
    }
    let mut table = Table::new(["memory", &options.guess.to_string(), "exact gradient"]);
    for (line, exact) in plan.lines.iter().zip(&oracle.lines) {
        table.row([line.name.into(), Budget(line.bytes).to_string(), Budget(exact.bytes).to_string()]);
    }
    table.row(["total".into(), Budget(plan.total()).to_string(), Budget(oracle.total()).to_string()]);
    output::line(&table.render())?;
    let Plan { micro_batch, chunk, tangents_per_pass, decode, .. } = &plan;
    let at_a_time = if chunk < micro_batch { format!(", {chunk} at a time through a block") } else { String::new() };
    output::line(&format!(
        "{micro_batch} images and {tangents_per_pass} tangents a pass{at_a_time}; {} threads decode up to {} images ahead",
        decode.threads, decode.ahead
    ))?;
    output::line(&format!("total {} bytes", plan.total()))
}
