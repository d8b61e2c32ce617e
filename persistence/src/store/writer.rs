//! The writing side of a store: each snapshot goes into the epoch in use, and into the one that is opened beside it.
//!
//! It holds the image that was written last, and lets go of it partition by partition while the next one is written: chunks
//! are shared with the mirror's, so that they cost memory only for what has changed since. An epoch that is being opened
//! holds none: each snapshot brings it some of the partitions that it lacks, and the differences of those that it has.

use super::{
    Entry, OPENING, Snapshot, SnapshotMeta, Store, StoreError, WriteStats,
    codec::{self, Part},
    envelope::Likeness,
    epoch::{Epoch, Records},
    epoch_path,
    header::{Header, ResourceHeader, TableHeader, What, columns_of, order_check},
};
use crate::disk::Disk;
use everworld_engine::{CHUNK_ROWS, Chunk, ColumnSchema, Image, ResourceImage, TableImage, Tick};
use redb::WriteTransaction;
use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

/// A partition is written whole again when its differences are so many times as large, or up to twice as many by its number:
/// never all of them at once. A load reads all of them.
const REKEY_FACTOR: u64 = 1;
/// Of small partitions that many differences may come together: they are read in no time, and whole ones take room.
const REKEY_BYTES_MIN: u64 = 256 << 10;
/// And after so many differences, or up to twice as many by its number: so a chain is short to read.
const REKEY_DELTAS: u32 = 1024;
/// Entries of the ledger that are put into one record.
const LEDGER_RECORD_BYTES: usize = 4 << 20;

/// What the writing thread knows.
pub(super) struct Writer {
    /// The number of the next epoch.
    next_number: u64,
    /// None before the first write, and after one that failed.
    base: Option<Base>,
    current: Option<Line>,
    opening: Option<Line>,
    /// Where the newest ledger is: epoch and tick.
    ledger_at: Option<(u64, Tick)>,
}

/// The snapshot that differences refer to.
struct Base {
    meta: SnapshotMeta,
    image: Image,
    tables: Tables,
    /// The number of each of its tables.
    numbers: Vec<u32>,
}

/// The numbers of tables: the same columns, the same number.
#[derive(Clone, Default)]
struct Tables(Vec<Vec<ColumnSchema>>);

#[derive(Clone, Copy, Default)]
struct ChainSize {
    full_bytes: u64,
    delta_bytes: u64,
    deltas: u32,
}

/// An epoch that snapshots go into.
struct Line {
    number: u64,
    epoch: Arc<Epoch>,
    /// The last snapshot that went into it.
    last: Option<Tick>,
    /// Its resources, and with which snapshot each was written last.
    resources: Vec<(Tick, ResourceImage)>,
    /// The partitions that it has.
    chains: BTreeMap<(u32, u32), ChainSize>,
    /// It has all of them.
    is_complete: bool,
    /// With so many writes it comes to have all.
    shares: usize,
    /// When it became complete, by the snapshot.
    began_unix_millis: u64,
    keyframe_bytes: u64,
    delta_bytes: u64,
    /// Entries of the ledger that only the epoch before has.
    ledger: BTreeMap<u64, Vec<u8>>,
}

/// What a snapshot brings a line. Only a commit makes it count.
struct Leaf<'a> {
    line: &'a mut Line,
    txn: WriteTransaction,
    records: Records,
    chains: BTreeMap<(u32, u32), ChainSize>,
    /// Bytes in memory that it still takes of partitions that it lacks, or a partition more.
    share_left: usize,
    is_complete: bool,
}

/// A partition as it was and as it is.
struct Step<'a> {
    key: (u32, u32),
    before: Option<&'a TableImage>,
    table: &'a TableImage,
    /// Made when a line wants it: none when nothing differs.
    delta: OnceCell<Option<codec::Packed>>,
    full: OnceCell<codec::Packed>,
}

impl Writer {
    pub fn new(next_number: u64) -> Self {
        Self { next_number, base: None, current: None, opening: None, ledger_at: None }
    }

    /// Forgets all that it was doing: the next write begins an epoch, under a number that no write has tried.
    pub fn begin_anew(&mut self, store: &Store) {
        self.begin_epoch(store);
        *self = Self::new(self.next_number + 1);
        store.close_unused();
    }

    pub fn begin_epoch(&mut self, store: &Store) {
        self.base = None;
        if let Some(opening) = self.opening.take() {
            let path = opening.epoch.path().to_path_buf();
            drop(opening);
            // Best effort: what stays is removed when the store is opened again.
            let _ = store.disk.remove(&path);
        }
    }

