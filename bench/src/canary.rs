//! The canary: a random gather on one and on two threads. Where that gains less than 1.8, the second core is not
//! ours and no comparison of threads counts.

use crate::measure::interleaved;
use rayon::prelude::*;

/// The least gain with which a run counts.
const GAIN_MIN: f64 = 1.8;

/// The gain, and why the run is void if it is.
pub(crate) fn sing() -> (f64, Option<String>) {
    let table: Vec<u64> = (0..1u64 << 22).collect();
    let places: Vec<u32> = (0..1u32 << 21).map(|i| i.wrapping_mul(2_654_435_761) >> 10).collect();
    let gather = |pool: &rayon::ThreadPool| {
        let sum: u64 = pool.install(|| {
            places
                .par_chunks(1 << 14)
                .map(|places| places.iter().map(|i| table[*i as usize]).sum::<u64>())
                .sum()
        });
        std::hint::black_box(sum);
    };
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads for a benchmark")
    };
    let (one, two) = (pool(1), pool(2));
    let times = interleaved(&mut [Box::new(|| gather(&one)), Box::new(|| gather(&two))], 15, 5);
    let gain = times[0] / times[1];
    let void =
        (gain < GAIN_MIN).then(|| format!("the canary gains {gain:.2} on 2 threads, {GAIN_MIN} are needed"));
    (gain, void)
}
