//! What everyone may know of a world without asking its thread: small, published at each tick, read at any time.

use crate::{
    events::{Event, Events, What},
    scrubber::Scrub,
    statistician::Samples,
    trace::Tracer,
    verifier::Verification,
    watchdog::Watched,
};
use everworld_engine::{Plan, StateHash, Tick, TickReport};
use hdrhistogram::Histogram;
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
            fence,
        },
    },
};

/// A world that is further behind its rate has nothing to spare.
const REST_LAG_NANOS: u64 = 250_000_000;

/// What a world is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WorldState {
    /// Being created, or brought back from disk.
    #[default]
    Recovering,
    /// Ticking.
    Running,
    /// Ticking, but a tick takes longer than it should, or is being computed again because it failed.
    Degraded,
    /// Not ticking, because somebody said so.
    Paused,
    /// Stopped for good; see the reason.
    Failed,
}

impl WorldState {
    /// All of them, for metrics.
    pub const ALL: [Self; 5] = [Self::Recovering, Self::Running, Self::Degraded, Self::Paused, Self::Failed];

    /// Its name in the API and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Recovering => "recovering",
            Self::Running => "running",
            Self::Degraded => "degraded",
            Self::Paused => "paused",
            Self::Failed => "failed",
        }
    }
}

/// What a recovery is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Opening store and log.
    #[default]
    Opening,
    /// Loading a snapshot, reading the log after it.
    Reading,
    /// Making the world be what the snapshot says.
    Restoring,
    /// Computing ticks again.
    Replaying,
    /// Making the first view.
    Mirroring,
    /// Done.
    Done,
}

/// How far a recovery is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Recovery {
    /// What it is doing.
    pub phase: Phase,
    /// The tick that it began with.
    pub from: Tick,
    /// The tick where it ends.
    pub target: Tick,
    /// How long the replay will still take, once that can be told.
    pub eta_secs: Option<f64>,
}

/// A node of the plan over the world's life in this process.
#[derive(Clone, Debug, Serialize)]
pub struct SystemStats {
    /// How often it ran.
    pub runs: u64,
    /// How often its rate left it out, or it was disabled.
    pub skipped: u64,
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

/// The last published tick, with what belongs to it: all of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The line of history that the tick belongs to.
    pub branch: u32,
    /// The tick.
    pub tick: Tick,
    /// How many entities there were after it.
    pub entities: u64,
    /// When it was published, by [`crate::clock::now_nanos`].
    pub at_nanos: u64,
}

/// A [`Shown`] that readers get whole, although it is more than one atomic. Two places in turn: who writes never waits
/// for a reader, and a reader looks again only when another one was published meanwhile.
#[derive(Default)]
struct Latest {
    /// How many were published; the newest is at its parity.
    count: AtomicU64,
    places: [[AtomicU64; 4]; 2],
    /// The tick's thread and the log's publish.
    publishing: Mutex<()>,
}

impl Latest {
    fn publish(&self, change: impl FnOnce(Shown) -> Shown) {
        let _one_at_a_time = self.publishing.lock();
        let Shown { branch, tick, entities, at_nanos } = change(self.read());
        let next = self.count.load(Relaxed) + 1;
        // Whoever reads a word of what follows in the place of the last but one also sees that there is a newer one.
        fence(Release);
        for (word, value) in self.place(next).iter().zip([u64::from(branch), tick.0, entities, at_nanos]) {
            word.store(value, Relaxed);
        }
        self.count.store(next, Release);
    }

    fn read(&self) -> Shown {
        loop {
            let count = self.count.load(Acquire);
            let [branch, tick, entities, at_nanos] =
                self.place(count).each_ref().map(|word| word.load(Relaxed));
            fence(Acquire);
            if self.count.load(Relaxed) == count {
                return Shown { branch: branch as u32, tick: Tick(tick), entities, at_nanos };
            }
        }
    }

    fn place(&self, count: u64) -> &[AtomicU64; 4] {
        &self.places[usize::from(!count.is_multiple_of(2))]
    }
}

/// The published state of a world. The tick thread writes, everyone reads; nobody waits (law 3).
#[derive(Default)]
pub struct WorldStatus {
    /// Branch and tick: two atomics could be paired wrongly during a rewind.
    latest: Latest,
    recovery: Mutex<(Recovery, u64)>,
    /// What the watchdog looks at.
    pub watched: Watched,
    /// What has happened.
    pub events: Arc<Events>,
    /// What it was measured by, from time to time.
    pub statistics: Arc<Samples>,
    /// Traces of ticks.
    pub tracer: Tracer,
    /// Why a running world is not as it should be.
    degraded: Mutex<Option<String>>,
    /// Why it has no new snapshots.
    unsaved: Mutex<Option<String>>,
    quarantined: Mutex<Vec<String>>,
    passed_over: Mutex<Vec<String>>,
    verification: Mutex<Verification>,
    scrub: Mutex<Scrub>,
    lag_nanos: AtomicU64,
    millihertz: AtomicU64,
    last_snapshot: AtomicU64,
    stopping: AtomicBool,
    state: Mutex<(WorldState, Option<String>)>,
    systems: RwLock<(u64, Arc<Vec<SystemStats>>)>,
    recent: Mutex<VecDeque<TickTimes>>,
    /// Nanoseconds by [`Phase`], and when the present one began.
    spent: Mutex<([u64; 6], u64)>,
}

