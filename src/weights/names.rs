//! Where each library keeps which tensor. Names are translated to roles once; everything after speaks in roles.

use super::checkpoint::Checkpoint;
use super::file::malformed;
use super::tensor::TensorRef;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// How a library spells tensor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Hugging Face transformers.
    Transformers,
    /// timm, and the DeiT and DINOv2 originals that timm reads as they are.
    Timm,
}

/// Module or parameter → role. The first entry of a role is how a missing one is named in errors.
type Names = &'static [(&'static str, &'static str)];

const TRANSFORMERS: Names = &[
    ("embeddings.patch_embeddings.projection", "patch"),
    ("embeddings.cls_token", "class_token"),
    ("embeddings.register_tokens", "register"),
    ("embeddings.distillation_token", "distillation"),
    ("embeddings.position_embeddings", "position"),
    ("layernorm", "norm"),
    ("classifier", "head"),
    ("cls_classifier", "head"),
    ("distillation_classifier", "head_dist"),
];

const TRANSFORMERS_BLOCK: Names = &[
    ("attention.attention.query", "q"),
    ("attention.attention.key", "k"),
    ("attention.attention.value", "v"),
    ("attention.output.dense", "proj"),
    ("attention.q_proj", "q"),
    ("attention.k_proj", "k"),
    ("attention.v_proj", "v"),
    ("attention.o_proj", "proj"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("norm1", "norm1"),
    ("norm2", "norm2"),
    ("intermediate.dense", "fc1"),
    ("output.dense", "fc2"),
    ("mlp.fc1", "fc1"),
    ("mlp.fc2", "fc2"),
    ("mlp.weights_in", "fc1"),
    ("mlp.weights_out", "fc2"),
    ("mlp.gate_proj", "gate"),
    ("mlp.up_proj", "up"),
    ("mlp.down_proj", "fc2"),
    ("layer_scale1.lambda1", "scale1"),
    ("layer_scale2.lambda1", "scale2"),
];

const TIMM: Names = &[
    ("patch_embed.proj", "patch"),
    ("cls_token", "class_token"),
    ("reg_token", "register"),
    ("register_tokens", "register"),
    ("dist_token", "distillation"),
    ("pos_embed", "position"),
    ("norm_pre", "pre_norm"),
    ("norm", "norm"),
    ("fc_norm", "fc_norm"),
    ("head", "head"),
    ("head_dist", "head_dist"),
];

const TIMM_BLOCK: Names = &[
    ("norm1", "norm1"),
    ("attn.qkv", "qkv"),
    ("attn.proj", "proj"),
    ("ls1.gamma", "scale1"),
    ("gamma_1", "scale1"),
    ("norm2", "norm2"),
    ("mlp.fc1", "fc1"),
    ("mlp.w12", "fc1"),
    ("mlp.fc1_g", "gate"),
    ("mlp.fc1_x", "up"),
    ("mlp.fc2", "fc2"),
    ("mlp.w3", "fc2"),
    ("ls2.gamma", "scale2"),
    ("gamma_2", "scale2"),
];

/// Parts of names that betray a ViT of a kind the encoder does not run, and what they stand for.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("attn.q_norm", "query and key normalisation"),
    ("attn.k_norm", "query and key normalisation"),
    ("attn.norm", "normalisation inside attention"),
    ("attn.sub_norm", "differential attention"),
    ("attn.lambda", "differential attention"),
    ("attn.rel_pos", "relative position bias"),
    ("relative_position", "relative position bias"),
    ("attn.q_bias", "separate query and value biases (BEiT, EVA)"),
    ("attn.v_bias", "separate query and value biases (BEiT, EVA)"),
    ("attn.q_proj", "separate query, key and value projections in timm names (EVA)"),
    ("attn.k_proj", "separate query, key and value projections in timm names (EVA)"),
    ("attn.v_proj", "separate query, key and value projections in timm names (EVA)"),
    ("mlp.norm", "normalisation inside the MLP"),
    ("mlp.swiglu_norm", "normalisation inside the MLP"),
    ("ffn_layernorm", "normalisation inside the MLP"),
    ("attn_pool", "attention pooling"),
    ("rope", "rotary position embedding"),
    ("attns.", "parallel blocks"),
    ("ffns.", "parallel blocks"),
    ("in_proj", "parallel blocks"),
    ("attn_out_proj", "parallel blocks"),
    ("mlp_out_proj", "parallel blocks"),
    ("patch_embed.backbone", "a convolutional stem (hybrid ViT)"),
    ("patch_embed.norm", "a norm in the patch embedding"),
    ("patch_embed", "another patch embedding"),
    ("patch_embeddings", "another patch embedding"),
];

