//! Blocks that come and go: the weights of two blocks at a time on the device, the next one copied while one computes.
//!
//! A thread reads a block from the mapped file, converts it piece by piece into pinned memory and copies it in a stream of its
//! own. Whoever needs a block names it; the one that follows in the direction of travel is then fetched into the other slot,
//! after everything launched so far, which may still read what is there.

use super::Storage;
use super::memory::Part;
use super::source::Source;
use super::stream::{Event, Stream};
use super::upload::Uploader;
use crate::{Error, Result};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// A block's values and where they go within a slot.
pub(super) type Layout = Vec<(usize, Source)>;

/// The two slots, and the thread that fills them.
pub(super) struct Streamed {
    shared: Arc<Shared>,
    slots: [Part; 2],
    thread: Option<JoinHandle<()>>,
    blocks: usize,
    state: Mutex<State>,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// When a slot's block has arrived.
    ready: [Event; 2],
    /// When nobody reads a slot any more.
    freed: [Event; 2],
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<Request>,
    /// Whose copies have all been queued, by slot.
    queued: [Option<usize>; 2],
    failed: Option<(usize, Error)>,
    ended: bool,
}

#[derive(Clone, Copy)]
struct Request {
    slot: usize,
    block: usize,
}

/// What the computing side knows.
#[derive(Default)]
pub(super) struct State {
    /// The block of each slot, arrived or on its way.
    planned: [Option<usize>; 2],
    /// The slot in use.
    current: Option<usize>,
}

impl Streamed {
    /// For blocks laid out as `layouts`, in slots of the largest's size, which `copies` fills.
    pub(super) fn new(copies: Stream, slots: [Part; 2], storage: Storage, layouts: Vec<Layout>) -> Result<Self> {
        let device = copies.device().clone();
        let event = || Event::new(&device);
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            ready: [event()?, event()?],
            freed: [event()?, event()?],
        });
        let blocks = layouts.len();
        let mut loader = Loader {
            uploader: Uploader::new(&device)?,
            copies,
            storage,
            starts: [slots[0].start(), slots[1].start()],
            checked: vec![false; blocks],
            layouts,
        };
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name("foretune-weights".into())
            .spawn(move || loader.run(&theirs))
            .map_err(|error| Error::Options(format!("the system refuses a thread that copies weights: {error}")))?;
        Ok(Streamed { shared, slots, thread: Some(thread), blocks, state: Mutex::default() })
    }

    /// Address of `block`, which work launched in `stream` finds there for as long as the guard is held. Errors: the block
    /// cannot be read, or the device's own.
    pub(super) fn acquire(&self, stream: &Stream, block: usize) -> Result<(u64, MutexGuard<'_, State>)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = state.current.filter(|&slot| state.planned[slot] == Some(block)) {
            return Ok((self.slots[slot].start(), state));
        }
        let before = state.current.and_then(|slot| state.planned[slot]);
        let slot = match state.planned.iter().position(|&planned| planned == Some(block)) {
            Some(slot) => slot,
            None => {
                let slot = state.current.map_or(0, |current| 1 - current);
                self.request(&mut state, stream, slot, block)?;
                slot
            }
        };
        self.arrived(&mut state, slot, block)?;
        stream.wait(&self.shared.ready[slot])?;
        state.current = Some(slot);
        // The exact gradient goes through the blocks backwards.
        let next = if before == Some(block + 1) { block.checked_sub(1) } else { Some((block + 1) % self.blocks) };
        if let Some(next) = next.filter(|&next| next != block && state.planned[1 - slot] != Some(next)) {
            self.request(&mut state, stream, 1 - slot, next)?;
        }
        Ok((self.slots[slot].start(), state))
    }

    fn request(&self, state: &mut State, stream: &Stream, slot: usize, block: usize) -> Result<()> {
        self.shared.freed[slot].record(stream)?;
        state.planned[slot] = Some(block);
        let mut queue = self.shared.queue();
        queue.queued[slot] = None;
        queue.requests.push_back(Request { slot, block });
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Returns when all copies of `block` have been queued.
    fn arrived(&self, state: &mut State, slot: usize, block: usize) -> Result<()> {
        let mut queue = self.shared.queue();
        loop {
            if let Some((_, error)) = queue.failed.take_if(|(failed, _)| *failed == block) {
                // Asked for again, it is tried again.
                state.planned[slot] = None;
                return Err(error);
            }
            if queue.queued[slot] == Some(block) {
                return Ok(());
            }
            queue = self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.shared.queue().ended = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's side.
struct Loader {
    uploader: Uploader,
    copies: Stream,
    storage: Storage,
    starts: [u64; 2],
    layouts: Vec<Layout>,
    /// Whether a block's values have been seen to be finite.
    checked: Vec<bool>,
}

impl Loader {
    fn run(&mut self, shared: &Shared) {
        loop {
            let request = {
                let mut queue = shared.queue();
                loop {
                    if queue.ended {
                        return;
                    }
                    if let Some(request) = queue.requests.pop_front() {
                        break request;
                    }
                    queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
            };
            let done = self.load(shared, request);
            let mut queue = shared.queue();
            match done {
                // A later request for the slot has its own turn.
                Ok(()) => queue.queued[request.slot] = Some(request.block),
                Err(error) => queue.failed = Some((request.block, error)),
            }
            shared.changed.notify_all();
        }
    }

    fn load(&mut self, shared: &Shared, Request { slot, block }: Request) -> Result<()> {
        self.copies.wait(&shared.freed[slot])?;
        for (offset, source) in &self.layouts[block] {
            let to = self.starts[slot] + *offset as u64;
            // SAFETY: the slot has the size of the largest block.
            unsafe { self.uploader.source(&self.copies, source, self.storage, !self.checked[block], to)? };
        }
        self.checked[block] = true;
        shared.ready[slot].record(&self.copies)
    }
}
