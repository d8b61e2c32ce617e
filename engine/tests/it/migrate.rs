//! Schema change: what a state of a former build becomes, and what is refused by name.

use crate::{created, options};
use bevy_ecs::prelude::*;
use everworld_engine::{
    CHUNK_ROWS, Chunk, Image, ImageError, Input, InputEnvelope, InputError, LiveWorld, Migration,
    MigrationReport, Outcome, Parallel, StateHash, Tick, Uid, WorldBuilder, input::InputWorld, migrate_image,
    resource,
};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// The world of the first build.
mod first {
    use everworld_engine::{Uid, WorldBuilder, component, labels, resource, slow_component};
    labels! {
        pub enum Mood: u8 { Calm = "calm", Sad = "sad", Angry = "angry" }
    }
    component! {
        pub struct Needs("needs", version 1) {
            friend: Uid,
            hungr: f32,
            luck: u16,
            mood: Mood,
            worn: u8,
        }
    }
    component! {
        pub struct Place("place", version 1) { x: f32, y: f32 }
    }
    component! {
        pub struct Old("old", version 4) { value: u32 }
    }
    slow_component! {
        pub struct Name("name", version 1) { text: String }
    }
    resource! {
        pub struct Bank("bank", version 1) { pub coins: u32 }
    }

    pub fn build() -> WorldBuilder {
        let mut world = WorldBuilder::new(1, 1.0);
        world
            .column::<Needs>()
            .column::<Place>()
            .column::<Old>()
            .slow_column::<Name>()
            .resource(Bank { coins: 7 });
        world
    }
}

/// The world of the third: needs by a chain of two steps, a name by a function, a place called otherwise.
mod third {
    use super::first;
    use everworld_engine::{Migration, Uid, WorldBuilder, component, labels, resource, slow_component};
    use serde::Deserialize;
    labels! {
        pub enum Mood: u16 { Angry = "angry", Calm = "calm", Sad = "sad", Glad = "glad" }
    }
    component! {
        pub struct Needs("needs", version 3) {
            friend: Uid,
            hunger: f64,
            thirst: f32,
            luck: i16,
            mood: Mood,
        }
    }
    component! {
        pub struct Spot("spot", version 2) { metres: [f32; 2] }
    }
    component! {
        pub struct Fresh("fresh", version 1) { value: u32 }
    }
    slow_component! {
        pub struct Name("name", version 2) { given: String, family: String }
    }
    #[derive(Deserialize)]
    struct OldName {
        text: String,
    }
    resource! {
        pub struct Bank("bank", version 2) { pub coins: i64 }
    }
    resource! {
        pub struct Weather("weather", version 1) { pub rain: f32 }
    }

    pub fn build() -> WorldBuilder {
        let mut world = WorldBuilder::new(1, 1.0);
        world
            .column::<Needs>()
            .migrate(
                Migration::from("needs", 1).rename("hungr", "hunger").default("thirst", 0.5).drop("worn"),
            )
            .migrate(Migration::from("needs", 2).map("hunger", |part| part * 100.0))
            .column::<Spot>()
            .was("spot", "place")
            .migrate(Migration::from("spot", 1).rows(|old: first::Place| Spot { metres: [old.x, old.y] }))
            .retired("old")
            .column::<Fresh>()
            .slow_column::<Name>()
            .migrate(Migration::from("name", 1).value(|old: OldName| {
                let (given, family) = old.text.split_once(' ').unwrap_or((&old.text, ""));
                Name { given: given.into(), family: family.into() }
            }))
            .resource(Bank { coins: 1 })
            .migrate(Migration::from("bank", 1).value(|coins: u32| Bank { coins: i64::from(coins) }))
            .resource(Weather { rain: 0.25 });
        world
    }
}

fn empty(world: WorldBuilder) -> LiveWorld {
    world.build(options(1, Parallel::Never)).unwrap()
}

type Row = (u64, f32, u16, u8);

/// A state of the first build: needs for all, and for some an old column, a name or a place.
fn state(rows: Vec<Row>) -> Image {
    let mut world = first::build();
    world.setup(move |world| {
        for (i, (friend, hungr, luck, mood)) in rows.iter().enumerate() {
            let (friend, mood) = (Uid::new(*friend), first::Mood(mood % 3));
            let uid = world.spawn(first::Needs { friend, hungr: *hungr, luck: *luck, mood, worn: 9 });
            if i % 2 == 0 {
                world.insert(uid, first::Old { value: 1 });
            }
            if i % 3 == 0 {
                world.insert(uid, first::Name { text: format!("Ann {i}") });
            }
            if i % 5 == 0 {
                world.insert(uid, first::Place { x: i as f32, y: -1.0 });
            }
        }
    });
    created(world, 1, Parallel::Never).image()
}

