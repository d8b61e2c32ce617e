//! The snapshot store: the world at some ticks, in redb files called epochs.
//!
//! Promises: a snapshot is there with all its records or not at all; what [`Store::load`] returns is what was
//! written, bit for bit, or an error (D5); nothing is removed before what replaces it is complete and synced
//! (D8); no panic of redb on a damaged file gets out. Deliberately absent: whether the log covers a snapshot (D7)
//! and the recomputation of the state's hash, both the caller's; a lock on the directory, the caller's too.
//!
//! An epoch begins with a whole state and goes on with differences. The next one is opened beside it: each snapshot brings it a
//! share of the partitions, and the differences of those that it has, so that none of them is a spike. Reading works from any thread while one writes.

mod backend;
mod codec;
mod envelope;
mod epoch;
mod error;
mod extents;
mod header;
mod pages;
mod retention;
mod transfer;
mod writer;

pub use epoch::Note;
pub use error::StoreError;
pub use header::SnapshotMeta;
pub use retention::{Pruned, Retention};
pub use transfer::{BackupError, BackupReport, backup};

use crate::{disk::Disk, panics::guarded};
use epoch::Epoch;
use everworld_engine::{Image, Tick};
use header::Header;
use parking_lot::{Mutex, RwLock};
use std::{
    fmt::{self, Debug, Formatter},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use writer::Writer;

/// The format of stores that this build writes, and the only one that it reads: format 1 was never released.
pub const STORE_FORMAT: u32 = 2;
/// The largest record before compression: nothing larger is written, nor believed when it is read.
pub const RECORD_BYTES_MAX: usize = 256 << 20;

const FORMAT_KEY: &str = "store";
const FORMAT_MAGIC: &[u8; 8] = b"EVRWSTO\0";
/// A header lists tables and records, which are few.
const HEADER_BYTES_MAX: usize = 16 << 20;

/// How to open a store.
#[derive(Clone)]
pub struct StoreOptions {
    /// Of so many seconds every snapshot is kept.
    pub dense_secs: u64,
    /// Of older ones whole states are kept, so many seconds apart.
    pub sparse_every_secs: u64,
    /// Those are kept for so many seconds.
    pub keep_secs: u64,
    /// With so many writes a new epoch is opened.
    pub opening_snapshots: u32,
    /// A new epoch is opened when what was written since is so many times as large as the whole state that it began with.
    pub roll_factor: u64,
    /// But not before they have so many bytes: a file for each few snapshots of a small world would help nobody.
    pub roll_bytes_min: u64,
    /// And when the epoch is so many seconds old, by the times of its snapshots.
    pub roll_secs: u64,
    /// Memory for redb's cache, per open epoch.
    pub cache_bytes: usize,
    /// Called between two partitions while writing: the place to wait when the ticks need the machine.
    pub pace: Arc<dyn Fn() + Send + Sync>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            dense_secs: 600,
            sparse_every_secs: 600,
            keep_secs: 86_400,
            opening_snapshots: 8,
            roll_factor: 8,
            roll_bytes_min: 4 << 20,
            roll_secs: 600,
            cache_bytes: 4 << 20,
            pace: Arc::new(|| ()),
        }
    }
}

impl Debug for StoreOptions {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("dense_secs", &self.dense_secs)
            .field("sparse_every_secs", &self.sparse_every_secs)
            .field("keep_secs", &self.keep_secs)
            .field("opening_snapshots", &self.opening_snapshots)
            .field("roll_factor", &self.roll_factor)
            .field("roll_bytes_min", &self.roll_bytes_min)
            .field("roll_secs", &self.roll_secs)
            .field("cache_bytes", &self.cache_bytes)
            .finish_non_exhaustive()
    }
}

