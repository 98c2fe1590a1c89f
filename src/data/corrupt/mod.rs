//! The corruptions of ImageNet-C (Hendrycks & Dietterich 2019, arXiv 1903.12261), after its `imagenet_c/corruptions.py`, and
//! copies of whole data sets under one of them.
//!
//! ImageNet-C's images were cropped to 224 pixels first. Here they are corrupted as they are stored: what has an extent in
//! pixels (noise, the radius of a blur, JPEG's blocks) is the finer in the encoder's input, the larger the image; pixels of
//! `pixelate` and the map of `fog` grow with it. Values are bytes over 255; results are clipped to 0..1 and cut down to
//! bytes, as `numpy.uint8` does.
//!
//! Random numbers are a function of the seed, the image's path in its data set, the kind and the pixel: severities of a kind
//! differ in strength alone, and neither other images nor the number of threads matter.

mod blur;
mod colour;
mod compress;
mod dataset;
mod encode;
mod fog;
mod noise;
mod plan;
mod target;

pub use dataset::{CopyOptions, Report, corrupt_dataset};

use super::decode::{MAX_PIXELS, MAX_SIDE};
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is done to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Normal noise on every value.
    GaussianNoise,
    /// Poisson counts in the place of light.
    ShotNoise,
    /// A disc for every point.
    DefocusBlur,
    /// Values drawn towards their channel's mean.
    Contrast,
    /// A plasma fractal over everything.
    Fog,
    /// Compressed with losses.
    Jpeg,
    /// Shrunk and enlarged again.
    Pixelate,
    /// The value of HSV raised.
    Brightness,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 8] = [
        Kind::GaussianNoise,
        Kind::ShotNoise,
        Kind::DefocusBlur,
        Kind::Contrast,
        Kind::Fog,
        Kind::Jpeg,
        Kind::Pixelate,
        Kind::Brightness,
    ];

    /// As it is written on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Kind::GaussianNoise => "gaussian_noise",
            Kind::ShotNoise => "shot_noise",
            Kind::DefocusBlur => "defocus_blur",
            Kind::Contrast => "contrast",
            Kind::Fog => "fog",
            Kind::Jpeg => "jpeg",
            Kind::Pixelate => "pixelate",
            Kind::Brightness => "brightness",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How strong a corruption is: 1 to 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Severity(u8);

impl Severity {
    /// The level that stands for this severity. Errors: [`Error::Options`] outside 1 to 5.
    pub fn new(level: u8) -> Result<Self> {
        match level {
            1..=5 => Ok(Severity(level)),
            _ => Err(Error::Options(format!("severity {level}: expected 1 to 5"))),
        }
    }

    /// This severity's of the constants of all.
    fn of<T: Copy>(self, constants: [T; 5]) -> T {
        constants[usize::from(self.0) - 1]
    }
}

impl TryFrom<u8> for Severity {
    type Error = Error;

    fn try_from(level: u8) -> Result<Self> {
        Severity::new(level)
    }
}

