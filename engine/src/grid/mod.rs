//! Who is near: a uniform grid over the rows of a world, built anew in each tick.
//!
//! A [`Space`] says which rows are in it, where they are, and which of their columns are copied in the order of cells.
//! [`WorldBuilder::grid`](crate::WorldBuilder::grid) adds the system that builds its [`Grid`]; systems after it ask
//! through [`InCells`], cell by cell, or through `Res<Grid<S>>` for single places. The neighbours of a cell come as a
//! few runs of consecutive members: slices of the copied columns, which a loop goes through without any indirection.
//!
//! The members of a cell are in the order of their Uids, and the runs of a cell in an order of its own: sums of floats
//! over neighbours depend neither on the order of rows nor on threads (W1, W3). The grid shows the rows as they were
//! when it was built, whatever the systems after it write. It is derived: neither hashed nor stored.
//!
//! Built by a counting sort in parallel: cells are counted in blocks of rows, the counts are summed up, and each block
//! puts its rows where they belong.

mod geometry;

pub use geometry::Geometry;

use crate::{
    column::Column,
    ids::Uid,
    image::{Image, TableImage},
    raw::Scatter,
    rows::{Placed, RowData, Rows},
    state::StateResource,
    system::{SystemConfig, system},
};
use bevy_ecs::{prelude::*, query::ArchetypeFilter, storage::TableId, system::SystemParam};
use rayon::prelude::*;
use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// Which rows are in a grid, and what of them.
pub trait Space: Send + Sync + 'static {
    /// The name of the grid and of the system that builds it.
    const NAME: &'static str;
    /// The resource that says how large the space is.
    type Map: StateResource;
    /// The columns that are copied in the order of cells, one to six as a tuple: `(Position, Velocity)`. All rows that
    /// have them are in the grid.
    type Columns: Columns;
    /// Which of these rows are in it: `()` for all.
    type Filter: ArchetypeFilter + 'static;

    /// How the space is divided.
    fn geometry(map: &Self::Map) -> Geometry;

    /// Where a row is. On a torus places lie within it.
    fn place(row: &<Self::Columns as Columns>::Row) -> [f64; 3];
}

