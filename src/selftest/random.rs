//! Random models, so that any user's machine can check itself without files: the CPU backend against the reference, JVPs
//! against central differences in f64, and ⟨gradient, v⟩ against JVPs.

use super::probe::{Inputs, Probe};
use super::{Arithmetic, Check, relative_error};
use crate::backend::Backend;
use crate::cpu::CpuBackend;
#[cfg(feature = "cuda")]
use crate::cuda::{CudaBackend, CudaOptions};
use crate::encoder::{Encoder, Pass, TangentSource};
use crate::engine::Native;
use crate::model::{Head, LoadOptions, Model, PromptLayout};
use crate::ops::Reference;
use crate::rng::{Purpose, Stream};
use crate::weights::Checkpoint;
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
use safetensors::{Dtype, tensor::TensorView};
use std::path::Path;

const WIDTH: usize = 64;
const DEPTH: usize = 3;
const HEADS: usize = 4;
const HIDDEN: usize = 160;
const PATCH: usize = 8;
const GRID: usize = 4;
const CLASSES: usize = 7;
const EXAMPLES: usize = 3;
const TANGENTS: usize = 2;
const PROMPTS: usize = 3;
/// Step of the central differences: its truncation and rounding errors balance near ε^⅓.
const STEP: f64 = 1e-5;

/// Checks a random timm-style ViT made from `seed` under shallow and deep prompts at blocks 0 and 1. Errors: the
/// instruction set or precision asked for is not there.
pub fn run_random(seed: u64, arithmetic: Arithmetic) -> Result<Vec<Check>> {
    let model = random_model(seed)?;
    let reference = Native::load(Reference::<f64>::new(), &model)?;
    match arithmetic {
        #[cfg(feature = "cuda")]
        Arithmetic::Cuda(device, precision) => {
            let options = CudaOptions { device, precision, ..CudaOptions::default() };
            check(seed, &model, &reference, "GPU", CudaBackend::new(options)?, arithmetic, own)
        }
        #[cfg(feature = "ort")]
        Arithmetic::OnnxRuntime(provider) => {
            let runtime = OrtModel::new(&model, OrtOptions { provider, ..OrtOptions::default() })?;
            let dual = |layout,
                        _: &mut Encoder<CpuBackend>,
                        pass: Pass<f32>,
                        source: &mut TangentSource<f32>,
                        out: &mut [f32]| {
                runtime.engine(layout, EXAMPLES, TANGENTS, GuessKind::None)?.dual(pass, source, out)
            };
            let backend = CpuBackend::new(arithmetic.cpu_options())?;
            check(seed, &model, &reference, "ONNX Runtime", backend, arithmetic, dual)
        }
        // The reference is always there; what it is compared with is f32, if not bf16.
        Arithmetic::F64 => run_random(seed, Arithmetic::F32),
        _ => check(seed, &model, &reference, "CPU", CpuBackend::new(arithmetic.cpu_options())?, arithmetic, own),
    }
}

/// The encoder's own dual pass.
fn own<B: Backend>(
    _: PromptLayout,
    encoder: &mut Encoder<B>,
    pass: Pass<B::Elem>,
    source: &mut TangentSource<B::Elem>,
    out: &mut [B::Elem],
) -> Result<()> {
    encoder.dual(pass, source, out)
}

