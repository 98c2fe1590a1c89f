//! Collects a ViT's tensors by role and checks every shape.

use super::names::{Layout, Parts};
use super::tensor::TensorRef;
use super::vit::{BlockRef, LinearRef, NormRef, PositionRef, VitRef};
use crate::model::{FinalNorm, Mlp, ModelSpec, Pooling};
use crate::{Error, Result};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// What of a model's tensors the [`ModelSpec`] does not say.
#[derive(Clone, Copy)]
pub(crate) struct Arrangement {
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the blocks' other linear layers have biases.
    pub proj_bias: bool,
    /// Whether the patch projection has one.
    pub patch_bias: bool,
    /// Rows of the register token tensor.
    pub registers: usize,
    /// The position embedding but for its tensor, which is called `position`.
    pub position: Option<PositionLayout>,
}

/// See [`PositionRef`].
#[derive(Clone, Copy)]
pub(crate) struct PositionLayout {
    pub grid: [usize; 2],
    pub covers_class: bool,
    pub covers_extra: usize,
    pub resize: super::vit::PositionResize,
}

struct Assembler<'a, 'c> {
    parts: &'a Parts<'c>,
    used: RefCell<BTreeSet<String>>,
}

/// Every tensor `spec` asks for, in its place.
///
/// # Errors
/// [`Error::Tensor`] for the first tensor that is missing, of another shape or dtype, or left over.
pub(crate) fn assemble(parts: &Parts, spec: &ModelSpec, arrangement: &Arrangement) -> Result<VitRef> {
    let a = Assembler { parts, used: RefCell::default() };
    let d = spec.width;
    let [ph, pw] = spec.patch;
    let patch_shape = [d, spec.channels, ph, pw];
    let patch = LinearRef {
        weight: vec![a.tensor("patch.weight", &patch_shape)?],
        bias: vec![a.bias("patch", d, arrangement.patch_bias)?],
    };
    let class_token = if spec.class_token { Some(a.tensor("class_token", &[d])?) } else { None };
    let mut extra_tokens = Vec::new();
    if arrangement.registers > 0 {
        extra_tokens.push(a.tensor("register", &[arrangement.registers, d])?);
    }
    if spec.extra_tokens > arrangement.registers {
        extra_tokens.push(a.tensor("distillation", &[d])?);
    }
    let position = match arrangement.position {
        None => None,
        Some(PositionLayout { grid, covers_class, covers_extra, resize }) => {
            let rows = grid[0] * grid[1] + usize::from(covers_class) + covers_extra;
            let table = a.tensor("position", &[rows, d])?;
            Some(PositionRef { table, grid, covers_class, covers_extra, resize })
        }
    };
    let pre_norm = if spec.pre_norm { Some(a.norm("pre_norm", d)?) } else { None };
    let mut blocks = Vec::new();
    for i in 0..spec.depth {
        blocks.push(a.block(i, spec, arrangement)?);
    }
    let before = matches!(spec.final_norm, FinalNorm::BeforePool | FinalNorm::Both);
    let after = matches!(spec.final_norm, FinalNorm::AfterPool | FinalNorm::Both);
    let norm = if before { Some(a.norm("norm", d)?) } else { None };
    let fc_norm = if after { Some(a.norm("fc_norm", d)?) } else { None };
    let mut head = Vec::new();
    if spec.classes > 0 {
        let columns = if spec.pooling == Pooling::ClsAndDistillation { d } else { spec.head_width() };
        head.push(a.linear("head", spec.classes, columns, true)?);
        if spec.pooling == Pooling::ClsAndDistillation {
            head.push(a.linear("head_dist", spec.classes, columns, true)?);
        }
    }
    a.finish()?;
    Ok(VitRef { patch, class_token, extra_tokens, position, pre_norm, blocks, norm, fc_norm, head })
}

impl Assembler<'_, '_> {
    fn tensor(&self, role: &str, shape: &[usize]) -> Result<TensorRef> {
        let tensor = self.parts.require(role)?;
        self.check(tensor, role, shape)
    }

    fn bias(&self, role: &str, rows: usize, present: bool) -> Result<Option<TensorRef>> {
        if present { self.tensor(&format!("{role}.bias"), &[rows]).map(Some) } else { Ok(None) }
    }

