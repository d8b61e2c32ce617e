//! The standard models with a fault planted in each: real ones, each found in a published framework. What `models` must
//! tell from the sound ones.

use everworld::{Plugin, Scenario, ScenarioError};
use everworld_components::{BirdPosition, BirdVelocity, Fire, Flock, Site, Tree};
use everworld_engine::{Sabotage, Space as _, prelude::*};
use everworld_systems::{flocking, forestfire, wolfsheep};
use std::collections::BTreeMap;

/// What is planted, in which model.
pub(crate) const ALL: &[(&str, &str, Plugin)] = &[
    ("ways that do not go around the torus", "flocking", SKEWED),
    ("a grid of the tick before", "flocking", STALE),
    ("a fire that is swept in place", "forestfire", SWEPT),
    ("grass that never grows again", "wolfsheep", BARREN),
];

const SKEWED: Plugin =
    Plugin::new("skewed", flocking::PLUGIN.scenario, skewed).measured_by(flocking::statistics);

fn skewed(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    flocking::ground(world, scenario)?;
    world.system(system(fly_askew));
    Ok(())
}

/// Birds see each other across the seam, but go the long way to whom they see there.
fn fly_askew(flock: Res<Flock>, mut birds: Query<(&Uid, &mut BirdPosition, &mut BirdVelocity)>) {
    let geometry = flocking::Birds::geometry(&flock);
    let mut all: Vec<(Uid, flocking::Bird)> =
        birds.iter().map(|(uid, position, velocity)| (*uid, (*position, *velocity))).collect();
    all.sort_unstable_by_key(|(uid, _)| *uid);
    let flown: Vec<[f64; 2]> = all
        .iter()
        .map(|(uid, bird)| {
            let place = flocking::Birds::place(bird);
            let (mut others, mut turn) = (0.0, [0.0; 2]);
            for (other, there) in &all {
                let at = flocking::Birds::place(there);
                let [x, y, _] = geometry.way(place, at);
                let distance = (x * x + y * y).sqrt();
                if other == uid || distance > flock.radius {
                    continue;
                }
                others += 1.0;
                let off = if distance < flock.separation { flock.separate } else { 0.0 };
                let going = [there.1.x, there.1.y];
                for axis in 0..2 {
                    turn[axis] += (flock.cohere - off) * (at[axis] - place[axis]) + flock.align * going[axis];
                }
            }
            let own = [bird.1.x, bird.1.y];
            let turned: [f64; 2] = std::array::from_fn(|axis| own[axis] + turn[axis] / f64::max(others, 1.0));
            let length = turned[0].hypot(turned[1]);
            if length > 0.0 { turned.map(|part| part / length) } else { turned }
        })
        .collect();
    for (uid, mut position, mut velocity) in &mut birds {
        if let Ok(at) = all.binary_search_by_key(uid, |(uid, _)| *uid) {
            let [x, y] = flown[at];
            *velocity = BirdVelocity { x, y };
            position.x = (position.x + x).rem_euclid(flock.side);
            position.y = (position.y + y).rem_euclid(flock.side);
        }
    }
}

const STALE: Plugin =
    Plugin::new("stale", flocking::PLUGIN.scenario, stale).measured_by(flocking::statistics);

fn stale(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    (flocking::PLUGIN.build)(world, scenario)?;
    world.sabotage(Sabotage::Seldom("birds"));
    Ok(())
}

const SWEPT: Plugin =
    Plugin::new("swept", forestfire::PLUGIN.scenario, swept).measured_by(forestfire::statistics);

fn swept(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    forestfire::ground(world, scenario)?;
    world.system(system(sweep));
    Ok(())
}

/// Site by site: who comes later sees what those before it did in the same tick.
fn sweep(mut trees: Query<(&Site, &mut Tree)>) {
    let mut fires: BTreeMap<(u32, u32), Fire> =
        trees.iter().map(|(site, tree)| ((site.x, site.y), tree.fire)).collect();
    let sites: Vec<(u32, u32)> = fires.keys().copied().collect();
    for (x, y) in sites {
        let beside = [(x.wrapping_sub(1), y), (x + 1, y), (x, y.wrapping_sub(1)), (x, y + 1)];
        let is_lit = beside.iter().any(|site| fires.get(site) == Some(&Fire::Burning));
        if let Some(fire) = fires.get_mut(&(x, y)) {
            *fire = match *fire {
                Fire::Green if is_lit => Fire::Burning,
                Fire::Burning => Fire::Burnt,
                other => other,
            };
        }
    }
    for (site, mut tree) in &mut trees {
        tree.fire = fires[&(site.x, site.y)];
    }
}

const BARREN: Plugin =
    Plugin::new("barren", wolfsheep::PLUGIN.scenario, barren).measured_by(wolfsheep::statistics);

fn barren(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    (wolfsheep::PLUGIN.build)(world, scenario)?;
    world.sabotage(Sabotage::Never("wolfsheep::grow"));
    Ok(())
}
