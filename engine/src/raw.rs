//! The unsafe part of the engine but for `slab`: running systems side by side, the bytes of columns, and rows that several
//! threads write at places of their own.
//!
//! Soundness of the executor rests on one fact that [`crate::plan`] establishes and its property test checks:
//! two nodes whose access is incompatible are joined by a path of edges, hence never run at the same time.
#![allow(unsafe_code, reason = "the one module of this crate that may; each block says why it is sound")]

use crate::{
    column::Column,
    effects,
    grid::{Projected, Projection},
    plan::NodeKind,
    report::Stopwatch,
    watch::Watch,
};
use bevy_ecs::ptr::OwningPtr;
use bevy_ecs::{
    change_detection::{CheckChangeTicks, Tick as ChangeTick},
    component::ComponentId,
    prelude::*,
    storage::Table,
    system::{BoxedSystem, RunSystemError},
    world::unsafe_world_cell::UnsafeWorldCell,
};
use bytemuck::Pod;
use parking_lot::Mutex;
use std::{
    any::Any,
    cell::UnsafeCell,
    marker::PhantomData,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::NonNull,
    sync::atomic::{
        AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
        Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
    },
};

/// The nodes of a plan, ready to run tick after tick.
pub(crate) struct Executor {
    nodes: Vec<Node>,
    /// Nodes that became ready and that nobody runs yet. Each is pushed once per tick.
    queue: Vec<AtomicU32>,
    watch: Watch,
}

pub(crate) struct Node {
    cell: SystemCell,
    kind: NodeKind,
    every: u64,
    offset: u64,
    /// Left out since it failed.
    quarantined: bool,
    /// Told not to run.
    is_off: bool,
    predecessors: u32,
    successors: Vec<u32>,
    waiting: AtomicU32,
    wall_nanos: AtomicU64,
    cpu_nanos: AtomicU64,
    /// When it began, and on which thread of the pool, while ticks are traced.
    began_nanos: AtomicU64,
    thread: AtomicU32,
}

/// A system that one thread at a time runs through a shared reference.
struct SystemCell(UnsafeCell<BoxedSystem>);

// SAFETY: BoxedSystem is Send + Sync itself. The cell is opened in `Node::run` only, and the executor runs a
// node once per tick: it goes through the queue or as one thread's continuation, never both.
unsafe impl Sync for SystemCell {}

/// A system failed; the world is half changed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub node: usize,
    pub message: String,
}

/// How a tick is run. Results do not depend on it (W1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct HowToRun {
    pub tick: u64,
    pub stopwatch: Stopwatch,
    /// Take the wall time of each node.
    pub measure: bool,
    pub sample_cpu: bool,
    /// Note when and where each node ran.
    pub trace: bool,
}

const EMPTY: u32 = u32::MAX;
const NOT_SAMPLED: u64 = u64::MAX;

impl Node {
    pub(crate) fn new(system: BoxedSystem, kind: NodeKind, every: u64, offset: u64) -> Self {
        Self {
            cell: SystemCell(UnsafeCell::new(system)),
            kind,
            every,
            offset,
            quarantined: false,
            is_off: false,
            predecessors: 0,
            successors: Vec::new(),
            waiting: AtomicU32::new(0),
            wall_nanos: AtomicU64::new(NOT_SAMPLED),
            cpu_nanos: AtomicU64::new(NOT_SAMPLED),
            began_nanos: AtomicU64::new(0),
            thread: AtomicU32::new(0),
        }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        !self.quarantined && !self.is_off
    }

    #[inline]
    pub(crate) fn is_due(&self, tick: u64) -> bool {
        self.is_enabled() && (self.every == 1 || tick % self.every == self.offset)
    }

