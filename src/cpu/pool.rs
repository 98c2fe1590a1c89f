//! The backend's own threads.

use crate::{Error, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// A private thread pool. The global one belongs to the host program and is never touched.
pub struct Pool {
    pool: Option<ThreadPool>,
    threads: usize,
}

impl Pool {
    /// A pool of `threads` threads; 0 takes one per available core. One thread means the caller's own.
    ///
    /// # Errors
    /// [`Error::Options`] if the system refuses that many threads.
    pub fn new(threads: usize) -> Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        if threads == 1 {
            return Ok(Pool { pool: None, threads });
        }
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("foretune-{i}"))
            .build()
            .map_err(|e| Error::Options(format!("cannot start {threads} threads: {e}; ask for fewer")))?;
        Ok(Pool { pool: Some(pool), threads })
    }

    /// Threads that tasks run on.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `f` on a thread of the pool, so that the calls of [`Pool::for_each`] within need no hand-over.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            None => f(),
            Some(pool) => pool.install(f),
        }
    }

    /// Calls `f(task, worker)` once for every task in `0..tasks`, in any order and in parallel.
    /// `worker < threads()` is different for calls that run at the same time under one caller.
    pub fn for_each(&self, tasks: usize, f: impl Fn(usize, usize) + Sync) {
        match &self.pool {
            Some(pool) if tasks > 1 => pool.install(|| split(0, tasks, &f)),
            _ => {
                let worker = self.pool.as_ref().and_then(ThreadPool::current_thread_index).unwrap_or(0);
                (0..tasks).for_each(|task| f(task, worker));
            }
        }
    }
}

/// Halves the range down to single tasks; unlike spawning, this allocates nothing.
fn split(start: usize, end: usize, f: &(impl Fn(usize, usize) + Sync)) {
    if end - start == 1 {
        return f(start, rayon::current_thread_index().unwrap_or(0));
    }
    let middle = start + (end - start) / 2;
    rayon::join(|| split(start, middle, f), || split(middle, end, f));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_task_runs_once_on_the_private_pool() {
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads);
            for tasks in [0, 1, 2, 7, 100] {
                let hits: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.for_each(tasks, |task, worker| {
                    assert!(worker < threads);
                    if threads > 1 && tasks > 1 {
                        assert!(std::thread::current().name().unwrap().starts_with("foretune-"));
                    }
                    hits[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
            }
        }
        assert!(Pool::new(0).unwrap().threads() >= 1);
    }
}
