//! The arguments of `foretune tune`.

use super::args::{DataArgs, ModelArgs};
use super::values::{choice, count};
use clap::{ArgGroup, Args};
use foretune::data::PrefixCacheOptions;
use foretune::memory::Budget;
use foretune::tune::{AugmentKind, GuessKind, HeadKind, Keep, OptimizerKind, Preset, TuneOptions};
use std::path::PathBuf;
use std::sync::LazyLock;

static DEFAULT: LazyLock<TuneOptions> = LazyLock::new(TuneOptions::default);

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("length"), allow_negative_numbers = true)]
pub(super) struct TuneArgs {
    /// Adapter to write; it is replaced whole when the run is done
    #[arg(long, value_name = "FILE")]
    pub(super) out: PathBuf,
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) data: DataArgs,
    #[command(flatten)]
    pub(super) method: MethodArgs,
    #[command(flatten)]
    pub(super) training: TrainingArgs,
    #[command(flatten)]
    pub(super) run: RunArgs,
}

/// What is tuned, and by which gradient.
#[derive(Debug, Args)]
#[command(next_help_heading = "Method")]
pub(super) struct MethodArgs {
    /// Options that learn; each that a preset sets can be given a value of its own
    ///
    /// All: --guess activation --clip 1 --prompts 1 --lr 0.1 --batch 64, and --insert-at a quarter of the depth.
    #[arg(long, value_name = "PRESET", default_value = "balanced", value_parser = choice::<Preset>(&[
        ("fast", "--tangents 4 --steps 100, for a first look"),
        ("balanced", "--tangents 8 --steps 200"),
        ("accurate", "--tangents 8 --steps 800"),
    ]))]
    pub(super) preset: Preset,
    /// Where the gradient of the prompts comes from
    ///
    /// weight-transpose: directions that the block's own weights make likely, scaled by their exact derivative;
    /// activation: a random direction per example;
    /// directional: one random direction for the whole batch;
    /// mixing: random mixtures of the example's own tokens;
    /// downstream:M: noise sent back through the next M blocks, which are recomputed one at a time;
    /// self-sharpening: weight-transpose of noise that all leans one way;
    /// matched-cosine: the exact gradient with an error as large as weight-transpose's, but unbiased, for comparison;
    /// backprop: the exact gradient, block by block: needs more memory, for comparison;
    /// none: no prompts: only the head, on the frozen model.
    #[arg(long, value_name = "GUESS")]
    pub(super) guess: Option<GuessKind>,
    /// Directions K per example and step; each costs about one more forward pass
    #[arg(long, value_name = "K", value_parser = count(1..=4096))]
    pub(super) tangents: Option<usize>,
    /// Power of the singular values of the weights that noise is sent back through: 1 leaves them, 0 makes all directions equally
    /// likely
    #[arg(long, value_name = "POWER", default_value_t = DEFAULT.power)]
    pub(super) power: f64,
    /// Largest singular values of those weights that are used; 0 for all
    #[arg(long, value_name = "RANK", default_value_t = DEFAULT.rank, value_parser = count(0..=1 << 20))]
    pub(super) rank: usize,
    /// Make an example's K directions orthogonal
    #[arg(long)]
    pub(super) orthonormal: bool,
    /// Scale every prompt token of a direction to a root mean square of 1
    #[arg(long)]
    pub(super) unit_rms: bool,
    /// Most that an example counts in a step, as a multiple of the batch's median derivative; 0 for no limit
    ///
    /// A few examples of a batch have derivatives many times the others', and would decide the step.
    #[arg(long, value_name = "MULTIPLE")]
    pub(super) clip: Option<f64>,
    /// Prompt tokens per set
    #[arg(long, value_name = "P", value_parser = count(1..=4096))]
    pub(super) prompts: Option<usize>,
    /// A prompt set of its own for every block from --insert-at on, instead of one that stays
    #[arg(long)]
    pub(super) deep: bool,
    /// Block ahead of which the (first) prompts enter, from 0
    ///
    /// The blocks before it run without tangents.
    #[arg(long, value_name = "BLOCK", value_parser = count(0..=4095))]
    pub(super) insert_at: Option<usize>,
    /// What turns features into classes
    #[arg(long, value_name = "HEAD", default_value = "prototype", conflicts_with = "head_from",
        value_parser = choice::<HeadKind>(&[
            ("prototype", "cosine to the class means of the frozen model; then frozen itself"),
            ("linear", "a linear classifier trained together with the prompts"),
            ("pretrained", "the checkpoint's own classifier, frozen; labels must be its class ids"),
        ]))]
    pub(super) head: HeadKind,
    /// Use the head of this adapter, frozen
    #[arg(long, value_name = "ADAPTER")]
    pub(super) head_from: Option<PathBuf>,
}

