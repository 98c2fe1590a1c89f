//! Parsed arguments made into jobs: every contradiction is found here, before anything is opened.

use super::args::{
    Cli, Command, DataArgs, DataCommand, Dtype, EvalArgs, Global, ModelArgs, PlanArgs, PredictArgs, SelftestArgs,
    SynthArgs,
};
use super::bench::BenchArgs;
use super::compare::CompareJob;
use super::corrupt_args::CorruptArgs;
use super::device::DeviceChoice;
use super::tune_args::{MethodArgs, TuneArgs};
use clap_complete::Shell;
use foretune::backend::Precision;
use foretune::data::corrupt::{Corruption, Severity};
use foretune::data::{Format, OpenOptions, PrefixCacheOptions, Split};
use foretune::memory::Budget;
use foretune::model::LoadOptions;
use foretune::tune::{HeadKind, TuneOptions, usual_warmup};
use foretune::{Error, Result};
use std::path::{Path, PathBuf};

/// What is to be done, complete and free of contradictions.
#[derive(Debug)]
pub(super) enum Job {
    Tune(Box<TuneJob>),
    Compare(Box<CompareJob>),
    Eval(EvalJob),
    Predict(PredictJob),
    Inspect(PathBuf),
    Verify(DataSource),
    Corrupt(CorruptJob),
    Selftest(SelftestJob),
    Plan(Box<PlanJob>),
    Bench(BenchArgs),
    Synth(SynthArgs),
    Demo(DemoJob),
    Doctor,
    Completions(Shell),
}

/// Which weights.
#[derive(Debug)]
pub(super) struct ModelSource {
    pub(super) path: PathBuf,
    pub(super) options: LoadOptions,
    pub(super) device: DeviceChoice,
    pub(super) precision: Precision,
    pub(super) resident: bool,
}

/// Which images.
#[derive(Debug)]
pub(super) struct DataSource {
    pub(super) root: PathBuf,
    pub(super) format: Format,
    pub(super) options: OpenOptions,
    pub(super) decode_threads: Option<usize>,
}

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Steps(u64),
    Epochs(u64),
}

#[derive(Debug)]
pub(super) struct TuneJob {
    pub(super) model: ModelSource,
    pub(super) data: DataSource,
    pub(super) out: PathBuf,
    /// Beside `out`.
    pub(super) checkpoint: PathBuf,
    /// `steps` and `warmup` are final only after [`TuneJob::resolve`].
    pub(super) options: TuneOptions,
    pub(super) length: Length,
    pub(super) warmup: Option<u64>,
    pub(super) head_from: Option<PathBuf>,
    pub(super) budget: Option<Budget>,
    pub(super) micro_batch: Option<usize>,
    pub(super) checkpoint_every: u64,
    pub(super) prefix_cache: Option<PrefixCacheOptions>,
    pub(super) resume: bool,
    pub(super) evaluate: bool,
    pub(super) oracle: bool,
}

#[derive(Debug)]
pub(super) struct PlanJob {
    pub(super) model: ModelSource,
    pub(super) options: TuneOptions,
    pub(super) budget: Option<Budget>,
    pub(super) micro_batch: Option<usize>,
    pub(super) classes: usize,
    pub(super) images: usize,
    pub(super) decode_threads: Option<usize>,
}

#[derive(Debug)]
pub(super) struct EvalJob {
    pub(super) model: ModelSource,
    pub(super) data: DataSource,
    pub(super) adapter: Option<PathBuf>,
    pub(super) split: Split,
    pub(super) micro_batch: usize,
}

#[derive(Debug)]
pub(super) struct PredictJob {
    pub(super) model: ModelSource,
    pub(super) adapter: Option<PathBuf>,
    pub(super) top: usize,
    pub(super) images: Vec<PathBuf>,
}

#[derive(Debug)]
pub(super) struct SelftestJob {
    pub(super) case: Option<PathBuf>,
    pub(super) model: Option<PathBuf>,
    pub(super) device: DeviceChoice,
    pub(super) dtype: Dtype,
    pub(super) dump: Option<PathBuf>,
}

#[derive(Debug)]
pub(super) struct CorruptJob {
    pub(super) data: DataSource,
    pub(super) out: PathBuf,
    pub(super) corruption: Corruption,
}

#[derive(Debug)]
pub(super) struct DemoJob {
    pub(super) out: PathBuf,
    pub(super) seed: u64,
}

