//! The arguments of `foretune export` and `foretune import`.

use super::values::{choice, count, image_size};
use clap::Args;
use foretune::onnx::Element;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Weights: a safetensors file, an ONNX file, or the folder that holds model.safetensors (or its shards) and config.json
    #[arg(long, value_name = "PATH")]
    pub(super) model: PathBuf,
    /// Tuned prompts and head; without it the checkpoint's own classifier is exported
    #[arg(long, value_name = "FILE")]
    pub(super) adapter: Option<PathBuf>,
    /// File to write; above 2 GiB the tensors go to a second one, FILE.data
    #[arg(long, value_name = "FILE")]
    pub(super) out: PathBuf,
    /// What weights and activations are; the head is f32
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = choice::<Element>(&[("f32", ""), ("f16", "")]))]
    pub(super) precision: Element,
    /// Let the graph resize, crop and normalise: its input is `image` [batch, height, width, 3], 8-bit RGB
    #[arg(long)]
    pub(super) with_preprocessing: bool,
    /// Export at this image size: N, or HEIGHTxWIDTH [default: the checkpoint's]
    #[arg(long, value_name = "N|HxW", value_parser = image_size, conflicts_with = "adapter")]
    pub(super) image_size: Option<[usize; 2]>,
    /// Attention heads, for weights without config.json whose width does not tell
    #[arg(long, value_name = "N", value_parser = count(1..=4096))]
    pub(super) heads: Option<usize>,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The ONNX file
    #[arg(long, value_name = "FILE")]
    pub(super) model: PathBuf,
    /// Folder to write model.safetensors and config.json into
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// Size of its images, N or HEIGHTxWIDTH, for a graph that takes any and does not tell by its position embedding
    #[arg(long, value_name = "N|HxW", value_parser = image_size)]
    pub(super) image_size: Option<[usize; 2]>,
}
