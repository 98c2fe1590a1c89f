//! From a job to exact bytes, before anything is allocated. The derivation is in `docs/memory.md`.

use super::Budget;
use crate::backend::{Needs, hidden_columns};
use crate::cpu::{self, CpuOptions};
use crate::data::{Dataset, MAX_BYTES, decode_bytes};
use crate::encoder::{self, Sizes};
use crate::guess::{self, GuessKind};
use crate::model::{ModelSpec, PromptLayout};
use crate::tune::{DecodeOptions, HeadKind, OptimizerKind, TuneOptions};
use crate::{Error, Model, Result};
use serde::Serialize;

/// Bytes of a parameter or activation.
const F32: u64 = size_of::<f32>() as u64;
/// Bytes of a value that is kept on disk.
const F16: u64 = size_of::<half::f16>() as u64;
/// Bytes of a term of a sum.
const F64: u64 = size_of::<f64>() as u64;

/// What a run would use if memory were no object.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// Examples per pass.
    pub micro_batch: usize,
    /// Decoding threads; 0 where the program hands images over and nothing is decoded.
    pub decode_threads: usize,
}

/// One use of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What for.
    pub name: &'static str,
    /// Most bytes at any time.
    pub bytes: u64,
}

/// How a job is carried out within its budget; none of it changes the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Examples per pass.
    pub micro_batch: usize,
    /// Of these, how many go through a block at a time: see [`crate::engine::Native::by_blocks`].
    pub chunk: usize,
    /// Whether the weights of two blocks at a time are on the device.
    pub streamed: bool,
    /// Tangents per pass.
    pub tangents_per_pass: usize,
    /// Bytes of head inputs kept while a prototype head is fitted.
    pub keep: u64,
    /// How decoding runs ahead of compute.
    pub decode: DecodeOptions,
    /// Where the bytes go.
    pub lines: Vec<Line>,
}

/// What a plan is made for.
#[derive(Clone, Copy)]
pub struct Planned<'a> {
    /// The model.
    pub model: &'a Model,
    /// The options.
    pub options: &'a TuneOptions,
    /// Classes C.
    pub classes: usize,
    /// Training photos.
    pub photos: usize,
    /// Bytes of the list of photos: see [`listing_bytes`].
    pub listing: u64,
    /// How the CPU computes, its number of threads resolved.
    pub cpu: CpuOptions,
    /// With memory to spare.
    pub wishes: Wishes,
}

/// Bytes that the list of a data set's photos takes, with the lists of indices that splits and epochs need.
pub fn listing_bytes(dataset: &Dataset) -> u64 {
    let item = |path: &std::path::Path| (size_of::<crate::data::Item>() + path.as_os_str().len() + 3 * 8) as u64;
    dataset.items.iter().map(|i| item(&i.path)).sum::<u64>()
}

