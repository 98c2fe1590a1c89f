//! Random checkpoints at real sizes, so that anyone can plan, measure and test without a download.

use crate::files::write_safetensors;
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, View};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fs;
use std::path::Path;

/// Architectures that can be synthesised, by timm's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SynthArch {
    /// 12 blocks of width 192.
    VitTinyPatch16_224,
    /// 12 blocks of width 384.
    VitSmallPatch16_224,
    /// 12 blocks of width 768.
    VitBasePatch16_224,
    /// 24 blocks of width 1024.
    VitLargePatch16_224,
    /// 32 blocks of width 1280, patch 14.
    VitHugePatch14_224,
}

/// Whose tensor names and `config.json` a synthetic checkpoint has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SynthNames {
    /// timm's.
    Timm,
    /// transformers'.
    Transformers,
}

/// Stored type of a synthetic checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SynthDtype {
    /// binary32.
    F32,
    /// binary16.
    F16,
    /// bfloat16.
    Bf16,
}

struct Sizes {
    width: usize,
    depth: usize,
    heads: usize,
    patch: usize,
}

/// Side of the images, pixels.
const IMAGE: usize = 224;
/// Classes of the classifier.
const CLASSES: usize = 1000;
/// Standard deviation of matrices and embeddings, as both libraries initialise them.
const STD: f32 = 0.02;
/// Elements drawn at once.
const CHUNK: usize = 1 << 16;

impl SynthArch {
    fn sizes(self) -> Sizes {
        let [width, depth, heads, patch] = match self {
            SynthArch::VitTinyPatch16_224 => [192, 12, 3, 16],
            SynthArch::VitSmallPatch16_224 => [384, 12, 6, 16],
            SynthArch::VitBasePatch16_224 => [768, 12, 12, 16],
            SynthArch::VitLargePatch16_224 => [1024, 24, 16, 16],
            SynthArch::VitHugePatch14_224 => [1280, 32, 16, 14],
        };
        Sizes { width, depth, heads, patch }
    }
}

/// A tensor that is drawn when it is written.
struct Random {
    shape: Vec<usize>,
    dtype: SynthDtype,
    stream: Stream,
    /// N(0, std²), or this constant.
    constant: Option<f32>,
}

impl View for Random {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            SynthDtype::F32 => Dtype::F32,
            SynthDtype::F16 => Dtype::F16,
            SynthDtype::Bf16 => Dtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let size = self.dtype().bitsize() / 8;
        let mut bytes = vec![0; self.data_len()];
        bytes.par_chunks_mut(CHUNK * size).enumerate().for_each(|(chunk, bytes)| {
            let mut values = vec![0f32; bytes.len() / size];
            match self.constant {
                Some(value) => values.fill(value),
                None => {
                    // Numbers of a stream are addressed in blocks of four.
                    let first = (chunk * CHUNK / 4) as u32;
                    self.stream.normals_from(first, &mut values);
                    values.iter_mut().for_each(|v| *v *= STD);
                }
            }
            match self.dtype {
                SynthDtype::F32 => {
                    bytes.as_chunks_mut().0.iter_mut().zip(&values).for_each(|(b, v)| *b = v.to_le_bytes());
                }
                SynthDtype::F16 => {
                    let mut narrow = vec![f16::ZERO; values.len()];
                    narrow.convert_from_f32_slice(&values);
                    bytes.as_chunks_mut().0.iter_mut().zip(&narrow).for_each(|(b, v)| *b = v.to_le_bytes());
                }
                SynthDtype::Bf16 => {
                    let mut narrow = vec![bf16::ZERO; values.len()];
                    narrow.convert_from_f32_slice(&values);
                    bytes.as_chunks_mut().0.iter_mut().zip(&narrow).for_each(|(b, v)| *b = v.to_le_bytes());
                }
            }
        });
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype().bitsize() / 8
    }
}

/// Writes `model.safetensors` and `config.json` into `folder`, which is made if need be. Equal arguments give equal bytes.
/// A tensor at a time is in memory.
///
/// # Errors
/// [`Error::Io`] when a file cannot be written.
pub fn synthesise(folder: &Path, arch: SynthArch, names: SynthNames, dtype: SynthDtype, seed: u64) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let tensors = tensors(arch, names);
    let views = tensors.into_iter().enumerate().map(|(i, (name, shape))| {
        let constant = if name.ends_with("bias") {
            Some(0.0)
        } else if name.contains("norm") {
            Some(1.0)
        } else {
            None
        };
        let seed = Purpose::Synthetic.seed(seed);
        let stream = Stream { seed, step: 0, example: i as u32, tangent: 0, set: 0 };
        (name, Random { shape, dtype, stream, constant })
    });
    let path = folder.join("model.safetensors");
    write_safetensors(&path, views, None)?;
    let config = serde_json::to_vec_pretty(&config(arch, names, dtype)).unwrap_or_default();
    crate::files::write_atomic(&folder.join("config.json"), |writer| writer.write_all(&config))
}

