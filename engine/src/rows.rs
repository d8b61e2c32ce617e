//! Rows: the columns of a query as contiguous slices, in parallel, with a mark for each row that is written.
//!
//! `Rows<(Write<Position>, &Velocity), With<Awake>>` is to a big world what bevy's `Query` is to a small one. Task
//! borders depend on row numbers alone, never on the number of threads.

use crate::{
    column::Column,
    effects::UidIndex,
    event::{Event, Happened},
    fold::OrderFree,
    marks::{Marks, TableMarks},
    pool::{each, sum},
    system::CurrentSystem,
};
use bevy_ecs::{
    change_detection::ContiguousMut,
    component::ComponentId,
    entity::Entities,
    prelude::*,
    query::{ArchetypeFilter, ContiguousQueryData, QueryData},
    storage::TableId,
    system::SystemParam,
};
use std::{collections::BTreeMap, marker::PhantomData, sync::OnceLock};

/// Rows of one task: small enough to spread well, a multiple of 64 so that tasks share no word of marks.
const TASK_ROWS: usize = 2_048;

/// A written column in [`Rows`].
pub struct Write<T>(PhantomData<T>);

/// The rows of all tables that have the columns of `D` and pass the filter `F`.
#[derive(SystemParam)]
pub struct Rows<'w, 's, D: RowData, F: ArchetypeFilter + 'static = ()> {
    query: Query<'w, 's, (Entity, <D as RowData>::Query), F>,
    entities: &'w Entities,
    marks: Res<'w, Marks>,
    ids: Local<'s, ColumnIds<D>>,
}

impl<D: RowData, F: ArchetypeFilter + 'static> Rows<'_, '_, D, F> {
    /// Runs over all rows, some thousand at a time; on a worker of a rayon pool, in parallel.
    ///
    /// What the body does to a row must depend on that row and on what the system reads, not on the slice.
    pub fn for_each(&mut self, body: impl Fn(D::Item<'_>) + Sync + Send) {
        each(self.placed(), |task| body(task.rows));
    }

    /// Runs over all rows like [`Rows::for_each`] and adds up what the body returns, in any order.
    pub fn sum<S: OrderFree>(&mut self, body: impl Fn(D::Item<'_>) -> S + Sync + Send) -> S {
        sum(self.placed(), |task| body(task.rows))
    }

    /// Runs over the rows to whom something happened, in parallel, with what that was: slices of some rows, and the places in
    /// them with each event, those of one row in the order in which they happened. What is emitted about a row comes to it in
    /// a later phase: so one row can hand something to another. Rows without an event cost nothing.
    ///
    /// What the body does to a row must depend on that row, on its events and on what the system reads.
    pub fn for_those<E: Event>(
        &mut self,
        index: &UidIndex,
        happened: &Happened<E>,
        body: impl Fn(D::Item<'_>, &[(usize, &E)]) + Sync + Send,
    ) {
        if happened.is_empty() {
            return;
        }
        let mut found: Vec<(usize, usize, &E)> = Vec::with_capacity(happened.len());
        for (uid, event) in happened.iter() {
            let location = index.get(uid).and_then(|entity| self.entities.get_spawned(entity).ok());
            found.extend(location.map(|at| (at.table_id.as_usize(), at.table_row.index(), event)));
        }
        // Stable: of one row in the order in which it happened.
        found.sort_by_key(|(table, row, _)| (*table, *row));
        let tasks = self.placed().into_iter().filter_map(|task| {
            let place = |row| (task.table.as_usize(), row);
            let of = |(table, row, _): &(usize, usize, &E)| (*table, *row);
            let first = found.partition_point(|one| of(one) < place(task.first_row));
            let end = found.partition_point(|one| of(one) < place(task.first_row + task.len));
            let own: Vec<(usize, &E)> =
                found[first..end].iter().map(|(_, row, event)| (row - task.first_row, *event)).collect();
            (!own.is_empty()).then_some((task.rows, own))
        });
        each(tasks.collect(), |(rows, own)| body(rows, &own));
    }

    /// The state of structure that its rows are of.
    pub(crate) fn structure(&self) -> u64 {
        self.marks.structure
    }

    /// The rows cut into tasks, with where they are.
    pub(crate) fn placed(&mut self) -> Vec<Placed<D::Item<'_>>> {
        let ids = self.ids.0.get_or_init(Vec::new);
        let mut tasks = Vec::new();
        let tables = self.query.contiguous_iter_mut().expect("columns are kept in tables, never sparse");
        for (entities, contiguous) in tables {
            let location =
                self.entities.get_spawned(entities[0]).expect("a row of a table is a spawned entity");
            let table = TablePlace { marks: &self.marks, table: location.table_id, ids };
            let mut rest = D::wrap(contiguous, &table, 0);
            let (table, mut first_row) = (location.table_id, 0);
            while entities.len() - first_row > TASK_ROWS {
                let (rows, after) = D::split(rest, TASK_ROWS);
                tasks.push(Placed { table, first_row, len: TASK_ROWS, rows });
                rest = after;
                first_row += TASK_ROWS;
            }
            tasks.push(Placed { table, first_row, len: entities.len() - first_row, rows: rest });
        }
        tasks
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        let tables = self.query.contiguous_iter().expect("columns are kept in tables, never sparse");
        tables.map(|(entities, _)| entities.len()).sum()
    }
}

/// A task's rows, and where they are.
pub(crate) struct Placed<R> {
    pub(crate) table: TableId,
    pub(crate) first_row: usize,
    pub(crate) len: usize,
    pub(crate) rows: R,
}

/// A slice of a written column. Reading is free; each way of writing marks what it gives out.
pub struct Marked<'c, T> {
    rows: &'c mut [T],
    first_row: usize,
    marks: &'c TableMarks,
}

