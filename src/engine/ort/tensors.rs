//! A model's tensors as ONNX Runtime reads them: each is there once, whatever the number of sessions.

use super::{OrtOptions, failed};
use crate::onnx::Tuning;
use crate::{Error, Result};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{DynValue, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Default)]
pub(super) struct Tensors(BTreeMap<String, Arc<DynValue>>);

impl Tensors {
    /// A session of `graph`. Errors: a tensor of the model cannot be read; ONNX Runtime refuses.
    pub fn session(&mut self, graph: &Tuning, options: &OrtOptions) -> Result<Session> {
        let make = |error: ort::Error| failed("make a session", &error);
        let refused = |error: ort::Error<ort::session::builder::SessionBuilder>| make(error.into());
        let mut builder = Session::builder().map_err(make)?;
        builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(refused)?;
        builder = builder.with_intra_threads(options.threads).map_err(refused)?;
        builder = builder.with_deterministic_compute(true).map_err(refused)?;
        options.provider.register(&mut builder)?;
        for constant in graph.tensors() {
            let value = match self.0.get(&constant.name) {
                Some(value) => value.clone(),
                None => {
                    let values = constant.values()?;
                    let tensor = Tensor::from_array((constant.dims.clone(), values)).map_err(make)?;
                    let value = Arc::new(tensor.into_dyn());
                    self.0.insert(constant.name.clone(), value.clone());
                    value
                }
            };
            builder = builder.with_external_initializer(&constant.name, value).map_err(refused)?;
        }
        let bytes = graph.encode()?;
        builder
            .commit_from_memory(&bytes)
            .map_err(|error| Error::OnnxRuntime(format!("cannot run this model on `{}`: {error}", options.provider)))
    }
}
