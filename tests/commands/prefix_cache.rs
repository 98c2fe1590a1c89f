//! The prefix cache: the bits of a run do not depend on what was kept, nor on what became of the file.

use crate::common::{Bench, Vit, command, failure, foretune, listing, success, text};
use foretune::cpu::{CpuBackend, CpuOptions};
use foretune::encoder::{Encoder, Input, Pass};
use foretune::engine::{self, Engine, Native};
use foretune::model::{LoadOptions, Model, PromptLayout};
use foretune::ops::{head, loss};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Values of about the size of normalised pixels, the same every time.
fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| (((i + seed) * 37 % 101) as f32 - 50.0) / 40.0).collect()
}

/// A dual pass: head inputs, losses and derivatives, all as bits.
fn dual(engine: &mut Encoder<CpuBackend>, model: &Model, input: Input<f32>, prompts: &[f32], count: usize) -> Vec<u32> {
    let (examples, tangents) = (count, if prompts.is_empty() { 0 } else { 2 });
    let mut draw = |set: usize, y: &mut [f32]| {
        y.copy_from_slice(&values(y.len(), 11 * set));
        Ok(())
    };
    let mut out = vec![0.0; (1 + tangents) * examples * model.spec.head_width()];
    Engine::dual(engine, Pass { input, prompts, tangents }, &mut draw, &mut out).unwrap();
    let head = model.head().unwrap().expect("a golden model has a head");
    let (labels, mut judged) = (vec![0; examples], loss::Judged::default());
    Engine::judge(engine, Pass { input, prompts, tangents }, &mut draw, &head, &labels, &mut judged).unwrap();
    out.extend(judged.losses.iter().chain(&judged.derivatives));
    let mut forward = vec![0.0; examples * model.spec.head_width()];
    Engine::forward(engine, input, prompts, &mut forward).unwrap();
    out.extend(forward);
    out.into_iter().map(f32::to_bits).collect()
}

fn gradient(
    engine: &mut Encoder<CpuBackend>,
    model: &Model,
    input: Input<f32>,
    prompts: &[f32],
    count: usize,
) -> Vec<u32> {
    let classifier = model.head().unwrap().expect("a golden model has a head");
    let mut slope = |f: &[f32], df: &mut [f32]| {
        let mut judged = loss::Judged::default();
        loss::judge(&classifier, &vec![1; count], 0, f, &mut judged);
        let slopes = judged.slopes.chunks_exact(classifier.classes());
        let width = classifier.width();
        for ((f, df), dz) in f.chunks_exact(width).zip(df.chunks_exact_mut(width)).zip(slopes) {
            head::vjp(&classifier, f, dz, df);
        }
        Ok(())
    };
    let mut grads = vec![0.0; count * prompts.len()];
    Engine::gradient(engine, input, prompts, &mut slope, &mut grads).unwrap();
    assert!(grads.iter().any(|&g| g != 0.0));
    grads.into_iter().map(f32::to_bits).collect()
}

