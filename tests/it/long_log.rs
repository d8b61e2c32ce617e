//! A long log of large inputs: whoever looks back reads as much of it as the tick needs, and holds no more.

use crate::support::options;
use everworld::{
    PLUGINS, WorldRecord,
    history::History,
    spine::{self, Spine, SpineOptions},
    worlds,
};
use everworld_engine::{InputEnvelope, StateHash, Tick};
use everworld_persistence::{Disk, DiskFile, InputRecord, Log, LogOptions, RealDisk, Record};
use std::{
    collections::BTreeMap,
    io,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Counts the bytes that are read of log segments.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicU64>);

struct CountedFile(Box<dyn DiskFile>, Option<Counting>);

impl Disk for Counting {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.create_new(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let is_segment = path.extension().is_some_and(|extension| extension == "seg");
        Ok(Box::new(CountedFile(RealDisk.open(path)?, is_segment.then(|| self.clone()))))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.remove_dir_all(dir)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
}

impl DiskFile for CountedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some(counting) = &self.1 {
            counting.0.fetch_add(buffer.len() as u64, Relaxed);
        }
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

const TICKS: u64 = 600;
const INPUT_BYTES: usize = 16 << 10;
const SEGMENT_BYTES: u64 = 128 << 10;

/// An input of a kind that the world refuses: it leaves the state as it is, but for its number.
fn input(seq: u64) -> InputEnvelope {
    InputEnvelope { seq, kind: "nothing".into(), at_tick: None, payload: vec![b'7'; INPUT_BYTES] }
}

/// A world with one snapshot, of tick 0, and an input in each tick after it; the hashes of its ticks.
fn write(data: &Path, record: &WorldRecord) -> BTreeMap<u64, StateHash> {
    let kept = SpineOptions { segment_bytes: SEGMENT_BYTES, ..SpineOptions::default() };
    let (mut spine, mut live) = Spine::open(data, record, PLUGINS, options(1), &kept).unwrap();
    spine.close(&mut live).unwrap();
    drop(spine);
    let dir = data.join("worlds/town/log");
    let log_options = LogOptions {
        segment_bytes: SEGMENT_BYTES,
        ..LogOptions::new(spine::world_id("town"), spine::build_id())
    };
    let (mut log, _) = Log::open(Arc::new(RealDisk), &dir, &log_options).unwrap();
    let mut live = worlds::create(record, PLUGINS, options(1)).unwrap();
    let mut hashes = BTreeMap::new();
    for tick in 1..=TICKS {
        let sent = input(tick);
        live.tick(std::slice::from_ref(&sent)).unwrap();
        let InputEnvelope { seq, kind, at_tick, payload } = sent;
        let (principal, request_id) = ("test".into(), String::new());
        let sent = InputRecord { seq, kind, at_tick, principal, request_id, payload, idempotency: None };
        log.append(&Record::Input(sent)).unwrap();
        log.append(&Record::Seal { tick: Tick(tick), up_to_seq: seq }).unwrap();
        if tick % 20 == 0 {
            hashes.insert(tick, live.state_hash());
            log.append(&Record::Checkpoint { tick: Tick(tick), hash: live.state_hash() }).unwrap();
        }
        log.commit().unwrap();
    }
    log.append(&Record::Horizon { tick: Tick(TICKS) }).unwrap();
    log.commit().unwrap();
    hashes
}

#[test]
fn l1_looking_back_reads_no_further_than_the_tick_and_holds_the_inputs_of_one_tick() {
    let data = tempfile::tempdir().unwrap();
    let sets = ["population=20".to_owned()];
    let scenario = worlds::load_scenario("town", PLUGINS, &sets).unwrap();
    let record = WorldRecord { world: "town".into(), scenario };
    let hashes = write(data.path(), &record);
    let whole = TICKS * INPUT_BYTES as u64;

    let disk = Counting::default();
    let kept = SpineOptions { disk: Arc::new(disk.clone()), ..SpineOptions::default() };
    let history = History::open(data.path(), "town", PLUGINS, &kept).unwrap();
    disk.0.store(0, Relaxed);
    let live = history.world_at(0, Tick(40), &options(1)).unwrap();
    assert_eq!(live.state_hash(), hashes[&40]);
    let read = disk.0.swap(0, Relaxed);
    assert!(read > 40 * INPUT_BYTES as u64, "it is counted: {read}");
    assert!(read < whole / 4, "{read} bytes for a tick near the beginning, of {whole}");

    let past = history.past(0, Tick(500), &options(1), &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(past.live.state_hash(), hashes[&500]);
    let (inputs, bytes) = past.timeline.held();
    assert!(inputs <= 2 && bytes <= 2 * INPUT_BYTES, "{inputs} inputs of {bytes} bytes are held");

    let error = history.world_at(0, Tick(TICKS + 1), &options(1)).err().unwrap();
    assert!(spine::chain(&error).contains("the log does not reach that tick"), "{error}");

    // Recovery goes the same way.
    let (spine, live) = Spine::open(data.path(), &record, PLUGINS, options(1), &kept).unwrap();
    assert_eq!((live.now(), live.state_hash(), spine.replayed), (Tick(TICKS), hashes[&TICKS], TICKS));
    assert!(spine.queued.is_empty());
}
