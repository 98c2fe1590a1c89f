//! Parsed arguments made into jobs: every contradiction is found here, before anything is opened.

use super::args::{
    Cli, Command, DataArgs, DataCommand, Dtype, EvalArgs, Global, ModelArgs, PredictArgs, SelftestArgs, SynthArgs,
};
use super::bench::BenchArgs;
use super::compare::CompareJob;
use super::corrupt_args::CorruptArgs;
use super::device::{DeviceChoice, EngineArgs, EngineChoice};
use super::onnx_args::{ExportArgs, ImportArgs};
use super::tune_job::{PlanJob, TuneJob};
use clap_complete::Shell;
use foretune::backend::Precision;
use foretune::data::corrupt::{Corruption, Severity};
use foretune::data::{Format, OpenOptions, Split};
use foretune::model::LoadOptions;
use foretune::{Error, Result};
use std::path::{Path, PathBuf};

/// What is to be done, complete and free of contradictions.
#[derive(Debug)]
pub(super) enum Job {
    Tune(Box<TuneJob>),
    Compare(Box<CompareJob>),
    Eval(EvalJob),
    Predict(PredictJob),
    Export(ExportArgs),
    Import(ImportArgs),
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
    pub(super) engine: EngineArgs,
}

/// Which images.
#[derive(Debug)]
pub(super) struct DataSource {
    pub(super) root: PathBuf,
    pub(super) format: Format,
    pub(super) options: OpenOptions,
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
    pub(super) engine: EngineArgs,
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
            Command::Export(args) => Job::Export(args),
            Command::Import(args) => Job::Import(args),
            Command::Inspect { path } => Job::Inspect(path),
            Command::Data(DataCommand::Verify { data }) => Job::Verify(DataSource::new(data)?),
            Command::Corrupt(args) => Job::Corrupt(CorruptJob::new(args)?),
            Command::Selftest(args) => Job::Selftest(SelftestJob::new(args)?),
            Command::Plan(args) => Job::Plan(Box::new(PlanJob::new(*args)?)),
            Command::Bench(args) => {
                args.engine.check()?;
                if args.engine.engine != EngineChoice::Native && args.device != DeviceChoice::Cpu {
                    let problem = "--device is for the native engine; --engine ort:PROVIDER says what computes";
                    return Err(Error::Options(problem.into()));
                }
                Job::Bench(args)
            }
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
    pub(super) fn new(args: ModelArgs, adapter: Option<&Path>) -> Result<Self> {
        if args.image_size.is_some() && adapter.is_some() {
            return Err(Error::Options("--image-size cannot be used with --adapter, which brings its own size".into()));
        }
        let options = LoadOptions { image: args.image_size, heads: args.heads };
        let ModelArgs { model: path, device, precision, resident, engine, .. } = args;
        engine.check()?;
        if engine.engine != EngineChoice::Native {
            let given = match (device, precision, resident) {
                (DeviceChoice::Auto, Precision::F32, false) => None,
                (DeviceChoice::Auto, Precision::F32, true) => Some("--resident"),
                (DeviceChoice::Auto, ..) => Some("--precision"),
                _ => Some("--device"),
            };
            if let Some(given) = given {
                return Err(Error::Options(format!(
                    "{given} is for the native engine; --engine ort:PROVIDER says what computes"
                )));
            }
        }
        Ok(ModelSource { path, options, device, precision, resident, engine })
    }
}

impl DataSource {
    pub(super) fn new(args: DataArgs) -> Result<Self> {
        if args.crop_boxes && matches!(args.format, Format::Folder | Format::Csv) {
            let problem = format!("--crop-boxes: the {} format has no boxes; drop the option", args.format);
            return Err(Error::Options(problem));
        }
        let options = OpenOptions { crop_boxes: args.crop_boxes, skip_bad: args.skip_bad };
        Ok(DataSource { root: args.data, format: args.format, options, decode_threads: args.decode_threads })
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
    fn new(args: SelftestArgs) -> Result<Self> {
        let SelftestArgs { case, model, device, engine, dtype, dump } = args;
        engine.check()?;
        if engine.engine != EngineChoice::Native && (device, dtype) != (DeviceChoice::Cpu, Dtype::F32) {
            let problem =
                "--device and --dtype are for the native engine; --engine ort:PROVIDER says what computes, in f32";
            return Err(Error::Options(problem.into()));
        }
        Ok(SelftestJob { case, model, device, engine, dtype, dump })
    }
}
