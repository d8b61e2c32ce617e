//! `everworld run`: plays a scenario for some ticks and says how fast, and what came out.

use super::{Failed, exit};
use crate::{
    clock, pool,
    status::{SystemStats, Timings},
    worlds,
};
use anyhow::Context as _;
use clap::Args;
use everworld_engine::{LiveWorld, Options, Parallel, Plan, PlanNode, Pool, StateHash, Tick};
use everworld_systems::{Plugin, Scenario, Statistic, WorldRecord};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Serialize, Serializer};
use std::{io::IsTerminal as _, path::PathBuf, sync::Arc};

/// Play a scenario file and report speed and state hash
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The scenario: a file, or the name of a built-in one (town, flocking, schelling, forestfire, wolfsheep)
    file: String,
    /// How many ticks to play
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    ticks: u64,
    /// How many NPCs there are at the start, instead of the scenario's population
    #[arg(long, value_name = "N")]
    npcs: Option<u64>,
    /// How many threads to tick on; one per core when not given
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: Option<u64>,
    /// What chance is drawn from, instead of the scenario's seed
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Override a key of the scenario, for instance town.wage=8
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Play it once for each of these seeds, for instance 1..50, both among them
    #[arg(long, value_name = "FIRST..LAST", value_parser = seeds, conflicts_with_all = ["seed", "data"])]
    seeds: Option<Seeds>,
    /// Report the state hash every N ticks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    hash_every: Option<u64>,
    /// Report the scenario's statistics every N ticks, from the beginning on
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    stats_every: Option<u64>,
    /// Keep the world durably in this data directory; it goes on where it stopped
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print one JSON object instead of the summary; with --seeds one on each line
    #[arg(long)]
    json: bool,
    /// Print the statistics as CSV instead of the summary: a line for each seed and tick; without --stats-every only of
    /// the last tick
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

/// Seeds from the first to the last.
#[derive(Clone, Copy, Debug)]
struct Seeds {
    first: u64,
    last: u64,
}

