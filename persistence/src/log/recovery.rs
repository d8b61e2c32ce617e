//! Opening a log: verifies the segments from the one that is needed on, tells damage from a torn tail, repairs the
//! latter. Sealed segments before that are verified when somebody reads them.
//!
//! The first frame that does not verify is the break. If anything says that records behind it were durable,
//! the log is damaged and is not opened (D5, D7): the mark, the caller's keyframes, a frame behind the break,
//! a later segment in use (whose header is only written once all before it is durable). Otherwise what stands
//! behind the break was never acknowledged, and is zeroed.

use super::{
    DurablePoint, LogError, LogOptions, LogStats, OpenReport,
    files::{Files, create_segment, mark_path},
    frame::{END_BYTES, Frame, first_chain},
    mark::{MARK_BYTES, Mark, SLOT_BYTES, SlotState},
    record::{DecodeError, KIND_BUILD, Record, check_known},
    records::read_header,
    segment::{
        HeaderState, LOG_FORMAT, SEGMENT_BYTES_MAX, SEGMENT_HEADER_BYTES, SegmentHeader, segment_number,
        segment_path,
    },
    tail::{Cursor, Tail},
};
use crate::disk::{Disk, DiskFile};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Opens the log in that directory, or begins one there.
pub(super) fn recover(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: &LogOptions,
) -> Result<(Tail, Files, OpenReport), LogError> {
    let segment_bytes = options.segment_bytes();
    disk.create_dir_all(dir).map_err(LogError::io("create log directory", dir))?;
    let names = disk.list(dir).map_err(LogError::io("list log directory", dir))?;
    for name in names.iter().filter(|name| name.ends_with(".seg.tmp")) {
        let path = dir.join(name);
        disk.remove(&path).map_err(LogError::io("remove unfinished log segment", &path))?;
    }
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();

    let marks = MarkFile::read(&*disk, dir, options.world)?;
    let created = numbers.is_empty();
    if created {
        begin(&*disk, dir, &Scan::new(options, marks.points()), options)?;
        numbers.push(1);
    }
    let (scanned, later) = scan(&*disk, dir, options, &marks, &numbers)?;

    let file = scanned.repair(&*disk)?;
    let reserved_to = keep_reserved(&*disk, dir, scanned.number, &later, segment_bytes)?;
    let (mark, mark_slot) = marks.open(&*disk, dir)?;
    let cursor = Cursor {
        segment: scanned.number,
        offset: scanned.end as u64,
        segment_bytes: scanned.header.segment_bytes,
        seed: scanned.header.chain,
        last: scanned.last,
    };
    let mut files = Files {
        disk,
        dir: dir.into(),
        world: options.world,
        segment_bytes,
        clock: options.clock,
        on_thread: options.on_thread,
        number: scanned.number,
        file,
        mark,
        mark_slot,
        stats: LogStats::default(),
    };
    if cursor.last.lsn > 0 {
        files.write_mark(&cursor)?;
    }
    let report = report(created, &marks, &scanned, &later);
    let tail = Tail::new(cursor, reserved_to, options.world, options.build_id, segment_bytes);
    Ok((tail, files, report))
}

/// What opening would find, without writing anything.
pub(super) fn look(disk: &dyn Disk, dir: &Path, options: &LogOptions) -> Result<OpenReport, LogError> {
    let names = disk.list(dir).map_err(LogError::io("list log directory", dir))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    if numbers.is_empty() {
        let needed = options.oldest_needed.max(1);
        return Err(LogError::Missing { path: dir.into(), first_lsn: 0, needed });
    }
    let marks = MarkFile::read(disk, dir, options.world)?;
    let (scanned, later) = scan(disk, dir, options, &marks, &numbers)?;
    Ok(report(false, &marks, &scanned, &later))
}

fn report(created: bool, marks: &MarkFile, scanned: &Scanned, later: &[Later]) -> OpenReport {
    OpenReport {
        created,
        first_lsn: scanned.first_lsn,
        records: scanned.last.lsn + 1 - scanned.first_lsn,
        durable: scanned.last,
        mark_missing: marks.bytes.is_none() && scanned.last.lsn > 0,
        torn_bytes: scanned.torn_bytes + later.iter().map(|later| later.used_bytes as u64).sum::<u64>(),
        builds: scanned.builds.clone(),
    }
}

