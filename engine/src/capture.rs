//! What changed in a world since the last capture, copied out at a tick's end into pooled buffers.
//!
//! Three sources say which rows: the marks of write slices, bevy's change ticks for columns that plain queries
//! write, and a comparison of each table's Uids with those of the last capture, which finds births and deaths. Whoever is
//! moved is marked where it stands, see [`crate::marks`]. Together they may name too many rows, never too few; the mirror compares bytes and forgets the rest.

use crate::{
    column::Column,
    ids::{Tick, Uid},
    image::{CHUNK_ROWS, ColumnSchema, ResourceImage},
    marks::{CHUNK_WORDS, Marks, marked_elements},
    math::bits_of,
    raw,
    registry::{ColumnInfo, Registry, RowsOf},
};
use bevy_ecs::{
    change_detection::Tick as ChangeTick,
    component::ComponentId,
    prelude::*,
    storage::{Table, TableId},
};
use parking_lot::Mutex;
use rayon::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A bit per row of a chunk.
pub(crate) type Bits = [u64; CHUNK_WORDS];

/// What one capture hands to the mirror: all tables, and of their columns what may have changed.
pub struct Capture {
    pub(crate) tick: Tick,
    pub(crate) tables: Vec<TableCapture>,
    pub(crate) resources: Vec<ResourceImage>,
    /// Where its buffers are from, and whom they go back to.
    pub(crate) buffers: Arc<Buffers>,
}

pub(crate) struct TableCapture {
    /// Names the table in this world, not in another process.
    pub(crate) key: usize,
    pub(crate) rows: usize,
    /// By name.
    pub(crate) columns: Vec<ColumnCapture>,
}

pub(crate) struct ColumnCapture {
    pub(crate) schema: Arc<ColumnSchema>,
    pub(crate) salt: u64,
    /// By chunk.
    pub(crate) pieces: Vec<(usize, Piece)>,
}

/// What of a chunk may have changed.
pub(crate) enum Piece {
    /// All rows.
    All(Vec<u8>),
    /// The rows with a bit, one after the other.
    Some(Box<Bits>, Vec<u8>),
    /// Of the rows with a bit the elements with one in the row's mask, one after the other; all of them where it has none.
    Elements(Box<Bits>, Vec<u32>, Vec<u8>),
    /// Values of a slow column, by row within the chunk.
    Slow(Vec<(usize, Vec<u8>)>),
}

impl Capture {
    /// The tick that it was taken of.
    pub fn tick(&self) -> Tick {
        self.tick
    }

    /// The bytes of rows that were copied.
    pub fn bytes(&self) -> usize {
        let columns = self.tables.iter().flat_map(|table| &table.columns);
        let pieces = columns.flat_map(|column| &column.pieces);
        pieces
            .map(|(_, piece)| match piece {
                Piece::All(bytes) | Piece::Some(_, bytes) | Piece::Elements(_, _, bytes) => bytes.len(),
                Piece::Slow(values) => values.iter().map(|(_, value)| value.len()).sum(),
            })
            .sum()
    }
}

/// So many buffers of a size stay although nobody needed them.
const SPARE: usize = 4;
/// What is smaller is made anew each time: its page faults cost less than keeping it.
pub(crate) const POOLED_BYTES_MIN: usize = 16 << 10;

/// Buffers of chunks and of large parts of them, which go from capture to mirror and back. Their pages are there before
/// the tick needs them: a page fault for each 4 KiB would cost more than the copy.
#[derive(Default)]
pub struct Buffers {
    /// By capacity.
    free: Mutex<BTreeMap<usize, Vec<Vec<u8>>>>,
}

impl Buffers {
    /// An empty buffer for so many rows of that size: for a chunk, or a half of it, a quarter, ...
    pub(crate) fn take(&self, row_bytes: usize, rows: usize) -> Vec<u8> {
        let bytes = row_bytes * rows.next_power_of_two();
        if bytes < POOLED_BYTES_MIN {
            return Vec::with_capacity(rows * row_bytes);
        }
        let free = self.free.lock().get_mut(&bytes).and_then(Vec::pop);
        free.unwrap_or_else(|| Vec::with_capacity(bytes))
    }

