//! Build errors name the systems, and what would escape is refused (W2, W4).

use crate::options;
use bevy_ecs::prelude::*;
use everworld_engine::{
    BuildErrors, Parallel, Phase, Priority, Rows, TickTime, Uid, WorldBuilder, Write, component, resource,
    system,
};
use expect_test::{Expect, expect};

component! {
    struct Heat("heat", version 1) { value: f32 }
}
component! {
    struct Twin("heat", version 2) { value: f32 }
}
#[derive(Component, Default)]
struct Unknown;
#[derive(Resource, Default)]
struct Cache;
resource! {
    #[derive(Default)]
    struct Weather("weather", version 1) { wind: u32 }
}

fn heat(mut rows: Query<&mut Heat>) {
    rows.iter_mut().for_each(|mut row| row.value += 1.0);
}
fn cool(mut rows: Query<&mut Heat>) {
    rows.iter_mut().for_each(|mut row| row.value -= 1.0);
}
fn look(_: Query<&Heat>) {}
fn unknown_write(_: Query<&mut Unknown>) {}
fn unknown_read(_: Query<&Unknown>) {}
fn cache_write(_: ResMut<Cache>) {}
fn cache_read(_: Res<Cache>) {}
fn everything(_: Query<EntityMut>) {}
fn local(_: Local<u32>) {}
fn changed(_: Query<&Heat, Changed<Heat>>) {}
fn commands(_: Commands) {}
fn turn_back(_: ResMut<TickTime>) {}
fn rename(_: Query<&mut Uid>) {}
fn rename_rows(_: Rows<Write<Uid>>) {}
fn twice(_: Query<&mut Heat>, _: Query<&Heat>) {}
fn observe(world: &mut World) {
    world.add_observer(|_: On<Add<Heat>>| {});
}

fn build(add: impl FnOnce(&mut WorldBuilder)) -> Result<(), BuildErrors> {
    let mut world = WorldBuilder::new(1, 1.0);
    world.column::<Heat>();
    add(&mut world);
    world.build(options(1, Parallel::Never)).map(|_| ())
}

#[track_caller]
fn check(add: impl FnOnce(&mut WorldBuilder), expected: Expect) {
    let text = match build(add) {
        Ok(()) => "ok".to_owned(),
        Err(errors) => errors.to_string(),
    };
    // The numbers of components are bevy's.
    let digits = |c: char| c.is_ascii_digit();
    let text = match text.split_once("component ") {
        Some((start, rest)) if rest.starts_with(digits) => {
            format!("{start}component N{}", rest.trim_start_matches(digits))
        }
        _ => text,
    };
    expected.assert_eq(&text);
}

