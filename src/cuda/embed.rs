//! Launches `kernels/embed.cu`: images to tokens, and values between the host's f32 and what is stored.

use super::memory::Buffer;
use super::module::{Kernel, Launch, Module};
use super::rows::RowSet;
use super::stream::Stream;
use super::{CudaBackend, Storage, Vector, narrow};
use crate::Result;
use crate::backend::{PatchGrid, Rows};

/// Twin of `PatchesArgs`.
#[repr(C)]
struct PatchesArgs {
    images: u64,
    out: u64,
    channels: u32,
    height: u32,
    width: u32,
    patch_height: u32,
    patch_width: u32,
    unused: u32,
}

/// Twin of `EmbedArgs`.
#[repr(C)]
struct EmbedArgs {
    projected: u64,
    constant: u64,
    x: u64,
    rows: RowSet,
    patches: u32,
    width: u32,
}

/// Twin of `ConvertArgs`.
#[repr(C)]
struct ConvertArgs {
    from: u64,
    to: u64,
    count: u64,
}

pub(super) struct Kernels {
    patches: Kernel,
    embed: Kernel,
    from_host: Kernel,
    to_host: Kernel,
}

impl Kernels {
    pub(super) fn load(module: &Module) -> Result<Self> {
        let kernel = |name| module.kernel(name);
        Ok(Kernels {
            patches: kernel("patches")?,
            embed: kernel("embed")?,
            from_host: kernel("from_host")?,
            to_host: kernel("to_host")?,
        })
    }

    fn convert(&self, kernel: Kernel, stream: &Stream, from: u64, to: u64, count: usize) -> Result<()> {
        let args = ConvertArgs { from, to, count: count as u64 };
        // SAFETY: the twin; callers checked both ends.
        unsafe { kernel.launch(stream, Launch::rows(count.div_ceil(256), 256), &args) }
    }
}

/// `buffer[offset..] = data`.
pub(super) fn write(gpu: &CudaBackend, buffer: &Buffer, offset: usize, data: &[f32]) -> Result<()> {
    let kernels = &gpu.kernels.embed;
    gpu.through_window(0, |window| {
        let len = window.len();
        for (i, data) in data.chunks(len).enumerate() {
            let to = buffer.at(offset + i * len, data.len());
            window.send(&gpu.stream, &[data], |from| {
                kernels.convert(kernels.from_host, &gpu.stream, from, to, data.len())
            })?;
        }
        Ok(())
    })
}

/// `data = buffer[offset..]`.
pub(super) fn read(gpu: &CudaBackend, buffer: &Buffer, offset: usize, data: &mut [f32]) -> Result<()> {
    read_at(gpu, buffer.at(offset, data.len()), gpu.storage, data)
}

/// `data` = the values at `address`, of which there are as many.
pub(super) fn read_at(gpu: &CudaBackend, address: u64, storage: Storage, data: &mut [f32]) -> Result<()> {
    let kernels = &gpu.kernels.embed;
    gpu.through_window(0, |window| {
        let len = window.len();
        for (i, data) in data.chunks_mut(len).enumerate() {
            let (from, count) = (address + (i * len * storage.size()) as u64, data.len());
            window.receive(&gpu.stream, data, |to| kernels.convert(kernels.to_host, &gpu.stream, from, to, count))?;
        }
        Ok(())
    })
}

/// Host `images` to rows of patches, a few images at a time.
pub(super) fn patches(gpu: &CudaBackend, grid: PatchGrid, examples: usize, images: &[f32], out: &Buffer) -> Result<()> {
    let image = grid.channels * grid.image[0] * grid.image[1];
    let row = grid.len() * grid.patch_len();
    assert_eq!(images.len(), examples * image, "whole images");
    gpu.through_window(image, |window| {
        let most = window.len() / image.max(1);
        for (i, images) in images.chunks(most * image).enumerate() {
            let count = images.len() / image;
            let out = out.at(i * most * row, count * row);
            window.send(&gpu.stream, &[images], |from| {
                let args = PatchesArgs {
                    images: from,
                    out,
                    channels: narrow("channels", grid.channels)?,
                    height: narrow("image height", grid.image[0])?,
                    width: narrow("image width", grid.image[1])?,
                    patch_height: narrow("patch height", grid.patch[0])?,
                    patch_width: narrow("patch width", grid.patch[1])?,
                    unused: 0,
                };
                // SAFETY: the twin; both ends hold `count` images.
                unsafe { gpu.kernels.embed.patches.launch(&gpu.stream, Launch::rows(count * grid.len(), 256), &args) }
            })?;
        }
        Ok(())
    })
}

pub(super) fn embed(
    gpu: &CudaBackend,
    rows: &Rows,
    patches: usize,
    width: usize,
    projected: &Buffer,
    constant: &Vector,
    x: &Buffer,
) -> Result<()> {
    assert!(patches <= rows.primal().len() && constant.len == rows.primal().len() * width, "a row for every token");
    let args = EmbedArgs {
        projected: projected.at(0, rows.examples * patches * width),
        constant: constant.address(),
        x: x.at(0, rows.examples * rows.tokens * width),
        rows: gpu.row_set(rows)?,
        patches: narrow("patches", patches)?,
        width: narrow("the width of a row", width)?,
    };
    // SAFETY: the twin; the buffers' sizes were checked.
    unsafe { gpu.kernels.embed.embed.launch(&gpu.stream, Launch::rows(rows.primal_len(), 256), &args) }
}