    /// Goes on from that snapshot, in an epoch of its own: redb writes to no file that was there before this process.
    pub fn resume(&mut self, store: &Store, meta: SnapshotMeta) {
        self.begin_epoch(store);
        if self.ledger_at.is_none() {
            let holder = store.epochs_with(meta.branch, meta.tick).first().copied();
            self.ledger_at = holder.map(|number| (number, meta.tick));
        }
    }

    pub fn write(&mut self, store: &Store, snapshot: &Snapshot<'_>) -> Result<WriteStats, StoreError> {
        check(snapshot)?;
        let base = self.base.take_if(|base| base.meta.branch == snapshot.meta.branch);
        if let Some(last) = base.as_ref().map(|base| base.meta.tick)
            && snapshot.meta.tick <= last
        {
            self.base = base;
            let tick = snapshot.meta.tick;
            return Err(StoreError::Malformed(format!(
                "tick {tick} comes not after tick {last}, the last that was written"
            )));
        }
        let written = self.write_after(store, snapshot, base);
        if written.is_err() {
            self.begin_epoch(store);
        }
        written
    }

    fn write_after(
        &mut self,
        store: &Store,
        snapshot: &Snapshot<'_>,
        base: Option<Base>,
    ) -> Result<WriteStats, StoreError> {
        if base.is_none() {
            self.begin_epoch(store);
            self.opening = Some(self.open(store, 1)?);
        } else if self.opening.is_none()
            && self.current.as_ref().is_some_and(|current| current.is_due(store, &snapshot.meta))
        {
            self.opening = Some(self.open(store, store.options.opening_snapshots.max(1) as usize)?);
        }
        // Without a base what it has cannot be gone on from.
        let current = self.current.as_mut().filter(|_| base.is_some());
        let mut leaves = Vec::new();
        for line in current.into_iter().chain(&mut self.opening) {
            leaves.push(Leaf::begin(line, snapshot)?);
        }
        let mut tables = base.as_ref().map_or_else(Tables::default, |base| base.tables.clone());
        let numbers = tables.numbers(&snapshot.image);
        let ledger_floor = store.ledger_floor.load(Ordering::Relaxed);
        let mut stats = WriteStats::default();
        write_partitions(store, snapshot, base, &numbers, &mut leaves, &mut stats)?;
        for (at, leaf) in leaves.into_iter().enumerate() {
            let (header, header_bytes) = leaf.finish(snapshot, &numbers, ledger_floor)?;
            if at == 0 {
                stats.records = header.records.len() as u64;
                stats.written_bytes = header.stream_bytes() + header_bytes;
            } else {
                stats.opening_bytes = header.stream_bytes() + header_bytes;
            }
        }
        let meta = snapshot.meta;
        if let Some(line) = self.opening.take_if(|line| line.is_complete) {
            self.current = Some(line.named(store, meta)?);
            stats.epoch_begun = true;
            store.close_unused();
        } else if let Some(current) = &self.current {
            let mut entries = store.entries.write();
            if let Some(entry) = entries.iter_mut().find(|entry| entry.number == current.number) {
                entry.snapshots.push(meta);
            }
        }
        self.ledger_at = self.current.as_ref().map(|current| (current.number, meta.tick));
        self.base = Some(Base { meta, image: (*snapshot.image).clone(), tables, numbers });
        Ok(stats)
    }

    /// Begins an epoch beside the one in use, with all of the ledger.
    fn open(&mut self, store: &Store, shares: usize) -> Result<Line, StoreError> {
        let ledger = match self.ledger_at {
            Some((number, tick)) => store.epoch(number)?.ledger(tick)?,
            None => BTreeMap::new(),
        };
        let number = self.next_number;
        self.next_number += 1;
        let path = epoch_path(&store.dir, number).with_extension(OPENING);
        Line::begin(store, number, &path, shares, ledger)
    }
}

