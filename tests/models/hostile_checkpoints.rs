//! Damaged and malicious checkpoints give one clear error: no panic, no allocation by unchecked sizes.

use crate::common::{Tensors, Vit, file, serialise};
use foretune::Error;
use foretune::model::{LoadOptions, Model};
use foretune::weights::Checkpoint;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn parse(bytes: Vec<u8>) -> Result<Checkpoint, Error> {
    Checkpoint::from_bytes(Path::new("hostile.safetensors"), bytes)
}

fn refused(bytes: Vec<u8>) -> String {
    let error = parse(bytes).expect_err("a damaged file was accepted");
    assert!(matches!(error, Error::Checkpoint { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.starts_with("hostile.safetensors: "), "{message}");
    message
}

/// A timm ViT of width 8, 2 blocks, on 8×8 images with patches of 4.
fn tiny() -> Tensors {
    Vit::TINY.tensors()
}

fn config() -> Value {
    Vit::TINY.config()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(weights: &[u8], config: Option<&str>) -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.put("model.safetensors", weights);
        if let Some(config) = config {
            folder.put("config.json", config.as_bytes());
        }
        folder
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn open(&self) -> Result<Model, Error> {
        Model::open(self.0.path(), &LoadOptions::default())
    }
}

fn open(tensors: &Tensors, config: &Value) -> Result<Model, Error> {
    Folder::new(&serialise(tensors), Some(&config.to_string())).open()
}

#[test]
fn the_tiny_model_is_sound() {
    let model = open(&tiny(), &config()).unwrap();
    assert_eq!((model.spec.heads, model.spec.image, model.spec.classes), (2, [8, 8], 3));
    assert_eq!(model.vit.blocks[1].fc1.read::<f32>().unwrap().len(), 128);
}

#[test]
fn absurd_header_lengths() {
    for length in [1u64 << 63, u64::MAX, 1 << 40, 100_000_001, 9] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(b"{}");
        assert!(refused(bytes).contains(&length.to_string()));
    }
    for short in 0..8 {
        refused(vec![0; short]);
    }
}

#[test]
fn malformed_headers() {
    let one = |inner: &str| file(&format!("{{\"a\":{inner}}}"), &[0; 8]);
    refused(file("", &[]));
    refused(file("[]", &[]));
    refused(file("{\"a\":", &[]));
    refused(file(&"[".repeat(100_000), &[]));
    refused(file("{\"a\":\u{0}}", &[]));
    refused(one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,4]}"#));
    refused(one(r#"{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#));
    refused(one(r#"{"dtype":"F32","shape":[2],"data_offsets":[4,12]}"#));
    refused(one(r#"{"dtype":"F99","shape":[2],"data_offsets":[0,8]}"#));
    refused(one(r#"{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#));
    refused(one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}"#));
    refused(one(r#"{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}"#));
    refused(one(r#"{"dtype":"F32","shape":[1e30],"data_offsets":[0,8]}"#));
    // Eight ranges that add up to 2^64 - 8 bytes: the sum must not wrap.
    let huge = (1u64 << 61) - 1;
    let entries: Vec<String> = (0..8u64)
        .map(|i| {
            format!(r#""t{i}":{{"dtype":"U8","shape":[{huge}],"data_offsets":[{},{}]}}"#, i * huge, (i + 1) * huge)
        })
        .collect();
    refused(file(&format!("{{{}}}", entries.join(",")), &[]));
    // Overlap.
    refused(file(
        r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[4,12]}}"#,
        &[0; 12],
    ));
}

#[test]
fn truncation_at_every_length_is_noticed() {
    let whole = serialise(&tiny());
    for length in (0..whole.len()).step_by(97).chain(whole.len() - 9..whole.len()) {
        refused(whole[..length].to_vec());
    }
    let mut longer = whole.clone();
    longer.push(0);
    refused(longer);
}

#[test]
fn not_a_number_is_refused_when_read() {
    let mut tensors = tiny();
    tensors.get_mut("head.bias").unwrap().1[1] = f32::NAN;
    let error = open(&tensors, &config()).unwrap().head().unwrap_err();
    assert!(error.to_string().contains("`head.bias`") && error.to_string().contains("element 1"), "{error}");
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    for name in tiny().keys() {
        let mut missing = tiny();
        missing.remove(name);
        let message = open(&missing, &config()).map(|_| ()).expect_err(name).to_string();
        if name == "head.weight" {
            // Without it there is no classifier, and its bias is left over.
            assert!(message.contains("head.bias"), "{message}");
        } else {
            let part = name.trim_end_matches(".weight").trim_end_matches(".bias");
            assert!(message.contains(part) || name == "patch_embed.proj.weight", "{name}: {message}");
        }

        let mut wrong = tiny();
        let entry = wrong.get_mut(name).unwrap();
        entry.0.insert(0, 1);
        *entry.0.last_mut().unwrap() += 1;
        entry.1 = vec![0.5; entry.0.iter().product()];
        let message = open(&wrong, &config()).map(|_| ()).expect_err(name).to_string();
        assert!(message.contains(name.as_str()) && message.contains(&format!("{:?}", wrong[name].0)), "{message}");
    }
}

#[test]
fn other_kinds_of_vit_are_refused_by_name() {
    for name in [
        "blocks.0.attn.q_norm.weight",
        "blocks.1.attn.k_norm.bias",
        "attn_pool.latent",
        "blocks.0.mlp.norm.weight",
        "rope.freqs",
        "blocks.0.attns.0.norm.weight",
        "blocks.0.something.new",
        "patch_embed.norm.weight",
        "blocks.0.ls1.gamma",
        "fc_norm.weight",
        "reg_token",
        "blocks.01.norm1.weight",
    ] {
        let mut tensors = tiny();
        tensors.insert(name.into(), (vec![1, 1, 8], vec![0.5; 8]));
        let message = open(&tensors, &config()).map(|_| ()).expect_err(name).to_string();
        assert!(message.contains(name) || (name == "reg_token" && message.contains("reg_tokens")), "{message}");
    }
    let mut tensors = tiny();
    tensors.insert("projection_head.weight".into(), (vec![8], vec![0.5; 8]));
    open(&tensors, &config()).expect("a tensor outside the encoder is left alone");
}

#[test]
fn integer_weights_are_refused() {
    let mut bytes = serialise(&tiny());
    let at = bytes.windows(5).position(|w| w == b"\"F32\"").unwrap();
    bytes[at..at + 5].copy_from_slice(b"\"I32\"");
    let folder = Folder::new(&bytes, Some(&config().to_string()));
    assert!(folder.open().unwrap_err().to_string().contains("I32"));
}

#[test]
fn an_index_may_only_name_files_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(folder.path().join("x.safetensors"), serialise(&tiny())).unwrap();
    let index = inner.join("model.safetensors.index.json");
    let absolute = folder.path().join("x.safetensors");
    for shard in ["../x.safetensors", absolute.to_str().unwrap(), "", ".", "..", "a/b", "a\\b", "missing.safetensors"] {
        std::fs::write(&index, json!({"weight_map": {"norm.weight": shard}}).to_string()).unwrap();
        let error = Checkpoint::open(&inner).expect_err(shard);
        assert!(matches!(error, Error::Checkpoint { .. }), "{shard}: {error:?}");
        assert!(error.to_string().contains(shard), "{error}");
    }
    for text in ["", "{}", "[]", "{\"weight_map\": {}}", "{\"weight_map\": {\"a\": 1}}", "{\"weight_map\": []}"] {
        std::fs::write(&index, text).unwrap();
        assert!(matches!(Checkpoint::open(&inner), Err(Error::Checkpoint { .. })), "{text}");
    }
    std::fs::write(inner.join("part.safetensors"), serialise(&tiny())).unwrap();
    std::fs::write(&index, json!({"weight_map": {"nowhere": "part.safetensors"}}).to_string()).unwrap();
    assert!(Checkpoint::open(&inner).unwrap_err().to_string().contains("nowhere"));
}

#[test]
fn wrong_paths() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Checkpoint::open(&folder.path().join("absent")), Err(Error::Io { .. })));
    assert!(matches!(Checkpoint::open(folder.path()), Err(Error::Checkpoint { .. })));
    std::fs::write(folder.path().join("a.safetensors"), b"").unwrap();
    assert!(Checkpoint::open(folder.path()).unwrap_err().to_string().contains("empty"));
    std::fs::write(folder.path().join("b.safetensors"), b"").unwrap();
    assert!(Checkpoint::open(folder.path()).unwrap_err().to_string().contains("name the one"));
}

/// Values no configuration should hold.
fn absurdities() -> Vec<Value> {
    vec![
        json!(0),
        json!(-1),
        json!(1e18),
        json!(1.5),
        json!(18446744073709551615u64),
        json!(3),
        json!("8"),
        json!([]),
        json!([8, 8, 8]),
        json!({}),
        json!(true),
        json!(f64::MAX),
    ]
}

#[test]
fn absurd_timm_configurations() {
    let keys = [
        "img_size",
        "patch_size",
        "embed_dim",
        "depth",
        "num_heads",
        "mlp_ratio",
        "in_chans",
        "reg_tokens",
        "class_token",
        "qkv_bias",
        "global_pool",
        "act_layer",
        "norm_layer",
        "init_values",
        "pos_embed",
        "fc_norm",
    ];
    let weights = serialise(&tiny());
    for key in keys {
        for value in absurdities() {
            let mut config = config();
            config["model_args"][key] = value.clone();
            let opened = Folder::new(&weights, Some(&config.to_string())).open();
            // Some of them are right for some fields (true, 8, 3); none may panic, and errors name the field.
            match opened {
                Ok(model) => assert_eq!((model.spec.width, model.spec.depth), (8, 2)),
                Err(e @ Error::Tensor { .. }) => {
                    assert!(key == "init_values" || key == "qkv_bias" || key == "fc_norm", "{e}")
                }
                Err(e) => {
                    assert!(matches!(e, Error::Config { .. }), "{key} = {value}: {e:?}");
                    let named = e.to_string().contains(key)
                        || e.to_string().contains("heads")
                        || e.to_string().contains("pool");
                    assert!(named, "{key} = {value}: {e}");
                }
            }
        }
    }
    for text in [
        "",
        "[]",
        "{",
        "null",
        "{\"architecture\": 3}",
        "{}",
        "{\"architecture\": \"resnet50\"}",
        "{\"architecture\": \"vit_base_patch16_siglip_224\"}",
        "{\"architecture\": \"vit_tiny_patch16_224\", \"model_args\": 3}",
    ] {
        let error = Folder::new(&weights, Some(text)).open().unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{text}: {error:?}");
        assert!(error.to_string().contains("config.json"), "{error}");
    }
}

#[test]
fn disagreement_names_field_value_and_tensor() {
    for (key, value, tensor) in [
        ("embed_dim", 16, "patch_embed.proj.weight"),
        ("patch_size", 8, "patch_embed.proj.weight"),
        ("img_size", 16, "pos_embed"),
        ("mlp_ratio", 3, "blocks.0.mlp.fc2.weight"),
        ("depth", 3, "2 blocks"),
        ("num_heads", 3, "3 attention heads"),
    ] {
        let mut config = config();
        config["model_args"][key] = json!(value);
        let message = open(&tiny(), &config).unwrap_err().to_string();
        assert!(message.contains(&value.to_string()) && message.contains(tensor), "{message}");
    }
    // An absent field is the library's default for that architecture, not whatever fits.
    let mut config = config();
    config["model_args"].as_object_mut().unwrap().remove("embed_dim");
    let message = open(&tiny(), &config).unwrap_err().to_string();
    assert!(message.contains("192"), "{message}");
}

#[test]
fn a_bare_file_is_inferred_or_asks_for_heads() {
    let bare = Folder::new(&serialise(&tiny()), None);
    let error = bare.open().unwrap_err();
    assert!(matches!(&error, Error::Options(m) if m.contains("--heads")), "{error:?}");
    let options = LoadOptions { heads: Some(2), ..Default::default() };
    let inferred = Model::open(bare.0.path(), &options).unwrap();
    let configured = open(&tiny(), &config()).unwrap();
    assert_eq!(inferred.spec, configured.spec);
    assert_eq!(inferred.fingerprint(), configured.fingerprint());
    for heads in [0, 3, 16] {
        let options = LoadOptions { heads: Some(heads), ..Default::default() };
        assert!(matches!(Model::open(bare.0.path(), &options), Err(Error::Options(_))), "{heads}");
    }
    for image in [[0, 8], [6, 8], [1 << 40, 8]] {
        let options = LoadOptions { heads: Some(2), image: Some(image) };
        assert!(matches!(Model::open(bare.0.path(), &options), Err(Error::Options(_))), "{image:?}");
    }
}

/// One tensor's header entry with random sizes and offsets.
fn entry() -> impl Strategy<Value = String> {
    let number = || prop_oneof![0..20u64, any::<u64>(), Just(1 << 61)];
    let dtype = prop::sample::select(vec!["F32", "U8", "F4", "F64", "BOOL"]);
    ("[a-c]", dtype, proptest::collection::vec(number(), 0..3), number(), number()).prop_map(
        |(name, dtype, shape, from, to)| {
            format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{from},{to}]}}"#)
        },
    )
}

/// Which bits to flip.
fn flips() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    proptest::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(bytes);
    }

    #[test]
    fn random_headers_never_panic(entries in proptest::collection::vec(entry(), 0..4), data in 0usize..64) {
        let _ = parse(file(&format!("{{{}}}", entries.join(",")), &vec![0; data]));
    }

    #[test]
    fn flipped_bits_never_panic(flips in flips(), in_header in any::<bool>()) {
        let mut bytes = serialise(&tiny());
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let range = if in_header { header } else { bytes.len() };
        for (index, bit) in flips {
            bytes[index.index(range)] ^= 1 << bit;
        }
        if let Ok(model) = Folder::new(&bytes, Some(&config().to_string())).open() {
            let _ = model.head();
            let _ = model.position_table();
            let _ = model.fingerprint();
        }
    }

    #[test]
    fn flipped_bits_in_the_configuration_never_panic(flips in flips()) {
        let mut text = config().to_string().into_bytes();
        for (index, bit) in flips {
            let at = index.index(text.len());
            text[at] ^= 1 << bit;
        }
        let folder = Folder::new(&serialise(&tiny()), None);
        folder.put("config.json", &text);
        if let Ok(model) = folder.open() {
            let _ = model.position_table();
        }
    }
}
