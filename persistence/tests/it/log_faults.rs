//! Faults as inputs: every operation fails once and for good, the power fails anywhere, the disk is full.

use crate::support::{input, open, read, segment};
use everworld_persistence::{LogError, Record, SEGMENT_BYTES_MIN, sim::SimDisk};

/// Opens, appends and commits as long as it goes. Returns what was acknowledged and what was tried.
fn work(disk: &SimDisk, from_seq: u64) -> (Vec<Record>, Vec<Record>) {
    let (mut acknowledged, mut tried) = (Vec::new(), Vec::new());
    let Ok((mut log, _)) = open(disk) else { return (acknowledged, tried) };
    for batch in 0..6 {
        for i in 0..3 {
            let seq = from_seq + batch * 3 + i;
            let record = input(seq, (seq * 1_699 % 9_000) as usize);
            match log.append(&record) {
                Ok(_) => tried.push(record),
                Err(LogError::NoSpace { .. } | LogError::Failed(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
        match log.commit() {
            Ok(durable) if durable.lsn > 0 => acknowledged.clone_from(&tried),
            Ok(_) | Err(LogError::Failed(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    (acknowledged, tried)
}

/// All that was acknowledged is there, and nothing that was not tried.
fn check(disk: &SimDisk, acknowledged: &[Record], tried: &[Record], what: &str) -> usize {
    let (log, report) = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = read(&log);
    assert_eq!(found.len() as u64, report.records, "{what}");
    assert!(found.len() >= acknowledged.len(), "{what}: {} of {}", found.len(), acknowledged.len());
    assert_eq!(found, tried[..found.len()], "{what}");
    found.len()
}

/// D1, D6: after a fault at any operation the acknowledged records are there, for a process that starts again and
/// after a loss of power; also when the power fails again during recovery.
#[test]
fn nothing_acknowledged_is_lost_whichever_operation_fails() {
    let disk = SimDisk::default();
    work(&disk, 0);
    let operations = disk.operations();
    assert!(operations > 40);
    for fault in 0..operations {
        let disk = SimDisk::default();
        disk.fail_from(Some(fault));
        let (acknowledged, tried) = work(&disk, 0);
        for seed in 0..6 {
            let what = format!("fault at operation {fault}, power cut {seed}");
            let cut = disk.power_cut(fault * 100 + seed);
            cut.fail_from(Some(seed * 2));
            let _ = open(&cut);
            check(&cut.power_cut(seed), &acknowledged, &tried, &format!("{what}, and again"));
            cut.fail_from(None);
            check(&cut, &acknowledged, &tried, &what);
        }
        // The process starts again: what it finds in the cache and reports is durable then (D6).
        disk.fail_from(None);
        let found = check(&disk, &acknowledged, &tried, &format!("fault at operation {fault}, restart"));
        for seed in 0..4 {
            let what = format!("fault at operation {fault}, restart, power cut {seed}");
            check(&disk.power_cut(seed), &tried[..found], &tried, &what);
        }
    }
}

/// A recovered log goes on: work after a power cut is kept through the next one.
#[test]
fn work_goes_on_after_power_cuts() {
    for seed in 0..40 {
        let mut disk = SimDisk::default();
        let mut kept: Vec<Record> = Vec::new();
        for life in 0..4 {
            disk.fail_from(Some(disk.operations() + 12 + seed + life * 5));
            let (acknowledged, tried) = work(&disk, life * 100);
            disk = disk.power_cut(seed * 10 + life);
            let (log, _) = open(&disk).unwrap();
            let found = read(&log);
            assert!(found.len() >= kept.len() + acknowledged.len(), "seed {seed}, life {life}");
            let new = found.len() - kept.len();
            kept.extend_from_slice(&tried[..new]);
            assert_eq!(found, kept, "seed {seed}, life {life}");
        }
    }
}

/// D6: after a failed sync the log neither acknowledges nor touches the disk again.
#[test]
fn a_failed_sync_ends_the_log_for_good() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    log.append(&input(1, 10)).unwrap();
    let durable = log.commit().unwrap();
    log.append(&input(2, 10)).unwrap();
    // The write goes through, the sync does not.
    disk.fail_from(Some(disk.operations() + 1));
    assert!(matches!(log.commit(), Err(LogError::Failed(_))));
    disk.fail_from(None);
    let operations = disk.operations();
    for _ in 0..3 {
        assert!(matches!(log.append(&input(3, 10)), Err(LogError::Failed(_))));
        assert!(matches!(log.commit(), Err(LogError::Failed(_))));
    }
    assert_eq!(disk.operations(), operations);
    assert_eq!((log.durable(), read(&log).len()), (durable, 1));
}

/// A full disk refuses records and nothing else; with space it goes on by itself.
#[test]
fn a_full_disk_refuses_and_recovers() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    // The reserve is there, more is not.
    disk.set_space_left(Some(SEGMENT_BYTES_MIN / 2));
    let mut written = Vec::new();
    let refused = loop {
        let record = input(written.len() as u64, 20_000);
        match log.append(&record) {
            Ok(_) => written.push(record),
            Err(error) => break error,
        }
        log.commit().unwrap();
    };
    assert!(matches!(refused, LogError::NoSpace { .. }), "{refused}");
    assert_eq!(written.len(), 6, "two segments of three records were there");
    assert!(log.append(&input(100, 20_000)).is_err());
    assert!(disk.files().iter().all(|path| path.extension().unwrap_or_default() != "tmp"));
    // What still fits is taken.
    let small = input(101, 10);
    log.append(&small).unwrap();
    written.push(small);
    log.commit().unwrap();
    // So it is after opening on the full disk.
    let (mut log, report) = open(&disk).unwrap();
    assert_eq!(report.records, 7);
    assert!(matches!(log.append(&input(102, 20_000)), Err(LogError::NoSpace { .. })));
    disk.set_space_left(None);
    let record = input(102, 20_000);
    assert_eq!(log.append(&record).unwrap(), 8);
    written.push(record);
    log.commit().unwrap();
    assert!(disk.file(&segment(4)).is_some(), "the next one is reserved again");
    assert_eq!(read(&open(&disk).unwrap().0), written);
}

#[test]
fn no_space_for_the_first_segment_is_no_log() {
    let disk = SimDisk::default();
    disk.set_space_left(Some(1000));
    assert!(matches!(open(&disk), Err(LogError::NoSpace { .. })));
    assert!(disk.files().is_empty());
    disk.set_space_left(None);
    assert!(open(&disk).unwrap().1.created);
}
