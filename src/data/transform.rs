//! File → the encoder's input: read, decode, resize, crop, normalise.

use super::Preprocess;
use super::augment::{self, Augment, Draw, Geometry};
use super::decode::{self, Decoded, Decoder, MAX_BYTES, Source};
use super::resample::{Filter, Resample, Scratch};
use crate::{Error, Result};
use image::RgbImage;
use image::metadata::Orientation;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;

/// Largest image file that is read, bytes.
const MAX_FILE: u64 = 1 << 30;
/// Bytes of a file held at a time.
const READ: usize = 1 << 15;

/// Loads one image with the evaluation preprocessing.
///
/// `crop` is a box x, y, width, height in the stored image's pixels. `out` is `[3, H, W]`, H and W `preprocess.crop`.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Image`] when it is no readable image, [`Error::Shape`] when `out` has
/// another length, [`Error::Options`] when `preprocess` is absurd.
pub fn load_image(path: &Path, crop: Option<[f32; 4]>, preprocess: &Preprocess, out: &mut [f32]) -> Result<()> {
    check(preprocess, out)?;
    Workspace::new(MAX_BYTES).load(path, crop, preprocess, Augment::None, UNDRAWN, out)
}

/// As [`load_image`], for an image file held in memory. `path` is for messages only.
///
/// # Errors
/// As [`load_image`], but [`Error::Io`].
pub fn decode_image(
    path: &Path,
    bytes: &[u8],
    crop: Option<[f32; 4]>,
    preprocess: &Preprocess,
    out: &mut [f32],
) -> Result<()> {
    check(preprocess, out)?;
    let source = Source { reader: Cursor::new(bytes), length: bytes.len() as u64, path };
    Workspace::new(MAX_BYTES).prepare(source, crop, preprocess, Augment::None, UNDRAWN, out)
}

/// Pixels in memory: 8-bit RGB, three bytes a pixel, rows from top to bottom.
#[derive(Clone, Copy, Debug)]
pub struct Rgb<'a> {
    /// The pixels; the last row may end with its last pixel.
    pub bytes: &'a [u8],
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Bytes from one row to the next, at least 3·width.
    pub stride: usize,
}

/// Prepares images that are in memory as pixels; its buffers serve one after another.
pub struct Preparer {
    workspace: Workspace,
    preprocess: Preprocess,
}

impl Preparer {
    /// For images as `preprocess` says. Errors: [`Error::Options`] when it is absurd.
    pub fn new(preprocess: Preprocess) -> Result<Self> {
        preprocess.check().map_err(Error::Options)?;
        Ok(Preparer { workspace: Workspace::new(MAX_BYTES), preprocess })
    }

    /// Resizes, crops and normalises `image` as [`load_image`] does with a file of these pixels: `out` `[3, H, W]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the image is empty, larger than is read from files, or its bytes are too few; or `out` has another length.
    pub fn prepare(&mut self, image: Rgb, out: &mut [f32]) -> Result<()> {
        let Rgb { bytes, width, height, stride } = image;
        check(&self.preprocess, out)?;
        let sides = 1..=decode::MAX_SIDE as usize;
        let row = 3 * width.min(decode::MAX_SIDE as usize);
        let needed = stride.checked_mul(height.saturating_sub(1)).and_then(|rows| rows.checked_add(row));
        let fits = sides.contains(&width)
            && sides.contains(&height)
            && (width * height) as u64 <= decode::MAX_PIXELS
            && stride >= row
            && needed.is_some_and(|needed| needed <= bytes.len());
        if !fits {
            return Err(Error::Shape {
                what: "an image's pixels",
                expected: format!("1 to {} pixels a side, and as many bytes as its rows take", decode::MAX_SIDE),
                found: format!("{width}x{height}, rows {stride} bytes apart, {} bytes", bytes.len()),
            });
        }
        let mut pixels = std::mem::take(&mut self.workspace.pixels);
        pixels.clear();
        (0..height).for_each(|y| pixels.extend_from_slice(&bytes[y * stride..][..row]));
        let [w, h] = [width, height].map(|side| side as u32);
        let header = decode::Header { width: w, height: h, orientation: Orientation::NoTransforms };
        let geometry = Geometry::plan(&self.preprocess, Augment::None, UNDRAWN, &header, None);
        let geometry = geometry.map_err(|problem| Error::Options(format!("an image in memory: {problem}")))?;
        let pixels = RgbImage::from_raw(w, h, pixels).expect("as many bytes as pixels take");
        let decoded = Decoded { pixels, scale: 1.0 };
        self.workspace.render(&decoded, &geometry, &self.preprocess, out);
        self.workspace.pixels = decoded.pixels.into_raw();
        Ok(())
    }
}

/// Evaluation draws nothing.
const UNDRAWN: Draw = Draw { seed: 0, epoch: 0, item: 0 };

fn check(preprocess: &Preprocess, out: &[f32]) -> Result<()> {
    preprocess.check().map_err(Error::Options)?;
    if out.len() != preprocess.image_len() {
        return Err(Error::Shape {
            what: "pixels of one image",
            expected: format!("{} (3·{}·{})", preprocess.image_len(), preprocess.crop[0], preprocess.crop[1]),
            found: out.len().to_string(),
        });
    }
    Ok(())
}

/// Buffers reused from image to image.
pub(crate) struct Workspace {
    decoder: Decoder,
    scratch: Scratch,
    resized: Vec<u8>,
    /// Of images that come as pixels.
    pixels: Vec<u8>,
}

