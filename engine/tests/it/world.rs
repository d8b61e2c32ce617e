//! Ticking: rates, effects, timers, inputs, panics, images that do not fit.

use crate::{created, options};
use bevy_ecs::prelude::*;
use everworld_engine::{
    CHUNK_ROWS, Chunk, ColumnImage, ColumnSchema, Due, Effects, Image, ImageError, Input, InputEnvelope,
    InputError, Outcome, Parallel, Phase, StateResource as _, TableImage, Tick, TickTime, Timers, Uid,
    UidIndex, WorldBuilder, component, input::InputWorld, resource, system,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering::Relaxed},
};

component! {
    pub struct Age("age", version 1) { ticks: u64 }
}
resource! {
    #[derive(Default, Clone, PartialEq, Debug)]
    pub struct Diary("diary", version 1) { lines: Vec<String> }
}

#[derive(Serialize, Deserialize)]
struct Note {
    text: String,
}

impl Input for Note {
    const KIND: &'static str = "note";
    const DOC: &'static str = "Writes a line.";

    fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError> {
        if self.text.is_empty() {
            return Err(InputError::Rejected("nothing to write".into()));
        }
        assert_ne!(self.text, "panic", "as told");
        let tick = world.time().tick;
        world.resource_mut::<Diary>().lines.push(format!("{tick} {}", self.text));
        Ok(Outcome::default())
    }
}

fn builder() -> WorldBuilder {
    let mut world = WorldBuilder::new(1, 1.0);
    world.column::<Age>().resource(Diary::default()).input::<Note>();
    world
}

fn note(seq: u64, at_tick: Option<u64>, text: &str) -> InputEnvelope {
    let payload = serde_json::to_vec(&json!({"text": text})).unwrap();
    InputEnvelope { seq, kind: "note".into(), at_tick: at_tick.map(Tick), payload }
}

#[test]
fn rates_and_offsets_say_when_a_system_runs() {
    fn third(time: Res<TickTime>, mut diary: ResMut<Diary>) {
        diary.lines.push(time.tick.to_string());
    }
    for parallel in [Parallel::Always, Parallel::Never] {
        let mut world = builder();
        world.system(system(third).every(3).offset(1));
        let mut live = created(world, 2, parallel);
        let ran: Vec<bool> = (0..7).map(|_| live.tick(&[]).unwrap().systems[0].ran).collect();
        assert_eq!(ran, [true, false, false, true, false, false, true]);
        assert_eq!(live.resource::<Diary>().lines, ["1", "4", "7"]);
    }
}

/// Births are numbered by (system, who asked, sequence), whoever asks first.
#[test]
fn w3_births_are_numbered_in_the_order_of_who_asked() {
    fn late(effects: Effects) {
        for by in [3, 1, 2] {
            effects.spawn(Uid::new(by), Age { ticks: 100 + by });
            effects.spawn(Uid::new(by), Age { ticks: 200 + by });
        }
    }
    fn early(effects: Effects) {
        effects.spawn(Uid::new(9), Age { ticks: 9 });
    }
    let mut world = builder();
    world.system(system(late).named("b")).system(system(early).named("a"));
    let mut live = created(world, 2, Parallel::Always);
    live.tick(&[]).unwrap();
    let image = live.image();
    let age = |uid| {
        let (table, row) = image.find(Uid::new(uid)).unwrap();
        u64::from_le_bytes(image.row(table.column("age").unwrap(), row).try_into().unwrap())
    };
    assert_eq!((1..=7).map(age).collect::<Vec<_>>(), [9, 101, 201, 102, 202, 103, 203]);
}

