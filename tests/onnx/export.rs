//! Exported graphs against the golden cases.

use super::{cases, runtime};
use foretune::model::{LoadOptions, Model, PromptLayout};
use foretune::onnx::{Element, ExportOptions, export};
use foretune::{Classifier, classifier::own_head};
use ort::session::{Session, SessionInputs};
use ort::value::TensorRef;
use safetensors::SafeTensors;
use std::path::Path;

/// A case's tensor: its shape and values.
struct Values(Vec<usize>, Vec<f32>);

fn values(file: &SafeTensors, name: &str) -> Option<Values> {
    let view = file.tensor(name).ok()?;
    let data = view.data();
    let values = match view.dtype() {
        safetensors::Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        safetensors::Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        other => panic!("{name} is {other:?}"),
    };
    Some(Values(view.shape().to_vec(), values))
}

/// The case's prompts on its model, with the model's own head.
fn classifier(case: &Path, model: &Path, file: &SafeTensors) -> Option<Classifier> {
    let (_, header) = SafeTensors::read_metadata(&std::fs::read(case.join("case.safetensors")).unwrap()).unwrap();
    let meta: serde_json::Value = serde_json::from_str(&header.metadata().as_ref().unwrap()["meta"]).unwrap();
    let Values(images, _) = values(file, "images").unwrap();
    let Values(prompts, values) = values(file, "prompts").unwrap();
    let model = Model::open(model, &LoadOptions { image: Some([images[2], images[3]]), ..Default::default() }).unwrap();
    let layout = PromptLayout {
        prompts: prompts[1],
        deep: meta["deep"].as_bool().unwrap(),
        insert_at: meta["insert_at"].as_u64().unwrap_or(0) as usize,
    };
    let head = own_head(&model).ok()?;
    let mut classifier = Classifier::new(model, None).unwrap();
    (classifier.layout, classifier.prompts, classifier.head) = (layout, values, head);
    Some(classifier)
}

fn logits(path: &Path, images: &[f32], shape: &[usize]) -> Vec<f32> {
    let input = TensorRef::from_array_view((shape.to_vec(), images)).unwrap();
    run(&mut session(path), ort::inputs!["pixel_values" => input])
}

pub fn session(path: &Path) -> Session {
    Session::builder().unwrap().commit_from_file(path).unwrap()
}

/// Logits of a graph.
pub fn run<'v, const N: usize>(session: &mut Session, inputs: impl Into<SessionInputs<'v, 'v, N>>) -> Vec<f32> {
    let outputs = session.run(inputs).unwrap();
    outputs["logits"].try_extract_tensor::<f32>().unwrap().1.to_vec()
}

/// ‖found − expected‖/‖expected‖.
pub fn error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

/// Leaves a copy in the folder `FORETUNE_KEEP_EXPORTS`, if that is set: `scripts/test_onnx.sh` has them checked.
fn keep(path: &Path, name: &str) {
    if let Some(folder) = std::env::var_os("FORETUNE_KEEP_EXPORTS") {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(path, Path::new(&folder).join(name)).unwrap();
    }
}

#[test]
fn exports_give_every_librarys_logits() {
    if !runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let mut compared = 0;
    for (case, model) in cases() {
        let bytes = std::fs::read(case.join("case.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (Some(Values(_, expected)), Some(classifier)) = (values(&file, "logits"), classifier(&case, &model, &file))
        else {
            continue;
        };
        let Values(shape, images) = values(&file, "images").unwrap();
        for (element, tolerance) in [(Element::F32, 2e-5), (Element::F16, 5e-3)] {
            export(&classifier, ExportOptions { element, preprocessing: false }, &path).unwrap();
            keep(&path, &format!("{}-{element:?}.onnx", case.file_name().unwrap().display()));
            let found = error(&logits(&path, &images, &shape), &expected);
            assert!(found <= tolerance, "{}: {element:?}: {found:e}", case.display());
            // Batches of one and of seven are the same examples.
            let one = images.len() / shape[0];
            let single = logits(&path, &images[..one], &[1, shape[1], shape[2], shape[3]]);
            let seven: Vec<f32> = (0..7).flat_map(|_| &images[..one]).copied().collect();
            let seven = logits(&path, &seven, &[7, shape[1], shape[2], shape[3]]);
            let classes = expected.len() / shape[0];
            for row in std::iter::once(&single[..]).chain(seven.chunks_exact(classes)) {
                let found = error(row, &expected[..classes]);
                assert!(found <= tolerance, "{}: {element:?}: {found:e}", case.display());
            }
        }
        compared += 1;
    }
    assert!(compared >= 10, "{compared} cases have logits");
}
