use super::*;
use crate::data::{Interpolation, Resize};
use crate::model::{Activation, FinalNorm, Mlp};
use ndarray::{Array2, array};
use proptest::prelude::*;

fn spec() -> ModelSpec {
    ModelSpec {
        image: [32, 48],
        patch: [16, 16],
        channels: 3,
        width: 4,
        depth: 3,
        heads: 2,
        hidden: 8,
        mlp: Mlp::Plain(Activation::Gelu),
        norm_eps: 1e-6,
        class_token: true,
        extra_tokens: 0,
        pre_norm: false,
        layer_scale: false,
        pooling: Pooling::Cls,
        final_norm: FinalNorm::BeforePool,
        classes: 2,
    }
}

fn adapter() -> Adapter {
    Adapter {
        prompts: Array3::from_shape_fn((2, 3, 4), |(s, p, d)| (s * 12 + p * 4 + d) as f32 * 0.1 - 1.0),
        insert_at: 1,
        deep: true,
        head: Some(Head::Prototype {
            center: array![0.1, 0.2, 0.3, 0.4],
            means: array![[1.0, 0.0, 0.0, 0.0], [0.0, 0.6, 0.8, 0.0]],
            tau: 12.5,
        }),
        pooling: Pooling::Cls,
        classes: vec!["cock".into(), "naïve \"ruff\"".into()],
        preprocess: Preprocess {
            crop: [32, 48],
            resize: Resize::ShortSide(36),
            interpolation: Interpolation::Bicubic,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
        },
        guess: GuessKind::WeightTranspose,
        seed: u64::MAX - 1,
        step: 500,
        backbone: Backbone::new(&spec(), "0123456789abcdef0123"),
    }
}

fn path() -> &'static Path {
    Path::new("birds.safetensors")
}

fn message(result: Result<Adapter>) -> String {
    let message = result.expect_err("a damaged adapter must not load").to_string();
    assert!(message.starts_with("birds.safetensors: "), "{message}");
    message
}

#[test]
fn saved_adapter_reads_back_and_bytes_are_stable() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a.safetensors"), folder.path().join("b.safetensors"));
    for head in [
        adapter().head,
        None,
        Some(Head::Linear { weight: Array2::from_shape_fn((2, 4), |(i, j)| (i + j) as f32), bias: array![0.5, -0.5] }),
    ] {
        let adapter = Adapter { head, ..adapter() };
        adapter.save(&first).unwrap();
        let read = Adapter::open(&first).unwrap();
        assert_eq!(read, adapter);
        read.save(&second).unwrap();
        assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());
        assert!(is_adapter(&first).unwrap());
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");
}

#[test]
fn any_safetensors_reader_can_open_it() {
    let bytes = adapter().to_bytes(path()).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("prompts").unwrap().shape(), [2, 3, 4]);
    assert_eq!(file.tensor("head.means").unwrap().shape(), [2, 4]);
}

#[test]
fn an_adapter_without_prompts_is_a_head() {
    let adapter =
        Adapter { prompts: Array3::zeros((1, 0, 4)), deep: false, insert_at: 0, guess: GuessKind::None, ..adapter() };
    let read = Adapter::from_bytes(path(), &adapter.to_bytes(path()).unwrap()).unwrap();
    assert_eq!(read, adapter);
    read.check(path(), &spec(), "0123456789abcdef0123").unwrap();
}

#[test]
fn check_names_both_backbones() {
    let adapter = adapter();
    adapter.check(path(), &spec(), "0123456789abcdef0123").unwrap();
    let other = ModelSpec { depth: 24, ..spec() };
    let message = adapter.check(path(), &other, "fedcba").unwrap_err().to_string();
    for part in ["birds.safetensors", "3 blocks of width 4", "0123456789ab…", "24 blocks", "fedcba…"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn check_refuses_what_the_fingerprint_does_not_cover() {
    let refuse = |adapter: Adapter, spec: ModelSpec, part: &str| {
        let message = adapter.check(path(), &spec, "0123456789abcdef0123").unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    refuse(adapter(), ModelSpec { image: [64, 64], ..spec() }, "tuned at 32×48 pixels");
    refuse(adapter(), ModelSpec { pooling: Pooling::PatchMean, ..spec() }, "pooling");
    refuse(adapter(), ModelSpec { width: 8, ..spec() }, "token width is 4");
    refuse(adapter(), ModelSpec { depth: 4, ..spec() }, "2 prompt sets from block 1");
    refuse(Adapter { insert_at: 3, ..adapter() }, spec(), "from block 3");
    refuse(Adapter { head: None, ..adapter() }, ModelSpec { classes: 5, ..spec() }, "number of classes is 2");
}

#[test]
fn unsound_adapters_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.safetensors");
    let refuse = |adapter: Adapter, part: &str| {
        let message = adapter.save(&file).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains("a.safetensors"), "{message}");
        assert!(!file.exists());
    };
    refuse(Adapter { prompts: Array3::from_elem((2, 3, 4), f32::NAN), ..adapter() }, "NaN");
    refuse(Adapter { deep: false, ..adapter() }, "shallow");
    refuse(Adapter { classes: vec![], ..adapter() }, "no class names");
    refuse(Adapter { classes: vec!["one".into()], ..adapter() }, "1 class names for a head of 2");
    refuse(
        Adapter { preprocess: Preprocess { std: [0.0; 3], ..adapter().preprocess }, ..adapter() },
        "standard deviation",
    );
    refuse(
        Adapter { preprocess: Preprocess { crop: [0, 1], ..adapter().preprocess }, ..adapter() },
        "images of 0 pixels",
    );
    let head = Some(Head::Linear { weight: Array2::zeros((2, 4)), bias: Array1::zeros(3) });
    refuse(Adapter { head, ..adapter() }, "bias has 3 elements");
}

#[test]
fn a_failed_write_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("missing").join("a.safetensors");
    let message = adapter().save(&file).unwrap_err().to_string();
    assert!(message.contains("missing") && message.contains("cannot write"), "{message}");
}