    /// Notes how long it took since `start`; returns the time now.
    fn note(&self, how: HowToRun, start: u64, cpu: Option<u64>) -> u64 {
        let cpu = cpu.map_or(NOT_SAMPLED, |start| (how.stopwatch.thread_cpu_nanos)().wrapping_sub(start));
        self.cpu_nanos.store(cpu, Relaxed);
        let now = (how.stopwatch.wall_nanos)();
        self.wall_nanos.store(now.wrapping_sub(start), Relaxed);
        if how.trace {
            self.began_nanos.store(start, Relaxed);
            let thread = rayon::current_thread_index().map_or(TICK_THREAD, |index| index as u32);
            self.thread.store(thread, Relaxed);
        }
        now
    }

    /// # Safety
    /// No node with incompatible access runs at the same time, and nobody else runs this one.
    unsafe fn run(&self, world: UnsafeWorldCell<'_>) -> Result<(), String> {
        // SAFETY: nobody else runs this node, so this is the only reference to the system.
        let system = unsafe { &mut *self.cell.0.get() };
        // SAFETY: the system was initialised for this world (Executor::new takes it from there), and by this
        // function's contract nothing runs that its registered access conflicts with. For a system with
        // Exclusive access that means nothing runs at all.
        match unsafe { system.run_unsafe((), world) } {
            // A skipped parameter (no entity for a Single) is not a failure.
            Ok(()) | Err(RunSystemError::Skipped(_)) => {}
            Err(RunSystemError::Failed(error)) => return Err(error.to_string()),
        }
        if self.kind == NodeKind::Exclusive {
            // SAFETY: an exclusive node runs alone, and the system's own borrow has ended.
            effects::settle_whatever_happened(unsafe { world.world_mut() });
        }
        Ok(())
    }

    /// What the last tick measured: (wall, CPU if sampled). Not for one that was not due, or not measured.
    pub(crate) fn measured(&self) -> (Option<u64>, Option<u64>) {
        let sampled = |nanos: &AtomicU64| Some(nanos.load(Relaxed)).filter(|nanos| *nanos != NOT_SAMPLED);
        (sampled(&self.wall_nanos), sampled(&self.cpu_nanos))
    }

    /// Of a node that ran in a traced tick: when it began, and on which thread of the pool; none is the tick's own.
    pub(crate) fn traced(&self) -> (u64, Option<u32>) {
        let thread = self.thread.load(Relaxed);
        (self.began_nanos.load(Relaxed), (thread != TICK_THREAD).then_some(thread))
    }
}

/// The thread that ticks the world, where it is none of the pool.
const TICK_THREAD: u32 = u32::MAX;

