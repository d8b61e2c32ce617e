//! A world of one's own: a component, a system and an input. Durability, the API, metrics and the command
//! line come with it: `cargo run --example own_world -- serve --set world.scenario=bees`.

use everworld::{Plugin, Scenario, ScenarioError, engine as everworld_engine};
use everworld_engine::{input::InputWorld, prelude::*};
use serde::{Deserialize, Serialize};
use std::process::ExitCode;

component! {
    /// What a hive has in store.
    pub struct Honey("honey", version 1) {
        /// Grams.
        grams: f32 where 0.0..=100_000.0,
    }
}

/// Every hive gathers a little, each at its own luck.
pub fn gather(random: Random, mut hives: Rows<(&'static Uid, Write<Honey>)>) {
    hives.for_each(|(uids, mut honeys)| {
        for (honey, uid) in honeys.all_mut().iter_mut().zip(uids) {
            honey.grams += random.of(*uid).unit32();
        }
    });
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Harvest {
    hive: Uid,
    grams: f32,
}

impl Input for Harvest {
    const KIND: &'static str = "harvest";
    const DOC: &'static str = "Takes honey out of a hive.";

    fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError> {
        let honey = world.get_mut::<Honey>(self.hive).filter(|honey| honey.grams >= self.grams);
        let mut honey = honey.ok_or_else(|| InputError::Rejected("there is not that much honey".into()))?;
        honey.grams -= self.grams;
        Ok(Outcome::default())
    }
}

fn bees(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    let many = |_| ScenarioError::new("population: expected fewer hives");
    let hives = u16::try_from(scenario.population).map_err(many)?;
    world.column::<Honey>().input::<Harvest>().system(system(gather));
    world.setup(move |world| _ = world.spawn_many((0..hives).map(|_| Honey::default())));
    Ok(())
}

const SCENARIO: &str = "name = 'bees'\nplugin = 'bees'\nseed = 1\npopulation = 100\ndt_secs = 60.0";
/// All that a command line needs to know of it.
pub const PLUGINS: &[Plugin] = &[Plugin::new("bees", SCENARIO, bees)];

fn main() -> ExitCode {
    everworld::main(PLUGINS)
}
