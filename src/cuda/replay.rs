//! Small work launched at once: operations captured into a CUDA graph when they come again, and replayed from then on.
//!
//! A dual pass makes some twelve launches a block, of a few microseconds of the host's time each; with few rows the device
//! would wait for them. Kernels' arguments are captured by value, so a graph holds as long as every address in it does: those of
//! weights and buffers stay, and those of the lists of tokens until all of them are dropped, which gives them another age.

use super::device::Device;
use super::stream::Stream;
use super::{CudaBackend, lock};
use crate::Result;
use cudarc::driver::{result, sys};
use std::sync::Arc;

/// What is known of some operations.
#[derive(Default)]
pub struct Recording(State);

#[derive(Default)]
enum State {
    #[default]
    New,
    /// Have run once: their kernels are loaded, and their lists of tokens, of this age, uploaded.
    Seen {
        lists: u64,
    },
    Captured {
        lists: u64,
        graph: Graph,
    },
    /// The stream cannot be captured.
    Refused,
}

pub(super) fn replay(
    gpu: &CudaBackend,
    recording: &mut Recording,
    mut operations: impl FnMut() -> Result<()>,
) -> Result<()> {
    // Streamed weights come by way of another stream, and to either of two places.
    if gpu.separate_launches || gpu.weights.streamed() {
        return operations();
    }
    let now = lock(&gpu.rows).age();
    match &recording.0 {
        State::Captured { lists, graph } if *lists == now => graph.launch(&gpu.stream),
        State::Seen { lists } if *lists == now => match capture(&gpu.stream, &mut operations) {
            Some(graph) => {
                graph.launch(&gpu.stream)?;
                recording.0 = State::Captured { lists: now, graph };
                Ok(())
            }
            None => {
                recording.0 = State::Refused;
                operations()
            }
        },
        State::Refused => operations(),
        _ => {
            operations()?;
            recording.0 = State::Seen { lists: now };
            Ok(())
        }
    }
}

/// None where anything goes wrong: nothing has run then, and who runs `operations` after all hears what it is.
fn capture(stream: &Stream, operations: &mut impl FnMut() -> Result<()>) -> Option<Graph> {
    let device = stream.device();
    let _current = device.enter().ok()?;
    // Other threads of the host may go on as they like.
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the stream is alive.
    unsafe { result::stream::begin_capture(stream.handle(), mode) }.ok()?;
    let captured = operations();
    // SAFETY: as above. It is ended whatever has happened.
    let template = unsafe { result::stream::end_capture(stream.handle()) }.ok().filter(|graph| !graph.is_null())?;
    // SAFETY: the template is alive.
    let handle = captured.is_ok().then(|| unsafe { result::graph::instantiate(template, NO_FLAGS) });
    // SAFETY: as above, and not used after this.
    unsafe { result::graph::destroy(template) }.ok();
    Some(Graph { device: device.clone(), handle: handle?.ok()? })
}

const NO_FLAGS: sys::CUgraphInstantiate_flags = sys::CUgraphInstantiate_flags_enum(0);

/// Launches that are made at once.
struct Graph {
    device: Arc<Device>,
    handle: sys::CUgraphExec,
}

// SAFETY: handles may be used from any thread.
unsafe impl Send for Graph {}

impl Graph {
    fn launch(&self, stream: &Stream) -> Result<()> {
        let _current = self.device.enter()?;
        // SAFETY: both are alive; what the kernels use is alive as the recording's owner has it.
        unsafe { result::graph::launch(self.handle, stream.handle()) }
            .map_err(|error| self.device.error("launch recorded work", error))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(_current) = self.device.enter() {
            // SAFETY: made here. The driver keeps it until the device is done with it.
            unsafe { result::graph::exec_destroy(self.handle) }.ok();
        }
    }
}
