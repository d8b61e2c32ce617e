//! The scrubber: reads what a running world keeps again from the disk, and compares every checksum.
//!
//! A disk may lose bytes that nobody reads for weeks; a recovery is the wrong moment to find out. So a thread that has
//! the CPU only when nobody else wants it (T4) goes through the kept epochs and the log, so many bytes a second, and
//! begins anew after a pause. The system's own memory of the files is passed by, where the file system lets it. What is
//! found is told by an error line, metrics and the world's status, and no longer relied on: a damaged epoch counts no
//! more as one of those that are always kept, and where snapshots went into it they go into a new one; a damaged segment
//! of the log gets no more records, and where a recovery would read it a new snapshot makes it do without. Deliberately absent:
//! any repair: older epochs and the log stay until what replaces them is there.

use crate::{clock, metrics::WorldMetrics, pool, spine::chain, status::WorldStatus};
use everworld_persistence::{LogHandle, Scrubbed, Store};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fmt, io, mem,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::Duration,
};

/// What the scrubs of a world have come to in this process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Scrub {
    /// Whether there is a scrubber.
    pub enabled: bool,
    /// Times that everything was read.
    pub passes: u64,
    /// Bytes that were read and compared.
    pub bytes: u64,
    /// Damaged files, as the last whole pass or the one since has found them.
    pub damaged: Vec<String>,
}

/// How it goes about it.
#[derive(Clone, Copy, Debug)]
pub struct ScrubOptions {
    /// So much is read, in 1,000,000 bytes a second.
    pub mb_per_sec: f64,
    /// From the end of one pass to the beginning of the next, and before the first.
    pub pause: Duration,
}

/// A scrubber that runs. It stops when it is dropped.
pub struct Scrubber {
    wake: Option<Sender<()>>,
    ended: Receiver<()>,
}

/// Who stops the world waits so long for the scrubber to let go of its files.
const STOP_WAIT: Duration = Duration::from_secs(1);
/// So many damaged files are named in the status (L1).
const SHOWN_MAX: usize = 16;

impl Scrubber {
    /// Starts one. `snapshot_now` is asked for when what is damaged would be needed else.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(
        store: Arc<Store>,
        log: LogHandle,
        world: &str,
        status: Arc<WorldStatus>,
        metrics: WorldMetrics,
        options: ScrubOptions,
        snapshot_now: Box<dyn Fn() + Send>,
    ) -> io::Result<Self> {
        let (wake, woken) = channel();
        let (ends, ended) = channel();
        let (world, known) = (world.to_owned(), BTreeSet::new());
        let mut work = Work { store, log, world, status, metrics, options, snapshot_now, woken, known };
        let body = move || {
            pool::idle();
            let _ends = ends;
            work.status.with_scrub(|scrub| scrub.enabled = true);
            while work.wait(work.options.pause) {
                work.pass();
            }
            work.status.with_scrub(|scrub| scrub.enabled = false);
        };
        std::thread::Builder::new().name("scrub".into()).spawn(body)?;
        Ok(Self { wake: Some(wake), ended })
    }

    /// Stops it, and waits a moment until it has.
    pub fn finish(&mut self) {
        drop(self.wake.take());
        // What takes longer only reads, and ends with the process.
        let _ = self.ended.recv_timeout(STOP_WAIT);
    }
}

/// The thread's own.
struct Work {
    store: Arc<Store>,
    log: LogHandle,
    world: String,
    status: Arc<WorldStatus>,
    metrics: WorldMetrics,
    options: ScrubOptions,
    snapshot_now: Box<dyn Fn() + Send>,
    woken: Receiver<()>,
    /// The damage that was told already.
    known: BTreeSet<String>,
}

/// What a pass has found.
struct Damage {
    what: String,
    /// Whether a recovery would need the file: a snapshot changes that, and the damage stays the same.
    is_needed: bool,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if self.is_needed {
            f.write_str("; a recovery would need it until the next snapshot")
        } else {
            Ok(())
        }
    }
}

impl Work {
    /// False when somebody wants it to end.
    fn wait(&self, pause: Duration) -> bool {
        matches!(self.woken.recv_timeout(pause), Err(RecvTimeoutError::Timeout))
    }

    /// Reads everything once.
    fn pass(&mut self) {
        let begun = clock::now_nanos();
        let (mut bytes, mut goes_on) = (0u64, true);
        let mut progress = |next: u64| {
            bytes += next;
            self.metrics.scrubbed_bytes.inc_by(next);
            self.status.with_scrub(|scrub| scrub.bytes += next);
            let due = Duration::from_secs_f64(bytes as f64 / (self.options.mb_per_sec * 1e6));
            let spent = Duration::from_nanos(clock::now_nanos() - begun);
            goes_on = goes_on && !self.status.is_stopping() && self.wait(due.saturating_sub(spent));
            goes_on
        };
        let mut found: Vec<Damage> = Vec::new();
        let newest_epoch_is_damaged = {
            let Scrubbed { damaged, in_use } = self.store.scrub(&mut progress);
            found.extend(damaged.iter().map(|error| Damage { what: chain(error), is_needed: false }));
            in_use
        };
        match self.log.scrub(&mut progress) {
            Ok(faults) => {
                let newest = self.store.snapshots().kept.first().map_or(0, |meta| meta.lsn);
                if faults.iter().any(|fault| fault.last_lsn.is_none())
                    && let Err(error) = self.log.begin_segment()
                {
                    tracing::warn!(
                        world = self.world,
                        "could not go on behind the damage: {}",
                        chain(&error)
                    );
                }
                found.extend(faults.iter().map(|fault| {
                    let is_needed = fault.last_lsn.is_none_or(|last| last > newest);
                    Damage { what: chain(&fault.error), is_needed }
                }));
            }
            Err(error) => tracing::warn!(world = self.world, "could not scrub the log: {}", chain(&error)),
        }
        let snapshot = newest_epoch_is_damaged || found.iter().any(|damage| damage.is_needed);
        let mut known = if goes_on { BTreeSet::new() } else { mem::take(&mut self.known) };
        for damage in &found {
            if known.insert(damage.what.clone()) && !self.known.contains(&damage.what) {
                tracing::error!(world = self.world, "found damage on the disk: {damage}");
                self.status.alert(format!("found damage on the disk: {damage}"));
                self.metrics.scrub_faults.inc();
            }
        }
        self.known = known;
        if snapshot && goes_on {
            (self.snapshot_now)();
        }
        if goes_on {
            self.metrics.scrub_passes.inc();
        }
        found.truncate(SHOWN_MAX);
        self.status.with_scrub(|scrub| {
            scrub.passes += u64::from(goes_on);
            if goes_on || !found.is_empty() {
                scrub.damaged = found.iter().map(ToString::to_string).collect();
            }
        });
    }
}
