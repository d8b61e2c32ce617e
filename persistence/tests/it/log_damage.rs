//! Damage and torn tails: a committed record is there after opening, or its loss is named (D5). Never neither.

use crate::support::{dir, input, mark, open, open_with, options, read, segment, small_log};
use everworld_persistence::{DurablePoint, LogError, LogOptions, Record, SEGMENT_BYTES_MIN, sim::SimDisk};
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

/// Either an error, or all committed records are there.
fn found_or_named(disk: &SimDisk, committed: &[Record], what: &str) -> bool {
    match open(disk) {
        Ok((log, _)) => {
            assert_eq!(read(&log), committed, "{what}: records were lost in silence");
            true
        }
        Err(LogError::Corrupt { .. } | LogError::NewerFormat { .. }) => false,
        Err(other) => panic!("{what}: {other}"),
    }
}

fn used_bytes(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

/// D5, exhaustive over a small log: header, every frame, some of the zeros behind, the reserved segment, the mark.
#[test]
fn every_flipped_bit_is_found_or_harmless() {
    let disk = SimDisk::default();
    let (records, _) = small_log(&disk);
    let used = used_bytes(&disk.file(&segment(1)).unwrap()).next_multiple_of(8);
    let all = SEGMENT_BYTES_MIN as usize;
    let zeros = |from: usize| (from * 8..all * 8).step_by(997);
    let mut opened = 0;
    for bit in 0..used * 8 {
        let damaged = disk.copy();
        damaged.flip(&segment(1), bit);
        opened += usize::from(found_or_named(&damaged, &records, &format!("bit {bit} of the segment")));
    }
    assert_eq!(opened, 0, "each bit up to the last record counts");
    let harmless = zeros(used).map(|bit| (segment(1), bit)).chain(zeros(0).map(|bit| (segment(2), bit)));
    for (path, bit) in harmless.chain((0..128 * 8).map(|bit| (mark(), bit))) {
        let damaged = disk.copy();
        damaged.flip(&path, bit);
        let what = format!("bit {bit} of {}", path.display());
        assert!(found_or_named(&damaged, &records, &what), "{what} holds no record");
        let (_, report) = open(&damaged).unwrap();
        assert_eq!(report.torn_bytes, 0, "{what}: the first opening repairs");
    }
}

/// D5 without the mark: what later frames say to be durable is protected by them, the rest by a keyframe.
#[test]
fn without_a_mark_frames_and_keyframes_tell_damage_from_a_torn_tail() {
    let disk = SimDisk::default();
    let (records, last) = small_log(&disk);
    disk.remove_file(&mark());
    assert!(found_or_named(&disk, &records, "without a mark"));
    disk.remove_file(&mark());
    let bytes = disk.file(&segment(1)).unwrap();
    // The last batch was written when four records were durable.
    let fourth = frame_ends(&bytes)[3];
    for bit in 128 * 8..used_bytes(&bytes) * 8 {
        let damaged = disk.copy();
        damaged.flip(&segment(1), bit);
        let options = LogOptions { known_durable: vec![last], ..options() };
        assert!(matches!(open_with(&damaged, &options), Err(LogError::Corrupt { .. })), "bit {bit}");
        if bit < fourth * 8 {
            assert!(matches!(open(&damaged), Err(LogError::Corrupt { .. })), "bit {bit}");
        } else {
            assert!(open(&damaged).unwrap().1.records >= 4);
        }
    }
}

/// Where each frame of a segment ends.
fn frame_ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut end = 128;
    loop {
        let length = u32::from_le_bytes(bytes[end + 16..end + 20].try_into().unwrap()) as usize;
        if bytes[end + 20] == 0 {
            return ends;
        }
        end += 40 + length.next_multiple_of(8);
        ends.push(end);
    }
}