impl Job {
    /// The job that `cli` asks for.
    ///
    /// # Errors
    /// [`Error::Options`] for values and combinations that cannot be meant.
    pub(super) fn new(cli: Cli) -> Result<(Job, Global)> {
        let job = match cli.command {
            Command::Tune(args) => Job::Tune(Box::new(TuneJob::new(*args)?)),
            Command::Compare(args) => Job::Compare(Box::new(CompareJob::new(*args)?)),
            Command::Eval(args) => Job::Eval(EvalJob::new(args)?),
            Command::Predict(args) => Job::Predict(PredictJob::new(args)?),
            Command::Inspect { path } => Job::Inspect(path),
            Command::Data(DataCommand::Verify { data }) => Job::Verify(DataSource::new(data)?),
            Command::Corrupt(args) => Job::Corrupt(CorruptJob::new(args)?),
            Command::Selftest(args) => Job::Selftest(SelftestJob::new(args)),
            Command::Plan(args) => Job::Plan(Box::new(PlanJob::new(*args)?)),
            Command::Bench(args) => Job::Bench(args),
            Command::SynthModel(args) => Job::Synth(args),
            Command::Doctor => Job::Doctor,
            Command::Demo { out, seed } => Job::Demo(DemoJob { out, seed }),
            Command::Completions { shell } => Job::Completions(shell),
        };
        Ok((job, cli.global))
    }
}

impl ModelSource {
    /// An adapter decides the image size, so that both together are refused.
    fn new(args: ModelArgs, adapter: Option<&Path>) -> Result<Self> {
        if args.image_size.is_some() && adapter.is_some() {
            return Err(Error::Options("--image-size cannot be used with --adapter, which brings its own size".into()));
        }
        let options = LoadOptions { image: args.image_size, heads: args.heads };
        let ModelArgs { model: path, device, precision, resident, .. } = args;
        Ok(ModelSource { path, options, device, precision, resident })
    }
}

impl DataSource {
    fn new(args: DataArgs) -> Result<Self> {
        if args.crop_boxes && matches!(args.format, Format::Folder | Format::Csv) {
            let problem = format!("--crop-boxes: the {} format has no boxes; drop the option", args.format);
            return Err(Error::Options(problem));
        }
        let options = OpenOptions { crop_boxes: args.crop_boxes, skip_bad: args.skip_bad };
        Ok(DataSource { root: args.data, format: args.format, options, decode_threads: args.decode_threads })
    }
}

impl TuneJob {
    pub(super) fn new(args: TuneArgs) -> Result<Self> {
        let TuneArgs { model, data, out, method, training, run } = args;
        let length = match (training.steps, training.epochs) {
            (steps, None) => Length::Steps(steps.unwrap_or(TuneOptions::default().steps)),
            (_, Some(epochs)) => Length::Epochs(epochs),
        };
        let dir = run.prefix_cache.filter(|dir| dir.as_os_str() != "off");
        let prefix_cache = dir.map(|dir| PrefixCacheOptions { dir, most_bytes: run.prefix_cache_size.0 });
        let options = TuneOptions {
            optimizer: training.optimizer,
            lr: training.lr,
            head_lr: training.head_lr,
            weight_decay: training.weight_decay,
            momentum: training.momentum,
            batch: training.batch,
            augment: training.augment,
            seed: training.seed,
            val_fraction: training.val_fraction,
            eval_every: training.eval_every,
            prefix_f16: prefix_cache.is_some(),
            keep: training.keep,
            // Placeholders until the training images have been counted.
            steps: 1,
            warmup: 0,
            ..with_method(TuneOptions::default(), &method)
        };
        options.validate()?;
        if let (Length::Steps(steps), Some(warmup)) = (length, training.warmup)
            && warmup > steps
        {
            return Err(Error::Options(format!("--warmup {warmup} is longer than the run of {steps} steps")));
        }
        Ok(TuneJob {
            model: ModelSource::new(model, None)?,
            data: DataSource::new(data)?,
            checkpoint: beside(&out)?,
            out,
            length,
            warmup: training.warmup,
            head_from: method.head_from,
            budget: run.budget,
            micro_batch: run.micro_batch,
            checkpoint_every: run.checkpoint_every,
            prefix_cache,
            resume: run.resume,
            evaluate: !run.no_eval,
            oracle: run.oracle,
            options,
        })
    }

    /// The options of a run over `examples` training images.
    ///
    /// # Errors
    /// [`Error::Options`] when the warm-up is longer than the run.
    pub(super) fn resolve(&self, examples: usize) -> Result<TuneOptions> {
        let steps = match self.length {
            Length::Steps(steps) => steps,
            // Batches run on across the end of an epoch.
            Length::Epochs(epochs) => epochs.saturating_mul(examples as u64).div_ceil(self.options.batch as u64).max(1),
        };
        let warmup = self.warmup.unwrap_or(usual_warmup(steps));
        let options = TuneOptions { steps, warmup, ..self.options.clone() };
        options.validate()?;
        Ok(options)
    }
}

