//! Launches `kernels/loss.cu`: what a head and the cross entropy make of head inputs, as many examples at a time as there is
//! room for.

use super::head::{Inputs, logits};
use super::memory::Buffer;
use super::module::{Kernel, Launch, Module};
use super::{CudaBackend, embed, narrow};
use crate::model::Head;
use crate::ops::loss::Judged;
use crate::{Error, Result};

/// Twin of `LossArgs`.
#[repr(C)]
struct LossArgs {
    z: u64,
    labels: u64,
    out: u64,
    examples: u32,
    tangents: u32,
    classes: u32,
    unused: u32,
}

pub(super) struct Kernels {
    loss: Kernel,
}

impl Kernels {
    pub(super) fn load(module: &Module) -> Result<Self> {
        Ok(Kernels { loss: module.kernel("loss")? })
    }
}

pub(super) fn judge(
    gpu: &CudaBackend,
    head: &Head,
    labels: &[u32],
    tangents: usize,
    f: &Buffer,
    work: &Buffer,
    out: &mut Judged<f32>,
) -> Result<()> {
    let (width, classes, planes) = (head.width(), head.classes(), 1 + tangents);
    assert!(labels.iter().all(|&label| (label as usize) < classes), "labels of the head's classes");
    let inputs = Inputs { address: f.at(0, planes * labels.len() * width), examples: labels.len(), tangents };
    if let Some(kept) = &mut out.inputs {
        let first = kept.len();
        kept.resize(first + labels.len() * width, 0.0);
        embed::read(gpu, f, 0, &mut kept[first..])?;
    }
    // An example's rows and logits, and the record that comes back of it.
    let (room, record) = (planes * (width + classes), 2 + tangents + classes);
    gpu.through_window(0, |window| {
        let most = (work.words() / room).min(window.len() / record);
        if most == 0 || window.len() <= width {
            return Err(Error::Shape {
                what: "classes of a head, for which this GPU's buffers are too small",
                expected: format!(
                    "at most {}",
                    (work.words() / planes).min(window.len()).saturating_sub(width + tangents + 2)
                ),
                found: classes.to_string(),
            });
        }
        for first in (0..labels.len()).step_by(most) {
            let range = first..labels.len().min(first + most);
            let rows = work.at(0, 0);
            let z = rows + (planes * range.len() * width * size_of::<f32>()) as u64;
            logits(gpu, window, head, &inputs, range.clone(), rows, z)?;
            let labels = &labels[range.clone()];
            let launch = |labels, records| {
                let args = LossArgs {
                    z,
                    labels,
                    out: records,
                    examples: narrow("examples", range.len())?,
                    tangents: narrow("tangents", tangents)?,
                    classes: narrow("classes", classes)?,
                    unused: 0,
                };
                // SAFETY: the twin; rows and logits fit in the workspace, the others in a piece each.
                unsafe { gpu.kernels.loss.loss.launch(&gpu.stream, Launch::rows(range.len(), 32), &args) }
            };
            out.add_records(labels.len(), [tangents, classes], |records| {
                window.exchange(&gpu.stream, labels, records, launch)
            })?;
        }
        Ok(())
    })
}
