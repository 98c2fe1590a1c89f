//! What `tune`, `compare` and `plan` were asked for, over a preset.

use super::args::PlanArgs;
use super::job::{DataSource, ModelSource};
use super::tune_args::{MethodArgs, TuneArgs};
use foretune::data::PrefixCacheOptions;
use foretune::memory::Budget;
use foretune::tune::{HeadKind, TuneOptions, usual_insertion, usual_warmup};
use foretune::{Error, Result};
use std::path::{Path, PathBuf};

/// Blocks of most models, to check options against before one is opened.
const ANY_DEPTH: usize = 12;

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
    /// `steps`, `warmup` and `insert_at` are final only after [`TuneJob::resolve`].
    pub(super) options: TuneOptions,
    pub(super) insert_at: Option<usize>,
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
    options: TuneOptions,
    insert_at: Option<usize>,
    pub(super) budget: Option<Budget>,
    pub(super) micro_batch: Option<usize>,
    pub(super) classes: usize,
    pub(super) images: usize,
    pub(super) decode_threads: Option<usize>,
}

impl TuneJob {
    pub(super) fn new(args: TuneArgs) -> Result<Self> {
        let TuneArgs { model, data, out, method, training, run } = args;
        let preset = method.preset.options(ANY_DEPTH);
        let length = match (training.steps, training.epochs) {
            (steps, None) => Length::Steps(steps.unwrap_or(preset.steps)),
            (_, Some(epochs)) => Length::Epochs(epochs),
        };
        let dir = run.prefix_cache.filter(|dir| dir.as_os_str() != "off");
        let prefix_cache = dir.map(|dir| PrefixCacheOptions { dir, most_bytes: run.prefix_cache_size.0 });
        let options = TuneOptions {
            optimizer: training.optimizer,
            lr: training.lr.unwrap_or(preset.lr),
            head_lr: training.head_lr,
            weight_decay: training.weight_decay,
            momentum: training.momentum,
            batch: training.batch.unwrap_or(preset.batch),
            augment: training.augment,
            seed: training.seed,
            val_fraction: training.val_fraction,
            eval_every: training.eval_every,
            prefix_f16: prefix_cache.is_some(),
            keep: training.keep,
            // Placeholders until the training images have been counted.
            steps: 1,
            warmup: 0,
            ..method.over(preset)
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
            insert_at: method.insert_at,
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

    /// The options of a run of any length on a model of `depth` blocks.
    pub(super) fn on_depth(&self, depth: usize) -> TuneOptions {
        placed(&self.options, self.insert_at, depth)
    }

    /// The options of a run over `examples` training images on a model of `depth` blocks.
    ///
    /// # Errors
    /// [`Error::Options`] when the warm-up is longer than the run, or the model too shallow for a prefix.
    pub(super) fn resolve(&self, depth: usize, examples: usize) -> Result<TuneOptions> {
        let steps = match self.length {
            Length::Steps(steps) => steps,
            // Batches run on across the end of an epoch.
            Length::Epochs(epochs) => epochs.saturating_mul(examples as u64).div_ceil(self.options.batch as u64).max(1),
        };
        let warmup = self.warmup.unwrap_or(usual_warmup(steps));
        let options = TuneOptions { steps, warmup, ..self.on_depth(depth) };
        options.validate()?;
        Ok(options)
    }
}

impl PlanJob {
    pub(super) fn new(args: PlanArgs) -> Result<Self> {
        let preset = args.method.preset.options(ANY_DEPTH);
        let options = TuneOptions { batch: args.batch.unwrap_or(preset.batch), ..args.method.over(preset) };
        options.validate()?;
        Ok(PlanJob {
            model: ModelSource::new(args.model, None)?,
            budget: args.budget,
            micro_batch: args.micro_batch,
            classes: args.classes,
            images: args.images,
            decode_threads: args.decode_threads,
            insert_at: args.method.insert_at,
            options,
        })
    }

    /// The options on a model of `depth` blocks.
    pub(super) fn on_depth(&self, depth: usize) -> TuneOptions {
        placed(&self.options, self.insert_at, depth)
    }
}

impl MethodArgs {
    /// `options` with the method that was asked for.
    fn over(&self, options: TuneOptions) -> TuneOptions {
        TuneOptions {
            guess: self.guess.unwrap_or(options.guess),
            tangents: self.tangents.unwrap_or(options.tangents),
            power: self.power,
            rank: self.rank,
            orthonormal: self.orthonormal,
            unit_rms: self.unit_rms,
            clip: self.clip.unwrap_or(options.clip),
            prompts: self.prompts.unwrap_or(options.prompts),
            deep: self.deep,
            insert_at: self.insert_at.unwrap_or(options.insert_at),
            head: if self.head_from.is_some() { HeadKind::Adapter } else { self.head },
            ..options
        }
    }
}

/// `options` with prompts where they were asked for, or where they usually enter a model of `depth` blocks.
fn placed(options: &TuneOptions, insert_at: Option<usize>, depth: usize) -> TuneOptions {
    TuneOptions { insert_at: insert_at.unwrap_or(usual_insertion(depth)), ..options.clone() }
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
    use super::super::args::Cli;
    use super::super::job::Job;
    use super::*;
    use clap::Parser;
    use foretune::tune::Preset;

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
        for depth in [2, 12, 24] {
            assert_eq!(job.resolve(depth, 1000).unwrap(), Preset::Balanced.options(depth));
        }
        assert_eq!(job.checkpoint, Path::new("o/birds.checkpoint.safetensors"));
        assert_eq!((job.micro_batch, job.evaluate, job.resume), (None, true, false));
    }

    #[test]
    fn a_preset_is_where_options_start_from() {
        for (name, preset) in [("fast", Preset::Fast), ("accurate", Preset::Accurate)] {
            let job = tune(&format!("--preset {name}")).unwrap();
            assert_eq!(job.resolve(24, 1000).unwrap(), preset.options(24));
            let job = tune(&format!("--preset {name} --prompts 3 --clip 0 --steps 7 --insert-at 0")).unwrap();
            let steps = 7;
            let own = TuneOptions { prompts: 3, clip: 0.0, steps, warmup: 0, insert_at: 0, ..preset.options(24) };
            assert_eq!(job.resolve(24, 1000).unwrap(), own);
        }
    }

    #[test]
    fn presets_are_as_the_help_tells() {
        let all = "--guess activation --clip 1 --prompts 1 --lr 0.1 --batch 64 --insert-at 3";
        let own = ["--tangents 4 --steps 100", "--tangents 8 --steps 200", "--tangents 8 --steps 800"];
        for (preset, own) in Preset::ALL.into_iter().zip(own) {
            let job = tune(&format!("{all} {own}")).unwrap();
            assert_eq!(job.resolve(12, 1000).unwrap(), preset.options(12));
        }
    }

    #[test]
    fn a_model_too_shallow_for_a_prefix_is_refused_when_it_is_known() {
        let job = tune("--prefix-cache c --augment none").unwrap();
        assert_eq!(job.resolve(4, 9).unwrap().insert_at, 1);
        assert!(job.resolve(3, 9).unwrap_err().is_usage());
    }

    #[test]
    fn epochs_are_rounded_up_to_whole_batches() {
        let job = tune("--epochs 3 --batch 32").unwrap();
        assert_eq!(job.resolve(12, 65).unwrap().steps, 7);
        assert_eq!(job.resolve(12, 64).unwrap().steps, 6);
        assert_eq!(tune("--steps 40").unwrap().resolve(12, 65).unwrap().warmup, 4);
        assert_eq!(tune("--steps 40 --warmup 0").unwrap().resolve(12, 65).unwrap().warmup, 0);
    }

    #[test]
    fn a_foreign_head_is_named_by_its_adapter() {
        let job = tune("--head-from other.safetensors").unwrap();
        assert_eq!(job.options.head, HeadKind::Adapter);
        assert_eq!(job.head_from.as_deref(), Some(Path::new("other.safetensors")));
    }

    #[test]
    fn contradictions_are_usage_errors() {
        for line in ["--warmup 201", "--lr NaN", "--lr -1", "--val-fraction 1", "--momentum 1", "--weight-decay inf"] {
            let error = tune(line).expect_err(line);
            assert!(error.is_usage(), "{line}: {error}");
        }
        assert!(tune("--epochs 1 --warmup 50").unwrap().resolve(12, 10).unwrap_err().is_usage());
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