fn config(arch: SynthArch, names: SynthNames, dtype: SynthDtype) -> Value {
    let Sizes { width, depth, heads, patch } = arch.sizes();
    match names {
        SynthNames::Timm => json!({"architecture": arch, "num_classes": CLASSES, "global_pool": "token"}),
        SynthNames::Transformers => json!({
            "architectures": ["ViTForImageClassification"],
            "model_type": "vit",
            "dtype": match dtype {
                SynthDtype::F32 => "float32",
                SynthDtype::F16 => "float16",
                SynthDtype::Bf16 => "bfloat16",
            },
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "intermediate_size": 4 * width,
            "patch_size": patch,
            "image_size": IMAGE,
            "id2label": (0..CLASSES).map(|i| (i.to_string(), json!(format!("class {i}")))).collect::<serde_json::Map<_, _>>(),
        }),
    }
}

fn tensors(arch: SynthArch, names: SynthNames) -> Vec<(String, Vec<usize>)> {
    let Sizes { width: d, depth, patch, .. } = arch.sizes();
    let tokens = 1 + (IMAGE / patch).pow(2);
    let mut all = Vec::new();
    let mut add = |name: String, shape: &[usize]| all.push((name, shape.to_vec()));
    let linear = |add: &mut dyn FnMut(String, &[usize]), name: &str, n: usize, k: usize| {
        add(format!("{name}.weight"), &[n, k]);
        add(format!("{name}.bias"), &[n]);
    };
    let norm = |add: &mut dyn FnMut(String, &[usize]), name: &str| {
        add(format!("{name}.weight"), &[d]);
        add(format!("{name}.bias"), &[d]);
    };
    let [class, position, projection, last, head] = match names {
        SynthNames::Timm => ["cls_token", "pos_embed", "patch_embed.proj", "norm", "head"],
        SynthNames::Transformers => [
            "vit.embeddings.cls_token",
            "vit.embeddings.position_embeddings",
            "vit.embeddings.patch_embeddings.projection",
            "vit.layernorm",
            "classifier",
        ],
    };
    add(class.into(), &[1, 1, d]);
    add(position.into(), &[1, tokens, d]);
    add(format!("{projection}.weight"), &[d, 3, patch, patch]);
    add(format!("{projection}.bias"), &[d]);
    for block in 0..depth {
        match names {
            SynthNames::Timm => {
                let name = |part: &str| format!("blocks.{block}.{part}");
                norm(&mut add, &name("norm1"));
                linear(&mut add, &name("attn.qkv"), 3 * d, d);
                linear(&mut add, &name("attn.proj"), d, d);
                norm(&mut add, &name("norm2"));
                linear(&mut add, &name("mlp.fc1"), 4 * d, d);
                linear(&mut add, &name("mlp.fc2"), d, 4 * d);
            }
            SynthNames::Transformers => {
                let name = |part: &str| format!("vit.encoder.layer.{block}.{part}");
                norm(&mut add, &name("layernorm_before"));
                for part in ["query", "key", "value"] {
                    linear(&mut add, &name(&format!("attention.attention.{part}")), d, d);
                }
                linear(&mut add, &name("attention.output.dense"), d, d);
                norm(&mut add, &name("layernorm_after"));
                linear(&mut add, &name("intermediate.dense"), 4 * d, d);
                linear(&mut add, &name("output.dense"), d, 4 * d);
            }
        }
    }
    norm(&mut add, last);
    linear(&mut add, head, CLASSES, d);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LoadOptions, Model};

    #[test]
    fn every_naming_opens_and_equal_seeds_give_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let arch = SynthArch::VitTinyPatch16_224;
        let write = |name: &str, names, dtype, seed| {
            let path = folder.path().join(name);
            synthesise(&path, arch, names, dtype, seed).unwrap();
            let model = Model::open(&path, &LoadOptions::default()).unwrap();
            (std::fs::read(path.join("model.safetensors")).unwrap(), model)
        };
        let (timm, model) = write("a", SynthNames::Timm, SynthDtype::F16, 0);
        assert_eq!((model.spec.width, model.spec.depth, model.spec.heads, model.spec.classes), (192, 12, 3, 1000));
        assert_eq!(timm, write("b", SynthNames::Timm, SynthDtype::F16, 0).0);
        assert_ne!(timm, write("c", SynthNames::Timm, SynthDtype::F16, 1).0);
        let (_, other) = write("d", SynthNames::Transformers, SynthDtype::Bf16, 0);
        assert_eq!((other.spec.width, other.spec.depth, other.spec.heads, other.spec.classes), (192, 12, 3, 1000));
        let values: Vec<f32> = model.vit.blocks[0].fc1.read().unwrap();
        let variance = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!((variance.sqrt() / STD - 1.0).abs() < 0.02, "{variance}");
    }
}
