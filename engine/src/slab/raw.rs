//! Rows of several versions side by side in blocks of slots; the unsafe part.
//!
//! Soundness rests on the counts of a [`Slab`]: the count of a slot is never less than the number of [`SharedRows`] that name
//! it. They are made by [`Slab::of`] and [`Slab::fork`] alone and are not cloned; who drops one instead of handing it to
//! [`Slab::release`] leaves its counts too high, so that its slots are never used again. A slot is written only where its
//! count says that nobody but the rows at hand names it, and those are borrowed mutably then.
#![allow(unsafe_code, reason = "the slots of versions that others read; each block says why it is sound")]

use std::{
    cell::UnsafeCell,
    ptr, slice,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// A block that is added when all slots are taken has the slots of this part of the rows, and not less than
/// [`SLOTS_MIN`].
const GROWTH: usize = 16;
const SLOTS_MIN: usize = 16;
/// More free slots than this part of the rows are given back where that is possible.
const FREE: usize = 16;

/// Tells slabs apart.
static SLABS: AtomicU64 = AtomicU64::new(0);

/// The memory of some slots.
struct Block(Box<[UnsafeCell<u8>]>);

// SAFETY: bytes are read through `SharedRows::run` and written through `Slab::set` only, which say why nobody writes what
// another reads.
unsafe impl Sync for Block {}

impl Block {
    fn of(bytes: Vec<u8>) -> Self {
        let bytes = Box::into_raw(bytes.into_boxed_slice());
        // SAFETY: an UnsafeCell<u8> lies in memory as a u8 does, and the box has one owner still.
        Self(unsafe { Box::from_raw(bytes as *mut [UnsafeCell<u8>]) })
    }
}

/// Where a row lies: the number of the block above, that of the slot in it below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot(u32);

impl Slot {
    const BITS: u32 = 16;

    fn new(block: usize, index: usize) -> Self {
        debug_assert!(index < 1 << Self::BITS, "a block has no more slots");
        let block =
            u16::try_from(block).expect("the versions of a chunk have fewer blocks than fit in memory");
        Self(u32::from(block) << Self::BITS | index as u32)
    }

    fn block(self) -> usize {
        (self.0 >> Self::BITS) as usize
    }

    fn index(self) -> usize {
        (self.0 & ((1 << Self::BITS) - 1)) as usize
    }
}

/// One version of some rows of equal size: a list of slots, which it shares with other versions of the same [`Slab`].
pub struct SharedRows {
    slab: u64,
    row_bytes: usize,
    slots: Vec<Slot>,
    /// At least those in which its slots are.
    blocks: Vec<Arc<Block>>,
}

impl SharedRows {
    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.slots.len()
    }

    /// The bytes of a row of it.
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The bytes of a row.
    pub fn row(&self, row: usize) -> Option<&[u8]> {
        self.slots.get(row).map(|slot| self.run(*slot, 1))
    }

    /// The rows in their order, in slices of as many as lie side by side.
    pub fn runs(&self) -> impl Iterator<Item = &[u8]> {
        let follows = |a: &Slot, b: &Slot| a.0 + 1 == b.0 && a.block() == b.block();
        self.slots.chunk_by(follows).map(|slots| self.run(slots[0], slots.len()))
    }

    /// The bytes of all blocks that it keeps.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.blocks.iter().map(|block| block.0.len()).sum()
    }

    /// Whether a row of it is the very one of another version, without a look at its bytes.
    pub(crate) fn shares<'s>(&'s self, other: &'s Self) -> impl Fn(usize) -> bool + 's {
        let same: Vec<bool> = self.blocks.iter().zip(&other.blocks).map(|(a, b)| Arc::ptr_eq(a, b)).collect();
        move |row| {
            let slot = self.slots.get(row);
            slot == other.slots.get(row) && slot.is_some_and(|slot| same.get(slot.block()) == Some(&true))
        }
    }

    /// So many slots from this one on, all of which this version names.
    fn run(&self, first: Slot, slots: usize) -> &[u8] {
        let at = first.index() * self.row_bytes;
        let cells = &self.blocks[first.block()].0[at..at + slots * self.row_bytes];
        // SAFETY: this version names these slots. `Slab::set` writes a slot only where nobody but the version names it
        // that it has borrowed mutably, which this one is not as long as the slice lives. What was written before
        // happened before: who got this version from another thread got it by what orders memory, and who writes a slot
        // that others named had their versions handed over by value.
        unsafe { slice::from_raw_parts(cells.as_ptr().cast::<u8>(), cells.len()) }
    }
}

