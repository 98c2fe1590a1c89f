//! Training checkpoints: everything a run needs to go on and give the bits it would have given.

use super::{Prototypes, Score, TuneOptions};
use crate::adapter::{HeadTag, push_head, read_head};
use crate::backend::Precision;
use crate::container::{self, Decoded, Format, Tensors};
use crate::data::Preprocess;
use crate::files::write_atomic;
use crate::model::Head;
use crate::{Error, Result};
use ndarray::{Array1, Array3};
use serde::{Deserialize, Serialize};
use std::path::Path;

const FORMAT: Format = Format { name: "foretune-checkpoint", version: 1, what: "a training checkpoint" };

/// What a run must share with the checkpoint it continues.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunIdentity {
    /// Options.
    pub options: TuneOptions,
    /// Fingerprint of the backbone.
    pub fingerprint: String,
    /// Digest of the data set: its files, labels, split and boxes.
    pub dataset: String,
    /// Preprocessing, image size included.
    pub preprocess: Preprocess,
    /// What linear layers multiply.
    #[serde(default)]
    pub precision: Precision,
}

/// State vectors of an optimizer by name; see [`Optimizer::state`](super::Optimizer::state).
pub type OptimizerState = Vec<(String, Vec<f32>)>;

/// What will be kept of the prompts that were scored on the validation split: the best, or under
/// [`Keep::Last`](super::Keep) the latest.
#[derive(Clone, Debug, PartialEq)]
pub struct Best {
    /// Steps complete when they were scored.
    pub step: u64,
    /// Their score.
    pub score: Score,
    /// Prompts `[S, p, d]`.
    pub prompts: Array3<f32>,
    /// The linear head trained with them; `None` when the head is not trained.
    pub head: Option<Head>,
}

/// A run between two steps.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainState {
    /// The run this belongs to.
    pub identity: RunIdentity,
    /// Complete steps, skipped ones included.
    pub step: u64,
    /// Updates taken: what the optimizer counts.
    pub updates: u64,
    /// Prompts `[S, p, d]`.
    pub prompts: Array3<f32>,
    /// Optimizer state of the prompts.
    pub prompt_optimizer: OptimizerState,
    /// Trained or fitted head; `None` for the checkpoint's own.
    pub head: Option<Head>,
    /// Optimizer state of a linear head; empty when the head is not trained.
    pub head_optimizer: OptimizerState,
    /// What will be kept so far, if the validation split has been scored.
    pub best: Option<Best>,
    /// Complete steps when the validation split was last scored.
    pub scored: Option<u64>,
    /// Steps skipped because something was not finite.
    pub skipped: u64,
    /// Of these, how many in a row up to now.
    pub consecutive_skips: u64,
    /// What a session has been taught besides; `None` for runs over a data set.
    pub taught: Option<Taught>,
}

