//! The sampling verifier: computes ticks of a running world a second time, and compares what comes out.
//!
//! A thread that has the CPU only when nobody else wants it (T4) restores a snapshot into a world of its own, on one
//! thread, computes the ticks after it again from the log, and compares the state with each hash that is known on the
//! way; then it goes to the newest snapshots. So it finds what would else be found by the next recovery: a system
//! whose results depend on more than the state, a snapshot that does not load, memory that lies. The world that runs
//! never waits for it. Deliberately absent: any repair.

use crate::{
    clock,
    history::{History, Timeline},
    metrics::WorldMetrics,
    pool,
    questions::{FieldDifference, ImageDiff, diff_images},
    spine::{SpineError, chain},
    status::WorldStatus,
};
use everworld_engine::{LiveWorld, MirrorHandle, Options, Parallel, Pool, StateHash, Tick};
use everworld_persistence::SnapshotMeta;
use serde::Serialize;
use serde_json::Value;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::Duration,
};

/// What the verifier is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// There is none.
    #[default]
    Off,
    /// Waiting for its next turn, or for ticks that it has not seen.
    Waiting,
    /// Computing ticks again.
    Verifying,
    /// It does nothing, and says why.
    Skipping,
}

/// How far the verification of a world has come in this process.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verification {
    /// What it does.
    pub state: Doing,
    /// Why it does nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Ticks that were computed again; each counts once.
    pub verified_ticks: u64,
    /// Their share of all ticks of this process.
    pub coverage: f64,
    /// The newest of them.
    pub last_tick: Tick,
    /// Hashes that were compared.
    pub hashes_compared: u64,
    /// Stretches that came out differently.
    pub mismatches: u64,
    /// Snapshots that could not be read.
    pub unreadable: u64,
    /// The newest mismatch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mismatch: Option<Mismatch>,
}

/// Ticks that came out differently when they were computed again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mismatch {
    /// Their line of history.
    pub branch: u32,
    /// The first tick that is known to differ.
    pub tick: Tick,
    /// The last one that is known to agree.
    pub agrees_until: Tick,
    /// The hash that was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<StateHash>,
    /// The hash that came out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<StateHash>,
    /// Why no state came out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What differs, from the next snapshot to what came out at its tick.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differs: Option<(Tick, ImageDiff)>,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tick, agrees_until, .. } = self;
        write!(f, "ticks computed again agree until {agrees_until}, tick {tick} ")?;
        match (&self.failure, self.expected, self.found) {
            (Some(failure), ..) => write!(f, "fails: {failure}")?,
            (None, Some(expected), Some(found)) => write!(f, "has the hash {found} instead of {expected}")?,
            _ => write!(f, "differs")?,
        }
        let Some((tick, diff)) = &self.differs else { return Ok(()) };
        write!(f, "; at tick {tick} {} entities differ", diff.added + diff.removed + diff.changed)?;
        if let Some(first) = diff.items.first() {
            write!(f, ", first entity {} {}", first.uid, first.change)?;
            if let Some(FieldDifference { field, from, to }) = first.fields.first() {
                let text =
                    |value: &Option<Value>| value.as_ref().map_or_else(|| "none".into(), Value::to_string);
                write!(f, ": {field} is {} instead of {}", text(to), text(from))?;
            }
        }
        if !diff.resources.is_empty() {
            write!(f, ", resources: {}", diff.resources.join(", "))?;
        }
        Ok(())
    }
}

/// How it goes about it.
#[derive(Clone, Copy, Debug)]
pub struct VerifyOptions {
    /// Between two stretches.
    pub pause: Duration,
    /// So many ticks in one stretch, or up to the next known hash.
    pub ticks_max: u64,
    /// The second world and the snapshot that it comes from may take so much (L1).
    pub memory_bytes_max: u64,
}

/// A verifier that runs. It stops when it is dropped.
pub struct Verifier {
    stopping: Arc<AtomicBool>,
    wake: Option<Sender<()>>,
    ended: Receiver<()>,
}

/// So many entities of a mismatch are shown.
const SHOWN_MAX: usize = 10;

/// Who stops the world waits so long for the verifier to let go of its files.
const STOP_WAIT: Duration = Duration::from_secs(1);

impl Verifier {
    /// Starts one for a world that began this process at its present tick.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(
        history: History,
        mirror: MirrorHandle,
        status: Arc<WorldStatus>,
        metrics: WorldMetrics,
        options: VerifyOptions,
    ) -> io::Result<Self> {
        let (wake, woken) = channel();
        let (ends, ended) = channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let shown = status.shown();
        let from = (shown.branch, shown.tick);
        let mut work = Work { history, mirror, status, metrics, options, stopping: stopping.clone(), from };
        let body = move || {
            pool::idle();
            let _ends = ends;
            work.run(&woken);
        };
        std::thread::Builder::new().name("verify".into()).spawn(body)?;
        Ok(Self { stopping, wake: Some(wake), ended })
    }

    /// Stops it, and waits a moment until it has.
    pub fn finish(&mut self) {
        self.stopping.store(true, Relaxed);
        drop(self.wake.take());
        // What takes longer only reads, and ends with the process.
        let _ = self.ended.recv_timeout(STOP_WAIT);
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.stopping.store(true, Relaxed);
    }
}

