//! The prototype head: class means of the frozen model's head inputs from one forward pass, and a temperature fitted by
//! leave-one-out cross entropy on the same examples.

use super::Observer;
use super::photos::Photos;
use super::score::for_each_head_input;
use crate::engine::Engine;
use crate::model::Head;
use crate::{Error, Result};
use ndarray::{Array1, Array2};

/// Search range of τ.
const TAU_RANGE: [f64; 2] = [1.0, 1000.0];
/// Temperatures at which the cross entropy is taken, evenly spaced in ln τ; between them it is a parabola to 0.1 % of τ.
const TAUS: usize = 128;
/// τ when no class has two examples to leave one out of.
const TAU_DEFAULT: f64 = 16.0;

/// Fits the head on the photos `indices`: means first, then the temperature, for which head inputs of up to `keep` bytes
/// are kept and more are computed again. Errors: a class without photos, or as
/// [`for_each_head_input`](super::score::for_each_head_input).
pub fn fit(
    engine: &mut dyn Engine,
    photos: &Photos,
    indices: &[usize],
    classes: usize,
    keep: u64,
    observer: &mut dyn Observer,
) -> Result<Head> {
    let width = engine.spec().head_width();
    let mut kept = Vec::new();
    let keeps = (indices.len() * width * size_of::<f32>()) as u64 <= keep;
    if keeps {
        kept.reserve_exact(indices.len() * width);
    }
    let mut means = Means::new(width, classes);
    for_each_head_input(engine, photos, indices, &[], "prototypes", observer, &mut |inputs, labels| {
        if keeps {
            kept.extend_from_slice(inputs);
        }
        means.add(inputs, labels);
        Ok(())
    })?;
    let fitted = means.finish()?;
    let mut costs = Costs::new(&means, &fitted);
    if keeps {
        let labels = indices.iter().map(|&i| photos.items[i].label);
        kept.chunks_exact(width).zip(labels).for_each(|(input, label)| costs.add(input, label as usize));
    } else {
        for_each_head_input(engine, photos, indices, &[], "temperature", observer, &mut |inputs, labels| {
            inputs.chunks_exact(width).zip(labels).for_each(|(input, &label)| costs.add(input, label as usize));
            Ok(())
        })?;
    }
    let tau = costs.best() as f32;
    Ok(fitted.head(tau))
}

/// A prototype head that grows an example at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Prototypes {
    means: Means,
    tau: f32,
}

impl Prototypes {
    /// No examples of `classes` classes yet, of head inputs of `width` values.
    pub fn new(width: usize, classes: usize) -> Self {
        Prototypes { means: Means::new(width, classes), tau: TAU_DEFAULT as f32 }
    }

    /// One more class, without examples; its number.
    pub fn add_class(&mut self) -> usize {
        self.means.counts.push(0);
        self.means.sums.resize(self.means.counts.len() * self.means.width, 0.0);
        self.means.counts.len() - 1
    }

    /// Adds examples: head inputs `[m, D]` of the frozen model and their labels, which must be known classes. The temperature
    /// stays what it was.
    pub fn add(&mut self, inputs: &[f32], labels: &[u32]) {
        self.means.add(inputs, labels);
    }

    /// Starts anew from these examples, and fits the temperature to them. Errors: a class has none.
    pub fn fit(&mut self, inputs: &[f32], labels: &[u32]) -> Result<()> {
        let mut means = Means::new(self.means.width, self.means.counts.len());
        means.add(inputs, labels);
        let fitted = means.finish()?;
        let mut costs = Costs::new(&means, &fitted);
        inputs.chunks_exact(means.width).zip(labels).for_each(|(input, &label)| costs.add(input, label as usize));
        self.tau = costs.best() as f32;
        self.means = means;
        Ok(())
    }

    /// The head. A class without examples has no direction, and the logit 0.
    pub fn head(&self) -> Head {
        self.means.fitted().head(self.tau)
    }

    /// Examples of each class.
    pub fn counts(&self) -> &[u64] {
        &self.means.counts
    }

    /// Sums of head inputs by class `[C, D]`, over all `[D]`, and the temperature: with [`Prototypes::counts`], all there is.
    pub(crate) fn sums(&self) -> (&[f64], &[f64], f32) {
        (&self.means.sums, &self.means.total, self.tau)
    }

