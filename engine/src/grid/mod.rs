//! Who is near: a uniform grid over the rows of a world, built anew in each tick in which they may have moved.
//!
//! Rows that stand still need no more: a grid whose columns no system writes is built anew only when entities come, go or
//! change their columns, or an input is applied. What moves and what stands still are therefore best two spaces.
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
//! Built by a counting sort in two steps, both in parallel: into some hundred buckets of neighbouring cells first, then cell by
//! cell within each bucket. One step would miss the caches with each row; so all that is written lies in as many streams as
//! there are buckets, or within one of them. Results come back to the rows by the same way.

mod geometry;

pub use geometry::Geometry;

use crate::{
    column::Column,
    fold::OrderFree,
    ids::Uid,
    image::{Image, TableImage},
    pool::{each, sum},
    raw::{Places, PlainRow, Scatter},
    rows::{Placed, RowData, Rows},
    state::StateResource,
    system::{SystemConfig, system},
};
use bevy_ecs::{
    component::ComponentId, prelude::*, query::ArchetypeFilter, storage::TableId, system::SystemParam,
};
use bytemuck::Pod;
use std::{
    collections::BTreeMap,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// Which rows are in a grid, and what of them.
pub trait Space: Send + Sync + 'static {
    /// The name of the grid and of the system that builds it.
    const NAME: &'static str;
    /// The resource that says how large the space is.
    type Map: StateResource;
    /// The columns that are copied in the order of cells, one to six as a tuple: `(Position, Velocity)`, or [`Projected`]
    /// of what is kept of them. All rows that have them are in the grid.
    type Columns: Columns;
    /// Which of these rows are in it: `()` for all.
    type Filter: ArchetypeFilter + 'static;

    /// How the space is divided.
    fn geometry(map: &Self::Map) -> Geometry;

    /// Where a row is. On a torus places lie within it.
    fn place(row: &Self::Columns) -> [f64; 3];

    /// Whether a row is in it now: those that are not cost no more than this question. All are, where nothing is said.
    #[inline]
    fn is_in(_row: &Self::Columns) -> bool {
        true
    }
}

/// The cell, and the slot, of a row that is not in the grid.
const ABSENT: u32 = u32::MAX;

