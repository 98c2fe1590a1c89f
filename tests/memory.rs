//! The memory promise: what a plan says is what a run takes, and after its first step it takes no more, counted allocation
//! by allocation.

mod common;
#[path = "common/counting.rs"]
mod counting;

use common::Vit;
use counting::{ALLOCATIONS, ARENA_BYTES, ARENAS, COMPUTES, Counting, LIVE, PEAK, WATCHED};
use foretune::backend::Precision;
use foretune::cpu::CpuOptions;
use foretune::cpu::pool::Pool;
use foretune::data::{Dataset, Format, OpenOptions, PrefixCacheOptions, Split};
use foretune::encoder::{Input, Sizes};
use foretune::engine::Engine;
use foretune::guess;
use foretune::memory::{Budget, Plan, Planned, Wishes, listing_bytes};
use foretune::model::{LoadOptions, Model, PromptLayout, SynthArch, SynthDtype, SynthNames, synthesise};
use foretune::tune::{AugmentKind, Event, GuessKind, HeadKind, Job, Observer, Resources, Saving, TuneOptions};
use foretune::{Error, engine};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The counters are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

struct Silent;
impl Observer for Silent {
    fn event(&mut self, _: &Event) {}
}

/// Photos of two classes.
fn photos(folder: &Path, [width, height]: [u16; 2]) {
    for (class, photo) in [("a", 0u32), ("a", 1), ("b", 2), ("b", 3)] {
        let pixels: Vec<u8> = (0..u32::from(width) * u32::from(height))
            .flat_map(|i| {
                let (x, y) = (i % u32::from(width), i / u32::from(width));
                [(x >> 4) as u8 ^ photo as u8, (y >> 4) as u8, (x.wrapping_mul(y) >> 12) as u8]
            })
            .collect();
        let path = folder.join("train").join(class);
        std::fs::create_dir_all(&path).unwrap();
        let encoder = jpeg_encoder::Encoder::new_file(path.join(format!("{photo}.jpg")), 80).unwrap();
        encoder.encode(&pixels, width, height, jpeg_encoder::ColorType::Rgb).unwrap();
    }
}

fn planned(
    model: &Model,
    dataset: &Dataset,
    options: &TuneOptions,
    cpu: CpuOptions,
    budget: Option<Budget>,
) -> foretune::Result<Plan> {
    let planned = Planned {
        model,
        options,
        classes: dataset.classes.len(),
        photos: dataset.items_of(Split::Train).len(),
        listing: listing_bytes(dataset),
        cpu,
        wishes: WISHES,
    };
    Plan::new(planned, budget)
}

/// Bytes at the peak of a run of `steps` steps within `budget` over what was live before it, and the plan's total.
fn run(
    model: &Path,
    image: usize,
    data: &Path,
    options: &TuneOptions,
    cpu: CpuOptions,
    budget: Option<Budget>,
) -> (u64, Plan) {
    run_with(model, image, data, options, cpu, budget, None)
}

fn cache_in(dir: &Path) -> PrefixCacheOptions {
    PrefixCacheOptions { dir: dir.to_owned(), most_bytes: 1 << 30 }
}

/// As [`run`], with a prefix cache in a folder.
fn run_with(
    model: &Path,
    image: usize,
    data: &Path,
    options: &TuneOptions,
    cpu: CpuOptions,
    budget: Option<Budget>,
    cache: Option<&Path>,
) -> (u64, Plan) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let plan = {
        let load = LoadOptions { image: Some([image; 2]), ..LoadOptions::default() };
        let model = Model::open(model, &load).unwrap();
        let dataset = Dataset::open(data, Format::Folder, &OpenOptions::default()).unwrap();
        let plan = planned(&model, &dataset, options, cpu, budget).unwrap();
        let prefix_cache = cache.map(cache_in);
        let resources = Resources { prefix_cache, ..Resources::of_plan(&plan, Saving::default(), false) };
        let native = engine::cpu(&model, cpu).unwrap();
        let job =
            Job { model: &model, loaded: &native, dataset: &dataset, options, resources: &resources, head_from: None };
        job.train(&mut Silent).unwrap();
        plan
    };
    ((PEAK.load(Relaxed) - before) as u64, plan)
}

