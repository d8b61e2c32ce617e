//! The clocks of the host: what the engine measures with, and how ticks are paced. Never an input of a system.

use everworld_engine::Stopwatch;
use rustix::time::{ClockId, clock_gettime};
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

/// Nanoseconds since the process first asked; monotonic.
pub fn now_nanos() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Nanoseconds that the calling thread has been on a CPU.
pub fn thread_nanos() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Milliseconds since 1970, for people and for how long things are kept.
pub fn unix_millis() -> u64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000 + SHIFT_MILLIS.load(Relaxed)
}

static SHIFT_MILLIS: AtomicU64 = AtomicU64::new(0);

/// Lets the wall clock of this process jump ahead: how the harness makes snapshots old.
#[doc(hidden)]
pub fn shift_unix_millis(millis: u64) {
    SHIFT_MILLIS.fetch_add(millis, Relaxed);
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
