//! Compressed files → upright RGB, for JPEG, PNG and WebP, told apart by their content. Files are streamed: their
//! compressed bytes are never held whole.
//!
//! JPEG goes through `jpeg-decoder`: within 0.1/255 of libjpeg-turbo on average, and it decodes at 1/2, 1/4 and 1/8 scale.
//! What the header promises is checked against caps and against the file's own length before anything is allocated.

use super::augment::MOST_DECODED;
use crate::threads::Threads;
use crate::{Error, Result};
use image::codecs::{png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, Limits, RgbImage};
use jpeg_decoder::{CodingProcess, PixelFormat};
use rayon::ThreadPool;
use std::cell::OnceCell;
use std::io::{BufRead, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Most pixels an image may have, the point at which Pillow refuses too.
pub const MAX_PIXELS: u64 = 178_956_970;
/// Most pixels per side.
pub const MAX_SIDE: u32 = 65_535;
/// Most bytes that decoding one image may take where no memory budget says less. Baseline JPEGs much larger than needed
/// are decoded at reduced scale and stay far below.
pub const MAX_BYTES: u64 = 1 << 30;

/// Bytes in which every baseline JPEG is decoded and resized for images of `crop` pixels, whatever its size.
pub fn decode_bytes(crop: [usize; 2]) -> u64 {
    let pixels = (MOST_DECODED * crop[0] * crop[1]) as u64;
    // Planes, interleaved pixels and their turned copy; the rows between the two passes of resizing; the decoder's own
    // tables and rows, its input, and what EXIF may hold.
    pixels * (2 * 3 + 3) + (2 * 3 * crop[0] * crop[1]) as u64 * 4 + (1 << 19)
}

/// An image's size and orientation, known before its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Width as stored, pixels.
    pub width: u32,
    /// Height as stored, pixels.
    pub height: u32,
    /// What makes the stored image upright.
    pub orientation: Orientation,
}

impl Header {
    /// Width and height once upright.
    pub fn upright(&self) -> [u32; 2] {
        match self.orientation {
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => [self.height, self.width],
            _ => [self.width, self.height],
        }
    }

    /// Maps the box `[x0, y0, x1, y1]` in the stored image to the upright one.
    pub fn upright_box(&self, [x0, y0, x1, y1]: [f64; 4]) -> [f64; 4] {
        let (w, h) = (f64::from(self.width), f64::from(self.height));
        match self.orientation {
            Orientation::NoTransforms => [x0, y0, x1, y1],
            Orientation::FlipHorizontal => [w - x1, y0, w - x0, y1],
            Orientation::Rotate180 => [w - x1, h - y1, w - x0, h - y0],
            Orientation::FlipVertical => [x0, h - y1, x1, h - y0],
            Orientation::Rotate90 => [h - y1, x0, h - y0, x1],
            Orientation::Rotate90FlipH => [y0, x0, y1, x1],
            Orientation::Rotate270 => [y0, w - x1, y1, w - x0],
            Orientation::Rotate270FlipH => [h - y1, w - x1, h - y0, w - x0],
        }
    }
}

/// A decoded, upright image.
pub(crate) struct Decoded {
    /// Pixels at `scale`.
    pub pixels: RgbImage,
    /// Decoded size over full size: 1, 1/2, 1/4 or 1/8. An odd size is rounded up, so the last row and column may be partial.
    pub scale: f64,
}

/// A compressed image: `length` bytes in all, read from the start.
pub(crate) struct Source<'a, R> {
    pub reader: R,
    /// Bytes of the file.
    pub length: u64,
    /// For messages.
    pub path: &'a Path,
}

/// What decoding may use.
pub(crate) struct Decoder {
    /// Most bytes that decoding one image may take.
    limit: u64,
    /// Where `jpeg-decoder` does its work, so that nothing goes to the host's global pool. One thread: the rows of a photo
    /// are decoded one after another and never queued.
    pool: OnceCell<Threads>,
}

impl Decoder {
    pub fn new(limit: u64) -> Self {
        Decoder { limit, pool: OnceCell::new() }
    }

    fn pool(&self) -> std::result::Result<&ThreadPool, Failure> {
        if let Some(threads) = self.pool.get() {
            return Ok(threads.pool());
        }
        let threads = Threads::new(1, |_| "foretune-jpeg".into());
        let threads = threads.map_err(|e| Failure::Problem(format!("cannot start a thread to decode it: {e}")))?;
        Ok(self.pool.get_or_init(|| threads).pool())
    }
}

