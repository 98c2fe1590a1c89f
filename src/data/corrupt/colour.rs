//! What is done to every pixel by itself, or knowing its channel's mean.

use super::{Severity, to_byte};

/// (v − m)·c + m, m the mean of the value's channel.
pub(super) fn contrast(pixels: &mut [u8], severity: Severity) {
    let left = severity.of([0.4, 0.3, 0.2, 0.1, 0.05]);
    let pixels = pixels.as_chunks_mut::<3>().0;
    for channel in 0..3 {
        let sum: u64 = pixels.iter().map(|pixel| u64::from(pixel[channel])).sum();
        let mean = sum as f64 / (255 * pixels.len()) as f64;
        let table: [u8; 256] = std::array::from_fn(|byte| to_byte((byte as f64 / 255.0 - mean) * left + mean));
        pixels.iter_mut().for_each(|pixel| pixel[channel] = table[usize::from(pixel[channel])]);
    }
}

/// V + c in hue, saturation and value (V = max RGB), clipped to 1.
///
/// At equal hue and saturation all channels are proportional to V, so that no hue is computed: the pixel times (V + c)/V.
/// Black has no saturation and becomes grey.
pub(super) fn brightness(pixels: &mut [u8], severity: Severity) {
    let more = severity.of([0.1, 0.2, 0.3, 0.4, 0.5]);
    for pixel in pixels.as_chunks_mut::<3>().0 {
        let value = f64::from(pixel[0].max(pixel[1]).max(pixel[2])) / 255.0;
        let raised = (value + more).min(1.0);
        *pixel = if value == 0.0 {
            [to_byte(raised); 3]
        } else {
            pixel.map(|channel| to_byte(f64::from(channel) / 255.0 * (raised / value)))
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{corruption, differences};
    use super::super::{Kind, corrupt};

    fn run(kind: Kind, level: u8, pixels: &[[u8; 3]], size: [usize; 2]) -> Vec<[u8; 3]> {
        let found = corrupt(&corruption(kind, level), 0, pixels.concat(), size).unwrap();
        found.as_chunks().0.to_vec()
    }

    /// Means 100, 50 and 10 with c = 0.2: red 0.2·(v − 100) + 100 is 80, 90, 110, 120 for 0, 50, 150, 200; green 40, 45, 55, 60
    /// for 0, 25, 75, 100; blue stays.
    #[test]
    fn contrast_of_four_pixels() {
        let pixels = [[0, 0, 10], [50, 25, 10], [150, 75, 10], [200, 100, 10]];
        let expected = [[80, 40, 10], [90, 45, 10], [110, 55, 10], [120, 60, 10]];
        assert_eq!(run(Kind::Contrast, 3, &pixels, [2, 2]), expected);
    }

    #[test]
    fn an_even_image_has_no_contrast_to_lose() {
        for level in 1..=5 {
            for byte in [0, 1, 77, 128, 254, 255] {
                let pixels = [[byte, 255 - byte, 3]; 35];
                assert_eq!(run(Kind::Contrast, level, &pixels, [5, 7]), pixels);
            }
        }
    }

    /// c = 0.2 is 51 bytes. V 102 → 153 is 1.5 times; V 204 → 255 is 1.25 times; V 255 stays; V 230 → 255, cut off.
    #[test]
    fn brightness_of_known_pixels() {
        let pixels = [[0, 0, 0], [102, 50, 20], [40, 204, 0], [255, 0, 9], [230, 115, 0], [60, 60, 60]];
        let expected = [[51, 51, 51], [153, 75, 30], [50, 255, 0], [255, 0, 9], [255, 127, 0], [111, 111, 111]];
        assert_eq!(run(Kind::Brightness, 2, &pixels, [1, 6]), expected);
    }

    #[test]
    fn as_imagenet_c() {
        for (kind, expected) in [
            (Kind::Contrast, &include_bytes!("../../../tests/data/corrupt/contrast.rgb")[..]),
            (Kind::Brightness, include_bytes!("../../../tests/data/corrupt/brightness.rgb")),
        ] {
            let off = differences(kind, expected).iter().filter(|&&d| d > 0).count();
            assert_eq!(off, 0, "{kind}");
        }
    }
}