/// `dual` is what is checked against the reference.
fn check<B: Backend>(
    seed: u64,
    model: &Model,
    reference: &Native<Reference<f64>>,
    whose: &str,
    backend: B,
    arithmetic: Arithmetic,
    dual: impl Fn(PromptLayout, &mut Encoder<B>, Pass<B::Elem>, &mut TangentSource<B::Elem>, &mut [B::Elem]) -> Result<()>,
) -> Result<Vec<Check>> {
    let [values, derivatives] = arithmetic.tolerances();
    let native = Native::load(backend, model)?;
    let head = model.head()?.ok_or_else(|| Error::Options("the random model lost its head".into()))?;
    let prototype = Head::Prototype {
        center: Array1::from(normals(seed, 900, WIDTH, 0.3)),
        means: Array2::from_shape_vec((CLASSES, WIDTH), normals(seed, 901, CLASSES * WIDTH, 0.125))
            .expect("the length is the product"),
        tau: 8.0,
    };
    let mut checks = Vec::new();
    for (deep, insert_at) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        let layout = PromptLayout { prompts: PROMPTS, deep, insert_at };
        let inputs = random_inputs(seed, layout);
        let name = |what: &str| format!("{} ℓ={insert_at}: {what}", if deep { "deep" } else { "shallow" });
        let mut exact = Probe::new(reference, layout, inputs.clone())?;
        let mut fast = Probe::new(&native, layout, inputs.clone())?;
        let exact_inputs = exact.head_inputs(Encoder::dual)?;
        let fast_inputs = fast.head_inputs(|encoder, pass, source, out| dual(layout, encoder, pass, source, out))?;
        for (kind, head) in [("linear", &head), ("prototype", &prototype)] {
            let expected = exact.judge(head, &[], &exact_inputs);
            let found = fast.judge(head, &[], &fast_inputs);
            checks.push(Check::new(
                name(&format!("{kind} logits, {whose} against reference")),
                &found.logits,
                &expected.logits,
                values,
            ));
            checks.push(Check::new(
                name(&format!("{kind} JVPs, {whose} against reference")),
                &found.jvps,
                &expected.jvps,
                derivatives,
            ));
            let gradients = exact.gradients(head, &[])?;
            let along = along(&gradients, &inputs);
            checks.push(Check::new(
                name(&format!("{kind} ⟨gradient, v⟩ against JVPs, f64")),
                &along,
                &expected.jvps,
                1e-9,
            ));
            checks.push(Check::new(
                name(&format!("{kind} gradients, {whose} against reference")),
                &fast.gradients(head, &[])?,
                &gradients,
                derivatives,
            ));
            let differences = central_differences(reference, layout, &inputs, head)?;
            checks.push(Check {
                name: name(&format!("{kind} JVPs against central differences, f64")),
                error: relative_error(&expected.jvps, &differences),
                tolerance: 1e-6,
                pytorch: None,
            });
        }
    }
    Ok(checks)
}

/// ⟨∇L_b, v_bk⟩ `[B, K]`.
fn along(gradients: &[f64], inputs: &Inputs) -> Vec<f64> {
    let n = inputs.prompts.len();
    inputs
        .tangents
        .chunks_exact(n)
        .enumerate()
        .map(|(row, v)| {
            let gradient = &gradients[row / inputs.count * n..][..n];
            gradient.iter().zip(v).map(|(g, &v)| g * f64::from(v)).sum()
        })
        .collect()
}

/// (L_b(prompts + hv_bk) − L_b(prompts − hv_bk))/2h, `[B, K]`.
fn central_differences(
    native: &Native<Reference<f64>>,
    layout: PromptLayout,
    inputs: &Inputs,
    head: &Head,
) -> Result<Vec<f64>> {
    let n = inputs.prompts.len();
    let mut out = Vec::new();
    for (row, v) in inputs.tangents.chunks_exact(n).enumerate() {
        let loss_at = |h: f64| -> Result<f64> {
            let prompts = inputs.prompts.iter().zip(v).map(|(p, &v)| p + h * f64::from(v)).collect();
            let moved = Inputs { prompts, tangents: Vec::new(), count: 0, ..inputs.clone() };
            let mut probe = Probe::new(native, layout, moved)?;
            let f = probe.head_inputs(Encoder::dual)?;
            Ok(probe.judge(head, &[], &f).losses[row / inputs.count])
        };
        out.push((loss_at(STEP)? - loss_at(-STEP)?) / (2.0 * STEP));
    }
    Ok(out)
}