impl<T: Column> Marked<'_, T> {
    /// How many rows the slice has.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True when the slice has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows, to read.
    pub fn as_slice(&self) -> &[T] {
        self.rows
    }

    /// All rows, to write: the dense way, one mark for all.
    pub fn all_mut(&mut self) -> &mut [T] {
        self.marks.mark_range(self.first_row, self.first_row + self.rows.len());
        self.rows
    }

    /// One row, to write; it is marked as a whole.
    #[inline]
    pub fn row_mut(&mut self, index: usize) -> &mut T {
        let row = &mut self.rows[index];
        self.marks.mark(self.first_row + index);
        row
    }

    /// Writes a row if that changes it. Bytes decide: -0.0 is another value than 0.0.
    #[inline]
    pub fn set(&mut self, index: usize, value: T) {
        let (old, new) = (bytemuck::bytes_of(&self.rows[index]), bytemuck::bytes_of(&value));
        if old != new {
            self.marks.mark_difference(self.first_row + index, old, new);
            self.rows[index] = value;
        }
    }

    /// Has a row changed, and marks what really did: of rows that are arrays the changed elements alone.
    #[inline]
    pub fn edit<R>(&mut self, index: usize, change: impl FnOnce(&mut T) -> R) -> R {
        let mut row = self.rows[index];
        let result = change(&mut row);
        self.set(index, row);
        result
    }
}

impl<T> std::ops::Index<usize> for Marked<'_, T> {
    type Output = T;
    #[inline]
    fn index(&self, index: usize) -> &T {
        &self.rows[index]
    }
}

/// What may stand between the brackets of [`Rows`]: `&T`, [`Write<T>`], and tuples of them.
pub trait RowData: Send + Sync + 'static {
    /// As bevy's query.
    type Query: ContiguousQueryData + QueryData<ReadOnly: ContiguousQueryData> + 'static;
    /// The slices of one task.
    type Item<'c>: Send;

    #[doc(hidden)]
    fn register(world: &mut World, ids: &mut Vec<ComponentId>);
    #[doc(hidden)]
    fn register_writes(world: &mut World, ids: &mut Vec<ComponentId>);
    #[doc(hidden)]
    fn wrap<'c>(
        rows: <Self::Query as ContiguousQueryData>::Contiguous<'c, '_>,
        table: &TablePlace<'c>,
        position: usize,
    ) -> Self::Item<'c>;
    #[doc(hidden)]
    fn split(rows: Self::Item<'_>, at: usize) -> (Self::Item<'_>, Self::Item<'_>);
    /// How many ids [`RowData::register`] pushes.
    #[doc(hidden)]
    const IDS: usize;
}

/// Where the marks of a table's columns are.
#[doc(hidden)]
pub struct TablePlace<'c> {
    marks: &'c Marks,
    table: TableId,
    ids: &'c [ComponentId],
}

/// Which columns a system writes through [`Rows`], once per parameter: those writes leave marks, all others leave
/// change ticks. Complete once the systems are initialised.
#[derive(Resource, Default)]
pub(crate) struct RowsWrites(pub(crate) BTreeMap<String, Vec<ComponentId>>);

/// The component ids of the columns of `D`, in their order; looked up once per system.
struct ColumnIds<D>(OnceLock<Vec<ComponentId>>, PhantomData<D>);

impl<D: RowData> FromWorld for ColumnIds<D> {
    fn from_world(world: &mut World) -> Self {
        let mut ids = Vec::new();
        D::register(world, &mut ids);
        let mut writes = Vec::new();
        D::register_writes(world, &mut writes);
        let system = world.resource::<CurrentSystem>().name.clone();
        world.resource_mut::<RowsWrites>().0.entry(system).or_default().extend(writes);
        Self(ids.into(), PhantomData)
    }
}

