//! Stopped runs: killed, interrupted, resumed, and the same bytes in the end.

use crate::common::{Bench, Vit, command, failure, foretune, success, text};
use foretune::cpu::CpuOptions;
use foretune::data::{Dataset, Format, OpenOptions};
use foretune::engine;
use foretune::tune::{
    Compare, Event, GuessKind, HeadKind, Job, Observer, Resources, Saving, Scores, TrainState, Trained, TuneOptions,
};
use foretune::{Error, LoadOptions, Model, Result};
use std::cell::Cell;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

const RUN: &str = "--batch 16 --tangents 2 --micro-batch 8 --insert-at 1 --head linear --eval-every 7 --val-fraction 0.2 \
                   --checkpoint-every 1 --quiet";

/// Ten SIGKILLs, all within the run and most of them after its first step; then `--resume` to the end.
#[test]
#[cfg(unix)]
fn killed_ten_times_and_resumed_a_run_ends_with_the_same_bytes() {
    use std::os::unix::process::ExitStatusExt;

    let bench = Bench::new(12, 1);
    // Long enough that ten kills fit in, whatever the machine: about two seconds of steps.
    let probe = Instant::now();
    success(&bench.tune("probe.safetensors", &format!("{RUN} --steps 50")));
    let steps = (50.0 * 2.0 / probe.elapsed().as_secs_f64()).clamp(100.0, 5000.0) as u64;
    let options = format!("{RUN} --steps {steps}");
    let started = Instant::now();
    success(&bench.tune("whole.safetensors", &options));
    let whole = started.elapsed();

    let mut state = std::process::id();
    let (checkpoint, mut kills, mut reached) = (bench.path("out/killed.checkpoint.safetensors"), 0, Vec::new());
    while kills < 10 {
        let mut child = command(&bench.tune("killed.safetensors", &format!("{options} --resume")))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::thread::sleep(whole.mul_f64(f64::from(state >> 8) / f64::from(1 << 24) / 6.0));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        if status.signal() != Some(9) {
            // It was done first: anew.
            assert!(status.success(), "{status}");
            fs::remove_file(&checkpoint).unwrap();
            fs::remove_file(bench.path("out/killed.safetensors")).unwrap();
            continue;
        }
        kills += 1;
        // Whatever the moment, a checkpoint is whole.
        if checkpoint.exists() {
            reached.push(TrainState::open(&checkpoint).unwrap().step);
        }
    }
    let within = reached.iter().filter(|&&step| 0 < step && step < steps).count();
    eprintln!("killed after steps {reached:?} of {steps}");
    assert!(within >= 5, "kills after steps {reached:?} of {steps}");
    assert!(!bench.path("out/killed.safetensors").exists() || reached.last() == Some(&steps));
    success(&bench.tune("killed.safetensors", &format!("{options} --resume")));
    for name in ["safetensors", "checkpoint.safetensors"] {
        let [killed, whole] =
            ["killed", "whole"].map(|run| fs::read(bench.path(&format!("out/{run}.{name}"))).unwrap());
        assert!(killed == whole, "{name} differs after kills at steps {reached:?} of {steps}");
    }
}

