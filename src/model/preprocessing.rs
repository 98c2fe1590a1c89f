//! The preprocessing a checkpoint was evaluated with.

use super::Family;
use super::companions::Companion;
use super::fields::{self, Fields};
use crate::Result;
use crate::data::{Interpolation, Preprocess, Resize};
use serde_json::{Map, Value};
use std::sync::LazyLock;

const HALF: [f32; 3] = [0.5; 3];
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// `preprocess` for another crop, the resize in proportion.
pub(super) fn scale_to(mut preprocess: Preprocess, crop: [usize; 2]) -> Preprocess {
    let old = preprocess.crop;
    if old == crop {
        return preprocess;
    }
    // Never smaller than the crop it feeds.
    let scale = |n: usize, from: usize, to: usize| {
        let exact = n as f64 * to as f64 / from as f64;
        (exact.round() as usize).max(if n >= from { to } else { 1 })
    };
    preprocess.resize = match preprocess.resize {
        Resize::ShortSide(n) => {
            let (from, to) = (old[0].max(old[1]), crop[0].max(crop[1]));
            Resize::ShortSide(scale(n, from, to))
        }
        Resize::Exact([h, w]) => Resize::Exact([scale(h, old[0], crop[0]), scale(w, old[1], crop[1])]),
    };
    preprocess.crop = crop;
    preprocess
}

/// The defaults of a transformers image processor.
struct Processor {
    size: Resize,
    /// Whether a bare number for `size` means both sides.
    square: bool,
    crop: Option<usize>,
    interpolation: Interpolation,
    mean: [f32; 3],
    std: [f32; 3],
}

/// By the name of its class, or else the family's own.
fn processor(fields: &Fields, family: Family) -> Result<Processor> {
    let name = match fields.string("image_processor_type")? {
        Some(name) => name,
        None => fields.string("feature_extractor_type")?.unwrap_or(""),
    };
    let kind = match name {
        name if name.starts_with("DeiT") => Family::Deit,
        name if name.starts_with("ViT") => Family::Vit,
        name if name.starts_with("Bit") || name.starts_with("CLIP") => Family::Dinov2,
        _ => family,
    };
    let exact = |side| Resize::Exact([side, side]);
    Ok(match kind {
        Family::Deit => Processor {
            size: exact(256),
            square: true,
            crop: Some(224),
            interpolation: Interpolation::Bicubic,
            mean: HALF,
            std: HALF,
        },
        Family::Dinov2 | Family::Dinov2Registers => Processor {
            size: Resize::ShortSide(224),
            square: false,
            crop: Some(224),
            interpolation: Interpolation::Bicubic,
            mean: CLIP_MEAN,
            std: CLIP_STD,
        },
        Family::Vit | Family::Timm | Family::Onnx => Processor {
            size: exact(224),
            square: true,
            crop: None,
            interpolation: Interpolation::Bilinear,
            mean: HALF,
            std: HALF,
        },
    })
}

/// transformers: a `preprocessor_config.json`; absent fields take their image processor's defaults.
pub(super) fn transformers(file: &Companion, family: Family) -> Result<Preprocess> {
    let map = fields::parse(&file.path, &file.bytes)?;
    let fields = Fields::new(&file.path, &map);
    let base = processor(&fields, family)?;
    let flag = |key: &str, default: bool| Ok::<_, crate::Error>(fields.boolean(key)?.unwrap_or(default));
    let size = side(&fields, "size", base.square)?.unwrap_or(base.size);
    let mut crop = None;
    if flag("do_center_crop", base.crop.is_some())? {
        let default = base.crop.unwrap_or(224);
        crop = Some(match side(&fields, "crop_size", true)? {
            Some(Resize::Exact(crop)) => crop,
            Some(Resize::ShortSide(n)) => [n, n],
            None => [default, default],
        });
    }
    let (crop, resize) = match (crop, size, flag("do_resize", true)?) {
        (Some(crop), size, true) => (crop, size),
        (None, Resize::Exact(size), _) => (size, Resize::Exact(size)),
        // Without a crop every photo would have its own shape; the encoder takes the square that fits.
        (None, Resize::ShortSide(n), _) => ([n, n], Resize::ShortSide(n)),
        // Without a resize a photo may be smaller than the crop; it is resized just enough to hold it.
        (Some(crop), _, false) => (crop, Resize::ShortSide(crop[0].max(crop[1]))),
    };
    let interpolation = match fields.get("resample") {
        None => base.interpolation,
        Some(value) => match value.as_u64() {
            Some(0) => Interpolation::Nearest,
            Some(1) => Interpolation::Lanczos,
            Some(2) => Interpolation::Bilinear,
            Some(3) => Interpolation::Bicubic,
            _ => return Err(fields.wrong("resample", value, "0 (nearest), 1 (lanczos), 2 (bilinear) or 3 (bicubic)")),
        },
    };
    let (mut mean, mut std) = ([0.0; 3], [1.0; 3]);
    if flag("do_normalize", true)? {
        mean = fields.colour("image_mean", false)?.unwrap_or(base.mean);
        std = fields.colour("image_std", true)?.unwrap_or(base.std);
    }
    if flag("do_rescale", true)? {
        // Ours are of values in 0..1; another factor than 1/255 scales both.
        let factor = fields.number("rescale_factor", 1e-9, 1e9)?.unwrap_or(1.0 / 255.0) * 255.0;
        if (factor - 1.0).abs() > 1e-6 {
            mean = mean.map(|m| (f64::from(m) / factor) as f32);
            std = std.map(|s| (f64::from(s) / factor) as f32);
        }
    } else {
        mean = mean.map(|m| m / 255.0);
        std = std.map(|s| s / 255.0);
    }
    Ok(Preprocess { crop, resize, interpolation, mean, std })
}