/// A pass that begins with a prefix has the bits of one over the images: class token, patch mean, both, distillation and register
/// tokens; shallow and deep; with and without prompts; whole and by blocks; whatever ran before.
#[test]
fn a_pass_from_the_prefix_has_the_bits_of_one_from_the_images() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let small = tempfile::tempdir().unwrap();
    Vit::SMALL.write(small.path());
    let golden = ["timm_interpolated", "timm_gap", "timm_reg4_gap", "timm_clip_quickgelu", "timm_deit_distilled"];
    let more = ["hf_dinov2_swiglu", "hf_dinov2_registers_interpolated"];
    let paths = golden.into_iter().chain(more).map(|name| root.join(name)).chain([small.path().to_owned()]);
    for path in paths {
        let model = Model::open(&path, &LoadOptions::default()).unwrap();
        for (insert_at, deep) in (1..model.spec.depth).flat_map(|l| [(l, false), (l, true)]) {
            let layout = PromptLayout { prompts: 3, deep, insert_at };
            let prompts = values(layout.parameters(&model.spec), 5);
            let images = values(5 * model.preprocess.image_len(), 0);
            let what = format!("{}, block {insert_at}, deep {deep}", path.display());
            let mut seen: Option<Vec<Vec<u32>>> = None;
            for (threads, chunk) in [(1, usize::MAX), (2, 2), (2, usize::MAX)] {
                let native = engine::cpu(&model, CpuOptions::threads(threads)).unwrap().by_blocks(chunk);
                let mut engine = native.engine(layout, 5, 2).unwrap();
                let expected = [&prompts[..], &[]].map(|p| dual(&mut engine, &model, Input::Images(&images), p, 5));
                let mut prefix = vec![0.0; 5 * model.spec.prefix_len()];
                Engine::prefix(&mut engine, &images, &mut prefix).unwrap();
                // One at a time gives the same.
                let (one, len) = (model.preprocess.image_len(), model.spec.prefix_len());
                let mut alone = vec![0.0; len];
                Engine::prefix(&mut engine, &images[3 * one..][..one], &mut alone).unwrap();
                assert!(alone == prefix[3 * len..][..len], "{what}, {threads} threads");
                let found = [&prompts[..], &[]].map(|p| dual(&mut engine, &model, Input::Prefix(&prefix), p, 5));
                assert!(found == expected, "{what}, {threads} threads, {chunk} at a time");
                let mut all = found.to_vec();
                if chunk == usize::MAX {
                    let exact = gradient(&mut engine, &model, Input::Images(&images), &prompts, 5);
                    assert!(gradient(&mut engine, &model, Input::Prefix(&prefix), &prompts, 5) == exact, "{what}");
                    // An engine without prompts, as baselines have, reads the same prefix.
                    let mut bare = native.engine(PromptLayout { prompts: 0, deep: false, insert_at }, 5, 0).unwrap();
                    assert!(dual(&mut bare, &model, Input::Prefix(&prefix), &[], 5) == expected[1], "{what}");
                    assert!(dual(&mut bare, &model, Input::Images(&images), &[], 5) == expected[1], "{what}");
                    let mut again = vec![0.0; prefix.len()];
                    Engine::prefix(&mut bare, &images, &mut again).unwrap();
                    assert!(again == prefix, "{what}");
                    all.push(exact);
                }
                let seen = seen.get_or_insert(all.clone());
                assert!(all.iter().zip(&*seen).all(|(a, b)| a == b), "{what}, {threads} threads, {chunk} at a time");
            }
        }
    }
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    Vit::SMALL.write(folder.path());
    let model = Model::open(folder.path(), &LoadOptions::default()).unwrap();
    let native: Native<CpuBackend> = engine::cpu(&model, CpuOptions::threads(1)).unwrap();
    let (len, image) = (model.spec.prefix_len(), model.preprocess.image_len());
    let prefix = |insert_at: usize, images: usize, out: usize| {
        let mut engine = native.engine(PromptLayout { prompts: 1, deep: false, insert_at }, 2, 0).unwrap();
        Engine::prefix(&mut engine, &vec![0.5; images], &mut vec![0.0; out]).map_err(|error| error.to_string())
    };
    assert!(prefix(1, image, len).is_ok());
    assert!(prefix(0, image, len).unwrap_err().contains("1 or more"));
    assert!(prefix(1, image, len + 1).unwrap_err().contains("prefix"));
    assert!(prefix(1, image + 1, len).unwrap_err().contains("images"));
    assert!(prefix(1, 3 * image, 3 * len).unwrap_err().contains("1..=2"));
    let mut engine = native.engine(PromptLayout { prompts: 1, deep: false, insert_at: 1 }, 2, 0).unwrap();
    let (prompts, mut out) = (vec![0.0; model.spec.width], vec![0.0; model.spec.head_width()]);
    for len in [0, len - 1, 3 * len] {
        assert!(Engine::forward(&mut engine, Input::Prefix(&vec![0.5; len]), &prompts, &mut out).is_err(), "{len}");
    }
    assert!(native.engine(PromptLayout { prompts: 0, deep: false, insert_at: 3 }, 1, 0).is_err());
}

const COMMON: &str =
    "--augment none --insert-at 2 --batch 10 --steps 7 --eval-every 3 --val-fraction 0.3 --lr 0.1 --head-lr 0.1";

