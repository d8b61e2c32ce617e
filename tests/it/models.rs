//! The standard models as worlds: what an input does to them, none of their systems fails by, and what goes fast comes to
//! the same as what is plain.

use crate::support::options;
use everworld::{PLUGINS, WorldRecord, worlds};
use everworld_components::{
    Animal, Hull, Neighbourhood, Position3, Resident, Site, Tally, Target, Velocity3,
};
use everworld_engine::{Column, Image, InputEnvelope, LiveWorld, Tick, random::mix};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn model(name: &str, sets: &[&str], threads: usize) -> LiveWorld {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    let scenario = worlds::load_scenario(name, PLUGINS, &sets).unwrap();
    let record = WorldRecord { world: name.into(), scenario };
    worlds::create(&record, PLUGINS, options(threads)).unwrap()
}

fn update(live: &LiveWorld, entities: &Value) -> InputEnvelope {
    let registry = live.registry().clone();
    let payload = json!({"entities": entities});
    let payload = registry.input("update_entities").unwrap().check(&payload, &registry).unwrap();
    InputEnvelope { seq: 1, kind: "update_entities".into(), at_tick: None, payload }
}

/// A column of all who have it, by Uid.
fn column<T: Column>(image: &Image) -> BTreeMap<u64, T> {
    let tables = image.tables.iter().filter_map(|table| Some(table.uids().zip(table.rows_of::<T>()?)));
    tables.flatten().map(|(uid, row)| (uid.get(), row)).collect()
}

#[test]
fn whoever_is_put_off_the_lattice_breaks_nothing() {
    for (name, uid, sets) in [
        ("schelling", 7, &["population=300", "schelling.side=20"][..]),
        ("schelling", 7, &["population=300", "schelling.side=20", "schelling.update=asynchronous"]),
        ("wolfsheep", 630, &[]),
        ("wolfsheep", 630, &["wolfsheep.update=synchronous"]),
        ("forestfire", 7, &[]),
        ("flocking", 7, &[]),
        ("flocking", 7, &["flocking.update=asynchronous"]),
        ("battle", 7, &["population=300", "battle.side=200"]),
    ] {
        let mut live = model(name, sets, 2);
        let far = match name {
            "flocking" => json!({"position": {"x": -1e300, "y": 1e300}}),
            "battle" => json!({"position": {"x": -3e38, "z": 3e38}, "velocity": {"x": 3e38, "y": -3e38}}),
            _ => json!({"site": {"x": u32::MAX, "y": 3}}),
        };
        let envelope = update(&live, &json!([{"uid": uid.to_string(), "components": far}]));
        let report = live.tick(&[envelope]).unwrap();
        assert!(report.outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{:?}", report.outcomes);
        for _ in 0..30 {
            live.tick(&[]).unwrap();
        }
        assert_eq!(live.now(), Tick(31), "{name}");
        let plugin = PLUGINS.iter().find(|plugin| plugin.name == name).unwrap();
        let statistics = plugin.statistics.unwrap()(&live.image());
        assert!(statistics.iter().all(|statistic| statistic.value.is_some()), "{name}: {statistics:?}");
    }
}

/// Also where there are so few that cells of the grid are larger than sites.
#[test]
fn schelling_counts_who_is_around_and_nobody_else() {
    for sets in [
        ["population=1000", "schelling.side=40", "schelling.reach=1"],
        ["population=300", "schelling.side=60", "schelling.reach=2"],
    ] {
        let mut live = model("schelling", &sets, 2);
        for _ in 0..3 {
            let before = live.image();
            let (reach, sites) = (before.value::<Neighbourhood>().unwrap().reach, column::<Site>(&before));
            let groups = column::<Resident>(&before);
            live.tick(&[]).unwrap();
            for (uid, resident) in column::<Resident>(&live.image()) {
                let at = sites[&uid];
                let same = sites.iter().filter(|(other, site)| {
                    let is_near = at.x.abs_diff(site.x).max(at.y.abs_diff(site.y)) <= reach;
                    **other != uid && is_near && groups[other].group == resident.group
                });
                assert_eq!(resident.same as usize, same.count(), "{uid} at {at:?}: {sets:?}");
            }
        }
    }
}

/// A ship of a battle that is fought without grid, lanes and threads.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ship {
    at: [f32; 3],
    going: [f32; 3],
    points: u32,
    target: u64,
}