/// The one that writes: it knows how many versions name each slot.
pub(crate) struct Slab {
    id: u64,
    row_bytes: usize,
    blocks: Vec<Counted>,
    /// No slot before this one is free: block and slot.
    hand: (usize, usize),
    /// How many slots are.
    free: usize,
}

struct Counted {
    block: Arc<Block>,
    /// For each slot how many versions name it.
    counts: Vec<u32>,
}

impl Slab {
    /// Rows one after the other: their memory becomes the first block.
    ///
    /// # Panics
    /// When a row has no bytes, or there are more rows than a block has slots.
    pub(crate) fn of(row_bytes: usize, rows: Vec<u8>) -> (Self, SharedRows) {
        assert!(row_bytes > 0 && rows.len().is_multiple_of(row_bytes), "whole rows that have bytes");
        let count = rows.len() / row_bytes;
        assert!(count <= 1 << Slot::BITS, "a chunk has no more rows than a block has slots");
        let id = SLABS.fetch_add(1, Relaxed);
        let block = Arc::new(Block::of(rows));
        let slots = (0..count).map(|index| Slot::new(0, index)).collect();
        let first = Counted { block: block.clone(), counts: vec![1; count] };
        let slab = Self { id, row_bytes, blocks: vec![first], hand: (1, 0), free: 0 };
        (slab, SharedRows { slab: id, row_bytes, slots, blocks: vec![block] })
    }

    /// The bytes of free slots.
    pub(crate) fn free_bytes(&self) -> usize {
        self.free * self.row_bytes
    }

    /// Another version with the same rows, which is to be written.
    pub(crate) fn fork(&mut self, rows: &SharedRows) -> SharedRows {
        self.expect(rows);
        for slot in &rows.slots {
            let count = &mut self.blocks[slot.block()].counts[slot.index()];
            *count = count.checked_add(1).expect("fewer versions than that");
        }
        let mut fork = SharedRows { slots: rows.slots.clone(), blocks: self.all_blocks(), ..*rows };
        self.leave_the_last(&mut fork);
        fork
    }

    /// Lets go of the blocks that were given back, which none of its rows is in.
    pub(crate) fn forget_blocks(&self, rows: &mut SharedRows) {
        self.expect(rows);
        rows.blocks.truncate(self.blocks.len());
    }

    /// Where more is free than [`FREE`] says, rows of the last blocks go elsewhere: those that never change would keep what
    /// views of long ago took.
    fn leave_the_last(&mut self, rows: &mut SharedRows) {
        // From this one on blocks are left.
        let (mut kept, mut free) = (self.blocks.len(), self.free);
        while kept > 1 && free >= rows.slots.len() / FREE + 2 * self.blocks[kept - 1].counts.len() {
            kept -= 1;
            free -= self.blocks[kept].counts.len();
        }
        for row in 0..rows.slots.len() {
            if rows.slots[row].block() >= kept {
                let bytes = rows.run(rows.slots[row], 1).to_vec();
                let fresh = self.claim(rows);
                self.let_go(rows.slots[row]);
                rows.slots[row] = fresh;
                self.write(rows, fresh, &bytes);
            }
        }
    }

    /// Ends a version: what it alone named is free.
    pub(crate) fn release(&mut self, rows: SharedRows) {
        self.expect(&rows);
        for slot in &rows.slots {
            self.let_go(*slot);
        }
        self.trim(rows.rows());
    }