impl From<Severity> for u8 {
    fn from(severity: Severity) -> u8 {
        severity.0
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A kind and how strong it is, and what its random numbers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// What is done.
    pub kind: Kind,
    /// How strong it is.
    pub severity: Severity,
    /// Equal seeds give equal images.
    pub seed: u64,
}

/// Corrupts `pixels`, RGB8 `[height, width, 3]` of `size` `[height, width]`; the result has the same shape. `image` tells
/// images of one seed apart.
///
/// # Errors
/// [`Error::Shape`] when `pixels` are not `size`, or the image is empty or larger than is read from files, or, for fog, has
/// more than 16384 pixels a side.
pub fn corrupt(corruption: &Corruption, image: u64, mut pixels: Vec<u8>, size: [usize; 2]) -> Result<Vec<u8>> {
    let [height, width] = size;
    let sides = 1..=MAX_SIDE as usize;
    let fits = sides.contains(&height) && sides.contains(&width) && (height * width) as u64 <= MAX_PIXELS;
    if !fits || pixels.len() != 3 * height * width {
        return Err(Error::Shape {
            what: "an image to corrupt",
            expected: format!("1 to {MAX_SIDE} pixels a side, at most {MAX_PIXELS} in all, three bytes each"),
            found: format!("{width}×{height} and {} bytes", pixels.len()),
        });
    }
    let Corruption { kind, severity, seed } = *corruption;
    let stream = Stream {
        seed: Purpose::Corrupt.seed(seed),
        // The low half alone: the high one would share the key with the purpose.
        step: image >> 32,
        example: image as u32,
        tangent: kind as u32,
        set: 0,
    };
    match kind {
        Kind::GaussianNoise => noise::gaussian(&mut pixels, severity, &stream),
        Kind::ShotNoise => noise::shot(&mut pixels, severity, &stream),
        Kind::DefocusBlur => blur::defocus(&mut pixels, size, severity),
        Kind::Contrast => colour::contrast(&mut pixels, severity),
        Kind::Fog => fog::fog(&mut pixels, size, severity, &stream)?,
        Kind::Jpeg => return compress::jpeg(&pixels, size, severity),
        Kind::Pixelate => return compress::pixelate(pixels, size, severity),
        Kind::Brightness => colour::brightness(&mut pixels, severity),
    }
    Ok(pixels)
}

/// How far below an integer a value may lie that rounding errors alone keep from it, in units of 1/255.
const SLACK: f64 = 1e-6;

/// `value`, clipped to 0..1, as a byte: cut down, not rounded.
fn to_byte(value: f64) -> u8 {
    (value.clamp(0.0, 1.0) * 255.0 + SLACK) as u8
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn corruption(kind: Kind, level: u8) -> Corruption {
        Corruption { kind, severity: Severity::new(level).unwrap(), seed: 7 }
    }

    /// The picture of the decoding tests, 20×14.
    pub fn picture() -> Vec<u8> {
        include_bytes!("../../../tests/data/images/rgb.png.rgb").to_vec()
    }

    /// What ImageNet-C's own tools make of [`picture`], by `tests/data/corrupt/make.py`, at the five severities.
    pub fn differences(kind: Kind, expected: &[u8]) -> Vec<u8> {
        let parts = (1..=5).zip(expected.chunks_exact(840)).flat_map(|(level, expected)| {
            let found = corrupt(&corruption(kind, level), 0, picture(), [14, 20]).unwrap();
            found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).collect::<Vec<_>>()
        });
        let all: Vec<u8> = parts.collect();
        assert_eq!(all.len(), 5 * 840);
        all
    }

    #[test]
    fn names_are_the_serialised_ones() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        for level in [0, 6, 255] {
            assert!(Severity::new(level).unwrap_err().is_usage());
            assert!(serde_json::from_str::<Severity>(&level.to_string()).is_err());
        }
    }

    #[test]
    fn every_byte_survives_the_way_through_values() {
        for byte in 0..=255u8 {
            assert_eq!(to_byte(f64::from(byte) / 255.0), byte);
        }
        assert_eq!([to_byte(-1.0), to_byte(0.999), to_byte(1.5)], [0, 254, 255]);
    }

    #[test]
    fn only_noise_and_fog_depend_on_seed_and_image() {
        for kind in Kind::ALL {
            let base = corruption(kind, 3);
            let run = |corruption: &Corruption, image| corrupt(corruption, image, picture(), [14, 20]).unwrap();
            let first = run(&base, 1);
            assert_eq!(first, run(&base, 1));
            assert_ne!(first, picture(), "{kind}");
            let random = matches!(kind, Kind::GaussianNoise | Kind::ShotNoise | Kind::Fog);
            for other in [run(&Corruption { seed: 8, ..base }, 1), run(&base, 2), run(&base, 1 << 40)] {
                assert_eq!(other != first, random, "{kind}");
            }
        }
    }

    #[test]
    fn images_of_every_small_size_are_corrupted() {
        for kind in Kind::ALL {
            for (height, width) in [(1, 1), (1, 9), (9, 1), (2, 3), (17, 8), (8, 33)] {
                let pixels: Vec<u8> = (0..3 * height * width).map(|i| (i * 37) as u8).collect();
                for level in [1, 5] {
                    let found = corrupt(&corruption(kind, level), 0, pixels.clone(), [height, width]).unwrap();
                    assert_eq!(found.len(), pixels.len(), "{kind} {width}×{height}");
                }
            }
        }
    }

    #[test]
    fn wrong_shapes_are_refused() {
        for (length, size) in [(0, [0, 0]), (3, [1, 2]), (3, [usize::MAX, usize::MAX]), (12, [1, 3])] {
            let error = corrupt(&corruption(Kind::Contrast, 1), 0, vec![0; length], size).unwrap_err();
            assert!(matches!(error, Error::Shape { .. }), "{error}");
        }
        let error = corrupt(&corruption(Kind::Fog, 1), 0, vec![0; 3 * 16385], [1, 16385]).unwrap_err();
        assert!(error.to_string().contains("16384"), "{error}");
    }
}
