//! The log behind its thread: order, group commit, bounds, faults, the end. No sleeps: syncs are held instead.

use crate::support::{input, open, open_with, options, read};
use everworld_persistence::{
    DurablePoint, LogDone, LogError, LogHandle, LogOptions, LogWriter, Record, sim::SimDisk,
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
    mpsc,
};

fn start(disk: &SimDisk, queue_len_max: usize) -> LogHandle {
    LogWriter::start(open(disk).unwrap().0, queue_len_max).unwrap()
}

type Outcome = Result<DurablePoint, Arc<LogError>>;

fn reporting(to: &mpsc::Sender<Outcome>) -> LogDone {
    let to = to.clone();
    Box::new(move |outcome| _ = to.send(outcome))
}

/// D1, and lsns in the order of calls: many threads, each record once, durable when its callback runs.
#[test]
fn many_threads_share_one_log() {
    let disk = SimDisk::default();
    let log = start(&disk, 100_000);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let log = log.clone();
            scope.spawn(move || {
                let mut last = 0;
                for i in 0..200 {
                    let record = input(thread * 1000 + i, (i * 13 % 500) as usize);
                    let lsn = loop {
                        let watch = log.clone();
                        let done: LogDone = Box::new(move |outcome| {
                            assert!(watch.durable_lsn() >= outcome.unwrap().lsn);
                        });
                        match log.append(record.clone(), Some(done)) {
                            Ok(lsn) => break lsn,
                            Err(LogError::QueueFull { .. }) => std::thread::yield_now(),
                            Err(other) => panic!("{other}"),
                        }
                    };
                    assert!(lsn > last);
                    last = lsn;
                    if i % 50 == 0 {
                        assert!(log.wait_durable(lsn).unwrap().lsn >= lsn);
                    }
                }
            });
        }
    });
    let point = log.close().unwrap();
    assert_eq!(point.lsn, 800);
    let (reopened, report) = open(&disk).unwrap();
    assert_eq!((report.durable, report.torn_bytes), (point, 0));
    let mut last = [None; 4];
    for record in read(&reopened) {
        if let Record::Input(input) = record {
            let last = &mut last[(input.seq / 1000) as usize];
            assert!(last.is_none_or(|last| last + 1 == input.seq));
            *last = Some(input.seq);
        }
    }
    assert_eq!(last, [Some(199), Some(1199), Some(2199), Some(3199)]);
}

#[test]
fn one_sync_serves_all_who_wait() {
    let disk = SimDisk::default();
    let log = start(&disk, 1000);
    let (done, outcomes) = mpsc::channel();
    let held_syncs = disk.hold_syncs();
    log.append(input(0, 10), Some(reporting(&done))).unwrap();
    disk.wait_for_syncs(1);
    // The first batch is at its sync: all these become the second.
    let lsns: Vec<u64> =
        (1..=100).map(|seq| log.append(input(seq, 10), Some(reporting(&done))).unwrap()).collect();
    assert_eq!(lsns, (2..=101).collect::<Vec<u64>>());
    assert_eq!((log.durable_lsn(), log.last_lsn(), log.stats().queue_len), (0, 101, 101));
    assert!(outcomes.try_recv().is_err(), "D1: nothing is acknowledged before its sync");
    drop(held_syncs);
    log.wait_durable(101).unwrap();
    let points: Vec<u64> = (0..101).map(|_| outcomes.recv().unwrap().unwrap().lsn).collect();
    assert_eq!(points[0], 1);
    assert!(points[1..].iter().all(|lsn| *lsn == 101));
    assert_eq!((disk.syncs(), log.stats().fsyncs, log.stats().queue_len), (2, 2, 0));
    let found: Vec<_> = log.records(100).map(|record| record.unwrap()).collect();
    assert_eq!(found, [(100, input(99, 10)), (101, input(100, 10))]);
}

#[test]
fn several_records_stay_together_or_are_refused_together() {
    let disk = SimDisk::default();
    let log = start(&disk, 10);
    let (done, outcomes) = mpsc::channel();
    assert_eq!(log.append_all(vec![input(1, 5), input(2, 5)], Some(reporting(&done))).unwrap(), 1..=2);
    assert!(log.append_all(Vec::new(), Some(reporting(&done))).unwrap().is_empty());
    assert!(outcomes.recv().unwrap().unwrap().lsn >= 2);
    assert_eq!(outcomes.recv().unwrap().unwrap().lsn, 2);
    // The second of them can never fit: the first must not stay either.
    let refused = log.append_all(vec![input(3, 5), input(4, 70_000)], Some(reporting(&done)));
    assert!(matches!(refused, Err(LogError::RecordTooLarge { .. })));
    assert!(matches!(
        log.append_all(vec![input(5, 1); 11], None),
        Err(LogError::QueueFull { queue_len_max: 10 })
    ));
    log.append(input(6, 5), None).unwrap();
    assert_eq!(log.close().unwrap().lsn, 3);
    assert_eq!(read(&open(&disk).unwrap().0), [input(1, 5), input(2, 5), input(6, 5)]);
}

