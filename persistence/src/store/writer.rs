//! The writing side of a store: differences into the epoch in use, and the next epoch opened beside it.
//!
//! It holds the image that was written last, and while an epoch is opened the image that it begins with: chunks are
//! shared with the mirror's, so that this costs memory only for what has changed since.

use super::{
    Entry, OPENING, Snapshot, SnapshotMeta, Store, StoreError, WriteStats,
    codec::{self, Part},
    epoch::{Epoch, Records},
    epoch_path,
    header::{Header, ResourceHeader, TableHeader, What, columns_of, order_check},
};
use crate::disk::Disk;
use everworld_engine::{CHUNK_ROWS, ColumnSchema, Image, TableImage, Tick};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

/// A partition is written whole again when its differences are so many times as large, or some more by its number:
/// never all of them at once. Epochs roll before that unless a few partitions do all the changing.
const REKEY_FACTOR: u64 = 6;
/// And after so many differences, or up to twice as many by its number: so a chain is short to read.
const REKEY_DELTAS: u32 = 1024;
/// Entries of the ledger that are put into one record.
const LEDGER_RECORD_BYTES: usize = 4 << 20;

/// What the writing thread knows.
pub(super) struct Writer {
    /// The number of the next epoch.
    next_number: u64,
    current: Option<Current>,
    opening: Option<Opening>,
    /// Where the newest ledger is: epoch and tick.
    ledger_at: Option<(u64, Tick)>,
    begin_epoch: bool,
}

/// The epoch that snapshots go into.
struct Current {
    number: u64,
    epoch: Arc<Epoch>,
    base: Base,
    tables: Tables,
    chains: BTreeMap<(u32, u32), ChainSize>,
    /// When it began, by its first snapshot.
    began_unix_millis: u64,
    keyframe_bytes: u64,
    delta_bytes: u64,
    /// Entries of the ledger that only the epoch before has.
    ledger_pending: Vec<(u64, Vec<u8>)>,
}

/// The snapshot that differences refer to.
struct Base {
    meta: SnapshotMeta,
    image: Arc<Image>,
    /// The number of each of its tables.
    tables: Vec<u32>,
    /// By whom each of its resources was written last.
    resources: Vec<ResourceHeader>,
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

/// An epoch that is being opened with the state of one tick.
struct Opening {
    number: u64,
    epoch: Epoch,
    path: PathBuf,
    records: Records,
    meta: SnapshotMeta,
    image: Arc<Image>,
    host: Vec<u8>,
    tables: Tables,
    table_numbers: Vec<u32>,
    /// Table and partition of what is still to be written, the next one last.
    left: Vec<(usize, u32)>,
    /// Bytes in memory that go with each write, or a partition more.
    share_bytes: usize,
    chains: BTreeMap<(u32, u32), ChainSize>,
    /// Entries of the ledger that came since, and went into the old epoch.
    ledger_since: Vec<(u64, Vec<u8>)>,
}

impl Writer {
    pub fn new(next_number: u64) -> Self {
        Self { next_number, current: None, opening: None, ledger_at: None, begin_epoch: true }
    }

    /// Forgets all that it was doing: the next write begins an epoch, under a number that no write has tried.
    pub fn begin_anew(&mut self, store: &Store) {
        self.abandon_opening(store);
        *self = Self::new(self.next_number + 1);
        store.close_unused();
    }

    pub fn begin_epoch(&mut self, store: &Store) {
        self.abandon_opening(store);
        self.begin_epoch = true;
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
        let on_branch = self.current.as_ref().is_some_and(|it| it.base.meta.branch == snapshot.meta.branch);
        if self.begin_epoch || !on_branch {
            return self.begin_with(store, snapshot);
        }
        let current = self.current.as_mut().expect("there is an epoch of this branch");
        let mut stats = current.write(store, snapshot)?;
        self.ledger_at = Some((current.number, snapshot.meta.tick));
        if let Some(opening) = &mut self.opening {
            let before = opening.records.stream.bytes;
            opening.ledger_since.extend_from_slice(snapshot.ledger);
            opening.write_share(store)?;
            stats.opening_bytes = opening.records.stream.bytes - before;
            if opening.left.is_empty()
                && let Some(opening) = self.opening.take()
            {
                // What came since the tick that it begins with comes with the next snapshot.
                let ledger = current.epoch.ledger(opening.meta.tick)?;
                self.go_on_in(store, opening, ledger)?;
                stats.epoch_begun = true;
            }
        } else if current.is_due(store, &snapshot.meta) {
            let shares = store.options.opening_snapshots.max(1) as usize;
            self.opening = Some(Opening::begin(store, self.next_number, snapshot, shares)?);
            self.next_number += 1;
        }
        Ok(stats)
    }