fn options(batch: usize, tangents: usize) -> TuneOptions {
    TuneOptions { batch, tangents, steps: 2, warmup: 0, eval_every: 0, val_fraction: 0.0, ..TuneOptions::default() }
}

/// The smallest budget that works, as the error for one that does not names it.
fn smallest(model: &Model, data: &Path, options: &TuneOptions) -> Budget {
    let dataset = Dataset::open(data, Format::Folder, &OpenOptions::default()).unwrap();
    match planned(model, &dataset, options, CPU, Some(Budget(1 << 20))) {
        Err(Error::Budget { smallest, .. }) => Budget(smallest),
        other => panic!("a budget of 1 MiB: {other:?}"),
    }
}

/// Side of the images that models are made for, pixels.
const IMAGE: usize = 224;
const CPU: CpuOptions = CpuOptions { threads: 2, precision: Precision::F32, resident: false };
/// No pool, and with PNGs none that decodes: what rayon frees, it frees some time later.
const ONE: CpuOptions = CpuOptions { threads: 1, ..CPU };
const WISHES: Wishes = Wishes { micro_batch: 1, decode_threads: 1 };

#[test]
fn a_plan_is_a_ceiling() {
    let _alone = ALONE.lock();
    let folder = tempfile::tempdir().unwrap();
    let (data, model) = (folder.path().join("data"), folder.path().join("base"));
    // Twelve megapixels, as a camera takes them.
    photos(&data, [4000, 3000]);
    synthesise(&model, SynthArch::VitBasePatch16_224, SynthNames::Timm, SynthDtype::F16, 0).unwrap();

    let budget = Budget(24 << 20);
    let (peak, plan) = run(&model, IMAGE, &data, &options(2, 1), CPU, Some(budget));
    println!("ViT-B/16 within 24 MiB: peak {peak}, plan {}", plan.total());
    assert!(peak <= budget.0, "{peak} bytes of {}", budget.0);

    // The smallest budget is named, works, and one byte less does not.
    let opened = Model::open(&model, &LoadOptions::default()).unwrap();
    let dataset = Dataset::open(&data, Format::Folder, &OpenOptions::default()).unwrap();
    let (one, eight) = (options(2, 1), options(2, 8));
    let Budget(smallest) = smallest(&opened, &data, &one);
    assert!(matches!(planned(&opened, &dataset, &one, CPU, Some(Budget(smallest - 1))), Err(Error::Budget { .. })));
    let (peak, _) = run(&model, IMAGE, &data, &one, CPU, Some(Budget(smallest)));
    assert!(peak <= smallest, "{peak} bytes of {smallest}");

    // Eight tangents run in the budget of one, in more passes, but for their derivatives.
    let more = 2 * 7 * 4;
    let (peak, plan) = run(&model, IMAGE, &data, &eight, CPU, Some(Budget(smallest + more)));
    assert!(peak <= smallest + more && plan.tangents_per_pass < 8, "{peak} bytes of {smallest}");
}

/// Against the exact gradient of the same job, which keeps the blocks' inputs and recomputes a block at a time.
#[test]
fn half_of_what_the_exact_gradient_takes_or_less() {
    let _alone = ALONE.lock();
    let folder = tempfile::tempdir().unwrap();
    let (data, model) = (folder.path().join("data"), folder.path().join("base"));
    // Of about the size the model reads: decoding is the same for both.
    photos(&data, [256, 256]);
    synthesise(&model, SynthArch::VitBasePatch16_224, SynthNames::Timm, SynthDtype::F16, 0).unwrap();
    let opened = Model::open(&model, &LoadOptions::default()).unwrap();
    let [ours, exact] = [GuessKind::WeightTranspose, GuessKind::Backprop].map(|guess| {
        let options = TuneOptions { guess, steps: 1, ..options(1, 1) };
        let smallest = smallest(&opened, &data, &options);
        run(&model, IMAGE, &data, &options, CPU, Some(smallest)).0
    });
    println!("ViT-B/16, one image a pass: {ours} bytes, exact gradient {exact}");
    assert!(ours * 2 <= exact, "{ours} bytes against {exact}");
}

