//! The seam between the encoder and the hardware: fused steps of the dual pass over row subsets.
//!
//! Two layouts occur. The **stream** is `[1+K, B, T, d]`: plane 0 the primal, planes 1..K the tangents. A **compact**
//! buffer holds only the rows a [`Rows`] names, primal rows first. Every operation takes its inputs by shared and its
//! output by exclusive reference, so no operation can alias the two.

mod rows;

pub use rows::Rows;

use crate::Result;
use crate::model::{Activation, Head, Mlp, Model, ModelSpec};
use crate::ops::Real;
use crate::ops::loss::Judged;
use crate::rng::Draw;
use crate::weights::{LinearRef, VectorRef};
use serde::{Deserialize, Serialize};
use std::ops::{DerefMut, Range};

/// What linear layers multiply, and on a GPU what everything is stored in. Statistics, softmax and sums are f32 in all; on the
/// CPU so is everything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// f32 weights and rows.
    #[default]
    F32,
    /// Weights and rows rounded to nearest bf16.
    Bf16,
    /// Weights and rows rounded to nearest f16; on GPUs only.
    F16,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

/// Where and how image patches become tokens.
#[derive(Clone, Copy, Debug)]
pub struct PatchGrid {
    /// Image channels.
    pub channels: usize,
    /// Image height and width, pixels.
    pub image: [usize; 2],
    /// Patch height and width, pixels.
    pub patch: [usize; 2],
}

impl PatchGrid {
    /// Patches of one image.
    pub fn len(&self) -> usize {
        (self.image[0] / self.patch[0]) * (self.image[1] / self.patch[1])
    }

    /// Whether the image is smaller than a patch.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values of one patch: channels · ph · pw.
    pub fn patch_len(&self) -> usize {
        self.channels * self.patch[0] * self.patch[1]
    }
}

/// γ, β `[d]` and ε of a layer norm on the device.
pub struct Norm<V> {
    /// γ.
    pub gamma: V,
    /// β.
    pub beta: V,
    /// ε.
    pub eps: f64,
}

/// W `[n, k]` and b `[n]` of a linear layer on the device.
pub struct Linear<M, V> {
    /// W.
    pub weight: M,
    /// b.
    pub bias: Option<V>,
}

/// A part of a device buffer that starts at `offset` and whose rows are `stride` elements apart.
pub struct At<'a, T> {
    /// The buffer.
    pub buffer: &'a T,
    /// First element.
    pub offset: usize,
    /// Elements from one row to the next.
    pub stride: usize,
}

impl<'a, T> At<'a, T> {
    /// Rows of `stride` elements from the buffer's start.
    pub fn start(buffer: &'a T, stride: usize) -> Self {
        At { buffer, offset: 0, stride }
    }
}

/// Sizes of multi-head attention.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Heads h.
    pub count: usize,
    /// Head size; width d = count · dim. Scores are scaled by 1/√dim.
    pub dim: usize,
}

/// Elements of what is to be carved from an arena.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Of each buffer.
    pub buffers: Vec<usize>,
    /// Of each piece of host memory.
    pub staging: Vec<usize>,
}

impl Needs {
    /// These and `others`.
    pub fn with(mut self, others: &Needs) -> Self {
        self.buffers.extend(&others.buffers);
        self.staging.extend(&others.staging);
        self
    }
}

/// Device operations of the dual pass and of one block's VJP. Formulas, FLOPs and bytes stand with the scalar
/// reference in [`crate::ops`], under the same names.
///
/// Results are a function of the inputs alone: the same bits for any thread count, and for any split of the examples
/// over calls.
pub trait Backend {
    /// Host element type.
    type Elem: Real;
    /// Device memory.
    type Buffer;
    /// Host memory that values pass through on their way to and from the device.
    type Staging: DerefMut<Target = [Self::Elem]> + Send;
    /// Memory that buffers and staging are carved from, to which they return.
    type Arena: Send;
    /// A frozen matrix.
    type Matrix;
    /// A frozen vector (or table of vectors).
    type Vector;
    /// What [`Backend::replay`] remembers of some operations.
    type Recording: Default + Send;

