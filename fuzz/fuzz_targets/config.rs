//! Configurations: any bytes as the `config.json` of sound weights of either library.
#![no_main]

use foretune::{LoadOptions, Model};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

const WEIGHTS: [&[u8]; 3] = [
    include_bytes!("../../tests/golden/timm_gap/model.safetensors"),
    include_bytes!("../../tests/golden/hf_deit_teacher/model.safetensors"),
    include_bytes!("../../tests/golden/hf_dinov2_swiglu/model.safetensors"),
];

fuzz_target!(|bytes: &[u8]| {
    for weights in WEIGHTS {
        let path = Path::new("model.safetensors");
        if let Ok(model) = Model::from_bytes(path, weights.to_vec(), Some(bytes), &LoadOptions::default()) {
            let _ = model.head();
            let _ = model.position_table();
        }
    }
});
