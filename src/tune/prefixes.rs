//! What the block reads ahead of which prompts enter, from a cache or computed, rounded to f16 in both cases: so it has the same bits
//! whatever was kept.

use super::photos::Batch;
use crate::data::{Item, Loader, PrefixCache, round_to_f16};
use crate::engine::Engine;
use crate::{Error, Result};
use std::sync::Arc;

/// Gives a run's micro-batches as prefixes: what [`TuneOptions::prefix_f16`](super::TuneOptions::prefix_f16) asks of a
/// [`Job`](super::Job).
#[derive(Clone)]
pub struct Prefixes {
    items: Arc<[Item]>,
    kept: Option<Arc<PrefixCache>>,
    /// Of a micro-batch, what was not kept: where it belongs and which item it is.
    missing: Vec<(usize, usize)>,
    computed: Vec<f32>,
}

impl Prefixes {
    /// Of `items`, from `kept` where that has them.
    pub(super) fn new(items: Arc<[Item]>, kept: Option<Arc<PrefixCache>>) -> Self {
        Prefixes { items, kept, missing: Vec::new(), computed: Vec::new() }
    }

    /// The cache.
    pub(super) fn kept(&self) -> Option<Arc<PrefixCache>> {
        self.kept.clone()
    }

    /// As [`Feed::fill`](super::Feed::fill), from `loader`, which has the same cache.
    pub(super) fn fill(
        &mut self,
        loader: &mut Loader,
        engine: &mut dyn Engine,
        batch: &mut Batch,
        most: usize,
    ) -> Result<usize> {
        let (image, len) = (loader.image_len(), engine.spec().prefix_len());
        batch.images.resize(most * image, 0.0);
        batch.prefix.resize(most * len, 0.0);
        batch.labels.clear();
        self.missing.clear();
        self.missing.reserve(most);
        self.computed.clear();
        self.computed.reserve(most * len);
        while batch.labels.len() < most {
            let (at, missing) = (batch.labels.len(), self.missing.len());
            let taken = loader.next_with(|sample, values| {
                let to = match sample.prefix {
                    true => &mut batch.prefix[at * len..][..len],
                    false => &mut batch.images[missing * image..][..image],
                };
                to.copy_from_slice(values);
                sample
            });
            let Some(sample) = taken.transpose()? else { break };
            batch.labels.push(sample.label);
            if !sample.prefix {
                self.missing.push((at, sample.item));
            }
        }
        batch.images.truncate(self.missing.len() * image);
        batch.prefix.truncate(batch.labels.len() * len);
        self.compute(engine, batch, len)?;
        Ok(batch.labels.len())
    }

    /// Computes what was not kept, and has it kept.
    fn compute(&mut self, engine: &mut dyn Engine, batch: &mut Batch, len: usize) -> Result<()> {
        if self.missing.is_empty() {
            return Ok(());
        }
        self.computed.resize(self.missing.len() * len, 0.0);
        engine.prefix(&batch.images, &mut self.computed)?;
        for (&(at, item), values) in self.missing.iter().zip(self.computed.chunks_exact_mut(len)) {
            if !round_to_f16(values) {
                let (path, block) = (self.items[item].path.clone(), engine.layout().insert_at);
                let problem = format!(
                    "what block {block} reads of it has values beyond f16's largest, 65504; tune this model without a prefix cache"
                );
                return Err(Error::Image { path, problem });
            }
            if let Some(kept) = &self.kept {
                kept.store(item, values);
            }
            batch.prefix[at * len..][..len].copy_from_slice(values);
        }
        Ok(())
    }
}
