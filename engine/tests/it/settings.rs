//! Systems that a running world is told to leave out, or to run less often.

use crate::{created, options};
use bevy_ecs::prelude::*;
use everworld_engine::{
    BuildError, InputEnvelope, LiveWorld, Parallel, SystemSettings, TickTime, WorldBuilder, component,
    resource, system,
};
use serde_json::{Value, json};

component! {
    pub struct Step("step", version 1) { at: u64 }
}
resource! {
    #[derive(Default, Clone, PartialEq, Debug)]
    pub struct Total("total", version 1) { sum: u64 }
}
#[derive(Resource, Default)]
struct Board(Vec<u64>);

fn rebuild(time: Res<TickTime>, mut board: ResMut<Board>) {
    *board = Board(vec![time.tick.0; 2]);
}
fn add(board: Res<Board>, mut total: ResMut<Total>) {
    total.sum += 1 + board.0.iter().sum::<u64>();
}

fn builder() -> WorldBuilder {
    let mut world = WorldBuilder::new(1, 1.0);
    world.column::<Step>().resource(Total::default()).derived::<Board>();
    world.system(system(rebuild)).system(system(add).after(rebuild));
    world
}

fn set(seq: u64, payload: &Value) -> InputEnvelope {
    let payload = serde_json::to_vec(payload).unwrap();
    InputEnvelope { seq, kind: "set_system".into(), at_tick: None, payload }
}

fn ran(live: &mut LiveWorld, inputs: &[InputEnvelope]) -> [bool; 2] {
    let report = live.tick(inputs).unwrap();
    [report.systems[0].ran, report.systems[1].ran]
}

#[test]
fn a_system_runs_as_it_is_told_from_that_tick_on() {
    for parallel in [Parallel::Always, Parallel::Never] {
        let mut live = created(builder(), 2, parallel);
        assert_eq!(ran(&mut live, &[]), [true, true]);
        assert_eq!(
            ran(&mut live, &[set(1, &json!({"system": "settings::add", "enabled": false}))]),
            [true, false]
        );
        assert_eq!(live.disabled().count(), 0, "it is no quarantine");
        // Ticks 3 to 8: what is set of the rate waits until it runs at all.
        let rate = json!({"system": "settings::add", "enabled": true, "every": 3, "offset": 1});
        let runs: Vec<bool> = (0..6)
            .map(|i| if i == 0 { ran(&mut live, &[set(2, &rate)]) } else { ran(&mut live, &[]) })
            .map(|[_, add]| add)
            .collect();
        assert_eq!(runs, [false, true, false, false, true, false]);
        assert_eq!(ran(&mut live, &[set(3, &json!({"system": "settings::add", "every": 1}))]), [true, true]);
        let kept = &live.resource::<SystemSettings>().systems["settings::add"];
        assert_eq!((kept.disabled, kept.rate), (false, Some((1, 0))));
        assert_eq!(
            ran(&mut live, &[set(4, &json!({"system": "settings::rebuild", "enabled": false}))]),
            [false, true]
        );
        let before = live.resource::<Total>().sum;
        live.tick(&[]).unwrap();
        assert_eq!(live.resource::<Total>().sum, before + 1, "what nobody rebuilds is empty");
    }
}

