//! `foretune compare`: gradient sources at equal steps on one data set, each with its own best learning rate.

mod args;
mod plot;
mod report;
mod runs;
mod summary;
mod trial;
mod watch;

pub(super) use args::{CompareArgs, CompareJob};

use super::args::Global;
use super::device::Target;
use super::screen::Screen;
use super::{interrupt, load, output, run_tune};
use args::Method;
use foretune::data::{Dataset, Split};
use foretune::memory::Plan;
use foretune::model::Model;
use foretune::tune::{self, GuessKind, HeadKind, RunIdentity, TuneOptions};
use foretune::{Error, Result};
use runs::{Record, Runs};
use std::collections::BTreeSet;
use std::path::Path;
use summary::{FROZEN, Group, Rate, best_rate, forwards_per_step};
use trial::{Trial, Wanted};

/// False when it was interrupted.
pub(super) fn run(job: &CompareJob, global: &Global) -> Result<bool> {
    let base = &job.exact.job;
    let model = Model::open(&base.model.path, &base.model.options)?;
    let target = Target::new(&base.model, global);
    let plan = |method: &Method, options: &TuneOptions, dataset: &Dataset| {
        load::plan(&target, &model, &method.job, options, dataset, global)
    };
    // A budget that is too small for any of them is refused before an image is opened or anything is written.
    let mut limits = None;
    if base.budget.is_some() {
        let listed = Dataset::list(&base.data.root, base.data.format, &base.data.options)?;
        for method in job.methods.iter().chain([&job.exact]) {
            limits = Some(plan(method, &method.job.on_depth(model.spec.depth), &listed)?.decode);
        }
    }
    let mut dataset = load::dataset(&base.data, limits)?;
    dataset.split_validation(base.options.val_fraction, job.seeds[0]);
    let count = |split| dataset.items_of(split).len();
    if count(Split::Train) == 0 || count(Split::Val) == 0 {
        let problem =
            "a comparison needs training images and, to choose learning rates on, validation images; give it data \
                       with a train split, and --val-fraction above 0"
                .to_owned();
        return Err(Error::Data { path: dataset.root, problem });
    }
    let (head, head_digest) = match &base.head_from {
        Some(path) => (run_tune::foreign_head(path, &model, &dataset)?, Some(digest(path)?)),
        None => (None, None),
    };
    std::fs::create_dir_all(&job.out).map_err(|source| Error::Io {
        action: "create",
        path: job.out.clone(),
        source,
    })?;
    let runs = Runs::open(&job.out)?;
    interrupt::install("stopping after this step; the same command continues; once more to stop at once")?;
    let quiet = Global { quiet: global.quiet || global.json, json: false, ..*global };
    let trial = Trial {
        out: &job.out,
        model: &model,
        dataset: &dataset,
        target: &target,
        identity: RunIdentity {
            options: base.options.clone(),
            fingerprint: model.fingerprint(),
            dataset: tune::digest(&dataset),
            preprocess: model.preprocess.clone(),
            precision: base.model.precision,
        },
        head: head.as_ref(),
        head_digest: head_digest.as_deref(),
    };
    let comparison =
        Comparison { job, trial, plan: &plan, runs, screen: Screen::new(&quiet), seen: BTreeSet::new(), total: 0 };
    let groups = match comparison.run(global) {
        Err(Error::Interrupted { .. }) => {
            output::note("interrupted; the same command continues");
            return Ok(false);
        }
        groups => groups.map_err(|error| load::all_unreadable(error, &dataset, limits))?,
    };
    let rows = summary::rows(groups);
    report::write(&rows, job)?;
    report::print(&rows, job, global)?;
    Ok(true)
}

/// Of the file at `path`, hex.
fn digest(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
    Ok(blake3::hash(&bytes).to_hex()[..32].to_owned())
}

struct Comparison<'a> {
    job: &'a CompareJob,
    trial: Trial<'a>,
    plan: &'a dyn Fn(&Method, &TuneOptions, &Dataset) -> Result<Plan>,
    runs: Runs,
    screen: Screen,
    /// Names and keys of the runs that are done or known.
    seen: BTreeSet<(String, String)>,
    /// Runs in all.
    total: usize,
}

