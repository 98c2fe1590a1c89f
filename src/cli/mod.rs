//! The command line: arguments → validated job → run.

mod args;
mod bench;
mod compare;
mod corrupt_args;
mod device;
mod interrupt;
mod job;
mod load;
mod memory;
mod onnx_args;
mod output;
mod run_corrupt;
mod run_demo;
mod run_doctor;
mod run_eval;
mod run_export;
mod run_import;
mod run_inspect;
mod run_plan;
mod run_predict;
mod run_selftest;
mod run_tune;
mod run_verify;
mod screen;
mod table;
mod tune_args;
mod tune_job;
mod values;

use args::{Cli, Global};
use clap::{CommandFactory, Parser};
use foretune::{Error, Result, model};
use job::Job;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// Runs the command. Exit code 0: done; 1: something failed; 2: the command line was wrong.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Also help and version, which go to standard output with code 0.
        Err(error) => {
            return match error.print() {
                Err(io) if io.kind() != ErrorKind::BrokenPipe => ExitCode::FAILURE,
                _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1)),
            };
        }
    };
    log_to_stderr();
    match Job::new(cli).and_then(|(job, global)| run(job, &global)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.is_usage() => {
            output::note(&format!("error: {error}\n\nFor more information, try '--help'."));
            ExitCode::from(2)
        }
        Err(error) => {
            output::note(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing was found wrong; what was has been reported.
fn run(job: Job, global: &Global) -> Result<bool> {
    let threads = match &job {
        Job::Verify(source) => source.decode_threads.or(global.threads),
        _ => global.threads,
    };
    if let Some(threads) = threads {
        // The pool that lists and verifies files; the one that computes is the backend's own.
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .map_err(|error| Error::Options(format!("{threads} threads: {error}")))?;
    }
    match job {
        Job::Tune(job) => run_tune::run(&job, global).map(|()| true),
        Job::Compare(job) => compare::run(&job, global),
        Job::Eval(job) => run_eval::run(&job, global).map(|()| true),
        Job::Predict(job) => run_predict::run(&job, global),
        Job::Export(args) => run_export::run(&args, global).map(|()| true),
        Job::Import(args) => run_import::run(&args, global).map(|()| true),
        Job::Inspect(path) => run_inspect::run(&path, global).map(|()| true),
        Job::Verify(source) => run_verify::run(&source, global),
        Job::Corrupt(job) => run_corrupt::run(&job, global),
        Job::Selftest(job) => run_selftest::run(&job, global),
        Job::Plan(job) => run_plan::run(&job, global).map(|()| true),
        Job::Bench(args) => bench::run(&args, global),
        Job::Synth(args) => {
            model::synthesise(&args.out, args.arch, args.names, args.dtype, args.seed)?;
            output::line(&format!("wrote model.safetensors and config.json into {}", args.out.display())).map(|()| true)
        }
        Job::Doctor => run_doctor::run(global),
        Job::Demo(job) => run_demo::run(&job, global),
        Job::Completions(shell) => {
            // Into memory first: the generator panics when it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "foretune", &mut script);
            output::line(String::from_utf8_lossy(&script).trim_end()).map(|()| true)
        }
    }
}

/// `RUST_LOG`, default `warn`. Records are written between redraws of the progress bars.
fn log_to_stderr() {
    struct BetweenBars;

    impl Write for BetweenBars {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            screen::suspended(|| std::io::stderr().write(bytes))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            std::io::stderr().flush()
        }
    }

    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .format_timestamp(None)
        .target(env_logger::Target::Pipe(Box::new(BetweenBars)))
        .init();
}
