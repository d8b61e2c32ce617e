//! Snapshots on a thread of their own (T1): encoding and writing never touch the tick.

use crate::{
    clock,
    events::What,
    history::{HostState, HostStates},
    metrics::WorldMetrics,
    pool::{self, Haste},
    sequencer::Sequencer,
    spine,
    status::WorldStatus,
};
use everworld_engine::{Image, Tick};
use everworld_persistence::{LogHandle, Store};
use parking_lot::Mutex;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

/// Between a failed snapshot and the next try; twice as long each time.
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_mins(1);

/// How a snapshot that is being written shares the CPU with the ticks. What comes after its tick is what a recovery
/// computes again, so it may not wait for ever.
struct Pressure {
    status: Arc<WorldStatus>,
    /// The tick of the snapshot.
    tick: AtomicU64,
    /// After so many ticks it asks for more than what nobody else wants, and after twice as many for all that nice threads get;
    /// beside a world that leaves nothing over after half of them for more than a thread that ticks.
    patience: AtomicU64,
    /// The tick since which it is due.
    due: AtomicU64,
    /// So many ticks after it was due the one before it was done.
    delay: AtomicU64,
}

impl Pressure {
    fn haste(&self) -> Haste {
        let passed = self.status.tick().0.saturating_sub(self.tick.load(SeqCst));
        let patience = self.patience.load(SeqCst);
        match self.status.rests() {
            true if passed <= patience => Haste::Idle,
            true if passed / 2 <= patience => Haste::Paced,
            true => Haste::Steady,
            // Whatever it takes it takes from the ticks, sooner or later; later there are more of them to compute again, and
            // the next one has to come so much sooner. If it was so the last time, it is now.
            false if passed.max(self.delay.load(SeqCst)) <= patience / 2 => Haste::Paced,
            false => Haste::Urgent,
        }
    }
}

