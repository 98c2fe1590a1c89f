//! The command line as clap reads it: names, defaults and help, nothing that looks at a file.

use super::bench::BenchArgs;
use super::compare::CompareArgs;
use super::corrupt_args::CorruptArgs;
use super::device::{DeviceChoice, EngineArgs};
use super::onnx_args::{ExportArgs, ImportArgs};
use super::tune_args::{MethodArgs, TuneArgs};
use super::values::{choice, count, image_size};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use foretune::backend::Precision;
use foretune::data::{Format, Split};
use foretune::memory::Budget;
use foretune::model::{SynthArch, SynthDtype, SynthNames};
use std::path::PathBuf;

/// Tunes prompt tokens of a pretrained Vision Transformer with forward passes only.
///
/// The backbone stays frozen and nothing is stored for a backward pass, so tuning needs about the memory of inference. Weights
/// are safetensors files of transformers or timm models, or ONNX files of them; what tuning produces is an adapter, one small safetensors file.
#[derive(Debug, Parser)]
#[command(
    name = "foretune",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Begin with `foretune demo`, which needs no files. With your own:\n  \
                  foretune tune --model vit --data CUB_200_2011 --format cub --out birds.safetensors\n  \
                  foretune predict --model vit --adapter birds.safetensors photo.jpg\n\n\
                  Exit codes: 0 done, 1 something failed, 2 the command line was wrong.\n\
                  RUST_LOG=info (or debug) shows what the library does.\n\
                  FORETUNE_ISA=scalar, avx2, avx512 or neon forces an instruction set."
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
    #[command(flatten)]
    pub(super) global: Global,
}

/// Options of every command.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub(super) struct Global {
    /// Print JSON to standard output, one object a line
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Print errors and results only
    #[arg(long, short, global = true)]
    pub(super) quiet: bool,
    /// Threads that compute; results do not depend on it [default: all cores]
    #[arg(long, global = true, value_name = "N", value_parser = count(1..=1024))]
    pub(super) threads: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Tune prompts on a data set and write an adapter
    ///
    /// Ctrl-C stops after the current step and saves a checkpoint; --resume continues from it and gives the same adapter,
    /// to the bit, as a run that was never stopped.
    Tune(Box<TuneArgs>),
    /// Compare gradients on a data set at equal steps: the frozen model, guesses, and the exact gradient
    ///
    /// Ctrl-C stops after the current step; the same command continues, and repeats no run that DIR/runs.jsonl has.
    Compare(Box<CompareArgs>),
    /// Score a model, with or without an adapter, on a data set
    Eval(EvalArgs),
    /// Print the top classes of images
    ///
    /// With --json: {"path": …, "top": [{"class_id": …, "name": …, "score": …, "probability": …}, …]} per image, best
    /// first; the score is the class's logit.
    Predict(PredictArgs),
    /// Write a model, its prompts and its head as one ONNX file
    ///
    /// A standard graph (opset 18) that any ONNX runtime loads: `pixel_values` [batch, 3, H, W] in, `logits` [batch, C] and
    /// `features` [batch, D] out. The file's metadata has class names and preprocessing.
    Export(ExportArgs),
    /// Write the weights of an ONNX file as a checkpoint folder
    ///
    /// For Vision Transformers that torch.onnx, timm or optimum exported, or `foretune export` without an adapter. --model takes
    /// such a file directly, too; from the folder, weights are mapped rather than held in memory.
    Import(ImportArgs),
    /// Describe a model, adapter, training checkpoint or data set
    ///
    /// Prints its kind, shapes and preprocessing. A folder is taken for a model if it holds weights, else for a data set.
    Inspect {
        /// Model file or folder, adapter, training checkpoint, or data set
        path: PathBuf,
    },
    /// Check a data set: data verify
    #[command(subcommand)]
    Data(DataCommand),
    /// Write a corrupted copy of a data set, as ImageNet-C defines it
    ///
    /// The copy opens in the same format. Ctrl-C leaves whole files only; the same command goes on.
    Corrupt(CorruptArgs),
    /// Check this build's arithmetic on this machine
    ///
    /// Without --case: a random model; the fast backend against the reference, directional derivatives against central
    /// differences, and the exact gradient against directional derivatives.
    Selftest(SelftestArgs),
    /// Say which devices there are, what was found of their software, and whether they compute correctly
    ///
    /// Driver, devices and their free memory, libraries, kernels, and a short parity run on the CPU and every GPU. The exit code
    /// is 1 if a device computes wrongly.
    Doctor,
    /// Say how much memory a tuning run takes, and what for
    ///
    /// Nothing is allocated or run. With --budget, shows how the run is cut to fit it; without, what it would take with
    /// memory to spare. Beside it stands what the exact gradient (--guess backprop) needs for the same job.
    Plan(Box<PlanArgs>),
    /// Write a random checkpoint of a real size, to plan, measure and test without a download
    SynthModel(SynthArgs),
    /// Measure forward and dual passes against what this machine can do
    ///
    /// In one run, in turns: the model's linear layers alone, by our matrix product and by the gemm crate's, whose better one
    /// is the ceiling; then whole passes with K tangents, and the forward pass on one thread. Medians over the rounds.
    Bench(BenchArgs),
    /// Tune a small built-in model on generated images
    ///
    /// Needs no files: writes images, a model and the tuned adapter, and prints the accuracy before and after. The images
    /// are seen through a worse camera than the model was trained with: low contrast, a colour cast, noise.
    Demo {
        /// Folder to write into
        #[arg(long, value_name = "DIR", default_value = "demo-out")]
        out: PathBuf,
        /// Seed of the images and the run
        #[arg(long, value_name = "SEED", default_value_t = 0)]
        seed: u64,
    },
    /// Print a shell's completion script
    ///
    /// For example: foretune completions bash > ~/.local/share/bash-completion/completions/foretune
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum DataCommand {
    /// Count images and classes, decode every image and list what cannot be used
    ///
    /// One line per problem, with its path; the exit code is 1 if there is any, unless --skip-bad is given.
    Verify {
        #[command(flatten)]
        data: DataArgs,
    },
}