impl Comparison<'_> {
    /// Makes every run that has not been made. Errors: those of runs that did not diverge.
    fn run(mut self, global: &Global) -> Result<Vec<Group>> {
        let groups = self.groups(global);
        self.screen.finish()?;
        groups
    }

    fn groups(&mut self, global: &Global) -> Result<Vec<Group>> {
        let job = self.job;
        let train = self.trial.dataset.items_of(Split::Train).len();
        let depth = self.trial.model.spec.depth;
        let frozen = frozen(job.exact.job.resolve(depth, train)?);
        // A head that is not trained has one score.
        let seeds = if frozen.steps == 0 { &job.seeds[..1] } else { &job.seeds };
        let methods = || job.methods.iter().chain([&job.exact]);
        self.total = seeds.len() + methods().map(|method| method.lrs.len() + job.seeds.len() - 1).sum::<usize>();

        let mut groups = Vec::new();
        let mut records = Vec::new();
        for &seed in seeds {
            let options = TuneOptions { seed, ..frozen.clone() };
            records.push(self.one(FROZEN, &job.exact, options, true, global)?);
        }
        let steps = forwards_per_step(&frozen, depth);
        groups.push(Group {
            name: FROZEN.into(),
            sweep: Vec::new(),
            lr: None,
            runs: records,
            forwards_per_step: steps,
        });
        for method in methods() {
            groups.push(self.method(method, method.job.resolve(depth, train)?, depth, global)?);
        }
        Ok(groups)
    }

    /// The rates of `method` with the first seed, and all seeds at the best of them.
    fn method(&mut self, method: &Method, options: TuneOptions, depth: usize, global: &Global) -> Result<Group> {
        let seeds = &self.job.seeds;
        let with = |lr, seed| TuneOptions { lr, seed, ..options.clone() };
        let mut sweep = Vec::new();
        for &lr in &method.lrs {
            sweep.push(Rate::of(&self.one(&method.name, method, with(lr, seeds[0]), false, global)?));
        }
        let lr = best_rate(&sweep);
        let mut runs = Vec::new();
        match lr {
            Some(lr) => {
                for &seed in seeds {
                    runs.push(self.one(&method.name, method, with(lr, seed), true, global)?);
                }
            }
            None => self.total -= seeds.len() - 1,
        }
        for &lr in &method.lrs {
            self.trial.forget(&self.trial.key(&with(lr, seeds[0])))?;
        }
        let forwards_per_step = forwards_per_step(&options, depth);
        Ok(Group { name: method.name.clone(), sweep, lr, runs, forwards_per_step })
    }

    /// The run of `options`: from the folder, or made now. `chosen`: with a test score, if there are test images.
    fn one(
        &mut self,
        name: &str,
        method: &Method,
        options: TuneOptions,
        chosen: bool,
        global: &Global,
    ) -> Result<Record> {
        let key = self.trial.key(&options);
        let test = chosen && !self.trial.dataset.items_of(Split::Test).is_empty();
        let known = self.runs.get(&key);
        if let Some(record) = known.filter(|run| run.failure.is_some() || run.test.is_some() || !test) {
            let record = record.clone();
            self.seen.insert((name.to_owned(), key));
            return Ok(record);
        }
        let known = known.cloned();
        let rate = if options.guess == GuessKind::None { String::new() } else { format!(", lr {}", options.lr) };
        // One that was swept is counted, and lacks its test score only.
        let done = self.seen.len() - usize::from(self.seen.contains(&(name.to_owned(), key.clone())));
        self.screen.run(&format!("{name}{rate}, seed {}", options.seed), done, self.total);
        let plan = (self.plan)(method, &options, self.trial.dataset)?;
        let (options, key) = (&options, key.as_str());
        let wanted = Wanted { name, key, options, test, plan, job: &method.job, known };
        let record = self.trial.run(wanted, &mut self.screen)?;
        self.runs.add(record.clone())?;
        if chosen || record.failure.is_some() {
            self.trial.forget(key)?;
        }
        if global.json {
            output::json(&report::event("run", &record))?;
        }
        self.seen.insert((name.to_owned(), key.to_owned()));
        Ok(record)
    }
}

/// The baseline of runs with these options: the head alone, trained for as many steps where it is trained at all.
fn frozen(options: TuneOptions) -> TuneOptions {
    let trained = options.head == HeadKind::Linear;
    let [steps, warmup] = if trained { [options.steps, options.warmup] } else { [0, 0] };
    TuneOptions { guess: GuessKind::None, lr: TuneOptions::default().lr, steps, warmup, ..options }
}