/// Decodes an image. `shrink(header)` gives the smallest scale that would do, in eighths of the full size (8: all of it, 1: an
/// eighth). It is honoured for JPEG only.
///
/// # Errors
/// [`Error::Image`] when the file is no JPEG, PNG or WebP, is damaged, or exceeds the caps.
pub(crate) fn decode<R: BufRead + Seek + Send>(
    decoder: &Decoder,
    source: Source<R>,
    shrink: &mut dyn FnMut(&Header) -> Result<u8>,
) -> Result<Decoded> {
    let Source { mut reader, length, path } = source;
    let limit = decoder.limit;
    let fail = |problem: String| Error::Image { path: path.to_owned(), problem };
    let start = reader.fill_buf().map_err(|e| Error::io("read", path, e))?;
    let kind = sniff(start).ok_or_else(|| fail(unrecognised(start)))?;
    // The decoders are trusted not to corrupt memory, but a panic on a hostile file must not end the host's process.
    let decoded = catch_unwind(AssertUnwindSafe(|| match kind {
        Kind::Jpeg => jpeg(decoder, reader, length, shrink),
        Kind::Png => {
            let mut limits = Limits::no_limits();
            limits.max_alloc = Some(limit);
            let decoder = PngDecoder::with_limits(reader, limits).map_err(|e| describe(e, limit))?;
            // Deflate cannot expand by more than 1032, and a pixel has at least one bit.
            other(decoder, length.saturating_mul(8 * 1032), limit, shrink)
        }
        Kind::WebP => other(WebPDecoder::new(reader).map_err(|e| describe(e, limit))?, u64::MAX, limit, shrink),
    }));
    match decoded {
        Ok(Ok(decoded)) => Ok(decoded),
        Ok(Err(Failure::Problem(problem))) => Err(fail(problem)),
        Ok(Err(Failure::Shrink(error))) => Err(error),
        Err(_) => Err(fail("the decoder gave up on it: the file is damaged; replace it or take it out".into())),
    }
}

/// Whether the file starts like an image this crate reads. `start` is its first bytes, 16 suffice.
///
/// # Errors
/// What the file looks like instead.
pub(crate) fn recognise(start: &[u8]) -> std::result::Result<(), String> {
    sniff(start).map(|_| ()).ok_or_else(|| unrecognised(start))
}

/// What an image file is, by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Jpeg,
    Png,
    WebP,
}

enum Failure {
    Problem(String),
    Shrink(Error),
}

impl From<String> for Failure {
    fn from(problem: String) -> Self {
        Failure::Problem(problem)
    }
}

pub(super) fn sniff(bytes: &[u8]) -> Option<Kind> {
    if bytes.starts_with(&[0xFF, 0xD8, 0xFF]) {
        Some(Kind::Jpeg)
    } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        Some(Kind::Png)
    } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        Some(Kind::WebP)
    } else {
        None
    }
}

fn unrecognised(start: &[u8]) -> String {
    let looks = match start {
        [] => "the file is empty".to_owned(),
        [b'G', b'I', b'F', b'8', ..] => "this is a GIF".to_owned(),
        [b'B', b'M', ..] => "this is a BMP".to_owned(),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => "this is a TIFF".to_owned(),
        _ => {
            let start = &start[..start.len().min(16)];
            if start.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
                format!("this is text (it starts with {:?})", String::from_utf8_lossy(start))
            } else {
                "its content is none of them".to_owned()
            }
        }
    };
    format!("not a JPEG, PNG or WebP image: {looks}; convert it or take it out")
}

fn describe(error: image::ImageError, limit: u64) -> Failure {
    match error {
        image::ImageError::Limits(_) => Failure::Problem(format!(
            "decoding it would take more than the cap of {limit} bytes; shrink it first, or give a larger budget"
        )),
        error => damaged(error),
    }
}

fn damaged(error: impl std::fmt::Display) -> Failure {
    Failure::Problem(format!("cannot be decoded: {error}; the file is damaged, replace it or take it out"))
}

/// Checks what a header promises. `decoding`: bytes needed to decode, of `limit`. `most`: pixels the file's length could
/// hold.
fn check(width: u32, height: u32, decoding: u64, limit: u64, most: u64) -> std::result::Result<(), Failure> {
    let pixels = u64::from(width) * u64::from(height);
    let problem = if pixels == 0 {
        format!("the image has no pixels ({width}×{height})")
    } else if pixels > MAX_PIXELS || width > MAX_SIDE || height > MAX_SIDE {
        format!(
            "{width}×{height} pixels, above the cap of {MAX_PIXELS} pixels and {MAX_SIDE} per side; shrink it first"
        )
    } else if pixels > most {
        format!("the header promises {width}×{height} pixels, more than the file can hold; it is damaged, replace it")
    } else if decoding > limit {
        format!(
            "decoding {width}×{height} pixels would take {decoding} bytes, above the cap of {limit}; shrink it first, or give a larger budget"
        )
    } else {
        return Ok(());
    };
    Err(Failure::Problem(problem))
}

