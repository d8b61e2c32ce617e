//! Flocking on bare arrays: birds that are kept sorted by their cells, and nothing else. What no entity system can beat
//! by much; the rules are those of `everworld_systems`, the arithmetic too.

use super::raw::Counting;
use rayon::prelude::*;
use std::ops::Range;
use wide::f64x2;

/// The large variant, scaled.
pub(super) const RADIUS: f64 = 15.0;
pub(super) const SEPARATION: f64 = 1.0;
pub(super) const COHERE: f64 = 0.03;
pub(super) const SEPARATE: f64 = 0.015;
pub(super) const ALIGN: f64 = 0.05;

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
    starts: Vec<u32>,
    counting: Counting,
}

/// So many birds are about one task.
const TASK_BIRDS: usize = 1_024;

impl Flock {
    pub(crate) fn new(side: f64, birds: Vec<Bird>) -> Self {
        let cells = (side / RADIUS * (1.0 - 1e-9)) as usize;
        let sorted = birds.clone();
        Self { side, cells, birds, sorted, starts: vec![0; cells * cells + 1], counting: Counting::default() }
    }

    /// One step, on the pool of this thread.
    pub(crate) fn step(&mut self) {
        let Self { side, cells, birds, sorted, starts, counting } = self;
        let (scale, last) = (*cells as f64 / *side, *cells as u32 - 1);
        counting.sort(birds, sorted, starts, |bird| {
            let along = |axis: usize| ((bird.position[axis] * scale) as u32).min(last);
            along(1) * (last + 1) + along(0)
        });
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
}

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
        let (r2, s2, one) =
            (f64x2::splat(RADIUS * RADIUS), f64x2::splat(SEPARATION * SEPARATION), f64x2::splat(1.0));
        // Two at a time, as both see the same others.
        for i in members.clone().step_by(2) {
            let two = [sorted[i], sorted[(i + 1).min(members.end - 1)]];
            let both = |part: fn(&Bird) -> f64| f64x2::from(two.map(|bird| part(&bird)));
            let (x, y) = (both(|bird| bird.position[0]), both(|bird| bird.position[1]));
            let zero = f64x2::splat(0.0);
            let (mut others, mut way, mut near) = (f64x2::splat(-1.0), [zero; 2], [zero; 2]);
            let mut going = [both(|bird| -bird.velocity[0]), both(|bird| -bird.velocity[1])];
            for (run, shift) in &runs {
                let (x, y) = (x - f64x2::splat(shift[0]), y - f64x2::splat(shift[1]));
                for other in &sorted[run.clone()] {
                    let to = [f64x2::splat(other.position[0]) - x, f64x2::splat(other.position[1]) - y];
                    let square = to[0] * to[0] + to[1] * to[1];
                    let (is_seen, is_near) = (square.simd_le(r2), square.simd_lt(s2));
                    others += is_seen & one;
                    for axis in 0..2 {
                        way[axis] += is_seen & to[axis];
                        near[axis] += is_near & to[axis];
                        going[axis] += is_seen & f64x2::splat(other.velocity[axis]);
                    }
                }
            }
            let others = others.to_array();
            let [way, near, going] = [way, near, going].map(|axes| axes.map(f64x2::to_array));
            for (lane, bird) in two.into_iter().enumerate().take(members.end - i) {
                let k = others[lane].max(1.0);
                let turned: [f64; 2] = std::array::from_fn(|axis| {
                    let way = COHERE * way[axis][lane] - SEPARATE * near[axis][lane];
                    bird.velocity[axis] + (way + ALIGN * going[axis][lane]) / k
                });
                let length = (turned[0] * turned[0] + turned[1] * turned[1]).sqrt();
                let velocity = if length > 0.0 { turned.map(|part| part / length) } else { turned };
                let wrapped = |at: f64| if (0.0..side).contains(&at) { at } else { at.rem_euclid(side) };
                let position =
                    [wrapped(bird.position[0] + velocity[0]), wrapped(bird.position[1] + velocity[1])];
                flown[i + lane - first] = Bird { position, velocity };
            }
        }
    }
}