/// Weights of other training objectives, left alone without a word.
const IGNORED: &[&str] =
    &["mask_token", "embeddings.mask_token", "pooler.dense", "decoder.0", "pre_logits.fc", "layernorm_pretraining"];

/// Prefixes of transformers' base models.
const PREFIXES: &[&str] = &["vit.", "deit.", "dinov2.", "dinov2_with_registers."];

enum Place {
    Role(String),
    Ignored,
    Unsupported(&'static str),
    Unknown { block: bool },
}

/// A checkpoint's tensors by role: `patch.weight`, `class_token`, `blocks.3.q.bias`, …
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    checkpoint: &'a Checkpoint,
    layout: Layout,
    prefix: &'static str,
    /// Blocks are under `encoder.layer.` (transformers ≤ 5 and what it writes) rather than `layers.`.
    nested: bool,
    roles: BTreeMap<String, TensorRef>,
}

impl<'a> Parts<'a> {
    /// Translates every name.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when no ViT is in there, [`Error::Tensor`] for tensors that make the model another one.
    pub(crate) fn new(checkpoint: &'a Checkpoint) -> Result<Self> {
        let (layout, prefix) = detect(checkpoint)?;
        let nested = layout == Layout::Transformers
            && checkpoint.tensors().any(|t| block(layout, strip(t.name(), prefix)).is_some_and(|b| b.nested));
        let mut parts = Parts { checkpoint, layout, prefix, nested, roles: BTreeMap::new() };
        let mut unused = Vec::new();
        for tensor in checkpoint.tensors() {
            match place(layout, strip(tensor.name(), prefix)) {
                Place::Role(role) => {
                    if let Some(first) = parts.roles.insert(role, tensor.clone()) {
                        return Err(tensor.error(format!(
                            "plays the same part as `{}`; a checkpoint may hold only one of them",
                            first.name()
                        )));
                    }
                }
                Place::Ignored => {}
                Place::Unsupported(what) => {
                    return Err(tensor.error(format!("{what} is not supported; use a plain ViT checkpoint")));
                }
                Place::Unknown { block: true } => {
                    return Err(tensor.error(
                        "is not a part of a ViT block that is known here; this kind of model is not supported",
                    ));
                }
                Place::Unknown { block: false } => unused.push(tensor.name()),
            }
        }
        if !unused.is_empty() {
            log::warn!("{}: not used: {}", checkpoint.path().display(), unused.join(", "));
        }
        Ok(parts)
    }

    /// Which library's names these are.
    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// The checkpoint they came from.
    pub(crate) fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// The tensor that plays `role`.
    pub(crate) fn get(&self, role: &str) -> Option<&TensorRef> {
        self.roles.get(role)
    }

    /// Roles and who plays them.
    pub(crate) fn roles(&self) -> impl Iterator<Item = (&String, &TensorRef)> {
        self.roles.iter()
    }

    /// One more than the highest block index.
    pub(crate) fn depth(&self) -> usize {
        let indices = self.roles.keys().filter_map(|r| r.strip_prefix("blocks.")?.split('.').next()?.parse().ok());
        indices.max().map_or(0, |i: usize| i.saturating_add(1))
    }

    /// The tensor that plays `role`.
    ///
    /// # Errors
    /// [`Error::Tensor`] under the family's own name when it is missing.
    pub(crate) fn require(&self, role: &str) -> Result<&TensorRef> {
        self.get(role).ok_or_else(|| {
            self.missing(role, "is missing; the file is incomplete, or config.json describes another model")
        })
    }

    /// An [`Error::Tensor`] about a `role` that no tensor plays.
    pub(crate) fn missing(&self, role: &str, problem: &str) -> Error {
        Error::Tensor { path: self.checkpoint.path().to_owned(), name: self.spell(role), problem: problem.to_owned() }
    }