/// What is to be written.
pub struct Snapshot<'a> {
    /// What it is of.
    pub meta: SnapshotMeta,
    /// The whole state. A chunk that is the same object as in the image before is known to be unchanged.
    pub image: Arc<Image>,
    /// The host's own state, kept as it is.
    pub host: &'a [u8],
    /// Entries of the ledger that are new since the last snapshot, by number. One that is there is replaced.
    pub ledger: &'a [(u64, Vec<u8>)],
}

/// A snapshot that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What it is of.
    pub meta: SnapshotMeta,
    /// The whole state.
    pub image: Image,
    /// The host's own state.
    pub host: Vec<u8>,
    /// All entries of the ledger, by number.
    pub ledger: Vec<(u64, Vec<u8>)>,
}

/// The snapshots of a store.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// Those whose headers verify, newest (by lsn) first.
    pub kept: Vec<SnapshotMeta>,
    /// What is wrong with the others.
    pub damaged: Vec<StoreError>,
}

/// What a scrub has come to.
#[derive(Debug, Default)]
pub struct Scrubbed {
    /// What is damaged: file and place. The rest of such a file is not looked at.
    pub damaged: Vec<StoreError>,
    /// Whether that is one that snapshots went into.
    pub in_use: bool,
}

/// What was found when a store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreReport {
    /// Damaged epochs that were given another name, and what is wrong with each.
    pub set_aside: Vec<(PathBuf, String)>,
    /// Files that a crash left unfinished, and that were removed.
    pub removed: Vec<PathBuf>,
}

/// What writing a snapshot came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteStats {
    /// Bytes of the snapshot's records, without redb's pages around them.
    pub written_bytes: u64,
    /// Bytes that went into the epoch that is being opened.
    pub opening_bytes: u64,
    /// How many records the snapshot has.
    pub records: u64,
    /// Partitions that were written whole.
    pub partitions_full: u64,
    /// Partitions that were written as a difference.
    pub partitions_delta: u64,
    /// Whether a new epoch was complete with this write.
    pub epoch_begun: bool,
}

/// An epoch file that is complete.
struct Entry {
    number: u64,
    path: PathBuf,
    /// The handle of whoever writes to it; other epochs are opened when they are read.
    open: Option<Arc<Epoch>>,
    /// Oldest first.
    snapshots: Vec<SnapshotMeta>,
    /// What is wrong with others of its snapshots.
    damaged: Vec<String>,
    /// A scrub has found damage in it: it is no more one of those that are always kept.
    is_doubtful: bool,
}

/// An open store. One thread writes, any may read.
pub struct Store {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: StoreOptions,
    read_only: bool,
    /// By number.
    entries: RwLock<Vec<Entry>>,
    writer: Mutex<Writer>,
    /// Held by who removes epochs, and by who copies them.
    retention: Mutex<()>,
    /// How long what is removed was kept.
    kept_for: Mutex<Retention>,
    ledger_floor: AtomicU64,
    /// A write failed: nothing is written before the store is opened again (D6).
    failed: AtomicBool,
}