/// The optimizer and its schedule.
#[derive(Debug, Args)]
#[command(next_help_heading = "Training")]
pub(super) struct TrainingArgs {
    /// Update rule
    #[arg(long, value_name = "RULE", default_value = "adamw", value_parser = choice::<OptimizerKind>(&[
        ("adamw", ""),
        ("stable-adamw", "AdamW with updates clipped by their RMS"),
        ("sgd", "with momentum"),
    ]))]
    pub(super) optimizer: OptimizerKind,
    /// Peak learning rate of the prompts
    #[arg(long, value_name = "RATE")]
    pub(super) lr: Option<f64>,
    /// Peak learning rate of a linear head
    #[arg(long, value_name = "RATE", default_value_t = DEFAULT.head_lr)]
    pub(super) head_lr: f64,
    /// Decoupled weight decay
    #[arg(long, value_name = "DECAY", default_value_t = DEFAULT.weight_decay)]
    pub(super) weight_decay: f64,
    /// Momentum of sgd, or the decay rate β₁ of adamw
    #[arg(long, value_name = "MU", default_value_t = DEFAULT.momentum)]
    pub(super) momentum: f64,
    /// Optimizer steps of the run
    #[arg(long, value_name = "N", group = "length", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(super) steps: Option<u64>,
    /// Length of the run in passes over the training images, instead of --steps
    #[arg(long, value_name = "N", group = "length", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(super) epochs: Option<u64>,
    /// Steps over which the learning rate rises, before it falls as a cosine [default: a tenth of the steps, at most 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    pub(super) warmup: Option<u64>,
    /// Images per step
    #[arg(long, value_name = "B", value_parser = count(1..=65_535))]
    pub(super) batch: Option<usize>,
    /// What happens to training images at random
    #[arg(long, value_name = "KIND", default_value = "resized-crop", value_parser = choice::<AugmentKind>(&[
        ("none", "nothing"),
        ("flip", "horizontal flip"),
        ("resized-crop", "random resized crop, and flip"),
        ("vpt", "resize, random crop and flip in the proportions of the VPT recipe (256, 224)"),
    ]))]
    pub(super) augment: AugmentKind,
    /// Seed of everything random: equal seeds give equal adapters
    #[arg(long, value_name = "SEED", default_value_t = DEFAULT.seed)]
    pub(super) seed: u64,
    /// Share of each class's training images set aside for validation; 0 for none
    ///
    /// Not used where the data set has a validation split of its own.
    #[arg(long, value_name = "SHARE", default_value_t = DEFAULT.val_fraction)]
    pub(super) val_fraction: f64,
    /// Steps between scores on the validation images; 0 for only at the end
    #[arg(long, value_name = "N", default_value_t = DEFAULT.eval_every)]
    pub(super) eval_every: u64,
    /// Which prompts are the result
    #[arg(long, value_name = "WHICH", default_value = "best", value_parser = choice::<Keep>(&[
        ("best", "those that scored best on the validation images"),
        ("last", "those of the last step"),
    ]))]
    pub(super) keep: Keep,
}

/// How the run is carried out; nothing here changes its result but whether there is a prefix cache.
#[derive(Debug, Args)]
#[command(next_help_heading = "Run")]
pub(super) struct RunArgs {
    /// Most memory to take, 512MiB, 64MiB, or a number of bytes: of the CPU's, weights mapped from their file not counted, or of
    /// the GPU's
    ///
    /// Fewer images and tangents a pass are used where they must be; the result is the same. `foretune plan` shows where the
    /// bytes go.
    #[arg(long, value_name = "BYTES")]
    pub(super) budget: Option<Budget>,
    /// Most images per pass: less memory when few, faster when many; the result is the same [default: the batch, at most 16 on the CPU]
    #[arg(long, value_name = "N", value_parser = count(1..=65_535))]
    pub(super) micro_batch: Option<usize>,
    /// Steps between checkpoints; 0 for only on Ctrl-C
    ///
    /// The checkpoint stands beside the adapter: birds.safetensors has birds.checkpoint.safetensors.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(super) checkpoint_every: u64,
    /// Keep on disk what the blocks ahead of --insert-at make of each image, and begin there from then on [default: off]
    ///
    /// Images that are kept are not decoded. Values are rounded to f16, whether they are read or have just been computed, so that the
    /// result does not depend on what was kept; it is another than that of off. Needs --insert-at 1 or more and --augment none. A file
    /// in the folder serves one model at one image size, block and instruction set, for all data sets. It may be deleted at any time.
    #[arg(long, value_name = "DIR|off")]
    pub(super) prefix_cache: Option<PathBuf>,
    /// Most bytes that a file of --prefix-cache grows to; images beyond are computed every time
    #[arg(long, value_name = "BYTES", default_value_t = Budget(PrefixCacheOptions::USUAL_BYTES), requires = "prefix_cache")]
    pub(super) prefix_cache_size: Budget,
    /// Continue from the checkpoint, if there is one
    #[arg(long)]
    pub(super) resume: bool,
    /// Do not score the test images, nor the frozen model beside the tuned one
    #[arg(long)]
    pub(super) no_eval: bool,
    /// Afterwards tune by the exact gradient too, under the same data order, and print its scores beside the others
    ///
    /// It needs several times the memory, which no --budget bounds, and shows what the guess leaves unlearned.
    #[arg(long, conflicts_with = "budget")]
    pub(super) oracle: bool,
}
