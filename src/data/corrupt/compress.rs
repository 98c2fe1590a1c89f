//! What coarse coding leaves of an image.

use super::Severity;
use crate::data::decode::{self, Decoder, MAX_BYTES, Source};
use crate::data::resample::{Filter, Resample, Scratch};
use crate::{Error, Result};
use image::RgbImage;
use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, SamplingFactor};
use std::io::Cursor;
use std::path::Path;

/// Encoded as baseline JPEG with libjpeg's tables, halved chroma (4:2:0), and decoded again.
pub(super) fn jpeg(pixels: &[u8], [height, width]: [usize; 2], severity: Severity) -> Result<Vec<u8>> {
    let quality = severity.of([25, 18, 15, 10, 7]);
    let path = Path::new("an image in memory");
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, quality);
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    encoder
        .encode(pixels, width as u16, height as u16, ColorType::Rgb)
        .map_err(|error| Error::Image { path: path.to_owned(), problem: format!("cannot be encoded: {error}") })?;
    let source = Source { reader: Cursor::new(&bytes), length: bytes.len() as u64, path };
    let decoded = decode::decode(&Decoder::new(MAX_BYTES), source, &mut |_| Ok(8))?;
    Ok(decoded.pixels.into_raw())
}

/// Shrunk to ⌊c·side⌋ pixels a side, at least one, and enlarged again, both by Pillow's `BOX` filter.
pub(super) fn pixelate(pixels: Vec<u8>, [height, width]: [usize; 2], severity: Severity) -> Result<Vec<u8>> {
    let part = severity.of([0.6, 0.5, 0.4, 0.3, 0.25]);
    let small = [height, width].map(|side| ((side as f64 * part) as usize).max(1));
    resized(resized(pixels, [height, width], small)?, small, [height, width])
}

fn resized(pixels: Vec<u8>, [height, width]: [usize; 2], size: [usize; 2]) -> Result<Vec<u8>> {
    let image = RgbImage::from_raw(width as u32, height as u32, pixels).ok_or_else(|| Error::Shape {
        what: "pixels of an image",
        expected: format!("{width}×{height}"),
        found: "fewer".into(),
    })?;
    let mut out = vec![0; 3 * size[0] * size[1]];
    let resample = Resample {
        view: [0, 0, width, height],
        source: [0.0, 0.0, width as f64, height as f64],
        size,
        rows: 0..size[0],
        columns: 0..size[1],
        filter: Filter::Box,
    };
    resample.run(&image, &mut Scratch::default(), &mut out);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{corruption, differences};
    use super::super::{Kind, corrupt};

    fn grey(kind: Kind, level: u8, values: &[u8], size: [usize; 2]) -> Vec<u8> {
        let pixels = values.iter().flat_map(|&v| [v; 3]).collect();
        let found = corrupt(&corruption(kind, level), 0, pixels, size).unwrap();
        found.as_chunks::<3>().0.iter().map(|[v, ..]| *v).collect()
    }

    /// Half of 4 is 2: every quarter becomes its mean. A quarter of 4 is 1: all become the image's mean.
    #[test]
    fn pixelate_of_sixteen_pixels() {
        #[rustfmt::skip]
        let values = [
            0,  40,  8,  8,
            80, 120, 8,  8,
            1,  1,   30, 10,
            1,  1,   50, 70,
        ];
        let halved = [[60, 60, 8, 8], [60, 60, 8, 8], [1, 1, 40, 40], [1, 1, 40, 40]];
        assert_eq!(grey(Kind::Pixelate, 2, &values, [4, 4]), halved.concat());
        // Rows first, rounded: 14, 54, 10.5 → 11, 30.5 → 31; their mean is 27.5.
        assert_eq!(grey(Kind::Pixelate, 5, &values, [4, 4]), [28; 16]);
    }

    #[test]
    fn pixelate_as_imagenet_c() {
        let found = differences(Kind::Pixelate, include_bytes!("../../../tests/data/corrupt/pixelate.rgb"));
        assert!(found.iter().all(|&d| d == 0), "{found:?}");
    }

    /// At other severities a coefficient of so small and regular a picture lies half-way between two steps, and libjpeg-turbo
    /// takes the other one. This one is coded alike, and decoded by another decoder.
    #[test]
    fn jpeg_as_imagenet_c() {
        let found = differences(Kind::Jpeg, include_bytes!("../../../tests/data/corrupt/jpeg.rgb"));
        let worst = found[3 * 840..4 * 840].iter().max();
        assert!(worst <= Some(&3), "{worst:?}");
    }

    /// Root mean square errors of Pillow's (libjpeg-turbo's) JPEGs:
    ///
    /// ```python
    /// y, x, c = np.mgrid[0:64, 0:96, 0:3]
    /// source = ((x * x * (c + 1) // 40 + y * y // 8 + x * y // 16 + (x // 9 + y // 7) % 2 * 60) % 256).astype(np.uint8)
    /// for quality in [25, 18, 15, 10, 7]:
    ///     Image.fromarray(source).save(file := BytesIO(), "JPEG", quality=quality)
    ///     print(np.sqrt(((np.asarray(Image.open(file)) - source.astype(float)) ** 2).mean()))
    /// ```
    #[test]
    fn jpeg_loses_what_imagenet_cs_does() {
        let value = |y: usize, x: usize, c: usize| {
            (x * x * (c + 1) / 40 + y * y / 8 + x * y / 16 + (x / 9 + y / 7) % 2 * 60) as u8
        };
        let source: Vec<u8> = (0..64 * 96 * 3).map(|i| value(i / 288, i / 3 % 96, i % 3)).collect();
        for (level, expected) in (1..=5).zip([43.41, 45.38, 46.45, 48.65, 51.37]) {
            let found = corrupt(&corruption(Kind::Jpeg, level), 0, source.clone(), [64, 96]).unwrap();
            let squares: f64 = found.iter().zip(&source).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
            let error = (squares / source.len() as f64).sqrt();
            assert!((error / expected - 1.0).abs() < 0.01, "severity {level}: {error} {expected}");
        }
    }

    /// A block of one value has only a mean: at quality 25 it is stored in steps of 16·2/8 = 4 bytes.
    #[test]
    fn jpeg_keeps_even_images_but_for_a_step() {
        for value in [0u8, 77, 130, 255] {
            let found = grey(Kind::Jpeg, 1, &[value; 256], [16, 16]);
            assert!(found.iter().all(|&v| v.abs_diff(value) <= 2), "{value}: {found:?}");
        }
    }
}