/// A crash in the middle of a batch, at every byte: what was committed stays, what is whole may stay, the rest goes
/// and does not come back.
#[test]
fn a_torn_tail_is_cut_off_at_every_byte() {
    let disk = SimDisk::default();
    let (mut records, _) = small_log(&disk);
    let committed = records.len();
    let before = disk.copy();
    let (mut log, _) = open(&disk).unwrap();
    for seq in 20..24 {
        records.push(input(seq, seq as usize));
        log.append(&records[records.len() - 1]).unwrap();
    }
    log.commit().unwrap();
    let (old, new) = (before.file(&segment(1)).unwrap(), disk.file(&segment(1)).unwrap());
    let ends = frame_ends(&new);
    for torn in used_bytes(&old)..=used_bytes(&new) {
        let crashed = before.copy();
        let mut bytes = old.clone();
        bytes[..torn].copy_from_slice(&new[..torn]);
        let nonzero = used_bytes(&bytes);
        crashed.set_file(&segment(1), bytes);

        // Padding is zero: a frame may be whole before its last byte is written.
        let written = crashed.file(&segment(1)).unwrap();
        let whole = ends.iter().take_while(|end| written[..**end] == new[..**end]).count();
        let (mut log, report) = open(&crashed).unwrap();
        assert!(whole >= committed);
        assert_eq!(read(&log), records[..whole], "torn at {torn}");
        assert_eq!(report.torn_bytes, nonzero.saturating_sub(ends[whole - 1]) as u64, "torn at {torn}");
        log.append(&input(99, 3)).unwrap();
        log.commit().unwrap();
        let (log, report) = open(&crashed).unwrap();
        assert_eq!((report.records as usize, report.torn_bytes), (whole + 1, 0));
        assert_eq!(read(&log)[whole], input(99, 3));
    }
}

/// A log of three segments in use.
fn long_log(disk: &SimDisk) -> Vec<Record> {
    let (mut log, _) = open(disk).unwrap();
    let records: Vec<_> = (0..8).map(|seq| input(seq, 20_000)).collect();
    for record in &records {
        log.append(record).unwrap();
        log.commit().unwrap();
    }
    records
}

#[test]
fn truncation_at_every_length_is_found_or_harmless() {
    let disk = SimDisk::default();
    let (records, _) = small_log(&disk);
    let bytes = disk.file(&segment(1)).unwrap();
    let used = used_bytes(&bytes);
    for length in (0..used + 20).chain((used..bytes.len()).step_by(509)) {
        let damaged = disk.copy();
        damaged.set_file(&segment(1), bytes[..length].to_vec());
        let opened = found_or_named(&damaged, &records, &format!("cut to {length}"));
        // The last frame's padding is needed: up to seven zeros.
        assert_eq!(opened, length >= used.next_multiple_of(8), "cut to {length}");
        if opened {
            assert_eq!(damaged.file(&segment(1)).unwrap().len(), bytes.len(), "the segment is whole again");
        }
    }
    for length in (0..128).chain([60_000]) {
        let damaged = disk.copy();
        damaged.set_file(&segment(2), vec![0; length]);
        damaged.set_file(&mark(), disk.file(&mark()).unwrap()[..length.min(128)].to_vec());
        assert!(found_or_named(&damaged, &records, &format!("mark and reserve cut to {length}")));
    }
}

#[test]
fn damage_in_the_middle_of_many_segments_is_named_with_file_and_offset() {
    let disk = SimDisk::default();
    let records = long_log(&disk);
    assert!(found_or_named(&disk, &records, "undamaged"));
    let check = |what: &str, change: &dyn Fn(&SimDisk), file: u64, offset: u64| {
        for with_mark in [true, false] {
            let damaged = disk.copy();
            change(&damaged);
            if !with_mark {
                damaged.remove_file(&mark());
            }
            match open(&damaged).map(|_| ()) {
                Err(LogError::Corrupt { path, offset: at, .. }) => {
                    assert_eq!((path, at), (segment(file), offset), "{what}");
                }
                other => panic!("{what}: {other:?}"),
            }
        }
    };
    let bytes = |number| disk.file(&segment(number)).unwrap();
    let ends = frame_ends(&bytes(2));
    check("a flip in the middle", &|disk| disk.flip(&segment(2), ends[0] * 8 + 500), 2, ends[0] as u64);
    check(
        "a cut in the middle",
        &|disk| disk.set_file(&segment(2), bytes(2)[..30_000].to_vec()),
        2,
        ends[0] as u64,
    );
    check("an end that is gone", &|disk| disk.flip(&segment(1), (ends[2]) * 8), 1, ends[2] as u64);
    check("a middle segment that is gone", &|disk| disk.remove_file(&segment(2)), 2, 0);
    check("a middle header that is gone", &|disk| disk.flip(&segment(2), 70), 2, 0);
    check("a first header that is gone", &|disk| disk.flip(&segment(1), 70), 1, 0);
    check("a segment in the place of another", &|disk| disk.set_file(&segment(2), bytes(1)), 2, 0);
    check("zeros in the place of a segment", &|disk| disk.set_file(&segment(2), vec![0; 65_536]), 2, 0);

    let damaged = disk.copy();
    damaged.remove_file(&segment(1));
    assert!(matches!(open(&damaged), Err(LogError::Missing { first_lsn: 4, needed: 1, .. })));
    // The last segment in use is gone: only the mark, or a keyframe, can tell.
    for path in [segment(3), segment(4)] {
        let damaged = disk.copy();
        damaged.remove_file(&path);
        assert_eq!(found_or_named(&damaged, &records, "a last segment"), path == segment(4));
    }
    let damaged = disk.copy();
    for number in 1..=4 {
        damaged.remove_file(&segment(number));
    }
    assert!(matches!(open(&damaged), Err(LogError::Corrupt { .. })), "an empty directory with a mark");
}

