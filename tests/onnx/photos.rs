//! Real weights on real photos: an export against `predict`'s own logits.

use super::common::shared;
use super::export::{error, run, session};
use super::runtime;
use foretune::Classifier;
use foretune::cpu::CpuOptions;
use foretune::data::load_image;
use foretune::engine;
use foretune::model::LoadOptions;
use foretune::onnx::{Element, ExportOptions, export};
use ort::value::TensorRef;
use std::path::Path;

/// Height, width and pixels `[height, width, 3]`.
fn rgb(photo: &Path) -> ([usize; 2], Vec<u8>) {
    let mut decoder = jpeg_decoder::Decoder::new(std::fs::File::open(photo).unwrap());
    let pixels = decoder.decode().unwrap();
    let info = decoder.info().unwrap();
    let pixels = match info.pixel_format {
        jpeg_decoder::PixelFormat::L8 => pixels.iter().flat_map(|&level| [level; 3]).collect(),
        _ => pixels,
    };
    ([usize::from(info.height), usize::from(info.width)], pixels)
}

#[test]
fn exports_see_in_photos_what_predict_sees() {
    let (true, Some(model), Some(folder)) =
        (runtime(), shared("models/vit_tiny_patch16_224"), shared("data/imagenet17"))
    else {
        return;
    };
    let classifier = Classifier::open(&model, None, &LoadOptions::default()).unwrap();
    let native = engine::cpu(&classifier.model, CpuOptions::default()).unwrap();
    let mut engine = native.engine(classifier.layout, 1, 0).unwrap();
    let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut photos: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "JPEG")).collect();
    photos.sort();
    assert_eq!(photos.len(), 17);
    let preprocess = &classifier.model.preprocess;
    let prepared = photos.iter().map(|photo| {
        let mut image = vec![0.0; preprocess.image_len()];
        load_image(photo, None, preprocess, &mut image).unwrap();
        let logits = classifier.logits(&mut engine, &image).unwrap().into_iter().collect::<Vec<f32>>();
        (image, logits)
    });
    let prepared: Vec<_> = prepared.collect();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("model.onnx");
    let [h, w] = preprocess.crop;
    for (element, tolerance, with_pixels) in [(Element::F32, 2e-5, 2e-2), (Element::F16, 5e-3, 2e-2)] {
        export(&classifier, ExportOptions { element, preprocessing: false }, &path).unwrap();
        let mut graph = session(&path);
        for ((image, expected), photo) in prepared.iter().zip(&photos) {
            let input = TensorRef::from_array_view(([1, 3, h, w], &image[..])).unwrap();
            let found = error(&run(&mut graph, ort::inputs!["pixel_values" => input]), expected);
            assert!(found <= tolerance, "{}, {element:?}: {found:e}", photo.display());
        }
        // The graph resizes and crops the photo itself; its filter sums in another order and rounds to 8 bits elsewhere.
        export(&classifier, ExportOptions { element, preprocessing: true }, &path).unwrap();
        let mut graph = session(&path);
        for ((_, expected), photo) in prepared.iter().zip(&photos) {
            let (size, pixels) = rgb(photo);
            let input = TensorRef::from_array_view(([1, size[0], size[1], 3], &pixels[..])).unwrap();
            let found = error(&run(&mut graph, ort::inputs!["image" => input]), expected);
            assert!(found <= with_pixels, "{}, {element:?}, pixels: {found:e}", photo.display());
        }
    }
}
