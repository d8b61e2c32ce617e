//! Which epochs stay: the newest whole, older ones as single states with time between them, then none.
//!
//! Promises: two complete epochs always stay, not counting one that is known to be damaged; nothing is removed before what replaces it has its name durably (D8).
//! Age is told by the times in the snapshots and the one that is handed in; no clock is read here.

use super::{Entry, Store, StoreError, THINNING, epoch::Epoch, guard, writer::give_name};
use serde::{Deserialize, Serialize};
use std::{cmp::Reverse, path::PathBuf};

/// Epochs that are never touched, nor are those after them; counted from the newest, without those that are known to
/// be damaged.
const EPOCHS_KEPT_MIN: usize = 2;

/// How long old snapshots are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Of so many seconds every snapshot.
    pub dense_secs: u64,
    /// Of older ones whole states, so many seconds apart.
    pub sparse_every_secs: u64,
    /// Those for so many seconds.
    pub keep_secs: u64,
}

/// What pruning came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The lowest lsn of all snapshots that are kept: the log behind it is needed, the log before it is not (D4).
    /// 0 if there are none.
    pub oldest_lsn: u64,
    /// Epochs that were removed.
    pub epochs_removed: u64,
    /// Epochs of which only the first state was kept.
    pub epochs_thinned: u64,
    /// Epochs that could not be thinned since they are damaged; they stay as they are until they are removed.
    pub damaged: Vec<String>,
}

enum Fate {
    Thin,
    Remove,
}

impl Store {
    /// How long old snapshots are kept: as in the options, or as it was set since.
    pub fn retention(&self) -> Retention {
        *self.kept_for.lock()
    }

    /// Keeps old snapshots for other times from the next [`Store::prune`] on. Who wants it to last tells it to the store
    /// each time it is opened.
    pub fn set_retention(&self, retention: Retention) {
        *self.kept_for.lock() = retention;
    }

    /// Thins and removes old epochs. The log may be cut before [`Pruned::oldest_lsn`] afterwards, not earlier.
    pub fn prune(&self, now_unix_millis: u64) -> Result<Pruned, StoreError> {
        self.check_writable()?;
        let _retention = self.retention.lock();
        let mut pruned = Pruned::default();
        for (number, fate) in self.fates(now_unix_millis) {
            match fate {
                Fate::Remove => {
                    self.remove_epoch(number)?;
                    pruned.epochs_removed += 1;
                }
                Fate::Thin => match self.thin(number) {
                    Ok(true) => pruned.epochs_thinned += 1,
                    Ok(false) => {}
                    Err(error @ StoreError::Damaged { .. }) => pruned.damaged.push(error.to_string()),
                    Err(error) => return Err(error),
                },
            }
        }
        let entries = self.entries.read();
        let lsns = entries.iter().flat_map(|entry| &entry.snapshots).map(|meta| meta.lsn);
        pruned.oldest_lsn = lsns.min().unwrap_or(0);
        Ok(pruned)
    }

    /// What becomes of the epochs that do not stay as they are, the oldest first.
    fn fates(&self, now: u64) -> Vec<(u64, Fate)> {
        let kept_for = self.retention();
        let age_secs = |millis: u64| now.saturating_sub(millis) / 1000;
        let entries = self.entries.read();
        let mut by_age: Vec<&Entry> = entries.iter().collect();
        by_age.sort_by_key(|entry| Reverse(entry.number));
        let mut fates = Vec::new();
        let mut last_sparse: Option<u64> = None;
        let mut sound = 0;
        let is_kept = |entry: &&Entry| {
            sound += usize::from(!entry.is_doubtful);
            sound <= EPOCHS_KEPT_MIN
        };
        let old: Vec<&Entry> = by_age.into_iter().skip_while(is_kept).collect();
        for entry in old.into_iter().rev() {
            let times = entry.snapshots.iter().map(|meta| meta.unix_millis);
            let (first, last) = (entry.snapshots[0].unix_millis, times.max().unwrap_or(0));
            if age_secs(last) < kept_for.dense_secs {
                continue;
            }
            // Epochs begin about as far apart as sparse states are: a little less still counts.
            let too_close = last_sparse
                .is_some_and(|before| first.saturating_sub(before) / 900 < kept_for.sparse_every_secs);
            if age_secs(first) > kept_for.keep_secs || too_close {
                fates.push((entry.number, Fate::Remove));
                continue;
            }
            last_sparse = Some(first);
            if entry.snapshots.len() > 1 || !entry.damaged.is_empty() {
                fates.push((entry.number, Fate::Thin));
            }
        }
        fates
    }

    fn remove_epoch(&self, number: u64) -> Result<(), StoreError> {
        let mut entries = self.entries.write();
        let Some(at) = entries.iter().position(|entry| entry.number == number) else { return Ok(()) };
        let path = entries.remove(at).path;
        self.disk.remove(&path).map_err(StoreError::io("remove old epoch", &path))?;
        self.disk.sync_dir(&self.dir).map_err(StoreError::io("sync directory", &self.dir))
    }

    /// Rewrites an epoch so that it holds its first state only. False if a reader has it in use.
    fn thin(&self, number: u64) -> Result<bool, StoreError> {
        let path = {
            let entries = self.entries.read();
            let entry = entries.iter().find(|entry| entry.number == number && entry.open.is_none());
            let Some(entry) = entry else { return Ok(false) };
            entry.path.clone()
        };
        let temporary = path.with_extension(THINNING);
        let written = guard(&path, || {
            let source = Epoch::open(&*self.disk, &path, self.options.cache_bytes)?;
            let target = Epoch::create(&*self.disk, &temporary, self.options.cache_bytes)?;
            source.copy_to(&target, true, &*self.options.pace)
        });
        if let Err(error) = written {
            // Best effort: what stays is removed when the store is opened again.
            let _ = self.disk.remove(&temporary);
            return Err(error);
        }
        // Readers wait: they find the one file or the other.
        let mut entries = self.entries.write();
        give_name(&*self.disk, &temporary, &path)?;
        if let Some(entry) = entries.iter_mut().find(|entry| entry.number == number) {
            entry.snapshots.truncate(1);
            entry.damaged.clear();
        }
        Ok(true)
    }

    /// The files of all epochs, oldest first.
    pub(super) fn epoch_files(&self) -> Vec<(u64, PathBuf)> {
        self.entries.read().iter().map(|entry| (entry.number, entry.path.clone())).collect()
    }
}
