//! Everybody says something in each tick, and may be heard: nothing but events.

use everworld::{Plugin, Scenario, ScenarioError};
use everworld_engine::prelude::*;
use serde::Deserialize;

/// The plugin.
pub(crate) const PLUGIN: Plugin = Plugin::new("chatter", SCENARIO, build);

const SCENARIO: &str = "name = 'chatter'\nplugin = 'chatter'\nseed = 1\npopulation = 5000\ndt_secs = 0.05\n\
    [chatter]\nlisteners = 1";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    chatter: ChatterParams,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChatterParams {
    listeners: u32,
}

component! {
    /// Somebody who talks.
    struct Voice("voice", version 1) { whom: Uid }
}
event! {
    /// Somebody said something.
    struct Said("said") {
        whom: Uid,
        /// The tick in which it was said.
        tick: u64,
    }
}
resource! {
    /// What was heard of it, in its order.
    #[derive(Default)]
    pub(crate) struct Heard("heard", version 1) { pub(crate) count: u64, last: Uid, pub(crate) out_of_order: u64 }
}

const TALK: Phase = Phase("talk");
const LISTEN: Phase = Phase("listen");

fn build(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    let Params { chatter: ChatterParams { listeners } } = scenario.params()?;
    let population = scenario.population;
    world
        .column::<Voice>()
        .resource(Heard::default())
        .event::<Said>()
        .phases(&[TALK, LISTEN])
        .system(system(talk).phase(TALK))
        .setup(move |world| {
            world.spawn_many((0..population).map(|i| (Voice { whom: Uid::new(1 + i * 7 % population) },)));
        });
    if listeners > 0 {
        world.system(system(listen).phase(LISTEN));
    }
    Ok(())
}

fn talk(time: Res<TickTime>, mut voices: Rows<(&'static Uid, &'static Voice)>, said: Emit<Said>) {
    voices.for_each(|(uids, voices)| {
        for (uid, voice) in uids.iter().zip(voices) {
            said.emit(*uid, Said { whom: voice.whom, tick: time.tick.0 });
        }
    });
}

fn listen(said: Res<Happened<Said>>, mut heard: ResMut<Heard>) {
    heard.last = Uid::NONE;
    for (about, _) in said.iter() {
        heard.count += 1;
        heard.out_of_order += u64::from(about <= heard.last);
        heard.last = about;
    }
}