    /// Begins an epoch with this snapshot, in one go.
    fn begin_with(&mut self, store: &Store, snapshot: &Snapshot<'_>) -> Result<WriteStats, StoreError> {
        self.abandon_opening(store);
        let mut ledger = match self.ledger_at {
            Some((number, tick)) => store.epoch(number)?.ledger(tick)?,
            None => BTreeMap::new(),
        };
        ledger.extend(snapshot.ledger.iter().cloned());
        let mut opening = Opening::begin(store, self.next_number, snapshot, 1)?;
        self.next_number += 1;
        opening.write_share(store)?;
        let partitions_full = opening.records.headers.len() as u64;
        let header = self.go_on_in(store, opening, ledger)?;
        self.ledger_at = self.current.as_ref().map(|current| (current.number, snapshot.meta.tick));
        self.begin_epoch = false;
        Ok(WriteStats {
            written_bytes: header.stream_bytes(),
            records: header.records.len() as u64,
            partitions_full,
            epoch_begun: true,
            ..WriteStats::default()
        })
    }

    /// Gives the opened epoch its name, and goes on in it.
    fn go_on_in(
        &mut self,
        store: &Store,
        opening: Opening,
        ledger: BTreeMap<u64, Vec<u8>>,
    ) -> Result<Header, StoreError> {
        let (current, header) = opening.finish(store, ledger)?;
        self.current = Some(current);
        store.close_unused();
        Ok(header)
    }

    fn abandon_opening(&mut self, store: &Store) {
        if let Some(opening) = self.opening.take() {
            let path = opening.path.clone();
            drop(opening);
            // Best effort: what stays is removed when the store is opened again.
            let _ = store.disk.remove(&path);
        }
    }
}

impl Current {
    /// Whether the next epoch should be opened.
    fn is_due(&self, store: &Store, meta: &SnapshotMeta) -> bool {
        let age_millis = meta.unix_millis.saturating_sub(self.began_unix_millis);
        let bytes_max = self.keyframe_bytes.saturating_mul(store.options.roll_factor);
        let large = self.delta_bytes > bytes_max.max(store.options.roll_bytes_min);
        large || age_millis >= store.options.roll_secs.saturating_mul(1000)
    }

    fn write(&mut self, store: &Store, snapshot: &Snapshot<'_>) -> Result<WriteStats, StoreError> {
        let meta = snapshot.meta;
        if meta.tick <= self.base.meta.tick {
            let last = self.base.meta.tick;
            return Err(StoreError::Malformed(format!(
                "tick {} comes not after tick {last}, the last that was written",
                meta.tick
            )));
        }
        let txn = self.epoch.begin()?;
        let mut records = Records::new(meta.tick, self.epoch.path())?;
        let mut stats = WriteStats::default();
        // Only a commit makes these count.
        let mut tables = self.tables.clone();
        let mut chains = self.chains.clone();
        let numbers = tables.numbers(&snapshot.image);
        for (table, number) in snapshot.image.tables.iter().zip(&numbers) {
            let before = self.base.tables.iter().position(|other| other == number);
            let before = before.map(|at| &self.base.image.tables[at]);
            for partition in 0..table.rows.div_ceil(CHUNK_ROWS) {
                let key = (*number, partition as u32);
                let size = chains.get(&key).copied().unwrap_or_default();
                let delta = match before.filter(|before| partition < before.rows.div_ceil(CHUNK_ROWS)) {
                    Some(before) if is_same(before, table, partition) => continue,
                    Some(before) if !size.is_long(key.1) => {
                        (store.options.pace)();
                        match difference(before, table, partition) {
                            None => continue,
                            delta => delta,
                        }
                    }
                    _ => None,
                };
                (store.options.pace)();
                let (what, packed) = if let Some(packed) = delta {
                    (What::Delta { table: key.0, partition: key.1 }, packed)
                } else {
                    let packed = codec::pack_full(&parts(table, partition));
                    (What::Full { table: key.0, partition: key.1 }, packed)
                };
                let bytes = records.push(&txn, meta.tick, what, &packed.bytes, &packed.breaks)?;
                note_size(&mut chains, what, bytes);
                match what {
                    What::Full { .. } => stats.partitions_full += 1,
                    _ => stats.partitions_delta += 1,
                }
            }
        }
        let resources = self.put_resources(&txn, &mut records, &snapshot.image)?;
        records.push(&txn, meta.tick, What::Host, snapshot.host, &[])?;
        let ledger: Vec<_> = self.ledger_pending.iter().chain(snapshot.ledger).cloned().collect();
        put_ledger(&txn, &mut records, meta.tick, &ledger)?;
        let header = Header {
            meta,
            previous: Some(self.base.meta.tick),
            order: order_check(&snapshot.image),
            ledger_floor: store.ledger_floor.load(Ordering::Relaxed),
            tables: table_headers(&snapshot.image, &numbers),
            resources,
            records: records.headers,
        };
        stats.records = header.records.len() as u64;
        stats.written_bytes = header.stream_bytes();
        stats.written_bytes += self.epoch.finish(&txn, records.stream, &header)?;
        self.epoch.commit(txn)?;

        self.tables = tables;
        self.chains = chains;
        self.forget_gone(&header.tables);
        self.delta_bytes += header.stream_bytes();
        self.ledger_pending.clear();
        self.base =
            Base { meta, image: snapshot.image.clone(), tables: numbers, resources: header.resources };
        let mut entries = store.entries.write();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.number == self.number) {
            entry.snapshots.push(meta);
        }
        Ok(stats)
    }

