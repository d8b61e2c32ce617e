//! The integration tests of the product, one binary.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    missing_docs,
    reason = "tests read files and start processes; no tick does"
)]

mod catalogue;
mod cli;
mod damage;
mod disk;
mod entities;
mod events;
mod hash;
mod long_log;
mod many_worlds;
mod models;
#[path = "../../examples/own_world.rs"]
#[allow(dead_code, reason = "its main is the example's")]
mod own_world;
mod own_world_runs;
mod past;
mod plan;
mod recovery;
mod rows;
mod scrub;
mod serve;
mod steer;
mod stop;
mod support;
mod tidy;
mod time;
mod town;
mod upgrade;
mod verifier;
mod why;