/// Directions that are kept, tokens and blocks that they come from, and examples that wait for their batch's median.
#[test]
fn what_a_guess_keeps_is_planned_for() {
    let _alone = ALONE.lock();
    let folder = tempfile::tempdir().unwrap();
    let [data, model] = ["data", "small"].map(|name| folder.path().join(name));
    photos(&data, [256, 256]);
    synthesise(&model, SynthArch::VitSmallPatch16_224, SynthNames::Timm, SynthDtype::F16, 0).unwrap();
    let opened = Model::open(&model, &LoadOptions::default()).unwrap();
    let job = TuneOptions { insert_at: 10, clip: 1.0, prompts: 2, ..options(3, 4) };
    for options in [
        TuneOptions { guess: GuessKind::Mixing, deep: true, ..job.clone() },
        TuneOptions { guess: GuessKind::Downstream(1), unit_rms: true, ..job.clone() },
        TuneOptions { guess: GuessKind::Activation, orthonormal: true, ..job.clone() },
        TuneOptions { guess: GuessKind::WeightTranspose, power: 0.5, ..job.clone() },
        TuneOptions { guess: GuessKind::MatchedCosine, ..job },
    ] {
        let smallest = smallest(&opened, &data, &options);
        let (peak, plan) = run(&model, IMAGE, &data, &options, CPU, Some(smallest));
        println!("{} {}: peak {peak}, plan {}", options.guess, options.deep, plan.total());
        assert!(peak <= smallest.0, "{options:?}: {peak} bytes of {}", smallest.0);
    }
}

/// Cold, and then warm.
#[test]
fn a_prefix_cache_is_planned_for() {
    let _alone = ALONE.lock();
    let folder = tempfile::tempdir().unwrap();
    let [data, model, cache] = ["data", "small", "cache"].map(|name| folder.path().join(name));
    photos(&data, [256, 256]);
    synthesise(&model, SynthArch::VitSmallPatch16_224, SynthNames::Timm, SynthDtype::F16, 0).unwrap();
    let opened = Model::open(&model, &LoadOptions::default()).unwrap();
    let without = TuneOptions { augment: AugmentKind::None, insert_at: 10, ..options(3, 1) };
    let with = TuneOptions { prefix_f16: true, ..without.clone() };
    let smallest_with = smallest(&opened, &data, &with);
    let more = smallest_with.0 - smallest(&opened, &data, &without).0;
    // A micro-batch of one: its values and those being computed, one that waits for its turn, one read and one written in f16.
    let values = opened.spec.prefix_len() as u64;
    assert!((2 * 4 * values + 2 * 2 * values..=3 * 4 * values + 2 * 2 * values + 4096).contains(&more), "{more} bytes");
    for state in ["cold", "warm"] {
        let (peak, _) = run_with(&model, IMAGE, &data, &with, CPU, Some(smallest_with), Some(&cache));
        println!("ViT-S/16 with a {state} prefix cache: peak {peak} of {} bytes", smallest_with.0);
        assert!(peak <= smallest_with.0, "{state}: {peak} bytes of {}", smallest_with.0);
    }
}

