//! From a job to exact bytes of device memory. The derivation is in `docs/memory.md`.

use super::Budget;
use super::plan::{Line, Plan, Planned, Wishes, most};
use crate::backend::{Needs, Precision};
use crate::cuda::memory::padded;
use crate::cuda::{WeightBytes, element_size, overhead_bytes, statistics_bytes};
use crate::data::MAX_BYTES;
use crate::encoder::{Sizes, tape_needs};
use crate::guess;
use crate::tune::DecodeOptions;
use crate::{Error, Result};

/// Examples through a block at a time that keep a small GPU busy; more are chosen once all of a batch is in a pass.
const BUSY: usize = 4;

/// How the examples of a pass are placed.
#[derive(Clone, Copy)]
struct Shape {
    micro_batch: usize,
    chunk: usize,
    tangents: usize,
    streamed: bool,
}

impl Plan {
    /// As [`Plan::new`], for a GPU that stores in `precision`: the lines are bytes of device memory, of which the budget is the
    /// ceiling. Weights stay on the device where they fit beside some examples; else two blocks at a time do, and as many
    /// examples as fit go through a block before the next. `job.cpu` is not looked at; memory of the host is not counted.
    ///
    /// # Errors
    /// [`Error::Budget`], naming the smallest budget that works.
    pub fn on_device(job: Planned, precision: Precision, budget: Option<Budget>) -> Result<Plan> {
        let tangents = if job.options.guess.is_forward_only() { job.options.tangents } else { 0 };
        let Wishes { micro_batch, decode_threads } = job.wishes;
        let wished = micro_batch.clamp(1, job.options.batch);
        let shape = |micro_batch, chunk, tangents, streamed| Shape { micro_batch, chunk, tangents, streamed };
        let chosen = match budget {
            None => shape(wished, wished, tangents, false),
            Some(Budget(budget)) => {
                let fits = |shape: Shape| total(&lines(job, precision, shape)) <= budget;
                let whole = job.options.guess.needs_whole_passes();
                let smallest = [true, false].map(|streamed| shape(1, 1, tangents.min(1), streamed));
                let Some(least) = smallest.into_iter().find(|&least| fits(least)) else {
                    let smallest = smallest.map(|least| total(&lines(job, precision, least))).into_iter().min();
                    return Err(Error::Budget { budget, smallest: smallest.unwrap_or(u64::MAX) });
                };
                // A pass with fewer tangents computes its primal again, one with fewer examples streams the weights again.
                let of = |streamed: bool| -> Option<Shape> {
                    let tangents = match tangents {
                        0 => 0,
                        all => most(all, &|k| fits(shape(1, 1, k, streamed))),
                    };
                    if !fits(shape(1, 1, tangents, streamed)) {
                        return None;
                    }
                    // The exact gradient, and guesses that depend on the example, recompute whole passes.
                    if whole || !streamed {
                        let micro_batch = most(wished, &|m| fits(shape(m, m, tangents, streamed)));
                        return Some(shape(micro_batch, micro_batch, tangents, streamed));
                    }
                    let busy = BUSY.min(wished);
                    let chunk = most(busy, &|c| fits(shape(busy, c, tangents, true)));
                    let micro_batch = most(wished, &|m| fits(shape(m, chunk.min(m), tangents, true)));
                    let chunk = most(micro_batch, &|c| fits(shape(micro_batch, c, tangents, true)));
                    Some(shape(micro_batch, chunk, tangents, true))
                };
                let resident = of(false).filter(|r| r.tangents == tangents && r.micro_batch >= wished.min(2 * BUSY));
                resident.or_else(|| of(true)).or_else(|| of(false)).unwrap_or(least)
            }
        };
        Ok(Plan {
            micro_batch: chosen.micro_batch,
            chunk: chosen.chunk,
            streamed: chosen.streamed,
            tangents_per_pass: chosen.tangents,
            keep: u64::MAX,
            decode: DecodeOptions { threads: decode_threads.max(1), ahead: 2 * chosen.micro_batch, limit: MAX_BYTES },
            lines: lines(job, precision, chosen),
        })
    }
}

fn total(lines: &[Line]) -> u64 {
    lines.iter().map(|line| line.bytes).sum()
}

/// Each line is a whole number of the arena's units, and together they are what the run carves from it.
fn lines(job: Planned, precision: Precision, shape: Shape) -> Vec<Line> {
    let Planned { model, options, .. } = job;
    let (spec, layout, size) = (&model.spec, options.layout(), element_size(precision));
    let Shape { micro_batch, chunk, tangents, streamed } = shape;
    let sizes = Sizes::by_blocks(spec, layout, micro_batch, chunk, tangents);
    let bytes = |elements: usize| padded(elements * size) as u64;
    let needs = |needs: Needs| needs.buffers.into_iter().map(bytes).sum::<u64>();
    let transposed = match options.guess.transposed_blocks(layout, spec.depth) {
        0 => 0,
        blocks => {
            let statistics = statistics_bytes(micro_batch, spec.heads, sizes.tokens) as u64;
            needs(tape_needs(spec, layout, blocks, micro_batch)) + statistics
        }
    };
    let spectrum = match guess::spectrum_bytes(spec, layout, &options.guessing()) {
        0 => 0,
        _ => layout.sets(spec.depth) as u64 * bytes(spec.width * spec.width),
    };
    let guess = needs(guess::needs(options.guess, spec, layout, micro_batch, tangents)) + spectrum;
    let weights = if streamed { "weights, two blocks at a time" } else { "weights" };
    vec![
        Line { name: weights, bytes: WeightBytes::of(model, size).total(streamed) as u64 },
        Line { name: "dual buffers", bytes: (sizes.streams as u64 + 1) * bytes(sizes.stream) },
        Line { name: "workspace", bytes: bytes(sizes.work) },
        Line { name: "head inputs", bytes: 2 * bytes(sizes.pooled) },
        Line { name: "guess", bytes: guess },
        Line { name: "blocks transposed", bytes: transposed },
        Line { name: "to and from the host", bytes: overhead_bytes(spec, sizes.tokens) as u64 },
    ]
}
