//! Decides when a computed tick may be seen outside (D2): once its Seal and a Horizon that reaches it are durable.

use crate::{
    events::{Happened, What},
    sequencer::Sequencer,
    status::WorldStatus,
};
use everworld_engine::{InputError, Lives, Mirror, Outcome, Tick};
use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc};

/// Called by the tick thread when a tick is computed, and by the log's thread when something became durable.
pub(super) struct Publisher {
    status: Arc<WorldStatus>,
    sequencer: Arc<Sequencer>,
    /// See [`Rig`](crate::rig::Rig).
    show_unsealed: bool,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Ticks that are computed and not shown. Ticks without inputs are folded into one entry, so that this grows
    /// with the Seals that wait for a sync, not with the ticks.
    waiting: VecDeque<Computed>,
    durable_lsn: u64,
    durable_horizon: Tick,
    /// The newest horizon that was appended, durable or not.
    appended_horizon: Tick,
    /// The next one that will be durable.
    awaited_horizon: Tick,
    lowered: u64,
    /// The line of history of what is shown.
    branch: u32,
}

/// So many cuts of events wait with a tick that stands for several (L1).
const WAITING_EVENTS_MAX: usize = 4_096;

struct Computed {
    tick: Tick,
    seal: u64,
    entities: usize,
    told: News,
}

/// What is told of a tick when it is shown.
#[derive(Default)]
pub(super) struct News {
    pub(super) outcomes: Vec<(u64, Result<Outcome, InputError>)>,
    pub(super) lives: Lives,
    pub(super) events: Vec<Happened>,
}

impl Publisher {
    pub(super) fn new(
        status: Arc<WorldStatus>,
        sequencer: Arc<Sequencer>,
        (branch, durable_horizon): (u32, Tick),
        show_unsealed: bool,
    ) -> Self {
        let inner = Inner {
            waiting: VecDeque::new(),
            durable_lsn: 0,
            durable_horizon,
            appended_horizon: durable_horizon,
            awaited_horizon: durable_horizon,
            lowered: 0,
            branch,
        };
        Self { status, sequencer, show_unsealed, inner: Mutex::new(inner) }
    }

    /// Shows the tick that a line of history begins or goes on with, which is known to be covered. The mirror has it.
    pub(super) fn begin(&self, branch: u32, tick: Tick, entities: usize, mirror: &Mirror) {
        let mut inner = self.inner.lock();
        inner.branch = branch;
        self.show(&inner, tick, entities, mirror);
    }

    fn show(&self, inner: &Inner, tick: Tick, entities: usize, mirror: &Mirror) {
        self.status.publish(inner.branch, tick, entities);
        mirror.allow(tick);
        self.status.tell(What::Tick { entities });
    }

    /// A tick is computed; `seal` is the log position of its Seal, 0 without one.
    pub(super) fn computed(&self, tick: Tick, seal: u64, entities: usize, told: News, mirror: &Mirror) {
        let mut inner = self.inner.lock();
        inner.add(Computed { tick, seal, entities, told });
        self.advance(&mut inner, mirror);
    }

    pub(super) fn log_durable(&self, lsn: u64, mirror: &Mirror) {
        let mut inner = self.inner.lock();
        inner.durable_lsn = inner.durable_lsn.max(lsn);
        self.advance(&mut inner, mirror);
    }

    /// A horizon is appended.
    pub(super) fn horizon_appended(&self, tick: Tick) {
        self.inner.lock().horizon_appended(tick);
    }

    /// A horizon is durable that was appended when the horizon had been lowered `lowered` times.
    pub(super) fn horizon_durable(&self, tick: Tick, lowered: u64, mirror: &Mirror) {
        let mut inner = self.inner.lock();
        if lowered == inner.lowered {
            inner.horizon_durable(tick);
            self.advance(&mut inner, mirror);
        }
    }

    /// A lower horizon is about to be appended, for the `lowered`-th time: no earlier one counts any more.
    pub(super) fn lower_horizon(&self, tick: Tick, lowered: u64) {
        let mut inner = self.inner.lock();
        inner.durable_horizon = inner.durable_horizon.min(tick);
        inner.awaited_horizon = inner.awaited_horizon.min(tick);
        inner.lowered = lowered;
    }