/// Writes what differs, each partition into all lines before the next; what was before is let go of.
fn write_partitions(
    store: &Store,
    snapshot: &Snapshot<'_>,
    mut base: Option<Base>,
    numbers: &[u32],
    leaves: &mut [Leaf<'_>],
    stats: &mut WriteStats,
) -> Result<(), StoreError> {
    let nothing = Arc::new(Chunk::Plain(Vec::new()));
    for (table, number) in snapshot.image.tables.iter().zip(numbers) {
        let at = base.as_ref().and_then(|base| base.numbers.iter().position(|other| other == number));
        let mut before = base.as_mut().zip(at).map(|(base, at)| &mut base.image.tables[at]);
        for partition in 0..table.rows.div_ceil(CHUNK_ROWS) {
            let is_there = |before: &&TableImage| partition < before.rows.div_ceil(CHUNK_ROWS);
            let step = Step {
                key: (*number, partition as u32),
                before: before.as_deref().filter(is_there),
                table,
                delta: OnceCell::new(),
                full: OnceCell::new(),
            };
            for (at, leaf) in leaves.iter_mut().enumerate() {
                let what = leaf.put(store, snapshot.meta.tick, &step)?;
                match what.filter(|_| at == 0) {
                    Some(What::Full { .. }) => stats.partitions_full += 1,
                    Some(_) => stats.partitions_delta += 1,
                    None => {}
                }
            }
            for column in before.iter_mut().flat_map(|before| &mut before.columns) {
                if let Some(chunk) = column.chunks.get_mut(partition) {
                    *chunk = nothing.clone();
                }
            }
        }
    }
    Ok(())
}

impl Line {
    fn begin(
        store: &Store,
        number: u64,
        path: &Path,
        shares: usize,
        ledger: BTreeMap<u64, Vec<u8>>,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            number,
            epoch: Arc::new(Epoch::create(&*store.disk, path, store.options.cache_bytes)?),
            last: None,
            resources: Vec::new(),
            chains: BTreeMap::new(),
            is_complete: false,
            shares,
            began_unix_millis: 0,
            keyframe_bytes: 0,
            delta_bytes: 0,
            ledger,
        })
    }

    /// Whether the next epoch should be opened.
    fn is_due(&self, store: &Store, meta: &SnapshotMeta) -> bool {
        let age_millis = meta.unix_millis.saturating_sub(self.began_unix_millis);
        let bytes_max = self.keyframe_bytes.saturating_mul(store.options.roll_factor);
        let large = self.delta_bytes > bytes_max.max(store.options.roll_bytes_min);
        large || age_millis >= store.options.roll_secs.saturating_mul(1000)
    }

    /// Makes the complete epoch durable under its name: from now on it counts.
    fn named(mut self, store: &Store, meta: SnapshotMeta) -> Result<Self, StoreError> {
        let path = epoch_path(&store.dir, self.number);
        give_name(&*store.disk, self.epoch.path(), &path)?;
        let epoch = Arc::into_inner(self.epoch).expect("nobody reads an epoch that is being opened");
        self.epoch = Arc::new(epoch.renamed(path.clone()));
        self.began_unix_millis = meta.unix_millis;
        self.keyframe_bytes = self.chains.values().map(|size| size.full_bytes).sum();
        self.delta_bytes = 0;
        store.entries.write().push(Entry {
            number: self.number,
            path,
            open: Some(self.epoch.clone()),
            snapshots: vec![meta],
            damaged: Vec::new(),
            is_doubtful: false,
        });
        Ok(self)
    }
}

impl<'a> Leaf<'a> {
    fn begin(line: &'a mut Line, snapshot: &Snapshot<'_>) -> Result<Self, StoreError> {
        let share = snapshot.image.bytes().div_ceil(line.shares).max(1);
        Ok(Self {
            txn: line.epoch.begin()?,
            records: Records::new(snapshot.meta.tick, line.epoch.path())?,
            chains: line.chains.clone(),
            share_left: if line.is_complete || line.shares == 1 { usize::MAX } else { share },
            is_complete: true,
            line,
        })
    }

    /// Writes a partition if it differs, or is not there yet and in this share.
    fn put(&mut self, store: &Store, tick: Tick, step: &Step<'_>) -> Result<Option<What>, StoreError> {
        let (table, partition) = step.key;
        let size = self.chains.get(&step.key);
        let delta = match (size, step.before) {
            (Some(_), Some(_)) if step.is_same() => return Ok(None),
            (Some(size), Some(_)) if !size.is_long(partition) => match step.delta(store) {
                None => return Ok(None),
                delta => delta,
            },
            (None, _) if self.share_left == 0 => {
                self.is_complete = false;
                return Ok(None);
            }
            _ => None,
        };
        let is_new = size.is_none();
        let (what, packed) = match delta {
            Some(packed) => (What::Delta { table, partition }, packed),
            None => (What::Full { table, partition }, step.full(store)),
        };
        (store.options.pace)();
        let bytes =
            self.records.push(&self.txn, tick, what, (&packed.bytes, &packed.breaks, packed.likeness))?;
        if is_new {
            self.share_left = self.share_left.saturating_sub(packed.bytes.len());
        }
        note_size(&mut self.chains, what, bytes);
        Ok(Some(what))
    }

