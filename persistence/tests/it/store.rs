//! Keyframes come back bit for bit or not at all (D5), the newest few of them, for one process at a time.

use everworld_engine::{
    CHUNK_ROWS, Chunk, ColumnImage, ColumnSchema, Image, ResourceImage, StateHash, TableImage, Tick,
};
use everworld_persistence::{KeyframeMeta, Store, StoreError, StoreOptions};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

fn column(name: &str, lanes: Option<Vec<u8>>, rows: usize, seed: u64) -> ColumnImage {
    let schema = ColumnSchema { name: name.into(), version: 3, lanes };
    let mut random = seed;
    let mut draw = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 56) as u8
    };
    let chunk = |start: usize| {
        let count = CHUNK_ROWS.min(rows - start);
        match schema.row_bytes() {
            Some(row_bytes) => {
                Chunk::Plain((0..count * row_bytes).map(|i| if i % 4 == 0 { draw() } else { 0 }).collect())
            }
            None => Chunk::Slow((0..count).map(|i| (0..i % 5).map(|_| draw()).collect()).collect()),
        }
    };
    let mut chunk = chunk;
    let chunks = (0..rows).step_by(CHUNK_ROWS).map(|start| Arc::new(chunk(start))).collect();
    ColumnImage { schema: Arc::new(schema), chunks }
}

fn table(rows: usize, seed: u64) -> TableImage {
    let columns = vec![
        column("body", Some(vec![4, 4, 2, 1, 1]), rows, seed),
        column("tag", Some(Vec::new()), rows, seed),
        column("name", None, rows, seed + 1),
        column("uid", Some(vec![8]), rows, seed + 2),
    ];
    TableImage { rows, columns }
}

fn image(tick: u64, rows: &[usize]) -> Image {
    let resource = |name: &str, bytes: Vec<u8>| ResourceImage { name: name.into(), version: 1, bytes };
    Image {
        tick: Tick(tick),
        hash: StateHash(tick * 1000),
        tables: rows.iter().zip(tick..).map(|(rows, seed)| table(*rows, seed)).collect(),
        resources: vec![resource("clock", vec![1, 2, 3]), resource("empty", Vec::new())],
    }
}

fn meta(branch: u32, image: &Image) -> KeyframeMeta {
    KeyframeMeta {
        branch,
        tick: image.tick,
        hash: image.hash,
        applied_seq: 5,
        lsn: u64::from(branch) * 1000 + image.tick.0,
        chain: 99,
        build_id: [3; 16],
        entities: image.entities() as u64,
    }
}

fn open(dir: &Path) -> Result<Store, StoreError> {
    Store::open(dir, StoreOptions { keyframes_kept: 3, cache_bytes: 1 << 20 })
}

#[test]
fn images_of_all_shapes_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let shapes: [&[usize]; 6] =
        [&[], &[0], &[1], &[CHUNK_ROWS], &[CHUNK_ROWS + 1, 0, 7], &[2 * CHUNK_ROWS + 100, 3]];
    for (tick, shape) in (0..).zip(shapes) {
        let image = image(tick, shape);
        let store = open(dir.path()).unwrap();
        let stats = store.write_keyframe(&meta(0, &image), &image).unwrap();
        assert_eq!(stats.raw_bytes, image.bytes() as u64);
        let chunks: usize = image.tables.iter().flat_map(|t| &t.columns).map(|c| c.chunks.len()).sum();
        assert_eq!(stats.records as usize, chunks + image.resources.len() + 1);
        assert_eq!(store.load(0, Tick(tick)).unwrap(), image);
        drop(store);
        let store = open(dir.path()).unwrap();
        assert_eq!(store.keyframes().unwrap().kept[0], meta(0, &image));
        assert_eq!(store.load(0, Tick(tick)).unwrap(), image, "{shape:?} after opening again");
    }
}

