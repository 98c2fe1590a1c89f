//! From a path to a model: weights, description, preprocessing and class names.

use super::companions::{Companion, Companions};
use super::describe::{self, Described};
use super::fields::{self, Fields};
use super::own::Own;
use super::{Head, ModelSpec, labels, onnx, position, preprocessing, timm, transformers};
use crate::data::Preprocess;
use crate::weights::{Checkpoint, Element, Facts, Layout, Parts, VitRef, assemble};
use crate::{Error, Result};
use ndarray::{Array1, Array2};
use serde_json::Map;
use std::fmt;
use std::path::{Path, PathBuf};

/// More patches than this are refused before anything is allocated for them.
const MAX_PATCHES: usize = 1 << 16;

/// Which library and architecture a checkpoint came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// transformers' ViT.
    Vit,
    /// transformers' DeiT.
    Deit,
    /// transformers' DINOv2.
    Dinov2,
    /// transformers' DINOv2 with registers.
    Dinov2Registers,
    /// Any timm ViT.
    Timm,
    /// The graph of an ONNX file.
    Onnx,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Vit => "transformers ViT",
            Family::Deit => "transformers DeiT",
            Family::Dinov2 => "transformers DINOv2",
            Family::Dinov2Registers => "transformers DINOv2 with registers",
            Family::Timm => "timm ViT",
            Family::Onnx => "ViT of an ONNX graph",
        })
    }
}

/// What the caller may say about a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Image height and width to run at; the checkpoint's own when `None`. A multiple of the patch size.
    pub image: Option<[usize; 2]>,
    /// Attention heads, for checkpoints without a configuration that says.
    pub heads: Option<usize>,
}

/// A pretrained Vision Transformer: described, its tensors located and their shapes checked, nothing read yet.
#[derive(Clone, Debug)]
pub struct Model {
    /// What the encoder needs to know.
    pub spec: ModelSpec,
    /// The tensors, in the file's memory.
    pub vit: VitRef,
    /// Evaluation preprocessing.
    pub preprocess: Preprocess,
    /// Name of each of the classifier's classes.
    pub class_names: Option<Vec<String>>,
    /// Where it came from.
    pub family: Family,
    /// The file or index that was opened.
    pub path: PathBuf,
}

impl Model {
    /// Opens a folder, a safetensors file or a shard index, with the `config.json`, `preprocessor_config.json` and
    /// `labels.txt` beside it as far as they exist; or an ONNX file (`.onnx`, or the only one in a folder without
    /// safetensors), whose graph says everything but preprocessing and class names.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Checkpoint`], [`Error::Tensor`] and [`Error::Config`] about files that are unreadable,
    /// damaged, or do not belong together, and about graphs that are no plain Vision Transformer; [`Error::Options`] when
    /// `options` do not fit or must say more.
    pub fn open(path: &Path, options: &LoadOptions) -> Result<Self> {
        match onnx::locate(path) {
            Some(path) => onnx::open(&path, options),
            None => Self::from_checkpoint(&Checkpoint::open(path)?, options),
        }
    }