impl Store {
    /// Opens the store in that directory, which is created if need be. A damaged epoch is given another name, for
    /// whoever wants to look at it; what a crash left unfinished is removed.
    ///
    /// # Errors
    /// A file of a later format is refused, and so is one that cannot be read.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: StoreOptions,
    ) -> Result<(Self, StoreReport), StoreError> {
        if !disk.exists(dir).map_err(StoreError::io("look for", dir))? {
            disk.create_dir_all(dir).map_err(StoreError::io("create directory", dir))?;
        }
        // Also if it was made just before a crash: what is written into it is to be found again.
        let parent = dir.parent().unwrap_or(dir);
        disk.sync_dir(parent).map_err(StoreError::io("sync directory", parent))?;
        Self::open_as(disk, dir, options, false)
    }

    /// Opens the store of a stopped world without writing anything.
    pub fn open_read_only(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: StoreOptions,
    ) -> Result<(Self, StoreReport), StoreError> {
        Self::open_as(disk, dir, options, true)
    }

    fn open_as(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: StoreOptions,
        read_only: bool,
    ) -> Result<(Self, StoreReport), StoreError> {
        let mut report = StoreReport::default();
        let names = disk.list(dir).map_err(StoreError::io("list directory", dir))?;
        let mut number_max = 0;
        let mut entries = Vec::new();
        for name in &names {
            let path = dir.join(name);
            let Some((number, kind)) = epoch_name(name) else { continue };
            number_max = number_max.max(number);
            match kind {
                "redb" => match Entry::read(&*disk, number, &path, options.cache_bytes) {
                    Ok(entry) => entries.push(entry),
                    Err(StoreError::Damaged { detail, .. }) => report.set_aside.push((path, detail)),
                    Err(error) => return Err(error),
                },
                OPENING | THINNING if !read_only => {
                    disk.remove(&path).map_err(StoreError::io("remove unfinished store", &path))?;
                    report.removed.push(path);
                }
                _ => {}
            }
        }
        if !read_only {
            for (path, _) in &mut report.set_aside {
                *path = set_aside(&*disk, path)?;
            }
            if !report.set_aside.is_empty() || !report.removed.is_empty() {
                disk.sync_dir(dir).map_err(StoreError::io("sync directory", dir))?;
            }
        }
        entries.sort_by_key(|entry| entry.number);
        let StoreOptions { dense_secs, sparse_every_secs, keep_secs, .. } = options;
        let store = Self {
            disk,
            dir: dir.into(),
            options,
            read_only,
            entries: RwLock::new(entries),
            writer: Mutex::new(Writer::new(number_max + 1)),
            retention: Mutex::new(()),
            kept_for: Mutex::new(Retention { dense_secs, sparse_every_secs, keep_secs }),
            ledger_floor: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        };
        Ok((store, report))
    }

    /// The snapshots that there are.
    pub fn snapshots(&self) -> Snapshots {
        let entries = self.entries.read();
        let mut kept: Vec<(u64, SnapshotMeta)> = Vec::new();
        for entry in entries.iter() {
            kept.extend(entry.snapshots.iter().map(|meta| (entry.number, *meta)));
        }
        kept.sort_by_key(|(number, meta)| std::cmp::Reverse((meta.lsn, meta.branch, meta.tick, *number)));
        kept.dedup_by_key(|(_, meta)| (meta.branch, meta.tick));
        let damaged = entries.iter().flat_map(|entry| {
            entry.damaged.iter().map(|detail| StoreError::damaged(&entry.path, detail.clone()))
        });
        Snapshots { kept: kept.into_iter().map(|(_, meta)| meta).collect(), damaged: damaged.collect() }
    }

    /// The snapshot of that tick. Every byte is verified; the caller compares the state's hash. In parallel on a
    /// thread of a pool.
    pub fn load(&self, branch: u32, tick: Tick) -> Result<Loaded, StoreError> {
        self.load_noting(branch, tick, &|_, _, _| ())
    }

    /// As [`Store::load`], for who has something to do with the first rows while the others are still read. What `note` heard
    /// of counts only if this succeeds; where a snapshot is damaged in one epoch and read from another, it hears of it once more.
    pub fn load_noting(&self, branch: u32, tick: Tick, note: &Note<'_>) -> Result<Loaded, StoreError> {
        self.load_from(branch, tick, |epoch| epoch.load(branch, tick, note))
    }

    /// The host's own state in the snapshot of that tick, as [`Store::load`] gives it, without the rest.
    pub fn load_host(&self, branch: u32, tick: Tick) -> Result<Vec<u8>, StoreError> {
        self.load_from(branch, tick, |epoch| epoch.load_host(branch, tick))
    }

    /// From the newest of the epochs with that snapshot in which it is sound.
    fn load_from<T>(
        &self,
        branch: u32,
        tick: Tick,
        load: impl Fn(&Epoch) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut first_error = None;
        for number in self.epochs_with(branch, tick) {
            match self.epoch(number).and_then(|epoch| load(&epoch)) {
                Ok(loaded) => return Ok(loaded),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(first_error.unwrap_or_else(|| StoreError::NotFound { path: self.dir.clone(), branch, tick }))
    }

    /// Goes on from that snapshot, with its ledger. The next write begins an epoch: nothing is written into a file
    /// that was there when the store was opened.
    pub fn resume(&self, meta: SnapshotMeta) -> Result<(), StoreError> {
        self.check_writable()?;
        self.writer.lock().resume(self, meta);
        Ok(())
    }

    /// Lets the next write begin a new epoch, in one go.
    pub fn begin_epoch(&self) {
        self.writer.lock().begin_epoch(self);
    }

    /// Forgets the entries of the ledger below that number, from the next snapshot on.
    pub fn set_ledger_floor(&self, number: u64) {
        self.ledger_floor.fetch_max(number, Ordering::Relaxed);
    }

    /// Writes a snapshot; it is durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] and [`StoreError::TooLarge`] leave the store as it was, and the next write may begin an epoch;
    /// after any other error it takes no more snapshots (D6).
    pub fn write(&self, snapshot: &Snapshot<'_>) -> Result<WriteStats, StoreError> {
        self.check_writable()?;
        let mut writer = self.writer.lock();
        let written = guard(&self.dir, || writer.write(self, snapshot));
        if let Err(error) = &written
            && !matches!(error, StoreError::TooLarge { .. } | StoreError::Malformed(_))
        {
            self.failed.store(true, Ordering::Release);
        }
        written
    }

    /// Takes snapshots again after a write has failed. The epoch that was written is left alone, and what failed is not
    /// tried again (D6): the next write begins a new epoch. The caller gives all of the ledger with it.
    ///
    /// # Errors
    /// When redb cannot let go of the former epoch.
    pub fn begin_anew(&self) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        if self.failed.load(Ordering::Acquire) {
            guard(&self.dir, || {
                writer.begin_anew(self);
                Ok(())
            })?;
            self.failed.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Reads all epochs again from the disk and compares every checksum. `progress` is told how many bytes come next:
    /// the place to wait; false ends it.
    ///
    /// An epoch that is damaged counts no more as one of those that are always kept, and if it is the one that
    /// snapshots go into, the next of them begins another.
    pub fn scrub(&self, progress: &mut dyn FnMut(u64) -> bool) -> Scrubbed {
        let mut scrubbed = Scrubbed::default();
        let mut goes_on = true;
        let mut progress = |bytes| {
            goes_on = goes_on && progress(bytes);
            goes_on
        };
        for (number, _) in self.epoch_files() {
            let read = self.epoch(number).and_then(|epoch| epoch.scrub(&mut progress));
            let Err(error) = read else { continue };
            // Unless it was removed meanwhile.
            if let Some(in_use) = self.doubt(number) {
                scrubbed.in_use |= in_use;
                scrubbed.damaged.push(error);
            }
        }
        scrubbed
    }

    /// Relies no longer on that epoch, if it is still there. True if snapshots went into it.
    fn doubt(&self, number: u64) -> Option<bool> {
        let in_use = {
            let mut entries = self.entries.write();
            let entry = entries.iter_mut().find(|entry| entry.number == number)?;
            entry.is_doubtful = true;
            entry.open.is_some()
        };
        if in_use {
            self.begin_epoch();
        }
        Some(in_use)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes of the epoch files, as long as they are.
    pub fn file_bytes(&self) -> Result<u64, StoreError> {
        let paths: Vec<PathBuf> = self.entries.read().iter().map(|entry| entry.path.clone()).collect();
        let bytes = paths.iter().map(|path| {
            let opened = self.disk.open_read(path).and_then(|file| file.len());
            opened.map_err(StoreError::io("look at store", path))
        });
        bytes.sum()
    }

    /// Bytes of the records of all snapshots, without redb's pages around them.
    pub fn live_bytes(&self) -> Result<u64, StoreError> {
        let mut bytes = 0;
        for (number, _) in self.epoch_files() {
            bytes += self.epoch(number)?.headers()?.chain.iter().map(Header::stream_bytes).sum::<u64>();
        }
        Ok(bytes)
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        if self.read_only {
            return Err(StoreError::ReadOnly { path: self.dir.clone() });
        }
        if self.failed.load(Ordering::Acquire) {
            return Err(StoreError::Failed { path: self.dir.clone() });
        }
        Ok(())
    }

    /// The epochs that have that snapshot, the newest first.
    fn epochs_with(&self, branch: u32, tick: Tick) -> Vec<u64> {
        let has =
            |entry: &&Entry| entry.snapshots.iter().any(|meta| (meta.branch, meta.tick) == (branch, tick));
        self.entries.read().iter().rev().filter(has).map(|entry| entry.number).collect()
    }

    /// An epoch for reading.
    fn epoch(&self, number: u64) -> Result<Arc<Epoch>, StoreError> {
        // Opened under the lock: whoever removes or replaces the file waits for it.
        let entries = self.entries.read();
        let Some(entry) = entries.iter().find(|entry| entry.number == number) else {
            let detail = format!("epoch {number} was removed");
            return Err(StoreError::damaged(&self.dir, detail));
        };
        match &entry.open {
            Some(epoch) => Ok(epoch.clone()),
            None => Ok(Arc::new(Epoch::open(&*self.disk, &entry.path, self.options.cache_bytes)?)),
        }
    }
}

impl Entry {
    fn read(disk: &dyn Disk, number: u64, path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        let epoch = Epoch::open(disk, path, cache_bytes)?;
        let headers = epoch.headers()?;
        let snapshots: Vec<_> = headers.whole().iter().map(|header| header.meta).collect();
        let damaged = headers.damaged;
        if let Some(newer) = damaged.iter().position(|error| matches!(error, StoreError::NewerFormat { .. }))
        {
            return Err(damaged.into_iter().nth(newer).expect("it was just found there"));
        }
        if snapshots.is_empty() {
            return Err(StoreError::damaged(path, "it has no whole state to begin with"));
        }
        let detail = |error: &StoreError| match error {
            StoreError::Damaged { detail, .. } => detail.clone(),
            other => other.to_string(),
        };
        Ok(Self {
            number,
            path: path.into(),
            open: None,
            snapshots,
            damaged: damaged.iter().map(detail).collect(),
            is_doubtful: false,
        })
    }
}

/// An epoch that is not complete yet.
const OPENING: &str = "redb.opening";
/// An epoch of which only the first whole state is being kept.
const THINNING: &str = "redb.thinning";

fn epoch_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("epoch-{number:08}.redb"))
}

/// Number and ending of an epoch file's name.
fn epoch_name(name: &str) -> Option<(u64, &str)> {
    let (number, kind) = name.strip_prefix("epoch-")?.split_once('.')?;
    Some((number.parse().ok()?, kind))
}

/// Gives a damaged epoch a name that no store looks at.
fn set_aside(disk: &dyn Disk, path: &Path) -> Result<PathBuf, StoreError> {
    for n in 1..u32::MAX {
        let aside = path.with_extension(format!("damaged-{n}"));
        if !disk.exists(&aside).map_err(StoreError::io("look for", &aside))? {
            disk.rename(path, &aside).map_err(StoreError::io("set aside", path))?;
            return Ok(aside);
        }
    }
    unreachable!("there are more numbers than files")
}

fn check_size(what: &str, bytes: usize, max: usize) -> Result<(), StoreError> {
    if bytes > max {
        return Err(StoreError::TooLarge { what: what.into(), bytes, max });
    }
    Ok(())
}

/// Turns a panic of redb into an error.
fn guard<T>(path: &Path, body: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    guarded(body)
        .unwrap_or_else(|panic| Err(StoreError::damaged(path, format!("redb cannot read it: {panic}"))))
}
