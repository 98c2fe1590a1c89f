//! The command line from outside: exit codes, help, errors, and what goes to which stream.

use crate::common::{failure, foretune, success, text};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const TUNE: [&str; 9] = ["tune", "--model", "m", "--data", "d", "--format", "cub", "--out", "o.safetensors"];

fn tune<'a>(more: &[&'a str]) -> Vec<&'a str> {
    TUNE.iter().copied().chain(more.iter().copied()).collect()
}

#[test]
fn help_and_version_go_to_standard_output() {
    for command in [
        "tune",
        "compare",
        "eval",
        "predict",
        "inspect",
        "data",
        "corrupt",
        "plan",
        "synth-model",
        "bench",
        "selftest",
        "demo",
        "completions",
    ] {
        let (short, long) = (foretune(&[command, "-h"]), foretune(&[command, "--help"]));
        for output in [&short, &long] {
            assert_eq!(output.status.code(), Some(0), "{command}");
            assert!(text(&output.stdout).contains("Usage: foretune"), "{command}");
            assert!(output.stderr.is_empty(), "{command}");
        }
        assert!(long.stdout.len() >= short.stdout.len(), "{command}");
    }
    let version = foretune(&["--version"]);
    assert_eq!(text(&version.stdout), format!("foretune {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_exits_with_2() {
    for args in [
        vec!["frobnicate"],
        vec!["tune"],
        vec!["tune", "--model"],
        vec!["predict", "--model", "m"],
        vec!["completions", "cobol"],
        vec!["inspect"],
        vec!["inspect", "a", "b"],
        vec!["data", "verify", "--data", "d", "--format", "imagenet"],
        vec!["selftest", "--dump", "f"],
        vec!["selftest", "--dtype", "f16"],
        vec!["bench", "--tangents", "1,x"],
        vec!["bench", "--model", "m", "--arch", "vit_tiny_patch16_224"],
        tune(&["--steps", "5", "--epochs", "2"]),
        tune(&["--head", "linear", "--head-from", "a"]),
        tune(&["--guess", "oracle"]),
        tune(&["--tangents", "0"]),
        tune(&["--batch", "0"]),
        tune(&["--micro-batch", "-1"]),
        tune(&["--steps", "0"]),
        tune(&["--lr", "fast"]),
        tune(&["--lr", "NaN"]),
        tune(&["--val-fraction", "1.5"]),
        tune(&["--warmup", "9", "--steps", "8"]),
        tune(&["--image-size", "0x5"]),
        tune(&["--threads", "0"]),
        tune(&["--seed", "18446744073709551616"]),
    ] {
        let message = failure(&args, 2);
        assert!(message.contains("--help"), "{args:?}: {message}");
    }
    assert_eq!(foretune(&[] as &[&str]).status.code(), Some(2));
}

#[test]
fn a_wrong_value_names_the_option_and_what_fits() {
    let message = failure(&tune(&["--guess", "oracle"]), 2);
    assert!(message.contains("--guess") && message.contains("weight-transpose"), "{message}");
    let message = failure(&tune(&["--val-fraction", "1.5"]), 2);
    assert!(message.contains("val-fraction") && message.contains("below 1"), "{message}");
    let message = failure(&["data", "verify", "--data", "d", "--format", "csv", "--crop-boxes"], 2);
    assert!(message.contains("--crop-boxes"), "{message}");
}

#[test]
fn missing_files_exit_with_1_and_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let absent = folder.path().join("absent.safetensors");
    let absent = absent.to_str().expect("UTF-8");
    assert!(failure(&["inspect", absent], 1).contains(absent));
    assert!(failure(&["data", "verify", "--data", absent, "--format", "cub"], 1).contains(absent));
}

#[test]
fn files_that_are_nothing_exit_with_1() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in [
        ("empty.safetensors", Vec::new()),
        ("text.safetensors", b"not weights at all".to_vec()),
        ("huge.safetensors", [&(1u64 << 63).to_le_bytes()[..], b"{}"].concat()),
        ("deep.safetensors", [&100_000u64.to_le_bytes()[..], &[b'['; 100_000]].concat()),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("a written file");
        let message = failure(&["inspect", path.to_str().expect("UTF-8")], 1);
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_foretune"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_behind_standard_output_is_an_error() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let output = Command::new(env!("CARGO_BIN_EXE_foretune"))
        .args(["completions", "bash"])
        .stdout(full)
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("standard output: cannot write"), "{}", text(&output.stderr));
}

#[test]
fn completions_exist_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = foretune(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(text(&output.stdout).contains("insert-at"), "{shell}");
    }
}

fn image(path: &Path) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    image::RgbImage::from_fn(8, 8, |x, y| image::Rgb([x as u8 * 30, y as u8 * 30, 0])).save(path).expect("an image");
}