/// W4: what was told is part of the state.
#[test]
fn w4_a_restore_keeps_what_systems_were_told() {
    let mut live = created(builder(), 1, Parallel::Never);
    let rate = json!({"system": "settings::add", "every": 4, "offset": 3});
    live.tick(&[set(1, &rate)]).unwrap();
    live.tick(&[]).unwrap();
    let disable = [
        set(2, &json!({"system": "settings::rebuild", "enabled": false, "every": 1})),
        set(3, &json!({"system": "settings::add", "every": 1})),
    ];
    let mut told = true;
    for _ in 0..9 {
        let image = live.image();
        let mut other = builder().build(options(1, Parallel::Never)).unwrap();
        other.restore(&image).unwrap();
        if told {
            // From the tick that disables it on, what nobody rebuilds is empty, also for who was restored before it.
            told = false;
            other.tick(&disable).unwrap();
            live.tick(&disable).unwrap();
            assert_eq!(live.state_hash(), other.state_hash());
            continue;
        }
        // A world that was told something else before it was made to be this one.
        let mut used = created(builder(), 1, Parallel::Never);
        used.tick(&[set(1, &json!({"system": "settings::add", "enabled": false}))]).unwrap();
        used.restore(&image).unwrap();
        for world in [&mut live, &mut other, &mut used] {
            world.tick(&[]).unwrap();
        }
        assert_eq!(live.state_hash(), other.state_hash());
        assert_eq!(live.state_hash(), used.state_hash());
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_the_place() {
    let mut live = created(builder(), 1, Parallel::Never);
    let registry = live.registry().clone();
    let kind = registry.input("set_system").unwrap();
    let check = |payload: Value, place: &str, what: &str| {
        let faults = kind.check(&payload, &registry).unwrap_err();
        assert_eq!(faults[0].pointer, place, "{faults:?}");
        assert!(faults[0].detail.contains(what), "{faults:?}");
    };
    check(json!({"system": "nobody", "enabled": false}), "/system", "settings::add");
    check(json!({"system": "settings::add"}), "", "enabled");
    check(json!({"system": "settings::add", "every": 0}), "/every", "1 to");
    check(json!({"system": "settings::add", "every": 2, "offset": 2}), "/offset", "less than 2");
    check(json!({"system": "settings::add", "offset": 2}), "/offset", "every");
    check(json!({"system": "settings::rebuild", "every": 2}), "/every", "every tick");
    // What was logged under another build is looked at again.
    let report = live.tick(&[set(1, &json!({"system": "nobody", "enabled": false}))]).unwrap();
    assert!(report.outcomes[0].1.is_err());
    assert!(live.resource::<SystemSettings>().systems.is_empty());
}

#[test]
fn what_is_rebuilt_in_every_tick_is_not_declared_at_a_lower_rate() {
    let mut world = WorldBuilder::new(1, 1.0);
    world.resource(Total::default()).derived::<Board>();
    world.system(system(rebuild).every(2)).system(system(add).after(rebuild));
    let Err(errors) = world.build(options(1, Parallel::Never)) else { panic!("it was built") };
    assert!(
        matches!(&errors.0[..], [BuildError::Parameter { system, reason }]
        if system == "settings::rebuild" && reason.contains("\"Board\" is derived")),
        "{errors}"
    );
}

/// What was set past the input is applied in the next tick, and what makes no sense is none.
#[test]
fn w4_what_is_set_past_the_input_is_applied_all_the_same() {
    let build = || {
        let mut world = builder();
        world.setup(|world| {
            let mut settings = world.resource_mut::<SystemSettings>();
            let off = everworld_engine::SystemSetting { disabled: false, rate: Some((0, 0)) };
            settings.systems.insert("settings::add".into(), off);
            let slow = everworld_engine::SystemSetting { disabled: false, rate: Some((2, 0)) };
            settings.systems.insert("settings::rebuild".into(), slow);
        });
        world
    };
    let mut live = created(build(), 1, Parallel::Never);
    let image = live.image();
    let mut other = build().build(options(1, Parallel::Never)).unwrap();
    other.restore(&image).unwrap();
    assert_eq!(ran(&mut live, &[]), [true, true]);
    assert_eq!(ran(&mut other, &[]), [true, true]);
    assert_eq!(live.state_hash(), other.state_hash());

    fn meddle(mut settings: ResMut<SystemSettings>) {
        settings.systems.clear();
    }
    let mut world = builder();
    world.system(system(meddle));
    let Err(errors) = world.build(options(1, Parallel::Never)) else { panic!("it was built") };
    assert!(errors.to_string().contains("inputs alone"), "{errors}");
}
