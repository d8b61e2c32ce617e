//! What is committed comes back, from any lsn, across segments and openings.

use crate::{
    mem_disk::MemDisk,
    support::{BUILD, WORLD, each_kind, input, open, open_with, options, read, segment, small_log},
};
use everworld_engine::{StateHash, Tick};
use everworld_persistence::{
    Control, DurablePoint, InputRecord, Log, LogError, LogOptions, RealDisk, Record, SEGMENT_BYTES_MIN,
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
    ];
    let input = (any::<u64>(), ".{0,12}", prop::option::of(tick()), ".{0,12}", ".{0,12}", bytes()).prop_map(
        |(seq, kind, at_tick, principal, request_id, payload)| {
            Record::Input(InputRecord { seq, kind, at_tick, principal, request_id, payload })
        },
    );
    prop_oneof![
        bytes().prop_map(|world_record| Record::Create { world_record }),
        input,
        (tick(), any::<u64>()).prop_map(|(tick, up_to_seq)| Record::Seal { tick, up_to_seq }),
        tick().prop_map(|tick| Record::Horizon { tick }),
        (any::<u64>(), tick(), ".{0,12}", control)
            .prop_map(|(seq, tick, principal, control)| Record::Control { seq, tick, principal, control }),
        (tick(), any::<u64>()).prop_map(|(tick, hash)| Record::Checkpoint { tick, hash: StateHash(hash) }),
        any::<[u8; 16]>().prop_map(|build_id| Record::Build { build_id }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// D1, D3: any records, committed and reopened anywhere, come back in their order with their lsns.
    #[test]
    fn any_records_come_back(batches in prop::collection::vec(prop::collection::vec(records(), 0..12), 1..6)) {
        let disk = MemDisk::default();
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
    let disk = MemDisk::default();
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
    let disk = MemDisk::default();
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
    let disk = MemDisk::default();
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
    let disk = MemDisk::default();
    small_log(&disk);
    let (_, report) = open(&disk).unwrap();
    assert_eq!(report.builds, [BUILD, [9; 16]]);
    assert_eq!((report.first_lsn, report.records, report.durable.lsn), (1, 10, 10));
}

#[test]
fn the_chain_names_the_history() {
    let chains = |records: &[Record]| {
        let (mut log, _) = open(&MemDisk::default()).unwrap();
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
    let disk = MemDisk::default();
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
