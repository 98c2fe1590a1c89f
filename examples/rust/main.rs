//! What `examples/c/tune.c` does, from Rust: tuning on frames that the program hands over.
//!
//!     cargo run --release --example rust -- MODEL_FOLDER [ADAPTER]

use foretune::cpu::CpuOptions;
use foretune::data::{Pixels, Preparer, Rgb};
use foretune::memory::{Plan, Planned, Wishes};
use foretune::tune::{Preset, TuneOptions};
use foretune::{LoadOptions, Model, Session, SessionOptions, engine};
use std::sync::Arc;

const CLASSES: usize = 4;
const WIDTH: usize = 40;
const HEIGHT: usize = 32;
const FRAMES: usize = 32;

/// What the camera sees: frame n shows class n % 4.
fn see(n: usize) -> Vec<u8> {
    let (c, i) = (n % CLASSES, n / CLASSES);
    let value =
        |x: usize, y: usize, channel: usize| (x * (3 + c * 5) + y * (7 + c * 2) + channel * 61 + i * 29 + c * 83) as u8;
    let pixels = (0..HEIGHT).flat_map(|y| (0..WIDTH).flat_map(move |x| (0..3).map(move |channel| (x, y, channel))));
    pixels.map(|(x, y, channel)| value(x, y, channel)).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: rust MODEL_FOLDER [ADAPTER]")?;
    let model = Model::open(folder.as_ref(), &LoadOptions::default())?;
    let tune = TuneOptions {
        lr: 0.05,
        prompts: 2,
        tangents: 2,
        batch: 8,
        steps: 20,
        warmup: 2,
        seed: 7,
        insert_at: 1,
        ..Preset::default().options(model.spec.depth)
    };
    let cpu = CpuOptions { threads: 1, ..CpuOptions::default() };
    let wishes = Wishes { micro_batch: 8, decode_threads: 0 };
    let job = Planned { model: &model, options: &tune, classes: CLASSES, photos: 0, listing: 0, cpu, wishes };
    let plan = Plan::new(job, None)?;
    println!("{} bytes at most", plan.total());

    let native = Arc::new(engine::cpu(&model, cpu)?);
    let options = SessionOptions { tune, micro_batch: plan.micro_batch, tangents_per_pass: plan.tangents_per_pass };
    let mut session = Session::new(&model, native, options, Vec::new())?;
    let mut preparer = Preparer::new(session.preprocess().clone())?;
    let frames: Vec<Vec<u8>> = (0..FRAMES).map(see).collect();
    let rgb = |bytes| Rgb { bytes, width: WIDTH, height: HEIGHT, stride: 3 * WIDTH };
    let images: Vec<Rgb> = frames.iter().map(|bytes| rgb(bytes)).collect();
    let labels: Vec<u32> = (0..FRAMES).map(|n| (n % CLASSES) as u32).collect();

    for c in 0..CLASSES {
        session.add_class(&format!("class {c}"))?;
    }
    for c in 0..CLASSES {
        let mut one = Pixels { preparer: &mut preparer, images: &images[c..=c] };
        session.add_examples(&mut one, &labels[c..=c])?;
    }
    session.fit_head(&mut Pixels { preparer: &mut preparer, images: &images }, &labels)?;
    for step in 0..20 {
        let batch = step * 8 % FRAMES..step * 8 % FRAMES + 8;
        let mut given = Pixels { preparer: &mut preparer, images: &images[batch.clone()] };
        let metrics = session.step(&mut given, &labels[batch])?;
        println!("step {:2}  loss {:.4}  accuracy {:.2}", metrics.step, metrics.loss, metrics.accuracy);
    }
    if let Some(path) = arguments.next() {
        session.adapter()?.save(path)?;
    }
    Ok(())
}
