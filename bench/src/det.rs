//! `det`: one hash per seed, whatever the threads, the order of registration, or the order of rows.

use crate::{
    Outcome, harness,
    harness::Inputs,
    report::{Bound, Report, Row},
};
use clap::Args;
use everworld::Plugin;
use everworld_engine::{StateHash, WorldBuilder};
use std::collections::BTreeSet;

#[derive(Args, Clone)]
pub(crate) struct DetArgs {
    /// The scenarios
    #[arg(long, alias = "scenario", value_delimiter = ',', default_value = "town,churn")]
    pub(crate) scenarios: Vec<String>,
    /// Thread counts
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    pub(crate) threads: Vec<usize>,
    /// Seeds
    #[arg(long, default_value_t = 3)]
    pub(crate) seeds: u64,
    /// NPCs at the start
    #[arg(long, default_value_t = 2_000)]
    pub(crate) npcs: u64,
    /// Ticks
    #[arg(long, default_value_t = 200)]
    pub(crate) ticks: u64,
    /// Permuted registration orders, spread over the seeds
    #[arg(long, default_value_t = 9)]
    pub(crate) shuffle_systems: u64,
    /// Runs with the rows shuffled between ticks, every so many ticks; 0 for none
    #[arg(long, default_value_t = 10)]
    pub(crate) shuffle_rows_every: u64,
}

pub(crate) fn run(args: &DetArgs) -> Outcome {
    let mut rows = Vec::new();
    for name in &args.scenarios {
        let plugin = harness::plugin(name)?;
        let mut of_seeds = BTreeSet::new();
        for seed in 1..=args.seeds {
            let (hashes, runs) = hashes(args, plugin, seed, |_| {})?;
            let first = hashes.first().copied().unwrap_or_default();
            rows.push(Row::bounded(
                &format!("{name} seed {seed}: {first}"),
                &format!("{runs} runs"),
                hashes.len() as f64,
                "hashes",
                Bound::AtMost(1.0),
            ));
            of_seeds.extend(hashes);
        }
        rows.push(Row::bounded(
            &format!("{name}, hashes over seeds"),
            "all",
            of_seeds.len() as f64,
            "hashes",
            Bound::AtLeast(args.seeds as f64),
        ));
    }
    Ok(Report::new("det", rows, None))
}

/// The hashes of all runs of a seed, and how many runs there were. One hash is right.
pub(crate) fn hashes(
    args: &DetArgs,
    plugin: &Plugin,
    seed: u64,
    tamper: impl Fn(&mut WorldBuilder),
) -> anyhow::Result<(BTreeSet<StateHash>, u64)> {
    let mut hashes = BTreeSet::new();
    let mut runs = 0;
    let mut play = |threads, permutation, shuffle| -> anyhow::Result<()> {
        hashes.insert(play(args, plugin, (args.npcs, seed), (threads, permutation, shuffle), &tamper)?);
        runs += 1;
        Ok(())
    };
    for &threads in &args.threads {
        play(threads, None, false)?;
    }
    // Each permutation at another number of threads.
    for permutation in
        (1..=args.shuffle_systems).filter(|number| number % args.seeds.max(1) == seed % args.seeds.max(1))
    {
        let threads = args.threads.get(permutation as usize % args.threads.len().max(1)).copied();
        play(threads.unwrap_or(2), Some(permutation), false)?;
    }
    if args.shuffle_rows_every > 0 {
        play(2, None, true)?;
    }
    Ok((hashes, runs))
}

fn play(
    args: &DetArgs,
    plugin: &Plugin,
    size: (u64, u64),
    (threads, permutation, shuffle): (usize, Option<u64>, bool),
    tamper: impl Fn(&mut WorldBuilder),
) -> anyhow::Result<StateHash> {
    let mut live = harness::world_of(plugin, size, threads, |builder| {
        tamper(builder);
        if let Some(permutation) = permutation {
            builder.permute_registration(permutation);
        }
    })?;
    live.create()?;
    let mut inputs = Inputs::new(plugin.name, size.1);
    for tick in 1..=args.ticks {
        live.tick(&inputs.of(live.now().next()))?;
        if shuffle && tick % args.shuffle_rows_every == 0 {
            let image = live.image().shuffled(tick);
            live.restore(&image)?;
        }
    }
    Ok(live.state_hash())
}
