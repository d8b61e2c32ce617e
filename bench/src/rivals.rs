//! `rivals`: the loads by which other servers of worlds show what they can do, beside the figures that they publish.
//!
//! Their figures are of their own machines: what stands beside them is not the same run. March is of SpacetimeDB's keynote,
//! Battle is Typhon's SimpleSpaceBattle.

use crate::{
    Outcome, canary, harness,
    measure::median,
    npcs,
    persist::percentile,
    report::{Bound, Report, Row},
    serving::Server,
};
use anyhow::Context as _;
use clap::Args;
use everworld::{PLUGINS, client::Client};
use everworld_engine::{LiveWorld, StateHash};
use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

#[derive(Args)]
pub(crate) struct RivalsArgs {
    /// Which loads
    #[arg(long, value_delimiter = ',', default_value = "march,battle")]
    loads: Vec<String>,
    /// Entities; without it as many as the published figures are of
    #[arg(long)]
    npcs: Option<u64>,
    /// Ticks of a run
    #[arg(long, default_value_t = 200)]
    ticks: u64,
    /// Runs of each number of threads; medians count
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Numbers of threads whose results are to be one
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    hashes: Vec<usize>,
    /// Seconds of the durable run
    #[arg(long, default_value_t = 60)]
    secs: u64,
}

/// A load, and what is published of it.
struct Load {
    name: &'static str,
    npcs: u64,
    rate: f64,
    /// Milliseconds of a tick, and what of it: the mean, or the middle.
    tick_ms: f64,
    on: &'static str,
}

const LOADS: [Load; 2] = [
    Load { name: "march", npcs: 1_000_000, rate: 10.0, tick_ms: 357.0, on: "published mean, durable" },
    Load { name: "battle", npcs: 50_000, rate: 25.0, tick_ms: 12.0, on: "published p50, 30 workers" },
];

pub(crate) fn run(args: &RivalsArgs) -> Outcome {
    let (gain, void) = canary::sing();
    let mut rows = vec![Row::plain("canary", "random gather", gain, "gain")];
    for name in &args.loads {
        let known = || LOADS.map(|load| load.name).join(", ");
        let load = LOADS.iter().find(|load| load.name == name);
        let load =
            load.ok_or_else(|| anyhow::anyhow!("unknown load \"{name}\", expected some of {}", known()))?;
        let npcs = args.npcs.unwrap_or(load.npcs);
        let case = format!("{name}, {npcs}");
        free(args, load, npcs, &case, &mut rows)?;
        one_hash(args, load, npcs, &case, &mut rows)?;
        if name == "battle" && npcs == load.npcs && args.ticks >= 200 {
            sanity(&case, npcs, &mut rows)?;
        }
        durable(args, load, npcs, &case, &mut rows)?;
    }
    Ok(Report::new("rivals", rows, void))
}

fn created(load: &Load, npcs: u64, threads: usize) -> anyhow::Result<LiveWorld> {
    let mut live = harness::world_of(harness::plugin(load.name)?, (npcs, 1), threads, |_| {})?;
    live.create()?;
    Ok(live)
}

/// As fast as it goes, in memory.
fn free(args: &RivalsArgs, load: &Load, npcs: u64, case: &str, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let mut medians = BTreeMap::new();
    for _ in 0..args.rounds {
        for threads in [1, 2] {
            let mut live = created(load, npcs, threads)?;
            let mut times = Vec::new();
            for _ in 0..args.ticks {
                times.push(live.tick(&[])?.wall_nanos as f64 / 1e6);
            }
            let figures = (median(times.clone()), percentile(times, 0.99));
            medians.entry(threads).or_insert_with(Vec::new).push(figures);
        }
    }
    for (threads, figures) in medians {
        let (p50, p99): (Vec<f64>, Vec<f64>) = figures.into_iter().unzip();
        let mode = format!("{}: p50 of {} ticks", npcs::threads(threads), args.ticks);
        rows.push(Row::beside(case, &mode, median(p50.clone()), "ms", load.tick_ms).of(&p50));
        let mode = format!("{}: p99", npcs::threads(threads));
        rows.push(Row::plain(case, &mode, median(p99.clone()), "ms").of(&p99));
    }
    rows.push(Row::plain(case, load.on, load.tick_ms, "ms"));
    Ok(())
}

fn one_hash(
    args: &RivalsArgs,
    load: &Load,
    npcs: u64,
    case: &str,
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    let mut hashes: Vec<StateHash> = Vec::new();
    for &threads in &args.hashes {
        let mut live = created(load, npcs, threads)?;
        (0..args.ticks).try_for_each(|_| live.tick(&[]).map(|_| ()))?;
        hashes.push(live.state_hash());
    }
    hashes.sort();
    hashes.dedup();
    let mode = format!("hashes on {:?} threads", args.hashes);
    rows.push(Row::bounded(case, &mode, hashes.len() as f64, "hashes", Bound::AtMost(1.0)));
    Ok(())
}

