//! Which rows were written since the last capture: a bit per row of each column.
//!
//! Births and deaths are not here: a capture finds them by comparing the Uids of a table with those that it saw the
//! last time. Marks do not follow who is moved, and who is moved may come back to a row that it had: whoever structural
//! change moves, or changes in place, is *touched*, and all its columns are marked where it stands once structure has
//! settled. Rows are marked
//! by [`Marked`](crate::Marked) slices without any lock: a slice is the only writer of its rows, and slices
//! are cut at multiples of 64 rows, so that no two of them share a word. Grown only where structure changes.

use crate::{capture::see_moves, effects::UidIndex, ids::Uid, image::CHUNK_ROWS, raw};
use bevy_ecs::{component::ComponentId, entity::Entity, prelude::Resource, storage::TableId, world::World};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
}

impl Marks {
    /// Makes room for the rows of a column.
    pub(crate) fn grow(&mut self, table: TableId, component: ComponentId, rows: usize) {
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
            marks.words.resize_with(rows.next_multiple_of(CHUNK_ROWS) / 64, AtomicU64::default);
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

    /// Takes the marks of a chunk: adds them to `bits` and forgets them.
    pub(crate) fn take(
        &self,
        table: TableId,
        component: ComponentId,
        chunk: usize,
        bits: &mut [u64; CHUNK_WORDS],
    ) {
        let columns = self.tables.get(table.as_usize());
        let marks = columns.and_then(|columns| columns.get(component.index())).and_then(Option::as_ref);
        let words = marks.and_then(|marks| marks.words.get(chunk * CHUNK_WORDS..)).unwrap_or_default();
        for (bits, word) in bits.iter_mut().zip(words) {
            // No system runs while a capture does.
            let marked = word.load(Relaxed);
            if marked != 0 {
                *bits |= marked;
                word.store(0, Relaxed);
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
            let marks = TableMarks { words: (0..16).map(|_| AtomicU64::default()).collect() };
            marks.mark_range(start, start + len);
            prop_assert_eq!(marks.marked(), (start..start + len).collect::<Vec<_>>());
        }
    }
}
