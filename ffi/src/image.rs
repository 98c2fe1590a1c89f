//! Images as C hands them over.

use crate::argument;
use crate::status::{Failure, Result};
use foretune::Result as CoreResult;
use foretune::data::{Images, Preparer, Rgb};
use std::ffi::c_void;

/// 8-bit RGB pixels of any size: three bytes a pixel, rows `row_stride` bytes apart, from top to bottom. The library resizes, crops and
/// normalises them.
pub const FORETUNE_IMAGE_RGB8: u32 = 0;
/// Normalised f32 values `[3, crop_height, crop_width]` as `foretune_preprocess` says, contiguous. Width and height are the crop's.
pub const FORETUNE_IMAGE_F32: u32 = 1;

/// One image, which stays the host's and is only read during the call. This struct does not grow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct foretune_image {
    /// Its pixels or values.
    pub data: *const c_void,
    /// `FORETUNE_IMAGE_*`.
    pub format: u32,
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
    /// Zero.
    pub reserved: u32,
    /// Bytes from one row to the next; 0: none between them. Not looked at for f32.
    pub row_stride: usize,
}

/// Images of a call.
pub(crate) struct Given<'a> {
    images: &'a [foretune_image],
    preparer: &'a mut Preparer,
    crop: [usize; 2],
}

impl<'a> Given<'a> {
    /// Errors: a null pointer, or a format that there is not.
    ///
    /// # Safety
    /// `images` is null or points to `count` images whose data is as they say, for the call.
    pub unsafe fn new(
        images: *const foretune_image,
        count: usize,
        preparer: &'a mut Preparer,
        crop: [usize; 2],
    ) -> Result<Self> {
        // SAFETY: the caller's promise.
        let images: &[foretune_image] = unsafe { argument::slice("images", images, count)? };
        for (i, image) in images.iter().enumerate() {
            let wrong = |problem: String| Err(Failure::argument(format!("images[{i}]: {problem}")));
            let size = [image.height as usize, image.width as usize];
            match image.format {
                _ if image.data.is_null() => return wrong("data is null".into()),
                FORETUNE_IMAGE_RGB8 => {}
                FORETUNE_IMAGE_F32 if size != crop => {
                    return wrong(format!(
                        "{}x{} normalised values, and the model reads {}x{}",
                        size[1], size[0], crop[1], crop[0]
                    ));
                }
                FORETUNE_IMAGE_F32 if !image.data.cast::<f32>().is_aligned() => {
                    return wrong("data is not aligned".into());
                }
                FORETUNE_IMAGE_F32 => {}
                format => return wrong(format!("format {format} is none of FORETUNE_IMAGE_*")),
            }
        }
        Ok(Given { images, preparer, crop })
    }
}

impl Images for Given<'_> {
    fn count(&self) -> usize {
        self.images.len()
    }

    fn prepare(&mut self, index: usize, out: &mut [f32]) -> CoreResult<()> {
        let foretune_image { data, format, width, height, row_stride, .. } = self.images[index];
        if format == FORETUNE_IMAGE_F32 {
            let len = 3 * self.crop[0] * self.crop[1];
            // SAFETY: of the crop's size, checked above; the host's promise that it is all there.
            out.copy_from_slice(unsafe { std::slice::from_raw_parts(data.cast::<f32>(), len) });
            return Ok(());
        }
        let (width, height) = (width as usize, height as usize);
        let stride = if row_stride == 0 { 3 * width } else { row_stride };
        let rows = stride.saturating_mul(height.saturating_sub(1)).saturating_add(3 * width).min(isize::MAX as usize);
        // SAFETY: the host's promise: rows that far apart. What is absurd is refused before it is read.
        let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), rows) };
        self.preparer.prepare(Rgb { bytes, width, height, stride }, out)
    }
}
