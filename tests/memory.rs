//! The memory promise: what a plan says is what a run takes, counted allocation by allocation and seen from outside.

use foretune::backend::Precision;
use foretune::cpu::CpuOptions;
use foretune::data::{Dataset, Format, OpenOptions, Split};
use foretune::memory::{Budget, Plan, Planned, Wishes, listing_bytes};
use foretune::model::{LoadOptions, Model, SynthArch, SynthDtype, SynthNames, synthesise};
use foretune::tune::{Event, Job, Observer, Resources, Saving, TuneOptions};
use foretune::{Error, engine};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts live bytes, their peak, and allocations.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

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

/// Bytes at the peak of a run of `steps` steps within `budget` over what was live before it, and the plan's total.
fn run(
    model: &Path,
    image: usize,
    data: &Path,
    options: &TuneOptions,
    wishes: Wishes,
    budget: Option<Budget>,
) -> (u64, Plan) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let plan = {
        let load = LoadOptions { image: Some([image; 2]), ..LoadOptions::default() };
        let model = Model::open(model, &load).unwrap();
        let dataset = Dataset::open(data, Format::Folder, &OpenOptions::default()).unwrap();
        let planned = Planned {
            model: &model,
            options,
            classes: dataset.classes.len(),
            photos: dataset.items_of(Split::Train).len(),
            listing: listing_bytes(&dataset),
            cpu: CPU,
            wishes,
        };
        let plan = Plan::new(planned, budget).unwrap();
        let resources = Resources::of_plan(&plan, Saving::default(), false);
        let native = engine::cpu(&model, CPU).unwrap();
        let job =
            Job { model: &model, native: &native, dataset: &dataset, options, resources: &resources, head_from: None };
        job.train(&mut Silent).unwrap();
        plan
    };
    ((PEAK.load(Relaxed) - before) as u64, plan)
}

fn options(batch: usize, tangents: usize) -> TuneOptions {
    TuneOptions { batch, tangents, steps: 2, warmup: 0, eval_every: 0, val_fraction: 0.0, ..TuneOptions::default() }
}

/// Side of the images that models are made for, pixels.
const IMAGE: usize = 224;
const CPU: CpuOptions = CpuOptions { threads: 2, precision: Precision::F32, resident: false };
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
    let (peak, plan) = run(&model, IMAGE, &data, &options(2, 1), WISHES, Some(budget));
    println!("ViT-B/16 within 24 MiB: peak {peak}, plan {}", plan.total());
    assert!(peak <= budget.0, "{peak} bytes of {}", budget.0);

    // The smallest budget is named, works, and one byte less does not.
    let opened = Model::open(&model, &LoadOptions::default()).unwrap();
    let dataset = Dataset::open(&data, Format::Folder, &OpenOptions::default()).unwrap();
    let (one, eight) = (options(2, 1), options(2, 8));
    let planned = Planned {
        model: &opened,
        options: &one,
        classes: dataset.classes.len(),
        photos: dataset.items_of(Split::Train).len(),
        listing: listing_bytes(&dataset),
        cpu: CPU,
        wishes: WISHES,
    };
    let Err(Error::Budget { smallest, .. }) = Plan::new(planned, Some(Budget(1 << 20))) else {
        panic!("a budget of 1 MiB was accepted")
    };
    assert!(matches!(Plan::new(planned, Some(Budget(smallest - 1))), Err(Error::Budget { .. })));
    let (peak, _) = run(&model, IMAGE, &data, &one, WISHES, Some(Budget(smallest)));
    assert!(peak <= smallest, "{peak} bytes of {smallest}");

    // Eight tangents run in the budget of one, in more passes, but for their derivatives.
    let more = 2 * 7 * 4;
    let (peak, plan) = run(&model, IMAGE, &data, &eight, WISHES, Some(Budget(smallest + more)));
    assert!(peak <= smallest + more && plan.tangents_per_pass < 8, "{peak} bytes of {smallest}");
}

#[test]
fn memory_grows_with_the_batch_by_its_labels_and_derivatives_only() {
    let _alone = ALONE.lock();
    let folder = tempfile::tempdir().unwrap();
    let (data, model) = (folder.path().join("data"), folder.path().join("tiny"));
    // Small, so that it does not matter when they are decoded.
    photos(&data, [64, 48]);
    synthesise(&model, SynthArch::VitTinyPatch16_224, SynthNames::Transformers, SynthDtype::F16, 0).unwrap();
    let peaks =
        [8, 512].map(|batch| run(&model, 48, &data, &TuneOptions { steps: 1, ..options(batch, 2) }, WISHES, None).0);
    let most = (512 - 8) * (16 + 4 * 2);
    assert!(peaks[1].abs_diff(peaks[0]) <= most, "{peaks:?}");
}
