//! ONNX files: the graph describes the model; what lies beside it says how images are prepared and what classes are called.

use super::companions::Companions;
use super::describe::{self, Described};
use super::fields::{self, Fields};
use super::own::{self, Own};
use super::{Family, LoadOptions, Model, labels, preprocessing, timm};
use crate::data::Preprocess;
use crate::files::{write_atomic, write_safetensors};
use crate::onnx::{Imported, read};
use crate::weights::{DType, Facts, Parts, TensorRef};
use crate::{Error, Result};
use safetensors::tensor::{Dtype, View};
use serde_json::Map;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The ONNX file that `path` stands for: itself, or the only one in a folder without safetensors.
pub(super) fn locate(path: &Path) -> Option<PathBuf> {
    let has = |path: &Path, extension: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
    if !path.is_dir() {
        return has(path, "onnx").then(|| path.to_owned());
    }
    let files: Vec<PathBuf> = path.read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let safetensors = files
        .iter()
        .any(|file| has(file, "safetensors") || file.to_string_lossy().ends_with(".safetensors.index.json"));
    let mut graphs = files.into_iter().filter(|file| has(file, "onnx"));
    match (graphs.next(), graphs.next()) {
        (Some(only), None) if !safetensors => Some(only),
        _ => None,
    }
}

/// Opens the ONNX file at `path`. Errors: those of [`Model::open`].
pub(super) fn open(path: &Path, options: &LoadOptions) -> Result<Model> {
    assemble(path, read(path, options.image)?, options)
}

/// Writes the model of the ONNX file (or the folder with one) at `path` to `folder`, which is made if need be, as `model.safetensors`
/// and `config.json`: the same model in mapped memory, which timm loads too where it has such an architecture. `image` is the size of
/// its images, for graphs that leave it open. Returns what was written, opened.
///
/// # Errors
/// Those of [`Model::open`]; [`Error::Options`] when there is no ONNX file at `path`, or `folder` is where it lies; [`Error::Io`] when `folder` cannot be written.
pub fn import_onnx(path: &Path, folder: &Path, image: Option<[usize; 2]>) -> Result<Model> {
    let path = locate(path).ok_or_else(|| {
        Error::Options(format!("{}: there is no ONNX file to import; give a file that ends in .onnx", path.display()))
    })?;
    let imported = read(&path, image)?;
    let (checkpoint, arrangement) = (imported.checkpoint.clone(), imported.arrangement);
    // At its own size: `image` fills in what the graph leaves open, and is not a size to run at.
    let model = assemble(&path, imported, &LoadOptions::default())?;
    fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, error))?;
    let here = path.parent().filter(|here| !here.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let (Ok(here), Ok(there)) = (here.canonicalize(), folder.canonicalize())
        && here == there
    {
        // The `config.json` there may say how images are prepared.
        let problem = format!(
            "{}: the ONNX file is in this folder, whose config.json would be replaced; give another",
            folder.display()
        );
        return Err(Error::Options(problem));
    }
    let own = Own::of(&model.spec, &arrangement, model.preprocess.clone(), model.class_names.clone());
    let config = own::config(&own, &Parts::new(&checkpoint)?, &model.spec, &arrangement);
    let tensors = checkpoint.tensors().map(|tensor| (tensor.name().to_owned(), Stored(tensor)));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let weights = folder.join("model.safetensors");
    write_safetensors(&weights, tensors, Some(metadata))?;
    let config = serde_json::to_vec_pretty(&config).unwrap_or_default();
    write_atomic(&folder.join("config.json"), |writer| writer.write_all(&config))?;
    Model::open(&weights, &LoadOptions::default())
}

/// A tensor on its way into a safetensors file.
struct Stored<'t>(&'t TensorRef);

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        match self.0.dtype() {
            DType::F16 => Dtype::F16,
            DType::Bf16 => Dtype::BF16,
            DType::F32 => Dtype::F32,
            DType::F64 => Dtype::F64,
            DType::Other(other) => other,
        }
    }

    fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.0.bytes().into()
    }

    fn data_len(&self) -> usize {
        self.0.bytes().len()
    }
}

fn assemble(path: &Path, imported: Imported, options: &LoadOptions) -> Result<Model> {
    let Imported { checkpoint, mut spec, arrangement, preprocess, class_names } = imported;
    let beside = Companions::read(checkpoint.folder())?;
    describe::check_heads(spec.heads, spec.width, options)
        .map_err(|problem| Error::Options(format!("{}: {problem}", path.display())))?;
    spec.image = describe::choose_image(spec.image, spec.patch, options)?;
    let parts = Parts::new(&checkpoint)?;
    let facts = Facts::new(&parts)?;
    let map = beside.config.as_ref().map(|config| fields::parse(&config.path, &config.bytes)).transpose()?;
    let config = beside.config.as_ref().zip(map.as_ref()).map(|(config, map)| Fields::new(&config.path, map));
    let preprocess = match preprocess {
        Some(own) => preprocessing::scale_to(own, spec.image),
        None => preparation(&beside, config.as_ref(), spec.image)?,
    };
    let names = match (class_names, config) {
        (Some(names), _) => Some(checked(path, names, spec.classes)?),
        (None, None) => None,
        (None, Some(config)) if config.get("architecture").is_some() => {
            let empty = Map::new();
            let cfg = config.object("pretrained_cfg", "pretrained_cfg.", &empty)?;
            labels::timm(&config, &cfg, facts.head.as_ref())?
        }
        (None, Some(config)) => labels::transformers(&config, facts.head.as_ref())?,
    };
    let described = Described { family: Family::Onnx, spec, arrangement };
    Model::finish(&parts, described, path, preprocess, names, &beside)
}

fn checked(path: &Path, names: Vec<String>, classes: usize) -> Result<Vec<String>> {
    if names.len() == classes {
        return Ok(names);
    }
    let problem =
        format!("names {} classes in its metadata, but its classifier has {classes}; export it again", names.len());
    Err(Error::Checkpoint { path: path.to_owned(), problem })
}

/// Preprocessing by the files beside the graph, or what most Vision Transformers take.
fn preparation(beside: &Companions, config: Option<&Fields>, image: [usize; 2]) -> Result<Preprocess> {
    let kind = config.map(|config| config.string("model_type")).transpose()?.flatten();
    let family = match kind {
        Some("vit") => Family::Vit,
        Some("deit") => Family::Deit,
        Some("dinov2") => Family::Dinov2,
        Some("dinov2_with_registers") => Family::Dinov2Registers,
        _ => Family::Onnx,
    };
    if let Some(file) = &beside.processor {
        return Ok(preprocessing::scale_to(preprocessing::transformers(file, family)?, image));
    }
    if let Some(config) = config.filter(|config| config.get("architecture").is_some()) {
        let empty = Map::new();
        let cfg = config.object("pretrained_cfg", "pretrained_cfg.", &empty)?;
        let defaults = timm::configured(config)?.default_cfg;
        return preprocessing::timm(&cfg, &Fields::new(config.path(), &defaults), image);
    }
    Ok(preprocessing::family_default(family, image))
}