/// The thread's own.
struct Work {
    history: History,
    mirror: MirrorHandle,
    status: Arc<WorldStatus>,
    metrics: WorldMetrics,
    options: VerifyOptions,
    stopping: Arc<AtomicBool>,
    /// The line of history, and its last tick that needs no verification any more.
    from: (u32, Tick),
}

/// What a stretch came to.
enum Outcome {
    /// There is nothing that was not seen.
    Nothing,
    /// The ticks after the first one were computed again, up to the second.
    Done(Tick, Tick),
    /// Somebody wants the world to end.
    Stopped,
}

impl Work {
    fn run(&mut self, woken: &Receiver<()>) {
        let pool = match Pool::start(1, "verify", |_| pool::idle()) {
            Ok(pool) => Arc::new(pool),
            Err(error) => return self.show(Doing::Skipping, Some(error.to_string())),
        };
        loop {
            if self.status.verification().state != Doing::Skipping {
                self.show(Doing::Waiting, None);
            }
            match woken.recv_timeout(self.options.pause.max(Duration::from_millis(1))) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
            }
            self.cover();
            if let Some(why) = self.too_large() {
                self.show(Doing::Skipping, Some(why));
                continue;
            }
            self.show(Doing::Verifying, None);
            // A panic is a bug of a system or ours: reported by the hook, and no reason to disturb the world.
            let stretch = std::panic::AssertUnwindSafe(|| pool.install(|| self.stretch(&pool)));
            match std::panic::catch_unwind(stretch) {
                Ok(Ok(Outcome::Stopped)) => break,
                Ok(Ok(Outcome::Nothing)) => {}
                Ok(Ok(Outcome::Done(begin, end))) => self.note(begin, end),
                Ok(Err(error)) => {
                    tracing::warn!(world = self.history.world, "could not verify: {}", chain(&error));
                    self.show(Doing::Skipping, Some(chain(&error)));
                }
                Err(_) => return self.show(Doing::Skipping, Some("the verifier has panicked".into())),
            }
            self.cover();
        }
        self.show(Doing::Off, None);
    }

    /// Why a second world does not fit, if so.
    fn too_large(&self) -> Option<String> {
        let bytes = self.mirror.shown()?.bytes as u64;
        let (needed, max) = (bytes.saturating_mul(2), self.options.memory_bytes_max);
        let why = || {
            format!(
                "a second world of {bytes} bytes and its snapshot take {needed}, verify.memory_bytes_max is {max}"
            )
        };
        (needed > max).then(why)
    }

    /// Computes some ticks again.
    fn stretch(&mut self, pool: &Arc<Pool>) -> Result<Outcome, SpineError> {
        let branches = self.history.branches();
        let branch = branches.current();
        if branch != self.from.0 {
            let begins =
                branches.0.iter().find(|info| info.branch == branch).map_or(Tick(0), |info| info.tick);
            self.from = (branch, self.from.1.min(begins));
        }
        let mut snapshots = self.history.snapshots();
        let on_the_way = |meta: &SnapshotMeta| {
            branches.on_the_way((meta.branch, meta.tick), (branch, Tick(u64::MAX)))
                && meta.build_id == self.history.build_id
        };
        snapshots.retain(on_the_way);
        snapshots.sort_by_key(|meta| (meta.tick, meta.branch));
        let Some(begin) = self.begin(&snapshots) else { return Ok(Outcome::Nothing) };
        let options = Options { pool: pool.clone(), parallel: Parallel::Auto, stopwatch: clock::stopwatch() };
        let begun = self.history.begin_with(&begin, branch, &options);
        let (live, timeline) = match begun {
            Ok(begun) => begun,
            Err(error) => return self.unreadable(&begin, error),
        };
        let fresh = |tick: &Tick| *tick > begin.tick && *tick > self.from.1;
        let limit = Tick(self.from.1.max(begin.tick).0.saturating_add(self.options.ticks_max));
        // With a snapshot at its end, a mismatch can be looked into.
        let known: Vec<Tick> = snapshots.iter().map(|meta| meta.tick).filter(fresh).collect();
        let end = known.iter().copied().filter(|tick| *tick <= limit).max();
        let end = if let Some(end) = end.or_else(|| known.into_iter().min()) {
            Some(end)
        } else {
            let after = begin.tick.max(self.from.1);
            self.history.checkpoint_up_to(timeline.told.begin.lsn + 1, branch, (after, limit))?
        };
        let Some(end) = end.filter(|_| !timeline.migrated) else { return Ok(Outcome::Nothing) };
        self.replay(live, timeline, branch, end, &snapshots)
    }

    /// The snapshot to begin with: at the last verified tick, or as near to the newest as a stretch is long.
    fn begin(&self, snapshots: &[SnapshotMeta]) -> Option<SnapshotMeta> {
        let newest = snapshots.last()?;
        if newest.tick <= self.from.1 {
            // Where snapshots are rare there are hashes in the log behind it.
            let behind = self.status.tick().0.saturating_sub(self.from.1.0);
            return Some(*newest).filter(|_| behind > self.options.ticks_max);
        }
        let low = self.from.1.max(Tick(newest.tick.0.saturating_sub(self.options.ticks_max)));
        let earlier = || snapshots.iter().filter(|meta| meta.tick < newest.tick);
        let found = earlier().find(|meta| meta.tick >= low).or_else(|| earlier().next_back());
        Some(*found.unwrap_or(newest))
    }

    fn replay(
        &mut self,
        mut live: LiveWorld,
        mut timeline: Timeline,
        branch: u32,
        end: Tick,
        snapshots: &[SnapshotMeta],
    ) -> Result<Outcome, SpineError> {
        let begin = live.now();
        let mut agrees_until = begin;
        let mut mismatch: Option<Mismatch> = None;
        while live.now() < end {
            if self.stopping.load(Relaxed) || self.status.is_stopping() {
                return Ok(Outcome::Stopped);
            }
            let tick = live.now().next();
            let mismatch_of = |expected, found, failure| Mismatch {
                branch,
                tick,
                agrees_until,
                expected,
                found,
                failure,
                differs: None,
            };
            if let Err(error) = timeline.advance(&mut live)? {
                // In the world that runs it did not fail.
                let failed = mismatch_of(None, None, Some(chain(&error)));
                self.found(mismatch.unwrap_or(failed));
                return Ok(Outcome::Done(begin, end));
            }
            let snapshot = snapshots.iter().find(|meta| meta.tick == tick);
            let known = timeline.checkpoint(tick)?.or(snapshot.map(|meta| meta.hash));
            let Some(expected) = known else { continue };
            let found = live.state_hash();
            self.status.with_verification(|verification| verification.hashes_compared += 1);
            let agrees = found == expected && snapshot.is_none_or(|meta| meta.hash == found);
            if agrees && mismatch.is_none() {
                agrees_until = tick;
                continue;
            }
            let first = mismatch.get_or_insert_with(|| {
                let expected =
                    snapshot.map(|meta| meta.hash).filter(|hash| *hash != found).unwrap_or(expected);
                mismatch_of(Some(expected), Some(found), None)
            });
            if let Some(meta) = snapshot {
                let (registry, found) = (live.registry().clone(), live.image());
                // Not three of them at a time.
                drop(live);
                if let Ok(recorded) = self.history.stored(meta) {
                    let diff = diff_images(&registry, &recorded, &found, SHOWN_MAX);
                    first.differs = Some((tick, diff)).filter(|(_, diff)| !diff.same);
                }
                self.found(first.clone());
                return Ok(Outcome::Done(begin, end));
            }
        }
        if let Some(mismatch) = mismatch {
            self.found(mismatch);
        }
        Ok(Outcome::Done(begin, end))
    }

    fn found(&self, mismatch: Mismatch) {
        tracing::error!(world = self.history.world, tick = %mismatch.tick, "the world is not reproducible: {mismatch}");
        self.metrics.mismatches.inc();
        self.status.alert(format!("the world is not reproducible: {mismatch}"));
        self.status.with_verification(|verification| {
            verification.mismatches += 1;
            verification.mismatch = Some(mismatch);
        });
    }

    /// A snapshot that does not load, unless it was removed meanwhile.
    fn unreadable(&mut self, meta: &SnapshotMeta, error: SpineError) -> Result<Outcome, SpineError> {
        if !matches!(error, SpineError::NotKept { .. }) {
            return Err(error);
        }
        if self.history.snapshots().iter().any(|kept| (kept.branch, kept.tick) == (meta.branch, meta.tick)) {
            tracing::error!(
                world = self.history.world,
                tick = %meta.tick,
                "a snapshot that is kept cannot be read: {}",
                chain(&error)
            );
            self.status.alert(format!("a snapshot that is kept cannot be read: {}", chain(&error)));
            self.status.with_verification(|verification| verification.unreadable += 1);
        }
        // From later ones on.
        self.from.1 = self.from.1.max(meta.tick.next());
        Ok(Outcome::Nothing)
    }

    /// Ticks between these were computed again.
    fn note(&mut self, begin: Tick, end: Tick) {
        let fresh = end.0.saturating_sub(self.from.1.max(begin).0);
        self.from.1 = self.from.1.max(end);
        self.metrics.verified_ticks.inc_by(fresh);
        self.status.with_verification(|verification| {
            verification.verified_ticks += fresh;
            verification.last_tick = end;
        });
    }

    fn show(&self, state: Doing, reason: Option<String>) {
        self.status.with_verification(|verification| {
            verification.state = state;
            verification.reason = reason;
        });
    }

    fn cover(&self) {
        let ticks = self.metrics.ticks();
        self.status.with_verification(|verification| {
            verification.coverage = verification.verified_ticks as f64 / ticks.max(1) as f64;
        });
    }
}
