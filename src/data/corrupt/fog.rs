//! Fog: a plasma fractal over the image.

use super::{Severity, to_byte};
use crate::data::decode::MAX_BYTES;
use crate::rng::Stream;
use crate::{Error, Result};

/// Least side of the map, ImageNet-C's own.
const LEAST: usize = 256;

/// (v + c·p)·m/(m + c), m the image's largest value, p the top left of a plasma map. The map's side is the least power of two,
/// from 256, in which the image fits.
///
/// # Errors
/// [`Error::Shape`] when the map would take more bytes than decoding an image may.
pub(super) fn fog(pixels: &mut [u8], [height, width]: [usize; 2], severity: Severity, stream: &Stream) -> Result<()> {
    let (thickness, decay) = severity.of([(1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)]);
    let side = height.max(width).next_power_of_two().max(LEAST);
    let most = (MAX_BYTES / size_of::<f32>() as u64).isqrt() as usize;
    if side > most {
        let (expected, found) = (format!("at most {most} pixels a side"), format!("{width}×{height}"));
        return Err(Error::Shape { what: "an image under fog", expected, found });
    }
    let mut map = vec![0.0; side * side];
    stream.uniforms(&mut map);
    plasma(&mut map, side, decay);
    let brightest = f64::from(pixels.iter().copied().max().unwrap_or(0)) / 255.0;
    let dim = brightest / (brightest + thickness);
    for (row, map) in pixels.chunks_exact_mut(3 * width).zip(map.chunks_exact(side)) {
        for (pixel, &plasma) in row.as_chunks_mut::<3>().0.iter_mut().zip(map) {
            let light = thickness * f64::from(plasma);
            *pixel = pixel.map(|channel| to_byte((f64::from(channel) / 255.0 + light) * dim));
        }
    }
    Ok(())
}

/// The diamond-square fractal on a torus of `side`², a power of two, scaled to 0..1. `map` holds a uniform number of 0..1 for
/// every cell, which becomes the cell's height.
///
/// From the whole map on, every square's middle is set to the mean of its corners, then every edge's middle to the mean of the
/// edge's ends and the middles of the squares on both sides, each plus a number uniform within ±w²; w is 100, and divided
/// by `decay` from one size to the next half as large.
fn plasma(map: &mut [f32], side: usize, decay: f64) {
    // `side` is a power of two.
    let around = |i: usize| i & (side - 1);
    let at = |y: usize, x: usize| around(y) * side + around(x);
    map[0] = 0.0;
    let (mut step, mut wibble) = (side, 100.0);
    while step >= 2 {
        let (half, reach) = (step / 2, (wibble * wibble) as f32);
        let height = |map: &[f32], sum: f32, cell: usize| sum / 4.0 + reach * (2.0 * map[cell] - 1.0);
        for y in (0..side).step_by(step) {
            for x in (0..side).step_by(step) {
                let corners = map[at(y, x)] + map[at(y + step, x)] + map[at(y, x + step)] + map[at(y + step, x + step)];
                let cell = at(y + half, x + half);
                map[cell] = height(map, corners, cell);
            }
        }
        for y in (0..side).step_by(step) {
            for x in (0..side).step_by(step) {
                let (corner, middle) = (map[at(y, x)], map[at(y + half, x + half)]);
                let above = map[at(y + side - half, x + half)] + middle + corner + map[at(y, x + step)];
                let left = map[at(y + half, x + side - half)] + middle + corner + map[at(y + step, x)];
                for (sum, cell) in [(above, at(y, x + half)), (left, at(y + half, x))] {
                    map[cell] = height(map, sum, cell);
                }
            }
        }
        step = half;
        wibble /= decay;
    }
    let least = map.iter().copied().fold(f32::INFINITY, f32::min);
    let most = map.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least;
    map.iter_mut().for_each(|height| *height = (*height - least) / most);
}

#[cfg(test)]
mod tests {
    use super::super::tests::corruption;
    use super::super::{Kind, corrupt};
    use super::*;

    fn numbers(side: usize) -> Vec<f32> {
        (0..side * side).map(|i| ((i * 7919) % 1000) as f32 / 1000.0).collect()
    }

    /// The corner is 0. With the numbers 0.25 (the corner's, unread), 1, ¾ and ½ the middle is 0/4 + 10⁴·(2·½ − 1) = 0, the edge
    /// above 0 + 10⁴·(2·1 − 1) = 10⁴, the edge to the left 10⁴·(2·¾ − 1) = 5000: over 10⁴.
    #[test]
    fn the_least_map_by_hand() {
        let mut map = [0.25, 1.0, 0.75, 0.5];
        plasma(&mut map, 2, 3.0);
        assert_eq!(map, [0.0, 1.0, 0.5, 0.0]);
    }

    /// `plasma_fractal(8, decay)` of ImageNet-C with `numpy.random.uniform` replaced by slices of [`numbers`]: see
    /// `tests/data/corrupt/make.py`.
    #[test]
    fn as_imagenet_c() {
        let expected = include_bytes!("../../../tests/data/corrupt/plasma.f32").as_chunks::<4>().0;
        for (decay, expected) in [2.0, 1.7, 1.4].into_iter().zip(expected.chunks_exact(64)) {
            let mut map = numbers(8);
            plasma(&mut map, 8, decay);
            for (cell, (found, expected)) in map.iter().zip(expected).enumerate() {
                let expected = f32::from_le_bytes(*expected);
                assert!((found - expected).abs() < 2e-6, "decay {decay}, cell {cell}: {found} {expected}");
            }
        }
    }

    #[test]
    fn maps_span_0_to_1() {
        for decay in [2.0, 1.7, 1.5, 1.4] {
            let mut map = numbers(64);
            plasma(&mut map, 64, decay);
            let least = map.iter().copied().fold(f32::INFINITY, f32::min);
            let most = map.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!([least, most], [0.0, 1.0]);
        }
    }

    /// White, m = 1, c = 1.5: (1 + 1.5·p)/2.5 from 0.4 (102) to 1 (255). Black stays black, m = 0.
    #[test]
    fn fog_keeps_within_its_bounds() {
        let run = |byte| corrupt(&corruption(Kind::Fog, 1), 5, vec![byte; 3 * 256 * 256], [256, 256]).unwrap();
        let white = run(255);
        assert_eq!((white.iter().min(), white.iter().max()), (Some(&102), Some(&255)));
        assert!(white.as_chunks::<3>().0.iter().all(|[r, g, b]| r == g && g == b));
        assert!(run(0).iter().all(|&byte| byte == 0));
    }
}