    /// Writes the resources that differ from the snapshot before.
    fn put_resources(
        &self,
        txn: &redb::WriteTransaction,
        records: &mut Records,
        image: &Image,
    ) -> Result<Vec<ResourceHeader>, StoreError> {
        let mut headers = Vec::with_capacity(image.resources.len());
        for (at, resource) in image.resources.iter().enumerate() {
            let same =
                self.base.image.resource(&resource.name).is_some_and(|old| old.bytes == resource.bytes);
            let before = self.base.resources.iter().find(|old| old.name == resource.name);
            let written = if let Some(before) = before.filter(|_| same) {
                before.written
            } else {
                let what = What::Resource(at as u32);
                records.push(txn, image.tick, what, &resource.bytes, &[])?;
                image.tick
            };
            headers.push(ResourceHeader { name: resource.name.clone(), version: resource.version, written });
        }
        Ok(headers)
    }

    /// Partitions that are no more begin anew when they come back.
    fn forget_gone(&mut self, tables: &[TableHeader]) {
        let partitions: BTreeMap<u32, u32> =
            tables.iter().map(|table| (table.number, table.partitions())).collect();
        self.chains.retain(|(table, partition), _| {
            partitions.get(table).is_some_and(|partitions| partition < partitions)
        });
    }
}

impl Opening {
    fn begin(store: &Store, number: u64, snapshot: &Snapshot<'_>, shares: usize) -> Result<Self, StoreError> {
        let path = epoch_path(&store.dir, number).with_extension(OPENING);
        Self::begin_at(store, number, path, snapshot, shares)
    }

    fn begin_at(
        store: &Store,
        number: u64,
        path: PathBuf,
        snapshot: &Snapshot<'_>,
        shares: usize,
    ) -> Result<Self, StoreError> {
        let epoch = Epoch::create(&*store.disk, &path, store.options.cache_bytes)?;
        let mut tables = Tables::default();
        let table_numbers = tables.numbers(&snapshot.image);
        let mut left: Vec<(usize, u32)> = Vec::new();
        for (at, table) in snapshot.image.tables.iter().enumerate() {
            left.extend((0..table.rows.div_ceil(CHUNK_ROWS)).map(|partition| (at, partition as u32)));
        }
        left.reverse();
        Ok(Self {
            number,
            records: Records::new(snapshot.meta.tick, &path)?,
            epoch,
            path,
            meta: snapshot.meta,
            image: snapshot.image.clone(),
            host: snapshot.host.to_vec(),
            tables,
            table_numbers,
            share_bytes: if shares == 1 { usize::MAX } else { snapshot.image.bytes().div_ceil(shares) },
            left,
            chains: BTreeMap::new(),
            ledger_since: Vec::new(),
        })
    }