/// Every kind of pass, and both kinds of heads that look at the training images themselves.
const RUNS: [&str; 4] = [
    "--tangents 2 --prompts 3",
    "--tangents 3 --deep --head linear --guess activation --insert-at 1",
    "--guess backprop --deep --insert-at 1",
    "--guess none --head linear",
];

/// A model, photos, and folders of caches.
struct Runs(Bench);

impl Runs {
    fn new() -> Self {
        Runs(Bench::new(7, 2))
    }

    fn args(&self, cache: &str, more: &str) -> Vec<String> {
        let cache = if cache == "off" { cache.to_owned() } else { self.0.arg(cache) };
        // What is given last counts.
        let more: Vec<&str> = more.split_whitespace().collect();
        let common = COMMON.split_whitespace().collect::<Vec<_>>();
        let common = common.chunks_exact(2).filter(|pair| !more.contains(&pair[0])).flatten().copied();
        let options: Vec<&str> = common.chain(more.iter().copied()).collect();
        self.0.tune("a.safetensors", &format!("--prefix-cache {cache} {}", options.join(" ")))
    }

    /// The adapter's bytes and what went to standard error.
    fn run(&self, cache: &str, more: &str) -> (Vec<u8>, String) {
        let args = self.args(cache, &format!("{more} --quiet"));
        let output = foretune(&args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        (fs::read(self.0.path("out/a.safetensors")).unwrap(), text(&output.stderr))
    }

    /// The one file of a cache.
    fn file(&self, cache: &str) -> PathBuf {
        let names = listing(&self.0.path(cache));
        assert!(matches!(&names[..], [name] if name.ends_with(".prefix") && name.len() == 39), "{names:?}");
        self.0.path(cache).join(&names[0])
    }
}

#[test]
fn what_is_kept_changes_no_bit() {
    let runs = Runs::new();
    for options in RUNS {
        fs::remove_dir_all(runs.0.path("cache")).ok();
        fs::remove_dir_all(runs.0.path("tight")).ok();
        let (cold, said) = runs.run("cache", &format!("{options} --threads 1 --micro-batch 10"));
        assert_eq!(said, "", "{options}");
        let kept = fs::read(runs.file("cache")).unwrap();
        assert!(kept.len() > 128 + 256 * 32);
        let check = |cache: &str, how: &str| {
            let (found, said) = runs.run(cache, &format!("{options} {how}"));
            assert!(found == cold, "{options} {how}: other bytes than in the first run");
            assert_eq!(said, "", "{options} {how}");
        };
        check("cache", "--threads 2 --micro-batch 10");
        check("cache", "--threads 1 --micro-batch 3 --decode-threads 3");
        check("cache", "--threads 2 --micro-batch 1");
        assert!(fs::read(runs.file("cache")).unwrap() == kept, "{options}: a warm run writes nothing");
        // Room for four of the photos: the others are computed every time.
        let record = 2 * (1 + 5 * 4) * 32;
        let bound = 128 + 256 * 32 + 4 * record;
        for how in ["--threads 2 --micro-batch 10", "--threads 1 --micro-batch 3", "--threads 2 --micro-batch 1"] {
            check("tight", &format!("{how} --prefix-cache-size {bound}"));
            assert_eq!(fs::metadata(runs.file("tight")).unwrap().len(), bound, "{options} {how}");
        }
        let (without, _) = runs.run("off", options);
        assert!(without != cold, "{options}: rounding changes something");
    }
}

/// With the scores that a run is reported with, the frozen model's and the exact gradient's among them.
#[test]
fn scores_do_not_depend_on_what_is_kept() {
    let runs = Runs::new();
    for options in ["", "--head linear"] {
        let scores = |how: &str| {
            let mut args = runs.args(&format!("cache{}", options.len()), &format!("{options} {how} --json"));
            args.retain(|arg| arg != "--no-eval");
            args.push("--oracle".into());
            let output = success(&args);
            let result: serde_json::Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
            assert!(result["scores"]["oracle"]["test"]["accuracy"].is_number(), "{result}");
            result["scores"].clone()
        };
        let cold = scores("--micro-batch 10 --threads 2");
        assert_eq!(scores("--micro-batch 4 --threads 1"), cold);
    }
}

#[test]
fn a_resumed_run_is_that_of_the_same_rounding_with_any_cache() {
    let runs = Runs::new();
    let (whole, _) = runs.run("cache", "--steps 7");
    let checkpoint = runs.0.path("out/a.checkpoint.safetensors");
    // A finished run, with another cache; nothing of the step it ends with is left to do.
    fs::remove_file(runs.0.path("out/a.safetensors")).unwrap();
    assert!(runs.run("elsewhere", "--steps 7 --resume").0 == whole);
    let message = failure(&runs.args("off", "--resume --quiet"), 1);
    assert!(message.contains("prefix-f16 is true there, false here"), "{message}");
    fs::remove_file(&checkpoint).unwrap();
    runs.run("off", "");
    let message = failure(&runs.args("cache", "--resume --quiet"), 1);
    assert!(message.contains("prefix-f16 is false there, true here"), "{message}");

    // A checkpoint of a version that knew of no cache is one without.
    let bytes = fs::read(&checkpoint).unwrap();
    let state = foretune::tune::TrainState::from_bytes(&checkpoint, &bytes).unwrap();
    let mut options = serde_json::to_value(&state.identity.options).unwrap();
    assert_eq!(options.as_object_mut().unwrap().remove("prefix_f16"), Some(false.into()));
    let old: foretune::tune::TuneOptions = serde_json::from_value(options).unwrap();
    assert_eq!(old, state.identity.options);
}

/// Killed again and again, at whatever it is doing, the file is one that the next run can use.
#[test]
fn a_killed_run_leaves_a_cache_that_is_used() {
    let runs = Runs::new();
    let (whole, _) = runs.run("other", "");
    for delay in [5, 15, 30, 45, 60, 90, 120, 160] {
        let mut child =
            command(&runs.args("cache", "--quiet --threads 1 --micro-batch 1 --steps 4000")).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        let (found, said) = runs.run("cache", "");
        assert!(found == whole, "killed after {delay} ms");
        assert_eq!(said, "", "killed after {delay} ms");
        if delay % 2 == 1 {
            fs::remove_file(runs.file("cache")).unwrap();
        }
    }
}

#[test]
fn damage_is_said_and_computed_again() {
    let runs = Runs::new();
    let (whole, _) = runs.run("cache", "");
    let file = runs.file("cache");
    let kept = fs::read(&file).unwrap();
    let check = |damaged: &[u8], what: &str| {
        fs::write(&file, damaged).unwrap();
        let (found, said) = runs.run("cache", "");
        assert!(found == whole, "{what}");
        assert!(said.contains(".prefix: ") && said.lines().count() == 1, "{what}: {said}");
        assert_eq!(fs::read(&file).unwrap().len(), kept.len(), "{what}");
        let (found, said) = runs.run("cache", "");
        assert!(found == whole && said.is_empty(), "{what}, the run after: {said}");
    };
    let mut flipped = kept.clone();
    flipped[kept.len() - 40] ^= 0x10;
    check(&flipped, "a flipped bit");
    check(&kept[..kept.len() - 3], "cut short");
    let mut headed = kept.clone();
    headed[33] ^= 1;
    check(&headed, "another key in the header");
    // Another model's file under this one's name.
    Vit { depth: 4, ..Vit::SMALL }.write(&runs.0.path("model"));
    runs.run("theirs", "");
    let theirs = fs::read(runs.file("theirs")).unwrap();
    runs.run("cache", "");
    let names = listing(&runs.0.path("cache"));
    assert_eq!(names.len(), 2, "a file for each model: {names:?}");
    fs::remove_file(runs.0.path("cache").join(runs.file("theirs").file_name().unwrap())).unwrap();
    Vit::SMALL.write(&runs.0.path("model"));
    check(&theirs, "another model's");
}

#[test]
fn what_decides_the_values_has_a_file_of_its_own() {
    let runs = Runs::new();
    let count = |more: &str| {
        runs.run("cache", more);
        listing(&runs.0.path("cache")).len()
    };
    assert_eq!(count(""), 1);
    assert_eq!(count("--seed 3 --prompts 2 --deep --head linear --batch 5"), 1, "none of the prefix's business");
    assert_eq!(count("--insert-at 1"), 2);
    assert_eq!(count("--image-size 24x32"), 3);
    let scalar = command(&runs.args("cache", "--quiet")).env("FORETUNE_ISA", "scalar").status().unwrap();
    assert!(scalar.success());
    // On a CPU that has nothing wider it is the same.
    let wider = foretune::cpu::isa::Isa::available().count() > 1;
    assert_eq!(listing(&runs.0.path("cache")).len(), 3 + usize::from(wider));
}

#[test]
fn a_file_in_use_is_read_and_not_written() {
    let runs = Runs::new();
    let record = 2 * (1 + 5 * 4) * 32;
    let (whole, _) = runs.run("cache", &format!("--prefix-cache-size {}", 128 + 256 * 32 + 4 * record));
    let kept = fs::read(runs.file("cache")).unwrap();
    let held = fs::File::open(runs.file("cache")).unwrap();
    held.lock().unwrap();
    let (found, said) = runs.run("cache", "");
    assert!(found == whole && said.contains("another run adds to it"), "{said}");
    assert!(fs::read(runs.file("cache")).unwrap() == kept);
    held.unlock().unwrap();
    let (found, said) = runs.run("cache", "");
    assert!(found == whole && said.is_empty(), "{said}");
    assert!(fs::read(runs.file("cache")).unwrap().len() > kept.len());
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let runs = Runs::new();
    for (options, reason) in [
        ("--insert-at 0", "no block is ahead of the prompts"),
        ("--augment flip", "augmentation makes that another image every time"),
        ("--augment vpt", "--augment none"),
        ("--guess none --insert-at 0", "no block is ahead of the prompts"),
    ] {
        let message = failure(&runs.args("cache", &format!("{options} --quiet")), 2);
        assert!(message.contains(reason), "{options}: {message}");
    }
    // The default augmentation is one, too.
    let bare = runs.0.tune("a.safetensors", &format!("--insert-at 1 --prefix-cache {}", runs.0.arg("cache")));
    assert!(failure(&bare, 2).contains("--augment none"));
    assert!(failure(&runs.0.tune("a.safetensors", "--prefix-cache-size 1GiB"), 2).contains("--prefix-cache"));
    assert!(!runs.0.path("cache").exists());
    for options in ["--insert-at 7", "--guess none --insert-at 7"] {
        let message = failure(&runs.args("cache", &format!("{options} --quiet")), 2);
        assert!(message.contains("the model has 3 blocks"), "{options}: {message}");
    }
    fs::write(runs.0.path("file"), "no folder").unwrap();
    let message = failure(&runs.args("file", "--quiet"), 1);
    assert!(message.contains("cannot create"), "{message}");
}

/// What f16 cannot hold stops the run before it learns from infinities.
#[test]
fn values_beyond_f16_are_an_error_that_says_so() {
    let runs = Runs::new();
    let mut tensors = Vit::SMALL.tensors();
    tensors.get_mut("blocks.0.mlp.fc2.bias").unwrap().1[3] = 1e6;
    fs::write(runs.0.path("model/model.safetensors"), crate::common::serialise(&tensors)).unwrap();
    let message = failure(&runs.args("cache", "--quiet"), 1);
    assert!(message.contains(".png: ") && message.contains("65504"), "{message}");
    runs.run("off", "");
}

/// Less memory means smaller passes, and not another result.
#[test]
fn a_budget_changes_no_bit() {
    let runs = Runs::new();
    let (whole, _) = runs.run("cache", "--tangents 3");
    let message = failure(&runs.args("cold", "--tangents 3 --quiet --budget 1KiB"), 1);
    let smallest = crate::common::smallest_budget(&message);
    assert!(!runs.0.path("cold").exists());
    for cache in ["cold", "cold", "cache"] {
        assert!(runs.run(cache, &format!("--tangents 3 --budget {smallest}")).0 == whole);
    }
    let without = failure(&runs.args("off", "--tangents 3 --quiet --budget 1KiB"), 1);
    assert!(crate::common::smallest_budget(&without) < smallest, "what a cache takes is planned");
}
