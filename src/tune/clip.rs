//! What an example may count. The gradients of single examples are heavy-tailed: a few, a hundred times the median in a batch, decide
//! where a step goes, and stay in Adam's second moment long after.

/// Factors that cut every example's magnitude to `clip` times the median of them all; all 1 when `clip` is 0. `sorted`: overwritten.
pub(super) fn factors(magnitudes: &[f64], clip: f64, sorted: &mut Vec<f64>, out: &mut Vec<f64>) {
    out.clear();
    if clip == 0.0 || magnitudes.is_empty() {
        return out.resize(magnitudes.len(), 1.0);
    }
    sorted.clear();
    sorted.extend_from_slice(magnitudes);
    let middle = sorted.len() / 2;
    let (_, &mut median, _) = sorted.select_nth_unstable_by(middle, f64::total_cmp);
    let most = clip * median;
    // A magnitude that is not finite keeps its weight, so that the step is found out and skipped.
    out.extend(magnitudes.iter().map(|&m| if m > most && m.is_finite() { most / m } else { 1.0 }));
}

#[cfg(test)]
mod tests {
    use super::factors;

    #[test]
    fn what_is_beyond_the_multiple_of_the_median_is_cut_to_it() {
        let (mut sorted, mut out) = (Vec::new(), Vec::new());
        let magnitudes = [8.0, 1.0, 2.0, 3.0, 100.0];
        factors(&magnitudes, 2.0, &mut sorted, &mut out);
        assert_eq!(out, [0.75, 1.0, 1.0, 1.0, 0.06]);
        factors(&magnitudes, 0.0, &mut sorted, &mut out);
        assert_eq!(out, [1.0; 5]);
        factors(&[0.0, 0.0, 5.0], 1.0, &mut sorted, &mut out);
        assert_eq!(out, [1.0, 1.0, 0.0]);
        factors(&[1.0, f64::NAN, f64::INFINITY], 1.0, &mut sorted, &mut out);
        assert_eq!(out, [1.0; 3]);
        factors(&[], 1.0, &mut sorted, &mut out);
        assert!(out.is_empty());
    }
}