fn jpeg(
    decoder: &Decoder,
    reader: impl BufRead + Send,
    length: u64,
    shrink: &mut dyn FnMut(&Header) -> Result<u8>,
) -> std::result::Result<Decoded, Failure> {
    let (limit, pool) = (decoder.limit, decoder.pool()?);
    let mut decoder = jpeg_decoder::Decoder::new(reader);
    decoder.read_info().map_err(damaged)?;
    let info = decoder.info().ok_or_else(|| damaged("no frame header"))?;
    let (width, height) = (info.width, info.height);
    // Every 8×8 block costs at least one bit.
    let most = length.saturating_mul(8 * 64);
    check(width.into(), height.into(), 0, limit, most)?;
    let orientation = decoder.exif_data().and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
    let header = Header { width: width.into(), height: height.into(), orientation };
    let eighths = u32::from(shrink(&header).map_err(Failure::Shrink)?.clamp(1, 8));
    let part = |side: u16| (u32::from(side) * eighths).div_ceil(8) as u16;
    let (scaled_width, scaled_height) =
        if eighths < 8 { decoder.scale(part(width), part(height)).map_err(damaged)? } else { (width, height) };
    // For very small images several scales give the same size; the decoder then takes the smallest.
    let eighths = [1, 2, 4, 8]
        .into_iter()
        .find(|&k| {
            let part = |side: u16| (u32::from(side) * k).div_ceil(8) as u16;
            (part(width), part(height)) == (scaled_width, scaled_height)
        })
        .ok_or_else(|| damaged("unexpected scale"))?;
    let channels = match info.pixel_format {
        PixelFormat::L8 => 1,
        PixelFormat::L16 => 2,
        PixelFormat::RGB24 => 3,
        PixelFormat::CMYK32 => 4,
    };
    // Planes and interleaved output; a progressive file also keeps 16-bit coefficients of the full size.
    let coefficients = if info.coding_process == CodingProcess::DctProgressive { 2 * channels } else { 0 };
    let full = u64::from(width) * u64::from(height);
    let scaled = u64::from(scaled_width) * u64::from(scaled_height);
    check(width.into(), height.into(), coefficients * full + (2 * channels + 3) * scaled, limit, most)?;
    let data = pool.install(|| decoder.decode()).map_err(damaged)?;
    let (width, height) = (u32::from(scaled_width), u32::from(scaled_height));
    let rgb = match info.pixel_format {
        PixelFormat::RGB24 => data,
        PixelFormat::L8 => data.iter().flat_map(|&v| [v; 3]).collect(),
        PixelFormat::L16 => data.as_chunks().0.iter().flat_map(|&v| [(u16::from_ne_bytes(v) >> 8) as u8; 3]).collect(),
        PixelFormat::CMYK32 => data.as_chunks().0.iter().flat_map(|&v| cmyk_to_rgb(v)).collect(),
    };
    let pixels = RgbImage::from_raw(width, height, rgb).ok_or_else(|| damaged("too few pixels"))?;
    Ok(Decoded { pixels: upright(pixels, orientation), scale: f64::from(eighths) / 8.0 })
}

/// Ink amounts (255: full) to RGB, as Pillow does: without a colour profile. The decoder has already undone Adobe's inversion.
fn cmyk_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = i32::from(255 - k);
    [c, m, y].map(|ink| {
        let product = i32::from(ink) * light + 128;
        (light - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
    })
}

fn other(
    mut decoder: impl ImageDecoder,
    most: u64,
    limit: u64,
    shrink: &mut dyn FnMut(&Header) -> Result<u8>,
) -> std::result::Result<Decoded, Failure> {
    let (width, height) = decoder.dimensions();
    let color = decoder.color_type();
    let pixels = u64::from(width) * u64::from(height);
    check(width, height, (u64::from(color.bytes_per_pixel()) + 3).saturating_mul(pixels), limit, most)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    shrink(&Header { width, height, orientation }).map_err(Failure::Shrink)?;
    let mut data = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut data).map_err(|e| describe(e, limit))?;
    // As Pillow's convert("RGB"): alpha is dropped, 16-bit samples keep their high byte.
    let rgb: Vec<u8> = match color {
        ColorType::Rgb8 => data,
        ColorType::L8 => data.iter().flat_map(|&v| [v; 3]).collect(),
        ColorType::La8 => data.as_chunks().0.iter().flat_map(|&[v, _]| [v; 3]).collect(),
        ColorType::Rgba8 => data.as_chunks().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect(),
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => {
            let channels = usize::from(color.channel_count());
            let high = |sample: usize| u16::from_ne_bytes([data[2 * sample], data[2 * sample + 1]]).to_be_bytes()[0];
            let rgb = if channels < 3 { [0, 0, 0] } else { [0, 1, 2] };
            (0..pixels as usize).flat_map(|pixel| rgb.map(|channel| high(pixel * channels + channel))).collect()
        }
        other => return Err(damaged(format!("colour type {other:?} is not supported"))),
    };
    let pixels = RgbImage::from_raw(width, height, rgb).ok_or_else(|| damaged("too few pixels"))?;
    Ok(Decoded { pixels: upright(pixels, orientation), scale: 1.0 })
}

fn upright(pixels: RgbImage, orientation: Orientation) -> RgbImage {
    let mut image = DynamicImage::ImageRgb8(pixels);
    image.apply_orientation(orientation);
    image.into_rgb8()
}
