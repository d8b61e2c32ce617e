//! Applies captures to the mirror's chunks in place: exact diff, incremental hash, the row of each Uid.
//!
//! A row counts as changed only when its bytes or its Uid differ, so that false marks vanish here. What a view shares is
//! copied before its first change: a chunk of a narrow column, a row of a wide one; the mirror's own are changed where
//! they lie.

use super::Applied;
use crate::{
    capture::{Buffers, Capture, ColumnCapture, POOLED_BYTES_MIN, Piece, TableCapture, rows_of},
    column::Column,
    hash::{StateHash, hash_plain_rows, hash_resource, hash_row, hash_state},
    ids::{Tick, Uid},
    image::{CHUNK_ROWS, Chunk, ColumnImage, ColumnSchema, Image, ResourceImage, TableImage, uids_of},
    marks::marked_elements,
    math::bits_of,
    pool::Pool,
    slab::{SharedRows, Slab},
    uid_map::UidMap,
};
use parking_lot::RwLock;
use rayon::prelude::*;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

/// The mirror's state, on its own thread.
pub(super) struct Working {
    tick: Tick,
    tables: BTreeMap<usize, MirrorTable>,
    resources: Vec<ResourceImage>,
    store: Chunks,
}

struct MirrorTable {
    rows: usize,
    /// By name.
    columns: Vec<MirrorColumn>,
}

struct MirrorColumn {
    schema: Arc<ColumnSchema>,
    salt: u64,
    chunks: Vec<Arc<Chunk>>,
    /// One for each chunk of a wide column.
    wide: Vec<Wide>,
    /// The hash of each chunk, see [`crate::hash`].
    sums: Vec<u64>,
}

/// Where the versions of a chunk of wide rows lie.
struct Wide {
    slab: Slab,
    /// Former versions that a view may still have.
    limbo: Vec<Arc<Chunk>>,
}

/// Where chunks come from and go to.
struct Chunks {
    buffers: Arc<Buffers>,
    /// Replaced chunks that a view may still share.
    limbo: Vec<Arc<Chunk>>,
    /// How many buffers of a capacity are used from one capture to the next.
    needs: BTreeMap<usize, Need>,
}

/// What was needed once is kept for about so many captures. With 256 of them a day of a town, which needs other buffers at
/// dawn than in the evening, left twice as many as any of its captures needed; with 32 its busy morning.
const KEPT_CAPTURES: f32 = 4.0;

/// See [`Chunks::needs`].
#[derive(Clone, Copy, Default)]
struct Need {
    /// Since the last capture.
    now: usize,
    /// The most of the last captures; what is needed no more is forgotten by and by, see [`KEPT_CAPTURES`].
    lately: f32,
}

/// Entities that left a row and that came to one: (Uid, row).
#[derive(Default)]
struct Moves {
    left: Vec<(u64, u32)>,
    came: Vec<(u64, u32)>,
}

impl Working {
    pub(super) fn new(buffers: Arc<Buffers>) -> Self {
        Self {
            tick: Tick(0),
            tables: BTreeMap::new(),
            resources: Vec::new(),
            store: Chunks { buffers, limbo: Vec::new(), needs: BTreeMap::new() },
        }
    }

    pub(super) fn applied(&self) -> Applied {
        let tables = self.tables.values().flat_map(|table| &table.columns);
        let rows: usize = tables.flat_map(|column| &column.chunks).map(|chunk| chunk.bytes()).sum();
        let resources: usize = self.resources.iter().map(|resource| resource.bytes.len()).sum();
        let wide = self.tables.values().flat_map(|table| &table.columns).flat_map(|column| &column.wide);
        let free: usize = wide.map(|wide| wide.slab.free_bytes()).sum();
        let spare_bytes = free + self.store.buffers.bytes();
        Applied { tick: self.tick, hash: self.hash(), bytes: rows + resources, spare_bytes }
    }

