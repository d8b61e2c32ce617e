//! An explained tick: what is told, and that telling changes nothing.

use crate::created;
use bevy_ecs::prelude::*;
use everworld_engine::{
    Due, Effects, Input, InputEnvelope, InputError, LiveWorld, Outcome, Parallel, Random, Rows, TickError,
    TickTime, Timers, Uid, WorldBuilder, Write, component, explain, explain::Step, input::InputWorld,
    slow_component, system,
};
use expect_test::expect;
use serde::{Deserialize, Serialize};
use serde_json::json;

component! {
    pub struct Age("age", version 1) { ticks: u64 }
}
component! {
    pub struct Luck("luck", version 1) { value: u64 }
}
slow_component! {
    pub struct Name("name", version 1) { text: String }
}

#[derive(Serialize, Deserialize)]
struct Rename {
    uid: Uid,
    text: String,
}

impl Input for Rename {
    const KIND: &'static str = "rename";
    const DOC: &'static str = "Gives another name.";

    fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError> {
        if self.text.is_empty() {
            return Err(InputError::Rejected("a name has letters".into()));
        }
        explain!(self.uid, "somebody wants it");
        world.insert(self.uid, Name { text: self.text });
        Ok(Outcome::default())
    }
}

fn grow(time: Res<TickTime>, mut rows: Rows<(&'static Uid, Write<Age>)>, timers: Timers) {
    rows.for_each(|(uids, mut ages)| {
        for i in 0..ages.len() {
            ages.row_mut(i).ticks += 1;
            // Told of the one that is asked about, of nobody else.
            explain!(uids[i], "one tick older: {}", ages[i].ticks);
            if time.tick.0 == 1 && uids[i].get() % 2 == 0 {
                timers.after(2, uids[i], 5);
            }
        }
    });
}

fn gamble(random: Random, mut rows: Rows<(&'static Uid, Write<Luck>)>) {
    rows.for_each(|(uids, mut lucks)| {
        for i in 0..lucks.len() {
            lucks.row_mut(i).value = u64::from(random.of(uids[i]).below(1_000));
        }
        if let Some(i) = explain::row(uids) {
            explain!(uids[i], "draws {}", lucks[i].value);
        }
    });
}

fn end(due: Due, effects: Effects) {
    for uid in due.of(5) {
        explain!(uid, "its time has come");
        effects.despawn(uid, uid);
        effects.spawn(uid, Age { ticks: 0 });
    }
}

fn rare(mut lucks: Query<&mut Luck>) {
    lucks.iter_mut().for_each(|mut luck| luck.value += 1);
}

fn idle(_: Res<TickTime>) {}

fn build() -> WorldBuilder {
    let mut world = WorldBuilder::new(7, 1.0);
    world.column::<Age>().column::<Luck>().slow_column::<Name>().input::<Rename>();
    world.system(system(grow)).system(system(gamble).after(grow)).system(system(end).after(gamble));
    world.system(system(rare).every(3).after(gamble)).system(system(idle));
    world.setup(|world| {
        world.spawn_many((0..5_000).map(|ticks| (Age { ticks }, Luck::default())));
    });
    world
}

fn rename(seq: u64, uid: u64, text: &str) -> InputEnvelope {
    let payload = serde_json::to_vec(&json!({"uid": uid.to_string(), "text": text})).unwrap();
    InputEnvelope { seq, kind: "rename".into(), at_tick: None, payload }
}

fn told(steps: &[Step]) -> String {
    let lines = steps.iter().map(|step| {
        let kind = serde_json::to_value(&step.kind).unwrap();
        let name = kind["system"].as_str().or(kind["kind"].as_str());
        let name = name.map_or_else(|| kind["kind"].to_string(), str::to_owned);
        let state = |row: &Option<explain::EntityRow>| serde_json::to_string(row).unwrap();
        format!("{name} {:?}\n  {}\n  {}\n", step.reasons, state(&step.before), state(&step.after))
    });
    lines.collect()
}

#[test]
fn each_step_is_told_with_its_reasons() {
    let mut live = created(build(), 2, Parallel::Always);
    let inputs = [rename(1, 2, "Ann"), rename(2, 2, ""), rename(3, 3, "Bea")];
    let (steps, result) = live.tick_explained(&inputs, Uid::new(2));
    result.unwrap();
    expect![[r#"
        rename ["somebody wants it"]
          {"age":{"ticks":1},"luck":{"value":0}}
          {"age":{"ticks":1},"luck":{"value":0},"name":{"text":"Ann"}}
        rename []
          {"age":{"ticks":1},"luck":{"value":0},"name":{"text":"Ann"}}
          {"age":{"ticks":1},"luck":{"value":0},"name":{"text":"Ann"}}
        explain::grow ["one tick older: 2"]
          {"age":{"ticks":1},"luck":{"value":0},"name":{"text":"Ann"}}
          {"age":{"ticks":2},"luck":{"value":0},"name":{"text":"Ann"}}
        explain::gamble ["draws 694"]
          {"age":{"ticks":2},"luck":{"value":0},"name":{"text":"Ann"}}
          {"age":{"ticks":2},"luck":{"value":694},"name":{"text":"Ann"}}
        timers::set ["explain::grow set a timer of kind 5 for tick 3"]
          {"age":{"ticks":2},"luck":{"value":694},"name":{"text":"Ann"}}
          {"age":{"ticks":2},"luck":{"value":694},"name":{"text":"Ann"}}
    "#]]
    .assert_eq(&told(&steps));
    let rejected = serde_json::to_value(&steps[1].kind).unwrap();
    assert_eq!(rejected["rejected"], "a name has letters");
    live.tick(&[]).unwrap();
    let (steps, _) = live.tick_explained(&[], Uid::new(2));
    let told = told(&steps);
    assert!(told.starts_with("5 []\n"), "the timer: {told}");
    assert!(told.contains("explain::end [\"its time has come\"]"), "{told}");
    assert!(told.contains("tick::structure [\"explain::end has asked for its end\"]"), "{told}");
    assert!(steps.last().unwrap().after.is_none() && steps.last().unwrap().before.is_some());
    // Born in a tick: 2,500 timers were due, their Uids follow those of the 5,000.
    let mut again = created(build(), 1, Parallel::Never);
    (0..2).for_each(|_| _ = again.tick(&[]).unwrap());
    let (steps, _) = again.tick_explained(&[], Uid::new(5_001));
    assert_eq!(steps.len(), 1);
    assert!(steps[0].before.is_none() && steps[0].after.as_ref().unwrap()["age"] == json!({"ticks": 0}));
    assert_eq!(steps[0].reasons, ["explain::end has asked for its birth"]);
}

/// The hash after an explained tick is that of an ordinary one, for any number of threads (W1, W2).
#[test]
fn w2_who_is_watched_decides_nothing() {
    let inputs = |tick: u64| {
        if tick % 2 == 1 { vec![rename(tick, tick, "Ann")] } else { Vec::new() }
    };
    let plain = |threads, parallel| {
        let mut live = created(build(), threads, parallel);
        let hashes: Vec<_> = (1..=6)
            .map(|tick| {
                live.tick(&inputs(tick)).unwrap();
                live.state_hash()
            })
            .collect();
        hashes
    };
    let expected = plain(2, Parallel::Always);
    assert_eq!(plain(1, Parallel::Never), expected);
    for uid in [0, 1, 2, 4_999, 5_001, u64::MAX] {
        let mut live = created(build(), 2, Parallel::Always);
        for tick in 1..=6 {
            let (_, result) = live.tick_explained(&inputs(tick), Uid::new(uid));
            result.unwrap();
            assert_eq!(live.state_hash(), expected[tick as usize - 1], "uid {uid}, tick {tick}");
        }
    }
}

/// Worlds that tick beside an explained one tell nothing, and none of them hears of another's entities.
#[test]
fn only_the_world_that_was_asked_is_told() {
    let explained = |uid: u64| {
        let mut live = created(build(), 2, Parallel::Always);
        for tick in 1..=20u64 {
            let (steps, _) = live.tick_explained(&[], Uid::new(uid));
            let reasons: Vec<_> = steps.iter().flat_map(|step| &step.reasons).collect();
            assert_eq!(*reasons[0], format!("one tick older: {}", uid - 1 + tick));
            assert_eq!(reasons.iter().filter(|reason| reason.starts_with("one tick")).count(), 1);
        }
    };
    let ordinary = || {
        let mut live = created(build(), 2, Parallel::Always);
        (0..20).for_each(|_| _ = live.tick(&[]).unwrap());
    };
    #[expect(clippy::disallowed_methods, reason = "worlds side by side: the test is of what they share")]
    std::thread::scope(|scope| {
        scope.spawn(|| explained(1));
        scope.spawn(|| explained(3));
        ordinary();
    });
}

/// The text is made only for who is asked about.
#[test]
fn an_ordinary_tick_makes_no_text() {
    fn say(mut rows: Rows<(&'static Uid, Write<Age>)>) {
        fn text(uid: Uid) -> u64 {
            assert_eq!(uid, Uid::new(3), "text is made for somebody who is not asked about");
            uid.get()
        }
        rows.for_each(|(uids, _)| uids.iter().for_each(|uid| explain!(*uid, "{}", text(*uid))));
    }
    let mut world = WorldBuilder::new(1, 1.0);
    world.column::<Age>().system(system(say));
    world.setup(|world| _ = world.spawn_many((0..10).map(|ticks| Age { ticks })));
    let mut live: LiveWorld = created(world, 1, Parallel::Never);
    live.tick(&[]).unwrap();
    let (steps, result) = live.tick_explained(&[], Uid::new(3));
    result.unwrap();
    assert_eq!(steps[0].reasons, ["3"]);
    assert!(live.tick_explained(&[], Uid::new(4)).1.is_err());
}

/// A tick that fails is told up to where it failed.
#[test]
fn a_failing_tick_is_told_up_to_its_failure() {
    fn first(mut rows: Query<&mut Age>) {
        rows.iter_mut().for_each(|mut age| age.ticks += 1);
    }
    fn second(mut rows: Query<(&Uid, &mut Age)>) {
        for (uid, mut age) in &mut rows {
            explain!(*uid, "about to fail");
            age.ticks = 9;
            assert!(uid.get() < 2, "as planted");
        }
    }
    let mut world = WorldBuilder::new(1, 1.0);
    world.column::<Age>().system(system(first)).system(system(second).after(first));
    world.setup(|world| _ = world.spawn_many((0..3).map(|ticks| Age { ticks })));
    let mut live = created(world, 1, Parallel::Never);
    let (steps, result) = live.tick_explained(&[], Uid::new(1));
    assert!(matches!(result, Err(TickError::System { system, .. }) if system.ends_with("::second")));
    assert_eq!(steps.len(), 2);
    assert_eq!(steps[1].reasons, ["about to fail"]);
    assert_eq!(steps[1].after.as_ref().unwrap()["age"]["ticks"], 9);
    assert!(live.poisoned().is_some());
}