impl PlanJob {
    fn new(args: PlanArgs) -> Result<Self> {
        let options = TuneOptions { batch: args.batch, ..with_method(TuneOptions::default(), &args.method) };
        options.validate()?;
        Ok(PlanJob {
            model: ModelSource::new(args.model, None)?,
            budget: args.budget,
            micro_batch: args.micro_batch,
            classes: args.classes,
            images: args.images,
            decode_threads: args.decode_threads,
            options,
        })
    }
}

/// `options` with the method that was asked for.
fn with_method(options: TuneOptions, method: &MethodArgs) -> TuneOptions {
    TuneOptions {
        guess: method.guess,
        tangents: method.tangents,
        power: method.power,
        rank: method.rank,
        orthonormal: method.orthonormal,
        unit_rms: method.unit_rms,
        clip: method.clip,
        prompts: method.prompts,
        deep: method.deep,
        insert_at: method.insert_at,
        head: if method.head_from.is_some() { HeadKind::Adapter } else { method.head },
        ..options
    }
}

impl EvalJob {
    fn new(args: EvalArgs) -> Result<Self> {
        Ok(EvalJob {
            model: ModelSource::new(args.model, args.adapter.as_deref())?,
            data: DataSource::new(args.data)?,
            adapter: args.adapter,
            split: args.split,
            micro_batch: args.micro_batch,
        })
    }
}

impl PredictJob {
    fn new(args: PredictArgs) -> Result<Self> {
        Ok(PredictJob {
            model: ModelSource::new(args.model, args.adapter.as_deref())?,
            adapter: args.adapter,
            top: args.top,
            images: args.images,
        })
    }
}

impl CorruptJob {
    fn new(args: CorruptArgs) -> Result<Self> {
        let CorruptArgs { data: root, format, kind, severity, out, seed, skip_bad } = args;
        let options = OpenOptions { crop_boxes: false, skip_bad };
        let corruption = Corruption { kind, severity: Severity::new(severity)?, seed };
        Ok(CorruptJob { data: DataSource { root, format, options, decode_threads: None }, out, corruption })
    }
}

impl SelftestJob {
    fn new(args: SelftestArgs) -> Self {
        let SelftestArgs { case, model, device, dtype, dump } = args;
        SelftestJob { case, model, device, dtype, dump }
    }
}

/// `birds.safetensors` → `birds.checkpoint.safetensors`.
fn beside(out: &Path) -> Result<PathBuf> {
    let stem = out.file_stem().filter(|_| !out.is_dir()).ok_or_else(|| {
        let out = out.display();
        Error::Options(format!("--out {out}: expected a file to write, such as birds.safetensors"))
    })?;
    let mut name = stem.to_owned();
    name.push(".checkpoint.safetensors");
    Ok(out.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn job(line: &str) -> Result<Job> {
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"));
        Job::new(cli).map(|(job, _)| job)
    }

    fn tune(options: &str) -> Result<Box<TuneJob>> {
        match job(&format!("foretune tune --model m --data d --format cub --out o/birds.safetensors {options}"))? {
            Job::Tune(job) => Ok(job),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_the_librarys() {
        let job = tune("").unwrap();
        assert_eq!(job.resolve(1000).unwrap(), TuneOptions::default());
        assert_eq!(job.checkpoint, Path::new("o/birds.checkpoint.safetensors"));
        assert_eq!((job.micro_batch, job.evaluate, job.resume), (None, true, false));
    }

    #[test]
    fn epochs_are_rounded_up_to_whole_batches() {
        let job = tune("--epochs 3 --batch 32").unwrap();
        assert_eq!(job.resolve(65).unwrap().steps, 7);
        assert_eq!(job.resolve(64).unwrap().steps, 6);
        assert_eq!(tune("--steps 40").unwrap().resolve(65).unwrap().warmup, 4);
        assert_eq!(tune("--steps 40 --warmup 0").unwrap().resolve(65).unwrap().warmup, 0);
    }

    #[test]
    fn a_foreign_head_is_named_by_its_adapter() {
        let job = tune("--head-from other.safetensors").unwrap();
        assert_eq!(job.options.head, HeadKind::Adapter);
        assert_eq!(job.head_from.as_deref(), Some(Path::new("other.safetensors")));
    }

    #[test]
    fn contradictions_are_usage_errors() {
        for line in ["--warmup 501", "--lr NaN", "--lr -1", "--val-fraction 1", "--momentum 1", "--weight-decay inf"] {
            let error = tune(line).expect_err(line);
            assert!(error.is_usage(), "{line}: {error}");
        }
        assert!(tune("--epochs 1 --warmup 50").unwrap().resolve(10).unwrap_err().is_usage());
        for line in [
            "eval --model m --data d --format folder --crop-boxes",
            "eval --model m --data d --format cub --adapter a --image-size 64",
            "predict --model m --adapter a --image-size 64 image.png",
            "tune --model m --data d --format cub --out ..",
        ] {
            assert!(job(&format!("foretune {line}")).expect_err(line).is_usage(), "{line}");
        }
    }
}
