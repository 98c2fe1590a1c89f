//! Sessions: prompts being tuned on what the host hands over.

use crate::argument::{self, versioned};
use crate::guard::{Exclusive, call, destroy};
use crate::image::{self, foretune_image};
use crate::model::foretune_model;
use crate::options::{ENDLESS, Given, foretune_session_options};
use crate::output::Texts;
use crate::session_memory::Memory;
use crate::status::{Failure, Result, foretune_status};
use crate::target::Target;
use foretune::cpu::CpuBackend;
#[cfg(feature = "cuda")]
use foretune::cuda::CudaBackend;
use foretune::data::Preparer;
use foretune::engine::Native;
#[cfg(feature = "ort")]
use foretune::engine::ort::OrtModel;
use foretune::memory::{Allocate, Counted, Plan, System};
use foretune::tune::HeadKind;
use foretune::{Metrics, Model, Session, SessionOptions};
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Prompts, perhaps a head, and their optimizer, on a model. One call at a time; a second thread's gets `FORETUNE_BUSY`, but for
/// `foretune_session_cancel`.
pub struct foretune_session {
    inner: Exclusive<Inner>,
    cancel: Arc<AtomicBool>,
}

pub(crate) struct Inner {
    pub session: Session,
    preparer: Preparer,
    pub names: Texts,
    pub memory: Memory,
}

/// What the last step came to.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct foretune_metrics {
    /// sizeof, set by the caller.
    pub struct_size: usize,
    /// Complete steps, skipped ones included.
    pub step: u64,
    /// Steps skipped so far because something was not finite.
    pub skipped: u64,
    /// Mean cross entropy of the batch before the update, nats; NaN if the step was skipped.
    pub loss: f64,
    /// Share of the batch whose top class was its label before the update; NaN if the step was skipped.
    pub accuracy: f64,
    /// Learning rate of the prompts; 0 if the step was skipped.
    pub lr: f64,
}

versioned!(foretune_metrics);

/// Called ahead of each micro-batch and at the end, on the thread that made the call, with the call's images that are done and all of
/// them. Return 0 to stop the call, which then returns `FORETUNE_CANCELLED`, unless it is done. Of the session it may use
/// `foretune_session_cancel` alone.
pub type foretune_progress_callback =
    Option<unsafe extern "C" fn(done: u64, total: u64, user_data: *mut c_void) -> i32>;

/// The host's pointer, which the host promises may be used on the threads that use the session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UserData(pub *mut c_void);

// SAFETY: the header says on which threads callbacks run.
unsafe impl Send for UserData {}

impl UserData {
    pub fn get(self) -> *mut c_void {
        self.0
    }
}

/// Makes a session on `model` with `options` (null: the defaults); the model may be destroyed before it. Obtains all memory that passes
/// need. `*session` is the caller's to destroy. Any thread.
///
/// Errors: `FORETUNE_BAD_OPTIONS`, `FORETUNE_BUDGET`, `FORETUNE_OUT_OF_MEMORY`, `FORETUNE_NO_DEVICE`, `FORETUNE_DEVICE_MEMORY`,
/// `FORETUNE_DEVICE_FAILED`, `FORETUNE_ONNX_RUNTIME`, `FORETUNE_BAD_MODEL`, `FORETUNE_INVALID_ARGUMENT`; `*session` is null then.
///
/// # Safety
/// Pointers are null or valid for the call; the context, stream and allocator for the session's life.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_create(
    model: *const foretune_model,
    options: *const foretune_session_options,
    session: *mut *mut foretune_session,
) -> foretune_status {
    call(|| {
        // SAFETY: the caller's promise.
        let (out, model, given) = unsafe {
            let out = argument::output("session", session)?.write(std::ptr::null_mut());
            let model = &argument::reference("model", model)?.model;
            (out, model, Given::new(options, model.spec.depth, ENDLESS)?)
        };
        let classes = match given.tune.head {
            HeadKind::Pretrained => model.spec.classes,
            _ => given.classes.len(),
        };
        let plan = given.plan(model, classes.max(1), [0, 0], 0)?;
        let (session, memory) = make(model, &given, &plan)?;
        let inner = Inner {
            preparer: Preparer::new(model.preprocess.clone())?,
            names: Texts::new(session.classes()),
            memory,
            session,
        };
        let cancel = inner.session.cancel_flag();
        *out = Box::into_raw(Box::new(foretune_session { inner: Exclusive::new(inner), cancel }));
        Ok(())
    })
}

