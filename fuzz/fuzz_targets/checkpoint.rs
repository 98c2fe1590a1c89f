//! Model weights: any bytes as a safetensors file, with a configuration of their own and without.
#![no_main]

use foretune::{LoadOptions, Model};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

const CONFIGS: [Option<&[u8]>; 3] = [
    None,
    Some(include_bytes!("../../tests/golden/timm_gap/config.json")),
    Some(include_bytes!("../../tests/golden/hf_dinov2_swiglu/config.json")),
];

fuzz_target!(|bytes: &[u8]| {
    let options = LoadOptions { image: None, heads: Some(2) };
    for config in CONFIGS {
        let options = if config.is_none() { options.clone() } else { LoadOptions::default() };
        if let Ok(model) = Model::from_bytes(Path::new("model.safetensors"), bytes.to_vec(), config, &options) {
            let _ = model.head();
            let _ = model.fingerprint();
            let _ = model.position_table();
        }
    }
});
