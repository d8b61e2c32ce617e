//! `peers`: one step of Flocking, ours beside a bare array kernel and beside other entity systems.
//!
//! bevy_ecs runs in this process. flecs_ecs and krABMaga are a crate of their own, `bench/peers`, built when they are asked
//! for with `--with`; Mesa is a script beside it, in an environment of its own below target/.

use crate::{
    Outcome,
    baseline::{
        bevy_flock,
        flock::{Bird, Flock},
    },
    canary,
    measure::median,
    npcs,
    report::{Bound, Report, Row},
};
use anyhow::{Context as _, ensure};
use bevy_ecs::schedule::Schedule;
use clap::{Args, ValueEnum};
use everworld::{PLUGINS, WorldRecord, clock, worlds};
use everworld_engine::{Image, Options, Parallel, Pool};
use serde::Deserialize;
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

#[derive(Args)]
pub(crate) struct PeersArgs {
    /// Agents
    #[arg(long, default_value_t = 1_000_000)]
    agents: u64,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Steps that are measured, from the first on: flocks clump, and their cost with them
    #[arg(long, default_value_t = 10)]
    steps: u64,
    /// Times that each is measured; medians count
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Others that are built apart: the first time takes minutes
    #[arg(long, value_delimiter = ',')]
    with: Vec<Other>,
    /// Agents for Mesa, which looks at all of them for each
    #[arg(long, default_value_t = 2_000)]
    mesa_agents: u64,
}

/// A framework that is built apart.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Other {
    /// flecs_ecs, in its idioms and with a sorted flat grid
    Flecs,
    /// krABMaga, on one thread
    Krabmaga,
    /// Mesa, in Python
    Mesa,
}

/// What another one prints.
#[derive(Deserialize)]
struct Printed {
    name: String,
    version: String,
    threads: usize,
    ms_per_step: Vec<f64>,
}

/// Nanoseconds of all steps, from a world of its own each time.
type Contestant<'a> = Box<dyn FnMut() -> anyhow::Result<f64> + 'a>;

pub(crate) fn run(args: &PeersArgs) -> Outcome {
    let (gain, void) = canary::sing();
    let pool = Arc::new(Pool::start(args.threads, "tick", |_| {})?);
    let sets = [format!("population={}", args.agents)];
    let record = WorldRecord {
        world: "flocking".into(),
        scenario: worlds::load_scenario("flocking", PLUGINS, &sets)?,
    };
    let options = Options { pool: pool.clone(), parallel: Parallel::Auto, stopwatch: clock::stopwatch() };
    let (side, birds) = hatched(&worlds::create(&record, PLUGINS, options.clone())?.image());
    // Built before anything is measured.
    let others = Others::build(&args.with)?;
    let (steps, threads) = (args.steps, args.threads);
    let mut contestants: Vec<(&str, Contestant<'_>)> = vec![
        (
            "bare arrays",
            Box::new(|| {
                let mut flock = Flock::new(side, birds.clone());
                Ok(timed(|| pool.install(|| (0..steps).for_each(|_| flock.step()))))
            }),
        ),
        (
            "everworld",
            Box::new(|| {
                let mut live = worlds::create(&record, PLUGINS, options.clone())?;
                let mut result = Ok(());
                let nanos = timed(|| {
                    pool.install(|| {
                        for _ in 0..steps {
                            if result.is_ok() {
                                result = live.tick(&[]).map(|_| ());
                            }
                        }
                    });
                });
                result?;
                Ok(nanos)
            }),
        ),
    ];
    for (name, schedule) in [
        ("bevy_ecs, idiomatic", bevy_flock::idiomatic as fn() -> Schedule),
        ("bevy_ecs, sorted flat grid", bevy_flock::tuned),
    ] {
        let birds = &birds;
        contestants.push((
            name,
            Box::new(move || {
                let (mut world, mut schedule) = (bevy_flock::world(side, birds, threads), schedule());
                Ok(timed(|| (0..steps).for_each(|_| schedule.run(&mut world))))
            }),
        ));
    }
    let mut times = vec![Vec::new(); contestants.len()];
    // One round that does not count: pages, caches, pools.
    for round in 0..=args.rounds {
        for ((_, contestant), times) in contestants.iter_mut().zip(&mut times) {
            let nanos = contestant()?;
            if round > 0 {
                times.push(nanos / steps as f64 / 1e6);
            }
        }
    }
    let case = format!("flocking, {} agents, {} threads, first {steps} steps", args.agents, args.threads);
    let mut rows = vec![Row::plain("canary", "random gather", gain, "gain")];
    let names: Vec<&str> = contestants.iter().map(|(name, _)| *name).collect();
    let medians: Vec<f64> = times.iter().cloned().map(median).collect();
    rows.push(Row::plain(&case, names[0], medians[0], "ms/step").of(&times[0]));
    let bound = Bound::AtMost(1.5);
    rows.push(Row::ratio(&case, names[1], medians[1], "ms/step", medians[0], bound).of(&times[1]));
    for ((name, median), times) in names.iter().zip(&medians).zip(&times).skip(2) {
        rows.push(Row::plain(&case, name, *median, "ms/step").of(times));
    }
    let gain = medians[2] / medians[1];
    rows.push(Row::bounded(&case, "bevy_ecs, idiomatic / everworld", gain, "times", Bound::AtLeast(7.0)));
    rows.push(Row::plain(&case, "bevy_ecs, sorted flat grid / everworld", medians[3] / medians[1], "times"));
    let file = birds_file(&birds)?;
    for (other, bound) in [("flecs", 7.0), ("flecs-sorted", 0.0), ("krabmaga", 20.0)] {
        if args.with.contains(&Other::Flecs) && other.starts_with("flecs")
            || args.with.contains(&Other::Krabmaga) && other == "krabmaga"
        {
            let printed = others.measure(args, other, file.path(), side)?;
            let ms = median(printed.ms_per_step.clone());
            let name = format!("{} {}, {}", printed.name, printed.version, npcs::threads(printed.threads));
            rows.push(Row::plain(&case, &name, ms, "ms/step").of(&printed.ms_per_step));
            let row = Row::plain(&case, &format!("{} / everworld", printed.name), ms / medians[1], "times");
            rows.push(if bound > 0.0 { Row { bound: Some(Bound::AtLeast(bound)), ..row } } else { row });
        }
    }
    if args.with.contains(&Other::Mesa) {
        beside_mesa(args, &others, &mut rows)?;
    }
    Ok(Report::new("peers", rows, void))
}

