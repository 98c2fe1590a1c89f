//! `foretune bench --device cuda`: whole passes on a GPU against what it can multiply and copy, in one run.

use super::{BenchArgs, Inputs, median, model};
use crate::cli::args::Global;
use crate::cli::table::Table;
use crate::cli::{interrupt, output};
use foretune::Result;
use foretune::backend::{At, Backend, Linear, Needs, Rows};
use foretune::cuda::{CudaBackend, CudaOptions};
use foretune::encoder::Flops;
use foretune::engine::Native;
use foretune::memory::Budget;
use foretune::model::PromptLayout;
use serde_json::json;
use std::time::Instant;

/// Side of the square matrices whose product is the ceiling, unless the model's batch is smaller.
const SIDE: usize = 8192;

/// Whether it was not stopped before there was anything to report.
pub(super) fn run(args: &BenchArgs, device: usize, global: &Global) -> Result<bool> {
    let (model, _folder) = model(args)?;
    let layout = PromptLayout { prompts: args.prompts, deep: args.deep, insert_at: args.insert_at };
    layout.check(&model.spec)?;
    interrupt::install("stopping after this pass; once more to stop at once")?;
    let options = CudaOptions {
        device,
        precision: args.precision,
        streamed: args.streamed,
        own_products: args.own_products,
        separate_launches: args.separate_launches,
        ..CudaOptions::default()
    };
    let limits = limits(options, args.side.unwrap_or(SIDE), args.rounds)?;
    let native = Native::load(CudaBackend::new(options)?, &model)?.by_blocks(args.by_blocks.unwrap_or(usize::MAX));
    let inputs = Inputs::new(&model, layout, args.micro_batch);
    let mut table = Table::new(["pass", "ms/pass", "images/s", "TFLOP/s", "of the product's", "device memory"]);
    for &tangents in &args.tangents {
        let before = native.backend().device().bytes();
        let mut engine = native.engine(layout, args.micro_batch, tangents)?;
        let bytes = native.backend().device().bytes();
        inputs.pass(&mut engine, tangents)?;
        let mut seconds = Vec::new();
        for _ in 0..args.rounds {
            if interrupt::requested() {
                output::note("stopped before all was measured");
                return Ok(false);
            }
            seconds.push(inputs.pass(&mut engine, tangents)?);
        }
        let seconds = median(seconds.into_iter());
        let rate = Flops::of_pass(&model.spec, layout, args.micro_batch, tangents).total() as f64 / seconds;
        let images = args.micro_batch as f64 / seconds;
        if global.json {
            output::json(&json!({
                "event": "bench", "device": format!("cuda:{device}"), "name": native.backend().device().info().name,
                "precision": args.precision, "products": native.backend().products(), "streamed": args.streamed,
                "tangents": tangents, "batch": args.micro_batch, "seconds": seconds, "images_per_second": images,
                "flops_per_second": rate, "product_flops_per_second": limits.flops,
                "share_of_product": rate / limits.flops, "copy_bytes_per_second": limits.bandwidth,
                "device_bytes": bytes, "pass_bytes": bytes - before,
            }))?;
            continue;
        }
        table.row([
            if tangents == 0 { "forward".into() } else { format!("dual, K = {tangents}") },
            format!("{:.2}", seconds * 1e3),
            format!("{images:.1}"),
            format!("{:.2}", rate / 1e12),
            format!("{:.0} %", 100.0 * rate / limits.flops),
            Budget(bytes).to_string(),
        ]);
    }
    if global.json {
        return Ok(true);
    }
    let products = native.backend().products();
    output::line(&table.render())?;
    output::line(&format!(
        "{}, {}, products by {products}: a product of square matrices {:.2} TFLOP/s, a copy {:.1} GB/s",
        native.backend().device().info().name,
        args.precision,
        limits.flops / 1e12,
        limits.bandwidth / 1e9
    ))?;
    Ok(true)
}

/// What the device can do: FLOP/s of a product and bytes/s of a copy, those read and those written.
struct Limits {
    flops: f64,
    bandwidth: f64,
}

fn limits(options: CudaOptions, side: usize, rounds: usize) -> Result<Limits> {
    let backend = CudaBackend::new(CudaOptions { streamed: false, ..options })?;
    let len = side * side;
    let values: Vec<f32> = (0..len).map(|i| ((i % 17) as f32 - 8.0) / 8.0).collect();
    let layer = Linear { weight: backend.matrix(side, side, values)?, bias: None };
    let arena = backend.reserve(&Needs { buffers: vec![len, len], staging: Vec::new() })?;
    let (mut x, mut y) = (backend.carve(&arena, len)?, backend.carve(&arena, len)?);
    let row: Vec<f32> = (0..side).map(|i| (i as f32 * 0.37).sin()).collect();
    (0..side).try_for_each(|r| backend.write(&mut x, r * side, &row))?;
    let rows = Rows::full(1, 0, side);
    let timed = |work: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
        work()?;
        backend.synchronize()?;
        let mut seconds = Vec::new();
        for _ in 0..rounds {
            let start = Instant::now();
            work()?;
            backend.synchronize()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        Ok(median(seconds.into_iter()))
    };
    let product = timed(&mut || backend.linear(side, 0, &layer, 0..side, At::start(&x, side), &mut y, 0))?;
    let copy = timed(&mut || backend.gather(&rows, side, &x, None, &mut y))?;
    let bytes = 2 * len * foretune::cuda::element_size(options.precision);
    Ok(Limits { flops: 2.0 * (side as f64).powi(3) / product, bandwidth: bytes as f64 / copy })
}
