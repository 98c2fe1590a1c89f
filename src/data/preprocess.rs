//! How a photo becomes the encoder's input.

use serde::{Deserialize, Serialize};

/// Resampling filter. Both are antialiased when they shrink, as in Pillow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Triangle filter.
    Bilinear,
    /// Cubic convolution, a = −0.5.
    Bicubic,
    /// Lanczos, three lobes.
    Lanczos,
    /// Nearest sample.
    Nearest,
}

/// How the resized image relates to the crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Short side to the given pixels, aspect kept, then a centre crop.
    ShortSide(usize),
    /// Both sides to the given [height, width] pixels, aspect ignored, then a centre crop (a no-op when equal).
    Exact([usize; 2]),
}

/// Evaluation preprocessing of a checkpoint. Written into adapters, so that evaluation never uses another one unnoticed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Height and width fed to the encoder, pixels.
    pub crop: [usize; 2],
    /// Resize ahead of the crop.
    pub resize: Resize,
    /// Resampling filter.
    pub interpolation: Interpolation,
    /// Per-channel mean, of values in 0..1.
    pub mean: [f32; 3],
    /// Per-channel standard deviation, of values in 0..1.
    pub std: [f32; 3],
}

/// Most pixels per side of the encoder's input, and of the image it is cropped from.
const MAX_SIDE: usize = 1 << 14;

impl Preprocess {
    /// Numbers per image: 3·H·W.
    pub fn image_len(&self) -> usize {
        3 * self.crop[0] * self.crop[1]
    }

    /// Checks that images can be made: sizes within 1..=16384, finite mean, finite and positive standard deviation.
    ///
    /// # Errors
    /// What is wrong, for the caller to add the file that these values came from.
    pub fn check(&self) -> Result<(), String> {
        let resize = match self.resize {
            Resize::ShortSide(side) => [side; 2],
            Resize::Exact(sides) => sides,
        };
        if let Some(side) = self.crop.into_iter().chain(resize).find(|side| !(1..=MAX_SIDE).contains(side)) {
            return Err(format!("preprocessing asks for images of {side} pixels; sizes must be within 1..={MAX_SIDE}"));
        }
        if self.mean.iter().any(|m| !m.is_finite()) || self.std.iter().any(|s| !s.is_finite() || *s <= 0.0) {
            return Err(format!(
                "preprocessing has mean {:?} and standard deviation {:?}; they must be finite, the latter positive",
                self.mean, self.std
            ));
        }
        Ok(())
    }
}