impl Executor {
    /// Nodes in total order, all initialised for one world; edges as (from, to), from < to.
    pub(crate) fn new(
        mut nodes: Vec<Node>,
        edges: impl IntoIterator<Item = (usize, usize)>,
        watch: Watch,
    ) -> Self {
        for (from, to) in edges {
            assert!(from < to, "edges follow the total order");
            nodes[from].successors.push(to as u32);
            nodes[to].predecessors += 1;
        }
        let queue = nodes.iter().map(|_| AtomicU32::new(EMPTY)).collect();
        Self { nodes, queue, watch }
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node that is left out is passed over; those after it run as if it had.
    pub(crate) fn set_quarantined(&mut self, node: usize, quarantined: bool) {
        self.nodes[node].quarantined = quarantined;
    }

    pub(crate) fn is_quarantined(&self, node: usize) -> bool {
        self.nodes[node].quarantined
    }

    /// Whether and how often a node runs, as declared or as set.
    pub(crate) fn set(&mut self, node: usize, is_off: bool, (every, offset): (u64, u64)) {
        let node = &mut self.nodes[node];
        (node.is_off, node.every, node.offset) = (is_off, every, offset);
    }

    pub(crate) fn all_enabled(&self) -> bool {
        self.nodes.iter().all(Node::is_enabled)
    }

    pub(crate) fn check_change_ticks(&mut self, check: CheckChangeTicks) {
        self.nodes.iter_mut().for_each(|node| node.cell.0.get_mut().check_change_tick(check));
    }

    /// One node after the other, in total order, on this thread.
    pub(crate) fn run_serial(&mut self, world: &mut World, how: HowToRun) -> Result<(), Failure> {
        let cell = world.as_unsafe_world_cell();
        let mut at = 0;
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut last = if how.measure { (how.stopwatch.wall_nanos)() } else { 0 };
            for (i, node) in self.nodes.iter().enumerate() {
                at = i;
                if !node.is_due(how.tick) {
                    continue;
                }
                let cpu = how.sample_cpu.then(|| (how.stopwatch.thread_cpu_nanos)());
                let entered = self.watch.enter(i);
                // SAFETY: one thread runs one node at a time.
                unsafe { node.run(cell) }?;
                self.watch.leave(entered);
                if how.measure {
                    // The end of one is the start of the next: one look at the clock each.
                    last = node.note(how, last, cpu);
                }
            }
            Ok(())
        }));
        let message = match result {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(message)) => message,
            Err(panic) => panic_message(&*panic),
        };
        Err(Failure { node: at, message })
    }

    /// One node on this thread; false when it is not due. What an explained tick is made of.
    pub(crate) fn run_one(&mut self, world: &mut World, at: usize, how: HowToRun) -> Result<bool, Failure> {
        let node = &self.nodes[at];
        if !node.is_due(how.tick) {
            return Ok(false);
        }
        let cell = world.as_unsafe_world_cell();
        // SAFETY: the world is borrowed for this one node, and nothing else runs.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe { node.run(cell) }));
        let message = match result {
            Ok(Ok(())) => return Ok(true),
            Ok(Err(message)) => message,
            Err(panic) => panic_message(&*panic),
        };
        Err(Failure { node: at, message })
    }

    /// Nodes side by side on the rayon pool of this thread, `threads` of them at the most.
    pub(crate) fn run_parallel(
        &mut self,
        world: &mut World,
        how: HowToRun,
        threads: usize,
    ) -> Result<(), Failure> {
        if self.nodes.is_empty() {
            return Ok(());
        }
        for (node, slot) in self.nodes.iter_mut().zip(&mut self.queue) {
            *node.waiting.get_mut() = node.predecessors;
            *slot.get_mut() = EMPTY;
        }
        let run = Run {
            nodes: &self.nodes,
            queue: &self.queue,
            watch: &self.watch,
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            active: AtomicUsize::new(1),
            threads,
            world: world.as_unsafe_world_cell(),
            how,
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
        };
        let roots = self.nodes.iter().enumerate().filter(|(_, node)| node.predecessors == 0);
        let mut count = 0;
        for (i, _) in roots {
            run.push(i as u32);
            count += 1;
        }
        rayon::scope(|scope| {
            run.invite(scope, count - 1);
            run.work(scope);
        });
        run.failure.into_inner().map_or(Ok(()), Err)
    }
}

/// One tick on several threads.
struct Run<'r> {
    nodes: &'r [Node],
    queue: &'r [AtomicU32],
    watch: &'r Watch,
    head: AtomicUsize,
    tail: AtomicUsize,
    /// Threads that are in `work`, or invited to it.
    active: AtomicUsize,
    threads: usize,
    world: UnsafeWorldCell<'r>,
    how: HowToRun,
    failed: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

