//! `foretune predict`: the top classes of images.

use super::args::Global;
use super::device::Target;
use super::interrupt;
use super::job::PredictJob;
use super::output::{self, printable};
use foretune::data::load_image;
use foretune::{Classifier, Result};
use rayon::prelude::*;
use serde::Serialize;
use std::path::Path;

/// Images per pass.
const PASS: usize = 8;

#[derive(Serialize)]
struct Prediction<'a> {
    path: &'a Path,
    top: Vec<Class>,
}

#[derive(Serialize)]
struct Class {
    class_id: usize,
    name: String,
    /// Logit.
    score: f32,
    /// Softmax over all classes.
    probability: f64,
}

/// Whether every image could be read; those that could not have been reported.
pub(super) fn run(job: &PredictJob, global: &Global) -> Result<bool> {
    let classifier = Classifier::open(&job.model.path, job.adapter.as_deref(), &job.model.options)?;
    let most = PASS.min(job.images.len());
    let mut engine = Target::new(&job.model, global).engine(&classifier.model, classifier.layout, most)?;
    let preprocess = &classifier.model.preprocess;
    let pixels = preprocess.image_len();
    let mut complete = true;
    for paths in job.images.chunks(PASS) {
        let loaded: Vec<Result<Vec<f32>>> = paths
            .par_iter()
            .map(|path| {
                let mut image = vec![0.0; pixels];
                load_image(path, None, preprocess, &mut image).map(|()| image)
            })
            .collect();
        let mut readable = Vec::with_capacity(paths.len());
        let mut images = Vec::with_capacity(paths.len() * pixels);
        for (path, image) in paths.iter().zip(loaded) {
            match image {
                Ok(image) => {
                    readable.push(path);
                    images.extend(image);
                }
                Err(error) => {
                    output::note(&format!("error: {error}"));
                    complete = false;
                }
            }
        }
        if readable.is_empty() {
            continue;
        }
        let logits = classifier.logits(&mut *engine, &images)?;
        for (path, logits) in readable.into_iter().zip(logits.rows()) {
            let top = top(logits.to_slice().expect("logits are row-major"), job.top, classifier.classes.as_deref());
            print(&Prediction { path, top }, global.json)?;
        }
        if output::closed() || interrupt::requested() {
            break;
        }
    }
    Ok(complete)
}

/// The `count` largest logits, best first, the lower class id first among equals.
fn top(logits: &[f32], count: usize, names: Option<&[String]>) -> Vec<Class> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let most = order.first().map_or(0.0, |&best| f64::from(logits[best]));
    let sum: f64 = logits.iter().map(|&z| (f64::from(z) - most).exp()).sum();
    let class = |class_id: usize| Class {
        class_id,
        name: names.and_then(|names| names.get(class_id)).map_or_else(|| format!("class {class_id}"), String::clone),
        score: logits[class_id],
        probability: (f64::from(logits[class_id]) - most).exp() / sum,
    };
    order.into_iter().take(count).map(class).collect()
}

fn print(prediction: &Prediction, json: bool) -> Result<()> {
    if json {
        return output::json(prediction);
    }
    output::line(&printable(&prediction.path.display().to_string()))?;
    for Class { class_id, name, score, probability } in &prediction.top {
        let percent = probability * 100.0;
        output::line(&format!("  {percent:5.1} %  {score:8.3}  {class_id:>6}  {}", printable(name)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_first_with_stable_ties() {
        let names = ["a", "b", "c", "d"].map(String::from);
        let found = top(&[1.0, 3.0, 3.0, -2.0], 3, Some(&names));
        assert_eq!(found.iter().map(|class| class.class_id).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(found[0].name, "b");
        let expected = 1.0 / (2.0 + (-2f64).exp() + (-5f64).exp());
        assert!((found[0].probability - expected).abs() < 1e-12);
        assert_eq!(top(&[0.5], 5, None)[0].name, "class 0");
    }

    #[test]
    fn a_line_has_the_documented_fields() {
        let top = top(&[0.25, 1.5], 1, Some(&["tench".into(), "cock".into()]));
        let line = serde_json::to_value(Prediction { path: Path::new("a.jpg"), top }).unwrap();
        assert_eq!(line["path"], "a.jpg");
        assert_eq!(line["top"][0]["class_id"], 1);
        assert_eq!(line["top"][0]["name"], "cock");
        assert_eq!(line["top"][0]["score"], 1.5);
    }
}
