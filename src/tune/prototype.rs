//! The prototype head: class means of the frozen model's head inputs from one forward pass, and a temperature fitted by
//! leave-one-out cross entropy on the same examples.

use super::Observer;
use super::photos::Photos;
use super::score::for_each_head_input;
use crate::engine::Engine;
use crate::model::Head;
use crate::{Error, Result};
use ndarray::{Array1, Array2};

/// Search range of τ and the golden-section steps within it (the bracket shrinks below 0.1 %).
const TAU_RANGE: [f64; 2] = [1.0, 1000.0];
const TAU_STEPS: usize = 20;
/// τ when no class has two examples to leave one out of.
const TAU_DEFAULT: f64 = 16.0;

/// Fits the head on the photos `indices`. Errors: a class without photos, or as
/// [`for_each_head_input`](super::score::for_each_head_input).
pub fn fit(
    engine: &mut dyn Engine,
    photos: &Photos,
    indices: &[usize],
    classes: usize,
    observer: &mut dyn Observer,
) -> Result<Head> {
    let width = engine.spec().head_width();
    let mut inputs = Vec::with_capacity(indices.len() * width);
    let mut labels = Vec::with_capacity(indices.len());
    for_each_head_input(engine, photos, indices, &[], "prototypes", observer, &mut |f, y| {
        inputs.extend_from_slice(f);
        labels.extend(y.iter().map(|&y| y as usize));
        Ok(())
    })?;
    fit_on(&inputs, &labels, width, classes)
}

/// The head for head inputs `[n, D]` with `labels` `[n]`. Sums are f64 in example order.
fn fit_on(inputs: &[f32], labels: &[usize], width: usize, classes: usize) -> Result<Head> {
    let n = labels.len();
    let mut center = vec![0.0f64; width];
    let mut sums = vec![0.0f64; classes * width];
    let mut counts = vec![0usize; classes];
    for (f, &y) in inputs.chunks_exact(width).zip(labels) {
        counts[y] += 1;
        for (i, &v) in f.iter().enumerate() {
            center[i] += f64::from(v);
            sums[y * width + i] += f64::from(v);
        }
    }
    center.iter_mut().for_each(|v| *v /= n.max(1) as f64);
    if let Some(empty) = counts.iter().position(|&c| c == 0) {
        return Err(Error::Options(format!(
            "--head prototype: class {empty} has no training photo to take a mean of; add some, or use --head linear"
        )));
    }
    let mut means = Array2::<f32>::zeros((classes, width));
    let mut mean = vec![0.0f64; width];
    for y in 0..classes {
        centred_unit(&sums[y * width..][..width], counts[y] as f64, &center, &mut mean);
        means.row_mut(y).iter_mut().zip(&mean).for_each(|(to, &m)| *to = m as f32);
    }
    let cosines = leave_one_out(inputs, labels, &center, &sums, &counts, &means);
    let tau = fit_temperature(&cosines, classes);
    Ok(Head::Prototype { center: Array1::from_iter(center.iter().map(|&v| v as f32)), means, tau: tau as f32 })
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

/// For every example whose class has others: its cosine to every class mean, its own class's mean taken without it.
/// Rows are `[own, others…]`.
fn leave_one_out(
    inputs: &[f32],
    labels: &[usize],
    center: &[f64],
    sums: &[f64],
    counts: &[usize],
    means: &Array2<f32>,
) -> Vec<f32> {
    let width = center.len();
    let (mut u, mut rest, mut own) = (vec![0.0f64; width], vec![0.0f64; width], vec![0.0f64; width]);
    let mut cosines = Vec::new();
    for (f, &y) in inputs.chunks_exact(width).zip(labels).filter(|(_, y)| counts[**y] > 1) {
        for i in 0..width {
            own[i] = f64::from(f[i]);
            rest[i] = sums[y * width + i] - own[i];
        }
        centred_unit(&own, 1.0, center, &mut u);
        centred_unit(&rest, (counts[y] - 1) as f64, center, &mut own);
        cosines.push(u.iter().zip(&own).map(|(a, b)| a * b).sum::<f64>() as f32);
        for (class, mean) in means.rows().into_iter().enumerate() {
            if class != y {
                cosines.push(u.iter().zip(mean).map(|(a, &b)| a * f64::from(b)).sum::<f64>() as f32);
            }
        }
    }
    cosines
}

/// τ that minimises mean cross entropy of rows `[own, others…]`; golden-section search in ln τ.
fn fit_temperature(cosines: &[f32], classes: usize) -> f64 {
    if cosines.is_empty() {
        return TAU_DEFAULT;
    }
    let cost = |log_tau: f64| -> f64 {
        let tau = log_tau.exp();
        let row_cost = |row: &[f32]| {
            let own = f64::from(row[0]);
            row.iter().map(|&c| (tau * (f64::from(c) - own)).exp()).sum::<f64>().ln()
        };
        cosines.chunks_exact(classes).map(row_cost).sum()
    };
    let ratio = (5f64.sqrt() - 1.0) / 2.0;
    let [mut low, mut high] = TAU_RANGE.map(f64::ln);
    let (mut a, mut b) = (high - ratio * (high - low), low + ratio * (high - low));
    let (mut cost_a, mut cost_b) = (cost(a), cost(b));
    for _ in 0..TAU_STEPS {
        if cost_a < cost_b {
            (high, b, cost_b) = (b, a, cost_a);
            a = high - ratio * (high - low);
            cost_a = cost(a);
        } else {
            (low, a, cost_a) = (a, b, cost_b);
            b = low + ratio * (high - low);
            cost_b = cost(b);
        }
    }
    (0.5 * (low + high)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperature_is_the_minimum_of_leave_one_out_cross_entropy() {
        // Own cosine 0.8 against 0.2 in three quarters of the rows, 0.1 against 0.4 in the rest: a finite optimum.
        let rows: Vec<f32> = (0..40).flat_map(|i| if i % 4 == 0 { [0.1, 0.4] } else { [0.8, 0.2] }).collect();
        let cost =
            |tau: f64| -> f64 { rows.chunks(2).map(|r| (1.0 + (tau * f64::from(r[1] - r[0])).exp()).ln()).sum() };
        let tau = fit_temperature(&rows, 2);
        assert!(cost(tau) < cost(tau * 1.05) && cost(tau) < cost(tau / 1.05), "τ = {tau}");
    }

    #[test]
    fn means_are_centred_and_of_unit_length() {
        let inputs = [1.0, 0.0, 1.2, 0.1, -1.0, 0.0, -1.2, 0.3];
        let head = fit_on(&inputs, &[0, 0, 1, 1], 2, 2).unwrap();
        let Head::Prototype { center, means, tau } = head else { panic!("a prototype head") };
        assert!((center[0]).abs() < 1e-6 && (center[1] - 0.1).abs() < 1e-6);
        for row in means.rows() {
            assert!((row.dot(&row) - 1.0).abs() < 1e-6);
        }
        assert!(tau >= 1.0);
    }

    #[test]
    fn a_class_without_photos_is_refused() {
        assert!(matches!(fit_on(&[1.0, 2.0], &[0], 2, 2), Err(Error::Options(_))));
    }
}