impl Plan {
    /// The fastest way to carry out the job within `budget`, or as wished without one.
    ///
    /// # Errors
    /// [`Error::Budget`], naming the smallest budget that works.
    pub fn new(job: Planned, budget: Option<Budget>) -> Result<Plan> {
        let tangents = if job.options.guess.is_forward_only() { job.options.tangents } else { 0 };
        let Wishes { micro_batch, decode_threads, .. } = job.wishes;
        let micro_batch = micro_batch.clamp(1, job.options.batch);
        let threads = decode_threads.max(1);
        let plan = |micro_batch: usize, tangents: usize, threads: usize, ahead: usize| {
            let (threads, ahead) = if decode_threads == 0 { (0, 0) } else { (threads, ahead) };
            let decode = DecodeOptions { threads, ahead, limit: decode_bytes(job.model.preprocess.crop) };
            let lines = lines(job, micro_batch, tangents, decode);
            Plan {
                micro_batch,
                chunk: micro_batch,
                streamed: false,
                tangents_per_pass: tangents,
                keep: 0,
                decode,
                lines,
            }
        };
        let Some(Budget(budget)) = budget else {
            let mut wished = plan(micro_batch, tangents, threads, 2 * micro_batch);
            wished.keep = u64::MAX;
            wished.decode.limit = MAX_BYTES;
            return Ok(wished);
        };
        let fits = |plan: &Plan| plan.total() <= budget;
        let smallest = plan(1, tangents.min(1), 1, 1);
        if !fits(&smallest) {
            return Err(Error::Budget { budget, smallest: smallest.total() });
        }
        // A pass with fewer tangents computes its primal again; a smaller micro-batch only packs weights more often. So
        // tangents first, then examples, then decoding ahead.
        let tangents = if tangents == 0 { 0 } else { most(tangents, &|k| fits(&plan(1, k, 1, 1))) };
        let micro_batch = most(micro_batch, &|m| fits(&plan(m, tangents, 1, m)));
        let ahead = most(2 * micro_batch, &|ahead| fits(&plan(micro_batch, tangents, 1, ahead)));
        let threads = most(threads, &|threads| fits(&plan(micro_batch, tangents, threads, ahead)));
        let mut chosen = plan(micro_batch, tangents, threads, ahead);
        if job.options.head == HeadKind::Prototype {
            let inputs = (job.photos * job.model.spec.head_width()) as u64 * F32;
            if chosen.total() + inputs <= budget {
                chosen.keep = inputs;
                chosen.lines.push(Line { name: "head inputs kept for the temperature", bytes: inputs });
            }
        }
        // What is left serves photos that need more than most do: large PNGs, progressive JPEGs.
        let left = (budget - chosen.total()) / chosen.decode.threads.max(1) as u64;
        chosen.decode.limit = (chosen.decode.limit + left).min(MAX_BYTES);
        Ok(chosen)
    }

    /// All lines together.
    pub fn total(&self) -> u64 {
        self.lines.iter().map(|line| line.bytes).sum()
    }
}