    /// Takes a buffer back.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() >= POOLED_BYTES_MIN {
            buffer.clear();
            self.free.lock().entry(buffer.capacity()).or_default().push(buffer);
        }
    }

    /// Sees to it that so many buffers are free, with their pages in memory.
    pub(crate) fn prepare(&self, capacity: usize, count: usize) {
        let missing = count.saturating_sub(self.free.lock().get(&capacity).map_or(0, Vec::len));
        for _ in 0..missing {
            // Written, not only reserved. Not zeros: the allocator would hand out pages that do not exist yet.
            self.give(vec![1; capacity]);
        }
    }

    /// Lets go of what is free beyond what is wanted, by capacity, and some more.
    pub(crate) fn trim(&self, wanted: &BTreeMap<usize, usize>) {
        self.free.lock().retain(|capacity, free| {
            let wanted = wanted.get(capacity).copied().unwrap_or_default();
            // A capacity that nobody asks for any more is not one of a column's.
            free.truncate(if wanted > 0 { wanted + SPARE } else { 0 });
            !free.is_empty()
        });
    }

    /// The bytes of all free buffers.
    pub fn bytes(&self) -> usize {
        self.free.lock().iter().map(|(bytes, free)| bytes * free.len()).sum()
    }
}

/// What a world keeps from one capture to the next.
#[derive(Default)]
pub(crate) struct Capturing {
    /// The Uids of each table as the last capture saw them, by table.
    identity: Vec<Vec<u64>>,
    /// bevy's time of the last capture.
    last: ChangeTick,
    /// Columns whose writers leave change ticks rather than marks.
    by_ticks: BTreeSet<ComponentId>,
    /// The resources as the last capture saw them, by name.
    resources: Vec<ResourceImage>,
    /// bevy has clamped old change ticks: those of before and after the last capture may look the same.
    ticks_clamped: bool,
    /// See [`Sabotage::ForgetSpawns`](crate::Sabotage).
    pub(crate) spawns_forgotten: bool,
    pub(crate) buffers: Arc<Buffers>,
}

impl Capturing {
    pub(crate) fn new(by_ticks: BTreeSet<ComponentId>) -> Self {
        Self { by_ticks, ..Self::default() }
    }

    /// The next capture takes everything.
    pub(crate) fn forget(&mut self) {
        self.identity.clear();
        self.resources.clear();
    }

    pub(crate) fn ticks_clamped(&mut self) {
        self.ticks_clamped = true;
    }

