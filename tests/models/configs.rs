//! Configurations: library defaults, agreement with the tensors, absurd values, preprocessing, class names, inference.

use foretune::Error;
use foretune::data::{Interpolation, Resize};
use foretune::model::{Activation, Family, LoadOptions, Mlp, Model, Pooling};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A copy of a golden checkpoint whose companions can be changed.
struct Copy {
    folder: tempfile::TempDir,
    config: Value,
}

impl Copy {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(golden(name).join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
        let config = serde_json::from_slice(&std::fs::read(golden(name).join("config.json")).unwrap()).unwrap();
        Copy { folder, config }
    }

    fn put(&self, name: &str, value: &Value) {
        std::fs::write(self.folder.path().join(name), value.to_string()).unwrap();
    }

    fn open_with(&self, options: &LoadOptions) -> Result<Model, Error> {
        self.put("config.json", &self.config);
        Model::open(self.folder.path(), options)
    }

    fn open(&self) -> Result<Model, Error> {
        self.open_with(&LoadOptions::default())
    }
}

#[test]
fn every_golden_case_opens() {
    for entry in std::fs::read_dir(golden("")).unwrap() {
        let path = entry.unwrap().path();
        if path.join("config.json").exists() {
            let model = Model::open(&path, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!((model.spec.width, model.spec.heads, model.spec.depth, model.spec.classes), (16, 2, 2, 5));
            assert!(model.head().unwrap().is_some());
        }
    }
}

#[test]
fn families_and_variants() {
    let spec = |name: &str| Model::open(&golden(name), &LoadOptions::default()).unwrap();
    let swiglu = spec("hf_dinov2_swiglu");
    assert_eq!((swiglu.family, swiglu.spec.mlp, swiglu.spec.hidden), (Family::Dinov2, Mlp::SwiGlu, 24));
    let teacher = spec("hf_deit_teacher");
    assert_eq!((teacher.spec.pooling, teacher.vit.head.len()), (Pooling::ClsAndDistillation, 2));
    assert_eq!(spec("hf_vit_gelu_tanh_bf16").spec.mlp, Mlp::Plain(Activation::GeluTanh));
    let relu = spec("hf_vit_relu_no_bias");
    assert!(relu.vit.blocks[0].qkv.bias().is_none());
    assert_eq!(relu.spec.mlp, Mlp::Plain(Activation::Relu));
    let clip = spec("timm_clip_quickgelu");
    assert_eq!((clip.spec.pre_norm, clip.spec.norm_eps), (true, 1e-5));
    assert_eq!(clip.spec.mlp, Mlp::Plain(Activation::QuickGelu));
    assert!(clip.vit.patch.bias().is_none());
    let deit3 = spec("timm_deit3");
    assert_eq!((deit3.spec.layer_scale, deit3.spec.image), (true, [16, 24]));
    assert_eq!(deit3.position_table().unwrap().unwrap()[..16], [0.0; 16]);
    let gap = spec("timm_reg4_gap");
    assert_eq!((gap.spec.class_token, gap.spec.extra_tokens, gap.spec.pooling), (false, 4, Pooling::PatchMean));
}

#[test]
fn bare_files_are_inferred() {
    for entry in std::fs::read_dir(golden("")).unwrap() {
        let path = entry.unwrap().path();
        if !path.join("config.json").exists() {
            continue;
        }
        let configured = Model::open(&path, &LoadOptions::default()).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let bare = Copy::new(name);
        let open = |options: &LoadOptions| Model::open(bare.folder.path(), options);
        let mut options = LoadOptions { heads: Some(2), ..Default::default() };
        if name == "timm_deit3" {
            assert!(
                matches!(open(&options), Err(Error::Options(m)) if m.contains("--image")),
                "2×3 patches are no square"
            );
            options.image = Some([16, 24]);
        }
        let mut spec = open(&options).unwrap_or_else(|e| panic!("{e}")).spec;
        // Nothing in the tensors tells activations apart.
        if let (Mlp::Plain(_), Mlp::Plain(_)) = (spec.mlp, configured.spec.mlp) {
            spec.mlp = configured.spec.mlp;
        }
        assert_eq!(spec, configured.spec, "{name}");
    }
}

#[test]
fn a_distilled_pair_is_one_classifier() {
    let model = Model::open(&golden("hf_deit_teacher"), &LoadOptions::default()).unwrap();
    let (weight, bias) = model.classifier::<f64>().unwrap().unwrap();
    let [cls, dist] = [0, 1].map(|i| {
        (model.vit.head[i].read::<f64>().unwrap(), model.vit.head[i].bias().map(|b| b.read::<f64>().unwrap()))
    });
    assert_eq!(weight[32 + 5], cls.0[16 + 5] / 2.0);
    assert_eq!(weight[32 + 16 + 5], dist.0[16 + 5] / 2.0);
    assert_eq!(bias[3], (cls.1.unwrap()[3] + dist.1.unwrap()[3]) / 2.0);
}

#[test]
fn absurd_values_are_refused_and_named() {
    let keys = [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "image_size",
        "patch_size",
        "num_channels",
        "layer_norm_eps",
        "hidden_act",
        "qkv_bias",
        "model_type",
        "id2label",
        "head_dim",
    ];
    let values = [
        json!(0),
        json!(-8),
        json!(1e18),
        json!(0.3),
        json!("x"),
        json!([]),
        json!([1, 2, 3]),
        json!({}),
        json!(false),
        json!(5),
        json!(f64::MAX),
    ];
    for key in keys {
        for value in &values {
            let mut copy = Copy::new("hf_vit_gelu_tanh_bf16");
            copy.config[key] = value.clone();
            match copy.open() {
                Ok(_) => {
                    assert!(key == "layer_norm_eps" && (*value == json!(0) || *value == json!(0.3)), "{key} = {value}")
                }
                Err(Error::Tensor { .. }) => assert_eq!((key, value), ("qkv_bias", &json!(false))),
                Err(e) => {
                    assert!(matches!(e, Error::Config { .. }), "{key} = {value}: {e:?}");
                    assert!(
                        e.to_string().contains(key) || e.to_string().contains("attention heads"),
                        "{key} = {value}: {e}"
                    );
                }
            }
        }
    }
}

#[test]
fn absent_fields_take_the_defaults_and_must_agree() {
    for (key, default) in [
        ("hidden_size", "768"),
        ("num_hidden_layers", "12"),
        ("intermediate_size", "3072"),
        ("patch_size", "16"),
        ("image_size", "224"),
    ] {
        let mut copy = Copy::new("hf_vit_gelu_tanh_bf16");
        copy.config.as_object_mut().unwrap().remove(key);
        let message = copy.open().unwrap_err().to_string();
        assert!(message.contains(key) && message.contains(default), "{message}");
    }
    let mut copy = Copy::new("hf_vit_gelu_tanh_bf16");
    for key in ["layer_norm_eps", "hidden_act", "qkv_bias", "num_channels"] {
        copy.config.as_object_mut().unwrap().remove(key);
    }
    let model = copy.open().unwrap();
    assert_eq!((model.spec.norm_eps, model.spec.mlp), (1e-12, Mlp::Plain(Activation::Gelu)));
    // 12 heads by default, which do not divide 16.
    copy.config.as_object_mut().unwrap().remove("num_attention_heads");
    assert!(copy.open().unwrap_err().to_string().contains("12 attention heads"));
}

#[test]
fn heads_may_not_contradict_the_configuration() {
    let copy = Copy::new("hf_vit_gelu_tanh_bf16");
    let options = |heads| LoadOptions { heads: Some(heads), ..Default::default() };
    assert!(copy.open_with(&options(2)).is_ok());
    assert!(copy.open_with(&options(4)).is_err());
}

#[test]
fn another_image_size_resizes_in_proportion() {
    let copy = Copy::new("hf_deit_teacher");
    let options = LoadOptions { image: Some([112, 56]), ..Default::default() };
    let model = copy.open_with(&options).unwrap();
    assert_eq!((model.preprocess.crop, model.preprocess.resize), ([112, 56], Resize::Exact([128, 64])));
    assert_eq!(model.position_table().unwrap().unwrap().len(), (2 + 14 * 7) * 16);
}

#[test]
fn the_image_processor_is_followed() {
    let copy = Copy::new("hf_dinov2_swiglu");
    copy.put(
        "preprocessor_config.json",
        &json!({"crop_size": {"height": 24, "width": 24}, "do_center_crop": true,
        "do_resize": true, "size": {"shortest_edge": 32}, "resample": 3, "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225], "rescale_factor": 0.00392156862745098}),
    );
    let model = copy.open().unwrap();
    assert_eq!((model.spec.image, model.preprocess.crop), ([24, 24], [24, 24]));
    assert_eq!(
        (model.preprocess.resize, model.preprocess.interpolation),
        (Resize::ShortSide(32), Interpolation::Bicubic)
    );
    assert_eq!(model.preprocess.mean, [0.485, 0.456, 0.406]);

    let copy = Copy::new("hf_vit_gelu_tanh_bf16");
    copy.put("preprocessor_config.json", &json!({"size": 16, "resample": 2}));
    let model = copy.open().unwrap();
    assert_eq!((model.preprocess.resize, model.preprocess.mean), (Resize::Exact([16, 16]), [0.5; 3]));
    for (key, value) in [
        ("size", json!(-1)),
        ("size", json!({"height": 3})),
        ("resample", json!(9)),
        ("image_std", json!([0, 0, 0])),
        ("image_mean", json!("x")),
        ("do_resize", json!(1)),
        ("rescale_factor", json!(0)),
        ("size", json!(1e18)),
    ] {
        copy.put("preprocessor_config.json", &json!({key: value}));
        let error = copy.open().unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{key}: {error:?}");
        assert!(error.to_string().contains("preprocessor_config.json"), "{error}");
    }
}

#[test]
fn class_names() {
    let mut copy = Copy::new("hf_vit_gelu_tanh_bf16");
    assert_eq!(copy.open().unwrap().class_names, None, "LABEL_i is no name");
    copy.config["id2label"] = json!({"0": "a", "1": "b", "2": "c", "3": "d", "4": "e"});
    assert_eq!(copy.open().unwrap().class_names.unwrap(), ["a", "b", "c", "d", "e"]);
    copy.config["id2label"] = json!({"0": "a", "1": "b", "2": "c", "3": "d", "9": "e"});
    assert!(copy.open().unwrap_err().to_string().contains("class 4"));
    copy.config["id2label"] = json!({"0": "a"});
    assert!(copy.open().unwrap_err().to_string().contains("id2label"));
    copy.config.as_object_mut().unwrap().remove("id2label");
    std::fs::write(copy.folder.path().join("labels.txt"), "v\nw\nx\ny\nz\n").unwrap();
    assert_eq!(copy.open().unwrap().class_names.unwrap()[4], "z");
    std::fs::write(copy.folder.path().join("labels.txt"), "v\n").unwrap();
    assert!(copy.open().unwrap_err().to_string().contains("labels.txt"));
    std::fs::write(copy.folder.path().join("labels.txt"), [0xff, 0xfe]).unwrap();
    assert!(copy.open().unwrap_err().to_string().contains("UTF-8"));

    let mut copy = Copy::new("timm_gap");
    copy.config["label_names"] = json!(["n1", "n2", "n3", "n4", "n5"]);
    copy.config["label_descriptions"] = json!({"n1": "tench, Tinca tinca", "n3": "cock"});
    assert_eq!(copy.open().unwrap().class_names.unwrap(), ["tench, Tinca tinca", "n2", "cock", "n4", "n5"]);
    copy.config["label_names"] = json!(["n1"]);
    assert!(copy.open().unwrap_err().to_string().contains("label_names"));
}

#[test]
fn timm_preprocessing() {
    let mut copy = Copy::new("timm_deit_distilled");
    let model = copy.open().unwrap();
    assert_eq!(model.preprocess.mean, [0.485, 0.456, 0.406], "the architecture's default");
    assert_eq!(model.preprocess.resize, Resize::ShortSide(17));
    copy.config["pretrained_cfg"] =
        json!({"mean": [0.1, 0.2, 0.3], "crop_pct": 0.5, "interpolation": "bilinear", "crop_mode": "squash"});
    let preprocess = copy.open().unwrap().preprocess;
    assert_eq!((preprocess.mean, preprocess.interpolation), ([0.1, 0.2, 0.3], Interpolation::Bilinear));
    assert_eq!(preprocess.resize, Resize::Exact([32, 32]));
    for (key, value) in [
        ("crop_pct", json!(0)),
        ("crop_pct", json!("x")),
        ("interpolation", json!("magic")),
        ("std", json!([1, 1])),
        ("input_size", json!([3, 0, 0])),
        ("input_size", json!(224)),
    ] {
        copy.config["pretrained_cfg"] = json!({key: value});
        let error = copy.open().unwrap_err();
        assert!(matches!(error, Error::Config { .. }) && error.to_string().contains(key), "{error:?}");
    }
}