/// The largest of 1 to `most` that fits, or 1; what fits fits with less.
pub(super) fn most(most: usize, fits: &dyn Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (1, most.max(1) + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    low
}

fn lines(job: Planned, micro_batch: usize, tangents: usize, decode: DecodeOptions) -> Vec<Line> {
    let Planned { model, options, classes, .. } = job;
    let spec = &model.spec;
    let layout = options.layout();
    let [m, k, d] = [micro_batch, tangents, spec.width].map(|n| n as u64);
    let [batch, width, classes] = [options.batch, spec.head_width(), classes].map(|n| n as u64);
    let sizes = Sizes::new(spec, layout, micro_batch, tangents);
    let image = spec.image_len() as u64;
    let parameters = layout.parameters(spec) as u64;
    let head = classes * (width + 1);
    let trained = options.head == HeadKind::Linear;
    let moments = if options.optimizer == OptimizerKind::Sgd { 1 } else { 2 };

    // Head inputs are kept where a head is trained, and for the exact gradient beside their own gradient.
    let kept = u64::from(trained) + if options.guess.is_exact() { 2 } else { 0 };
    let step = m * (image + kept * width + (2 + k) * classes + 2 + k);
    // Parameters, gradient, moments and the best so far; in f64 the estimator's sums. A checkpoint is written from copies of
    // all but the gradient: as state, as bytes, and as the file.
    let state = |parameters: u64| parameters * F32 * (2 + moments + 1 + 3 * (2 + moments));
    // Where an example may count so much only, its gradient waits for the batch's others; noise in f32 turns it away from itself.
    let waiting = if options.clip > 0.0 { batch } else { m };
    let exact = if options.guess.is_exact() { (waiting + 1) * parameters * F32 } else { 0 };
    let magnitudes = if options.clip > 0.0 { 3 * batch * F64 } else { 0 };
    let transposed = match options.guess.transposed_blocks(layout, spec.depth) {
        0 => 0,
        blocks => tape(spec, layout, blocks as u64, m),
    };
    let head_state = match (options.head, trained) {
        (_, true) => state(head) + 2 * head * F32,
        // The head itself, and its bytes in a checkpoint, twice.
        _ => 3 * head * F32,
    };
    // Class sums in f64 beside the means.
    let fit = if options.head == HeadKind::Prototype { classes * width * F64 + 4 * width * F64 } else { 0 };
    // Noise of a pass, and where the weights are transposed the sums of a set, and its layer's γ.
    let guess = if options.guess.transposes_weights() {
        3 * sizes.staging as u64 * F32
            + (3 * d * F32 + 3 * d * F64) * options.prompts as u64
            + layout.sets(spec.depth) as u64 * d * F32
            + guess::spectrum_bytes(spec, layout, &options.guessing())
    } else {
        sizes.staging as u64 * F32
    };
    // Half an estimate, to measure the noise of the whole.
    let guess = guess + if options.guess.is_forward_only() { parameters * F32 } else { 0 };
    let guess = guess + if options.guessing().is_kept() { kept_bytes(options, spec, m) } else { 0 };
    let carved = |lens: &[usize]| lens.iter().map(|&len| cpu::memory::Buffer::bytes(len) as u64).sum::<u64>();
    let guess = {
        let Needs { buffers, staging } = guess::needs(options.guess, spec, layout, micro_batch, tangents);
        guess + carved(&buffers) + carved(&staging)
    };
    let Sizes { stream, work, pooled, staging, .. } = sizes;
    let prefix = if options.prefix_f16 { spec.prefix_len() as u64 } else { 0 };
    let mut lines = vec![
        Line {
            name: "weights",
            bytes: encoder::weight_bytes(model) + cpu::vector_bytes(spec) + cpu::resident_bytes(model, job.cpu),
        },
        Line { name: "dual buffers", bytes: carved(&[stream, stream]) },
        Line { name: "workspace", bytes: carved(&[work]) },
        Line {
            name: "kernels",
            bytes: cpu::scratch_bytes(spec, job.cpu.precision, sizes.tokens, tangents, options.guess)
                * job.cpu.threads.max(1) as u64,
        },
        Line { name: "head inputs, logits, images", bytes: carved(&[pooled, pooled, staging]) + step * F32 },
        Line { name: "guess", bytes: guess },
        Line { name: "prompts and optimizer", bytes: state(parameters) + parameters * F64 },
        Line { name: "head", bytes: head_state.max(fit + head * F32) },
        Line { name: "exact gradients", bytes: exact },
        Line { name: "blocks transposed", bytes: transposed },
        Line {
            name: "derivatives and losses",
            bytes: batch * (F32 + k.max(options.tangents as u64) * F32) + magnitudes,
        },
        Line {
            name: "decoding",
            bytes: decode.threads as u64 * decode.limit + decode.ahead as u64 * image.max(prefix) * F32,
        },
        Line { name: "list of photos", bytes: job.listing },
        Line { name: "runtime", bytes: RUNTIME },
    ];
    if prefix > 0 {
        // Of a micro-batch, and what of it is computed; records in f16 where they are read and written; where each photo's is,
        // which takes less than its entry in the list.
        let records = (decode.threads as u64 + 1) * prefix * F16;
        lines.push(Line { name: "prefixes", bytes: 2 * m * prefix * F32 + records + job.listing });
    }
    lines
}

/// Stacks, tables, tensor descriptions and messages: what is too small to be named.
const RUNTIME: u64 = 1 << 20;

/// Directions of the batch, and a micro-batch's on their way there with their noise and, for guesses that read them, tokens.
fn kept_bytes(options: &TuneOptions, spec: &ModelSpec, examples: u64) -> u64 {
    let layout = options.layout();
    let [tangents, batch, prompts, width] =
        [options.tangents, options.batch, layout.prompts, spec.width].map(|n| n as u64);
    let tokens = spec.tokens(layout.prompts) as u64;
    let rows = examples * tangents * prompts;
    let drawn = match options.guess {
        GuessKind::Mixing => examples * tokens * width + (prompts + width) * tokens + width * 3,
        GuessKind::Downstream(_) => 0,
        _ => rows * 4 * width,
    };
    (batch * tangents * layout.parameters(spec) as u64 + drawn) * F32 + tangents * F64
}

/// The buffers of a VJP of `blocks` blocks, bytes.
fn tape(spec: &ModelSpec, layout: PromptLayout, blocks: u64, examples: u64) -> u64 {
    let rows = examples * spec.tokens(layout.prompts) as u64;
    let (d, hidden) = (spec.width as u64, spec.hidden as u64);
    let wide = (hidden * hidden_columns(spec.mlp) as u64).max(3 * d);
    rows * (blocks * d + 4 * d + 3 * d + wide + hidden) * F32
}