/// Verifies the segments from the one on that is to be verified first.
fn scan(
    disk: &dyn Disk,
    dir: &Path,
    options: &LogOptions,
    marks: &MarkFile,
    numbers: &[u64],
) -> Result<(Scanned, Vec<Later>), LogError> {
    let mut scan = Scan::new(options, marks.points());
    let start = first_to_verify(disk, dir, options, numbers)?;
    if start > 0 {
        if let Some(pair) = numbers[..=start].windows(2).find(|pair| pair[1] != pair[0] + 1) {
            let path = segment_path(dir, pair[0] + 1);
            return Err(LogError::corrupt(
                &path,
                0,
                "the file is gone, although segments after it are there",
            ));
        }
        // Where the log begins is in the header of its first segment, also when no more of it is verified.
        let path = segment_path(dir, numbers[0]);
        let Some(header) = read_header(disk, &path, options.world)? else {
            return Err(LogError::corrupt(&path, 0, "the first segment has no valid header"));
        };
        scan.check_first(&path, &header)?;
        scan.skipped_first_lsn = Some(header.first_lsn);
    }
    for number in &numbers[start..] {
        let path = segment_path(dir, *number);
        let bytes = read_segment(disk, &path)?;
        scan.segment(*number, path, bytes)?;
    }
    scan.judge(dir)
}

/// The position of the last segment that begins at or before what is to be verified.
fn first_to_verify(
    disk: &dyn Disk,
    dir: &Path,
    options: &LogOptions,
    numbers: &[u64],
) -> Result<usize, LogError> {
    let candidates = if options.verify_from > 1 { 1..numbers.len() } else { 0..0 };
    for at in candidates.rev() {
        let header = read_header(disk, &segment_path(dir, numbers[at]), options.world)?;
        if header.is_some_and(|header| header.first_lsn <= options.verify_from) {
            return Ok(at);
        }
    }
    Ok(0)
}

/// Begins a log in an empty directory, unless something says that there was one.
fn begin(disk: &dyn Disk, dir: &Path, scan: &Scan<'_>, options: &LogOptions) -> Result<(), LogError> {
    let path = segment_path(dir, 1);
    if scan.known_lsn > 0 {
        let detail = format!("the file is gone, although records up to {} were durable", scan.known_lsn);
        return Err(LogError::corrupt(&path, 0, detail));
    }
    let header = SegmentHeader {
        world: options.world,
        build_id: options.build_id,
        number: 1,
        first_lsn: 1,
        chain: first_chain(options.world),
        segment_bytes: options.segment_bytes(),
    };
    let parent = dir.parent().unwrap_or(dir);
    disk.sync_dir(parent).map_err(LogError::io("sync directory", parent))?;
    create_segment(disk, dir, 1, header.segment_bytes, &header.encode())
        .map_err(|source| LogError::NoSpace { path, source: Arc::new(source) })
}

/// Keeps the clean segments that follow the last one in use, and removes the others. Returns the last kept.
fn keep_reserved(
    disk: &dyn Disk,
    dir: &Path,
    last_used: u64,
    later: &[Later],
    segment_bytes: u64,
) -> Result<u64, LogError> {
    let mut reserved_to = last_used;
    let mut removed = false;
    for segment in later {
        let clean = segment.used_bytes == 0 && segment.bytes as u64 == segment_bytes;
        if clean && segment.number == reserved_to + 1 {
            reserved_to = segment.number;
            continue;
        }
        let path = segment_path(dir, segment.number);
        disk.remove(&path).map_err(LogError::io("remove log segment", &path))?;
        removed = true;
    }
    if removed {
        disk.sync_dir(dir).map_err(LogError::io("sync directory", dir))?;
    }
    Ok(reserved_to)
}