    /// Copies what changed since the last time, on the threads of this pool.
    pub(crate) fn take(&mut self, world: &mut World, registry: &Registry, now: Tick) -> Capture {
        let mut names: Vec<&ColumnInfo> = registry.columns.iter().collect();
        names.sort_by_key(|column| column.name);
        let uid = registry.column(Uid::NAME).expect("every world has Uids").id;
        let structure_changed =
            std::mem::take(&mut world.resource_mut::<Marks>().structure_changed) || self.identity.is_empty();
        let this = world.change_tick();
        let world_ref = &*world;
        let tables = world_ref.storages().tables.iter().enumerate();
        let tables: Vec<(usize, &Table)> =
            tables.filter(|(_, table)| table.has_column(uid) && table.entity_count() > 0).collect();
        if structure_changed {
            self.identity.resize_with(world_ref.storages().tables.len(), Vec::new);
            let present: BTreeSet<usize> = tables.iter().map(|(key, _)| *key).collect();
            for (key, identity) in self.identity.iter_mut().enumerate() {
                if !present.contains(&key) {
                    *identity = Vec::new();
                }
            }
        }
        let marks = world_ref.resource::<Marks>();
        for (key, table) in &tables {
            if structure_changed {
                let seen = self.identity[*key].len();
                let overlooked = |row| self.spawns_forgotten && row < seen;
                see_moves(
                    &mut self.identity[*key],
                    bytemuck::cast_slice(raw::column_bytes::<Uid>(table, uid)),
                    |row| {
                        if !overlooked(row) {
                            marks.mark_entity(TableId::from_usize(*key), row);
                        }
                    },
                );
            }
        }
        let looking = Looking {
            world: world_ref,
            marks,
            buffers: &self.buffers,
            last: (!self.ticks_clamped).then_some(self.last),
            this,
        };
        let captured = tables.iter().map(|(key, table)| {
            let columns: Vec<&&ColumnInfo> =
                names.iter().filter(|column| table.has_column(column.id)).collect();
            let chunks = (table.entity_count() as usize).div_ceil(CHUNK_ROWS);
            let places: Vec<(usize, usize)> =
                (0..columns.len()).flat_map(|column| (0..chunks).map(move |chunk| (column, chunk))).collect();
            let (looking, by_ticks) = (&looking, &self.by_ticks);
            let look = |(column, chunk): (usize, usize)| {
                let column: &ColumnInfo = columns[column];
                looking.piece(TableId::from_usize(*key), column, chunk, by_ticks.contains(&column.id))
            };
            // A small world is not worth waking the pool for.
            let pieces: Vec<Option<Piece>> = if chunks > 4 {
                places.into_par_iter().map(look).collect()
            } else {
                places.into_iter().map(look).collect()
            };
            let mut pieces = pieces.into_iter();
            let columns = columns.iter().map(|column| ColumnCapture {
                schema: column.schema.clone(),
                salt: column.salt,
                pieces: pieces
                    .by_ref()
                    .take(chunks)
                    .enumerate()
                    .filter_map(|(i, piece)| Some((i, piece?)))
                    .collect(),
            });
            TableCapture { key: *key, rows: table.entity_count() as usize, columns: columns.collect() }
        });
        let tables = captured.collect();
        let resources = self.resources(world_ref, registry, this);
        self.last = this;
        self.ticks_clamped = false;
        // What is written from now on is newer than this capture.
        world.increment_change_tick();
        Capture { tick: now, tables, resources, buffers: self.buffers.clone() }
    }
}

impl Capturing {
    /// Encodes the resources that changed since the last capture; the others share their bytes with it.
    fn resources(&mut self, world: &World, registry: &Registry, this: ChangeTick) -> Vec<ResourceImage> {
        if self.resources.len() != registry.resources.len() || self.ticks_clamped {
            self.resources = registry.save_resources(world);
            return self.resources.clone();
        }
        for image in &mut self.resources {
            let info = registry.resources.iter().find(|info| info.name == image.name);
            let info = info.expect("a world's resources are those that it was built with");
            let ticks = world.get_resource_change_ticks_by_id(info.id);
            if ticks.is_none_or(|ticks| ticks.is_changed(self.last, this)) {
                image.bytes = (info.save)(world).into();
            }
            debug_assert_eq!(
                *image.bytes,
                (info.save)(world),
                "resource \"{}\" changed behind a shared reference",
                info.name
            );
        }
        self.resources.clone()
    }
}

/// Calls `moved` for each row that has another Uid than before, and remembers the Uids.
pub(crate) fn see_moves(before: &mut Vec<u64>, uids: &[u64], mut moved: impl FnMut(usize)) {
    let known = before.len().min(uids.len());
    for (i, (old, new)) in before[..known].chunks_mut(1_024).zip(uids[..known].chunks(1_024)).enumerate() {
        if old != new {
            let rows = (0..new.len()).filter(|row| old[*row] != new[*row]);
            rows.for_each(|row| moved(i * 1_024 + row));
            old.copy_from_slice(new);
        }
    }
    (known..uids.len()).for_each(moved);
    before.truncate(known);
    before.extend_from_slice(&uids[known..]);
}

/// What all tasks of a capture look at.
struct Looking<'a> {
    world: &'a World,
    marks: &'a Marks,
    buffers: &'a Buffers,
    /// bevy's time of the last capture; none takes every row of a column that goes by ticks.
    last: Option<ChangeTick>,
    this: ChangeTick,
}