fn make(model: &Model, given: &Given, plan: &Plan) -> Result<(Session, Memory)> {
    let options = SessionOptions {
        tune: given.tune.clone(),
        micro_batch: plan.micro_batch,
        tangents_per_pass: plan.tangents_per_pass.max(1),
    };
    let classes = given.classes.clone();
    match &given.target {
        Target::Cpu => {
            let source: Box<dyn Allocate> = match given.raw.allocator.host()? {
                Some(host) => Box::new(host),
                None => Box::new(System),
            };
            let counted = Arc::new(Counted::new(source));
            let backend = CpuBackend::new(given.cpu())?.with_allocator(counted.clone());
            let native = Arc::new(Native::load(backend, model)?);
            Ok((Session::new(model, native, options, classes)?, Memory::Host(counted)))
        }
        #[cfg(feature = "cuda")]
        Target::Cuda(device) => {
            use std::ptr::NonNull;
            let cuda = given.cuda(*device, plan);
            let backend = match (NonNull::new(given.raw.cuda_context), NonNull::new(given.raw.cuda_stream)) {
                (None, None) => CudaBackend::new(cuda)?,
                // SAFETY: the host's promise, in the documentation of the options.
                (Some(context), Some(stream)) => unsafe { CudaBackend::in_context(context, stream, cuda)? },
                _ => return Err(Failure::argument("cuda_context and cuda_stream go together")),
            };
            let native = Arc::new(Native::load(backend, model)?.by_blocks(plan.chunk));
            Ok((Session::new(model, native.clone(), options, classes)?, Memory::Device(native)))
        }
        #[cfg(feature = "ort")]
        Target::Ort(runtime) => {
            let loaded = Arc::new(OrtModel::new(model, runtime.clone())?);
            Ok((Session::new(model, loaded, options, classes)?, Memory::Unknown))
        }
    }
}

/// A call on a session.
///
/// # Safety
/// `session` is null or a session.
pub(crate) unsafe fn with<R>(
    session: *const foretune_session,
    body: impl FnOnce(&mut Inner) -> Result<R>,
) -> Result<R> {
    // SAFETY: the caller's promise.
    unsafe { argument::reference("session", session)? }.inner.with(body)
}

/// A call on a session and `count` images.
///
/// # Safety
/// As [`with`], and the pointers are null or as long as they say.
unsafe fn with_images<R>(
    session: *const foretune_session,
    images: *const foretune_image,
    count: usize,
    body: impl FnOnce(&mut Session, &mut image::Given) -> Result<R>,
) -> Result<R> {
    // SAFETY: the caller's promise.
    unsafe {
        with(session, |inner| {
            let crop = inner.session.preprocess().crop;
            let mut images = image::Given::new(images, count, &mut inner.preparer, crop)?;
            body(&mut inner.session, &mut images)
        })
    }
}

/// A call on a session and `count` images with their labels.
///
/// # Safety
/// As [`with_images`].
pub(crate) unsafe fn with_labelled<R>(
    session: *const foretune_session,
    images: *const foretune_image,
    labels: *const u32,
    count: usize,
    body: impl FnOnce(&mut Session, &mut image::Given, &[u32]) -> foretune::Result<R>,
) -> Result<R> {
    // SAFETY: the caller's promise.
    unsafe {
        let labels = argument::slice("labels", labels, count)?;
        with_images(session, images, count, |session, images| Ok(body(session, images, labels)?))
    }
}

