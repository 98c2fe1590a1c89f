//! Images that a program has in memory, prepared when they are needed.

use super::{Preparer, Rgb};
use crate::{Error, Result};

/// Images for [`Session`](crate::Session) and [`Predictor`](crate::Predictor).
pub trait Images {
    /// How many there are.
    fn count(&self) -> usize;

    /// Image `index` as the encoder reads it: `out` `[3, H, W]`. Errors: it cannot be.
    fn prepare(&mut self, index: usize, out: &mut [f32]) -> Result<()>;
}

/// Images that have been resized, cropped and normalised: `[n, 3, H, W]`.
pub struct Prepared<'a> {
    values: &'a [f32],
    image_len: usize,
}

impl<'a> Prepared<'a> {
    /// `values` of images of `image_len` values. Errors: [`Error::Shape`] when they are not a whole number of images.
    pub fn new(values: &'a [f32], image_len: usize) -> Result<Self> {
        if image_len == 0 || !values.len().is_multiple_of(image_len) {
            let (expected, found) = (format!("images of {image_len} values"), format!("{} values", values.len()));
            return Err(Error::Shape { what: "images", expected, found });
        }
        Ok(Prepared { values, image_len })
    }
}

impl Images for Prepared<'_> {
    fn count(&self) -> usize {
        self.values.len() / self.image_len
    }

    fn prepare(&mut self, index: usize, out: &mut [f32]) -> Result<()> {
        if out.len() != self.image_len {
            let (expected, found) = (format!("{} values", out.len()), format!("{} values", self.image_len));
            return Err(Error::Shape { what: "a prepared image", expected, found });
        }
        out.copy_from_slice(&self.values[index * self.image_len..][..self.image_len]);
        Ok(())
    }
}

/// Pixels of any size, prepared as photos in files are.
pub struct Pixels<'a> {
    /// Prepares them.
    pub preparer: &'a mut Preparer,
    /// The images.
    pub images: &'a [Rgb<'a>],
}

impl Images for Pixels<'_> {
    fn count(&self) -> usize {
        self.images.len()
    }

    fn prepare(&mut self, index: usize, out: &mut [f32]) -> Result<()> {
        self.preparer.prepare(self.images[index], out)
    }
}

/// Images `first..` of `images` into `out` `[m, 3, H, W]`. Errors: as [`Images::prepare`], or a value that is not finite.
pub(crate) fn prepare_all(images: &mut dyn Images, first: usize, image_len: usize, out: &mut [f32]) -> Result<()> {
    for (i, out) in out.chunks_exact_mut(image_len).enumerate() {
        images.prepare(first + i, out)?;
        if let Some(bad) = out.iter().find(|v| !v.is_finite()) {
            let (expected, found) = ("finite values".into(), format!("{bad} in image {}", first + i));
            return Err(Error::Shape { what: "images", expected, found });
        }
    }
    Ok(())
}
