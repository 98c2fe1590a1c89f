//! Looking at many files at once, on threads of our own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// `f(state, i)` for i in 0..`count`, in order of i, on `threads` threads or one per core; every thread has its own `state` from
/// `new`. `progress` is told, on the calling thread, how many are done.
pub(super) fn map<S, T: Send>(
    count: usize,
    threads: Option<usize>,
    new: impl Fn() -> S + Sync,
    f: impl Fn(&mut S, usize) -> T + Sync,
    progress: &mut dyn FnMut(usize),
) -> Vec<T> {
    let threads =
        threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, |threads| threads.get())).min(count);
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let mut results: Vec<Option<T>> = (0..count).map(|_| None).collect();
    let work = |sender: mpsc::Sender<(usize, T)>| {
        let mut state = new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count || sender.send((index, f(&mut state, index))).is_err() {
                break;
            }
        }
    };
    let work = &work;
    thread::scope(|scope| {
        let mut started = 0;
        for _ in 0..threads {
            let sender = sender.clone();
            started += usize::from(thread::Builder::new().spawn_scoped(scope, move || work(sender)).is_ok());
        }
        if started == 0 {
            work(sender.clone());
        }
        drop(sender);
        for (done, (index, result)) in receiver.iter().enumerate() {
            results[index] = Some(result);
            progress(done + 1);
        }
    });
    results.into_iter().flatten().collect()
}