#[test]
fn the_newest_keyframes_stay_by_their_place_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    // Branch 1 goes on from an earlier tick than branch 0 had come to: it is newer.
    for (branch, tick) in [(0, 10), (0, 20), (0, 30), (1, 15), (1, 16), (1, 16)] {
        let image = image(tick, &[2000]);
        store.write_keyframe(&meta(branch, &image), &image).unwrap();
    }
    let listed = store.keyframes().unwrap();
    assert!(listed.damaged.is_empty());
    let kept: Vec<_> = listed.kept.iter().map(|meta| (meta.branch, meta.tick.0)).collect();
    assert_eq!(kept, [(1, 16), (1, 15), (0, 30)]);
    for (branch, tick) in kept {
        assert_eq!(store.load(branch, Tick(tick)).unwrap(), image(tick, &[2000]));
    }
    assert!(matches!(store.load(0, Tick(20)), Err(StoreError::NotFound { branch: 0, tick: Tick(20), .. })));
    let path = store.path().to_path_buf();
    drop(store);
    let db = redb::Database::create(path).unwrap();
    let records: redb::TableDefinition<'_, (u32, u64, u32, u32), &[u8]> =
        redb::TableDefinition::new("records");
    let table = redb::ReadableDatabase::begin_read(&db).unwrap().open_table(records).unwrap();
    let keys = redb::ReadableTable::iter(&table).unwrap().map(|entry| entry.unwrap().0.value());
    let of: BTreeSet<_> = keys.map(|(branch, tick, _, _)| (branch, tick)).collect();
    assert_eq!(of, [(0, 30), (1, 15), (1, 16)].into(), "no record stays without its keyframe");
}

#[test]
fn a_store_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(StoreError::InUse { .. })));
    drop(store);
    open(dir.path()).unwrap();
}

#[test]
fn an_image_that_contradicts_itself_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let image = image(1, &[10]);
    let other = KeyframeMeta { hash: StateHash(1), ..meta(0, &image) };
    assert!(matches!(store.write_keyframe(&other, &image), Err(StoreError::Malformed(_))));
    let mut short = image.clone();
    short.tables[0].columns[0] = column("body", Some(vec![4]), 9, 0);
    assert!(matches!(store.write_keyframe(&meta(0, &short), &short), Err(StoreError::Malformed(_))));
    // Neither was a fault.
    store.write_keyframe(&meta(0, &image), &image).unwrap();
}

/// A crash while the store is begun leaves nothing that counts.
#[test]
fn an_unfinished_store_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("epoch-1.redb.tmp"), b"half").unwrap();
    open(dir.path()).unwrap();
    assert!(!dir.path().join("epoch-1.redb.tmp").exists());
}

#[test]
fn files_that_are_no_store_are_refused() {
    let check = |bytes: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("epoch-1.redb"), bytes).unwrap();
        let error = open(dir.path()).map(|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. } | StoreError::Io { .. }), "{error}");
    };
    check(b"");
    check(b"not a store");
    check(&[0; 8192]);
    let dir = tempfile::tempdir().unwrap();
    redb::Database::create(dir.path().join("epoch-1.redb")).unwrap();
    assert!(matches!(open(dir.path()), Err(StoreError::Damaged { .. })), "a redb file of someone else");
}

#[test]
fn a_later_format_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = open(dir.path()).unwrap().path().to_path_buf();
    let mut record = Vec::from(*b"EVRWSTO\0\x02\0\0\0\0\0\0\0");
    let check = xxhash_rust::xxh3::xxh3_64(&record);
    record.extend_from_slice(&check.to_le_bytes());
    let db = redb::Database::create(&path).unwrap();
    let txn = db.begin_write().unwrap();
    let table: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("format");
    txn.open_table(table).unwrap().insert("store", record.as_slice()).unwrap();
    txn.commit().unwrap();
    drop(db);
    let error = open(dir.path()).map(|_| ()).unwrap_err().to_string();
    assert!(error.ends_with("has store format version 2, this build reads up to 1"), "{error}");
}