#[test]
fn a_log_that_lacks_what_a_keyframe_names_is_refused() {
    let disk = SimDisk::default();
    let (_, last) = small_log(&disk);
    let check = |lsn, chain| {
        let options = LogOptions { known_durable: vec![DurablePoint { lsn, chain }], ..options() };
        open_with(&disk.copy(), &options).map(|_| ())
    };
    assert!(check(last.lsn, last.chain).is_ok());
    assert!(check(0, 0).is_ok());
    assert!(matches!(check(last.lsn, last.chain ^ 1), Err(LogError::Corrupt { .. })), "D7: another history");
    assert!(matches!(check(last.lsn + 1, 5), Err(LogError::Corrupt { .. })), "D7: a shorter one");
    let empty = SimDisk::default();
    let options = LogOptions { known_durable: vec![last], ..options() };
    assert!(matches!(open_with(&empty, &options), Err(LogError::Corrupt { .. })), "D7: none at all");
    assert!(empty.files().is_empty());
}

/// Changes a file and makes its checksum right again.
fn forge(disk: &SimDisk, checked: usize, change: impl FnOnce(&mut [u8]), path: &std::path::Path) {
    let mut bytes = disk.file(path).unwrap();
    change(&mut bytes);
    let check = xxh3_64(&bytes[..checked]);
    bytes[checked..checked + 8].copy_from_slice(&check.to_le_bytes());
    disk.set_file(path, bytes);
}

#[test]
fn newer_formats_and_foreign_worlds_are_named() {
    for (path, checked) in [(segment(1), 120), (mark(), 56)] {
        let disk = SimDisk::default();
        let (mut log, _) = open(&disk).unwrap();
        log.append(&input(1, 1)).unwrap();
        log.commit().unwrap();
        let newer = disk.copy();
        forge(&newer, checked, |bytes| bytes[8] = 2, &path);
        let error = open(&newer).map(|_| ()).unwrap_err();
        let text = format!("\"{}\" has log format version 2, this build reads up to 1", path.display());
        assert_eq!(error.to_string(), text);
        let foreign = disk.copy();
        forge(&foreign, checked, |bytes| bytes[16] ^= 1, &path);
        let error = open(&foreign).map(|_| ()).unwrap_err();
        assert!(matches!(error, LogError::ForeignWorld { .. }), "{error}");
    }
    let disk = SimDisk::default();
    small_log(&disk);
    let options = LogOptions { world: 1, ..options() };
    assert!(matches!(open_with(&disk, &options), Err(LogError::ForeignWorld { .. })));
}

/// A payload that looks like frames must not make a torn tail look like damage.
#[test]
fn a_payload_cannot_pretend_to_be_frames() {
    let other = SimDisk::default();
    small_log(&other);
    let frames = other.file(&segment(1)).unwrap()[128..700].to_vec();
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    log.append(&input(1, 60_000)).unwrap();
    log.append(&input(2, 60_000)).unwrap();
    log.commit().unwrap();
    // In the second segment, whose seed nobody outside knows.
    log.append(&Record::Create { world_record: frames }).unwrap();
    let before = disk.copy();
    log.commit().unwrap();
    let mut bytes = disk.file(&segment(2)).unwrap();
    let used = used_bytes(&bytes);
    bytes[used - 1] ^= 1;
    before.set_file(&segment(2), bytes);
    assert_eq!(open(&before).unwrap().1.records, 2);
}

