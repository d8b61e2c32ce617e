//! One epoch: a redb file that begins with a whole state and goes on with differences, one transaction each.
//!
//! Promises: a snapshot is there with all its records or not at all; what is loaded was verified, record by record,
//! from the last whole copy of each partition on (D5). Deliberately absent: which epochs there are, and when one
//! begins: see mod.rs.

use super::{
    FORMAT_KEY, FORMAT_MAGIC, HEADER_BYTES_MAX, Loaded, RECORD_BYTES_MAX, STORE_FORMAT, SnapshotMeta,
    backend::{BLOCK_BYTES, Backend, Blocks},
    codec,
    envelope::{self, Kind, Likeness, OpenError, Opener, Place, Sealer},
    error::{OrFail, StoreError},
    extents::{self, STREAM, StreamWriter},
    guard,
    header::{Header, RecordHeader, RecordPlace, What, order_check},
    pages::{Pages, Tree},
};
use crate::{disk::Disk, panics::guarded};
use everworld_engine::{
    CHUNK_ROWS, Chunk, ColumnImage, ColumnSchema, Image, ResourceImage, TableImage, Tick,
};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableHandle,
    WriteTransaction,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};
use xxhash_rust::xxh3::xxh3_64;

const FORMAT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("format");
const SNAPSHOTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("snapshots");

/// An open epoch file.
pub(super) struct Epoch {
    source: Source,
    path: PathBuf,
}

enum Source {
    /// redb has begun it in this process, and may write to it.
    Written {
        /// `None` only while dropping.
        db: Option<Database>,
        blocks: Arc<Blocks>,
    },
    /// It is only read, and redb has no part in it.
    Kept(Box<Kept>),
}

/// An epoch file with its two large tables.
struct Kept {
    pages: Pages,
    snapshots: Tree,
    stream: Tree,
}

/// An epoch as it is at one instant.
enum View<'a> {
    Written(ReadTransaction),
    Kept(&'a Kept),
}

/// The headers of an epoch that can be believed, and what is wrong with the others.
#[derive(Default)]
pub(super) struct Headers {
    /// Oldest first; each but the first refers to the one before it.
    pub chain: Vec<Header>,
    /// So many of the first are of the epoch's opening: their records count, but no whole state is there yet.
    pub partial: usize,
    pub damaged: Vec<StoreError>,
}

impl Headers {
    /// Those whose snapshots can be read.
    pub fn whole(&self) -> &[Header] {
        &self.chain[self.partial..]
    }
}

/// Hears of the rows of a snapshot that is being loaded, as soon as they are there: the number of their partition, counted over
/// all tables in their order, the columns and the chunks. Called by the threads that load, begun in that order.
pub type Note<'n> = dyn Fn(usize, &[ColumnSchema], &[Arc<Chunk>]) + Sync + 'n;

/// Memory that what is read may take in all. Taken before it is needed, by what the records say of themselves.
struct Budget {
    bytes_max: u64,
    left: AtomicU64,
}

impl Budget {
    fn new(bytes_max: u64) -> Self {
        Self { bytes_max, left: AtomicU64::new(bytes_max) }
    }

    fn take(&self, path: &Path, bytes: u64) -> Result<(), StoreError> {
        let taken = self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes));
        let over = |_| StoreError::OverLimit { path: path.into(), bytes_max: self.bytes_max };
        taken.map(|_| ()).map_err(over)
    }
}

/// A value of any length takes so much beside its bytes.
const VALUE_BYTES: u64 = 32;
/// Lists of small things take up to so many times their stored bytes.
const LIST_FACTOR: u64 = 16;

/// A partition that is being put together: its records, and how many rows it has after each.
struct Chain<'a> {
    table: usize,
    records: Vec<(RecordPlace, usize)>,
    rows: usize,
    columns: &'a [ColumnSchema],
}

