//! Decoding ahead of compute: a bounded pool of threads, a bounded queue, samples in the order they were asked for.

use super::augment::{Augment, Draw};
use super::transform::Workspace;
use super::{Item, PrefixCache, Preprocess};
use crate::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// One sample to load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// Index into the items.
    pub item: usize,
    /// Epoch: with the seed and the item it decides the augmentation.
    pub epoch: u64,
    /// Augmentation.
    pub augment: Augment,
}

/// What a [`Loader`] delivers beside values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Index into the items.
    pub item: usize,
    /// Its label.
    pub label: u32,
    /// Whether the values are what a block reads of the image, as it was kept, instead of the image.
    pub prefix: bool,
}

/// How far and how fast a [`Loader`] runs ahead. None of it changes what it delivers but `seed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Decoding threads, at least 1.
    pub threads: usize,
    /// Samples that may be decoded or in work ahead of the one delivered next, at least 1. Each holds 12·H·W bytes, or those of a
    /// kept prefix where there are any and they are more.
    pub ahead: usize,
    /// Most bytes that decoding one image may take, on each thread; an image that needs more is an error.
    pub decode_limit: u64,
    /// Seed of the augmentations.
    pub seed: u64,
}

/// Loads samples on its own threads and delivers them in the order of the requests. Dropping it ends the threads.
pub struct Loader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    image_len: usize,
    waited: Duration,
}

type Requests = Box<dyn Iterator<Item = Request> + Send>;

struct Shared {
    items: Arc<[Item]>,
    preprocess: Preprocess,
    prefixes: Option<Arc<PrefixCache>>,
    seed: u64,
    decode_limit: u64,
    ahead: u64,
    queue: Mutex<Queue>,
    /// A sample was delivered, or the loader is being dropped.
    room: Condvar,
    /// A sample is ready, or the requests have run out.
    ready: Condvar,
}

struct Queue {
    /// `None` once they have run out.
    requests: Option<Requests>,
    /// Requests taken.
    taken: u64,
    /// Samples delivered.
    delivered: u64,
    /// Finished samples, number n at n modulo `ahead`.
    slots: Vec<Option<(Vec<f32>, Result<Sample>)>>,
    /// Buffers to reuse.
    free: Vec<Vec<f32>>,
    /// Set when the loader is dropped.
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is consistent between statements; a panic of the caller's iterator ends the requests.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loader {
    /// Starts loading. `requests` may be endless; it is advanced on the loader's threads, one at a time, and should not block.
    ///
    /// # Errors
    /// [`Error::Options`] when `preprocess` is absurd, [`Error::OutOfMemory`] when the queue does not fit, [`Error::Io`] when
    /// no thread can be started.
    pub fn new(
        items: Arc<[Item]>,
        preprocess: Preprocess,
        requests: impl Iterator<Item = Request> + Send + 'static,
        options: LoaderOptions,
    ) -> Result<Loader> {
        Self::with_prefixes(items, preprocess, requests, options, None)
    }

    /// As [`Loader::new`]; images of which `prefixes` has a record are not decoded, it is delivered instead. The requests are then
    /// without augmentation, and [`Loader::next_with`] tells the two apart.
    ///
    /// # Errors
    /// As [`Loader::new`].
    pub(crate) fn with_prefixes(
        items: Arc<[Item]>,
        preprocess: Preprocess,
        requests: impl Iterator<Item = Request> + Send + 'static,
        options: LoaderOptions,
        prefixes: Option<Arc<PrefixCache>>,
    ) -> Result<Loader> {
        preprocess.check().map_err(Error::Options)?;
        let image_len = preprocess.image_len();
        let (threads, ahead) = (options.threads.max(1), options.ahead.max(1));
        let mut free = Vec::new();
        for _ in 0..ahead {
            let mut buffer = Vec::new();
            let most = prefixes.as_ref().map_or(0, |prefixes| prefixes.values()).max(image_len);
            let bytes = ahead.saturating_mul(most).saturating_mul(size_of::<f32>());
            let what = "decoded images waiting for their batch";
            buffer.try_reserve_exact(most).map_err(|_| Error::OutOfMemory { bytes, what })?;
            buffer.resize(most, 0.0);
            free.push(buffer);
        }
        let queue = Queue {
            requests: Some(Box::new(requests)),
            taken: 0,
            delivered: 0,
            slots: (0..ahead).map(|_| None).collect(),
            free,
            stop: false,
        };
        let shared = Arc::new(Shared {
            items,
            preprocess,
            prefixes,
            seed: options.seed,
            decode_limit: options.decode_limit,
            ahead: ahead as u64,
            queue: Mutex::new(queue),
            room: Condvar::new(),
            ready: Condvar::new(),
        });
        let mut loader = Loader { shared, threads: Vec::new(), image_len, waited: Duration::ZERO };
        for index in 0..threads.min(ahead) {
            let shared = Arc::clone(&loader.shared);
            match thread::Builder::new().name(format!("foretune-decode-{index}")).spawn(move || work(&shared)) {
                Ok(thread) => loader.threads.push(thread),
                // Fewer threads deliver the same.
                Err(source) if index > 0 => {
                    log::warn!("only {index} of {threads} decoding threads could be started: {source}");
                    break;
                }
                Err(source) => return Err(Error::io("start decoding threads for", "images", source)),
            }
        }
        Ok(loader)
    }

