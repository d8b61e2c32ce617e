//! What is committed comes back, from any lsn, across segments and openings.

use crate::support::{
    BUILD, WORLD, dir, each_kind, input, open, open_with, options, read, segment, small_log,
};
use everworld_engine::{StateHash, Tick};
use everworld_persistence::{
    Control, Disk, DurablePoint, IdempotencyKey, InputRecord, Log, LogError, LogOptions, LogReader,
    LogWriter, RealDisk, Record, Retention, SEGMENT_BYTES_MIN,
    sim::{Cut, SimDisk},
};
use proptest::prelude::*;
use std::sync::Arc;

fn records() -> impl Strategy<Value = Record> {
    let bytes = || prop_oneof![5 => 0usize..100, 2 => 0usize..40_000].prop_map(|n| vec![n as u8; n]);
    let tick = || any::<u64>().prop_map(Tick);
    let control = prop_oneof![
        Just(Control::Pause),
        Just(Control::Resume),
        tick().prop_map(|until| Control::Step { until }),
        any::<u64>().prop_map(|millihertz| Control::Rate { millihertz }),
        ".{0,12}".prop_map(|system| Control::Quarantine { system }),
        any::<u64>().prop_map(|seq| Control::Skip { seq }),
        (any::<u32>(), any::<u32>(), tick(), any::<u64>(), any::<u64>()).prop_map(
            |(branch, parent, tick, floor_seq, taken_seq)| {
                Control::Branch { branch, parent, tick, floor_seq, taken_seq }
            }
        ),
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(dense_secs, sparse_every_secs, keep_secs)| {
            Control::Retention(Retention { dense_secs, sparse_every_secs, keep_secs })
        }),
    ];
    let key = (".{0,12}", any::<u64>()).prop_map(|(key, body_hash)| IdempotencyKey { key, body_hash });
    let key = prop::option::of(key);
    let input = (any::<u64>(), ".{0,12}", prop::option::of(tick()), ".{0,12}", ".{0,12}", bytes(), key);
    let input = input.prop_map(|(seq, kind, at_tick, principal, request_id, payload, idempotency)| {
        Record::Input(InputRecord { seq, kind, at_tick, principal, request_id, payload, idempotency })
    });
    prop_oneof![
        bytes().prop_map(|world_record| Record::Create { world_record }),
        input,
        (tick(), any::<u64>()).prop_map(|(tick, up_to_seq)| Record::Seal { tick, up_to_seq }),
        tick().prop_map(|tick| Record::Horizon { tick }),
        (any::<u64>(), tick(), ".{0,12}", control)
            .prop_map(|(seq, tick, principal, control)| Record::Control { seq, tick, principal, control }),
        (tick(), any::<u64>()).prop_map(|(tick, hash)| Record::Checkpoint { tick, hash: StateHash(hash) }),
        any::<[u8; 16]>().prop_map(|build_id| Record::Build { build_id }),
        (tick(), ".{0,12}").prop_map(|(tick, system)| Record::Hung { tick, system }),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|event| Record::Server { event }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// D1, D3: any records, committed and reopened anywhere, come back in their order with their lsns.
    #[test]
    fn any_records_come_back(batches in prop::collection::vec(prop::collection::vec(records(), 0..12), 1..6)) {
        let disk = SimDisk::default();
        let mut written = Vec::new();
        for batch in batches {
            let (mut log, report) = open(&disk).unwrap();
            prop_assert_eq!(report.records, written.len() as u64);
            prop_assert_eq!(report.torn_bytes, 0);
            prop_assert_eq!(&read(&log), &written);
            for record in batch {
                prop_assert_eq!(log.append(&record).unwrap(), written.len() as u64 + 1);
                written.push(record);
            }
            prop_assert_eq!(log.commit().unwrap().lsn, written.len() as u64);
            prop_assert_eq!(&read(&log), &written);
        }
        let (log, _) = open(&disk).unwrap();
        for from in 1..=written.len() {
            let (lsn, record) = log.records(from as u64).next().unwrap().unwrap();
            prop_assert_eq!((lsn, &record), (from as u64, &written[from - 1]));
        }
    }
}

#[test]
fn a_real_directory_works_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk);
    let path = dir.path().join("deep/log");
    let options = options();
    let written: Vec<_> = (0..9).map(|seq| input(seq, 20_000)).collect();
    let (mut log, report) = Log::open(disk.clone(), &path, &options).unwrap();
    assert!(report.created);
    for record in &written {
        log.append(record).unwrap();
    }
    log.commit().unwrap();
    drop(log);
    let (log, report) = Log::open(disk, &path, &options).unwrap();
    assert_eq!((report.created, report.records, report.torn_bytes), (false, 9, 0));
    assert_eq!(read(&log), written);
    let mut names: Vec<_> =
        std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["00000001.seg", "00000002.seg", "00000003.seg", "00000004.seg", "mark"]);
}

