//! Calls with whatever arguments: each gives a status, and the process lives.

use foretune_ffi::*;
use proptest::prelude::*;
use std::ffi::{CStr, CString, c_void};
use std::path::Path;
use std::ptr::null_mut;

fn model() -> *mut foretune_model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/timm_gap");
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let mut model = null_mut();
    // SAFETY: valid pointers.
    assert_eq!(unsafe { foretune_model_open(path.as_ptr(), std::ptr::null(), &mut model) }, FORETUNE_OK);
    model
}

/// Small, at the edges, or anything.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..10, Just(u32::MAX), Just(1 << 16), any::<u32>()]
}

fn real() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.01), Just(f64::NAN), Just(f64::INFINITY), Just(-1.0), Just(1e300), any::<f64>()]
}

prop_compose! {
    fn options()(
        device in prop_oneof![Just(-1), Just(-2), Just(0), any::<i32>()],
        [precision, guess, head, optimizer, deep] in prop::array::uniform5(number()),
        [rank, orthonormal, unit_rms, downstream_blocks] in prop::array::uniform4(number()),
        [tangents, prompts, insert_at, batch, micro_batch] in prop::array::uniform5(number()),
        [lr, head_lr, weight_decay, momentum] in prop::array::uniform4(real()),
        [clip, power] in prop::array::uniform2(real()),
        budget in prop_oneof![Just(0u64), Just(1), Just(8 << 20), any::<u64>()],
        [steps, warmup_steps, seed] in prop::array::uniform3(prop_oneof![0u64..9, any::<u64>()]),
        class_count in 0usize..4,
        size in prop_oneof![4 => Just(224usize), 1 => Just(208), 1 => Just(176), 1 => 0usize..300, 1 => any::<usize>()],
        engine in 0usize..ENGINES.len(),
    ) -> foretune_session_options {
        let mut options = std::mem::MaybeUninit::<foretune_session_options>::uninit();
        // SAFETY: of that size.
        let status = unsafe { foretune_session_options_default(options.as_mut_ptr(), size_of::<foretune_session_options>()) };
        assert_eq!(status, FORETUNE_OK);
        // SAFETY: filled.
        let defaults = unsafe { options.assume_init() };
        foretune_session_options {
            // What is read must be there.
            struct_size: if size <= size_of::<foretune_session_options>() { size } else { usize::MAX },
            device, precision, guess, head, optimizer, deep, tangents, prompts, insert_at, batch, micro_batch, lr, head_lr,
            weight_decay, momentum, clip, power, rank, orthonormal, unit_rms, downstream_blocks, budget, steps, warmup_steps, seed, threads: 1,
            classes: NAMES.0.as_ptr(),
            class_count,
            // Half a pointer is none.
            engine: if size == 224 { ENGINES[engine].map_or(std::ptr::null(), CStr::as_ptr) } else { std::ptr::null() },
            ..defaults
        }
    }
}

struct Names([*const std::ffi::c_char; 4]);
// SAFETY: static texts.
unsafe impl Sync for Names {}
static NAMES: Names = Names([c"a".as_ptr(), c"b".as_ptr(), c"c".as_ptr(), c"d".as_ptr()]);

/// None that loads ONNX Runtime.
const ENGINES: [Option<&CStr>; 6] =
    [None, None, Some(c"native"), Some(c"ort:"), Some(c"ort:none"), Some(c"native:cpu")];

/// A call on a session.
#[derive(Clone, Debug)]
enum Call {
    AddClass,
    AddExamples(Vec<Image>),
    FitHead(Vec<Image>),
    Step(Vec<Image>),
    Predict(Vec<Image>, usize),
    Adapter(usize),
    Checkpoint(usize),
    Read(Vec<u8>),
    Trim,
    Cancel,
}

#[derive(Clone, Debug)]
struct Image {
    label: u32,
    format: u32,
    width: u32,
    height: u32,
    stride: usize,
    null: bool,
}

fn image() -> impl Strategy<Value = Image> {
    let side = || prop_oneof![4 => 1u32..20, 1 => Just(16u32), 1 => Just(0), 1 => Just(1 << 17)];
    let stride = prop_oneof![4 => Just(0usize), 1 => 0usize..100];
    (0u32..5, prop_oneof![6 => 0u32..2, 1 => any::<u32>()], side(), side(), stride, prop::bool::weighted(0.05))
        .prop_map(|(label, format, width, height, stride, null)| Image { label, format, width, height, stride, null })
}

fn call() -> impl Strategy<Value = Call> {
    let images = || prop::collection::vec(image(), 0..4);
    prop_oneof![
        Just(Call::AddClass),
        images().prop_map(Call::AddExamples),
        images().prop_map(Call::FitHead),
        images().prop_map(Call::Step),
        (images(), 0usize..40).prop_map(|(images, logits)| Call::Predict(images, logits)),
        (0usize..9000).prop_map(Call::Adapter),
        (0usize..9000).prop_map(Call::Checkpoint),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Call::Read),
        Just(Call::Trim),
        Just(Call::Cancel),
    ]
}

/// Pixels enough for every image that is not refused: 3·20·100 bytes and more.
static PIXELS: [u32; 1 << 14] = [0x3e99_999a; 1 << 14];

