//! What a pass may be: its sizes against the model's and the engine's.

use super::{Input, Pass};
use crate::model::{Head, ModelSpec, PromptLayout};
use crate::{Error, Result};

/// The sizes that an engine was made for.
#[derive(Clone, Copy)]
pub(crate) struct Limits<'a> {
    pub spec: &'a ModelSpec,
    pub layout: PromptLayout,
    /// Examples of the largest pass.
    pub examples: usize,
    /// Tangents of the largest pass.
    pub tangents: usize,
}

impl Limits<'_> {
    /// Values of one example of an input of this kind. Errors: prompts enter ahead of block 0, so that there is no prefix.
    pub fn input_len<T>(&self, input: Input<T>) -> Result<usize> {
        match input {
            Input::Images(_) => Ok(self.spec.image_len()),
            Input::Prefix(_) if self.layout.insert_at > 0 => Ok(self.spec.prefix_len()),
            Input::Prefix(_) => Err(Error::Shape {
                what: "block ahead of which prompts enter, for a pass that begins there",
                expected: "1 or more".into(),
                found: "0".into(),
            }),
        }
    }

    /// Examples of an input that fits.
    pub fn count<T: Copy>(&self, input: Input<T>) -> Result<usize> {
        let (what, values) = match input {
            Input::Images(values) => ("images", values.len()),
            Input::Prefix(values) => ("prefix", values.len()),
        };
        let len = self.input_len(input)?;
        let examples = values / len;
        expect(what, examples * len, values)?;
        if examples == 0 || examples > self.examples {
            return Err(Error::Shape {
                what: "examples of a pass",
                expected: format!("1..={}", self.examples),
                found: examples.to_string(),
            });
        }
        Ok(examples)
    }

    /// Examples of a pass that fits.
    pub fn examples<T: Copy>(&self, pass: &Pass<T>) -> Result<usize> {
        let examples = self.count(pass.input)?;
        let layout = if pass.prompts.is_empty() { PromptLayout::NONE } else { self.layout };
        expect("prompts", layout.parameters(self.spec), pass.prompts.len())?;
        if pass.tangents > self.tangents || (pass.tangents > 0 && layout.prompts == 0) {
            return Err(Error::Shape {
                what: "tangents of a pass",
                expected: if layout.prompts == 0 {
                    "0, as there are no prompts".to_owned()
                } else {
                    format!("0..={}", self.tangents)
                },
                found: pass.tangents.to_string(),
            });
        }
        Ok(examples)
    }

    /// Errors: labels or head do not fit a pass over `input`.
    pub fn judgeable<T: Copy>(&self, input: Input<T>, head: &Head, labels: &[u32]) -> Result<()> {
        expect("labels", self.count(input)?, labels.len())?;
        expect("columns of the head", self.spec.head_width(), head.width())
    }
}

/// Errors: `what` has `found` values, not `expected`.
pub(crate) fn expect(what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Shape { what, expected: format!("{expected} values"), found: format!("{found} values") })
}
