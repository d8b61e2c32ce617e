//! March: everything goes on as it goes, p' = p + v, once a tick.
//!
//! The load of a keynote of SpacetimeDB: a million entities, each with a position and a velocity that are uniform in
//! [0, 1) along three axes. There is nothing to decide: what it shows is what a tick costs whatever is in it.

use crate::scenario::{Plugin, Scenario, ScenarioError};
use everworld_components::{Position3, Velocity3};
use everworld_engine::{input::InputWorld, prelude::*, random::Draws};
use serde::Deserialize;

/// March, as a kind of world.
pub const PLUGIN: Plugin = Plugin::new("march", include_str!("../../configs/march.toml"), plugin);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {}

fn plugin(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    let Params {} = scenario.params()?;
    let population = scenario.population;
    world
        .column::<Position3>()
        .column::<Velocity3>()
        .prototype("marcher", &[("position", None), ("velocity", None)])
        .system(system(march))
        .setup(move |world| line_up(world, population));
    Ok(())
}

const MARCHER_STREAM: u64 = 1;

fn line_up(world: &mut InputWorld<'_>, population: u64) {
    let seed = world.time().seed;
    world.spawn_many((0..population).map(|i| {
        let mut draws = Draws::new(seed, 0, MARCHER_STREAM, i);
        let mut three = || [draws.unit32(), draws.unit32(), draws.unit32()];
        (Position3::from(three()), Velocity3::from(three()))
    }));
}

/// All go on by their velocity.
pub(crate) fn march(mut marchers: Rows<(Write<Position3>, &'static Velocity3)>) {
    marchers.for_each(|(mut positions, velocities)| {
        for (position, velocity) in positions.all_mut().iter_mut().zip(velocities) {
            position.x += velocity.x;
            position.y += velocity.y;
            position.z += velocity.z;
        }
    });
}
