//! Flocking on bare arrays: birds that are kept sorted by their cells, and nothing else. What no entity system can beat
//! by much; the rules are those of `everworld_systems`, the arithmetic too.

use rayon::prelude::*;
use std::ops::Range;

/// The large variant, scaled.
const RADIUS: f64 = 15.0;
const SEPARATION: f64 = 1.0;
const COHERE: f64 = 0.03;
const SEPARATE: f64 = 0.015;
const ALIGN: f64 = 0.05;

#[derive(Clone, Copy, Default)]
pub(crate) struct Bird {
    pub position: [f64; 2],
    pub velocity: [f64; 2],
}

/// A flock in arrays.
pub(crate) struct Flock {
    side: f64,
    cells: usize,
    birds: Vec<Bird>,
    sorted: Vec<Bird>,
    cell_of: Vec<u32>,
    starts: Vec<u32>,
    counts: Vec<Vec<u32>>,
}

/// So many birds are about one task.
const TASK_BIRDS: usize = 1_024;

impl Flock {
    pub(crate) fn new(side: f64, birds: Vec<Bird>) -> Self {
        let cells = (side / RADIUS * (1.0 - 1e-9)) as usize;
        let (sorted, cell_of) = (birds.clone(), vec![0; birds.len()]);
        Self { side, cells, birds, sorted, cell_of, starts: vec![0; cells * cells + 1], counts: Vec::new() }
    }

    pub(crate) fn birds(&self) -> &[Bird] {
        &self.birds
    }

    /// One step, on the pool of this thread.
    pub(crate) fn step(&mut self) {
        self.sort();
        let Self { side, cells, birds, sorted, starts, .. } = self;
        let (side, cells, starts, sorted) = (*side, *cells, &starts[..], &sorted[..]);
        let mut tasks = Vec::new();
        let (mut left, mut cell) = (birds.as_mut_slice(), 0);
        while cell < cells * cells {
            let from = starts[cell] as usize;
            let end = starts.partition_point(|start| (*start as usize) < from + TASK_BIRDS);
            let end = end.clamp(cell + 1, cells * cells);
            let (own, rest) = left.split_at_mut(starts[end] as usize - from);
            tasks.push((cell..end, own));
            (left, cell) = (rest, end);
        }
        tasks.into_par_iter().for_each(|(range, own)| fly(side, cells, starts, sorted, range, own));
    }

    /// A counting sort by cells, into `sorted`.
    fn sort(&mut self) {
        let Self { side, cells, birds, sorted, cell_of, starts, counts } = self;
        let (scale, count, last) = (*cells as f64 / *side, *cells * *cells, *cells as u32 - 1);
        let threads = rayon::current_num_threads();
        let block = birds.len().div_ceil(threads).max(1);
        counts.resize_with(birds.len().div_ceil(block), Vec::new);
        let blocks = birds.par_chunks(block).zip(cell_of.par_chunks_mut(block));
        blocks.zip(counts.par_iter_mut()).for_each(|((birds, cell_of), counts)| {
            counts.clear();
            counts.resize(count, 0);
            for (bird, cell) in birds.iter().zip(cell_of) {
                let along = |axis: usize| ((bird.position[axis] * scale) as u32).min(last);
                *cell = along(1) * (last + 1) + along(0);
                counts[*cell as usize] += 1;
            }
        });
        let mut next = 0;
        for cell in 0..count {
            starts[cell] = next;
            for counts in &mut *counts {
                let here = counts[cell];
                counts[cell] = next;
                next += here;
            }
        }
        starts[count] = next;
        let to = Places(sorted.as_mut_ptr());
        let blocks = birds.par_chunks(block).zip(cell_of.par_chunks(block));
        blocks.zip(counts.par_iter_mut()).for_each(|((birds, cell_of), next)| {
            let to = &to;
            for (bird, cell) in birds.iter().zip(cell_of) {
                let place = &mut next[*cell as usize];
                // SAFETY: the places of the blocks in a cell follow each other, as they were counted: each place is
                // below the number of birds, and of one bird only.
                unsafe { *to.0.add(*place as usize) = *bird };
                *place += 1;
            }
        });
    }
}

struct Places(*mut Bird);
// SAFETY: whoever writes through it writes places of its own, see `Flock::sort`.
unsafe impl Sync for Places {}

fn fly(side: f64, cells: usize, starts: &[u32], sorted: &[Bird], range: Range<usize>, flown: &mut [Bird]) {
    let first = starts[range.start] as usize;
    let mut runs: Vec<(Range<usize>, [f64; 2])> = Vec::new();
    for cell in range {
        let members = starts[cell] as usize..starts[cell + 1] as usize;
        if members.is_empty() {
            continue;
        }
        runs.clear();
        let (x, y) = ((cell % cells) as i64, (cell / cells) as i64);
        let n = cells as i64;
        for row in y - 1..=y + 1 {
            let base = row.rem_euclid(n) * n;
            let shift_y = row.div_euclid(n) as f64 * side;
            let mut at = x - 1;
            while at <= x + 1 {
                let start = at.rem_euclid(n);
                let len = (n - start).min(x + 2 - at);
                let (from, to) = ((base + start) as usize, (base + start + len) as usize);
                let shift_x = at.div_euclid(n) as f64 * side;
                runs.push((starts[from] as usize..starts[to] as usize, [shift_x, shift_y]));
                at += len;
            }
        }
        for i in members {
            let Bird { position, velocity } = sorted[i];
            let (mut others, mut way, mut near) = (-1.0, [0.0; 2], [0.0; 2]);
            let mut going = [-velocity[0], -velocity[1]];
            for (run, shift) in &runs {
                let from = [position[0] - shift[0], position[1] - shift[1]];
                for other in &sorted[run.clone()] {
                    let to = [other.position[0] - from[0], other.position[1] - from[1]];
                    let square = to[0] * to[0] + to[1] * to[1];
                    let is_seen = f64::from(u8::from(square <= RADIUS * RADIUS));
                    let is_near = f64::from(u8::from(square < SEPARATION * SEPARATION));
                    others += is_seen;
                    for axis in 0..2 {
                        way[axis] += is_seen * to[axis];
                        near[axis] += is_near * to[axis];
                        going[axis] += is_seen * other.velocity[axis];
                    }
                }
            }
            let k = others.max(1.0);
            let turned: [f64; 2] = std::array::from_fn(|axis| {
                velocity[axis] + (COHERE * way[axis] - SEPARATE * near[axis] + ALIGN * going[axis]) / k
            });
            let length = (turned[0] * turned[0] + turned[1] * turned[1]).sqrt();
            let velocity = if length > 0.0 { turned.map(|part| part / length) } else { turned };
            let wrapped = |at: f64| {
                let at = at.rem_euclid(side);
                if at < side { at } else { 0.0 }
            };
            let position = [wrapped(position[0] + velocity[0]), wrapped(position[1] + velocity[1])];
            flown[i - first] = Bird { position, velocity };
        }
    }
}
