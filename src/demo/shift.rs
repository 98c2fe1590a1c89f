//! The shift: the same scenes through a worse camera than the model's training images knew.

use super::draw::Scene;

/// Contrast that is left about [`LEVEL`].
const CONTRAST: f64 = 0.25;
/// The haze's brightness.
const LEVEL: f64 = 0.62;
/// Gain of red, green and blue.
const CAST: [f64; 3] = [1.1, 0.9, 0.6];
/// Standard deviation of the sensor's noise, of values from 0 to 1.
const NOISE: f64 = 0.03;

/// Low contrast, a colour cast and sensor noise for the pixels `[SIDE, SIDE, 3]` of `scene`, in place.
pub fn shift(scene: &Scene, pixels: &mut [f64]) {
    let mut noise = vec![0.0; pixels.len()];
    scene.stream(1).normals(&mut noise);
    for (i, (value, noise)) in pixels.iter_mut().zip(noise).enumerate() {
        let hazy = LEVEL + CONTRAST * (*value - 0.5);
        *value = (CAST[i % 3] * hazy + NOISE * f64::from(noise)).clamp(0.0, 1.0);
    }
}
