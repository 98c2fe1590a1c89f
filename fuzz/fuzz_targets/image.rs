//! Photos: any bytes decoded, resized, cropped and normalised; a decoder's panic is caught by the library, but counts here.
#![no_main]

use foretune::data::{Interpolation, Preprocess, Resize, decode_image};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let preprocess = Preprocess {
        crop: [16, 12],
        resize: Resize::ShortSide(17),
        interpolation: Interpolation::Bicubic,
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    let mut out = vec![0.0; 3 * 16 * 12];
    for crop in [None, Some([1.0, 2.0, 5.5, 4.0])] {
        let _ = decode_image(Path::new("photo"), bytes, crop, &preprocess, &mut out);
    }
});
