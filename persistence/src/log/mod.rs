//! The input log: an append-only file of records, cut into segments that are reserved ahead.
//!
//! Promises: a record is acknowledged only when it is durable (D1), and then found again or its damage named
//! (D5); a failed write or sync ends the log for good (D6). Deliberately absent: any record's meaning, and
//! a lock on the directory, which is the caller's.
//!
//! [`Log`] is the plain thing for one thread; [`LogWriter`] puts it behind a thread that commits in groups.

mod error;
mod files;
mod frame;
mod mark;
mod record;
mod records;
mod recovery;
mod segment;
mod tail;
mod writer;

pub use error::LogError;
pub use frame::FRAME_HEADER_BYTES;
pub use record::{Control, IdempotencyKey, InputRecord, Record};
pub use records::{LogFault, Records};
pub use segment::{
    LOG_FORMAT, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES,
};
pub use writer::{LogDone, LogHandle, LogWriter};

use crate::disk::Disk;
use files::Files;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tail::{Encoded, PlaceError, Tail};

/// A place in a log's history: all records up to `lsn` are durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DurablePoint {
    /// The last durable record, counted from 1; 0 if there is none.
    pub lsn: u64,
    /// The chain value after it: names the whole history up to there.
    pub chain: u64,
}

/// How to open a log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The id of the world whose log it is; another one's is refused.
    pub world: u64,
    /// The build that writes, noted in the header of each segment that it begins.
    pub build_id: [u8; 16],
    /// Bytes of segments to come, brought into [`SEGMENT_BYTES_MIN`]..=[`SEGMENT_BYTES_MAX`] and to a multiple
    /// of 8. Existing ones keep theirs.
    pub segment_bytes: u64,
    /// Records that are known to have been durable, from keyframes: a log that lacks one of them or holds
    /// another in its place is refused (D7).
    pub known_durable: Vec<DurablePoint>,
    /// The first record that the caller needs: a log that was cut behind it is refused. 1 needs all.
    pub oldest_needed: u64,
    /// The first record that opening verifies, or one before it: sealed segments that end before it are verified
    /// when they are read. 1 verifies all. With the lsn of the snapshot that recovery goes on from, opening takes no
    /// longer the older the world is.
    pub verify_from: u64,
    /// A clock in nanoseconds, to measure syncs with; nothing else depends on it.
    pub clock: fn() -> u64,
    /// Called at first on the thread of a [`LogWriter`], which may ask the system for a place of its own.
    pub on_thread: fn(),
}

impl LogOptions {
    /// The usual segments, all records needed, no clock.
    pub fn new(world: u64, build_id: [u8; 16]) -> Self {
        Self {
            world,
            build_id,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            known_durable: Vec::new(),
            oldest_needed: 1,
            verify_from: 1,
            clock: || 0,
            on_thread: || {},
        }
    }

    fn segment_bytes(&self) -> u64 {
        self.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX).next_multiple_of(8)
    }
}

/// What was found when a log was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenReport {
    /// Whether there was none, and one was begun.
    pub created: bool,
    /// The first record that is kept, or the first to come.
    pub first_lsn: u64,
    /// How many records are kept.
    pub records: u64,
    /// The last record; all that were found are durable now.
    pub durable: DurablePoint,
    /// There are records, but no mark file: it was lost. Without it less is known of what was durable.
    pub mark_missing: bool,
    /// Bytes behind the last record that were discarded: never acknowledged, torn by a crash.
    pub torn_bytes: u64,
    /// The builds that wrote what was verified, in the order of their first appearance.
    pub builds: Vec<[u8; 16]>,
}

/// What a log did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Bytes written to segments, without reserving.
    pub bytes_written: u64,
    /// Syncs of segments, without reserving.
    pub fsyncs: u64,
    /// How long the last sync took, by the clock of the options.
    pub fsync_nanos_last: u64,
    /// How long all of them took.
    pub fsync_nanos_total: u64,
    /// Records that are not durable yet.
    pub queue_len: u64,
}

/// The log of a stopped world, read without writing anything.
pub struct LogReader {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    world: u64,
    durable: DurablePoint,
}

