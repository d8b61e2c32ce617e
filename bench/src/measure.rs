//! Measuring: several things in turn, block by block, so that a change of the machine's speed hits all alike.

use std::time::Instant;

/// One contestant: does its work once.
pub(crate) type Work<'a> = Box<dyn FnMut() + 'a>;

/// Nanoseconds of one call of each, as the median over `blocks` blocks of `calls` calls; blocks go round.
pub(crate) fn interleaved(contestants: &mut [Work<'_>], blocks: usize, calls: usize) -> Vec<f64> {
    let mut times = vec![Vec::with_capacity(blocks); contestants.len()];
    // One block each that does not count: pages, caches, pools.
    for block in 0..=blocks {
        for (work, times) in contestants.iter_mut().zip(&mut times) {
            let start = Instant::now();
            for _ in 0..calls {
                work();
            }
            let nanos = start.elapsed().as_nanos() as f64 / calls as f64;
            if block > 0 {
                times.push(nanos);
            }
        }
    }
    times.into_iter().map(median).collect()
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