impl Run<'_> {
    /// Works off the queue until it is empty. Leaving early is fine: who makes a node ready runs it or invites.
    /// Idle threads are not kept here, as the rows of a running system may need them.
    fn work<'s>(&'s self, scope: &rayon::Scope<'s>) {
        loop {
            let mut next = self.pop();
            // The end of one node is the start of its continuation: one look at the clock each.
            let mut time = if self.how.measure { (self.how.stopwatch.wall_nanos)() } else { 0 };
            while let Some(i) = next {
                (next, time) = self.run_node(i, time, scope);
            }
            if self.is_empty() {
                self.active.fetch_sub(1, SeqCst);
                // Something may have been pushed while we still counted as active: then nobody was invited.
                if self.is_empty() || !self.join() {
                    return;
                }
            }
        }
    }

    /// Runs a node; returns one that became ready by it, to go on with on this thread, and the time.
    fn run_node<'s>(&'s self, i: u32, mut time: u64, scope: &rayon::Scope<'s>) -> (Option<u32>, u64) {
        let node = &self.nodes[i as usize];
        if node.is_due(self.how.tick) && !self.failed.load(Relaxed) {
            let cpu = self.how.sample_cpu.then(|| (self.how.stopwatch.thread_cpu_nanos)());
            let entered = self.watch.enter(i as usize);
            // SAFETY: all predecessors have finished: `waiting` counts them down with AcqRel, and whoever
            // reached 0 handed the node on. Every node with incompatible access is an ancestor or a
            // descendant (plan::edges), so that none of them is running. A node is handed on once.
            let result = catch_unwind(AssertUnwindSafe(|| unsafe { node.run(self.world) }));
            self.watch.leave(entered);
            if self.how.measure {
                time = node.note(self.how, time, cpu);
            }
            match result {
                Ok(Ok(())) => {}
                Ok(Err(message)) => self.fail(i as usize, message),
                Err(panic) => self.fail(i as usize, panic_message(&*panic)),
            }
        }
        let (mut next, mut pushed) = (None, 0);
        for &to in &node.successors {
            if self.nodes[to as usize].waiting.fetch_sub(1, AcqRel) == 1 {
                if next.is_none() {
                    next = Some(to);
                } else {
                    self.push(to);
                    pushed += 1;
                }
            }
        }
        self.invite(scope, pushed);
        (next, time)
    }

    /// Asks the pool for up to `wanted` more threads.
    fn invite<'s>(&'s self, scope: &rayon::Scope<'s>, wanted: usize) {
        for _ in 0..wanted {
            if !self.join() {
                return;
            }
            scope.spawn(|scope| self.work(scope));
        }
    }

    /// Counts one more thread as active, unless there are enough.
    fn join(&self) -> bool {
        let more = |active| (active < self.threads).then_some(active + 1);
        self.active.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    fn push(&self, node: u32) {
        let slot = self.tail.fetch_add(1, SeqCst);
        self.queue[slot].store(node, Release);
    }

    fn is_empty(&self) -> bool {
        self.head.load(SeqCst) >= self.tail.load(SeqCst)
    }

    fn pop(&self) -> Option<u32> {
        let mut head = self.head.load(SeqCst);
        loop {
            if head >= self.tail.load(SeqCst) {
                return None;
            }
            match self.head.compare_exchange_weak(head, head + 1, SeqCst, SeqCst) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        loop {
            // The pusher has taken the slot and writes it in its next instruction.
            match self.queue[head].load(Acquire) {
                EMPTY => std::hint::spin_loop(),
                node => return Some(node),
            }
        }
    }

    /// Keeps the failure that comes first in the total order; the rest of the tick is left out.
    fn fail(&self, node: usize, message: String) {
        self.failed.store(true, Relaxed);
        let mut failure = self.failure.lock();
        if failure.as_ref().is_none_or(|known| node < known.node) {
            *failure = Some(Failure { node, message });
        }
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".into())
}

/// Places for rows in the order of their cells, given out to several blocks of rows at once: those of a cell follow each
/// other, block by block.
#[derive(Default)]
pub(crate) struct Places {
    /// For each block and cell the next place and the end of its places, once laid out: no two of these stretches overlap,
    /// and all end within as many rows as `laid_out` says, see [`Places::lay_out`].
    blocks: Vec<Vec<[u32; 2]>>,
    laid_out: Option<usize>,
}

/// The places of one block.
pub(crate) struct BlockPlaces<'p, R> {
    next: &'p mut [[u32; 2]],
    rows: *mut R,
}

// SAFETY: it writes only where no other one writes, and rows are plain values without an owner.
unsafe impl<R: Copy + Send> Send for BlockPlaces<'_, R> {}

impl Places {
    /// How many rows each block has in each cell, to be counted up from nothing as `[count, _]`.
    pub(crate) fn counts(&mut self, blocks: usize, cells: usize) -> &mut [Vec<[u32; 2]>] {
        self.laid_out = None;
        self.blocks.resize_with(blocks, Vec::new);
        for block in &mut self.blocks {
            block.resize(cells, [0; 2]);
        }
        &mut self.blocks
    }

    /// Lays the places out as counted. `starts` gets the first place of each cell, and the end of all.
    ///
    /// # Panics
    /// When there are more rows than can be numbered, or `starts` is not of the cells that were counted.
    pub(crate) fn lay_out(&mut self, starts: &mut [u32]) {
        let mut next = 0u32;
        let (cells, all) = starts.split_at_mut(starts.len() - 1);
        assert!(self.blocks.iter().all(|block| block.len() == cells.len()), "all cells are laid out");
        for (cell, start) in cells.iter_mut().enumerate() {
            *start = next;
            for block in &mut self.blocks {
                let [count, _] = block[cell];
                let end = next.checked_add(count).expect("rows have numbers of 32 bits");
                block[cell] = [next, end];
                next = end;
            }
        }
        all[0] = next;
        self.laid_out = Some(next as usize);
    }

    /// The places of each block, for rows as many as were counted.
    ///
    /// # Panics
    /// When there are not as many rows, or the places were given out before.
    pub(crate) fn of_blocks<'p, R: Copy + Send>(
        &'p mut self,
        rows: &'p mut [R],
    ) -> impl Iterator<Item = BlockPlaces<'p, R>> {
        // Once: whoever comes later has them laid out anew.
        assert_eq!(self.laid_out.take(), Some(rows.len()), "the places were laid out for these rows");
        let rows = rows.as_mut_ptr();
        self.blocks.iter_mut().map(move |next| BlockPlaces { next, rows })
    }
}

