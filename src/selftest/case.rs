//! A golden case: a checkpoint and `case.safetensors` with inputs and expected outputs (see the README for its tensors).

use super::probe::{Inputs, Probe};
use super::{Arithmetic, Check, peer};
use crate::backend::Backend;
use crate::cpu::CpuBackend;
#[cfg(feature = "cuda")]
use crate::cuda::{CudaBackend, CudaOptions};
use crate::encoder::{Encoder, Pass, TangentSource};
use crate::engine::Native;
use crate::files::write_atomic;
use crate::model::{Head, LoadOptions, Model, PromptLayout};
use crate::ops::Reference;
use crate::{Error, Result};
#[cfg(feature = "ort")]
use crate::{
    engine::{
        Engine,
        ort::{OrtModel, OrtOptions},
    },
    guess::GuessKind,
};
use ndarray::{Array1, Array2};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A tensor of a case.
#[derive(Clone, Debug)]
struct Tensor {
    shape: Vec<usize>,
    values: Vec<f64>,
}

#[derive(Deserialize)]
struct Meta {
    deep: bool,
    #[serde(default)]
    insert_at: usize,
}

/// A golden case, read and checked for consistency.
pub struct Case {
    path: PathBuf,
    meta: Meta,
    tensors: BTreeMap<String, Tensor>,
}

impl Case {
    /// Reads `folder/case.safetensors`. Errors: [`Error::Io`], or [`Error::Checkpoint`] when it is not a golden case.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("case.safetensors");
        let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let bad = |problem: String| Error::Checkpoint { path: path.clone(), problem };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(format!("not safetensors: {e}")))?;
        let meta = header.metadata().as_ref().and_then(|m| m.get("meta"));
        let meta = meta.ok_or_else(|| bad("no `meta` in the file's metadata; this is not a golden case".into()))?;
        let meta: Meta = serde_json::from_str(meta).map_err(|e| bad(format!("metadata `meta`: {e}")))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(format!("not safetensors: {e}")))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let values = values(&view).ok_or_else(|| bad(format!("tensor `{name}` is {:?}", view.dtype())))?;
            tensors.insert(name.to_owned(), Tensor { shape: view.shape().to_vec(), values });
        }
        Ok(Case { path, meta, tensors })
    }

    fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| self.bad(name, "is missing from this case".into()))
    }

    fn bad(&self, name: &str, problem: String) -> Error {
        Error::Tensor { path: self.path.clone(), name: name.to_owned(), problem }
    }

    fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let shape = &self.get(name)?.shape;
        shape.as_slice().try_into().map_err(|_| self.bad(name, format!("expected {N} axes, found shape {shape:?}")))
    }

    fn expect(&self, name: &str, shape: &[usize]) -> Result<&Tensor> {
        let tensor = self.get(name)?;
        if tensor.shape == shape {
            return Ok(tensor);
        }
        Err(self.bad(name, format!("expected shape {shape:?}, found {:?}", tensor.shape)))
    }

    /// Height and width of the images.
    fn image(&self) -> Result<[usize; 2]> {
        let [_, _, h, w] = self.shape("images")?;
        Ok([h, w])
    }

    fn inputs(&self, model: &Model) -> Result<(PromptLayout, Inputs)> {
        let spec = &model.spec;
        let [b, _, _, _] = self.shape("images")?;
        self.expect("images", &[b, spec.channels, spec.image[0], spec.image[1]])?;
        let [_, p, _] = self.shape("prompts")?;
        let layout = PromptLayout { prompts: p, deep: self.meta.deep, insert_at: self.meta.insert_at };
        layout.check(spec)?;
        let sets = layout.sets(spec.depth);
        let prompts = self.expect("prompts", &[sets, p, spec.width])?;
        let [_, k, ..] = self.shape::<5>("tangents")?;
        let tangents = self.expect("tangents", &[b, k, sets, p, spec.width])?;
        let labels = &self.expect("labels", &[b])?.values;
        if let Some(label) = labels.iter().find(|&&label| label < 0.0) {
            return Err(self.bad("labels", format!("label {label} is negative")));
        }
        let labels = labels.iter().map(|&label| label as usize).collect();
        let f32s = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
        let inputs = Inputs {
            images: f32s(&self.get("images")?.values),
            prompts: prompts.values.clone(),
            tangents: f32s(&tangents.values),
            labels,
            count: k,
        };
        Ok((layout, inputs))
    }

    /// The prototype head some cases carry.
    fn prototype(&self, width: usize) -> Result<Option<Head>> {
        if !self.tensors.contains_key("proto_means") {
            return Ok(None);
        }
        let [classes, _] = self.shape("proto_means")?;
        let means = self.expect("proto_means", &[classes, width])?;
        let f32s = |t: &Tensor| t.values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
        Ok(Some(Head::Prototype {
            center: Array1::from(f32s(self.expect("proto_center", &[width])?)),
            means: Array2::from_shape_vec((classes, width), f32s(means)).expect("the shape was checked"),
            tau: self.get("proto_tau")?.values.first().copied().unwrap_or(1.0) as f32,
        }))
    }

    fn check_labels(&self, classes: usize, labels: &[usize]) -> Result<()> {
        match labels.iter().find(|&&label| label >= classes) {
            None => Ok(()),
            Some(label) => Err(self.bad("labels", format!("label {label}, but the head has {classes} classes"))),
        }
    }
}

