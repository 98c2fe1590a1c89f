//! A whole run over a data set, in one call.

use crate::argument::{self, versioned};
use crate::guard::call;
use crate::model::foretune_model;
use crate::options::{Given, foretune_session_options, one_of};
use crate::session::{UserData, foretune_progress_callback};
use crate::status::{Failure, foretune_status};
use crate::target::Target;
use foretune::adapter::check_writable;
use foretune::data::{Dataset, Format, OpenOptions, Split};
use foretune::engine::{self, Loaded};
use foretune::memory::listing_bytes;
use foretune::tune::{AugmentKind, Event, Job, Observer, Preset, Resources, Saving, Trained, TuneOptions};
use foretune::{Error, Model};
use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::path::Path;

/// CUB-200-2011 in its own layout.
pub const FORETUNE_FORMAT_CUB: u32 = 0;
/// Stanford Cars with its `.mat` devkit.
pub const FORETUNE_FORMAT_CARS: u32 = 1;
/// Stanford Dogs.
pub const FORETUNE_FORMAT_DOGS: u32 = 2;
/// A folder per class, perhaps within `train/`, `val/`, `test/`.
pub const FORETUNE_FORMAT_FOLDER: u32 = 3;
/// A table `path,label[,split]`.
pub const FORETUNE_FORMAT_CSV: u32 = 4;

/// Images as they are evaluated.
pub const FORETUNE_AUGMENT_NONE: u32 = 0;
/// And a random horizontal flip.
pub const FORETUNE_AUGMENT_FLIP: u32 = 1;
/// A random resized crop and flip, the default.
pub const FORETUNE_AUGMENT_RESIZED_CROP: u32 = 2;
/// VPT's recipe.
pub const FORETUNE_AUGMENT_VPT: u32 = 3;

/// Which data, and what is done with it. `foretune_dataset_options_default` fills it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct foretune_dataset_options {
    /// sizeof, set by the caller.
    pub struct_size: usize,
    /// `FORETUNE_FORMAT_*`.
    pub format: u32,
    /// 1: images are cropped to their boxes, where the format has them.
    pub crop_boxes: u32,
    /// `FORETUNE_AUGMENT_*`.
    pub augment: u32,
    /// Threads that decode; 0: half as many as compute.
    pub decode_threads: u32,
    /// Share of the training split set aside for validation; 0: none.
    pub val_fraction: f64,
    /// Steps between evaluations on it; 0: only at the end.
    pub eval_every: u64,
    /// Where the run saves itself, UTF-8; null: nowhere.
    pub checkpoint: *const c_char,
    /// Steps between checkpoints; 0: only when it is stopped.
    pub checkpoint_every: u64,
    /// 1: continues from `checkpoint` if there is one.
    pub resume: u32,
    /// Zero.
    pub reserved: u32,
    /// Called between steps, and while images are gone through before the first and for evaluations, with the steps that are complete and
    /// all of them; null: not. Returning 0 stops the run, unless it is complete.
    pub progress: foretune_progress_callback,
    /// Handed to `progress`.
    pub user_data: *mut c_void,
}

/// What a run came to.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct foretune_result {
    /// sizeof, set by the caller.
    pub struct_size: usize,
    /// Step whose prompts the adapter has: the best on the validation split, or the last.
    pub step: u64,
    /// Steps skipped because something was not finite.
    pub skipped: u64,
    /// Accuracy on the validation split, 0..1; NaN without one.
    pub val_accuracy: f64,
    /// Mean cross entropy on it, nats; NaN without one.
    pub val_loss: f64,
    /// Training images per second, decoding included.
    pub images_per_second: f64,
}

versioned!(foretune_dataset_options, foretune_result);

fn defaults() -> foretune_dataset_options {
    let TuneOptions { val_fraction, eval_every, .. } = TuneOptions::default();
    foretune_dataset_options {
        struct_size: size_of::<foretune_dataset_options>(),
        format: FORETUNE_FORMAT_FOLDER,
        crop_boxes: 0,
        augment: FORETUNE_AUGMENT_RESIZED_CROP,
        decode_threads: 0,
        val_fraction,
        eval_every,
        checkpoint: std::ptr::null(),
        checkpoint_every: 0,
        resume: 0,
        reserved: 0,
        progress: None,
        user_data: std::ptr::null_mut(),
    }
}

/// Fills `*options`, a struct of `struct_size` bytes (give sizeof), with the defaults. Any thread.
///
/// Errors: `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// `options` is null or a struct of that size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_dataset_options_default(
    options: *mut foretune_dataset_options,
    struct_size: usize,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe { argument::write_sized(options, struct_size, defaults()) })
}