/// How long one tick held its thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TickTimes {
    /// Which.
    pub tick: Tick,
    /// All of it: inputs, systems, log records, capture.
    pub total_nanos: u64,
    /// Of that, copying what changed for the mirror.
    pub capture_nanos: u64,
    /// Of it, applying inputs and timers.
    pub inputs_nanos: u64,
    /// Of it, running systems.
    pub systems_nanos: u64,
    /// Entities after it.
    pub entities: u64,
    /// Inputs that it applied or refused.
    pub inputs: u64,
    /// The hash of the state after it, where the mirror has come to it.
    pub hash: Option<StateHash>,
}

/// So many ticks are remembered (L1).
const RECENT_MAX: usize = 4_096;

/// So many things that recovery could not use are remembered (L1).
const PASSED_OVER_MAX: usize = 16;

impl WorldStatus {
    /// Notes how long a tick took.
    pub fn note_tick(&self, times: TickTimes) {
        let mut recent = self.recent.lock();
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(times);
    }

    /// Notes the hash of the state after a tick.
    pub fn note_hash(&self, tick: Tick, hash: StateHash) {
        let mut recent = self.recent.lock();
        // The newest is one of the last.
        if let Some(times) = recent.iter_mut().rev().find(|times| times.tick <= tick)
            && times.tick == tick
        {
            times.hash = Some(hash);
        }
    }

    /// The remembered ticks after that one, oldest first.
    pub fn recent_ticks(&self, after: Tick) -> Vec<TickTimes> {
        self.recent.lock().iter().filter(|times| times.tick > after).copied().collect()
    }

    /// Publishes a tick of a line of history.
    pub fn publish(&self, branch: u32, tick: Tick, entities: usize) {
        let at_nanos = crate::clock::now_nanos();
        self.latest.publish(|_| Shown { branch, tick, entities: entities as u64, at_nanos });
    }

    /// The last published tick and its line of history. Who needs two of these asks once.
    pub fn shown(&self) -> Shown {
        self.latest.read()
    }

    /// The last published tick.
    pub fn tick(&self) -> Tick {
        self.shown().tick
    }

    /// Nanoseconds since the last published tick.
    pub fn age_nanos(&self) -> u64 {
        crate::clock::now_nanos().saturating_sub(self.shown().at_nanos)
    }

    /// The line of history that the published tick belongs to.
    pub fn branch(&self) -> u32 {
        self.shown().branch
    }

    /// How many entities there are.
    pub fn entities(&self) -> u64 {
        self.shown().entities
    }

    /// What the world is doing, and why if it failed.
    pub fn state(&self) -> (WorldState, Option<String>) {
        let state = self.state.lock().clone();
        let degraded = self.degraded.lock().clone();
        match degraded.or_else(|| self.unsaved.lock().clone()) {
            Some(why) if state.0 == WorldState::Running => (WorldState::Degraded, Some(why)),
            _ => state,
        }
    }

    /// Says why a running world is not as it should be, or that it is again.
    pub fn set_degraded(&self, why: Option<String>) {
        *self.degraded.lock() = why;
    }

    /// Says why no snapshots are written, or that they are again.
    pub fn set_unsaved(&self, why: Option<String>) {
        *self.unsaved.lock() = why;
    }

    /// The systems that are left out.
    pub fn quarantined(&self) -> Vec<String> {
        self.quarantined.lock().clone()
    }

    /// Sets the systems that are left out.
    pub fn set_quarantined(&self, systems: Vec<String>) {
        *self.quarantined.lock() = systems;
    }

    /// What recovery could not use of the store, and why.
    pub fn passed_over(&self) -> Vec<String> {
        self.passed_over.lock().clone()
    }

    /// Notes what recovery could not use; so many are remembered.
    pub fn pass_over(&self, what: String) {
        let mut passed_over = self.passed_over.lock();
        if passed_over.len() < PASSED_OVER_MAX {
            passed_over.push(what);
        }
    }

    /// How far ticks were computed a second time, and what came out.
    pub fn verification(&self) -> Verification {
        self.verification.lock().clone()
    }

    /// Changes that.
    pub fn with_verification(&self, change: impl FnOnce(&mut Verification)) {
        change(&mut self.verification.lock());
    }

    /// What was found when the files were read again.
    pub fn scrub(&self) -> Scrub {
        self.scrub.lock().clone()
    }

    /// Changes that.
    pub fn with_scrub(&self, change: impl FnOnce(&mut Scrub)) {
        change(&mut self.scrub.lock());
    }