/// Which weights, and how the encoder is set up.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model")]
pub(super) struct ModelArgs {
    /// Weights: a safetensors file, an ONNX file, or the folder that holds model.safetensors (or its shards) and config.json
    #[arg(long, value_name = "PATH")]
    pub(super) model: PathBuf,
    /// Run at this image size: N, or HEIGHTxWIDTH [default: the checkpoint's]
    ///
    /// Position embeddings are interpolated as the checkpoint's library does it. An adapter brings its own size.
    #[arg(long, alias = "image", value_name = "N|HxW", value_parser = image_size)]
    pub(super) image_size: Option<[usize; 2]>,
    /// Attention heads, for weights without config.json whose width does not tell
    #[arg(long, value_name = "N", value_parser = count(1..=4096))]
    pub(super) heads: Option<usize>,
    /// What computes: auto (the first GPU that can be used, else the CPU), cpu, cuda, or cuda:N
    ///
    /// `foretune doctor` says what there is. On a GPU --budget bounds device memory.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(super) device: DeviceChoice,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
    /// What linear layers multiply, and what a GPU stores; sums and statistics are f32
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = choice::<Precision>(PRECISIONS))]
    pub(super) precision: Precision,
    /// On the CPU: pack the weights once and keep them in memory, instead of packing from the mapped file in every pass
    #[arg(long)]
    pub(super) resident: bool,
}

pub(super) const PRECISIONS: &[(&str, &str)] = &[
    ("f32", ""),
    ("bf16", "faster where the CPU has AMX and on GPUs, slower elsewhere; rounds weights and activations to 8 bits"),
    ("f16", "on GPUs only; rounds to 11 bits"),
];

pub(super) const FORMATS: &[(&str, &str)] = &[
    ("cub", "CUB-200-2011"),
    ("cars", "Stanford Cars"),
    ("dogs", "Stanford Dogs"),
    ("folder", "one folder per class, perhaps within train/, val/ and test/"),
    ("csv", "a table path,label[,split]"),
];

/// Which data.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Data")]
pub(super) struct DataArgs {
    /// The data set's folder; for csv, also the table itself
    #[arg(long, value_name = "DIR")]
    pub(super) data: PathBuf,
    /// Its layout
    #[arg(long, value_name = "FORMAT", value_parser = choice::<Format>(FORMATS))]
    pub(super) format: Format,
    /// Crop images to the boxes that the data set comes with
    #[arg(long)]
    pub(super) crop_boxes: bool,
    /// Continue without images that are absent, unreadable or mislabelled
    #[arg(long)]
    pub(super) skip_bad: bool,
    /// Threads that decode images ahead of compute [default: half of the cores]
    #[arg(long, value_name = "N", value_parser = count(1..=256))]
    pub(super) decode_threads: Option<usize>,
}

#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    /// Tuned prompts and head; without it the checkpoint's own classifier is scored
    #[arg(long, value_name = "FILE")]
    pub(super) adapter: Option<PathBuf>,
    /// Images to score
    #[arg(long, value_name = "SPLIT", default_value = "test", value_parser = choice::<Split>(&[
        ("train", ""), ("val", ""), ("test", ""),
    ]))]
    pub(super) split: Split,
    /// Images per forward pass; changes memory and speed, not results
    #[arg(long, value_name = "N", default_value = "16", value_parser = count(1..=65_535))]
    pub(super) micro_batch: usize,
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) data: DataArgs,
}

