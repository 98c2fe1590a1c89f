//! An engine that runs on ONNX Runtime: the dual pass as a graph of standard operators, on whatever its execution providers compute
//! on.

mod bound;
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
use std::sync::{Arc, Mutex};
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
    model: Arc<Model>,
    /// What has no forward form: guesses made of weights, and the exact gradient.
    native: Arc<Native<CpuBackend>>,
    tensors: Arc<Mutex<Tensors>>,
    options: Arc<OrtOptions>,
    runtime: Runtime,
}

impl OrtModel {
    /// Loads ONNX Runtime if that has not been done; the model's tensors are converted when a pass first needs them.
    ///
    /// # Errors
    /// As [`load`]; it was built without the execution provider; the model's tensors cannot be read.
    pub fn new(model: &Model, options: OrtOptions) -> Result<Self> {
        let runtime = load(options.library.as_deref())?;
        options.provider.demand()?;
        let cpu = CpuOptions { threads: options.threads, ..CpuOptions::default() };
        let native = engine::cpu(model, cpu)?;
        let (model, native, options) = (Arc::new(model.clone()), Arc::new(native), Arc::new(options));
        Ok(OrtModel { model, native, tensors: Arc::default(), options, runtime })
    }

    /// An engine for passes of up to `examples` examples and `tangents` tangents, with room for directions of this kind.
    ///
    /// # Errors
    /// The placement does not fit the model, or memory is short. What ONNX Runtime refuses comes with the first pass of its kind.
    pub fn engine(
        &self,
        layout: PromptLayout,
        examples: usize,
        tangents: usize,
        guess: GuessKind,
    ) -> Result<OrtEngine> {
        OrtEngine::new(self, layout, [examples, tangents], guess)
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
