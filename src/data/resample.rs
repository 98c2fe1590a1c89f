//! Antialiased resampling of RGB, bit for bit as Pillow's `Image.resize(size, filter, box)`.
//!
//! (`Nearest` may take the other neighbour where a sample falls exactly between two pixels: Pillow adds up steps.)
//! `fast_image_resize` keeps its weights in 16 bits and so differs from Pillow by one in places; this keeps Pillow's 22.

use super::Interpolation;
use image::RgbImage;
use std::ops::Range;

const PRECISION_BITS: u32 = 32 - 8 - 2;

/// What of `image` to resize to what.
pub(crate) struct Resample {
    /// The part of the image that may be read: x, y, width, height in pixels.
    pub view: [usize; 4],
    /// Box `[x0, y0, x1, y1]` to resize, within the view and relative to it, pixels; may be fractional.
    pub source: [f64; 4],
    /// Height and width the box is resized to.
    pub size: [usize; 2],
    /// Rows of the result to compute.
    pub rows: Range<usize>,
    /// Columns of the result to compute.
    pub columns: Range<usize>,
    /// Filter.
    pub filter: Filter,
}

/// What weighs the inputs of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// One that preprocessing knows.
    Of(Interpolation),
    /// The mean of the inputs whose centres lie within the output's pixel; enlarging repeats pixels.
    #[cfg(feature = "cli")]
    Box,
}

/// Reused between images.
#[derive(Default)]
pub(crate) struct Scratch {
    horizontal: Vec<u8>,
    sums: Vec<i32>,
}

impl Resample {
    /// Writes `[rows, columns, 3]` bytes to `out`.
    pub fn run(&self, image: &RgbImage, scratch: &mut Scratch, out: &mut [u8]) {
        let [x0, y0, x1, y1] = self.source;
        let [left, top, width, height] = self.view;
        let across = Weights::new(self.filter, width, x0..x1, self.size[1], self.columns.clone());
        let down = Weights::new(self.filter, height, y0..y1, self.size[0], self.rows.clone());
        // Horizontally first, on the rows that the vertical pass reads.
        let first = down.bounds.iter().map(|b| b.start).min().unwrap_or(0);
        let last = down.bounds.iter().map(|b| b.end).max().unwrap_or(0);
        let row_bytes = 3 * self.columns.len();
        scratch.horizontal.resize((last - first) * row_bytes, 0);
        let source = image.as_raw();
        for (y, row) in (first..last).zip(scratch.horizontal.chunks_exact_mut(row_bytes)) {
            let start = 3 * ((top + y) * image.width() as usize + left);
            across.row(&source[start..start + 3 * width], row);
        }
        scratch.sums.resize(row_bytes, 0);
        for (bounds, (weights, row)) in
            down.bounds.iter().zip(down.weights.chunks_exact(down.stride).zip(out.chunks_exact_mut(row_bytes)))
        {
            scratch.sums.fill(1 << (PRECISION_BITS - 1));
            for (y, &weight) in bounds.clone().zip(weights) {
                let input = &scratch.horizontal[(y - first) * row_bytes..(y - first + 1) * row_bytes];
                for (sum, &value) in scratch.sums.iter_mut().zip(input) {
                    *sum += i32::from(value) * weight;
                }
            }
            for (byte, &sum) in row.iter_mut().zip(&scratch.sums) {
                *byte = clip(sum);
            }
        }
    }
}

/// One dimension's weights: output i reads inputs `bounds[i]`, weighted by `weights[i·stride..]`.
struct Weights {
    bounds: Vec<Range<usize>>,
    weights: Vec<i32>,
    stride: usize,
}

impl Weights {
    fn new(filter: Filter, length: usize, source: Range<f64>, size: usize, wanted: Range<usize>) -> Self {
        let scale = (source.end - source.start) / size as f64;
        if filter == Filter::Of(Interpolation::Nearest) {
            let sample = |i: usize| ((source.start + (i as f64 + 0.5) * scale) as usize).min(length - 1);
            let bounds: Vec<_> = wanted.map(|i| sample(i)..sample(i) + 1).collect();
            return Weights { weights: vec![1 << PRECISION_BITS; bounds.len()], bounds, stride: 1 };
        }
        let (kernel, support): (fn(f64) -> f64, f64) = match filter {
            Filter::Of(Interpolation::Bilinear) => (triangle, 1.0),
            Filter::Of(Interpolation::Lanczos) => (lanczos, 3.0),
            #[cfg(feature = "cli")]
            Filter::Box => (boxed, 0.5),
            Filter::Of(_) => (cubic, 2.0),
        };
        let filter_scale = scale.max(1.0);
        let shrink = 1.0 / filter_scale;
        let support = support * filter_scale;
        // No output reads more inputs than there are.
        let stride = (support.ceil() as usize * 2 + 1).min(length);
        let mut bounds = Vec::with_capacity(wanted.len());
        let mut weights = vec![0; wanted.len() * stride];
        let mut exact = vec![0.0; stride];
        for (i, fixed) in wanted.zip(weights.chunks_exact_mut(stride)) {
            let center = source.start + (i as f64 + 0.5) * scale;
            // Casts saturate, so what lies before the first input becomes 0.
            let start = ((center - support + 0.5) as usize).min(length - 1);
            let end = ((center + support + 0.5) as usize).clamp(start + 1, length.min(start + stride));
            let exact = &mut exact[..end - start];
            for (x, weight) in (start..end).zip(exact.iter_mut()) {
                *weight = kernel((x as f64 - center + 0.5) * shrink);
            }
            let total: f64 = exact.iter().sum();
            for (fixed, &weight) in fixed.iter_mut().zip(exact.iter()) {
                let weight = if total == 0.0 { weight } else { weight / total };
                *fixed = (weight * f64::from(1 << PRECISION_BITS) + 0.5f64.copysign(weight)) as i32;
            }
            bounds.push(start..end);
        }
        Weights { bounds, weights, stride }
    }

