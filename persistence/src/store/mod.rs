//! The keyframe store: whole states in one redb file, the newest few of them.
//!
//! Promises: a keyframe is there with all its records or not at all; what [`Store::load`] returns is what was
//! written, bit for bit, or an error (D5); no panic of redb on a damaged file gets out. Deliberately absent:
//! whether the log covers a keyframe (D7) and the recomputation of the state's hash, both the caller's.
//!
//! The first look at a file that may be damaged is better made in a process of its own: redb can abort.

mod codec;
mod envelope;
mod error;
mod extents;
mod keyframe;

use error::OrFail;
pub use error::StoreError;
pub use keyframe::KeyframeMeta;

use crate::panics::guarded;
use envelope::{Kind, OpenError, Opener, Place, Sealer};
use everworld_engine::{Chunk, ColumnImage, Image, ResourceImage, TableImage, Tick};
use extents::{Key, RecordsTable};
use keyframe::{KeyframeHeader, TableHeader, chunk_bytes};
use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition, TableHandle,
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use xxhash_rust::xxh3::xxh3_64;

/// The format of stores that this build writes.
pub const STORE_FORMAT: u32 = 1;
/// The largest record before compression: nothing larger is written, nor believed when it is read.
pub const RECORD_BYTES_MAX: usize = 256 << 20;

const FORMAT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("format");
const KEYFRAMES: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("keyframes");
const RECORDS: TableDefinition<'_, Key, &[u8]> = TableDefinition::new("records");

const FORMAT_KEY: &str = "store";
const FORMAT_MAGIC: &[u8; 8] = b"EVRWSTO\0";
/// A header lists columns and resources, which are few.
const HEADER_BYTES_MAX: usize = 16 << 20;

/// How to open a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// How many keyframes stay, the newest; at least 1.
    pub keyframes_kept: usize,
    /// Memory for redb's cache.
    pub cache_bytes: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { keyframes_kept: 3, cache_bytes: 16 << 20 }
    }
}

/// What writing a keyframe came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyframeStats {
    /// Bytes of the state in memory.
    pub raw_bytes: u64,
    /// Bytes of its records, without redb's pages around them.
    pub written_bytes: u64,
    /// How many records it has, with the header.
    pub records: u64,
}

/// The keyframes of a store.
#[derive(Debug, Default)]
pub struct Keyframes {
    /// Those whose header verifies, newest (by lsn, branch, tick) first.
    pub kept: Vec<KeyframeMeta>,
    /// What is wrong with the others.
    pub damaged: Vec<StoreError>,
}

/// An open store. Only one process has it open at a time.
pub struct Store {
    /// `None` only while dropping.
    db: Option<Database>,
    path: PathBuf,
    keyframes_kept: usize,
    /// A write failed: the file is not written again before it is opened again (D6).
    failed: AtomicBool,
}

