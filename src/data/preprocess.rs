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
