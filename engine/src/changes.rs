//! What differs between two states, by entity and column: exact, and quick where they share chunks, as two views of a
//! mirror do. So a reader that follows a world keeps the view that it knows and asks for the difference to the
//! newest one; it may leave out as many as it likes, and misses nothing.

use crate::{
    column::Column as _,
    ids::{Tick, Uid},
    image::{CHUNK_ROWS, Image, TableImage},
};
use rayon::prelude::*;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

/// What differs between two states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The tick of the first.
    pub from: Tick,
    /// The tick of the second.
    pub to: Tick,
    /// Entities that differ, by Uid.
    pub entities: Vec<Change>,
    /// Resources that differ, by name.
    pub resources: Vec<String>,
    /// The columns of both, by name, without the Uids.
    columns: Vec<String>,
}

/// Where an entity is in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its table, by number.
    pub table: u32,
    /// Its row there.
    pub row: u32,
}

/// An entity that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub uid: Uid,
    /// Where it is in the first state; `None` for one that came.
    pub from: Option<Place>,
    /// Where it is in the second; `None` for one that is gone.
    pub to: Option<Place>,
    /// A bit for each column that differs, see [`Changes::columns`].
    mask: u128,
}

/// A world has so many columns at the most, for [`Change`] has a bit for each.
pub(crate) const COLUMNS_MAX: usize = 128;

impl Changes {
    /// What differs between two states; in parallel on a thread of a pool.
    pub fn between(from: &Image, to: &Image) -> Self {
        let names = |image: &Image| -> BTreeSet<String> {
            image.tables.iter().flat_map(names_of).map(str::to_owned).collect()
        };
        let columns: Vec<String> = names(from).union(&names(to)).cloned().collect();
        let comparing = Comparing { from, to, columns: &columns };
        let mut places = Vec::new();
        for pair in paired(from, to) {
            let rows =
                |image: &Image, table: Option<usize>| table.map_or(0, |table| image.tables[table].rows);
            let rows = rows(from, pair.0).max(rows(to, pair.1));
            places.extend((0..rows.div_ceil(CHUNK_ROWS)).map(|chunk| (pair, chunk)));
        }
        let compare =
            |(pair, chunk): &((Option<usize>, Option<usize>), usize)| comparing.chunk(*pair, *chunk);
        // As with the hash: rayon would start its global pool for a thread that is on none.
        let found: Vec<Found> = if rayon::current_thread_index().is_some() {
            places.par_iter().map(compare).collect()
        } else {
            places.iter().map(compare).collect()
        };
        let mut entities: Vec<Change> = found.iter().flat_map(|found| &found.stayed).copied().collect();
        let sorted = |of: fn(&Found) -> &Vec<(Uid, Place)>| {
            let mut all: Vec<(Uid, Place)> = found.iter().flat_map(of).copied().collect();
            all.sort_unstable_by_key(|(uid, _)| *uid);
            all
        };
        comparing.moved(&sorted(|found| &found.left), &sorted(|found| &found.came), &mut entities);
        entities.sort_unstable_by_key(|change| change.uid);
        let bytes =
            |image: &'_ Image, name: &str| image.resource(name).map(|resource| resource.bytes.clone());
        let resources: BTreeSet<&String> =
            from.resources.iter().chain(&to.resources).map(|resource| &resource.name).collect();
        let differs = |name: &&String| bytes(from, name) != bytes(to, name);
        let resources = resources.into_iter().filter(differs).cloned().collect();
        Self { from: from.tick, to: to.tick, entities, resources, columns }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.entities.is_empty() && self.resources.is_empty()
    }

    /// The names of the columns in which an entity differs: of one that came or is gone, all that it has or had.
    pub fn columns(&self, change: &Change) -> impl Iterator<Item = &str> {
        let mask = change.mask;
        let differs = move |(i, _): &(usize, &String)| mask >> i & 1 == 1;
        self.columns.iter().enumerate().filter(differs).map(|(_, name)| name.as_str())
    }
}

fn names_of(table: &TableImage) -> impl Iterator<Item = &str> {
    table.columns.iter().map(|column| column.schema.name.as_str()).filter(|name| *name != Uid::NAME)
}

/// Tables that have the same columns, one from each image. Which of several is paired with which costs time at the
/// most: an entity that is elsewhere is found by its Uid.
fn paired(from: &Image, to: &Image) -> Vec<(Option<usize>, Option<usize>)> {
    let mut waiting: BTreeMap<Vec<&str>, VecDeque<usize>> = BTreeMap::new();
    for (i, table) in from.tables.iter().enumerate() {
        waiting.entry(names_of(table).collect()).or_default().push_back(i);
    }
    let mut pairs = Vec::new();
    for (i, table) in to.tables.iter().enumerate() {
        let names: Vec<&str> = names_of(table).collect();
        pairs.push((waiting.get_mut(&names).and_then(VecDeque::pop_front), Some(i)));
    }
    pairs.extend(waiting.into_values().flatten().map(|table| (Some(table), None)));
    pairs
}

struct Comparing<'a> {
    from: &'a Image,
    to: &'a Image,
    columns: &'a [String],
}

/// What was found in one chunk.
#[derive(Default)]
struct Found {
    /// Rows with the same Uid and other values.
    stayed: Vec<Change>,
    left: Vec<(Uid, Place)>,
    came: Vec<(Uid, Place)>,
}

