//! How a session learns and what it may use.

use crate::allocator::foretune_allocator;
use crate::argument::{self, versioned};
use crate::guard::call;
use crate::guess::{guess_of, number_of};
use crate::info::FORETUNE_DEVICE_CPU;
use crate::status::{Failure, Result, foretune_status};
use crate::target::{Asked, Target};
use foretune::Model;
use foretune::backend::Precision;
use foretune::cpu::CpuOptions;
#[cfg(feature = "cuda")]
use foretune::cuda::CudaOptions;
use foretune::memory::{Budget, Plan, Planned, Wishes};
use foretune::tune::{HeadKind, OptimizerKind, Preset, TuneOptions, usual_insertion, usual_warmup};
use std::ffi::{c_char, c_void};

/// Storage and products in f32.
pub const FORETUNE_PRECISION_F32: u32 = 0;
/// In bf16; on the CPU linear layers only, where it has instructions for it.
pub const FORETUNE_PRECISION_BF16: u32 = 1;
/// In f16; on GPUs only.
pub const FORETUNE_PRECISION_F16: u32 = 2;

/// Fewest tangents, shortest run.
pub const FORETUNE_PRESET_FAST: u32 = 0;
/// The defaults.
pub const FORETUNE_PRESET_BALANCED: u32 = 1;
/// A longer run.
pub const FORETUNE_PRESET_ACCURATE: u32 = 2;

/// As `insert_at`: the block at a quarter of the model's depth.
pub const FORETUNE_INSERT_AT_AUTO: u32 = u32::MAX;

/// Cosine to class means of the frozen model; grows an example at a time.
pub const FORETUNE_HEAD_PROTOTYPE: u32 = 0;
/// A linear classifier trained with the prompts; its classes are named from the start.
pub const FORETUNE_HEAD_LINEAR: u32 = 1;
/// The checkpoint's own classifier, frozen.
pub const FORETUNE_HEAD_PRETRAINED: u32 = 2;

/// AdamW.
pub const FORETUNE_OPTIMIZER_ADAMW: u32 = 0;
/// AdamW with updates clipped by the RMS of g/√v.
pub const FORETUNE_OPTIMIZER_STABLE_ADAMW: u32 = 1;
/// SGD with momentum.
pub const FORETUNE_OPTIMIZER_SGD: u32 = 2;

/// As `warmup_steps`: min(steps/10, 20), or 20 where the rate stays.
pub const FORETUNE_WARMUP_AUTO: u64 = u64::MAX;

/// Everything a session is made with. `foretune_session_options_default` or `foretune_session_options_preset` fills it; change what
/// you like.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct foretune_session_options {
    /// sizeof, set by the caller.
    pub struct_size: usize,
    /// `FORETUNE_DEVICE_AUTO`, `FORETUNE_DEVICE_CPU` (the default), or a GPU's number.
    pub device: i32,
    /// `FORETUNE_PRECISION_*`.
    pub precision: u32,
    /// A ceiling, bytes: on the CPU for all but mapped weights, on a GPU for device memory; 0: none.
    pub budget: u64,
    /// Threads that compute on the CPU; 0: one a core. No result depends on it.
    pub threads: u32,
    /// Examples a pass; 0: what suits the device and the budget. No result on the CPU depends on it.
    pub micro_batch: u32,
    /// `FORETUNE_GUESS_*`.
    pub guess: u32,
    /// Tangents K per example and step.
    pub tangents: u32,
    /// Prompts p per set.
    pub prompts: u32,
    /// Block ahead of which (the first) prompts enter, or `FORETUNE_INSERT_AT_AUTO`.
    pub insert_at: u32,
    /// 1: a prompt set per block from `insert_at` on; 0: one that stays.
    pub deep: u32,
    /// `FORETUNE_HEAD_*`.
    pub head: u32,
    /// `FORETUNE_OPTIMIZER_*`.
    pub optimizer: u32,
    /// Most examples of a step.
    pub batch: u32,
    /// Peak learning rate of the prompts.
    pub lr: f64,
    /// Peak learning rate of a linear head.
    pub head_lr: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Momentum of SGD; β₁ of AdamW.
    pub momentum: f64,
    /// Length of the cosine schedule, steps. 0: sessions keep their rate, `foretune_tune_dataset` takes the balanced preset's.
    pub steps: u64,
    /// Steps over which the rate rises linearly, or `FORETUNE_WARMUP_AUTO`.
    pub warmup_steps: u64,
    /// Seed of everything random.
    pub seed: u64,
    /// Names of the classes known so far, UTF-8; null: none. Not for `FORETUNE_HEAD_PRETRAINED`, nor `foretune_tune_dataset`.
    pub classes: *const *const c_char,
    /// How many.
    pub class_count: usize,
    /// A `CUcontext` to compute in; null: the device's primary one. It and `cuda_stream` must outlive the session.
    pub cuda_context: *mut c_void,
    /// A `CUstream` of that context; needed with it.
    pub cuda_stream: *mut c_void,
    /// Serves the memory of passes on the CPU; all zero: the library's own.
    pub allocator: foretune_allocator,
    /// Most that an example counts in a step, as a multiple of the batch's median derivative; 0: no limit.
    pub clip: f64,
    /// Power of the singular values of the weights that noise is sent back through, 0 to 4. 1 leaves them.
    pub power: f64,
    /// Largest singular values of those weights that are used; 0: all.
    pub rank: u32,
    /// 1: an example's K directions are made orthogonal.
    pub orthonormal: u32,
    /// 1: every prompt token of a direction is scaled to a root mean square of 1.
    pub unit_rms: u32,
    /// Blocks of `FORETUNE_GUESS_DOWNSTREAM`, 1 to 255. 0 with other guesses.
    pub downstream_blocks: u32,
    /// Whose kernels run, UTF-8: "native" (or null) for the library's own, "ort" for ONNX Runtime on the CPU, "ort:PROVIDER" for one of
    /// its execution providers. ONNX Runtime takes what memory it likes, in f32: `device`, `precision`, `budget`, `cuda_context` and
    /// `allocator` are for the native engine.
    pub engine: *const c_char,
    /// ONNX Runtime, UTF-8: the file or its folder; null: `ORT_DYLIB_PATH`, then the usual places. See `foretune_onnx_runtime_get`.
    pub ort_lib: *const c_char,
}