#[test]
fn memory_grows_with_the_batch_by_its_labels_and_derivatives_only() {
    let _alone = ALONE.lock();
    let folder = tempfile::tempdir().unwrap();
    let (data, model) = (folder.path().join("data"), folder.path().join("tiny"));
    // Small, so that it does not matter when they are decoded.
    common::photos(&data, 2, 2, 0);
    synthesise(&model, SynthArch::VitTinyPatch16_224, SynthNames::Transformers, SynthDtype::F16, 0).unwrap();
    let batches = [8u64, 64, 512];
    let peak = |batch: u64| {
        let options = TuneOptions { steps: 1, ..options(batch as usize, 2) };
        run(&model, 48, &data, &options, ONE, None).0
    };
    // What a process allocates once is no run's.
    peak(512);
    let peaks = batches.map(peak);
    println!("batches {batches:?}: peaks {peaks:?}");
    for (batch, peak) in batches.iter().zip(peaks).skip(1) {
        let most = (batch - batches[0]) * (16 + 4 * 2);
        assert!(peak.abs_diff(peaks[0]) <= most, "{peaks:?}");
    }
}

/// What a block adds is the description of its tensors, the same at any width; each of its own prompt sets is state.
#[test]
fn memory_grows_with_depth_by_prompts_only() {
    let _alone = ALONE.lock();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    common::photos(&data, 2, 2, 0);
    let shape = Vit { image: [48, 48], patch: 8, width: 128, depth: 12, heads: 2, hidden: 512, classes: 2 };
    for (deep, prompts) in [(false, 4), (true, 4)] {
        let options = TuneOptions { deep, prompts, ..options(4, 2) };
        let measured = [12, 24].map(|depth| {
            let model = folder.path().join(format!("depth{depth}"));
            Vit { depth, ..shape }.write(&model);
            run(&model, 48, &data, &options, ONE, None)
        });
        let [(shallower, _), (deeper, _)] = &measured;
        // Names, shapes and places of twelve tensors.
        let block = 12 * 320;
        // The plan's own: parameters, moments, gradient, the best, and their copies; the sets' values and γ in the guess.
        let sets = if deep { state_bytes(&measured[1].1) - state_bytes(&measured[0].1) } else { 0 };
        println!("deep {deep}: depth 12 takes {shallower} bytes, depth 24 {deeper}; a block {block}, sets {sets}");
        assert!(deeper - shallower <= 12 * block + sets, "{shallower} and {deeper} bytes");
    }
}

/// Bytes that a plan has for prompts.
fn state_bytes(plan: &Plan) -> u64 {
    plan.lines
        .iter()
        .filter(|line| ["guess", "prompts and optimizer"].contains(&line.name))
        .map(|line| line.bytes)
        .sum()
}

/// Counts allocations on computing threads from the end of the first step to the end of the last.
#[derive(Default)]
struct Watch {
    found: Option<usize>,
}

impl Observer for Watch {
    fn event(&mut self, event: &Event) {
        COMPUTES.set(Some(true));
        if let Event::Step { step, steps, .. } = *event {
            if step == 1 {
                ALLOCATIONS.store(0, Relaxed);
                WATCHED.store(true, Relaxed);
            } else if step == steps {
                WATCHED.store(false, Relaxed);
                self.found = Some(ALLOCATIONS.load(Relaxed));
            }
        }
    }
}

/// An allocation here and one on a pool's thread are seen, where threads can be told apart.
fn check_watch() {
    let pool = Pool::new(2).unwrap();
    let allocate = || drop(std::hint::black_box(Box::new(0u8)));
    COMPUTES.set(Some(true));
    ALLOCATIONS.store(0, Relaxed);
    WATCHED.store(true, Relaxed);
    allocate();
    pool.install(allocate);
    WATCHED.store(false, Relaxed);
    let seen = ALLOCATIONS.load(Relaxed);
    assert!(seen >= if cfg!(target_os = "linux") { 2 } else { 1 }, "{seen}");
}