impl<R: Copy + Send> BlockPlaces<'_, R> {
    /// Puts a row at the next place of its cell, which it returns.
    ///
    /// # Panics
    /// When more rows come for a cell than were counted.
    #[inline]
    pub(crate) fn put(&mut self, cell: usize, row: R) -> u32 {
        let [next, end] = &mut self.next[cell];
        let place = *next;
        assert!(place < *end, "a cell has as many places as were counted");
        *next += 1;
        // SAFETY: `Places::lay_out` gave this block the places up to `end` in this cell and nobody else, all of them within
        // the rows, which are borrowed for as long as this lives; each place is used once, as `next` only goes up.
        unsafe { self.rows.add(place as usize).write(row) };
        place
    }
}

/// Rows that several threads write at places of their choice, each by a shared reference. Two that write one place leave
/// one of their values, or parts of both: nothing that rows of plain columns could not be.
pub struct Scatter<'s, R> {
    rows: *mut R,
    len: usize,
    writes: PhantomData<&'s mut [R]>,
}

impl<R> Clone for Scatter<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Scatter<'_, R> {}

// SAFETY: rows are plain values without an owner, and all access through it is atomic, see `Scatter::write`.
unsafe impl<R: PlainRow> Send for Scatter<'_, R> {}
// SAFETY: as above.
unsafe impl<R: PlainRow> Sync for Scatter<'_, R> {}

impl<'s, R: PlainRow> Scatter<'s, R> {
    /// Until the last copy of it is gone, nobody else has the rows.
    pub(crate) fn new(rows: &'s mut [R]) -> Self {
        Self { rows: rows.as_mut_ptr(), len: rows.len(), writes: PhantomData }
    }

