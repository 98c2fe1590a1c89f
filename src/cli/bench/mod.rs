//! `foretune bench`: forward and dual passes against what the machine can do, measured in turns within one run.

mod args;
mod ceiling;
#[cfg(feature = "cuda")]
mod gpu;
mod timed;

use super::args::Global;
#[cfg(feature = "cuda")]
use super::device::DeviceChoice;
use super::table::Table;
use super::{interrupt, load, output};
pub(super) use args::BenchArgs;
use ceiling::Ceiling;
use foretune::backend::{Backend, Needs};
use foretune::cpu::{self, CpuBackend, CpuOptions};
use foretune::encoder::{Encoder, Flops, Input, Pass, Sizes};
use foretune::engine::Native;
use foretune::memory::Budget;
use foretune::model::{LoadOptions, Model, PromptLayout, SynthDtype, SynthNames, synthesise};
use foretune::tune::GuessKind;
use foretune::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::time::Instant;
use timed::{Cost, Costs, Timed};

/// Bytes of a stored f32.
const F32: u64 = size_of::<f32>() as u64;

/// One kind of pass and its times, round by round.
struct Row {
    tangents: usize,
    threads: usize,
    flops: u64,
    bytes: u64,
    seconds: Vec<f64>,
}

/// Whether it was not stopped before there was anything to report.
pub(super) fn run(args: &BenchArgs, global: &Global) -> Result<bool> {
    #[cfg(feature = "cuda")]
    if let DeviceChoice::Cuda(device) = args.device {
        return gpu::run(args, device, global);
    }
    let (model, _folder) = model(args)?;
    let options = CpuOptions { threads: load::threads(global), precision: args.precision, resident: args.resident };
    let layout = PromptLayout { prompts: args.prompts, deep: args.deep, insert_at: args.insert_at };
    layout.check(&model.spec)?;
    interrupt::install("stopping after this pass; once more to stop at once")?;
    let bar = progress(args, global);

    let native = Native::load(CpuBackend::new(options)?, &model)?;
    let one = Native::load(CpuBackend::new(CpuOptions { threads: 1, ..options })?, &model)?;
    let mut rows: Vec<Row> = args.tangents.iter().map(|&k| row(&model, layout, args, options, k)).collect();
    if options.threads > 1 && args.tangents.contains(&0) {
        rows.push(row(&model, layout, args, CpuOptions { threads: 1, ..options }, 0));
    }
    let mut ceiling = Ceiling::new(&model.spec, args.micro_batch, options.precision, options.threads)?;
    let (mut ceilings, mut bandwidths) = (Vec::new(), Vec::new());
    let inputs = Inputs::new(&model, layout, args.micro_batch);
    // One round to warm up, which is not counted.
    'rounds: for round in 0..=args.rounds {
        let (seconds, bandwidth) = (ceiling.measure(), ceiling.bandwidth());
        if round > 0 {
            ceilings.push(seconds);
            bandwidths.push(bandwidth);
        }
        for row in &mut rows {
            if interrupt::requested() {
                break 'rounds;
            }
            let native = if row.threads == 1 { &one } else { &native };
            // Made anew, so that the passes do not share the memory that their bytes are printed for.
            let mut engine = native.engine(layout, args.micro_batch, row.tangents)?;
            let seconds = inputs.pass(&mut engine, row.tangents)?;
            if round > 0 {
                row.seconds.push(seconds);
            }
            bar.inc(1);
        }
    }
    if rows.iter().any(|row| row.seconds.is_empty()) {
        bar.finish_and_clear();
        output::note("stopped before one round was complete");
        return Ok(false);
    }
    let machine = Machine {
        flops: ceiling.flops() / median(ceilings.iter().map(|seconds| seconds.best)),
        ours: ceiling.flops() / median(ceilings.iter().map(|seconds| seconds.ours)),
        peer: ceilings.iter().map(|seconds| seconds.peer).collect::<Option<Vec<_>>>().map(|peer| {
            let peer = median(peer.into_iter());
            ceiling.flops() / peer
        }),
        bandwidth: median(bandwidths.into_iter()),
    };
    let ops = if args.ops { ops(&model, layout, args, options, &inputs, &bar)? } else { Vec::new() };
    bar.finish_and_clear();
    report(args, options, &machine, &rows, global)?;
    ops.iter().try_for_each(|(tangents, costs)| report_ops(*tangents, costs, &machine, args, global))?;
    Ok(true)
}

/// Measured limits: FLOP/s of the model's linear layers, by the better product of each, and bytes/s.
struct Machine {
    flops: f64,
    ours: f64,
    peer: Option<f64>,
    bandwidth: f64,
}