#[test]
fn verify_lists_every_fault_and_counts_the_rest() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for class in ["finch", "gull"] {
        for name in ["a.png", "b.png"] {
            image(&folder.path().join(class).join(name));
        }
    }
    let root = folder.path().to_str().expect("UTF-8");
    let sound = foretune(&["data", "verify", "--data", root, "--format", "folder", "--quiet"]);
    assert_eq!(sound.status.code(), Some(0), "{}", text(&sound.stderr));
    let report = text(&sound.stdout);
    assert!(report.contains("classes    2") && report.contains("train      4 images, 2 to 2 per class"), "{report}");
    assert!(sound.stderr.is_empty(), "{}", text(&sound.stderr));

    // One that is no image, and one whose end is missing, which only decoding finds.
    fs::write(folder.path().join("gull/c.jpg"), "a text file").expect("a written file");
    let whole = fs::read(folder.path().join("gull/a.png")).expect("an image");
    fs::write(folder.path().join("gull/d.png"), &whole[..whole.len() / 2]).expect("a written file");
    let faulty = foretune(&["data", "verify", "--data", root, "--format", "folder"]);
    let report = text(&faulty.stdout);
    assert_eq!(faulty.status.code(), Some(1), "{report}");
    assert!(report.lines().filter(|line| line.contains("c.jpg: ")).count() == 1, "{report}");
    assert!(report.lines().filter(|line| line.contains("d.png: ")).count() == 1, "{report}");
    assert!(report.contains("problems   2"), "{report}");
    assert!(text(&faulty.stderr).contains("2 problems"), "{}", text(&faulty.stderr));

    let json = foretune(&["data", "verify", "--data", root, "--format", "folder", "--json", "--skip-bad"]);
    assert_eq!(json.status.code(), Some(0));
    let lines: Vec<serde_json::Value> =
        text(&json.stdout).lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[2]["images"]["train"], 4);
    assert_eq!(lines[2]["problems"], 2);
    assert!(lines[..2].iter().all(|line| line["path"].is_string() && line["problem"].is_string()));
}

#[test]
fn inspect_recognises_a_data_set() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    image(&folder.path().join("finch/a.png"));
    let output = foretune(&["inspect", folder.path().to_str().expect("UTF-8"), "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(value["kind"], "data set");
    assert_eq!(value["format"], "folder");
    assert_eq!(value["classes"], serde_json::json!(["finch"]));
}

#[test]
fn inspect_recognises_an_adapter_and_escapes_its_names() {
    use foretune::adapter::{Adapter, Backbone};
    use foretune::data::{Interpolation, Preprocess, Resize};
    use foretune::model::{Head, Pooling};
    use ndarray::{Array1, Array2, Array3};

    let adapter = Adapter {
        prompts: Array3::from_elem((1, 4, 8), 0.5),
        insert_at: 3,
        deep: false,
        head: Some(Head::Linear { weight: Array2::zeros((2, 8)), bias: Array1::zeros(2) }),
        pooling: Pooling::Cls,
        classes: vec!["finch".into(), "\u{1b}[31mgull".into()],
        preprocess: Preprocess {
            crop: [32, 32],
            resize: Resize::ShortSide(36),
            interpolation: Interpolation::Bicubic,
            mean: [0.5; 3],
            std: [0.5; 3],
        },
        guess: foretune::tune::GuessKind::WeightTranspose,
        seed: 7,
        step: 500,
        backbone: Backbone { fingerprint: "00ff".into(), description: "ViT, 12 blocks".into() },
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("birds.safetensors");
    adapter.save(&path).expect("a written adapter");
    let path = path.to_str().expect("UTF-8");

    let plain = text(&foretune(&["inspect", path]).stdout);
    for part in ["shallow at block 3: 4 × 8", "linear, 2 × 8", "ViT, 12 blocks", "short side to 36", "weight-transpose"]
    {
        assert!(plain.contains(part), "{part}: {plain}");
    }
    assert!(!plain.contains('\u{1b}'), "{plain:?}");

    let value: serde_json::Value =
        serde_json::from_slice(&foretune(&["inspect", path, "--json"]).stdout).expect("JSON");
    assert_eq!(value["kind"], "adapter");
    assert_eq!(value["prompts"], serde_json::json!([1, 4, 8]));
    assert_eq!(value["preprocess"]["crop"], serde_json::json!([32, 32]));
}

/// Every product of a pass is seen: the operations' FLOPs are those that the pass is counted with.
#[test]
fn bench_accounts_for_every_product() {
    let args = "bench --arch vit_tiny_patch16_224 --image-size 32 --micro-batch 3 --prompts 2 --insert-at 1 --deep \
                --tangents 0,2 --rounds 1 --threads 2 --ops --json";
    let output = success(&args.split_whitespace().collect::<Vec<_>>());
    let lines: Vec<serde_json::Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    let [machine] = of("machine")[..] else { panic!("{output}") };
    assert!(machine["flops_per_second"].as_f64().unwrap() > 0.0);
    let passes = of("pass");
    let kinds: Vec<_> = passes.iter().map(|pass| (pass["tangents"].as_u64(), pass["threads"].as_u64())).collect();
    assert_eq!(kinds, [(Some(0), Some(2)), (Some(2), Some(2)), (Some(0), Some(1))]);
    for pass in &passes[..2] {
        assert!(pass["images_per_second"].as_f64().unwrap() > 0.0 && pass["buffer_bytes"].as_u64().unwrap() > 0);
        let expected = 3.0 * pass["flops_per_image"].as_f64().unwrap();
        let ops = of("op").into_iter().filter(|op| op["tangents"] == pass["tangents"]);
        let found: u64 = ops.map(|op| op["flops"].as_u64().unwrap()).sum();
        assert!((found as f64 / expected - 1.0).abs() < 1e-9, "{found} FLOPs of {expected}: {output}");
    }
}
