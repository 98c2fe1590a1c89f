//! Steps that are not finite: skipped, counted, reported, and three in a row stop the run at its last checkpoint.

use crate::common::{Bench, failure, success};
use foretune::backend::Precision;
use foretune::cpu::CpuOptions;
use foretune::data::{Dataset, Format, OpenOptions, Split};
use foretune::encoder::{Cotangents, HeadGradient, Input, Pass, TangentSource, TokenSink};
use foretune::engine::{self, Engine};
use foretune::guess::{Directions, Guessing};
use foretune::model::{Head, ModelSpec, PromptLayout};
use foretune::ops::loss::{self, Judged};
use foretune::tune::{
    DecodeOptions, Event, GuessKind, HeadKind, Observer, Photos, RunIdentity, Saving, TrainState, TuneOptions, Tuner,
    digest, zero_linear_head,
};
use foretune::{Error, LoadOptions, Model, Result};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// An engine that spoils a plane of its head inputs in some passes, counted from 1.
struct Spoiled<'a> {
    inner: &'a mut dyn Engine,
    passes: Vec<usize>,
    plane: usize,
    value: f32,
    pass: usize,
}

impl Engine for Spoiled<'_> {
    fn spec(&self) -> &ModelSpec {
        self.inner.spec()
    }

    fn layout(&self) -> PromptLayout {
        self.inner.layout()
    }

    fn most_tangents(&self) -> usize {
        self.inner.most_tangents()
    }

    fn most_examples(&self) -> usize {
        self.inner.most_examples()
    }

    fn dual(&mut self, pass: Pass<f32>, tangents: &mut TangentSource<f32>, head_input: &mut [f32]) -> Result<()> {
        let planes = 1 + pass.tangents;
        self.inner.dual(pass, tangents, head_input)?;
        self.pass += 1;
        if self.passes.contains(&self.pass) {
            let plane = head_input.len() / planes;
            head_input[self.plane * plane] = self.value;
        }
        Ok(())
    }

    fn judge(
        &mut self,
        pass: Pass<f32>,
        tangents: &mut TangentSource<f32>,
        head: &Head,
        labels: &[u32],
        judged: &mut Judged<f32>,
    ) -> Result<()> {
        let count = pass.tangents;
        let mut head_input = vec![0.0; (1 + count) * labels.len() * head.width()];
        self.dual(pass, tangents, &mut head_input)?;
        judged.clear();
        loss::judge(head, labels, count, &head_input, judged);
        Ok(())
    }

    fn gradient(&mut self, _: Input<f32>, _: &[f32], _: &mut HeadGradient<f32>, _: &mut [f32]) -> Result<()> {
        unreachable!("only the oracle asks for it")
    }

    fn prefix(&mut self, images: &[f32], out: &mut [f32]) -> Result<()> {
        self.inner.prefix(images, out)
    }

    fn set_cancel(&mut self, flag: Arc<AtomicBool>) {
        self.inner.set_cancel(flag);
    }

    fn tokens(
        &mut self,
        input: Input<f32>,
        prompts: &[f32],
        host: &mut [f32],
        each: &mut TokenSink<f32>,
    ) -> Result<()> {
        self.inner.tokens(input, prompts, host, each)
    }

    fn pullback(
        &mut self,
        input: Input<f32>,
        prompts: &[f32],
        blocks: usize,
        tangents: usize,
        cotangents: &mut dyn Cotangents<f32>,
    ) -> Result<()> {
        self.inner.pullback(input, prompts, blocks, tangents, cotangents)
    }

    fn directions(&self, guessing: &Guessing) -> Result<Option<Directions>> {
        self.inner.directions(guessing)
    }
}

/// What was reported, and the state that each checkpoint held.
#[derive(Default)]
struct Seen {
    skipped: Vec<(u64, String)>,
    saved: Vec<TrainState>,
}

impl Observer for Seen {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Skipped { step, reason } => self.skipped.push((*step, reason.clone())),
            Event::Checkpoint { path, .. } => self.saved.push(TrainState::open(path).unwrap()),
            _ => {}
        }
    }
}