    /// Makes the mirror be what the capture saw.
    pub(super) fn apply(
        &mut self,
        capture: Capture,
        rows: &RwLock<UidMap<u32>>,
        pace: &mut (dyn FnMut() + Send),
        pool: Option<&Pool>,
    ) {
        self.store.recycle();
        let columns = self.tables.values_mut().flat_map(|table| &mut table.columns);
        let chunks = columns.flat_map(|column| column.wide.iter_mut().zip(&mut column.chunks));
        chunks.for_each(|(wide, chunk)| wide.recycle(chunk));
        let mut moves = Moves::default();
        let present: BTreeSet<usize> = capture.tables.iter().map(|table| table.key).collect();
        let gone: Vec<usize> = self.tables.keys().copied().filter(|key| !present.contains(key)).collect();
        for key in gone {
            if let Some(table) = self.tables.remove(&key) {
                table.leave(&mut self.store, &mut moves);
            }
        }
        for table in capture.tables {
            let mirror = self.tables.entry(table.key).or_insert_with(|| MirrorTable::new(&table));
            if !mirror.is_of(&table) {
                // The world came back as another one, whose tables have other numbers: it captures everything.
                let gone = mem::replace(mirror, MirrorTable::new(&table));
                gone.leave(&mut self.store, &mut moves);
            }
            mirror.apply(table, &mut self.store, &mut moves, pace, pool);
        }
        self.tick = capture.tick;
        self.resources = capture.resources;
        self.store.prepare(pace);
        if moves.left.is_empty() && moves.came.is_empty() {
            return;
        }
        let mut rows = rows.write();
        for (uid, row) in moves.left {
            if rows.get(Uid::new(uid)) == Some(row) {
                rows.remove(Uid::new(uid));
            }
        }
        moves.came.into_iter().for_each(|(uid, row)| rows.insert(Uid::new(uid), row));
    }

    /// The hash of the state, from the sums that the mirror keeps.
    fn hash(&self) -> StateHash {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for column in self.tables.values().flat_map(|table| &table.columns) {
            let total = sums.entry(&column.schema.name).or_default();
            *total = column.sums.iter().fold(*total, |total, sum| total.wrapping_add(*sum));
        }
        let resources =
            self.resources.iter().map(|resource| (resource.name.as_str(), hash_resource(&resource.bytes)));
        hash_state(self.tick, sums, resources)
    }

    /// An image that shares the chunks.
    pub(super) fn cut(&self, hash: StateHash) -> Image {
        let column = |column: &MirrorColumn| ColumnImage {
            schema: column.schema.clone(),
            chunks: column.chunks.clone(),
        };
        let table = |table: &MirrorTable| TableImage {
            rows: table.rows,
            columns: table.columns.iter().map(column).collect(),
        };
        Image {
            tick: self.tick,
            hash,
            tables: self.tables.values().map(table).collect(),
            resources: self.resources.clone(),
        }
    }
}

impl MirrorTable {
    fn new(capture: &TableCapture) -> Self {
        let column = |column: &ColumnCapture| MirrorColumn {
            schema: column.schema.clone(),
            salt: column.salt,
            chunks: Vec::new(),
            wide: Vec::new(),
            sums: Vec::new(),
        };
        Self { rows: 0, columns: capture.columns.iter().map(column).collect() }
    }

    fn is_of(&self, capture: &TableCapture) -> bool {
        self.columns.len() == capture.columns.len()
            && self.columns.iter().zip(&capture.columns).all(|(own, new)| own.schema == new.schema)
    }

    /// All its entities leave, and its chunks are let go.
    fn leave(self, store: &mut Chunks, moves: &mut Moves) {
        moves.left.extend(self.uids().enumerate().map(|(row, uid)| (uid, row as u32)));
        self.columns.into_iter().for_each(|column| store.limbo.extend(column.chunks));
    }

    fn uid_chunks(&self) -> &Vec<Arc<Chunk>> {
        let uids = self.columns.iter().find(|column| column.schema.name == Uid::NAME);
        &uids.expect("every table has Uids").chunks
    }

    fn uids(&self) -> impl Iterator<Item = u64> {
        self.uid_chunks().iter().flat_map(|chunk| uids_of(chunk).into_owned())
    }

