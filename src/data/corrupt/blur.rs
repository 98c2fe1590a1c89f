//! Defocus: a disc for every point.

use super::{Severity, to_byte};

/// Every channel correlated with a disc (`Disc::new`), the image mirrored about its border pixels.
pub(super) fn defocus(pixels: &mut [u8], [height, width]: [usize; 2], severity: Severity) {
    let (radius, blur) = severity.of([(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)]);
    let disc = Disc::new(radius, blur);
    let (reach, padded) = (disc.reach, 3 * (width + 2 * disc.reach));
    // The rows that an output row reads, before they are overwritten: row y in place y mod (2·reach + 1).
    let rows = 2 * reach + 1;
    let mut ring = vec![0f64; rows * padded];
    let load = |ring: &mut [f64], pixels: &[u8], y: usize| {
        let row = pixels[3 * width * y..][..3 * width].as_chunks::<3>().0;
        let target = ring[y % rows * padded..][..padded].as_chunks_mut::<3>().0;
        for (x, target) in (-(reach as isize)..).zip(target) {
            *target = row[mirrored(x, width)].map(|byte| f64::from(byte) / 255.0);
        }
    };
    (0..reach.min(height)).for_each(|y| load(&mut ring, pixels, y));
    let mut sums = vec![0f64; 3 * width];
    for y in 0..height {
        if y + reach < height {
            load(&mut ring, pixels, y + reach);
        }
        sums.fill(0.0);
        for &(dy, dx, weight) in &disc.taps {
            let source = mirrored(y as isize + dy as isize - reach as isize, height);
            let source = &ring[source % rows * padded + 3 * dx..][..3 * width];
            for (sum, value) in sums.iter_mut().zip(source) {
                *sum += weight * value;
            }
        }
        for (byte, &sum) in pixels[3 * width * y..].iter_mut().zip(&sums) {
            *byte = to_byte(sum);
        }
    }
}

/// The pixel that is seen at `i`, mirrored about the first and last of `length` as often as needed (OpenCV's `REFLECT_101`).
fn mirrored(i: isize, length: usize) -> usize {
    let period = 2 * (length as isize - 1);
    if period == 0 {
        return 0;
    }
    let i = i.rem_euclid(period);
    i.min(period - i) as usize
}

/// Weights of a blurred disc.
struct Disc {
    /// Pixels from its middle to the grid's edge.
    reach: usize,
    /// Row and column in the grid, from 0, and weight; those that matter.
    taps: Vec<(usize, usize, f64)>,
}

