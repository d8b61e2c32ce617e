//! `persist`: what the tick feels of persistence. The host with log, mirror and snapshots beside the same world ticked
//! bare, in turn, block by block; all ticks of a side are pooled. Bare blocks against each other tell the noise.

use crate::{
    Outcome, canary,
    report::{Bound, Report, Row, Told},
};
use anyhow::Context as _;
use clap::Args;
use everworld::{
    PLUGINS, WorldRecord, clock,
    config::Config,
    host::{self, Hosted, Wish},
    pool,
    sequencer::Origin,
    spine,
    status::WorldState,
    worlds,
};
use everworld_engine::{LiveWorld, Options, Parallel, Tick};
use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

#[derive(Args)]
pub(crate) struct PersistArgs {
    /// Numbers of NPCs
    #[arg(long, value_delimiter = ',', default_value = "100000,20000,1000000")]
    npcs: Vec<u64>,
    /// Ticks of a side
    #[arg(long, default_value_t = 2_000)]
    ticks: u64,
    /// Ticks of a block
    #[arg(long, default_value_t = 250)]
    block: u64,
    /// Ticks per second
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Seconds of each block of the free run
    #[arg(long, default_value_t = 10)]
    free_secs: u64,
}

pub(crate) fn run(args: &PersistArgs) -> Outcome {
    let (gain, mut void) = canary::sing();
    let mut rows = Told::default();
    rows.push(Row::plain("canary", "random gather", gain, "gain"));
    for npcs in &args.npcs {
        let watch = canary::Watch::start();
        let mut sides = Sides::start(args, *npcs)?;
        let noise = sides.paced(args, *npcs, &mut rows)?;
        if noise > 1.05 {
            void.get_or_insert(format!("bare against bare is {noise:.3}, 1.05 is allowed"));
        }
        if *npcs >= 500_000 {
            sides.free(args, *npcs, &mut rows)?;
        }
        sides.stop()?;
        let (row, slow) = watch.stop(&format!("town, {npcs} NPCs"));
        rows.push(row);
        void = void.or(slow);
    }
    Ok(Report::new("persist", rows.into_rows(), void))
}

/// The two contestants. Only one ticks at a time.
struct Sides {
    on: Hosted,
    off: LiveWorld,
    runtime: tokio::runtime::Runtime,
    _data: tempfile::TempDir,
}