/// What a [`Session`](crate::Session) has been taught of its classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Taught {
    /// Class names by class id.
    pub classes: Vec<String>,
    /// What its prototype head is made of, if it has one.
    pub prototypes: Option<Prototypes>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    identity: RunIdentity,
    step: u64,
    updates: u64,
    head: HeadTag,
    prompt_optimizer: Vec<String>,
    head_optimizer: Vec<String>,
    best: Option<BestDocument>,
    scored: Option<u64>,
    skipped: u64,
    consecutive_skips: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    taught: Option<TaughtDocument>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TaughtDocument {
    classes: Vec<String>,
    prototypes: Option<PrototypesDocument>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PrototypesDocument {
    counts: Vec<u64>,
    tau: f32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BestDocument {
    step: u64,
    accuracy: f64,
    /// Absent when it is not finite, which JSON cannot say: worse than any loss then.
    loss: Option<f64>,
    examples: usize,
    head: HeadTag,
}

impl TrainState {
    /// A run that has taken no step.
    pub fn new(identity: RunIdentity, prompts: Array3<f32>, head: Option<Head>) -> Self {
        TrainState {
            identity,
            step: 0,
            updates: 0,
            prompts,
            prompt_optimizer: Vec::new(),
            head,
            head_optimizer: Vec::new(),
            best: None,
            scored: None,
            skipped: 0,
            consecutive_skips: 0,
            taught: None,
        }
    }

    /// Reads a checkpoint.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Adapter`] when it is not a sound checkpoint.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_bytes(path, &container::read(path, FORMAT.what)?)
    }

    /// Reads a checkpoint from the bytes of its file; `path` is for messages only.
    ///
    /// # Errors
    /// [`Error::Adapter`] when the bytes are not a sound checkpoint. No bytes make it panic.
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self> {
        let file = container::decode::<Document>(path, &FORMAT, bytes)?;
        let document = &file.content;
        let best = match &document.best {
            None => None,
            Some(best) => Some(Best {
                step: best.step,
                score: Score {
                    accuracy: best.accuracy,
                    loss: best.loss.unwrap_or(f64::INFINITY),
                    examples: best.examples,
                },
                prompts: file.required("best.prompts")?,
                head: read_head(&file, best.head, "best.head")?,
            }),
        };
        Ok(TrainState {
            identity: document.identity.clone(),
            step: document.step,
            updates: document.updates,
            prompts: file.required("prompts")?,
            prompt_optimizer: read_state(&file, &document.prompt_optimizer, "prompt_optimizer")?,
            head: read_head(&file, document.head, "head")?,
            head_optimizer: read_state(&file, &document.head_optimizer, "head_optimizer")?,
            best,
            scored: document.scored,
            skipped: document.skipped,
            consecutive_skips: document.consecutive_skips,
            taught: document.taught.as_ref().map(|taught| read_taught(&file, taught)).transpose()?,
        })
    }

    /// Replaces `path` by this checkpoint, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = self.encode(path)?;
        write_atomic(path, |writer| writer.write_all(&bytes))
    }

    /// The bytes of its file; `path` is for messages only.
    pub(crate) fn encode(&self, path: &Path) -> Result<Vec<u8>> {
        let names = |state: &OptimizerState| state.iter().map(|(name, _)| name.clone()).collect();
        let document = Document {
            identity: self.identity.clone(),
            step: self.step,
            updates: self.updates,
            head: HeadTag::of(self.head.as_ref()),
            prompt_optimizer: names(&self.prompt_optimizer),
            head_optimizer: names(&self.head_optimizer),
            best: self.best.as_ref().map(|best| BestDocument {
                step: best.step,
                accuracy: best.score.accuracy,
                loss: Some(best.score.loss).filter(|loss| loss.is_finite()),
                examples: best.score.examples,
                head: HeadTag::of(best.head.as_ref()),
            }),
            scored: self.scored,
            skipped: self.skipped,
            consecutive_skips: self.consecutive_skips,
            taught: self.taught.as_ref().map(|Taught { classes, prototypes }| TaughtDocument {
                classes: classes.clone(),
                prototypes: prototypes.as_ref().map(|all| {
                    let (_, _, tau) = all.sums();
                    PrototypesDocument { counts: all.counts().to_vec(), tau }
                }),
            }),
        };
        let mut tensors = Tensors::default();
        tensors.push("prompts", &self.prompts);
        push_state(&mut tensors, &self.prompt_optimizer, "prompt_optimizer");
        push_state(&mut tensors, &self.head_optimizer, "head_optimizer");
        if let Some(head) = &self.head {
            push_head(&mut tensors, head, "head");
        }
        if let Some(best) = &self.best {
            tensors.push("best.prompts", &best.prompts);
            if let Some(head) = &best.head {
                push_head(&mut tensors, head, "best.head");
            }
        }
        if let Some(prototypes) = self.taught.as_ref().and_then(|taught| taught.prototypes.as_ref()) {
            let (sums, total, _) = prototypes.sums();
            tensors.push_sums("prototypes.sums", sums);
            tensors.push_sums("prototypes.total", total);
        }
        container::encode(path, &FORMAT, &document, &tensors)
    }

    /// Checks that this checkpoint, read from `path`, belongs to the run `wanted`.
    ///
    /// # Errors
    /// [`Error::Adapter`] that names what differs, with both values.
    pub fn check(&self, path: &Path, wanted: &RunIdentity) -> Result<()> {
        let differences = differences(&self.identity, wanted);
        if differences.is_empty() {
            let counted = [self.updates.checked_add(self.skipped), Some(self.step)];
            if counted[0] == counted[1] && self.step <= wanted.options.steps && self.consecutive_skips <= self.skipped {
                return Ok(());
            }
            let problem = "its counts of steps contradict each other; the file is damaged, start anew without --resume";
            return Err(Error::Adapter { path: path.to_owned(), problem: problem.into() });
        }
        let problem = format!(
            "this checkpoint belongs to another run: {}. Resume with the same model, data and options, or start anew \
             without --resume",
            differences.join("; ")
        );
        Err(Error::Adapter { path: path.to_owned(), problem })
    }
}