impl Workspace {
    /// No buffers yet. Decoding an image may take `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Workspace { decoder: Decoder::new(limit), scratch: Scratch::default(), resized: Vec::new(), pixels: Vec::new() }
    }

    /// As [`load_image`], augmented; `preprocess` and the length of `out` have been checked.
    pub fn load(
        &mut self,
        path: &Path,
        crop: Option<[f32; 4]>,
        preprocess: &Preprocess,
        augment: Augment,
        draw: Draw,
        out: &mut [f32],
    ) -> Result<()> {
        self.prepare(open(path)?, crop, preprocess, augment, draw, out)
    }

    /// As [`Workspace::load`], from any source.
    fn prepare<R: BufRead + Seek + Send>(
        &mut self,
        source: Source<R>,
        crop: Option<[f32; 4]>,
        preprocess: &Preprocess,
        augment: Augment,
        draw: Draw,
        out: &mut [f32],
    ) -> Result<()> {
        let path = source.path;
        let mut geometry = None;
        let decoded = decode::decode(&self.decoder, source, &mut |header| {
            let plan = Geometry::plan(preprocess, augment, draw, header, crop)
                .map_err(|problem| Error::Image { path: path.to_owned(), problem })?;
            geometry = Some(plan);
            Ok(plan.eighths(header, preprocess.crop))
        })?;
        let Some(geometry) = geometry else {
            return Err(Error::Image { path: path.to_owned(), problem: "the decoder skipped its header".into() });
        };
        self.render(&decoded, &geometry, preprocess, out);
        Ok(())
    }

    /// Reads and decodes `path`, at the smallest scale, for its errors only.
    pub fn verify(&mut self, path: &Path, crop: Option<[f32; 4]>) -> Result<()> {
        decode::decode(&self.decoder, open(path)?, &mut |header| match crop
            .map(|crop| augment::whole_pixels(header, crop))
        {
            Some(Err(problem)) => Err(Error::Image { path: path.to_owned(), problem }),
            _ => Ok(1),
        })
        .map(|_| ())
    }

    /// Resizes, crops and normalises.
    fn render(&mut self, decoded: &Decoded, geometry: &Geometry, preprocess: &Preprocess, out: &mut [f32]) {
        let pixels = &decoded.pixels;
        let [crop_height, crop_width] = preprocess.crop;
        let limits = [pixels.width(), pixels.height(), pixels.width(), pixels.height()].map(f64::from);
        let mut source = geometry.region;
        for (side, limit) in source.iter_mut().zip(limits) {
            *side = (*side * decoded.scale).min(limit);
        }
        let [x0, y0, x1, y1] = source;
        let view = [x0.floor(), y0.floor(), x1.ceil() - x0.floor(), y1.ceil() - y0.floor()];
        // The crop's part that shows image, in the crop's rows and columns; the rest is padding.
        let shown = |side: usize| {
            let start = (-geometry.offset[side]).max(0) as usize;
            start..preprocess.crop[side].min((geometry.size[side] as isize - geometry.offset[side]).max(0) as usize)
        };
        let (rows, columns) = (shown(0), shown(1));
        let shift = |range: &std::ops::Range<usize>, side: usize| {
            let offset = geometry.offset[side];
            (range.start as isize + offset) as usize..(range.end as isize + offset) as usize
        };
        let resample = Resample {
            view: view.map(|side| side as usize),
            source: [x0 - view[0], y0 - view[1], x1 - view[0], y1 - view[1]],
            size: geometry.size,
            rows: shift(&rows, 0),
            columns: shift(&columns, 1),
            filter: Filter::Of(preprocess.interpolation),
        };
        self.resized.resize(3 * rows.len() * columns.len(), 0);
        resample.run(pixels, &mut self.scratch, &mut self.resized);
        let plane_len = crop_height * crop_width;
        for (channel, plane) in out.chunks_exact_mut(plane_len).enumerate() {
            let (mean, std) = (preprocess.mean[channel], preprocess.std[channel]);
            let table: [f32; 256] = std::array::from_fn(|value| (value as f32 / 255.0 - mean) / std);
            if rows.len() * columns.len() < plane_len {
                plane.fill(table[0]);
            }
            let lines = self.resized.chunks_exact(3 * columns.len());
            for (line, target) in lines.zip(plane.chunks_exact_mut(crop_width).skip(rows.start)) {
                let target = &mut target[columns.clone()];
                for (value, pixel) in target.iter_mut().zip(line.as_chunks::<3>().0) {
                    *value = table[usize::from(pixel[channel])];
                }
            }
            if geometry.flip {
                plane.chunks_exact_mut(crop_width).for_each(<[f32]>::reverse);
            }
        }
    }
}

/// An image file, looked at before it is read.
pub(super) fn open(path: &Path) -> Result<Source<'_, BufReader<File>>> {
    let fail = |source| Error::io("read", path, source);
    // Looked at before it is opened: opening a pipe would wait.
    let found = fs::metadata(path).map_err(fail)?;
    let problem = if found.is_dir() {
        "this is a folder, not an image".to_owned()
    } else if !found.is_file() {
        "this is not a regular file; save it to one first".to_owned()
    } else if found.len() > MAX_FILE {
        format!("the file has {} bytes, above the cap of {MAX_FILE}; shrink the image first", found.len())
    } else {
        let reader = BufReader::with_capacity(READ, File::open(path).map_err(fail)?);
        return Ok(Source { reader, length: found.len(), path });
    };
    Err(Error::Image { path: path.to_owned(), problem })
}