impl Epoch {
    /// Begins an epoch file under an unfinished name; what an earlier try left there goes.
    pub fn create(disk: &dyn Disk, path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        if disk.exists(path).map_err(StoreError::io("look for", path))? {
            disk.remove(path).map_err(StoreError::io("remove unfinished store", path))?;
        }
        let file = disk.create_new(path).map_err(StoreError::io("create store", path))?;
        let blocks = Arc::new(Blocks::new(file));
        guard(path, || {
            let backend = Backend(blocks.clone());
            let db = redb::Builder::new().set_cache_size(cache_bytes).create_with_backend(backend);
            let db = Some(db.or_fail("create store", path)?);
            let epoch = Self { source: Source::Written { db, blocks }, path: path.into() };
            let txn = epoch.begin()?;
            let begin = || -> Result<(), redb::Error> {
                txn.open_table(FORMAT)?.insert(FORMAT_KEY, format_record().as_slice())?;
                txn.open_table(SNAPSHOTS)?;
                txn.open_table(STREAM)?;
                Ok(())
            };
            begin().or_fail("write store", path)?;
            epoch.commit(txn)?;
            Ok(epoch)
        })
    }

    /// Opens an epoch file that nobody writes to, in whatever state it was left.
    pub fn open(disk: &dyn Disk, path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        let file = disk.open_read(path).map_err(StoreError::io("open store", path))?;
        let pages = Pages::open(file, path, cache_bytes)?;
        check_format(&pages, path)?;
        let snapshots = pages.table(SNAPSHOTS.name(), Some(8))?;
        let stream = pages.table(STREAM.name(), Some(12))?;
        let kept = Kept { pages, snapshots, stream };
        Ok(Self { source: Source::Kept(Box::new(kept)), path: path.into() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn renamed(mut self, path: PathBuf) -> Self {
        self.path = path;
        self
    }

    fn db(&self) -> Result<&Database, StoreError> {
        match &self.source {
            Source::Written { db, .. } => {
                Ok(db.as_ref().expect("the database is there until the epoch is dropped"))
            }
            Source::Kept(_) => Err(StoreError::ReadOnly { path: self.path.clone() }),
        }
    }

    /// Begins a transaction that is durable when it is committed.
    pub fn begin(&self) -> Result<WriteTransaction, StoreError> {
        let mut txn = self.db()?.begin_write().or_fail("write store", &self.path)?;
        txn.set_durability(Durability::Immediate).or_fail("write store", &self.path)?;
        txn.set_quick_repair(true);
        Ok(txn)
    }

    pub fn commit(&self, txn: WriteTransaction) -> Result<(), StoreError> {
        txn.commit().or_fail("commit to store", &self.path)
    }

    /// The headers that can be believed, oldest first.
    pub fn headers(&self) -> Result<Headers, StoreError> {
        self.headers_within(&Budget::new(u64::MAX))
    }

    fn headers_within(&self, budget: &Budget) -> Result<Headers, StoreError> {
        guard(&self.path, || {
            let mut headers = Headers::default();
            let mut opener = self.opener()?;
            let mut there = BTreeSet::new();
            self.view()?.each_snapshot(&self.path, &mut |tick, sealed| {
                budget.take(&self.path, envelope::raw_bytes(sealed).saturating_mul(LIST_FACTOR))?;
                let header = self.header(&mut opener, tick, sealed);
                let follows = |header: &Header| match (headers.chain.last(), header.previous) {
                    (None, None) => true,
                    (Some(last), Some(previous)) => {
                        last.meta.tick == previous && last.meta.branch == header.meta.branch
                    }
                    _ => false,
                };
                match header {
                    Ok(header) if follows(&header) => {
                        // A whole state stays one: what is new comes whole.
                        if headers.partial == headers.chain.len() && !header.is_whole(&mut there) {
                            headers.partial += 1;
                        }
                        headers.chain.push(header);
                    }
                    Ok(_) => headers.damaged.push(StoreError::damaged(
                        &self.path,
                        format!("the snapshot of tick {tick} refers to one that is damaged or gone"),
                    )),
                    Err(error @ (StoreError::Damaged { .. } | StoreError::NewerFormat { .. })) => {
                        headers.damaged.push(error);
                    }
                    Err(error) => return Err(error),
                }
                Ok(())
            })?;
            Ok(headers)
        })
    }

    fn header(&self, opener: &mut Opener, tick: Tick, sealed: &[u8]) -> Result<Header, StoreError> {
        let what = || format!("the header of tick {tick}");
        let raw = opener
            .open(header_place(tick), Kind::Header, HEADER_BYTES_MAX, sealed)
            .map_err(|error| self.not_believed(what(), error))?;
        let header = Header::decode(&raw)
            .map_err(|detail| StoreError::damaged(&self.path, format!("{}: {detail}", what())))?;
        if header.meta.tick == tick {
            Ok(header)
        } else {
            Err(StoreError::damaged(&self.path, format!("{} is one of another snapshot", what())))
        }
    }

    /// The snapshot of that tick, put together from the last whole copy of each partition.
    pub fn load(&self, branch: u32, tick: Tick, note: &Note<'_>) -> Result<Loaded, StoreError> {
        self.load_within(&Budget::new(u64::MAX), self.headers()?, (branch, tick), note)
    }

    /// The host's own state in the snapshot of that tick.
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "a method of one lifetime is not one of all"
    )]
    pub fn load_host(&self, branch: u32, tick: Tick) -> Result<Vec<u8>, StoreError> {
        self.read(&Budget::new(u64::MAX), self.headers()?, (branch, tick), |reading| reading.host())
    }

    /// The first snapshot, if it takes no more memory than that.
    pub fn load_first(&self, bytes_max: u64) -> Result<Loaded, StoreError> {
        let budget = Budget::new(bytes_max);
        let headers = self.headers_within(&budget)?;
        let Some(SnapshotMeta { branch, tick, .. }) = headers.whole().first().map(|first| first.meta) else {
            let damage = headers.damaged.into_iter().next();
            return Err(damage.unwrap_or_else(|| StoreError::damaged(&self.path, "it holds no snapshot")));
        };
        self.load_within(&budget, headers, (branch, tick), &|_, _, _| ())
    }

    fn load_within(
        &self,
        budget: &Budget,
        headers: Headers,
        at: (u32, Tick),
        note: &Note<'_>,
    ) -> Result<Loaded, StoreError> {
        self.read(budget, headers, at, |reading| reading.loaded(note))
    }

    fn read<T>(
        &self,
        budget: &Budget,
        mut headers: Headers,
        (branch, tick): (u32, Tick),
        what: impl FnOnce(&Reading<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let not_found = || StoreError::NotFound { path: self.path.clone(), branch, tick };
        let found = headers.whole().iter().position(|header| header.meta.tick == tick);
        let Some(last) = found.map(|at| headers.partial + at) else {
            let named = |error: &StoreError| error.to_string().contains(&format!("tick {tick}"));
            let damage = headers.damaged.into_iter().find(named);
            return Err(damage.unwrap_or_else(not_found));
        };
        if headers.chain[last].meta.branch != branch {
            return Err(not_found());
        }
        headers.chain.truncate(last + 1);
        guard(&self.path, || {
            what(&Reading { epoch: self, view: &self.view()?, budget, headers: &headers.chain })
        })
    }

    /// The entries of the ledger as of that tick, by their numbers.
    pub fn ledger(&self, tick: Tick) -> Result<BTreeMap<u64, Vec<u8>>, StoreError> {
        let mut headers = self.headers()?;
        let Some(last) = headers.chain.iter().position(|header| header.meta.tick == tick) else {
            return Err(StoreError::damaged(&self.path, format!("the snapshot of tick {tick} is gone")));
        };
        headers.chain.truncate(last + 1);
        let budget = &Budget::new(u64::MAX);
        guard(&self.path, || {
            Reading { epoch: self, view: &self.view()?, budget, headers: &headers.chain }.ledger()
        })
    }

    /// Copies snapshots to another epoch as they are, after they were verified: up to the first whole state, or all.
    pub fn copy_to(&self, other: &Self, only_first: bool, pace: &dyn Fn()) -> Result<(), StoreError> {
        let headers = self.headers()?;
        let count = if only_first { headers.partial + 1 } else { headers.chain.len() };
        let Some(chain) = headers.chain.get(..count).filter(|chain| !chain.is_empty()) else {
            return Err(StoreError::damaged(&self.path, "it does not begin with a whole state"));
        };
        for header in chain {
            // One short look at the source for each snapshot: a long one would hold all its freed pages.
            guard(&self.path, || {
                let view = self.view()?;
                let budget = &Budget::new(u64::MAX);
                let reading = Reading { epoch: self, view: &view, budget, headers: chain };
                let mut opener = self.opener()?;
                let into = other.begin()?;
                let mut stream = StreamWriter::new(header.meta.tick.0);
                for place in header.places() {
                    pace();
                    let sealed = reading.sealed(&place)?;
                    reading.open(&mut opener, &place, &sealed)?;
                    stream.push(&into, &sealed).or_fail("write store", &other.path)?;
                }
                other.finish(&into, stream, header)?;
                other.commit(into)
            })?;
        }
        Ok(())
    }

    /// Reads it again from the disk, all that a load may need, and compares every checksum. `progress` is told how many
    /// bytes come next; false ends it.
    pub fn scrub(&self, progress: &mut dyn FnMut(u64) -> bool) -> Result<(), StoreError> {
        let pages = match &self.source {
            Source::Written { blocks, .. } => {
                // What redb wrote is what the disk has: then it has what the records were.
                for block in 0..blocks.count() {
                    if !progress(BLOCK_BYTES as u64) {
                        break;
                    }
                    blocks.verify(block).or_fail("read store", &self.path)?;
                }
                return Ok(());
            }
            Source::Kept(kept) => &kept.pages,
        };
        pages.forget();
        let Headers { chain, damaged, .. } = self.headers()?;
        if let Some(first) = damaged.into_iter().next() {
            return Err(first);
        }
        let view = self.view()?;
        let mut opener = self.opener()?;
        for header in &chain {
            let budget = &Budget::new(u64::MAX);
            let reading = Reading { epoch: self, view: &view, budget, headers: &chain };
            for place in header.places() {
                if !progress(place.bytes) {
                    return Ok(());
                }
                reading.open(&mut opener, &place, &reading.sealed(&place)?)?;
            }
        }
        Ok(())
    }

    /// Writes what is left of a snapshot's stream, and its header. Not durable before the commit.
    pub fn finish(
        &self,
        txn: &WriteTransaction,
        mut stream: StreamWriter,
        header: &Header,
    ) -> Result<u64, StoreError> {
        assert_eq!(stream.bytes, header.stream_bytes(), "a header lists all records of its stream");
        stream.finish(txn).or_fail("write store", &self.path)?;
        let raw = header.encode();
        super::check_size("the snapshot's header", raw.len(), HEADER_BYTES_MAX)?;
        let mut sealer = Sealer::new().map_err(StoreError::io("compress for store", &self.path))?;
        let sealed = sealer
            .seal(header_place(header.meta.tick), Kind::Header, &raw, &[], Likeness::Repeats)
            .map_err(StoreError::io("compress for store", &self.path))?;
        let insert = || -> Result<(), redb::Error> {
            txn.open_table(SNAPSHOTS)?.insert(header.meta.tick.0, sealed)?;
            Ok(())
        };
        insert().or_fail("write store", &self.path)?;
        Ok(sealed.len() as u64)
    }

    fn view(&self) -> Result<View<'_>, StoreError> {
        match &self.source {
            Source::Written { .. } => {
                self.db()?.begin_read().or_fail("read store", &self.path).map(View::Written)
            }
            Source::Kept(kept) => Ok(View::Kept(kept)),
        }
    }

    fn opener(&self) -> Result<Opener, StoreError> {
        Opener::new().map_err(StoreError::io("decompress from store", &self.path))
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
}

impl Drop for Epoch {
    fn drop(&mut self) {
        // Closing writes, too, and may fail as all writes; what was committed is durable without it.
        if let Source::Written { db, .. } = &mut self.source {
            let db = db.take();
            let _ = guarded(|| drop(db));
        }
    }
}

impl View<'_> {
    fn each_snapshot(
        &self,
        path: &Path,
        visit: &mut dyn FnMut(Tick, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match self {
            Self::Written(txn) => {
                let table = txn.open_table(SNAPSHOTS).or_fail("read store", path)?;
                for entry in table.iter().or_fail("read store", path)? {
                    // After an error inside redb there is no telling what comes next.
                    let (tick, sealed) = entry.or_fail("read store", path)?;
                    visit(Tick(tick.value()), sealed.value())?;
                }
                Ok(())
            }
            Self::Kept(Kept { pages, snapshots, .. }) => {
                pages.each(snapshots, &mut |tick, sealed| visit(Tick(number(tick)), sealed))
            }
        }
    }

    /// A piece of a snapshot's stream.
    fn extent(&self, path: &Path, tick: u64, extent: u32) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Self::Written(txn) => {
                let table = txn.open_table(STREAM).or_fail("read store", path)?;
                let value = table.get((tick, extent)).or_fail("read store", path)?;
                Ok(value.map(|value| value.value().to_vec()))
            }
            Self::Kept(Kept { pages, stream, .. }) => {
                let key = (tick, u64::from(extent));
                pages.get(stream, &|found| (number(&found[..8]), number(&found[8..])).cmp(&key))
            }
        }
    }
}