/// Takes one step on `count` images and their `labels`, at most the options' `batch`. `metrics`: null, or a struct whose size is set.
/// One thread at a time.
///
/// Errors: `FORETUNE_BAD_SHAPE` (nothing has changed), `FORETUNE_CANCELLED`, `FORETUNE_DIVERGED`, `FORETUNE_BAD_OPTIONS` before there is a
/// head, `FORETUNE_DEVICE_FAILED`, `FORETUNE_ONNX_RUNTIME`, `FORETUNE_BUSY`, `FORETUNE_POISONED`, `FORETUNE_INVALID_ARGUMENT`. Whichever,
/// the state is that of the last complete step.
///
/// # Safety
/// Pointers are null or valid for the call, `images` and `labels` for `count` elements, the images' data for what they say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_step(
    session: *mut foretune_session,
    images: *const foretune_image,
    labels: *const u32,
    count: usize,
    metrics: *mut foretune_metrics,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let found =
            with_labelled(session, images, labels, count, |session, images, labels| session.step(images, labels))?;
        if metrics.is_null() { Ok(()) } else { argument::write(metrics, describe(found)) }
    })
}

fn describe(found: Metrics) -> foretune_metrics {
    let Metrics { step, loss, accuracy, lr, skipped } = found;
    foretune_metrics { struct_size: 0, step, skipped, loss, accuracy, lr }
}

/// Writes what the last step came to to `*metrics`, whose size is set. One thread at a time.
///
/// Errors: `FORETUNE_BUSY`, `FORETUNE_POISONED`, `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_get_metrics(
    session: *const foretune_session,
    metrics: *mut foretune_metrics,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let found = with(session, |inner| Ok(inner.session.metrics()))?;
        argument::write(metrics, describe(found))
    })
}

/// Logits `[count, classes]`, row-major, of `count` images under the prompts and head as they are now, to `logits` of `logits_count`
/// elements. One thread at a time; for several see predictors.
///
/// Errors: as `foretune_session_step`.
///
/// # Safety
/// As `foretune_session_step`; `logits` holds that many elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_predict(
    session: *mut foretune_session,
    images: *const foretune_image,
    count: usize,
    logits: *mut f32,
    logits_count: usize,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let logits = argument::slice_mut("logits", logits, logits_count)?;
        with_images(session, images, count, |session, images| Ok(session.predict(images, logits)?))
    })
}

/// Has `callback` called with the progress of calls from now on; null ends it. One thread at a time.
///
/// Errors: `FORETUNE_BUSY`, `FORETUNE_POISONED`, `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// `session` is null or a session; the callback may be called until it ends or the session is destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_set_progress(
    session: *mut foretune_session,
    callback: foretune_progress_callback,
    user_data: *mut c_void,
) -> foretune_status {
    let user_data = UserData(user_data);
    // SAFETY: the caller's promise.
    call(|| unsafe {
        with(session, |inner| {
            inner.session.set_progress(callback.map(|callback| {
                Box::new(move |done: usize, total: usize| callback(done as u64, total as u64, user_data.get()) != 0)
                    as foretune::Progress
            }));
            Ok(())
        })
    })
}

/// Stops the call that is under way on the session, if one is, at the next block, with `FORETUNE_CANCELLED`; one that begins later is not
/// stopped. Any thread, at any time while the session lives, also from a callback; returns at once.
///
/// Errors: `FORETUNE_INVALID_ARGUMENT` when `session` is null.
///
/// # Safety
/// `session` is null or a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_cancel(session: *const foretune_session) -> foretune_status {
    // SAFETY: the caller's promise.
    match unsafe { session.as_ref() } {
        Some(session) => {
            session.cancel.store(true, Relaxed);
            crate::status::FORETUNE_OK
        }
        None => call(|| Err(Failure::argument("session is null"))),
    }
}

/// Destroys `*session` and nulls it; null is nothing to do. No other thread may be using it.
///
/// # Safety
/// `session` is null, or points to null or to a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_destroy(session: *mut *mut foretune_session) {
    // SAFETY: the caller's promise.
    unsafe { destroy(session) };
}