/// The model asked for, or a random one in a temporary folder, which lives as long as the second value.
fn model(args: &BenchArgs) -> Result<(Model, Option<tempfile::TempDir>)> {
    let options = LoadOptions { image: args.image_size, ..LoadOptions::default() };
    if let Some(path) = &args.model {
        return Ok((Model::open(path, &options)?, None));
    }
    let folder = tempfile::tempdir().map_err(|source| Error::Io {
        action: "create a folder in",
        path: std::env::temp_dir(),
        source,
    })?;
    synthesise(folder.path(), args.arch, SynthNames::Timm, SynthDtype::F16, 0)?;
    Ok((Model::open(folder.path(), &options)?, Some(folder)))
}

fn progress(args: &BenchArgs, global: &Global) -> ProgressBar {
    if global.quiet || global.json {
        return ProgressBar::hidden();
    }
    let passes = args.tangents.len() + usize::from(args.tangents.contains(&0));
    let bar = ProgressBar::new((passes * (args.rounds + 1) + if args.ops { args.tangents.len() } else { 0 }) as u64);
    let style = ProgressStyle::with_template("measuring [{bar:30}] {pos}/{len} passes, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar
}

fn row(model: &Model, layout: PromptLayout, args: &BenchArgs, options: CpuOptions, tangents: usize) -> Row {
    let spec = &model.spec;
    let sizes = Sizes::new(spec, layout, args.micro_batch, tangents);
    let Needs { buffers, staging } = sizes.needs();
    let buffers: usize = buffers.iter().chain(&staging).sum();
    let scratch = cpu::scratch_bytes(spec, options.precision, sizes.tokens, tangents, GuessKind::Activation);
    Row {
        tangents,
        threads: options.threads,
        flops: Flops::of_pass(spec, layout, args.micro_batch, tangents).total(),
        bytes: buffers as u64 * F32 + scratch * options.threads as u64,
        seconds: Vec::new(),
    }
}

/// What a pass reads.
struct Inputs {
    images: Vec<f32>,
    prompts: Vec<f32>,
    head_width: usize,
    examples: usize,
}

impl Inputs {
    fn new(model: &Model, layout: PromptLayout, examples: usize) -> Self {
        let spec = &model.spec;
        let wave = |len: usize, scale: f32| (0..len).map(|i| scale * (i as f32 * 0.37).sin()).collect();
        Inputs {
            images: wave(examples * spec.image_len(), 1.0),
            prompts: wave(layout.parameters(spec), 0.1),
            head_width: spec.head_width(),
            examples,
        }
    }

    /// Seconds of one pass. Tangents are as cheap as can be: the guess is not part of the pass.
    fn pass<B: Backend<Elem = f32>>(&self, engine: &mut Encoder<B>, tangents: usize) -> Result<f64> {
        let mut out = vec![0.0; (1 + tangents) * self.examples * self.head_width];
        let mut once = |engine: &mut Encoder<B>| {
            let mut fill = |_: usize, out: &mut [f32]| {
                out.iter_mut().enumerate().for_each(|(i, v)| *v = (i % 7) as f32 - 3.0);
                Ok(())
            };
            let start = Instant::now();
            engine.dual(
                Pass { input: Input::Images(&self.images), prompts: &self.prompts, tangents },
                &mut fill,
                &mut out,
            )?;
            Ok(start.elapsed().as_secs_f64())
        };
        // The first touches new memory.
        once(engine)?;
        once(engine)
    }
}

type OpCosts = Vec<(String, Cost)>;

/// Where the time of each kind of pass goes, most first.
fn ops(
    model: &Model,
    layout: PromptLayout,
    args: &BenchArgs,
    options: CpuOptions,
    inputs: &Inputs,
    bar: &ProgressBar,
) -> Result<Vec<(usize, OpCosts)>> {
    let costs = Costs::default();
    let native = Native::load(Timed { inner: CpuBackend::new(options)?, costs: costs.clone() }, model)?;
    let mut all = Vec::new();
    for &tangents in &args.tangents {
        if interrupt::requested() {
            break;
        }
        let mut engine = native.engine(layout, args.micro_batch, tangents)?;
        inputs.pass(&mut engine, tangents)?;
        costs.take();
        inputs.pass(&mut engine, tangents)?;
        let mut found: OpCosts = costs.take().into_iter().collect();
        found.sort_by_key(|(_, cost)| std::cmp::Reverse(cost.time));
        // Two passes were timed.
        for (_, cost) in &mut found {
            *cost = Cost { calls: cost.calls / 2, flops: cost.flops / 2, bytes: cost.bytes / 2, time: cost.time / 2 };
        }
        all.push((tangents, found));
        bar.inc(1);
    }
    Ok(all)
}

fn report(args: &BenchArgs, options: CpuOptions, machine: &Machine, rows: &[Row], global: &Global) -> Result<()> {
    let name = options.precision.to_string();
    let CpuOptions { threads, .. } = options;
    if global.json {
        output::json(&json!({
            "event": "machine", "precision": name, "threads": threads, "micro_batch": args.micro_batch,
            "flops_per_second": machine.flops, "ours": machine.ours, "gemm_crate": machine.peer,
            "bytes_per_second": machine.bandwidth,
        }))?;
    } else {
        let peer = machine.peer.map_or(String::new(), |peer| format!(", gemm crate {:.0}", peer / 1e9));
        output::line(&format!(
            "linear layers at these shapes, {name}, {threads} threads: {:.0} GFLOP/s at best (ours {:.0}{peer}); copies {:.0} GB/s",
            machine.flops / 1e9,
            machine.ours / 1e9,
            machine.bandwidth / 1e9,
        ))?;
    }
    let forward = rows.iter().find(|row| row.tangents == 0);
    let mut table = Table::new([
        "pass",
        "threads",
        "img/s",
        "ms/img",
        "GFLOP/img",
        "GFLOP/s",
        "ceiling",
        "time",
        "FLOPs",
        "time/FLOPs",
        "buffers",
    ]);
    for row in rows {
        let seconds = median(row.seconds.iter().copied());
        let (images, rate) = (args.micro_batch as f64, row.flops as f64 / seconds);
        let share = rate / machine.flops;
        let ratios = forward.map(|forward| {
            let time = median(row.seconds.iter().zip(&forward.seconds).map(|(a, b)| a / b));
            (time, row.flops as f64 / forward.flops as f64)
        });
        if global.json {
            output::json(&json!({
                "event": "pass", "tangents": row.tangents, "threads": row.threads, "seconds": seconds,
                "images_per_second": images / seconds, "flops_per_image": row.flops as f64 / images,
                "flops_per_second": rate, "share_of_ceiling": if row.threads == threads { Some(share) } else { None },
                "time_ratio": ratios.map(|(time, _)| time), "flop_ratio": ratios.map(|(_, flops)| flops),
                "buffer_bytes": row.bytes,
            }))?;
            continue;
        }
        let ratio = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.3}"));
        table.row([
            if row.tangents == 0 { "forward".into() } else { format!("dual, K = {}", row.tangents) },
            row.threads.to_string(),
            format!("{:.2}", images / seconds),
            format!("{:.1}", 1e3 * seconds / images),
            format!("{:.1}", row.flops as f64 / images / 1e9),
            format!("{:.0}", rate / 1e9),
            if row.threads == threads { format!("{:.1} %", 100.0 * share) } else { "–".into() },
            ratio(ratios.map(|(time, _)| time)),
            ratio(ratios.map(|(_, flops)| flops)),
            ratio(ratios.map(|(time, flops)| time / flops)),
            Budget(row.bytes).to_string(),
        ]);
    }
    if global.json { Ok(()) } else { output::line(&table.render()) }
}