/// D5: whatever one flipped bit hits, a keyframe comes back as it was written or not at all; and no panic gets out.
#[test]
fn flipped_bits_never_give_another_image() {
    let dir = tempfile::tempdir().unwrap();
    let images: BTreeMap<u64, Image> =
        [(1, image(1, &[900, 3])), (2, image(2, &[1000])), (3, image(3, &[1100]))].into();
    let store = open(dir.path()).unwrap();
    for image in images.values() {
        store.write_keyframe(&meta(0, image), image).unwrap();
    }
    let path = store.path().to_path_buf();
    drop(store);
    let bytes = fs::read(&path).unwrap();
    let used: Vec<usize> = (0..bytes.len()).filter(|i| bytes[*i] != 0).collect();
    let (mut refused, mut missing, mut whole) = (0, 0, 0);
    for i in 0..300u64 {
        let random = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        // Most of the file is free: three of four flips hit something that is not zero.
        let at = if i % 4 == 0 { random as usize % bytes.len() } else { used[random as usize % used.len()] };
        let damaged = tempfile::tempdir().unwrap();
        let copy = damaged.path().join("epoch-1.redb");
        fs::copy(&path, &copy).unwrap();
        let file = OpenOptions::new().write(true).open(&copy).unwrap();
        file.write_all_at(&[bytes[at] ^ (1 << (random >> 61))], at as u64).unwrap();
        drop(file);
        let Ok(store) = open(damaged.path()) else {
            refused += 1;
            continue;
        };
        for (tick, image) in &images {
            match store.load(0, Tick(*tick)) {
                Ok(loaded) => {
                    assert!(loaded == *image, "byte {at}: another image came back");
                    whole += 1;
                }
                Err(_) => missing += 1,
            }
        }
        if let Ok(listed) = store.keyframes() {
            let known =
                |kept: &KeyframeMeta| images.get(&kept.tick.0).is_some_and(|image| meta(0, image) == *kept);
            assert!(listed.kept.iter().all(known), "byte {at}");
        }
    }
    assert!(missing > 30 && whole > 300, "{refused} refused, {missing} missing, {whole} whole");
}

/// A damaged keyframe does not stand in the way of the others, nor of new ones.
#[test]
fn a_damaged_keyframe_is_reported_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let images = [image(1, &[10]), image(2, &[10])];
    let store = open(dir.path()).unwrap();
    for image in &images {
        store.write_keyframe(&meta(0, image), image).unwrap();
    }
    let path = store.path().to_path_buf();
    drop(store);
    // Through redb, so that its own structure is sound.
    let db = redb::Database::create(&path).unwrap();
    let txn = db.begin_write().unwrap();
    let keyframes: redb::TableDefinition<'_, (u32, u64), &[u8]> = redb::TableDefinition::new("keyframes");
    {
        let mut table = txn.open_table(keyframes).unwrap();
        let mut header = redb::ReadableTable::get(&table, (0, 2)).unwrap().unwrap().value().to_vec();
        header[40] ^= 1;
        table.insert((0, 2), header.as_slice()).unwrap();
    }
    txn.commit().unwrap();
    drop(db);
    let store = open(dir.path()).unwrap();
    let listed = store.keyframes().unwrap();
    assert_eq!(listed.kept, [meta(0, &images[0])]);
    assert_eq!(listed.damaged.len(), 1);
    assert!(
        listed.damaged[0].to_string().contains("the header of tick 2 on branch 0"),
        "{}",
        listed.damaged[0]
    );
    assert!(matches!(store.load(0, Tick(2)), Err(StoreError::Damaged { .. })));
    assert_eq!(store.load(0, Tick(1)).unwrap(), images[0]);
    let next = image(3, &[10]);
    store.write_keyframe(&meta(0, &next), &next).unwrap();
    let listed = store.keyframes().unwrap();
    assert_eq!((listed.kept.len(), listed.damaged.len()), (2, 0));
}

/// A page holds little more than what is put into it.
#[test]
fn records_fill_their_pages() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions { keyframes_kept: 1, cache_bytes: 1 << 20 }).unwrap();
    let image = image(1, &[3 * CHUNK_ROWS]);
    let stats = store.write_keyframe(&meta(0, &image), &image).unwrap();
    let path = store.path().to_path_buf();
    drop(store);
    let db = redb::Database::create(path).unwrap();
    let txn = db.begin_write().unwrap();
    let records: redb::TableDefinition<'_, (u32, u64, u32, u32), &[u8]> =
        redb::TableDefinition::new("records");
    let table = txn.open_table(records).unwrap();
    let pages = redb::ReadableTableMetadata::stats(&table).unwrap();
    let allocated = pages.stored_bytes() + pages.metadata_bytes() + pages.fragmented_bytes();
    let ratio = allocated as f64 / stats.written_bytes as f64;
    assert!((1.0..1.1).contains(&ratio), "{ratio}");
}