fn ships(image: &Image) -> BTreeMap<u64, Ship> {
    let (at, going) = (column::<Position3>(image), column::<Velocity3>(image));
    let (hulls, targets) = (column::<Hull>(image), column::<Target>(image));
    let ship = |uid: u64| Ship {
        at: at[&uid].to_array(),
        going: going[&uid].to_array(),
        points: hulls[&uid].points,
        target: targets[&uid].ship.get(),
    };
    at.keys().map(|uid| (*uid, ship(*uid))).collect()
}

fn length(way: [f32; 3]) -> f32 {
    (way[0] * way[0] + way[1] * way[1] + way[2] * way[2]).sqrt()
}

fn scaled(way: [f32; 3], length_now: f32) -> [f32; 3] {
    way.map(|part| if length_now > 0.0 { part / length_now } else { 0.0 })
}

fn way(from: &Ship, to: &Ship) -> [f32; 3] {
    std::array::from_fn(|axis| to.at[axis] - from.at[axis])
}

/// A tick of a battle, ship by ship; what is fired, what hits and who is lost goes into the sums.
fn fight(ships: &mut BTreeMap<u64, Ship>, tick: u64, walls: [f32; 3], sums: &mut [u64; 3]) {
    let before = ships.clone();
    for (uid, ship) in ships.iter_mut().filter(|(_, ship)| ship.target == 0) {
        let others = before.iter().filter(|(other, _)| *other != uid).map(|(other, seen)| {
            let part = |axis: usize| (f64::from(seen.at[axis]) - f64::from(ship.at[axis])).powi(2);
            (part(0) + part(1) + part(2), *other)
        });
        let nearest = others.filter(|(square, _)| *square <= 2_500.0);
        let nearest = nearest.min_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
        ship.target = nearest.map_or(0, |(_, other)| other);
    }
    let before = ships.clone();
    ships.retain(|uid, ship| {
        let attackers = before.iter().filter(|(who, other)| *who != uid && other.target == *uid);
        for (who, other) in attackers.filter(|(who, _)| tick.wrapping_add(mix(**who)).is_multiple_of(8)) {
            let square = way(ship, other).map(|part| part * part);
            let square = square[0] + square[1] + square[2];
            if square <= 900.0 {
                sums[0] += 1;
                if mix(who ^ uid ^ tick) % 1_024 < (1_024.0 - 512.0 * square / 900.0) as u64 {
                    sums[1] += 1;
                    ship.points = ship.points.saturating_sub(25);
                }
            }
        }
        if ship.points == 0 {
            sums[2] += 1;
            return false;
        }
        let target = before.get(&ship.target).filter(|_| ship.target != *uid).map(|target| way(ship, target));
        let in_sight = |way: &[f32; 3]| way[0] * way[0] + way[1] * way[1] + way[2] * way[2] <= 2_500.0;
        if let Some(way) = target.filter(in_sight) {
            let (heading, wanted) = (scaled(ship.going, length(ship.going)), scaled(way, length(way)));
            let turned = std::array::from_fn(|axis| heading[axis] + (wanted[axis] - heading[axis]) * 0.08);
            ship.going = scaled(turned, length(turned)).map(|part| 50.0 * part);
        } else {
            ship.target = 0;
        }
        for axis in 0..3 {
            let (to, wall) = (ship.at[axis] + ship.going[axis] * 0.04, walls[axis]);
            let mirrored = if to < 0.0 {
                -to
            } else if to > wall {
                2.0 * wall - to
            } else {
                to
            };
            ship.at[axis] = mirrored.clamp(0.0, wall);
            ship.going[axis] = if mirrored == to { ship.going[axis] } else { -ship.going[axis] };
        }
        true
    });
}