/// The bytes of a segment file; of one that is larger than any segment, the beginning.
pub(super) fn read_segment(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, LogError> {
    let read = || -> io::Result<_> {
        let file = disk.open_read(path)?;
        let mut bytes = vec![0; file.len()?.min(SEGMENT_BYTES_MAX) as usize];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    read().map_err(LogError::io("read log segment", path))
}

/// What the mark file says.
struct MarkFile {
    /// Bytes of the file, if there is one.
    bytes: Option<u64>,
    slots: [Option<Mark>; 2],
}

impl MarkFile {
    fn read(disk: &dyn Disk, dir: &Path, world: u64) -> Result<Self, LogError> {
        let path = mark_path(dir);
        let mut bytes = [0; MARK_BYTES];
        let mut read = || -> io::Result<_> {
            let file = disk.open_read(&path)?;
            let present = file.len()?;
            file.read_at(&mut bytes[..present.min(MARK_BYTES as u64) as usize], 0)?;
            Ok(present)
        };
        let present = match read() {
            Ok(present) => Some(present),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(LogError::io("read log mark", &path)(error)),
        };
        let mut slots = [None; 2];
        for (slot, bytes) in slots.iter_mut().zip(bytes.as_chunks::<SLOT_BYTES>().0) {
            match Mark::decode(bytes) {
                SlotState::Valid(mark) if mark.world != world => {
                    return Err(LogError::ForeignWorld { path, found: mark.world, expected: world });
                }
                SlotState::Valid(mark) => *slot = Some(mark),
                SlotState::Newer(found) => return Err(newer(&path, found)),
                SlotState::Invalid => {}
            }
        }
        Ok(Self { bytes: present, slots })
    }

    fn points(&self) -> impl Iterator<Item = DurablePoint> + '_ {
        self.slots.iter().flatten().map(|mark| mark.point)
    }

    /// The file to write to, and the slot to begin with: not the one that holds the newest mark.
    fn open(&self, disk: &dyn Disk, dir: &Path) -> Result<(Box<dyn DiskFile>, usize), LogError> {
        let path = mark_path(dir);
        let lsn = |slot: usize| self.slots[slot].map_or(0, |mark: Mark| mark.point.lsn);
        let slot = usize::from(lsn(0) > lsn(1));
        let open = || -> io::Result<_> {
            let file = if self.bytes.is_some() { disk.open(&path)? } else { disk.create_new(&path)? };
            let present = self.bytes.unwrap_or(0).min(MARK_BYTES as u64);
            if present < MARK_BYTES as u64 {
                file.write_at(&[0; MARK_BYTES][present as usize..], present)?;
                file.sync_all()?;
            }
            if self.bytes.is_none() {
                disk.sync_dir(dir)?;
            }
            Ok(file)
        };
        Ok((open().map_err(LogError::io("open log mark", &path))?, slot))
    }
}

fn newer(path: &Path, found: u32) -> LogError {
    LogError::NewerFormat { path: path.into(), what: "log format".into(), found, known: LOG_FORMAT }
}

/// A segment without a valid header, behind the last one in use.
struct Later {
    number: u64,
    bytes: usize,
    /// Up to the last byte that is not zero.
    used_bytes: usize,
}

/// The segments, read one after the other.
struct Scan<'a> {
    options: &'a LogOptions,
    /// Records that were durable, as the marks and the caller say.
    known: Vec<DurablePoint>,
    /// The highest of them.
    known_lsn: u64,
    /// The highest lsn that a frame behind the break says to be durable.
    searched_lsn: u64,
    /// Where the first frame or segment is that does not verify.
    broken: Option<(PathBuf, usize)>,
    /// The last segment in use so far.
    tail: Option<Scanned>,
    later: Vec<Later>,
    /// Where the log begins, if its first segments are not verified.
    skipped_first_lsn: Option<u64>,
}

/// The last segment in use, and what was found up to it.
struct Scanned {
    number: u64,
    path: PathBuf,
    header: SegmentHeader,
    bytes: Vec<u8>,
    first_lsn: u64,
    last: DurablePoint,
    /// Behind the last record. If an end of segment stands there, it is dropped: what it led to is not there.
    end: usize,
    /// From here on nothing but the file itself says that the bytes are durable.
    unsure_from: usize,
    torn_bytes: u64,
    builds: Vec<[u8; 16]>,
}

impl<'a> Scan<'a> {
    fn new(options: &'a LogOptions, marks: impl Iterator<Item = DurablePoint>) -> Self {
        let known: Vec<_> = marks.chain(options.known_durable.iter().copied()).collect();
        let known_lsn = known.iter().map(|point| point.lsn).max().unwrap_or(0);
        Self {
            options,
            known,
            known_lsn,
            searched_lsn: 0,
            broken: None,
            tail: None,
            later: Vec::new(),
            skipped_first_lsn: None,
        }
    }

