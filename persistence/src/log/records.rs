//! Reads records back, one segment in memory at a time, and verifies each again (D5).

use super::{
    DurablePoint, LogError,
    files::mark_path,
    frame::Frame,
    mark::{Mark, SLOT_BYTES},
    record::Record,
    recovery::{read_segment, undecodable},
    segment::{HeaderState, SEGMENT_HEADER_BYTES, SegmentHeader, segment_number, segment_path},
};
use crate::disk::Disk;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The durable records of a log in their order, from [`Log::records`](crate::Log::records). Ends after an error. While
/// it is there, a log that is being written is not cut behind where it began.
pub struct Records {
    walk: Result<Walk, Option<LogError>>,
    _reader: Option<Reader>,
}

impl Records {
    pub(super) fn open(disk: &Arc<dyn Disk>, dir: &Path, world: u64, from_lsn: u64, until_lsn: u64) -> Self {
        Self { walk: Walk::open(disk, dir, world, from_lsn, until_lsn).map_err(Some), _reader: None }
    }

    /// Begins as that reader, which lasts as long.
    pub(super) fn held(self, reader: Reader) -> Self {
        Self { _reader: Some(reader), ..self }
    }
}

/// Where those began who read a log that is being written.
#[derive(Clone, Default)]
pub(super) struct Readers(Arc<Mutex<BTreeMap<u64, usize>>>);

/// One of them.
pub(super) struct Reader {
    readers: Readers,
    from_lsn: u64,
}

impl Readers {
    pub(super) fn begin(&self, from_lsn: u64) -> Reader {
        *self.0.lock().entry(from_lsn).or_default() += 1;
        Reader { readers: self.clone(), from_lsn }
    }

    /// Cuts as [`cut_before`], but nothing that one of them may still read, nor while one begins.
    pub(super) fn cut_before(
        &self,
        lsn: u64,
        cut: impl FnOnce(u64) -> Result<u64, LogError>,
    ) -> Result<u64, LogError> {
        let readers = self.0.lock();
        cut(readers.keys().next().map_or(lsn, |first| lsn.min(*first)))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut readers = self.readers.0.lock();
        if let Some(count) = readers.get_mut(&self.from_lsn) {
            *count -= 1;
            if *count == 0 {
                readers.remove(&self.from_lsn);
            }
        }
    }
}

impl Iterator for Records {
    type Item = Result<(u64, Record), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = match &mut self.walk {
            Ok(walk) => walk.next_record(),
            Err(error) => error.take().map(Err),
        };
        if let Some(Err(_)) = &next {
            self.walk = Err(None);
        }
        next
    }
}

/// The chain value after a record.
pub(super) fn chain_at(disk: &Arc<dyn Disk>, dir: &Path, world: u64, lsn: u64) -> Result<u64, LogError> {
    let mut walk = Walk::open(disk, dir, world, lsn, lsn)?;
    while walk.next_frame()?.is_some() {}
    Ok(walk.last.chain)
}

/// Removes the segments all of whose records come before that one (D4: the caller's).
pub(super) fn cut_before(disk: &dyn Disk, dir: &Path, world: u64, lsn: u64) -> Result<u64, LogError> {
    let mut removed = 0;
    let numbers = segment_numbers(disk, dir)?;
    for pair in numbers.windows(2) {
        // One after the other, each durable: the log stays without a gap whenever this stops.
        match read_header(disk, &segment_path(dir, pair[1]), world)? {
            Some(next) if next.first_lsn <= lsn => {
                let path = segment_path(dir, pair[0]);
                disk.remove(&path).map_err(LogError::io("remove log segment", &path))?;
                disk.sync_dir(dir).map_err(LogError::io("sync directory", dir))?;
                removed += 1;
            }
            _ => break,
        }
    }
    Ok(removed)
}

/// Copies the segments up to that record into an empty directory, verified on the way, and makes them durable.
pub(super) fn copy(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    target: &Path,
    world: u64,
    until: DurablePoint,
) -> Result<DurablePoint, LogError> {
    disk.create_dir_all(target).map_err(LogError::io("create log directory", target))?;
    let first = segment_numbers(&**disk, dir)?.into_iter().next();
    let first = first.map(|number| read_header(&**disk, &segment_path(dir, number), world)).transpose()?;
    let first_lsn = first.flatten().map_or(1, |header| header.first_lsn);
    let mut walk = Walk::open(disk, dir, world, first_lsn, until.lsn)?;
    loop {
        let number = walk.header.number;
        while walk.header.number == number {
            if walk.next_frame_here()?.is_none() {
                break;
            }
        }
        let ended = walk.last.lsn >= until.lsn;
        let mut bytes = walk.bytes.clone();
        if ended {
            // What stands behind the last record may be in the making.
            bytes[walk.offset..].fill(0);
        }
        let path = segment_path(target, number);
        let write = || -> std::io::Result<()> {
            let file = disk.create_new(&path)?;
            file.write_at(&bytes, 0)?;
            file.sync_all()
        };
        write().map_err(LogError::io("copy log segment", &path))?;
        if ended {
            break;
        }
        walk.next_segment()?;
    }
    if walk.last != until {
        let detail = format!("record {} is another one than the log ended with", until.lsn);
        return Err(LogError::corrupt(&walk.path, walk.offset, detail));
    }
    if until.lsn > 0 {
        let path = mark_path(target);
        let mark = Mark { world, point: until, segment: walk.header.number, offset: walk.offset as u64 };
        let write = || -> std::io::Result<()> {
            let file = disk.create_new(&path)?;
            file.write_at(&[mark.encode(), [0; SLOT_BYTES]].concat(), 0)?;
            file.sync_all()
        };
        write().map_err(LogError::io("write log mark", &path))?;
    }
    disk.sync_dir(target).map_err(LogError::io("sync directory", target))?;
    Ok(until)
}

