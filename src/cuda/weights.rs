//! Frozen matrices and vectors on the device: resident, or of a block that is [streamed](super::streamed).

use super::Storage;
use super::device::Device;
use super::memory::{DeviceArena, Part, padded};
use super::source::Source;
use super::stream::Stream;
use super::streamed::{Layout, State, Streamed};
use super::upload::Uploader;
use crate::model::Model;
use crate::weights::{BlockRef, LinearRef, NormRef, VectorRef};
use crate::{Error, Result};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A frozen matrix `[rows, cols]`, row-major.
pub struct Matrix {
    pub(super) rows: usize,
    pub(super) cols: usize,
    place: Place,
}

/// A frozen vector.
pub struct Vector {
    pub(super) len: usize,
    part: Part,
}

enum Place {
    Resident(Part),
    /// In this block's slot, at an offset in bytes.
    Block(usize, usize),
}

/// A matrix where work that is launched while this lives finds it.
pub(super) struct Found<'a> {
    pub address: u64,
    _held: Option<MutexGuard<'a, State>>,
}

impl Vector {
    /// On the device.
    pub(super) fn address(&self) -> u64 {
        self.part.start()
    }
}

/// Of what may be absent, for kernels: 0 then.
pub(super) fn address(vector: Option<&Vector>) -> u64 {
    vector.map_or(0, Vector::address)
}

/// Where a model's weights are kept.
pub(super) struct Store {
    device: Arc<Device>,
    storage: Storage,
    streamed: bool,
    loading: Mutex<Loading>,
    blocks: OnceLock<Streamed>,
}

#[derive(Default)]
struct Loading {
    /// What weights are carved from once [`Store::prepare`] has measured the model.
    arena: Option<DeviceArena>,
    uploader: Option<Uploader>,
    /// Blocks met so far that are to be streamed, and the bytes of each.
    layouts: Vec<Layout>,
    ends: Vec<usize>,
}

/// Bytes of a model's weights on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightBytes {
    /// All but the blocks' matrices.
    pub fixed: usize,
    /// All blocks' matrices.
    pub blocks: usize,
    /// The largest block's.
    pub block: usize,
}

impl WeightBytes {
    /// Of `model`, in elements of `size` bytes.
    pub fn of(model: &Model, size: usize) -> Self {
        let vit = &model.vit;
        let constant = padded(model.spec.tokens(0) * model.spec.width * size);
        let patch = matrix_bytes(&vit.patch, size) + bias_bytes(&vit.patch, size);
        let norms = [&vit.pre_norm, &vit.norm, &vit.fc_norm].into_iter().flatten().map(|n| norm_bytes(n, size));
        let blocks = vit.blocks.iter().map(|block| block_bytes(block, size));
        let vectors: usize = blocks.clone().map(|[_, vectors]| vectors).sum();
        let matrices = blocks.map(|[matrices, _]| matrices);
        WeightBytes {
            fixed: constant + patch + norms.sum::<usize>() + vectors,
            blocks: matrices.clone().sum(),
            block: matrices.max().unwrap_or(0),
        }
    }

    /// On the device, with all blocks resident or two of them at a time.
    pub fn total(&self, streamed: bool) -> usize {
        self.fixed + if streamed { 2 * self.block } else { self.blocks }
    }
}

fn matrix_bytes(linear: &LinearRef, size: usize) -> usize {
    padded(linear.rows() * linear.cols() * size)
}

fn bias_bytes(linear: &LinearRef, size: usize) -> usize {
    linear.bias().map_or(0, |bias| padded(bias.len() * size))
}

fn norm_bytes(norm: &NormRef, size: usize) -> usize {
    padded(norm.weight.len() * size) + padded(norm.bias.len() * size)
}

/// Of a block's matrices, and of its vectors.
fn block_bytes(block: &BlockRef, size: usize) -> [usize; 2] {
    let BlockRef { norm1, qkv, proj, scale1, norm2, fc1, fc2, scale2 } = block;
    let linears = [qkv, proj, fc1, fc2];
    let scales = [scale1, scale2].into_iter().flatten().map(|scale| padded(scale.len() * size)).sum::<usize>();
    let biases = linears.map(|linear| bias_bytes(linear, size)).iter().sum::<usize>();
    let norms = norm_bytes(norm1, size) + norm_bytes(norm2, size);
    [linears.map(|linear| matrix_bytes(linear, size)).iter().sum(), biases + norms + scales]
}

impl Store {
    /// Whether blocks come and go.
    pub(super) fn streamed(&self) -> bool {
        self.streamed
    }

    pub(super) fn new(device: &Arc<Device>, storage: Storage, streamed: bool) -> Self {
        let device = device.clone();
        Store { device, storage, streamed, loading: Mutex::default(), blocks: OnceLock::new() }
    }