    /// How the family spells `role`.
    fn spell(&self, role: &str) -> String {
        let find = |names: Names, module: &str| {
            names.iter().find(|(_, r)| *r == module).map_or(module.to_owned(), |(name, _)| (*name).to_owned())
        };
        let join = |module: String, leaf: Option<&str>| leaf.map_or(module.clone(), |leaf| format!("{module}.{leaf}"));
        let mut pieces = role.splitn(2, '.');
        let (first, rest) = (pieces.next().unwrap_or(role), pieces.next());
        if first != "blocks" {
            let (names, prefix) = match self.layout {
                Layout::Transformers if first.starts_with("head") => (TRANSFORMERS, ""),
                Layout::Transformers => (TRANSFORMERS, self.prefix),
                Layout::Timm => (TIMM, ""),
            };
            return format!("{prefix}{}", join(find(names, first), rest));
        }
        let mut pieces = rest.unwrap_or_default().splitn(3, '.');
        let (index, module, leaf) =
            (pieces.next().unwrap_or_default(), pieces.next().unwrap_or_default(), pieces.next());
        match self.layout {
            Layout::Timm => format!("blocks.{index}.{}", join(find(TIMM_BLOCK, module), leaf)),
            Layout::Transformers => {
                let stack = if self.nested { "encoder.layer" } else { "layers" };
                // What stands in block 0 for this part, or the first spelling.
                let present = TRANSFORMERS_BLOCK.iter().filter(|(_, r)| *r == module).find(|(name, _)| {
                    let name = format!("{}{stack}.0.{name}", self.prefix);
                    self.checkpoint.tensors().any(|t| t.name().starts_with(&name))
                });
                let name = present.map_or_else(|| find(TRANSFORMERS_BLOCK, module), |(name, _)| (*name).to_owned());
                format!("{}{stack}.{index}.{}", self.prefix, join(name, leaf))
            }
        }
    }
}

fn strip<'n>(name: &'n str, prefix: &str) -> &'n str {
    name.strip_prefix(prefix).unwrap_or(name)
}

fn detect(checkpoint: &Checkpoint) -> Result<(Layout, &'static str)> {
    let has = |name: &str| checkpoint.get(name).is_some();
    if has("patch_embed.proj.weight") {
        return Ok((Layout::Timm, ""));
    }
    for prefix in PREFIXES.iter().copied().chain([""]) {
        if has(&format!("{prefix}embeddings.patch_embeddings.projection.weight")) {
            return Ok((Layout::Transformers, prefix));
        }
    }
    for tensor in checkpoint.tensors() {
        if let Some((_, what)) = UNSUPPORTED.iter().find(|(part, _)| tensor.name().contains(part)) {
            return Err(tensor.error(format!("{what} is not supported; use a plain ViT checkpoint")));
        }
    }
    Err(malformed(
        checkpoint.path(),
        "holds no patch embedding under a known name (`embeddings.patch_embeddings.projection.weight` as in \
         transformers' ViT, DeiT and DINOv2, or `patch_embed.proj.weight` as in timm); \
         use a ViT checkpoint of one of these libraries",
    ))
}

struct InBlock<'n> {
    index: usize,
    rest: &'n str,
    nested: bool,
}

fn block(layout: Layout, name: &str) -> Option<InBlock<'_>> {
    let (rest, nested) = match layout {
        Layout::Timm => (name.strip_prefix("blocks.")?, false),
        Layout::Transformers => match name.strip_prefix("encoder.layer.") {
            Some(rest) => (rest, true),
            None => (name.strip_prefix("layers.")?, false),
        },
    };
    let (index, rest) = rest.split_once('.')?;
    // "01" and "+1" would alias block 1.
    let index = index.parse().ok().filter(|i: &usize| i.to_string() == index)?;
    Some(InBlock { index, rest, nested })
}

fn place(layout: Layout, name: &str) -> Place {
    let (outer, inner) = match layout {
        Layout::Transformers => (TRANSFORMERS, TRANSFORMERS_BLOCK),
        Layout::Timm => (TIMM, TIMM_BLOCK),
    };
    let within = block(layout, name);
    let (names, rest) = within.as_ref().map_or((outer, name), |b| (inner, b.rest));
    for (module, role) in names {
        let leaf = match rest.strip_prefix(module) {
            Some("") => "",
            Some(leaf @ (".weight" | ".bias")) => leaf,
            _ => continue,
        };
        return Place::Role(match &within {
            Some(b) => format!("blocks.{}.{role}{leaf}", b.index),
            None => format!("{role}{leaf}"),
        });
    }
    if within.is_none()
        && IGNORED.iter().any(|i| name.strip_prefix(i).is_some_and(|r| r.is_empty() || r.starts_with('.')))
    {
        return Place::Ignored;
    }
    if let Some((_, what)) = UNSUPPORTED.iter().find(|(part, _)| rest.contains(part)) {
        return Place::Unsupported(what);
    }
    let stack = name.starts_with("blocks.") || name.starts_with("encoder.") || name.starts_with("layers.");
    Place::Unknown { block: within.is_some() || stack }
}