/// L1, L2: over the bound a record is refused, and taken again once others are durable.
#[test]
fn the_queue_has_a_bound() {
    let disk = SimDisk::default();
    let log = start(&disk, 3);
    let held_syncs = disk.hold_syncs();
    for seq in 0..3 {
        log.append(input(seq, 1), None).unwrap();
    }
    assert!(matches!(log.append(input(3, 1), None), Err(LogError::QueueFull { queue_len_max: 3 })));
    drop(held_syncs);
    log.wait_durable(3).unwrap();
    assert_eq!(log.append(input(3, 1), None).unwrap(), 4);
}

/// T1: who can come again leaves room for who must not wait.
#[test]
fn room_is_left_for_who_must_not_wait() {
    let disk = SimDisk::default();
    let log = start(&disk, 16);
    let held_syncs = disk.hold_syncs();
    let taken = (0..16).take_while(|seq| log.append_leaving_room(input(*seq, 1), None).is_ok()).count();
    assert_eq!(taken, 14);
    log.append(input(14, 1), None).unwrap();
    log.append(input(15, 1), None).unwrap();
    assert!(matches!(log.append(input(16, 1), None), Err(LogError::QueueFull { queue_len_max: 16 })));
    drop(held_syncs);
    log.wait_durable(16).unwrap();
    log.append_leaving_room(input(16, 1), None).unwrap();
}

/// D6: a failed sync reaches everybody who waits and everybody who comes.
#[test]
fn a_failed_sync_reaches_all() {
    let disk = SimDisk::default();
    let log = start(&disk, 100);
    log.append(input(0, 1), None).unwrap();
    let durable = log.wait_durable(1).unwrap();
    let (done, outcomes) = mpsc::channel();
    let held_syncs = disk.hold_syncs();
    log.append(input(1, 1), Some(reporting(&done))).unwrap();
    disk.wait_for_syncs(2);
    log.append(input(2, 1), Some(reporting(&done))).unwrap();
    disk.fail_from(Some(disk.operations()));
    drop(held_syncs);
    assert!(matches!(log.wait_durable(2), Err(LogError::Failed(_))));
    for _ in 0..2 {
        assert!(matches!(&*outcomes.recv().unwrap().unwrap_err(), LogError::Io { .. }));
    }
    assert!(matches!(log.append(input(3, 1), Some(reporting(&done))), Err(LogError::Failed(_))));
    assert!(log.failed().is_some());
    assert_eq!(log.wait_durable(1).unwrap(), durable, "what was durable stays so");
    let operations = disk.operations();
    disk.fail_from(None);
    assert!(matches!(log.close(), Err(LogError::Failed(_))));
    assert_eq!(disk.operations(), operations);
}

