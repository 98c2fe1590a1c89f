//! Checkpoints of timm: `vit_*`, `deit*`, `deit3*`, CLIP towers, DINOv2, registers.

use super::describe::{self, Described, FETCH_OWN, RUN_AT, activation};
use super::fields::{Fields, config};
use super::spec::{Activation, FinalNorm, Mlp, ModelSpec, Pooling};
use super::{Family, LoadOptions};
use crate::weights::{Arrangement, Facts, Parts, PositionLayout, PositionResize};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// What timm 1.0.31 builds for every architecture name of its vision_transformer and deit modules: see
/// `scripts/timm_archs.py`.
const ARCHITECTURES: &str = include_str!("timm_archs.json");

/// timm's entry for an architecture.
pub(super) struct Architecture {
    /// Constructor arguments that differ from the class's defaults.
    pub args: Map<String, Value>,
    /// Fields of its default pretrained configuration that differ from timm's ViT default.
    pub cfg: Map<String, Value>,
}

/// The entry for `name` (a `.tag` is ignored); `None` when timm 1.0.31 does not know it.
///
/// # Errors
/// [`Error::Config`] when timm knows it and the encoder cannot run it.
pub(super) fn architecture(path: &Path, name: &str) -> Result<Option<Architecture>> {
    let base = name.split('.').next().unwrap_or(name);
    // The table is one entry a line, `"name": {…},`; only the wanted line is parsed.
    let key = format!("\"{base}\": ");
    let Some(line) = ARCHITECTURES.lines().find_map(|line| line.strip_prefix(&key)) else { return Ok(None) };
    let Ok(Value::Object(mut entry)) = serde_json::from_str(line.trim_end_matches(',')) else { return Ok(None) };
    if let Some(Value::String(reason)) = entry.get("unsupported") {
        return Err(config(path, format!("`architecture` is \"{name}\", which has {reason}; that is not supported")));
    }
    let mut take = |key: &str| match entry.remove(key) {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    };
    Ok(Some(Architecture { args: take("args"), cfg: take("cfg") }))
}

/// A configuration's `model_args` laid over its architecture's arguments.
pub(super) struct Configured {
    /// Constructor arguments.
    pub args: Map<String, Value>,
    /// The architecture's default pretrained configuration.
    pub default_cfg: Map<String, Value>,
    /// Whether the architecture is in the table.
    pub known: bool,
}

