//! Sessions and predictors over images in memory.

use foretune::cpu::CpuOptions;
use foretune::data::{Images, Pixels, Prepared, Preparer, Rgb, load_image};
use foretune::engine::{self, Engine};
use foretune::tune::{GuessKind, HeadKind, TrainState, TuneOptions, zero_linear_head};
use foretune::{Classifier, Error, LoadOptions, Model, Predictor, Session, SessionOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const CLASSES: usize = 3;
const COUNT: usize = 12;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/timm_gap")
}

fn model() -> Model {
    Model::open(&path(), &LoadOptions::default()).unwrap()
}

/// Prepared images, and labels.
fn images(model: &Model) -> (Vec<f32>, Vec<u32>) {
    let len = model.preprocess.image_len();
    let value = |n: usize, i: usize| ((i * (3 + n % CLASSES) + 7 * n) % 23) as f32 / 11.0 - 1.0;
    let values = (0..COUNT).flat_map(|n| (0..len).map(move |i| value(n, i))).collect();
    (values, (0..COUNT).map(|n| (n % CLASSES) as u32).collect())
}

fn session(options: TuneOptions, micro_batch: usize, tangents_per_pass: usize) -> Session {
    let model = model();
    let native = Arc::new(engine::cpu(&model, CpuOptions { threads: 1, ..CpuOptions::default() }).unwrap());
    let options = SessionOptions { tune: options, micro_batch, tangents_per_pass };
    Session::new(&model, native, options, (0..CLASSES).map(|c| format!("class {c}")).collect()).unwrap()
}

fn options() -> TuneOptions {
    TuneOptions { batch: 6, prompts: 2, tangents: 3, lr: 0.05, steps: u64::MAX, warmup: 2, ..TuneOptions::default() }
}

/// Fitted, and `steps` steps on.
fn tuned(mut session: Session, steps: usize) -> Session {
    let model = model();
    let (values, labels) = images(&model);
    let len = model.preprocess.image_len();
    let given =
        |range: std::ops::Range<usize>| Prepared::new(&values[range.start * len..range.end * len], len).unwrap();
    // Fails for another head than prototypes.
    session.fit_head(&mut given(0..COUNT), &labels).ok();
    for step in 0..steps {
        let range = if step % 2 == 0 { 0..6 } else { 6..COUNT };
        session.step(&mut given(range.clone()), &labels[range]).unwrap();
    }
    session
}

fn adapter(mut session: Session) -> Vec<u8> {
    session.adapter().unwrap().to_bytes(Path::new("memory")).unwrap()
}

#[test]
fn neither_passes_nor_pauses_change_a_bit() {
    for head in [HeadKind::Prototype, HeadKind::Linear] {
        for guess in [GuessKind::WeightTranspose, GuessKind::Backprop, GuessKind::None] {
            let options = TuneOptions { head, guess, ..options() };
            let expected = adapter(tuned(session(options.clone(), 6, 3), 5));
            for (micro_batch, tangents) in [(1, 1), (4, 2)] {
                let mut session = session(options.clone(), micro_batch, tangents);
                session.trim();
                assert!(
                    adapter(tuned(session, 5)) == expected,
                    "{head:?} {guess}, {micro_batch} and {tangents} a pass"
                );
            }
        }
    }
}

#[test]
fn a_session_goes_on_from_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("session.safetensors");
    let expected = adapter(tuned(session(options(), 6, 3), 4));
    let mut first = tuned(session(options(), 6, 3), 2);
    first.save_checkpoint(&file).unwrap();
    let mut second = session(options(), 2, 3);
    second.load_checkpoint(&file).unwrap();
    assert_eq!((second.metrics().step, second.classes().len()), (2, CLASSES));
    let model = model();
    let (values, labels) = images(&model);
    let half = values.len() / 2;
    for range in [0..6, 6..COUNT] {
        let part = if range.start == 0 { &values[..half] } else { &values[half..] };
        let mut given = Prepared::new(part, model.preprocess.image_len()).unwrap();
        second.step(&mut given, &labels[range]).unwrap();
    }
    assert!(adapter(second) == expected);
    let mut other = session(TuneOptions { lr: 0.01, ..options() }, 6, 3);
    let error = other.load_checkpoint(&file).unwrap_err().to_string();
    assert!(error.contains("lr is 0.05 there, 0.01 here"), "{error}");

    // Sound by its checksum, and not by what it says.
    let mut state = TrainState::open(&file).unwrap();
    state.head = Some(zero_linear_head(CLASSES - 1, model.spec.head_width()));
    state.save(&file).unwrap();
    let error = session(options(), 6, 3).load_checkpoint(&file).unwrap_err().to_string();
    assert!(error.contains("does not fit its classes"), "{error}");
}

