//! Which part of a photo is seen, and how large: evaluation geometry and random augmentations.

use super::decode::Header;
use super::{Preprocess, Resize};
use crate::rng::{Purpose, Stream};
use crate::tune::AugmentKind;

/// Training-time geometry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Augment {
    /// The evaluation preprocessing.
    None,
    /// Evaluation preprocessing, flipped horizontally with probability ½.
    Flip,
    /// A random part of the image, resized to the crop, then a random flip (torchvision's `RandomResizedCrop`).
    ResizedCrop {
        /// Least and most share of the image's area.
        scale: [f32; 2],
        /// Least and most width over height.
        ratio: [f32; 2],
    },
    /// VPT's recipe: both sides to crop·256/224, a random crop, a random flip.
    Vpt,
}

impl From<AugmentKind> for Augment {
    fn from(kind: AugmentKind) -> Self {
        match kind {
            AugmentKind::None => Augment::None,
            AugmentKind::Flip => Augment::Flip,
            AugmentKind::ResizedCrop => Augment::ResizedCrop { scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] },
            AugmentKind::Vpt => Augment::Vpt,
        }
    }
}

/// Where an augmentation's random numbers come from. Nothing else decides them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw {
    /// The run's seed.
    pub seed: u64,
    /// Epoch.
    pub epoch: u64,
    /// Index in the data set.
    pub item: usize,
}

impl Draw {
    fn words(self) -> impl FnMut() -> u32 {
        let stream = Stream {
            seed: Purpose::Augment.seed(self.seed),
            step: self.epoch,
            example: self.item as u32,
            tangent: 0,
            set: 0,
        };
        let mut words = stream.words();
        // The sequence has 2³⁴ words, an image draws fewer than fifty.
        move || words.next().unwrap_or_default()
    }
}

/// A photo's way to the encoder, in pixels of the full-size upright image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Geometry {
    /// What is seen: x0, y0, x1, y1.
    pub region: [f64; 4],
    /// Height and width the region is resized to.
    pub size: [usize; 2],
    /// First row and column of the resized region that the crop shows; negative where the crop is larger and is padded.
    pub offset: [isize; 2],
    /// Whether columns are reversed at the end.
    pub flip: bool,
}

impl Geometry {
    /// Plans `augment` for an image. `crop`: x, y, width, height in the stored image.
    ///
    /// # Errors
    /// When the crop box does not meet the image.
    pub fn plan(
        preprocess: &Preprocess,
        augment: Augment,
        draw: Draw,
        header: &Header,
        crop: Option<[f32; 4]>,
    ) -> Result<Self, String> {
        let region = match crop {
            None => {
                let [width, height] = header.upright();
                [0.0, 0.0, f64::from(width), f64::from(height)]
            }
            Some(crop) => header.upright_box(whole_pixels(header, crop)?),
        };
        let mut words = draw.words();
        let flip = augment != Augment::None && words() & 1 == 1;
        Ok(match augment {
            Augment::None | Augment::Flip => {
                let size = resized(preprocess.resize, region);
                let offset = [0, 1].map(|side| centre(size[side], preprocess.crop[side]));
                Geometry { region, size, offset, flip }
            }
            Augment::ResizedCrop { scale, ratio } => {
                let region = random_region(region, scale, ratio, &mut words);
                Geometry { region, size: preprocess.crop, offset: [0, 0], flip }
            }
            Augment::Vpt => {
                let size = preprocess.crop.map(|side| (side * 256 + 112) / 224);
                let offset = [0, 1].map(|side| below(words(), size[side] - preprocess.crop[side] + 1) as isize);
                Geometry { region, size, offset, flip }
            }
        })
    }

    /// The smallest scale, in eighths, at which the region still has twice the pixels per side that it is resized to.
    pub fn eighths(&self) -> u8 {
        let [x0, y0, x1, y1] = self.region;
        let enough = |k: f64| {
            (x1 - x0) * k / 8.0 >= 2.0 * self.size[1] as f64 && (y1 - y0) * k / 8.0 >= 2.0 * self.size[0] as f64
        };
        [1, 2, 4].into_iter().find(|&k| enough(f64::from(k))).unwrap_or(8)
    }
}

/// Rounds a box x, y, width, height as Pillow's `crop` does and cuts it to the image; x0, y0, x1, y1.
pub(crate) fn whole_pixels(header: &Header, crop: [f32; 4]) -> Result<[f64; 4], String> {
    let [x, y, width, height] = crop.map(f64::from);
    let cut = |value: f64, most: u32| value.round_ties_even().clamp(0.0, f64::from(most));
    let [x0, x1] = [x, x + width].map(|x| cut(x, header.width));
    let [y0, y1] = [y, y + height].map(|y| cut(y, header.height));
    // Also false for boxes that are not numbers.
    if x0 < x1 && y0 < y1 {
        Ok([x0, y0, x1, y1])
    } else {
        Err(format!(
            "its box (x {x}, y {y}, width {width}, height {height}) holds nothing of the image, which has {}×{} pixels; \
             correct the box or use whole images",
            header.width, header.height
        ))
    }
}

/// Height and width after `resize`; the long side is rounded down, as in torchvision.
fn resized(resize: Resize, [x0, y0, x1, y1]: [f64; 4]) -> [usize; 2] {
    let (width, height) = ((x1 - x0) as usize, (y1 - y0) as usize);
    match resize {
        Resize::Exact(size) => size,
        Resize::ShortSide(side) if width <= height => [side * height / width, side],
        Resize::ShortSide(side) => [side, side * width / height],
    }
}

/// First row (column) of a centred crop, rounded as torchvision does: half to even; padding takes the smaller half first.
fn centre(size: usize, crop: usize) -> isize {
    if size >= crop { ((size - crop) as f64 / 2.0).round_ties_even() as isize } else { -(((crop - size) / 2) as isize) }
}

/// A number in 0..bound.
fn below(word: u32, bound: usize) -> usize {
    ((u64::from(word) * bound as u64) >> 32) as usize
}

/// torchvision's `RandomResizedCrop.get_params`: ten tries, then the largest centred part within the ratios.
fn random_region(
    [x0, y0, x1, y1]: [f64; 4],
    scale: [f32; 2],
    ratio: [f32; 2],
    words: &mut impl FnMut() -> u32,
) -> [f64; 4] {
    let (width, height) = (x1 - x0, y1 - y0);
    let [scale, ratio] = [scale, ratio].map(|bounds| bounds.map(f64::from));
    let mut within = |[low, high]: [f64; 2]| low + (high - low) * f64::from(words()) * 2f64.powi(-32);
    let part = |w: f64, h: f64, left: f64, top: f64| [x0 + left, y0 + top, x0 + left + w, y0 + top + h];
    for _ in 0..10 {
        let area = width * height * within(scale);
        let aspect = within(ratio.map(f64::ln)).exp();
        let (w, h) = ((area * aspect).sqrt().round_ties_even(), (area / aspect).sqrt().round_ties_even());
        if (1.0..=width).contains(&w) && (1.0..=height).contains(&h) {
            let top = within([0.0, height - h + 1.0]).floor();
            let left = within([0.0, width - w + 1.0]).floor();
            return part(w, h, left, top);
        }
    }
    let aspect = width / height;
    let (w, h) = if aspect < ratio[0] {
        (width, (width / ratio[0]).round_ties_even().clamp(1.0, height))
    } else if aspect > ratio[1] {
        ((height * ratio[1]).round_ties_even().clamp(1.0, width), height)
    } else {
        (width, height)
    };
    part(w, h, ((width - w) / 2.0).floor(), ((height - h) / 2.0).floor())
}
