//! Which rows were written since the last capture: a bit per row of each column.
//!
//! Births and deaths are not here: a capture finds them by comparing the Uids of a table with those that it saw the
//! last time. Marks do not follow who is moved, and who is moved may come back to a row that it had: whoever structural
//! change moves, or changes in place, is *touched*, and all its columns are marked where it stands once structure has
//! settled. Rows are marked
//! by [`Marked`](crate::Marked) slices without any lock: a slice is the only writer of its rows, and slices
//! are cut at multiples of 64 rows, so that no two of them share a word. Grown only where structure changes.
//!
//! Of wide rows that are arrays the elements are marked, too, where who writes says which: a row that is marked without any
//! of its elements is marked as a whole, and stays so.

use crate::{
    capture::see_moves,
    effects::UidIndex,
    ids::Uid,
    image::{CHUNK_ROWS, ColumnSchema, each_difference},
    raw,
    slab::SharedRows,
};
use bevy_ecs::{component::ComponentId, entity::Entity, prelude::Resource, storage::TableId, world::World};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// The marks of all tables.
#[derive(Resource, Default)]
pub(crate) struct Marks {
    /// By table, then by component.
    tables: Vec<Vec<Option<TableMarks>>>,
    /// Entities whose columns changed one by one, until structure settles.
    touched: Vec<Entity>,
    /// Where systems move entities past the engine: the Uids of each table when structure settled for the last time.
    followed: Option<Vec<Vec<u64>>>,
    /// Rows may have come, gone or moved since the last capture.
    pub(crate) structure_changed: bool,
    /// Another number whenever rows came, went or moved, and whenever inputs were applied, which may write anything.
    pub(crate) structure: u64,
}

/// Words of marks of a chunk.
pub(crate) const CHUNK_WORDS: usize = CHUNK_ROWS / 64;

/// The marks of one column in one table: a word per 64 rows.
#[derive(Default)]
pub(crate) struct TableMarks {
    words: Vec<AtomicU64>,
    /// A bit for each element of a row, where elements are marked.
    elements: Vec<AtomicU32>,
    /// The bytes of an element; 0 where rows are marked as a whole.
    element_bytes: usize,
}

/// The bytes of an element and how many a row has, of columns whose elements are marked: wide ones, of not too many.
pub(crate) fn marked_elements(schema: &ColumnSchema) -> Option<(usize, usize)> {
    let row_bytes = schema.row_bytes().filter(|bytes| SharedRows::suit(*bytes))?;
    let (_, count) = schema.elements().filter(|(_, count)| *count <= 32)?;
    Some((row_bytes / count, count))
}

impl Marks {
    /// Makes room for the rows of a column.
    pub(crate) fn grow(
        &mut self,
        table: TableId,
        component: ComponentId,
        schema: &ColumnSchema,
        rows: usize,
    ) {
        let (table, component) = (table.as_usize(), component.index());
        if self.tables.len() <= table {
            self.tables.resize_with(table + 1, Vec::new);
        }
        let columns = &mut self.tables[table];
        if columns.len() <= component {
            columns.resize_with(component + 1, || None);
        }
        let marks = columns[component].get_or_insert_default();
        if marks.words.len() * 64 < rows {
            // Whole chunks at once, so that births seldom grow it.
            let rows = rows.next_multiple_of(CHUNK_ROWS);
            marks.words.resize_with(rows / 64, AtomicU64::default);
            if let Some((element_bytes, _)) = marked_elements(schema) {
                marks.element_bytes = element_bytes;
                marks.elements.resize_with(rows, AtomicU32::default);
            }
        }
    }

    /// The marks of a column.
    ///
    /// # Panics
    /// When structure changed without [`Marks::grow`]: a bug of the engine.
    pub(crate) fn of(&self, table: TableId, component: ComponentId) -> &TableMarks {
        let columns = self.tables.get(table.as_usize());
        let marks = columns.and_then(|columns| columns.get(component.index())).and_then(Option::as_ref);
        marks.expect("marks grow wherever structure changes")
    }

    /// How many rows are marked, over all columns.
    pub(crate) fn count(&self) -> u64 {
        let words = self.tables.iter().flatten().flatten().flat_map(|marks| &marks.words);
        words.map(|word| u64::from(word.load(Relaxed).count_ones())).sum()
    }

    /// Takes the marks of a chunk: adds them to `bits` and forgets them. Of elements it fills in `elements`, a mask for each
    /// row of the chunk, which stays empty where none are marked; none in the mask of a row are all.
    pub(crate) fn take(
        &self,
        table: TableId,
        component: ComponentId,
        chunk: usize,
        bits: &mut [u64; CHUNK_WORDS],
        elements: &mut Vec<u32>,
    ) {
        let columns = self.tables.get(table.as_usize());
        let marks = columns.and_then(|columns| columns.get(component.index())).and_then(Option::as_ref);
        let Some(marks) = marks else { return };
        let words = marks.words.get(chunk * CHUNK_WORDS..).unwrap_or_default();
        let masks = marks.elements.get(chunk * CHUNK_ROWS..).unwrap_or_default();
        for (i, (bits, word)) in bits.iter_mut().zip(words).enumerate() {
            // No system runs while a capture does.
            let marked = word.load(Relaxed);
            if marked == 0 {
                continue;
            }
            *bits |= marked;
            word.store(0, Relaxed);
            if !masks.is_empty() {
                elements.resize(CHUNK_ROWS, 0);
                for (row, mask) in masks[i * 64..(i + 1) * 64].iter().enumerate() {
                    let marked = mask.load(Relaxed);
                    if marked != 0 {
                        elements[i * 64 + row] = marked;
                        mask.store(0, Relaxed);
                    }
                }
            }
        }
    }

