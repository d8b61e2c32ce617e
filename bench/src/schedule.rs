//! `schedule`: what the scheduler costs, beside bevy's executors in the same process.

use crate::{
    Outcome,
    baseline::bevy,
    canary,
    measure::interleaved,
    report::{Bound, Report, Row},
};
use bevy_ecs::prelude::*;
use everworld::clock;
use everworld_engine::{LiveWorld, Options, Parallel, Pool, WorldBuilder, system};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

const THREADS: usize = 2;
const EMPTY_SYSTEMS: usize = 50;

fn empty<const N: usize>() {}

/// A resource that the systems of one chain write, so that they conflict.
#[derive(Resource, Default)]
struct Chain<const C: usize>(u64);

/// Rounds of the loop that take a microsecond here.
static ROUNDS: AtomicU32 = AtomicU32::new(0);

fn spin(mut value: u64) -> u64 {
    for _ in 0..ROUNDS.load(Relaxed) {
        value = value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    }
    value
}

fn micro<const C: usize, const N: usize>(mut chain: ResMut<Chain<C>>) {
    chain.0 = spin(chain.0);
}

macro_rules! fifty {
    ($each:ident) => {
        $each!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37
            38 39 40 41 42 43 44 45 46 47 48 49)
    };
}

macro_rules! chains {
    ($each:ident $world:ident) => {
        $each!($world 0); $each!($world 1); $each!($world 2); $each!($world 3);
        $each!($world 4); $each!($world 5); $each!($world 6); $each!($world 7);
    };
}

fn options(pool: &Arc<Pool>, parallel: Parallel) -> Options {
    Options { pool: pool.clone(), parallel, stopwatch: clock::stopwatch() }
}

fn built(world: WorldBuilder, options: Options) -> anyhow::Result<LiveWorld> {
    let mut live = world.build(options)?;
    live.create()?;
    Ok(live)
}

fn empty_world(options: Options) -> anyhow::Result<LiveWorld> {
    let mut world = WorldBuilder::new(1, 1.0);
    macro_rules! add {
        ($($n:literal)*) => { $(world.system(system(empty::<$n>).named(concat!("empty ", $n)));)* };
    }
    fifty!(add);
    built(world, options)
}

fn chain_world(options: Options) -> anyhow::Result<LiveWorld> {
    let mut world = WorldBuilder::new(1, 1.0);
    macro_rules! one {
        ($world:ident $c:literal) => {
            $world.derived::<Chain<$c>>();
            one!($world $c: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24);
        };
        ($world:ident $c:literal: $($n:literal)*) => {
            $($world.system(system(micro::<$c, $n>).named(concat!("chain ", $c, " system ", $n)));)*
        };
    }
    chains!(one world);
    built(world, options)
}

pub(crate) fn run() -> Outcome {
    calibrate();
    let pool = Arc::new(Pool::start(THREADS, "tick", |_| {})?);
    let mut rows = Vec::new();
    let (gain, void) = canary::sing();
    rows.push(Row::plain("canary", "random gather", gain, "gain"));

    let mut bevy_world = bevy::world(THREADS);
    let (mut multi, mut single) = (bevy::multi_threaded(), bevy::single_threaded());
    macro_rules! add {
        ($($n:literal)*) => { $(multi.add_systems(empty::<$n>); single.add_systems(empty::<$n>);)* };
    }
    fifty!(add);
    let mut serial = empty_world(options(&pool, Parallel::Never))?;
    let mut parallel = empty_world(options(&pool, Parallel::Always))?;
    let (mut chain_serial, mut chain_parallel) =
        (chain_world(options(&pool, Parallel::Never))?, chain_world(options(&pool, Parallel::Always))?);
    let bevy_world = std::cell::RefCell::new(&mut bevy_world);

    // bevy runs from this thread, which takes part; ours from a thread of its pool, as `run` does.
    const TICKS: usize = 1_000;
    let ours = |live: &mut LiveWorld, ticks: usize| {
        pool.install(|| {
            for _ in 0..ticks {
                live.tick(&[]).expect("nothing panics here");
            }
        });
    };
    let mut contestants: [crate::measure::Work<'_>; 4] = [
        Box::new(|| (0..TICKS).for_each(|_| multi.run(&mut bevy_world.borrow_mut()))),
        Box::new(|| (0..TICKS).for_each(|_| single.run(&mut bevy_world.borrow_mut()))),
        Box::new(|| ours(&mut parallel, TICKS)),
        Box::new(|| ours(&mut serial, TICKS)),
    ];
    let times: Vec<f64> =
        interleaved(&mut contestants, 31, 1).into_iter().map(|t| t / TICKS as f64 / 1e3).collect();
    drop(contestants);
    let case = format!("{EMPTY_SYSTEMS} empty systems");
    rows.push(Row::ratio(&case, "parallel, 2 threads", times[2], "us/tick", times[0], Bound::AtMost(0.25)));
    rows.push(Row::ratio(&case, "serial", times[3], "us/tick", times[1], Bound::AtMost(1.1)));

    let mut contestants: [crate::measure::Work<'_>; 2] =
        [Box::new(|| ours(&mut chain_serial, 100)), Box::new(|| ours(&mut chain_parallel, 100))];
    let times: Vec<f64> = interleaved(&mut contestants, 31, 1).into_iter().map(|t| t / 100.0 / 1e3).collect();
    drop(contestants);
    let gain = times[0] / times[1];
    rows.push(Row::plain("200 systems of 1 us, 8 chains", "serial", times[0], "us/tick"));
    rows.push(Row::plain("200 systems of 1 us, 8 chains", "parallel, 2 threads", times[1], "us/tick"));
    rows.push(Row::bounded(
        "200 systems of 1 us, 8 chains",
        "serial / parallel",
        gain,
        "gain",
        Bound::AtLeast(1.7),
    ));
    Ok(Report::new("schedule", rows, void))
}

/// Finds how many rounds of the loop take a microsecond.
fn calibrate() {
    const ROUNDS_TRIED: u32 = 1_000_000;
    ROUNDS.store(ROUNDS_TRIED, Relaxed);
    let times = interleaved(
        &mut [Box::new(|| {
            std::hint::black_box(spin(1));
        })],
        9,
        1,
    );
    ROUNDS.store((1_000.0 * f64::from(ROUNDS_TRIED) / times[0]) as u32, Relaxed);
}
