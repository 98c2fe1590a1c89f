//! What a model is: its family-free description and its loaded weights.

mod spec;

pub use spec::{Activation, FinalNorm, Mlp, ModelSpec, Pooling};