/// Whether it is the battle that the figures were published of.
fn sanity(case: &str, npcs: u64, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let load = &LOADS[1];
    let plugin = PLUGINS.iter().find(|plugin| plugin.name == load.name);
    let measure = plugin.and_then(|plugin| plugin.statistics).expect("a battle is measured");
    let mut live = created(load, npcs, 2)?;
    let mut look = |ticks: u64| -> anyhow::Result<BTreeMap<&str, f64>> {
        (0..ticks).try_for_each(|_| live.tick(&[]).map(|_| ()))?;
        let statistics = measure(&live.image()).into_iter();
        Ok(statistics.filter_map(|statistic| Some((statistic.name, statistic.value?))).collect())
    };
    let (start, at_100, at_180, at_200) = (look(0)?, look(100)?, look(80)?, look(20)?);
    let fired = |what: &str| at_200[what] - at_180[what];
    for (mode, unit, value, published) in [
        ("neighbours at the start, away from walls", "ships", start["mean_neighbours_inside"], 131.0),
        ("left at tick 100", "ships", at_100["ships"], 49_952.0),
        ("left at tick 200", "ships", at_200["ships"], 43_152.0),
        ("hits, ticks 180 to 200", "%", 100.0 * fired("hits") / fired("shots"), 86.3),
        ("shots, ticks 180 to 200", "shots/s", fired("shots") / 20.0 * load.rate, 121_000.0),
    ] {
        rows.push(Row::ratio(case, mode, value, unit, published, Bound::Within(0.02)));
    }
    rows.push(Row::plain(case, "neighbours at the start, all", start["mean_neighbours"], "ships"));
    Ok(())
}

/// At its rate, everything durable, killed at the end.
fn durable(args: &RivalsArgs, load: &Load, npcs: u64, case: &str, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let case = format!("{case}, durable at {} Hz", load.rate);
    let dir = tempfile::tempdir()?;
    let scenario = format!("world.scenario={}", load.name);
    let start = || Server::start_with(dir.path(), load.rate, npcs, &[&scenario]);
    let mut server = start()?;
    server.ready()?;
    // What comes once: pages, the first snapshot.
    thread::sleep(Duration::from_secs(2));
    // A battle is over before long: only what it was published of.
    let secs = if load.name == "battle" { args.secs.min(6) } else { args.secs };
    let figures = |server: &Server| -> anyhow::Result<[f64; 3]> {
        let ticks = server.metric("everworld_tick_duration_seconds_count{")?;
        let log = server.metric("everworld_log_written_bytes_total{")?;
        Ok([ticks, log, server.metric("everworld_tick_overruns_total{")?])
    };
    let before = figures(&server)?;
    thread::sleep(Duration::from_secs(secs));
    let after = figures(&server)?;
    let [ticks, log, overruns] = std::array::from_fn(|i| after[i] - before[i]);
    // All of a tick: also its log records, and what it stands still for a capture.
    let last = format!("/v1/worlds/{}/ticks?last={}", load.name, ticks.min(1_000.0));
    let (_, recent) = Client::connect(server.address)?.request("GET", &last, "")?;
    let recent = recent["items"].as_array().context("the last ticks")?.iter();
    let times: Vec<f64> = recent.filter_map(|tick| Some(tick["total_us"].as_f64()? / 1e3)).collect();
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    rows.push(Row::beside(&case, "mean tick, all of it", mean, "ms", load.tick_ms));
    rows.push(Row::plain(&case, "p99", percentile(times, 0.99), "ms"));
    rows.push(Row::plain(&case, "ticks", ticks, "ticks"));
    rows.push(Row::plain(
        &case,
        "entities at the end",
        server.metric("everworld_world_entities{")?,
        "entities",
    ));
    rows.push(Row::plain(&case, "overruns", overruns, "ticks"));
    rows.push(Row::plain(&case, "log", log / ticks, "B/tick"));
    rows.push(Row::plain(&case, "memory, peak", server.memory("VmHWM")? / 1e6, "MB"));
    server.kill()?;
    let begun = Instant::now();
    server = start()?;
    let ready = server.ready()?;
    rows.push(Row::plain(&case, "killed to ready", begun.elapsed().as_secs_f64(), "s"));
    let replayed = ready["fields"]["replayed"].as_f64().unwrap_or(f64::NAN);
    rows.push(Row::plain(&case, "replayed", replayed, "ticks"));
    server.kill()
}