    fn apply(
        &mut self,
        capture: TableCapture,
        store: &mut Chunks,
        moves: &mut Moves,
        pace: &mut (dyn FnMut() + Send),
        pool: Option<&Pool>,
    ) {
        let rows = (mem::replace(&mut self.rows, capture.rows), capture.rows);
        let mut pieces: Vec<Vec<(usize, Piece)>> =
            capture.columns.into_iter().map(|column| column.pieces).collect();
        let uid = self.columns.iter().position(|column| column.schema.name == Uid::NAME);
        let uid = uid.expect("every table has Uids");
        // Both shares keep what they name while the columns change.
        let uid_pieces = mem::take(&mut pieces[uid]);
        let moved = !uid_pieces.is_empty() || rows.0 != rows.1;
        let before = self.columns[uid].chunks.clone();
        if moved {
            let column = &mut self.columns[uid];
            let after = uids_after(&before, &uid_pieces, rows);
            note_moves(&before, &after, moves);
            let owned = |uids: &Vec<u64>| Arc::new(Chunk::Plain(bytemuck::cast_slice(uids).to_vec()));
            let new: Vec<Arc<Chunk>> = after.iter().map(owned).collect();
            column.apply(uid_pieces, (&before, &new), rows, store, pace);
        }
        let after = self.columns[uid].chunks.clone();
        for (column, mut pieces) in self.columns.iter_mut().zip(pieces) {
            if let Some(pool) = pool.filter(|_| rows.0 == 0)
                && column.begin(&mut pieces, &after, pool)
            {
                continue;
            }
            if column.schema.name != Uid::NAME && (moved || !pieces.is_empty()) {
                column.apply(pieces, (&before, &after), rows, store, pace);
            }
        }
    }
}

/// The Uids of each chunk after a capture.
fn uids_after(before: &[Arc<Chunk>], pieces: &[(usize, Piece)], rows: (usize, usize)) -> Vec<Vec<u64>> {
    let chunks = rows.1.div_ceil(CHUNK_ROWS);
    let mut pieces = pieces.iter().peekable();
    let chunk = |i: usize| {
        let len = rows_in(i, rows.1);
        let mut uids = before.get(i).map_or_else(Vec::new, |chunk| uids_of(chunk).into_owned());
        uids.resize(len, 0);
        if let Some((_, piece)) = pieces.next_if(|(chunk, _)| *chunk == i) {
            match piece {
                Piece::All(bytes) => uids = bytemuck::pod_collect_to_vec(bytes),
                Piece::Some(bits, bytes) => {
                    let values: Vec<u64> = bytemuck::pod_collect_to_vec(bytes);
                    rows_of(bits).zip(values).for_each(|(row, uid)| uids[row] = uid);
                }
                Piece::Elements(..) | Piece::Slow(_) => unreachable!("Uids are plain numbers"),
            }
        }
        assert!(uids.len() == len && uids.iter().all(|uid| *uid != 0), "a capture names every new row");
        uids
    };
    (0..chunks).map(chunk).collect()
}

fn note_moves(before: &[Arc<Chunk>], after: &[Vec<u64>], moves: &mut Moves) {
    for i in 0..before.len().max(after.len()) {
        let old = before.get(i).map_or(Cow::Borrowed(&[][..]), |chunk| uids_of(chunk));
        let new = after.get(i).map_or(&[][..], Vec::as_slice);
        for row in 0..old.len().max(new.len()) {
            if old.get(row) != new.get(row) {
                let at = (i * CHUNK_ROWS + row) as u32;
                moves.left.extend(old.get(row).map(|uid| (*uid, at)));
                moves.came.extend(new.get(row).map(|uid| (*uid, at)));
            }
        }
    }
}

fn rows_in(chunk: usize, rows: usize) -> usize {
    rows.saturating_sub(chunk * CHUNK_ROWS).min(CHUNK_ROWS)
}

impl MirrorColumn {
    /// Makes all chunks at once, and hashes them on the threads of a pool, where the pieces are all there is. False where they
    /// are not, and nothing is done.
    fn begin(&mut self, pieces: &mut Vec<(usize, Piece)>, uids: &[Arc<Chunk>], pool: &Pool) -> bool {
        let is_all = |(i, (at, piece)): (usize, &(usize, Piece))| i == *at && matches!(piece, Piece::All(_));
        let is_first = self.chunks.is_empty() && pieces.len() == uids.len();
        let Some(row_bytes) = self.schema.row_bytes().filter(|_| is_first) else { return false };
        if !pieces.iter().enumerate().all(is_all) {
            return false;
        }
        let salt = self.salt;
        let sum = |((_, piece), uids): (&(usize, Piece), &Arc<Chunk>)| match piece {
            Piece::All(bytes) => hash_plain_rows(&uids_of(uids), salt, bytes, row_bytes),
            _ => unreachable!("all of them were looked at"),
        };
        self.sums = pool.install(|| pieces.par_iter().zip(uids).with_max_len(1).map(sum).collect());
        for (_, piece) in mem::take(pieces) {
            let Piece::All(bytes) = piece else { unreachable!("all of them were looked at") };
            let chunk = if SharedRows::suit(row_bytes) { self.widen(bytes) } else { Chunk::Plain(bytes) };
            self.chunks.push(Arc::new(chunk));
        }
        true
    }