    /// Another line of history begins at a tick that may be shown: what was computed on the former one after it never
    /// is. What came before is of both.
    pub(super) fn rewind(&self, tick: Tick) {
        self.inner.lock().rewind(tick);
    }

    fn advance(&self, inner: &mut Inner, mirror: &Mirror) {
        while let Some(next) = inner.waiting.front() {
            let is_sealed = next.seal <= inner.durable_lsn || self.show_unsealed;
            if !is_sealed || next.tick > inner.durable_horizon {
                return;
            }
            let Some(Computed { tick, entities, told, .. }) = inner.waiting.pop_front() else {
                return;
            };
            let News { outcomes, lives, events } = told;
            if outcomes.is_empty() {
                self.show(inner, tick, entities, mirror);
            } else {
                let told: Vec<What> = outcomes
                    .iter()
                    .map(|(seq, outcome)| What::Input { seq: *seq, outcome: outcome.clone() })
                    .collect();
                self.sequencer.resolve(tick, outcomes, || self.show(inner, tick, entities, mirror));
                told.into_iter().for_each(|what| self.status.tell(what));
            }
            if !lives.is_empty() {
                self.status.tell(What::Entity { lives: Box::new(lives) });
            }
            events.into_iter().for_each(|happened| self.status.tell(What::Happened(happened)));
        }
    }
}

impl Inner {
    fn add(&mut self, mut computed: Computed) {
        let is_plain = |computed: &Computed| computed.seal == 0 && computed.told.outcomes.is_empty();
        let (durable, awaited) = (self.durable_horizon, self.awaited_horizon);
        match self.waiting.back_mut() {
            // Both beyond the horizon and without inputs: the later one says it all. One at or below the horizon
            // stays by itself, as it can be shown before; so does the last one below the next horizon, or nothing
            // would be shown while a sync takes longer than a lease.
            Some(last)
                if is_plain(last)
                    && is_plain(&computed)
                    && last.tick > durable
                    && (computed.tick <= awaited || last.tick > awaited) =>
            {
                // But for what happened, as much as would be kept.
                let mut events = std::mem::take(&mut last.told.events);
                events.append(&mut computed.told.events);
                let behind = events.len().saturating_sub(WAITING_EVENTS_MAX);
                computed.told.events = events.split_off(behind);
                *last = computed;
            }
            _ => self.waiting.push_back(computed),
        }
    }

    fn horizon_appended(&mut self, tick: Tick) {
        self.appended_horizon = tick;
        if self.awaited_horizon <= self.durable_horizon {
            self.awaited_horizon = tick;
        }
    }

    fn horizon_durable(&mut self, tick: Tick) {
        self.durable_horizon = tick;
        if self.awaited_horizon <= tick {
            self.awaited_horizon = self.appended_horizon;
        }
    }

    fn rewind(&mut self, tick: Tick) {
        self.waiting.retain(|computed| computed.tick <= tick);
        (self.durable_horizon, self.appended_horizon, self.awaited_horizon) = (tick, tick, tick);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ledger::Ledger,
        sequencer::{Asked, Begin, Fate, Limits, Origin},
    };
    use everworld_engine::{MirrorHooks, Options, Parallel, Pool, Stopwatch, WorldBuilder};
    use everworld_persistence::{Log, LogOptions, LogWriter, sim::SimDisk};
    use std::{
        path::Path,
        sync::{
            atomic::{AtomicBool, Ordering::SeqCst},
            mpsc::sync_channel,
        },
        time::Duration,
    };

    fn inner() -> Inner {
        let tick = Tick(0);
        Inner {
            waiting: VecDeque::new(),
            durable_lsn: 0,
            durable_horizon: tick,
            appended_horizon: tick,
            awaited_horizon: tick,
            lowered: 0,
            branch: 0,
        }
    }

    fn computed(tick: u64, seal: u64) -> Computed {
        Computed { tick: Tick(tick), seal, entities: 0, told: News::default() }
    }

    #[test]
    fn something_is_shown_when_a_sync_takes_longer_than_a_lease() {
        let mut inner = inner();
        for tick in 1..=40 {
            if tick % 10 == 1 {
                inner.horizon_appended(Tick(tick + 9));
            }
            inner.add(computed(tick, 0));
        }
        assert_eq!(inner.waiting.iter().map(|it| it.tick.0).collect::<Vec<_>>(), [10, 40], "and no more");
        inner.horizon_durable(Tick(10));
        assert_eq!(inner.awaited_horizon, Tick(40));
    }

