//! Threads of our own for rayon, which end before their owner does.

use crate::{Error, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::Mutex;
use std::thread::{self, JoinHandle};

/// A private thread pool. The global one belongs to the host program and is never touched.
pub(crate) struct Threads {
    /// `Some` until it is dropped.
    pool: Option<ThreadPool>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// `count` threads, called by `name` of their number. Errors: [`Error::Options`] if the system refuses that many.
    pub fn new(count: usize, name: impl FnMut(usize) -> String + 'static) -> Result<Self> {
        let handles = Mutex::new(Vec::with_capacity(count));
        let builder = ThreadPoolBuilder::new().num_threads(count).thread_name(name);
        let pool = builder.spawn_handler(|thread| {
            let mut builder = thread::Builder::new();
            if let Some(name) = thread.name() {
                builder = builder.name(name.to_owned());
            }
            let handle = builder.spawn(|| thread.run())?;
            handles.lock().expect("nobody panics with it").push(handle);
            Ok(())
        });
        let pool = pool.build();
        let handles = handles.into_inner().expect("nobody panicked with it");
        match pool {
            Ok(pool) => Ok(Threads { pool: Some(pool), handles }),
            Err(error) => Err(Error::Options(format!("cannot start {count} threads: {error}; ask for fewer"))),
        }
    }

    pub fn pool(&self) -> &ThreadPool {
        self.pool.as_ref().expect("until it is dropped")
    }
}

impl Drop for Threads {
    /// rayon tells its threads to end and does not wait; a library may be unloaded next.
    fn drop(&mut self) {
        self.pool = None;
        let here = thread::current().id();
        for handle in self.handles.drain(..).filter(|handle| handle.thread().id() != here) {
            // It ended, whether or not with a panic, which rayon has dealt with.
            handle.join().ok();
        }
    }
}