impl Disc {
    /// The disc of `radius` on a grid of 17² points (of (2·radius + 1)² beyond 8), smoothed by a normal density of standard
    /// deviation `blur` on 3² points (5²), mirrored at the grid's edge like the image at its own.
    ///
    /// The weights add up to 1 unless the disc touches the grid's edge, as radius 8 and 10 do: mirrored smoothing then counts
    /// the points next to the edge more than once, and ImageNet-C's images become 1.3 % and 1.1 % brighter.
    fn new(radius: usize, blur: f64) -> Disc {
        let (reach, spread) = if radius <= 8 { (8, 1isize) } else { (radius, 2) };
        let side = 2 * reach + 1;
        let square = |i: usize| i.abs_diff(reach).pow(2);
        let within = |y: usize, x: usize| square(y) + square(x) <= radius * radius;
        let points = (0..side * side).filter(|i| within(i / side, i % side)).count();
        let density: Vec<f64> =
            (-spread..=spread).map(|i| libm::exp(-((i * i) as f64) / (2.0 * blur * blur))).collect();
        let total: f64 = density.iter().sum();
        let near = |i: usize| {
            (-spread..=spread).zip(&density).map(move |(d, weight)| (mirrored(i as isize + d, side), weight / total))
        };
        let weight = |y: usize, x: usize| -> f64 {
            let rows =
                near(y).map(|(y, down)| down * near(x).filter(|&(x, _)| within(y, x)).map(|(_, w)| w).sum::<f64>());
            rows.sum::<f64>() / points as f64
        };
        let all = (0..side * side).map(|i| (i / side, i % side, weight(i / side, i % side)));
        // A thousand times less than what a byte could show, all taken together.
        let taps = all.filter(|&(.., weight)| weight > 1e-9).collect();
        Disc { reach, taps }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{corruption, differences};
    use super::super::{Kind, corrupt};
    use super::*;

    fn total(radius: usize, blur: f64) -> f64 {
        Disc::new(radius, blur).taps.iter().map(|&(.., weight)| weight).sum()
    }

    /// A disc that touches its grid's edge has one point a side there, (8, 0), and 7 in the next row, y² ≤ 64 − 49. Smoothing loses
    /// w of the first and counts w of the second twice, at four sides: 1 + 4·w·(7 − 1)/197, w = e⁻²/(1 + 2e⁻²).
    #[test]
    fn weights_add_up() {
        for (radius, blur) in [(3, 0.1), (4, 0.5), (6, 0.5)] {
            assert!((total(radius, blur) - 1.0).abs() < 1e-9);
        }
        let side = (-2f64).exp() / (1.0 + 2.0 * (-2f64).exp());
        let expected = 1.0 + 4.0 * side * 6.0 / 197.0;
        assert!((total(8, 0.5) - expected).abs() < 1e-6, "{} {expected}", total(8, 0.5));
        // The sum of OpenCV's.
        assert!((total(10, 0.5) - 1.010_785_8).abs() < 1e-6, "{}", total(10, 0.5));
    }

    #[test]
    fn a_disc_without_smoothing_has_equal_weights() {
        let disc = Disc::new(3, 0.1);
        // 1 + 2·(3 + …): the lattice points within radius 3.
        assert_eq!(disc.taps.len(), 29);
        assert!(disc.taps.iter().all(|&(y, x, weight)| {
            (weight - 1.0 / 29.0).abs() < 1e-12 && y.abs_diff(8).pow(2) + x.abs_diff(8).pow(2) <= 9
        }));
    }

    #[test]
    fn an_even_image_stays_even() {
        for (level, gain) in [(1, 1.0), (2, 1.0), (3, 1.0), (4, total(8, 0.5)), (5, total(10, 0.5))] {
            for byte in [0, 1, 100, 255] {
                let found =
                    corrupt(&corruption(Kind::DefocusBlur, level), 0, vec![byte; 3 * 11 * 30], [11, 30]).unwrap();
                let expected = to_byte(f64::from(byte) / 255.0 * gain);
                assert!(found.iter().all(|&v| v == expected), "level {level}: {byte} {:?}", &found[..6]);
            }
        }
    }

    /// A point becomes the disc: 255·29 lattice points would make 255/29 = 8.79 of each.
    #[test]
    fn a_point_becomes_the_disc() {
        let mut pixels = vec![0; 3 * 21 * 21];
        pixels[3 * (10 * 21 + 10)..][..3].fill(255);
        let found = corrupt(&corruption(Kind::DefocusBlur, 1), 0, pixels, [21, 21]).unwrap();
        for (i, pixel) in found.as_chunks::<3>().0.iter().enumerate() {
            let lit = (i / 21).abs_diff(10).pow(2) + (i % 21).abs_diff(10).pow(2) <= 9;
            assert_eq!(*pixel, if lit { [8; 3] } else { [0; 3] });
        }
    }

    #[test]
    fn mirrors_repeat_no_border_pixel() {
        assert_eq!((-5..8).map(|i| mirrored(i, 3)).collect::<Vec<_>>(), [1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1]);
        assert_eq!((-3..3).map(|i| mirrored(i, 1)).collect::<Vec<_>>(), [0; 6]);
    }

    /// OpenCV's weights have 24 bits: what is an integer by symmetry may come out below it.
    #[test]
    fn as_imagenet_c() {
        let found = differences(Kind::DefocusBlur, include_bytes!("../../../tests/data/corrupt/defocus_blur.rgb"));
        let off = found.iter().filter(|&&d| d > 0).count();
        assert!(found.iter().all(|&d| d <= 1) && off < 40, "{off} of {}", found.len());
    }
}