/// Runs six steps, one pass each, a checkpoint after every one, with `passes` spoiled.
fn run(passes: &[usize], plane: usize, value: f32) -> (Result<TrainState>, Seen, PathBuf) {
    let bench = Bench::new(4, 1);
    let model = Model::open(&bench.path("model"), &LoadOptions::default()).unwrap();
    let dataset = Dataset::open(&bench.path("data"), Format::Folder, &OpenOptions::default()).unwrap();
    let options = TuneOptions {
        guess: GuessKind::Activation,
        head: HeadKind::Linear,
        steps: 6,
        warmup: 0,
        batch: 5,
        prompts: 2,
        ..TuneOptions::default()
    };
    let layout = PromptLayout { prompts: 2, deep: false, insert_at: 0 };
    let mut inner = engine::cpu(&model, CpuOptions::threads(1)).unwrap().engine(layout, 5, 1).unwrap();
    let mut engine = Spoiled { inner: &mut inner, passes: passes.to_vec(), plane, value, pass: 0 };
    let photos = Photos {
        items: dataset.items.clone(),
        preprocess: model.preprocess.clone(),
        decode: DecodeOptions::default(),
        seed: options.seed,
        prefixes: None,
    };
    let identity = RunIdentity {
        options,
        fingerprint: model.fingerprint(),
        dataset: digest(&dataset),
        preprocess: model.preprocess.clone(),
        precision: Precision::F32,
    };
    let path = bench.path("out/run.safetensors");
    let head = Some(zero_linear_head(3, model.spec.head_width()));
    let mut tuner =
        Tuner::new(&mut engine, photos, dataset.items_of(Split::Train), Vec::new(), identity, head, None).unwrap();
    tuner = tuner.saving(Saving { path: Some(path.clone()), every: 1 });
    let mut seen = Seen::default();
    let outcome = tuner.run(&mut seen).cloned();
    (outcome, seen, path)
}

#[test]
fn two_in_a_row_are_skipped_and_counted() {
    for (plane, value, what) in [
        (0, f32::NAN, "of 5 losses are not finite"),
        (0, f32::INFINITY, "of 5 losses are not finite"),
        (1, f32::NAN, "of 5 derivatives are not finite"),
    ] {
        let (outcome, seen, _) = run(&[2, 3, 5], plane, value);
        let state = outcome.unwrap();
        assert_eq!((state.step, state.updates, state.skipped, state.consecutive_skips), (6, 3, 3, 0), "{what}");
        assert_eq!(seen.skipped.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 3, 5]);
        assert!(seen.skipped.iter().all(|(_, reason)| reason.contains(what)), "{what}: {:?}", seen.skipped);
        // Checkpoints of steps 0 to 6: a skipped step changes neither parameters nor optimizers.
        assert_eq!(seen.saved.iter().map(|state| state.step).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
        let tuned = |state: &TrainState| {
            (state.prompts.clone(), state.prompt_optimizer.clone(), state.head.clone(), state.head_optimizer.clone())
        };
        for (before, after) in seen.saved.iter().zip(&seen.saved[1..]) {
            assert_eq!(tuned(before) == tuned(after), [2, 3, 5].contains(&after.step), "step {}", after.step);
        }
    }
}

#[test]
fn three_in_a_row_stop_the_run_at_its_last_checkpoint() {
    let (outcome, seen, path) = run(&[3, 4, 5], 0, f32::NAN);
    let Err(error @ Error::Diverged(_)) = outcome else { panic!("{outcome:?}") };
    let message = error.to_string();
    for part in ["3 steps in a row", "losses are not finite", "try --lr 3.3e-3", "--warmup", "rolled back to step 4"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert!(message.contains(&*path.to_string_lossy()), "{message}");
    assert_eq!(seen.skipped.len(), 3);
    let last = seen.saved.last().unwrap();
    assert_eq!((last.step, last.skipped, last.consecutive_skips), (4, 2, 2));
    assert_eq!(last.prompts, seen.saved[2].prompts);
}

#[test]
fn an_absurd_learning_rate_stops_with_advice() {
    let bench = Bench::new(4, 1);
    success(&bench.tune("a.safetensors", "--steps 1 --batch 4 --quiet"));
    let before = fs::read(bench.path("out/a.safetensors")).unwrap();
    for how in [
        "--lr 1e30",
        "--lr 1e30 --optimizer sgd",
        "--lr 1e300 --optimizer stable-adamw",
        "--lr 1e30 --guess backprop",
        "--head linear --head-lr 1e300",
        "--head linear --head-lr 1e38 --optimizer sgd",
    ] {
        let message =
            failure(&bench.tune("a.safetensors", &format!("--steps 40 --batch 4 --quiet --warmup 0 {how}")), 1);
        assert!(message.contains("not finite") || message.contains("overflowed"), "{how}: {message}");
        for part in ["try --lr", "rolled back to step 0 in ", "a.checkpoint.safetensors"] {
            assert!(message.contains(part), "{how}: {part}: {message}");
        }
        let state = TrainState::open(bench.path("out/a.checkpoint.safetensors")).unwrap();
        assert!(state.prompts.iter().all(|v| v.is_finite()));
        assert!(fs::read(bench.path("out/a.safetensors")).unwrap() == before, "{how}: the adapter is as it was");
    }
}