    /// Writes what belongs to no partition, and commits. Returns the header and how many bytes it took.
    fn finish(
        mut self,
        snapshot: &Snapshot<'_>,
        numbers: &[u32],
        ledger_floor: u64,
    ) -> Result<(Header, u64), StoreError> {
        let meta = snapshot.meta;
        let resources = self.put_resources(&snapshot.image)?;
        self.records.push(&self.txn, meta.tick, What::Host, (snapshot.host, &[], Likeness::Repeats))?;
        let mut ledger = self.line.ledger.split_off(&ledger_floor);
        ledger.extend(snapshot.ledger.iter().cloned());
        let ledger: Vec<_> = ledger.into_iter().collect();
        put_ledger(&self.txn, &mut self.records, meta.tick, &ledger)?;
        let header = Header {
            meta,
            previous: self.line.last,
            order: order_check(&snapshot.image),
            ledger_floor,
            tables: table_headers(&snapshot.image, numbers),
            resources,
            records: self.records.headers,
        };
        let header_bytes = self.line.epoch.finish(&self.txn, self.records.stream, &header)?;
        self.line.epoch.commit(self.txn)?;

        // Partitions that are no more begin anew when they come back.
        let partitions: BTreeMap<u32, u32> =
            header.tables.iter().map(|table| (table.number, table.partitions())).collect();
        let stays = |key: &(u32, u32)| partitions.get(&key.0).is_some_and(|partitions| key.1 < *partitions);
        self.chains.retain(|key, _| stays(key));
        self.line.chains = self.chains;
        self.line.last = Some(meta.tick);
        let written = header.resources.iter().map(|resource| resource.written);
        self.line.resources = written.zip(snapshot.image.resources.iter().cloned()).collect();
        self.line.is_complete |= self.is_complete;
        self.line.delta_bytes += header.stream_bytes();
        self.line.ledger.clear();
        Ok((header, header_bytes))
    }

    /// Writes the resources that differ from what the epoch has.
    fn put_resources(&mut self, image: &Image) -> Result<Vec<ResourceHeader>, StoreError> {
        let mut headers = Vec::with_capacity(image.resources.len());
        for (at, resource) in image.resources.iter().enumerate() {
            let before = self.line.resources.iter().find(|(_, old)| old.name == resource.name);
            let before = before.filter(|(_, old)| old.bytes == resource.bytes);
            let written = before.map_or(image.tick, |(written, _)| *written);
            if before.is_none() {
                let what = What::Resource(at as u32);
                self.records.push(&self.txn, image.tick, what, (&resource.bytes, &[], Likeness::Repeats))?;
            }
            headers.push(ResourceHeader { name: resource.name.clone(), version: resource.version, written });
        }
        Ok(headers)
    }
}

impl Step<'_> {
    /// Whether all chunks are the same objects.
    fn is_same(&self) -> bool {
        let partition = self.key.1 as usize;
        self.before.is_some_and(|before| {
            let mut columns = before.columns.iter().zip(&self.table.columns);
            partition_rows(before, partition) == partition_rows(self.table, partition)
                && columns.all(|(old, new)| Arc::ptr_eq(&old.chunks[partition], &new.chunks[partition]))
        })
    }

    fn delta(&self, store: &Store) -> Option<&codec::Packed> {
        let before = self.before?;
        let made = self.delta.get_or_init(|| {
            (store.options.pace)();
            difference(before, self.table, self.key.1 as usize)
        });
        made.as_ref()
    }

    fn full(&self, store: &Store) -> &codec::Packed {
        self.full.get_or_init(|| {
            (store.options.pace)();
            codec::pack_full(&parts(self.table, self.key.1 as usize))
        })
    }
}

/// Makes an epoch file durable under its own name.
pub(super) fn give_name(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), StoreError> {
    let sync = disk.open(from).and_then(|file| file.sync_all());
    sync.map_err(StoreError::io("sync store", from))?;
    disk.rename(from, to).map_err(StoreError::io("rename store", from))?;
    let dir = to.parent().unwrap_or(to);
    disk.sync_dir(dir).map_err(StoreError::io("sync directory", dir))
}

/// Writes a snapshot as an epoch of its own, with all of the ledger.
pub(super) fn write_alone(store: &Store, snapshot: &Snapshot<'_>, path: &Path) -> Result<(), StoreError> {
    check(snapshot)?;
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".opening");
    let mut line = Line::begin(store, 0, &PathBuf::from(unfinished), 1, BTreeMap::new())?;
    let numbers = Tables::default().numbers(&snapshot.image);
    let leaf = Leaf::begin(&mut line, snapshot)?;
    let mut leaves = [leaf];
    write_partitions(store, snapshot, None, &numbers, &mut leaves, &mut WriteStats::default())?;
    let [leaf] = leaves;
    leaf.finish(snapshot, &numbers, 0)?;
    give_name(&*store.disk, line.epoch.path(), path)
}

