//! What a world is doing right now, for a thread that watches it: an endless tick cannot tell by itself.
//!
//! Plain atomics, written with a store or two per node and read at any time without a lock. What is read may be a moment
//! old; who acts upon it looks at a tick that has not moved for long. Deliberately absent: any clock, any limit.

use crate::ids::Tick;
use std::sync::{
    Arc,
    atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// No node.
const NONE: u32 = u32::MAX;

/// A view of the tick in progress. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watch {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    names: Vec<String>,
    /// The tick that is being computed; 0 between ticks, since the set-up is not watched.
    tick: AtomicU64,
    since_nanos: AtomicU64,
    /// The input that is being applied, or was applied last; 0 before the first and once the systems run.
    input: AtomicU64,
    /// Per thread of the pool, and for one outside of it, the innermost node that it runs.
    threads: Vec<Slot>,
}

/// Threads write theirs all the time: each gets a cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Slot(AtomicU32);

/// A tick in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InTick {
    /// Which one.
    pub tick: Tick,
    /// When it began, by the wall clock of the world's stopwatch.
    pub since_nanos: u64,
    /// What it is doing.
    pub doing: Doing,
}

/// What a tick is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Applying the input of that number.
    Input(u64),
    /// Running that system; of several the first in the total order.
    System(String),
    /// Something of the engine's own.
    Engine,
}

impl Watch {
    pub(crate) fn new(names: Vec<String>, threads: usize) -> Self {
        let threads = (0..=threads).map(|_| Slot(AtomicU32::new(NONE))).collect();
        let zero = || AtomicU64::new(0);
        let shared = Shared { names, tick: zero(), since_nanos: zero(), input: zero(), threads };
        Self { shared: Arc::new(shared) }
    }

    /// The tick in progress, if there is one.
    pub fn look(&self) -> Option<InTick> {
        let shared = &*self.shared;
        let tick = Tick(shared.tick.load(Acquire));
        if tick == Tick(0) {
            return None;
        }
        let first = shared.threads.iter().map(|slot| slot.0.load(Relaxed)).min().unwrap_or(NONE);
        let doing = match (shared.names.get(first as usize), shared.input.load(Relaxed)) {
            (Some(name), _) => Doing::System(name.clone()),
            (None, 0) => Doing::Engine,
            (None, seq) => Doing::Input(seq),
        };
        Some(InTick { tick, since_nanos: shared.since_nanos.load(Relaxed), doing })
    }

    pub(crate) fn begin(&self, tick: Tick, now_nanos: u64) {
        // A node that panicked has not left.
        self.shared.threads.iter().for_each(|slot| slot.0.store(NONE, Relaxed));
        self.shared.since_nanos.store(now_nanos, Relaxed);
        self.shared.tick.store(tick.0, Release);
    }

    pub(crate) fn end(&self) {
        self.shared.tick.store(0, Release);
        self.shared.input.store(0, Relaxed);
    }

    pub(crate) fn input(&self, seq: u64) {
        self.shared.input.store(seq, Relaxed);
    }

    /// The input that is being applied, or was applied last.
    pub(crate) fn last_input(&self) -> Option<u64> {
        Some(self.shared.input.load(Relaxed)).filter(|seq| *seq != 0)
    }

    /// Notes that this thread runs a node; returns what to hand to [`Watch::leave`]. A thread that waits for rows
    /// of its node may run another one meanwhile: the innermost is the one that matters.
    #[inline]
    pub(crate) fn enter(&self, node: usize) -> (usize, u32) {
        let last = self.shared.threads.len() - 1;
        let thread = rayon::current_thread_index().unwrap_or(last).min(last);
        let slot = &self.shared.threads[thread].0;
        let outer = slot.load(Relaxed);
        slot.store(node as u32, Relaxed);
        (thread, outer)
    }

    #[inline]
    pub(crate) fn leave(&self, (thread, outer): (usize, u32)) {
        self.shared.threads[thread].0.store(outer, Relaxed);
    }
}
