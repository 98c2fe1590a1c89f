//! The learning rate over a run.

/// Share of the peak learning rate at `step` (from 0) of `steps`: linear over the first `warmup` steps, reaching 1 at the
/// last of them, then a half cosine that would be 0 at `steps`.
pub fn warmup_cosine(step: u64, warmup: u64, steps: u64) -> f64 {
    if step < warmup {
        return (step + 1) as f64 / warmup as f64;
    }
    if step >= steps {
        return 0.0;
    }
    let done = (step - warmup) as f64 / (steps - warmup) as f64;
    0.5 * (1.0 + (std::f64::consts::PI * done).cos())
}

/// Warm-up steps of a run of `steps` where nothing else is asked for.
pub fn usual_warmup(steps: u64) -> u64 {
    (steps / 10).min(20)
}

#[cfg(test)]
mod tests {
    use super::warmup_cosine;

    #[test]
    fn rises_linearly_then_falls_to_zero() {
        let rates: Vec<f64> = (0..=12).map(|step| warmup_cosine(step, 4, 12)).collect();
        assert_eq!(rates[..5], [0.25, 0.5, 0.75, 1.0, 1.0]);
        assert!((rates[8] - 0.5).abs() < 1e-12);
        assert!(rates[4..].windows(2).all(|pair| pair[1] < pair[0]));
        assert_eq!(rates[12], 0.0);
    }

    #[test]
    fn degenerate_lengths() {
        assert_eq!(warmup_cosine(0, 0, 1), 1.0);
        assert_eq!(warmup_cosine(0, 0, 0), 0.0);
        assert_eq!(warmup_cosine(9, 10, 10), 1.0);
        assert_eq!(warmup_cosine(10, 10, 10), 0.0);
        assert_eq!(warmup_cosine(2, 10, 5), 0.3);
    }
}