    /// Writes a row.
    ///
    /// # Panics
    /// When there is no such place.
    #[inline]
    pub(crate) fn write(&self, at: usize, row: R) {
        assert!(at < self.len, "there is a row at {at}");
        // SAFETY: `at` is within the rows, which are borrowed mutably for as long as this lives; as long as it lives they
        // are only written, and only by `store`.
        unsafe { R::store(self.rows.add(at), row) }
    }
}

/// What [`Scatter`] may write: plain numbers, and tuples of columns.
///
/// # Safety
/// `store` writes nothing but the row, and that by atomic stores whose sizes depend on the type alone, so that two
/// threads do not race.
pub unsafe trait PlainRow: Copy + Send + Sync + 'static {
    /// # Safety
    /// `to` is valid for writes of a row, which nobody reads or writes otherwise meanwhile.
    #[doc(hidden)]
    unsafe fn store(to: *mut Self, row: Self);
}

/// # Safety
/// As of [`PlainRow::store`].
#[inline]
unsafe fn store_plain<T: Pod>(to: *mut T, value: T) {
    let bytes = bytemuck::bytes_of(&value);
    // The words of all sizes: the value at `to` is of as many bytes as `bytes`, which are cut into words without a rest; it
    // is aligned for them, as T's own alignment is a multiple of theirs; by the contract nobody accesses it but by the same
    // stores.
    if size_of::<T>().is_multiple_of(8) && align_of::<T>().is_multiple_of(8) {
        for (i, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
            // SAFETY: see above.
            let to = unsafe { AtomicU64::from_ptr(to.cast::<u64>().add(i)) };
            to.store(u64::from_ne_bytes(*word), Relaxed);
        }
    } else if size_of::<T>().is_multiple_of(4) && align_of::<T>().is_multiple_of(4) {
        for (i, word) in bytes.as_chunks::<4>().0.iter().enumerate() {
            // SAFETY: see above.
            let to = unsafe { AtomicU32::from_ptr(to.cast::<u32>().add(i)) };
            to.store(u32::from_ne_bytes(*word), Relaxed);
        }
    } else {
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: see above.
            let to = unsafe { AtomicU8::from_ptr(to.cast::<u8>().add(i)) };
            to.store(*byte, Relaxed);
        }
    }
}

macro_rules! plain_rows {
    ($($plain:ty),+; $(($($T:ident $n:tt),+))+) => {
        $(
            // SAFETY: by `store_plain`.
            unsafe impl PlainRow for $plain {
                #[inline]
                unsafe fn store(to: *mut Self, row: Self) {
                    // SAFETY: the contract is the same.
                    unsafe { store_plain(to, row) }
                }
            }
        )+
        $(
            // SAFETY: each field by `store_plain`; what lies between them is left alone.
            unsafe impl<$($T: Column),+> PlainRow for ($($T,)+) {
                #[inline]
                unsafe fn store(to: *mut Self, row: Self) {
                    // SAFETY: a field of what may be written may be written; no reference is made of it.
                    $(unsafe { store_plain(&raw mut (*to).$n, row.$n) };)+
                }
            }
        )+
    };
}
plain_rows! {
    u32, u64;
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
}

// SAFETY: by `store_plain`; it lies in memory as what it wraps.
unsafe impl<P: Projection> PlainRow for Projected<P> {
    #[inline]
    unsafe fn store(to: *mut Self, row: Self) {
        // SAFETY: the contract is the same; no reference is made of the field.
        unsafe { store_plain(&raw mut (*to).0, row.0) }
    }
}