impl Store {
    /// Closes epochs that are written no more, unless a reader still uses them.
    fn close_unused(&self) {
        let mut entries = self.entries.write();
        for entry in entries.iter_mut() {
            // The writer holds one more of the epoch in use.
            if entry.open.as_ref().is_some_and(|epoch| Arc::strong_count(epoch) == 1) {
                entry.open = None;
            }
        }
    }
}

impl Tables {
    /// The number of each table of an image; new ones for columns that were not there before.
    fn numbers(&mut self, image: &Image) -> Vec<u32> {
        let mut used = BTreeSet::new();
        let mut numbers = Vec::with_capacity(image.tables.len());
        for table in &image.tables {
            let columns = columns_of(table);
            let known = (0..self.0.len()).find(|at| self.0[*at] == columns && !used.contains(at));
            let number = known.unwrap_or_else(|| {
                self.0.push(columns);
                self.0.len() - 1
            });
            used.insert(number);
            numbers.push(number as u32);
        }
        numbers
    }
}

impl ChainSize {
    fn is_long(&self, partition: u32) -> bool {
        let more = u64::from(partition % 8);
        let bytes_max = self.full_bytes.saturating_mul(REKEY_FACTOR).max(REKEY_BYTES_MIN);
        let bytes_max = bytes_max.saturating_add(bytes_max / 8 * more);
        self.delta_bytes > bytes_max || self.deltas >= REKEY_DELTAS + partition % 8 * REKEY_DELTAS / 8
    }
}

fn note_size(chains: &mut BTreeMap<(u32, u32), ChainSize>, what: What, bytes: u64) {
    match what {
        What::Full { table, partition } => {
            chains.insert((table, partition), ChainSize { full_bytes: bytes, ..ChainSize::default() });
        }
        What::Delta { table, partition } => {
            let size = chains.entry((table, partition)).or_default();
            size.delta_bytes += bytes;
            size.deltas += 1;
        }
        What::Resource(_) | What::Host | What::Ledger => {}
    }
}

fn put_ledger(
    txn: &redb::WriteTransaction,
    records: &mut Records,
    tick: Tick,
    entries: &[(u64, Vec<u8>)],
) -> Result<(), StoreError> {
    let mut rest = entries;
    while !rest.is_empty() {
        let mut bytes = 0;
        let count = rest.iter().take_while(|(_, entry)| {
            let fits = bytes < LEDGER_RECORD_BYTES;
            bytes += entry.len() + 16;
            fits
        });
        let (some, after) = rest.split_at(count.count());
        let raw = postcard::to_allocvec(some).expect("postcard always encodes a list of byte strings");
        records.push(txn, tick, What::Ledger, (&raw, &[], Likeness::Repeats))?;
        rest = after;
    }
    Ok(())
}

fn table_headers(image: &Image, numbers: &[u32]) -> Vec<TableHeader> {
    let tables = image.tables.iter().zip(numbers);
    let header = |(table, number): (&TableImage, &u32)| TableHeader {
        number: *number,
        rows: table.rows as u64,
        columns: columns_of(table),
    };
    tables.map(header).collect()
}

/// An image contradicts neither itself nor its description.
fn check(snapshot: &Snapshot<'_>) -> Result<(), StoreError> {
    let Snapshot { meta, image, .. } = snapshot;
    if (meta.tick, meta.hash, meta.entities) != (image.tick, image.hash, image.entities() as u64) {
        return Err(StoreError::Malformed(format!(
            "the image is of tick {} and hash {}, its description not",
            image.tick, image.hash
        )));
    }
    for table in &image.tables {
        table.check().map_err(|error| StoreError::Malformed(error.to_string()))?;
    }
    Ok(())
}

fn partition_rows(table: &TableImage, partition: usize) -> usize {
    CHUNK_ROWS.min(table.rows - partition * CHUNK_ROWS)
}

fn parts(table: &TableImage, partition: usize) -> Vec<Part<'_>> {
    table.columns.iter().map(|column| (&*column.schema, &*column.chunks[partition])).collect()
}

fn difference(before: &TableImage, table: &TableImage, partition: usize) -> Option<codec::Packed> {
    let (old_rows, new_rows) = (partition_rows(before, partition), partition_rows(table, partition));
    codec::pack_delta(&parts(before, partition), &parts(table, partition), old_rows, new_rows)
}