#[test]
fn a_tick_tells_who_came_and_who_went() {
    fn live(time: Res<TickTime>, effects: Effects) {
        match time.tick.0 {
            2 => (0..150).for_each(|_| effects.spawn(Uid::new(1), Age { ticks: 0 })),
            3 | 4 => effects.despawn(Uid::new(1), Uid::new(2)),
            5 => effects.spawn(Uid::new(1), Age { ticks: 0 }),
            _ => {}
        }
    }
    // Once before anybody is born, once after.
    static FAILURES: AtomicU8 = AtomicU8::new(0);
    fn fail(of: u8, tick: Tick) {
        let fails = tick.0 == 5 && FAILURES.compare_exchange(of, of + 1, Relaxed, Relaxed).is_ok();
        assert!(!fails, "planted");
    }
    const EARLY: Phase = Phase("early");
    const LATE: Phase = Phase("late");
    let mut world = builder();
    world.phases(&[EARLY, LATE]).system(system(live).phase(EARLY));
    let early = |time: Res<TickTime>| fail(0, time.tick);
    let late = |time: Res<TickTime>| fail(1, time.tick);
    world.system(system(early).named("early").phase(EARLY).after(live));
    world.system(system(late).named("late").phase(LATE));
    world.setup(|world| _ = world.spawn(Age { ticks: 0 }));
    let mut live = created(world, 1, Parallel::Never);
    let lives = |live: &mut everworld_engine::LiveWorld| {
        let lives = live.tick(&[]).unwrap().lives.clone();
        (
            lives.born.iter().map(|uid| uid.get()).collect::<Vec<_>>(),
            lives.born_count,
            lives.gone,
            lives.gone_count,
        )
    };
    assert_eq!(lives(&mut live), (vec![], 0, vec![], 0), "the set-up is no tick");
    assert_eq!(lives(&mut live), ((2..102).collect(), 150, vec![], 0));
    assert_eq!(lives(&mut live), (vec![], 0, vec![Uid::new(2)], 1));
    assert_eq!(lives(&mut live), (vec![], 0, vec![], 0), "nobody goes twice");
    let image = live.image();
    for failing in ["early", "late"] {
        let error = live.tick(&[]).unwrap_err();
        assert!(error.to_string().contains(failing), "{error}");
        live.restore(&image).unwrap();
    }
    assert_eq!(lives(&mut live), (vec![Uid::new(152).get()], 1, vec![], 0), "nor in a tick that failed");
}

#[test]
fn effects_are_seen_after_their_phase_and_gone_uids_are_forgotten() {
    fn end(effects: Effects, index: Res<UidIndex>) {
        for uid in 1..=3 {
            if index.get(Uid::new(uid)).is_some() {
                effects.despawn(Uid::new(uid), Uid::new(uid));
                effects.despawn(Uid::new(uid), Uid::new(uid));
                return;
            }
        }
    }
    let mut world = builder();
    world.system(system(end)).setup(|world| _ = world.spawn_many((0..3).map(|ticks| Age { ticks })));
    let mut live = created(world, 1, Parallel::Never);
    let left: Vec<usize> = (0..4).map(|_| live.tick(&[]).unwrap().entities).collect();
    assert_eq!(left, [2, 1, 0, 0]);
}

#[test]
fn timers_are_due_by_tick_and_uid_and_survive_a_restore() {
    fn set(time: Res<TickTime>, timers: Timers) {
        if time.tick == Tick(1) {
            for (uid, ticks) in [(5, 3), (2, 3), (9, 1), (7, 0)] {
                timers.after(ticks, Uid::new(uid), 1);
            }
            timers.after(3, Uid::new(1), 2);
        }
    }
    fn tell(time: Res<TickTime>, due: Due, mut diary: ResMut<Diary>) {
        let uids: Vec<String> = due.of(1).map(|uid| uid.to_string()).collect();
        if !uids.is_empty() {
            diary.lines.push(format!("{} {}", time.tick, uids.join(",")));
        }
    }
    let build = || {
        let mut world = builder();
        world.system(system(set)).system(system(tell));
        world
    };
    let mut live = created(build(), 1, Parallel::Never);
    live.tick(&[]).unwrap();
    live.tick(&[]).unwrap();
    let mut fresh = build().build(options(1, Parallel::Never)).unwrap();
    fresh.restore(&live.image()).unwrap();
    for mut live in [live, fresh] {
        (0..3).for_each(|_| _ = live.tick(&[]).unwrap());
        assert_eq!(live.resource::<Diary>().lines, ["2 7,9", "4 2,5"]);
    }
}

