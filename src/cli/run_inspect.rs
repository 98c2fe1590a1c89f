//! `foretune inspect`: what a file or folder is.

use super::args::Global;
use super::job::DataSource;
use super::output::{self, printable};
use super::run_verify::{open_quietly, print_summary};
use foretune::adapter::{Adapter, is_adapter};
use foretune::data::{Format, OpenOptions, Preprocess, Resize};
use foretune::model::{Head, LoadOptions, Mlp, Model, ModelSpec};
use foretune::tune::{Score, TrainState, is_checkpoint};
use foretune::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;

pub(super) fn run(path: &Path, global: &Global) -> Result<()> {
    let metadata = path.metadata().map_err(|source| Error::Io { action: "open", path: path.to_owned(), source })?;
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if metadata.is_dir() && !holds_weights(path) || extension.eq_ignore_ascii_case("csv") {
        return dataset(path, global);
    }
    let description = if metadata.is_file() && is_adapter(path)? {
        adapter(path, &Adapter::open(path)?)
    } else if metadata.is_file() && is_checkpoint(path)? {
        checkpoint(path, &TrainState::open(path)?)
    } else {
        model(&Model::open(path, &LoadOptions::default())?)
    };
    description.print(global.json)
}

/// The same facts for people, as lines, and for programs.
struct Description {
    lines: Vec<(&'static str, String)>,
    json: Value,
}

impl Description {
    fn print(&self, json: bool) -> Result<()> {
        if json {
            return output::json(&self.json);
        }
        for (name, value) in &self.lines {
            output::line(&format!("{name:<14} {}", printable(value)))?;
        }
        Ok(())
    }
}

fn model(model: &Model) -> Description {
    let (spec, fingerprint) = (&model.spec, model.fingerprint());
    let mut lines = vec![("model", model.family.to_string()), ("file", model.path.display().to_string())];
    lines.extend(spec_lines(spec));
    lines.push(("preprocessing", preprocessing(&model.preprocess)));
    lines.push(("class names", model.class_names.as_deref().map_or("none".into(), names)));
    lines.push(("fingerprint", fingerprint.clone()));
    let json = json!({
        "kind": "model",
        "path": model.path,
        "family": model.family.to_string(),
        "spec": spec,
        "preprocess": model.preprocess,
        "class_names": model.class_names,
        "fingerprint": fingerprint,
    });
    Description { lines, json }
}

fn spec_lines(spec: &ModelSpec) -> Vec<(&'static str, String)> {
    let ModelSpec { image, patch, width, depth, heads, hidden, norm_eps, .. } = spec;
    let mlp = match spec.mlp {
        Mlp::Plain(activation) => format!("{hidden}, {activation:?}"),
        Mlp::SwiGlu => format!("{hidden}, SwiGLU"),
    };
    let extras = [
        (spec.class_token, "class token".to_owned()),
        (spec.extra_tokens > 0, format!("{} register or distillation tokens", spec.extra_tokens)),
        (spec.pre_norm, "norm ahead of block 0".to_owned()),
        (spec.layer_scale, "layer scale".to_owned()),
    ];
    let extras: Vec<_> = extras.into_iter().filter_map(|(present, name)| present.then_some(name)).collect();
    vec![
        ("image", format!("{}×{} pixels, {} channels", image[0], image[1], spec.channels)),
        ("patches", format!("{}×{} pixels, {} of them", patch[0], patch[1], spec.patches())),
        ("blocks", depth.to_string()),
        ("width", format!("{width}, {heads} heads of {}", spec.head_dim())),
        ("mlp", mlp),
        ("norm", format!("eps {norm_eps:e}, final {:?}", spec.final_norm)),
        ("has", if extras.is_empty() { "no class token".into() } else { extras.join(", ") }),
        ("head input", format!("{:?}, width {}", spec.pooling, spec.head_width())),
        ("classes", spec.classes.to_string()),
    ]
}

fn adapter(path: &Path, adapter: &Adapter) -> Description {
    let (sets, prompts, width) = adapter.prompts.dim();
    let placement = match adapter.deep {
        true => format!("deep from block {}: {sets} sets of {prompts} × {width}", adapter.insert_at),
        false => format!("shallow at block {}: {prompts} × {width}", adapter.insert_at),
    };
    let has_prompts = !adapter.prompts.is_empty();
    let lines = vec![
        ("adapter", path.display().to_string()),
        ("backbone", adapter.backbone.description.clone()),
        ("fingerprint", adapter.backbone.fingerprint.clone()),
        ("prompts", if has_prompts { placement } else { "none".into() }),
        ("head", format!("{}, reads {:?}", head(adapter.head.as_ref()), adapter.pooling)),
        ("classes", names(&adapter.classes)),
        ("preprocessing", preprocessing(&adapter.preprocess)),
        ("guess", word(&adapter.guess)),
        ("seed", adapter.seed.to_string()),
        ("step", adapter.step.to_string()),
    ];
    let json = json!({
        "kind": "adapter",
        "path": path,
        "backbone": adapter.backbone,
        "prompts": [sets, prompts, width],
        "insert_at": adapter.insert_at,
        "deep": adapter.deep,
        "head": head_json(adapter.head.as_ref()),
        "pooling": adapter.pooling,
        "classes": adapter.classes,
        "preprocess": adapter.preprocess,
        "guess": adapter.guess,
        "seed": adapter.seed,
        "step": adapter.step,
    });
    Description { lines, json }
}

fn checkpoint(path: &Path, state: &TrainState) -> Description {
    let options = &state.identity.options;
    let (sets, prompts, width) = state.prompts.dim();
    let best = state.best.as_ref();
    let best_line = best.map_or("not scored yet".to_owned(), |best| {
        let Score { accuracy, loss, .. } = best.score;
        format!("step {}: validation accuracy {:.1} %, loss {loss:.4}", best.step, accuracy * 100.0)
    });
    let lines = vec![
        ("checkpoint", path.display().to_string()),
        ("step", format!("{} of {}, {} skipped", state.step, options.steps, state.skipped)),
        ("best", best_line),
        ("fingerprint", state.identity.fingerprint.clone()),
        ("prompts", format!("{sets} × {prompts} × {width}")),
        ("head", head(state.head.as_ref())),
        ("preprocessing", preprocessing(&state.identity.preprocess)),
        ("guess", word(&options.guess)),
        ("optimizer", word(&options.optimizer)),
        ("seed", options.seed.to_string()),
    ];
    let json = json!({
        "kind": "checkpoint",
        "path": path,
        "step": state.step,
        "skipped": state.skipped,
        "best": best.map(|best| json!({"step": best.step, "score": best.score})),
        "identity": state.identity,
        "prompts": [sets, prompts, width],
        "head": head_json(state.head.as_ref()),
    });
    Description { lines, json }
}

fn dataset(path: &Path, global: &Global) -> Result<()> {
    let format = guess_format(path);
    let source = DataSource { root: path.to_owned(), format, options: OpenOptions::default(), decode_threads: None };
    print_summary("data set", &open_quietly(&source)?, global.json)
}

/// The layout a data set's folder has, by the files that only it has.
fn guess_format(path: &Path) -> Format {
    let has = |names: &[&str]| names.iter().any(|name| path.join(name).exists());
    if path.is_file() {
        Format::Csv
    } else if has(&["image_class_labels.txt"]) {
        Format::Cub
    } else if has(&["cars_annos.mat", "cars_train_annos.mat", "devkit", "car_devkit"]) {
        Format::Cars
    } else if has(&["train_list.mat", "lists/train_list.mat"]) {
        Format::Dogs
    } else if holds(path, &[".csv"]) {
        Format::Csv
    } else {
        Format::Folder
    }
}

/// Whether a folder is a model's: weights lie directly in it.
fn holds_weights(folder: &Path) -> bool {
    holds(folder, &[".safetensors", ".safetensors.index.json", ".onnx"])
}

/// Whether a file whose name ends in one of `endings` lies directly in `folder`.
fn holds(folder: &Path, endings: &[&str]) -> bool {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| {
        let name = name.to_string_lossy();
        endings.iter().any(|ending| name.ends_with(ending))
    })
}

