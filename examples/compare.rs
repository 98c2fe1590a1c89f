//! Compares gradient sources at equal steps: head only, forward-only guesses, and the exact gradient, over heads,
//! insertion blocks and one grid of learning rates. Every cell runs in a process of its own, so that its peak memory is
//! its own, and is appended to a results file: an interrupted comparison continues where it stopped.
//!
//! ```text
//! cargo run --release --example compare -- --model DIR --data DIR --format cub --image-size 112 --results cub.jsonl
//! cargo run --release --example compare -- --results cub.jsonl --results cars.jsonl --table
//! ```

use clap::Parser;
use foretune::cpu::CpuOptions;
use foretune::data::{Dataset, Format, OpenOptions};
use foretune::model::LoadOptions;
use foretune::tune::{
    AugmentKind, Compare, DecodeOptions, Event, GuessKind, HeadKind, Job, Observer, Resources, TuneOptions,
};
use foretune::{Model, engine};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

type Failure = Box<dyn std::error::Error>;

#[derive(Parser)]
#[command(about = "Frozen head, guesses and exact gradient at equal steps, one process per cell; resumable")]
struct Args {
    /// Results, one JSON object a line. With --table, may be given several times.
    #[arg(long, required = true)]
    results: Vec<PathBuf>,
    /// Print the results as a Markdown table and stop.
    #[arg(long)]
    table: bool,
    /// With --table: take images/s and peak memory from these results of a short run on an idle machine.
    #[arg(long)]
    speed: Option<PathBuf>,
    /// Checkpoint, a file or a folder.
    #[arg(long, required_unless_present = "table")]
    model: Option<PathBuf>,
    /// Data set.
    #[arg(long, required_unless_present = "table")]
    data: Option<PathBuf>,
    /// Its format: cub, cars, dogs, folder or csv.
    #[arg(long, default_value = "folder")]
    format: Format,
    /// Image height and width, pixels.
    #[arg(long, default_value_t = 224)]
    image_size: usize,
    /// Heads: prototype and linear.
    #[arg(long, value_delimiter = ',', default_value = "prototype,linear")]
    heads: Vec<String>,
    /// Insertion blocks ℓ.
    #[arg(long, value_delimiter = ',', default_value = "0,3")]
    insert_at: Vec<usize>,
    /// Peak learning rates of the prompts, the same for every gradient source.
    #[arg(long, value_delimiter = ',', default_value = "0.001,0.01,0.1")]
    lrs: Vec<f64>,
    /// Peak learning rate of linear heads, the same everywhere.
    #[arg(long, default_value_t = 0.003)]
    head_lr: f64,
    /// Optimizer steps of every run.
    #[arg(long, default_value_t = 60)]
    steps: u64,
    /// Examples a step.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Examples a pass.
    #[arg(long, default_value_t = 16)]
    micro_batch: usize,
    /// Tangents per example.
    #[arg(long, default_value_t = 2)]
    tangents: usize,
    /// Prompts.
    #[arg(long, default_value_t = 4)]
    prompts: usize,
    /// Prompts at every block from ℓ on.
    #[arg(long)]
    deep: bool,
    /// Use VPT's augmentation instead of a flip.
    #[arg(long)]
    vpt_augment: bool,
    /// Share of the training split that picks the learning rate.
    #[arg(long, default_value_t = 0.2)]
    val_fraction: f64,
    /// Seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Run this one cell in this process and print its result.
    #[arg(long, hide = true)]
    cell: Option<String>,
}

/// One run's coordinates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Cell {
    data: String,
    head: HeadKind,
    /// Absent for the frozen model, which has no prompts.
    insert_at: Option<usize>,
    guess: GuessKind,
    lr: f64,
    steps: u64,
    seed: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    #[serde(flatten)]
    cell: Cell,
    /// Accuracies, 0..1.
    validation: f64,
    test: f64,
    /// Mean cross entropy of the test split, nats.
    test_loss: f64,
    images_per_second: f64,
    peak_mb: f64,
    /// Set instead of scores when the run failed (divergence).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