#[derive(Debug, Args)]
pub(super) struct PredictArgs {
    /// Tuned prompts and head; without it the checkpoint's own classifier is used
    #[arg(long, value_name = "FILE")]
    pub(super) adapter: Option<PathBuf>,
    /// Classes to print per image
    #[arg(long, value_name = "N", default_value = "5", value_parser = count(1..=1_000_000))]
    pub(super) top: usize,
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    pub(super) images: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) model: ModelArgs,
}

#[derive(Debug, Args)]
pub(super) struct SelftestArgs {
    /// Compare with a golden case: a folder with case.safetensors
    #[arg(long, value_name = "DIR")]
    pub(super) case: Option<PathBuf>,
    /// Weights of the case [default: those in its folder]
    #[arg(long, value_name = "PATH", requires = "case")]
    pub(super) model: Option<PathBuf>,
    /// What is checked: cpu, cuda, or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(super) device: DeviceChoice,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
    /// Arithmetic: f32, bf16 and f16 (GPUs only) are the device's, f64 the reference's
    #[arg(long, visible_alias = "precision", value_name = "TYPE", default_value = "f32", value_enum)]
    pub(super) dtype: Dtype,
    /// Write the computed tensors under the case's names to this safetensors file
    #[arg(long, value_name = "FILE", requires = "case")]
    pub(super) dump: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) method: MethodArgs,
    /// Most memory to take, 512MiB, 64MiB, or a number of bytes: of the CPU's, weights mapped from their file not counted, or of
    /// the GPU's
    #[arg(long, value_name = "BYTES")]
    pub(super) budget: Option<Budget>,
    /// Images per step [default: the preset's]
    #[arg(long, value_name = "B", value_parser = count(1..=65_535))]
    pub(super) batch: Option<usize>,
    /// Most images per pass [default: the batch, at most 16 on the CPU]
    #[arg(long, value_name = "N", value_parser = count(1..=65_535))]
    pub(super) micro_batch: Option<usize>,
    /// Classes of the data set
    #[arg(long, value_name = "C", default_value = "200", value_parser = count(1..=1_000_000))]
    pub(super) classes: usize,
    /// Training images of the data set
    #[arg(long, value_name = "N", default_value = "6000", value_parser = count(1..=1_000_000_000))]
    pub(super) images: usize,
    /// Threads that decode images ahead of compute [default: half of the cores]
    #[arg(long, value_name = "N", value_parser = count(1..=256))]
    pub(super) decode_threads: Option<usize>,
}

pub(super) const ARCHS: &[(&str, &str)] = &[
    ("vit_tiny_patch16_224", ""),
    ("vit_small_patch16_224", ""),
    ("vit_base_patch16_224", ""),
    ("vit_large_patch16_224", ""),
    ("vit_huge_patch14_224", ""),
];

#[derive(Debug, Args)]
pub(super) struct SynthArgs {
    /// Architecture
    #[arg(long, value_name = "ARCH", value_parser = choice::<SynthArch>(ARCHS))]
    pub(super) arch: SynthArch,
    /// Stored type
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = choice::<SynthDtype>(&[
        ("f32", ""), ("f16", ""), ("bf16", ""),
    ]))]
    pub(super) dtype: SynthDtype,
    /// Whose tensor names and config.json
    #[arg(long, value_name = "LIBRARY", default_value = "timm", value_parser = choice::<SynthNames>(&[
        ("timm", ""), ("transformers", ""),
    ]))]
    pub(super) names: SynthNames,
    /// Seed: equal seeds give equal files
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub(super) seed: u64,
    /// Folder to write model.safetensors and config.json into
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Dtype {
    F32,
    Bf16,
    F16,
    F64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }

    /// Every listed name is a variant of the library's type, and every name is listed.
    #[test]
    fn every_choice_parses() {
        let command = Cli::command();
        let mut seen = 0;
        for path in [&["tune"][..], &["eval"], &["data", "verify"]] {
            let command = path.iter().fold(&command, |c, name| c.find_subcommand(name).unwrap());
            for arg in command.get_arguments() {
                for value in arg.get_possible_values() {
                    if arg.get_id() == "help" || value.get_name() == "true" || value.get_name() == "false" {
                        continue;
                    }
                    let flag = format!("--{}={}", arg.get_long().unwrap(), value.get_name());
                    let mut line = vec!["foretune"];
                    line.extend(path);
                    line.push(&flag);
                    for other in ["model=m", "data=d", "format=cub", "out=o"] {
                        let name = other.split('=').next().unwrap();
                        if command.get_arguments().any(|a| a.get_id() == name) && arg.get_id() != name {
                            line.push(Box::leak(format!("--{other}").into_boxed_str()));
                        }
                    }
                    Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
                    seen += 1;
                }
            }
        }
        assert!(seen > 20, "{seen} choices");
    }
}
