//! What a life has left of its past, computed again: every kept snapshot is gone on from to the next one.

use super::life::quick_store;
use anyhow::Context as _;
use everworld::{
    Plugin,
    history::History,
    questions::{AskError, Questions, VerifyOptions},
    spine::SpineOptions,
};
use everworld_engine::Tick;
use everworld_persistence::{SnapshotMeta, sim::SimDisk};
use std::{path::Path, sync::Arc};

/// What came of it.
#[derive(Default)]
pub(crate) struct Verified {
    /// Ticks that were computed again.
    pub(crate) ticks: u64,
    /// Hashes of them that snapshots and log know.
    pub(crate) hashes: u64,
    /// What came out differently, or of the line that goes on did not come back.
    pub(crate) wrong: Vec<String>,
}

/// All lines of history of a world that has stopped; of one that an older build began, from this build's first snapshot on.
pub(crate) fn verify(
    disk: &SimDisk,
    data: &Path,
    (plugins, segment_bytes, was_migrated): (&'static [Plugin], u64, bool),
) -> anyhow::Result<Verified> {
    let spine_options = SpineOptions {
        disk: Arc::new(disk.copy()),
        segment_bytes,
        store: quick_store(),
        build_id: crate::scenarios::build_id_of(plugins),
        ..SpineOptions::default()
    };
    let history = History::open(data, "churn", plugins, &spine_options)?;
    let told = history.newest()?;
    let current = told.branches.current();
    let snapshots = history.snapshots();
    let newest = snapshots.iter().filter(|meta| meta.branch == current).map(|meta| meta.tick).max();
    let newest = told.target().max(newest.unwrap_or_default());
    let options = crate::harness::options(1)?;
    let questions = Questions { history, newest: (current, newest), options, wanted: Arc::new(|| true) };
    let mut all = Verified::default();
    let lines: Vec<u32> = [0].into_iter().chain(told.branches.0.iter().map(|info| info.branch)).collect();
    for line in lines {
        let is_own = |meta: &&SnapshotMeta| {
            meta.build_id == spine_options.build_id
                && told.branches.on_the_way((meta.branch, meta.tick), (line, Tick(u64::MAX)))
        };
        let from = snapshots.iter().filter(is_own).map(|meta| meta.tick).min();
        if was_migrated && from.is_none() {
            continue;
        }
        let from = from.filter(|_| was_migrated);
        let wanted =
            VerifyOptions { branch: Some(line), from, threads: 1, deep: true, ..VerifyOptions::default() };
        let verified = match questions.verify(&wanted) {
            Ok(verified) => verified,
            // Nothing of a line that was left is kept.
            Err(AskError::Wrong(_)) if line != current => continue,
            Err(error) => return Err(error).with_context(|| format!("line {line} up to {newest}")),
        };
        all.ticks += verified.ticks;
        all.hashes += verified.snapshots_compared + verified.checkpoints_compared;
        all.wrong.extend(verified.mismatch.map(|mismatch| format!("line {line}: {mismatch:?}")));
        if line == current {
            all.wrong.extend(verified.damaged);
        }
    }
    Ok(all)
}
