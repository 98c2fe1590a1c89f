//! What a model is: its family-free description and its loaded weights.

mod companions;
mod describe;
mod fields;
mod head;
mod labels;
mod load;
mod onnx;
mod own;
mod position;
mod preprocessing;
mod prompts;
mod spec;
mod synth;
mod timm;
mod transformers;

pub use head::Head;
pub use load::{Family, LoadOptions, Model};
pub use onnx::import_onnx;
pub use prompts::PromptLayout;
pub use spec::{Activation, FinalNorm, Mlp, ModelSpec, Pooling};
pub use synth::{SynthArch, SynthDtype, SynthNames, synthesise};