/// `size` or `crop_size`: a number, `{"height", "width"}` or `{"shortest_edge"}`. A bare number means both sides where
/// `exact`, else the short side.
fn side(fields: &Fields, key: &str, exact: bool) -> Result<Option<Resize>> {
    static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    Ok(match fields.get(key) {
        None => None,
        Some(Value::Object(_)) => {
            let inner = fields.object(key, "size.", &EMPTY)?;
            match (inner.size("height")?, inner.size("width")?, inner.size("shortest_edge")?) {
                (Some(h), Some(w), None) => Some(Resize::Exact([h, w])),
                (None, None, Some(n)) => Some(Resize::ShortSide(n)),
                _ => {
                    let value = fields.get(key).cloned().unwrap_or_default();
                    return Err(fields.wrong(key, &value, "height and width, or shortest_edge"));
                }
            }
        }
        Some(value @ Value::Array(_)) => match fields.pair(key)? {
            Some(pair) => Some(Resize::Exact(pair)),
            None => return Err(fields.wrong(key, value, "a size")),
        },
        Some(value) => {
            let n = fields.as_size(key, value, 1)?;
            Some(if exact { Resize::Exact([n, n]) } else { Resize::ShortSide(n) })
        }
    })
}

/// What the family's released checkpoints were evaluated with, for a model that runs at `image`.
pub(super) fn family_default(family: Family, image: [usize; 2]) -> Preprocess {
    let at_224 = |resize, interpolation, mean, std| Preprocess { crop: [224, 224], resize, interpolation, mean, std };
    let preprocess = match family {
        Family::Vit => at_224(Resize::Exact([224, 224]), Interpolation::Bilinear, HALF, HALF),
        Family::Deit => at_224(Resize::Exact([256, 256]), Interpolation::Bicubic, IMAGENET_MEAN, IMAGENET_STD),
        Family::Dinov2 | Family::Dinov2Registers => {
            at_224(Resize::ShortSide(256), Interpolation::Bicubic, IMAGENET_MEAN, IMAGENET_STD)
        }
        Family::Timm | Family::Onnx => at_224(Resize::ShortSide(248), Interpolation::Bicubic, HALF, HALF),
    };
    scale_to(preprocess, image)
}

/// timm: `cfg` (the configuration's `pretrained_cfg`) over `defaults` (its architecture's), for a model that runs at
/// `image`.
pub(super) fn timm(cfg: &Fields, defaults: &Fields, image: [usize; 2]) -> Result<Preprocess> {
    let pick = |key: &str| if cfg.get(key).is_some() { *cfg } else { *defaults };
    let name = pick("interpolation").string("interpolation")?.unwrap_or("bicubic");
    let interpolation = match name {
        "bicubic" => Interpolation::Bicubic,
        "bilinear" | "random" => Interpolation::Bilinear,
        "lanczos" => Interpolation::Lanczos,
        "nearest" => Interpolation::Nearest,
        other => return Err(cfg.wrong("interpolation", &other.into(), "bicubic, bilinear, lanczos or nearest")),
    };
    let crop_pct = pick("crop_pct").number("crop_pct", 1e-3, 1.0)?.unwrap_or(0.9);
    let scaled = image.map(|side| ((side as f64 / crop_pct).floor() as usize).max(side));
    let resize = match pick("crop_mode").string("crop_mode")?.unwrap_or("center") {
        "center" => Resize::ShortSide(scaled[0].max(scaled[1])),
        "squash" => Resize::Exact(scaled),
        other => {
            log::warn!("{}: crop_mode {other} is not supported, using center", cfg.path().display());
            Resize::ShortSide(scaled[0].max(scaled[1]))
        }
    };
    Ok(Preprocess {
        crop: image,
        resize,
        interpolation,
        mean: pick("mean").colour("mean", false)?.unwrap_or(HALF),
        std: pick("std").colour("std", true)?.unwrap_or(HALF),
    })
}

/// timm's `input_size`, `[channels, height, width]`.
pub(super) fn timm_input(cfg: &Fields) -> Result<Option<[usize; 2]>> {
    match cfg.get("input_size") {
        None => Ok(None),
        Some(Value::Array(items)) if items.len() == 3 => {
            Ok(Some([cfg.as_size("input_size", &items[1], 1)?, cfg.as_size("input_size", &items[2], 1)?]))
        }
        Some(other) => Err(cfg.wrong("input_size", other, "[channels, height, width]")),
    }
}
