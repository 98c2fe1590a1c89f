//! Noise that every value has of its own.

use super::{Severity, to_byte};
use crate::rng::Stream;

/// Normals drawn at a time; a multiple of a block's four.
const DRAWN: usize = 1024;

/// v + N(0, c²), for every value.
pub(super) fn gaussian(pixels: &mut [u8], severity: Severity, stream: &Stream) {
    let scale = severity.of([0.08, 0.12, 0.18, 0.26, 0.38]);
    let mut normals = [0f32; DRAWN];
    for (i, values) in pixels.chunks_mut(DRAWN).enumerate() {
        let normals = &mut normals[..values.len()];
        stream.normals_from((i * DRAWN / 4) as u32, normals);
        for (value, normal) in values.iter_mut().zip(normals) {
            *value = to_byte(f64::from(*value) / 255.0 + scale * f64::from(*normal));
        }
    }
}

/// Poisson(c·v)/c, for every value.
///
/// By inversion: the count is the number of k whose distribution function P(X ≤ k) does not exceed a uniform number of 53 bits.
/// There are 256 rates, of at most 60, and so 256 tables.
pub(super) fn shot(pixels: &mut [u8], severity: Severity, stream: &Stream) {
    let photons = severity.of([60.0, 25.0, 12.0, 5.0, 3.0]);
    let tables: Vec<Vec<f64>> = (0..=255u8).map(|byte| distribution(photons * f64::from(byte) / 255.0)).collect();
    for (i, values) in pixels.chunks_mut(2).enumerate() {
        let [a, b, c, d] = stream.block(i as u32);
        for (value, words) in values.iter_mut().zip([[a, b], [c, d]]) {
            let count = tables[usize::from(*value)].partition_point(|&below| below <= uniform(words));
            *value = to_byte(count as f64 / photons);
        }
    }
}

/// The middle of one of 2⁵³ equal parts of 0..1.
fn uniform([high, low]: [u32; 2]) -> f64 {
    let word = u64::from(high) << 32 | u64::from(low);
    ((word >> 11) as f64 + 0.5) * 2f64.powi(-53)
}

/// P(X ≤ k) of a Poisson variable of this rate, for k from 0 until nothing is added any more.
fn distribution(rate: f64) -> Vec<f64> {
    let mut term = libm::exp(-rate);
    let (mut sum, mut sums) = (0.0, Vec::new());
    for k in 1.. {
        let next = sum + term;
        // Below the rate the terms still grow.
        if next == sum && f64::from(k) > rate {
            break;
        }
        sum = next;
        sums.push(sum);
        term *= rate / f64::from(k);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::super::tests::corruption;
    use super::super::{Kind, corrupt};
    use super::*;

    const SIDE: usize = 256;

    /// Mean and variance of what becomes of a grey image, of values in 0..1.
    fn moments(kind: Kind, level: u8, grey: u8) -> [f64; 2] {
        let size = [SIDE, SIDE];
        let found = corrupt(&corruption(kind, level), 3, vec![grey; 3 * SIDE * SIDE], size).unwrap();
        let values = found.iter().map(|&byte| f64::from(byte) / 255.0);
        let mean = values.clone().sum::<f64>() / found.len() as f64;
        [mean, values.map(|v| (v - mean) * (v - mean)).sum::<f64>() / found.len() as f64]
    }

    /// Cutting down to bytes takes half of 1/255 off and adds a twelfth of its square; 3 SDs of 196608 values' mean are 0.2 %
    /// of the noise's.
    #[test]
    fn gaussian_noise_has_its_mean_and_variance() {
        for (level, scale) in [(1, 0.08), (2, 0.12)] {
            let [mean, variance] = moments(Kind::GaussianNoise, level, 128);
            assert!((mean - (128.0 - 0.5) / 255.0).abs() < 0.01 * scale, "{mean}");
            let expected = scale * scale + 1.0 / (12.0 * 255.0 * 255.0);
            // At 4σ from both ends, clipping takes next to nothing away.
            assert!((variance / expected - 1.0).abs() < 0.02, "{variance} {expected}");
        }
    }

    /// At the highest level half of a black image's values are clipped to 0, and the others' mean is c·φ(0)/½.
    #[test]
    fn gaussian_noise_is_clipped() {
        let size = [SIDE, SIDE];
        let found = corrupt(&corruption(Kind::GaussianNoise, 5), 3, vec![0; 3 * SIDE * SIDE], size).unwrap();
        let dark = found.iter().filter(|&&byte| byte == 0).count() as f64 / found.len() as f64;
        // The byte 0 holds 1/255 more: Φ(0.0103).
        assert!((dark - 0.5041).abs() < 0.005, "{dark}");
    }

    /// Poisson(λ)/c: mean λ/c and variance λ/c², where clipping at c hardly reaches.
    #[test]
    fn shot_noise_has_its_mean_and_variance() {
        for (level, photons, grey) in [(1, 60.0, 128), (2, 25.0, 90), (3, 12.0, 51)] {
            let [mean, variance] = moments(Kind::ShotNoise, level, grey);
            let value = f64::from(grey) / 255.0;
            // Up to 1/255 is cut off: counts do not fall on bytes.
            assert!(mean <= value + 0.002 && mean >= value - 1.0 / 255.0 - 0.002, "{mean} {value}");
            assert!((variance * photons / value - 1.0).abs() < 0.03, "{variance} {}", value / photons);
        }
    }

    #[test]
    fn no_light_has_no_shot_noise() {
        for level in 1..=5 {
            assert_eq!(moments(Kind::ShotNoise, level, 0), [0.0, 0.0]);
        }
    }

    /// e⁻³(1 + 3 + 9/2 + 27/6) = 13·e⁻³ = 0.647231888782.
    #[test]
    fn distributions_are_poissons() {
        let sums = distribution(3.0);
        assert!((sums[3] - 0.647_231_888_782_231).abs() < 1e-15);
        for rate in [0.0, 0.01, 3.0, 25.0, 60.0] {
            let sums = distribution(rate);
            assert!(sums.is_sorted() && (sums[sums.len() - 1] - 1.0).abs() < 1e-13, "{rate}");
            // Σ P(X > k) is the mean.
            let mean: f64 = sums.iter().map(|below| 1.0 - below).sum();
            assert!((mean - rate).abs() < 1e-11, "{rate} {mean}");
        }
        assert_eq!(distribution(0.0), [1.0]);
    }

    #[test]
    fn a_values_noise_does_not_depend_on_what_follows() {
        let picture: Vec<u8> = (0..3 * 2000u32).map(|i| i as u8).collect();
        for kind in [Kind::GaussianNoise, Kind::ShotNoise] {
            let run =
                |rows: usize| corrupt(&corruption(kind, 2), 1, picture[..60 * rows].to_vec(), [rows, 20]).unwrap();
            assert_eq!(run(100)[..60 * 7], run(7));
        }
    }
}