    fn row(&self, input: &[u8], output: &mut [u8]) {
        let (input, output) = (input.as_chunks::<3>().0, output.as_chunks_mut::<3>().0);
        for (pixel, (bounds, weights)) in
            output.iter_mut().zip(self.bounds.iter().zip(self.weights.chunks(self.stride)))
        {
            let mut sums = [1 << (PRECISION_BITS - 1); 3];
            for (source, &weight) in input[bounds.clone()].iter().zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(source) {
                    *sum += i32::from(value) * weight;
                }
            }
            *pixel = sums.map(clip);
        }
    }
}

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

#[cfg(feature = "cli")]
fn boxed(x: f64) -> f64 {
    if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| {
        let angle = x * std::f64::consts::PI;
        if x == 0.0 { 1.0 } else { angle.sin() / angle }
    };
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `resampled.rgb` is Pillow's, by `tests/data/images/make.py`.
    #[test]
    fn every_filter_gives_pillows_bytes() {
        let pixels = include_bytes!("../../tests/data/images/rgb.png.rgb").to_vec();
        let mut expected = include_bytes!("../../tests/data/images/resampled.rgb").as_slice();
        let image = RgbImage::from_raw(20, 14, pixels).unwrap();
        let boxes = [
            ([9, 7], [2.5, 1.25, 17.75, 13.0]),
            ([28, 32], [0.0, 0.0, 20.0, 14.0]),
            ([40, 5], [3.0, 2.0, 19.0, 12.0]),
            ([3, 20], [0.0, 0.0, 20.0, 14.0]),
        ];
        let filters = [Interpolation::Bilinear, Interpolation::Bicubic, Interpolation::Lanczos, Interpolation::Nearest];
        let mut scratch = Scratch::default();
        for (filter, (size, source)) in filters.into_iter().flat_map(|filter| boxes.map(|case| (filter, case))) {
            let [height, width] = size;
            let whole = Resample {
                view: [0, 0, 20, 14],
                source,
                size,
                rows: 0..height,
                columns: 0..width,
                filter: Filter::Of(filter),
            };
            let mut out = vec![0; 3 * height * width];
            whole.run(&image, &mut scratch, &mut out);
            let pillow;
            (pillow, expected) = expected.split_at(out.len());
            assert!(out == pillow, "{filter:?} to {size:?}");

            // A window of the result is what the whole result shows there.
            let window = Resample { rows: 1..height - 1, columns: 2..width - 1, ..whole };
            let mut part = vec![0; 3 * (height - 2) * (width - 3)];
            window.run(&image, &mut scratch, &mut part);
            for (y, row) in part.chunks(3 * (width - 3)).enumerate() {
                let start = 3 * ((y + 1) * width + 2);
                assert!(row == &out[start..start + row.len()], "row {y} of a window, {filter:?} to {size:?}");
            }
        }
        assert!(expected.is_empty());
    }

    /// Nothing outside the view is read: the result is that of the part cut out.
    #[test]
    fn a_view_is_an_image_of_its_own() {
        let pixels = include_bytes!("../../tests/data/images/rgb.png.rgb").to_vec();
        let image = RgbImage::from_raw(20, 14, pixels).unwrap();
        let part = image::imageops::crop_imm(&image, 4, 3, 9, 8).to_image();
        let resample = |view| Resample {
            view,
            source: [0.5, 0.0, 9.0, 7.5],
            size: [6, 11],
            rows: 0..6,
            columns: 0..11,
            filter: Filter::Of(Interpolation::Bicubic),
        };
        let (mut a, mut b) = (vec![0; 198], vec![1; 198]);
        resample([4, 3, 9, 8]).run(&image, &mut Scratch::default(), &mut a);
        resample([0, 0, 9, 8]).run(&part, &mut Scratch::default(), &mut b);
        assert_eq!(a, b);
    }
}
