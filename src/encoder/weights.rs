//! A model's tensors on a device.

use crate::backend::{Backend, Linear, Norm};
use crate::model::{Model, ModelSpec};
use crate::ops::Real;
use crate::weights::{BlockRef, DType, LinearRef, NormRef, TensorRef};
use crate::{Error, Result};
use std::ops::Range;

/// One transformer block on the device.
pub struct Block<B: Backend> {
    pub(crate) norm1: Norm<B::Vector>,
    pub(crate) qkv: Linear<B::Matrix, B::Vector>,
    pub(crate) proj: Linear<B::Matrix, B::Vector>,
    pub(crate) scale1: Option<B::Vector>,
    pub(crate) norm2: Norm<B::Vector>,
    pub(crate) fc1: Linear<B::Matrix, B::Vector>,
    pub(crate) fc2: Linear<B::Matrix, B::Vector>,
    pub(crate) scale2: Option<B::Vector>,
}

/// The frozen encoder on the device.
pub struct Weights<B: Backend> {
    pub(crate) spec: ModelSpec,
    pub(crate) patch: Linear<B::Matrix, B::Vector>,
    /// Class and extra tokens with their position embedding, then the patches' position embedding: `[T − p, d]`.
    pub(crate) constant: B::Vector,
    pub(crate) pre_norm: Option<Norm<B::Vector>>,
    pub(crate) blocks: Vec<Block<B>>,
    pub(crate) norm: Option<Norm<B::Vector>>,
    pub(crate) fc_norm: Option<Norm<B::Vector>>,
}

impl<B: Backend> Weights<B> {
    /// Uploads `model`. Errors: a tensor cannot be read, or memory is short.
    pub fn load(backend: &B, model: &Model) -> Result<Self> {
        let spec = model.spec.clone();
        let vit = &model.vit;
        let eps = spec.norm_eps;
        let norm = |norm: &NormRef| load_norm(backend, norm, eps);
        backend.begin_weights(model)?;
        let blocks = vit.blocks.iter().enumerate();
        let weights = Weights {
            patch: load_linear(backend, &vit.patch, &whole(&vit.patch), None)?,
            constant: backend.vector(constant_tokens(model)?)?,
            pre_norm: vit.pre_norm.as_ref().map(norm).transpose()?,
            blocks: blocks.map(|(i, block)| load_block(backend, block, eps, i)).collect::<Result<_>>()?,
            norm: vit.norm.as_ref().map(norm).transpose()?,
            fc_norm: vit.fc_norm.as_ref().map(norm).transpose()?,
            spec,
        };
        backend.end_weights()?;
        Ok(weights)
    }

    /// What the encoder looks like.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }
}

fn load_block<B: Backend>(backend: &B, block: &BlockRef, eps: f64, index: usize) -> Result<Block<B>> {
    let of = Some(index);
    let scale = |t: &Option<TensorRef>| -> Result<Option<B::Vector>> {
        t.as_ref().map(|t| backend.stored_vector(&t.into())).transpose()
    };
    Ok(Block {
        norm1: load_norm(backend, &block.norm1, eps)?,
        qkv: load_linear(backend, &block.qkv, &query_and_rest(&block.qkv), of)?,
        proj: load_linear(backend, &block.proj, &whole(&block.proj), of)?,
        scale1: scale(&block.scale1)?,
        norm2: load_norm(backend, &block.norm2, eps)?,
        fc1: load_linear(backend, &block.fc1, &whole(&block.fc1), of)?,
        fc2: load_linear(backend, &block.fc2, &whole(&block.fc2), of)?,
        scale2: scale(&block.scale2)?,
    })
}

/// `outputs`: the ranges of them that the encoder computes at a time.
fn load_linear<B: Backend>(
    backend: &B,
    linear: &LinearRef,
    outputs: &[Range<usize>],
    block: Option<usize>,
) -> Result<Linear<B::Matrix, B::Vector>> {
    let bias = linear.bias().map(|bias| backend.stored_vector(&bias)).transpose()?;
    Ok(Linear { weight: backend.weights(linear, outputs, block)?, bias })
}

#[expect(clippy::single_range_in_vec_init, reason = "one range of outputs is meant")]
fn whole(linear: &LinearRef) -> [Range<usize>; 1] {
    [0..linear.rows()]
}

fn query_and_rest(qkv: &LinearRef) -> [Range<usize>; 2] {
    let width = qkv.rows() / 3;
    [0..width, width..qkv.rows()]
}

/// Outputs n and depth k of the products that a pass consists of.
pub fn products(model: &Model) -> impl Iterator<Item = [usize; 2]> {
    let of = |linear: &LinearRef, outputs: &[Range<usize>]| -> Vec<[usize; 2]> {
        outputs.iter().map(|outputs| [outputs.len(), linear.cols()]).collect()
    };
    let blocks = model.vit.blocks.iter().flat_map(move |block| {
        let whole =
            [&block.proj, &block.fc1, &block.fc2].into_iter().flat_map(move |linear| of(linear, &whole(linear)));
        of(&block.qkv, &query_and_rest(&block.qkv)).into_iter().chain(whole)
    });
    of(&model.vit.patch, &whole(&model.vit.patch)).into_iter().chain(blocks)
}

fn load_norm<B: Backend>(backend: &B, norm: &NormRef, eps: f64) -> Result<Norm<B::Vector>> {
    let [gamma, beta] = [&norm.weight, &norm.bias].map(|tensor| backend.stored_vector(&tensor.into()));
    Ok(Norm { gamma: gamma?, beta: beta?, eps })
}

/// Class and extra tokens (zero rows stand for the patches) plus the position table, summed in f64.
pub(crate) fn constant_tokens<T: Real>(model: &Model) -> Result<Vec<T>> {
    let (spec, vit) = (&model.spec, &model.vit);
    let mut table: Vec<f64> = Vec::new();
    for token in vit.class_token.iter().chain(&vit.extra_tokens) {
        table.extend(token.read::<f64>()?);
    }
    table.resize(spec.tokens(0) * spec.width, 0.0);
    if let Some(position) = model.position_table()? {
        if position.len() != table.len() {
            return Err(Error::Shape {
                what: "position table",
                expected: format!("{} values", table.len()),
                found: format!("{} values", position.len()),
            });
        }
        table.iter_mut().zip(position).for_each(|(t, p)| *t += p);
    }
    Ok(table.into_iter().map(T::from_f64).collect())
}

/// Bytes of [`Weights`] on the CPU: the table of constant tokens. All else stays mapped where it is stored, but for what is
/// stored as f64.
pub fn weight_bytes(model: &Model) -> u64 {
    let mut elements = model.spec.tokens(0) * model.spec.width;
    model.vit.for_each_backbone_tensor(|_, tensor| match tensor.dtype() {
        DType::F32 | DType::F16 | DType::Bf16 => {}
        _ => elements += tensor.len(),
    });
    (elements * size_of::<f32>()) as u64
}
