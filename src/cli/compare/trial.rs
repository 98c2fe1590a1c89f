//! One run of a comparison: trained, scored, and continued where it was stopped.

use super::super::device::Target;
use super::super::screen::Screen;
use super::super::tune_job::TuneJob;
use super::runs::{self, Record};
use super::watch::{Seen, Watch};
#[cfg(feature = "cuda")]
use foretune::cuda::{self, CudaOptions};
use foretune::data::Dataset;
#[cfg(feature = "ort")]
use foretune::engine::ort::OrtModel;
use foretune::engine::{self, Loaded};
use foretune::memory::Plan;
use foretune::model::{Head, Model};
use foretune::tune::{Compare, Job, Resources, RunIdentity, Saving, Score, TuneOptions};
use foretune::{Error, Result};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What all runs share.
pub(super) struct Trial<'a> {
    pub(super) out: &'a Path,
    pub(super) model: &'a Model,
    /// Its validation split made.
    pub(super) dataset: &'a Dataset,
    pub(super) target: &'a Target,
    /// Of every run but for its options; made once, for it is hashed from all weights.
    pub(super) identity: RunIdentity,
    pub(super) head: Option<&'a Head>,
    /// Of the adapter that `head` is from.
    pub(super) head_digest: Option<&'a str>,
}

impl Trial<'_> {
    fn identity(&self, options: &TuneOptions) -> RunIdentity {
        RunIdentity { options: options.clone(), ..self.identity.clone() }
    }

    pub(super) fn key(&self, options: &TuneOptions) -> String {
        runs::key(&self.identity(options), self.head_digest)
    }

    fn checkpoints(&self) -> PathBuf {
        self.out.join("checkpoints")
    }

    /// What stands in for the run `key` while it is not complete: its checkpoint, and its curve.
    fn files(&self, key: &str) -> [PathBuf; 2] {
        ["safetensors", "curve.json"].map(|ending| self.checkpoints().join(format!("{key}.{ending}")))
    }

    /// Removes what is left of the run `key` beside its record.
    pub(super) fn forget(&self, key: &str) -> Result<()> {
        for path in self.files(key) {
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    return Err(Error::Io { action: "remove", path, source });
                }
                _ => {}
            }
        }
        // It goes with its last file; other runs' are left.
        let _ = std::fs::remove_dir(self.checkpoints());
        Ok(())
    }

    /// Trains, or goes on from the checkpoint, and scores. A run that diverged is a record too. Errors: what else stops
    /// a run, [`Error::Interrupted`] among it.
    pub(super) fn run(&self, wanted: Wanted, screen: &mut Screen) -> Result<Record> {
        let Wanted { name, key, options, test, plan, job, known } = wanted;
        let [checkpoint, curve] = self.files(key);
        let folder = self.checkpoints();
        std::fs::create_dir_all(&folder).map_err(|source| Error::Io { action: "create", path: folder, source })?;
        let saving = Saving { path: Some(checkpoint), every: job.checkpoint_every };
        let prefix_cache = job.prefix_cache.clone();
        let resources = Resources { prefix_cache, ..Resources::of_plan(&plan, saving, true) };
        let mut watch = Watch::new(screen, curve)?;
        if let Some(Record { images_per_second, curve, .. }) = known {
            watch.seen = Seen { images_per_second, curve };
        }
        let made = match self.target {
            Target::Cpu(cpu) => {
                engine::cpu(self.model, *cpu).and_then(|native| self.on(&native, options, &resources, test, &mut watch))
            }
            #[cfg(feature = "ort")]
            Target::Ort(ort) => OrtModel::new(self.model, ort.clone())
                .and_then(|loaded| self.on(&loaded, options, &resources, test, &mut watch)),
            #[cfg(feature = "cuda")]
            Target::Cuda(cuda) => {
                let cuda = CudaOptions { streamed: plan.streamed, memory: Some(plan.total()), ..*cuda };
                cuda::load(self.model, cuda)
                    .and_then(|native| self.on(&native.by_blocks(plan.chunk), options, &resources, test, &mut watch))
            }
        };
        let (Seen { images_per_second, curve }, step) = watch.finish()?;
        let mut record = Record {
            key: key.to_owned(),
            method: name.to_owned(),
            lr: options.lr,
            seed: options.seed,
            steps: options.steps,
            validation: None,
            test: None,
            failure: None,
            images_per_second,
            skipped: 0,
            curve,
            // A plain struct cannot fail to become JSON.
            identity: serde_json::to_value(self.identity(options)).unwrap_or_default(),
        };
        match made {
            Ok(Made { validation, test, skipped }) if finite(validation) && finite(test) => {
                (record.validation, record.test, record.skipped) = (validation, test, skipped);
            }
            Ok(_) => record.failure = Some("its loss is not finite".to_owned()),
            Err(Error::Diverged(reason)) => {
                log::warn!("{name}, lr {}, seed {}: {reason}", options.lr, options.seed);
                record.failure = Some(format!("diverged after {step} of {} steps", options.steps));
            }
            Err(error) => return Err(error),
        }
        Ok(record)
    }

    fn on(
        &self,
        loaded: &dyn Loaded,
        options: &TuneOptions,
        resources: &Resources,
        test: bool,
        watch: &mut Watch,
    ) -> Result<Made> {
        let Trial { model, dataset, head: head_from, .. } = *self;
        let job = Job { model, loaded, dataset, options, resources, head_from };
        let trained = job.train(watch)?;
        let scores = job.scores(&trained, Compare { test, ..Compare::default() }, watch)?;
        Ok(Made { validation: trained.validation, test: scores.tuned.test, skipped: trained.skipped })
    }
}

/// A run that is to be made.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) key: &'a str,
    pub(super) options: &'a TuneOptions,
    /// Whether the test images are scored.
    pub(super) test: bool,
    pub(super) plan: Plan,
    /// What says how it is carried out.
    pub(super) job: &'a TuneJob,
    /// Its record, where that lacks a test score only.
    pub(super) known: Option<Record>,
}

/// What a run that did not diverge came to.
struct Made {
    validation: Option<Score>,
    test: Option<Score>,
    skipped: u64,
}

fn finite(score: Option<Score>) -> bool {
    score.is_none_or(|score| score.loss.is_finite())
}