    /// Writes a row, or puts one behind the last.
    ///
    /// # Panics
    /// When there is neither such a row nor the one before it, or the row is of another size.
    pub(crate) fn set(&mut self, rows: &mut SharedRows, row: usize, new: &[u8]) {
        self.expect(rows);
        assert_eq!(new.len(), self.row_bytes, "rows of one size");
        let slot = if row == rows.slots.len() {
            let slot = self.claim(rows);
            rows.slots.push(slot);
            slot
        } else {
            let slot = rows.slots[row];
            if self.blocks[slot.block()].counts[slot.index()] == 1 {
                slot
            } else {
                let fresh = self.claim(rows);
                self.let_go(slot);
                rows.slots[row] = fresh;
                fresh
            }
        };
        self.write(rows, slot, new);
    }

    /// Writes a slot that `rows` alone names.
    fn write(&self, rows: &mut SharedRows, slot: Slot, new: &[u8]) {
        debug_assert_eq!(self.blocks[slot.block()].counts[slot.index()], 1, "nobody else has it");
        let at = slot.index() * self.row_bytes;
        let cells = &rows.blocks[slot.block()].0[at..at + self.row_bytes];
        // SAFETY: its count is 1, so no version but `rows` names this slot, and nobody reads these as they are borrowed
        // mutably; `new` is no part of it for the same reason. Readers of before handed their versions over by value.
        unsafe { ptr::copy_nonoverlapping(new.as_ptr(), UnsafeCell::raw_get(cells.as_ptr()), new.len()) };
    }

    fn all_blocks(&self) -> Vec<Arc<Block>> {
        self.blocks.iter().map(|counted| counted.block.clone()).collect()
    }

    /// Keeps only so many rows.
    pub(crate) fn truncate(&mut self, rows: &mut SharedRows, len: usize) {
        self.expect(rows);
        for slot in rows.slots.drain(len.min(rows.slots.len())..) {
            self.let_go(slot);
        }
    }

    fn expect(&self, rows: &SharedRows) {
        assert_eq!(self.id, rows.slab, "a slab writes its own rows");
    }

    fn let_go(&mut self, slot: Slot) {
        let count = &mut self.blocks[slot.block()].counts[slot.index()];
        *count -= 1;
        if *count == 0 {
            self.free += 1;
            self.hand = self.hand.min((slot.block(), slot.index()));
        }
    }

    /// A free slot, with a count of 1, whose block `rows` has. The first one, so that the last blocks become empty.
    fn claim(&mut self, rows: &mut SharedRows) -> Slot {
        let slot = loop {
            let (block, from) = self.hand;
            if block == self.blocks.len() {
                let slots = (rows.slots.len() / GROWTH).clamp(SLOTS_MIN, 1 << Slot::BITS);
                let bytes = Arc::new(Block::of(vec![0; slots * self.row_bytes]));
                self.blocks.push(Counted { block: bytes, counts: vec![0; slots] });
                self.free += slots;
            }
            let counts = &mut self.blocks[block].counts;
            if let Some(index) = counts[from..].iter().position(|count| *count == 0) {
                counts[from + index] = 1;
                self.hand = (block, from + index + 1);
                self.free -= 1;
                break Slot::new(block, from + index);
            }
            self.hand = (block + 1, 0);
        };
        let of = |rows: &SharedRows| rows.blocks.get(slot.block()).map(Arc::as_ptr);
        if of(rows) != Some(Arc::as_ptr(&self.blocks[slot.block()].block)) {
            rows.blocks = self.all_blocks();
        }
        slot
    }

    /// Gives the last blocks back while they and enough of the others are free.
    fn trim(&mut self, rows: usize) {
        while let [_, .., last] = &self.blocks[..]
            && self.free >= rows / FREE + last.counts.len()
            && last.counts.iter().all(|count| *count == 0)
        {
            self.free -= last.counts.len();
            self.blocks.pop();
        }
        self.hand = self.hand.min((self.blocks.len(), 0));
    }
}