    /// A chunk of wide rows, behind the last one.
    fn widen(&mut self, rows: Vec<u8>) -> Chunk {
        let row_bytes = self.schema.row_bytes().expect("wide rows are plain");
        let (slab, rows) = Slab::of(row_bytes, rows);
        self.wide.push(Wide { slab, limbo: Vec::new() });
        Chunk::Shared(rows)
    }

    /// Applies the pieces; `uids` are those of the rows before and after.
    fn apply(
        &mut self,
        pieces: Vec<(usize, Piece)>,
        uids: (&[Arc<Chunk>], &[Arc<Chunk>]),
        rows: (usize, usize),
        store: &mut Chunks,
        pace: &mut (dyn FnMut() + Send),
    ) {
        let mut pieces = pieces.into_iter().peekable();
        for i in 0..rows.0.max(rows.1).div_ceil(CHUNK_ROWS) {
            let piece = pieces.next_if(|(chunk, _)| *chunk == i).map(|(_, piece)| piece);
            let lens = (rows_in(i, rows.0), rows_in(i, rows.1));
            if lens.1 == 0 || (piece.is_none() && lens.0 == lens.1) {
                continue;
            }
            let of = |uids: &'_ [Arc<Chunk>]| uids.get(i).cloned();
            let (old, new) = (of(uids.0), of(uids.1).expect("there are Uids for every row"));
            self.apply_chunk(i, piece, (old.as_deref(), &new), lens, store);
            pace();
        }
        let kept = rows.1.div_ceil(CHUNK_ROWS);
        self.sums.truncate(kept);
        self.wide.truncate(kept);
        store.limbo.extend(self.chunks.drain(kept.min(self.chunks.len())..));
    }

    fn apply_chunk(
        &mut self,
        i: usize,
        piece: Option<Piece>,
        uids: (Option<&Chunk>, &Chunk),
        lens: (usize, usize),
        store: &mut Chunks,
    ) {
        if i == self.chunks.len() {
            let none = match self.schema.row_bytes() {
                Some(row_bytes) if SharedRows::suit(row_bytes) => self.widen(Vec::new()),
                Some(_) => Chunk::Plain(Vec::new()),
                None => Chunk::Slow(Vec::new()),
            };
            self.chunks.push(Arc::new(none));
            self.sums.push(0);
        }
        // The first capture brings everything, which says nothing of the next.
        let buffer = match &piece {
            Some(Piece::All(bytes) | Piece::Some(_, bytes) | Piece::Elements(_, _, bytes)) => Some(bytes),
            _ => None,
        };
        if let (Some(bytes), true) = (buffer, lens.0 > 0) {
            store.note_need(bytes.capacity());
        }
        let old_uids = uids.0.map_or(Cow::Borrowed(&[][..]), uids_of);
        let new_uids = uids_of(uids.1);
        match (piece, self.schema.row_bytes()) {
            (Some(Piece::All(bytes)), Some(row_bytes)) => {
                let is_same = self.chunks[i].has_rows(&bytes);
                if is_same && old_uids == new_uids {
                    store.buffers.give(bytes);
                    return;
                }
                self.sums[i] = hash_plain_rows(&new_uids, self.salt, &bytes, row_bytes);
                if let Some(wide) = self.wide.get_mut(i) {
                    let (slab, rows) = wide.own(&mut self.chunks[i]);
                    slab.become_rows(rows, &bytes);
                    store.buffers.give(bytes);
                } else {
                    let new = Arc::new(Chunk::Plain(bytes));
                    store.limbo.push(mem::replace(&mut self.chunks[i], new));
                }
            }
            (piece, Some(row_bytes)) => {
                let mut rows = PlainRows {
                    chunk: &mut self.chunks[i],
                    wide: self.wide.get_mut(i),
                    sum: &mut self.sums[i],
                    salt: self.salt,
                    row_bytes,
                    uids: (&old_uids, &new_uids),
                    store,
                };
                rows.truncate(lens);
                match piece {
                    None => {}
                    Some(Piece::Some(bits, bytes)) => {
                        for (row, new) in rows_of(&bits).zip(bytes.chunks_exact(row_bytes)) {
                            rows.set(row, new);
                        }
                        store.buffers.give(bytes);
                    }
                    Some(Piece::Elements(bits, masks, bytes)) => {
                        let (element_bytes, _) = marked_elements(&self.schema)
                            .expect("elements of a column that is marked by them");
                        rows.set_elements(element_bytes, rows_of(&bits).zip(masks), &bytes);
                        store.buffers.give(bytes);
                    }
                    Some(_) => unreachable!("a plain column has plain pieces"),
                }
            }
            (piece, None) => {
                let values = match piece {
                    Some(Piece::Slow(values)) => values,
                    None => Vec::new(),
                    Some(_) => unreachable!("a slow column has slow pieces"),
                };
                // Rare and small: copied when shared, hashed anew.
                let Chunk::Slow(kept) = Arc::make_mut(&mut self.chunks[i]) else {
                    unreachable!("a slow column has slow chunks")
                };
                kept.resize(lens.1, Vec::new());
                values.into_iter().for_each(|(row, value)| kept[row] = value);
                let hashes = new_uids.iter().zip(kept).map(|(uid, value)| hash_row(*uid, self.salt, value));
                self.sums[i] = hashes.fold(0, u64::wrapping_add);
            }
        }
    }
}