versioned!(foretune_session_options);

fn defaults() -> foretune_session_options {
    of_preset(Preset::default())
}

/// A preset, as a session that goes on as long as it likes.
fn of_preset(preset: Preset) -> foretune_session_options {
    // Of any depth: where prompts enter is left to the model.
    let TuneOptions { guess, tangents, clip, power, prompts, lr, head_lr, weight_decay, momentum, batch, seed, .. } =
        preset.options(0);
    foretune_session_options {
        struct_size: size_of::<foretune_session_options>(),
        device: FORETUNE_DEVICE_CPU,
        precision: FORETUNE_PRECISION_F32,
        budget: 0,
        threads: 0,
        micro_batch: 0,
        guess: number_of(guess),
        tangents: tangents as u32,
        prompts: prompts as u32,
        insert_at: FORETUNE_INSERT_AT_AUTO,
        deep: 0,
        head: FORETUNE_HEAD_PROTOTYPE,
        optimizer: FORETUNE_OPTIMIZER_ADAMW,
        batch: batch as u32,
        lr,
        head_lr,
        weight_decay,
        momentum,
        steps: 0,
        warmup_steps: FORETUNE_WARMUP_AUTO,
        seed,
        classes: std::ptr::null(),
        class_count: 0,
        cuda_context: std::ptr::null_mut(),
        cuda_stream: std::ptr::null_mut(),
        allocator: foretune_allocator::NONE,
        clip,
        power,
        rank: 0,
        orthonormal: 0,
        unit_rms: 0,
        downstream_blocks: 0,
        engine: std::ptr::null(),
        ort_lib: std::ptr::null(),
    }
}

/// Fills `*options`, a struct of `struct_size` bytes (give sizeof), with `FORETUNE_PRESET_*`, `steps` included. Any thread.
///
/// Errors: `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// `options` is null or a struct of that size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_options_preset(
    options: *mut foretune_session_options,
    struct_size: usize,
    preset: u32,
) -> foretune_status {
    call(|| {
        let preset = one_of("preset", preset, &Preset::ALL)?;
        let filled = foretune_session_options { steps: preset.options(0).steps, ..of_preset(preset) };
        // SAFETY: the caller's promise.
        unsafe { argument::write_sized(options, struct_size, filled) }
    })
}

/// Fills `*options`, a struct of `struct_size` bytes (give sizeof), with the defaults. Any thread.
///
/// Errors: `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// `options` is null or a struct of that size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_options_default(
    options: *mut foretune_session_options,
    struct_size: usize,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe { argument::write_sized(options, struct_size, defaults()) })
}

/// Steps of a session that keeps its rate.
pub(crate) const ENDLESS: u64 = u64::MAX;

/// Options as Rust knows them.
pub(crate) struct Given {
    pub raw: foretune_session_options,
    pub tune: TuneOptions,
    pub target: Target,
    pub precision: Precision,
    pub classes: Vec<String>,
}

