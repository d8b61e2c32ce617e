//! `npcs`: what a tick of a world costs by the number of its NPCs and of threads, and whether that has grown since an
//! earlier run.
//!
//! Each measurement is a process of its own, so that its memory and its CPU time are its own. Beside each a calibration loop
//! is timed in this process: a baseline is compared by multiples of that loop, so that another machine, or a noisy hour of
//! this one, is not taken for another program.

use crate::{
    Outcome, canary,
    measure::median,
    persist::percentile,
    report::{Bound, Report, Row},
};
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use everworld::{PLUGINS, WorldRecord, clock, worlds};
use everworld_engine::{Options, Parallel, Pool};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, hint,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

#[derive(Args)]
pub(crate) struct NpcsArgs {
    /// Numbers of NPCs
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000,1000000")]
    counts: Vec<u64>,
    /// Numbers of threads
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// The scenario: a file, or the name of a built-in one
    #[arg(long, default_value = "town")]
    scenario: String,
    /// Another value for a key of the scenario, as key=value
    #[arg(long)]
    set: Vec<String>,
    /// Ticks that are measured, from the second on, in each case alike: many worlds cost more as they go on
    #[arg(long, default_value_t = 50)]
    ticks: u64,
    /// Processes for each case; medians count
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Compare with the JSON of an earlier run; exit 1 past a threshold
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// By how much a tick may have become slower
    #[arg(long, default_value_t = 0.2)]
    slower: f64,
    /// By how much the share of failed runs may have grown
    #[arg(long, default_value_t = 0.05)]
    failures: f64,
    /// By how much a tick may need more CPU time
    #[arg(long, default_value_t = 0.3)]
    cpu: f64,
}

#[derive(Args)]
pub(crate) struct ChildArgs {
    #[arg(long)]
    scenario: String,
    #[arg(long)]
    set: Vec<String>,
    #[arg(long)]
    threads: usize,
    #[arg(long)]
    ticks: u64,
}

/// What one process found.
#[derive(Serialize, Deserialize)]
struct Found {
    entities: usize,
    /// Nanoseconds of each tick.
    ticks: Vec<f64>,
    cpu_nanos_per_tick: f64,
    /// Bytes that the world took, and the most that the process had.
    bytes: f64,
    peak_bytes: f64,
    /// Nanoseconds of each node of the plan, over all ticks.
    systems: BTreeMap<String, f64>,
    hash: String,
}

/// A number of NPCs on a number of threads.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) scenario: String,
    pub(crate) npcs: u64,
    pub(crate) threads: usize,
    pub(crate) entities: usize,
    /// Over all ticks of the middle process.
    pub(crate) ticks_per_second: f64,
    /// Of the middle tick.
    pub(crate) ns_per_npc: f64,
    /// Of the middle tick of each process.
    pub(crate) spread: [f64; 2],
    pub(crate) p99_ns_per_npc: f64,
    pub(crate) cpu_ns_per_npc: f64,
    pub(crate) bytes_per_npc: f64,
    pub(crate) peak_bytes_per_npc: f64,
    /// The share of runs that ended otherwise than they should, or at another hash than others.
    pub(crate) failures: f64,
    /// Nanoseconds of the calibration loop on as many threads.
    pub(crate) calibration_ns: f64,
    /// The share of the ticks that each node of the plan took, summed over threads.
    pub(crate) systems: BTreeMap<String, f64>,
}

/// What is kept of a run beside its rows.
#[derive(Serialize, Deserialize)]
pub(crate) struct Data {
    pub(crate) cases: Vec<Case>,
}

pub(crate) fn run(args: &NpcsArgs) -> Outcome {
    let baseline = args.baseline.as_deref().map(read).transpose()?;
    let (gain, void) = canary::sing();
    let mut rows = vec![Row::plain("canary", "random gather", gain, "gain")];
    let cases = measured(args)?;
    for case in &cases {
        case.rows(&mut rows);
    }
    growth(args, &cases, &mut rows);
    if let Some(baseline) = baseline {
        compare(args, &cases, &baseline, &mut rows)?;
    }
    let data = Data { cases };
    Ok(Report::new("npcs", rows, void).with(serde_json::to_value(data)?))
}

/// The cases of an earlier run.
fn read(path: &Path) -> anyhow::Result<Data> {
    let place = || format!("{}: expected the JSON of an earlier run of npcs", path.display());
    let text = fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let report: serde_json::Value = serde_json::from_str(&text).with_context(place)?;
    ensure!(report["bench"] == "npcs", place());
    serde_json::from_value(report["data"].clone()).with_context(place)
}