struct Silent;
impl Observer for Silent {
    fn event(&mut self, _: &Event) {}
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match (&args.cell, args.table) {
        (Some(cell), _) => run_cell(&args, cell),
        (None, true) => print_table(&args),
        (None, false) => run_all(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn cells(args: &Args) -> Result<Vec<Cell>, Failure> {
    let data = args.data.as_ref().and_then(|d| d.file_name()).map_or_else(String::new, |n| n.to_string_lossy().into());
    let mut cells = Vec::new();
    for head in &args.heads {
        let head: HeadKind = serde_json::from_value(head.as_str().into())?;
        let base = Cell {
            data: data.clone(),
            head,
            insert_at: None,
            guess: GuessKind::None,
            lr: args.lrs[0],
            steps: args.steps,
            seed: args.seed,
        };
        cells.push(base.clone());
        for &insert_at in &args.insert_at {
            for guess in
                [GuessKind::Directional, GuessKind::Activation, GuessKind::WeightTranspose, GuessKind::Backprop]
            {
                cells.extend(args.lrs.iter().map(|&lr| Cell { insert_at: Some(insert_at), guess, lr, ..base.clone() }));
            }
        }
    }
    Ok(cells)
}

fn run_all(args: &Args) -> Result<(), Failure> {
    let [results] = args.results.as_slice() else { return Err("give one --results file to run into".into()) };
    let done: Vec<Cell> = read(results)?.into_iter().map(|o| o.cell).collect();
    let cells = cells(args)?;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(results)?;
    for (i, cell) in cells.iter().enumerate() {
        if done.contains(cell) {
            continue;
        }
        let cell = serde_json::to_string(cell)?;
        eprintln!("[{}/{}] {cell}", i + 1, cells.len());
        let output = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .args(["--cell", &cell])
            .stderr(std::process::Stdio::inherit())
            .output()?;
        if !output.status.success() {
            return Err(format!("cell {cell} failed; mend it and run the same command again to continue").into());
        }
        // One write per line: a kill between cells leaves whole lines only.
        file.write_all(&output.stdout)?;
        file.sync_data()?;
    }
    Ok(())
}

fn run_cell(args: &Args, cell: &str) -> Result<(), Failure> {
    let cell: Cell = serde_json::from_str(cell)?;
    let (Some(model), Some(data)) = (&args.model, &args.data) else { return Err("--model and --data".into()) };
    let load = LoadOptions { image: Some([args.image_size; 2]), ..LoadOptions::default() };
    let model = Model::open(model, &load)?;
    let mut dataset = Dataset::open(data, args.format, &OpenOptions::default())?;
    dataset.split_validation(args.val_fraction, args.seed);
    let native = engine::cpu(&model, CpuOptions::default())?;
    let options = TuneOptions {
        guess: cell.guess,
        tangents: args.tangents,
        prompts: if cell.guess == GuessKind::None { 0 } else { args.prompts },
        deep: args.deep,
        insert_at: cell.insert_at.unwrap_or(0),
        head: cell.head,
        lr: cell.lr,
        head_lr: args.head_lr,
        // A frozen prototype head on the frozen model has nothing to train.
        steps: if cell.guess == GuessKind::None && cell.head != HeadKind::Linear { 0 } else { cell.steps },
        warmup: cell.steps / 10,
        batch: args.batch,
        augment: if args.vpt_augment { AugmentKind::Vpt } else { AugmentKind::Flip },
        seed: cell.seed,
        val_fraction: args.val_fraction,
        eval_every: 0,
        ..TuneOptions::default()
    };
    let resources = Resources {
        micro_batch: args.micro_batch,
        tangents_per_pass: args.tangents,
        decode: DecodeOptions { threads: 2, ..DecodeOptions::default() },
        ..Resources::default()
    };
    let job = Job {
        model: &model,
        native: &native,
        dataset: &dataset,
        options: &options,
        resources: &resources,
        head_from: None,
    };
    let mut outcome = Outcome {
        cell,
        validation: 0.0,
        test: 0.0,
        test_loss: 0.0,
        images_per_second: 0.0,
        peak_mb: 0.0,
        failure: None,
    };
    match job.train(&mut Silent) {
        Ok(trained) => {
            outcome.images_per_second = trained.images_per_second;
            let scores = job.scores(&trained, Compare { test: true, ..Compare::default() }, &mut Silent)?;
            let test = scores.tuned.test.ok_or("the data set has no test split to score")?;
            outcome.validation = trained.validation.map_or(0.0, |score| score.accuracy);
            (outcome.test, outcome.test_loss) = (test.accuracy, test.loss);
        }
        Err(error @ foretune::Error::Diverged(_)) => outcome.failure = Some(error.to_string()),
        Err(error) => return Err(error.into()),
    }
    outcome.peak_mb = peak_memory().unwrap_or(0.0);
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// Peak resident set of this process, MB; Linux only.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kb| kb * 1024.0 / 1e6)
}

fn read(path: &PathBuf) -> Result<Vec<Outcome>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(format!("{}: {error}", path.display()).into()),
    }
}

/// Per data set, head, ℓ and gradient source: the learning rate that validated best, and its test scores.
fn print_table(args: &Args) -> Result<(), Failure> {
    type Key = (String, String, Option<usize>, GuessKind);
    let key = |cell: &Cell| -> Result<Key, Failure> {
        Ok((cell.data.clone(), name(&cell.head)?, cell.insert_at, cell.guess))
    };
    let mut groups: Vec<(Key, Vec<Outcome>)> = Vec::new();
    for path in &args.results {
        for outcome in read(path)? {
            let key = key(&outcome.cell)?;
            match groups.iter_mut().find(|(other, _)| *other == key) {
                Some((_, runs)) => runs.push(outcome),
                None => groups.push((key, vec![outcome])),
            }
        }
    }
    let speeds = args.speed.as_ref().map(read).transpose()?;
    println!(
        "| data | head | ℓ | gradient | lr | validation | **test** | test loss | test by lr | images/s | peak MB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for ((data, head, insert_at, guess), mut runs) in groups {
        runs.sort_by(|a, b| a.cell.lr.total_cmp(&b.cell.lr));
        let finished = runs.iter().filter(|run| run.failure.is_none());
        let best = finished.max_by(|a, b| a.validation.total_cmp(&b.validation));
        let tuned = guess != GuessKind::None;
        let by_lr = runs.iter().map(|r| percent(r.failure.is_none().then_some(r.test))).collect::<Vec<_>>().join(" / ");
        let same = |other: &&Outcome| {
            let cell = &other.cell;
            (cell.insert_at, cell.guess) == (insert_at, guess) && name(&cell.head).is_ok_and(|name| name == head)
        };
        let timed = speeds.as_ref().map_or(best, |speeds| speeds.iter().find(same));
        println!(
            "| {data} | {head} | {} | {} | {} | {} | **{}** | {} | {} | {} | {} |",
            insert_at.map_or("–".to_owned(), |l| l.to_string()),
            if tuned { guess.to_string() } else { "frozen, head only".to_owned() },
            best.filter(|_| tuned).map_or("–".to_owned(), |best| best.cell.lr.to_string()),
            percent(best.map(|best| best.validation)),
            percent(best.map(|best| best.test)),
            best.map_or("–".to_owned(), |best| format!("{:.3}", best.test_loss)),
            if tuned { by_lr } else { "–".to_owned() },
            timed.filter(|t| t.images_per_second > 0.0).map_or("–".into(), |t| format!("{:.0}", t.images_per_second)),
            timed.map_or("–".to_owned(), |t| format!("{:.0}", t.peak_mb)),
        );
    }
    Ok(())
}

fn name(value: &impl Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_value(value)?.as_str().unwrap_or_default().to_owned())
}

fn percent(accuracy: Option<f64>) -> String {
    accuracy.map_or("diverged".to_owned(), |a| format!("{:.1}", 100.0 * a))
}