fn images(images: &[Image]) -> (Vec<foretune_image>, Vec<u32>) {
    let of = |image: &Image| foretune_image {
        data: if image.null { std::ptr::null() } else { PIXELS.as_ptr().cast::<c_void>() },
        format: image.format,
        width: image.width,
        height: image.height,
        reserved: 0,
        row_stride: image.stride,
    };
    (images.iter().map(of).collect(), images.iter().map(|image| image.label).collect())
}

fn sound(status: foretune_status) {
    assert!((FORETUNE_OK..=FORETUNE_ONNX_RUNTIME).contains(&status), "{status}");
    // SAFETY: static or this thread's text.
    let text = unsafe { CStr::from_ptr(foretune_last_error()) }.to_str().unwrap();
    assert!(status == FORETUNE_OK || !text.is_empty());
    assert_ne!(status, FORETUNE_PANIC, "{text}");
}

fn run(session: *mut foretune_session, call: &Call) {
    let mut bytes = vec![0u8; 10_000];
    let mut size = 0;
    let mut logits = [0f32; 64];
    // SAFETY: pointers are valid, or refused before they are read: an image of 2^17 pixels a side is more than is allowed.
    sound(unsafe {
        match call {
            Call::AddClass => foretune_session_add_class(session, c"another".as_ptr(), null_mut()),
            Call::AddExamples(given) => {
                let (images, labels) = images(given);
                foretune_session_add_examples(session, images.as_ptr(), labels.as_ptr(), images.len())
            }
            Call::FitHead(given) => {
                let (images, labels) = images(given);
                foretune_session_fit_head(session, images.as_ptr(), labels.as_ptr(), images.len())
            }
            Call::Step(given) => {
                let (images, labels) = images(given);
                foretune_session_step(session, images.as_ptr(), labels.as_ptr(), images.len(), null_mut())
            }
            Call::Predict(given, count) => {
                let (images, _) = images(given);
                foretune_session_predict(session, images.as_ptr(), images.len(), logits.as_mut_ptr(), *count)
            }
            Call::Adapter(capacity) => {
                foretune_session_write_adapter(session, bytes.as_mut_ptr(), *capacity, &mut size)
            }
            Call::Checkpoint(capacity) => {
                foretune_session_write_checkpoint(session, bytes.as_mut_ptr(), *capacity, &mut size)
            }
            Call::Read(bytes) => foretune_session_read_checkpoint(session, bytes.as_ptr(), bytes.len()),
            Call::Trim => foretune_session_trim(session),
            Call::Cancel => foretune_session_cancel(session),
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_options_give_a_session_or_a_reason(options in options(), calls in prop::collection::vec(call(), 0..4)) {
        // More is allowed and takes its time.
        prop_assume!(options.batch <= 64 || options.batch > 65_535);
        prop_assume!(options.tangents <= 64 || options.tangents > 65_535);
        prop_assume!(options.prompts <= 64 || options.prompts > 4096);
        let mut model = model();
        let mut session = null_mut();
        // SAFETY: valid pointers; a size beyond the struct's is refused before what follows is read.
        let status = unsafe { foretune_session_create(model, &options, &mut session) };
        sound(status);
        assert_eq!(status == FORETUNE_OK, !session.is_null());
        if !session.is_null() {
            calls.iter().for_each(|call| run(session, call));
        }
        // SAFETY: made above.
        unsafe {
            foretune_session_destroy(&mut session);
            foretune_model_destroy(&mut model);
        }
        assert!(session.is_null() && model.is_null());
    }

    #[test]
    fn any_calls_in_any_order(calls in prop::collection::vec(call(), 1..25)) {
        let mut model = model();
        let mut session = null_mut();
        let mut options = std::mem::MaybeUninit::<foretune_session_options>::uninit();
        // SAFETY: valid pointers.
        unsafe {
            assert_eq!(foretune_session_options_default(options.as_mut_ptr(), size_of::<foretune_session_options>()), FORETUNE_OK);
            let options = foretune_session_options { threads: 1, batch: 4, ..options.assume_init() };
            assert_eq!(foretune_session_create(model, &options, &mut session), FORETUNE_OK);
        }
        calls.iter().for_each(|call| run(session, call));
        // SAFETY: made above.
        unsafe {
            foretune_session_destroy(&mut session);
            foretune_model_destroy(&mut model);
        }
    }

    #[test]
    fn any_bytes_are_a_model_or_a_reason(mut bytes in prop::collection::vec(any::<u8>(), 0..300), whole in any::<bool>()) {
        if whole {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/timm_gap/model.safetensors");
            let mut file = std::fs::read(path).unwrap();
            for (i, byte) in bytes.iter().enumerate() {
                file[i * 37 % 4000] ^= byte & 1;
            }
            bytes = file;
        }
        let mut model = null_mut();
        // SAFETY: the bytes outlive the model.
        unsafe {
            sound(foretune_model_open_memory(bytes.as_ptr(), bytes.len(), std::ptr::null(), 0, std::ptr::null(), &mut model));
            foretune_model_destroy(&mut model);
        }
    }
}