    /// From what [`Prototypes::sums`] and [`Prototypes::counts`] gave; `None` if they contradict each other.
    pub(crate) fn restore(sums: Vec<f64>, total: Vec<f64>, counts: Vec<u64>, tau: f32) -> Option<Self> {
        let width = total.len();
        let fits = width.checked_mul(counts.len()) == Some(sums.len()) && tau.is_finite() && tau > 0.0;
        fits.then_some(Prototypes { means: Means { width, sums, total, counts }, tau })
    }
}

/// Sums of head inputs by class, f64 in example order.
#[derive(Clone, Debug, PartialEq)]
struct Means {
    width: usize,
    /// `[C, D]`.
    sums: Vec<f64>,
    /// `[D]`: over all classes.
    total: Vec<f64>,
    counts: Vec<u64>,
}

/// What the sums come to.
struct Fitted {
    /// `[D]`.
    center: Vec<f64>,
    /// `[C, D]`, unit rows.
    directions: Array2<f32>,
}

impl Fitted {
    fn head(self, tau: f32) -> Head {
        let center = Array1::from_iter(self.center.iter().map(|&v| v as f32));
        Head::Prototype { center, means: self.directions, tau }
    }
}

impl Means {
    fn new(width: usize, classes: usize) -> Self {
        Means { width, sums: vec![0.0; classes * width], total: vec![0.0; width], counts: vec![0; classes] }
    }

    /// `inputs` `[m, D]`, `labels` `[m]`.
    fn add(&mut self, inputs: &[f32], labels: &[u32]) {
        for (input, &label) in inputs.chunks_exact(self.width).zip(labels) {
            let class = label as usize;
            self.counts[class] += 1;
            let sums = &mut self.sums[class * self.width..][..self.width];
            for ((&value, sum), total) in input.iter().zip(sums).zip(&mut self.total) {
                *sum += f64::from(value);
                *total += f64::from(value);
            }
        }
    }

    fn finish(&self) -> Result<Fitted> {
        if let Some(empty) = self.counts.iter().position(|&count| count == 0) {
            return Err(Error::Options(format!(
                "--head prototype: class {empty} has no training photo to take a mean of; add some, or use --head linear"
            )));
        }
        Ok(self.fitted())
    }

    /// A class without examples has no direction: zeros.
    fn fitted(&self) -> Fitted {
        let count = self.counts.iter().sum::<u64>().max(1) as f64;
        let center: Vec<f64> = self.total.iter().map(|&sum| sum / count).collect();
        let mut directions = Array2::<f32>::zeros((self.counts.len(), self.width));
        let mut mean = vec![0.0f64; self.width];
        for (class, mut row) in directions.rows_mut().into_iter().enumerate() {
            if self.counts[class] == 0 {
                continue;
            }
            let sums = &self.sums[class * self.width..][..self.width];
            centred_unit(sums, self.counts[class] as f64, &center, &mut mean);
            row.iter_mut().zip(&mean).for_each(|(to, &m)| *to = m as f32);
        }
        Fitted { center, directions }
    }
}

/// Leave-one-out cross entropy at every temperature of the grid.
struct Costs<'a> {
    means: &'a Means,
    fitted: &'a Fitted,
    taus: [f64; TAUS],
    costs: [f64; TAUS],
    examples: usize,
    /// Own cosine, then those to the other classes.
    cosines: Vec<f64>,
    unit: Vec<f64>,
    own: Vec<f64>,
    rest: Vec<f64>,
}

/// Temperature i of the grid, 0 ≤ i < [`TAUS`] (and between).
fn tau(i: f64) -> f64 {
    let [low, high] = TAU_RANGE.map(f64::ln);
    (low + (high - low) * i / (TAUS - 1) as f64).exp()
}

impl<'a> Costs<'a> {
    fn new(means: &'a Means, fitted: &'a Fitted) -> Self {
        let zeros = || vec![0.0; means.width];
        let (unit, own, rest, cosines) = (zeros(), zeros(), zeros(), Vec::with_capacity(means.counts.len()));
        let taus = std::array::from_fn(|i| tau(i as f64));
        Costs { means, fitted, taus, costs: [0.0; TAUS], examples: 0, cosines, unit, own, rest }
    }