#[test]
fn other_files_are_named_for_what_they_are() {
    assert!(message(Adapter::from_bytes(path(), b"")).contains("truncated"));
    assert!(message(Adapter::from_bytes(path(), &(1u64 << 63).to_le_bytes())).contains("safetensors"));
    let view = |bytes| safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], bytes).unwrap();
    let plain = safetensors::serialize([("x", view(&[0; 4]))], None).unwrap();
    assert!(message(Adapter::from_bytes(path(), &plain)).contains("not an adapter"));
    let envelope = |document: &str| {
        let metadata = [("foretune".to_owned(), document.to_owned())].into();
        safetensors::serialize([("x", view(&[0; 4]))], Some(metadata)).unwrap()
    };
    let checkpoint = envelope(r#"{"format": "foretune-checkpoint", "version": 1, "content": {}}"#);
    assert!(message(Adapter::from_bytes(path(), &checkpoint)).contains("foretune-checkpoint"));
    let newer = envelope(r#"{"format": "foretune-adapter", "version": 2, "content": {}}"#);
    assert!(message(Adapter::from_bytes(path(), &newer)).contains("format version 2"));
    let bare = envelope(r#"{"format": "foretune-adapter", "version": 1, "content": {}}"#);
    assert!(message(Adapter::from_bytes(path(), &bare)).contains("checksum"));
    assert!(message(Adapter::from_bytes(path(), &envelope(&"[".repeat(100_000)))).contains("malformed"));
}

#[test]
fn every_truncation_and_extension_is_refused() {
    let bytes = adapter().to_bytes(path()).unwrap();
    for length in 0..bytes.len() {
        message(Adapter::from_bytes(path(), &bytes[..length]));
    }
    message(Adapter::from_bytes(path(), &[&bytes[..], &[0]].concat()));
}

#[test]
fn every_bit_flip_is_refused_or_harmless() {
    let adapter = adapter();
    let mut bytes = adapter.to_bytes(path()).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        match Adapter::from_bytes(path(), &bytes) {
            // Padding and letter case inside an escape carry nothing.
            Ok(read) => assert!(bit / 8 < header && read == adapter, "bit {bit} changed the content unnoticed"),
            Err(error) => assert!(error.to_string().starts_with("birds.safetensors: ")),
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

proptest! {
    #[test]
    fn random_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        message(Adapter::from_bytes(path(), &bytes));
    }

    /// A plausible header over random JSON-like content, so that the readers behind the container are reached too.
    #[test]
    fn random_headers_are_refused(header in "\\{[\"a-z_0-9:,\\[\\]\\{\\} ]{0,200}\\}", body in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(body);
        message(Adapter::from_bytes(path(), &bytes));
    }

    /// Documents with a right checksum but arbitrary numbers in them: refused or sound, never a panic.
    #[test]
    fn consistent_files_with_absurd_numbers(
        (sets, prompts, width) in (0usize..4, 0usize..4, 0usize..6),
        (insert_at, deep) in (any::<usize>(), any::<bool>()),
        crop in any::<[usize; 2]>(),
        values in proptest::collection::vec(any::<f32>(), 8),
        (seed, step) in (any::<u64>(), any::<u64>()),
        names in proptest::collection::vec(any::<String>(), 0..4),
    ) {
        let candidate = Adapter {
            prompts: Array3::from_shape_fn((sets, prompts, width), |(s, p, d)| values[(s + p + d) % 8]),
            insert_at, deep, seed, step,
            head: Some(Head::Linear {
                weight: Array2::from_elem((names.len(), width), values[0]),
                bias: Array1::from_elem(names.len(), values[1]),
            }),
            preprocess: Preprocess { crop, ..adapter().preprocess },
            classes: names,
            ..adapter()
        };
        let bytes = candidate.encode(path()).unwrap();
        match Adapter::from_bytes(path(), &bytes) {
            Ok(read) => {
                prop_assert_eq!(&read, &candidate);
                let _ = read.check(path(), &spec(), "0123456789abcdef0123");
            }
            Err(error) => prop_assert!(candidate.validate().is_err() || error.to_string().contains("NaN"), "{}", error),
        }
    }
}
