//! Snapshots come back bit for bit or not at all (D5), from epochs that roll, thin and go (D8).

use crate::images::{Draws, World, hash_of, meta, share, snapshot};
use everworld_engine::{CHUNK_ROWS, ColumnImage, Image, Tick};
use everworld_persistence::{
    Disk, DurablePoint, Log, LogOptions, LogWriter, RealDisk, Record, SEGMENT_BYTES_MIN, STORE_FORMAT, Store,
    StoreError, StoreOptions, WriteStats, backup,
    sim::{Cut, SimDisk},
};
use parking_lot::Mutex;
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

fn dir() -> PathBuf {
    "data/world".into()
}

/// Epochs that roll early, and are thinned early.
fn options() -> StoreOptions {
    StoreOptions {
        dense_secs: 40,
        sparse_every_secs: 30,
        keep_secs: 200,
        opening_snapshots: 3,
        roll_factor: 1,
        roll_bytes_min: 0,
        roll_secs: 25,
        cache_bytes: 1 << 18,
        ..StoreOptions::default()
    }
}

fn open(disk: &SimDisk) -> Store {
    let (store, report) = Store::open(Arc::new(disk.clone()), &dir(), options()).unwrap();
    assert!(report.set_aside.is_empty(), "{report:?}");
    store
}

fn write(store: &Store, image: &Arc<Image>, ledger: &[(u64, Vec<u8>)]) -> Result<WriteStats, StoreError> {
    store.write(&snapshot(0, image, ledger))
}

/// Every snapshot that is listed is the one that was written.
fn check(store: &Store, written: &BTreeMap<u64, Arc<Image>>, ledger: &BTreeMap<u64, u64>) {
    let listed = store.snapshots();
    assert!(listed.damaged.is_empty(), "{:?}", listed.damaged);
    assert!(listed.kept.is_sorted_by(|a, b| a.lsn > b.lsn), "newest first, each once");
    for kept in &listed.kept {
        let image = &written[&kept.tick.0];
        let loaded = store.load(0, kept.tick).unwrap();
        assert_eq!(kept, &meta(0, image));
        assert_eq!((&loaded.meta, &loaded.image), (kept, &**image));
        assert_eq!(loaded.host, b"host");
        let numbers: Vec<u64> = loaded.ledger.iter().map(|(number, _)| *number).collect();
        let expected: Vec<u64> =
            ledger.iter().filter(|(_, tick)| **tick <= kept.tick.0).map(|(number, _)| *number).collect();
        assert_eq!(numbers, expected, "the ledger of tick {}", kept.tick);
    }
}