impl Store {
    /// Opens the store in that directory, or begins one there.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let path = dir.join("epoch-1.redb");
        let db = guard(&path, || {
            if !path.try_exists().map_err(StoreError::io("look for store", &path))? {
                create(dir, &path)?;
            }
            let db = redb::Builder::new().set_cache_size(options.cache_bytes).open(&path);
            let db = db.or_fail("open store", &path)?;
            check_format(&db, &path)?;
            Ok(db)
        })?;
        let keyframes_kept = options.keyframes_kept.max(1);
        Ok(Self { db: Some(db), path, keyframes_kept, failed: AtomicBool::new(false) })
    }

    /// Writes a keyframe and removes those beyond the newest, in one transaction; it is durable when this
    /// returns. One of the same branch and tick is replaced.
    ///
    /// # Errors
    /// After an I/O error the store takes no more keyframes (D6).
    pub fn write_keyframe(&self, meta: &KeyframeMeta, image: &Image) -> Result<KeyframeStats, StoreError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(StoreError::Failed { path: self.path.clone() });
        }
        let header = KeyframeHeader::of(meta, image).map_err(StoreError::Malformed)?;
        let written = guard(&self.path, || self.write(&header, image));
        let refused = matches!(written, Err(StoreError::TooLarge { .. }));
        if written.is_err() && !refused {
            self.failed.store(true, Ordering::Release);
        }
        written
    }

    /// The keyframes that are there.
    pub fn keyframes(&self) -> Result<Keyframes, StoreError> {
        guard(&self.path, || {
            let txn = self.db().begin_read().or_fail("read store", &self.path)?;
            let table = txn.open_table(KEYFRAMES).or_fail("read store", &self.path)?;
            self.list(&table)
        })
    }

    /// The state of that tick. Every byte is verified; the caller compares the state's hash.
    pub fn load(&self, branch: u32, tick: Tick) -> Result<Image, StoreError> {
        guard(&self.path, || self.read(branch, tick))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&self, header: &KeyframeHeader, image: &Image) -> Result<KeyframeStats, StoreError> {
        let KeyframeMeta { branch, tick, .. } = header.meta;
        let mut txn = self.db().begin_write().or_fail("write store", &self.path)?;
        txn.set_durability(Durability::Immediate).or_fail("write store", &self.path)?;
        txn.set_quick_repair(true);
        let stats = {
            let table = txn.open_table(RECORDS).or_fail("write store", &self.path)?;
            let mut records =
                Writing { store: self, table, sealer: self.sealer()?, stats: KeyframeStats::default() };
            extents::remove_all(&mut records.table, branch, tick.0).or_fail("write store", &self.path)?;
            records.put_image(branch, tick, image)?;

            let mut keyframes = txn.open_table(KEYFRAMES).or_fail("write store", &self.path)?;
            let raw = header.encode();
            check_size("the keyframe's header", raw.len(), HEADER_BYTES_MAX)?;
            let sealed = records.seal(keyframe_place(branch, tick), Kind::Keyframe, &raw)?;
            keyframes.insert((branch, tick.0), sealed.as_slice()).or_fail("write store", &self.path)?;
            self.prune(&mut keyframes, &mut records.table)?;
            records.stats
        };
        txn.commit().or_fail("commit to store", &self.path)?;
        Ok(stats)
    }

    /// Removes all but the newest keyframes. One whose header does not verify cannot be loaded, nor its age be
    /// told: it goes as well.
    fn prune(
        &self,
        keyframes: &mut Table<'_, (u32, u64), &'static [u8]>,
        records: &mut RecordsTable<'_>,
    ) -> Result<(), StoreError> {
        let listed = self.list(keyframes)?;
        if let Some(later) = listed.damaged.into_iter().find(|e| matches!(e, StoreError::NewerFormat { .. }))
        {
            return Err(later);
        }
        let newest = &listed.kept[..listed.kept.len().min(self.keyframes_kept)];
        let kept: Vec<_> = newest.iter().map(|meta| (meta.branch, meta.tick.0)).collect();
        let keys = keyframes.iter().or_fail("read store", &self.path)?;
        let keys: Result<Vec<_>, _> = keys.map(|entry| entry.map(|(key, _)| key.value())).collect();
        for key in keys.or_fail("read store", &self.path)? {
            if !kept.contains(&key) {
                keyframes.remove(key).or_fail("write store", &self.path)?;
                extents::remove_all(records, key.0, key.1).or_fail("write store", &self.path)?;
            }
        }
        Ok(())
    }

    fn list(&self, table: &impl ReadableTable<(u32, u64), &'static [u8]>) -> Result<Keyframes, StoreError> {
        let mut listed = Keyframes::default();
        let mut opener = self.opener()?;
        for entry in table.iter().or_fail("read store", &self.path)? {
            // After an error inside redb there is no telling what comes next.
            let (key, sealed) = entry.or_fail("read store", &self.path)?;
            let (branch, tick) = key.value();
            match self.header(&mut opener, branch, Tick(tick), sealed.value()) {
                Ok(header) => listed.kept.push(header.meta),
                Err(error) => listed.damaged.push(error),
            }
        }
        listed.kept.sort_by_key(|meta| std::cmp::Reverse((meta.lsn, meta.branch, meta.tick)));
        Ok(listed)
    }

    fn header(
        &self,
        opener: &mut Opener,
        branch: u32,
        tick: Tick,
        sealed: &[u8],
    ) -> Result<KeyframeHeader, StoreError> {
        let what = || format!("the header of tick {tick} on branch {branch}");
        let raw = opener
            .open(keyframe_place(branch, tick), Kind::Keyframe, HEADER_BYTES_MAX, sealed)
            .map_err(|error| self.not_believed(what(), error))?;
        let header = KeyframeHeader::decode(&raw)
            .map_err(|detail| StoreError::damaged(&self.path, format!("{}: {detail}", what())))?;
        if (header.meta.branch, header.meta.tick) == (branch, tick) {
            Ok(header)
        } else {
            Err(StoreError::damaged(&self.path, format!("{} is one of another keyframe", what())))
        }
    }

    fn read(&self, branch: u32, tick: Tick) -> Result<Image, StoreError> {
        let txn = self.db().begin_read().or_fail("read store", &self.path)?;
        let keyframes = txn.open_table(KEYFRAMES).or_fail("read store", &self.path)?;
        let sealed = keyframes.get((branch, tick.0)).or_fail("read store", &self.path)?;
        let Some(sealed) = sealed else {
            return Err(StoreError::NotFound { path: self.path.clone(), branch, tick });
        };
        let mut opener = self.opener()?;
        let header = self.header(&mut opener, branch, tick, sealed.value())?;
        let table = txn.open_table(RECORDS).or_fail("read store", &self.path)?;
        let mut records = Reading { store: self, table, opener, branch, tick, next: 1 };
        let tables: Result<_, _> = header.tables.into_iter().map(|table| records.table(table)).collect();
        let tables: Vec<TableImage> = tables?;
        let mut resources = Vec::with_capacity(header.resources.len());
        for resource in header.resources {
            let bytes = records.next(Kind::Resource, &resource.name, usize::try_from(resource.bytes).ok())?;
            resources.push(ResourceImage { name: resource.name, version: resource.version, bytes });
        }
        Ok(Image { tick, hash: header.meta.hash, tables, resources })
    }

    fn not_believed(&self, what: String, error: OpenError) -> StoreError {
        match error {
            OpenError::Newer(found) => StoreError::NewerFormat {
                path: self.path.clone(),
                what: "record format",
                found: found.into(),
                known: envelope::ENVELOPE_VERSION.into(),
            },
            OpenError::Damaged(detail) => StoreError::damaged(&self.path, format!("{what}: {detail}")),
        }
    }

    fn sealer(&self) -> Result<Sealer, StoreError> {
        Sealer::new().map_err(StoreError::io("compress for store", &self.path))
    }

    fn opener(&self) -> Result<Opener, StoreError> {
        Opener::new().map_err(StoreError::io("decompress from store", &self.path))
    }

    fn db(&self) -> &Database {
        self.db.as_ref().expect("the database is there until the store is dropped")
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // On a damaged file closing can panic as well; what was committed is durable without it.
        let db = self.db.take();
        let _ = guarded(|| drop(db));
    }
}