/// A number as redb writes it into a key.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn check_format(pages: &Pages, path: &Path) -> Result<(), StoreError> {
    let record = pages.get(&pages.table(FORMAT.name(), None)?, &|key| key.cmp(FORMAT_KEY.as_bytes()))?;
    let record: Option<[u8; 24]> = record.and_then(|record| record.try_into().ok());
    let valid = |record: &[u8; 24]| {
        &record[..8] == FORMAT_MAGIC && xxh3_64(&record[..16]).to_le_bytes() == record[16..]
    };
    let Some(record) = record.filter(valid) else {
        return Err(StoreError::damaged(path, "the format record does not verify"));
    };
    let (found, known) = (u32::from_le_bytes([record[8], record[9], record[10], record[11]]), STORE_FORMAT);
    match found.cmp(&known) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(StoreError::OlderFormat { path: path.into(), found, known }),
        std::cmp::Ordering::Greater => {
            Err(StoreError::NewerFormat { path: path.into(), what: "store format", found, known })
        }
    }
}

/// A record that is being written: sealed, and noted for the header.
pub(super) struct Records {
    sealer: Sealer,
    pub stream: StreamWriter,
    pub headers: Vec<RecordHeader>,
    pub raw_bytes: u64,
    path: PathBuf,
}

impl Records {
    pub fn new(tick: Tick, path: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            sealer: Sealer::new().map_err(StoreError::io("compress for store", path))?,
            stream: StreamWriter::new(tick.0),
            headers: Vec::new(),
            raw_bytes: 0,
            path: path.into(),
        })
    }

    /// Appends a record; returns how many bytes it took.
    pub fn push(
        &mut self,
        txn: &WriteTransaction,
        tick: Tick,
        what: What,
        (raw, breaks, likeness): (&[u8], &[usize], Likeness),
    ) -> Result<u64, StoreError> {
        super::check_size("a part of the snapshot", raw.len(), RECORD_BYTES_MAX)?;
        let place = Place { table: STREAM.name(), tick: tick.0, record: self.headers.len() as u32 + 1 };
        let sealed = self.sealer.seal(place, kind_of(what), raw, breaks, likeness);
        let sealed = sealed.map_err(StoreError::io("compress for store", &self.path))?;
        let bytes = sealed.len() as u64;
        self.stream.push(txn, sealed).or_fail("write store", &self.path)?;
        self.headers.push(RecordHeader { what, bytes });
        self.raw_bytes += raw.len() as u64;
        Ok(bytes)
    }
}

