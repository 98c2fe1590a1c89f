//! A model with its own classifier, and with an adapter, as the library's callers use it.

use foretune::adapter::{Adapter, Backbone};
use foretune::cpu::CpuOptions;
use foretune::data::{Dataset, Format, Item, Split};
use foretune::model::Head;
use foretune::tune::GuessKind;
use foretune::{Classifier, Error, LoadOptions, Model, engine};
use ndarray::Array3;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// An adapter of one prompt ahead of block 1 for `model`, with the model's own classes in reverse.
fn adapter(model: &Model) -> Adapter {
    let Some(Head::Linear { weight, bias }) = model.head().unwrap() else {
        panic!("the golden model has a classifier")
    };
    let head = Head::Linear {
        weight: ndarray::concatenate(ndarray::Axis(0), &[weight.slice(ndarray::s![..;-1, ..])]).unwrap(),
        bias: bias.iter().rev().copied().collect(),
    };
    Adapter {
        prompts: Array3::from_elem((1, 1, model.spec.width), 0.5),
        insert_at: 1,
        deep: false,
        head: Some(head),
        pooling: model.spec.pooling,
        classes: (0..model.spec.classes).rev().map(|class| format!("class {class}")).collect(),
        preprocess: model.preprocess.clone(),
        guess: GuessKind::WeightTranspose,
        seed: 0,
        step: 1,
        backbone: Backbone::new(&model.spec, &model.fingerprint()),
    }
}

fn images(model: &Model, count: usize) -> Vec<f32> {
    (0..count * model.preprocess.image_len()).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect()
}

#[test]
fn without_prompts_an_adapters_head_is_the_only_difference() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let model_path = golden("timm_gap");
    let own = Classifier::open(&model_path, None, &LoadOptions::default()).unwrap();
    adapter(&own.model).without_prompts().save(&path).unwrap();
    let adapted = Classifier::open(&model_path, Some(&path), &LoadOptions::default()).unwrap();
    let images = images(&own.model, 3);
    let logits = |classifier: &Classifier| {
        let mut engine =
            engine::cpu(&classifier.model, CpuOptions::threads(1)).unwrap().engine(classifier.layout, 3, 0).unwrap();
        classifier.logits(&mut engine, &images).unwrap()
    };
    let (ours, theirs) = (logits(&own), logits(&adapted));
    assert_eq!(ours.dim(), (3, own.model.spec.classes));
    assert_eq!(ours, theirs.slice(ndarray::s![.., ..;-1]));

    adapter(&own.model).save(&path).unwrap();
    let prompted = Classifier::open(&model_path, Some(&path), &LoadOptions::default()).unwrap();
    assert_eq!(
        (prompted.layout.prompts, prompted.layout.insert_at, prompted.prompts.len()),
        (1, 1, own.model.spec.width)
    );
    assert_ne!(logits(&prompted), theirs);
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let classifier = Classifier::open(&golden("timm_gap"), None, &LoadOptions::default()).unwrap();
    let mut engine =
        engine::cpu(&classifier.model, CpuOptions::threads(1)).unwrap().engine(classifier.layout, 2, 0).unwrap();
    let pixels = images(&classifier.model, 3);
    for bad in [&pixels[..], &pixels[1..], &[]] {
        assert!(matches!(classifier.logits(&mut engine, bad), Err(Error::Shape { .. })));
    }

    adapter(&classifier.model).save(&path).unwrap();
    let sized = LoadOptions { image: Some(classifier.model.spec.image), ..LoadOptions::default() };
    assert!(matches!(Classifier::open(&golden("timm_gap"), Some(&path), &sized), Err(Error::Options(_))));
    let other = Classifier::open(&golden("timm_deit3"), Some(&path), &LoadOptions::default()).unwrap_err();
    assert!(other.to_string().contains("another backbone"), "{other}");
}

#[test]
fn data_sets_are_given_the_classifiers_class_ids() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let model = Model::open(&golden("timm_gap"), &LoadOptions::default()).unwrap();
    adapter(&model).save(&path).unwrap();
    let classifier = Classifier::open(&golden("timm_gap"), Some(&path), &LoadOptions::default()).unwrap();
    let item = |label| Item { path: PathBuf::from("x.png"), label, split: Split::Test, crop: None };
    let mut dataset = Dataset {
        root: PathBuf::from("set"),
        format: Format::Folder,
        classes: vec!["class 0".into(), "class 2".into()],
        items: [item(0), item(1)].into(),
        problems: Vec::new(),
    };
    classifier.relabel(&mut dataset).unwrap();
    let last = model.spec.classes as u32 - 1;
    assert_eq!(dataset.items.iter().map(|item| item.label).collect::<Vec<_>>(), [last, last - 2]);

    dataset.classes[1] = "owl".into();
    let error = classifier.relabel(&mut dataset).unwrap_err().to_string();
    assert!(error.contains("`owl`"), "{error}");
}