/// A plain chunk whose rows change one by one.
struct PlainRows<'a> {
    chunk: &'a mut Arc<Chunk>,
    wide: Option<&'a mut Wide>,
    sum: &'a mut u64,
    salt: u64,
    row_bytes: usize,
    uids: (&'a [u64], &'a [u64]),
    store: &'a mut Chunks,
}

impl PlainRows<'_> {
    fn row(&self, row: usize) -> Option<&[u8]> {
        self.chunk.row(row, self.row_bytes)
    }

    /// The hash of a row as it was.
    fn old_hash(&self, row: usize) -> u64 {
        self.row(row).map_or(0, |bytes| hash_row(self.uids.0[row], self.salt, bytes))
    }

    /// Takes off the rows beyond the new end.
    fn truncate(&mut self, lens: (usize, usize)) {
        if lens.1 < lens.0 {
            let gone = (lens.1..lens.0).fold(0u64, |sum, row| sum.wrapping_add(self.old_hash(row)));
            *self.sum = self.sum.wrapping_sub(gone);
            if let Some(wide) = &mut self.wide {
                let (slab, rows) = wide.own(self.chunk);
                slab.truncate(rows, lens.1);
            } else {
                self.store.own(self.chunk, self.row_bytes).truncate(lens.1 * self.row_bytes);
            }
        }
    }

    fn set(&mut self, row: usize, new: &[u8]) {
        let old_uid = self.uids.0.get(row);
        if self.row(row) == Some(new) && old_uid == Some(&self.uids.1[row]) {
            return;
        }
        let hash = hash_row(self.uids.1[row], self.salt, new);
        *self.sum = self.sum.wrapping_sub(self.old_hash(row)).wrapping_add(hash);
        // Another entity that is alike: what views share stays shared.
        if self.row(row) == Some(new) {
            return;
        }
        if let Some(wide) = &mut self.wide {
            let (slab, rows) = wide.own(self.chunk);
            slab.set(rows, row, new);
            return;
        }
        let at = row * self.row_bytes;
        let bytes = self.store.own(self.chunk, self.row_bytes);
        if at == bytes.len() {
            bytes.extend_from_slice(new);
        } else {
            bytes[at..at + new.len()].copy_from_slice(new);
        }
    }

    /// Writes the elements with a bit in the mask of their row, one after the other; all of a row without any.
    fn set_elements(
        &mut self,
        element_bytes: usize,
        rows: impl Iterator<Item = (usize, u32)>,
        mut elements: &[u8],
    ) {
        let mut new = vec![0; self.row_bytes];
        for (row, mask) in rows {
            if mask == 0 {
                let whole = elements.split_off(..self.row_bytes).expect("a row follows");
                self.set(row, whole);
                continue;
            }
            new.copy_from_slice(self.row(row).expect("a new row is captured as a whole"));
            for element in bits_of(mask.into()) {
                let bytes = elements.split_off(..element_bytes).expect("an element for each bit");
                new[element * element_bytes..][..element_bytes].copy_from_slice(bytes);
            }
            self.set(row, &new);
        }
        debug_assert!(elements.is_empty(), "a bit for each element");
    }
}