    /// What linear layers multiply: it decides the bits of a run.
    fn precision(&self) -> Precision {
        Precision::F32
    }
    /// What else decides them: the instruction set, or the device and what it computes with.
    fn arithmetic(&self) -> String {
        "reference".into()
    }
    /// Runs `f` where operations find the backend's threads at hand. A pass is one such call.
    fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        f()
    }
    /// Runs `operations`, which with this `recording` are always the same ones on the same buffers, and neither read nor write
    /// values of the host. A backend where calling costs more than small operations themselves may record and repeat them.
    fn replay(&self, recording: &mut Self::Recording, mut operations: impl FnMut() -> Result<()>) -> Result<()> {
        let _ = recording;
        operations()
    }
    /// Memory for all of `needs`, obtained at once. Errors: [`crate::Error::OutOfMemory`], [`crate::Error::DeviceMemory`].
    fn reserve(&self, needs: &Needs) -> Result<Self::Arena>;
    /// `len` zeroed elements of `arena`. Errors: [`crate::Error::Arena`] when `arena` was not made for them.
    fn carve(&self, arena: &Self::Arena, len: usize) -> Result<Self::Buffer>;
    /// As [`Backend::carve`], for host memory.
    fn carve_staging(&self, arena: &Self::Arena, len: usize) -> Result<Self::Staging>;
    /// `len` zeroed elements in memory of their own. Errors: [`crate::Error::OutOfMemory`].
    fn buffer(&self, len: usize) -> Result<Self::Buffer> {
        self.carve(&self.reserve(&Needs { buffers: vec![len], staging: Vec::new() })?, len)
    }
    /// Obtains what the operations of a pass need besides their arguments, so that passes over up to `tokens` tokens
    /// with `tangents` tangents allocate nothing. Errors: [`crate::Error::OutOfMemory`].
    fn reserve_scratch(&self, spec: &ModelSpec, tokens: usize, tangents: usize) -> Result<()> {
        let _ = (spec, tokens, tangents);
        Ok(())
    }
    /// Called before the weights of `model` are asked for: a backend may obtain their memory at once. Errors: it is short.
    fn begin_weights(&self, model: &Model) -> Result<()> {
        let _ = model;
        Ok(())
    }
    /// Called when all of them have been asked for.
    fn end_weights(&self) -> Result<()> {
        Ok(())
    }
    /// A frozen `[rows, cols]` matrix, row-major.
    fn matrix(&self, rows: usize, cols: usize, data: Vec<Self::Elem>) -> Result<Self::Matrix>;
    /// The matrix of a checkpoint's linear layer. A backend may leave it where and as it is stored, or prepare it for the
    /// ranges of `outputs` that [`Backend::linear`] will be asked for. `block`: the one it belongs to; a backend may keep some
    /// blocks at a time. Errors: a tensor cannot be read, or memory is short.
    fn weights(&self, linear: &LinearRef, _outputs: &[Range<usize>], _block: Option<usize>) -> Result<Self::Matrix> {
        self.matrix(linear.rows(), linear.cols(), linear.read()?)
    }
    /// A frozen vector.
    fn vector(&self, data: Vec<Self::Elem>) -> Result<Self::Vector>;
    /// A vector of a checkpoint. A backend may leave it where and as it is stored. Errors: a tensor cannot be read, or memory
    /// is short.
    fn stored_vector(&self, vector: &VectorRef) -> Result<Self::Vector> {
        self.vector(vector.read()?)
    }
    /// A frozen vector's values.
    fn read_vector(&self, vector: &Self::Vector) -> Result<Vec<Self::Elem>>;
    /// Host to device, from element `offset` on.
    fn write(&self, buffer: &mut Self::Buffer, offset: usize, data: &[Self::Elem]) -> Result<()>;
    /// Device to host, from element `offset` on.
    fn read(&self, buffer: &Self::Buffer, offset: usize, data: &mut [Self::Elem]) -> Result<()>;
    /// `out` `[|rows|, len]` = rows of a guess's noise, made where they are used. False: this backend does not, and the caller
    /// writes them.
    fn noise(&self, draw: &Draw, rows: Range<usize>, len: usize, out: &mut Self::Buffer) -> Result<bool> {
        let _ = (draw, rows, len, out);
        Ok(false)
    }
    /// `out` `[m]` = Σ_b Σ_k weights[b, k]·n_kb over the draw's noise of m values, in that order, in f64. False: this backend does
    /// not, and the caller does.
    fn noise_sum(&self, draw: &Draw, weights: &[f64], out: &mut [f64]) -> Result<bool> {
        let _ = (draw, weights, out);
        Ok(false)
    }
    /// Zeroes a range of elements.
    fn zero(&self, buffer: &mut Self::Buffer, range: Range<usize>) -> Result<()>;

    /// Host `images` [B, c, H, W] → `out` [B·patches, c·ph·pw].
    fn patches(&self, grid: PatchGrid, examples: usize, images: &[Self::Elem], out: &mut Self::Buffer) -> Result<()>;
    /// `x[0, b, t] = constant[t]` (+ patch row) for all but the prompt tokens. `rows.primal` lists the non-prompt tokens;
    /// the last `patches` of them receive `projected` [B·patches, d]; `constant` is `[|primal|, d]`.
    fn embed(
        &self,
        rows: &Rows,
        patches: usize,
        width: usize,
        projected: &Self::Buffer,
        constant: &Self::Vector,
        x: &mut Self::Buffer,
    ) -> Result<()>;
    /// `x[rows] = values` (compact, width d).
    fn scatter(&self, rows: &Rows, width: usize, values: &Self::Buffer, x: &mut Self::Buffer) -> Result<()>;
    /// `y[rows] = λ ⊙ x[rows]` (compact, width d; λ = 1 when absent).
    fn gather(
        &self,
        rows: &Rows,
        width: usize,
        x: &Self::Buffer,
        scale: Option<&Self::Vector>,
        y: &mut Self::Buffer,
    ) -> Result<()>;
    /// Dual layer norm of stream rows: `y = LN(x[rows])`, y compact.
    fn norm(&self, rows: &Rows, norm: &Norm<Self::Vector>, x: &Self::Buffer, y: &mut Self::Buffer) -> Result<()>;
    /// `y[r, :] = x[r, :]·W[outputs, :]ᵀ` for r < `count`, plus `b[outputs]` for r < `biased`. x's rows start at x.offset;
    /// y's rows start at `y_offset` and are `outputs.len()` wide.
    #[allow(clippy::too_many_arguments)]
    fn linear(
        &self,
        count: usize,
        biased: usize,
        linear: &Linear<Self::Matrix, Self::Vector>,
        outputs: Range<usize>,
        x: At<Self::Buffer>,
        y: &mut Self::Buffer,
        y_offset: usize,
    ) -> Result<()>;
    /// Dual attention. `q` rows (`[q_rows, d]`) and `kv` rows (`[kv_rows, 2d]`: k then v) → `y` compact over `out_rows`.
    /// `out_rows.primal == q_rows.primal`; tangents absent from `q_rows` or `kv_rows` are zero.
    #[allow(clippy::too_many_arguments)]
    fn attention(
        &self,
        heads: Heads,
        q_rows: &Rows,
        kv_rows: &Rows,
        out_rows: &Rows,
        q: At<Self::Buffer>,
        kv: At<Self::Buffer>,
        y: &mut Self::Buffer,
    ) -> Result<()>;
    /// Dual activation in place on compact rows of `fc1`'s output: `[rows, hidden]`, or for SwiGLU `[rows, 2·hidden]`
    /// of which the first half of every row receives the result. Every tangent row's primal row is present
    /// (`rows.tangent` ⊆ `rows.primal`).
    fn activation(&self, rows: &Rows, hidden: usize, mlp: Mlp, h: &mut Self::Buffer) -> Result<()>;
    /// `x[rows] += λ ⊙ f` (compact; λ = 1 when absent).
    fn residual(
        &self,
        rows: &Rows,
        width: usize,
        scale: Option<&Self::Vector>,
        f: &Self::Buffer,
        x: &mut Self::Buffer,
    ) -> Result<()>;
    /// [`Backend::residual`] and [`Backend::norm`] of the same rows in one sweep. Without `f`, the branch's output stands
    /// in `y` itself and is replaced.
    fn residual_norm(
        &self,
        rows: &Rows,
        scale: Option<&Self::Vector>,
        norm: &Norm<Self::Vector>,
        f: Option<&Self::Buffer>,
        x: &mut Self::Buffer,
        y: &mut Self::Buffer,
    ) -> Result<()>;
    /// Means over groups of tokens: compact rows y → `out` [1+K, B, |groups|·d]. Groups are ranges of indices into
    /// `rows.primal` (which equals `rows.tangent` when K > 0).
    fn pool(
        &self,
        rows: &Rows,
        width: usize,
        groups: &[Range<usize>],
        y: &Self::Buffer,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// Adds the examples of head inputs `f` `[1+K, B, D]` with labels `[B]`, K `tangents`, to `out`, as
    /// [`crate::ops::loss::judge`] does. `work`, of the size of the encoder's workspace, is overwritten. Errors:
    /// the device's own, or [`crate::Error::Shape`] when it has no room for so many classes.
    fn judge(
        &self,
        head: &Head,
        labels: &[u32],
        tangents: usize,
        f: &Self::Buffer,
        work: &mut Self::Buffer,
        out: &mut Judged<Self::Elem>,
    ) -> Result<()>;

    /// dx[r, :] = dy[r, :]·W[outputs, :] for r < `count` (`accumulate`: added to dx). dy's rows are at `dy`, dx's rows
    /// start at `dx_offset` and are k wide.
    #[allow(clippy::too_many_arguments)]
    fn linear_vjp(
        &self,
        count: usize,
        linear: &Linear<Self::Matrix, Self::Vector>,
        outputs: Range<usize>,
        dy: At<Self::Buffer>,
        accumulate: bool,
        dx: &mut Self::Buffer,
        dx_offset: usize,
    ) -> Result<()>;
    /// `dx[rows] += J_LNᵀ dy` for the primal rows: x and dx are streams of the same shape, dy compact.
    fn norm_vjp(
        &self,
        rows: &Rows,
        norm: &Norm<Self::Vector>,
        x: &Self::Buffer,
        dy: &Self::Buffer,
        dx: &mut Self::Buffer,
    ) -> Result<()>;
    /// dqkv = VJP of attention over all tokens: `q` `[rows, d]`, `kv` `[rows, 2d]`, `dy` `[rows, d]` →
    /// `dq` at 0 and `dkv` at `rows·d` of `dqkv`, laid out like q and kv.
    fn attention_vjp(
        &self,
        heads: Heads,
        rows: &Rows,
        q: At<Self::Buffer>,
        kv: At<Self::Buffer>,
        dy: &Self::Buffer,
        dqkv: &mut Self::Buffer,
    ) -> Result<()>;
    /// dh = φ′(h) ⊙ dg on `count` rows of `[hidden]`; for SwiGLU h and dh rows are `[2·hidden]` and dg rows `[hidden]`.
    fn activation_vjp(
        &self,
        count: usize,
        hidden: usize,
        mlp: Mlp,
        h: &Self::Buffer,
        dg: &Self::Buffer,
        dh: &mut Self::Buffer,
    ) -> Result<()>;
}

/// Columns of fc1's output per hidden unit: 2 for SwiGLU, else 1.
pub fn hidden_columns(mlp: Mlp) -> usize {
    match mlp {
        Mlp::Plain(_) => 1,
        Mlp::SwiGlu => 2,
    }
}

/// The activation whose derivative the MLP needs.
pub fn mlp_activation(mlp: Mlp) -> Activation {
    match mlp {
        Mlp::Plain(activation) => activation,
        Mlp::SwiGlu => Activation::Silu,
    }
}