    /// Waits for the next sample and copies it to `pixels`, `[3, H, W]` normalised. Gives its label, or what is wrong with the
    /// image (`pixels` is then unspecified, and the next call goes on with the next sample), or `None` after the last.
    pub fn next_into(&mut self, pixels: &mut [f32]) -> Option<Result<u32>> {
        if pixels.len() != self.image_len {
            return Some(Err(Error::Shape {
                what: "pixels of one image",
                expected: self.image_len.to_string(),
                found: pixels.len().to_string(),
            }));
        }
        self.next_with(|sample, values| {
            pixels.copy_from_slice(values);
            sample.label
        })
    }

    /// Waits for the next sample and gives it and its values to `take`, which should be done with them soon. Gives what `take` does,
    /// or what is wrong with the image, or `None` after the last.
    pub(crate) fn next_with<R>(&mut self, take: impl FnOnce(Sample, &[f32]) -> R) -> Option<Result<R>> {
        let mut queue = self.shared.lock();
        loop {
            let slot = (queue.delivered % self.shared.ahead) as usize;
            if let Some((buffer, sample)) = queue.slots[slot].take() {
                // A copy is short; the threads are decoding meanwhile.
                let taken = sample.map(|sample| take(sample, &buffer));
                queue.free.push(buffer);
                queue.delivered += 1;
                drop(queue);
                self.shared.room.notify_one();
                return Some(taken);
            }
            if queue.requests.is_none() && queue.taken == queue.delivered {
                return None;
            }
            let began = Instant::now();
            queue = self.shared.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
            self.waited += began.elapsed();
        }
    }

    /// Time that [`Loader::next_into`] has waited for samples so far.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Numbers per sample, 3·H·W.
    pub fn image_len(&self) -> usize {
        self.image_len
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.room.notify_all();
        for thread in self.threads.drain(..) {
            // A thread's panic has been reported by the panic hook, and nobody waits for its sample any more.
            let _ = thread.join();
        }
    }
}

/// A decoding thread.
fn work(shared: &Shared) {
    let mut workspace = Workspace::new(shared.decode_limit);
    let mut record = Vec::new();
    let mut queue = shared.lock();
    loop {
        while !queue.stop && queue.requests.is_some() && queue.taken - queue.delivered >= shared.ahead {
            queue = shared.room.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.stop {
            break;
        }
        let Some(requests) = queue.requests.as_mut() else { break };
        // An iterator that panics has ended.
        let Ok(Some(request)) = catch_unwind(AssertUnwindSafe(|| requests.next())) else { break };
        let number = queue.taken;
        queue.taken += 1;
        let mut buffer = queue.free.pop().unwrap_or_default();
        drop(queue);
        let sample = match find(shared, request.item, &mut record, &mut buffer) {
            Some(sample) => Ok(sample),
            None => {
                buffer.resize(shared.preprocess.image_len(), 0.0);
                load(shared, request, &mut workspace, &mut buffer)
            }
        };
        queue = shared.lock();
        queue.slots[(number % shared.ahead) as usize] = Some((buffer, sample));
        shared.ready.notify_one();
    }
    if !queue.stop {
        queue.requests = None;
        drop(queue);
        // The other threads wait for room that no longer matters, the caller perhaps for a sample that will not come.
        shared.room.notify_all();
        shared.ready.notify_one();
    }
}

/// What is kept of an item's image.
fn find(shared: &Shared, item: usize, record: &mut Vec<u8>, buffer: &mut Vec<f32>) -> Option<Sample> {
    let (prefixes, label) = (shared.prefixes.as_ref()?, shared.items.get(item)?.label);
    prefixes.read(item, record, buffer).then_some(Sample { item, label, prefix: true })
}

fn load(shared: &Shared, request: Request, workspace: &mut Workspace, buffer: &mut [f32]) -> Result<Sample> {
    let item = shared.items.get(request.item).ok_or_else(|| Error::Shape {
        what: "item of a load request",
        expected: format!("0..{}", shared.items.len()),
        found: request.item.to_string(),
    })?;
    let draw = Draw { seed: shared.seed, epoch: request.epoch, item: request.item };
    let loaded = catch_unwind(AssertUnwindSafe(|| {
        workspace.load(&item.path, item.crop, &shared.preprocess, request.augment, draw, buffer)
    }));
    loaded.unwrap_or_else(|_| {
        *workspace = Workspace::new(shared.decode_limit);
        let problem = "loading it failed inside Foretune; please report this with the image".into();
        Err(Error::Image { path: item.path.clone(), problem })
    })?;
    Ok(Sample { item: request.item, label: item.label, prefix: false })
}