fn seeds(text: &str) -> Result<Seeds, String> {
    let ends = text.split_once("..").and_then(|(first, last)| {
        let last = last.strip_prefix('=').unwrap_or(last);
        Some(Seeds { first: first.parse().ok()?, last: last.parse().ok()? })
    });
    ends.filter(|seeds| seeds.first <= seeds.last)
        .ok_or_else(|| "expected FIRST..LAST, for instance 1..50".into())
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Summary {
    scenario: String,
    seed: u64,
    threads: usize,
    ticks: u64,
    entities: usize,
    wall_secs: f64,
    ticks_per_sec: f64,
    ns_per_entity_tick: f64,
    state_hash: StateHash,
    peak_rss_bytes: u64,
    systems: Vec<SystemSummary>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<HashAt>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stats: Vec<StatsAt>,
}

#[derive(Debug, Serialize)]
struct SystemSummary {
    name: String,
    runs: u64,
    total_ms: f64,
    p50_us: f64,
    p99_us: f64,
}

#[derive(Debug, Serialize)]
struct HashAt {
    tick: Tick,
    hash: StateHash,
}

/// What the scenario measures in a state.
#[derive(Debug, Serialize)]
struct StatsAt {
    tick: Tick,
    entities: usize,
    #[serde(flatten, serialize_with = "by_name")]
    values: Vec<Statistic>,
}

fn by_name<S: Serializer>(values: &[Statistic], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(values.iter().map(|statistic| (statistic.name, statistic.value)))
}

impl StatsAt {
    fn of(live: &LiveWorld, plugin: &Plugin) -> Self {
        let values = plugin.statistics.map_or_else(Vec::new, |statistics| statistics(&live.image()));
        Self { tick: live.now(), entities: live.entities(), values }
    }

    fn print_csv(&self, seed: u64, with_header: bool) {
        if with_header {
            let names: String = self.values.iter().flat_map(|statistic| [",", statistic.name]).collect();
            println!("seed,tick,entities{names}");
        }
        let value =
            |statistic: &Statistic| statistic.value.map_or_else(|| ",".into(), |value| format!(",{value}"));
        let values: String = self.values.iter().map(value).collect();
        println!("{seed},{},{}{values}", self.tick, self.entities);
    }
}

pub(super) fn run(args: &RunArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    let mut sets = args.sets.clone();
    sets.extend(args.npcs.map(|npcs| format!("population={npcs}")));
    let pool = pool::start(args.threads.unwrap_or(0) as usize, false)?;
    let seeds: Vec<Option<u64>> = match args.seeds {
        Some(Seeds { first, last }) => (first..=last).map(Some).collect(),
        None => vec![args.seed],
    };
    for (i, seed) in seeds.into_iter().enumerate() {
        let mut sets = sets.clone();
        sets.extend(seed.map(|seed| format!("seed={seed}")));
        let scenario = worlds::load_scenario(&args.file, plugins, &sets).map_err(exit::config)?;
        let (summary, now) = play(args, plugins, scenario, &pool)?;
        if args.json {
            println!("{}", serde_json::to_string(&summary).context("could not print the summary")?);
        } else if args.csv {
            for (j, stats) in summary.stats.iter().enumerate() {
                stats.print_csv(summary.seed, i + j == 0);
            }
        } else {
            print_summary(&summary, now);
        }
    }
    Ok(())
}

/// Plays a scenario once.
fn play(
    args: &RunArgs,
    plugins: &'static [Plugin],
    scenario: Scenario,
    pool: &Arc<Pool>,
) -> Result<(Summary, Tick), Failed> {
    let plugin = plugins.iter().find(|plugin| plugin.name == scenario.plugin).copied();
    let options = Options { pool: pool.clone(), parallel: Parallel::Auto, stopwatch: clock::stopwatch() };
    let record = WorldRecord { world: scenario.name.clone(), scenario };
    let mut world = match &args.data {
        None => Played::Volatile(Box::new(worlds::create(&record, plugins, options)?)),
        Some(data) => Played::Durable(Box::new(worlds::Durable::open(data, &record, plugins, options)?)),
    };
    if let Played::Durable(durable) = &world
        && *durable.record() != record
    {
        eprintln!(
            "everworld: the world in this data directory goes on as it was created; scenario, seed and population of the command line are not used"
        );
    }
    let mut timings = Timings::new(world.live().plan());
    let (mut hashes, mut stats) = (Vec::new(), Vec::new());
    // Looking is not playing.
    let mut aside = 0;
    let mut measure = |live: &LiveWorld, aside: &mut u64| {
        let begun = clock::now_nanos();
        stats.extend(plugin.map(|plugin| StatsAt::of(live, &plugin)));
        *aside += clock::now_nanos() - begun;
    };
    let first = world.live().now();
    if args.stats_every.is_some() {
        measure(world.live(), &mut 0);
    }
    let bar = progress_bar(args);
    let start = clock::now_nanos();
    // The whole loop on a thread of the pool: a tick that is short is not handed over twice.
    pool.install(|| -> Result<(), Failed> {
        for played in 1..=args.ticks {
            world.tick()?;
            timings.record(world.live().report());
            if args.hash_every.is_some_and(|every| played % every == 0) {
                let (live, begun) = (world.live(), clock::now_nanos());
                hashes.push(HashAt { tick: live.now(), hash: live.state_hash() });
                aside += clock::now_nanos() - begun;
            }
            if args.stats_every.is_some_and(|every| played % every == 0) {
                measure(world.live(), &mut aside);
            }
            bar.inc(1);
        }
        Ok(())
    })?;
    let wall_secs = (clock::now_nanos() - start - aside) as f64 / 1e9;
    bar.finish_and_clear();
    let live = world.live();
    if args.csv && args.stats_every.is_none() {
        measure(live, &mut aside);
    }
    let state_hash = live.state_hash();
    let ticks = live.now().0 - first.0;
    let summary = Summary {
        scenario: record.world.clone(),
        seed: live.seed(),
        threads: pool.threads(),
        ticks,
        entities: live.entities(),
        wall_secs,
        ticks_per_sec: ticks as f64 / wall_secs,
        ns_per_entity_tick: wall_secs * 1e9 / (ticks.max(1) as f64 * live.entities().max(1) as f64),
        state_hash,
        peak_rss_bytes: peak_rss_bytes(),
        systems: systems(&timings, live.plan()),
        hashes,
        stats,
    };
    let now = live.now();
    world.close()?;
    Ok((summary, now))
}

fn systems(timings: &Timings, plan: &Plan) -> Vec<SystemSummary> {
    let row = |(stats, node): (SystemStats, &PlanNode)| SystemSummary {
        name: node.name.clone(),
        runs: stats.runs,
        total_ms: stats.total_ms,
        p50_us: stats.p50_us,
        p99_us: stats.p99_us,
    };
    timings.stats().into_iter().zip(&plan.nodes).map(row).collect()
}

/// A world that is played: in memory only, or kept.
enum Played {
    Volatile(Box<LiveWorld>),
    Durable(Box<worlds::Durable>),
}

impl Played {
    fn live(&self) -> &LiveWorld {
        match self {
            Self::Volatile(live) => live,
            Self::Durable(durable) => durable.live(),
        }
    }

    fn tick(&mut self) -> Result<(), Failed> {
        match self {
            Self::Volatile(live) => {
                live.tick(&[]).map(|_| ()).map_err(|error| Failed::from(anyhow::Error::from(error)))
            }
            Self::Durable(durable) => Ok(durable.tick()?),
        }
    }

    fn close(self) -> Result<(), Failed> {
        match self {
            Self::Volatile(_) => Ok(()),
            Self::Durable(durable) => Ok(durable.close()?),
        }
    }
}

fn progress_bar(args: &RunArgs) -> ProgressBar {
    if args.json || args.csv || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} ticks  {per_sec}  {eta} left");
    ProgressBar::new(args.ticks).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn print_summary(summary: &Summary, now: Tick) {
    println!("scenario      {} (seed {})", summary.scenario, summary.seed);
    println!("ticks         {} in {:.2} s, now at tick {now}", summary.ticks, summary.wall_secs);
    println!("entities      {}", summary.entities);
    println!("speed         {:.1} ticks/s on {} threads", summary.ticks_per_sec, summary.threads);
    println!("cost          {:.1} ns per entity and tick", summary.ns_per_entity_tick);
    println!("memory        {:.1} MiB at the peak", summary.peak_rss_bytes as f64 / 1_048_576.0);
    println!("state hash    {}", summary.state_hash);
    for HashAt { tick, hash } in &summary.hashes {
        println!("  tick {tick:>8}  {hash}");
    }
    for StatsAt { tick, values, .. } in &summary.stats {
        println!("\nstatistics of tick {tick}");
        for Statistic { name, value } in values {
            println!("  {name:<34} {}", value.map_or_else(|| "-".into(), |value| format!("{value:.6}")));
        }
    }
    println!("\n{:<24} {:>8} {:>12} {:>10} {:>10}", "system", "runs", "total ms", "p50 us", "p99 us");
    for system in &summary.systems {
        let SystemSummary { name, runs, total_ms, p50_us, p99_us } = system;
        println!("{name:<24} {runs:>8} {total_ms:>12.1} {p50_us:>10.1} {p99_us:>10.1}");
    }
}

/// The most memory that the process has had, from `/proc`; 0 where there is none.
fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1_024
}

/// The scenario that is named, for the other commands.
pub(super) fn scenario(file: &str, plugins: &[Plugin], sets: &[String]) -> Result<Scenario, Failed> {
    worlds::load_scenario(file, plugins, sets).map_err(exit::config)
}
