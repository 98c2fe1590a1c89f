//! Real checkpoints of both libraries open, with the right description.

use foretune::model::{Activation, Family, FinalNorm, LoadOptions, Mlp, Model, Pooling};
use std::path::{Path, PathBuf};

/// `../shared/<name>`, or `None` with the reason printed.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is not there", path.display());
    None
}

fn open(path: &Path) -> Model {
    Model::open(path, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_fixture_opens_and_reads() {
    let Some(folder) = shared("fixtures") else { return };
    let mut opened = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.join("config.json").exists() {
            continue;
        }
        let model = open(&path);
        assert_eq!((model.spec.width, model.spec.depth, model.spec.heads, model.spec.hidden), (48, 3, 3, 96));
        assert_eq!((model.spec.image, model.spec.patch), ([32, 32], [8, 8]));
        assert_eq!(model.spec.classes, 7);
        let table = model.position_table().unwrap().unwrap();
        assert_eq!(table.len(), model.spec.tokens(0) * 48);
        let head = model.head().unwrap().unwrap();
        assert_eq!((head.classes(), head.width()), (7, model.spec.head_width()));
        for block in &model.vit.blocks {
            assert_eq!((block.qkv.rows(), block.qkv.cols()), (144, 48));
            assert_eq!(block.qkv.read::<f32>().unwrap().len(), 144 * 48);
            assert_eq!(block.qkv.bias().unwrap().read::<f64>().unwrap().len(), 144);
        }
        assert_eq!(model.vit.patch.cols(), 3 * 8 * 8);
        opened += 1;
    }
    assert!(opened >= 9, "only {opened} fixtures were found");
}

#[test]
fn families_are_told_apart() {
    let Some(folder) = shared("fixtures") else { return };
    let vit = open(&folder.join("hf_vit_shallow"));
    assert_eq!((vit.family, vit.spec.pooling, vit.spec.norm_eps), (Family::Vit, Pooling::Cls, 1e-12));
    let deit = open(&folder.join("hf_deit"));
    assert_eq!((deit.family, deit.spec.pooling, deit.spec.extra_tokens), (Family::Deit, Pooling::Cls, 1));
    let dino = open(&folder.join("hf_dinov2_registers"));
    assert_eq!((dino.family, dino.spec.pooling), (Family::Dinov2Registers, Pooling::ClsAndPatchMean));
    assert_eq!((dino.spec.extra_tokens, dino.spec.layer_scale, dino.spec.norm_eps), (2, true, 1e-6));
    let timm = open(&folder.join("timm_vit_deep_avgpool"));
    assert_eq!((timm.family, timm.spec.pooling), (Family::Timm, Pooling::PatchMean));
    assert_eq!((timm.spec.final_norm, timm.spec.mlp), (FinalNorm::AfterPool, Mlp::Plain(Activation::Gelu)));
}

#[test]
fn shards_make_the_same_model_as_one_file() {
    let Some(folder) = shared("fixtures/hf_vit_insert1_sharded") else { return };
    let model = open(&folder);
    let index = open(&folder.join("model.safetensors.index.json"));
    assert_eq!(model.fingerprint(), index.fingerprint());
    assert_eq!(model.fingerprint().len(), 32);
}

#[test]
fn vit_tiny_is_described_by_its_configuration() {
    let Some(folder) = shared("models/vit_tiny_patch16_224") else { return };
    let model = open(&folder);
    assert_eq!((model.spec.width, model.spec.depth, model.spec.heads, model.spec.norm_eps), (192, 12, 3, 1e-6));
    assert_eq!(model.preprocess.crop, [224, 224]);
    assert_eq!(model.preprocess.resize, foretune::data::Resize::ShortSide(248));
    assert_eq!(model.class_names.as_ref().unwrap()[1], "goldfish");

    let small = LoadOptions { image: Some([112, 112]), ..Default::default() };
    let small = Model::open(&folder, &small).unwrap();
    assert_eq!((small.spec.grid(), small.preprocess.crop), ([7, 7], [112, 112]));
    assert_eq!(small.preprocess.resize, foretune::data::Resize::ShortSide(124));
    assert_eq!(small.position_table().unwrap().unwrap().len(), 50 * 192);
    assert_eq!(small.fingerprint(), model.fingerprint());
}