#[test]
fn inputs_apply_in_order_wait_for_their_tick_and_are_state() {
    let mut live = created(builder(), 1, Parallel::Never);
    let report = live
        .tick(&[note(1, None, "a"), note(2, Some(4), "later"), note(3, None, ""), note(4, Some(1), "b")])
        .unwrap();
    let outcomes: Vec<_> = report.outcomes.iter().map(|(seq, outcome)| (*seq, outcome.is_ok())).collect();
    assert_eq!(outcomes, [(1, true), (3, false), (4, true)]);
    let waiting = live.image();
    live.tick(&[]).unwrap();
    live.tick(&[note(5, Some(4), "too")]).unwrap();
    let mut fresh = builder().build(options(1, Parallel::Never)).unwrap();
    fresh.restore(&waiting).unwrap();
    assert_eq!(fresh.taken_seq(), 4);
    let mut without = builder().build(options(1, Parallel::Never)).unwrap();
    without.create().unwrap();
    without.tick(&[note(1, None, "a"), note(3, None, ""), note(4, Some(1), "b")]).unwrap();
    assert_ne!(without.state_hash(), waiting.hash, "a pending input is part of the state");
    fresh.tick(&[]).unwrap();
    fresh.tick(&[note(5, Some(4), "too")]).unwrap();
    for mut live in [live, fresh] {
        live.tick(&[note(6, None, "now")]).unwrap();
        assert_eq!(live.resource::<Diary>().lines, ["1 a", "1 b", "4 later", "4 too", "4 now"]);
    }
}

#[test]
fn an_unknown_or_malformed_input_is_an_outcome_not_a_fault() {
    let mut live = created(builder(), 1, Parallel::Never);
    let unknown = InputEnvelope { kind: "dance".into(), ..note(1, None, "") };
    let malformed = InputEnvelope { payload: b"{}".to_vec(), ..note(2, None, "") };
    let report = live.tick(&[unknown, malformed]).unwrap();
    assert_eq!(report.outcomes[0].1, Err(InputError::UnknownKind("dance".into())));
    assert!(matches!(report.outcomes[1].1, Err(InputError::Malformed(_))));
}

