//! Disks that are slow, or full: the world goes on, inputs are refused, and nothing that was acknowledged is lost.

use super::{
    hook::{HookDisk, Verdict},
    judge::Findings,
    life::Fact,
    small::{PATIENCE, Small, judge_all},
};
use anyhow::ensure;
use everworld::{config::Config, sequencer::Submitted};
use everworld_engine::Tick;
use everworld_persistence::{
    Disk,
    sim::{Cut, SimDisk},
};
use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// What became of a world on such a disk.
#[derive(Default)]
pub(crate) struct Scarcity {
    /// Inputs that were taken, and those that were refused (503).
    pub(crate) taken: u64,
    pub(crate) refused: u64,
    /// Ticks that were computed meanwhile, and those that took as long as a sync.
    pub(crate) ticks: u64,
    pub(crate) held_up: u64,
    /// Operations that the disk refused.
    pub(crate) fired: u64,
    pub(crate) findings: Findings,
}

/// Inputs on their way.
#[derive(Default)]
struct Sent {
    next_mark: u64,
    waiting: Vec<(u64, Submitted)>,
    facts: Vec<(u64, Fact)>,
}

impl Sent {
    /// True when it was taken.
    fn send(&mut self, small: &Small, bytes: usize) -> anyhow::Result<bool> {
        let Some(submitted) = small.try_submit(self.next_mark + 1, bytes)? else { return Ok(false) };
        self.next_mark += 1;
        self.waiting.push((self.next_mark, submitted));
        Ok(true)
    }

    /// Takes down what is acknowledged.
    fn look(&mut self) {
        let Self { waiting, facts, .. } = self;
        waiting.retain_mut(|(mark, submitted)| match submitted.durable.try_recv() {
            Ok(Ok(())) => {
                facts.push((0, Fact::Acknowledged { seq: submitted.seq, mark: *mark }));
                false
            }
            Ok(Err(_)) => false,
            Err(_) => true,
        });
    }

    fn all_acknowledged(&mut self, small: &Small) -> anyhow::Result<()> {
        small.until("all inputs are acknowledged", |_| {
            self.look();
            self.waiting.is_empty()
        })
    }
}

const SLOW_SYNC: Duration = Duration::from_millis(500);
/// So many ticks show that a world goes on.
const TICKS_MIN: u64 = 20;

