//! `columns`: position += velocity on a million entities, beside raw arrays and bevy's par_iter.

use crate::{
    Outcome,
    baseline::{arrays, bevy},
    canary,
    measure::interleaved,
    report::{Bound, Report, Row},
};
use bevy_ecs::prelude::*;
use everworld::clock;
use everworld_engine::{Options, Parallel, Pool, Rows, WorldBuilder, Write, component, system};
use std::sync::Arc;

const ENTITIES: usize = 1_000_000;
const THREADS: usize = 2;

component! {
    /// A place.
    pub(crate) struct Position("position", version 1) { x: f32, y: f32, z: f32 }
}
component! {
    /// A velocity.
    pub(crate) struct Velocity("velocity", version 1) { x: f32, y: f32, z: f32 }
}

fn integrate(mut rows: Rows<(Write<Position>, &'static Velocity)>) {
    rows.for_each(|(mut positions, velocities)| {
        for (position, velocity) in positions.all_mut().iter_mut().zip(velocities) {
            position.x += velocity.x;
            position.y += velocity.y;
            position.z += velocity.z;
        }
    });
}

fn integrate_bevy(mut rows: Query<(&mut Position, &Velocity)>) {
    rows.par_iter_mut().for_each(|(mut position, velocity)| {
        position.x += velocity.x;
        position.y += velocity.y;
        position.z += velocity.z;
    });
}

fn part(i: usize) -> f32 {
    (i % 1_000) as f32 / 1_000.0
}

pub(crate) fn run() -> Outcome {
    let (gain, void) = canary::sing();
    let pool = Arc::new(Pool::start(THREADS, "tick", |_| {})?);
    let row = |i| {
        (
            Position { x: part(i), y: part(i / 7), z: 0.5 },
            Velocity { x: part(i / 3), y: 0.1, z: part(i / 11) },
        )
    };

    let mut world = WorldBuilder::new(1, 1.0);
    world.column::<Position>().column::<Velocity>().system(system(integrate));
    world.setup(move |world| {
        world.spawn_many((0..ENTITIES).map(row));
    });
    let mut live = world.build(Options {
        pool: pool.clone(),
        parallel: Parallel::Auto,
        stopwatch: clock::stopwatch(),
    })?;
    live.create()?;

    let mut bevy_world = bevy::world(THREADS);
    bevy_world.spawn_batch((0..ENTITIES).map(row));
    let mut schedule = bevy::multi_threaded();
    schedule.add_systems(integrate_bevy);

    let velocities: Vec<arrays::Vec3> =
        (0..ENTITIES).map(|i| arrays::Vec3 { x: part(i / 3), y: 0.1, z: part(i / 11) }).collect();
    let mut positions = velocities.clone();

    const CALLS: usize = 20;
    let mut contestants: [crate::measure::Work<'_>; 3] = [
        Box::new(|| pool.install(|| (0..CALLS).for_each(|_| arrays::integrate(&mut positions, &velocities)))),
        Box::new(|| (0..CALLS).for_each(|_| schedule.run(&mut bevy_world))),
        Box::new(|| {
            pool.install(|| {
                for _ in 0..CALLS {
                    live.tick(&[]).expect("nothing panics here");
                }
            });
        }),
    ];
    let times: Vec<f64> = interleaved(&mut contestants, 41, 1)
        .into_iter()
        .map(|t| t / CALLS as f64 / ENTITIES as f64)
        .collect();
    drop(contestants);
    assert!(live.marked_rows() as usize == ENTITIES, "change tracking is on: every written row is marked");
    let case = "position += velocity, 1,000,000";
    Ok(Report::new(
        "columns",
        vec![
            Row::plain("canary", "random gather", gain, "gain"),
            Row::plain(case, "raw arrays on rayon", times[0], "ns/entity"),
            Row::plain(case, "bevy par_iter", times[1], "ns/entity"),
            Row::ratio(case, "rows / raw arrays", times[2], "ns/entity", times[0], Bound::AtMost(1.25)),
            Row::ratio(case, "rows / bevy par_iter", times[2], "ns/entity", times[1], Bound::AtMost(1.0)),
        ],
        void,
    ))
}