/// A keyframe that is being written.
struct Writing<'a, 'txn> {
    store: &'a Store,
    table: RecordsTable<'txn>,
    sealer: Sealer,
    stats: KeyframeStats,
}

impl Writing<'_, '_> {
    /// Writes tables, then resources, each record with the next number from 1.
    fn put_image(&mut self, branch: u32, tick: Tick, image: &Image) -> Result<(), StoreError> {
        let mut place = Place { table: RECORDS.name(), branch, tick: tick.0, record: 0 };
        for column in image.tables.iter().flat_map(|table| &table.columns) {
            for chunk in &column.chunks {
                place.record += 1;
                self.put_chunk(place, column, chunk)?;
            }
        }
        for resource in &image.resources {
            place.record += 1;
            check_size(&resource.name, resource.bytes.len(), RECORD_BYTES_MAX)?;
            self.stats.raw_bytes += resource.bytes.len() as u64;
            self.put(place, Kind::Resource, &resource.bytes)?;
        }
        Ok(())
    }

    fn put_chunk(&mut self, place: Place, column: &ColumnImage, chunk: &Chunk) -> Result<(), StoreError> {
        let schema = &column.schema;
        check_size(&schema.name, chunk_bytes(chunk), RECORD_BYTES_MAX)?;
        let (kind, raw) = match chunk {
            Chunk::Plain(rows) => (Kind::PlainChunk, codec::to_planes(rows, schema.row_bytes().unwrap_or(0))),
            Chunk::Slow(values) => (Kind::SlowChunk, codec::pack_values(values)),
        };
        check_size(&schema.name, raw.len(), RECORD_BYTES_MAX)?;
        self.stats.raw_bytes += chunk_bytes(chunk) as u64;
        self.put(place, kind, &raw)
    }

