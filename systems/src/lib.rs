//! The behaviour of the living town, one file per behaviour; the standard models, one file each; and the scenarios that put
//! them together.
//!
//! [`Scenario`] reads a TOML file and names a plugin; [`PLUGINS`] lists ours. A user's own crate adds its own in the
//! same way. Nothing here reads a clock, a file or the environment: a scenario comes in as text.

mod annals;
mod battle;
mod cast;
pub mod chronicle;
mod day;
pub mod flocking;
pub mod forestfire;
mod lives;
mod march;
mod market;
mod meet;
mod memory;
mod mind;
mod names;
mod needs;
pub mod portrait;
mod scenario;
pub mod schelling;
mod sense;
mod town;
mod visits;
mod walk;
pub mod wolfsheep;
mod work;

pub use scenario::{Plugin, Scenario, ScenarioError, Statistic, Story, Update, WorldRecord};

/// The worlds that this crate brings.
pub const PLUGINS: &[Plugin] = &[
    town::PLUGIN,
    battle::PLUGIN,
    flocking::PLUGIN,
    forestfire::PLUGIN,
    march::PLUGIN,
    schelling::PLUGIN,
    wolfsheep::PLUGIN,
];