/// A snapshot that is being read.
struct Reading<'a> {
    epoch: &'a Epoch,
    view: &'a View<'a>,
    budget: &'a Budget,
    /// From the first of the epoch to the one that is wanted.
    headers: &'a [Header],
}

impl Reading<'_> {
    fn loaded(&self, note: &Note<'_>) -> Result<Loaded, StoreError> {
        let header = self.headers.last().expect("the caller found it");
        let meta = header.meta;
        let image = Image {
            tick: meta.tick,
            hash: meta.hash,
            tables: self.tables(header, note)?,
            resources: self.resources(header)?,
        };
        if order_check(&image) != header.order {
            return self.damaged("its rows are not in the order that its header names");
        }
        Ok(Loaded { meta, image, host: self.host()?, ledger: self.ledger()?.into_iter().collect() })
    }

    fn host(&self) -> Result<Vec<u8>, StoreError> {
        let mut places = self.headers.last().into_iter().flat_map(Header::places);
        let host = places.find(|place| place.what == What::Host);
        Ok(host.map(|place| self.content(&place)).transpose()?.unwrap_or_default())
    }

    /// Tables of the wanted snapshot: partition by partition in their order, in parallel on a thread of a pool.
    fn tables(&self, header: &Header, note: &Note<'_>) -> Result<Vec<TableImage>, StoreError> {
        let mut chains = self.chains(header)?;
        let made: Vec<OnceLock<Result<Vec<Arc<Chunk>>, StoreError>>> =
            chains.iter().map(|_| OnceLock::new()).collect();
        let next = AtomicUsize::new(0);
        // False when there is no more.
        let one = || {
            let at = next.fetch_add(1, Relaxed);
            let Some(chain) = chains.get(at) else { return false };
            // redb's panics on damage are caught on the thread that they happen on.
            let chunks = guard(&self.epoch.path, || self.partition(chain));
            let chunks = chunks.map(|chunks| chunks.into_iter().map(Arc::new).collect::<Vec<_>>());
            match &chunks {
                Ok(chunks) => note(at, chain.columns, chunks),
                // What comes after it is for nothing.
                Err(_) => next.store(chains.len(), Relaxed),
            }
            assert!(made[at].set(chunks).is_ok(), "each is taken once");
            true
        };
        if rayon::current_thread_index().is_some() {
            rayon::scope(|scope| (0..rayon::current_num_threads()).for_each(|_| one_by_one(scope, &one)));
        } else {
            while one() {}
        }
        // The first that failed, if any did: those before it were taken before.
        let decoded: Result<Vec<_>, StoreError> = made.into_iter().map_while(OnceLock::into_inner).collect();
        let mut tables: Vec<TableImage> = header
            .tables
            .iter()
            .map(|table| TableImage {
                rows: table.rows as usize,
                columns: table
                    .columns
                    .iter()
                    .map(|schema| ColumnImage { schema: Arc::new(schema.clone()), chunks: Vec::new() })
                    .collect(),
            })
            .collect();
        for (chain, chunks) in chains.drain(..).zip(decoded?) {
            for (column, chunk) in tables[chain.table].columns.iter_mut().zip(chunks) {
                column.chunks.push(chunk);
            }
        }
        for table in &tables {
            table.check().or_else(|error| self.damaged(&error.to_string()))?;
        }
        Ok(tables)
    }

    /// For each partition, in the order of tables and rows, the records that make it.
    fn chains<'a>(&'a self, header: &'a Header) -> Result<Vec<Chain<'a>>, StoreError> {
        let mut found: BTreeMap<(u32, u32), Vec<(RecordPlace, usize)>> = BTreeMap::new();
        for header in self.headers {
            let tables: BTreeMap<u32, _> = header.tables.iter().map(|table| (table.number, table)).collect();
            for place in header.places() {
                let (key, is_full) = match place.what {
                    What::Full { table, partition } => ((table, partition), true),
                    What::Delta { table, partition } => ((table, partition), false),
                    _ => continue,
                };
                let Some(table) = tables.get(&key.0).filter(|table| key.1 < table.partitions()) else {
                    return self.damaged("a record belongs to no table of its header");
                };
                let chain = found.entry(key).or_default();
                if is_full {
                    chain.clear();
                }
                chain.push((place, table.partition_rows(key.1)));
            }
        }
        let mut chains = Vec::new();
        for (at, table) in header.tables.iter().enumerate() {
            for partition in 0..table.partitions() {
                let rows = table.partition_rows(partition);
                let records = found.remove(&(table.number, partition)).unwrap_or_default();
                let complete =
                    records.first().is_some_and(|(place, _)| matches!(place.what, What::Full { .. }))
                        && records.last().is_some_and(|(_, last)| *last == rows);
                if !complete {
                    return self.damaged(&format!("partition {partition} of table {at} is not complete"));
                }
                chains.push(Chain { table: at, records, rows, columns: &table.columns });
            }
        }
        Ok(chains)
    }

    fn partition(&self, chain: &Chain<'_>) -> Result<Vec<Chunk>, StoreError> {
        debug_assert!(chain.rows <= CHUNK_ROWS);
        let mut opener = self.epoch.opener()?;
        let slow = chain.columns.iter().filter(|column| column.row_bytes().is_none()).count();
        self.budget.take(&self.epoch.path, (chain.rows * slow) as u64 * VALUE_BYTES)?;
        let mut chunks = Vec::new();
        for (place, rows) in &chain.records {
            let sealed = self.sealed(place)?;
            let raw = self.open(&mut opener, place, &sealed)?;
            let unpacked = match place.what {
                What::Full { .. } => codec::unpack_full(chain.columns, *rows, &raw).map(|full| chunks = full),
                _ => codec::unpack_delta(chain.columns, &mut chunks, *rows, &raw),
            };
            unpacked.or_else(|detail| self.damaged(&format!("{}: {detail}", name_of(place))))?;
            opener.give_back(raw);
        }
        Ok(chunks)
    }

    fn resources(&self, header: &Header) -> Result<Vec<ResourceImage>, StoreError> {
        let mut resources = Vec::with_capacity(header.resources.len());
        for resource in &header.resources {
            let writer = self.headers.iter().find(|header| header.meta.tick == resource.written);
            let place = writer.and_then(|writer| {
                let at = writer.resources.iter().position(|other| other.name == resource.name)?;
                writer.places().find(|place| place.what == What::Resource(at as u32))
            });
            let Some(place) = place else {
                return self.damaged(&format!("resource \"{}\" is not there", resource.name));
            };
            let bytes = self.content(&place)?.into();
            resources.push(ResourceImage { name: resource.name.clone(), version: resource.version, bytes });
        }
        Ok(resources)
    }

    fn ledger(&self) -> Result<BTreeMap<u64, Vec<u8>>, StoreError> {
        let mut entries = BTreeMap::new();
        for place in self.headers.iter().flat_map(Header::places).filter(|place| place.what == What::Ledger) {
            let raw = self.content(&place)?;
            match postcard::take_from_bytes::<Vec<(u64, Vec<u8>)>>(&raw) {
                Ok((some, [])) => entries.extend(some),
                _ => return self.damaged(&format!("{} does not decode", name_of(&place))),
            }
        }
        let floor = self.headers.last().map_or(0, |header| header.ledger_floor);
        Ok(entries.split_off(&floor))
    }

    fn content(&self, place: &RecordPlace) -> Result<Vec<u8>, StoreError> {
        let sealed = self.sealed(place)?;
        self.open(&mut self.epoch.opener()?, place, &sealed)
    }

    /// The bytes of a record, not yet verified.
    fn sealed(&self, place: &RecordPlace) -> Result<Vec<u8>, StoreError> {
        let path = &self.epoch.path;
        let bytes = usize::try_from(place.bytes).unwrap_or(usize::MAX);
        let get = |extent| self.view.extent(path, place.tick.0, extent);
        let sealed = extents::read(get, place.stream_bytes, place.offset, bytes)?;
        sealed.ok_or_else(|| StoreError::damaged(path, format!("{} is not complete", name_of(place))))
    }

    fn open(&self, opener: &mut Opener, place: &RecordPlace, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let key = Place { table: STREAM.name(), tick: place.tick.0, record: place.number };
        let factor = if place.what == What::Ledger { LIST_FACTOR } else { 1 };
        self.budget.take(&self.epoch.path, envelope::raw_bytes(sealed).saturating_mul(factor))?;
        let raw = opener.open(key, kind_of(place.what), RECORD_BYTES_MAX, sealed);
        raw.map_err(|error| self.epoch.not_believed(name_of(place), error))
    }

    fn damaged<T>(&self, detail: &str) -> Result<T, StoreError> {
        let tick = self.headers.last().map(|header| header.meta.tick).unwrap_or_default();
        Err(StoreError::damaged(&self.epoch.path, format!("the snapshot of tick {tick}: {detail}")))
    }
}