/// What may be [`Space::Columns`]: tuples of columns.
pub trait Columns: Send + Sync + 'static {
    /// The columns of one row.
    type Row: Copy + Send + Sync;
    /// The columns of some members of a grid, as slices.
    type Slices<'g>: Copy + Send + Sync;
    #[doc(hidden)]
    type Data: RowData;
    #[doc(hidden)]
    type Store: Default + Send + Sync + 'static;
    #[doc(hidden)]
    type Writer<'s>: Copy + Send + Sync;
    #[doc(hidden)]
    fn plain<'c>(rows: <Self::Data as RowData>::Item<'c>) -> Self::Slices<'c>;
    #[doc(hidden)]
    fn row(rows: Self::Slices<'_>, index: usize) -> Self::Row;
    #[doc(hidden)]
    fn read(table: &TableImage) -> Option<Self::Store>;
    #[doc(hidden)]
    fn resize(store: &mut Self::Store, len: usize);
    #[doc(hidden)]
    fn slices(store: &Self::Store, range: Range<usize>) -> Self::Slices<'_>;
    #[doc(hidden)]
    fn writer(store: &mut Self::Store) -> Self::Writer<'_>;
    #[doc(hidden)]
    fn write(writer: Self::Writer<'_>, index: usize, row: Self::Row);
}

macro_rules! columns_tuple {
    ($($T:ident $t:ident),+) => {
        impl<$($T: Column),+> Columns for ($($T,)+) {
            type Row = ($($T,)+);
            type Slices<'g> = ($(&'g [$T],)+);
            type Data = ($(&'static $T,)+);
            type Store = ($(Vec<$T>,)+);
            type Writer<'s> = ($(Scatter<'s, $T>,)+);

            fn plain<'c>(rows: <Self::Data as RowData>::Item<'c>) -> Self::Slices<'c> {
                rows
            }
            #[inline]
            fn row(($($t,)+): Self::Slices<'_>, index: usize) -> Self::Row {
                ($($t[index],)+)
            }
            fn read(table: &TableImage) -> Option<Self::Store> {
                Some(($(table.rows_of::<$T>()?,)+))
            }
            fn resize(($($t,)+): &mut Self::Store, len: usize) {
                $($t.resize(len, $T::default());)+
            }
            #[inline]
            fn slices(($($t,)+): &Self::Store, range: Range<usize>) -> Self::Slices<'_> {
                ($(&$t[range.clone()],)+)
            }
            fn writer(($($t,)+): &mut Self::Store) -> Self::Writer<'_> {
                ($(Scatter::new($t),)+)
            }
            #[inline]
            fn write(writer: Self::Writer<'_>, index: usize, row: Self::Row) {
                let ($($t,)+) = row;
                let to = writer;
                columns_tuple!(@write to index $($t)+);
            }
        }
    };
    (@write $to:ident $index:ident $a:ident) => { $to.0.write($index, $a); };
    (@write $to:ident $index:ident $a:ident $b:ident) => {
        columns_tuple!(@write $to $index $a);
        $to.1.write($index, $b);
    };
    (@write $to:ident $index:ident $a:ident $b:ident $c:ident) => {
        columns_tuple!(@write $to $index $a $b);
        $to.2.write($index, $c);
    };
    (@write $to:ident $index:ident $a:ident $b:ident $c:ident $d:ident) => {
        columns_tuple!(@write $to $index $a $b $c);
        $to.3.write($index, $d);
    };
    (@write $to:ident $index:ident $a:ident $b:ident $c:ident $d:ident $e:ident) => {
        columns_tuple!(@write $to $index $a $b $c $d);
        $to.4.write($index, $e);
    };
    (@write $to:ident $index:ident $a:ident $b:ident $c:ident $d:ident $e:ident $f:ident) => {
        columns_tuple!(@write $to $index $a $b $c $d $e);
        $to.5.write($index, $f);
    };
}
columns_tuple!(A a);
columns_tuple!(A a, B b);
columns_tuple!(A a, B b, C c);
columns_tuple!(A a, B b, C c, D d);
columns_tuple!(A a, B b, C c, D d, E e);
columns_tuple!(A a, B b, C c, D d, E e, F f);

/// The rows of a [`Space`] in the order of its cells.
#[derive(Resource)]
pub struct Grid<S: Space> {
    geometry: Geometry,
    /// Where the members of each cell begin; one more at the end.
    starts: Vec<u32>,
    /// The copied columns, in the order of members.
    store: <S::Columns as Columns>::Store,
    /// The member of each row, tables one after the other.
    members: Vec<u32>,
    /// The tables, each with its first row among all of them and how many it has.
    tables: Vec<(TableId, usize, usize)>,
    /// The state of [`Marks::structure`] that it is of.
    structure: u64,
    /// Kept from tick to tick for their memory alone.
    scratch: Scratch,
}

#[derive(Default)]
struct Scratch {
    /// The cell of each row.
    cells: Vec<u32>,
    /// Members of each cell, by block of rows.
    counts: Vec<Vec<u32>>,
    /// Uid and row of each member, while these are sorted.
    who: Vec<[u64; 2]>,
}

impl<S: Space> Default for Grid<S> {
    fn default() -> Self {
        Self {
            geometry: Geometry::default(),
            starts: vec![0, 0],
            store: <S::Columns as Columns>::Store::default(),
            members: Vec::new(),
            tables: Vec::new(),
            structure: 0,
            scratch: Scratch::default(),
        }
    }
}