/// A row as JSON, by the schema of its build.
fn shown(world: &LiveWorld, image: &Image, uid: u64, column: &str) -> Option<Value> {
    let (table, row) = image.find(Uid::new(uid)).unwrap();
    let column = table.column(column)?;
    Some(world.registry().column(&column.schema.name).unwrap().to_json(image.row(column, row)))
}

#[test]
fn a_chain_brings_rows_names_and_resources_along() {
    let old = state((0..10).map(|i| (i, 0.25, 3, i as u8)).collect());
    let mut live = empty(third::build());
    let (image, report) = migrate_image(live.registry(), old.clone()).unwrap();
    assert_ne!(image.hash, old.hash, "a version is part of the hash");
    live.restore(&image).unwrap();
    assert_eq!(live.state_hash(), image.hash);
    assert_eq!(
        shown(&live, &image, 3, "needs").unwrap(),
        json!({"friend": "2", "hunger": 25.0, "thirst": 0.5, "luck": 3, "mood": "angry"})
    );
    assert_eq!(shown(&live, &image, 1, "name").unwrap(), json!({"given": "Ann", "family": "0"}));
    assert_eq!(shown(&live, &image, 6, "spot").unwrap(), json!({"metres": [5.0, -1.0]}));
    assert_eq!(shown(&live, &image, 1, "old"), None);
    assert_eq!((live.resource::<third::Bank>().coins, live.resource::<third::Weather>().rain), (7, 0.25));
    assert_eq!(image.tables.len(), 4, "tables that only a retired column told apart are one");
    live.tick(&[]).unwrap();
    let lines: Vec<_> = report
        .columns
        .iter()
        .chain(&report.resources)
        .map(|change| format!("{}: {}", change.name, change))
        .collect();
    expect![[r#"
        fresh: not in the state
        name: version 1 -> 2: converted by a function
        needs: version 1 -> 3: hungr renamed to hunger; thirst added as 0.5; worn dropped; hunger recomputed
        old: version 4, retired: left behind
        spot: version 1 -> 2, was "place": converted by a function
        uid: version 1, taken as it is
        bank: version 1 -> 2: converted by a function
        inputs: version 1, taken as it is
        systems: version 1, taken as it is
        time: version 1, taken as it is
        timers: version 1, taken as it is
        uids: version 1, taken as it is
        weather: not in the state"#]]
    .assert_eq(&lines.join("\n"));
    assert_eq!(report.notes, ["resource \"weather\" is new: it has its first value"]);
    let needs = report.columns.iter().find(|column| column.name == "needs").unwrap();
    let fields: Vec<_> = needs.fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(fields, ["hungr", "luck", "mood", "worn", "hunger", "thirst"]);
    assert_eq!(needs.rows, 10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Against the slow and obvious: each row by hand, through JSON.
    #[test]
    fn migrated_rows_are_what_the_steps_say(
        rows in prop::collection::vec((any::<u64>(), -1e30f32..1e30, 0u16..0x7FFF, 0u8..3), 1..60),
        parallel in any::<bool>(),
    ) {
        let old = state(rows.clone());
        let live = empty(third::build());
        let (image, _) = if parallel {
            options(2, Parallel::Always).pool.install(|| migrate_image(live.registry(), old.clone())).unwrap()
        } else {
            migrate_image(live.registry(), old.clone()).unwrap()
        };
        prop_assert_eq!(image.entities(), rows.len());
        for (uid, (friend, hungr, luck, mood)) in (1..).zip(&rows) {
            let needs = shown(&live, &image, uid, "needs").unwrap();
            let mood = ["calm", "sad", "angry"][usize::from(*mood)];
            let hunger = f64::from(*hungr) * 100.0;
            prop_assert_eq!(needs, json!({
                "friend": friend.to_string(), "hunger": hunger, "thirst": 0.5, "luck": luck, "mood": mood,
            }));
        }
        // The same state in the same build is not touched at all.
        let first = empty(first::build());
        let (same, report) = migrate_image(first.registry(), old.clone()).unwrap();
        prop_assert!(report.is_identity());
        prop_assert_eq!(same, old);
    }
}

/// The first build's state in a build that is declared otherwise: what is said, or the hash.
#[track_caller]
fn check(declare: impl FnOnce(&mut WorldBuilder), expected: Expect) {
    let mut world = WorldBuilder::new(1, 1.0);
    declare(&mut world);
    let live = empty(world);
    let said = match migrate_image(live.registry(), state(vec![(1, 300.5, 40_000, 2), (2, 1.0, 1, 1)])) {
        Ok(_) => "fits".to_owned(),
        Err(ImageError::Misfits(misfits)) => {
            misfits.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        }
        Err(other) => panic!("{other}"),
    };
    expected.assert_eq(&said);
}

fn rest(world: &mut WorldBuilder) -> &mut WorldBuilder {
    world
        .column::<first::Place>()
        .column::<first::Old>()
        .slow_column::<first::Name>()
        .resource(first::Bank { coins: 1 })
}

#[test]
fn everything_that_does_not_fit_is_named_at_once() {
    check(
        |_| {},
        expect![[r#"
            column "name": this build has no such column; declare retired("name"), or was(.., "name") where it has another name
            column "needs": this build has no such column; declare retired("needs"), or was(.., "needs") where it has another name
            column "old": this build has no such column; declare retired("old"), or was(.., "old") where it has another name
            column "place": this build has no such column; declare retired("place"), or was(.., "place") where it has another name
            resource "bank": this build has no such resource; declare retired("bank"), or was(.., "bank") where it has another name"#]],
    );
    check(
        |world| {
            world.retired("name").retired("needs").retired("old").retired("place").retired("bank");
        },
        expect!["fits"],
    );
}

mod newer {
    use everworld_engine::{component, labels, resource, row, slow_component};
    labels! {
        pub enum Mood: u8 { Calm = "calm", Sad = "sad", Angry = "angry", Glad = "glad" }
    }
    labels! {
        pub enum Order: u8 { Sad = "sad", Calm = "calm", Angry = "angry" }
    }
    labels! {
        pub enum Fewer: u8 { Calm = "calm" }
    }
    macro_rules! needs {
        ($($name:ident $version:literal { $($fields:tt)* })*) => {$(
            component! { pub struct $name("needs", version $version) { $($fields)* } }
        )*};
    }
    use everworld_engine::Uid;
    row! {
        pub struct Pair { a: f32, b: f32 }
    }
    needs! {
        MoreLabels 1 { friend: Uid, hungr: f32, luck: u16, mood: Mood, worn: u8 }
        OtherLabels 1 { friend: Uid, hungr: f32, luck: u16, mood: Order, worn: u8 }
        OtherName 1 { friend: Uid, hunger: f32, luck: u16, mood: Mood, worn: u8 }
        Swapped 1 { friend: Uid, hungr: f32, luck: u16, worn: u8, mood: Mood }
        Second 2 { friend: Uid, hungr: f32, luck: u16, mood: Mood, worn: u8 }
        Narrow 2 { friend: Uid, hungr: f32, a: u16, luck: u8, mood: Fewer }
        Whole 2 { friend: Uid, hungr: i32, luck: u16, mood: Mood, worn: u8 }
        Shape 2 { friend: Uid, hungr: Pair, luck: u32, mood: Mood, worn: u8, a: u16 }
        Older 0 { friend: Uid, hungr: f32, luck: u16, mood: Mood, worn: u8 }
    }
    slow_component! {
        pub struct Title("name", version 1) { text: Vec<u8> }
    }
    resource! {
        pub struct Bank("bank", version 0) { pub coins: u32 }
    }
}

#[test]
fn a_layout_is_taken_or_refused_by_name() {
    check(|world| _ = rest(world).column::<newer::MoreLabels>(), expect!["fits"]);
    check(
        |world| _ = rest(world).column::<newer::OtherLabels>(),
        expect![[
            r#"column "needs": version 1 in both, but another layout (mood was u8 of calm|sad|angry, is u8 of sad|calm|angry): raise the version and declare a migration"#
        ]],
    );
    check(
        |world| _ = rest(world).column::<newer::OtherName>(),
        expect![[
            r#"column "needs": version 1 in both, but another layout (hungr is gone, mood was u8 of calm|sad|angry, is u8 of calm|sad|angry|glad, hunger is new): raise the version and declare a migration"#
        ]],
    );
    check(
        |world| _ = rest(world).column::<newer::Swapped>(),
        expect![[
            r#"column "needs": version 1 in both, but another layout (mood was u8 of calm|sad|angry, is u8 of calm|sad|angry|glad): raise the version and declare a migration"#
        ]],
    );
    check(
        |world| {
            world.column::<first::Needs>().column::<first::Place>().column::<first::Old>();
            world.slow_column::<newer::Title>().resource(newer::Bank { coins: 1 });
        },
        expect![[r#"
            column "name": version 1 in both, but another layout (text was String, is Vec<u8>): raise the version and declare a migration
            resource "bank": stored as version 1 by a newer build, this one has version 0"#]],
    );
    check(
        |world| _ = rest(world).column::<newer::Older>(),
        expect![[r#"column "needs": stored as version 1 by a newer build, this one has version 0"#]],
    );
}

#[test]
fn a_step_that_does_not_do_is_told_with_its_field_and_entity() {
    check(
        |world| _ = rest(world).column::<newer::Second>(),
        expect![[
            r#"column "needs": stored as version 1, this build has version 2, and no migration from version 1 is declared"#
        ]],
    );
    check(
        |world| _ = rest(world).column::<newer::Second>().migrate(Migration::from("needs", 1)),
        expect!["fits"],
    );
    check(
        |world| {
            let step = Migration::from("needs", 1).rename("hunger", "x").drop("luc").default("worn", 1);
            rest(world).column::<newer::Narrow>().migrate(step);
        },
        expect![[r#"
            column "needs": the step from version 1 names field "hunger", there are friend, hungr, luck, mood, worn
            column "needs": the step from version 1 names field "luc", there are friend, hungr, luck, mood, worn
            column "needs": the step from version 1: field "worn" is there already
            column "needs": field "worn" is not in this build: declare drop or rename
            column "needs": field "a" is new: declare default or rename"#]],
    );
    check(
        |world| {
            rest(world)
                .column::<newer::Narrow>()
                .migrate(Migration::from("needs", 1).drop("worn").default("a", -1));
        },
        expect![[r#"column "needs": default of /a: expected a number from 0 to 65535"#]],
    );
    // 40,000 is no u8; the mood of both is none that the new labels have.
    check(
        |world| {
            rest(world)
                .column::<newer::Narrow>()
                .migrate(Migration::from("needs", 1).drop("worn").default("a", 1));
        },
        expect![[r#"
            column "needs": entity 1: field "luck": 40000 is out of range
            column "needs": entity 2: field "mood": label "sad" is gone"#]],
    );
    check(
        |world| _ = rest(world).column::<newer::Whole>().migrate(Migration::from("needs", 1)),
        expect![[r#"column "needs": entity 1: field "hungr": 300.5 is not a whole number"#]],
    );
    check(
        |world| {
            let step = Migration::from("needs", 1).map("hungr", |hungr| (hungr * 2.0).round());
            rest(world).column::<newer::Whole>().migrate(step);
        },
        expect!["fits"],
    );
    check(
        |world| {
            rest(world).column::<newer::Shape>().migrate(Migration::from("needs", 1).default("a", 1));
        },
        expect![[r#"column "needs": field "hungr" was f32 and is {a: f32, b: f32}: use rows() for that"#]],
    );
}

#[test]
fn declarations_that_do_not_fit_together_are_faults_of_the_build() {
    let mut world = first::build();
    world
        .migrate(Migration::from("nedes", 1))
        .migrate(Migration::from("needs", 1))
        .migrate(Migration::from("old", 1))
        .migrate(Migration::from("old", 3).value(|old: u32| old))
        .migrate(Migration::from("old", 3).rows(|old: first::Place| old))
        .migrate(Migration::from("name", 0).drop("text"))
        .was("place", "old")
        .retired("bank");
    let Err(faults) = world.build(options(1, Parallel::Never)) else { panic!("it was built") };
    expect![[r#"
        migrations of "nedes": no such column or resource is registered
        migrations of "needs": from version 1, but this build has version 1
        migrations of "old": there is a step from version 1, and none from 2
        migrations of "old": a plain column: use rows(), not value()
        migrations of "old": two steps from version 3
        migrations of "old": the step from version 3 converts version 1 to 1
        migrations of "name": it is kept by serde: use value(), which alone can change it
        migrations of "place": was("place", "old") needs a registered name and a former one
        migrations of "bank": declared as retired, but registered"#]]
    .assert_eq(&faults.to_string());
}

#[test]
fn a_state_that_is_not_what_it_says_is_not_migrated() {
    let live = empty(third::build());
    let good = state(vec![(1, 0.5, 2, 1); 20]);
    let mut flipped = good.clone();
    let column = flipped.tables[0].columns.iter_mut().find(|column| column.schema.name == "needs").unwrap();
    let Chunk::Plain(mut rows) = (*column.chunks[0]).clone() else { panic!("a plain column") };
    rows[3] ^= 1;
    column.chunks[0] = Arc::new(Chunk::Plain(rows));
    assert!(matches!(migrate_image(live.registry(), flipped), Err(ImageError::Hash { .. })));
    let mut cut = good.clone();
    cut.tables[0].rows += 1;
    assert!(matches!(migrate_image(live.registry(), cut), Err(ImageError::Malformed(_))));
    let mut timeless = good;
    timeless.resources.retain(|resource| resource.name != "time");
    let Err(ImageError::Misfits(misfits)) = migrate_image(live.registry(), timeless) else {
        panic!("it fits")
    };
    assert_eq!(misfits[0].to_string(), "resource \"time\": the state lacks it");
}

/// Who stored it without the names of its fields is taken as it is, and not brought along.
#[test]
fn rows_without_names_of_fields_are_judged_by_version_and_lanes() {
    let mut image = state(vec![(1, 0.5, 2, 1); 3]);
    for column in image.tables.iter_mut().flat_map(|table| &mut table.columns) {
        Arc::make_mut(&mut column.schema).fields.clear();
    }
    let hash = image.compute_hash();
    assert_eq!(hash, image.hash, "names of fields are no part of the hash");
    let mut live = empty(first::build());
    live.restore(&image).unwrap();
    let (same, _) = migrate_image(live.registry(), image.clone()).unwrap();
    assert!(same.tables[0].columns.iter().all(|column| !column.schema.fields.is_empty()));
    assert_eq!(same.hash, hash);
    let Err(ImageError::Misfits(misfits)) = migrate_image(empty(third::build()).registry(), image) else {
        panic!("it fits")
    };
    let told = misfits.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    assert!(told.contains("\"needs\": the stored state does not say which fields its rows have"), "{told}");
}

/// The hash of a state is that of its names, versions and bytes: known data has a known hash.
#[test]
fn the_hash_of_the_same_data_in_the_same_version_does_not_move() {
    let image = state(vec![(1, 0.5, 2, 1), (2, 0.25, 3, 2)]);
    assert_eq!(image.hash, StateHash(0x755d_0d8d_a895_babe));
}

#[test]
fn tables_of_many_chunks_are_put_together() {
    let mut world = first::build();
    let rows = CHUNK_ROWS + 100;
    world.setup(move |world| {
        let needs = |i| first::Needs { luck: (i % 30_000) as u16, ..first::Needs::default() };
        world.spawn_many((0..rows).map(|i| (needs(i), first::Old { value: 1 })));
        world.spawn_many((rows..2 * rows).map(needs));
    });
    let image = created(world, 1, Parallel::Never).image();
    let mut live = empty(third::build());
    let (image, _) = migrate_image(live.registry(), image).unwrap();
    assert_eq!((image.tables.len(), image.tables[0].rows), (1, 2 * rows));
    live.restore(&image).unwrap();
    for uid in [1, rows as u64, rows as u64 + 1, 2 * rows as u64] {
        assert_eq!(shown(&live, &image, uid, "needs").unwrap()["luck"], (uid - 1) % 30_000);
    }
}

resource! {
    pub struct Log("log", version 1) { pub lines: Vec<String> }
}

#[derive(Serialize, Deserialize)]
struct Say {
    text: String,
}

impl Input for Say {
    const KIND: &'static str = "say";
    const DOC: &'static str = "Writes a line.";

    fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError> {
        world.resource_mut::<Log>().lines.push(self.text);
        Ok(Outcome::default())
    }
}

/// What waits for its tick is told when this build will reject it.
#[test]
fn a_waiting_input_of_a_kind_that_is_gone_is_noted() {
    let mut world = WorldBuilder::new(1, 1.0);
    world.resource(Log { lines: Vec::new() }).input::<Say>();
    let mut live = created(world, 1, Parallel::Never);
    let payload = br#"{"text":"x"}"#.to_vec();
    live.tick(&[InputEnvelope { seq: 4, kind: "say".into(), at_tick: Some(Tick(9)), payload }]).unwrap();
    let mut world = WorldBuilder::new(1, 1.0);
    world.resource(Log { lines: Vec::new() });
    let (_, MigrationReport { notes, .. }) = migrate_image(empty(world).registry(), live.image()).unwrap();
    assert_eq!(
        notes,
        ["input 4 waits for its tick, and this build has no kind \"say\": it will be rejected"]
    );
}
