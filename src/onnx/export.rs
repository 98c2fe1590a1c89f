//! A classifier as one ONNX graph.

use super::dual::Dual;
use super::graph::{Dim, Element, Graph};
use super::preprocess;
use super::proto::DataType;
use super::vit::{Prompts, Vit};
use super::{head, write};
use crate::adapter::Backbone;
use crate::{Classifier, Result};
use serde_json::json;
use std::path::Path;

/// How a classifier is exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportOptions {
    /// What weights and activations are; head, inputs and outputs are f32 always.
    pub element: Element,
    /// Whether the graph takes 8-bit pixels and prepares them itself.
    pub preprocessing: bool,
}

/// Writes `classifier`, its prompts and its head to `path` as one graph of standard operators: backbone, then head.
///
/// The input is `pixel_values` `[batch, c, H, W]`, or `image` `[batch, height, width, 3]` of bytes where the graph prepares images
/// itself, all of one size; the outputs are `logits` `[batch, C]` and `features` `[batch, D]`, what the head reads. The file's
/// metadata has `class_names`, `preprocess` and `backbone` as JSON. Above 2 GiB the tensors are in a second file, `path` with
/// `.data` after its name.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io); a tensor of the model cannot be read; [`Error::Options`](crate::Error::Options) for
/// preprocessing that standard operators cannot do.
pub fn export(classifier: &Classifier, options: ExportOptions, path: &Path) -> Result<()> {
    let model = &classifier.model;
    let (spec, layout) = (&model.spec, classifier.layout);
    let (d, p) = (spec.width, layout.prompts);
    let mut g = Graph::new("vit", options.element);
    let images = match options.preprocessing {
        true => preprocess::pixels(&mut g, &model.preprocess)?,
        false => {
            let dims = [Dim::Named("batch"), Dim::Of(spec.channels), Dim::Of(spec.image[0]), Dim::Of(spec.image[1])];
            g.input("pixel_values", DataType::Float, &dims)
        }
    };
    let images = match options.element {
        Element::F32 => images,
        Element::F16 => g.cast(&images, DataType::Float16),
    };
    let vit = Vit { model };
    let sets = (0..layout.sets(spec.depth)).map(|set| {
        let values = &classifier.prompts[set * p * d..][..p * d];
        Dual::from(g.tensor(format!("prompts.{set}"), &[1, p, d], || Ok(values.to_vec())))
    });
    let prompts = Prompts { layout, sets: sets.collect() };
    let tokens = vit.embed(&mut g, &images)?;
    let tokens = vit.blocks(&mut g, tokens.into(), 0..spec.depth, &prompts)?;
    let features = vit.pool(&mut g, &tokens).primal;
    let features = match options.element {
        Element::F32 => features,
        Element::F16 => g.cast(&features, DataType::Float),
    };
    let parameters = head::Parameters::of(&mut g, &classifier.head);
    let logits = head::logits(&mut g, &parameters, &features.clone().into()).primal;
    let batch = Dim::Named("batch");
    g.output("logits", &logits, DataType::Float, &[batch, Dim::Of(classifier.head.classes())]);
    g.output("features", &features, DataType::Float, &[batch, Dim::Of(spec.head_width())]);

    let metadata = [
        ("class_names", json!(classifier.classes).to_string()),
        ("preprocess", json!(model.preprocess).to_string()),
        ("backbone", json!(Backbone::new(spec, &model.fingerprint())).to_string()),
    ];
    write::write(&g, &metadata, path)
}