/// All rows of a plain column of a table, as bytes.
///
/// # Panics
/// When the table does not have the column: callers look first.
pub(crate) fn column_bytes<T: Column>(table: &Table, id: ComponentId) -> &[u8] {
    // SAFETY: `id` is the component id of `T`: both come from one `Registry::add_column::<T>`.
    let rows =
        unsafe { table.get_data_slice_for::<T>(id) }.expect("the caller has seen the column in the table");
    // SAFETY: UnsafeCell<T> has T's layout. The table is borrowed from a shared reference to the World, and
    // no system runs while one exists outside the executor, so that nobody writes these cells.
    let rows = unsafe { &*(std::ptr::from_ref(rows) as *const [T]) };
    bytemuck::cast_slice(rows)
}

/// The rows of a range whose column was changed after `last`, as bevy's change ticks say.
///
/// # Panics
/// When the table does not have the column.
pub(crate) fn changed_rows(
    table: &Table,
    id: ComponentId,
    rows: Range<usize>,
    last: ChangeTick,
    this: ChangeTick,
) -> impl Iterator<Item = usize> {
    let ticks = table.get_changed_ticks_slice_for(id).expect("the caller has seen the column in the table");
    let first = rows.start;
    let changed = move |(i, tick): (usize, &UnsafeCell<ChangeTick>)| {
        // SAFETY: as in `column_bytes`: nobody writes while a shared reference to the table exists outside the
        // executor.
        unsafe { *tick.get() }.is_newer_than(last, this).then_some(first + i)
    };
    ticks[rows].iter().enumerate().filter_map(changed)
}