#[test]
fn nothing_is_allocated_after_the_first_step() {
    let _alone = ALONE.lock();
    check_watch();
    let folder = tempfile::tempdir().unwrap();
    let (data, model) = (folder.path().join("data"), folder.path().join("model"));
    photos(&data, [64, 48]);
    Vit::SMALL.write(&model);
    let model = Model::open(&model, &LoadOptions::default()).unwrap();
    let dataset = Dataset::open(&data, Format::Folder, &OpenOptions::default()).unwrap();
    for threads in [1, 2] {
        let native = engine::cpu(&model, CpuOptions::threads(threads)).unwrap();
        for (guess, tangents) in [
            (GuessKind::WeightTranspose, 1),
            (GuessKind::WeightTranspose, 8),
            (GuessKind::Activation, 2),
            (GuessKind::Directional, 2),
            (GuessKind::SelfSharpening, 2),
            (GuessKind::None, 0),
        ] {
            for (head, deep) in [(HeadKind::Prototype, false), (HeadKind::Linear, true)] {
                // A rest of one example, and with eight tangents one of two.
                let (clip, orthonormal) = (tangents as f64, guess == GuessKind::Activation && deep);
                let options = TuneOptions { guess, head, deep, clip, orthonormal, steps: 80, ..options(7, tangents) };
                let cached =
                    TuneOptions { augment: AugmentKind::None, insert_at: 1, prefix_f16: true, ..options.clone() };
                let cache = cache_in(&folder.path().join("cache"));
                for (options, prefix_cache) in [(options, None), (cached, Some(cache))] {
                    let resources =
                        Resources { micro_batch: 3, tangents_per_pass: 3, prefix_cache, ..Resources::default() };
                    let job = Job {
                        model: &model,
                        loaded: &native,
                        dataset: &dataset,
                        options: &options,
                        resources: &resources,
                        head_from: None,
                    };
                    let mut watch = Watch::default();
                    job.train(&mut watch).unwrap();
                    let what = format!("{guess} with {tangents} tangents, {head:?}, {threads} threads");
                    assert_eq!(watch.found, Some(0), "{what}, prefixes in f16: {}", options.prefix_f16);
                }
            }
        }
    }
}

#[test]
fn an_engine_and_its_guess_are_one_reservation() {
    let _alone = ALONE.lock();
    let folder = tempfile::tempdir().unwrap();
    Vit::SMALL.write(folder.path());
    let model = Model::open(folder.path(), &LoadOptions::default()).unwrap();
    let native = engine::cpu(&model, CpuOptions::threads(2)).unwrap();
    let layout = PromptLayout { prompts: 3, deep: false, insert_at: 1 };
    let [examples, tangents] = [5, 2];
    let kind = GuessKind::WeightTranspose;

    let reserved = || (ARENAS.load(Relaxed), ARENA_BYTES.load(Relaxed));
    // The first engine also makes the scratch of the backend's two threads.
    drop(native.engine(layout, examples, tangents).unwrap());
    let before = reserved();
    let mut engine = native.engine_with_guess(layout, examples, tangents, kind).unwrap();
    let made = reserved();
    let needs = Sizes::new(&model.spec, layout, examples, tangents).needs();
    let needs = needs.with(&guess::needs(kind, &model.spec, layout, examples, tangents));
    let buffers = needs.buffers.into_iter().chain(needs.staging);
    let measured: usize = buffers.map(|len| (4 * len).next_multiple_of(64)).sum();
    assert_eq!((made.0 - before.0, made.1 - before.1), (1, measured));
    for _ in 0..2 {
        // The second takes the place of the first.
        assert!(Engine::directions(&engine, &kind.into()).unwrap().is_some());
    }
    let images = vec![0.5; 2 * engine.image_len()];
    let mut inputs = vec![0.0; 2 * model.spec.head_width()];
    Engine::forward(&mut engine, Input::Images(&images), &[], &mut inputs).unwrap();
    assert_eq!(reserved(), made);

    // An engine that was made for another guess has no room for this one, and says so.
    let engine = native.engine(layout, examples, tangents).unwrap();
    let refused = Engine::directions(&engine, &kind.into()).map(|_| ());
    assert!(matches!(refused, Err(Error::Arena { left: 0, .. })), "{refused:?}");
}