    /// From now on moves are found at every settling: what exclusive systems do touches nobody.
    pub(crate) fn follow_all_moves(&mut self) {
        self.followed = Some(Vec::new());
    }

    /// Marks the rows that have other Uids than when structure settled for the last time; true if there are such, or
    /// other rows.
    ///
    /// # Panics
    /// When a system has changed a Uid.
    pub(crate) fn follow_moves(&mut self, world: &World, uid: ComponentId) -> bool {
        let Some(mut followed) = self.followed.take() else { return false };
        let mut has_changed = false;
        let index = world.resource::<UidIndex>();
        followed.resize_with(world.storages().tables.len(), Vec::new);
        for (i, table) in world.storages().tables.iter().enumerate() {
            if table.has_column(uid) && table.entity_count() > 0 {
                let uids: &[u64] = bytemuck::cast_slice(raw::column_bytes::<Uid>(table, uid));
                has_changed |= uids.len() != followed[i].len();
                see_moves(&mut followed[i], uids, |row| {
                    has_changed = true;
                    let known = index.get(Uid::new(uids[row]));
                    assert!(
                        known == Some(table.entities()[row]),
                        "an entity has another Uid: the engine gives them, once"
                    );
                    self.mark_entity(TableId::from_usize(i), row);
                });
            } else {
                has_changed |= !followed[i].is_empty();
                followed[i].clear();
            }
        }
        self.followed = Some(followed);
        has_changed
    }

    /// Notes that columns of an entity changed, wherever it ends up.
    pub(crate) fn touch(&mut self, entity: Entity) {
        self.touched.push(entity);
    }

    pub(crate) fn take_touched(&mut self) -> Vec<Entity> {
        std::mem::take(&mut self.touched)
    }

    /// Marks all columns of a row.
    pub(crate) fn mark_entity(&self, table: TableId, row: usize) {
        self.tables[table.as_usize()].iter().flatten().for_each(|marks| marks.mark(row));
    }
}

impl TableMarks {
    #[inline]
    pub(crate) fn mark(&self, row: usize) {
        let word = &self.words[row / 64];
        // Not an atomic or: this slice is the only writer of the word, see the module.
        word.store(word.load(Relaxed) | 1 << (row % 64), Relaxed);
        if let Some(elements) = self.elements.get(row) {
            elements.store(0, Relaxed);
        }
    }

    /// Marks what differs between a row and what it becomes.
    #[inline]
    pub(crate) fn mark_difference(&self, row: usize, old: &[u8], new: &[u8]) {
        let (word, bit) = (&self.words[row / 64], 1 << (row % 64));
        let marked = word.load(Relaxed);
        if let Some(elements) = self.elements.get(row) {
            let before = elements.load(Relaxed);
            // A row that is marked as a whole stays so.
            if marked & bit == 0 || before != 0 {
                let mut mask = before;
                each_difference(old, new, self.element_bytes, |element| mask |= 1 << element);
                elements.store(mask, Relaxed);
            }
        }
        word.store(marked | bit, Relaxed);
    }

    pub(crate) fn mark_range(&self, start: usize, end: usize) {
        if start >= end {
            return;
        }
        let (first, last) = (start / 64, (end - 1) / 64);
        for (i, word) in self.words[first..=last].iter().enumerate() {
            let low = if i == 0 { u64::MAX << (start % 64) } else { u64::MAX };
            let high = if first + i == last { u64::MAX >> (63 - (end - 1) % 64) } else { u64::MAX };
            word.store(word.load(Relaxed) | (low & high), Relaxed);
        }
        let elements = self.elements.get(start..end).unwrap_or_default();
        elements.iter().for_each(|mask| mask.store(0, Relaxed));
    }

    #[cfg(test)]
    pub(crate) fn marked(&self) -> Vec<usize> {
        let words = self.words.iter().enumerate();
        let bits = |(i, word): (usize, &AtomicU64)| {
            let word = word.load(Relaxed);
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| i * 64 + bit)
        };
        words.flat_map(bits).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_range_marks_its_rows_and_no_others(start in 0usize..400, len in 0usize..400) {
            let words = (0..16).map(|_| AtomicU64::default()).collect();
            let marks = TableMarks { words, ..TableMarks::default() };
            marks.mark_range(start, start + len);
            prop_assert_eq!(marks.marked(), (start..start + len).collect::<Vec<_>>());
        }
    }
}
