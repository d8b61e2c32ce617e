//! `everworld plan`: what runs in a tick of a scenario, in which order, and why.

use super::{Failed, run};
use crate::{clock, pool, worlds};
use anyhow::Context as _;
use clap::Args;
use everworld_engine::{Options, Parallel};
use everworld_systems::Plugin;

/// Print the plan of a scenario's tick: order, edges, and the reason of each edge
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// The scenario: a file, or the name of a built-in one (town)
    file: String,
    /// Override a key of the scenario
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PlanArgs, plugins: &[Plugin]) -> Result<(), Failed> {
    let scenario = run::scenario(&args.file, plugins, &args.sets)?;
    let options =
        Options { pool: pool::start(1, false)?, parallel: Parallel::Never, stopwatch: clock::stopwatch() };
    let world = worlds::build(&scenario, plugins, options)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(world.plan()).context("could not print the plan")?);
    } else {
        print!("{}", world.plan());
    }
    Ok(())
}
