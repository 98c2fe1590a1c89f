//! Checkpoints of Hugging Face transformers: ViT, DeiT, DINOv2, DINOv2 with registers.

use super::describe::{self, Described, activation};
use super::fields::{Fields, config};
use super::spec::{FinalNorm, Mlp, ModelSpec, Pooling};
use super::{Family, LoadOptions};
use crate::Result;
use crate::weights::{Arrangement, Facts, Parts, PositionLayout, PositionResize};

/// Describes the model; without a configuration, sizes are taken from the tensors and the rest from the defaults.
pub(super) fn describe(
    parts: &Parts,
    facts: &Facts,
    fields: Option<&Fields>,
    options: &LoadOptions,
) -> Result<Described> {
    let family = family(facts, fields)?;
    let dino = matches!(family, Family::Dinov2 | Family::Dinov2Registers);
    let resize = match family {
        Family::Dinov2Registers => PositionResize::BicubicAntialias,
        _ => PositionResize::Bicubic,
    };
    let covers_extra = usize::from(family == Family::Deit);
    let (image, heads, position, act, eps, qkv_bias, swiglu);
    match fields {
        Some(fields) => {
            sizes(facts, fields, family)?;
            let own = fields.pair("image_size")?.unwrap_or([224, 224]);
            image = own;
            heads = fields.size("num_attention_heads")?.unwrap_or(12);
            describe::check_heads(heads, facts.width, options).map_err(|e| config(fields.path(), e))?;
            if let Some(size) = fields.size("head_dim")?.filter(|size| *size != facts.width / heads) {
                let problem = format!(
                    "`head_dim` is {size}, expected `hidden_size`/`num_attention_heads`; other sizes are not supported"
                );
                return Err(config(fields.path(), problem));
            }
            position = Some(table(facts, fields, own, covers_extra, resize)?);
            let name = fields.string("hidden_act")?.unwrap_or("gelu");
            act = activation(name).ok_or_else(|| {
                config(fields.path(), format!("`hidden_act` is \"{name}\", which is not supported; supported are gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, quick_gelu, relu and silu"))
            })?;
            eps = fields.number("layer_norm_eps", 0.0, 1.0)?.unwrap_or(if dino { 1e-6 } else { 1e-12 });
            qkv_bias = fields.boolean("qkv_bias")?.unwrap_or(true);
            swiglu = dino && fields.boolean("use_swiglu_ffn")?.unwrap_or(false);
        }
        None => {
            heads = describe::heads_by_convention(parts, facts.width, options)?;
            position = describe::infer_positions(parts, facts, resize, options)?;
            let grid = position.as_ref().map_or([0, 0], |p| p.grid);
            image = [grid[0] * facts.patch[0], grid[1] * facts.patch[1]];
            act = super::Activation::Gelu;
            eps = if dino { 1e-6 } else { 1e-12 };
            qkv_bias = facts.qkv_bias;
            swiglu = facts.fc1_rows == 2 * facts.hidden;
        }
    }
    let spec = ModelSpec {
        image,
        patch: facts.patch,
        channels: facts.channels,
        width: facts.width,
        depth: facts.depth,
        heads,
        hidden: facts.hidden,
        mlp: if swiglu { Mlp::SwiGlu } else { Mlp::Plain(act) },
        norm_eps: eps,
        class_token: true,
        extra_tokens: facts.extra_tokens(),
        pre_norm: false,
        layer_scale: dino,
        pooling: match family {
            Family::Dinov2 | Family::Dinov2Registers => Pooling::ClsAndPatchMean,
            Family::Deit if facts.two_heads => Pooling::ClsAndDistillation,
            _ => Pooling::Cls,
        },
        final_norm: FinalNorm::BeforePool,
        classes: facts.classes,
    };
    let arrangement = Arrangement { qkv_bias, proj_bias: true, patch_bias: true, registers: facts.registers, position };
    Ok(Described { family, spec, arrangement })
}