impl<T: Column> RowData for &'static T {
    type Query = &'static T;
    type Item<'c> = &'c [T];
    const IDS: usize = 1;

    fn register(world: &mut World, ids: &mut Vec<ComponentId>) {
        ids.push(world.register_component::<T>());
    }
    fn register_writes(_: &mut World, _: &mut Vec<ComponentId>) {}
    fn wrap<'c>(rows: &'c [T], _: &TablePlace<'c>, _: usize) -> &'c [T] {
        rows
    }
    fn split(rows: Self::Item<'_>, at: usize) -> (Self::Item<'_>, Self::Item<'_>) {
        rows.split_at(at)
    }
}

impl<T: Column> RowData for Write<T> {
    type Query = &'static mut T;
    type Item<'c> = Marked<'c, T>;
    const IDS: usize = 1;

    fn register(world: &mut World, ids: &mut Vec<ComponentId>) {
        ids.push(world.register_component::<T>());
    }
    fn register_writes(world: &mut World, ids: &mut Vec<ComponentId>) {
        ids.push(world.register_component::<T>());
    }
    #[expect(clippy::disallowed_methods, reason = "the marks are what a capture goes by here")]
    fn wrap<'c>(rows: ContiguousMut<'c, T>, table: &TablePlace<'c>, position: usize) -> Marked<'c, T> {
        // The marks say what was written, row by row; bevy's own ticks would say "all".
        let (rows, _) = ContiguousMut::bypass_change_detection_split(rows);
        Marked { rows, first_row: 0, marks: table.marks.of(table.table, table.ids[position]) }
    }
    fn split(rows: Self::Item<'_>, at: usize) -> (Self::Item<'_>, Self::Item<'_>) {
        let (front, back) = rows.rows.split_at_mut(at);
        (
            Marked { rows: front, first_row: rows.first_row, marks: rows.marks },
            Marked { rows: back, first_row: rows.first_row + at, marks: rows.marks },
        )
    }
}

macro_rules! row_data_tuple {
    ($($T:ident $t:ident $front:ident $back:ident),+) => {
        impl<$($T: RowData),+> RowData for ($($T,)+) {
            type Query = ($($T::Query,)+);
            type Item<'c> = ($($T::Item<'c>,)+);
            const IDS: usize = 0 $(+ $T::IDS)+;

            fn register(world: &mut World, ids: &mut Vec<ComponentId>) {
                $($T::register(world, ids);)+
            }
            fn register_writes(world: &mut World, ids: &mut Vec<ComponentId>) {
                $($T::register_writes(world, ids);)+
            }
            fn wrap<'c>(
                ($($t,)+): <Self::Query as ContiguousQueryData>::Contiguous<'c, '_>,
                table: &TablePlace<'c>,
                mut position: usize,
            ) -> Self::Item<'c> {
                $(
                    let $t = $T::wrap($t, table, position);
                    position += $T::IDS;
                )+
                let _ = position;
                ($($t,)+)
            }
            fn split(($($t,)+): Self::Item<'_>, at: usize) -> (Self::Item<'_>, Self::Item<'_>) {
                $(let ($front, $back) = $T::split($t, at);)+
                (($($front,)+), ($($back,)+))
            }
        }
    };
}
row_data_tuple!(A a a0 a1);
row_data_tuple!(A a a0 a1, B b b0 b1);
row_data_tuple!(A a a0 a1, B b b0 b1, C c c0 c1);
row_data_tuple!(A a a0 a1, B b b0 b1, C c c0 c1, D d d0 d1);
row_data_tuple!(A a a0 a1, B b b0 b1, C c c0 c1, D d d0 d1, E e e0 e1);
row_data_tuple!(A a a0 a1, B b b0 b1, C c c0 c1, D d d0 d1, E e e0 e1, F f f0 f1);
row_data_tuple!(A a a0 a1, B b b0 b1, C c c0 c1, D d d0 d1, E e e0 e1, F f f0 f1, G g g0 g1);
row_data_tuple!(A a a0 a1, B b b0 b1, C c c0 c1, D d d0 d1, E e e0 e1, F f f0 f1, G g g0 g1, H h h0 h1);
row_data_tuple!(A a a0 a1, B b b0 b1, C c c0 c1, D d d0 d1, E e e0 e1, F f f0 f1, G g g0 g1, H h h0 h1, I i i0 i1);
row_data_tuple!(A a a0 a1, B b b0 b1, C c c0 c1, D d d0 d1, E e e0 e1, F f f0 f1, G g g0 g1, H h h0 h1, I i i0 i1, J j j0 j1);
row_data_tuple!(A a a0 a1, B b b0 b1, C c c0 c1, D d d0 d1, E e e0 e1, F f f0 f1, G g g0 g1, H h h0 h1, I i i0 i1, J j j0 j1, K k k0 k1);
row_data_tuple!(A a a0 a1, B b b0 b1, C c c0 c1, D d d0 d1, E e e0 e1, F f f0 f1, G g g0 g1, H h h0 h1, I i i0 i1, J j j0 j1, K k k0 k1, L l l0 l1);
