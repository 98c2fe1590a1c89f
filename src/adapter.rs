//! The adapter file: what tuning produced, and everything needed to use it with its backbone and nothing else.

use crate::container::{self, Format};
use crate::data::Preprocess;
use crate::files::write_atomic;
use crate::model::{Head, ModelSpec, Pooling, PromptLayout};
use crate::tune::GuessKind;
use crate::{Error, Result};
use ndarray::{Array1, Array3};
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::path::Path;

const FORMAT: Format = Format { name: "foretune-adapter", version: 1, what: "an adapter" };

/// The frozen model an adapter belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backbone {
    /// Hash of the backbone's tensors and shape.
    pub fingerprint: String,
    /// For people: "ViT, 12 blocks of width 192, 3 heads, patch 16×16, 224×224 pixels".
    pub description: String,
}

impl Backbone {
    /// The backbone `spec` describes, with the fingerprint of its weights.
    pub fn new(spec: &ModelSpec, fingerprint: &str) -> Self {
        let ModelSpec { depth, width, heads, patch: [ph, pw], image: [h, w], .. } = spec;
        let description =
            format!("ViT, {depth} blocks of width {width}, {heads} heads, patch {ph}×{pw}, {h}×{w} pixels");
        Backbone { fingerprint: fingerprint.to_owned(), description }
    }

    /// Description and the start of the fingerprint, safe to print.
    fn summary(&self) -> String {
        let start: String = self.fingerprint.chars().take(12).collect();
        format!("{} (fingerprint {}…)", self.description.escape_debug(), start.escape_debug())
    }
}

/// Tuned prompts and their head.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Prompt tokens `[S, p, d]`; no elements when only the head was fitted.
    pub prompts: Array3<f32>,
    /// Block ℓ ahead of which the first set enters.
    pub insert_at: usize,
    /// Whether set s replaces the prompts ahead of block ℓ + s; otherwise the one set stays.
    pub deep: bool,
    /// The head; `None` for the checkpoint's own.
    pub head: Option<Head>,
    /// What the head reads.
    pub pooling: Pooling,
    /// Class names by class id.
    pub classes: Vec<String>,
    /// Evaluation preprocessing the adapter was tuned for.
    pub preprocess: Preprocess,
    /// Gradient source it was tuned with.
    pub guess: GuessKind,
    /// Seed of the run.
    pub seed: u64,
    /// Optimizer steps behind these prompts.
    pub step: u64,
    /// The model it belongs to.
    pub backbone: Backbone,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    backbone: Backbone,
    insert_at: usize,
    deep: bool,
    head: HeadTag,
    pooling: Pooling,
    classes: Vec<String>,
    preprocess: Preprocess,
    guess: GuessKind,
    seed: u64,
    step: u64,
}

/// Which tensors hold a head.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HeadTag {
    Pretrained,
    Prototype,
    Linear,
}

impl HeadTag {
    pub(crate) fn of(head: Option<&Head>) -> Self {
        match head {
            None => HeadTag::Pretrained,
            Some(Head::Prototype { .. }) => HeadTag::Prototype,
            Some(Head::Linear { .. }) => HeadTag::Linear,
        }
    }
}

impl Adapter {
    /// Where its prompts enter.
    pub fn layout(&self) -> PromptLayout {
        match self.prompts.is_empty() {
            true => PromptLayout::NONE,
            false => PromptLayout { prompts: self.prompts.dim().1, deep: self.deep, insert_at: self.insert_at },
        }
    }

    /// The same head on the frozen model.
    pub fn without_prompts(&self) -> Adapter {
        let prompts = Array3::zeros((0, 0, self.prompts.dim().2));
        Adapter { prompts, deep: false, insert_at: 0, ..self.clone() }
    }

