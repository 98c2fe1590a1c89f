//! Predictors: a model and an adapter, for any number of threads.

use crate::allocator::foretune_allocator;
use crate::argument::{self, versioned};
use crate::guard::{call, destroy};
use crate::image::{self, foretune_image};
use crate::info::FORETUNE_DEVICE_CPU;
use crate::model::{describe, foretune_model, foretune_preprocess};
use crate::options::{FORETUNE_PRECISION_F32, precision, threads};
use crate::output::Texts;
use crate::status::{Failure, Result, foretune_status};
use crate::target::{Asked, Target};
use foretune::adapter::Adapter;
use foretune::cpu::{CpuBackend, CpuOptions};
#[cfg(feature = "cuda")]
use foretune::cuda::{self, CudaOptions};
use foretune::data::Preparer;
use foretune::engine::{Engine, Native};
#[cfg(feature = "ort")]
use foretune::engine::{Loaded, ort::OrtModel};
use foretune::memory::Allocate;
#[cfg(feature = "ort")]
use foretune::tune::GuessKind;
use foretune::{Classifier, Model, Predictor};
use std::ffi::c_char;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Classifies images; never changes. Shared by any number of threads, of which as many compute at a time as it has slots.
pub struct foretune_predictor {
    predictor: Predictor,
    /// One a slot, made when first needed.
    preparers: Mutex<Vec<Preparer>>,
    names: Texts,
}

/// How a predictor computes. `foretune_predictor_options_default` fills it; zeros are not the defaults, as GPUs count from 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct foretune_predictor_options {
    /// sizeof, set by the caller.
    pub struct_size: usize,
    /// `FORETUNE_DEVICE_AUTO`, `FORETUNE_DEVICE_CPU` (the default), or a GPU's number.
    pub device: i32,
    /// `FORETUNE_PRECISION_*`.
    pub precision: u32,
    /// Calls that compute at a time, each with memory and, on the CPU, threads of its own; 0: 1. On a GPU always 1. Others wait.
    pub slots: u32,
    /// Threads of a slot on the CPU; 0: one a core for one slot, 1 for several. No result depends on it.
    pub threads: u32,
    /// Images a pass; 0: 8.
    pub micro_batch: u32,
    /// Zero.
    pub reserved: u32,
    /// Serves the memory of passes on the CPU; all zero: the library's own.
    pub allocator: foretune_allocator,
    /// Whose kernels run, as in `foretune_session_options`; null: the library's own.
    pub engine: *const c_char,
    /// ONNX Runtime, as in `foretune_session_options`.
    pub ort_lib: *const c_char,
}

versioned!(foretune_predictor_options);

fn defaults() -> foretune_predictor_options {
    foretune_predictor_options {
        struct_size: size_of::<foretune_predictor_options>(),
        device: FORETUNE_DEVICE_CPU,
        precision: FORETUNE_PRECISION_F32,
        slots: 0,
        threads: 0,
        micro_batch: 0,
        reserved: 0,
        allocator: foretune_allocator::NONE,
        engine: std::ptr::null(),
        ort_lib: std::ptr::null(),
    }
}

/// Fills `*options`, a struct of `struct_size` bytes (give sizeof), with the defaults. Any thread.
///
/// Errors: `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// `options` is null or a struct of that size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_predictor_options_default(
    options: *mut foretune_predictor_options,
    struct_size: usize,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe { argument::write_sized(options, struct_size, defaults()) })
}

/// Makes a predictor of `model` and the adapter at `adapter`, UTF-8; null: the model's own classifier, without prompts. The model must have
/// been opened at the adapter's image size, and may be destroyed before the predictor. `options`: null for the defaults. `*predictor`
/// is the caller's to destroy. Any thread.
///
/// Errors: `FORETUNE_IO`, `FORETUNE_BAD_ADAPTER`, `FORETUNE_BAD_OPTIONS`, `FORETUNE_OUT_OF_MEMORY`, `FORETUNE_NO_DEVICE`,
/// `FORETUNE_DEVICE_MEMORY`, `FORETUNE_DEVICE_FAILED`, `FORETUNE_ONNX_RUNTIME`, `FORETUNE_INVALID_ARGUMENT`; `*predictor` is null then.
///
/// # Safety
/// Pointers are null or valid for the call; the allocator for the predictor's life.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_predictor_create(
    model: *const foretune_model,
    adapter: *const c_char,
    options: *const foretune_predictor_options,
    predictor: *mut *mut foretune_predictor,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let out = argument::output("predictor", predictor)?.write(std::ptr::null_mut());
        let model = &argument::reference("model", model)?.model;
        let path = argument::optional_text("adapter", adapter)?.map(Path::new);
        let adapter = path.map(|path| Adapter::open(path).map(|adapter| (adapter, path))).transpose()?;
        *out = make(model, adapter, options)?;
        Ok(())
    })
}

/// As `foretune_predictor_create`, from the adapter's `size` bytes in memory, needed during the call only.
///
/// # Safety
/// As `foretune_predictor_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_predictor_create_memory(
    model: *const foretune_model,
    adapter: *const u8,
    size: usize,
    options: *const foretune_predictor_options,
    predictor: *mut *mut foretune_predictor,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let out = argument::output("predictor", predictor)?.write(std::ptr::null_mut());
        let model = &argument::reference("model", model)?.model;
        let path = Path::new("(adapter in memory)");
        let adapter = Adapter::from_bytes(path, argument::slice("adapter", adapter, size)?)?;
        *out = make(model, Some((adapter, path)), options)?;
        Ok(())
    })
}

