//! Images of every kind, sound and not, end to end.

use crate::common::{Bench, foretune, success, text};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A small image of the repository.
fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/images").join(name)
}

/// A PNG whose header promises `width`×`height` pixels, with a right checksum.
fn promising(width: u32, height: u32) -> Vec<u8> {
    let mut png = fs::read(sample("rgb.png")).unwrap();
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let mut crc = flate2::Crc::new();
    crc.update(&png[12..29]);
    png[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    png
}

/// Name, content, and what the error says.
fn bad() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let jpeg = fs::read(sample("baseline.jpg")).unwrap();
    vec![
        ("text.jpg", b"A text file, named as a photo.\n".to_vec(), "this is text"),
        ("zero.jpg", Vec::new(), "empty"),
        ("zeros.png", vec![0; 5000], "not a JPEG, PNG or WebP"),
        ("half.jpg", jpeg[..jpeg.len() / 2].to_vec(), "damaged"),
        ("start.jpg", jpeg[..20].to_vec(), "damaged"),
        ("huge.png", promising(u32::MAX >> 1, u32::MAX >> 1), "cap"),
        ("wide.png", promising(65_000, 2_000), "more than the file can hold"),
        ("none.png", promising(0, 10), ""),
        ("bomb.gif", b"GIF89a\xff\xff\xff\xff".to_vec(), "GIF"),
    ]
}

#[test]
fn predict_names_every_bad_image_and_does_the_rest() {
    let bench = Bench::new(1, 1);
    let model = bench.arg("model");
    let good = bench.arg("data/test/kind0/0.png");
    let mut images = vec![good.clone()];
    for (name, content, _) in bad() {
        fs::write(bench.path(name), content).unwrap();
        images.push(bench.arg(name));
    }
    images.extend([bench.arg("absent.jpg"), bench.arg("data"), bench.arg("data/test/kind1/0.png")]);
    let mut arguments = vec!["predict".to_owned(), "--model".into(), model, "--json".into()];
    arguments.extend(images.iter().cloned());
    let output = foretune(&arguments);
    let (lines, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let seen: Vec<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["path"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(seen, [good, bench.arg("data/test/kind1/0.png")]);
    assert_eq!(errors.lines().count(), bad().len() + 2, "{errors}");
    for (name, _, part) in
        bad().into_iter().chain([("absent.jpg", Vec::new(), "No such file"), ("data", Vec::new(), "folder")])
    {
        let path = bench.arg(name);
        let line = errors.lines().find(|line| line.starts_with(&format!("error: {path}: ")));
        assert!(line.is_some_and(|line| line.contains(part)), "{name}: {errors}");
    }
    assert!(!errors.contains("panicked"), "{errors}");
}

#[test]
fn tune_and_eval_report_bad_images_together_or_go_on_without_them() {
    let bench = Bench::new(3, 2);
    for (name, content, _) in bad() {
        fs::write(bench.path(&format!("data/train/kind1/{name}")), &content).unwrap();
        fs::write(bench.path(&format!("data/test/kind2/{name}")), &content).unwrap();
    }
    // The folder format passes over what is not named as an image it reads.
    let listed = 2 * (bad().len() - 1);
    let output = foretune(&["data", "verify", "--data", &bench.arg("data"), "--format", "folder"]);
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains(&format!("problems   {listed}")), "{report}");

    let tune = bench.tune("a.safetensors", "--steps 2 --batch 4 --quiet");
    let output = foretune(&tune);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("text.jpg: not a JPEG") && message.contains("--skip-bad"), "{message}");
    assert!(bench.outputs().is_empty(), "{:?}", bench.outputs());
    // Those that only decoding finds stop the run, once, with all their paths.
    for name in ["text.jpg", "zero.jpg", "zeros.png"] {
        for folder in ["data/train/kind1", "data/test/kind2"] {
            fs::remove_file(bench.path(folder).join(name)).unwrap();
        }
    }
    let message = text(&foretune(&tune).stderr);
    assert!(message.contains("10 images cannot be read"), "{message}");
    for name in ["half.jpg", "start.jpg", "huge.png", "wide.png", "none.png"] {
        assert!(message.contains(&bench.arg(&format!("data/train/kind1/{name}"))), "{name}: {message}");
    }
    assert!(!bench.path("out/a.safetensors").exists());

    success(&[tune, vec!["--skip-bad".into()]].concat());
    let [model, data, adapter] = ["model", "data", "out/a.safetensors"].map(|name| bench.arg(name));
    let eval =
        ["eval", "--model", &model, "--data", &data, "--format", "folder", "--adapter", &adapter, "--json", "--quiet"];
    assert_eq!(foretune(&eval).status.code(), Some(1));
    let result = success(&[&eval[..], &["--skip-bad"]].concat());
    let result: Value = serde_json::from_str(result.lines().last().unwrap()).unwrap();
    assert_eq!(result["examples"], 6);
}

/// Grayscale, 16-bit, palette, alpha, CMYK and YCCK, progressive, WebP: tuned, scored and predicted.
#[test]
fn every_kind_of_image_goes_end_to_end() {
    let bench = Bench::new(2, 1);
    let kinds = [
        "gray.jpg",
        "gray.png",
        "gray16.png",
        "rgb16.png",
        "gray-alpha.png",
        "rgba.png",
        "palette.png",
        "bits.png",
        "cmyk.jpg",
        "ycck.jpg",
        "progressive.jpg",
        "lossy.webp",
        "lossless.webp",
        "rgba.webp",
        "large.jpg",
    ];
    for (number, kind) in kinds.iter().enumerate() {
        for split in ["train", "test"] {
            fs::copy(sample(kind), bench.path(&format!("data/{split}/kind{}/{kind}", number % 3))).unwrap();
        }
    }
    success(&bench.tune("a.safetensors", "--epochs 1 --batch 7 --quiet"));
    let mut arguments = vec!["predict".to_owned(), "--model".into(), bench.arg("model"), "--adapter".into()];
    arguments.extend([bench.arg("out/a.safetensors"), "--json".into()]);
    arguments.extend(kinds.iter().map(|kind| sample(kind).to_str().unwrap().to_owned()));
    let output = success(&arguments);
    assert_eq!(output.lines().count(), kinds.len());
    for line in output.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["top"].as_array().unwrap().len(), 3);
        assert!(line["top"][0]["score"].is_number(), "{line}");
    }
}