#[test]
fn build_errors_name_the_systems() {
    check(|w| _ = w.system(system(heat)).system(system(look).after(heat)), expect!["ok"]);
    check(
        |w| _ = w.system(system(look).after(heat)),
        expect![[r#"system "build::look" is declared after "build::heat", which is not registered"#]],
    );
    check(
        |w| _ = w.system(system(heat)).system(system(heat)),
        expect![[r#"two systems are named "build::heat""#]],
    );
    check(
        |w| _ = w.system(system(heat)).system(system(heat).named("again")),
        expect![[r#"system "build::heat" is registered twice, also as "again""#]],
    );
    check(
        |w| {
            _ = w
                .system(system(heat).after(cool))
                .system(system(cool).after(look))
                .system(system(look).after(heat));
        },
        expect!["dependency cycle: build::cool -> build::heat -> build::look -> build::cool"],
    );
    check(
        |w| _ = w.system(system(heat).before(heat)),
        expect!["dependency cycle: build::heat -> build::heat"],
    );
    check(
        |w| _ = w.system(system(|| {})),
        expect![[r#"system "{{closure}}::{{closure}}" is a closure: give it a name with .named("...")"#]],
    );
    check(
        |w| _ = w.system(system(heat).phase(Phase("dusk"))),
        expect![[r#"system "build::heat" belongs to phase "dusk", which is not one of tick"#]],
    );
    check(
        |w| {
            w.phases(&[Phase("first"), Phase("last")]);
            w.system(system(heat).phase(Phase("first")).after(cool))
                .system(system(cool).phase(Phase("last")));
        },
        expect![[r#"system "build::cool" (phase last) cannot come before "build::heat" (phase first)"#]],
    );
    check(
        |w| _ = w.system(system(heat).every(3).offset(3)),
        expect![[
            r#"system "build::heat" runs every 3 ticks at offset 3: the offset must be below the number of ticks"#
        ]],
    );
    check(|w| _ = w.column::<Twin>(), expect![[r#"column "heat" is registered twice"#]]);
    check(
        |w| _ = w.resource(Weather::default()).resource(Weather { wind: 1 }),
        expect![[r#"resource "weather" is registered twice"#]],
    );
}

#[test]
fn all_faults_are_reported_at_once() {
    check(
        |w| _ = w.system(system(look).after(heat)).system(system(local)).system(system(cool).every(0)),
        expect![[r#"
            system "build::cool" runs every 0 ticks at offset 0: the offset must be below the number of ticks
            system "build::look" is declared after "build::heat", which is not registered
            system "build::local" cannot be run deterministically: Local keeps a value outside the state; use a registered resource or column"#]],
    );
}

#[test]
fn w2_what_would_escape_is_refused() {
    check(
        |w| _ = w.system(system(unknown_write)),
        expect![[
            r#"system "build::unknown_write" writes component N, which is neither registered nor declared derived ((bevy_ecs::system::query::Query<'_, '_, &mut it::build::Unknown>,))"#
        ]],
    );
    check(
        |w| _ = w.system(system(unknown_read)),
        expect![[
            r#"system "build::unknown_read" reads component N, which is neither registered nor declared derived ((bevy_ecs::system::query::Query<'_, '_, &it::build::Unknown>,))"#
        ]],
    );
    check(
        |w| _ = w.system(system(cache_write)),
        expect![[
            r#"system "build::cache_write" writes component N, which is neither registered nor declared derived ((bevy_ecs::change_detection::params::ResMut<'_, it::build::Cache>,))"#
        ]],
    );
    check(|w| _ = w.derived::<Cache>().system(system(cache_write)), expect!["ok"]);
    check(
        |w| {
            _ = w
                .derived::<Cache>()
                .system(system(cache_write))
                .system(system(cache_read).after(cache_write));
        },
        expect!["ok"],
    );
    check(
        |w| _ = w.derived::<Cache>().system(system(cache_write).after(cache_read)).system(system(cache_read)),
        expect![[
            r#"system "build::cache_read" cannot be run deterministically: it uses "Cache" before "build::cache_write", which builds it in each tick: declare it after that"#
        ]],
    );
    check(
        |w| _ = w.system(system(everything)),
        expect![[
            r#"system "build::everything" writes any component, which is neither registered nor declared derived ((bevy_ecs::system::query::Query<'_, '_, bevy_ecs::world::entity_access::entity_mut::EntityMut<'_>>,))"#
        ]],
    );
    check(
        |w| _ = w.system(system(changed)),
        expect![[
            r#"system "build::changed" cannot be run deterministically: Changed sees every row as changed after a restore"#
        ]],
    );
    check(
        |w| _ = w.system(system(commands)),
        expect![[
            r#"system "build::commands" cannot be run deterministically: commands changes structure in the order of threads; use Effects"#
        ]],
    );
    check(
        |w| _ = w.system(system(turn_back)),
        expect![[
            r#"system "build::turn_back" cannot be run deterministically: it writes the time, which ticking alone does"#
        ]],
    );
    for name in ["build::rename", "build::rename_rows"] {
        let named = |w: &mut WorldBuilder| {
            _ = if name == "build::rename" {
                w.system(system(rename))
            } else {
                w.system(system(rename_rows))
            };
        };
        let text = build(named).unwrap_err().to_string();
        assert_eq!(
            text,
            format!(
                "system \"{name}\" cannot be run deterministically: it writes Uids, which the engine alone gives"
            )
        );
    }
    let conflicting = build(|w| _ = w.system(system(twice))).unwrap_err().to_string();
    assert!(conflicting.starts_with("system \"build::twice\" cannot be initialised"), "{conflicting}");
}

/// What no parameter shows is caught where it happens: the world stops rather than go on with it.
#[test]
fn w4_what_an_exclusive_system_smuggles_in_is_caught() {
    fn spawn(world: &mut World) {
        world.spawn(Heat::default());
    }
    fn unregistered(world: &mut World) {
        world.spawn(Unknown);
    }
    fn added(world: &mut World) {
        let mut entities = world.query_filtered::<Entity, With<Heat>>();
        let entity = entities.iter(world).next().unwrap();
        world.entity_mut(entity).insert(Unknown);
    }
    fn removed(world: &mut World) {
        let mut entities = world.query_filtered::<Entity, With<Heat>>();
        let entity = entities.iter(world).next().unwrap();
        world.despawn(entity);
    }
    #[track_caller]
    fn run(system: everworld_engine::SystemConfig, expected: &str) {
        let mut world = WorldBuilder::new(1, 1.0);
        world.column::<Heat>().system(system).setup(|world| _ = world.spawn(Heat::default()));
        let mut live = crate::created(world, 1, Parallel::Never);
        let error = live.tick(&[]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    run(system(spawn), "spawned without a Uid");
    run(system(unregistered), "spawned without a Uid");
    run(system(added), "a component that is not registered");
    run(system(removed), "removed past the engine");
    run(system(observe), "observers");
}

/// bevy calls a system without access compatible with an exclusive one; both use the world's change tick.
#[test]
fn a_system_without_access_waits_for_exclusive_ones_too() {
    fn nothing() {}
    fn alone(_: &mut World) {}
    let mut world = WorldBuilder::new(1, 1.0);
    world.system(system(nothing)).system(system(alone));
    let live = world.build(options(1, Parallel::Never)).unwrap();
    assert_eq!(live.plan().edges.len(), 1, "{}", live.plan());
}

#[test]
fn the_plan_says_order_edges_and_reasons() {
    let plan = |add: fn(&mut WorldBuilder)| {
        let mut world = WorldBuilder::new(1, 1.0);
        world.column::<Heat>().resource(Weather::default());
        add(&mut world);
        world.build(options(1, Parallel::Never)).unwrap().plan().to_string()
    };
    fn clock(_: Res<TickTime>, mut weather: ResMut<Weather>) {
        weather.wind += 1;
    }
    expect![[r#"
        tick
           0 build::look
              reads heat
           1 build::heat  every 2 ticks at 1
              writes heat
              <- build::look (declared)
           2 the_plan_says_order_edges_and_reasons::clock
              reads time
              writes weather
           3 build::cool  priority Low
              writes heat
              <- build::heat (declared)
    "#]]
    .assert_eq(&plan(|w| {
        w.system(system(cool).after(heat).priority(Priority::Low));
        w.system(system(heat).every(2).offset(1).after(look));
        w.system(system(look));
        w.system(system(clock));
    }));
}