fn measured(args: &NpcsArgs) -> anyhow::Result<Vec<Case>> {
    // Bad names and keys are told once, before anything runs.
    worlds::load_scenario(&args.scenario, PLUGINS, &args.set)?;
    let sizes: Vec<(u64, usize)> = args
        .counts
        .iter()
        .flat_map(|npcs| args.threads.iter().map(move |threads| (*npcs, *threads)))
        .collect();
    let bar =
        ProgressBar::with_draw_target(Some((sizes.len() * args.rounds) as u64), ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {eta}")?);
    let mut found: BTreeMap<(u64, usize), (Vec<Found>, usize, Vec<f64>)> = BTreeMap::new();
    // Round by round: an hour of noise hits all alike.
    for _ in 0..args.rounds {
        for &(npcs, threads) in &sizes {
            bar.set_message(format!("{npcs} NPCs, {}", self::threads(threads)));
            let (runs, failed, calibrations) = found.entry((npcs, threads)).or_default();
            calibrations.push(calibration(threads)?);
            match child(args, npcs, threads) {
                Ok(run) => runs.push(run),
                Err(error) => {
                    bar.suspend(|| eprintln!("{npcs} NPCs on {threads} threads: {error:#}"));
                    *failed += 1;
                }
            }
            calibrations.push(calibration(threads)?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    // One world of a size is right, whatever it ran on: the hash that most runs have.
    let mut of_counts: BTreeMap<u64, BTreeMap<&str, usize>> = BTreeMap::new();
    for ((npcs, _), (runs, ..)) in &found {
        for run in runs {
            *of_counts.entry(*npcs).or_default().entry(&run.hash).or_default() += 1;
        }
    }
    let right = |npcs: &u64| {
        let hashes = of_counts.get(npcs)?;
        hashes.iter().max_by_key(|(_, count)| **count).map(|(hash, _)| *hash)
    };
    let case =
        |((npcs, threads), (runs, failed, calibrations)): (&(u64, usize), &(Vec<Found>, usize, Vec<f64>))| {
            let wrong = runs.iter().filter(|run| Some(&*run.hash) != right(npcs)).count();
            let failures = (failed + wrong) as f64 / args.rounds as f64;
            Case::of(&args.scenario, (*npcs, *threads), runs, failures, median(calibrations.clone()))
        };
    // One that never came to its end is no case with few failures.
    for ((npcs, threads), (runs, failed, _)) in &found {
        ensure!(
            !runs.is_empty(),
            "{npcs} NPCs on {}: all {failed} processes failed",
            self::threads(*threads)
        );
    }
    Ok(found.iter().map(case).collect())
}

impl Case {
    fn of(
        scenario: &str,
        (npcs, threads): (u64, usize),
        runs: &[Found],
        failures: f64,
        calibration_ns: f64,
    ) -> Self {
        let entities = runs[0].entities.max(1);
        let per_npc = |figure: &dyn Fn(&Found) -> f64| -> Vec<f64> {
            runs.iter().map(|run| figure(run) / entities as f64).collect()
        };
        let middles = per_npc(&|run| median(run.ticks.clone()));
        let least = middles.iter().copied().fold(f64::INFINITY, f64::min);
        let most = middles.iter().copied().fold(0.0, f64::max);
        let mut systems: BTreeMap<String, f64> = BTreeMap::new();
        for (name, nanos) in runs.iter().flat_map(|run| &run.systems) {
            *systems.entry(name.clone()).or_default() += nanos;
        }
        let all: f64 = systems.values().sum();
        systems.values_mut().for_each(|nanos| *nanos /= all.max(1.0));
        let mean = |run: &Found| run.ticks.iter().sum::<f64>() / run.ticks.len() as f64;
        Self {
            scenario: scenario.to_owned(),
            npcs,
            threads,
            entities,
            ticks_per_second: 1e9 / median(runs.iter().map(mean).collect()),
            ns_per_npc: median(middles),
            spread: [least, most],
            p99_ns_per_npc: median(per_npc(&|run| percentile(run.ticks.clone(), 0.99))),
            cpu_ns_per_npc: median(per_npc(&|run| run.cpu_nanos_per_tick)),
            bytes_per_npc: median(per_npc(&|run| run.bytes)),
            peak_bytes_per_npc: median(per_npc(&|run| run.peak_bytes)),
            failures,
            calibration_ns,
            systems,
        }
    }

    /// As rows have it.
    pub(crate) fn name(&self) -> String {
        format!("{}, {} NPCs, {}", self.scenario, self.npcs, threads(self.threads))
    }

    fn rows(&self, rows: &mut Vec<Row>) {
        let case = self.name();
        let scaled = |factor: f64| self.spread.map(|nanos| nanos * factor);
        rows.push(Row::plain(&case, "a tick", self.ns_per_npc, "ns/NPC").of(&scaled(1.0)));
        rows.push(Row::plain(&case, "a tick, p99", self.p99_ns_per_npc, "ns/NPC"));
        rows.push(Row::plain(&case, "speed", self.ticks_per_second, "ticks/s"));
        rows.push(Row::plain(&case, "CPU time", self.cpu_ns_per_npc, "ns/NPC"));
        rows.push(Row::plain(&case, "memory", self.bytes_per_npc, "B/NPC"));
        rows.push(Row::bounded(&case, "failed runs", self.failures, "share", Bound::AtMost(0.0)));
        let mut shares: Vec<_> = self.systems.iter().collect();
        shares.sort_by(|a, b| b.1.total_cmp(a.1));
        for (system, share) in shares.into_iter().filter(|(_, share)| **share >= 0.01) {
            rows.push(Row::plain(&case, system, 100.0 * share, "%"));
        }
    }
}

/// So many threads, in words.
pub(crate) fn threads(count: usize) -> String {
    if count == 1 { "1 thread".into() } else { format!("{count} threads") }
}

/// By how much more an NPC of a large world may cost than one of a world of a tenth.
const GROWTH_MAX: f64 = 1.4;

/// How the cost grows with the number of NPCs: the exponent, and the two largest sizes side by side.
fn growth(args: &NpcsArgs, cases: &[Case], rows: &mut Vec<Row>) {
    for threads in &args.threads {
        let of_threads: Vec<&Case> = cases.iter().filter(|case| case.threads == *threads).collect();
        let name = format!("{}, {}", args.scenario, self::threads(*threads));
        if let Some(exponent) = exponent(of_threads.iter().copied()) {
            rows.push(Row::plain(&name, "scaling exponent", exponent, "power"));
        }
        let of = |npcs: u64| of_threads.iter().find(|case| case.npcs == npcs).map(|case| case.ns_per_npc);
        if let (Some(million), Some(tenth)) = (of(1_000_000), of(100_000)) {
            let bound = Bound::AtMost(GROWTH_MAX);
            rows.push(Row::ratio(&name, "1,000,000 beside 100,000", million, "ns/NPC", tenth, bound));
        }
    }
}

/// The power of the number of NPCs that a tick's time grows by, by least squares over logarithms.
pub(crate) fn exponent<'c>(cases: impl Iterator<Item = &'c Case>) -> Option<f64> {
    let points: Vec<[f64; 2]> = cases
        .map(|case| [(case.entities as f64).ln(), (case.ns_per_npc * case.entities as f64).ln()])
        .collect();
    let count = points.len() as f64;
    let mean = |axis: usize| points.iter().map(|point| point[axis]).sum::<f64>() / count;
    let (x, y) = (mean(0), mean(1));
    let sum = |product: fn(f64, f64) -> f64| {
        points.iter().map(|point| product(point[0] - x, point[1] - y)).sum::<f64>()
    };
    let spread = sum(|x, _| x * x);
    (points.len() > 1 && spread > 0.0).then(|| sum(|x, y| x * y) / spread)
}

/// This run beside an earlier one, both in multiples of the calibration loop of their own.
fn compare(args: &NpcsArgs, cases: &[Case], baseline: &Data, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let mut compared = 0;
    for now in cases {
        let is_same = |before: &&Case| {
            (&before.scenario, before.npcs, before.threads) == (&now.scenario, now.npcs, now.threads)
        };
        let Some(before) = baseline.cases.iter().find(is_same) else { continue };
        compared += 1;
        let case = format!("{}, beside the baseline", now.name());
        let loops = |nanos: f64, case: &Case| nanos * case.entities as f64 / case.calibration_ns;
        for (mode, figure, worse) in [
            ("a tick", (|case| case.ns_per_npc) as fn(&Case) -> f64, args.slower),
            ("CPU time", |case| case.cpu_ns_per_npc, args.cpu),
        ] {
            let (now_loops, before_loops) = (loops(figure(now), now), loops(figure(before), before));
            let bound = Bound::AtMost(1.0 + worse);
            rows.push(Row::ratio(&case, mode, now_loops, "loops", before_loops, bound));
        }
        let bound = Bound::AtMost(args.failures);
        rows.push(Row::bounded(&case, "more failed runs", now.failures - before.failures, "share", bound));
    }
    let wanted = |case: &&Case| args.counts.contains(&case.npcs) && args.threads.contains(&case.threads);
    let missing = baseline.cases.iter().filter(wanted).filter(|case| case.scenario == args.scenario).count();
    ensure!(missing <= compared, "{} cases of the baseline were not measured", missing - compared);
    ensure!(compared > 0, "the baseline has none of these cases: the same scenario, NPCs and threads");
    Ok(())
}

/// Nanoseconds of a loop of what ticks are made of, on so many threads: rows one after the other, and rows all over memory.
fn calibration(threads: usize) -> anyhow::Result<f64> {
    const ROWS: usize = 1 << 21;
    thread_local! {
        static TABLE: Vec<f64> = (0..ROWS).map(|i| i as f64).collect();
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let once = |table: &[f64]| {
        let begun = clock::now_nanos();
        let sum: f64 = pool.install(|| {
            table
                .par_chunks(1 << 14)
                .enumerate()
                .map(|(chunk, rows)| {
                    rows.iter().enumerate().fold(0.0, |sum, (i, row)| {
                        let other = ((chunk << 14) + i).wrapping_mul(2_654_435_761) % ROWS;
                        let way = row - table[other];
                        sum + (way * way + 1.0).sqrt()
                    })
                })
                .sum()
        });
        hint::black_box(sum);
        (clock::now_nanos() - begun) as f64
    };
    Ok(TABLE.with(|table| {
        once(table);
        median((0..5).map(|_| once(table)).collect())
    }))
}

fn child(args: &NpcsArgs, npcs: u64, threads: usize) -> anyhow::Result<Found> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["npcs-child", "--scenario", &args.scenario, "--threads", &threads.to_string()]);
    command.args(["--ticks", &args.ticks.to_string(), "--set", &format!("population={npcs}")]);
    command.args(args.set.iter().flat_map(|set| ["--set", set]));
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Ticks that are too short to be timed are repeated, in worlds of their own, for so long.
const NANOS_MIN: f64 = 3e8;

/// The measuring process: prints what it found.
pub(crate) fn run_child(args: &ChildArgs) -> anyhow::Result<()> {
    let scenario = worlds::load_scenario(&args.scenario, PLUGINS, &args.set)?;
    let record = WorldRecord { world: scenario.name.clone(), scenario };
    let pool = Arc::new(Pool::start(args.threads, "tick", |_| {})?);
    let options = Options { pool, parallel: Parallel::Auto, stopwatch: clock::stopwatch() };
    let before = status("VmRSS")?;
    let mut found: Option<Found> = None;
    let (mut cpu_nanos, mut ticks) = (0.0, 0.0);
    loop {
        let mut live = worlds::create(&record, PLUGINS, options.clone())?;
        // The first tick makes what all others use.
        live.tick(&[])?;
        let (cpu_begun, mut times) = (cpu(), Vec::new());
        let names: Vec<String> = live.plan().nodes.iter().map(|node| node.name.clone()).collect();
        let mut systems = vec![0.0; names.len()];
        for _ in 0..args.ticks {
            let report = live.tick(&[])?;
            times.push(report.wall_nanos as f64);
            for (sum, system) in systems.iter_mut().zip(&report.systems) {
                *sum += system.wall_nanos.unwrap_or_default() as f64;
            }
        }
        cpu_nanos += cpu() - cpu_begun;
        ticks += args.ticks as f64;
        match &mut found {
            Some(found) => found.ticks.extend(times),
            None => {
                found = Some(Found {
                    entities: live.entities(),
                    ticks: times,
                    cpu_nanos_per_tick: 0.0,
                    bytes: status("VmRSS")? - before,
                    peak_bytes: status("VmHWM")?,
                    systems: names.into_iter().zip(systems).collect(),
                    hash: live.state_hash().to_string(),
                });
            }
        }
        if found.as_ref().is_some_and(|found| found.ticks.iter().sum::<f64>() >= NANOS_MIN) {
            break;
        }
    }
    let found = found.map(|found| Found { cpu_nanos_per_tick: cpu_nanos / ticks, ..found });
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

/// CPU time of this process, in nanoseconds.
fn cpu() -> f64 {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    cpu.tv_sec as f64 * 1e9 + cpu.tv_nsec as f64
}

/// A line of /proc/self/status, in bytes.
fn status(name: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(name)).context("a line of status")?;
    let kib: f64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    Ok(kib * 1024.0)
}