#[test]
fn a_panic_names_the_system_and_poisons_the_world() {
    fn fine(mut diary: ResMut<Diary>) {
        diary.lines.clear();
    }
    fn breed(effects: Effects, timers: Timers) {
        effects.spawn(Uid::new(1), Age { ticks: 1 });
        timers.after(9, Uid::new(1), 1);
    }
    fn bad(time: Res<TickTime>, ages: Query<&Age>) {
        assert!(time.tick.0 < 3, "at {} with {}", time.tick, ages.iter().count());
    }
    for parallel in [Parallel::Always, Parallel::Never] {
        let mut world = builder();
        world.system(system(fine)).system(system(bad).after(breed)).system(system(breed));
        let mut live = created(world, 2, parallel);
        live.tick(&[]).unwrap();
        let good = live.image();
        live.tick(&[]).unwrap();
        let second = live.state_hash();
        let error = live.tick(&[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "system \"a_panic_names_the_system_and_poisons_the_world::bad\" failed in tick 3: at 3 with 2"
        );
        assert_eq!(live.tick(&[]).unwrap_err(), error, "a poisoned world refuses to go on");
        live.restore(&good).unwrap();
        assert_eq!(live.tick(&[]).unwrap().tick, Tick(2), "a restore heals it");
        assert_eq!(live.state_hash(), second, "what was asked for in the failed tick is forgotten");
    }
    let mut live = created(builder(), 1, Parallel::Never);
    let error = live.tick(&[note(1, None, "panic")]).unwrap_err().to_string();
    assert!(error.starts_with("applying the inputs of tick 1 failed"), "{error}");
}

#[test]
fn an_image_that_does_not_fit_is_refused() {
    fn populated(mut world: WorldBuilder) -> everworld_engine::LiveWorld {
        world.setup(|world| _ = world.spawn(Age { ticks: 1 }));
        created(world, 1, Parallel::Never)
    }
    let image = populated(builder()).image();
    let refused = |mut live: everworld_engine::LiveWorld, image: &everworld_engine::Image| {
        let error = live.restore(image).unwrap_err();
        assert!(live.tick(&[]).is_err(), "a world that is half restored does not tick");
        error
    };
    let mut other = WorldBuilder::new(1, 1.0);
    other.resource(Diary::default());
    assert!(
        matches!(refused(created(other, 1, Parallel::Never), &image), ImageError::UnknownColumn(name) if name == "age")
    );
    let mut fewer = WorldBuilder::new(1, 1.0);
    fewer.column::<Age>();
    assert!(
        matches!(refused(created(fewer, 1, Parallel::Never), &image), ImageError::Resource(name) if name == Diary::NAME)
    );
    let mut wrong = image.clone();
    wrong.hash.0 ^= 1;
    assert!(matches!(refused(populated(builder()), &wrong), ImageError::Hash { .. }));
    let mut cut = image.clone();
    cut.tables[0].rows += 1;
    assert!(matches!(refused(populated(builder()), &cut), ImageError::Malformed(_)));
}

/// Uids are what everything else goes by: each is one that was given, and there once. What is wrong has a right hash.
#[test]
fn an_image_with_uids_that_were_not_given_is_refused() {
    let build = || {
        let mut world = builder();
        world.setup(|world| _ = world.spawn_many((0..3).map(|ticks| Age { ticks })));
        created(world, 1, Parallel::Never)
    };
    let check = |expected: &str, change: &dyn Fn(&mut Image)| {
        let mut image = build().image();
        change(&mut image);
        image.hash = image.compute_hash();
        match (build().restore(&image), expected) {
            (Ok(()), "") => {}
            (Err(ImageError::Malformed(said)), expected) if !expected.is_empty() => {
                assert!(said.contains(expected), "{said}");
            }
            (other, _) => panic!("{other:?}, expected {expected:?}"),
        }
    };
    let set = |row: usize, uid: u64| {
        move |image: &mut Image| {
            let uids = image.tables[0].columns.iter_mut().find(|column| column.schema.name == "uid").unwrap();
            let Chunk::Plain(bytes) = Arc::make_mut(&mut uids.chunks[0]) else { unreachable!() };
            bytes[row * 8..][..8].copy_from_slice(&uid.to_le_bytes());
        }
    };
    check("", &|_| {});
    check("", &set(2, 3));
    check("two entities have the Uid 1", &set(2, 1));
    check("never given", &set(2, 4));
    check("never given", &set(0, 0));
    check("two columns are named", &|image| {
        let again = image.tables[0].columns[0].clone();
        image.tables[0].columns.push(again);
    });
}

/// Nobody but the engine says which Uid an entity has, on whichever way.
#[test]
fn uids_are_the_engines() {
    #[derive(Serialize, Deserialize)]
    struct Rename;
    impl Input for Rename {
        const KIND: &'static str = "rename";
        const DOC: &'static str = "Tries to give another Uid.";
        fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError> {
            world.insert(Uid::new(1), Uid::new(7));
            Ok(Outcome::default())
        }
    }
    fn born(effects: Effects) {
        effects.spawn(Uid::new(1), (Uid::new(7), Age { ticks: 1 }));
    }
    fn given(effects: Effects) {
        effects.insert(Uid::new(1), Uid::new(1), Uid::new(7));
    }
    fn taken(world: &mut World) {
        let mut query = world.query::<&mut Uid>();
        query.iter_mut(world).filter(|uid| uid.get() == 1).for_each(|mut uid| *uid = Uid::new(7));
    }
    let check = |add: &dyn Fn(&mut WorldBuilder), inputs: &[InputEnvelope]| {
        let mut world = builder();
        world.input::<Rename>().setup(|world| _ = world.spawn_many((0..3).map(|ticks| Age { ticks })));
        add(&mut world);
        let error = created(world, 1, Parallel::Never).tick(inputs).unwrap_err().to_string();
        assert!(error.contains("Uid"), "{error}");
    };
    check(&|world| _ = world.system(system(born)), &[]);
    check(&|world| _ = world.system(system(given)), &[]);
    check(&|world| _ = world.system(system(taken)), &[]);
    check(
        &|_| {},
        &[InputEnvelope { kind: "rename".into(), payload: b"null".to_vec(), ..note(1, None, "") }],
    );
}

/// The chunks of an image in their order, each in all columns of its table.
fn chunks_of(image: &Image) -> Vec<Vec<(Arc<ColumnSchema>, Arc<Chunk>)>> {
    let of_table = |table: &TableImage| -> Vec<Vec<(Arc<ColumnSchema>, Arc<Chunk>)>> {
        let column =
            |chunk: usize| move |column: &ColumnImage| (column.schema.clone(), column.chunks[chunk].clone());
        (0..table.rows.div_ceil(CHUNK_ROWS))
            .map(|chunk| table.columns.iter().map(column(chunk)).collect())
            .collect()
    };
    image.tables.iter().flat_map(of_table).collect()
}

#[test]
fn rows_that_come_chunk_by_chunk_make_the_same_world() {
    let build = || {
        let mut world = builder();
        world.setup(|world| _ = world.spawn_many((0..CHUNK_ROWS as u64 + 5).map(|ticks| Age { ticks })));
        created(world, 1, Parallel::Never)
    };
    let mut live = build();
    live.tick(&[]).unwrap();
    let image = live.image();
    let chunks = chunks_of(&image);
    assert_eq!(chunks.len(), 2);
    let mut other = build();
    other.tick(&[]).unwrap();
    other.tick(&[]).unwrap();
    let restore = |other: &mut everworld_engine::LiveWorld, chunks: &[usize], from: &[Vec<_>]| {
        other.begin_restore(image.tick);
        assert!(other.tick(&[]).is_err(), "a world that is half restored does not tick");
        chunks.iter().for_each(|chunk| other.restore_chunk(&from[*chunk], 99_999).unwrap());
        other.finish_restore(&image)
    };
    for incomplete in [&[0][..], &[1], &[]] {
        assert!(matches!(restore(&mut other, incomplete, &chunks), Err(ImageError::Hash { .. })));
        assert!(other.tick(&[]).is_err(), "a world that lacks rows does not tick");
    }
    other.begin_restore(image.tick);
    other.restore_chunk(&chunks[1], 99_999).unwrap();
    let twice = other.restore_chunk(&chunks[1], 99_999).unwrap_err().to_string();
    assert!(twice.contains("two entities have the Uid"), "{twice}");
    restore(&mut other, &[0, 1], &chunks).unwrap();
    assert_eq!((other.state_hash(), other.now()), (live.state_hash(), live.now()));
    assert_eq!(other.image().tables, image.tables, "the rows lie as they lay");
    live.tick(&[]).unwrap();
    other.tick(&[]).unwrap();
    assert_eq!(other.state_hash(), live.state_hash());
}

#[test]
fn chunks_that_are_no_rows_are_refused() {
    let build = || {
        let mut world = builder();
        world.setup(|world| _ = world.spawn_many((0..3).map(|ticks| Age { ticks })));
        created(world, 1, Parallel::Never)
    };
    let chunk = chunks_of(&build().image()).remove(0);
    let refused = |expected: &str, change: &dyn Fn(&mut Vec<(Arc<ColumnSchema>, Arc<Chunk>)>)| {
        let mut live = build();
        let mut chunk = chunk.clone();
        change(&mut chunk);
        live.begin_restore(Tick(1));
        let error = live.restore_chunk(&chunk, 1000).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let at = |name: &str| chunk.iter().position(|(schema, _)| schema.name == name).unwrap();
    let (age, uid) = (at("age"), at("uid"));
    let set_uid = |row: usize, value: u64| {
        move |chunk: &mut Vec<(Arc<ColumnSchema>, Arc<Chunk>)>| {
            let Chunk::Plain(bytes) = Arc::make_mut(&mut chunk[uid].1) else { unreachable!() };
            bytes[row * 8..][..8].copy_from_slice(&value.to_le_bytes());
        }
    };
    refused("without Uids", &|chunk| _ = chunk.remove(uid));
    refused("does not have 3 rows", &|chunk| chunk[age].1 = Arc::new(Chunk::Plain(vec![0; 16])));
    refused("does not have 3 rows", &|chunk| chunk[age].1 = Arc::new(Chunk::Slow(vec![Vec::new(); 3])));
    refused("never given", &set_uid(1, 0));
    refused("never given", &set_uid(2, u64::MAX));
    refused("never given", &set_uid(2, 1001));
    refused("unknown column \"years\"", &|chunk| Arc::make_mut(&mut chunk[age].0).name = "years".into());
    refused("version 9", &|chunk| Arc::make_mut(&mut chunk[age].0).version = 9);
    refused("two columns", &|chunk| chunk.push(chunk[age].clone()));
}