/// Works on as long as there is something to do, each time as a job of its own: a thread that waits for something else, the
/// rest of a tick say, may take one, and not all of them.
fn one_by_one<'s>(scope: &rayon::Scope<'s>, one: &'s (impl Fn() -> bool + Sync)) {
    scope.spawn(move |scope| {
        if one() {
            one_by_one(scope, one);
        }
    });
}

fn kind_of(what: What) -> Kind {
    match what {
        What::Full { .. } => Kind::Full,
        What::Delta { .. } => Kind::Delta,
        What::Resource(_) => Kind::Resource,
        What::Host => Kind::Host,
        What::Ledger => Kind::Ledger,
    }
}

fn name_of(place: &RecordPlace) -> String {
    format!("record {} ({:?}) of tick {}", place.number, place.what, place.tick)
}

fn header_place(tick: Tick) -> Place {
    Place { table: SNAPSHOTS.name(), tick: tick.0, record: 0 }
}

fn format_record() -> [u8; 24] {
    let mut record = [0; 24];
    record[..8].copy_from_slice(FORMAT_MAGIC);
    record[8..12].copy_from_slice(&STORE_FORMAT.to_le_bytes());
    let check = xxh3_64(&record[..16]);
    record[16..].copy_from_slice(&check.to_le_bytes());
    record
}