impl Given {
    /// For a model of `depth` blocks. `steps`: of the schedule, where the options leave them at 0. Errors: values that none of the
    /// options has.
    ///
    /// # Safety
    /// `options` is null or valid for the call, and what it points to as well.
    pub unsafe fn new(options: *const foretune_session_options, depth: usize, steps: u64) -> Result<Self> {
        // SAFETY: the caller's promise.
        let raw = unsafe { argument::options(options, defaults())? };
        // SAFETY: as above.
        let classes = unsafe { argument::slice("classes", raw.classes, raw.class_count)? };
        let classes = classes.iter().map(|&name| {
            // SAFETY: as above.
            unsafe { argument::text("a class name", name) }.map(str::to_owned)
        });
        let precision = precision(raw.precision)?;
        let steps = if raw.steps == 0 { steps } else { raw.steps };
        let tune = TuneOptions {
            guess: guess_of(&raw)?,
            tangents: raw.tangents as usize,
            power: raw.power,
            rank: raw.rank as usize,
            orthonormal: one_of("orthonormal", raw.orthonormal, &[false, true])?,
            unit_rms: one_of("unit_rms", raw.unit_rms, &[false, true])?,
            clip: raw.clip,
            prompts: raw.prompts as usize,
            deep: one_of("deep", raw.deep, &[false, true])?,
            insert_at: match raw.insert_at {
                FORETUNE_INSERT_AT_AUTO => usual_insertion(depth),
                given => given as usize,
            },
            head: one_of("head", raw.head, &[HeadKind::Prototype, HeadKind::Linear, HeadKind::Pretrained])?,
            optimizer: one_of(
                "optimizer",
                raw.optimizer,
                &[OptimizerKind::Adamw, OptimizerKind::StableAdamw, OptimizerKind::Sgd],
            )?,
            lr: raw.lr,
            head_lr: raw.head_lr,
            weight_decay: raw.weight_decay,
            momentum: raw.momentum,
            steps,
            warmup: if raw.warmup_steps == FORETUNE_WARMUP_AUTO { usual_warmup(steps) } else { raw.warmup_steps },
            batch: raw.batch as usize,
            seed: raw.seed,
            ..TuneOptions::default()
        };
        let asked = Asked {
            engine: raw.engine,
            ort_lib: raw.ort_lib,
            device: raw.device,
            precision,
            threads: threads(raw.threads),
            native: [
                ("budget", raw.budget != 0),
                ("cuda_context", !raw.cuda_context.is_null() || !raw.cuda_stream.is_null()),
                ("allocator", raw.allocator.is_given()),
            ],
        };
        Ok(Given {
            // SAFETY: as above.
            target: unsafe { asked.target()? },
            precision,
            classes: classes.collect::<Result<_>>()?,
            tune,
            raw,
        })
    }

    pub fn cpu(&self) -> CpuOptions {
        CpuOptions { threads: threads(self.raw.threads), precision: self.precision, resident: false }
    }

    /// Examples a pass with memory to spare.
    pub fn micro_batch(&self) -> usize {
        match self.raw.micro_batch as usize {
            0 => self.tune.batch.min(self.target.usual_micro_batch()),
            given => given.min(self.tune.batch),
        }
    }

    /// How it is carried out within the budget. `decode_threads`: 0 for images that are handed over.
    pub fn plan(
        &self,
        model: &Model,
        classes: usize,
        [photos, decode_threads]: [usize; 2],
        listing: u64,
    ) -> foretune::Result<Plan> {
        self.tune.validate()?;
        let wishes = Wishes { micro_batch: self.micro_batch(), decode_threads };
        let job = Planned { model, options: &self.tune, classes, photos, listing, cpu: self.cpu(), wishes };
        let budget = (self.raw.budget > 0).then_some(Budget(self.raw.budget));
        self.tune.layout().check(&model.spec)?;
        match self.target {
            Target::Cpu => Plan::new(job, budget),
            #[cfg(feature = "cuda")]
            Target::Cuda(_) => Plan::on_device(job, self.precision, budget),
            #[cfg(feature = "ort")]
            Target::Ort(_) => Plan::new(job, None),
        }
    }

    #[cfg(feature = "cuda")]
    pub fn cuda(&self, device: usize, plan: &Plan) -> CudaOptions {
        let memory = Some(plan.total());
        CudaOptions { device, precision: self.precision, streamed: plan.streamed, memory, ..CudaOptions::default() }
    }
}

pub(crate) fn precision(value: u32) -> Result<Precision> {
    one_of("precision", value, &[Precision::F32, Precision::Bf16, Precision::F16])
}

pub(crate) fn threads(value: u32) -> usize {
    match value {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        given => given as usize,
    }
}

pub(crate) fn one_of<T: Copy>(name: &str, value: u32, all: &[T]) -> Result<T> {
    let found = all.get(value as usize).copied();
    found.ok_or_else(|| Failure::argument(format!("{name} is {value}, which is none of its {} values", all.len())))
}