/// In their order, each once, before the whole is there.
#[test]
fn who_listens_to_a_load_hears_of_all_rows() {
    let disk = SimDisk::default();
    let store = open(&disk);
    let world = World::new(3 * CHUNK_ROWS + 7, 1);
    let image = Arc::new(world.image());
    write(&store, &image, &[]).unwrap();
    let heard = Mutex::new(BTreeMap::new());
    let load = || {
        store.load_noting(0, image.tick, &|number, schemas, chunks| {
            assert_eq!(schemas.len(), chunks.len());
            let names = schemas.iter().map(|schema| schema.name.clone());
            let columns: Vec<_> = names.zip(chunks.iter().cloned()).collect();
            assert!(heard.lock().insert(number, columns).is_none(), "each once");
        })
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for in_pool in [false, true] {
        heard.lock().clear();
        let loaded = if in_pool { pool.install(load) } else { load() };
        assert_eq!(loaded.unwrap().image, *image);
        let heard = std::mem::take(&mut *heard.lock());
        let partitions = image.tables.iter().flat_map(|table| {
            (0..table.rows.div_ceil(CHUNK_ROWS)).map(move |partition| {
                let column =
                    |column: &ColumnImage| (column.schema.name.clone(), column.chunks[partition].clone());
                table.columns.iter().map(column).collect::<Vec<_>>()
            })
        });
        let expected: BTreeMap<usize, _> = partitions.enumerate().collect();
        assert!(expected.len() >= 4);
        assert_eq!(heard, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any history comes back at each kept tick: across rolls, prunings and openings of the store.
    #[test]
    fn histories_come_back(seed in any::<u64>(), steps in 5usize..60, rows in 0usize..60) {
        let disk = SimDisk::default();
        let mut draws = Draws(seed);
        let mut world = World::new(rows, seed);
        let mut store = open(&disk);
        let (mut written, mut ledger) = (BTreeMap::new(), BTreeMap::new());
        let mut last: Option<Arc<Image>> = None;
        for step in 0..steps {
            let image = last.as_ref().map_or_else(|| world.image(), |last| share(last, world.image()));
            let image = Arc::new(image);
            let number = 100 + step as u64;
            write(&store, &image, &[(number, vec![step as u8])]).unwrap();
            ledger.insert(number, world.tick);
            written.insert(world.tick, image.clone());
            last = Some(image);
            world.step(draws.next());
            match draws.below(12) {
                0 => {
                    drop(store);
                    store = open(&disk);
                    store.resume(store.snapshots().kept[0]).unwrap();
                }
                1 => store.begin_epoch(),
                2 | 3 => {
                    store.prune(1_000_000 + world.tick * 1000).unwrap();
                }
                _ => {}
            }
        }
        check(&store, &written, &ledger);
        let newest = store.snapshots().kept[0];
        prop_assert_eq!(newest.tick.0, *written.keys().next_back().unwrap());
        drop(store);
        check(&open(&disk), &written, &ledger);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5))]

    /// While an epoch is opened partitions change, come and go, tables too: it has them all as they are when it is complete.
    #[test]
    fn an_epoch_that_is_opened_follows_the_world(seed in any::<u64>(), steps in 12usize..24) {
        let disk = SimDisk::default();
        let options = StoreOptions { opening_snapshots: 5, roll_secs: 4, ..options() };
        let (mut draws, mut world) = (Draws(seed), World::new(0, seed));
        let store = Store::open(Arc::new(disk.clone()), &dir(), options).unwrap().0;
        let (mut written, mut begun) = (BTreeMap::new(), 0);
            let mut last: Option<Arc<Image>> = None;
        for _ in 0..steps {
            if draws.below(3) == 0 {
                let rows = draws.below(3) * CHUNK_ROWS + draws.below(3);
                while world.tables[0].rows.len() < rows {
                    world.spawn(&mut draws);
                }
                world.tables.iter_mut().for_each(|table| table.rows.truncate(rows));
            }
            let image = last.as_ref().map_or_else(|| world.image(), |last| share(last, world.image()));
            let image = Arc::new(image);
            begun += u64::from(write(&store, &image, &[]).unwrap().epoch_begun);
            written.insert(world.tick, image.clone());
            last = Some(image);
            world.step(draws.next());
        }
        prop_assert!(begun >= 2, "{begun} epochs");
        check(&store, &written, &BTreeMap::new());
        drop(store);
        check(&open(&disk), &written, &BTreeMap::new());
    }
}

/// Images of all shapes, and partitions that come and go at their borders.
#[test]
fn rows_at_the_borders_of_partitions_come_back() {
    let disk = SimDisk::default();
    let store = open(&disk);
    let mut world = World::new(0, 1);
    let mut draws = Draws(7);
    let mut written = BTreeMap::new();
    for rows in [0, 1, CHUNK_ROWS, CHUNK_ROWS + 1, CHUNK_ROWS - 1, 2 * CHUNK_ROWS + 5, 3, CHUNK_ROWS + 2, 0] {
        world.tables.truncate(1);
        while world.tables[0].rows.len() < rows {
            world.spawn(&mut draws);
        }
        world.tables[0].rows.truncate(rows);
        let image = Arc::new(world.image());
        write(&store, &image, &[]).unwrap();
        written.insert(world.tick, image);
        world.tick += 1;
    }
    check(&store, &written, &BTreeMap::new());
    // In parallel on a pool as well.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| check(&store, &written, &BTreeMap::new()));
}

/// Any thread may read while one writes and prunes: what it gets is right, or was pruned meanwhile.
#[test]
fn reading_goes_on_while_snapshots_are_written() {
    let disk = SimDisk::default();
    let store = open(&disk);
    let mut world = World::new(60, 12);
    let mut images = Vec::new();
    for step in 0..120 {
        images.push(Arc::new(world.image()));
        world.step(step);
    }
    let by_tick: BTreeMap<u64, &Arc<Image>> = images.iter().map(|image| (image.tick.0, image)).collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    let loads: usize = std::thread::scope(|scope| {
        let read = || {
            let mut loads = 0;
            let mut draws = Draws(9);
            while !done.load(std::sync::atomic::Ordering::Acquire) {
                let kept = store.snapshots().kept;
                let Some(meta) = (!kept.is_empty()).then(|| kept[draws.below(kept.len())]) else { continue };
                match store.load(0, meta.tick) {
                    Ok(loaded) => {
                        assert_eq!(loaded.image, **by_tick[&meta.tick.0]);
                        loads += 1;
                    }
                    Err(error) => {
                        let kept = store.snapshots().kept;
                        assert!(!kept.contains(&meta), "{error}");
                    }
                }
            }
            loads
        };
        let readers = [scope.spawn(read), scope.spawn(read)];
        for image in &images {
            write(&store, image, &[]).unwrap();
            store.prune(1_000_000 + image.tick.0 * 1000).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Release);
        readers.map(|reader| reader.join().unwrap()).into_iter().sum()
    });
    assert!(loads > 20, "{loads}");
}

/// Epochs open beside the old one, a share with each write, and the old one stays.
#[test]
fn an_epoch_opens_without_a_spike() {
    let disk = SimDisk::default();
    let store = open(&disk);
    let mut world = World::new(6 * CHUNK_ROWS, 3);
    let mut shares = Vec::new();
    let mut begun = 0;
    for step in 0..40u64 {
        let stats = write(&store, &Arc::new(world.image()), &[]).unwrap();
        if step > 0 {
            assert_eq!(stats.partitions_full, 0, "no snapshot is whole but the first");
            begun += u64::from(stats.epoch_begun);
            shares.extend((stats.opening_bytes > 0).then_some(stats.opening_bytes));
        }
        world.tick += 1;
        world.tables[0].rows[step as usize][0][0] ^= 1;
    }
    assert_eq!(begun, 1, "by its age");
    assert_eq!(shares.len(), 3);
    // A third each, or a partition more, of six that differ in size.
    let most = *shares.iter().max().unwrap();
    assert!(most * 5 < shares.iter().sum::<u64>() * 3, "{shares:?}");
    assert!(disk.files().iter().all(|path| path.extension().unwrap() == "redb"));
    assert_eq!(disk.files().len(), 2);
}

#[test]
fn old_epochs_are_thinned_and_then_removed() {
    let disk = SimDisk::default();
    let store = open(&disk);
    let mut world = World::new(50, 4);
    let mut written = BTreeMap::new();
    let (mut thinned, mut removed) = (0, 0);
    for step in 0..500 {
        let image = Arc::new(world.image());
        write(&store, &image, &[]).unwrap();
        written.insert(world.tick, image);
        let now = 1_000_000 + world.tick * 1000;
        let pruned = store.prune(now).unwrap();
        thinned += pruned.epochs_thinned;
        removed += pruned.epochs_removed;
        let kept = store.snapshots().kept;
        assert_eq!(pruned.oldest_lsn, kept.iter().map(|meta| meta.lsn).min().unwrap());
        assert!(kept.iter().all(|meta| now - meta.unix_millis < 300_000), "nothing stays for ever");
        assert!(kept.len() < 150, "{}", kept.len());
        let dense = written.keys().filter(|tick| now < 1_000_000 + **tick * 1000 + 40_000);
        for tick in dense {
            assert!(kept.iter().any(|meta| meta.tick.0 == *tick), "tick {tick} at step {step}");
        }
        world.tick += 1;
        world.tables[0].rows[0][0][0] ^= 1;
    }
    assert!(thinned > 5 && removed > 5, "{thinned} {removed}");
    // However old they are, the newest two epochs stay.
    let newest = store.snapshots().kept[0];
    store.prune(u64::MAX).unwrap();
    assert_eq!(store.snapshots().kept[0], newest);
    assert_eq!(disk.files().iter().filter(|path| path.extension().unwrap() == "redb").count(), 2);
    let image = Arc::new(world.image());
    write(&store, &image, &[]).unwrap();
    written.insert(world.tick, image);
    check(&store, &written, &BTreeMap::new());
    drop(store);
    check(&open(&disk), &written, &BTreeMap::new());
}

#[test]
fn branches_have_epochs_of_their_own() {
    let disk = SimDisk::default();
    let store = open(&disk);
    let mut world = World::new(30, 5);
    let mut images = Vec::new();
    for _ in 0..4 {
        let image = Arc::new(world.image());
        write(&store, &image, &[(images.len() as u64, vec![1])]).unwrap();
        images.push(image);
        world.step(images.len() as u64);
    }
    // Back to the second, and on from there.
    let second = meta(0, &images[1]);
    store.resume(second).unwrap();
    let other = Arc::new(share(&images[1], {
        let mut image = (*images[1]).clone();
        image.tick = Tick(second.tick.0 + 1);
        image.resources[0].bytes = [42].into();
        image.hash = hash_of(&image);
        image
    }));
    assert!(store.write(&snapshot(1, &other, &[(50, vec![2])])).unwrap().epoch_begun);
    let kept = store.snapshots().kept;
    assert_eq!((kept[0].branch, kept[0].tick), (1, other.tick), "newest by its place in the log");
    assert_eq!(store.load(1, other.tick).unwrap().image, *other);
    for image in &images {
        assert_eq!(store.load(0, image.tick).unwrap().image, **image);
    }
    // The ledger is not rewound.
    let numbers = |ledger: Vec<(u64, Vec<u8>)>| ledger.into_iter().map(|(n, _)| n).collect::<Vec<_>>();
    assert_eq!(numbers(store.load(1, other.tick).unwrap().ledger), [0, 1, 2, 3, 50]);
    assert_eq!(numbers(store.load(0, second.tick).unwrap().ledger), [0, 1]);
    assert!(matches!(store.load(1, second.tick), Err(StoreError::NotFound { .. })));
    // What nobody needs any more is forgotten.
    store.set_ledger_floor(3);
    let mut next = (*other).clone();
    next.tick = next.tick.next();
    next.hash = hash_of(&next);
    let next = Arc::new(next);
    store.write(&snapshot(1, &next, &[])).unwrap();
    assert_eq!(numbers(store.load(1, next.tick).unwrap().ledger), [3, 50]);
    store.begin_epoch();
    let mut last = (*next).clone();
    last.tick = last.tick.next();
    last.hash = hash_of(&last);
    store.write(&snapshot(1, &Arc::new(last.clone()), &[])).unwrap();
    assert_eq!(numbers(store.load(1, last.tick).unwrap().ledger), [3, 50]);
}

#[test]
fn images_that_contradict_themselves_are_refused() {
    let disk = SimDisk::default();
    let store = open(&disk);
    let world = World::new(20, 6);
    let good = Arc::new(world.image());
    write(&store, &good, &[]).unwrap();
    let refused = |change: &dyn Fn(&mut Image, &mut everworld_persistence::SnapshotMeta)| {
        let mut image = (*good).clone();
        image.tick = image.tick.next();
        image.hash = hash_of(&image);
        let mut meta = meta(0, &image);
        change(&mut image, &mut meta);
        let snapshot =
            everworld_persistence::Snapshot { meta, image: Arc::new(image), host: &[], ledger: &[] };
        matches!(store.write(&snapshot), Err(StoreError::Malformed(_)))
    };
    assert!(refused(&|_, meta| meta.hash.0 ^= 1));
    assert!(refused(&|_, meta| meta.entities += 1));
    assert!(refused(&|_, meta| meta.tick = Tick(9999)));
    assert!(refused(&|image, _| image.tables[0].rows += 1));
    assert!(refused(&|image, meta| {
        image.tick = good.tick;
        meta.tick = good.tick;
    }));
    assert!(!refused(&|_, _| ()), "the store goes on after a refusal");
}

/// redb writes to no file that was there when the store was opened, whatever has become of it meanwhile.
#[test]
fn a_store_that_is_opened_begins_an_epoch() {
    let disk = SimDisk::default();
    let store = open(&disk);
    let mut world = World::new(40, 8);
    write(&store, &Arc::new(world.image()), &[(1, vec![1])]).unwrap();
    drop(store);
    let before = disk.copy();
    let store = open(&disk);
    let newest = store.snapshots().kept[0];
    store.resume(newest).unwrap();
    world.tick += 1;
    assert!(write(&store, &Arc::new(world.image()), &[]).unwrap().epoch_begun);
    assert_eq!(store.load(0, Tick(world.tick)).unwrap().ledger, [(1, vec![1])], "the ledger comes along");
    for path in before.files() {
        assert_eq!(disk.file(&path), before.file(&path), "{}", path.display());
    }
}

#[test]
fn snapshots_leave_and_enter_as_files() {
    let disk = SimDisk::default();
    let store = open(&disk);
    let mut world = World::new(300, 9);
    let mut images = Vec::new();
    for step in 0..4 {
        let image = Arc::new(world.image());
        write(&store, &image, &[(step, vec![step as u8])]).unwrap();
        images.push(image);
        world.step(step);
    }
    let path = Path::new("data/third.everworld");
    // What an earlier try left behind is in nobody's way.
    disk.set_file(Path::new("data/third.everworld.opening"), vec![1, 2, 3]);
    store.export(0, images[2].tick, path).unwrap();
    assert!(store.export(0, images[2].tick, path).is_err(), "nothing is overwritten");
    let imported = Store::import(&disk, path, 1 << 30).unwrap();
    assert_eq!(imported, store.load(0, images[2].tick).unwrap());
    assert_eq!(imported.image, *images[2]);
    let bytes = disk.file(path).unwrap();
    // Cut anywhere it is refused; what is not verified is not used.
    for length in (0..bytes.len()).step_by(bytes.len() / 23) {
        disk.set_file(path, bytes[..length].to_vec());
        assert!(Store::import(&disk, path, 1 << 30).is_err(), "cut to {length}");
    }
}

/// A small file that unpacks to much is refused before it takes the memory.
#[test]
fn bombs_are_not_imported() {
    let disk = SimDisk::default();
    let store = open(&disk);
    let mut world = World::new(10, 9);
    let zeros = vec![0; 40 << 20];
    for (name, is_bomb) in [("none", false), ("resource", true), ("host", true), ("ledger", true)] {
        world.tick += 1;
        world.resources[0].1 = if name == "resource" { zeros.clone() } else { vec![1] };
        let image = Arc::new(world.image());
        let ledger = if name == "ledger" { vec![(1, zeros.clone())] } else { Vec::new() };
        let host: &[u8] = if name == "host" { &zeros } else { &[] };
        let meta = meta(0, &image);
        store.write(&everworld_persistence::Snapshot { meta, image, host, ledger: &ledger }).unwrap();
        let path = PathBuf::from(format!("data/{name}.everworld"));
        store.export(0, meta.tick, &path).unwrap();
        let bytes = disk.file(&path).unwrap().len() as u64;
        assert!(bytes < 2 << 20, "{name}: {bytes}");
        let imported = Store::import(&disk, &path, 20 << 20);
        match imported {
            Err(error @ StoreError::OverLimit { .. }) if is_bomb => {
                let text = error.to_string();
                assert!(text.contains("unpacks to more than 20971520 bytes"), "{text}");
            }
            Ok(_) if !is_bomb => {}
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_backup_is_a_store_of_the_same_snapshots() {
    let disk = SimDisk::default();
    let store = open(&disk);
    let mut world = World::new(100, 10);
    let (mut written, mut ledger) = (BTreeMap::new(), BTreeMap::new());
    for step in 0..60 {
        let image = Arc::new(world.image());
        write(&store, &image, &[(step, vec![1])]).unwrap();
        ledger.insert(step, world.tick);
        written.insert(world.tick, image);
        world.step(step);
    }
    let target = Path::new("data/backup");
    store.backup(target).unwrap();
    disk.sync_dir(Path::new("data")).unwrap();
    // Durable, too: it survives a loss of power.
    let cut = disk.cut(Cut::Synced);
    let (copy, report) = Store::open(Arc::new(cut.clone()), target, options()).unwrap();
    assert_eq!(report, everworld_persistence::StoreReport::default());
    assert_eq!(copy.snapshots().kept, store.snapshots().kept);
    check(&copy, &written, &ledger);
}

/// A backup of a world that goes on: snapshots, and a log that covers them (D7).
#[test]
fn a_live_world_is_backed_up_with_its_log() {
    let disk = SimDisk::default();
    let store = open(&disk);
    let options = LogOptions { segment_bytes: SEGMENT_BYTES_MIN, ..LogOptions::new(7, [1; 16]) };
    let (log, _) = Log::open(Arc::new(disk.clone()), &dir().join("log"), &options).unwrap();
    let log = LogWriter::start(log, 100).unwrap();
    let mut world = World::new(40, 13);
    let append = |tick: u64| {
        let lsn = log.append(Record::Horizon { tick: Tick(tick) }, None).unwrap();
        log.wait_durable(lsn).unwrap()
    };
    for step in 0..30 {
        let point = append(world.tick);
        let image = Arc::new(world.image());
        let mut snapshot = snapshot(0, &image, &[]);
        (snapshot.meta.lsn, snapshot.meta.chain) = (point.lsn, point.chain);
        store.write(&snapshot).unwrap();
        world.step(step);
    }
    append(999);
    let target = Path::new("data/backup");
    let report = backup(&store, &log, target).unwrap();
    assert_eq!((report.durable, report.damaged.len()), (log.durable(), 0));
    assert!(backup(&store, &log, target).is_err(), "nothing is overwritten");
    append(1000);

    let cut = disk.cut(Cut::Synced);
    let (copy, _) = Store::open(Arc::new(cut.clone()), target, self::options()).unwrap();
    assert_eq!(copy.snapshots().kept, store.snapshots().kept);
    let known_durable =
        copy.snapshots().kept.into_iter().map(|meta| DurablePoint { lsn: meta.lsn, chain: meta.chain });
    let options = LogOptions { known_durable: known_durable.collect(), ..options };
    let (copied, _) = Log::open(Arc::new(cut), &target.join("log"), &options).unwrap();
    let last = copied.records(1).last().unwrap().unwrap();
    assert_eq!(last, (31, Record::Horizon { tick: Tick(999) }));
}

/// Looking changes nothing, also where the writer still has the files open.
#[test]
fn reading_only_changes_nothing() {
    let disk = SimDisk::default();
    let store = open(&disk);
    let mut world = World::new(100, 11);
    for step in 0..30 {
        write(&store, &Arc::new(world.image()), &[]).unwrap();
        world.step(step);
    }
    // As a crash leaves it.
    let crashed = disk.cut(Cut::Issued);
    let operations = crashed.operations();
    let (look, _) = Store::open_read_only(Arc::new(crashed.clone()), &dir(), options()).unwrap();
    assert_eq!(look.snapshots().kept, store.snapshots().kept);
    for meta in look.snapshots().kept {
        assert_eq!(look.load(meta.branch, meta.tick).unwrap(), store.load(meta.branch, meta.tick).unwrap());
    }
    assert!(matches!(write(&look, &Arc::new(world.image()), &[]), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(look.prune(0), Err(StoreError::ReadOnly { .. })));
    drop(look);
    assert_eq!(crashed.operations(), operations);
}

#[test]
fn other_formats_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::open(Arc::new(RealDisk), dir.path(), options());
    let (store, _) = open().unwrap();
    write(&store, &Arc::new(World::new(3, 1).image()), &[]).unwrap();
    drop(store);
    let set_format = |format: u32| {
        let db = redb::Database::open(dir.path().join("epoch-00000001.redb")).unwrap();
        let table: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("format");
        let txn = db.begin_write().unwrap();
        let mut record = b"EVRWSTO\0".to_vec();
        record.extend(format.to_le_bytes());
        record.extend([0; 4]);
        record.extend(xxhash_rust::xxh3::xxh3_64(&record).to_le_bytes());
        txn.open_table(table).unwrap().insert("store", record.as_slice()).unwrap();
        txn.commit().unwrap();
    };
    set_format(STORE_FORMAT + 1);
    let error = open().err().unwrap();
    assert!(error.to_string().contains("store format version 3, this build reads up to 2"), "{error}");
    set_format(1);
    let error = open().err().unwrap();
    assert!(error.to_string().contains("store format 1, this build reads format 2 only"), "{error}");
    set_format(STORE_FORMAT);
    assert_eq!(open().unwrap().0.snapshots().kept.len(), 1);
}
