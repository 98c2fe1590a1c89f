//! A model ready to classify: the checkpoint's own head, or an adapter's prompts and head.

use crate::adapter::Adapter;
use crate::data::Dataset;
use crate::encoder::Input;
use crate::engine::Engine;
use crate::model::{Head, LoadOptions, Model, PromptLayout};
use crate::ops::head;
use crate::{Error, Result};
use ndarray::Array2;
use std::path::Path;
use std::sync::Arc;

/// A model with what turns its images into classes.
#[derive(Clone, Debug)]
pub struct Classifier {
    /// The backbone; its preprocessing is the adapter's if there is one.
    pub model: Model,
    /// Where the prompts enter: what an engine for this classifier is made with.
    pub layout: PromptLayout,
    /// `[S, p, d]`, flat; empty without prompts.
    pub prompts: Vec<f32>,
    /// The head.
    pub head: Head,
    /// Name of each class, if any are known.
    pub classes: Option<Vec<String>>,
    /// Whether the classes are an adapter's, not the checkpoint's.
    adapted: bool,
}

impl Classifier {
    /// Opens the model at `model` with its own classifier, or with the adapter at `adapter`, which decides the image size.
    ///
    /// # Errors
    /// Those of opening either file; [`Error::Adapter`] when they do not belong together; [`Error::Options`] when there is no
    /// classifier at all, or when `options` give an image size besides the adapter's.
    pub fn open(model: &Path, adapter: Option<&Path>, options: &LoadOptions) -> Result<Self> {
        let Some(path) = adapter else {
            return Self::new(Model::open(model, options)?, None);
        };
        if options.image.is_some() {
            let problem = "an adapter brings the image size it was tuned at; leave the size out of the load options";
            return Err(Error::Options(problem.into()));
        }
        let adapter = Adapter::open(path)?;
        let sized = LoadOptions { image: Some(adapter.preprocess.crop), ..options.clone() };
        let model = match Model::open(model, &sized) {
            Ok(model) => model,
            // Another backbone may not run at the adapter's image size; that is not what is wrong then.
            Err(error) => {
                if let Ok(model) = Model::open(model, options) {
                    adapter.check(path, &model.spec, &model.fingerprint())?;
                }
                return Err(error);
            }
        };
        Self::new(model, Some((adapter, path)))
    }

    /// `model`, opened at the adapter's image size, with the adapter read from that path, or with its own classifier.
    ///
    /// # Errors
    /// [`Error::Adapter`] when they do not belong together; [`Error::Options`] when there is no classifier at all.
    pub fn new(mut model: Model, adapter: Option<(Adapter, &Path)>) -> Result<Self> {
        let Some((adapter, path)) = adapter else {
            let head = own_head(&model)?;
            let classes = model.class_names.clone();
            let (layout, prompts) = (PromptLayout::NONE, Vec::new());
            return Ok(Classifier { model, layout, prompts, head, classes, adapted: false });
        };
        adapter.check(path, &model.spec, &model.fingerprint())?;
        let layout = adapter.layout();
        model.preprocess = adapter.preprocess;
        let head = match adapter.head {
            Some(head) => head,
            None => own_head(&model)?,
        };
        let prompts = adapter.prompts.into_iter().collect();
        Ok(Classifier { model, layout, prompts, head, classes: Some(adapter.classes), adapted: true })
    }

    /// Logits `[B, C]` of `images` `[B, 3, H, W]`, normalised as [`load_image`](crate::data::load_image) does it with this
    /// model's preprocessing. `engine` runs this model with this [`layout`](Self::layout).
    ///
    /// # Errors
    /// [`Error::Shape`] when `images` are not a whole number of images, none, or more than the engine takes; the engine's own.
    pub fn logits(&self, engine: &mut dyn Engine, images: &[f32]) -> Result<Array2<f32>> {
        let (pixels, width, classes) = (self.model.preprocess.image_len(), self.head.width(), self.head.classes());
        let (count, most) = (images.len() / pixels, engine.most_examples());
        if !images.len().is_multiple_of(pixels) || !(1..=most).contains(&count) {
            return Err(Error::Shape {
                what: "images to classify",
                expected: format!("1 to {most} images of {pixels} values"),
                found: format!("{} values", images.len()),
            });
        }
        let mut inputs = vec![0.0; count * width];
        engine.forward(Input::Images(images), &self.prompts, &mut inputs)?;
        let mut logits = Array2::zeros((count, classes));
        let rows = logits.as_slice_mut().expect("new arrays are row-major");
        head::dual(&self.head, count, 1, &inputs, rows, &mut Vec::new());
        Ok(logits)
    }

    /// Gives `dataset`'s images this classifier's class ids. Classes are matched by name; where neither side's names match,
    /// the checkpoint's own classifier (not an adapter's) is taken to number its classes as the data set does.
    ///
    /// # Errors
    /// [`Error::Data`] when the data set has classes that this classifier does not know.
    pub fn relabel(&self, dataset: &mut Dataset) -> Result<()> {
        let known = self.classes.as_deref().unwrap_or_default();
        let id = |name: &String| known.iter().position(|other| other == name);
        let ids: Vec<Option<usize>> = dataset.classes.iter().map(id).collect();
        match ids.iter().position(Option::is_none) {
            None => {
                for item in Arc::make_mut(&mut dataset.items) {
                    // An index into the names, of which there are fewer than 2³².
                    item.label = ids[item.label as usize].unwrap_or_default() as u32;
                }
                dataset.classes = known.to_vec();
                Ok(())
            }
            Some(_) if !self.adapted && dataset.classes.len() == self.head.classes() => Ok(()),
            Some(missing) => {
                let (name, whose) = (&dataset.classes[missing], if self.adapted { "adapter" } else { "checkpoint" });
                let (here, there) = (dataset.classes.len(), self.head.classes());
                let problem = format!(
                    "class {missing}, `{name}`, of {here} is not among the {there} classes that the {whose} knows; use the \
                     data set it was made for"
                );
                Err(Error::Data { path: dataset.root.clone(), problem })
            }
        }
    }
}

/// The checkpoint's own classifier.
///
/// # Errors
/// [`Error::Options`] when it has none; those of [`Model::head`].
pub fn own_head(model: &Model) -> Result<Head> {
    model.head()?.ok_or_else(|| {
        let path = model.path.display();
        Error::Options(format!("{path}: this checkpoint has no classifier; give --adapter"))
    })
}