unsafe fn make(
    model: &Model,
    adapter: Option<(Adapter, &Path)>,
    options: *const foretune_predictor_options,
) -> Result<*mut foretune_predictor> {
    // SAFETY: the caller's promise.
    let given = unsafe { argument::options(options, defaults())? };
    let classifier = Classifier::new(model.clone(), adapter)?;
    let precision = precision(given.precision)?;
    let micro_batch = if given.micro_batch == 0 { 8 } else { given.micro_batch as usize };
    let slots = || match given.slots.max(1) {
        slots if slots > 1 << 10 => Err(Failure::argument(format!("slots is {slots}; give at most 1024"))),
        slots => Ok(slots),
    };
    let threads = if given.slots > 1 && given.threads == 0 { 1 } else { threads(given.threads) };
    let asked = Asked {
        engine: given.engine,
        ort_lib: given.ort_lib,
        device: given.device,
        precision,
        threads,
        native: [("allocator", given.allocator.is_given())],
    };
    type Engines = Vec<Box<dyn Engine + Send>>;
    // SAFETY: as above.
    let engines: Engines = match unsafe { asked.target()? } {
        Target::Cpu => {
            let allocator: Option<Arc<dyn Allocate>> = match given.allocator.host()? {
                Some(host) => Some(Arc::new(host)),
                None => None,
            };
            let engine = |_| -> Result<Box<dyn Engine + Send>> {
                let backend = CpuBackend::new(CpuOptions { threads, precision, resident: false })?;
                let backend = match &allocator {
                    Some(allocator) => backend.with_allocator(allocator.clone()),
                    None => backend,
                };
                Ok(Box::new(Native::load(backend, &classifier.model)?.engine(classifier.layout, micro_batch, 0)?))
            };
            (0..slots()?).map(engine).collect::<Result<_>>()?
        }
        #[cfg(feature = "cuda")]
        Target::Cuda(device) => {
            let options = CudaOptions { device, precision, ..CudaOptions::default() };
            let native = cuda::load(&classifier.model, options)?;
            vec![Box::new(native.engine(classifier.layout, micro_batch, 0)?)]
        }
        #[cfg(feature = "ort")]
        Target::Ort(runtime) => {
            let loaded = OrtModel::new(&classifier.model, runtime)?;
            let engine = |_| loaded.make(classifier.layout, micro_batch, 0, GuessKind::None);
            (0..slots()?).map(engine).collect::<foretune::Result<_>>()?
        }
    };
    let names = Texts::new(classifier.classes.as_deref().unwrap_or_default());
    let predictor = Predictor::new(classifier, engines)?;
    let made = foretune_predictor { predictor, preparers: Mutex::default(), names };
    Ok(Box::into_raw(Box::new(made)))
}

/// Logits `[count, classes]`, row-major, of `count` images to `logits` of `logits_count` elements. Any number of threads at a time: each
/// takes a slot, and waits while there is none.
///
/// Errors: `FORETUNE_BAD_SHAPE`, `FORETUNE_DEVICE_FAILED`, `FORETUNE_ONNX_RUNTIME`, `FORETUNE_OUT_OF_MEMORY`, `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// Pointers are null or valid for the call, `images` for `count` elements and their data for what they say, `logits` for
/// `logits_count`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_predictor_predict(
    predictor: *const foretune_predictor,
    images: *const foretune_image,
    count: usize,
    logits: *mut f32,
    logits_count: usize,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let own = argument::reference("predictor", predictor)?;
        let logits = argument::slice_mut("logits", logits, logits_count)?;
        let preprocess = &own.predictor.classifier().model.preprocess;
        let free = || own.preparers.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = free().pop();
        let mut preparer = match taken {
            Some(preparer) => preparer,
            None => Preparer::new(preprocess.clone())?,
        };
        let mut images = image::Given::new(images, count, &mut preparer, preprocess.crop)?;
        let done = own.predictor.predict(&mut images, logits);
        free().push(preparer);
        Ok(done?)
    })
}

/// Writes the number of classes C to `*count`. Any thread.
///
/// Errors: `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_predictor_class_count(
    predictor: *const foretune_predictor,
    count: *mut usize,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let classes = argument::reference("predictor", predictor)?.predictor.classifier().head.classes();
        argument::output("count", count)?.write(classes);
        Ok(())
    })
}

/// Name of class `index`, UTF-8; null where it is not known. It lives as long as the predictor. Any thread.
///
/// # Safety
/// `predictor` is null or a predictor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_predictor_class_name(
    predictor: *const foretune_predictor,
    index: usize,
) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { predictor.as_ref() }.map_or(std::ptr::null(), |own| own.names.get(index))
}

/// Writes how images must be prepared, the adapter's own way, to `*preprocess`, whose size is set. Any thread.
///
/// Errors: `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_predictor_get_preprocess(
    predictor: *const foretune_predictor,
    preprocess: *mut foretune_preprocess,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let own = argument::reference("predictor", predictor)?;
        argument::write(preprocess, describe(&own.predictor.classifier().model.preprocess))
    })
}

/// Destroys `*predictor` and nulls it; null is nothing to do. No other thread may be using it.
///
/// # Safety
/// `predictor` is null, or points to null or to a predictor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_predictor_destroy(predictor: *mut *mut foretune_predictor) {
    // SAFETY: the caller's promise.
    unsafe { destroy(predictor) };
}
