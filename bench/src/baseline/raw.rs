//! The one thing that bare arrays do and safe code cannot: several threads write one array, each at places of its own.
#![allow(unsafe_code, reason = "the bound is what arrays can do, and the others are measured by it")]

use rayon::prelude::*;

/// Where a sort keeps what it needs, from step to step.
#[derive(Default)]
pub(super) struct Counting {
    cell_of: Vec<u32>,
    counts: Vec<Vec<u32>>,
}

/// An array that several threads write.
struct Places<T>(*mut T);

// SAFETY: `sort` alone has one, and each of its threads writes places of its own.
unsafe impl<T: Send> Sync for Places<T> {}

impl Counting {
    /// Puts items in the order of their cells, on the pool of this thread: a counting sort in a block for each thread.
    /// `starts` gets the first place of each cell, and the end of all.
    ///
    /// # Panics
    /// When an item has no such cell, or the arrays are not of one length.
    pub(super) fn sort<T: Copy + Send + Sync>(
        &mut self,
        items: &[T],
        sorted: &mut [T],
        starts: &mut [u32],
        cell_of: impl Fn(&T) -> u32 + Sync,
    ) {
        assert_eq!(items.len(), sorted.len(), "each item has a place");
        let cells = starts.len() - 1;
        let block = items.len().div_ceil(rayon::current_num_threads()).max(1);
        self.cell_of.resize(items.len(), 0);
        self.counts.resize_with(items.len().div_ceil(block), Vec::new);
        let blocks = items.par_chunks(block).zip(self.cell_of.par_chunks_mut(block));
        blocks.zip(&mut self.counts).for_each(|((items, cells_of), counts)| {
            counts.clear();
            counts.resize(cells, 0);
            for (item, cell) in items.iter().zip(cells_of) {
                *cell = cell_of(item);
                counts[*cell as usize] += 1;
            }
        });
        let mut next = 0;
        for cell in 0..cells {
            starts[cell] = next;
            for counts in &mut self.counts {
                let here = counts[cell];
                counts[cell] = next;
                next += here;
            }
        }
        starts[cells] = next;
        let to = Places(sorted.as_mut_ptr());
        let blocks = items.par_chunks(block).zip(self.cell_of.par_chunks(block));
        blocks.zip(&mut self.counts).for_each(|((items, cells_of), next)| {
            let to = &to;
            for (item, cell) in items.iter().zip(cells_of) {
                let place = &mut next[*cell as usize];
                // SAFETY: the places of a block in a cell are as many as it has items there, as counted above from the same
                // cells; they follow those of the cell before and of the blocks before, so that each place is of one item,
                // and below the number of items, which is that of `sorted`.
                unsafe { to.0.add(*place as usize).write(*item) };
                *place += 1;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_has_one_place_in_the_order_of_cells() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let mut counting = Counting::default();
        for count in [0usize, 1, 7, 1_000] {
            let items: Vec<u32> = (0..count as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
            let (mut sorted, mut starts) = (vec![0; count], [0; 6]);
            pool.install(|| counting.sort(&items, &mut sorted, &mut starts, |item| item % 5));
            let mut expected = items.clone();
            expected.sort_by_key(|item| item % 5);
            assert_eq!(sorted, expected, "stable, and each once");
            assert_eq!(starts[5] as usize, count);
        }
    }
}
