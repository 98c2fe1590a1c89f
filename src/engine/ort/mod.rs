//! An engine that runs on ONNX Runtime: the dual pass as a graph of standard operators, on whatever its execution providers compute
//! on.

mod library;
mod provider;
mod run;
mod tensors;

pub use library::{OLDEST, Runtime, load};
pub use provider::Provider;
pub use run::OrtEngine;

use crate::Error;
use crate::backend::Precision;
use crate::cpu::{CpuBackend, CpuOptions};
use crate::engine::{Engine, Loaded, Native};
use crate::guess::GuessKind;
use crate::model::{Model, PromptLayout};
use crate::{Result, engine};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use tensors::Tensors;

/// How ONNX Runtime is used.
#[derive(Clone, Debug, Default)]
pub struct OrtOptions {
    /// The library, or the folder that has it; `None` looks for it. See [`load`].
    pub library: Option<PathBuf>,
    /// What computes.
    pub provider: Provider,
    /// Threads that compute on the CPU; 0: all cores.
    pub threads: usize,
}

/// A model on ONNX Runtime, from which engines with different prompt placements are made.
pub struct OrtModel {
    model: Model,
    /// What has no forward form: guesses made of weights, and the exact gradient.
    native: Native<CpuBackend>,
    tensors: Mutex<Tensors>,
    options: OrtOptions,
    runtime: Runtime,
}

impl OrtModel {
    /// Loads ONNX Runtime if that has not been done; the model's tensors are converted when an engine first needs them.
    ///
    /// # Errors
    /// As [`load`]; the model's tensors cannot be read.
    pub fn new(model: &Model, options: OrtOptions) -> Result<Self> {
        let runtime = load(options.library.as_deref())?;
        let cpu = CpuOptions { threads: options.threads, ..CpuOptions::default() };
        let native = engine::cpu(model, cpu)?;
        Ok(OrtModel { model: model.clone(), native, tensors: Mutex::default(), options, runtime })
    }

    /// An engine for passes of up to `examples` examples and `tangents` tangents, with room for directions of this kind.
    ///
    /// # Errors
    /// The placement does not fit the model, memory is short, or ONNX Runtime refuses.
    pub fn engine(
        &self,
        layout: PromptLayout,
        examples: usize,
        tangents: usize,
        guess: GuessKind,
    ) -> Result<OrtEngine> {
        let native = self.native.engine_with_guess(layout, examples, tangents, guess)?;
        let mut tensors = self.tensors.lock().unwrap_or_else(PoisonError::into_inner);
        OrtEngine::new(&self.model, native, guess, &mut tensors, &self.options)
    }
}

impl Loaded for OrtModel {
    fn make(
        &self,
        layout: PromptLayout,
        examples: usize,
        tangents: usize,
        guess: GuessKind,
    ) -> Result<Box<dyn Engine + Send>> {
        Ok(Box::new(self.engine(layout, examples, tangents, guess)?))
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }

    fn arithmetic(&self) -> String {
        format!("onnxruntime {} {}", self.runtime.version, self.options.provider)
    }
}

fn failed(action: &str, error: &ort::Error) -> Error {
    Error::OnnxRuntime(format!("cannot {action}: {error}"))
}
