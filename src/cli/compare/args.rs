//! The arguments of `foretune compare`: those of `tune`, shared by all methods, and the methods themselves.

use super::super::args::{DataArgs, ModelArgs};
use super::super::tune_args::{MethodArgs, RunArgs, TrainingArgs, TuneArgs};
use super::super::tune_job::TuneJob;
use super::summary::{EXACT, FROZEN};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use foretune::tune::GuessKind;
use foretune::{Error, Result};
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub(in super::super) struct CompareArgs {
    /// Folder of the results; runs that it holds already are not repeated
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Guesses to compare, by name [default: weight-transpose,activation,directional; none where --method is given]
    #[arg(long, value_name = "GUESS,…", value_delimiter = ',')]
    methods: Option<Vec<String>>,
    /// A method by a name of your own, with the options of `tune` in which it differs; may be repeated
    ///
    /// For example --method 'wt-p1=--guess weight-transpose --prompts 1 --tangents 8'. With --lr among them that rate
    /// alone is run. What decides data, head and steps is the same for all methods.
    #[arg(long = "method", value_name = "NAME=OPTIONS")]
    own: Vec<String>,
    /// Peak learning rates; each method gets the one with which the first seed has the lowest validation loss
    ///
    /// The test images are scored for the chosen rate only.
    #[arg(long, value_name = "RATE,…", value_delimiter = ',', default_value = "0.01,0.03,0.1")]
    lrs: Vec<f64>,
    /// Seeds of initial prompts, data order and guesses; the first also decides which images are for validation
    #[arg(long, value_name = "SEED,…", value_delimiter = ',', default_value = "0,1,2")]
    seeds: Vec<u64>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    shared: Shared,
}

/// Options of `tune` that a comparison decides itself, by clap's id, and why.
const DECIDED: [(&str, &str); 7] = [
    ("guess", "--methods and --method say which gradients are compared"),
    ("lr", "--lrs gives the rates to choose from"),
    ("seed", "--seeds gives the seeds"),
    ("keep", "what is compared are the prompts of the last step"),
    ("resume", "the same command always continues"),
    ("no_eval", "a comparison scores the test images once a learning rate is chosen"),
    ("oracle", "the exact gradient is always compared"),
];
/// Of these, what a method may say for itself.
const METHODS_OWN: [&str; 2] = ["guess", "lr"];
/// What must be the same for all methods, or they would not be comparable.
const COMMON: [&str; 9] =
    ["steps", "epochs", "batch", "augment", "val_fraction", "eval_every", "head", "head_from", "head_lr"];

/// A run of `tune` but for where it reads and writes.
#[derive(Debug, Args)]
struct Line {
    #[command(flatten)]
    method: MethodArgs,
    #[command(flatten)]
    training: TrainingArgs,
    #[command(flatten)]
    run: RunArgs,
}

impl Line {
    fn command() -> Command {
        let command = Command::new("method").no_binary_name(true).args_override_self(true).disable_help_flag(true);
        Line::augment_args(command.allow_negative_numbers(true))
    }

    fn matches(words: impl IntoIterator<Item = OsString>) -> Result<ArgMatches> {
        Self::command().try_get_matches_from(words).map_err(|error| usage(&error))
    }
}

/// Options of `tune` as they stood on the command line, there to be given to every method.
#[derive(Debug)]
struct Shared {
    words: Vec<OsString>,
}

