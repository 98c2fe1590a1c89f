//! `foretune bench --engine ort`: whole passes of ONNX Runtime and of the native engine in turns within one run.

use super::{BenchArgs, Inputs, median, model};
use crate::cli::args::Global;
use crate::cli::memory::growth;
use crate::cli::table::Table;
use crate::cli::{interrupt, load, output};
use foretune::Result;
use foretune::cpu::CpuOptions;
use foretune::engine::ort::{OrtModel, OrtOptions, Provider};
use foretune::engine::{self, Loaded};
use foretune::memory::Budget;
use foretune::model::{Model, PromptLayout};
use foretune::tune::GuessKind;
use serde_json::json;

type Make<'a> = dyn Fn() -> Result<Box<dyn Loaded>> + 'a;

/// A kind of pass on one engine.
struct Row<'a> {
    engine: &'a str,
    tangents: usize,
    seconds: Vec<f64>,
    /// Most that an engine and its pass take, weights included that are not mapped from their file.
    bytes: Option<u64>,
}

/// Whether it was not stopped before there was anything to report.
pub(super) fn run(args: &BenchArgs, provider: Provider, global: &Global) -> Result<bool> {
    let (model, _folder) = model(args)?;
    let layout = PromptLayout { prompts: args.prompts, deep: args.deep, insert_at: args.insert_at };
    layout.check(&model.spec)?;
    interrupt::install("stopping after this pass; once more to stop at once")?;
    let threads = load::threads(global);
    let native = || -> Result<Box<dyn Loaded>> {
        let options = CpuOptions { threads, precision: args.precision, resident: args.resident };
        Ok(Box::new(engine::cpu(&model, options)?))
    };
    let runtime = || -> Result<Box<dyn Loaded>> {
        let options = OrtOptions { library: args.engine.ort_lib.clone(), provider, threads };
        Ok(Box::new(OrtModel::new(&model, options)?))
    };
    let name = format!("ort:{provider}");
    let makers: [(&str, &Make); 2] = [("native", &native), (&name, &runtime)];
    let inputs = Inputs::new(&model, layout, args.micro_batch);
    let pass = |loaded: &dyn Loaded, tangents| {
        let mut engine = loaded.make(layout, args.micro_batch, tangents, GuessKind::Activation)?;
        inputs.seconds(tangents, &mut |pass, source, out| engine.dual(pass, source, out))
    };
    // The mapped weights and both libraries are resident before memory is looked at.
    model.fingerprint();
    let loaded = makers.iter().map(|(_, make)| make()).collect::<Result<Vec<_>>>()?;
    let mut rows = Vec::new();
    for &tangents in &args.tangents {
        for (engine, make) in makers {
            let (_, bytes) = growth(|| pass(&*make()?, tangents))?;
            rows.push(Row { engine, tangents, seconds: Vec::new(), bytes });
        }
    }
    for _ in 0..args.rounds {
        for (i, row) in rows.iter_mut().enumerate() {
            if interrupt::requested() {
                output::note("stopped before all was measured");
                return Ok(false);
            }
            row.seconds.push(pass(&*loaded[i % makers.len()], row.tangents)?);
        }
    }
    report(args, &model, threads, &rows, global)?;
    Ok(true)
}

fn report(args: &BenchArgs, model: &Model, threads: usize, rows: &[Row], global: &Global) -> Result<()> {
    let mut table = Table::new(["pass", "engine", "img/s", "ms/img", "of native", "memory"]);
    for pair in rows.chunks(2) {
        for row in pair {
            let seconds = median(row.seconds.iter().copied());
            let images = args.micro_batch as f64 / seconds;
            let share = median(row.seconds.iter().zip(&pair[0].seconds).map(|(own, native)| native / own));
            if global.json {
                output::json(&json!({
                    "event": "pass", "engine": row.engine, "tangents": row.tangents, "threads": threads,
                    "micro_batch": args.micro_batch, "image": model.spec.image, "seconds": seconds,
                    "images_per_second": images, "speed_of_native": share, "peak_bytes": row.bytes,
                }))?;
                continue;
            }
            table.row([
                if row.tangents == 0 { "forward".into() } else { format!("dual, K = {}", row.tangents) },
                row.engine.to_owned(),
                format!("{images:.2}"),
                format!("{:.1}", 1e3 / images),
                format!("{share:.2}"),
                row.bytes.map_or("–".into(), |bytes| Budget(bytes).to_string()),
            ]);
        }
    }
    if global.json { Ok(()) } else { output::line(&table.render()) }
}