#[test]
fn what_stops_a_step_leaves_the_state_before_it() {
    let model = model();
    let (values, labels) = images(&model);
    let len = model.preprocess.image_len();
    let mut session = tuned(session(options(), 2, 3), 1);
    let before = session.checkpoint(Path::new("memory")).unwrap();
    let cancel = session.cancel_flag();
    session.set_progress(Some(Box::new(move |done, _| {
        if done == 2 {
            cancel.store(true, Relaxed);
        }
        done < 4
    })));
    let step = |session: &mut Session, values: &[f32]| {
        session.step(&mut Prepared::new(values, len).unwrap(), &labels[..values.len() / len])
    };
    assert!(matches!(step(&mut session, &values[..6 * len]), Err(Error::Interrupted { step: 1 })));
    session.set_progress(None);
    let mut bad = values[..6 * len].to_vec();
    bad[5 * len] = f32::NAN;
    assert!(matches!(step(&mut session, &bad), Err(Error::Shape { what: "images", .. })));
    assert!(matches!(step(&mut session, &values[..7 * len]), Err(Error::Shape { .. })));
    assert!(session.checkpoint(Path::new("memory")).unwrap() == before);
    assert_eq!(step(&mut session, &values[..6 * len]).unwrap().step, 2);
}

#[test]
fn an_update_that_overflows_is_undone() {
    let model = model();
    let (values, labels) = images(&model);
    let half = values.len() / 2;
    for head in [HeadKind::Prototype, HeadKind::Linear] {
        // Weight decay alone takes every parameter beyond f32.
        let options = TuneOptions { head, lr: 1e38, head_lr: 1e38, weight_decay: 1e38, warmup: 0, ..options() };
        let mut session = tuned(session(options, 6, 3), 0);
        let before = session.checkpoint(Path::new("memory")).unwrap();
        for _ in 0..2 {
            let mut given = Prepared::new(&values[..half], model.preprocess.image_len()).unwrap();
            let error = session.step(&mut given, &labels[..6]).unwrap_err();
            assert!(matches!(&error, Error::Diverged(text) if text.contains("step 1 overflowed")), "{error}");
            assert!(session.checkpoint(Path::new("memory")).unwrap() == before);
        }
    }
}

#[test]
fn pixels_in_memory_are_prepared_as_those_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let preprocess = model().preprocess;
    let mut preparer = Preparer::new(preprocess.clone()).unwrap();
    for (width, height) in [(40, 32), (7, 50), (16, 16), (1, 1)] {
        let image =
            image::RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 7) as u8, (y * 5) as u8, (x * y) as u8]));
        let file = folder.path().join(format!("{width}x{height}.png"));
        image.save(&file).unwrap();
        let mut expected = vec![0.0; preprocess.image_len()];
        load_image(&file, None, &preprocess, &mut expected).unwrap();
        // Rows further apart than they need be.
        let (row, stride) = (3 * width as usize, 3 * width as usize + 5);
        let mut bytes = vec![99; stride * height as usize];
        for (to, from) in bytes.chunks_mut(stride).zip(image.as_raw().chunks(row)) {
            to[..row].copy_from_slice(from);
        }
        let rgb = Rgb { bytes: &bytes, width: width as usize, height: height as usize, stride };
        let mut found = vec![0.0; preprocess.image_len()];
        preparer.prepare(rgb, &mut found).unwrap();
        assert_eq!(found, expected, "{width}x{height}");
        for wrong in [
            Rgb { stride: row - 1, ..rgb },
            Rgb { bytes: &bytes[..stride * (height as usize - 1) + row - 1], ..rgb },
            Rgb { width: 0, ..rgb },
            Rgb { height: usize::MAX, ..rgb },
        ] {
            assert!(matches!(preparer.prepare(wrong, &mut found), Err(Error::Shape { .. })), "{wrong:?}");
        }
    }
}

#[test]
fn a_predictor_says_what_the_session_does_from_any_thread() {
    let model = model();
    let (values, _) = images(&model);
    let len = model.preprocess.image_len();
    let mut session = tuned(session(options(), 6, 3), 3);
    let mut expected = vec![0.0; COUNT * CLASSES];
    session.predict(&mut Prepared::new(&values, len).unwrap(), &mut expected).unwrap();
    let adapter = session.adapter().unwrap();
    let classifier = Classifier::new(model, Some((adapter, Path::new("memory")))).unwrap();
    let engine = || -> Box<dyn Engine + Send> {
        let cpu = engine::cpu(&classifier.model, CpuOptions { threads: 1, ..CpuOptions::default() }).unwrap();
        Box::new(cpu.engine(classifier.layout, 5, 0).unwrap())
    };
    let engines = vec![engine(), engine()];
    assert!(Predictor::new(classifier.clone(), Vec::new()).is_err());
    let predictor = Predictor::new(classifier, engines).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let mut found = vec![0.0; COUNT * CLASSES];
                    predictor.predict(&mut Prepared::new(&values, len).unwrap(), &mut found).unwrap();
                    assert_eq!(found, expected);
                }
            });
        }
    });
    let mut preparer = Preparer::new(predictor.classifier().model.preprocess.clone()).unwrap();
    let mut none = Pixels { preparer: &mut preparer, images: &[] };
    assert_eq!(none.count(), 0);
    assert!(predictor.predict(&mut none, &mut []).is_err());
}