#[test]
fn other_files_in_the_directory_are_left_alone_and_unfinished_segments_removed() {
    let disk = SimDisk::default();
    let (records, _) = small_log(&disk);
    let others = [("notes.txt", true), ("1.seg", true), ("+0000001.seg", true), ("00000003.seg.tmp", false)];
    for (name, _) in others {
        disk.set_file(&dir().join(name), vec![1, 2, 3]);
    }
    assert!(found_or_named(&disk, &records, "with other files"));
    for (name, stays) in others {
        assert_eq!(disk.file(&dir().join(name)).is_some(), stays, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Nothing that can stand in the files makes opening or reading panic.
    #[test]
    fn any_bytes_open_or_fail(
        patches in prop::collection::vec((0usize..3, 0usize..2_000, prop::collection::vec(any::<u8>(), 1..40)), 1..6),
        cut in prop::option::of(0usize..2_000),
    ) {
        let disk = SimDisk::default();
        small_log(&disk);
        let paths = [segment(1), segment(2), mark()];
        for (file, offset, patch) in patches {
            let mut bytes = disk.file(&paths[file]).unwrap();
            let offset = offset.min(bytes.len() - patch.len());
            bytes[offset..offset + patch.len()].copy_from_slice(&patch);
            disk.set_file(&paths[file], bytes);
        }
        if let Some(cut) = cut {
            let bytes = disk.file(&segment(1)).unwrap();
            disk.set_file(&segment(1), bytes[..cut].to_vec());
        }
        if let Ok((log, report)) = open(&disk) {
            let read: Result<Vec<_>, _> = log.records(1).collect();
            prop_assert_eq!(read.map_or(report.records, |records| records.len() as u64), report.records);
        }
    }
}

/// A scrub of a log that is written finds every bit of its durable records, and says up to where a recovery needs them.
#[test]
fn scrubbing_finds_damage_and_how_far_it_goes() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk).unwrap();
    let log = everworld_persistence::LogWriter::start(log, 100).unwrap();
    for seq in 1..=20 {
        let lsn = log.append(input(seq, 9_000), None).unwrap();
        log.wait_durable(lsn).unwrap();
    }
    let scrub = || log.scrub(&mut |_| true).unwrap();
    assert!(scrub().is_empty());
    let mut segments = 0;
    log.scrub(&mut |_| {
        segments += 1;
        segments < 2
    })
    .unwrap();
    assert_eq!(segments, 2, "it can be ended");
    // Where each of the three segments ends.
    let first_of =
        |number: u64| u64::from_le_bytes(disk.file(&segment(number)).unwrap()[48..56].try_into().unwrap());
    let last = [Some(first_of(2) - 1), Some(first_of(3) - 1), None];
    assert!(first_of(2) > 4 && first_of(3) > first_of(2) && first_of(3) < 20);
    for (number, last) in (1..).zip(last) {
        let path = segment(number);
        let good = disk.file(&path).unwrap();
        let used = good.iter().rposition(|byte| *byte != 0).unwrap();
        for at in (0..used).step_by(97).chain(0..128) {
            disk.flip(&path, at * 8 + at % 8);
            let faults = scrub();
            // A segment that lost its header is missed by the one before it.
            assert!((1..=2).contains(&faults.len()), "segment {number} byte {at}: {faults:?}");
            assert!(
                faults.iter().any(|fault| fault.last_lsn == last),
                "segment {number} byte {at}: {faults:?}"
            );
            disk.set_file(&path, good.clone());
        }
    }
    assert!(scrub().is_empty());
    // Whoever needs nothing of it does not hear of it either.
    log.cut_before(first_of(3)).unwrap();
    assert!(scrub().is_empty() && disk.file(&segment(1)).is_none());
}

/// D5: a damaged segment is in nobody's way once records go into another one and a snapshot needs none of its own.
#[test]
fn records_go_on_behind_a_damaged_segment() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk).unwrap();
    let log = everworld_persistence::LogWriter::start(log, 100).unwrap();
    let append = |seq| log.wait_durable(log.append(input(seq, 100), None).unwrap()).unwrap();
    (1..=5).for_each(|seq| _ = append(seq));
    disk.flip(&segment(1), 200 * 8);
    let scrub = || log.scrub(&mut |_| true).unwrap().into_iter().map(|fault| fault.last_lsn);
    assert_eq!(scrub().collect::<Vec<_>>(), [None], "records go into it");
    log.begin_segment().unwrap();
    // Also before the first record of the new one.
    while scrub().next() == Some(None) {
        std::thread::yield_now();
    }
    assert_eq!(scrub().collect::<Vec<_>>(), [Some(5)]);
    let from = append(6);
    append(7);
    assert_eq!(scrub().collect::<Vec<_>>(), [Some(5)]);
    log.close().unwrap();
    assert_eq!(log.begin_segment().map_err(|error| error.to_string()), Err("the log is closed".into()));
    drop(log);
    // Whoever has a snapshot of record 5 or later comes back, and nobody else.
    for (verify_from, comes_back) in [(6, true), (7, true), (5, false), (1, false)] {
        let options = LogOptions { verify_from, known_durable: vec![from], ..options() };
        let opened = open_with(&disk.copy(), &options);
        assert_eq!(opened.is_ok(), comes_back, "{verify_from}");
        if let Ok((log, report)) = opened {
            assert_eq!(report.durable.lsn, 7);
            let read: Vec<_> = log.records(verify_from).collect::<Result<_, _>>().unwrap();
            assert_eq!(read.last().map(|record| record.0), Some(7));
        }
    }
}