/// The system that builds a grid; [`WorldBuilder::grid`](crate::WorldBuilder::grid) adds it, other systems name it where
/// they say what they come after.
pub fn build<S: Space>(
    mut grid: ResMut<Grid<S>>,
    map: Res<S::Map>,
    mut rows: Rows<(&'static Uid, <S::Columns as Columns>::Data), S::Filter>,
) {
    let structure = rows.structure();
    let plain = |task: Placed<(_, _)>| {
        let Placed { table, first_row, len, rows: (uids, rows) } = task;
        Placed { table, first_row, len, rows: (uids, S::Columns::plain(rows)) }
    };
    let tasks = rows.placed().into_iter().map(plain);
    grid.build(S::geometry(&map), &tasks.collect::<Vec<_>>(), structure);
}

pub(crate) fn config<S: Space>() -> SystemConfig {
    system(build::<S>).named(S::NAME)
}

/// The slices of a task of a grid's rows.
type Task<'c, S> = Placed<(&'c [Uid], <<S as Space>::Columns as Columns>::Slices<'c>)>;

/// So many rows are not worth a second thread.
const BLOCK_ROWS_MIN: usize = 8_192;
/// More cells for each row than this cost more than they save.
const CELLS_PER_ROW: usize = 2;
/// So many cells there may be in any case.
const CELLS_MIN: usize = 1_024;
/// About so many members are one task.
const TASK_MEMBERS: usize = 1_024;

impl<S: Space> Grid<S> {
    fn build(&mut self, geometry: Geometry, tasks: &[Task<'_, S>], structure: u64) {
        let rows: usize = tasks.iter().map(|task| task.len).sum();
        assert!(u32::try_from(rows).is_ok(), "a grid has at most {} rows", u32::MAX);
        let geometry = geometry.at_most((rows * CELLS_PER_ROW).max(CELLS_MIN));
        let count = geometry.count();
        (self.geometry, self.structure) = (geometry, structure);
        self.note_tables(tasks);
        let blocks = if rayon::current_thread_index().is_some() {
            rayon::current_num_threads().min(rows / BLOCK_ROWS_MIN).max(1)
        } else {
            1
        };
        let Scratch { cells, counts, who } = &mut self.scratch;
        counts.resize_with(blocks, Vec::new);
        for (buffer, len) in [(&mut *cells, rows), (&mut self.members, rows), (&mut self.starts, count + 1)] {
            buffer.resize(len, 0);
        }
        S::Columns::resize(&mut self.store, rows);

        // Which cell each row is in, and how many each block has in a cell.
        let per_block = tasks.len().div_ceil(blocks).max(1);
        let is_sorted = AtomicBool::new(true);
        let mut cells_left = cells.as_mut_slice();
        let mut counting = Vec::new();
        for (tasks, counts) in tasks.chunks(per_block).zip(counts.iter_mut()) {
            let (own, rest) = cells_left.split_at_mut(tasks.iter().map(|task| task.len).sum());
            cells_left = rest;
            counting.push((tasks, counts, own));
        }
        let used = counting.len();
        each(counting, |(tasks, counts, mut cells)| {
            counts.clear();
            counts.resize(count, 0);
            let mut last = None;
            for Placed { rows: (uids, columns), len, .. } in tasks {
                let (own, rest) = cells.split_at_mut(*len);
                cells = rest;
                for (i, cell) in own.iter_mut().enumerate() {
                    *cell = geometry.cell_of(S::place(&S::Columns::row(*columns, i))) as u32;
                    counts[*cell as usize] += 1;
                }
                let ascends = uids.is_sorted() && uids.first().is_none_or(|first| last < Some(*first));
                last = uids.last().copied().or(last);
                if !ascends {
                    is_sorted.store(false, Relaxed);
                }
            }
        });
        // Also from block to block.
        let ends = |tasks: &[Task<'_, S>]| {
            let first = tasks.iter().find_map(|task| task.rows.0.first().copied());
            let last = tasks.iter().rev().find_map(|task| task.rows.0.last().copied());
            (first, last)
        };
        let borders: Vec<_> = tasks.chunks(per_block).map(ends).collect();
        let is_sorted = is_sorted.into_inner() && borders.windows(2).all(|pair| pair[0].1 < pair[1].0);

        // Where each block's members of a cell begin.
        let mut next = 0;
        for (cell, start) in self.starts[..count].iter_mut().enumerate() {
            *start = next;
            for counts in &mut counts[..used] {
                let here = counts[cell];
                counts[cell] = next;
                next += here;
            }
        }
        self.starts[count] = next;

        // Each row to its place.
        let mut members_left = self.members.as_mut_slice();
        let mut cells_left = cells.as_slice();
        let mut placing = Vec::new();
        for (tasks, next) in tasks.chunks(per_block).zip(counts.iter_mut()) {
            let rows = tasks.iter().map(|task| task.len).sum();
            let (members, rest) = members_left.split_at_mut(rows);
            members_left = rest;
            let (cells, rest) = cells_left.split_at(rows);
            cells_left = rest;
            placing.push((tasks, next, members, cells));
        }
        if is_sorted {
            let to = S::Columns::writer(&mut self.store);
            each(placing, |(tasks, next, mut members, mut cells)| {
                for Placed { rows: (_, columns), len, .. } in tasks {
                    let (own, rest) = members.split_at_mut(*len);
                    members = rest;
                    let (of, rest) = cells.split_at(*len);
                    cells = rest;
                    for (i, (member, cell)) in own.iter_mut().zip(of).enumerate() {
                        let place = &mut next[*cell as usize];
                        *member = *place;
                        *place += 1;
                        S::Columns::write(to, *member as usize, S::Columns::row(*columns, i));
                    }
                }
            });
            return;
        }
        // The rows are not in the order of Uids: the members of each cell are sorted.
        who.resize(rows, [0; 2]);
        let to = Scatter::new(who);
        let mut first = 0;
        let placing = placing.into_iter().map(|(tasks, next, members, cells)| {
            first += members.len();
            (tasks, next, first - members.len(), cells)
        });
        each(placing.collect(), |(tasks, next, mut row, mut cells)| {
            for Placed { rows: (uids, _), len, .. } in tasks {
                let (of, rest) = cells.split_at(*len);
                cells = rest;
                for (uid, cell) in uids.iter().zip(of) {
                    let place = &mut next[*cell as usize];
                    to.write(*place as usize, [uid.get(), row as u64]);
                    *place += 1;
                    row += 1;
                }
            }
        });
        let starts = &self.starts;
        let to = Scatter::new(&mut self.members);
        each(split_at_cells(who, starts), |(cells, who): (Range<usize>, &mut [[u64; 2]])| {
            let first = starts[cells.start];
            for cell in cells {
                let members = (starts[cell] - first) as usize..(starts[cell + 1] - first) as usize;
                who[members].sort_unstable();
            }
            for (member, [_, row]) in (first..).zip(&*who) {
                to.write(*row as usize, member);
            }
        });
        let to = S::Columns::writer(&mut self.store);
        let mut members_left = self.members.as_slice();
        let copying = tasks.chunks(per_block).map(|tasks| {
            let (members, rest) = members_left.split_at(tasks.iter().map(|task| task.len).sum());
            members_left = rest;
            (tasks, members)
        });
        each(copying.collect(), |(tasks, mut members)| {
            for Placed { rows: (_, columns), len, .. } in tasks {
                let (own, rest) = members.split_at(*len);
                members = rest;
                for (i, member) in own.iter().enumerate() {
                    S::Columns::write(to, *member as usize, S::Columns::row(*columns, i));
                }
            }
        });
    }

    fn note_tables(&mut self, tasks: &[Task<'_, S>]) {
        self.tables.clear();
        let mut first = 0;
        for task in tasks {
            match self.tables.last_mut() {
                Some((table, _, len)) if *table == task.table => *len += task.len,
                _ => self.tables.push((task.table, first, task.len)),
            }
            first += task.len;
        }
    }

    /// How many rows are in it.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// True when nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How the space is divided, which is at least as coarse as [`Space::geometry`] says.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The columns of some members.
    #[inline]
    pub fn columns(&self, members: Range<usize>) -> <S::Columns as Columns>::Slices<'_> {
        S::Columns::slices(&self.store, members)
    }

    #[inline]
    fn members_of(&self, cells: Range<usize>) -> Range<usize> {
        self.starts[cells.start] as usize..self.starts[cells.end] as usize
    }

    /// Who may be near to a place: the members of all cells within reach, run by run.
    #[inline]
    pub fn around(&self, place: [f64; 3], mut found: impl FnMut(Run)) {
        self.geometry.near(self.geometry.cell_of(place), |cells, shift| {
            let members = self.members_of(cells);
            if !members.is_empty() {
                found(Run { members, shift });
            }
        });
    }

    /// Each cell with somebody in it, one after the other.
    pub fn each_cell(&self, mut look: impl FnMut(&Cell<'_, S>)) {
        let mut runs = Vec::new();
        for cell in 0..self.starts.len() - 1 {
            self.look_from(cell, &mut runs, &mut look);
        }
    }

    #[inline]
    fn look_from(&self, cell: usize, runs: &mut Vec<Run>, look: impl FnOnce(&Cell<'_, S>)) {
        let members = self.members_of(cell..cell + 1);
        if !members.is_empty() {
            self.runs_of(cell, runs);
            look(&Cell { grid: self, members, runs });
        }
    }

    fn runs_of(&self, cell: usize, runs: &mut Vec<Run>) {
        runs.clear();
        self.geometry.near(cell, |cells, shift| {
            let members = self.members_of(cells);
            if !members.is_empty() {
                runs.push(Run { members, shift });
            }
        });
    }
}

impl<S: Space<Filter = ()>> Grid<S> {
    /// The grid of a state, for whoever looks at a world from outside. `None` where that has no such space, or what is
    /// stored of it is not as this build has it.
    pub fn of(image: &Image) -> Option<Self> {
        let map: S::Map = image.value()?;
        let tables = image.tables.iter().filter_map(|table| {
            let store = S::Columns::read(table)?;
            Some((table.uids().collect::<Vec<Uid>>(), store))
        });
        let tables: Vec<_> = tables.collect();
        let tasks = tables.iter().enumerate().map(|(i, (uids, store))| Placed {
            table: TableId::from_usize(i),
            first_row: 0,
            len: uids.len(),
            rows: (&uids[..], S::Columns::slices(store, 0..uids.len())),
        });
        let mut grid = Self::default();
        grid.build(S::geometry(&map), &tasks.collect::<Vec<_>>(), 0);
        Some(grid)
    }
}

/// Members of a grid that follow each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Which.
    pub members: Range<usize>,
    /// To be added to their places to see them from where one is: not zero only across the seam of a torus.
    pub shift: [f64; 3],
}

/// A cell with somebody in it, and who is around.
pub struct Cell<'g, S: Space> {
    grid: &'g Grid<S>,
    members: Range<usize>,
    runs: &'g [Run],
}

impl<'g, S: Space> Cell<'g, S> {
    /// The numbers of its members among all.
    pub fn members(&self) -> Range<usize> {
        self.members.clone()
    }

    /// The columns of its members.
    pub fn columns(&self) -> <S::Columns as Columns>::Slices<'g> {
        self.grid.columns(self.members())
    }

    /// All who may be near to its members, themselves among them.
    pub fn runs(&self) -> impl Iterator<Item = (&'g Run, <S::Columns as Columns>::Slices<'g>)> {
        let grid = self.grid;
        self.runs.iter().map(move |run| (run, grid.columns(run.members.clone())))
    }
}

/// Works on the rows of a grid: cell by cell where it looks around, then row by row where it writes. `O` is what the
/// first comes to for each row.
#[derive(SystemParam)]
pub struct InCells<'w, 's, S: Space, D: RowData, O: Copy + Default + Send + Sync + 'static> {
    grid: Res<'w, Grid<S>>,
    rows: Rows<'w, 's, D, <S as Space>::Filter>,
    results: Local<'s, Vec<O>>,
}