    fn segment(&mut self, number: u64, path: PathBuf, bytes: Vec<u8>) -> Result<(), LogError> {
        if let Some(tail) = &self.tail
            && self.broken.is_none()
            && number != tail.number + 1
        {
            self.broken = Some((path.with_file_name(format!("{:08}.seg", tail.number + 1)), 0));
        }
        match SegmentHeader::decode(&bytes) {
            HeaderState::Newer(found) => Err(newer(&path, found)),
            HeaderState::Valid(header) if header.world != self.options.world => {
                Err(LogError::ForeignWorld { path, found: header.world, expected: self.options.world })
            }
            HeaderState::Valid(header) => match &self.broken {
                Some((broken, offset)) => {
                    let detail = format!("no valid frame here, although segment {number} after it is in use");
                    Err(LogError::corrupt(broken, *offset, detail))
                }
                None => self.walk(number, path, header, bytes),
            },
            HeaderState::Unused | HeaderState::Invalid => self.unused(number, path, &bytes),
        }
    }

    /// Takes note of a segment that has no valid header.
    fn unused(&mut self, number: u64, path: PathBuf, bytes: &[u8]) -> Result<(), LogError> {
        let Some(tail) = &self.tail else {
            return Err(LogError::corrupt(&path, 0, "the first segment has no valid header"));
        };
        let seed = tail.last.chain;
        self.broken.get_or_insert((path, 0));
        self.search(bytes, seed);
        self.later.push(Later { number, bytes: bytes.len(), used_bytes: used_bytes(bytes) });
        Ok(())
    }

    /// Verifies the frames of a segment in use.
    fn walk(
        &mut self,
        number: u64,
        path: PathBuf,
        header: SegmentHeader,
        mut bytes: Vec<u8>,
    ) -> Result<(), LogError> {
        let (first_lsn, mut last, mut builds) = match self.tail.take() {
            Some(tail) => (tail.first_lsn, tail.last, tail.builds),
            None => match self.skipped_first_lsn {
                None => (header.first_lsn, self.check_first(&path, &header)?, Vec::new()),
                Some(first_lsn) => {
                    let before = DurablePoint { lsn: header.first_lsn - 1, chain: header.chain };
                    self.check_known(&path, 0, before)?;
                    (first_lsn, before, Vec::new())
                }
            },
        };
        let expected = (number, last.lsn + 1, last.chain);
        if (header.number, header.first_lsn, header.chain) != expected {
            return Err(LogError::corrupt(&path, 0, "the header does not continue the segment before it"));
        }
        note_build(&mut builds, header.build_id);
        bytes.truncate(header.segment_bytes as usize);

        let (mut end, mut ended, mut unsure_from) = (SEGMENT_HEADER_BYTES, false, 0);
        while let Some(frame) = Frame::decode(&bytes[end..], header.chain) {
            if !frame.follows(last.lsn + 1, last.chain) {
                break;
            }
            ended = frame.is_end();
            if ended {
                break;
            }
            last = DurablePoint { lsn: frame.lsn, chain: frame.chain };
            self.check_known(&path, end, last)?;
            if let Some(build_id) = build_of(&path, end, &frame)? {
                note_build(&mut builds, build_id);
            }
            end += frame.bytes;
            if last.lsn <= self.known_lsn {
                unsure_from = end;
            }
        }
        let behind = if ended { end + END_BYTES } else { end };
        if !ended {
            self.broken = Some((path.clone(), end));
            self.search(&bytes[end..], header.chain);
        }
        let torn_bytes = used_bytes(&bytes[behind..]) as u64;
        self.tail = Some(Scanned {
            number,
            path,
            header,
            bytes,
            first_lsn,
            last,
            end,
            unsure_from,
            torn_bytes,
            builds,
        });
        Ok(())
    }

    /// Where the log begins: with its first record, or where it was cut and the caller allows it.
    fn check_first(&self, path: &Path, header: &SegmentHeader) -> Result<DurablePoint, LogError> {
        let needed = self.options.oldest_needed.max(1);
        if header.first_lsn > needed {
            let path = path.parent().unwrap_or(path).into();
            return Err(LogError::Missing { path, first_lsn: header.first_lsn, needed });
        }
        if header.first_lsn == 1 && header.chain != first_chain(self.options.world) {
            return Err(LogError::corrupt(path, 0, "the first segment does not begin the world's chain"));
        }
        let before = DurablePoint { lsn: header.first_lsn - 1, chain: header.chain };
        self.check_known(path, 0, before)?;
        Ok(before)
    }

