//! The grid: it finds whoever is near and nobody else, and what is summed up over neighbours does not depend on the order
//! of rows (W3) or on threads (W1).

use crate::created;
use everworld_engine::{
    Geometry, Grid, InCells, InputEnvelope, LiveWorld, Parallel, Space, WorldBuilder, component, grid,
    prelude::*, random::Draws,
};
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;

component! {
    struct Spot("spot", version 1) { x: f64, y: f64, z: f64 }
}
component! {
    /// The others that are near: how many, who, and a sum that depends on the order in which they come.
    struct Seen("seen", version 1) { count: u64, who: u64, sum: f64 }
}
component! {
    /// Only some have it: they are in another table.
    struct Hat("hat", version 1) { size: u8 }
}
resource! {
    #[derive(Clone, Copy, Debug)]
    struct Land("land", version 1) { kind: u8, size: [f64; 3], radius: f64 }
}

impl Land {
    fn geometry(&self) -> Geometry {
        let Self { kind, size: [x, y, z], radius } = *self;
        match kind {
            0 => Geometry::bounded([x, y], radius),
            1 => Geometry::torus([x, y], radius),
            2 => Geometry::bounded_box([x, y, z], radius),
            3 => Geometry::torus_box([x, y, z], radius),
            _ => Geometry::lattice([x as u32, y as u32], radius as u32, kind == 5),
        }
    }

    fn is_lattice(&self) -> bool {
        self.kind > 3
    }

    fn has_height(&self) -> bool {
        matches!(self.kind, 2 | 3)
    }
}

struct Spots;

impl Space for Spots {
    const NAME: &'static str = "spots";
    type Map = Land;
    type Columns = (Uid, Spot);
    type Filter = ();

    fn geometry(land: &Land) -> Geometry {
        land.geometry()
    }

    fn place((_, spot): &(Uid, Spot)) -> [f64; 3] {
        [spot.x, spot.y, spot.z]
    }
}

/// Whether a way is short enough.
fn is_near(land: &Land, way: [f64; 3]) -> bool {
    let [x, y, z] = way;
    if land.is_lattice() {
        x.abs().max(y.abs()) <= land.radius
    } else {
        x * x + y * y + z * z <= land.radius * land.radius
    }
}

fn mixed(uid: Uid) -> u64 {
    uid.get().wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17)
}

fn look(land: Res<Land>, mut spots: InCells<Spots, Write<Seen>, Seen>) {
    spots.for_each(
        |cell, seen| {
            for ((uid, spot), seen) in cell.rows().iter().zip(seen) {
                *seen = Seen::default();
                for (run, others) in cell.runs() {
                    for (other, at) in others {
                        let there = [at.x, at.y, at.z];
                        let here = [spot.x, spot.y, spot.z];
                        let way: [f64; 3] = std::array::from_fn(|i| there[i] + run.shift[i] - here[i]);
                        if other != uid && is_near(&land, way) {
                            seen.count += 1;
                            seen.who ^= mixed(*other);
                            seen.sum += 1.0 / (1.0 + other.get() as f64);
                        }
                    }
                }
            }
        },
        |mut rows, seen| {
            for i in 0..rows.len() {
                rows.set(i, seen.of(i));
            }
        },
    );
}