impl LogReader {
    /// Verifies the log in that directory as [`Log::open`] does, and leaves a torn tail where it is.
    ///
    /// # Errors
    /// As opening, and if there is no log.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: &LogOptions,
    ) -> Result<(Self, OpenReport), LogError> {
        let report = recovery::look(&*disk, dir, options)?;
        Ok((Self { disk, dir: dir.into(), world: options.world, durable: report.durable }, report))
    }

    /// The last record.
    pub fn durable(&self) -> DurablePoint {
        self.durable
    }

    /// The records from that lsn on, verified again.
    pub fn records(&self, from_lsn: u64) -> Records {
        Records::open(&self.disk, &self.dir, self.world, from_lsn, self.durable.lsn)
    }

    /// As [`Log::chain_at`].
    pub fn chain_at(&self, lsn: u64) -> Result<u64, LogError> {
        records::chain_at(&self.disk, &self.dir, self.world, lsn.min(self.durable.lsn))
    }
}

/// An open log, for one thread.
pub struct Log {
    tail: Tail,
    files: Files,
    failed: Option<Arc<LogError>>,
}

impl Log {
    /// Opens the log in that directory, or begins one there. Verifies every record from
    /// [`LogOptions::verify_from`] on (D5) and discards a torn tail; all that is reported is durable. The directory is created; that the one above it is durable is the
    /// caller's business.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: &LogOptions,
    ) -> Result<(Self, OpenReport), LogError> {
        let (tail, files, report) = recovery::recover(disk, dir, options)?;
        let mut log = Self { tail, files, failed: None };
        // Without space the log opens all the same: an append that needs it says so.
        let _ = log.reserve_ahead();
        Ok((log, report))
    }

    /// Takes a record and returns its lsn. It is not durable before [`Log::commit`].
    ///
    /// # Errors
    /// [`LogError::NoSpace`] and [`LogError::RecordTooLarge`] leave the log as it was.
    pub fn append(&mut self, record: &Record) -> Result<u64, LogError> {
        self.check()?;
        let record: [Encoded; 1] = [record.encode()];
        loop {
            match self.tail.place(&record) {
                Ok(lsn) => return Ok(lsn),
                Err(PlaceError::TooLarge { bytes, max }) => {
                    return Err(LogError::RecordTooLarge { bytes, max });
                }
                Err(PlaceError::NotReserved) => self.reserve_ahead()?,
            }
        }
    }

    /// Makes all appended records durable.
    ///
    /// # Errors
    /// After any error the log has failed for good (D6).
    pub fn commit(&mut self) -> Result<DurablePoint, LogError> {
        self.check()?;
        if self.tail.is_dirty() {
            let runs = self.tail.take_runs();
            if let Err(error) = self.files.commit(&runs, &self.tail.cursor) {
                let error = Arc::new(error);
                self.failed = Some(error.clone());
                return Err(LogError::Failed(error));
            }
            self.tail.durable = self.tail.cursor.last;
            let _ = self.reserve_ahead();
        }
        Ok(self.tail.durable)
    }

    /// The last durable record.
    pub fn durable(&self) -> DurablePoint {
        self.tail.durable
    }

    /// The durable records from that lsn on, read from disk and verified again.
    pub fn records(&self, from_lsn: u64) -> Records {
        let Files { disk, dir, world, .. } = &self.files;
        Records::open(disk, dir, *world, from_lsn, self.tail.durable.lsn)
    }

    /// The chain value after a durable record that is kept: with its lsn it names the history up to there.
    pub fn chain_at(&self, lsn: u64) -> Result<u64, LogError> {
        let Files { disk, dir, world, .. } = &self.files;
        records::chain_at(disk, dir, *world, lsn.min(self.tail.durable.lsn))
    }

    /// Removes the sealed segments that hold only records before that one; the caller vouches that no kept
    /// keyframe needs them (D4). Returns how many.
    pub fn cut_before(&mut self, lsn: u64) -> Result<u64, LogError> {
        let Files { disk, dir, world, .. } = &self.files;
        records::cut_before(&**disk, dir, *world, lsn.min(self.tail.durable.lsn))
    }

    /// What was done since the log was opened.
    pub fn stats(&self) -> LogStats {
        LogStats { queue_len: self.tail.cursor.last.lsn - self.tail.durable.lsn, ..self.files.stats }
    }

    fn check(&self) -> Result<(), LogError> {
        self.failed.as_ref().map_or(Ok(()), |error| Err(LogError::Failed(error.clone())))
    }

    /// Keeps one segment reserved beyond the one that is written.
    fn reserve_ahead(&mut self) -> Result<(), LogError> {
        if self.tail.needs_segment() {
            let number = self.tail.cursor.segment + 1;
            self.files.reserve(number)?;
            self.tail.reserved_to = number;
        }
        Ok(())
    }
}
