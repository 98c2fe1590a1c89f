//! The backend's own threads.

use crate::Result;
use crate::threads::Threads;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A private thread pool. The global one belongs to the host program and is never touched.
pub struct Pool {
    /// `None` for the caller's own thread.
    pool: Option<(Threads, Arc<Door>)>,
    threads: usize,
}

impl Pool {
    /// A pool of `threads` threads; 0 takes one per available core. One thread means the caller's own.
    ///
    /// # Errors
    /// [`Error::Options`](crate::Error::Options) if the system refuses that many threads.
    pub fn new(threads: usize) -> Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        if threads == 1 {
            return Ok(Pool { pool: None, threads });
        }
        let pool = Threads::new(threads, |i| format!("foretune-{i}"))?;
        let door = Arc::<Door>::default();
        let inside = door.clone();
        pool.pool().spawn(move || inside.serve());
        Ok(Pool { pool: Some((pool, door)), threads })
    }

    /// Threads that tasks run on.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `f` on a thread of the pool, so that the calls of [`Pool::for_each`] within need no hand-over. Callers from
    /// outside take turns.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some((threads, door)) if threads.pool().current_thread_index().is_none() => door.enter(f),
            _ => f(),
        }
    }

    /// Calls `f(task, worker)` once for every task in `0..tasks`, in any order and in parallel.
    /// `worker < threads()` is different for calls that run at the same time under one caller.
    pub fn for_each(&self, tasks: usize, f: impl Fn(usize, usize) + Sync) {
        match &self.pool {
            Some(_) if tasks > 1 => self.install(|| split(0, tasks, &f)),
            pool => {
                let worker = pool.as_ref().and_then(|(threads, _)| threads.pool().current_thread_index()).unwrap_or(0);
                (0..tasks).for_each(|task| f(task, worker));
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some((_, door)) = &self.pool {
            door.set(Visit::Closed);
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

/// Where calls come in from outside: one thread of the pool waits behind it. Rayon's own way in is a queue that allocates
/// every few dozen calls.
#[derive(Default)]
struct Door {
    /// Held by the caller whose turn it is.
    turn: Mutex<()>,
    visit: Mutex<Visit>,
    changed: Condvar,
}

#[derive(Default)]
enum Visit {
    #[default]
    None,
    /// To be called.
    Call(Call),
    /// Being called.
    Inside,
    /// Returned, or panicked with this.
    Over(Result<(), Box<dyn Any + Send>>),
    /// The pool is being dropped.
    Closed,
}

/// A closure on the stack of a caller that waits for [`Visit::Over`].
struct Call(*mut (dyn FnMut() + Send));

// SAFETY: the closure is Send, and only one thread at a time has the pointer.
unsafe impl Send for Call {}

impl Door {
    /// Calls `f` on the thread that [serves](Door::serve), and panics as it does.
    fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        let (mut f, mut result) = (Some(f), None);
        let mut call = || result = f.take().map(|f| f());
        let call: *mut (dyn FnMut() + Send + '_) = &mut call;
        // SAFETY: only the lifetime changes. The pointer is dead when this function returns, and nothing between here and
        // there unwinds.
        let call: *mut (dyn FnMut() + Send + 'static) = unsafe { std::mem::transmute(call) };
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.set(Visit::Call(Call(call)));
        let over = self.wait(|visit| match std::mem::take(visit) {
            Visit::Over(over) => Some(over),
            other => {
                *visit = other;
                None
            }
        });
        drop(turn);
        match over {
            Err(panic) => resume_unwind(panic),
            Ok(()) => result.expect("a call that returned has a result"),
        }
    }

    /// Lets callers in, one after another, until the door is closed.
    fn serve(&self) {
        loop {
            let call = self.wait(|visit| match std::mem::replace(visit, Visit::Inside) {
                Visit::Call(call) => Some(Some(call)),
                Visit::Closed => Some(None),
                other => {
                    *visit = other;
                    None
                }
            });
            let Some(Call(call)) = call else { return };
            // SAFETY: the caller keeps the closure alive and untouched until the visit is over.
            self.set(Visit::Over(catch_unwind(AssertUnwindSafe(|| unsafe { (*call)() }))));
        }
    }

    fn set(&self, visit: Visit) {
        *self.lock() = visit;
        self.changed.notify_all();
    }

    /// Waits until `take` finds what it looks for.
    fn wait<T>(&self, mut take: impl FnMut(&mut Visit) -> Option<T>) -> T {
        let mut visit = self.lock();
        loop {
            if let Some(taken) = take(&mut visit) {
                return taken;
            }
            visit = self.changed.wait(visit).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Visit> {
        self.visit.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

    #[test]
    fn callers_take_turns_and_results_come_back() {
        let pool = Pool::new(2).unwrap();
        std::thread::scope(|scope| {
            for caller in 0..4 {
                let pool = &pool;
                scope.spawn(move || {
                    for i in 0..50 {
                        let sum = AtomicUsize::new(0);
                        let inside = pool.install(|| {
                            pool.for_each(9, |task, _| {
                                sum.fetch_add(task, Ordering::Relaxed);
                            });
                            pool.install(|| caller * 100 + i)
                        });
                        assert_eq!((inside, sum.into_inner()), (caller * 100 + i, 36));
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_its_caller_and_nobody_else() {
        let pool = Pool::new(2).unwrap();
        for tasks in [2, 40] {
            let panic = catch_unwind(AssertUnwindSafe(|| pool.for_each(tasks, |task, _| assert!(task != 1, "task 1"))));
            assert!(panic.unwrap_err().downcast_ref::<&str>().is_some_and(|text| text.contains("task 1")));
            let done = AtomicUsize::new(0);
            pool.for_each(tasks, |_, _| {
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.into_inner(), tasks);
        }
    }
}
