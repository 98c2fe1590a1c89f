//! ONNX files: exports of the golden cases by other programs and by ours, opened in place of the checkpoints.

use crate::common::{listing, photos, success};
use foretune::adapter::Adapter;
use foretune::cpu::CpuOptions;
use foretune::model::{LoadOptions, Model, import_onnx};
use foretune::onnx::{Element, ExportOptions, export};
use foretune::selftest::{Arithmetic, run_case};
use foretune::weights::TensorRef;
use foretune::{Classifier, engine};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Other programs' exports and the golden cases they are of.
fn exports() -> Vec<(PathBuf, PathBuf)> {
    let folder = golden("onnx");
    let mut files: Vec<PathBuf> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "onnx"));
    files.sort();
    let case = |file: &Path| golden(file.file_name().unwrap().to_str().unwrap().split('.').next().unwrap());
    files.into_iter().map(|file| (case(&file), file)).collect()
}

fn open(path: &Path) -> Model {
    Model::open(path, &LoadOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// `case`, opened at the size of its images.
fn original(case: &Path, like: &Model) -> Model {
    Model::open(case, &LoadOptions { image: Some(like.spec.image), heads: None }).unwrap()
}

#[test]
fn exports_of_every_program_give_the_cases_outputs() {
    let exports = exports();
    assert!(exports.len() >= 8, "{} exports", exports.len());
    for (case, file) in exports {
        let checks = run_case(&case, Some(&file), Arithmetic::F32, None).unwrap_or_else(|error| panic!("{error}"));
        for check in &checks {
            assert!(check.passed(), "{}: {check:?}", file.display());
        }
        assert!(checks.iter().any(|check| check.name == "logits"), "{}", file.display());
    }
}

/// Values of every tensor but the position embedding and what is added to it, in a fixed order.
fn values(model: &Model) -> Vec<(String, Vec<f32>)> {
    let mut all = vec![("patch".to_owned(), model.vit.patch.read().unwrap())];
    let mut one = |name: String, tensor: &TensorRef| all.push((name, tensor.read().unwrap()));
    for (i, block) in model.vit.blocks.iter().enumerate() {
        one(format!("blocks.{i}.norm1"), &block.norm1.weight);
        one(format!("blocks.{i}.norm2"), &block.norm2.bias);
        block.scale1.iter().for_each(|scale| one(format!("blocks.{i}.scale1"), scale));
        block.scale2.iter().for_each(|scale| one(format!("blocks.{i}.scale2"), scale));
    }
    model.vit.class_token.iter().for_each(|token| one("class token".into(), token));
    for norm in [&model.vit.pre_norm, &model.vit.norm, &model.vit.fc_norm].into_iter().flatten() {
        one("norm".into(), &norm.weight);
    }
    for (i, block) in model.vit.blocks.iter().enumerate() {
        for (part, linear) in [("qkv", &block.qkv), ("proj", &block.proj), ("fc1", &block.fc1), ("fc2", &block.fc2)] {
            all.push((format!("blocks.{i}.{part}.weight"), linear.read().unwrap()));
            let bias = linear.bias().map(|bias| bias.read().unwrap());
            all.push((format!("blocks.{i}.{part}.bias"), bias.unwrap_or_default()));
        }
    }
    model.vit.head.iter().for_each(|head| all.push(("head".into(), head.read().unwrap())));
    all
}

#[test]
fn weights_are_the_checkpoints_to_the_bit() {
    for (case, file) in exports() {
        let imported = open(&file);
        let original = original(&case, &imported);
        let (found, expected) = (values(&imported), values(&original));
        assert_eq!(found.len(), expected.len(), "{}", file.display());
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            assert!(found == expected, "{}: {name}", file.display());
        }
        let mut spec = imported.spec.clone();
        // A token beside the class token is a register where nothing reads it.
        spec.image = original.spec.image;
        assert_eq!(spec, original.spec, "{}", file.display());
    }
}

#[test]
fn what_is_written_is_the_same_model() {
    for (_, file) in exports() {
        let folder = tempfile::tempdir().unwrap();
        let imported = open(&file);
        let written = import_onnx(&file, folder.path(), None).unwrap();
        assert_eq!(listing(folder.path()), ["config.json", "model.safetensors"]);
        assert_eq!((&written.spec, &written.preprocess), (&imported.spec, &imported.preprocess), "{}", file.display());
        assert_eq!(written.fingerprint(), imported.fingerprint(), "{}", file.display());
        assert_eq!(written.position_table().unwrap(), imported.position_table().unwrap());
        // Elsewhere, at another size.
        let image = [imported.spec.patch[0] * 3, imported.spec.patch[1] * 2];
        let sized = Model::open(folder.path(), &LoadOptions { image: Some(image), heads: None }).unwrap();
        assert_eq!(sized.spec.image, image);
    }
}

/// An export by timm's names is the same backbone: adapters of one run with the other.
#[test]
fn a_timm_models_export_has_its_fingerprint() {
    let mut compared = 0;
    for (case, file) in exports() {
        let (imported, name) = (open(&file), case.file_name().unwrap().to_str().unwrap().to_owned());
        if name.starts_with("timm") && name != "timm_interpolated" {
            assert_eq!(imported.fingerprint(), original(&case, &imported).fingerprint(), "{}", file.display());
            compared += 1;
        }
    }
    assert!(compared >= 4, "{compared}");
}

fn logits(model: &Model, images: &[f32]) -> Vec<f32> {
    let classifier = Classifier::new(model.clone(), None).unwrap();
    let engine = engine::cpu(&classifier.model, CpuOptions::default()).unwrap();
    let mut engine = engine.engine(classifier.layout, 2, 0).unwrap();
    classifier.logits(&mut engine, images).unwrap().into_iter().collect()
}

#[test]
fn our_own_exports_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    for case in listing(&golden("")).into_iter().map(|name| golden(&name)) {
        if !case.join("case.safetensors").exists() {
            continue;
        }
        let model = open(&case);
        let images: Vec<f32> = (0..2 * model.preprocess.image_len()).map(|i| (i as f32 * 0.37).sin()).collect();
        let expected = logits(&model, &images);
        for (element, tolerance) in [(Element::F32, 2e-5), (Element::F16, 5e-3)] {
            for preprocessing in [false, true] {
                let mut classifier = Classifier::new(model.clone(), None).unwrap();
                classifier.classes = Some((0..model.spec.classes).map(|class| format!("kind {class}")).collect());
                export(&classifier, ExportOptions { element, preprocessing }, &path).unwrap();
                let back = open(&path);
                assert_eq!((&back.preprocess, &back.class_names), (&model.preprocess, &classifier.classes));
                assert_eq!((back.spec.pooling, back.spec.tokens(0)), (model.spec.pooling, model.spec.tokens(0)));
                let found = logits(&back, &images);
                let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
                let error =
                    norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied());
                assert!(error <= tolerance, "{}: {element:?}: {error:e}", case.display());
            }
        }
    }
}