impl<S: Space, D: RowData, O: Copy + Default + Send + Sync + 'static> InCells<'_, '_, S, D, O> {
    /// `look` is given each cell with somebody in it, and writes one result for each of its members, in their order.
    /// `write` is given the slices of some rows with the results of each of them. Both in parallel.
    ///
    /// Rows that were not in the grid when it was built, as their columns came later, are left out.
    ///
    /// # Panics
    /// When entities came, went or moved since the grid was built: it has to be built after they did.
    pub fn for_each(
        &mut self,
        look: impl Fn(&Cell<'_, S>, &mut [O]) + Sync + Send,
        write: impl Fn(D::Item<'_>, Results<'_, O>) + Sync + Send,
    ) {
        let grid = &*self.grid;
        if grid.is_empty() {
            return;
        }
        assert!(
            grid.structure == self.rows.structure(),
            "the grid \"{}\" is of before entities came, went or changed their columns: use it in the same phase as they do, or build it after",
            S::NAME
        );
        self.results.resize(grid.len(), O::default());
        each(
            split_at_cells(&mut self.results, &grid.starts),
            |(cells, results): (Range<usize>, &mut [O])| {
                let first = grid.starts[cells.start] as usize;
                let mut runs = Vec::new();
                for cell in cells {
                    grid.look_from(cell, &mut runs, |cell| {
                        let members = cell.members();
                        look(cell, &mut results[members.start - first..members.end - first]);
                    });
                }
            },
        );
        let results = &self.results[..];
        let tasks = self.rows.placed().into_iter().filter_map(|task| {
            let (_, first, _) = grid.tables.iter().find(|(table, ..)| *table == task.table)?;
            Some((task.rows, &grid.members[first + task.first_row..][..task.len]))
        });
        each(tasks.collect(), |(rows, members)| write(rows, Results { results, members }));
    }
}

