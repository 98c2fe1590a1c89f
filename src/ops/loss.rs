//! Cross entropy. L = lse(z) − z_y; L̇ = Σ(softmax z − onehot)·ż; ∂L/∂z = softmax z − onehot.
//!
//! 3C FLOPs and C exponentials per example, 2C FLOPs per tangent.

use super::{Real, dot, head};
use crate::model::Head;

/// Loss of one example; `dz` `[C]` receives softmax z − onehot.
pub fn cross_entropy<T: Real>(z: &[T], label: usize, dz: &mut [T]) -> T {
    let max = z.iter().copied().fold(T::neg_infinity(), T::max);
    let mut sum = T::zero();
    for (dz, &z) in dz.iter_mut().zip(z) {
        *dz = (z - max).exp();
        sum += *dz;
    }
    dz.iter_mut().for_each(|v| *v /= sum);
    dz[label] -= T::one();
    sum.ln() + max - z[label]
}

/// Index of the largest logit, the first of equals.
pub fn top<T: PartialOrd>(logits: &[T]) -> usize {
    let mut best = 0;
    for (i, z) in logits.iter().enumerate() {
        if *z > logits[best] {
            best = i;
        }
    }
    best
}

/// What a head and the cross entropy make of a pass: all that a step needs of its examples.
#[derive(Clone, Debug, Default)]
pub struct Judged<T> {
    /// L `[B]`.
    pub losses: Vec<T>,
    /// [`top`] class `[B]`.
    pub best: Vec<u32>,
    /// L̇ `[B, K]`.
    pub derivatives: Vec<T>,
    /// ∂L/∂z `[B, C]`.
    pub slopes: Vec<T>,
    /// Primal head inputs `[B, D]`, where the caller puts a list.
    pub inputs: Option<Vec<T>>,
    /// Logits `[1+K, B, C]`, or a device's records.
    values: Vec<T>,
    /// Of the head.
    scratch: Vec<T>,
}

impl<T> Judged<T> {
    /// Forgets all examples; the next ones need no more memory than these did.
    pub fn clear(&mut self) {
        let Judged { losses, best, derivatives, slopes, inputs, .. } = self;
        best.clear();
        [losses, derivatives, slopes].into_iter().chain(inputs).for_each(Vec::clear);
    }
}

#[cfg(feature = "cuda")]
impl<T: Real> Judged<T> {
    /// Adds `count` examples that a device has judged: `fill` writes of each L, its top class, L̇ `[K]` and ∂L/∂z `[C]`.
    pub(crate) fn add_records(
        &mut self,
        count: usize,
        [tangents, classes]: [usize; 2],
        fill: impl FnOnce(&mut [T]) -> crate::Result<()>,
    ) -> crate::Result<()> {
        let record = 2 + tangents + classes;
        self.values.resize(count * record, T::zero());
        fill(&mut self.values)?;
        for record in self.values.chunks_exact(record) {
            self.losses.push(record[0]);
            self.best.push(record[1].f64() as u32);
            self.derivatives.extend_from_slice(&record[2..2 + tangents]);
            self.slopes.extend_from_slice(&record[2 + tangents..]);
        }
        Ok(())
    }
}

/// Adds the examples of head inputs `f` `[1+K, B, D]` with `labels` `[B]`, classes of `head`, to `out`. `tangents`: K.
///
/// # Panics
/// When a label is not below the head's classes.
pub fn judge<T: Real>(head: &Head, labels: &[u32], tangents: usize, f: &[T], out: &mut Judged<T>) {
    let (examples, classes) = (labels.len(), head.classes());
    out.values.resize((1 + tangents) * examples * classes, T::zero());
    head::dual(head, examples, 1 + tangents, f, &mut out.values, &mut out.scratch);
    for (b, (z, &label)) in out.values.chunks_exact(classes).zip(labels).enumerate() {
        let first = out.slopes.len();
        out.slopes.resize(first + classes, T::zero());
        let slope = &mut out.slopes[first..];
        out.losses.push(cross_entropy(z, label as usize, slope));
        out.best.push(top(z) as u32);
        let tangent = |k: usize| &out.values[((1 + k) * examples + b) * classes..][..classes];
        out.derivatives.extend((0..tangents).map(|k| dot(slope, tangent(k))));
    }
    if let Some(inputs) = &mut out.inputs {
        inputs.extend_from_slice(&f[..examples * head.width()]);
    }
}
