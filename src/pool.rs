//! The rayon pool that all worlds tick on.

use crate::{clock, raw};
use anyhow::Context as _;
use everworld_engine::Pool;
use parking_lot::Mutex;
use std::sync::Arc;

/// How far the work beside ticks stands back behind them and HTTP.
const BESIDE_NICE: i32 = 10;

/// A pool of so many threads, 0 for one per core. `served`: others than ticks are waited for, too, as in a server.
pub fn start(threads: usize, served: bool) -> anyhow::Result<Arc<Pool>> {
    let threads =
        if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads };
    let on_start = move |_| {
        if served {
            tick_here();
        }
    };
    Pool::start(threads, "tick", on_start)
        .map(Arc::new)
        .context("could not start the threads of the tick pool")
}

/// The turns of a thread that ticks: long beside those of who answers, but shorter than what others get unasked, so that
/// it does not wait for the end of theirs.
const TICK_SLICE: std::time::Duration = std::time::Duration::from_millis(1);

/// Makes the calling thread one that ticks.
pub fn tick_here() {
    // Where the system does not let us, ticks and answers wait somewhat longer for each other.
    let _ = raw::set_slice(TICK_SLICE);
}

/// For work that nobody waits for. On Linux each thread has a nice value of its own.
pub fn stand_back() {
    // Not being allowed to is no reason to stop: the server then answers somewhat later under load.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), BESIDE_NICE);
}

/// The shortest turn on the CPU that Linux grants. For who answers only: with ticks in short turns, too, the 99th
/// percentile of acknowledgements was twice as long.
const SHORT_SLICE: std::time::Duration = std::time::Duration::from_micros(100);

/// Lets the calling thread have the CPU as soon as it wakes, for a little: for who stands between a client and his answer.
pub fn answer_soon() {
    // As with ticking.
    let _ = raw::set_slice(SHORT_SLICE);
}

/// Lets the calling thread have the CPU only when nobody else wants it (T4). Cannot be taken back without privileges.
pub fn idle() {
    use thread_priority::{
        NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
        thread_native_id,
    };
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    // Where the system does not let us, a high nice value is the next best.
    if set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy).is_err() {
        stand_back();
    }
}

/// A pool of so many threads for bulk work (T4).
pub fn start_idle(threads: usize) -> anyhow::Result<Arc<Pool>> {
    let pool = Pool::start(threads, "history", |_| idle());
    pool.map(Arc::new).context("could not start the threads of the history pool")
}

/// Works so long, then stands aside: what the tick feels of a busy neighbour is its CPU, not its data.
const WORK_NANOS: u64 = 500_000;

/// What bulk work beside a tick calls after each piece: after half a millisecond of work it sleeps twice that.
pub fn pace() -> impl FnMut() + Send {
    let mut begun = clock::now_nanos();
    move || {
        let worked = clock::now_nanos().saturating_sub(begun);
        if worked >= WORK_NANOS {
            // A pause between two pieces of work counts as rest.
            if worked < 8 * WORK_NANOS {
                std::thread::sleep(std::time::Duration::from_nanos(2 * worked));
            }
            begun = clock::now_nanos();
        }
    }
}

/// [`pace`] for who is called from behind a shared reference; one thread works at a time.
pub fn shared_pace() -> Arc<dyn Fn() + Send + Sync> {
    let pace = Mutex::new(pace());
    Arc::new(move || (pace.lock())())
}