    #[test]
    fn a_rewind_keeps_what_both_lines_share() {
        let mut inner = inner();
        (1..=6).for_each(|tick| inner.add(computed(tick, tick)));
        inner.rewind(Tick(4));
        assert_eq!(inner.waiting.iter().map(|it| it.tick.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    /// Once a tick is shown a snapshot of it may be written, with its keys: these have their outcomes by then. And who
    /// waits for an outcome finds the tick shown.
    #[test]
    fn a_tick_is_shown_with_the_outcomes_of_its_keys() {
        let log = Log::open(Arc::new(SimDisk::default()), Path::new("/log"), &LogOptions::new(1, [0; 16]));
        let log = LogWriter::start(log.unwrap().0, 16).unwrap();
        let pool = Arc::new(Pool::start(1, "test", |_| {}).unwrap());
        let options = Options { pool, parallel: Parallel::Never, stopwatch: Stopwatch::stopped() };
        let mut live = WorldBuilder::new(1, 1.0).build(options).unwrap();
        live.create().unwrap();
        let (status, ledger) = (Arc::new(WorldStatus::default()), Ledger::new(8, Vec::new()).unwrap());
        let branches = crate::history::Branches::default();
        let begin = Begin { next: (1, 1), queued: Vec::new(), pending: Vec::new(), ledger, branches };
        let limits = Limits { pending_max: 8, tick_max: 8 };
        let sequencer = Sequencer::new(log, live.registry().clone(), status.clone(), begin, limits);
        let sequencer = Arc::new(sequencer);
        let asked = Asked {
            kind: "spawn_entities",
            payload: &serde_json::json!({"entities": [{}]}),
            at_tick: None,
            wants_outcome: true,
            idempotency_key: Some("a"),
        };
        let origin = Origin { principal: "test".into(), request_id: String::new() };
        let submitted = sequencer.submit(asked, &origin).unwrap();
        submitted.durable.blocking_recv().unwrap().unwrap();

        // Who writes snapshots: a thread of its own, which asks for the keys when the view is there.
        let ((show, shown), (tell, told)) = (sync_channel(1), sync_channel(1));
        let keys = sequencer.clone();
        let writer = std::thread::spawn(move || {
            shown.recv().unwrap();
            tell.send(keys.keys_to_store(true).entries).unwrap();
        });
        let (told, early) = (Arc::new(Mutex::new(told)), Arc::new(Mutex::new(None)));
        let (applied, waits) = (Arc::new(Mutex::new(submitted.fate.unwrap())), AtomicBool::new(false));
        let waits = Arc::new(waits);
        let hook = {
            let (status, told, early) = (status.clone(), told.clone(), early.clone());
            let (applied, waits) = (applied.clone(), waits.clone());
            move || {
                if status.tick() == Tick(1) {
                    // News once more when the mirror ends.
                    _ = show.send(());
                    waits.store(applied.lock().try_recv().is_err(), SeqCst);
                    *early.lock() = told.lock().recv_timeout(Duration::from_millis(200)).ok();
                }
            }
        };
        let hooks = MirrorHooks { on_view: Box::new(hook), ..MirrorHooks::default() };
        let mirror = Mirror::start("test", live.buffers().clone(), hooks).unwrap();
        mirror.offer(live.capture());
        mirror.handle().settled();
        let outcomes = live.tick(&sequencer.take()).unwrap().outcomes.clone();
        mirror.offer(live.capture());
        mirror.handle().settled();
        let publisher = Publisher::new(status.clone(), sequencer, (0, Tick(1)), false);
        publisher.computed(Tick(1), 0, 1, News { outcomes, ..News::default() }, &mirror);

        assert_eq!(mirror.handle().peek().unwrap().tick, Tick(1));
        let stored = early.lock().take();
        let stored = stored.unwrap_or_else(|| told.lock().recv().unwrap());
        assert!(stored[0].1.applied.is_some(), "the snapshot has the outcome of the key");
        assert!(waits.load(SeqCst), "nobody is told before the tick is shown");
        let fate = applied.lock().try_recv().unwrap();
        assert!(matches!(fate, Fate::Applied(applied) if applied.tick == Tick(1)));
        writer.join().unwrap();
    }
}