/// A segment of a log that does not verify.
#[derive(Debug)]
pub struct LogFault {
    /// File and place.
    pub error: LogError,
    /// No record after this one is in the segment, as far as one can tell: a snapshot that is newer does not need it.
    /// `None` while records go into it: whoever begins another one ([`LogHandle::begin_segment`]) ends that.
    ///
    /// [`LogHandle::begin_segment`]: crate::LogHandle::begin_segment
    pub last_lsn: Option<u64>,
}

/// Reads all durable records again from the disk, segment by segment. `progress` is told how many bytes come next; false
/// ends it.
pub(super) fn scrub(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    world: u64,
    until_lsn: u64,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Vec<LogFault>, LogError> {
    let mut faults = Vec::new();
    let mut segments = Vec::new();
    for number in segment_numbers(&**disk, dir)? {
        let path = segment_path(dir, number);
        match read_header(&**disk, &path, world) {
            // One that was just begun has no record yet.
            Ok(header) => segments.push((path, header.filter(|header| header.first_lsn <= until_lsn + 1))),
            // It was cut off meanwhile.
            Err(_) if disk.exists(&path).is_ok_and(|exists| !exists) => {}
            Err(error) => return Err(error),
        }
    }
    // Behind the last segment in use are reserved ones.
    let in_use = segments.iter().rposition(|(_, header)| header.is_some()).map_or(0, |last| last + 1);
    for (at, (path, header)) in segments[..in_use].iter().enumerate() {
        let next = segments[at + 1..].iter().find_map(|(_, header)| header.as_ref());
        let last_lsn = next.map(|next| next.first_lsn - 1);
        let end_lsn = last_lsn.unwrap_or(until_lsn);
        let Some(header) = header else {
            let error = LogError::corrupt(path, 0, "the header does not verify");
            faults.push(LogFault { error, last_lsn });
            continue;
        };
        let bytes = header.segment_bytes;
        if !progress(bytes) {
            break;
        }
        if let Ok(file) = disk.open_read(path) {
            file.forget(0, bytes);
        }
        let walk = Walk {
            disk: disk.clone(),
            dir: dir.into(),
            world,
            from_lsn: header.first_lsn,
            until_lsn: end_lsn,
            bytes: Vec::new(),
            offset: 0,
            last: DurablePoint { lsn: header.first_lsn - 1, chain: header.chain },
            path: path.clone(),
            header: *header,
        };
        let follower = segments.get(at + 1).and_then(|(_, header)| header.as_ref());
        let end = match (follower, next) {
            (Some(follower), _) => Some((end_lsn, Some(follower.chain))),
            // Nobody knows where it ends, since the one behind it is damaged.
            (None, Some(_)) => None,
            (None, None) => Some((end_lsn, None)),
        };
        match walk.load().and_then(|walk| walk.verify_rest(end)) {
            Ok(()) => {}
            Err(_) if disk.exists(path).is_ok_and(|exists| !exists) => {}
            Err(error) => faults.push(LogFault { error, last_lsn }),
        }
    }
    Ok(faults)
}

/// A place in a log that was verified up to there from the beginning of its segment.
struct Walk {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    world: u64,
    from_lsn: u64,
    until_lsn: u64,
    path: PathBuf,
    header: SegmentHeader,
    bytes: Vec<u8>,
    offset: usize,
    last: DurablePoint,
}

impl Walk {
    /// Goes to the beginning of the segment that holds `from_lsn`.
    fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        world: u64,
        from_lsn: u64,
        until_lsn: u64,
    ) -> Result<Self, LogError> {
        let from_lsn = from_lsn.max(1);
        let mut first_lsn = 0;
        for number in segment_numbers(&**disk, dir)?.into_iter().rev() {
            let path = segment_path(dir, number);
            let Some(header) = read_header(&**disk, &path, world)? else { continue };
            first_lsn = header.first_lsn;
            // The last segment of all may begin at a record that does not exist yet.
            if first_lsn <= from_lsn.min(until_lsn.max(1)) {
                let walk = Self {
                    disk: disk.clone(),
                    dir: dir.into(),
                    world,
                    from_lsn,
                    until_lsn,
                    bytes: Vec::new(),
                    offset: 0,
                    last: DurablePoint { lsn: first_lsn - 1, chain: header.chain },
                    path,
                    header,
                };
                return walk.load();
            }
        }
        Err(LogError::Missing { path: dir.into(), first_lsn, needed: from_lsn })
    }

    fn next_record(&mut self) -> Option<Result<(u64, Record), LogError>> {
        loop {
            let (kind, version, lsn, start, payload_bytes) = match self.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            };
            if lsn >= self.from_lsn {
                let start = start + super::FRAME_HEADER_BYTES;
                let payload = &self.bytes[start..start + payload_bytes];
                let record = Record::decode(kind, version, payload);
                return Some(
                    record.map(|record| (lsn, record)).map_err(|e| undecodable(&self.path, start, lsn, e)),
                );
            }
        }
    }

    /// Kind, version, lsn, offset and payload length of the next frame with a record, up to `until_lsn`.
    fn next_frame(&mut self) -> Result<Option<(u8, u8, u64, usize, usize)>, LogError> {
        while self.last.lsn < self.until_lsn {
            if let Some(frame) = self.next_frame_here()? {
                return Ok(Some(frame));
            }
            self.next_segment()?;
        }
        Ok(None)
    }

    /// As [`Walk::next_frame`], and `None` at the end of the segment, too.
    fn next_frame_here(&mut self) -> Result<Option<(u8, u8, u64, usize, usize)>, LogError> {
        if self.last.lsn < self.until_lsn {
            let next_lsn = self.last.lsn + 1;
            let frame = Frame::decode(&self.bytes[self.offset..], self.header.chain);
            let Some(frame) = frame.filter(|frame| frame.follows(next_lsn, self.last.chain)) else {
                let detail = format!("record {next_lsn} does not verify, although it was durable");
                return Err(LogError::corrupt(&self.path, self.offset, detail));
            };
            if frame.is_end() {
                return Ok(None);
            }
            let start = self.offset;
            self.offset += frame.bytes;
            self.last = DurablePoint { lsn: frame.lsn, chain: frame.chain };
            return Ok(Some((frame.kind, frame.version, frame.lsn, start, frame.payload.len())));
        }
        Ok(None)
    }

    /// Verifies the rest of the segment, and that it ends with that record and chain value, as far as they are known.
    fn verify_rest(mut self, end: Option<(u64, Option<u64>)>) -> Result<(), LogError> {
        while self.next_frame_here()?.is_some() {}
        let is_end = |(lsn, chain): (u64, Option<u64>)| {
            lsn == self.last.lsn && chain.is_none_or(|chain| chain == self.last.chain)
        };
        if end.is_none_or(is_end) {
            return Ok(());
        }
        let detail = format!("it ends with record {}, what follows it does not", self.last.lsn);
        Err(LogError::corrupt(&self.path, self.offset, detail))
    }

    fn next_segment(&mut self) -> Result<(), LogError> {
        let number = self.header.number + 1;
        self.path = segment_path(&self.dir, number);
        let header = read_header(&*self.disk, &self.path, self.world)?;
        let expected = (number, self.last.lsn + 1, self.last.chain);
        match header {
            Some(header) if (header.number, header.first_lsn, header.chain) == expected => {
                self.header = header;
            }
            _ => {
                return Err(LogError::corrupt(
                    &self.path,
                    0,
                    "the header does not continue the segment before it",
                ));
            }
        }
        self.read()
    }

    fn load(mut self) -> Result<Self, LogError> {
        self.read()?;
        Ok(self)
    }

    fn read(&mut self) -> Result<(), LogError> {
        self.bytes = read_segment(&*self.disk, &self.path)?;
        self.bytes.truncate(self.header.segment_bytes as usize);
        self.offset = SEGMENT_HEADER_BYTES.min(self.bytes.len());
        Ok(())
    }
}

fn segment_numbers(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, LogError> {
    let names = disk.list(dir).map_err(LogError::io("list log directory", dir))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The header of a segment in use. `None` if it is reserved, or just being begun: whoever needs it says so.
pub(super) fn read_header(
    disk: &dyn Disk,
    path: &Path,
    world: u64,
) -> Result<Option<SegmentHeader>, LogError> {
    const SEGMENT_HEADER_LEN: u64 = SEGMENT_HEADER_BYTES as u64;
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let read = disk.open_read(path).and_then(|file| match file.len()? {
        0..SEGMENT_HEADER_LEN => Ok(false),
        _ => file.read_at(&mut bytes, 0).map(|()| true),
    });
    if !read.map_err(LogError::io("read log segment", path))? {
        return Ok(None);
    }
    match SegmentHeader::decode(&bytes) {
        HeaderState::Valid(header) if header.world == world => Ok(Some(header)),
        HeaderState::Valid(header) => {
            Err(LogError::ForeignWorld { path: path.into(), found: header.world, expected: world })
        }
        HeaderState::Unused | HeaderState::Newer(_) | HeaderState::Invalid => Ok(None),
    }
}
