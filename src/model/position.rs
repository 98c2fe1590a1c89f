//! Position embeddings brought to another grid, as the library that wrote the checkpoint does it.

use crate::weights::PositionResize;

/// Weights of the source samples that make one target sample.
struct Taps {
    first: Vec<usize>,
    weight: Vec<f64>,
}

/// Keys' cubic kernel.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

/// One [`Taps`] per target sample along an axis, `align_corners = false`: PyTorch's `interpolate(size=…, mode="bicubic")`,
/// with `antialias` or without.
fn taps(from: usize, to: usize, resize: PositionResize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|i| match resize {
            PositionResize::Bicubic => {
                let source = scale * (i as f64 + 0.5) - 0.5;
                let floor = source.floor();
                let t = source - floor;
                let weight = [t + 1.0, t, 1.0 - t, 2.0 - t].map(|x| cubic(x, -0.75)).to_vec();
                // Samples beyond the border repeat it.
                let first = (-1..3).map(|o| (floor as i64 + o).clamp(0, from as i64 - 1) as usize).collect();
                Taps { first, weight }
            }
            PositionResize::BicubicAntialias => {
                let stretch = scale.max(1.0);
                let (support, center) = (2.0 * stretch, scale * (i as f64 + 0.5));
                let low = (center - support + 0.5).max(0.0) as usize;
                let high = ((center + support + 0.5) as usize).min(from);
                let mut weight: Vec<f64> =
                    (low..high).map(|j| cubic((j as f64 - center + 0.5) / stretch, -0.5)).collect();
                let total: f64 = weight.iter().sum();
                weight.iter_mut().for_each(|w| *w /= total);
                Taps { first: (low..high).collect(), weight }
            }
        })
        .collect()
}

/// Resizes `table`, `[from₀·from₁, d]` in row-major grid order, to `[to₀·to₁, d]`.
pub(super) fn resize(table: &[f64], d: usize, from: [usize; 2], to: [usize; 2], resize: PositionResize) -> Vec<f64> {
    if from == to {
        return table.to_vec();
    }
    let (rows, columns) = (taps(from[0], to[0], resize), taps(from[1], to[1], resize));
    let mut wide = vec![0.0; from[0] * to[1] * d];
    for y in 0..from[0] {
        for (x, taps) in columns.iter().enumerate() {
            let out = &mut wide[(y * to[1] + x) * d..][..d];
            for (j, w) in taps.first.iter().zip(&taps.weight) {
                let source = &table[(y * from[1] + j) * d..][..d];
                out.iter_mut().zip(source).for_each(|(o, s)| *o += w * s);
            }
        }
    }
    let mut out = vec![0.0; to[0] * to[1] * d];
    for (y, taps) in rows.iter().enumerate() {
        for x in 0..to[1] {
            let out = &mut out[(y * to[1] + x) * d..][..d];
            for (j, w) in taps.first.iter().zip(&taps.weight) {
                let source = &wide[(j * to[1] + x) * d..][..d];
                out.iter_mut().zip(source).for_each(|(o, s)| *o += w * s);
            }
        }
    }
    out
}