fn report_ops(tangents: usize, costs: &OpCosts, machine: &Machine, args: &BenchArgs, global: &Global) -> Result<()> {
    let total: f64 = costs.iter().map(|(_, cost)| cost.time.as_secs_f64()).sum();
    let mut table = Table::new(["operation", "calls", "GFLOP", "MB", "ms allowed", "ms", "share", "GFLOP/s", "GB/s"]);
    for (name, cost) in costs {
        let Cost { calls, flops, bytes, time } = *cost;
        let seconds = time.as_secs_f64();
        let allowed = (flops as f64 / machine.flops).max(bytes as f64 / machine.bandwidth);
        if global.json {
            output::json(&json!({
                "event": "op", "tangents": tangents, "op": name, "calls": calls, "flops": flops, "bytes": bytes,
                "seconds_allowed": allowed, "seconds": seconds,
            }))?;
            continue;
        }
        table.row([
            name.clone(),
            calls.to_string(),
            format!("{:.1}", flops as f64 / 1e9),
            format!("{:.0}", bytes as f64 / 1e6),
            format!("{:.1}", 1e3 * allowed),
            format!("{:.1}", 1e3 * seconds),
            format!("{:.1} %", 100.0 * seconds / total),
            if flops == 0 { "–".into() } else { format!("{:.0}", flops as f64 / seconds / 1e9) },
            format!("{:.0}", bytes as f64 / seconds / 1e9),
        ]);
    }
    if global.json {
        return Ok(());
    }
    output::line(&format!("\nK = {tangents}, one pass of {} images:", args.micro_batch))?;
    output::line(&table.render())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