/// What looking around came to for some rows.
#[derive(Clone, Copy)]
pub struct Results<'r, O> {
    results: &'r [O],
    members: &'r [u32],
}

impl<O: Copy> Results<'_, O> {
    /// The result of the row at that index of the slices.
    #[inline]
    pub fn of(&self, index: usize) -> O {
        self.results[self.members[index] as usize]
    }
}

/// Runs over items, on a worker of a rayon pool in parallel.
fn each<T: Send>(items: Vec<T>, body: impl Fn(T) + Sync + Send) {
    // A tick that is run serially is not on a worker: rayon would hand the work to its global pool.
    if items.len() > 1 && rayon::current_thread_index().is_some() {
        items.into_par_iter().for_each(body);
    } else {
        items.into_iter().for_each(body);
    }
}

/// Cuts what there is for each member between cells, into parts of some cells each.
fn split_at_cells<'m, T>(mut members: &'m mut [T], starts: &[u32]) -> Vec<(Range<usize>, &'m mut [T])> {
    let (mut parts, mut cell, mut from) = (Vec::new(), 0, 0);
    let last = starts.len() - 1;
    while cell < last {
        let wanted = from + TASK_MEMBERS;
        let end = starts.partition_point(|start| (*start as usize) < wanted).clamp(cell + 1, last);
        let to = starts[end] as usize;
        let (part, rest) = members.split_at_mut(to - from);
        members = rest;
        parts.push((cell..end, part));
        (cell, from) = (end, to);
    }
    parts
}
