//! The I/O of a growing log: writes what was placed, syncs it, moves the mark, reserves segments.
//!
//! Errors are passed on and never retried (D6); who calls stops using the log after one.

use super::{
    LogError, LogStats,
    mark::{Mark, SLOT_BYTES},
    segment::segment_path,
    tail::{Cursor, Run},
};
use crate::disk::{Disk, DiskFile};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The open files of a log.
pub(super) struct Files {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub world: u64,
    pub segment_bytes: u64,
    pub clock: fn() -> u64,
    pub on_thread: fn(),
    /// The segment that is written.
    pub number: u64,
    pub file: Box<dyn DiskFile>,
    pub mark: Box<dyn DiskFile>,
    /// The slot of the mark file that is written next.
    pub mark_slot: usize,
    pub stats: LogStats,
}

impl Files {
    /// Makes the runs durable, which end at the cursor.
    pub fn commit(&mut self, runs: &[Run], end: &Cursor) -> Result<(), LogError> {
        for run in runs {
            if run.segment != self.number {
                // A segment's header says that all before it is durable: so it has to be.
                self.sync()?;
                let path = segment_path(&self.dir, run.segment);
                self.file = self.disk.open(&path).map_err(LogError::io("open log segment", &path))?;
                self.number = run.segment;
            }
            let path = segment_path(&self.dir, self.number);
            self.file.write_at(&run.bytes, run.offset).map_err(LogError::io("write log segment", &path))?;
            self.stats.bytes_written += run.bytes.len() as u64;
        }
        self.sync()?;
        self.write_mark(end)
    }

    /// Says in the mark file that all before the cursor is durable, which it is.
    pub fn write_mark(&mut self, end: &Cursor) -> Result<(), LogError> {
        let mark = Mark { world: self.world, point: end.last, segment: end.segment, offset: end.offset };
        let written = self.mark.write_at(&mark.encode(), (self.mark_slot * SLOT_BYTES) as u64);
        self.mark_slot ^= 1;
        written.map_err(LogError::io("write log mark", &mark_path(&self.dir)))
    }

    /// Reserves that segment. Only ever fails with [`LogError::NoSpace`], and leaves nothing behind then.
    pub fn reserve(&mut self, number: u64) -> Result<(), LogError> {
        let path = segment_path(&self.dir, number);
        create_segment(&*self.disk, &self.dir, number, self.segment_bytes, &[])
            .map_err(|source| LogError::NoSpace { path, source: Arc::new(source) })
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let started = (self.clock)();
        let synced = self.file.sync_data();
        let nanos = (self.clock)().saturating_sub(started);
        self.stats.fsyncs += 1;
        self.stats.fsync_nanos_last = nanos;
        self.stats.fsync_nanos_total += nanos;
        synced.map_err(LogError::io("sync log segment", &segment_path(&self.dir, self.number)))
    }
}

/// The mark file of a log.
pub(super) fn mark_path(dir: &Path) -> PathBuf {
    dir.join("mark")
}

/// Creates a segment of zeros, or one that begins with a header: written in full and durable before it has its
/// name, so that a file of that name is never a half-made one.
pub(super) fn create_segment(
    disk: &dyn Disk,
    dir: &Path,
    number: u64,
    segment_bytes: u64,
    header: &[u8],
) -> io::Result<()> {
    let path = segment_path(dir, number);
    let temporary = path.with_extension("seg.tmp");
    let created = write_segment(disk, &temporary, segment_bytes, header)
        .and_then(|()| disk.rename(&temporary, &path))
        .and_then(|()| disk.sync_dir(dir));
    if created.is_err() {
        // Best effort: what stays is removed or reused when the log is opened again.
        let _ = disk.remove(&temporary);
        let _ = disk.remove(&path);
    }
    created
}

fn write_segment(disk: &dyn Disk, path: &Path, segment_bytes: u64, header: &[u8]) -> io::Result<()> {
    const PIECE_BYTES: u64 = 1 << 20;
    let file = disk.create_new(path)?;
    let zeros = vec![0; PIECE_BYTES.min(segment_bytes) as usize];
    let mut offset = 0;
    while offset < segment_bytes {
        let bytes = (segment_bytes - offset).min(PIECE_BYTES);
        file.write_at(&zeros[..bytes as usize], offset)?;
        offset += bytes;
    }
    if !header.is_empty() {
        file.write_at(header, 0)?;
    }
    file.sync_all()
}
