//! Two promises, each at the one moment at which breaking it shows: the disk stands still there, so that neither a slow
//! machine nor a quick one decides what is seen. For the canaries.

use super::{
    hook::{Gate, HookDisk, Operation, Verdict},
    judge::Findings,
    life::Fact,
    small::{PATIENCE, Small, judge_all},
};
use anyhow::{Context as _, ensure};
use everworld::config::Config;
use everworld_persistence::{
    Disk,
    sim::{Cut, SimDisk},
};
use std::{path::Path, sync::Arc};

/// Ticks are not so many that the lease is renewed while a sync stands still: it is for
/// a hundred, which is ten seconds.
fn slowly(config: &mut Config) {
    config.tick.rate_hz = 10.0;
    config.log.horizon_lease_millis = 60_000;
}

/// The power fails while the sync of a Seal is on its way, and ticks go on: what was seen until then must hold.
pub(crate) fn power_fails_at_a_seal(show_unsealed: bool) -> anyhow::Result<Findings> {
    let disk = SimDisk::default();
    let gate = Arc::new(Gate::default());
    let small = Small::start(Arc::new(gate.around(Arc::new(disk.clone()))), show_unsealed, slowly)?;
    gate.arm();
    let looked = look_at_the_gate(&small, &gate, show_unsealed);
    let images = [Cut::Synced, Cut::Any(1), Cut::Any(2), Cut::Issued].map(|cut| disk.cut(cut));
    gate.open();
    let record = small.stop()?;
    Ok(judge_all(record, looked?, &images))
}

fn look_at_the_gate(small: &Small, gate: &Gate, show_unsealed: bool) -> anyhow::Result<Vec<(u64, Fact)>> {
    small.submit(1, 10)?;
    ensure!(gate.wait_until_held(PATIENCE), "no Seal comes to the disk");
    // The tick of the Seal is the next one at the latest.
    let sealed = small.computed().next();
    small.until("the tick of the Seal is computed", |small| small.computed().0 >= sealed.0 + 3)?;
    if show_unsealed {
        // The planted bug is given its time; a sound host shows nothing however long one waits.
        let is_seen = |small: &Small| {
            let running = small.running().ok();
            running.and_then(|running| running.mirror.shown()).is_some_and(|applied| applied.tick >= sealed)
        };
        small.until("the tick of the Seal is shown", is_seen)?;
    }
    small.seen()
}

/// The power fails right after inputs were acknowledged, on a disk that syncs, or one that only says so.
pub(crate) fn power_fails_after_acknowledgements(lying: bool) -> anyhow::Result<Findings> {
    let disk = SimDisk::default();
    let around: Arc<dyn Disk> = if lying { Arc::new(lie(disk.clone())) } else { Arc::new(disk.clone()) };
    let small = Small::start(around, false, slowly)?;
    let mut facts = Vec::new();
    for mark in 1..=5 {
        let submitted = small.submit(mark, 10)?;
        let acknowledged = submitted.durable.blocking_recv().context("the log is there")?;
        acknowledged.map_err(|error| anyhow::anyhow!("{error}"))?;
        facts.push((0, Fact::Acknowledged { seq: submitted.seq, mark }));
    }
    let images = [Cut::Synced, Cut::Any(1), Cut::Any(2), Cut::Issued].map(|cut| disk.cut(cut));
    Ok(judge_all(small.stop()?, facts, &images))
}

/// Bits of acknowledged inputs that wait for a tick are turned over in the log. Nothing was computed with them, so no
/// hash tells: only the checksums do.
pub(crate) fn inputs_rot_while_they_wait() -> anyhow::Result<Findings> {
    /// Digits of which another bit makes other digits.
    const MARKS: [u64; 3] = [222_222, 444_444, 666_666];
    let disk = SimDisk::default();
    let small = Small::start(Arc::new(disk.clone()), false, slowly)?;
    small.pause()?;
    let mut facts = Vec::new();
    for mark in MARKS {
        let submitted = small.submit(mark, 10)?;
        let acknowledged = submitted.durable.blocking_recv().context("the log is there")?;
        acknowledged.map_err(|error| anyhow::anyhow!("{error}"))?;
        facts.push((0, Fact::Acknowledged { seq: submitted.seq, mark }));
    }
    // A kill: after a loss of power the last record could be a torn one.
    let sound = disk.copy();
    let record = small.stop()?;
    let mut images = vec![sound.copy()];
    for path in sound.files().iter().filter(|path| path.extension().is_some_and(|kind| kind == "seg")) {
        let bytes = sound.file(path).unwrap_or_default();
        for mark in MARKS.map(|mark| mark.to_string()) {
            let at = bytes.windows(mark.len()).position(|bytes| bytes == mark.as_bytes());
            for byte in at.into_iter().flat_map(|at| at..at + mark.len()) {
                let damaged = sound.copy();
                damaged.flip(path, byte * 8);
                images.push(damaged);
            }
        }
    }
    ensure!(images.len() > MARKS.len(), "the inputs are not in the log");
    Ok(judge_all(record, facts, &images))
}

/// A planted bug: says that log segments are synced, and syncs nothing.
fn lie(disk: SimDisk) -> HookDisk {
    let is_of_log = |path: &Path| path.parent().is_some_and(|dir| dir.ends_with("log"));
    HookDisk::new(Arc::new(disk), move |path, operation| {
        if operation == Operation::SyncData && is_of_log(path) { Verdict::Pretend } else { Verdict::Do }
    })
}