/// Ours and Mesa's with as many agents as that can do.
fn beside_mesa(args: &PeersArgs, others: &Others, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let sets = [format!("population={}", args.mesa_agents)];
    let scenario = worlds::load_scenario("flocking", PLUGINS, &sets)?;
    let record = WorldRecord { world: "flocking".into(), scenario };
    let pool = Arc::new(Pool::start(1, "tick", |_| {})?);
    let options = Options { pool, parallel: Parallel::Auto, stopwatch: clock::stopwatch() };
    let (side, birds) = hatched(&worlds::create(&record, PLUGINS, options.clone())?.image());
    let mut ours = Vec::new();
    for _ in 0..=args.rounds {
        let mut live = worlds::create(&record, PLUGINS, options.clone())?;
        let mut result = Ok(());
        let nanos = timed(|| result = (0..args.steps).try_for_each(|_| live.tick(&[]).map(|_| ())));
        result?;
        ours.push(nanos / args.steps as f64 / 1e6);
    }
    ours.remove(0);
    let printed = others.mesa(args, birds_file(&birds)?.path(), side)?;
    let case = format!("flocking, {} agents, 1 thread, first {} steps", args.mesa_agents, args.steps);
    rows.push(Row::plain(&case, "everworld", median(ours.clone()), "ms/step").of(&ours));
    let ms = median(printed.ms_per_step.clone());
    let name = format!("{} {}", printed.name, printed.version);
    rows.push(Row::plain(&case, &name, ms, "ms/step").of(&printed.ms_per_step));
    rows.push(Row::plain(&case, &format!("{} / everworld", printed.name), ms / median(ours), "times"));
    Ok(())
}

/// What is built apart.
struct Others {
    dir: PathBuf,
    target: PathBuf,
}

impl Others {
    fn build(which: &[Other]) -> anyhow::Result<Self> {
        let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
        let others = Self { dir: bench.join("peers"), target: bench.join("../target/peers") };
        if which.iter().any(|other| *other != Other::Mesa) {
            let mut cargo = Command::new("cargo");
            cargo
                .args(["build", "--release", "--locked", "--manifest-path"])
                .arg(others.dir.join("Cargo.toml"));
            done(cargo.arg("--target-dir").arg(&others.target))?;
        }
        if which.contains(&Other::Mesa) {
            let python = others.target.join("mesa");
            if !python.exists() {
                done(Command::new("python3").args(["-m", "venv"]).arg(&python))?;
            }
            let mut pip = Command::new(python.join("bin/pip"));
            done(pip.args(["install", "-q", "-r"]).arg(others.dir.join("mesa/requirements.txt")))?;
        }
        Ok(others)
    }

    fn measure(
        &self,
        args: &PeersArgs,
        contestant: &str,
        birds: &Path,
        side: f64,
    ) -> anyhow::Result<Printed> {
        let mut command = Command::new(self.target.join("release/everworld-peers"));
        command.args(["--contestant", contestant, "--threads", &args.threads.to_string()]);
        printed(args, &mut command, birds, side)
    }

    fn mesa(&self, args: &PeersArgs, birds: &Path, side: f64) -> anyhow::Result<Printed> {
        let mut command = Command::new(self.target.join("mesa/bin/python"));
        printed(args, command.arg(self.dir.join("mesa/flocking.py")), birds, side)
    }
}

fn printed(args: &PeersArgs, command: &mut Command, birds: &Path, side: f64) -> anyhow::Result<Printed> {
    command.args(["--steps", &args.steps.to_string(), "--rounds", &args.rounds.to_string()]);
    let output = command.arg("--birds").arg(birds).args(["--side", &side.to_string()]).output();
    let output = output.with_context(|| format!("{command:?} could not be started"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, said.trim());
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn done(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{command:?} could not be started"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// x, y and the velocity along both of each, as 64-bit floats.
fn birds_file(birds: &[Bird]) -> anyhow::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new()?;
    let parts = birds.iter().flat_map(|bird| [bird.position, bird.velocity]).flatten();
    file.write_all(&parts.flat_map(f64::to_le_bytes).collect::<Vec<u8>>())?;
    Ok(file)
}

fn timed(work: impl FnOnce()) -> f64 {
    let begun = clock::now_nanos();
    work();
    (clock::now_nanos() - begun) as f64
}

/// The birds of a new world, for the others: all begin with the same.
fn hatched(image: &Image) -> (f64, Vec<Bird>) {
    let side = image.value::<everworld_components::Flock>().map_or(1.0, |flock| flock.side);
    let mut birds = Vec::new();
    for table in &image.tables {
        let positions = table.rows_of::<everworld_components::BirdPosition>().unwrap_or_default();
        let velocities = table.rows_of::<everworld_components::BirdVelocity>().unwrap_or_default();
        birds.extend(positions.iter().zip(&velocities).map(|(position, velocity)| Bird {
            position: [position.x, position.y],
            velocity: [velocity.x, velocity.y],
        }));
    }
    (side, birds)
}