impl Looking<'_> {
    fn piece(&self, table_id: TableId, column: &ColumnInfo, chunk: usize, by_ticks: bool) -> Option<Piece> {
        // A table cannot be shared between threads, the world can.
        let table = &self.world.storages().tables[table_id];
        let first = chunk * CHUNK_ROWS;
        let rows = CHUNK_ROWS.min(table.entity_count() as usize - first);
        let mut bits: Bits = [0; CHUNK_WORDS];
        let mut elements = Vec::new();
        self.marks.take(table_id, column.id, chunk, &mut bits, &mut elements);
        if by_ticks {
            // Some of these leave no marks.
            elements.clear();
            match self.last {
                Some(last) => {
                    for row in raw::changed_rows(table, column.id, first..first + rows, last, self.this) {
                        set(&mut bits, row - first);
                    }
                }
                None => bits.fill(u64::MAX),
            }
        }
        // Marks of rows that are gone.
        keep_first(&mut bits, rows);
        let count: usize = bits.iter().map(|word| word.count_ones() as usize).sum();
        if count == 0 {
            return None;
        }
        Some(match &column.rows {
            RowsOf::Plain(bytes) => {
                let row_bytes = column.schema.row_bytes().expect("a plain column");
                let bytes = &bytes(table, column.id)[first * row_bytes..(first + rows) * row_bytes];
                if !elements.is_empty()
                    && let Some(piece) = self.elements(column, &bits, &elements, bytes)
                {
                    return Some(piece);
                }
                let is_whole = count * 2 > rows;
                let mut buffer = self.buffers.take(row_bytes, if is_whole { rows } else { count });
                if is_whole {
                    buffer.extend_from_slice(bytes);
                    Piece::All(buffer)
                } else {
                    for row in rows_of(&bits) {
                        buffer.extend_from_slice(&bytes[row * row_bytes..(row + 1) * row_bytes]);
                    }
                    Piece::Some(Box::new(bits), buffer)
                }
            }
            RowsOf::Slow(value) => Piece::Slow(
                rows_of(&bits).map(|row| (row, value(self.world, table.entities()[first + row]))).collect(),
            ),
        })
    }

    /// The marked elements of a chunk; none where they are so many that the rows may as well be copied.
    fn elements(&self, column: &ColumnInfo, bits: &Bits, masks: &[u32], bytes: &[u8]) -> Option<Piece> {
        let (element_bytes, per_row) = marked_elements(&column.schema)?;
        let of = |row: usize| if masks[row] == 0 { u32::MAX >> (32 - per_row) } else { masks[row] };
        let count: usize = rows_of(bits).map(|row| of(row).count_ones() as usize).sum();
        if count * element_bytes * 2 > bytes.len() {
            return None;
        }
        let mut buffer = self.buffers.take(element_bytes, count);
        let mut of_rows = Vec::new();
        for row in rows_of(bits) {
            of_rows.push(masks[row]);
            let row_bytes = &bytes[row * element_bytes * per_row..][..element_bytes * per_row];
            for element in bits_of(u64::from(of(row))) {
                buffer.extend_from_slice(&row_bytes[element * element_bytes..][..element_bytes]);
            }
        }
        Some(Piece::Elements(Box::new(*bits), of_rows, buffer))
    }
}

fn set(bits: &mut Bits, row: usize) {
    bits[row / 64] |= 1 << (row % 64);
}

pub(crate) fn keep_first(bits: &mut Bits, rows: usize) {
    for (i, word) in bits.iter_mut().enumerate() {
        let kept = rows.saturating_sub(i * 64).min(64);
        if kept < 64 {
            *word &= (1 << kept) - 1;
        }
    }
}

/// The rows that have a bit, in order.
pub(crate) fn rows_of(bits: &Bits) -> impl Iterator<Item = usize> + '_ {
    bits.iter().enumerate().flat_map(|(i, word)| bits_of(*word).map(move |bit| i * 64 + bit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bits_name_their_rows(rows in proptest::collection::btree_set(0..CHUNK_ROWS, 0..300), len in 0..CHUNK_ROWS + 1) {
            let mut bits = [0; CHUNK_WORDS];
            rows.iter().for_each(|row| set(&mut bits, *row));
            keep_first(&mut bits, len);
            let kept: Vec<usize> = rows.into_iter().filter(|row| *row < len).collect();
            prop_assert_eq!(rows_of(&bits).collect::<Vec<_>>(), kept);
        }
    }
}
