//! The server process of Everworld: command line, host, sequencer, HTTP API, configuration and metrics.
//!
//! A user's own program is `fn main() -> ExitCode { everworld::main(&[...plugins]) }`: its worlds get the
//! command line, durability, the API and metrics from here. What a world is made of is in `everworld_engine`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the host reads clocks, files and sockets; no tick does"
)]

pub mod api;
pub mod catalogue;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod events;
pub mod history;
pub mod host;
pub mod hosting;
pub mod ledger;
pub mod logs;
pub mod metrics;
pub mod pool;
pub mod questions;
mod raw;
#[doc(hidden)]
pub mod rig;
pub mod ring;
pub mod scrubber;
pub mod sequencer;
pub mod spine;
pub mod statistician;
pub mod status;
pub mod tokens;
pub mod trace;
pub mod verifier;
pub mod watchdog;
pub mod worlds;

pub use everworld_engine as engine;
pub use everworld_systems::{PLUGINS, Plugin, Scenario, ScenarioError, WorldRecord};
#[cfg(target_os = "linux")]
pub use raw::HugePages;

use std::process::ExitCode;

/// Runs the command line with these kinds of worlds, ours and a user's own.
pub fn main(plugins: &'static [Plugin]) -> ExitCode {
    // Where it is not taken the server needs more memory, and nothing else.
    let _ = raw::give_memory_back();
    cli::main(std::env::args_os(), plugins)
}
