use super::*;
use crate::data::{Interpolation, Resize};
use crate::tune::{Optimizer, OptimizerKind, OptimizerSettings};
use ndarray::{Array2, array};
use proptest::prelude::*;

fn state() -> TrainState {
    let mut optimizer = Optimizer::new(OptimizerKind::Adamw, 6, OptimizerSettings::default());
    optimizer.step(&mut [0.0; 6], &[0.1, -0.2, 0.3, 0.4, -0.5, 0.6], 0.1, 1);
    let head = Some(Head::Linear { weight: array![[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], bias: array![1.0, -1.0] });
    TrainState {
        identity: RunIdentity {
            // 0.1 + 0.2 has no short decimal form: the file must keep its last bit.
            options: TuneOptions { lr: 0.1 + 0.2, seed: u64::MAX, ..TuneOptions::default() },
            fingerprint: "abc".into(),
            dataset: "def".into(),
            preprocess: Preprocess {
                crop: [32, 32],
                resize: Resize::Exact([32, 32]),
                interpolation: Interpolation::Bilinear,
                mean: [0.1, 0.2, 0.3],
                std: [0.5; 3],
            },
            precision: Precision::Bf16,
        },
        step: 7,
        updates: 6,
        prompts: Array3::from_shape_fn((1, 2, 3), |(_, p, d)| (p * 3 + d) as f32 / 7.0),
        prompt_optimizer: optimizer.state().map(|(n, v)| (n.to_owned(), v.to_vec())).collect(),
        head: head.clone(),
        head_optimizer: vec![],
        best: Some(Best {
            step: 5,
            score: Score { accuracy: 1.0 / 3.0, loss: std::f64::consts::LN_2 / 7.0, examples: 33 },
            prompts: Array3::zeros((1, 2, 3)),
            head,
        }),
        scored: Some(5),
        skipped: 1,
        consecutive_skips: 0,
        taught: None,
    }
}

fn taught() -> Taught {
    let mut prototypes = Prototypes::new(3, 2);
    prototypes.add(&[0.1, 0.2, 0.3, 1e-9, -7.0, 0.7], &[1, 1]);
    Taught { classes: vec!["a".into(), "b".into()], prototypes: Some(prototypes) }
}

#[test]
fn reads_back_to_the_bit_with_and_without_parts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let prototype = Some(Head::Prototype { center: array![0.5, 1.0], means: array![[1.0, 0.0]], tau: 10.1 });
    for state in [
        state(),
        TrainState { best: None, head: None, ..state() },
        TrainState { taught: Some(taught()), ..state() },
        TrainState { taught: Some(Taught { prototypes: None, ..taught() }), ..state() },
        TrainState {
            best: state().best.map(|best| Best { score: Score { loss: f64::INFINITY, ..best.score }, ..best }),
            ..state()
        },
        TrainState { best: Some(Best { head: None, ..state().best.unwrap() }), head: prototype, ..state() },
    ] {
        state.save(&path).unwrap();
        assert_eq!(TrainState::open(&path).unwrap(), state);
        assert!(is_checkpoint(&path).unwrap());
        assert!(!crate::adapter::is_adapter(&path).unwrap());
    }
}

#[test]
fn a_resumed_run_must_be_the_same_run() {
    let (state, path) = (state(), Path::new("run.safetensors"));
    state.check(path, &state.identity).unwrap();
    let refuse = |change: &dyn Fn(&mut RunIdentity), part: &str| {
        let mut wanted = state.identity.clone();
        change(&mut wanted);
        let message = state.check(path, &wanted).unwrap_err().to_string();
        assert!(message.starts_with("run.safetensors: ") && message.contains(part), "{message}");
    };
    refuse(&|run| run.options.lr = 0.3, "lr is 0.30000000000000004 there, 0.3 here");
    refuse(&|run| run.options.insert_at = 3, "insert-at is 0 there, 3 here");
    refuse(&|run| run.options.optimizer = OptimizerKind::Sgd, "optimizer is \"adamw\" there, \"sgd\" here");
    refuse(&|run| run.fingerprint = "x".into(), "another model");
    refuse(&|run| run.dataset = "x".into(), "another data set");
    refuse(&|run| run.preprocess.crop = [48, 48], "preprocess.crop is [32,32] there, [48,48] here");
    for broken in [
        TrainState { updates: u64::MAX, ..state.clone() },
        TrainState { step: 501, updates: 500, ..state.clone() },
        TrainState { consecutive_skips: 2, ..state.clone() },
    ] {
        let message = broken.check(path, &state.identity).unwrap_err().to_string();
        assert!(message.contains("contradict"), "{message}");
    }
}

#[test]
fn damage_is_refused() {
    let path = Path::new("run.safetensors");
    let state = state();
    let mut bytes = state.encode(path).unwrap();
    for length in 0..bytes.len() {
        assert!(TrainState::from_bytes(path, &bytes[..length]).is_err());
    }
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        match TrainState::from_bytes(path, &bytes) {
            Ok(read) => assert_eq!(read, state, "bit {bit}"),
            Err(error) => assert!(error.to_string().starts_with("run.safetensors: ")),
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

proptest! {
    #[test]
    fn random_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(TrainState::from_bytes(Path::new("run.safetensors"), &bytes).is_err());
    }

    /// Files with a right checksum and anything in them: what is read back is what was written, or it is refused.
    #[test]
    fn consistent_files_with_absurd_content(
        (step, updates, skipped, consecutive_skips) in any::<(u64, u64, u64, u64)>(),
        shape in (0usize..3, 0usize..3, 0usize..4),
        (value, loss, accuracy) in any::<(f32, f64, f64)>(),
        name in any::<String>(),
        (classes, width, bias) in (0usize..3, 0usize..3, 0usize..3),
    ) {
        let path = Path::new("run.safetensors");
        let head = Some(Head::Linear { weight: Array2::from_elem((classes, width), value), bias: Array1::zeros(bias) });
        let score = Score { accuracy, loss, examples: 1 };
        let best = Best { step, score, prompts: Array3::zeros(shape), head: head.clone() };
        let candidate = TrainState {
            step, updates, skipped, consecutive_skips, head,
            prompts: Array3::from_elem(shape, value),
            prompt_optimizer: vec![(name, vec![value; width])],
            best: Some(best),
            ..state()
        };
        if let Ok(read) = TrainState::from_bytes(path, &candidate.encode(path).unwrap()) {
            prop_assert_eq!(read.step, step);
            prop_assert_eq!(&read.prompts, &candidate.prompts);
            prop_assert_eq!(&read.prompt_optimizer, &candidate.prompt_optimizer);
            let _ = read.check(path, &state().identity);
        }
    }
}

#[test]
fn non_finite_state_is_refused_on_reading() {
    let path = Path::new("run.safetensors");
    let state = TrainState { prompts: Array3::from_elem((1, 2, 3), f32::INFINITY), ..state() };
    let error = TrainState::from_bytes(path, &state.encode(path).unwrap()).unwrap_err();
    assert!(error.to_string().contains("`prompts` [1, 2, 3]: holds NaN"), "{error}");
}