/// Syncs take half a second: ticks do not wait for them, queues fill, then inputs are refused.
pub(crate) fn slow_disk(rounds: u32) -> anyhow::Result<Scarcity> {
    let disk = SimDisk::default();
    let small = Small::start(Arc::new(disk.clone()), false, |config: &mut Config| {
        // What is left to the host's records is more than comes of them in two syncs.
        config.log.queue_len_max = 1_024;
        config.log.segment_bytes = 4 << 20;
        config.tick.rate_hz = 40.0;
    })?;
    let mut scarcity = Scarcity::default();
    let mut sent = Sent::default();
    let mut images = Vec::new();
    disk.set_sync_delay(SLOW_SYNC);
    for _ in 0..rounds {
        let (before, begun, refused) = (small.computed(), Instant::now(), scarcity.refused);
        let is_done = |refused_now: u64| {
            let ticks = small.computed().0 - before.0;
            refused_now > refused && ticks >= TICKS_MIN && begun.elapsed() > 3 * SLOW_SYNC
        };
        while !is_done(scarcity.refused) {
            ensure!(begun.elapsed() < PATIENCE, "the queue does not fill, or no tick comes");
            // As quick as they are taken; who is refused comes again later.
            if sent.send(&small, 100)? {
                scarcity.taken += 1;
            } else {
                scarcity.refused += 1;
                sent.look();
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        scarcity.ticks += small.computed().0 - before.0;
        let long = |nanos| u128::from(nanos) >= SLOW_SYNC.as_nanos() * 9 / 10;
        let ticks = small.status().recent_ticks(before);
        scarcity.held_up += ticks.iter().filter(|times| long(times.total_nanos)).count() as u64;
        let mut facts = sent.facts.clone();
        facts.extend(small.seen()?);
        images.push((disk.cut(Cut::Synced), facts));
    }
    disk.set_sync_delay(Duration::ZERO);
    sent.all_acknowledged(&small)?;
    images.push((disk.cut(Cut::Synced), sent.facts));
    judge_each(small, images, &mut scarcity)?;
    Ok(scarcity)
}

/// The disk is full: the log reserves no more, inputs are refused, ticks go on and are shown; when there is room again,
/// inputs are taken.
pub(crate) fn full_disk() -> anyhow::Result<Scarcity> {
    let disk = SimDisk::default();
    let small = Small::start(Arc::new(disk.clone()), false, |config: &mut Config| {
        config.tick.rate_hz = 200.0;
        config.log.segment_bytes = 1 << 20;
        config.log.horizon_lease_millis = 100;
    })?;
    let mut scarcity = Scarcity::default();
    let mut sent = Sent::default();
    disk.set_space_left(Some(0));
    let begun = Instant::now();
    let mut full_at: Option<Tick> = None;
    while full_at.is_none_or(|at| small.shown().0 < at.0 + TICKS_MIN) {
        ensure!(
            begun.elapsed() < PATIENCE,
            "the disk does not run full, or the world stands still then: {full_at:?}"
        );
        if sent.send(&small, 20_000)? {
            scarcity.taken += 1;
        } else {
            scarcity.refused += 1;
            full_at.get_or_insert_with(|| small.computed());
        }
        sent.look();
        std::thread::sleep(Duration::from_millis(1));
    }
    scarcity.ticks = full_at.map_or(0, |at| small.computed().0 - at.0);
    ensure!(small.running()?.mirror.peek().is_some(), "the world cannot be read");
    let mut facts = sent.facts.clone();
    facts.extend(small.seen()?);
    let mut images = vec![(disk.cut(Cut::Synced), facts)];
    disk.set_space_left(None);
    small.until("inputs are taken again", |small| sent.send(small, 20_000).unwrap_or(false))?;
    sent.all_acknowledged(&small)?;
    let before = small.shown();
    small.until("ticks are shown again", |small| small.shown() > before)?;
    images.push((disk.cut(Cut::Synced), sent.facts));
    judge_each(small, images, &mut scarcity)?;
    Ok(scarcity)
}

/// There is no room for snapshots: they fail, with longer and longer pauses; the log has everything, the world goes on.
pub(crate) fn no_room_for_snapshots() -> anyhow::Result<Scarcity> {
    let disk = SimDisk::default();
    let (is_full, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (full, count) = (is_full.clone(), refused.clone());
    let is_store =
        |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("epoch-"));
    let around = HookDisk::new(Arc::new(disk.clone()), move |path, _| {
        if full.load(Relaxed) && is_store(path) {
            count.fetch_add(1, Relaxed);
            return Verdict::Fail(io::ErrorKind::StorageFull);
        }
        Verdict::Do
    });
    let around: Arc<dyn Disk> = Arc::new(around);
    let small = Small::start(around, false, |config: &mut Config| config.tick.rate_hz = 200.0)?;
    let mut scarcity = Scarcity::default();
    let mut sent = Sent::default();
    small.until("there is a snapshot", |small| small.status().last_snapshot() > Tick(0))?;
    is_full.store(true, Relaxed);
    small.until("a snapshot fails", |_| refused.load(Relaxed) > 0)?;
    let (before, failed) = (small.computed(), refused.load(Relaxed));
    let begun = Instant::now();
    while small.computed().0 < before.0 + TICKS_MIN {
        ensure!(begun.elapsed() < PATIENCE, "no tick comes");
        if sent.send(&small, 500)? {
            scarcity.taken += 1;
        } else {
            scarcity.refused += 1;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    scarcity.ticks = small.computed().0 - before.0;
    // A second passes before the next try: it is not tried again and again.
    ensure!(refused.load(Relaxed) - failed < 40, "a failed snapshot is tried again at once");
    sent.all_acknowledged(&small)?;
    let mut facts = sent.facts.clone();
    facts.extend(small.seen()?);
    let mut images = vec![(disk.cut(Cut::Synced), facts)];
    is_full.store(false, Relaxed);
    let last = small.status().last_snapshot();
    small.until("snapshots are written again", |small| small.status().last_snapshot() > last)?;
    images.push((disk.cut(Cut::Synced), sent.facts));
    scarcity.fired = refused.load(Relaxed);
    judge_each(small, images, &mut scarcity)?;
    Ok(scarcity)
}

/// Stops the world, and brings back what each image has; all facts that come with it must hold.
fn judge_each(
    small: Small,
    images: Vec<(SimDisk, Vec<(u64, Fact)>)>,
    scarcity: &mut Scarcity,
) -> anyhow::Result<()> {
    let record = small.stop()?;
    for (image, facts) in images {
        scarcity.findings.add(judge_all(record.clone(), facts, &[image]));
    }
    Ok(())
}