/// What may be [`Space::Columns`]: tuples of columns, and what is [`Projected`] from them.
pub trait Columns: PlainRow + Default {
    #[doc(hidden)]
    type Data: RowData;
    /// The columns of some rows, side by side.
    #[doc(hidden)]
    type Slices<'c>: Copy + Send + Sync;
    #[doc(hidden)]
    fn plain(rows: <Self::Data as RowData>::Item<'_>) -> Self::Slices<'_>;
    #[doc(hidden)]
    fn row(rows: Self::Slices<'_>, index: usize) -> Self;
    /// The same columns, by value.
    #[doc(hidden)]
    type Vecs;
    #[doc(hidden)]
    fn read(table: &TableImage) -> Option<Self::Vecs>;
    #[doc(hidden)]
    fn slices(vecs: &Self::Vecs) -> Self::Slices<'_>;
}

macro_rules! columns_tuple {
    ($($T:ident $t:ident),+) => {
        impl<$($T: Column),+> Columns for ($($T,)+) {
            type Data = ($(&'static $T,)+);
            type Slices<'c> = ($(&'c [$T],)+);

            fn plain(rows: <Self::Data as RowData>::Item<'_>) -> Self::Slices<'_> {
                rows
            }
            #[inline]
            fn row(($($t,)+): Self::Slices<'_>, index: usize) -> Self {
                ($($t[index],)+)
            }
            type Vecs = ($(Vec<$T>,)+);
            fn read(table: &TableImage) -> Option<Self::Vecs> {
                Some(($(table.rows_of::<$T>()?,)+))
            }
            fn slices(($($t,)+): &Self::Vecs) -> Self::Slices<'_> {
                ($(&$t[..],)+)
            }
        }
    };
}
columns_tuple!(A a);
columns_tuple!(A a, B b);
columns_tuple!(A a, B b, C c);
columns_tuple!(A a, B b, C c, D d);
columns_tuple!(A a, B b, C c, D d, E e);
columns_tuple!(A a, B b, C c, D d, E e, F f);

/// What is kept of a row where its columns hold more than is asked of it in the grid: a grid is copied twice in each tick
/// in which it is built, and its rows are what looking around reads. A space names it as [`Projected`].
pub trait Projection: Pod + Default + Send + Sync {
    /// What it is made of.
    type From: Columns;

    /// What is kept of a row.
    fn of(row: Self::From) -> Self;
}

/// Rows as a [`Projection`] keeps them: `type Columns = Projected<Bird>`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(transparent)]
pub struct Projected<P>(pub P);

impl<P: Projection> Columns for Projected<P> {
    type Data = <P::From as Columns>::Data;
    type Slices<'c> = <P::From as Columns>::Slices<'c>;

    fn plain(rows: <Self::Data as RowData>::Item<'_>) -> Self::Slices<'_> {
        P::From::plain(rows)
    }
    #[inline]
    fn row(rows: Self::Slices<'_>, index: usize) -> Self {
        Self(P::of(P::From::row(rows, index)))
    }
    type Vecs = <P::From as Columns>::Vecs;
    fn read(table: &TableImage) -> Option<Self::Vecs> {
        P::From::read(table)
    }
    fn slices(vecs: &Self::Vecs) -> Self::Slices<'_> {
        P::From::slices(vecs)
    }
}

/// The rows of a [`Space`] in the order of its cells.
#[derive(Resource)]
pub struct Grid<S: Space> {
    geometry: Geometry,
    /// Where the members of each cell begin; one more at the end.
    starts: Vec<u32>,
    /// The copied columns, in the order of members.
    rows: Vec<S::Columns>,
    /// Where the members of each bucket begin, and its slots; one more at the end.
    buckets: Vec<u32>,
    /// A bucket has two to this many cells.
    bucket_bits: u32,
    /// The slot of each row or [`ABSENT`], tables one after the other: slots lie bucket by bucket, in a bucket in the order of
    /// rows.
    slots: Vec<u32>,
    /// The slot of each member.
    order: Vec<u32>,
    /// The tables, each with its first row among all of them and how many it has.
    tables: Vec<(TableId, usize, usize)>,
    /// The state of structure that it is of, see [`Rows`]; none while it is of nothing.
    structure: Option<u64>,
    /// What it was asked to be.
    asked: Geometry,
    /// No system writes its columns: it stays as it is until structure changes, or an input comes.
    is_still: bool,
    /// Kept from tick to tick for their memory alone.
    scratch: Scratch<S::Columns>,
}

#[derive(Default)]
struct Scratch<C> {
    /// The cell of each row.
    cells: Vec<u32>,
    /// Where the rows of each block go.
    places: Places,
    /// The rows in the order of slots.
    stream: Vec<Streamed<C>>,
    /// Their Uids, where rows are not in the order of these.
    uids: Vec<u64>,
    /// The columns in the order of slots, when they are copied again.
    fresh: Vec<C>,
}

/// A row on its way to its cell.
#[derive(Clone, Copy, Default)]
struct Streamed<C> {
    row: C,
    cell: u32,
}

impl<S: Space> Default for Grid<S> {
    fn default() -> Self {
        Self {
            geometry: Geometry::default(),
            starts: vec![0, 0],
            rows: Vec::new(),
            buckets: vec![0],
            bucket_bits: 0,
            slots: Vec::new(),
            order: Vec::new(),
            tables: Vec::new(),
            structure: None,
            asked: Geometry::default(),
            is_still: false,
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
    let (structure, geometry) = (rows.structure(), S::geometry(&map));
    if grid.is_still && grid.structure == Some(structure) && grid.asked == geometry {
        return;
    }
    let plain = |task: Placed<(_, _)>| {
        let Placed { table, first_row, len, rows: (uids, rows) } = task;
        Placed { table, first_row, len, rows: (uids, S::Columns::plain(rows)) }
    };
    let mut tasks: Vec<_> = rows.placed().into_iter().map(plain).collect();
    // Tables by their first Uids: often all rows are in the order of Uids then.
    let firsts = tasks.iter().filter(|task| task.first_row == 0);
    let firsts: BTreeMap<usize, Option<Uid>> =
        firsts.map(|task| (task.table.as_usize(), task.rows.0.first().copied())).collect();
    tasks.sort_by_key(|task| firsts.get(&task.table.as_usize()).copied());
    grid.build(geometry, &tasks, structure);
}

/// Copies the columns of the rows of a grid again: for systems that are to see what others wrote since it was built. Who is
/// in which cell stays: what is written between may be anything but places.
///
/// # Panics
/// When entities came, went or moved since the grid was built.
pub fn refresh<S: Space>(
    mut grid: ResMut<Grid<S>>,
    mut rows: Rows<<S::Columns as Columns>::Data, S::Filter>,
) {
    let grid = &mut *grid;
    // Also where nobody builds it: a disabled system leaves it empty.
    if grid.structure.is_none() {
        return;
    }
    grid.expect_structure(rows.structure());
    let Grid { rows: own, buckets, slots, order, tables, scratch, .. } = grid;
    scratch.fresh.resize(own.len(), S::Columns::default());
    let to = Scatter::new(&mut scratch.fresh);
    let tasks = rows.placed().into_iter().filter_map(|task| {
        let (_, first, _) = tables.iter().find(|(table, ..)| *table == task.table)?;
        Some((S::Columns::plain(task.rows), &slots[first + task.first_row..][..task.len]))
    });
    each(tasks.collect(), |(columns, slots)| {
        for (i, slot) in slots.iter().enumerate().filter(|(_, slot)| **slot != ABSENT) {
            to.write(*slot as usize, S::Columns::row(columns, i));
        }
    });
    let from = &scratch.fresh;
    each(split(own, buckets).zip(split(order, buckets)).collect(), |(rows, order)| {
        for (row, slot) in rows.iter_mut().zip(order) {
            *row = from[*slot as usize];
        }
    });
}

/// What a world does with a grid, whatever its space.
#[derive(Clone, Copy)]
pub(crate) struct GridKind {
    /// The columns that its rows are found and copied by.
    pub(crate) columns: fn(&mut World) -> Vec<ComponentId>,
    /// No system writes these.
    pub(crate) stand_still: fn(&mut World),
}

impl GridKind {
    pub(crate) fn of<S: Space>() -> Self {
        Self {
            columns: |world| {
                let mut ids = Vec::new();
                <S::Columns as Columns>::Data::register(world, &mut ids);
                ids
            },
            stand_still: |world| world.resource_mut::<Grid<S>>().is_still = true,
        }
    }
}

/// Empties a grid, and leaves it its memory.
pub(crate) fn empty<S: Space>(world: &mut World) {
    let grid = &mut *world.resource_mut::<Grid<S>>();
    (grid.geometry, grid.structure) = (Geometry::default(), None);
    grid.rows.clear();
    grid.slots.clear();
    grid.order.clear();
    grid.tables.clear();
    grid.buckets.truncate(1);
    grid.starts.clear();
    grid.starts.extend([0, 0]);
}

pub(crate) fn config<S: Space>() -> SystemConfig {
    system(build::<S>).named(S::NAME)
}

/// Builds a grid outside a tick, for its memory: the first tick of a world is not to wait for a hundred megabytes. What
/// goes wrong here goes wrong in the first tick, where it is told.
pub(crate) fn warm<S: Space>(world: &mut World) {
    let mut system = IntoSystem::into_system(build::<S>);
    let _ = catch_unwind(AssertUnwindSafe(|| {
        system.initialize(world);
        system.run((), world)
    }));
}

/// The slices of a task of a grid's rows.
type Task<'c, S> = Placed<(&'c [Uid], <<S as Space>::Columns as Columns>::Slices<'c>)>;

fn rows_of<R>(tasks: &[Placed<R>]) -> usize {
    tasks.iter().map(|task| task.len).sum()
}

/// So many rows are not worth a second thread.
const BLOCK_ROWS_MIN: usize = 8_192;
/// More cells for each row than this cost more than they save.
const CELLS_PER_ROW: usize = 2;
/// So many cells there may be in any case.
const CELLS_MIN: usize = 1_024;
/// About so many rows are a bucket, but there are no more buckets than what can be written to side by side in a cache.
const BUCKET_ROWS: usize = 2_048;
const BUCKETS_MAX: usize = 1_024;
/// About so many members are one task.
const TASK_MEMBERS: usize = 1_024;

impl<S: Space> Grid<S> {
    fn build(&mut self, geometry: Geometry, tasks: &[Task<'_, S>], structure: u64) {
        // Of nothing, until it is done: a place that cannot be told may end it halfway.
        self.structure = None;
        self.asked = geometry;
        let rows = rows_of(tasks);
        let geometry = geometry.at_most((rows * CELLS_PER_ROW).max(CELLS_MIN));
        let count = geometry.count();
        self.geometry = geometry;
        self.note_tables(tasks);
        let is_worker = rayon::current_thread_index().is_some();
        let blocks =
            if is_worker { rayon::current_num_threads().min(rows / BLOCK_ROWS_MIN).max(1) } else { 1 };
        let bits =
            (count.div_ceil((rows / BUCKET_ROWS).clamp(1, BUCKETS_MAX)) as u32).next_power_of_two().ilog2();
        self.bucket_bits = bits;
        let bucket_count = count.div_ceil(1 << bits);
        let Scratch { cells, places, stream, uids: uids_of, .. } = &mut self.scratch;
        for (buffer, len) in [
            (&mut *cells, rows),
            (&mut self.slots, rows),
            (&mut self.starts, count + 1),
            (&mut self.buckets, bucket_count + 1),
        ] {
            buffer.resize(len, 0);
        }

        // Which cell each row is in, and how many each block has in a bucket.
        let per_block = tasks.len().div_ceil(blocks).max(1);
        let blocks = || tasks.chunks(per_block);
        let is_sorted = AtomicBool::new(true);
        let mut cells_left = cells.as_mut_slice();
        let counting = blocks().zip(places.counts(blocks().len(), bucket_count)).map(|(tasks, counts)| {
            (tasks, counts, cells_left.split_off_mut(..rows_of(tasks)).expect("as many cells as rows"))
        });
        each(counting.collect(), |(tasks, counts, mut cells)| {
            counts.fill([0; 2]);
            let mut last = None;
            for Placed { rows: (uids, columns), len, .. } in tasks {
                let own = cells.split_off_mut(..*len).expect("as many cells as rows");
                for (i, cell) in own.iter_mut().enumerate() {
                    let row = S::Columns::row(*columns, i);
                    *cell = ABSENT;
                    if S::is_in(&row) {
                        *cell = geometry.cell_of(S::place(&row)) as u32;
                        counts[*cell as usize >> bits][0] += 1;
                    }
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
        let borders: Vec<_> = blocks().map(ends).collect();
        let is_sorted = is_sorted.into_inner() && borders.windows(2).all(|pair| pair[0].1 < pair[1].0);
        places.lay_out(&mut self.buckets);
        let members = self.buckets[bucket_count] as usize;
        self.rows.resize(members, S::Columns::default());
        self.order.resize(members, 0);
        stream.resize(members, Streamed::default());

        // Each row to its bucket.
        let (mut cells_left, mut slots_left) = (cells.as_slice(), self.slots.as_mut_slice());
        let placing = blocks().zip(places.of_blocks(stream)).map(|(tasks, places)| {
            let rows = rows_of(tasks);
            let slots = slots_left.split_off_mut(..rows).expect("as many slots as rows");
            (tasks, places, slots, cells_left.split_off(..rows).expect("as many cells as rows"))
        });
        each(placing.collect(), |(tasks, mut places, slots, cells)| {
            let mut each_row = slots.iter_mut().zip(cells);
            for Placed { rows: (_, columns), len, .. } in tasks {
                for (i, (slot, cell)) in each_row.by_ref().take(*len).enumerate() {
                    *slot = ABSENT;
                    if *cell != ABSENT {
                        let row = S::Columns::row(*columns, i);
                        *slot = places.put(*cell as usize >> bits, Streamed { row, cell: *cell });
                    }
                }
            }
        });
        if !is_sorted {
            uids_of.resize(members, 0);
            let to = Scatter::new(uids_of);
            let mut slots_left = self.slots.as_slice();
            let naming = tasks
                .iter()
                .map(|task| (task.rows.0, slots_left.split_off(..task.len).expect("as many slots as rows")));
            each(naming.collect(), |(uids, slots)| {
                let here = uids.iter().zip(slots).filter(|(_, slot)| **slot != ABSENT);
                here.for_each(|(uid, slot)| to.write(*slot as usize, uid.get()));
            });
        }

        // In each bucket, cell by cell.
        let (stream, uids_of) = (&*stream, &uids_of[..]);
        let (cells, end) = self.starts.split_at_mut(count);
        end[0] = members as u32;
        let members = split(&mut self.rows, &self.buckets).zip(split(&mut self.order, &self.buckets));
        let firsts = self.buckets.iter().map(|first| *first as usize);
        let sorting = cells.chunks_mut(1 << bits).zip(members).zip(firsts);
        each(sorting.enumerate().collect(), |(bucket, ((starts, (rows, order)), first))| {
            let stream = &stream[first..first + rows.len()];
            sort_bucket(starts, rows, order, stream, (bucket << bits, first));
            if !is_sorted {
                sort_cells(starts, rows, order, stream, &uids_of[first..first + stream.len()], first);
            }
        });
        self.structure = Some(structure);
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

    /// Whether its rows stand still: no system writes the columns that are copied, so that it is built anew only when
    /// entities come, go or change their columns, or an input is applied.
    pub fn is_still(&self) -> bool {
        self.is_still
    }

    /// How many rows are in it.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True when nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How the space is divided, which is at least as coarse as [`Space::geometry`] says.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The copied columns of all members, cell by cell.
    #[inline]
    pub fn rows(&self) -> &[S::Columns] {
        &self.rows
    }

    fn expect_structure(&self, now: u64) {
        assert!(
            self.structure == Some(now),
            "the grid \"{}\" is of before entities came, went or changed their columns: use it in the same phase as they do, or build it after",
            S::NAME
        );
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

    /// Who is nearest to a place: at most `most` members within `within`, the nearest first, those that are as near in the
    /// order of their Uids; the shorter way on a torus. `who` says who a member is, and leaves out whom it has no name for.
    ///
    /// `within` may be far more than what is near by the geometry: shells of cells are searched until there cannot be
    /// anybody nearer in those outside.
    pub fn nearest(
        &self,
        place: [f64; 3],
        most: usize,
        within: f64,
        who: impl Fn(&S::Columns) -> Option<Uid>,
        found: &mut Vec<Near>,
    ) {
        found.clear();
        if most == 0 {
            return;
        }
        let mut limit = within * within;
        for away in 0.. {
            let beyond = self.geometry.shell(place, away, |cell| {
                for member in self.members_of(cell..cell + 1) {
                    let row = &self.rows[member];
                    let way = self.geometry.way(place, S::place(row));
                    let square = way[0] * way[0] + way[1] * way[1] + way[2] * way[2];
                    let Some(uid) = (square <= limit).then(|| who(row)).flatten() else { continue };
                    let at = found.partition_point(|near| (near.square, near.uid) < (square, uid));
                    if at < most {
                        found.truncate(most - 1);
                        found.insert(at, Near { member, uid, square });
                    }
                    if found.len() == most {
                        limit = found.last().map_or(limit, |near| near.square);
                    }
                }
            });
            // Nor is there anybody else, however far one looks.
            if beyond * beyond > limit || beyond == f64::INFINITY {
                break;
            }
        }
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
            let rows = S::Columns::read(table)?;
            Some((table.uids().collect::<Vec<Uid>>(), rows))
        });
        let tables: Vec<_> = tables.collect();
        let tasks = tables.iter().enumerate().map(|(i, (uids, rows))| Placed {
            table: TableId::from_usize(i),
            first_row: 0,
            len: uids.len(),
            rows: (&uids[..], S::Columns::slices(rows)),
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

/// Somebody near, see [`Grid::nearest`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Near {
    /// Its number among all members.
    pub member: usize,
    /// Who it is.
    pub uid: Uid,
    /// The square of how far away it is.
    pub square: f64,
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

    /// The copied columns of its members.
    #[inline]
    pub fn rows(&self) -> &'g [S::Columns] {
        &self.grid.rows[self.members()]
    }

    /// All who may be near to its members, themselves among them.
    #[inline]
    pub fn runs(&self) -> impl Iterator<Item = (&'g Run, &'g [S::Columns])> {
        let grid = self.grid;
        self.runs.iter().map(move |run| (run, &grid.rows[run.members.clone()]))
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
    /// `write` is given the slices of some rows with the results of each of them, which for those who are not in the space
    /// now is the default. Both in parallel.
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
        self.sum(look, write);
    }

    /// Like [`InCells::for_each`], and adds up what `write` returns, in any order.
    pub fn sum<T: OrderFree>(
        &mut self,
        look: impl Fn(&Cell<'_, S>, &mut [O]) + Sync + Send,
        write: impl Fn(D::Item<'_>, Results<'_, O>) -> T + Sync + Send,
    ) -> T {
        let grid = &*self.grid;
        // Where nobody builds it.
        if grid.structure.is_none() {
            return T::default();
        }
        grid.expect_structure(self.rows.structure());
        self.results.resize(grid.len(), O::default());
        let buckets = split(&mut self.results, &grid.buckets).zip(&grid.buckets).enumerate();
        each(buckets.collect(), |(bucket, (results, first))| {
            let cells =
                bucket << grid.bucket_bits..((bucket + 1) << grid.bucket_bits).min(grid.starts.len() - 1);
            let mut found = vec![O::default(); results.len()];
            each(
                split_at_cells(&mut found, &grid.starts[cells.start..=cells.end]),
                |(part, found): (Range<usize>, &mut [O])| {
                    let from = grid.starts[cells.start + part.start] as usize;
                    let mut runs = Vec::new();
                    for cell in part {
                        grid.look_from(cells.start + cell, &mut runs, |cell| {
                            let members = cell.members();
                            look(cell, &mut found[members.start - from..members.end - from]);
                        });
                    }
                },
            );
            let slots = &grid.order[*first as usize..][..found.len()];
            for (slot, found) in slots.iter().zip(found) {
                results[(slot - first) as usize] = found;
            }
        });
        let results = &self.results[..];
        let tasks = self.rows.placed().into_iter().filter_map(|task| {
            let (_, first, _) = grid.tables.iter().find(|(table, ..)| *table == task.table)?;
            Some((task.rows, &grid.slots[first + task.first_row..][..task.len]))
        });
        sum(tasks.collect(), |(rows, slots)| write(rows, Results { results, slots }))
    }
}

/// What looking around came to for some rows.
#[derive(Clone, Copy)]
pub struct Results<'r, O> {
    results: &'r [O],
    slots: &'r [u32],
}

impl<O: Copy + Default> Results<'_, O> {
    /// The result of the row at that index of the slices.
    #[inline]
    pub fn of(&self, index: usize) -> O {
        self.results.get(self.slots[index] as usize).copied().unwrap_or_default()
    }
}

/// Cuts what there is for each member, or slot, into buckets.
fn split<'m, T>(mut members: &'m mut [T], buckets: &[u32]) -> impl Iterator<Item = &'m mut [T]> {
    buckets.windows(2).map(move |ends| {
        members.split_off_mut(..(ends[1] - ends[0]) as usize).expect("buckets have all members")
    })
}

/// Puts the rows of a bucket in the order of their cells; those of a cell stay in the order in which they came. `starts` are
/// those of its cells; it begins with that cell, and that member.
fn sort_bucket<C: Copy>(
    starts: &mut [u32],
    rows: &mut [C],
    order: &mut [u32],
    stream: &[Streamed<C>],
    (first_cell, first): (usize, usize),
) {
    starts.fill(0);
    for streamed in stream {
        starts[streamed.cell as usize - first_cell] += 1;
    }
    let mut end = first as u32;
    for start in &mut *starts {
        end += *start;
        *start = end;
    }
    // From the last one back, so that what was the end of a cell becomes its start.
    for (slot, streamed) in stream.iter().enumerate().rev() {
        let start = &mut starts[streamed.cell as usize - first_cell];
        *start -= 1;
        let at = *start as usize - first;
        (rows[at], order[at]) = (streamed.row, (first + slot) as u32);
    }
}

/// Puts the members of each cell of a bucket in the order of their Uids, which are given by slot.
fn sort_cells<C: Copy>(
    starts: &[u32],
    rows: &mut [C],
    order: &mut [u32],
    stream: &[Streamed<C>],
    uids: &[u64],
    first: usize,
) {
    for (cell, start) in starts.iter().enumerate() {
        let end = starts.get(cell + 1).map_or(rows.len(), |end| *end as usize - first);
        let members = *start as usize - first..end;
        let own = &mut order[members.clone()];
        let uid = |slot: &u32| uids[*slot as usize - first];
        if !own.is_sorted_by_key(uid) {
            own.sort_unstable_by_key(uid);
            for (row, slot) in rows[members].iter_mut().zip(own) {
                *row = stream[*slot as usize - first].row;
            }
        }
    }
}

/// Cuts what there is for each member between cells, into parts of some cells each.
fn split_at_cells<'m, T>(mut members: &'m mut [T], starts: &[u32]) -> Vec<(Range<usize>, &'m mut [T])> {
    let (mut parts, mut cell, mut from) = (Vec::new(), 0, starts[0] as usize);
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