    /// An example against the mean of its own class without it, and the other classes' means. Nothing to leave one out of:
    /// it is passed over.
    fn add(&mut self, input: &[f32], class: usize) {
        let Means { width, sums, counts, .. } = self.means;
        if counts[class] < 2 {
            return;
        }
        for (((own, rest), &value), &sum) in
            self.own.iter_mut().zip(&mut self.rest).zip(input).zip(&sums[class * width..][..*width])
        {
            *own = f64::from(value);
            *rest = sum - *own;
        }
        centred_unit(&self.own, 1.0, &self.fitted.center, &mut self.unit);
        centred_unit(&self.rest, (counts[class] - 1) as f64, &self.fitted.center, &mut self.own);
        self.cosines.clear();
        self.cosines.push(self.unit.iter().zip(&self.own).map(|(a, b)| a * b).sum());
        for (other, mean) in self.fitted.directions.rows().into_iter().enumerate() {
            if other != class {
                self.cosines.push(self.unit.iter().zip(mean).map(|(a, &b)| a * f64::from(b)).sum());
            }
        }
        self.count();
    }

    /// Adds the cross entropy of `cosines` at every temperature.
    fn count(&mut self) {
        let own = self.cosines[0];
        for (cost, tau) in self.costs.iter_mut().zip(self.taus) {
            *cost += self.cosines.iter().map(|&c| (tau * (c - own)).exp()).sum::<f64>().ln();
        }
        self.examples += 1;
    }

    /// The temperature of least cost.
    fn best(&self) -> f64 {
        if self.examples == 0 {
            return TAU_DEFAULT;
        }
        let lowest = (0..TAUS).min_by(|&a, &b| self.costs[a].total_cmp(&self.costs[b])).unwrap_or(0);
        if lowest == 0 || lowest == TAUS - 1 {
            return tau(lowest as f64);
        }
        let [before, at, after] = [lowest - 1, lowest, lowest + 1].map(|i| self.costs[i]);
        let curvature = before - 2.0 * at + after;
        let shift = if curvature > 0.0 { 0.5 * (before - after) / curvature } else { 0.0 };
        tau(lowest as f64 + shift)
    }
}

/// (sum/count − center) at unit length; zero where there is no direction.
fn centred_unit(sum: &[f64], count: f64, center: &[f64], out: &mut [f64]) {
    for ((out, &s), &c) in out.iter_mut().zip(sum).zip(center) {
        *out = s / count - c;
    }
    let norm = out.iter().map(|v| v * v).sum::<f64>().sqrt();
    if norm > 0.0 {
        out.iter_mut().for_each(|v| *v /= norm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperature_is_the_minimum_of_leave_one_out_cross_entropy() {
        // Own cosine 0.8 against 0.2 in three quarters of the rows, 0.1 against 0.4 in the rest: a finite optimum.
        let rows: Vec<[f64; 2]> = (0..40).map(|i| if i % 4 == 0 { [0.1, 0.4] } else { [0.8, 0.2] }).collect();
        let means = Means::new(2, 2);
        let fitted = Fitted { center: vec![0.0; 2], directions: Array2::zeros((2, 2)) };
        let mut costs = Costs::new(&means, &fitted);
        for row in &rows {
            costs.cosines = row.to_vec();
            costs.count();
        }
        let cost = |tau: f64| -> f64 { rows.iter().map(|[own, other]| (1.0 + (tau * (other - own)).exp()).ln()).sum() };
        let tau = costs.best();
        assert!(cost(tau) < cost(tau * 1.005) && cost(tau) < cost(tau / 1.005), "τ = {tau}");
    }

    #[test]
    fn means_are_centred_and_of_unit_length() {
        let mut means = Means::new(2, 2);
        means.add(&[1.0, 0.0, 1.2, 0.1], &[0, 0]);
        means.add(&[-1.0, 0.0, -1.2, 0.3], &[1, 1]);
        let fitted = means.finish().unwrap();
        assert!(fitted.center[0].abs() < 1e-6 && (fitted.center[1] - 0.1).abs() < 1e-6);
        for row in fitted.directions.rows() {
            assert!((row.dot(&row) - 1.0).abs() < 1e-6);
        }
        let mut costs = Costs::new(&means, &fitted);
        costs.add(&[1.0, 0.0], 0);
        assert!(costs.best() >= 1.0);
    }

    #[test]
    fn a_class_without_photos_is_refused() {
        let mut means = Means::new(2, 2);
        means.add(&[1.0, 2.0], &[0]);
        assert!(matches!(means.finish(), Err(Error::Options(_))));
    }

    #[test]
    fn single_examples_leave_the_default_temperature() {
        let mut means = Means::new(1, 2);
        means.add(&[1.0, 2.0], &[0, 1]);
        let fitted = means.finish().unwrap();
        let mut costs = Costs::new(&means, &fitted);
        costs.add(&[1.0], 0);
        assert_eq!(costs.best(), TAU_DEFAULT);
    }
}