fn family(facts: &Facts, fields: Option<&Fields>) -> Result<Family> {
    let inferred = match (facts.distillation, facts.layer_scale, facts.registers > 0) {
        (true, _, _) => Family::Deit,
        (false, true, true) => Family::Dinov2Registers,
        (false, true, false) => Family::Dinov2,
        (false, false, _) => Family::Vit,
    };
    let Some(fields) = fields else { return Ok(inferred) };
    let family = match fields.string("model_type")? {
        None => inferred,
        Some("vit") => Family::Vit,
        Some("deit") => Family::Deit,
        Some("dinov2") => Family::Dinov2,
        Some("dinov2_with_registers") => Family::Dinov2Registers,
        Some(other) => {
            let problem = format!(
                "`model_type` is \"{other}\", which is not supported; supported are vit, deit, dinov2 and dinov2_with_registers"
            );
            return Err(config(fields.path(), problem));
        }
    };
    if family == Family::Dinov2 && inferred == Family::Dinov2Registers {
        return Err(config(
            fields.path(),
            "`model_type` is \"dinov2\", but the weights have register tokens; it should be \"dinov2_with_registers\"",
        ));
    }
    Ok(family)
}

/// Checks every size in the configuration, or its default, against the tensors.
fn sizes(facts: &Facts, fields: &Fields, family: Family) -> Result<()> {
    let dino = matches!(family, Family::Dinov2 | Family::Dinov2Registers);
    let width = fields.size("hidden_size")?.unwrap_or(768);
    fields.agree("hidden_size", width, facts.width, &facts.patch_weight)?;
    fields.agree("num_channels", fields.size("num_channels")?.unwrap_or(3), facts.channels, &facts.patch_weight)?;
    let patch = fields.pair("patch_size")?.unwrap_or(if family == Family::Dinov2 { [14, 14] } else { [16, 16] });
    for (value, found) in patch.into_iter().zip(facts.patch) {
        fields.agree("patch_size", value, found, &facts.patch_weight)?;
    }
    let depth = fields.size("num_hidden_layers")?.unwrap_or(12);
    if depth != facts.depth {
        let problem = format!(
            "`num_hidden_layers` is {depth}, but the weights have {} blocks; use the config.json that belongs to this checkpoint",
            facts.depth
        );
        return Err(config(fields.path(), problem));
    }
    if !dino {
        let hidden = fields.size("intermediate_size")?.unwrap_or(3072);
        return fields.agree("intermediate_size", hidden, facts.hidden, &facts.fc2);
    }
    let ratio = fields.number("mlp_ratio", 0.0, 1e4)?.unwrap_or(4.0);
    let mut hidden = (width as f64 * ratio) as usize;
    if fields.boolean("use_swiglu_ffn")?.unwrap_or(false) {
        hidden = ((hidden as f64 * 2.0 / 3.0) as usize).div_ceil(8) * 8;
    }
    if hidden != facts.hidden {
        let problem = format!(
            "`mlp_ratio` is {ratio}, which gives {hidden} hidden units, but tensor `{}` has shape {:?}; use the config.json that belongs to this checkpoint",
            facts.fc2.name(),
            facts.fc2.shape()
        );
        return Err(config(fields.path(), problem));
    }
    if family == Family::Dinov2Registers {
        let registers = fields.count("num_register_tokens")?.unwrap_or(4);
        if registers != facts.registers {
            let problem = format!(
                "`num_register_tokens` is {registers}, but the weights have {}; use the config.json that belongs to this checkpoint",
                facts.registers
            );
            return Err(config(fields.path(), problem));
        }
    }
    Ok(())
}

fn table(
    facts: &Facts,
    fields: &Fields,
    image: [usize; 2],
    covers_extra: usize,
    resize: PositionResize,
) -> Result<PositionLayout> {
    let grid = describe::grid(image, facts.patch);
    let rows = grid[0] * grid[1] + 1 + covers_extra;
    if let Some(table) = facts.position.as_ref().filter(|_| rows != facts.positions) {
        let problem = format!(
            "`image_size` is {}x{}{}, which with patches of {}x{} needs {rows} position embeddings, but tensor `{}` has shape {:?}; to run at another size leave config.json as it is and pass --image",
            image[0],
            image[1],
            if fields.get("image_size").is_none() { " (absent, so the library's default)" } else { "" },
            facts.patch[0],
            facts.patch[1],
            table.name(),
            table.shape()
        );
        return Err(config(fields.path(), problem));
    }
    Ok(PositionLayout { grid, covers_class: true, covers_extra, resize })
}
