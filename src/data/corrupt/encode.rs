//! RGB → image files of the type, size and orientation of their source.

use crate::Result;
use crate::data::decode::Kind;
use crate::files::write_atomic;
use image::codecs::{png::PngEncoder, webp::WebPEncoder};
use image::metadata::Orientation;
use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageError, RgbImage};
use jpeg_encoder::{ColorType, Encoder, EncodingError, SamplingFactor};
use std::io;
use std::path::Path;

/// Quality of JPEGs; their chroma is not halved.
const QUALITY: u8 = 95;

/// Writes `upright` to `path`, whole or not at all: JPEG of quality 95 without subsampling, PNG, or WebP without losses.
///
/// Pixels are stored as their source stored them, turned by `orientation`, with that orientation as their only EXIF entry, so
/// that boxes in the source's pixels hold for the file as well.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) when it cannot be written.
pub(super) fn write(path: &Path, kind: Kind, upright: RgbImage, orientation: Orientation) -> Result<()> {
    let image = turned_back(upright, orientation);
    let (width, height) = image.dimensions();
    let exif = (orientation != Orientation::NoTransforms).then(|| exif(orientation));
    write_atomic(path, |writer| match kind {
        Kind::Jpeg => {
            let mut encoder = Encoder::new(writer, QUALITY);
            encoder.set_sampling_factor(SamplingFactor::R_4_4_4);
            let exif = exif.map_or(Ok(()), |exif| encoder.add_exif_metadata(&exif));
            // Readers keep sides within 65 535.
            exif.and_then(|()| encoder.encode(&image, width as u16, height as u16, ColorType::Rgb)).map_err(|error| {
                match error {
                    EncodingError::IoError(source) => source,
                    other => io::Error::other(other),
                }
            })
        }
        Kind::Png => other(PngEncoder::new(writer), &image, exif),
        Kind::WebP => other(WebPEncoder::new_lossless(writer), &image, exif),
    })
}

fn other(mut encoder: impl ImageEncoder, image: &RgbImage, exif: Option<Vec<u8>>) -> io::Result<()> {
    if let Some(exif) = exif {
        encoder.set_exif_metadata(exif).map_err(io::Error::other)?;
    }
    encoder.write_image(image, image.width(), image.height(), ExtendedColorType::Rgb8).map_err(|error| match error {
        ImageError::IoError(source) => source,
        other => io::Error::other(other),
    })
}

/// The image that `orientation` makes upright.
fn turned_back(upright: RgbImage, orientation: Orientation) -> RgbImage {
    let back = match orientation {
        Orientation::Rotate90 => Orientation::Rotate270,
        Orientation::Rotate270 => Orientation::Rotate90,
        // Each undoes itself.
        other => other,
    };
    let mut image = DynamicImage::ImageRgb8(upright);
    image.apply_orientation(back);
    image.into_rgb8()
}

/// A TIFF structure, little-endian, of one directory with one entry: tag 0x0112, one 16-bit number.
fn exif(orientation: Orientation) -> Vec<u8> {
    let mut bytes = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    bytes.extend([orientation.to_exif(), 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::decode::{self, Decoder, MAX_BYTES, Source};

    /// Whatever the orientation, what is read is what was given, and the stored size is the source's.
    #[test]
    fn readers_see_the_upright_image() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let pixels = include_bytes!("../../../tests/data/images/rgb.png.rgb").to_vec();
        let image = RgbImage::from_raw(20, 14, pixels).unwrap();
        for orientation in (1..=8).map(|exif| Orientation::from_exif(exif).unwrap()) {
            for (kind, most) in [(Kind::Jpeg, 12), (Kind::Png, 0), (Kind::WebP, 0)] {
                write(&path, kind, image.clone(), orientation).unwrap();
                let bytes = std::fs::read(&path).unwrap();
                assert_eq!(decode::sniff(&bytes), Some(kind));
                let mut header = None;
                let source = Source { reader: io::Cursor::new(&bytes), length: bytes.len() as u64, path: &path };
                let decoded = decode::decode(&Decoder::new(MAX_BYTES), source, &mut |found| {
                    header = Some(*found);
                    Ok(8)
                });
                let (decoded, header) = (decoded.unwrap(), header.unwrap());
                assert_eq!(header.orientation, orientation, "{kind:?}");
                assert_eq!(header.upright(), [20, 14], "{kind:?} {orientation:?}");
                let worst = decoded.pixels.iter().zip(image.iter()).map(|(a, b)| a.abs_diff(*b)).max();
                assert!(worst <= Some(most), "{kind:?} {orientation:?}: {worst:?}");
            }
        }
    }
}