/// Waits; false when there is nothing more to come.
fn wait<T>(incoming: &Receiver<T>, pause: Duration) -> bool {
    let end = clock::now_nanos() + pause.as_nanos() as u64;
    while clock::now_nanos() < end {
        // Nothing is handed over meanwhile: who offers does not wait for a taker.
        if let Err(TryRecvError::Disconnected) = incoming.try_recv() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// When the next snapshot is due.
pub(super) struct Every {
    /// So long after the last one;
    pub(super) millis: u64,
    /// earlier, but no earlier than this,
    pub(super) least_millis: u64,
    /// where the ticks since the last one would be as many when it is written.
    pub(super) ticks: u64,
}

pub(super) struct Snapshots {
    work: Option<SyncSender<(HostState, Arc<Image>)>>,
    thread: Option<JoinHandle<()>>,
    last: Option<Tick>,
    last_nanos: u64,
    /// Since when it is time for the next one.
    due: Option<Tick>,
    pressure: Arc<Pressure>,
    /// One is being written.
    busy: Arc<AtomicBool>,
    retention: Retention,
}

/// Says that a snapshot is done, however it ends.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

/// Whether what is old may be removed. Not while a rewind may stand on it.
#[derive(Clone, Default)]
pub(super) struct Retention {
    held: Arc<AtomicBool>,
    removing: Arc<Mutex<()>>,
}

impl Retention {
    /// Nothing is removed from now on, but for what is on its way.
    pub(super) fn hold(&self) {
        self.held.store(true, SeqCst);
    }

    /// Waits for what is on its way. Not on the tick's thread.
    pub(super) fn settled(&self) {
        drop(self.removing.lock());
    }

    /// Goes on, with snapshots of the branch that the status names.
    pub(super) fn release(&self) {
        self.held.store(false, SeqCst);
    }

    fn remove(&self, status: &WorldStatus, branch: u32, prune: impl FnOnce()) {
        let _removing = self.removing.lock();
        // In this order: a branch gets its name before the hold for it ends. And not while a new branch has no
        // snapshot of its own yet.
        if !self.held.load(SeqCst) && branch == status.branch() {
            prune();
        }
    }
}

impl Snapshots {
    pub(super) fn start(
        store: Arc<Store>,
        log: LogHandle,
        sequencer: Arc<Sequencer>,
        world: &str,
        status: Arc<WorldStatus>,
        metrics: WorldMetrics,
        last: Option<Tick>,
    ) -> io::Result<Self> {
        status.set_last_snapshot(last.unwrap_or_default());
        // One waits at the most (L1): while the disk is slow the period gives way, never the tick.
        let (work, incoming) = sync_channel::<(HostState, Arc<Image>)>(0);
        let world = world.to_owned();
        let retention = Retention::default();
        let keeping = retention.clone();
        let busy = Arc::new(AtomicBool::new(false));
        let done = busy.clone();
        let pressure = Arc::new(Pressure {
            status: status.clone(),
            tick: AtomicU64::new(0),
            patience: AtomicU64::new(u64::MAX),
            due: AtomicU64::new(0),
            delay: AtomicU64::new(0),
        });
        let under = pressure.clone();
        let body = move || {
            let felt = under.clone();
            pool::stand_aside(move || felt.haste());
            // At first, and after a failure, nobody knows what the store has of the keys.
            let mut all_keys = true;
            let mut pause = RETRY_PAUSE_MIN;
            while let Ok((host, image)) = incoming.recv() {
                let _done = Done(&done);
                under.tick.store(image.tick.0, SeqCst);
                let (tick, branch) = (image.tick, host.branches.current());
                let keys = sequencer.keys_to_store(std::mem::take(&mut all_keys));
                match spine::write_snapshot(&store, &log, image, host, &keys) {
                    Ok(stats) => {
                        status.set_last_snapshot(tick);
                        status.tell(What::Snapshot { branch, tick });
                        let due = under.due.load(SeqCst);
                        under.delay.store(status.tick().0.saturating_sub(due), SeqCst);
                        metrics.snapshots_written.inc();
                        status.set_unsaved(None);
                        pause = RETRY_PAUSE_MIN;
                        // Nobody waits for what comes now.
                        under.tick.store(u64::MAX, SeqCst);
                        pool::settle();
                        keeping.remove(&status, branch, || {
                            if let Err(error) = spine::prune(&store, &log, &world) {
                                tracing::error!(world, "could not prune: {}", spine::chain(&error));
                            }
                        });
                        tracing::debug!(world, %tick, bytes = stats.written_bytes, "snapshot written");
                    }
                    Err(error) => {
                        all_keys = true;
                        metrics.snapshots_failed.inc();
                        // The log has everything: the world goes on, a recovery takes longer.
                        let why = format!("could not write a snapshot: {}", spine::chain(&error));
                        tracing::error!(world, %tick, "{why}");
                        status.alert(why.as_str());
                        status.set_unsaved(Some(why));
                        let goes_on = wait(&incoming, pause);
                        pause = (pause * 2).min(RETRY_PAUSE_MAX);
                        // The last snapshot of a world that ends is worth a try, too.
                        if let Err(error) = store.begin_anew() {
                            tracing::error!(world, "could not begin a new epoch: {}", spine::chain(&error));
                        }
                        if !goes_on {
                            return;
                        }
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("snapshots".into()).spawn(body)?;
        let last_nanos = clock::now_nanos();
        Ok(Self {
            work: Some(work),
            thread: Some(thread),
            last,
            last_nanos,
            due: None,
            pressure,
            busy,
            retention,
        })
    }

    /// Since which tick it is time for the next one, asked at this tick. Not while one is being written: a view that waits for
    /// its turn grows old, and costs copies of all that changes meanwhile.
    pub(super) fn due_since(&mut self, tick: Tick, now: u64, every: Every) -> Option<Tick> {
        let millis = now.saturating_sub(self.last_nanos) / 1_000_000;
        // A new world has one of its beginning.
        let passed = tick.0.saturating_sub(self.last.unwrap_or_default().0);
        let is_far = || millis >= every.least_millis && passed + self.delay() >= every.ticks;
        let is_time = self.last_nanos == 0 || millis >= every.millis || is_far();
        let is_due = is_time && !self.busy.load(SeqCst);
        // What was due on one line of history is not on another.
        self.due = is_due.then(|| self.due.filter(|due| *due <= tick).unwrap_or(tick));
        self.due
    }

    /// Offers a visible view: what may be seen is covered by the log (D2), so its snapshot is too (D7).
    pub(super) fn offer(&mut self, view: Arc<Image>, due: Tick, states: &HostStates) {
        if self.last.is_some_and(|last| view.tick <= last) {
            return;
        }
        let Some(work) = &self.work else { return };
        let Some(host) = states.of(view.tick) else { return };
        let tick = view.tick;
        // Taken only when the thread is idle; else the next tick offers again.
        self.busy.store(true, SeqCst);
        self.pressure.due.store(due.0, SeqCst);
        if work.try_send((host, view)).is_err() {
            self.busy.store(false, SeqCst);
        } else {
            self.last = Some(tick);
            self.last_nanos = clock::now_nanos();
            self.due = None;
        }
    }

    /// How many ticks it took the last snapshot to be written since it was due.
    pub(super) fn delay(&self) -> u64 {
        self.pressure.delay.load(SeqCst)
    }

    /// After so many ticks a snapshot that is being written asks for more CPU.
    pub(super) fn set_patience(&self, ticks: u64) {
        self.pressure.patience.store(ticks, SeqCst);
    }

    /// Another line of history has begun: its first snapshot is wanted now.
    pub(super) fn rewound(&mut self) {
        self.last = None;
        self.last_nanos = 0;
        self.due = None;
    }

    /// What a rewind stands on is kept by it.
    pub(super) fn retention(&self) -> &Retention {
        &self.retention
    }

    /// Somebody asks for one now.
    pub(super) fn wanted(&mut self) {
        self.last_nanos = 0;
    }

    /// Whether one is wanted now.
    pub(super) fn is_wanted(&self) -> bool {
        self.last_nanos == 0 && !self.busy.load(SeqCst)
    }

    /// Waits for the snapshot that is being written.
    pub(super) fn finish(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by the panic hook; the log has everything.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_takes_long_takes_more() {
        let status = Arc::new(WorldStatus::default());
        let pressure = Pressure {
            status: status.clone(),
            tick: AtomicU64::new(100),
            patience: AtomicU64::new(10),
            due: AtomicU64::new(0),
            delay: AtomicU64::new(0),
        };
        let haste = |tick: u64, millihertz: u64| {
            status.publish(0, Tick(tick), 0);
            status.set_millihertz(millihertz);
            pressure.haste()
        };
        assert_eq!(
            [110, 111, 121, 122].map(|tick| haste(tick, 10_000)),
            [Haste::Idle, Haste::Paced, Haste::Paced, Haste::Steady]
        );
        assert_eq!(
            [101, 105, 106].map(|tick| haste(tick, 0)),
            [Haste::Paced, Haste::Paced, Haste::Urgent],
            "beside a world that never rests nothing is left over"
        );
        pressure.delay.store(6, SeqCst);
        assert_eq!(haste(101, 0), Haste::Urgent, "one that was late is no later for waiting");
        assert_eq!(haste(40, 10_000), Haste::Idle, "another line of history");
    }

    #[test]
    fn nothing_is_removed_while_a_rewind_stands_on_it() {
        let (retention, status) = (Retention::default(), WorldStatus::default());
        let removes = |branch| {
            let mut removed = false;
            retention.remove(&status, branch, || removed = true);
            removed
        };
        assert!(removes(0));
        retention.hold();
        assert!(!removes(0));
        retention.settled();
        status.publish(1, Tick(0), 0);
        retention.release();
        assert!(!removes(0), "the new branch has no snapshot yet");
        assert!(removes(1));
    }
}