/// Runs the case in `folder` with its own checkpoint, or that of `model`. Compares every output the case records, and
/// writes what was computed to `dump` if given. Errors: a file is malformed or does not fit the model.
pub fn run_case(
    folder: &Path,
    model: Option<&Path>,
    arithmetic: Arithmetic,
    dump: Option<&Path>,
) -> Result<Vec<Check>> {
    let case = Case::open(folder)?;
    let options = LoadOptions { image: Some(case.image()?), ..LoadOptions::default() };
    let model = Model::open(model.unwrap_or(folder), &options)?;
    let computed = match arithmetic {
        Arithmetic::F64 => compute(&case, &model, Reference::<f64>::new(), Encoder::dual)?,
        #[cfg(feature = "ort")]
        Arithmetic::OnnxRuntime(provider) => {
            let (layout, Inputs { labels, count, .. }) = case.inputs(&model)?;
            let runtime = OrtModel::new(&model, OrtOptions { provider, ..OrtOptions::default() })?;
            let mut engine = runtime.engine(layout, labels.len(), count, GuessKind::None)?;
            let backend = CpuBackend::new(arithmetic.cpu_options())?;
            compute(&case, &model, backend, |_, pass, source, out| engine.dual(pass, source, out))?
        }
        #[cfg(feature = "cuda")]
        Arithmetic::Cuda(device, precision) => {
            let backend = CudaBackend::new(CudaOptions { device, precision, ..CudaOptions::default() })?;
            compute(&case, &model, backend, Encoder::dual)?
        }
        _ => compute(&case, &model, CpuBackend::new(arithmetic.cpu_options())?, Encoder::dual)?,
    };
    if let Some(dump) = dump {
        write_dump(dump, &case, &computed, arithmetic)?;
    }
    let [values, derivatives] = arithmetic.tolerances();
    let mut checks = Vec::new();
    for (name, found) in &computed {
        let tolerance = match *name {
            "features" | "logits" | "losses" | "proto_logits" | "proto_losses" => values,
            _ => derivatives,
        };
        let pytorch = arithmetic.measured().and_then(|precision| peer::torch(precision, folder, name));
        let check = Check::new(*name, found, &case.get(name)?.values, tolerance);
        checks.push(if arithmetic == Arithmetic::Bf16 {
            check.bounded_by(pytorch)
        } else {
            Check { pytorch, ..check }
        });
    }
    if checks.is_empty() {
        return Err(case.bad("features", "the case records nothing to compare".into()));
    }
    Ok(checks)
}

/// Every output the case records, in a fixed order; `dual` computes the head inputs.
fn compute<B: Backend>(
    case: &Case,
    model: &Model,
    backend: B,
    dual: impl FnOnce(&mut Encoder<B>, Pass<B::Elem>, &mut TangentSource<B::Elem>, &mut [B::Elem]) -> Result<()>,
) -> Result<Vec<(&'static str, Vec<f64>)>> {
    let (layout, inputs) = case.inputs(model)?;
    let labels = inputs.labels.clone();
    let native = Native::load(backend, model)?;
    let mut probe = Probe::new(&native, layout, inputs)?;
    let head_inputs = probe.head_inputs(dual)?;
    let mut all = vec![("features", probe.features(&head_inputs))];
    let head = model.head()?;
    if let Some(head) = &head {
        case.check_labels(head.classes(), &labels)?;
        // Half the sum of a distilled pair's biases is no f32.
        let exact = model.classifier::<f64>()?.map_or(Vec::new(), |(_, bias)| bias);
        let rounded = model.classifier::<f32>()?.map_or(Vec::new(), |(_, bias)| bias);
        let bias: Vec<f64> = exact.iter().zip(&rounded).map(|(x, &r)| x - f64::from(r)).collect();
        let results = probe.judge(head, &bias, &head_inputs);
        all.extend([("logits", results.logits), ("losses", results.losses), ("jvps", results.jvps)]);
        if case.tensors.contains_key("grads") {
            all.push(("grads", probe.gradients(head, &bias)?));
        }
    }
    if case.tensors.contains_key("block0_vjp") {
        let tokens = native.spec().tokens(layout.prompts);
        let cotangent = case.expect("block0_cot", &[labels.len(), tokens, native.spec().width])?;
        all.push(("block0_vjp", probe.block0_vjp(&cotangent.values)?));
    }
    if let Some(head) = case.prototype(native.spec().head_width())? {
        case.check_labels(head.classes(), &labels)?;
        let results = probe.judge(&head, &[], &head_inputs);
        all.extend([("proto_logits", results.logits), ("proto_losses", results.losses), ("proto_jvps", results.jvps)]);
    }
    all.retain(|(name, _)| case.tensors.contains_key(*name));
    Ok(all)
}

/// Exact f64 values of a tensor; `None` for a dtype golden cases do not use.
fn values(view: &TensorView) -> Option<Vec<f64>> {
    let data = view.data();
    Some(match view.dtype() {
        Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        Dtype::F32 => data.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        Dtype::I64 => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
        _ => return None,
    })
}

fn write_dump(path: &Path, case: &Case, computed: &[(&str, Vec<f64>)], arithmetic: Arithmetic) -> Result<()> {
    let mut tensors = Vec::new();
    for (name, values) in computed {
        let (dtype, bytes): (_, Vec<u8>) = match arithmetic {
            Arithmetic::F64 => (Dtype::F64, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            _ => (Dtype::F32, values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect()),
        };
        tensors.push((*name, dtype, case.get(name)?.shape.clone(), bytes));
    }
    let shape_error = |e: safetensors::SafeTensorError| Error::Checkpoint {
        path: path.to_owned(),
        problem: format!("the computed tensors do not have the case's shapes: {e}"),
    };
    let views: Vec<(&str, TensorView)> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| Ok((*name, TensorView::new(*dtype, shape.clone(), bytes)?)))
        .collect::<Result<_, _>>()
        .map_err(shape_error)?;
    let bytes = safetensors::serialize(views, None).map_err(shape_error)?;
    write_atomic(path, |writer| writer.write_all(&bytes))
}
