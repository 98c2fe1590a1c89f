//! Photos on their way from the data set to the engine, a micro-batch at a time.

use super::learner::Feed;
use super::prefixes::Prefixes;
use crate::Result;
use crate::data::{Augment, Item, Loader, LoaderOptions, MAX_BYTES, Preprocess, Request};
use crate::encoder::Input;
use crate::engine::Engine;
use std::sync::Arc;
use std::time::Duration;

/// How decoding runs ahead of compute; no result depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Decoding threads.
    pub threads: usize,
    /// Images decoded ahead of the one that is used next, each 12·H·W bytes.
    pub ahead: usize,
    /// Most bytes that decoding one image may take, on each thread.
    pub limit: u64,
}

impl Default for DecodeOptions {
    /// One thread, 32 images ahead, and the cap that holds without a budget.
    fn default() -> Self {
        DecodeOptions { threads: 1, ahead: 32, limit: MAX_BYTES }
    }
}

/// A data set's photos and how they are prepared.
#[derive(Clone)]
pub struct Photos {
    /// All items; splits are lists of indices into them.
    pub items: Arc<[Item]>,
    /// Evaluation preprocessing.
    pub preprocess: Preprocess,
    /// How decoding runs ahead of compute.
    pub decode: DecodeOptions,
    /// Seed of augmentation.
    pub seed: u64,
    /// Where passes begin at the block ahead of which prompts enter, with what it reads rounded to f16; without: passes begin with the
    /// images.
    pub prefixes: Option<Prefixes>,
}

impl Photos {
    /// Values of one image.
    pub fn image_len(&self) -> usize {
        3 * self.preprocess.crop[0] * self.preprocess.crop[1]
    }

    /// Photos in the order of `requests`.
    pub fn stream(&self, requests: impl Iterator<Item = Request> + Send + 'static) -> Result<PhotoStream> {
        let DecodeOptions { threads, limit, .. } = self.decode;
        let options = LoaderOptions { threads, ahead: self.decode.ahead.max(1), decode_limit: limit, seed: self.seed };
        let kept = self.prefixes.as_ref().and_then(Prefixes::kept);
        let loader = Loader::with_prefixes(self.items.clone(), self.preprocess.clone(), requests, options, kept)?;
        Ok(PhotoStream { loader, prefixes: self.prefixes.clone() })
    }

    /// `indices` once, in order, without augmentation.
    pub fn once(&self, indices: &[usize]) -> Result<PhotoStream> {
        let indices = indices.to_vec();
        self.stream(indices.into_iter().map(|item| Request { item, epoch: 0, augment: Augment::None }))
    }
}

/// A micro-batch in host memory, reused from one to the next.
#[derive(Default)]
pub struct Batch {
    /// `[m, 3, H, W]`; with a `prefix`, only those of which it was not kept.
    pub images: Vec<f32>,
    /// What the block reads ahead of which prompts enter, `[m, T − p, d]`; empty where passes begin with the images.
    pub prefix: Vec<f32>,
    /// `[m]`.
    pub labels: Vec<u32>,
}

impl Batch {
    /// What a pass over it begins with.
    pub fn input(&self) -> Input<'_, f32> {
        if self.prefix.is_empty() { Input::Images(&self.images) } else { Input::Prefix(&self.prefix) }
    }
}

/// Photos in the order they were asked for.
pub struct PhotoStream {
    loader: Loader,
    prefixes: Option<Prefixes>,
}

impl PhotoStream {
    /// Time that has been waited for photos so far.
    pub fn waited(&self) -> Duration {
        self.loader.waited()
    }
}

impl Feed for PhotoStream {
    fn fill(&mut self, engine: &mut dyn Engine, batch: &mut Batch, most: usize) -> Result<usize> {
        if let Some(prefixes) = &mut self.prefixes {
            return prefixes.fill(&mut self.loader, engine, batch, most);
        }
        let len = self.loader.image_len();
        batch.images.resize(most * len, 0.0);
        batch.labels.clear();
        while batch.labels.len() < most {
            let to = &mut batch.images[batch.labels.len() * len..][..len];
            match self.loader.next_into(to) {
                Some(label) => batch.labels.push(label?),
                None => break,
            }
        }
        batch.images.truncate(batch.labels.len() * len);
        Ok(batch.labels.len())
    }
}
