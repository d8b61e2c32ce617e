//! `det`: one hash per seed, whatever the threads, the order of registration, or the order of rows.

use crate::{
    Outcome,
    report::{Bound, Report, Row},
};
use clap::Args;
use everworld::{clock, worlds};
use everworld_engine::{LiveWorld, Options, Parallel, Pool, StateHash};
use std::{collections::BTreeSet, sync::Arc};

#[derive(Args)]
pub(crate) struct DetArgs {
    /// The scenario
    #[arg(long, default_value = "town")]
    scenario: String,
    /// Thread counts
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    threads: Vec<usize>,
    /// Seeds
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// NPCs at the start
    #[arg(long, default_value_t = 20_000)]
    npcs: u64,
    /// Ticks
    #[arg(long, default_value_t = 300)]
    ticks: u64,
    /// Permuted registration orders per seed
    #[arg(long, default_value_t = 3)]
    shuffle_systems: u64,
    /// Runs with the rows shuffled between ticks, every so many ticks; 0 for none
    #[arg(long, default_value_t = 10)]
    shuffle_rows_every: u64,
}

pub(crate) fn run(args: &DetArgs) -> Outcome {
    let mut rows = Vec::new();
    let mut of_seeds = BTreeSet::new();
    for seed in 1..=args.seeds {
        let mut hashes = BTreeSet::new();
        let mut runs = 0;
        for &threads in &args.threads {
            hashes.insert(play(args, seed, threads, None, false)?);
            runs += 1;
        }
        for permutation in 1..=args.shuffle_systems {
            hashes.insert(play(args, seed, 2, Some(permutation), false)?);
            runs += 1;
        }
        if args.shuffle_rows_every > 0 {
            hashes.insert(play(args, seed, 2, None, true)?);
            runs += 1;
        }
        let first = hashes.first().copied().unwrap_or_default();
        rows.push(Row::bounded(
            &format!("{} seed {seed}: {first}", args.scenario),
            &format!("{runs} runs"),
            hashes.len() as f64,
            "hashes",
            Bound::AtMost(1.0),
        ));
        of_seeds.extend(hashes);
    }
    let seeds = args.seeds as f64;
    rows.push(Row::bounded(
        "hashes over seeds",
        "all",
        of_seeds.len() as f64,
        "hashes",
        Bound::AtLeast(seeds),
    ));
    Ok(Report::new("det", rows, None))
}

fn play(
    args: &DetArgs,
    seed: u64,
    threads: usize,
    permutation: Option<u64>,
    shuffle: bool,
) -> anyhow::Result<StateHash> {
    let sets = [format!("seed={seed}"), format!("population={}", args.npcs)];
    let scenario = worlds::load_scenario(&args.scenario, everworld::PLUGINS, &sets)?;
    let mut builder = scenario.builder(everworld::PLUGINS)?;
    if let Some(permutation) = permutation {
        builder.permute_registration(permutation);
    }
    let pool = Arc::new(Pool::start(threads, "tick", |_| {})?);
    let mut live: LiveWorld =
        builder.build(Options { pool, parallel: Parallel::Always, stopwatch: clock::stopwatch() })?;
    live.create()?;
    for tick in 1..=args.ticks {
        live.tick(&[])?;
        if shuffle && tick % args.shuffle_rows_every == 0 {
            let image = live.image().shuffled(tick);
            live.restore(&image)?;
        }
    }
    Ok(live.state_hash())
}