/// Whether `path` is a training checkpoint, from its header alone.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read.
pub fn is_checkpoint(path: &Path) -> Result<bool> {
    Ok(container::format_of(path)?.as_deref() == Some(FORMAT.name))
}

/// One line per field that differs: "lr is 0.01 there, 0.02 here".
fn differences(there: &RunIdentity, here: &RunIdentity) -> Vec<String> {
    let fields = |identity: &RunIdentity| {
        let mut fields = serde_json::Map::new();
        for (name, value) in [
            ("", serde_json::to_value(&identity.options)),
            ("preprocess.", serde_json::to_value(&identity.preprocess)),
            ("model", serde_json::to_value(&identity.fingerprint)),
            ("data set", serde_json::to_value(&identity.dataset)),
            ("precision", serde_json::to_value(identity.precision)),
        ] {
            // Plain structs of numbers, names and lists cannot fail to become JSON.
            match value.unwrap_or_default() {
                serde_json::Value::Object(inner) => {
                    fields.extend(inner.into_iter().map(|(k, v)| (format!("{name}{k}"), v)))
                }
                value => drop(fields.insert(name.to_owned(), value)),
            }
        }
        fields
    };
    let here = fields(here);
    let differing = fields(there).into_iter().filter(|(name, value)| here.get(name) != Some(value));
    differing
        .map(|(name, there)| {
            let here = &here[&name];
            match name.as_str() {
                "model" | "data set" => format!("another {name}"),
                _ => format!("{} is {there} there, {here} here", name.replace('_', "-")),
            }
        })
        .collect()
}

fn read_taught(file: &Decoded<Document>, taught: &TaughtDocument) -> Result<Taught> {
    let read = |document: &PrototypesDocument| {
        let (sums, total) = (file.sums("prototypes.sums")?, file.sums("prototypes.total")?);
        Prototypes::restore(sums, total, document.counts.clone(), document.tau)
            .filter(|all| all.counts().len() == taught.classes.len())
            .ok_or_else(|| file.error("its prototypes contradict each other; the file is damaged".into()))
    };
    Ok(Taught { classes: taught.classes.clone(), prototypes: taught.prototypes.as_ref().map(read).transpose()? })
}

fn push_state(tensors: &mut Tensors, state: &OptimizerState, prefix: &str) {
    for (name, values) in state {
        tensors.push(&format!("{prefix}.{name}"), &Array1::from_vec(values.clone()));
    }
}

fn read_state(file: &Decoded<Document>, names: &[String], prefix: &str) -> Result<OptimizerState> {
    names
        .iter()
        .map(|name| {
            let values: Array1<f32> = file.required(&format!("{prefix}.{name}"))?;
            Ok((name.clone(), values.to_vec()))
        })
        .collect()
}

#[cfg(test)]
mod tests;
