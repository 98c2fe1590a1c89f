//! What several test programs share: a small ViT, a small data set, and the command run from outside.
#![allow(dead_code, reason = "every test program uses a part of it")]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// `../shared/<path>`, or `None`, said aloud, where it is absent.
pub fn shared(path: &str) -> Option<PathBuf> {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if full.exists() {
        return Some(full);
    }
    eprintln!("SKIPPED: {} is absent", full.display());
    None
}

/// The command with `args`, ready to run.
pub fn command(args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foretune"));
    command.args(args).env_remove("RUST_LOG");
    command
}

/// Runs the command to its end.
pub fn foretune(args: &[impl AsRef<OsStr>]) -> Output {
    command(args).output().expect("the binary runs")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8 output")
}

/// Runs, expects exit code 0, and returns standard output.
pub fn success(args: &[impl AsRef<OsStr> + std::fmt::Debug]) -> String {
    let output = foretune(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The budget that the error for too small a one names: its last number.
pub fn smallest_budget(message: &str) -> u64 {
    let words: Vec<&str> = message.split_whitespace().collect();
    words[words.len() - 2].parse().unwrap_or_else(|_| panic!("{message}"))
}

/// Runs, expects `code`, nothing on standard output and one error, and returns its message.
pub fn failure(args: &[impl AsRef<OsStr> + std::fmt::Debug], code: i32) -> String {
    let output = foretune(args);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    assert!(message.starts_with("error: "), "{args:?}: {message}");
    assert!(!message.contains("\nerror: "), "{args:?}: more than one error: {message}");
    assert!(!message.contains("panicked"), "{args:?}: {message}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
    message
}

/// A safetensors file: header, then data.
pub fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// Name → shape and values.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A safetensors file of F32 tensors.
pub fn serialise(tensors: &Tensors) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (shape, values)) in tensors {
        let start = data.len();
        values.iter().for_each(|v| data.extend(v.to_le_bytes()));
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}));
    }
    file(&Value::Object(header).to_string(), &data)
}

/// A timm ViT: plain blocks, class token, random weights that only its sizes decide.
#[derive(Clone, Copy)]
pub struct Vit {
    pub image: [usize; 2],
    pub patch: usize,
    pub width: usize,
    pub depth: usize,
    pub heads: usize,
    pub hidden: usize,
    pub classes: usize,
}

impl Vit {
    /// As small as a ViT gets.
    pub const TINY: Vit = Vit { image: [8, 8], patch: 4, width: 8, depth: 2, heads: 2, hidden: 16, classes: 3 };

    /// Large enough that its operations are shared out to threads.
    pub const SMALL: Vit = Vit { image: [40, 32], patch: 8, width: 32, depth: 3, heads: 4, hidden: 64, classes: 3 };

    pub fn tensors(self) -> Tensors {
        let Vit { image: [h, w], patch, width, depth, hidden, classes, .. } = self;
        let mut tensors = Tensors::new();
        let mut state = 1u32;
        let mut add = |name: &str, shape: &[usize]| {
            let (centre, spread) =
                if name.contains("norm") && name.ends_with("weight") { (1.0, 0.2) } else { (0.0, 0.8) };
            let mut value = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                centre + spread * ((state >> 8) as f32 / (1 << 24) as f32 - 0.5)
            };
            let data = (0..shape.iter().product()).map(|_| value()).collect();
            tensors.insert(name.to_owned(), (shape.to_vec(), data));
        };
        add("cls_token", &[1, 1, width]);
        add("pos_embed", &[1, 1 + (h / patch) * (w / patch), width]);
        add("patch_embed.proj.weight", &[width, 3, patch, patch]);
        add("patch_embed.proj.bias", &[width]);
        for i in 0..depth {
            for (name, rows, columns) in [
                ("attn.qkv", 3 * width, width),
                ("attn.proj", width, width),
                ("mlp.fc1", hidden, width),
                ("mlp.fc2", width, hidden),
            ] {
                add(&format!("blocks.{i}.{name}.weight"), &[rows, columns]);
                add(&format!("blocks.{i}.{name}.bias"), &[rows]);
            }
            for name in ["norm1", "norm2"] {
                add(&format!("blocks.{i}.{name}.weight"), &[width]);
                add(&format!("blocks.{i}.{name}.bias"), &[width]);
            }
        }
        add("norm.weight", &[width]);
        add("norm.bias", &[width]);
        add("head.weight", &[classes, width]);
        add("head.bias", &[classes]);
        tensors
    }

    pub fn config(self) -> Value {
        let Vit { image, patch, width, depth, heads, hidden, classes } = self;
        json!({"architecture": "vit_tiny_patch16_224", "num_classes": classes, "model_args": {
            "img_size": image, "patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads,
            "mlp_ratio": hidden as f64 / width as f64}})
    }

    /// Writes `model.safetensors` and `config.json` into `folder`.
    pub fn write(self, folder: &Path) {
        fs::create_dir_all(folder).expect("a folder");
        fs::write(folder.join("model.safetensors"), serialise(&self.tensors())).expect("written weights");
        fs::write(folder.join("config.json"), self.config().to_string()).expect("a written configuration");
    }
}

/// Writes a PNG of class `class`: a colour of its own under noise that `number` decides.
pub fn photo(path: &Path, class: usize, number: usize) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let mut state = (1 + class * 1000 + number) as u32;
    let image = image::RgbImage::from_fn(48, 44, |_, _| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = (state >> 25) as u8;
        image::Rgb(std::array::from_fn(|channel| noise + if channel == class % 3 { 90 } else { 30 }))
    });
    image.save(path).expect("a written image");
}

/// Writes a data set in folder layout: `train/<class>/` and `test/<class>/` with so many images each.
pub fn photos(root: &Path, classes: usize, train: usize, test: usize) {
    for class in 0..classes {
        for (split, count, from) in [("train", train, 0), ("test", test, 500)] {
            for number in 0..count {
                photo(
                    &root.join(split).join(format!("kind{class}")).join(format!("{number}.png")),
                    class,
                    from + number,
                );
            }
        }
    }
}

/// A model, a data set and room for what a run writes.
pub struct Bench(tempfile::TempDir);

impl Bench {
    /// `SMALL` and a data set of its three classes.
    pub fn new(train: usize, test: usize) -> Self {
        let bench = Bench(tempfile::tempdir().expect("a temporary folder"));
        Vit::SMALL.write(&bench.path("model"));
        photos(&bench.path("data"), Vit::SMALL.classes, train, test);
        fs::create_dir(bench.path("out")).expect("a folder");
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The path as an argument.
    pub fn arg(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// Arguments of `tune` that write `out/<name>`, and `more`, separated by spaces.
    pub fn tune(&self, name: &str, more: &str) -> Vec<String> {
        let [model, data, out] = ["model", "data", &format!("out/{name}")].map(|name| self.arg(name));
        let fixed = ["tune", "--model", &model, "--data", &data, "--format", "folder", "--out", &out, "--no-eval"];
        fixed.into_iter().chain(more.split_whitespace()).map(str::to_owned).collect()
    }

    /// Names in `out/`, sorted.
    pub fn outputs(&self) -> Vec<String> {
        listing(&self.path("out"))
    }
}

/// Names in a folder, sorted.
pub fn listing(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
