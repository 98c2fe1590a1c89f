//! A session, and what is bound to it: made once for each size of pass, so that a pass copies values in and out and no more.

use super::failed;
use crate::onnx::{Described, Port, Size};
use crate::{Error, Result};
use ort::memory::MemoryInfo;
use ort::session::{IoBinding, Session};
use ort::value::Tensor;

/// Sizes of pass that are kept: whole and last micro-batches, all tangents and the last ones.
const KEPT: usize = 4;

/// An input to be filled.
pub(super) enum Slot<'a> {
    Numbers(&'a mut [f32]),
    Labels(&'a mut [i64]),
}

enum Given {
    Numbers(Tensor<f32>),
    Labels(Tensor<i64>),
}

/// What passes of one size go through.
struct Bindings {
    size: Size,
    binding: IoBinding,
    inputs: Vec<Given>,
    /// Of the outputs.
    shapes: Vec<Vec<usize>>,
}

/// A session of a graph.
pub(super) struct Bound {
    session: Session,
    inputs: Vec<Described>,
    outputs: Vec<Described>,
    sizes: Vec<Bindings>,
}

impl Bound {
    pub fn new(session: Session, inputs: Vec<Described>, outputs: Vec<Described>) -> Self {
        Bound { session, inputs, outputs, sizes: Vec::new() }
    }

    /// A pass of this size: `fill` is given every input, `take` every output. Errors: theirs, or
    /// [`Error::OnnxRuntime`] when ONNX Runtime fails or returns something of another shape.
    pub fn run(
        &mut self,
        size: Size,
        fill: &mut dyn FnMut(Port, Slot) -> Result<()>,
        take: &mut dyn FnMut(Port, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let at = match self.sizes.iter().position(|known| known.size == size) {
            Some(at) => at,
            None => {
                let bindings = self.bind(size)?;
                if self.sizes.len() == KEPT {
                    self.sizes.remove(0);
                }
                self.sizes.push(bindings);
                self.sizes.len() - 1
            }
        };
        let failed = |error: ort::Error| failed("run the model", &error);
        let Bindings { binding, inputs, shapes, .. } = &mut self.sizes[at];
        for (given, Described { port, .. }) in inputs.iter_mut().zip(&self.inputs) {
            // Bound anew, without which a device would not see what has changed.
            match given {
                Given::Numbers(tensor) => {
                    fill(*port, Slot::Numbers(tensor.extract_tensor_mut().1))?;
                    binding.bind_input(port.to_string(), tensor)
                }
                Given::Labels(tensor) => {
                    fill(*port, Slot::Labels(tensor.extract_tensor_mut().1))?;
                    binding.bind_input(port.to_string(), tensor)
                }
            }
            .map_err(failed)?;
        }
        let outputs = self.session.run_binding(binding).map_err(failed)?;
        for (described, expected) in self.outputs.iter().zip(&*shapes) {
            let name = described.port.to_string();
            let value = outputs.get(&name);
            let value = value.ok_or_else(|| Error::OnnxRuntime(format!("it returned no `{name}`")))?;
            let (found, values) = value.try_extract_tensor::<f32>().map_err(failed)?;
            let fits =
                found.len() == expected.len() && found.iter().zip(expected).all(|(&found, &n)| found == n as i64);
            if !fits || values.len() != expected.iter().product::<usize>() {
                let problem = format!("it returned `{name}` of shape {found:?}, expected {expected:?}");
                return Err(Error::OnnxRuntime(problem));
            }
            take(described.port, values)?;
        }
        Ok(())
    }

    fn bind(&self, size: Size) -> Result<Bindings> {
        let failed = |error: ort::Error| failed("bind the model's inputs and outputs", &error);
        let mut binding = self.session.create_binding().map_err(failed)?;
        let inputs = self.inputs.iter().map(|described| {
            let shape = described.shape(size);
            let len = shape.iter().product();
            Ok(match described.port {
                Port::Labels => Given::Labels(Tensor::from_array((shape, vec![0i64; len]))?),
                _ => Given::Numbers(Tensor::from_array((shape, vec![0f32; len]))?),
            })
        });
        let inputs = inputs.collect::<Result<_, _>>().map_err(failed)?;
        for described in &self.outputs {
            binding.bind_output_to_device(described.port.to_string(), &MemoryInfo::default()).map_err(failed)?;
        }
        let shapes = self.outputs.iter().map(|described| described.shape(size)).collect();
        Ok(Bindings { size, binding, inputs, shapes })
    }
}
