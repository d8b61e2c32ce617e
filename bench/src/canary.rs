//! The canary: a random gather on one and on two threads. Where that gains less than 1.8, the second core is not
//! ours and no comparison of threads counts.
//!
//! And a [`Watch`] beside what measures high percentiles: a virtual machine whose host gives its cores to somebody else for
//! moments, without saying so, has its own 99th percentile, whatever runs on it.

use crate::{
    measure::{interleaved, median},
    report::Row,
};
use everworld::clock;
use rayon::prelude::*;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

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

/// The greatest part of the time in which the machine may be slow where 99th percentiles count.
const SLOW_MAX: f64 = 0.01;
/// As slow is counted what takes so many times the usual CPU time. What shares a core's units takes 1.5 times as long.
const SLOW_TIMES: f64 = 3.0;
const WATCH_PAUSE: Duration = Duration::from_millis(5);
/// Steps of a calculation without memory: some 50 us, 1 % of a core.
const WATCH_STEPS: u32 = 12_500;

/// A thread that calculates the same again and again and compares the CPU time that it takes. Being displaced by other
/// threads does not count in that, being displaced by other machines does.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<f64>>,
}

impl Watch {
    pub(crate) fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let body = move || {
            let mut nanos = Vec::new();
            while nanos.is_empty() || !stopping.load(Relaxed) {
                let begun = clock::thread_nanos();
                let sum = (0..WATCH_STEPS).fold(1.0, |sum: f64, _| std::hint::black_box(sum * 1.000_000_1));
                std::hint::black_box(sum);
                nanos.push((clock::thread_nanos() - begun) as f64);
                thread::sleep(WATCH_PAUSE);
            }
            nanos
        };
        Self { stop, thread: thread::spawn(body) }
    }

    /// The part of the time in which the machine was slow, and why what was measured is void if it is.
    pub(crate) fn stop(self, case: &str) -> (Row, Option<String>) {
        self.stop.store(true, Relaxed);
        let slow = slow_part(self.thread.join().expect("it only calculates"));
        let void = (slow > SLOW_MAX).then(|| {
            format!(
                "{case}: the machine was slow for {:.1} % of the time, {:.0} % are allowed",
                slow * 100.0,
                SLOW_MAX * 100.0
            )
        });
        (Row::plain(case, "machine slow", slow * 100.0, "% of time"), void)
    }
}

fn slow_part(nanos: Vec<f64>) -> f64 {
    let usual = median(nanos.clone());
    nanos.iter().filter(|nanos| **nanos > SLOW_TIMES * usual).count() as f64 / nanos.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_three_times_the_usual_is_slow() {
        let usual = [50.0, 51.0, 49.0, 75.0, 50.0, 52.0, 50.0, 140.0];
        assert_eq!(slow_part(usual.to_vec()), 0.0, "a busy core beside it is none");
        assert_eq!(slow_part([&usual[..], &[600.0, 500.0]].concat()), 0.2);
    }
}
