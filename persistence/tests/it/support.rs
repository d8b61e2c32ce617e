//! What several tests need: small logs, records of any size.

use everworld_engine::{StateHash, Tick};
use everworld_persistence::sim::SimDisk;
use everworld_persistence::{
    Control, DurablePoint, IdempotencyKey, InputRecord, Log, LogError, LogOptions, OpenReport, Record,
    Retention, SEGMENT_BYTES_MIN,
};
use std::{path::PathBuf, sync::Arc};

pub const WORLD: u64 = 0xE7E7;
pub const BUILD: [u8; 16] = [7; 16];

pub fn dir() -> PathBuf {
    "data/log".into()
}

pub fn segment(number: u64) -> PathBuf {
    dir().join(format!("{number:08}.seg"))
}

pub fn mark() -> PathBuf {
    dir().join("mark")
}

/// The smallest segments.
pub fn options() -> LogOptions {
    LogOptions { segment_bytes: SEGMENT_BYTES_MIN, ..LogOptions::new(WORLD, BUILD) }
}

pub fn open(disk: &SimDisk) -> Result<(Log, OpenReport), LogError> {
    open_with(disk, &options())
}

pub fn open_with(disk: &SimDisk, options: &LogOptions) -> Result<(Log, OpenReport), LogError> {
    Log::open(Arc::new(disk.clone()), &dir(), options)
}

pub fn read(log: &Log) -> Vec<Record> {
    let records: Result<Vec<_>, _> = log.records(1).collect();
    records.unwrap().into_iter().map(|(_, record)| record).collect()
}

/// An input of about that many bytes, another one for each `seq`.
pub fn input(seq: u64, bytes: usize) -> Record {
    Record::Input(InputRecord {
        seq,
        kind: "spawn".into(),
        at_tick: seq.is_multiple_of(3).then_some(Tick(seq)),
        principal: "tester".into(),
        request_id: format!("r{seq}"),
        payload: (0..bytes).map(|i| (i as u64 * 31 + seq * 7) as u8).collect(),
        idempotency: seq.is_multiple_of(4).then(|| IdempotencyKey { key: format!("k{seq}"), body_hash: seq }),
    })
}

/// One record of each kind.
pub fn each_kind() -> Vec<Record> {
    let control = |control| Record::Control { seq: 3, tick: Tick(4), principal: "op".into(), control };
    vec![
        Record::Create { world_record: b"world".to_vec() },
        Record::Build { build_id: [9; 16] },
        input(1, 20),
        Record::Seal { tick: Tick(1), up_to_seq: 1 },
        Record::Horizon { tick: Tick(60) },
        control(Control::Pause),
        control(Control::Resume),
        control(Control::Step { until: Tick(9) }),
        control(Control::Rate { millihertz: 0 }),
        Record::Checkpoint { tick: Tick(10), hash: StateHash(0x1234) },
        control(Control::Quarantine { system: "visits::meet".into() }),
        control(Control::Skip { seq: 2 }),
        control(Control::Branch { branch: 1, parent: 0, tick: Tick(8), floor_seq: 1, taken_seq: 1 }),
        Record::Hung { tick: Tick(11), system: "visits::meet".into() },
        control(Control::Retention(Retention { dense_secs: 60, sparse_every_secs: 300, keep_secs: 3_600 })),
    ]
}

/// A log of all kinds of records, committed one, three and the rest at a time.
pub fn small_log(disk: &SimDisk) -> (Vec<Record>, DurablePoint) {
    let (mut log, _) = open(disk).unwrap();
    let records = each_kind();
    for batch in [&records[..1], &records[1..4], &records[4..]] {
        for record in batch {
            log.append(record).unwrap();
        }
        log.commit().unwrap();
    }
    (records, log.durable())
}
