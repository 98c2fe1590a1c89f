//! Launches `kernels/noise.cu`: the guesses' noise where it is used, and its weighted sum.

use super::memory::Buffer;
use super::module::{Kernel, Launch, Module};
use super::{CudaBackend, narrow};
use crate::Result;
use crate::rng::Draw;
use std::ops::Range;

/// Twin of `Draw` in the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct Address {
    seed: u64,
    step: u64,
    set: u32,
    first_tangent: u32,
    first_example: u32,
    examples: u32,
    shared: u32,
    unused: u32,
}

/// Twin of `NoiseArgs`.
#[repr(C)]
struct NoiseArgs {
    out: u64,
    draw: Address,
    first_row: u32,
    rows: u32,
    len: u32,
    unused: u32,
}

/// Twin of `NoiseSumArgs`.
#[repr(C)]
struct NoiseSumArgs {
    weights: u64,
    out: u64,
    draw: Address,
    tangents: u32,
    first: u32,
    len: u32,
    unused: u32,
}

pub(super) struct Kernels {
    noise: Kernel,
    noise_sum: Kernel,
}

impl Kernels {
    pub(super) fn load(module: &Module) -> Result<Self> {
        Ok(Kernels { noise: module.kernel("noise")?, noise_sum: module.kernel("noise_sum")? })
    }
}

impl Address {
    fn new(draw: &Draw) -> Result<Self> {
        Ok(Address {
            seed: draw.seed,
            step: draw.step,
            set: narrow("prompt sets", draw.set)?,
            first_tangent: narrow("tangents", draw.tangents.start)?,
            first_example: narrow("examples", draw.examples.start)?,
            examples: narrow("examples", draw.examples.len())?,
            shared: u32::from(draw.shared),
            unused: 0,
        })
    }
}

/// `out` `[|rows|, len]` = the rows `rows` of the draw's noise.
pub(super) fn noise(gpu: &CudaBackend, draw: &Draw, rows: Range<usize>, len: usize, out: &Buffer) -> Result<()> {
    let args = NoiseArgs {
        out: out.at(0, rows.len() * len),
        draw: Address::new(draw)?,
        first_row: narrow("rows of noise", rows.start)?,
        rows: narrow("rows of noise", rows.len())?,
        len: narrow("noise values", len)?,
        unused: 0,
    };
    // SAFETY: the twin; the buffer's size was checked.
    unsafe { gpu.kernels.noise.noise.launch(&gpu.stream, Launch::rows(rows.len(), 128), &args) }
}

/// `out` = Σ weights[b, k]·n[k, b] over the draw's examples and tangents, in that order.
pub(super) fn noise_sum(gpu: &CudaBackend, draw: &Draw, weights: &[f64], out: &mut [f64]) -> Result<()> {
    assert_eq!(weights.len(), draw.examples.len() * draw.tangents.len(), "a weight for every row");
    gpu.through_window(2 * weights.len(), |window| {
        let most = window.len() / 2 / 4 * 4;
        for (i, out) in out.chunks_mut(most).enumerate() {
            let len = out.len();
            window.exchange(&gpu.stream, weights, out, |weights, sums| {
                let args = NoiseSumArgs {
                    weights,
                    out: sums,
                    draw: Address::new(draw)?,
                    tangents: narrow("tangents", draw.tangents.len())?,
                    first: narrow("noise values", i * most)?,
                    len: narrow("noise values", len)?,
                    unused: 0,
                };
                let launch = Launch::rows(len.div_ceil(4).div_ceil(64), 64);
                // SAFETY: the twin; both ends have their sizes.
                unsafe { gpu.kernels.noise.noise_sum.launch(&gpu.stream, launch, &args) }
            })?;
        }
        Ok(())
    })
}