    /// As [`open`](Self::open), for a checkpoint that is already open.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Self> {
        Self::assemble(checkpoint, &Companions::read(checkpoint.folder())?, options)
    }

    /// A model held in memory: a safetensors file and its `config.json`, if it has one. `path` is only named in errors.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(
        path: &Path,
        weights: impl AsRef<[u8]> + Send + Sync + 'static,
        config: Option<&[u8]>,
        options: &LoadOptions,
    ) -> Result<Self> {
        let config = config.map(|bytes| Companion { path: path.with_file_name("config.json"), bytes: bytes.to_vec() });
        let companions = Companions { config, ..Companions::default() };
        Self::assemble(&Checkpoint::from_bytes(path, weights)?, &companions, options)
    }

    fn assemble(checkpoint: &Checkpoint, beside: &Companions, options: &LoadOptions) -> Result<Self> {
        let map = beside.config.as_ref().map(|config| fields::parse(&config.path, &config.bytes)).transpose()?;
        let config = beside.config.as_ref().zip(map.as_ref()).map(|(config, map)| Fields::new(&config.path, map));
        let parts = Parts::new(checkpoint)?;
        let facts = Facts::new(&parts)?;
        let own = config.as_ref().map(Own::read).transpose()?.flatten();
        let (described, preprocess, names) = match (own, parts.layout()) {
            (Some(own), _) => Self::own(own, &parts, &facts, config.map_or(checkpoint.path(), |c| c.path()), options)?,
            (None, Layout::Transformers) => Self::transformers(&parts, &facts, config.as_ref(), beside, options)?,
            (None, Layout::Timm) => Self::timm(&parts, &facts, config.as_ref(), options)?,
        };
        let described_by = config.map_or(checkpoint.path(), |c| c.path());
        Self::finish(&parts, described, described_by, preprocess, names, beside)
    }

    /// The model that was `described`, its tensors in their places.
    pub(super) fn finish(
        parts: &Parts,
        described: Described,
        described_by: &Path,
        preprocess: Preprocess,
        names: Option<Vec<String>>,
        beside: &Companions,
    ) -> Result<Self> {
        let Described { family, spec, arrangement } = described;
        let [rows, columns] = spec.grid();
        if rows == 0 || columns == 0 || rows.saturating_mul(columns) > MAX_PATCHES {
            let problem = format!(
                "images of {}x{} pixels make {rows}x{columns} patches of {}x{}; there must be 1 to {MAX_PATCHES}",
                spec.image[0], spec.image[1], spec.patch[0], spec.patch[1]
            );
            return Err(fields::config(described_by, problem));
        }
        let vit = assemble(parts, &spec, &arrangement)?;
        let class_names = match (names, &beside.labels) {
            (None, Some(labels)) => labels::text_file(labels, spec.classes)?,
            (names, _) => names,
        };
        let path = parts.checkpoint().path().to_owned();
        Ok(Model { spec, vit, preprocess, class_names, family, path })
    }

    fn own(own: Own, parts: &Parts, facts: &Facts, path: &Path, options: &LoadOptions) -> Result<Loaded> {
        let described = own.describe(parts, facts, path, options)?;
        if let Some(names) = own.class_names.as_ref().filter(|names| names.len() != facts.classes) {
            let problem =
                format!("names {} classes, but the classifier has {}; import it again", names.len(), facts.classes);
            return Err(fields::config(path, problem));
        }
        let preprocess = preprocessing::scale_to(own.preprocess, described.spec.image);
        Ok((described, preprocess, own.class_names))
    }

    fn transformers(
        parts: &Parts,
        facts: &Facts,
        config: Option<&Fields>,
        beside: &Companions,
        options: &LoadOptions,
    ) -> Result<Loaded> {
        let mut described = transformers::describe(parts, facts, config, options)?;
        let family = described.family;
        let own = beside.processor.as_ref().map(|file| preprocessing::transformers(file, family)).transpose()?;
        let spec = &mut described.spec;
        // DINOv2 always resizes its position embeddings to the image it is given, which its processor decides.
        if let (Family::Dinov2 | Family::Dinov2Registers, Some(own)) = (family, &own) {
            spec.image = own.crop;
        }
        spec.image = describe::choose_image(spec.image, spec.patch, options)?;
        let preprocess = match own {
            Some(own) => preprocessing::scale_to(own, spec.image),
            None => preprocessing::family_default(family, spec.image),
        };
        let names = config.map(|c| labels::transformers(c, facts.head.as_ref())).transpose()?.flatten();
        Ok((described, preprocess, names))
    }

    fn timm(parts: &Parts, facts: &Facts, config: Option<&Fields>, options: &LoadOptions) -> Result<Loaded> {
        let empty = Map::new();
        let Some(config) = config else {
            let mut described = timm::infer(parts, facts, None, options)?;
            described.spec.image = describe::choose_image(described.spec.image, described.spec.patch, options)?;
            let preprocess = preprocessing::family_default(Family::Timm, described.spec.image);
            return Ok((described, preprocess, None));
        };
        let configured = timm::configured(config)?;
        let cfg = config.object("pretrained_cfg", "pretrained_cfg.", &empty)?;
        let defaults = Fields::new(config.path(), &configured.default_cfg);
        let input = match preprocessing::timm_input(&cfg)? {
            Some(input) => Some(input),
            None => preprocessing::timm_input(&defaults)?,
        };
        let mut described = timm::describe(parts, facts, config.path(), &configured, input, options)?;
        let image = describe::choose_image(described.spec.image, described.spec.patch, options)?;
        described.spec.image = image;
        let preprocess = preprocessing::timm(&cfg, &defaults, image)?;
        let names = labels::timm(config, &cfg, facts.head.as_ref())?;
        Ok((described, preprocess, names))
    }

    /// 32 hexadecimal digits that identify the backbone: its tensors by role, as stored, and its description. Sharding,
    /// file names, the image size it runs at and the classifier do not matter. Reads every tensor.
    pub fn fingerprint(&self) -> String {
        let mut hash = blake3::Hasher::new();
        let spec = ModelSpec { image: [0, 0], classes: 0, ..self.spec.clone() };
        // Debug output lists every field by name.
        hash.update(format!("foretune backbone 1\n{spec:?}\n").as_bytes());
        self.vit.for_each_backbone_tensor(|role, tensor| {
            hash.update(format!("{role} {:?} {}\n", tensor.shape(), tensor.dtype()).as_bytes());
            hash.update(tensor.bytes());
        });
        hash.finalize().to_hex()[..32].to_owned()
    }

    /// The position embedding of every token but prompts, `[tokens, d]`, at `spec.image`'s grid; rows of tokens it does
    /// not cover are zero. `None` when the model has none.
    ///
    /// # Errors
    /// As [`TensorRef::read`](crate::weights::TensorRef::read).
    pub fn position_table(&self) -> Result<Option<Vec<f64>>> {
        let Some(position) = &self.vit.position else { return Ok(None) };
        let (spec, d) = (&self.spec, self.spec.width);
        let table: Vec<f64> = position.table.read()?;
        let class = usize::from(position.covers_class);
        let (prefix, grid) = table.split_at((class + position.covers_extra) * d);
        let mut out = Vec::new();
        let len = spec.tokens(0) * d;
        out.try_reserve_exact(len)
            .map_err(|_| Error::OutOfMemory { bytes: len * size_of::<f64>(), what: "the position table" })?;
        out.resize(len, 0.0);
        out[..class * d].copy_from_slice(&prefix[..class * d]);
        let extra = usize::from(spec.class_token) * d;
        out[extra..extra + position.covers_extra * d].copy_from_slice(&prefix[class * d..]);
        let patches = position::resize(grid, d, position.grid, spec.grid(), position.resize);
        let start = out.len() - patches.len();
        out[start..].copy_from_slice(&patches);
        Ok(Some(out))
    }

    /// The checkpoint's classifier on the head input. `None` when the checkpoint has none.
    ///
    /// # Errors
    /// As [`TensorRef::read`](crate::weights::TensorRef::read).
    pub fn head(&self) -> Result<Option<Head>> {
        let Some((weight, bias)) = self.classifier::<f32>()? else { return Ok(None) };
        let shape = (self.spec.classes, self.spec.head_width());
        let weight = Array2::from_shape_vec(shape, weight).map_err(|_| Error::Shape {
            what: "classifier",
            expected: format!("{shape:?}"),
            found: "another number of weights".into(),
        })?;
        Ok(Some(Head::Linear { weight, bias: Array1::from_vec(bias) }))
    }

    /// Weight `[C, D]` and bias `[C]` of the checkpoint's classifier in any precision; of a distilled pair, both halves
    /// side by side with a factor of ½ and the mean of both biases.
    ///
    /// # Errors
    /// As [`TensorRef::read`](crate::weights::TensorRef::read).
    pub fn classifier<T: Element>(&self) -> Result<Option<(Vec<T>, Vec<T>)>> {
        let [first, rest @ ..] = self.vit.head.as_slice() else { return Ok(None) };
        if rest.is_empty() {
            let bias = first.bias().map_or_else(|| Ok(vec![T::default(); first.rows()]), |bias| bias.read())?;
            return Ok(Some((first.read()?, bias)));
        }
        let (classes, columns, share) = (self.spec.classes, first.cols(), 1.0 / self.vit.head.len() as f64);
        let (mut weight, mut bias) = (vec![T::default(); classes * self.spec.head_width()], vec![0.0; classes]);
        for (i, linear) in self.vit.head.iter().enumerate() {
            let block = linear.read::<f64>()?;
            for (to, from) in weight.chunks_mut(self.spec.head_width()).zip(block.chunks(columns)) {
                to[i * columns..][..columns].iter_mut().zip(from).for_each(|(w, x)| *w = T::from_f64(x * share));
            }
            if let Some(b) = linear.bias().map(|bias| bias.read::<f64>()).transpose()? {
                bias.iter_mut().zip(b).for_each(|(y, x)| *y += x * share);
            }
        }
        Ok(Some((weight, bias.into_iter().map(T::from_f64).collect())))
    }
}

type Loaded = (Described, Preprocess, Option<Vec<String>>);