    fn check(&self, tensor: &TensorRef, role: &str, shape: &[usize]) -> Result<TensorRef> {
        // Tokens and tables carry leading axes of 1: [1, 1, d], [1, T, d].
        let found = tensor.shape();
        let leading = found.len().saturating_sub(shape.len());
        if found.len() < shape.len() || found[leading..] != *shape || found[..leading].iter().any(|n| *n != 1) {
            return Err(tensor.error(format!(
                "has shape {found:?}, expected {shape:?}; config.json describes another model, or the file is damaged"
            )));
        }
        if let super::DType::Other(_) = tensor.dtype() {
            return Err(tensor.error(format!(
                "is stored as {}; only F32, F16, BF16 and F64 weights are supported (no quantised ones)",
                tensor.dtype()
            )));
        }
        self.used.borrow_mut().insert(role.to_owned());
        Ok(tensor.clone())
    }

    fn norm(&self, role: &str, d: usize) -> Result<NormRef> {
        let (weight, bias) = (format!("{role}.weight"), format!("{role}.bias"));
        if self.parts.get(&weight).is_some() && self.parts.get(&bias).is_none() {
            return Err(self.parts.missing(&bias, "is missing; RMS norms and norms without bias are not supported"));
        }
        Ok(NormRef { weight: self.tensor(&weight, &[d])?, bias: self.tensor(&bias, &[d])? })
    }

    fn linear(&self, role: &str, rows: usize, columns: usize, bias: bool) -> Result<LinearRef> {
        Ok(LinearRef {
            weight: vec![self.tensor(&format!("{role}.weight"), &[rows, columns])?],
            bias: vec![self.bias(role, rows, bias)?],
        })
    }

    fn stack(&self, roles: &[String], rows: usize, columns: usize, bias: bool) -> Result<LinearRef> {
        let mut all = LinearRef { weight: Vec::new(), bias: Vec::new() };
        for role in roles {
            let one = self.linear(role, rows, columns, bias)?;
            all.weight.extend(one.weight);
            all.bias.extend(one.bias);
        }
        Ok(all)
    }

    fn block(&self, i: usize, spec: &ModelSpec, arrangement: &Arrangement) -> Result<BlockRef> {
        let (d, bias) = (spec.width, arrangement.proj_bias);
        let role = |name: &str| format!("blocks.{i}.{name}");
        let has = |name: &str| self.parts.get(&role(name)).is_some();
        let times = |n: usize, m: usize| n.checked_mul(m).ok_or_else(|| overflow(self.parts));
        let norm1 = self.norm(&role("norm1"), d)?;
        let qkv = if self.parts.layout() == Layout::Transformers {
            self.stack(&[role("q"), role("k"), role("v")], d, d, arrangement.qkv_bias)?
        } else {
            self.linear(&role("qkv"), times(3, d)?, d, arrangement.qkv_bias)?
        };
        let fc1 = match spec.mlp {
            Mlp::Plain(_) => self.linear(&role("fc1"), spec.hidden, d, bias)?,
            Mlp::SwiGlu if has("gate.weight") => self.stack(&[role("gate"), role("up")], spec.hidden, d, bias)?,
            Mlp::SwiGlu => self.linear(&role("fc1"), times(2, spec.hidden)?, d, bias)?,
        };
        let scale = |name: &str| if spec.layer_scale { self.tensor(&role(name), &[d]).map(Some) } else { Ok(None) };
        Ok(BlockRef {
            norm1,
            qkv,
            proj: self.linear(&role("proj"), d, d, bias)?,
            scale1: scale("scale1")?,
            norm2: self.norm(&role("norm2"), d)?,
            fc1,
            fc2: self.linear(&role("fc2"), d, spec.hidden, bias)?,
            scale2: scale("scale2")?,
        })
    }

    /// Refuses tensors with a known role that this model has no place for.
    fn finish(&self) -> Result<()> {
        let used = self.used.borrow();
        match self.parts.roles().find(|(role, _)| !used.contains(*role)) {
            None => Ok(()),
            Some((_, tensor)) => Err(tensor.error(
                "has no place in the model that config.json (or the other tensors) describes; \
                 use the config.json that belongs to this checkpoint",
            )),
        }
    }
}

fn overflow(parts: &Parts) -> Error {
    super::file::malformed(parts.checkpoint().path(), "describes layers too large to address; fetch it again")
}
