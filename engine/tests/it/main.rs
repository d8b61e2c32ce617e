//! What a user of the engine could notice, at its boundary.
#![allow(missing_docs, reason = "tests")]

mod build;
mod columns;
mod determinism;
mod explain;
mod grid;
mod happened;
mod migrate;
mod mirror;
mod query;
mod settings;
mod turns;
mod watch;
mod world;

use everworld_engine::{LiveWorld, Options, Parallel, Pool, Stopwatch, WorldBuilder};
use std::sync::Arc;

fn options(threads: usize, parallel: Parallel) -> Options {
    let pool = Arc::new(Pool::start(threads, "test", |_| {}).unwrap());
    Options { pool, parallel, stopwatch: Stopwatch::stopped() }
}

fn created(world: WorldBuilder, threads: usize, parallel: Parallel) -> LiveWorld {
    let mut live = world.build(options(threads, parallel)).unwrap();
    live.create().unwrap();
    live
}