#[test]
fn what_is_not_committed_is_not_there() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    log.append(&input(1, 10)).unwrap();
    log.commit().unwrap();
    log.append(&input(2, 10)).unwrap();
    assert_eq!(read(&log).len(), 1);
    assert_eq!((log.durable().lsn, log.stats().queue_len), (1, 1));
    drop(log);
    assert_eq!(open(&disk).unwrap().1.records, 1);
}

#[test]
fn a_mebibyte_fits_by_default_and_too_much_is_refused() {
    let disk = SimDisk::default();
    let (mut log, _) = open_with(&disk, &LogOptions::new(WORLD, BUILD)).unwrap();
    let large = [input(1, 1 << 20), input(2, 4_000_000), input(3, 1 << 20)];
    for record in &large {
        log.append(record).unwrap();
    }
    let refused = log.append(&input(4, 4 << 20));
    assert!(matches!(refused, Err(LogError::RecordTooLarge { max: 4_194_096, .. })), "{refused:?}");
    log.append(&input(5, 1)).unwrap();
    assert_eq!(log.commit().unwrap().lsn, 4);
    let (log, _) = open_with(&disk, &LogOptions::new(WORLD, BUILD)).unwrap();
    assert_eq!(read(&log)[..3], large);
}

#[test]
fn the_largest_record_fills_a_segment() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    let max = SEGMENT_BYTES_MIN as usize - 128 - 40 - 40;
    // The length takes three bytes of the payload.
    let record = |bytes: usize| Record::Create { world_record: vec![1; bytes - 3] };
    assert!(matches!(log.append(&record(max + 1)), Err(LogError::RecordTooLarge { .. })));
    for _ in 0..3 {
        log.append(&record(max)).unwrap();
    }
    log.commit().unwrap();
    assert_eq!(read(&open(&disk).unwrap().0), vec![record(max); 3]);
}

#[test]
fn the_report_names_the_builds() {
    let disk = SimDisk::default();
    small_log(&disk);
    let (_, report) = open(&disk).unwrap();
    assert_eq!(report.builds, [BUILD, [9; 16]]);
    assert_eq!((report.first_lsn, report.records, report.durable.lsn), (1, 15, 15));
}

#[test]
fn the_chain_names_the_history() {
    let chains = |records: &[Record]| {
        let (mut log, _) = open(&SimDisk::default()).unwrap();
        for record in records {
            log.append(record).unwrap();
        }
        let durable = log.commit().unwrap();
        let chains: Vec<u64> = (0..=records.len() as u64).map(|lsn| log.chain_at(lsn).unwrap()).collect();
        assert_eq!(chains.last(), Some(&durable.chain));
        chains
    };
    let records = each_kind();
    let all = chains(&records);
    assert_eq!(chains(&records[..4]), all[..5]);
    let mut others = records.clone();
    others[2] = input(1, 21);
    let other = chains(&others);
    assert_eq!(other[..3], all[..3]);
    assert!((3..all.len()).all(|lsn| other[lsn] != all[lsn]));
}

/// D4: only whole segments behind the given record go, and what is kept still verifies.
#[test]
fn a_log_can_be_cut_at_its_beginning() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    // Three in a segment.
    for seq in 1..=10 {
        log.append(&input(seq, 20_000)).unwrap();
    }
    let durable = log.commit().unwrap();
    let chain = log.chain_at(6).unwrap();
    assert_eq!(log.cut_before(6).unwrap(), 1);
    assert_eq!(log.cut_before(7).unwrap(), 1);
    assert_eq!(log.cut_before(7).unwrap(), 0);
    assert!(matches!(log.records(6).next(), Some(Err(LogError::Missing { first_lsn: 7, needed: 6, .. }))));
    assert!(disk.file(&segment(2)).is_none() && disk.file(&segment(3)).is_some());
    drop(log);

    assert!(matches!(open(&disk), Err(LogError::Missing { first_lsn: 7, needed: 1, .. })));
    let options =
        LogOptions { oldest_needed: 7, known_durable: vec![DurablePoint { lsn: 6, chain }], ..options() };
    let (log, report) = open_with(&disk, &options).unwrap();
    assert_eq!((report.first_lsn, report.records, report.durable), (7, 4, durable));
    let kept: Vec<_> = log.records(8).map(|record| record.unwrap()).collect();
    assert_eq!(kept, [(8, input(8, 20_000)), (9, input(9, 20_000)), (10, input(10, 20_000))]);
    // Another history before the cut is noticed (D7).
    let other = DurablePoint { lsn: 6, chain: chain + 1 };
    let other = LogOptions { known_durable: vec![other], ..options };
    assert!(matches!(open_with(&disk, &other), Err(LogError::Corrupt { .. })));
}

