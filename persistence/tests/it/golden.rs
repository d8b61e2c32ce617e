//! Files of every format that was ever written are opened, and hold what they held.
//!
//! A new format gets a new directory: `WRITE_GOLDEN=1 cargo test -p everworld-persistence golden` writes those that
//! are not there, and never touches one that is. The files are packed by zstd, since most of them is zeros.

use crate::{
    images::{World, snapshot},
    support::{WORLD, each_kind},
};
use everworld_engine::Chunk;
use everworld_persistence::{
    LOG_FORMAT, Loaded, Log, LogOptions, LogReader, SEGMENT_BYTES_MIN, STORE_FORMAT, Store, StoreOptions,
    sim::SimDisk,
};
use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A snapshot as text, in words of this test, so that a change of the code's own does not change it.
fn describe(loaded: &Loaded) -> String {
    let Loaded { meta, image, host, ledger } = loaded;
    let mut text = format!(
        "snapshot {} {} {:016x} {} {} {} {:?} {} {}\n",
        meta.branch,
        meta.tick.0,
        meta.hash.0,
        meta.applied_seq,
        meta.lsn,
        meta.chain,
        meta.build_id,
        meta.entities,
        meta.unix_millis
    );
    for table in &image.tables {
        writeln!(text, "table {}", table.rows).unwrap();
        for column in &table.columns {
            let schema = &column.schema;
            writeln!(text, "column {} {} {:?}", schema.name, schema.version, schema.lanes).unwrap();
            for chunk in &column.chunks {
                match &**chunk {
                    Chunk::Plain(bytes) => writeln!(text, "rows {bytes:?}").unwrap(),
                    Chunk::Shared(_) => unreachable!("what is read is plain"),
                    Chunk::Slow(values) => writeln!(text, "values {values:?}").unwrap(),
                }
            }
        }
    }
    for resource in &image.resources {
        writeln!(text, "resource {} {} {:?}", resource.name, resource.version, resource.bytes).unwrap();
    }
    writeln!(text, "host {host:?}\nledger {ledger:?}").unwrap();
    text
}

fn describe_store(disk: &SimDisk) -> String {
    let options = StoreOptions::default();
    let (store, report) = Store::open_read_only(Arc::new(disk.clone()), Path::new("d"), options).unwrap();
    assert!(report.set_aside.is_empty(), "{report:?}");
    let listed = store.snapshots();
    assert!(listed.damaged.is_empty(), "{:?}", listed.damaged);
    listed.kept.iter().map(|meta| describe(&store.load(meta.branch, meta.tick).unwrap())).collect()
}

fn describe_log(disk: &SimDisk) -> String {
    let options = LogOptions::new(WORLD, [0; 16]);
    let (log, report) = LogReader::open(Arc::new(disk.clone()), Path::new("d"), &options).unwrap();
    let mut text = format!("{} {} {:016x}\n", report.first_lsn, report.durable.lsn, report.durable.chain);
    for entry in log.records(1) {
        let (lsn, record) = entry.unwrap();
        writeln!(text, "{lsn} {record:?}").unwrap();
    }
    text
}

/// Writes what is not there yet, and returns whether all of it holds what it held.
fn check(name: &str, write: impl Fn(&SimDisk), describe: impl Fn(&SimDisk) -> String) {
    let newest = golden().join(name);
    if std::env::var_os("WRITE_GOLDEN").is_some() && !newest.exists() {
        fs::create_dir_all(&newest).unwrap();
        let disk = SimDisk::default();
        write(&disk);
        for path in disk.files() {
            let packed = zstd::bulk::compress(&disk.file(&path).unwrap(), 19).unwrap();
            fs::write(newest.join(format!("{}.zst", path.file_name().unwrap().to_str().unwrap())), packed)
                .unwrap();
        }
        fs::write(newest.join("expected.txt"), describe(&disk)).unwrap();
    }
    assert!(newest.exists(), "there are no files of the format that is written: {name}");
    let kind = name.split('-').next().unwrap();
    for dir in fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path()) {
        if !dir.file_name().unwrap().to_str().unwrap().starts_with(kind) {
            continue;
        }
        let disk = SimDisk::default();
        for path in fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.extension().is_some_and(|extension| extension == "zst") {
                let bytes = zstd::bulk::decompress(&fs::read(&path).unwrap(), 1 << 24).unwrap();
                disk.set_file(&Path::new("d").join(path.file_stem().unwrap()), bytes);
            }
        }
        let expected = fs::read_to_string(dir.join("expected.txt")).unwrap();
        assert!(expected.lines().count() > 5);
        assert_eq!(describe(&disk), expected, "{}", dir.display());
    }
}

#[test]
fn stores_of_all_formats_open() {
    let write = |disk: &SimDisk| {
        let options = StoreOptions { cache_bytes: 1 << 18, ..StoreOptions::default() };
        let (store, _) = Store::open(Arc::new(disk.clone()), Path::new("d"), options).unwrap();
        let mut world = World::new(20, 42);
        for step in 0..6 {
            let image = Arc::new(world.image());
            store.write(&snapshot(u32::from(step > 3), &image, &[(step, vec![step as u8])])).unwrap();
            world.step(step);
        }
    };
    // Records have a version of their own, that of their envelope.
    check(&format!("store-{STORE_FORMAT}-envelope-3"), write, describe_store);
}

#[test]
fn logs_of_all_formats_open() {
    let write = |disk: &SimDisk| {
        let options = LogOptions { segment_bytes: SEGMENT_BYTES_MIN, ..LogOptions::new(WORLD, [7; 16]) };
        let (mut log, _) = Log::open(Arc::new(disk.clone()), Path::new("d"), &options).unwrap();
        each_kind().iter().for_each(|record| _ = log.append(record).unwrap());
        log.commit().unwrap();
    };
    // The kinds of records have versions of their own: version 2 of inputs and 3 of controls are in this one.
    check(&format!("log-{LOG_FORMAT}-control-3"), write, describe_log);
}
