//! The one error type of the crate.
//!
//! Every message answers three questions: what is wrong, where (file, tensor, shape) and what to do about it.

use std::path::{Path, PathBuf};

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, by where it went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write `path`.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// What was being done, as an infinitive ("open", "write", "map").
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },

    /// A checkpoint file (safetensors or its index) is malformed.
    #[error("{}: {problem}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },

    /// A tensor is missing, unexpected, or of the wrong shape or dtype.
    #[error("{}: tensor `{name}`: {problem}", path.display())]
    Tensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name as the file (or the family) spells it.
        name: String,
        /// Expected and found, and what to do.
        problem: String,
    },

    /// `config.json` (or what was inferred in its place) cannot describe this checkpoint.
    #[error("{}: {problem}", path.display())]
    Config {
        /// The configuration file, or the checkpoint it was inferred from.
        path: PathBuf,
        /// The field, its value, and what was expected.
        problem: String,
    },

    /// A data set does not have the layout its format asks for.
    #[error("{}: {problem}", path.display())]
    Data {
        /// The folder or annotation file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },

    /// An image cannot be decoded.
    #[error("{}: {problem}", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    /// An adapter or training checkpoint cannot be used (malformed, or made for another backbone).
    #[error("{}: {problem}", path.display())]
    Adapter {
        /// The adapter file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },

    /// Arguments that contradict each other or the model.
    #[error("{0}")]
    Options(String),

    /// Shapes handed to the library do not fit together.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// The argument.
        what: &'static str,
        /// The shape or range that would fit.
        expected: String,
        /// The shape or value that was given.
        found: String,
    },

    /// Training met non-finite losses or derivatives and stopped.
    #[error("{0}")]
    Diverged(String),

    /// The run was asked to stop (Ctrl-C or the caller's flag); what was complete has been saved.
    #[error("interrupted after step {step}; continue with --resume")]
    Interrupted {
        /// Complete steps.
        step: u64,
    },

    /// A memory budget in which the job cannot be carried out.
    #[error("a budget of {budget} bytes is too small for this job; the smallest that works is {smallest} bytes")]
    Budget {
        /// The bytes given.
        budget: u64,
        /// The fewest that work.
        smallest: u64,
    },

    /// A buffer could not be allocated.
    #[error("cannot allocate {bytes} bytes for {what}; use a smaller micro-batch or fewer tangents per pass")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
        /// What they were for.
        what: &'static str,
    },

    /// No CUDA device can be used.
    #[error("no CUDA device: {0}; --device cpu does without")]
    NoDevice(String),

    /// Device memory could not be allocated.
    #[error(
        "{device}: cannot allocate {bytes} bytes for {what}: {free} of its {total} bytes are free; give a smaller --budget, or \
         close what else uses the device"
    )]
    DeviceMemory {
        /// The device.
        device: String,
        /// What the memory was for.
        what: &'static str,
        /// Bytes asked for.
        bytes: u64,
        /// Bytes that nobody uses.
        free: u64,
        /// All its bytes.
        total: u64,
    },

    /// A device failed at something; what it was computing is lost, what is on the host is whole.
    #[error("{device} failed at: {action}: {problem}; a run continues with --resume from what it saved last")]
    Device {
        /// The device.
        device: String,
        /// What it was to do: an infinitive, or an operation.
        action: &'static str,
        /// The driver's reason.
        problem: String,
    },

    /// ONNX Runtime cannot be used, or failed.
    #[error("ONNX Runtime: {0}")]
    OnnxRuntime(String),

    /// A buffer does not fit what is left of the memory that was reserved.
    #[error(
        "{what} takes {bytes} bytes, and {left} are left of what was reserved; make the engine for the guess it is to run"
    )]
    Arena {
        /// What the buffer is for.
        what: &'static str,
        /// Bytes asked for.
        bytes: usize,
        /// Bytes left in one piece.
        left: usize,
    },
}

impl Error {
    /// An [`Error::Io`] for `path`.
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { action, path: path.as_ref().to_owned(), source }
    }

    /// Whether the caller's arguments, rather than a file or the run, are at fault (exit code 2 in the CLI).
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::Options(_))
    }
}