/// Opening is bounded: what comes before the record that is needed is verified when it is read, not sooner.
#[test]
fn old_segments_are_verified_when_they_are_read() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    for seq in 1..=20 {
        log.append(&input(seq, 20_000)).unwrap();
    }
    let durable = log.commit().unwrap();
    let chain = log.chain_at(14).unwrap();
    drop(log);
    let from = |lsn: u64, chain: u64| LogOptions {
        verify_from: lsn,
        known_durable: vec![DurablePoint { lsn, chain }],
        ..options()
    };
    let good = from(14, chain);
    let (log, report) = open_with(&disk, &good).unwrap();
    assert_eq!((report.first_lsn, report.records, report.durable), (1, 20, durable));
    assert_eq!(read(&log).len(), 20);
    drop(log);
    // Another history is noticed at the record that is needed (D7).
    assert!(matches!(open_with(&disk, &from(14, chain + 1)), Err(LogError::Corrupt { .. })));

    // Damage before it is found by whoever reads it, damage behind it at once.
    let original = disk.copy();
    for number in 1..=7 {
        let disk = original.copy();
        disk.flip(&segment(number), 8 * 1000);
        let opened = open_with(&disk, &good);
        assert_eq!(opened.is_ok(), number < 5, "segment {number}");
        if let Ok((log, _)) = opened {
            assert!(log.records(14).all(|record| record.is_ok()));
            assert!(log.records(1).any(|record| matches!(record, Err(LogError::Corrupt { .. }))));
        }
        if (2..5).contains(&number) {
            disk.remove_file(&segment(number));
            assert!(matches!(open_with(&disk, &good), Err(LogError::Corrupt { .. })), "a gap at {number}");
        }
    }
    let disk = original.copy();
    disk.remove_file(&segment(1));
    assert!(matches!(open_with(&disk, &good), Err(LogError::Missing { first_lsn: 4, .. })));
}

#[test]
fn looking_at_a_log_changes_nothing() {
    let disk = SimDisk::default();
    small_log(&disk);
    let torn = {
        let mut bytes = disk.file(&segment(1)).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[end + 50..end + 90].fill(9);
        bytes
    };
    disk.set_file(&segment(1), torn.clone());
    let operations = disk.operations();
    let (reader, report) = LogReader::open(Arc::new(disk.clone()), &dir(), &options()).unwrap();
    let records: Vec<_> = reader.records(1).map(|record| record.unwrap().1).collect();
    assert_eq!(records, each_kind());
    assert_eq!((reader.durable().lsn, report.torn_bytes > 0), (records.len() as u64, true));
    assert_eq!((disk.operations(), disk.file(&segment(1)).unwrap()), (operations, torn));
    let nowhere = LogReader::open(Arc::new(SimDisk::default()), &dir(), &options());
    assert!(nowhere.is_err());
}

/// A copy of a log that goes on is a log up to the moment of the copy.
#[test]
fn a_growing_log_can_be_copied() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    (1..=10).for_each(|seq| _ = log.append(&input(seq, 20_000)).unwrap());
    log.commit().unwrap();
    log.cut_before(5).unwrap();
    let handle = LogWriter::start(log, 100).unwrap();
    let last = handle.append(input(11, 50), None).unwrap();
    handle.wait_durable(last).unwrap();
    let target = std::path::Path::new("data/copy");
    let point = handle.copy_to(target).unwrap();
    handle.append(input(12, 50), None).unwrap();
    handle.close().unwrap();
    disk.sync_dir(std::path::Path::new("data")).unwrap();
    let disk = disk.cut(Cut::Synced);
    let needed = LogOptions { oldest_needed: 5, known_durable: vec![point], ..options() };
    let (mut copy, report) = Log::open(Arc::new(disk), target, &needed).unwrap();
    assert_eq!((report.first_lsn, report.durable, report.torn_bytes), (4, point, 0));
    assert_eq!(copy.records(11).next().unwrap().unwrap(), (11, input(11, 50)));
    copy.append(&input(12, 9)).unwrap();
    assert_eq!(copy.commit().unwrap().lsn, 12);
}