#[test]
fn exports_with_prompts_or_prototypes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuned.onnx");
    let model = open(&golden("timm_deit3"));
    let mut classifier = Classifier::new(model.clone(), None).unwrap();
    classifier.layout = foretune::model::PromptLayout { prompts: 1, deep: false, insert_at: 0 };
    classifier.prompts = vec![0.5; model.spec.width];
    export(&classifier, ExportOptions::default(), &path).unwrap();
    let message = Model::open(&path, &LoadOptions::default()).unwrap_err().to_string();
    assert!(message.contains("tuned prompts") && message.contains("adapter"), "{message}");

    let mut classifier = Classifier::new(model.clone(), None).unwrap();
    classifier.head = foretune::model::Head::Prototype {
        center: ndarray::Array1::zeros(model.spec.width),
        means: ndarray::Array2::ones((3, model.spec.width)),
        tau: 2.0,
    };
    export(&classifier, ExportOptions::default(), &path).unwrap();
    let message = Model::open(&path, &LoadOptions::default()).unwrap_err().to_string();
    assert!(message.contains("class prototypes"), "{message}");
}

/// The same seed tunes the same prompts on an export as on the checkpoint it was made of.
#[test]
fn tuning_from_onnx_is_tuning_from_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    photos(&folder.path().join("data"), 3, 4, 2);
    let case = golden("timm_gap");
    let file = exports().into_iter().find(|(of, _)| *of == case).expect("an export of timm_gap").1;
    std::fs::create_dir(at("model")).unwrap();
    std::fs::copy(&file, at("model/vit.onnx")).unwrap();
    std::fs::copy(case.join("config.json"), at("model/config.json")).unwrap();
    let tune = |model: &str, out: &str| {
        let fixed =
            ["tune", "--model", model, "--data", &at("data"), "--format", "folder", "--out", &at(out), "--no-eval"];
        success(
            &[&fixed[..], &["--steps", "4", "--seed", "3", "--insert-at", "1", "--device", "cpu", "--quiet"]].concat(),
        );
        Adapter::open(Path::new(&at(out))).unwrap()
    };
    let expected = tune(case.to_str().unwrap(), "checkpoint.safetensors");
    for model in ["model/vit.onnx", "model"] {
        let found = tune(&at(model), "onnx.safetensors");
        assert_eq!(found, expected);
    }
    let beside = import_onnx(Path::new(&at("model/vit.onnx")), Path::new(&at("model")), None);
    assert!(beside.unwrap_err().is_usage());
    success(&["import", "--model", &at("model/vit.onnx"), "--out", &at("imported")]);
    assert_eq!(tune(&at("imported"), "imported.safetensors"), expected);
    assert!(success(&["inspect", &at("model/vit.onnx")]).contains("ONNX"));
}