/// Some move, some come, some go, some put a hat on.
fn live(land: Res<Land>, random: Random, effects: Effects, mut spots: Rows<(&'static Uid, Write<Spot>)>) {
    spots.for_each(|(uids, mut spots)| {
        for (i, uid) in uids.iter().enumerate() {
            let mut draws = random.of(*uid);
            match draws.below(40) {
                0..10 => spots.set(i, anywhere(&land, &mut draws)),
                10 => effects.despawn(*uid, *uid),
                11 => effects.spawn(*uid, (anywhere(&land, &mut draws), Seen::default())),
                12 => effects.insert(*uid, *uid, Hat { size: 5 }),
                _ => {}
            }
        }
    });
}

fn anywhere(land: &Land, draws: &mut Draws) -> Spot {
    let [x, y, z] = land.size.map(|size| draws.unit64() * size);
    if land.is_lattice() {
        return Spot { x: x.floor(), y: y.floor(), z: 0.0 };
    }
    // Some are on walls and on borders of cells.
    let round = |at: f64, size: f64| if at < size / 10.0 { 0.0 } else { at };
    Spot { x: round(x, land.size[0]), y, z: if land.has_height() { z } else { 0.0 } }
}

const LIFE: everworld_engine::Phase = everworld_engine::Phase("life");
const LOOK: everworld_engine::Phase = everworld_engine::Phase("look");

fn world(land: Land, population: u64, lives: bool) -> WorldBuilder {
    let mut world = world_of_crowd(land, population, lives);
    world.grid::<Spots>(|grid| grid.phase(LOOK));
    world.system(system(look).phase(LOOK).after(grid::build::<Spots>));
    world
}

/// A world where nobody looks around.
fn world_of_crowd(land: Land, population: u64, lives: bool) -> WorldBuilder {
    let mut world = WorldBuilder::new(5, 1.0);
    world.column::<Spot>().column::<Seen>().column::<Hat>().resource(land).phases(&[LIFE, LOOK]);
    if lives {
        world.system(system(live).phase(LIFE));
    }
    world.setup(move |world| {
        let seed = world.time().seed;
        for i in 0..population {
            let mut draws = Draws::new(seed, 0, 9, i);
            let spot = anywhere(&land, &mut draws);
            if draws.chance(0.3) {
                world.spawn((spot, Seen::default(), Hat { size: 3 }));
            } else {
                world.spawn((spot, Seen::default()));
            }
        }
    });
    world
}

/// Compares what everybody saw with all pairs.
fn check(live: &LiveWorld, land: &Land) {
    let image = live.image();
    let (mut spots, mut seen) = (Vec::new(), Vec::new());
    for table in image.tables.iter().filter(|table| table.rows > 0) {
        spots.extend(table.uids().zip(table.rows_of::<Spot>().unwrap()));
        seen.extend(table.rows_of::<Seen>().unwrap());
    }
    let geometry = land.geometry();
    for ((uid, spot), seen) in spots.iter().zip(&seen) {
        let near = spots.iter().filter(|(other, at)| {
            let way = geometry.way([spot.x, spot.y, spot.z], [at.x, at.y, at.z]);
            other != uid && is_near(land, way)
        });
        let (count, who) = near.fold((0, 0), |(count, who), (other, _)| (count + 1, who ^ mixed(*other)));
        assert_eq!((seen.count, seen.who), (count, who), "{uid} at {spot:?} in {land:?}");
    }
    let grid = Grid::<Spots>::of(&image).unwrap();
    assert_eq!(grid.len(), spots.len());
    let mut found = Vec::new();
    for (most, within) in
        [(1, f64::INFINITY), (5, land.radius.max(0.5)), (3, 4.0 * land.radius), (400, f64::INFINITY)]
    {
        for (uid, spot) in spots.iter().step_by(7) {
            let here = [spot.x, spot.y, spot.z];
            let mut all: Vec<(f64, Uid)> = spots
                .iter()
                .filter(|(other, _)| other != uid)
                .map(|(other, at)| {
                    let [x, y, z] = geometry.way(here, [at.x, at.y, at.z]);
                    (x * x + y * y + z * z, *other)
                })
                .filter(|(square, _)| *square <= within * within)
                .collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            all.truncate(most);
            grid.nearest(here, most, within, |(other, _)| (other != uid).then_some(*other), &mut found);
            let found: Vec<_> = found.iter().map(|near| (near.square, near.uid)).collect();
            assert_eq!(found, all, "the {most} nearest to {uid} at {spot:?} within {within} in {land:?}");
        }
    }
}

fn any_land() -> impl Strategy<Value = Land> {
    let sides = prop::array::uniform3(1.0..50.0f64);
    let smooth = (0u8..4, sides, 0.01..1.0f64).prop_map(|(kind, size, part)| {
        let shortest = size.into_iter().fold(f64::INFINITY, f64::min);
        // As many whole cells as fit exactly, now and then.
        let radius = if part < 0.3 { shortest / 4.0 } else { shortest * part / 2.0 };
        Land { kind, size, radius }
    });
    let lattice = (4u8..6, prop::array::uniform3(5.0..30.0f64), 0u32..3)
        .prop_map(|(kind, size, reach)| Land { kind, size: size.map(f64::floor), radius: f64::from(reach) });
    prop_oneof![3 => smooth, 1 => lattice]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn who_is_near_is_found_and_nobody_else(land in any_land(), population in 0u64..200) {
        let mut live = created(world(land, population, true), 2, Parallel::Always);
        for _ in 0..4 {
            live.tick(&[]).unwrap();
            check(&live, &land);
        }
    }
}

/// W1, W3: many rows, so that they are cut into blocks, in several orders.
#[test]
fn w1_w3_neither_threads_nor_rows_change_what_is_seen() {
    let land = Land { kind: 1, size: [100.0, 60.0, 0.0], radius: 1.0 };
    let mut hashes = Vec::new();
    for threads in [1, 2, 3, 8] {
        let mut live = created(world(land, 40_000, true), threads, Parallel::Always);
        for tick in 0..4 {
            live.tick(&[]).unwrap();
            let shuffled = live.image().shuffled(threads as u64);
            if tick > 0 {
                live.restore(&shuffled).unwrap();
            }
        }
        hashes.push(live.state_hash());
    }
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
}

fn noted_input(live: &LiveWorld, seq: u64, kind: &str, payload: &serde_json::Value) -> InputEnvelope {
    let registry = live.registry().clone();
    let payload = registry.input(kind).unwrap().check(payload, &registry).unwrap();
    InputEnvelope { seq, kind: kind.into(), at_tick: None, payload }
}

/// Where no system writes what is copied the grid stays as it is, and yet shows whatever comes from outside.
#[test]
fn rows_that_stand_still_are_seen_when_they_change() {
    let land = Land { kind: 1, size: [20.0, 10.0, 0.0], radius: 1.0 };
    let mut live = created(world(land, 300, false), 2, Parallel::Always);
    assert!(live.resource::<Grid<Spots>>().is_still());
    let tick = |live: &mut LiveWorld, inputs: &[InputEnvelope]| {
        let report = live.tick(inputs).unwrap();
        assert!(report.outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{:?}", report.outcomes);
        check(live, &land);
    };
    tick(&mut live, &[]);
    tick(&mut live, &[]);
    // Into the same table, so that nothing but a value changes.
    let moved = json!({"entities": [{"uid": "7", "components": {"spot": {"x": 3.5, "y": 9.9}}}]});
    let moved = noted_input(&live, 1, "update_entities", &moved);
    tick(&mut live, &[moved]);
    let gone = noted_input(&live, 2, "despawn_entities", &json!({"entities": [{"uid": "9"}]}));
    tick(&mut live, &[gone]);
    let image = live.image();
    tick(&mut live, &[]);
    live.restore(&image.shuffled(3)).unwrap();
    tick(&mut live, &[]);
    // One system that moves them is enough.
    let live = created(world(land, 300, true), 2, Parallel::Always);
    assert!(!live.resource::<Grid<Spots>>().is_still());
}

/// A grid of before entities came and went is no grid of theirs, neither to look around nor to be refreshed.
#[test]
fn a_stale_grid_is_told() {
    let land = Land { kind: 0, size: [10.0; 3], radius: 1.0 };
    for use_it in [system(look), system(grid::refresh::<Spots>).named("publish")] {
        let mut world = WorldBuilder::new(5, 1.0);
        world.column::<Spot>().column::<Seen>().column::<Hat>().resource(land).phases(&[LIFE, LOOK]);
        world.grid::<Spots>(|grid| grid.phase(LIFE));
        world.system(system(live).phase(LIFE)).system(use_it.phase(LOOK));
        world.setup(move |world| {
            world.spawn_many((0..200).map(|_| (Spot::default(), Seen::default())));
        });
        let error = created(world, 1, Parallel::Never).tick(&[]).unwrap_err().to_string();
        assert!(error.contains("the grid \"spots\" is of before"), "{error}");
    }
}

/// The spots with what they saw.
struct Crowd;

impl Space for Crowd {
    const NAME: &'static str = "crowd";
    type Map = Land;
    type Columns = (Spot, Seen);
    type Filter = ();

    fn geometry(land: &Land) -> Geometry {
        land.geometry()
    }

    fn place((spot, _): &(Spot, Seen)) -> [f64; 3] {
        [spot.x, spot.y, spot.z]
    }
}

/// What somebody writes in a tick.
fn noted(uid: Uid, tick: u64) -> u64 {
    mixed(uid).wrapping_mul(2 * tick + 1)
}

fn note(time: Res<TickTime>, mut spots: Rows<(&'static Uid, Write<Seen>)>) {
    spots.for_each(|(uids, mut seen)| {
        for (i, uid) in uids.iter().enumerate() {
            seen.row_mut(i).count = noted(*uid, time.tick.0);
        }
    });
}

/// What the grid has of each comes into its row.
fn copy(mut crowd: InCells<Crowd, Write<Seen>, u64>) {
    crowd.for_each(
        |cell, counts| {
            for ((_, seen), count) in cell.rows().iter().zip(counts) {
                *count = seen.count;
            }
        },
        |mut seen, counts| {
            for i in 0..seen.len() {
                seen.row_mut(i).who = counts.of(i);
            }
        },
    );
}

/// A grid shows the rows as they were when it was built, until it is refreshed: whatever order they and the tables are in.
#[test]
fn what_was_written_since_is_seen_after_a_refresh_and_not_before() {
    let land = Land { kind: 1, size: [40.0, 30.0, 0.0], radius: 1.0 };
    for is_refreshed in [false, true] {
        let mut world = world_of_crowd(land, 5_000, true);
        world.grid::<Crowd>(|grid| grid.phase(LOOK));
        world.system(system(note).phase(LOOK).after(grid::build::<Crowd>));
        let mut reader = system(copy).phase(LOOK).after(note);
        if is_refreshed {
            world.system(system(grid::refresh::<Crowd>).named("publish").phase(LOOK).after(note));
            reader = reader.after(grid::refresh::<Crowd>);
        }
        world.system(reader);
        let mut live = created(world, 2, Parallel::Always);
        // What each had before the tick: those who are born have nothing.
        let mut before = BTreeMap::new();
        for tick in 1..=3 {
            live.tick(&[]).unwrap();
            let image = live.image();
            let uids = image.tables.iter().flat_map(everworld_engine::TableImage::uids);
            let seen =
                image.tables.iter().filter_map(everworld_engine::TableImage::rows_of::<Seen>).flatten();
            let mut now = BTreeMap::new();
            for (uid, seen) in uids.zip(seen) {
                assert_eq!(seen.count, noted(uid, tick));
                let then = before.get(&uid).copied().unwrap_or_default();
                assert_eq!(seen.who, if is_refreshed { seen.count } else { then }, "{uid} in tick {tick}");
                now.insert(uid, seen.count);
            }
            before = now;
            live.restore(&image.shuffled(tick)).unwrap();
        }
    }
}

/// Rows of spots that are as far from each other as is near: many are on borders of cells, and none is too far.
#[test]
fn what_is_just_near_is_found_across_the_borders_of_cells() {
    for kind in 0..4 {
        for radius in [0.1, 0.79, 1.0, 7.0] {
            let length = 128.0 * radius;
            let land = Land { kind, size: [length, length / 32.0, length / 32.0], radius };
            let mut world = world(land, 0, false);
            world.setup(move |world| {
                let up = if land.has_height() { radius } else { 0.0 };
                let spot = |x: f64, y: f64, z: f64| {
                    (Spot { x: x * radius, y: y * radius, z: z * up }, Seen::default())
                };
                for i in 0..128 {
                    let i = f64::from(i);
                    world.spawn_many([spot(i, 0.0, 0.0), spot(i, 1.0, 0.0), spot(i, 1.0, 1.0)]);
                }
            });
            let mut live = created(world, 1, Parallel::Never);
            live.tick(&[]).unwrap();
            check(&live, &land);
        }
    }
}

/// Many more cells than rows cost nothing: there are fewer, larger ones.
#[test]
fn cells_are_as_many_as_are_worth_it() {
    let land = Land { kind: 0, size: [1e6, 10.0, 0.0], radius: 0.5 };
    let mut live = created(world(land, 100, false), 1, Parallel::Never);
    live.tick(&[]).unwrap();
    check(&live, &land);
    let grid = Grid::<Spots>::of(&live.image()).unwrap();
    assert!(grid.geometry().count() <= 1_024, "{:?}", grid.geometry());
}

/// Whoever looks for more than there are comes to an end.
#[test]
fn the_nearest_of_few_are_all_of_them() {
    for kind in 0..6 {
        let land = Land { kind, size: [12.0; 3], radius: 1.0 };
        for population in 1..4 {
            let mut live = created(world(land, population, false), 1, Parallel::Never);
            live.tick(&[]).unwrap();
            check(&live, &land);
        }
    }
}
