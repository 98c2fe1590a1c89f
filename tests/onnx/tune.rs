//! Runs on ONNX Runtime beside the same runs on the native engine.

use super::common::{self, Bench};
use super::{cases, runtime};
use foretune::cpu::CpuOptions;
use foretune::data::{Dataset, Format, OpenOptions};
use foretune::engine::ort::{OrtModel, OrtOptions, load};
use foretune::engine::{self, Loaded};
use foretune::model::{LoadOptions, Model};
use foretune::tune::{AugmentKind, Event, GuessKind, HeadKind, Job, Observer, Resources, TuneOptions};

#[derive(Default)]
struct Losses(Vec<f64>);

impl Observer for Losses {
    fn event(&mut self, event: &Event) {
        if let Event::Step { loss, .. } = event {
            self.0.push(*loss);
        }
    }
}

/// Losses of every step, and the prompts at the end.
fn run(model: &Model, loaded: &dyn Loaded, dataset: &Dataset, options: &TuneOptions) -> (Vec<f64>, Vec<f32>) {
    run_by(5, 3, model, loaded, dataset, options)
}

/// As [`run`], so many examples and tangents a pass.
fn run_by(
    micro_batch: usize,
    tangents_per_pass: usize,
    model: &Model,
    loaded: &dyn Loaded,
    dataset: &Dataset,
    options: &TuneOptions,
) -> (Vec<f64>, Vec<f32>) {
    let resources = Resources { micro_batch, tangents_per_pass, ..Resources::default() };
    let job = Job { model, loaded, dataset, options, resources: &resources, head_from: None };
    let mut losses = Losses::default();
    let trained = job.train(&mut losses).unwrap();
    (losses.0, trained.adapter.prompts.into_iter().collect())
}

fn compare(model: &Model, dataset: &Dataset, options: &TuneOptions, tolerance: f64) {
    let native = engine::cpu(model, CpuOptions::threads(1)).unwrap();
    let runtime = OrtModel::new(model, OrtOptions { threads: 1, ..OrtOptions::default() }).unwrap();
    let [(expected, ours), (found, theirs)] =
        [&native as &dyn Loaded, &runtime].map(|loaded| run(model, loaded, dataset, options));
    assert_eq!((found.len(), expected.len()), (options.steps as usize, options.steps as usize));
    for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = (found - expected).abs() / expected.abs();
        assert!(error < tolerance, "{}, step {step}: {found} and {expected}", options.guess);
    }
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let apart = norm(&mut ours.iter().zip(&theirs).map(|(a, b)| a - b)) / norm(&mut ours.iter().copied());
    assert!(apart < tolerance, "{}: prompts are {apart:e} apart", options.guess);
}

/// What the runs here have in common: nothing random but the tangents.
fn options(guess: GuessKind) -> TuneOptions {
    TuneOptions {
        guess,
        // Prototypes tell these photos apart without a loss.
        head: HeadKind::Linear,
        steps: 50,
        warmup: 2,
        lr: 0.01,
        augment: AugmentKind::None,
        val_fraction: 0.0,
        ..TuneOptions::default()
    }
}

/// Fifty steps with every kind of guess, shallow and deep.
#[test]
fn runs_follow_the_native_engine() {
    if !runtime() {
        return;
    }
    let bench = Bench::new(5, 2);
    let model = Model::open(&bench.path("model"), &LoadOptions::default()).unwrap();
    let dataset = Dataset::open(&bench.path("data"), Format::Folder, &OpenOptions::default()).unwrap();
    let guesses = [
        GuessKind::Activation,
        GuessKind::WeightTranspose,
        GuessKind::Mixing,
        GuessKind::SelfSharpening,
        GuessKind::Downstream(1),
        GuessKind::Backprop,
    ];
    for guess in guesses {
        for (deep, insert_at) in [(false, 0), (true, 1)] {
            let options = TuneOptions { deep, insert_at, tangents: 4, batch: 7, ..options(guess) };
            compare(&model, &dataset, &options, 2e-3);
        }
    }
}

/// Fifty steps on every library's model, deep prompts included.
#[test]
fn runs_on_golden_models_follow_the_native_engine() {
    if !runtime() {
        return;
    }
    let bench = Bench::new(5, 2);
    let dataset = Dataset::open(&bench.path("data"), Format::Folder, &OpenOptions::default()).unwrap();
    let mut tuned = 0;
    for (case, path) in cases() {
        if path != case {
            continue;
        }
        let model = Model::open(&path, &LoadOptions::default()).unwrap();
        for (deep, insert_at) in [(false, 0), (true, model.spec.depth / 2)] {
            let options = TuneOptions { deep, insert_at, tangents: 2, batch: 6, ..options(GuessKind::Activation) };
            compare(&model, &dataset, &options, 2e-3);
        }
        tuned += 1;
    }
    assert!(tuned >= 10, "{tuned} models");
}

/// Micro-batches of one example, passes of one tangent and threads change no bit.
#[test]
fn the_same_bits_however_a_batch_is_cut() {
    if !runtime() {
        return;
    }
    let version = load(None).unwrap().version;
    if version.starts_with("1.20.") || version.starts_with("1.21.") {
        eprintln!("SKIPPED: ONNX Runtime {version} sums a product otherwise when it has fewer rows");
        return;
    }
    let bench = Bench::new(5, 2);
    let model = Model::open(&bench.path("model"), &LoadOptions::default()).unwrap();
    let dataset = Dataset::open(&bench.path("data"), Format::Folder, &OpenOptions::default()).unwrap();
    for head in [HeadKind::Linear, HeadKind::Prototype] {
        let options =
            TuneOptions { head, tangents: 4, steps: 4, warmup: 1, batch: 7, ..options(GuessKind::Activation) };
        let cut = |threads, micro_batch, tangents| {
            let loaded = OrtModel::new(&model, OrtOptions { threads, ..OrtOptions::default() }).unwrap();
            let (losses, prompts) = run_by(micro_batch, tangents, &model, &loaded, &dataset, &options);
            (losses, prompts.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        let whole = cut(1, 7, 4);
        for (threads, micro_batch, tangents) in [(2, 7, 4), (1, 1, 4), (1, 3, 4), (2, 6, 1), (1, 1, 3)] {
            assert_eq!(cut(threads, micro_batch, tangents), whole, "{head:?}: {threads}, {micro_batch}, {tangents}");
        }
    }
}

#[test]
fn vit_tiny_follows_the_native_engine() {
    let (true, Some(weights), Some(cars)) =
        (runtime(), common::shared("models/vit_tiny_patch16_224"), common::shared("data/stanford_cars_cropped20"))
    else {
        return;
    };
    let model = Model::open(&weights, &LoadOptions { image: Some([112; 2]), ..LoadOptions::default() }).unwrap();
    let dataset = Dataset::open(&cars, Format::Csv, &OpenOptions::default()).unwrap();
    let options = TuneOptions {
        guess: GuessKind::Activation,
        prompts: 1,
        insert_at: 3,
        tangents: 2,
        steps: 20,
        warmup: 2,
        batch: 8,
        lr: 0.1,
        augment: AugmentKind::None,
        val_fraction: 0.0,
        ..TuneOptions::default()
    };
    compare(&model, &dataset, &options, 1e-2);
}