/// Ctrl-C in the middle of training.
#[test]
#[cfg(unix)]
fn ctrl_c_saves_a_checkpoint_and_says_how_to_continue() {
    let bench = Bench::new(12, 1);
    let options = "--batch 16 --micro-batch 8 --steps 400 --head linear --eval-every 0 --checkpoint-every 0";
    success(&bench.tune("whole.safetensors", &format!("{options} --quiet")));

    let mut child = command(&bench.tune("stopped.safetensors", &format!("{options} --json")))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    assert!(lines.any(|line| line.contains(r#""event":"step""#) && line.contains(r#""step":20,"#)));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    lines.for_each(drop);
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{message}");
    let step = TrainState::open(bench.path("out/stopped.checkpoint.safetensors")).unwrap().step;
    assert!((20..400).contains(&step), "stopped after step {step}");
    assert!(message.contains(&format!("error: interrupted after step {step}; continue with --resume")), "{message}");
    assert!(!bench.path("out/stopped.safetensors").exists());

    success(&bench.tune("stopped.safetensors", &format!("{options} --quiet --resume")));
    for name in ["safetensors", "checkpoint.safetensors"] {
        let [stopped, whole] =
            ["stopped", "whole"].map(|run| fs::read(bench.path(&format!("out/{run}.{name}"))).unwrap());
        assert!(stopped == whole, "{name} differs after Ctrl-C at step {step}");
    }
}

/// Asks the run to stop at its `limit`th chance.
struct StopAt {
    limit: usize,
    asked: Cell<usize>,
    phases: Vec<&'static str>,
}

impl Observer for StopAt {
    fn event(&mut self, event: &Event) {
        if let Event::Phase { name, .. } = event {
            self.phases.push(name);
        }
    }

    fn cancelled(&self) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.asked.get() > self.limit
    }
}

/// Wherever a run can be asked to stop (fitting the head, between micro-batches, while it is scored), it resumes to the
/// same adapter and the same checkpoint.
#[test]
fn stopped_at_every_possible_point_a_run_resumes_to_the_same_bits() {
    let bench = Bench::new(5, 2);
    let model = Model::open(&bench.path("model"), &LoadOptions::default()).unwrap();
    let native = engine::cpu(&model, CpuOptions::threads(1)).unwrap();
    for (head, guess) in [(HeadKind::Prototype, GuessKind::WeightTranspose), (HeadKind::Linear, GuessKind::Backprop)] {
        let options = TuneOptions {
            head,
            guess,
            steps: 4,
            warmup: 0,
            batch: 6,
            eval_every: 2,
            val_fraction: 0.3,
            lr: 0.3,
            head_lr: 0.3,
            ..TuneOptions::default()
        };
        let mut dataset = Dataset::open(&bench.path("data"), Format::Folder, &OpenOptions::default()).unwrap();
        dataset.split_validation(options.val_fraction, options.seed);
        let run = |path: &Path, resume: bool, observer: &mut StopAt| -> Result<(Trained, Scores)> {
            let resources = Resources {
                micro_batch: 4,
                saving: Saving { path: Some(path.to_owned()), every: 3 },
                resume,
                ..Resources::default()
            };
            let job = Job {
                model: &model,
                loaded: &native,
                dataset: &dataset,
                options: &options,
                resources: &resources,
                head_from: None,
            };
            let trained = job.train(observer)?;
            let scores = job.scores(&trained, Compare { test: true, ..Compare::default() }, observer)?;
            Ok((trained, scores))
        };
        let observer = |limit| StopAt { limit, asked: Cell::new(0), phases: Vec::new() };
        let mut calm = observer(usize::MAX);
        let whole_path = bench.path("out/whole.safetensors");
        let whole = run(&whole_path, false, &mut calm).unwrap();
        let chances = calm.asked.get();
        assert!(chances > 15, "{chances}");
        let mut stopped_in = std::collections::BTreeSet::new();
        for limit in 0..chances {
            let path = bench.path("out/stopped.safetensors");
            let mut stopping = observer(limit);
            match run(&path, false, &mut stopping) {
                Err(Error::Interrupted { step }) => {
                    if path.exists() {
                        assert_eq!(TrainState::open(&path).unwrap().step, step, "stopped at chance {limit}");
                    }
                }
                other => panic!("stopped at chance {limit}: {other:?}"),
            }
            stopped_in.extend(stopping.phases.last().copied());
            let resumed = run(&path, true, &mut observer(usize::MAX)).unwrap();
            assert_eq!(resumed.0.adapter, whole.0.adapter, "stopped at chance {limit} of {chances}");
            assert_eq!((resumed.1, resumed.0.validation), (whole.1, whole.0.validation), "{limit}");
            assert_eq!(fs::read(&path).unwrap(), fs::read(&whole_path).unwrap(), "stopped at chance {limit}");
            fs::remove_file(&path).unwrap();
        }
        assert!(["validation", "test"].iter().all(|phase| stopped_in.contains(phase)), "{stopped_in:?}");
    }
}

#[test]
fn resuming_needs_the_same_run_and_a_sound_checkpoint() {
    let bench = Bench::new(4, 1);
    let options = "--steps 3 --batch 8 --quiet";
    let first = bench.tune("a.safetensors", options);
    success(&first);
    let adapter = fs::read(bench.path("out/a.safetensors")).unwrap();
    let resume = |more: &str| bench.tune("a.safetensors", &format!("{options} --resume {more}"));

    // A finished run is finished: the same adapter again, and no step is taken.
    fs::remove_file(bench.path("out/a.safetensors")).unwrap();
    success(&resume("--threads 2 --micro-batch 3"));
    assert!(fs::read(bench.path("out/a.safetensors")).unwrap() == adapter);

    let message = failure(&resume("--lr 0.5"), 1);
    assert!(message.contains("a.checkpoint.safetensors") && message.contains("lr is 0.1 there, 0.5 here"), "{message}");
    crate::common::photo(&bench.path("data/train/kind0/new.png"), 0, 77);
    let message = failure(&resume(""), 1);
    assert!(message.contains("another data set"), "{message}");
    fs::remove_file(bench.path("data/train/kind0/new.png")).unwrap();
    let other = Vit { depth: 2, ..Vit::SMALL };
    other.write(&bench.path("model"));
    let message = failure(&resume(""), 1);
    assert!(message.contains("another model"), "{message}");
    Vit::SMALL.write(&bench.path("model"));

    let checkpoint = bench.path("out/a.checkpoint.safetensors");
    let whole = fs::read(&checkpoint).unwrap();
    for damaged in [&whole[..whole.len() - 1], &whole[..9], b"", b"not a checkpoint, not at all"] {
        fs::write(&checkpoint, damaged).unwrap();
        let message = failure(&resume(""), 1);
        assert!(message.contains("a.checkpoint.safetensors: "), "{message}");
    }
    fs::write(&checkpoint, &adapter).unwrap();
    assert!(failure(&resume(""), 1).contains("foretune-adapter"));
    assert!(fs::read(bench.path("out/a.safetensors")).unwrap() == adapter, "the adapter is as it was");

    // Without a checkpoint --resume starts, and says so.
    fs::remove_file(&checkpoint).unwrap();
    let output = foretune(&resume(""));
    assert!(output.status.success());
    assert!(text(&output.stderr).contains("starting anew"), "{}", text(&output.stderr));
    assert!(fs::read(bench.path("out/a.safetensors")).unwrap() == adapter);
}
