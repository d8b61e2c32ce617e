//! What everyone may know of a world without asking its thread: small, published at each tick, read at any time.

use everworld_engine::{Plan, Tick, TickReport};
use hdrhistogram::Histogram;
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

/// What a world is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WorldState {
    /// Being created, or brought back from disk.
    #[default]
    Recovering,
    /// Ticking.
    Running,
    /// Not ticking, because somebody said so.
    Paused,
    /// Stopped for good; see the reason.
    Failed,
}

impl WorldState {
    /// All of them, for metrics.
    pub const ALL: [Self; 4] = [Self::Recovering, Self::Running, Self::Paused, Self::Failed];

    /// Its name in the API and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Recovering => "recovering",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Failed => "failed",
        }
    }
}

/// A node of the plan over the world's life in this process.
#[derive(Clone, Debug, Serialize)]
pub struct SystemStats {
    /// How often it ran.
    pub runs: u64,
    /// The last run.
    pub last_us: f64,
    /// The median run.
    pub p50_us: f64,
    /// 99 of 100 runs are shorter.
    pub p99_us: f64,
    /// All runs together; where only some were measured, extrapolated from those.
    pub total_ms: f64,
    /// Its share of all systems' time.
    pub share: f64,
    /// CPU time of the last run that was sampled.
    pub cpu_us: Option<f64>,
}

/// The published state of a world. The tick thread writes, everyone reads; nobody waits (law 3).
#[derive(Default)]
pub struct WorldStatus {
    /// The last published tick.
    tick: AtomicU64,
    /// When it was published, by [`crate::clock::now_nanos`].
    published_nanos: AtomicU64,
    /// The tick up to which a recovery replays.
    recovery_target: AtomicU64,
    entities: AtomicU64,
    lag_nanos: AtomicU64,
    millihertz: AtomicU64,
    last_snapshot: AtomicU64,
    stopping: AtomicBool,
    state: Mutex<(WorldState, Option<String>)>,
    systems: RwLock<Arc<Vec<SystemStats>>>,
}

impl WorldStatus {
    /// Publishes a tick.
    pub fn publish(&self, tick: Tick, entities: usize) {
        self.entities.store(entities as u64, Relaxed);
        self.published_nanos.store(crate::clock::now_nanos(), Relaxed);
        self.tick.store(tick.0, Relaxed);
    }

    /// The last published tick.
    pub fn tick(&self) -> Tick {
        Tick(self.tick.load(Relaxed))
    }

    /// Nanoseconds since the last published tick.
    pub fn age_nanos(&self) -> u64 {
        crate::clock::now_nanos().saturating_sub(self.published_nanos.load(Relaxed))
    }

    /// How many entities there are.
    pub fn entities(&self) -> u64 {
        self.entities.load(Relaxed)
    }

    /// What the world is doing, and why if it failed.
    pub fn state(&self) -> (WorldState, Option<String>) {
        self.state.lock().clone()
    }

    /// Sets what the world is doing.
    pub fn set_state(&self, state: WorldState, reason: Option<String>) {
        *self.state.lock() = (state, reason);
    }

    /// How far behind its rate the world is.
    pub fn lag_nanos(&self) -> u64 {
        self.lag_nanos.load(Relaxed)
    }

    /// Sets how far behind its rate the world is.
    pub fn set_lag_nanos(&self, nanos: u64) {
        self.lag_nanos.store(nanos, Relaxed);
    }

    /// Ticks per thousand seconds that are wanted; 0 is as fast as possible.
    pub fn millihertz(&self) -> u64 {
        self.millihertz.load(Relaxed)
    }

    /// Sets the wanted rate.
    pub fn set_millihertz(&self, millihertz: u64) {
        self.millihertz.store(millihertz, Relaxed);
    }

    /// The tick up to which a recovery replays.
    pub fn recovery_target(&self) -> Tick {
        Tick(self.recovery_target.load(Relaxed))
    }

    /// Sets how far a recovery is and has to go.
    pub fn set_recovery(&self, tick: Tick, target: Tick) {
        self.tick.store(tick.0, Relaxed);
        self.recovery_target.store(target.0, Relaxed);
    }

    /// True once somebody wants the world to end: a replay, or a wait for disk space, ends early.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Wants the world to end.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// The tick of the newest keyframe on disk.
    pub fn last_snapshot(&self) -> Tick {
        Tick(self.last_snapshot.load(Relaxed))
    }

    /// Sets the tick of the newest keyframe on disk.
    pub fn set_last_snapshot(&self, tick: Tick) {
        self.last_snapshot.store(tick.0, Relaxed);
    }

    /// The nodes of the plan, as of about a second ago.
    pub fn systems(&self) -> Arc<Vec<SystemStats>> {
        self.systems.read().clone()
    }

    /// Replaces the figures of the plan's nodes.
    pub fn set_systems(&self, systems: Vec<SystemStats>) {
        *self.systems.write() = Arc::new(systems);
    }
}

/// Durations per node of a plan, for as long as the process runs.
pub struct Timings(Vec<Timing>);

struct Timing {
    runs: u64,
    nanos: Histogram<u64>,
    last: u64,
    cpu: Option<u64>,
}

impl Timings {
    /// Nothing has run yet.
    pub fn new(plan: &Plan) -> Self {
        // Two significant digits are what a summary shows; a histogram stays below some 10 kB.
        let one = || Timing {
            runs: 0,
            nanos: Histogram::new(2).expect("2 is a legal number of digits"),
            last: 0,
            cpu: None,
        };
        Self(plan.nodes.iter().map(|_| one()).collect())
    }

    /// Adds a tick.
    pub fn record(&mut self, report: &TickReport) {
        for (timing, system) in self.0.iter_mut().zip(&report.systems).filter(|(_, system)| system.ran) {
            timing.runs += 1;
            timing.cpu = system.cpu_nanos.or(timing.cpu);
            if let Some(nanos) = system.wall_nanos {
                // It resizes itself: only a clock that runs backwards could be out of its range.
                let _ = timing.nanos.record(nanos);
                timing.last = nanos;
            }
        }
    }

    /// The figures so far.
    pub fn stats(&self) -> Vec<SystemStats> {
        let total = |timing: &Timing| {
            if timing.nanos.is_empty() { 0.0 } else { timing.nanos.mean() * timing.runs as f64 }
        };
        let all: f64 = self.0.iter().map(total).sum();
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let one = |timing: &Timing| SystemStats {
            runs: timing.runs,
            last_us: micros(timing.last),
            p50_us: micros(timing.nanos.value_at_quantile(0.5)),
            p99_us: micros(timing.nanos.value_at_quantile(0.99)),
            total_ms: total(timing) / 1e6,
            share: if all > 0.0 { total(timing) / all } else { 0.0 },
            cpu_us: timing.cpu.map(micros),
        };
        self.0.iter().map(one).collect()
    }
}
