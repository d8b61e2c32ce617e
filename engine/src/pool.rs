//! The pool of threads that ticks run on. Worlds may share one; they take turns.

use crate::fold::OrderFree;
use rayon::{ThreadPool, prelude::*};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Threads for ticks.
pub struct Pool(ThreadPool);

impl Pool {
    /// Starts `threads` threads called `{name} {number}`. `on_start` runs on each first.
    ///
    /// # Errors
    /// When the system has no threads left.
    pub fn start(
        threads: usize,
        name: &'static str,
        on_start: impl Fn(usize) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let builder = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1));
        let builder = builder.thread_name(move |i| format!("{name} {i}")).start_handler(on_start);
        builder.build().map(Self).map_err(std::io::Error::other)
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.0.current_num_threads()
    }

    /// Runs a closure on a thread of the pool; on one already, at once.
    pub fn install<R: Send>(&self, body: impl FnOnce() -> R + Send) -> R {
        self.0.install(body)
    }

    /// True on a thread of this pool.
    pub fn is_here(&self) -> bool {
        self.0.current_thread_index().is_some()
    }
}

/// Runs over items, on a worker of a rayon pool in parallel.
pub(crate) fn each<T: Send>(items: Vec<T>, body: impl Fn(T) + Sync + Send) {
    sum(items, body);
}

/// Runs over items like [`each`], and adds up what the body returns, in any order.
pub(crate) fn sum<T: Send, S: OrderFree>(items: Vec<T>, body: impl Fn(T) -> S + Sync + Send) -> S {
    // A tick that is run serially is not on a worker: rayon would hand the work to its global pool.
    // What a system does before it, in it and after it are three passes.
    PASSES.fetch_add(1, Relaxed);
    let sum = if items.len() > 1 && rayon::current_thread_index().is_some() {
        items.into_par_iter().map(body).reduce(S::default, S::plus)
    } else {
        items.into_iter().map(body).fold(S::default(), S::plus)
    };
    PASSES.fetch_add(1, Relaxed);
    sum
}

/// How many passes over rows have begun or ended, in all worlds of this process.
static PASSES: AtomicU64 = AtomicU64::new(0);

/// A number that is greater in a later pass of the same system, and else says nothing.
#[inline]
pub(crate) fn pass() -> u64 {
    PASSES.load(Relaxed)
}