    /// A record whose lsn is known to be durable must be that record (D7).
    fn check_known(&self, path: &Path, offset: usize, point: DurablePoint) -> Result<(), LogError> {
        let differs =
            |known: &DurablePoint| known.lsn == point.lsn && known.chain != point.chain && known.lsn > 0;
        if self.known.iter().any(differs) {
            let detail = format!("record {} is another one than a mark or a keyframe says", point.lsn);
            return Err(LogError::corrupt(path, offset, detail));
        }
        Ok(())
    }

    /// Looks for frames behind the break, which say what was durable when they were written.
    fn search(&mut self, bytes: &[u8], seed: u64) {
        for offset in (0..bytes.len()).step_by(8) {
            if let Some(frame) = Frame::decode(&bytes[offset..], seed) {
                self.searched_lsn = self.searched_lsn.max(frame.durable_lsn);
            }
        }
    }

    /// Damage, or a torn tail?
    fn judge(self, dir: &Path) -> Result<(Scanned, Vec<Later>), LogError> {
        let tail = self.tail.expect("the first segment was walked, or there was an error");
        let known_lsn = self.known_lsn.max(self.searched_lsn);
        if known_lsn > tail.last.lsn {
            let (path, offset) = self.broken.unwrap_or_else(|| (segment_path(dir, tail.number + 1), 0));
            let detail = format!(
                "record {} does not verify or is gone, although records up to {known_lsn} were durable",
                tail.last.lsn + 1
            );
            return Err(LogError::corrupt(&path, offset, detail));
        }
        Ok((tail, self.later))
    }
}

impl Scanned {
    /// Makes what was found durable, and the rest zero.
    ///
    /// Frames that nothing else vouches for are written again before the sync: after a failed sync the system
    /// may hold pages as clean that never reached the disk (D6).
    fn repair(&self, disk: &dyn Disk) -> Result<Box<dyn DiskFile>, LogError> {
        let file = disk.open(&self.path).map_err(LogError::io("open log segment", &self.path))?;
        let whole = self.bytes.len() as u64 == self.header.segment_bytes;
        let clean = whole && self.bytes[self.end..].iter().all(|byte| *byte == 0);
        let repair = || {
            if self.unsure_from < self.end {
                file.write_at(&self.bytes[self.unsure_from..self.end], self.unsure_from as u64)?;
            }
            if !clean {
                let zeros = vec![0; self.header.segment_bytes as usize - self.end];
                file.write_at(&zeros, self.end as u64)?;
            }
            if self.unsure_from < self.end || !clean { file.sync_all() } else { Ok(()) }
        };
        repair().map_err(LogError::io("repair log segment", &self.path))?;
        Ok(file)
    }
}

/// The build that a frame names. Refuses records of later builds.
fn build_of(path: &Path, offset: usize, frame: &Frame<'_>) -> Result<Option<[u8; 16]>, LogError> {
    let fail = |error| undecodable(path, offset, frame.lsn, error);
    check_known(frame.kind, frame.version).map_err(fail)?;
    if frame.kind != KIND_BUILD {
        return Ok(None);
    }
    match Record::decode(frame.kind, frame.version, frame.payload).map_err(fail)? {
        Record::Build { build_id } => Ok(Some(build_id)),
        _ => Ok(None),
    }
}

/// The error for a frame that verifies but holds no record that this build knows.
pub(super) fn undecodable(path: &Path, offset: usize, lsn: u64, error: DecodeError) -> LogError {
    match error {
        DecodeError::Newer { what, found, known } => {
            LogError::NewerFormat { path: path.into(), what, found: found.into(), known: known.into() }
        }
        DecodeError::Malformed(detail) => {
            LogError::corrupt(path, offset, format!("record {lsn} does not decode: {detail}"))
        }
    }
}

fn note_build(builds: &mut Vec<[u8; 16]>, build_id: [u8; 16]) {
    if !builds.contains(&build_id) {
        builds.push(build_id);
    }
}

/// Bytes up to the last one that is not zero.
fn used_bytes(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}
