//! The clocks of the host: what the engine measures with, and how ticks are paced. Never an input of a system.

use everworld_engine::Stopwatch;
use rustix::time::{ClockId, clock_gettime};
use std::{sync::OnceLock, time::Instant};

/// Nanoseconds since the process first asked; monotonic.
pub fn now_nanos() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// CPU time of the calling thread in nanoseconds.
pub fn thread_cpu_nanos() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The clocks for the engine.
pub fn stopwatch() -> Stopwatch {
    Stopwatch { wall_nanos: now_nanos, thread_cpu_nanos }
}