impl FromArgMatches for Shared {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        if let Some((option, reason)) = DECIDED.iter().find(|(id, _)| given(matches, id)) {
            let message = format!("--{}: {reason}\n", option.replace('_', "-"));
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, message));
        }
        let mut words = vec!["--keep=last".into()];
        for argument in Line::command().get_arguments().filter(|argument| given(matches, argument.get_id().as_str())) {
            let long = argument.get_long().unwrap_or_default();
            if !argument.get_action().takes_values() {
                words.push(format!("--{long}").into());
                continue;
            }
            for value in matches.get_raw(argument.get_id().as_str()).into_iter().flatten() {
                let mut word = OsString::from(format!("--{long}="));
                word.push(value);
                words.push(word);
            }
        }
        Ok(Shared { words })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Shared {
    fn augment_args(command: Command) -> Command {
        let command = Line::augment_args(command);
        DECIDED.iter().fold(command, |command, (id, _)| command.mut_arg(id, |argument| argument.hide(true)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn given(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// What clap found, without its advice on a command line that nobody wrote.
fn usage(error: &clap::Error) -> Error {
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    Error::Options(first.strip_prefix("error: ").unwrap_or(first).trim_end().to_owned())
}

/// A gradient source: its options, and its rates.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) name: String,
    /// Its `seed` and `lr` are not looked at, nor where it writes.
    pub(super) job: TuneJob,
    pub(super) lrs: Vec<f64>,
}

/// What is compared, complete and free of contradictions.
#[derive(Debug)]
pub(in super::super) struct CompareJob {
    pub(super) out: PathBuf,
    pub(super) methods: Vec<Method>,
    pub(super) exact: Method,
    pub(super) seeds: Vec<u64>,
}

impl CompareJob {
    pub(in super::super) fn new(args: CompareArgs) -> Result<Self> {
        let lrs = distinct(&args.lrs);
        if let Some(lr) = lrs.iter().find(|lr| !(lr.is_finite() && **lr > 0.0)) {
            return Err(Error::Options(format!("--lrs {lr}: give positive numbers")));
        }
        let mut exact = args.method(EXACT, &[], &lrs)?;
        exact.job.options.guess = GuessKind::Backprop;
        let mut methods = Vec::new();
        for guess in args.guesses() {
            let words = ["--guess", &guess];
            methods.push(args.method(&guess, &words, &lrs).map_err(|error| within("--methods", error))?);
        }
        for own in &args.own {
            let (name, options) = own.split_once('=').ok_or_else(|| {
                Error::Options(format!("--method {own}: expected NAME=OPTIONS, as in 'wt-p1=--prompts 1 --tangents 8'"))
            })?;
            let words: Vec<&str> = options.split_whitespace().collect();
            let method = args.method(name.trim(), &words, &lrs);
            methods.push(method.map_err(|error| within(&format!("--method {}", name.trim()), error))?);
        }
        for (at, Method { name, job, .. }) in methods.iter().enumerate() {
            let problem = if name.is_empty() || name.chars().any(char::is_control) {
                "a method needs a name that can be printed"
            } else if [FROZEN, EXACT].contains(&name.as_str()) {
                "that name is taken by what is always compared"
            } else if methods[..at].iter().any(|other| other.name == *name) {
                "there are two methods of that name"
            } else if matches!(job.options.guess, GuessKind::None) {
                "the frozen model is always compared; name a guess"
            } else {
                continue;
            };
            return Err(Error::Options(format!("{name:?}: {problem}")));
        }
        Ok(CompareJob { out: args.out, methods, exact, seeds: distinct(&args.seeds) })
    }
}

impl CompareArgs {
    /// The guesses that --methods names.
    fn guesses(&self) -> Vec<String> {
        match &self.methods {
            Some(methods) => methods.clone(),
            None if self.own.is_empty() => ["weight-transpose", "activation", "directional"].map(Into::into).to_vec(),
            None => Vec::new(),
        }
    }

    /// The method of the shared options and, over them, its `own`.
    fn method(&self, name: &str, own: &[&str], lrs: &[f64]) -> Result<Method> {
        let own: Vec<OsString> = own.iter().map(Into::into).collect();
        let matches = Line::matches(own.clone())?;
        let decided = DECIDED.iter().filter(|(id, _)| !METHODS_OWN.contains(id));
        if let Some((id, reason)) = decided.into_iter().find(|(id, _)| given(&matches, id)) {
            return Err(Error::Options(format!("--{}: {reason}", id.replace('_', "-"))));
        }
        if let Some(id) = COMMON.iter().find(|id| given(&matches, id)) {
            let option = id.replace('_', "-");
            return Err(Error::Options(format!(
                "--{option} must be the same for all methods; give it beside --method"
            )));
        }
        let lrs =
            if given(&matches, "lr") { vec![matches.get_one("lr").copied().unwrap_or_default()] } else { lrs.to_vec() };
        let matches = Line::matches(self.shared.words.iter().cloned().chain(own))?;
        let Line { method, training, run } = Line::from_arg_matches(&matches).map_err(|error| usage(&error))?;
        let (model, data) = (self.model.clone(), self.data.clone());
        let job =
            TuneJob::new(TuneArgs { out: self.out.join("adapter.safetensors"), model, data, method, training, run })?;
        Ok(Method { name: name.to_owned(), job, lrs })
    }
}

/// `error` with the option that it is about.
fn within(option: &str, error: Error) -> Error {
    match error {
        Error::Options(problem) => Error::Options(format!("{option}: {problem}")),
        error => error,
    }
}

/// `values` in their order, each once.
fn distinct<T: Copy + PartialEq>(values: &[T]) -> Vec<T> {
    let mut distinct = Vec::new();
    for value in values {
        if !distinct.contains(value) {
            distinct.push(*value);
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use super::super::super::args::Cli;
    use super::super::super::job::Job;
    use super::*;
    use clap::Parser;
    use foretune::tune::{HeadKind, Keep, Preset, TuneOptions};

    fn parse(more: &[&str]) -> Result<CompareJob, String> {
        let line = ["foretune", "compare", "--model", "m", "--data", "d", "--format", "cub", "--out", "o"];
        let cli = Cli::try_parse_from(line.iter().chain(more)).map_err(|error| error.to_string())?;
        match Job::new(cli) {
            Ok((Job::Compare(job), _)) => Ok(*job),
            Ok((other, _)) => panic!("{other:?}"),
            Err(error) => {
                assert!(error.is_usage(), "{error}");
                Err(error.to_string())
            }
        }
    }

    fn names(job: &CompareJob) -> Vec<&str> {
        job.methods.iter().map(|method| method.name.as_str()).collect()
    }

    #[test]
    fn defaults_are_those_of_tune() {
        let job = parse(&[]).unwrap();
        assert_eq!(names(&job), ["weight-transpose", "activation", "directional"]);
        assert_eq!((job.seeds.as_slice(), job.exact.lrs.as_slice()), (&[0, 1, 2][..], &[0.01, 0.03, 0.1][..]));
        let tune = TuneOptions { keep: Keep::Last, ..Preset::default().options(12) };
        let options = |method: &Method| method.job.resolve(12, 1000).unwrap();
        assert_eq!(options(&job.methods[0]), TuneOptions { guess: GuessKind::WeightTranspose, ..tune.clone() });
        assert_eq!(options(&job.methods[1]), TuneOptions { guess: GuessKind::Activation, ..tune.clone() });
        assert_eq!(options(&job.exact), TuneOptions { guess: GuessKind::Backprop, ..tune });
    }

    #[test]
    fn a_method_differs_from_what_is_shared_where_it_says_so() {
        let own = "wt-p1=--tangents 8 --prompts 1 --lr 0.5 --weight-decay 0";
        let shared = ["--tangents", "3", "--deep", "--head", "linear", "--steps", "40", "--budget", "64MiB"];
        let job =
            parse(&[&shared[..], &["--lrs", "1,2,1", "--method", own, "--methods", "activation"]].concat()).unwrap();
        assert_eq!(names(&job), ["activation", "wt-p1"]);
        let [activation, own] = [0, 1].map(|at| &job.methods[at].job.options);
        assert_eq!((activation.tangents, activation.prompts, activation.deep), (3, 1, true));
        assert_eq!((own.tangents, own.prompts, own.deep, own.weight_decay), (8, 1, true, 0.0));
        assert!([activation, own].iter().all(|options| options.head == HeadKind::Linear));
        assert!(
            job.methods
                .iter()
                .all(|method| method.job.resolve(12, 9).unwrap().steps == 40 && method.job.budget.is_some())
        );
        assert_eq!((job.methods[0].lrs.as_slice(), job.methods[1].lrs.as_slice()), (&[1.0, 2.0][..], &[0.5][..]));
        assert_eq!(names(&parse(&["--method", "a="]).unwrap()), ["a"]);
    }

    #[test]
    fn what_cannot_be_compared_is_refused_by_name() {
        for (line, needles) in [
            (&["--lr", "0.1"][..], &["--lr", "--lrs"][..]),
            (&["--keep", "best"], &["--keep", "last step"]),
            (&["--oracle"], &["--oracle"]),
            (&["--lrs", "0.1,-1"], &["--lrs", "-1"]),
            (&["--momentum", "1"], &["momentum"]),
            (&["--methods", "oracle"], &["--methods", "oracle", "weight-transpose"]),
            (&["--methods", "activation,activation"], &["activation", "two methods"]),
            (&["--methods", "none"], &["none", "frozen"]),
            (&["--method", "wt"], &["--method wt", "NAME=OPTIONS"]),
            (&["--method", "wt=--tangentz 3"], &["--method wt", "--tangentz"]),
            (&["--method", "wt=--tangents 0"], &["--method wt", "--tangents"]),
            (&["--method", "wt=3"], &["--method wt", "3"]),
            (&["--method", "wt=--steps 3"], &["--method wt", "--steps", "same"]),
            (&["--method", "wt=--head linear"], &["--method wt", "--head", "same"]),
            (&["--method", "wt=--seed 3"], &["--method wt", "--seed", "--seeds"]),
            (&["--method", "exact gradient=--tangents 2"], &["exact gradient", "taken"]),
            (&["--method", "=--tangents 2"], &["name"]),
        ] {
            let message = parse(line).expect_err(&line.join(" "));
            assert!(needles.iter().all(|needle| message.contains(needle)), "{line:?}: {message}");
        }
    }
}
