//! bevy's own executors, as its users run them.

use bevy_ecs::{
    prelude::*,
    schedule::{MultiThreadedExecutor, Schedule, SingleThreadedExecutor},
};

/// An empty schedule on bevy's multithreaded executor.
pub(crate) fn multi_threaded() -> Schedule {
    let mut schedule = Schedule::default();
    schedule.set_executor(MultiThreadedExecutor::new());
    schedule
}

/// An empty schedule on bevy's single-threaded executor.
pub(crate) fn single_threaded() -> Schedule {
    let mut schedule = Schedule::default();
    schedule.set_executor(SingleThreadedExecutor::new());
    schedule
}

/// Starts bevy's pool with that many threads, and a world. The calling thread takes part in it, as in an App.
pub(crate) fn world(threads: usize) -> World {
    bevy_tasks::ComputeTaskPool::get_or_init(|| {
        // bevy's executor uses the calling thread as well: one thread less makes the numbers equal.
        bevy_tasks::TaskPoolBuilder::new().num_threads(threads.saturating_sub(1).max(1)).build()
    });
    World::new()
}
