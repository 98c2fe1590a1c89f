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

/// Most pixels a JPEG is decoded to, as a multiple of the crop's: enough for a random crop of a twelfth of the photo to be
/// seen without enlarging it, and a bound on memory that no baseline JPEG exceeds.
pub(crate) const MOST_DECODED: usize = 16;

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

    /// The smallest scale, in eighths, at which the region still has twice the pixels per side that it is resized to, or the
    /// largest at which the whole image keeps to [`MOST_DECODED`].
    pub fn eighths(&self, header: &Header, crop: [usize; 2]) -> u8 {
        let [x0, y0, x1, y1] = self.region;
        let [width, height] = [header.width, header.height].map(f64::from);
        let enough = |k: f64| {
            (x1 - x0) * k / 8.0 >= 2.0 * self.size[1] as f64 && (y1 - y0) * k / 8.0 >= 2.0 * self.size[0] as f64
        };
        let most = (MOST_DECODED * crop[0] * crop[1]) as f64;
        let too_large = |k: f64| width * height * (k / 8.0).powi(2) > most;
        let scales = [1u8, 2, 4, 8];
        let wanted = scales.iter().position(|&k| enough(k.into())).unwrap_or(3);
        let kept = scales.iter().rposition(|&k| !too_large(k.into())).unwrap_or(0);
        scales[wanted.min(kept)]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Interpolation;
    use image::metadata::Orientation;

    fn preprocess(crop: [usize; 2], resize: Resize) -> Preprocess {
        Preprocess { crop, resize, interpolation: Interpolation::Bicubic, mean: [0.5; 3], std: [0.5; 3] }
    }

    fn header(width: u32, height: u32) -> Header {
        Header { width, height, orientation: Orientation::NoTransforms }
    }

    fn plan(preprocess: &Preprocess, augment: Augment, epoch: u64, header: Header) -> Geometry {
        Geometry::plan(preprocess, augment, Draw { seed: 3, epoch, item: 17 }, &header, None).unwrap()
    }

    /// Sizes and offsets that torchvision 0.29 gives (`Resize(int)`, `center_crop`).
    #[test]
    fn evaluation_is_torchvisions() {
        for (width, height, side, crop, size, offset) in [
            (500, 375, 248, [224, 224], [248, 330], [12, 53]),
            (375, 500, 248, [224, 224], [330, 248], [53, 12]),
            (244, 160, 128, [112, 112], [128, 195], [8, 42]),
            (333, 500, 256, [224, 200], [384, 256], [80, 28]),
            (100, 37, 50, [64, 48], [50, 135], [-7, 44]),
            (7, 3, 11, [8, 9], [11, 25], [2, 8]),
            (225, 224, 224, [224, 224], [224, 225], [0, 0]),
            (230, 227, 227, [224, 224], [227, 230], [2, 3]),
        ] {
            let found = plan(&preprocess(crop, Resize::ShortSide(side)), Augment::None, 0, header(width, height));
            assert_eq!((found.size, found.offset, found.flip), (size, offset, false), "{width}×{height}");
            assert_eq!(found.region, [0.0, 0.0, f64::from(width), f64::from(height)]);
        }
    }

    #[test]
    fn random_crops_keep_their_bounds() {
        let input = preprocess([112, 112], Resize::ShortSide(128));
        let augment = Augment::ResizedCrop { scale: [0.2, 0.9], ratio: [0.75, 1.5] };
        let mut areas = Vec::new();
        for epoch in 0..500 {
            let Geometry { region: [x0, y0, x1, y1], size, offset, .. } =
                plan(&input, augment, epoch, header(300, 200));
            assert_eq!((size, offset), ([112, 112], [0, 0]));
            assert!(0.0 <= x0 && x0 < x1 && x1 <= 300.0 && 0.0 <= y0 && y0 < y1 && y1 <= 200.0);
            assert!([x0, y0, x1, y1].iter().all(|side| side.fract() == 0.0));
            areas.push((x1 - x0) * (y1 - y0) / 60_000.0);
            let ratio = (x1 - x0) / (y1 - y0);
            assert!((0.74..1.52).contains(&ratio), "{ratio}");
        }
        let mean = areas.iter().sum::<f64>() / 500.0;
        // Uniform in 0.2..0.9, fewer of the largest, which often do not fit.
        assert!((0.45..0.57).contains(&mean) && areas.iter().all(|area| (0.19..0.91).contains(area)), "{mean}");

        // No such part exists: the largest centred one within the ratios, as torchvision falls back to.
        let narrow = plan(&input, Augment::ResizedCrop { scale: [0.9, 1.0], ratio: [0.75, 1.5] }, 0, header(1000, 10));
        assert_eq!(narrow.region, [492.0, 0.0, 507.0, 10.0]);
    }

    #[test]
    fn vpt_crops_224_of_256() {
        let vpt = |crop| {
            let found = (0..400)
                .map(|epoch| plan(&preprocess(crop, Resize::ShortSide(9)), Augment::Vpt, epoch, header(500, 300)));
            found.collect::<Vec<_>>()
        };
        let plans = vpt([224, 112]);
        assert!(plans.iter().all(|plan| plan.size == [256, 128] && plan.region == [0.0, 0.0, 500.0, 300.0]));
        for (side, most) in [(0, 32), (1, 16)] {
            let offsets: std::collections::BTreeSet<_> = plans.iter().map(|plan| plan.offset[side]).collect();
            assert_eq!((offsets.first(), offsets.last()), (Some(&0), Some(&most)), "both ends are reached");
        }
        assert!((150..250).contains(&plans.iter().filter(|plan| plan.flip).count()));
    }

    #[test]
    fn reduced_scale_keeps_twice_the_pixels() {
        let scale = |width, height| {
            let header = header(width, height);
            plan(&preprocess([112, 112], Resize::ShortSide(128)), Augment::None, 0, header).eighths(&header, [112, 112])
        };
        assert_eq!(scale(160, 240), 8);
        assert_eq!(scale(447, 447), 8);
        // Half of 500 is less than twice 128, but the whole is more than 16 crops.
        assert_eq!(scale(500, 500), 4);
        assert_eq!(scale(512, 512), 4);
        assert_eq!(scale(1024, 1500), 2);
        assert_eq!(scale(2048, 2048), 1);
        assert_eq!(scale(60_000, 2048), 1);
        // 12 megapixels to 1000×750; a small crop of them is not decoded at full size either.
        let small = Augment::ResizedCrop { scale: [0.08, 0.09], ratio: [1.0, 1.0] };
        let (input, photo) = (preprocess([224, 224], Resize::ShortSide(248)), header(4000, 3000));
        for augment in [Augment::None, Augment::Vpt, small] {
            assert_eq!(plan(&input, augment, 0, photo).eighths(&photo, input.crop), 2, "{augment:?}");
        }
    }
}
