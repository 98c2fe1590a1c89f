//! The arguments of `foretune bench`.

use crate::cli::args::{ARCHS, PRECISIONS};
use crate::cli::device::{DeviceChoice, EngineArgs};
use crate::cli::values::{choice, count, image_size};
use clap::Args;
use foretune::backend::Precision;
use foretune::model::SynthArch;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(in crate::cli) struct BenchArgs {
    /// Weights; without them a random model is written to a temporary folder
    #[arg(long, value_name = "PATH", conflicts_with = "arch")]
    pub(in crate::cli) model: Option<PathBuf>,
    /// Architecture of the random model
    #[arg(long, value_name = "ARCH", default_value = "vit_base_patch16_224", value_parser = choice::<SynthArch>(ARCHS))]
    pub(in crate::cli) arch: SynthArch,
    /// Run at this image size: N, or HEIGHTxWIDTH [default: the checkpoint's]
    #[arg(long, value_name = "N|HxW", value_parser = image_size)]
    pub(in crate::cli) image_size: Option<[usize; 2]>,
    /// Numbers of tangents K to measure; 0 is the forward pass
    #[arg(long, value_name = "K,…", default_value = "0,1,2,4,8", value_delimiter = ',', value_parser = count(0..=1024))]
    pub(in crate::cli) tangents: Vec<usize>,
    /// Images per pass
    #[arg(long, value_name = "N", default_value = "8", value_parser = count(1..=1024))]
    pub(in crate::cli) micro_batch: usize,
    /// Prompts
    #[arg(long, value_name = "P", default_value = "4", value_parser = count(1..=65_535))]
    pub(in crate::cli) prompts: usize,
    /// Block ahead of which the prompts enter
    #[arg(long, value_name = "BLOCK", default_value_t = 0)]
    pub(in crate::cli) insert_at: usize,
    /// One prompt set per block
    #[arg(long)]
    pub(in crate::cli) deep: bool,
    /// What computes: cpu, cuda, or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(in crate::cli) device: DeviceChoice,
    #[command(flatten)]
    pub(in crate::cli) engine: EngineArgs,
    /// On a GPU: two blocks' weights at a time
    #[arg(long)]
    pub(in crate::cli) streamed: bool,
    /// On a GPU: so many images through a block at a time
    #[arg(long, value_name = "N", value_parser = count(1..=65_535))]
    pub(in crate::cli) by_blocks: Option<usize>,
    /// On a GPU: matrix products by our own kernels even where cuBLASLt is there
    #[arg(long)]
    pub(in crate::cli) own_products: bool,
    /// On a GPU: every launch on its own, even where those of a small pass could be made at once
    #[arg(long)]
    pub(in crate::cli) separate_launches: bool,
    /// On a GPU: side of the square matrices whose product is the ceiling [default: 8192]
    #[arg(long, value_name = "N", value_parser = count(1..=65_535))]
    pub(in crate::cli) side: Option<usize>,
    /// What linear layers multiply
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = choice::<Precision>(PRECISIONS))]
    pub(in crate::cli) precision: Precision,
    /// Pack the weights once instead of in every pass
    #[arg(long)]
    pub(in crate::cli) resident: bool,
    /// Also show where the time of each pass goes, operation by operation
    #[arg(long)]
    pub(in crate::cli) ops: bool,
    /// Times that everything is measured
    #[arg(long, value_name = "N", default_value = "5", value_parser = count(1..=1000))]
    pub(in crate::cli) rounds: usize,
}