/// In any order of rows and on any number of threads (W1, W3).
#[test]
fn a_battle_is_what_it_is_ship_by_ship() {
    let sets = ["population=300", "battle.side=200", "battle.height=60"];
    let hashes = [1, 2].map(|threads| {
        let mut live = model("battle", &sets, threads);
        let (mut expected, mut sums) = (ships(&live.image()), [0; 3]);
        // Who aims at itself or at nobody, is outside, at one place with another, as good as lost, or lost already.
        let mut edits = Vec::new();
        for (uid, ship) in expected.iter_mut().take(60) {
            match uid {
                1..=10 => ship.target = *uid,
                11..=13 => ship.target = 1_000_000 + uid,
                14 => ship.at[0] = -1e9,
                15 => ship.at[2] = 1e9,
                16..=19 => ship.at = [100.0, 100.0, 30.0],
                20 => ship.points = 0,
                _ => ship.points = 25,
            }
            let ([x, y, z], target) = (ship.at, ship.target.to_string());
            edits.push(json!({"uid": uid.to_string(), "components": {
                "position": {"x": x, "y": y, "z": z}, "target": {"ship": target}, "hull": {"points": ship.points},
            }}));
        }
        let mut inputs = vec![update(&live, &edits.into())];
        for tick in 1..=60 {
            let report = live.tick(&std::mem::take(&mut inputs)).unwrap();
            assert!(report.outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{:?}", report.outcomes);
            fight(&mut expected, tick, [200.0, 200.0, 60.0], &mut sums);
            let image = live.image();
            for (uid, ship) in ships(&image) {
                assert_eq!(Some(&ship), expected.get(&uid), "ship {uid} in tick {tick}, {threads} threads");
            }
            let Tally { shots, hits, lost } = image.value().unwrap();
            assert_eq!((image.entities(), [shots, hits, lost]), (expected.len(), sums), "tick {tick}");
            if threads > 1 {
                live.restore(&image.shuffled(tick)).unwrap();
            }
        }
        assert!(sums[1] > 100 && sums[2] > 10, "{sums:?}");
        live.state_hash()
    });
    assert_eq!(hashes[0], hashes[1]);
}

/// A grid that nobody builds, as its system is disabled, is empty: who looks around or refreshes it goes on.
#[test]
fn a_battle_without_its_grid_is_none() {
    let scenario = worlds::load_scenario("battle", PLUGINS, &["population=300".to_owned()]).unwrap();
    let record = WorldRecord { world: "battle".into(), scenario };
    let mut live = worlds::create(&record, PLUGINS, options(2)).unwrap();
    live.set_enabled("ships", false).unwrap();
    (0..3).for_each(|_| _ = live.tick(&[]).unwrap());
    live.set_enabled("ships", true).unwrap();
    (0..3).for_each(|_| _ = live.tick(&[]).unwrap());
}

/// W1, W3: animals that act at once do the same on any threads, in rows of any order, and starve, eat and breed.
#[test]
fn w1_w3_animals_at_once_live_one_life() {
    let mut runs = Vec::new();
    for (threads, is_shuffled) in [(1, false), (2, false), (4, true)] {
        let mut live = model("wolfsheep", &["wolfsheep.update=synchronous", "wolfsheep.side=60"], threads);
        for tick in 0..40 {
            if is_shuffled {
                let image = live.image().shuffled(tick);
                live.restore(&image).unwrap();
            }
            let before = live.image();
            let (sites, animals) = (column::<Site>(&before), column::<Animal>(&before));
            live.tick(&[]).unwrap();
            let after = column::<Site>(&live.image());
            // Whoever lives on went one site far, and paid for it.
            let went = |(uid, from): (&u64, &Site)| {
                let Some(to) = after.get(uid).filter(|_| animals.contains_key(uid)) else { return };
                assert_eq!(from.x.abs_diff(to.x).max(from.y.abs_diff(to.y)), 1, "{uid}");
            };
            sites.iter().for_each(went);
        }
        runs.push((live.state_hash(), column::<Animal>(&live.image()).len()));
    }
    assert!(runs.iter().all(|run| run == &runs[0]), "{runs:?}");
}
