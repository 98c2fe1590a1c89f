//! What several commands begin with: a model, perhaps with an adapter, and a data set.

use super::args::Global;
use super::job::{DataSource, ModelSource};
use foretune::adapter::Adapter;
use foretune::data::Dataset;
use foretune::model::{Head, LoadOptions, Model, PromptLayout};
use foretune::{Error, Result};
use std::path::Path;
use std::thread::available_parallelism;

/// A model ready to classify: its own head, or an adapter's prompts and head.
pub(super) struct Classifier {
    /// Preprocessing is the adapter's if there is one.
    pub(super) model: Model,
    pub(super) layout: PromptLayout,
    /// `[S, p, d]`, flat; empty without prompts.
    pub(super) prompts: Vec<f32>,
    pub(super) head: Head,
    /// Name of each class, if any are known.
    pub(super) classes: Option<Vec<String>>,
}

impl Classifier {
    /// # Errors
    /// Those of opening either file, [`Error::Adapter`] when they do not belong together, [`Error::Options`] when there is no
    /// classifier at all.
    pub(super) fn open(source: &ModelSource, adapter: Option<&Path>) -> Result<Self> {
        let Some(path) = adapter else {
            let model = Model::open(&source.path, &source.options)?;
            let head = own_head(&model)?;
            let classes = model.class_names.clone();
            return Ok(Classifier { model, layout: PromptLayout::NONE, prompts: Vec::new(), head, classes });
        };
        let adapter = Adapter::open(path)?;
        let options = LoadOptions { image: Some(adapter.preprocess.crop), heads: source.options.heads };
        let mut model = match Model::open(&source.path, &options) {
            Ok(model) => model,
            // Another backbone may not run at the adapter's image size; that is not what is wrong then.
            Err(error) => {
                let options = LoadOptions { image: None, ..options };
                if let Ok(model) = Model::open(&source.path, &options) {
                    adapter.check(path, &model.spec, &model.fingerprint())?;
                }
                return Err(error);
            }
        };
        adapter.check(path, &model.spec, &model.fingerprint())?;
        model.preprocess = adapter.preprocess;
        let (_, prompts, _) = adapter.prompts.dim();
        let layout = match adapter.prompts.is_empty() {
            true => PromptLayout::NONE,
            false => PromptLayout { prompts, deep: adapter.deep, insert_at: adapter.insert_at },
        };
        let head = match adapter.head {
            Some(head) => head,
            None => own_head(&model)?,
        };
        let prompts = adapter.prompts.into_iter().collect();
        Ok(Classifier { model, layout, prompts, head, classes: Some(adapter.classes) })
    }

    /// Gives `dataset`'s images this classifier's class ids. Classes are matched by name; where neither side's names match,
    /// the checkpoint's own classifier is taken to number its classes as the data set does.
    ///
    /// # Errors
    /// [`Error::Data`] when the data set has classes that this classifier does not know.
    pub(super) fn relabel(&self, dataset: &mut Dataset, is_adapter: bool) -> Result<()> {
        let known = self.classes.as_deref().unwrap_or_default();
        let id = |name: &String| known.iter().position(|other| other == name);
        let ids: Vec<Option<usize>> = dataset.classes.iter().map(id).collect();
        match ids.iter().position(Option::is_none) {
            None => {
                for item in &mut dataset.items {
                    // An index into the names, of which there are fewer than 2³².
                    item.label = ids[item.label as usize].unwrap_or_default() as u32;
                }
                dataset.classes = known.to_vec();
                Ok(())
            }
            Some(_) if !is_adapter && dataset.classes.len() == self.head.classes() => Ok(()),
            Some(missing) => {
                let (name, whose) = (&dataset.classes[missing], if is_adapter { "adapter" } else { "checkpoint" });
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
pub(super) fn own_head(model: &Model) -> Result<Head> {
    model.head()?.ok_or_else(|| {
        let path = model.path.display();
        Error::Options(format!("{path}: this checkpoint has no classifier; give --adapter"))
    })
}

/// Opens the data set, and with `--skip-bad` decodes every image to leave out those that would stop the run later.
pub(super) fn dataset(source: &DataSource) -> Result<Dataset> {
    let mut dataset = Dataset::open(&source.root, source.format, &source.options)?;
    if source.options.skip_bad {
        let problems = dataset.verify(&mut |_| {});
        for problem in &problems {
            log::warn!("left out: {problem}");
        }
        dataset.skip(problems);
    }
    Ok(dataset)
}

/// When an image stopped the run, finds all the others that would have.
pub(super) fn all_unreadable(error: Error, dataset: &Dataset) -> Error {
    const LISTED: usize = 20;
    let Error::Image { .. } = error else { return error };
    let problems = dataset.verify(&mut |_| {});
    if problems.len() < 2 {
        return error;
    }
    let mut text = format!("{} images cannot be read", problems.len());
    for problem in problems.iter().take(LISTED) {
        text += &format!("\n  {problem}");
    }
    if problems.len() > LISTED {
        text += &format!("\n  and {} more; `foretune data verify` lists them all", problems.len() - LISTED);
    }
    Error::Data { path: dataset.root.clone(), problem: text + "\n--skip-bad continues without them" }
}

/// Threads that decode: what was asked for, or half of those that compute.
pub(super) fn decode_threads(source: &DataSource, global: &Global) -> usize {
    let cores = || available_parallelism().map_or(1, usize::from);
    source.decode_threads.unwrap_or_else(|| global.threads.unwrap_or_else(cores).div_ceil(2))
}