/// An accepted record never fails for want of space; a refused one says why, and the log resumes.
#[test]
fn a_full_disk_refuses_and_recovers() {
    let disk = SimDisk::default();
    let log = start(&disk, 100);
    disk.set_space_left(Some(0));
    let mut taken = Vec::new();
    loop {
        let record = input(taken.len() as u64, 20_000);
        match log.append(record.clone(), None) {
            Ok(lsn) => {
                taken.push(record);
                log.wait_durable(lsn).unwrap();
            }
            // The thread has not yet tried to reserve.
            Err(LogError::QueueFull { .. }) => std::thread::yield_now(),
            Err(LogError::NoSpace { .. }) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(taken.len(), 6);
    assert!(log.failed().is_none());
    disk.set_space_left(None);
    let record = input(6, 20_000);
    while log.append(record.clone(), None).is_err() {
        std::thread::yield_now();
    }
    taken.push(record);
    assert_eq!(log.close().unwrap().lsn, 7);
    assert_eq!(read(&open(&disk).unwrap().0), taken);
}

/// A burst that outruns the reserve is refused, never misplaced.
#[test]
fn a_burst_beyond_the_reserve_is_refused() {
    let disk = SimDisk::default();
    let log = start(&disk, 100);
    let held_syncs = disk.hold_syncs();
    let taken = (0..10).take_while(|seq| log.append(input(*seq, 20_000), None).is_ok()).count();
    assert_eq!(taken, 6);
    drop(held_syncs);
    assert_eq!(log.close().unwrap().lsn, 6);
    assert_eq!(read(&open(&disk).unwrap().0).len(), 6);
}

#[test]
fn closing_makes_all_durable_and_takes_no_more() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    log.append(&input(0, 1)).unwrap();
    let log = LogWriter::start(log, 100).unwrap();
    for seq in 1..5 {
        log.append(input(seq, 1), None).unwrap();
    }
    assert_eq!(log.close().unwrap().lsn, 5);
    assert!(matches!(log.append(input(9, 1), None), Err(LogError::Closed)));
    assert!(matches!(log.wait_durable(6), Err(LogError::Closed)));
    assert_eq!(log.close().unwrap().lsn, 5);
    assert_eq!(open(&disk).unwrap().1.records, 5);
}

/// The last handle may go away on the log's own thread.
#[test]
fn the_last_handle_may_die_in_a_callback() {
    let disk = SimDisk::default();
    let log = start(&disk, 100);
    let (ended, end) = mpsc::channel();
    let held_syncs = disk.hold_syncs();
    let held = log.clone();
    let done: LogDone = Box::new(move |_| {
        drop(held);
        ended.send(()).unwrap();
    });
    log.append(input(1, 1), Some(done)).unwrap();
    drop(log);
    drop(held_syncs);
    end.recv().unwrap();
    assert_eq!(open(&disk).unwrap().1.records, 1);
}

#[test]
fn a_panic_in_a_callback_ends_the_log_with_a_reason() {
    let disk = SimDisk::default();
    let log = start(&disk, 100);
    let (done, outcomes) = mpsc::channel();
    let held_syncs = disk.hold_syncs();
    let planted: LogDone = Box::new(|_| std::panic::resume_unwind(Box::new("planted")));
    log.append_all(vec![input(0, 1)], None).unwrap();
    disk.wait_for_syncs(1);
    log.append(input(1, 1), Some(planted)).unwrap();
    log.append(input(2, 1), Some(reporting(&done))).unwrap();
    drop(held_syncs);
    // Of the same batch, which is durable: it hears so.
    assert_eq!(outcomes.recv().unwrap().unwrap().lsn, 3);
    while log.append(input(3, 1), Some(reporting(&done))).is_ok() {
        std::thread::yield_now();
    }
    assert!(matches!(log.wait_durable(1000), Err(LogError::Failed(_))));
    let error = log.failed().unwrap();
    assert_eq!(error.to_string(), "the log's thread panicked: planted");
    assert!(matches!(log.close(), Err(LogError::Failed(_))));
}

#[test]
fn syncs_are_timed_by_the_callers_clock() {
    static NANOS: AtomicU64 = AtomicU64::new(0);
    let disk = SimDisk::default();
    let options = LogOptions { clock: || NANOS.fetch_add(5, Ordering::Relaxed), ..options() };
    let log = LogWriter::start(open_with(&disk, &options).unwrap().0, 10).unwrap();
    for seq in 0..3 {
        let lsn = log.append(input(seq, 1), None).unwrap();
        log.wait_durable(lsn).unwrap();
    }
    let stats = log.stats();
    assert_eq!((stats.fsyncs, stats.fsync_nanos_last, stats.fsync_nanos_total), (3, 5, 15));
    assert!(stats.bytes_written > 3 * 40);
}

/// D4: nothing is cut that somebody reads.
#[test]
fn a_reader_holds_off_the_cutting() {
    let disk = SimDisk::default();
    let log = start(&disk, 1_000);
    for seq in 1..=40 {
        let lsn = log.append(input(seq, 8_000), None).unwrap();
        log.wait_durable(lsn).unwrap();
    }
    let mut records = log.records(1);
    assert_eq!(records.next().unwrap().unwrap().0, 1);
    assert_eq!(log.cut_before(40).unwrap(), 0);
    assert_eq!(records.map(|entry| entry.unwrap().0).collect::<Vec<_>>(), (2..=40).collect::<Vec<_>>());
    let later = log.records(40);
    assert!(log.cut_before(40).unwrap() > 0, "nobody reads what is before");
    assert_eq!(later.count(), 1);
}