    /// Reads an adapter.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Adapter`] when it is not a sound adapter.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_bytes(path, &container::read(path, FORMAT.what)?)
    }

    /// Reads an adapter from the bytes of its file; `path` is for messages only.
    ///
    /// # Errors
    /// [`Error::Adapter`] when the bytes are not a sound adapter. No bytes make it panic.
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self> {
        let file = container::decode::<Document>(path, &FORMAT, bytes)?;
        let document = &file.content;
        let adapter = Adapter {
            prompts: file.required("prompts")?,
            insert_at: document.insert_at,
            deep: document.deep,
            head: read_head(&file, document.head, "head")?,
            pooling: document.pooling,
            classes: document.classes.clone(),
            preprocess: document.preprocess.clone(),
            guess: document.guess,
            seed: document.seed,
            step: document.step,
            backbone: document.backbone.clone(),
        };
        adapter.validate().map_err(|problem| Error::Adapter { path: path.to_owned(), problem })?;
        Ok(adapter)
    }

    /// Replaces `path` by this adapter, whole or not at all. Equal adapters give equal bytes.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written, [`Error::Adapter`] when the adapter is one [`open`](Self::open) would
    /// refuse (shapes that do not fit, NaN); nothing is written then.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = self.to_bytes(path)?;
        write_atomic(path, |writer| writer.write_all(&bytes))
    }

    /// The bytes of its file; `path` is for messages only.
    ///
    /// # Errors
    /// As [`save`](Self::save), but [`Error::Io`].
    pub fn to_bytes(&self, path: &Path) -> Result<Vec<u8>> {
        self.validate().map_err(|problem| Error::Adapter { path: path.to_owned(), problem })?;
        self.encode(path)
    }

    fn encode(&self, path: &Path) -> Result<Vec<u8>> {
        let document = Document {
            backbone: self.backbone.clone(),
            insert_at: self.insert_at,
            deep: self.deep,
            head: HeadTag::of(self.head.as_ref()),
            pooling: self.pooling,
            classes: self.classes.clone(),
            preprocess: self.preprocess.clone(),
            guess: self.guess,
            seed: self.seed,
            step: self.step,
        };
        let mut tensors = container::Tensors::default();
        tensors.push("prompts", &self.prompts);
        if let Some(head) = &self.head {
            push_head(&mut tensors, head, "head");
        }
        container::encode(path, &FORMAT, &document, &tensors)
    }

    /// Checks that this adapter, read from `path`, belongs to the model `spec` with `fingerprint`.
    ///
    /// # Errors
    /// [`Error::Adapter`] that names the backbone it was made for and the one at hand.
    pub fn check(&self, path: &Path, spec: &ModelSpec, fingerprint: &str) -> Result<()> {
        self.fits(spec, fingerprint).map_err(|problem| Error::Adapter { path: path.to_owned(), problem })
    }

    /// The part of [`check`](Self::check) that concerns the backbone's weights alone: enough to take over the head.
    ///
    /// # Errors
    /// [`Error::Adapter`] that names both backbones.
    pub fn check_backbone(&self, path: &Path, spec: &ModelSpec, fingerprint: &str) -> Result<()> {
        self.same_backbone(spec, fingerprint).map_err(|problem| Error::Adapter { path: path.to_owned(), problem })
    }

    fn same_backbone(&self, spec: &ModelSpec, fingerprint: &str) -> Result<(), String> {
        let here = Backbone::new(spec, fingerprint);
        if self.backbone.fingerprint == here.fingerprint {
            return Ok(());
        }
        Err(format!(
            "this adapter was made for another backbone: {}; the model given is {}. Give the model it was tuned on",
            self.backbone.summary(),
            here.summary()
        ))
    }

    fn fits(&self, spec: &ModelSpec, fingerprint: &str) -> Result<(), String> {
        self.same_backbone(spec, fingerprint)?;
        let fit = |what: &str, ours: String, models: String| match ours == models {
            true => Ok(()),
            false => Err(format!("{what} is {ours} in the adapter but {models} in the model; the adapter is damaged")),
        };
        let crop = self.preprocess.crop;
        if crop != spec.image {
            let ([h, w], [mh, mw]) = (crop, spec.image);
            return Err(format!("tuned at {h}×{w} pixels, but the model is set up for {mh}×{mw}; open it at {h}×{w}"));
        }
        fit("pooling", format!("{:?}", self.pooling), format!("{:?}", spec.pooling))?;
        if !self.prompts.is_empty() {
            fit("token width", self.prompts.dim().2.to_string(), spec.width.to_string())?;
            let [insert_at, depth] = [self.insert_at, spec.depth];
            let sets = self.prompts.dim().0;
            if insert_at >= depth || (self.deep && sets != depth - insert_at) {
                return Err(format!("{sets} prompt sets from block {insert_at} do not fit a model of {depth} blocks"));
            }
        }
        match &self.head {
            Some(head) => fit("head input width", head.width().to_string(), spec.head_width().to_string()),
            None => fit("number of classes", self.classes.len().to_string(), spec.classes.to_string()),
        }
    }

    /// What must hold whatever the model.
    fn validate(&self) -> Result<(), String> {
        if !self.prompts.iter().all(|v| v.is_finite()) {
            return Err("the prompts hold NaN or infinity".into());
        }
        let sets = self.prompts.dim().0;
        if !self.deep && sets > 1 {
            return Err(format!("{sets} prompt sets, but shallow prompts have one"));
        }
        if self.classes.is_empty() {
            return Err("no class names; an adapter needs at least one class".into());
        }
        if let Some(head) = &self.head {
            validate_head(head)?;
            if head.classes() != self.classes.len() {
                let (names, rows) = (self.classes.len(), head.classes());
                return Err(format!("{names} class names for a head of {rows} classes"));
            }
        }
        self.preprocess.check()
    }
}