    /// Obtains the memory for `model`'s weights, from `arena` if there is one. Errors: there is not enough.
    pub(super) fn prepare(&self, arena: Option<&DeviceArena>, model: &Model) -> Result<()> {
        let bytes = WeightBytes::of(model, self.storage.size()).total(self.streamed);
        self.loading().arena = Some(match arena {
            Some(arena) => arena.within(bytes, "weights")?,
            None => DeviceArena::allocate(&self.device, bytes, "weights")?,
        });
        Ok(())
    }

    /// Starts streaming, once all weights have been given a place. Errors: the device's own.
    pub(super) fn finish(&self) -> Result<()> {
        let mut loading = self.loading();
        // The pinned memory is not needed any more.
        loading.uploader = None;
        let layouts = std::mem::take(&mut loading.layouts);
        let Some(arena) = loading.arena.take().filter(|_| !layouts.is_empty()) else { return Ok(()) };
        let largest = loading.ends.iter().copied().max().unwrap_or(0);
        let slots = [arena.carve(largest, "a block's weights")?, arena.carve(largest, "a block's weights")?];
        let streamed = Streamed::new(Stream::new(&self.device)?, slots, self.storage, layouts)?;
        self.blocks.set(streamed).map_err(|_| Error::Options("a backend holds the weights of one model".into()))
    }

    pub(super) fn matrix(&self, stream: &Stream, linear: &LinearRef, block: Option<usize>) -> Result<Matrix> {
        let place = self.place(stream, Source::from(linear), block)?;
        Ok(Matrix { rows: linear.rows(), cols: linear.cols(), place })
    }

    pub(super) fn vector(&self, stream: &Stream, vector: &VectorRef) -> Result<Vector> {
        Ok(Vector { len: vector.len(), part: self.resident(stream, &Source::from(vector))? })
    }

    pub(super) fn matrix_of(&self, stream: &Stream, rows: usize, cols: usize, values: &[f32]) -> Result<Matrix> {
        Ok(Matrix { rows, cols, place: Place::Resident(self.values(stream, values)?) })
    }

    pub(super) fn vector_of(&self, stream: &Stream, values: &[f32]) -> Result<Vector> {
        Ok(Vector { len: values.len(), part: self.values(stream, values)? })
    }

    /// Where `matrix` is, brought there if need be.
    pub(super) fn find(&self, stream: &Stream, matrix: &Matrix) -> Result<Found<'_>> {
        match &matrix.place {
            Place::Resident(part) => Ok(Found { address: part.start(), _held: None }),
            Place::Block(block, offset) => {
                let streamed = self.blocks.get().ok_or_else(unfinished)?;
                let (start, held) = streamed.acquire(stream, *block)?;
                Ok(Found { address: start + *offset as u64, _held: Some(held) })
            }
        }
    }

    fn place(&self, stream: &Stream, source: Source, block: Option<usize>) -> Result<Place> {
        let Some(block) = block.filter(|_| self.streamed) else {
            return Ok(Place::Resident(self.resident(stream, &source)?));
        };
        let mut loading = self.loading();
        let blocks = block + 1;
        if loading.layouts.len() < blocks {
            loading.layouts.resize_with(blocks, Vec::new);
            loading.ends.resize(blocks, 0);
        }
        let offset = loading.ends[block];
        loading.ends[block] = offset + padded(source.len() * self.storage.size());
        loading.layouts[block].push((offset, source));
        Ok(Place::Block(block, offset))
    }

    fn resident(&self, stream: &Stream, source: &Source) -> Result<Part> {
        let mut loading = self.loading();
        let part = self.carve(&mut loading, source.len() * self.storage.size())?;
        let uploader = self.uploader(&mut loading)?;
        // SAFETY: the part has the size of the values.
        unsafe { uploader.source(stream, source, self.storage, true, part.start())? };
        Ok(part)
    }

    fn values(&self, stream: &Stream, values: &[f32]) -> Result<Part> {
        let mut loading = self.loading();
        let part = self.carve(&mut loading, values.len() * self.storage.size())?;
        let uploader = self.uploader(&mut loading)?;
        // SAFETY: the part has the size of the values.
        unsafe { uploader.values(stream, values, self.storage, part.start())? };
        Ok(part)
    }

    fn carve(&self, loading: &mut Loading, bytes: usize) -> Result<Part> {
        match &loading.arena {
            Some(arena) => arena.carve(bytes, "weights"),
            None => DeviceArena::allocate(&self.device, padded(bytes), "weights")?.carve(bytes, "weights"),
        }
    }

    fn uploader<'a>(&self, loading: &'a mut Loading) -> Result<&'a mut Uploader> {
        match &mut loading.uploader {
            Some(uploader) => Ok(uploader),
            empty => Ok(empty.insert(Uploader::new(&self.device)?)),
        }
    }

    fn loading(&self) -> MutexGuard<'_, Loading> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unfinished() -> Error {
    Error::Options("the weights of this model are still being loaded".into())
}
