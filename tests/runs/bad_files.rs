//! Damaged, absurd and misplaced models, adapters and data sets, through the binary: one error, the path, the exit code.

use crate::common::{Bench, Vit, failure, file, foretune, photo, serialise, shared, success, text};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn arg(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A model folder with these weights and this configuration.
fn model(folder: &Path, weights: &[u8], config: Option<&str>) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("model.safetensors"), weights).unwrap();
    let path = folder.join("config.json");
    match config {
        Some(config) => fs::write(path, config).unwrap(),
        None if path.exists() => fs::remove_file(path).unwrap(),
        None => {}
    }
}

#[test]
fn models_that_cannot_be_used() {
    let bench = Bench::new(2, 1);
    let folder = bench.path("bad");
    let whole = serialise(&Vit::SMALL.tensors());
    let good = Vit::SMALL.config();
    let with = |key: &str, value: Value| {
        let mut config = good.clone();
        config["model_args"][key] = value;
        config.to_string()
    };
    let config = good.to_string();
    let cases = vec![
        ("cut in the data", whole[..whole.len() - 1].to_vec(), Some(config.clone()), 1, "model.safetensors: "),
        ("cut in the header", whole[..100].to_vec(), Some(config.clone()), 1, "model.safetensors: "),
        ("empty", Vec::new(), Some(config.clone()), 1, "empty"),
        (
            "a header of 2^63",
            file("{}", &[]).into_iter().skip(8).fold((1u64 << 63).to_le_bytes().to_vec(), |mut b, v| {
                b.push(v);
                b
            }),
            Some(config.clone()),
            1,
            "9223372036854775808",
        ),
        ("text", b"these are no weights at all".to_vec(), Some(config.clone()), 1, "model.safetensors: "),
        ("no tensors", file("{}", &[]), Some(config.clone()), 1, "model.safetensors: "),
        // Without a configuration the heads cannot be told, which is the caller's to say.
        ("no configuration", whole.clone(), None, 2, "--heads"),
        ("an empty configuration", whole.clone(), Some(String::new()), 1, "config.json: "),
        ("half a configuration", whole.clone(), Some(config[..config.len() / 2].into()), 1, "config.json: "),
        ("a list", whole.clone(), Some("[]".into()), 1, "config.json: "),
        ("another architecture", whole.clone(), Some(r#"{"architecture": "resnet50"}"#.into()), 1, "config.json: "),
        ("depth 10^18", whole.clone(), Some(with("depth", json!(1_000_000_000_000_000_000u64))), 1, "config.json: "),
        ("no width", whole.clone(), Some(with("embed_dim", json!(0))), 1, "config.json: "),
        ("patches of 0", whole.clone(), Some(with("patch_size", json!(0))), 1, "config.json: "),
        ("an image of 2^40", whole.clone(), Some(with("img_size", json!(1u64 << 40))), 1, "config.json: "),
        ("5 heads", whole.clone(), Some(with("num_heads", json!(5))), 1, "config.json: "),
    ];
    let photo = arg(&bench.path("data/test/kind0/0.png"));
    for (what, weights, config, code, part) in cases {
        model(&folder, &weights, config.as_deref());
        let data = bench.arg("data");
        let out = bench.arg("out/a.safetensors");
        for command in [
            vec!["inspect", &arg(&folder)],
            vec!["predict", "--model", &arg(&folder), &photo],
            vec!["eval", "--model", &arg(&folder), "--data", &data, "--format", "folder"],
            vec!["tune", "--model", &arg(&folder), "--data", &data, "--format", "folder", "--out", &out],
        ] {
            let message = failure(&command, code);
            assert!(message.contains(part) && message.contains(&arg(&folder)), "{what}: {command:?}: {message}");
        }
        assert!(bench.outputs().is_empty(), "{what}: {:?}", bench.outputs());
    }
    for path in ["nowhere", "nowhere/model.safetensors", "data", "data/test/kind0/0.png"] {
        let path = bench.arg(path);
        let message = failure(&["predict", "--model", &path, &photo], 1);
        assert!(message.contains(&path), "{message}");
    }
}

#[test]
fn flipped_bits_in_a_model_are_errors_or_other_numbers() {
    let bench = Bench::new(1, 1);
    let whole = serialise(&Vit::TINY.tensors());
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let folder = bench.path("bad");
    let image = arg(&bench.path("data/test/kind0/0.png"));
    let mut state = 7u32;
    for _ in 0..60 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let bit = (state >> 4) as usize % (header * 8);
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        model(&folder, &bytes, Some(&Vit::TINY.config().to_string()));
        let output = foretune(&["predict", "--model", &arg(&folder), &image]);
        let message = text(&output.stderr);
        match output.status.code() {
            Some(0) => {}
            // Tensors of other names are warned of first.
            Some(1 | 2) => {
                let error = message.lines().find(|line| line.starts_with("error: "));
                assert!(error.is_some_and(|error| error.contains(&arg(&folder))), "bit {bit}: {message}")
            }
            code => panic!("bit {bit}: {code:?}: {message}"),
        }
        assert!(!message.contains("panicked"), "bit {bit}: {message}");
    }
    // Infinite weights in a sound file.
    let mut bytes = whole.clone();
    let len = bytes.len();
    bytes[len - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    model(&folder, &bytes, Some(&Vit::TINY.config().to_string()));
    let message = failure(&["predict", "--model", &arg(&folder), &image], 1);
    assert!(message.contains("not finite") && message.contains("model.safetensors"), "{message}");
}

#[test]
fn adapters_that_cannot_be_used() {
    let bench = Bench::new(3, 2);
    success(&bench.tune("a.safetensors", "--steps 1 --batch 4 --quiet"));
    let adapter = bench.path("out/a.safetensors");
    let [model, data, path] = ["model", "data", "out/a.safetensors"].map(|name| bench.arg(name));
    let image = bench.arg("data/test/kind0/0.png");
    let predict = ["predict", "--model", &model, "--adapter", &path, &image];
    let eval = ["eval", "--model", &model, "--data", &data, "--format", "folder", "--adapter", &path];
    let other = bench.arg("out/b.safetensors");
    let head_from =
        ["tune", "--model", &model, "--data", &data, "--format", "folder", "--out", &other, "--head-from", &path];
    success(&predict);
    success(&eval);

    let whole = fs::read(&adapter).unwrap();
    let mut damaged: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"not an adapter".to_vec(),
        (1u64 << 63).to_le_bytes().to_vec(),
        whole[..whole.len() - 1].to_vec(),
        whole[..40].to_vec(),
        serialise(&Vit::SMALL.tensors()),
        fs::read(bench.path("out/a.checkpoint.safetensors")).unwrap(),
    ];
    for at in [3, 60, whole.len() / 2, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        damaged.push(flipped);
    }
    for bytes in &damaged {
        fs::write(&adapter, bytes).unwrap();
        for command in [&predict[..], &eval, &head_from] {
            assert!(failure(command, 1).contains(&path));
        }
    }
    fs::remove_file(&adapter).unwrap();
    assert!(failure(&predict, 1).contains(&path));

    // Another backbone: of the same shape, and of another that cannot even run at the adapter's size.
    fs::write(&adapter, &whole).unwrap();
    let mut weights = Vit::SMALL.tensors();
    weights.get_mut("blocks.1.attn.qkv.weight").unwrap().1[5] += 0.5;
    fs::write(bench.path("model/model.safetensors"), serialise(&weights)).unwrap();
    for command in [&predict[..], &eval, &head_from] {
        let message = failure(command, 1);
        assert!(message.contains(&path) && message.contains("another backbone"), "{message}");
    }
    Vit { image: [35, 35], patch: 7, ..Vit::SMALL }.write(&bench.path("model"));
    let message = failure(&predict, 1);
    assert!(message.contains(&path) && message.contains("another backbone"), "{message}");
    Vit::SMALL.write(&bench.path("model"));

    // Classes that the adapter does not know.
    fs::rename(bench.path("data/train/kind1"), bench.path("data/train/else")).unwrap();
    fs::rename(bench.path("data/test/kind1"), bench.path("data/test/else")).unwrap();
    let message = failure(&eval, 1);
    assert!(message.contains(&data) && message.contains("`else`"), "{message}");
    let message = failure(&head_from, 1);
    assert!(message.contains(&path) && message.contains("other classes"), "{message}");
}

#[test]
fn data_sets_that_cannot_be_used() {
    let bench = Bench::new(1, 1);
    let root = bench.path("sets");
    let put = |name: &str, content: &[u8]| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    fs::create_dir_all(root.join("empty")).unwrap();
    put("cub/classes.txt", b"1 wren\n");
    put("cub/images.txt", b"1 wren/a.jpg\n");
    put("cars/devkit/cars_train_annos.mat", b"text");
    put("cars/devkit/cars_meta.mat", b"text");
    put("dogs/train_list.mat", &[0; 300]);
    put("dogs/test_list.mat", &[0; 300]);
    fs::create_dir_all(root.join("dogs/Images")).unwrap();
    photo(&root.join("folder/a.png"), 0, 0);
    fs::create_dir_all(root.join("hollow/finch")).unwrap();
    photo(&root.join("above/images/finch/a.png"), 0, 0);
    photo(&root.join("above/images/gull/b.png"), 1, 0);
    put("csv/split.csv", b"path,label\n");
    put("binary.csv", &[0xFF, 0, 0xFE, b'\n']);
    put("columns.csv", b"name,colour\na.png,red\n");
    put("absent.csv", b"path,label\nnowhere.png,red\n");

    let mut cases = vec![];
    for format in ["cub", "cars", "dogs", "folder", "csv"] {
        cases.push((format, "empty", ""));
        cases.push((format, "nowhere", "cannot open"));
    }
    cases.extend([
        ("cub", "cub", "image_class_labels.txt"),
        ("cub", "csv/split.csv", "this is a file"),
        ("cars", "cars", "not a MATLAB 5 file"),
        ("dogs", "dogs", "list.mat"),
        ("folder", "folder", "no folder per class"),
        ("folder", "hollow", "none of 0 listed"),
        ("folder", "above", "above/images instead"),
        ("csv", "csv", "no classes"),
        ("csv", "binary.csv", "UTF-8"),
        ("csv", "columns.csv", "none of 2 listed"),
        ("csv", "absent.csv", "nowhere.png"),
    ]);
    let model = bench.arg("model");
    let out = bench.arg("out/a.safetensors");
    for (format, folder, part) in cases {
        let path = arg(&root.join(folder));
        for more in [&["data", "verify"][..], &["eval", "--model", &model], &["tune", "--model", &model, "--out", &out]]
        {
            for skip in [&[][..], &["--skip-bad"]] {
                let command = [more, &["--data", &path, "--format", format], skip].concat();
                let message = failure(&command, 1);
                assert!(message.contains(&path) && message.contains(part), "{command:?}: {message}");
            }
        }
    }
    assert!(bench.outputs().is_empty(), "{:?}", bench.outputs());

    // Only test images: nothing to tune on.
    photo(&root.join("tests/test/finch/a.png"), 0, 0);
    let path = arg(&root.join("tests"));
    let message = failure(&["tune", "--model", &model, "--data", &path, "--format", "folder", "--out", &out], 1);
    assert!(message.contains(&path) && message.contains("no training images"), "{message}");
}

/// `inspect` tells the layouts apart by the files that only they have, and says what a file is not.
#[test]
fn inspect_finds_the_format_of_a_data_set() {
    let bench = Bench::new(1, 1);
    let format = |name: &str| -> String {
        let value: Value = serde_json::from_str(&success(&["inspect", &bench.arg(name), "--json"])).unwrap();
        value["format"].as_str().unwrap().to_owned()
    };
    assert_eq!(format("data"), "folder");
    // A table beside a folder that bears a name of Stanford Cars.
    photo(&bench.path("table/cars_train/a.png"), 0, 0);
    fs::write(bench.path("table/split.csv"), "path,label\ncars_train/a.png,red\n").unwrap();
    assert_eq!(format("table"), "csv");
    assert_eq!(format("table/split.csv"), "csv");
    for name in ["model/config.json", "data/train/kind0/0.png"] {
        let message = failure(&["inspect", &bench.arg(name)], 1);
        assert!(message.contains(&bench.arg(name)) && message.contains("safetensors"), "{message}");
    }
}

/// Annotations of the whole set over a part of its images, and every image that is there is used.
#[test]
#[cfg(unix)]
fn the_real_devkit_over_a_subset() {
    let (Some(cars), Some(devkit)) = (shared("data/stanford_cars_cropped20"), shared("data/stanford_cars_devkit"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let root = arg(folder.path());
    std::os::unix::fs::symlink(devkit.canonicalize().unwrap(), folder.path().join("devkit")).unwrap();
    std::os::unix::fs::symlink(cars.join("cars_train").canonicalize().unwrap(), folder.path().join("cars_train"))
        .unwrap();
    let output = foretune(&["data", "verify", "--data", &root, "--format", "cars", "--json", "--skip-bad"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let summary: Value = serde_json::from_str(text(&output.stdout).lines().last().unwrap()).unwrap();
    assert_eq!(summary["images"]["train"], 823);
    assert_eq!(summary["classes"].as_array().unwrap().len(), 196);
    // 8144 are listed; the rest, and the classes that have none, are problems.
    assert_eq!(summary["problems"], 8144 - 823 + 176);
    assert_eq!(foretune(&["data", "verify", "--data", &root, "--format", "cars"]).status.code(), Some(1));
}
