//! Evaluation preprocessing as part of a graph: 8-bit pixels to the encoder's input.

use super::graph::{Dim, Graph, Value, float, int, ints, string};
use super::proto::DataType;
use crate::data::{Interpolation, Preprocess, Resize};
use crate::{Error, Result};

/// `image` `[B, height, width, 3]`, 8-bit RGB, all of one size, to `[B, 3, H, W]`. Errors: [`Error::Options`] for filters and
/// paddings that standard operators do not have.
pub(super) fn pixels(g: &mut Graph, preprocess: &Preprocess) -> Result<Value> {
    let refuse = |what: &str| {
        let problem = format!("--with-preprocessing: {what}; export without it, and prepare images in the program");
        Err(Error::Options(problem))
    };
    let attributes = |mode, more: Vec<_>| {
        let common =
            vec![string("mode", mode), string("coordinate_transformation_mode", "half_pixel"), ints("axes", &[2, 3])];
        common.into_iter().chain(more).collect::<Vec<_>>()
    };
    let attributes = match preprocess.interpolation {
        Interpolation::Bilinear => attributes("linear", vec![int("antialias", 1)]),
        Interpolation::Bicubic => {
            let more = vec![int("antialias", 1), float("cubic_coeff_a", -0.5), int("exclude_outside", 1)];
            attributes("cubic", more)
        }
        Interpolation::Nearest => attributes("nearest", vec![string("nearest_mode", "round_prefer_ceil")]),
        Interpolation::Lanczos => return refuse("ONNX has no Lanczos filter"),
    };
    let least = match preprocess.resize {
        Resize::ShortSide(side) => [side; 2],
        Resize::Exact(sides) => sides,
    };
    if least.iter().zip(preprocess.crop).any(|(&side, crop)| side < crop) {
        return refuse("the crop is larger than the image it is cut from");
    }

    g.enter("preprocess");
    let dims = [Dim::Named("batch"), Dim::Named("height"), Dim::Named("width"), Dim::Of(3)];
    let image = g.input("image", DataType::Uint8, &dims);
    let planes = g.transpose(&image, &[0, 3, 1, 2]);
    let sizes = match preprocess.resize {
        Resize::Exact(sides) => g.ints(&sides.map(|side| side as i64)),
        Resize::ShortSide(side) => {
            let shape = g.node("Shape", &[&planes], vec![int("start", 2), int("end", 4)]);
            let short = g.node("ReduceMin", &[&shape], vec![int("keepdims", 1)]);
            let side = g.ints(&[side as i64]);
            let product = g.mul(&shape, &side);
            g.div(&product, &short)
        }
    };
    let resized = g.node("Resize", &[&planes, &Value::absent(), &Value::absent(), &sizes], attributes);
    let crop = g.ints(&preprocess.crop.map(|side| side as i64));
    // The centre, halves to the even pixel.
    let spare = g.sub(&sizes, &crop);
    let spare = g.cast(&spare, DataType::Float);
    let half = g.number(0.5);
    let middle = g.mul(&spare, &half);
    let start = g.node("Round", &[&middle], Vec::new());
    let start = g.cast(&start, DataType::Int64);
    let end = g.add(&start, &crop);
    let axes = g.ints(&[2, 3]);
    let cropped = g.node("Slice", &[&resized, &start, &end, &axes], Vec::new());

    let values = g.cast(&cropped, DataType::Float);
    // (v/255 − mean)/std = (v − 255·mean)/(255·std)
    let Preprocess { mean, std, .. } = *preprocess;
    let shift = g.numbers("preprocess.mean", &[3, 1, 1], mean.map(|mean| 255.0 * mean).to_vec());
    let scale = g.numbers("preprocess.std", &[3, 1, 1], std.map(|std| 255.0 * std).to_vec());
    let centred = g.sub(&values, &shift);
    Ok(g.div(&centred, &scale))
}
