//! Adapters and training checkpoints. Built for fuzzing, the reader passes over the checksum, which nothing would get past.
#![no_main]

use foretune::adapter::Adapter;
use foretune::tune::TrainState;
use foretune::{LoadOptions, Model};
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::LazyLock;

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let weights = include_bytes!("../../tests/golden/timm_gap/model.safetensors").to_vec();
    let config = include_bytes!("../../tests/golden/timm_gap/config.json");
    Model::from_bytes(Path::new("model.safetensors"), weights, Some(config), &LoadOptions::default())
        .expect("the golden case is sound")
});

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("fuzzed.safetensors");
    if let Ok(adapter) = Adapter::from_bytes(path, bytes) {
        let own = adapter.backbone.fingerprint.clone();
        let _ = adapter.check(path, &MODEL.spec, &own);
    }
    if let Ok(state) = TrainState::from_bytes(path, bytes) {
        state.check(path, &state.identity).ok();
    }
});