impl Chunks {
    /// Takes back the buffers that nobody shares any more.
    fn recycle(&mut self) {
        for chunk in mem::take(&mut self.limbo) {
            match Arc::try_unwrap(chunk) {
                Ok(Chunk::Plain(bytes)) => self.buffers.give(bytes),
                // The slab of a chunk of wide rows that came here is gone with the chunk.
                Ok(Chunk::Shared(_) | Chunk::Slow(_)) => {}
                Err(shared) => self.limbo.push(shared),
            }
        }
    }

    fn note_need(&mut self, capacity: usize) {
        // Smaller ones are of any capacity, and never kept.
        if capacity >= POOLED_BYTES_MIN {
            self.needs.entry(capacity).or_default().now += 1;
        }
    }

    /// Has as many buffers ready as were needed lately, and lets go of the others.
    fn prepare(&mut self, pace: &mut (dyn FnMut() + Send)) {
        for need in self.needs.values_mut() {
            need.lately = (mem::take(&mut need.now) as f32).max(need.lately * (1.0 - 1.0 / KEPT_CAPTURES));
        }
        self.needs.retain(|_, need| need.lately > 0.5);
        let wanted: BTreeMap<usize, usize> =
            self.needs.iter().map(|(capacity, need)| (*capacity, need.lately.ceil() as usize)).collect();
        self.buffers.trim(&wanted);
        for (capacity, count) in wanted {
            for ready in 1..=count {
                self.buffers.prepare(capacity, ready);
                pace();
            }
        }
    }

    /// The rows of a chunk that nobody else sees: a copy when a view shares it.
    fn own<'c>(&mut self, chunk: &'c mut Arc<Chunk>, row_bytes: usize) -> &'c mut Vec<u8> {
        if Arc::get_mut(chunk).is_none() {
            let mut copy = self.buffers.take(row_bytes, chunk.rows(row_bytes));
            if let Chunk::Plain(bytes) = &**chunk {
                copy.extend_from_slice(bytes);
            }
            self.limbo.push(mem::replace(chunk, Arc::new(Chunk::Plain(copy))));
        }
        match Arc::get_mut(chunk) {
            Some(Chunk::Plain(bytes)) => bytes,
            _ => unreachable!("the chunk is plain and has one owner"),
        }
    }
}

impl Wide {
    /// Takes back the versions that nobody has any more; `chunk` is the newest one.
    fn recycle(&mut self, chunk: &mut Arc<Chunk>) {
        for chunk in mem::take(&mut self.limbo) {
            match Arc::try_unwrap(chunk) {
                Ok(Chunk::Shared(rows)) => self.slab.release(rows),
                Ok(_) => unreachable!("wide rows are shared ones"),
                Err(shared) => self.limbo.push(shared),
            }
        }
        if let Some(Chunk::Shared(rows)) = Arc::get_mut(chunk) {
            self.slab.forget_blocks(rows);
        }
    }

    /// The rows of a chunk in a version that nobody else sees, and what writes them.
    fn own<'c>(&'c mut self, chunk: &'c mut Arc<Chunk>) -> (&'c mut Slab, &'c mut SharedRows) {
        if Arc::get_mut(chunk).is_none() {
            let Chunk::Shared(rows) = &**chunk else { unreachable!("wide rows are shared ones") };
            let fresh = Arc::new(Chunk::Shared(self.slab.fork(rows)));
            self.limbo.push(mem::replace(chunk, fresh));
        }
        match Arc::get_mut(chunk) {
            Some(Chunk::Shared(rows)) => (&mut self.slab, rows),
            _ => unreachable!("the chunk is of wide rows and has one owner"),
        }
    }
}
