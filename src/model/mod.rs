//! What a model is: its family-free description and its loaded weights.

mod head;
mod prompts;
mod spec;

pub use head::Head;
pub use prompts::PromptLayout;
pub use spec::{Activation, FinalNorm, Mlp, ModelSpec, Pooling};
