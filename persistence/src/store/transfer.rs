//! Snapshots that leave or enter a store: one as a file of its own, or all of them as a backup of a live world.

use super::{Loaded, OPENING, Snapshot, Store, StoreError, epoch::Epoch, epoch_path, writer};
use crate::{
    disk::Disk,
    log::{DurablePoint, LogError, LogHandle},
};
use everworld_engine::Tick;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Why a backup was not made. What was written of it stays under its unfinished name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The store could not be copied.
    #[error("could not back up the snapshots")]
    Store(#[from] StoreError),
    /// The log could not be copied.
    #[error("could not back up the log")]
    Log(#[from] LogError),
}

/// What a backup holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupReport {
    /// How many epochs.
    pub epochs: u64,
    /// Up to where the log goes.
    pub durable: DurablePoint,
    /// Epochs that were left out since they are damaged.
    pub damaged: Vec<String>,
}

/// Copies a world that may be running to a directory that must not exist: it is a data directory of that world
/// then, with all snapshots and the log up to the last record that is durable now.
///
/// The snapshots come first, so that the log covers them (D7). The caller does not cut the log meanwhile.
pub fn backup(store: &Store, log: &LogHandle, target: &Path) -> Result<BackupReport, BackupError> {
    let disk = &*store.disk;
    let io = StoreError::io;
    if disk.exists(target).map_err(io("look for", target))? {
        let exists = std::io::ErrorKind::AlreadyExists.into();
        return Err(StoreError::io("create backup", target)(exists).into());
    }
    let mut partial = target.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    if disk.exists(&partial).map_err(io("look for", &partial))? {
        disk.remove_dir_all(&partial).map_err(io("remove unfinished backup", &partial))?;
    }
    disk.create_dir_all(&partial).map_err(io("create directory", &partial))?;
    let mut report = store.backup(&partial)?;
    report.durable = log.copy_to(&partial.join("log"))?;
    disk.sync_dir(&partial).map_err(io("sync directory", &partial))?;
    disk.rename(&partial, target).map_err(io("rename backup", &partial))?;
    let parent = target.parent().unwrap_or(Path::new(""));
    disk.sync_dir(parent).map_err(io("sync directory", parent))?;
    Ok(report)
}

impl Store {
    /// Writes one snapshot to a file of its own, which must not exist.
    pub fn export(&self, branch: u32, tick: Tick, path: &Path) -> Result<(), StoreError> {
        let Loaded { meta, image, host, ledger } = self.load(branch, tick)?;
        if self.disk.exists(path).map_err(StoreError::io("look for", path))? {
            return Err(StoreError::io("export to", path)(std::io::ErrorKind::AlreadyExists.into()));
        }
        let snapshot = Snapshot { meta, image: Arc::new(image), host: &host, ledger: &ledger };
        writer::write_alone(self, &snapshot, path)
    }

    /// Reads a file that [`Store::export`] wrote. Every byte is verified; the caller compares the state's hash.
    ///
    /// # Errors
    /// What would take more than `bytes_max` bytes of memory is refused before it is unpacked.
    pub fn import(disk: &dyn Disk, path: &Path, bytes_max: u64) -> Result<Loaded, StoreError> {
        Epoch::open(disk, path, 4 << 20)?.load_first(bytes_max)
    }

    /// Copies all complete epochs, as they are at some instant of the call, into a directory. Every record is
    /// verified on the way.
    pub fn backup(&self, target: &Path) -> Result<BackupReport, StoreError> {
        let _retention = self.retention.lock();
        self.disk.create_dir_all(target).map_err(StoreError::io("create directory", target))?;
        let mut report = BackupReport::default();
        for (number, _) in self.epoch_files() {
            let path = epoch_path(target, number);
            let temporary = path.with_extension(OPENING);
            let copied = self.epoch(number).and_then(|source| {
                let copy = Epoch::create(&*self.disk, &temporary, self.options.cache_bytes)?;
                source.copy_to(&copy, false, &*self.options.pace)
            });
            match copied {
                Ok(()) => {
                    writer::give_name(&*self.disk, &temporary, &path)?;
                    report.epochs += 1;
                }
                Err(error @ StoreError::Damaged { .. }) => {
                    self.disk.remove(&temporary).map_err(StoreError::io("remove", &temporary))?;
                    report.damaged.push(error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }
}