/// Looks up the configuration's architecture.
///
/// # Errors
/// [`Error::Config`] when there is no architecture or it is no plain ViT.
pub(super) fn configured(fields: &Fields) -> Result<Configured> {
    let Some(name) = fields.string("architecture")? else {
        return Err(config(
            fields.path(),
            "has no `architecture`, although the weights have timm's names; use the config.json that timm wrote, \
             or remove it to have the model inferred",
        ));
    };
    let found = architecture(fields.path(), name)?;
    let known = found.is_some();
    let (mut args, default_cfg) = match found {
        Some(Architecture { args, cfg }) => (args, cfg),
        None if ["vit_", "deit", "eva_large_", "flexivit_"].iter().any(|p| name.starts_with(p)) => {
            log::warn!("{}: architecture {name} is newer than timm 1.0.31; inferring it", fields.path().display());
            (Map::new(), Map::new())
        }
        None => {
            let problem =
                format!("`architecture` is \"{name}\", which is not a plain ViT; supported are timm's vit_* and deit*");
            return Err(config(fields.path(), problem));
        }
    };
    match fields.get("model_args") {
        None => {}
        Some(Value::Object(overrides)) => {
            args.extend(overrides.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        Some(other) => return Err(fields.wrong("model_args", other, "an object")),
    }
    if !args.contains_key("global_pool")
        && let Some(pool) = fields.string("global_pool")?
    {
        args.insert("global_pool".into(), pool.into());
    }
    Ok(Configured { args, default_cfg, known })
}

/// Describes a model by its configuration.
pub(super) fn describe(
    parts: &Parts,
    facts: &Facts,
    path: &Path,
    configured: &Configured,
    input: Option<[usize; 2]>,
    options: &LoadOptions,
) -> Result<Described> {
    let args = Fields::new(path, &configured.args);
    if !configured.known {
        return infer(parts, facts, Some(&args), options);
    }
    refuse(&args)?;
    args.agree("embed_dim", args.size("embed_dim")?.unwrap_or(768), facts.width, &facts.patch_weight)?;
    args.agree("in_chans", args.size("in_chans")?.unwrap_or(3), facts.channels, &facts.patch_weight)?;
    for (value, found) in args.pair("patch_size")?.unwrap_or([16, 16]).into_iter().zip(facts.patch) {
        args.agree("patch_size", value, found, &facts.patch_weight)?;
    }
    let depth = args.size("depth")?.unwrap_or(12);
    if depth != facts.depth {
        let problem = format!(
            "`depth` is {depth} for this architecture, but the weights have {} blocks; {FETCH_OWN}",
            facts.depth
        );
        return Err(config(path, problem));
    }
    let heads = args.size("num_heads")?.unwrap_or(12);
    describe::check_heads(heads, facts.width, options).map_err(|e| config(path, e))?;

    let act = match args.string("act_layer")? {
        None => Activation::Gelu,
        Some(name) => activation(name).ok_or_else(|| {
            config(path, format!("`act_layer` is \"{name}\"; supported are gelu, gelu_tanh, quick_gelu, relu and silu"))
        })?,
    };
    let ratio = args.number("mlp_ratio", 0.0, 1e4)?.unwrap_or(4.0);
    let rows = (facts.width as f64 * ratio) as usize;
    // `swiglu_packed` halves what it is given, `swiglu` uses it twice.
    let (mlp, fc1_rows) = match args.string("mlp_layer")? {
        None | Some("mlp") => (Mlp::Plain(act), rows),
        Some("swiglu_packed" | "swiglupacked") => (Mlp::SwiGlu, rows),
        Some("swiglu") => (Mlp::SwiGlu, 2 * rows),
        Some(other) => return Err(args.wrong("mlp_layer", &other.into(), "swiglu or swiglu_packed")),
    };
    let hidden = if mlp == Mlp::SwiGlu { fc1_rows / 2 } else { fc1_rows };
    if fc1_rows != facts.fc1_rows || hidden != facts.hidden {
        let problem = format!(
            "`mlp_ratio` is {ratio}, which gives {hidden} hidden units, but tensor `{}` has \
             shape {:?}; {FETCH_OWN}",
            facts.fc2.name(),
            facts.fc2.shape()
        );
        return Err(config(path, problem));
    }

    let class_token = args.boolean("class_token")?.unwrap_or(true);
    let distilled = args.boolean("distilled")?.unwrap_or(false);
    let registers = args.count("reg_tokens")?.unwrap_or(0);
    if registers != facts.registers {
        let problem = format!(
            "`reg_tokens` is {registers}, but the weights have {} register tokens; {FETCH_OWN}",
            facts.registers
        );
        return Err(config(path, problem));
    }
    let extra_tokens = registers + usize::from(distilled);
    let (pooling, average) = pooling(&args, class_token, distilled)?;
    let after = args.boolean("fc_norm")?.unwrap_or(average);
    let final_norm = match (args.boolean("final_norm")?.unwrap_or(true), after) {
        (false, _) => FinalNorm::None,
        (true, true) => FinalNorm::AfterPool,
        (true, false) => FinalNorm::BeforePool,
    };
    let pre_norm = args.boolean("pre_norm")?.unwrap_or(false);
    let image = match args.pair("img_size")? {
        Some(image) => image,
        None => input.unwrap_or([224, 224]),
    };
    let position = match args.string("pos_embed")? {
        None | Some("learn") => {
            let covers = !args.boolean("no_embed_class")?.unwrap_or(false);
            Some(table(facts, path, image, covers && class_token, if covers { extra_tokens } else { 0 })?)
        }
        Some("" | "none") => None,
        Some(other) => return Err(args.wrong("pos_embed", &other.into(), "\"learn\" or \"none\"")),
    };
    let spec = ModelSpec {
        image,
        patch: facts.patch,
        channels: facts.channels,
        width: facts.width,
        depth,
        heads,
        hidden,
        mlp,
        norm_eps: norm_eps(&args)?,
        class_token,
        extra_tokens,
        pre_norm,
        layer_scale: args.number("init_values", 0.0, f64::MAX)?.is_some_and(|v| v != 0.0),
        pooling,
        final_norm,
        classes: facts.classes,
    };
    let arrangement = Arrangement {
        qkv_bias: args.boolean("qkv_bias")?.unwrap_or(true),
        proj_bias: args.boolean("proj_bias")?.unwrap_or(true),
        patch_bias: !pre_norm,
        registers,
        position,
    };
    Ok(Described { family: Family::Timm, spec, arrangement })
}

/// Arguments that make another model than the encoder's.
fn refuse(args: &Fields) -> Result<()> {
    for key in ["qk_norm", "scale_attn_norm", "scale_mlp_norm", "pool_include_prefix", "dynamic_img_pad"] {
        if args.boolean(key)?.unwrap_or(false) {
            return Err(config(args.path(), format!("`model_args.{key}` is true, which is not supported")));
        }
    }
    for key in ["attn_layer", "block_fn", "embed_layer", "embed_norm_layer"] {
        if let Some(value) = args.get(key).filter(|v| !matches!(v.as_str(), Some("" | "attn"))) {
            return Err(config(args.path(), format!("`model_args.{key}` is {value}, which is not supported")));
        }
    }
    Ok(())
}

fn norm_eps(args: &Fields) -> Result<f64> {
    match args.string("norm_layer")? {
        None | Some("layernorm") => {}
        Some(other) => return Err(args.wrong("norm_layer", &other.into(), "layernorm")),
    }
    Ok(args.number("norm_eps", 0.0, 1.0)?.unwrap_or(1e-6))
}

/// The pooling, and whether it averages (which moves the norm behind it unless `fc_norm` says otherwise).
fn pooling(args: &Fields, class_token: bool, distilled: bool) -> Result<(Pooling, bool)> {
    match args.string("global_pool")?.unwrap_or("token") {
        "token" | "" if distilled => Ok((Pooling::ClsAndDistillation, false)),
        "token" | "" if class_token => Ok((Pooling::Cls, false)),
        "token" | "" => Err(config(args.path(), "`global_pool` is \"token\", but `class_token` is false")),
        "avg" if !distilled => Ok((Pooling::PatchMean, true)),
        other => Err(args.wrong("global_pool", &other.into(), "\"token\" or \"avg\"")),
    }
}

fn table(
    facts: &Facts,
    path: &Path,
    image: [usize; 2],
    covers_class: bool,
    covers_extra: usize,
) -> Result<PositionLayout> {
    let grid = describe::grid(image, facts.patch);
    let rows = grid[0] * grid[1] + usize::from(covers_class) + covers_extra;
    if let Some(table) = facts.position.as_ref().filter(|_| rows != facts.positions) {
        let problem = format!(
            "`img_size` (or `pretrained_cfg.input_size`) is {}x{}, which with patches of {}x{} needs {rows} position \
             embeddings, but tensor `{}` has shape {:?}; {RUN_AT}",
            image[0],
            image[1],
            facts.patch[0],
            facts.patch[1],
            table.name(),
            table.shape()
        );
        return Err(config(path, problem));
    }
    Ok(PositionLayout { grid, covers_class, covers_extra, resize: PositionResize::BicubicAntialias })
}

/// Describes a model whose architecture is not known, from its tensors and what `args` says of the rest.
pub(super) fn infer(parts: &Parts, facts: &Facts, args: Option<&Fields>, options: &LoadOptions) -> Result<Described> {
    let empty = Map::new();
    let args = args.copied().unwrap_or(Fields::new(parts.checkpoint().path(), &empty));
    refuse(&args)?;
    let path = parts.checkpoint().path();
    let heads = match args.size("num_heads")? {
        Some(heads) => {
            describe::check_heads(heads, facts.width, options).map_err(|e| config(args.path(), e))?;
            heads
        }
        None => describe::heads_by_convention(parts, facts.width, options)?,
    };
    let position = describe::infer_positions(parts, facts, PositionResize::BicubicAntialias, options)?;
    let image = match &position {
        Some(p) => [p.grid[0] * facts.patch[0], p.grid[1] * facts.patch[1]],
        None => match args.pair("img_size")?.or(options.image) {
            Some(image) => image,
            None => {
                return Err(Error::Options(format!(
                    "{}: the image size cannot be told without a position embedding; pass --image-size HEIGHTxWIDTH",
                    path.display()
                )));
            }
        },
    };
    let gated = facts.fc1_rows == 2 * facts.hidden;
    let act = match args.string("act_layer")? {
        Some(name) => {
            activation(name).ok_or_else(|| args.wrong("act_layer", &name.into(), "a supported activation"))?
        }
        None => Activation::Gelu,
    };
    if facts.pre_norm && args.get("act_layer").is_none() {
        log::warn!(
            "{}: taken for a CLIP tower with gelu; OpenAI's use quick-gelu, which only config.json can say",
            path.display()
        );
    }
    let average = facts.fc_norm || !facts.class_token;
    let spec = ModelSpec {
        image,
        patch: facts.patch,
        channels: facts.channels,
        width: facts.width,
        depth: facts.depth,
        heads,
        hidden: facts.hidden,
        mlp: if gated { Mlp::SwiGlu } else { Mlp::Plain(act) },
        norm_eps: args.number("norm_eps", 0.0, 1.0)?.unwrap_or(if facts.pre_norm { 1e-5 } else { 1e-6 }),
        class_token: facts.class_token,
        extra_tokens: facts.extra_tokens(),
        pre_norm: facts.pre_norm,
        layer_scale: facts.layer_scale,
        pooling: match (facts.distillation, average) {
            (true, _) => Pooling::ClsAndDistillation,
            (false, true) => Pooling::PatchMean,
            (false, false) => Pooling::Cls,
        },
        final_norm: facts.final_norm(),
        classes: facts.classes,
    };
    let arrangement = Arrangement {
        qkv_bias: facts.qkv_bias,
        proj_bias: facts.proj_bias,
        patch_bias: facts.patch_bias,
        registers: facts.registers,
        position,
    };
    Ok(Described { family: Family::Timm, spec, arrangement })
}