fn preprocessing(preprocess: &Preprocess) -> String {
    let Preprocess { crop: [h, w], resize, interpolation, mean, std } = preprocess;
    let resize = match resize {
        Resize::ShortSide(side) => format!("short side to {side}"),
        Resize::Exact([h, w]) => format!("to {h}×{w}"),
    };
    format!("{resize} ({}), crop {h}×{w}, mean {mean:?}, std {std:?}", word(interpolation))
}

fn head(head: Option<&Head>) -> String {
    match head {
        None => "the checkpoint's own".into(),
        Some(Head::Prototype { tau, .. }) => format!("prototype, temperature {tau}"),
        Some(Head::Linear { weight, .. }) => format!("linear, {} × {}", weight.nrows(), weight.ncols()),
    }
}

fn head_json(head: Option<&Head>) -> Value {
    match head {
        None => json!({"kind": "pretrained"}),
        Some(Head::Prototype { means, tau, .. }) => json!({"kind": "prototype", "shape": means.shape(), "tau": tau}),
        Some(Head::Linear { weight, .. }) => json!({"kind": "linear", "shape": weight.shape()}),
    }
}

/// The first few class names, and how many there are.
fn names(names: &[String]) -> String {
    let dots = if names.len() > 3 { ", …" } else { "" };
    format!("{}: {}{dots}", names.len(), names.iter().take(3).cloned().collect::<Vec<_>>().join(", "))
}

/// How a plain enum is spelled in options and files.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