impl Comparing<'_> {
    fn bit(&self, name: &str) -> u128 {
        let place = self.columns.binary_search_by(|column| column.as_str().cmp(name));
        1 << place.expect("all columns of both are listed")
    }

    fn chunk(&self, (old, new): (Option<usize>, Option<usize>), chunk: usize) -> Found {
        let uids = |image: &'_ Image, table: Option<usize>| match table {
            Some(table) if chunk * CHUNK_ROWS < image.tables[table].rows => {
                Cow::Owned(image.tables[table].chunk_uids(chunk).into_owned())
            }
            _ => Cow::<[u64]>::Borrowed(&[]),
        };
        let mut found = Found::default();
        if let (Some(old), Some(new)) = (old, new) {
            let shares = |name: &str| {
                let of = |image: &'_ Image, table: usize| {
                    image.tables[table].column(name).and_then(|column| column.chunks.get(chunk).cloned())
                };
                matches!((of(self.from, old), of(self.to, new)), (Some(a), Some(b)) if Arc::ptr_eq(&a, &b))
            };
            let all_names = || names_of(&self.to.tables[new]);
            if shares(Uid::NAME) && all_names().all(shares) {
                return found;
            }
        }
        let (olds, news) = (uids(self.from, old), uids(self.to, new));
        let mut masks = vec![0u128; olds.len().min(news.len())];
        if let (Some(old), Some(new)) = (old, new)
            && !masks.is_empty()
        {
            for name in names_of(&self.to.tables[new]) {
                self.compare_column((old, new), chunk, name, &mut masks);
            }
        }
        let place = |table: Option<usize>, row: usize| Place {
            table: table.unwrap_or_default() as u32,
            row: (chunk * CHUNK_ROWS + row) as u32,
        };
        for row in 0..olds.len().max(news.len()) {
            let (was, is) = (olds.get(row), news.get(row));
            if was == is {
                if let (Some(uid), true) = (is, masks[row] != 0) {
                    let (from, to) = (Some(place(old, row)), Some(place(new, row)));
                    found.stayed.push(Change { uid: Uid::new(*uid), from, to, mask: masks[row] });
                }
                continue;
            }
            found.left.extend(was.map(|uid| (Uid::new(*uid), place(old, row))));
            found.came.extend(is.map(|uid| (Uid::new(*uid), place(new, row))));
        }
        found
    }

    /// Sets the column's bit where the rows of a chunk differ.
    fn compare_column(&self, (old, new): (usize, usize), chunk: usize, name: &str, masks: &mut [u128]) {
        let (Some(was), Some(is)) = (self.from.tables[old].column(name), self.to.tables[new].column(name))
        else {
            unreachable!("paired tables have the same columns")
        };
        let bit = self.bit(name);
        let (a, b) = (&was.chunks[chunk], &is.chunks[chunk]);
        if was.schema.version != is.schema.version || was.schema.lanes != is.schema.lanes {
            masks.iter_mut().for_each(|mask| *mask |= bit);
            return;
        }
        if Arc::ptr_eq(a, b) {
            return;
        }
        // A row without bytes is equal to every other.
        if is.schema.row_bytes() != Some(0) {
            a.each_difference(b, is.schema.row_bytes().unwrap_or(0), |row| {
                if let Some(mask) = masks.get_mut(row) {
                    *mask |= bit;
                }
            });
        }
    }

    /// Tells apart who left its row and came to another, who is gone, and who is new; both lists are by Uid.
    fn moved(&self, left: &[(Uid, Place)], came: &[(Uid, Place)], entities: &mut Vec<Change>) {
        let (mut left, mut came) = (left.iter().peekable(), came.iter().peekable());
        let all = |image: &Image, place: Place| {
            names_of(&image.tables[place.table as usize]).fold(0, |mask, name| mask | self.bit(name))
        };
        loop {
            let next = [left.peek(), came.peek()].into_iter().flatten().map(|(uid, _)| *uid).min();
            let Some(uid) = next else { return };
            let from = left.next_if(|(other, _)| *other == uid).map(|(_, place)| *place);
            let to = came.next_if(|(other, _)| *other == uid).map(|(_, place)| *place);
            let mask = match (from, to) {
                (Some(from), Some(to)) => self.differing(from, to),
                (Some(from), None) => all(self.from, from),
                (None, Some(to)) => all(self.to, to),
                (None, None) => 0,
            };
            // Only moved.
            if mask != 0 || from.is_none() || to.is_none() {
                entities.push(Change { uid, from, to, mask });
            }
        }
    }

    /// The columns in which two rows differ.
    fn differing(&self, from: Place, to: Place) -> u128 {
        let (old, new) = (&self.from.tables[from.table as usize], &self.to.tables[to.table as usize]);
        let differs = |name: &&str| match (old.column(name), new.column(name)) {
            (Some(a), Some(b)) => {
                let is_other = a.schema.version != b.schema.version || a.schema.lanes != b.schema.lanes;
                is_other || self.from.row(a, from.row as usize) != self.to.row(b, to.row as usize)
            }
            _ => true,
        };
        let names: BTreeSet<&str> = names_of(old).chain(names_of(new)).collect();
        names.into_iter().filter(differs).fold(0, |mask, name| mask | self.bit(name))
    }
}