/// Spawns one entity for each row of some plain columns, all of them at once per entity.
///
/// `columns` are (id, bytes of a row, all rows); every one has `rows` rows. Calls `spawned` with the row number.
pub(crate) fn spawn_rows(
    world: &mut World,
    rows: usize,
    columns: &[(ComponentId, usize, &[u8])],
    mut spawned: impl FnMut(&mut World, usize, Entity),
) {
    for (id, row_bytes, bytes) in columns {
        assert_eq!(bytes.len(), rows * row_bytes, "a column has one row per entity");
        let info = world.components().get_info(*id).expect("a registered component");
        assert_eq!(info.layout().size(), *row_bytes, "a row has the size of its component");
        assert!(info.layout().align() <= align_of::<u64>() && info.drop().is_none(), "a plain row");
    }
    let ids: Vec<ComponentId> = columns.iter().map(|(id, ..)| *id).collect();
    // A row in a byte buffer is not aligned for its component: it is copied into one that is.
    let mut scratch: Vec<Vec<u64>> = columns.iter().map(|(_, bytes, _)| vec![0; bytes.div_ceil(8)]).collect();
    for row in 0..rows {
        let mut entity = world.spawn_empty();
        let values = scratch.iter_mut().zip(columns).map(|(scratch, (_, row_bytes, bytes))| {
            let target: &mut [u8] = bytemuck::cast_slice_mut(scratch);
            target[..*row_bytes].copy_from_slice(&bytes[row * row_bytes..(row + 1) * row_bytes]);
            let pointer = NonNull::new(target.as_mut_ptr()).unwrap_or(NonNull::<u64>::dangling().cast());
            // SAFETY: points to `row_bytes` bytes, aligned to 8, that live until the next row; a plain row
            // has no destructor, so handing out ownership of a copy moves nothing that is used again.
            unsafe { OwningPtr::new(pointer) }
        });
        // SAFETY: every id belongs to this world; each pointer is to a value of its component, as the sizes
        // above confirm and any bytes are a valid plain row (Pod).
        unsafe { entity.insert_by_ids(&ids, values) };
        let id = entity.id();
        spawned(world, row, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::{ThreadPool, ThreadPoolBuilder};
    use std::panic::UnwindSafe;

    fn pool() -> ThreadPool {
        ThreadPoolBuilder::new().num_threads(2).build().unwrap()
    }

    /// Two blocks with two and one row of cell 0, and one each of cell 1.
    fn places() -> Places {
        let mut places = Places::default();
        let counts = places.counts(2, 2);
        (counts[0][0][0], counts[1][0][0]) = (2, 1);
        (counts[0][1][0], counts[1][1][0]) = (1, 1);
        places
    }

    fn panics(body: impl FnOnce() + UnwindSafe) -> bool {
        catch_unwind(body).is_err()
    }

    #[test]
    fn each_place_is_given_out_once() {
        let (mut places, mut starts, mut rows) = (places(), [9; 3], [0u32; 5]);
        places.lay_out(&mut starts);
        assert_eq!(starts, [0, 3, 5]);
        pool().scope(|scope| {
            for (i, mut block) in (0..).zip(places.of_blocks(&mut rows)) {
                let cells: &[usize] = if i == 0 { &[1, 0, 0] } else { &[0, 1] };
                scope.spawn(move |_| {
                    for (cell, row) in cells.iter().zip(10 * (i + 1)..) {
                        block.put(*cell, row);
                    }
                });
            }
        });
        assert_eq!(rows, [11, 12, 20, 10, 21], "by cell, block and order");
    }

    /// What would write where it must not is refused, not trusted.
    #[test]
    fn no_place_is_given_out_that_is_not_there() {
        let laid_out = || {
            let mut places = places();
            places.lay_out(&mut [0; 3]);
            places
        };
        let more_than_counted = || {
            let mut rows = [0u32; 5];
            let mut places = laid_out();
            let mut block = places.of_blocks(&mut rows).next().unwrap();
            (0..3).for_each(|row| _ = block.put(0, row));
        };
        assert!(panics(more_than_counted), "the third row of the first block is the second block's");
        assert!(panics(|| _ = laid_out().of_blocks(&mut [0u32; 4]).count()), "too few rows");
        assert!(panics(|| _ = places().of_blocks(&mut [0u32; 0]).count()), "not laid out");
        assert!(panics(|| places().lay_out(&mut [0; 2])), "a cell would keep its count for a place");
        let twice = || {
            let mut places = laid_out();
            _ = places.of_blocks(&mut [0u32; 5]).count();
            _ = places.of_blocks(&mut [0u32; 5]).count();
        };
        assert!(panics(twice));
        assert!(panics(|| Scatter::new(&mut [0u32; 3]).write(3, 1)), "past the end");
    }

    impl Projection for [u32; 3] {
        type From = (crate::ids::Uid,);

        fn of((uid,): Self::From) -> Self {
            [uid.get() as u32; 3]
        }
    }

    #[test]
    fn rows_of_all_widths_are_scattered_whole() {
        let mut rows = vec![0u64; 64];
        let to = Scatter::new(&mut rows);
        pool().scope(|scope| {
            for half in 0..2 {
                scope.spawn(move |_| (half..64).step_by(2).for_each(|i| to.write(i, !(i as u64))));
            }
        });
        assert!((0..64).all(|i| rows[i] == !(i as u64)));
        // Each its own bytes, and no others: every third is nobody's.
        let mut rows = vec![Projected([1u32, 2, 3]); 64];
        let to = Scatter::new(&mut rows);
        pool().scope(|scope| {
            for first in 0..2 {
                scope.spawn(move |_| {
                    for i in (first..64).step_by(3) {
                        to.write(i, Projected([i as u32; 3]));
                    }
                });
            }
        });
        for (i, Projected(row)) in rows.iter().enumerate() {
            assert_eq!(*row, if i % 3 == 2 { [1, 2, 3] } else { [i as u32; 3] });
        }
        let mut value = [1u8, 2, 3];
        // SAFETY: the value is there, and nobody else uses it.
        unsafe { store_plain(&raw mut value, [7u8, 8, 9]) };
        assert_eq!(value, [7, 8, 9]);
        let mut value = [1.0f32, 2.0, 3.0];
        // SAFETY: as above.
        unsafe { store_plain(&raw mut value, [-0.5f32, f32::MAX, 0.0]) };
        assert_eq!(value, [-0.5, f32::MAX, 0.0]);
    }
}