    /// Writes the next share of the partitions.
    fn write_share(&mut self, store: &Store) -> Result<(), StoreError> {
        let txn = self.epoch.begin()?;
        let mut bytes_left = self.share_bytes;
        while bytes_left > 0
            && let Some((at, partition)) = self.left.pop()
        {
            (store.options.pace)();
            let packed = codec::pack_full(&parts(&self.image.tables[at], partition as usize));
            let what = What::Full { table: self.table_numbers[at], partition };
            let bytes = self.records.push(&txn, self.meta.tick, what, &packed.bytes, &packed.breaks)?;
            note_size(&mut self.chains, what, bytes);
            bytes_left = bytes_left.saturating_sub(packed.bytes.len());
        }
        self.epoch.commit(txn)
    }

    /// Writes the rest and the header, makes the file durable and gives it its name. Returns the epoch to go on
    /// in, and the header of its first snapshot.
    fn finish(
        mut self,
        store: &Store,
        ledger: BTreeMap<u64, Vec<u8>>,
    ) -> Result<(Current, Header), StoreError> {
        let ledger_floor = store.ledger_floor.load(Ordering::Relaxed);
        let (number, meta, image) = (self.number, self.meta, self.image.clone());
        let (chains, table_numbers) = (std::mem::take(&mut self.chains), self.table_numbers.clone());
        let (tables, ledger_pending) = (self.tables.clone(), std::mem::take(&mut self.ledger_since));
        let path = epoch_path(&store.dir, number);
        let (epoch, header) = self.finish_as(&*store.disk, &path, ledger, ledger_floor)?;
        let epoch = Arc::new(epoch);
        store.entries.write().push(Entry {
            number,
            path,
            open: Some(epoch.clone()),
            snapshots: vec![meta],
            damaged: Vec::new(),
            is_doubtful: false,
        });
        let current = Current {
            number,
            epoch,
            tables,
            chains,
            began_unix_millis: meta.unix_millis,
            keyframe_bytes: header.stream_bytes(),
            delta_bytes: 0,
            base: Base { meta, image, tables: table_numbers, resources: header.resources.clone() },
            ledger_pending,
        };
        Ok((current, header))
    }

    fn finish_as(
        mut self,
        disk: &dyn Disk,
        path: &Path,
        ledger: BTreeMap<u64, Vec<u8>>,
        ledger_floor: u64,
    ) -> Result<(Epoch, Header), StoreError> {
        assert!(self.left.is_empty(), "all partitions of the state are written before its header");
        let tick = self.meta.tick;
        let txn = self.epoch.begin()?;
        let mut resources = Vec::with_capacity(self.image.resources.len());
        for (at, resource) in self.image.resources.iter().enumerate() {
            self.records.push(&txn, tick, What::Resource(at as u32), &resource.bytes, &[])?;
            resources.push(ResourceHeader {
                name: resource.name.clone(),
                version: resource.version,
                written: tick,
            });
        }
        self.records.push(&txn, tick, What::Host, &self.host, &[])?;
        let ledger: Vec<_> = ledger.into_iter().filter(|(number, _)| *number >= ledger_floor).collect();
        put_ledger(&txn, &mut self.records, tick, &ledger)?;
        let header = Header {
            meta: self.meta,
            previous: None,
            order: order_check(&self.image),
            ledger_floor,
            tables: table_headers(&self.image, &self.table_numbers),
            resources,
            records: self.records.headers,
        };
        self.epoch.finish(&txn, self.records.stream, &header)?;
        self.epoch.commit(txn)?;
        give_name(disk, &self.path, path)?;
        Ok((self.epoch.renamed(path.into()), header))
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
    let unfinished = PathBuf::from(unfinished);
    let mut opening = Opening::begin_at(store, 0, unfinished, snapshot, 1)?;
    opening.write_share(store)?;
    let ledger = snapshot.ledger.iter().cloned().collect();
    opening.finish_as(&*store.disk, path, ledger, 0).map(|_| ())
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
        let bytes_max = self.full_bytes * REKEY_FACTOR + self.full_bytes * more / 4;
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
        records.push(txn, tick, What::Ledger, &raw, &[])?;
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

/// Whether all chunks are the same objects.
fn is_same(before: &TableImage, table: &TableImage, partition: usize) -> bool {
    let mut columns = before.columns.iter().zip(&table.columns);
    partition_rows(before, partition) == partition_rows(table, partition)
        && columns.all(|(old, new)| Arc::ptr_eq(&old.chunks[partition], &new.chunks[partition]))
}

fn difference(before: &TableImage, table: &TableImage, partition: usize) -> Option<codec::Packed> {
    let (old_rows, new_rows) = (partition_rows(before, partition), partition_rows(table, partition));
    codec::pack_delta(&parts(before, partition), &parts(table, partition), old_rows, new_rows)
}