impl Sides {
    fn start(args: &PersistArgs, npcs: u64) -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let mut config = Config::default();
        data.path().clone_into(&mut config.data.dir);
        config.tick.rate_hz = args.rate;
        let scenario = worlds::load_scenario("town", PLUGINS, &[format!("population={npcs}")])?;
        let record = WorldRecord { world: "town".into(), scenario: scenario.clone() };
        let on = host::start(&Arc::new(config), spine::lock(data.path())?, record, PLUGINS, false)?;
        let options =
            Options { pool: pool::start(0, true)?, parallel: Parallel::Auto, stopwatch: clock::stopwatch() };
        let mut off = worlds::build(&scenario, PLUGINS, options)?;
        off.create()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let sides = Self { on, off, runtime, _data: data };
        while sides.on.handle.status.state().0 == WorldState::Recovering {
            thread::sleep(Duration::from_millis(20));
        }
        sides.ask(Wish::Pause)?;
        Ok(sides)
    }

    fn ask(&self, wish: Wish) -> anyhow::Result<Tick> {
        let origin = Origin { principal: "bench".into(), request_id: String::new() };
        let done = self.runtime.block_on(self.on.handle.ask(wish, origin));
        Ok(done.context("the world refuses")?.tick)
    }

    /// Milliseconds of ticks at the rate: (with, without), without by block.
    fn paced(&mut self, args: &PersistArgs, npcs: u64, rows: &mut Told) -> anyhow::Result<f64> {
        let blocks = args.ticks.div_ceil(args.block);
        let (mut with, mut captures, mut without) = (Vec::new(), Vec::new(), Vec::new());
        // One block each that does not count: pages, caches, the first snapshot.
        for block in 0..=blocks {
            let bare = self.bare(args)?;
            let begun = self.on.handle.status.tick();
            self.ask(Wish::Resume)?;
            while self.on.handle.status.tick().0 < begun.0 + args.block {
                thread::sleep(Duration::from_millis(20));
            }
            self.ask(Wish::Pause)?;
            if block > 0 {
                without.push(bare);
                for times in self.on.handle.status.recent_ticks(begun) {
                    with.push(times.total_nanos as f64 / 1e6);
                    captures.push(times.capture_nanos as f64 / 1e6);
                }
            }
            // What is still under way belongs to that side.
            thread::sleep(Duration::from_millis(1_500));
        }
        captures.retain(|millis| *millis > 0.0);
        let halves = [0, 1].map(|odd| without.iter().skip(odd).step_by(2).flatten().copied().collect());
        let [even, odd]: [Vec<f64>; 2] = halves;
        let (even, odd) = (percentile(even, 0.99), percentile(odd, 0.99));
        let noise = (even / odd).max(odd / even);
        let without: Vec<f64> = without.into_iter().flatten().collect();
        let case = format!("town, {npcs} NPCs, {} Hz", args.rate);
        let bound = match npcs {
            500_000.. => 1.4,
            50_000.. => 1.2,
            _ => 1.5,
        };
        let (on50, off50) = (percentile(with.clone(), 0.5), percentile(without.clone(), 0.5));
        let (on99, off99) = (percentile(with.clone(), 0.99), percentile(without.clone(), 0.99));
        rows.push(Row::ratio(&case, "p99 tick, on / off", on99, "ms", off99, Bound::AtMost(bound)));
        rows.push(Row::beside(&case, "p50 tick, on / off", on50, "ms", off50));
        rows.push(Row::beside(&case, "p99, bare / bare", even, "ms", odd));
        rows.push(Row::plain(&case, "ticks of a side", with.len().min(without.len()) as f64, "ticks"));
        rows.push(Row::plain(&case, "captures", captures.len() as f64, "captures"));
        if !captures.is_empty() {
            rows.push(Row::plain(&case, "p50 capture", percentile(captures, 0.5), "ms"));
        }
        Ok(noise)
    }

    /// A block of bare ticks at the rate, as the host would run them.
    fn bare(&mut self, args: &PersistArgs) -> anyhow::Result<Vec<f64>> {
        let off = &mut self.off;
        thread::scope(|scope| {
            let ticking = scope.spawn(|| -> anyhow::Result<Vec<f64>> {
                pool::stand_back();
                let interval = Duration::from_secs_f64(1.0 / args.rate);
                let mut due = Instant::now();
                let mut times = Vec::new();
                for _ in 0..args.block {
                    due += interval;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    let begun = Instant::now();
                    off.tick(&[])?;
                    times.push(begun.elapsed().as_secs_f64() * 1e3);
                }
                Ok(times)
            });
            ticking.join().map_err(|_| anyhow::anyhow!("a bare tick panicked"))?
        })
    }

    /// Ticks per second, as fast as possible.
    fn free(&mut self, args: &PersistArgs, npcs: u64, rows: &mut Told) -> anyhow::Result<()> {
        self.ask(Wish::Rate(0))?;
        let span = Duration::from_secs(args.free_secs);
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let (begun, mut ticks) = (Instant::now(), 0.0);
            while begun.elapsed() < span {
                self.off.tick(&[])?;
                ticks += 1.0;
            }
            without.push(ticks / begun.elapsed().as_secs_f64());
            let (begun, first) = (Instant::now(), self.on.handle.status.tick());
            self.ask(Wish::Resume)?;
            thread::sleep(span);
            let last = self.ask(Wish::Pause)?;
            with.push((last.0 - first.0) as f64 / begun.elapsed().as_secs_f64());
            thread::sleep(Duration::from_secs(2));
        }
        let (on, off) = (percentile(with, 0.5), percentile(without, 0.5));
        let case = format!("town, {npcs} NPCs, free");
        rows.push(Row::ratio(&case, "on / off", on, "ticks/s", off, Bound::AtLeast(0.85)));
        Ok(())
    }

    fn stop(self) -> anyhow::Result<()> {
        self.on.stop();
        self.runtime.block_on(self.on.ended).context("the host has vanished")??;
        Ok(())
    }
}

/// The value below which that share lies.
pub(crate) fn percentile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() as f64 * share) as usize).min(values.len() - 1)]
}