    /// Sets what the world is doing.
    pub fn set_state(&self, state: WorldState, reason: Option<String>) {
        let before = std::mem::replace(&mut *self.state.lock(), (state, reason.clone()));
        if before.0 != state {
            self.tell(What::State { state, reason });
        }
    }

    /// Tells what has happened, to whoever follows.
    pub fn tell(&self, what: What) {
        let Shown { branch, tick, .. } = self.shown();
        self.events.push(Event { branch, tick, what });
    }

    /// Tells what somebody should look at.
    pub fn alert(&self, what: impl Into<String>) {
        self.tell(What::Alert { what: what.into() });
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

    /// Whether its ticks leave the CPU some rest: it has a rate, and keeps it.
    pub fn rests(&self) -> bool {
        self.millihertz() > 0 && self.lag_nanos() < REST_LAG_NANOS
    }

    /// The tick up to which a recovery replays.
    pub fn recovery_target(&self) -> Tick {
        self.recovery.lock().0.target
    }

    /// How far a recovery is.
    pub fn recovery(&self) -> Recovery {
        let (mut recovery, began_nanos) = *self.recovery.lock();
        let (done, left) =
            (self.tick().0.saturating_sub(recovery.from.0), recovery.target.0.saturating_sub(self.tick().0));
        if recovery.phase == Phase::Replaying && done > 0 {
            let secs = crate::clock::now_nanos().saturating_sub(began_nanos) as f64 / 1e9;
            recovery.eta_secs = Some(secs / done as f64 * left as f64);
        }
        recovery
    }

    /// Says what a recovery is doing.
    pub fn set_phase(&self, phase: Phase) {
        let mut recovery = self.recovery.lock();
        self.spend(recovery.0.phase);
        recovery.0.phase = phase;
    }

    fn spend(&self, phase: Phase) {
        let now = crate::clock::now_nanos();
        let mut spent = self.spent.lock();
        let since = if spent.1 == 0 { now } else { spent.1 };
        spent.0[phase as usize] += now - since;
        spent.1 = now;
    }

    /// Nanoseconds that a recovery spent opening, reading, restoring, replaying and mirroring.
    pub fn recovery_nanos(&self) -> [u64; 5] {
        let [phases @ .., _] = self.spent.lock().0;
        phases
    }

    /// A replay begins.
    pub fn begin_replay(&self, from: Tick, target: Tick) {
        let recovery = Recovery { phase: Phase::Replaying, from, target, eta_secs: None };
        self.spend(self.recovery.lock().0.phase);
        *self.recovery.lock() = (recovery, crate::clock::now_nanos());
        self.set_recovery(from);
    }

    /// Sets how far a replay is.
    pub fn set_recovery(&self, tick: Tick) {
        self.latest.publish(|shown| Shown { tick, ..shown });
    }

    /// True once somebody wants the world to end: a replay, or a wait for disk space, ends early.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Wants the world to end.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// The tick of the newest snapshot on disk.
    pub fn last_snapshot(&self) -> Tick {
        Tick(self.last_snapshot.load(Relaxed))
    }

    /// Sets the tick of the newest snapshot on disk.
    pub fn set_last_snapshot(&self, tick: Tick) {
        self.last_snapshot.store(tick.0, Relaxed);
    }

    /// The nodes of the plan, as of about a second ago, and the how manieth figures of them these are.
    pub fn systems(&self) -> (u64, Arc<Vec<SystemStats>>) {
        self.systems.read().clone()
    }

    /// Replaces the figures of the plan's nodes.
    pub fn set_systems(&self, systems: Vec<SystemStats>) {
        let mut known = self.systems.write();
        *known = (known.0 + 1, Arc::new(systems));
    }
}

/// Durations per node of a plan, for as long as the process runs.
pub struct Timings(Vec<Timing>);

struct Timing {
    runs: u64,
    skipped: u64,
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
            skipped: 0,
            nanos: Histogram::new(2).expect("2 is a legal number of digits"),
            last: 0,
            cpu: None,
        };
        Self(plan.nodes.iter().map(|_| one()).collect())
    }

    /// Adds a tick.
    pub fn record(&mut self, report: &TickReport) {
        for (timing, system) in self.0.iter_mut().zip(&report.systems) {
            if !system.ran {
                timing.skipped += 1;
                continue;
            }
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
            skipped: timing.skipped,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_of_one_moment() {
        let (status, over) = (WorldStatus::default(), AtomicBool::new(false));
        let of = |branch: u32| (u64::from(branch) * 7, u64::from(branch) * 3);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = 0;
                    while !over.load(Relaxed) {
                        let Shown { branch, tick, entities, .. } = status.shown();
                        assert_eq!((tick.0, entities), of(branch));
                        assert!(branch >= last, "it does not go back");
                        last = branch;
                    }
                });
            }
            for branch in 1..3_000_000 {
                let (tick, entities) = of(branch);
                status.publish(branch, Tick(tick), entities as usize);
            }
            over.store(true, Relaxed);
        });
    }
}