    fn put(&mut self, place: Place, kind: Kind, raw: &[u8]) -> Result<(), StoreError> {
        let sealed = self.seal(place, kind, raw)?;
        extents::put(&mut self.table, (place.branch, place.tick, place.record), &sealed)
            .or_fail("write store", &self.store.path)
    }

    fn seal(&mut self, place: Place, kind: Kind, raw: &[u8]) -> Result<Vec<u8>, StoreError> {
        let sealed = self.sealer.seal(place, kind, raw);
        let sealed = sealed.map_err(StoreError::io("compress for store", &self.store.path))?;
        self.stats.written_bytes += sealed.len() as u64;
        self.stats.records += 1;
        Ok(sealed)
    }
}

/// A keyframe that is being read, record after record.
struct Reading<'a> {
    store: &'a Store,
    table: ReadOnlyTable<Key, &'static [u8]>,
    opener: Opener,
    branch: u32,
    tick: Tick,
    next: u32,
}

impl Reading<'_> {
    fn table(&mut self, header: TableHeader) -> Result<TableImage, StoreError> {
        let mut columns = Vec::with_capacity(header.columns.len());
        for column in &header.columns {
            let schema = Arc::new(column.schema.clone());
            let mut chunks = Vec::new();
            for chunk in 0..column.chunks {
                let rows = header.chunk_rows(chunk);
                chunks.push(Arc::new(self.chunk(&schema, rows)?));
            }
            columns.push(ColumnImage { schema, chunks });
        }
        let table = TableImage { rows: header.rows as usize, columns };
        table.check().map_err(|error| StoreError::damaged(&self.store.path, error.to_string()))?;
        Ok(table)
    }

    fn chunk(&mut self, schema: &everworld_engine::ColumnSchema, rows: usize) -> Result<Chunk, StoreError> {
        let Some(row_bytes) = schema.row_bytes() else {
            let raw = self.next(Kind::SlowChunk, &schema.name, None)?;
            return codec::unpack_values(&raw, rows).map_err(|detail| {
                StoreError::damaged(&self.store.path, format!("column \"{}\": {detail}", schema.name))
            });
        };
        let planes = self.next(Kind::PlainChunk, &schema.name, Some(rows.saturating_mul(row_bytes)))?;
        Ok(Chunk::Plain(codec::from_planes(&planes, row_bytes)))
    }

    /// The content of the next record: of that size, if one is known.
    fn next(&mut self, kind: Kind, name: &str, bytes: Option<usize>) -> Result<Vec<u8>, StoreError> {
        let Self { store, branch, tick, next: record, .. } = *self;
        self.next += 1;
        let what = || format!("record {record} (\"{name}\") of tick {tick} on branch {branch}");
        let sealed = extents::get(&self.table, (branch, tick.0, record))
            .or_fail("read store", &store.path)?
            .ok_or_else(|| StoreError::damaged(&store.path, format!("{} is not complete", what())))?;
        let place = Place { table: RECORDS.name(), branch, tick: tick.0, record };
        let raw = self.opener.open(place, kind, bytes.unwrap_or(RECORD_BYTES_MAX), &sealed);
        let raw = raw.map_err(|error| store.not_believed(what(), error))?;
        match bytes {
            Some(bytes) if raw.len() != bytes => Err(StoreError::damaged(
                &store.path,
                format!("{} is {} bytes large, not {bytes}", what(), raw.len()),
            )),
            _ => Ok(raw),
        }
    }
}