/// Whether an adapter could be written to `out`: to be asked before the hours that it takes to make one.
///
/// # Errors
/// [`Error::Io`] when the file could not be written, [`Error::Adapter`] when it would take the place of something else: a slip of the
/// keyboard must not cost the weights.
pub fn check_writable(out: &Path) -> Result<()> {
    let probe = out.with_extension(format!("{}.probe", std::process::id()));
    let fail = |source| Error::io("write", out, source);
    OpenOptions::new().write(true).create_new(true).open(&probe).map_err(fail)?;
    fs::remove_file(&probe).map_err(fail)?;
    // An empty file is what mktemp makes.
    if out.metadata().is_ok_and(|found| found.len() > 0) && !is_adapter(out)? {
        let problem = "is there already and not an adapter; remove it or give another path".into();
        return Err(Error::Adapter { path: out.to_owned(), problem });
    }
    Ok(())
}

/// Whether `path` is an adapter, from its header alone.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read.
pub fn is_adapter(path: &Path) -> Result<bool> {
    Ok(container::format_of(path)?.as_deref() == Some(FORMAT.name))
}

/// Shapes of a head that belong together, and finite values.
pub(crate) fn validate_head(head: &Head) -> Result<(), String> {
    let (what, matrix, vector, expected) = match head {
        Head::Prototype { center, means, tau } => {
            if !tau.is_finite() {
                return Err(format!("the head's temperature is {tau}"));
            }
            ("center", means, center, means.ncols())
        }
        Head::Linear { weight, bias } => ("bias", weight, bias, weight.nrows()),
    };
    if vector.len() != expected {
        return Err(format!("the head's {what} has {} elements, its matrix {:?}", vector.len(), matrix.dim()));
    }
    if matrix.is_empty() {
        return Err(format!("the head's matrix is empty: {:?}", matrix.dim()));
    }
    match matrix.iter().chain(vector).all(|v| v.is_finite()) {
        true => Ok(()),
        false => Err("the head holds NaN or infinity".into()),
    }
}

/// Adds a head's tensors as `{prefix}.center`, `.means` and `.tau`, or `.weight` and `.bias`.
pub(crate) fn push_head(tensors: &mut container::Tensors, head: &Head, prefix: &str) {
    match head {
        Head::Prototype { center, means, tau } => {
            tensors.push(&format!("{prefix}.center"), center);
            tensors.push(&format!("{prefix}.means"), means);
            tensors.push(&format!("{prefix}.tau"), &Array1::from_elem(1, *tau));
        }
        Head::Linear { weight, bias } => {
            tensors.push(&format!("{prefix}.weight"), weight);
            tensors.push(&format!("{prefix}.bias"), bias);
        }
    }
}

/// Reads what [`push_head`] added.
pub(crate) fn read_head<T>(file: &container::Decoded<T>, tag: HeadTag, prefix: &str) -> Result<Option<Head>> {
    let head = match tag {
        HeadTag::Pretrained => return Ok(None),
        HeadTag::Prototype => Head::Prototype {
            center: file.required(&format!("{prefix}.center"))?,
            means: file.required(&format!("{prefix}.means"))?,
            tau: file.scalar(&format!("{prefix}.tau"))?,
        },
        HeadTag::Linear => Head::Linear {
            weight: file.required(&format!("{prefix}.weight"))?,
            bias: file.required(&format!("{prefix}.bias"))?,
        },
    };
    validate_head(&head).map_err(|problem| file.error(problem))?;
    Ok(Some(head))
}

#[cfg(test)]
mod tests;
