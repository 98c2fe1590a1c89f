//! `config.json` of models that Foretune wrote: what the tensors, under timm's names, do not say. timm's own fields stand beside it
//! where timm can express the model.

use super::describe::{self, Described};
use super::fields::{self, Fields};
use super::spec::{Activation, FinalNorm, Mlp, ModelSpec, Pooling};
use super::{Family, LoadOptions, timm};
use crate::Result;
use crate::data::{Interpolation, Preprocess, Resize};
use crate::weights::{Arrangement, Facts, Parts, PositionLayout, PositionResize};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The field of `config.json` that holds it.
pub(super) const KEY: &str = "foretune";

/// Longest side of a grid of positions.
const MOST_SIDE: usize = 1 << 16;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Own {
    image: [usize; 2],
    heads: usize,
    /// `None`: SwiGLU.
    activation: Option<Activation>,
    norm_eps: f64,
    pooling: Pooling,
    position: Option<Position>,
    pub preprocess: Preprocess,
    pub class_names: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Position {
    grid: [usize; 2],
    covers_class: bool,
    covers_extra: usize,
}

impl Own {
    /// That of a model with these parts.
    pub fn of(
        spec: &ModelSpec,
        arrangement: &Arrangement,
        preprocess: Preprocess,
        class_names: Option<Vec<String>>,
    ) -> Self {
        Own {
            image: spec.image,
            heads: spec.heads,
            activation: match spec.mlp {
                Mlp::Plain(activation) => Some(activation),
                Mlp::SwiGlu => None,
            },
            norm_eps: spec.norm_eps,
            pooling: spec.pooling,
            position: arrangement.position.map(|PositionLayout { grid, covers_class, covers_extra, .. }| Position {
                grid,
                covers_class,
                covers_extra,
            }),
            preprocess,
            class_names,
        }
    }

    /// The one in a configuration, if it has one. Errors: [`Error::Config`](crate::Error::Config) when it is damaged.
    pub fn read(config: &Fields) -> Result<Option<Self>> {
        let Some(value) = config.get(KEY) else { return Ok(None) };
        let bad =
            |problem: String| fields::config(config.path(), format!("`{KEY}`: {problem}; import the model again"));
        let own: Own = serde_json::from_value(value.clone()).map_err(|error| bad(error.to_string()))?;
        let sides = |sides: [usize; 2]| sides.iter().all(|side| (1..=MOST_SIDE).contains(side));
        let sound = own.heads > 0
            && sides(own.image)
            && (0.0..=1.0).contains(&own.norm_eps)
            && own.position.is_none_or(|p| sides(p.grid) && p.covers_extra <= MOST_SIDE)
            && own.preprocess.check().is_ok();
        if sound { Ok(Some(own)) } else { Err(bad("has values that no model has".into())) }
    }

    /// The model that it and its tensors describe.
    pub fn describe(&self, parts: &Parts, facts: &Facts, path: &Path, options: &LoadOptions) -> Result<Described> {
        describe::check_heads(self.heads, facts.width, options).map_err(|problem| fields::config(path, problem))?;
        let distilled = self.pooling == Pooling::ClsAndDistillation;
        let fits = facts.class_token || matches!(self.pooling, Pooling::PatchMean);
        if !fits || distilled != facts.distillation {
            return Err(fields::config(
                path,
                "describes pooling of tokens that the weights do not have; import the model again",
            ));
        }
        let spec = ModelSpec {
            image: describe::choose_image(self.image, facts.patch, options)?,
            patch: facts.patch,
            channels: facts.channels,
            width: facts.width,
            depth: parts.depth(),
            heads: self.heads,
            hidden: facts.hidden,
            mlp: self.activation.map_or(Mlp::SwiGlu, Mlp::Plain),
            norm_eps: self.norm_eps,
            class_token: facts.class_token,
            extra_tokens: facts.extra_tokens(),
            pre_norm: facts.pre_norm,
            layer_scale: facts.layer_scale,
            pooling: self.pooling,
            final_norm: facts.final_norm(),
            classes: facts.classes,
        };
        let position = self.position.map(|Position { grid, covers_class, covers_extra }| PositionLayout {
            grid,
            covers_class,
            covers_extra,
            resize: PositionResize::BicubicAntialias,
        });
        let arrangement = Arrangement {
            qkv_bias: facts.qkv_bias,
            proj_bias: facts.proj_bias,
            patch_bias: facts.patch_bias,
            registers: facts.registers,
            position,
        };
        Ok(Described { family: Family::Onnx, spec, arrangement })
    }
}

/// `config.json` of a model, with timm's fields where they describe the same model.
pub(super) fn config(own: &Own, parts: &Parts, spec: &ModelSpec, arrangement: &Arrangement) -> Value {
    let mut config = timms(own, spec, arrangement);
    let same = config.as_object().is_some_and(|map| timm_agrees(map, own, parts, spec));
    if !same {
        config = json!({});
    }
    config[KEY] = json!(own);
    config
}

/// timm's description of a model, right or not.
fn timms(own: &Own, spec: &ModelSpec, arrangement: &Arrangement) -> Value {
    // An architecture whose norms, activation and tokens timm's arguments cannot choose.
    let architecture = match (own.activation, spec.norm_eps, spec.pooling) {
        (_, _, Pooling::ClsAndDistillation) => "deit_base_distilled_patch16_224",
        (None, ..) => "vit_giant_patch14_dinov2",
        (Some(_), 1e-5, _) => "vit_base_patch16_clip_224",
        _ => "vit_base_patch16_224",
    };
    let covers = own.position.is_some_and(|position| position.covers_class || position.covers_extra > 0);
    let act = match own.activation {
        None => None,
        Some(Activation::Gelu) => Some("gelu"),
        Some(Activation::GeluTanh) => Some("gelu_tanh"),
        Some(Activation::QuickGelu) => Some("quick_gelu"),
        Some(Activation::Relu) => Some("relu"),
        Some(Activation::Silu) => Some("silu"),
    };
    let rows = spec.hidden * if own.activation.is_none() { 2 } else { 1 };
    let mut args = json!({
        "img_size": spec.image,
        "patch_size": spec.patch,
        "in_chans": spec.channels,
        "embed_dim": spec.width,
        "depth": spec.depth,
        "num_heads": spec.heads,
        "mlp_ratio": ratio(rows, spec.width),
        "qkv_bias": arrangement.qkv_bias,
        "proj_bias": arrangement.proj_bias,
        "class_token": spec.class_token,
        "init_values": if spec.layer_scale { json!(1e-5) } else { Value::Null },
        "no_embed_class": !covers,
        "pre_norm": spec.pre_norm,
        "global_pool": if spec.pooling == Pooling::PatchMean { "avg" } else { "token" },
        "fc_norm": matches!(spec.final_norm, FinalNorm::AfterPool | FinalNorm::Both),
        "final_norm": spec.final_norm != FinalNorm::None,
        "pos_embed": if own.position.is_some() { "learn" } else { "none" },
    });
    if let Some(act) = act {
        args["act_layer"] = act.into();
    }
    if spec.pooling != Pooling::ClsAndDistillation {
        args["reg_tokens"] = spec.extra_tokens.into();
    }
    let Preprocess { crop, resize, interpolation, mean, std } = own.preprocess;
    let (mode, side) = match resize {
        Resize::ShortSide(side) => ("center", side as f64 / crop[0].max(crop[1]) as f64),
        Resize::Exact([h, _]) => ("squash", h as f64 / crop[0] as f64),
    };
    let interpolation = match interpolation {
        Interpolation::Bicubic => "bicubic",
        Interpolation::Bilinear => "bilinear",
        Interpolation::Lanczos => "lanczos",
        Interpolation::Nearest => "nearest",
    };
    let mut config = json!({
        "architecture": architecture,
        "num_classes": spec.classes,
        "model_args": args,
        "pretrained_cfg": {
            "input_size": [spec.channels, spec.image[0], spec.image[1]],
            "crop_pct": 1.0 / side,
            "crop_mode": mode,
            "interpolation": interpolation,
            "mean": mean,
            "std": std,
        },
    });
    if let Some(names) = &own.class_names {
        config["label_names"] = json!(names);
    }
    config
}

/// What gives `rows` when it is multiplied by `width` and cut to a whole number.
fn ratio(rows: usize, width: usize) -> f64 {
    let exact = rows as f64 / width as f64;
    if (exact * width as f64) as usize == rows { exact } else { (rows as f64 + 0.5) / width as f64 }
}

/// Whether timm's description is that of the model.
fn timm_agrees(config: &Map<String, Value>, own: &Own, parts: &Parts, spec: &ModelSpec) -> bool {
    let path = Path::new("config.json");
    let fields = Fields::new(path, config);
    let described = || -> Result<_> {
        let facts = Facts::new(parts)?;
        let configured = timm::configured(&fields)?;
        timm::describe(parts, &facts, path, &configured, Some(spec.image), &LoadOptions::default())
    };
    let Ok(Described { spec: found, arrangement, .. }) = described() else { return false };
    let position = arrangement.position.map(|p| Position {
        grid: p.grid,
        covers_class: p.covers_class,
        covers_extra: p.covers_extra,
    });
    found == *spec && position == own.position && crate::weights::assemble(parts, &found, &arrangement).is_ok()
}