/// Begins a store: under another name until it is whole and durable, so that a crash leaves none or a good one.
fn create(dir: &Path, path: &Path) -> Result<(), StoreError> {
    let temporary = path.with_extension("redb.tmp");
    let begin = || -> Result<(), redb::Error> {
        let db = Database::create(&temporary)?;
        let txn = db.begin_write()?;
        txn.open_table(FORMAT)?.insert(FORMAT_KEY, format_record().as_slice())?;
        txn.open_table(KEYFRAMES)?;
        txn.open_table(RECORDS)?;
        txn.commit()?;
        Ok(())
    };
    fs::create_dir_all(dir).map_err(StoreError::io("create directory", dir))?;
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StoreError::io("remove unfinished store", &temporary)(error));
        }
        _ => {}
    }
    begin().or_fail("create store", &temporary)?;
    let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all());
    sync(&temporary).map_err(StoreError::io("sync store", &temporary))?;
    fs::rename(&temporary, path).map_err(StoreError::io("rename store", &temporary))?;
    sync(dir).map_err(StoreError::io("sync directory", dir))
}

fn check_format(db: &Database, path: &Path) -> Result<(), StoreError> {
    let read = || -> Result<Option<Vec<u8>>, redb::Error> {
        let txn = db.begin_read()?;
        Ok(txn.open_table(FORMAT)?.get(FORMAT_KEY)?.map(|value| value.value().to_vec()))
    };
    let record = read().or_fail("read store", path)?;
    let record: Option<[u8; 24]> = record.and_then(|record| record.try_into().ok());
    let valid = |record: &[u8; 24]| {
        &record[..8] == FORMAT_MAGIC && xxh3_64(&record[..16]).to_le_bytes() == record[16..]
    };
    let Some(record) = record.filter(valid) else {
        return Err(StoreError::damaged(path, "the format record does not verify"));
    };
    match u32::from_le_bytes([record[8], record[9], record[10], record[11]]) {
        STORE_FORMAT => Ok(()),
        found => Err(StoreError::NewerFormat {
            path: path.into(),
            what: "store format",
            found,
            known: STORE_FORMAT,
        }),
    }
}

fn format_record() -> [u8; 24] {
    let mut record = [0; 24];
    record[..8].copy_from_slice(FORMAT_MAGIC);
    record[8..12].copy_from_slice(&STORE_FORMAT.to_le_bytes());
    let check = xxh3_64(&record[..16]);
    record[16..].copy_from_slice(&check.to_le_bytes());
    record
}

fn keyframe_place(branch: u32, tick: Tick) -> Place {
    Place { table: KEYFRAMES.name(), branch, tick: tick.0, record: 0 }
}

fn check_size(what: &str, bytes: usize, max: usize) -> Result<(), StoreError> {
    if bytes > max {
        return Err(StoreError::TooLarge { what: what.into(), bytes, max });
    }
    Ok(())
}

/// Turns a panic of redb, which a damaged file can cause, into an error.
fn guard<T>(path: &Path, body: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    guarded(body)
        .unwrap_or_else(|panic| Err(StoreError::damaged(path, format!("redb cannot read it: {panic}"))))
}