fn random_inputs(seed: u64, layout: PromptLayout) -> Inputs {
    let n = layout.sets(DEPTH) * PROMPTS * WIDTH;
    let side = GRID * PATCH;
    Inputs {
        images: normals(seed, 910, EXAMPLES * 3 * side * side, 1.0),
        prompts: normals(seed, 911, n, 0.5).into_iter().map(f64::from).collect(),
        tangents: normals(seed, 912, EXAMPLES * TANGENTS * n, 1.0),
        labels: (0..EXAMPLES).map(|b| (2 * b + 1) % CLASSES).collect(),
        count: TANGENTS,
    }
}

/// A timm-style ViT with layer scale, written as a safetensors file and read through the ordinary loader.
fn random_model(seed: u64) -> Result<Model> {
    let side = GRID * PATCH;
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("cls_token".into(), vec![1, 1, WIDTH]),
        ("pos_embed".into(), vec![1, 1 + GRID * GRID, WIDTH]),
        ("patch_embed.proj.weight".into(), vec![WIDTH, 3, PATCH, PATCH]),
        ("patch_embed.proj.bias".into(), vec![WIDTH]),
    ];
    for block in 0..DEPTH {
        let mut add = |name: &str, shape: &[usize]| shapes.push((format!("blocks.{block}.{name}"), shape.to_vec()));
        for norm in ["norm1", "norm2"] {
            add(&format!("{norm}.weight"), &[WIDTH]);
            add(&format!("{norm}.bias"), &[WIDTH]);
        }
        for (linear, n, k) in [
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", HIDDEN, WIDTH),
            ("mlp.fc2", WIDTH, HIDDEN),
        ] {
            add(&format!("{linear}.weight"), &[n, k]);
            add(&format!("{linear}.bias"), &[n]);
        }
        add("ls1.gamma", &[WIDTH]);
        add("ls2.gamma", &[WIDTH]);
    }
    for (name, shape) in [
        ("norm.weight", vec![WIDTH]),
        ("norm.bias", vec![WIDTH]),
        ("head.weight", vec![CLASSES, WIDTH]),
        ("head.bias", vec![CLASSES]),
    ] {
        shapes.push((name.into(), shape));
    }
    let data: Vec<Vec<u8>> = shapes
        .iter()
        .enumerate()
        .map(|(i, (name, shape))| {
            let len: usize = shape.iter().product();
            // Gains around one, matrices at 1/√fan-in, the rest small.
            let gain = name.contains("norm") && name.ends_with("weight") || name.contains("gamma");
            let fan_in: usize = shape.iter().skip(1).product();
            let scale = if gain || shape.len() < 2 { 0.2 } else { (fan_in as f32).sqrt().recip() };
            let offset = if gain { 1.0 } else { 0.0 };
            normals(seed, i as u32, len, scale).into_iter().flat_map(|v| (v + offset).to_le_bytes()).collect()
        })
        .collect();
    let path = Path::new("(random model)");
    let broken = |e: safetensors::SafeTensorError| Error::Checkpoint { path: path.to_owned(), problem: e.to_string() };
    let views: Vec<(&str, TensorView)> = shapes
        .iter()
        .zip(&data)
        .map(|((name, shape), bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<_, _>>()
        .map_err(broken)?;
    let bytes = safetensors::serialize(views, None).map_err(broken)?;
    let options = LoadOptions { image: Some([side, side]), heads: Some(HEADS) };
    Model::from_checkpoint(&Checkpoint::from_bytes(path, bytes)?, &options)
}

fn normals(seed: u64, set: u32, len: usize, scale: f32) -> Vec<f32> {
    let stream = Stream { seed: Purpose::Synthetic.seed(seed), step: 0, example: 0, tangent: 0, set };
    let mut values = vec![0.0; len];
    stream.normals(&mut values);
    values.iter_mut().for_each(|v| *v *= scale);
    values
}
