//! Decides when a computed tick may be seen outside (D2): once its Seal and a Horizon that reaches it are durable.

use crate::{
    events::{EVENTS_KEPT, Happened, What},
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
    /// What systems emitted in ticks that are not shown, tick by tick: told with the tick, or with one that stands for it.
    /// As much of it as would be kept (L1).
    happened: VecDeque<Happened>,
    /// How many events these are, and how many were left out since some were told.
    happened_rows: usize,
    left_out: usize,
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
            happened: VecDeque::new(),
            happened_rows: 0,
            left_out: 0,
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
        self.tell_happened(&mut inner, tick);
    }

    fn show(&self, inner: &Inner, tick: Tick, entities: usize, mirror: &Mirror) {
        self.status.publish(inner.branch, tick, entities);
        mirror.allow(tick);
        self.status.tell(What::Tick { entities });
    }

    /// Tells what happened up to a tick that is shown.
    fn tell_happened(&self, inner: &mut Inner, tick: Tick) {
        if inner.left_out > 0 {
            let count = std::mem::take(&mut inner.left_out);
            self.status
                .alert(format!("{count} events of systems are not told: they waited too long for the log"));
        }
        inner.due(tick).into_iter().for_each(|happened| self.status.tell(What::Happened(happened)));
    }

    /// What systems emitted in a tick, before [`Publisher::computed`] of it.
    pub(super) fn happened(&self, happened: impl Iterator<Item = Happened>) {
        let mut inner = self.inner.lock();
        happened.for_each(|happened| inner.wait(happened));
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
            let News { outcomes, lives } = told;
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
            self.tell_happened(inner, tick);
        }
    }
}

impl Inner {
    fn wait(&mut self, happened: Happened) {
        self.happened_rows += happened.len();
        self.happened.push_back(happened);
        while self.happened_rows > EVENTS_KEPT {
            let oldest = self.happened.pop_front().map_or(0, |happened| happened.len());
            self.happened_rows -= oldest;
            self.left_out += oldest;
        }
    }

    /// What happened up to a tick.
    fn due(&mut self, tick: Tick) -> Vec<Happened> {
        let later = self.happened.partition_point(|happened| happened.tick() <= tick);
        let due: Vec<Happened> = self.happened.drain(..later).collect();
        self.happened_rows -= due.iter().map(Happened::len).sum::<usize>();
        due
    }

    fn add(&mut self, computed: Computed) {
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
        let shared = self.due(tick);
        (self.happened, self.happened_rows) = (VecDeque::new(), 0);
        shared.into_iter().for_each(|happened| self.wait(happened));
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
    use everworld_engine::{
        Emit, MirrorHooks, Options, Parallel, Pool, Stopwatch, Uid, WorldBuilder, event, system,
    };
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
            happened: VecDeque::new(),
            happened_rows: 0,
            left_out: 0,
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

    event! {
        struct Called("called") { times: u64 }
    }

    /// So many events of a tick.
    fn called(tick: u64, count: u64) -> impl Iterator<Item = Happened> {
        let mut world = WorldBuilder::new(1, 1.0);
        let call = move |called: Emit<'_, Called>| {
            (0..count).for_each(|times| called.emit(Uid::new(1), Called { times }));
        };
        world.event::<Called>().system(system(call).named("call"));
        let pool = Arc::new(Pool::start(1, "test", |_| {}).unwrap());
        let options = Options { pool, parallel: Parallel::Never, stopwatch: Stopwatch::stopped() };
        let mut live = world.build(options).unwrap();
        live.tell_events(count as usize);
        live.tick(&[]).unwrap();
        let batch = live.take_events().remove(0);
        Happened::cut(Tick(tick), batch)
    }

    /// What happened waits for its tick, or one that stands for it; no more of it than would be kept; and what two lines of
    /// history share is told of the second.
    #[test]
    fn l1_what_happened_waits_within_a_bound() {
        let mut inner = inner();
        let told = |due: Vec<Happened>| -> Vec<(u64, usize)> {
            due.iter().map(|happened| (happened.tick().0, happened.len())).collect()
        };
        for tick in 1..=4 {
            called(tick, tick).for_each(|happened| inner.wait(happened));
        }
        assert_eq!(told(inner.due(Tick(2))), [(1, 1), (2, 2)]);
        assert_eq!(told(inner.due(Tick(2))), []);
        // Of ticks 3 and 4 only the first is of both lines.
        inner.rewind(Tick(3));
        called(4, 7).for_each(|happened| inner.wait(happened));
        assert_eq!(told(inner.due(Tick(9))), [(3, 3), (4, 7)]);
        assert_eq!((inner.happened_rows, inner.left_out), (0, 0));
        for tick in 10..=12 {
            called(tick, 30_000).for_each(|happened| inner.wait(happened));
        }
        assert!(inner.happened_rows <= EVENTS_KEPT && inner.left_out > 90_000 - EVENTS_KEPT - 512);
        let due = told(inner.due(Tick(12)));
        assert_eq!(due.iter().map(|(_, len)| len).sum::<usize>() + inner.left_out, 90_000);
        assert_eq!((due.last().unwrap().0, inner.happened_rows), (12, 0));
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
                    // Told once more when the mirror ends.
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
