//! `peers`: one step of Flocking, ours beside a bare array kernel and beside other entity systems, in one process.

use crate::{
    Outcome,
    baseline::{
        bevy_flock,
        flock::{Bird, Flock},
    },
    canary,
    measure::median,
    report::{Bound, Report, Row},
};
use bevy_ecs::schedule::Schedule;
use clap::Args;
use everworld::{PLUGINS, WorldRecord, clock, worlds};
use everworld_engine::{Image, Options, Parallel, Pool};
use std::sync::Arc;

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
    let medians: Vec<f64> = times.into_iter().map(median).collect();
    rows.push(Row::plain(&case, names[0], medians[0], "ms/step"));
    rows.push(Row::ratio(&case, names[1], medians[1], "ms/step", medians[0], Bound::AtMost(1.5)));
    for (name, median) in names.iter().zip(&medians).skip(2) {
        rows.push(Row::plain(&case, name, *median, "ms/step"));
    }
    let gain = medians[2] / medians[1];
    rows.push(Row::bounded(&case, "bevy_ecs, idiomatic / everworld", gain, "times", Bound::AtLeast(7.0)));
    rows.push(Row::plain(&case, "bevy_ecs, sorted flat grid / everworld", medians[3] / medians[1], "times"));
    Ok(Report::new("peers", rows, void))
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