/// Tunes on the data set in the folder (or table) `root`, UTF-8, and replaces the file `adapter` by what came of it: the same bytes as
/// `foretune tune` with the same options. `options` and `dataset`: null for the defaults. `result`: null, or a struct whose size is set.
/// Returns when it is done; callbacks run on the calling thread. Any thread.
///
/// Errors: `FORETUNE_IO`, `FORETUNE_BAD_DATA`; `FORETUNE_CANCELLED`, the last complete step saved to the checkpoint if there is one, and
/// no adapter written; and as `foretune_session_create` and `foretune_session_step`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_tune_dataset(
    model: *const foretune_model,
    root: *const c_char,
    adapter: *const c_char,
    options: *const foretune_session_options,
    dataset: *const foretune_dataset_options,
    result: *mut foretune_result,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let model = &argument::reference("model", model)?.model;
        let (root, adapter) = (argument::text("root", root)?, Path::new(argument::text("adapter", adapter)?));
        let given = Given::new(options, model.spec.depth, Preset::default().options(0).steps)?;
        let data = argument::options(dataset, defaults())?;
        let checkpoint = argument::optional_text("checkpoint", data.checkpoint)?;
        if data.resume != 0 && checkpoint.is_none() {
            return Err(Failure::argument("resume needs a checkpoint to resume from"));
        }
        check_writable(adapter)?;
        let run = Run { model, given, data, checkpoint: checkpoint.map(Path::new) };
        let trained = run.train(Path::new(root))?;
        trained.adapter.save(adapter)?;
        if result.is_null() {
            return Ok(());
        }
        let (val_accuracy, val_loss) = trained.validation.map_or((f64::NAN, f64::NAN), |s| (s.accuracy, s.loss));
        let found = foretune_result {
            struct_size: 0,
            step: trained.adapter.step,
            skipped: trained.skipped,
            val_accuracy,
            val_loss,
            images_per_second: trained.images_per_second,
        };
        argument::write(result, found)
    })
}

struct Run<'a> {
    model: &'a Model,
    given: Given,
    data: foretune_dataset_options,
    checkpoint: Option<&'a Path>,
}

impl Run<'_> {
    fn train(mut self, root: &Path) -> crate::status::Result<Trained> {
        let data = self.data;
        let format =
            one_of("format", data.format, &[Format::Cub, Format::Cars, Format::Dogs, Format::Folder, Format::Csv])?;
        let augments = [AugmentKind::None, AugmentKind::Flip, AugmentKind::ResizedCrop, AugmentKind::Vpt];
        self.given.tune.augment = one_of("augment", data.augment, &augments)?;
        self.given.tune.val_fraction = data.val_fraction;
        self.given.tune.eval_every = data.eval_every;
        let tune = &self.given.tune;
        tune.validate()?;
        let opening = OpenOptions { crop_boxes: data.crop_boxes != 0, skip_bad: false };
        let mut dataset = Dataset::open(root, format, &opening)?;
        dataset.split_validation(tune.val_fraction, tune.seed);
        let photos = dataset.items_of(Split::Train).len();
        let threads = match data.decode_threads as usize {
            0 => self.given.cpu().threads.div_ceil(2),
            given => given,
        };
        let plan = self.given.plan(self.model, dataset.classes.len(), [photos, threads], listing_bytes(&dataset))?;
        let saving = Saving { path: self.checkpoint.map(Path::to_owned), every: data.checkpoint_every };
        let resources = Resources::of_plan(&plan, saving, data.resume != 0);
        match &self.given.target {
            Target::Cpu => self.on(&engine::cpu(self.model, self.given.cpu())?, &dataset, &resources),
            #[cfg(feature = "cuda")]
            Target::Cuda(device) => {
                let native = foretune::cuda::load(self.model, self.given.cuda(*device, &plan))?;
                self.on(&native.by_blocks(plan.chunk), &dataset, &resources)
            }
            #[cfg(feature = "ort")]
            Target::Ort(runtime) => {
                let loaded = engine::ort::OrtModel::new(self.model, runtime.clone())?;
                self.on(&loaded, &dataset, &resources)
            }
        }
    }

    fn on(&self, loaded: &dyn Loaded, dataset: &Dataset, resources: &Resources) -> crate::status::Result<Trained> {
        let job = Job { model: self.model, loaded, dataset, options: &self.given.tune, resources, head_from: None };
        let user_data = UserData(self.data.user_data);
        let mut watch = Watch {
            step: 0,
            progress: self.data.progress,
            user_data,
            steps: self.given.tune.steps,
            stop: Cell::new(false),
        };
        job.train(&mut watch).map_err(|error| match error {
            Error::Interrupted { step } => {
                let saved = if self.checkpoint.is_some() { "; it can be resumed" } else { "" };
                Failure::new(crate::status::FORETUNE_CANCELLED, format!("stopped after step {step}{saved}"))
            }
            error => error.into(),
        })
    }
}

/// Tells the host of steps, and stops where it says so.
struct Watch {
    /// Complete steps.
    step: u64,
    progress: foretune_progress_callback,
    user_data: UserData,
    steps: u64,
    stop: Cell<bool>,
}

impl Observer for Watch {
    fn event(&mut self, event: &Event) {
        let Some(progress) = self.progress else { return };
        match event {
            Event::Step { step, .. } | Event::Skipped { step, .. } => self.step = *step,
            Event::Progress { .. } => {}
            _ => return,
        }
        // SAFETY: the host's function, with the host's data, on the host's thread.
        let go_on = unsafe { progress(self.step, self.steps, self.user_data.get()) } != 0;
        if !go_on && self.step < self.steps {
            self.stop.set(true);
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.get()
    }
}
