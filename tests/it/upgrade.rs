//! `upgrade check`: this build on the data of a former one, which is played here by another plugin of the same name.

use crate::support::{Server, everworld, options, stderr};
use everworld::{
    Plugin, WorldRecord,
    cli::upgrade::{Rehearsal, TICKS_MAX_DEFAULT, rehearse},
    history::History,
    questions::{Questions, VerifyOptions},
    spine::{self, Spine, SpineError, SpineOptions},
    worlds,
};
use everworld_engine::{Migration, StateHash, Tick, component, prelude::*};
use everworld_persistence::{InputRecord, Log, LogOptions, RealDisk, Record};
use expect_test::expect;
use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::SystemTime};

component! {
    /// What a sheep lacks.
    pub struct Needs("needs", version 1) { hungr: f32, shorn: u32 }
}
component! {
    /// Wool.
    pub struct Wool("wool", version 1) { grams: u32 }
}

/// The same under another declaration.
mod second {
    use everworld_engine::component;
    component! {
        pub struct Needs("needs", version 2) { hunger: f32, thirst: f32 }
    }
}

fn graze(mut sheep: Rows<(&'static Uid, Write<Needs>)>) {
    sheep.for_each(|(uids, mut needs)| {
        for i in 0..needs.len() {
            needs.row_mut(i).hungr += uids[i].get() as f32;
        }
    });
}

fn graze_as_before(mut sheep: Rows<(&'static Uid, Write<second::Needs>)>) {
    sheep.for_each(|(uids, mut needs)| {
        for i in 0..needs.len() {
            needs.row_mut(i).hunger += uids[i].get() as f32;
        }
    });
}

/// From tick 45 on the third sheep is hungrier.
fn graze_otherwise(time: Res<TickTime>, mut sheep: Rows<(&'static Uid, Write<second::Needs>)>) {
    sheep.for_each(|(uids, mut needs)| {
        for i in 0..needs.len() {
            let more = time.tick.0 >= 45 && uids[i].get() == 3;
            needs.row_mut(i).hunger += if more { 4.0 } else { uids[i].get() as f32 };
        }
    });
}

fn fail(time: Res<TickTime>) {
    assert!(time.tick.0 < 41, "as planted");
}

fn old(world: &mut WorldBuilder) {
    world.column::<Needs>().column::<Wool>().system(system(graze));
    world.setup(|world| {
        world.spawn_many((0..5).map(|i| (Needs { hungr: 0.5, shorn: i }, Wool { grams: 3 })));
    });
}

fn declare(world: &mut WorldBuilder) -> &mut WorldBuilder {
    let step = Migration::from("needs", 1).rename("hungr", "hunger").default("thirst", 0.25).drop("shorn");
    world.column::<second::Needs>().migrate(step).retired("wool")
}

fn new(world: &mut WorldBuilder) {
    declare(world).system(system(graze_as_before));
}

fn other(world: &mut WorldBuilder) {
    declare(world).system(system(graze_otherwise));
}

fn failing(world: &mut WorldBuilder) {
    declare(world).system(system(graze_as_before)).system(system(fail));
}

fn forgetful(world: &mut WorldBuilder) {
    world.column::<second::Needs>().system(system(graze_as_before));
}

const SCENARIO: &str = "name = 'herd'\nplugin = 'herd'\nseed = 1\npopulation = 5\ndt_secs = 1.0";

macro_rules! build {
    ($name:ident, $build:ident) => {
        const $name: &[Plugin] = &[Plugin::new("herd", SCENARIO, |world, _| {
            $build(world);
            Ok(())
        })];
    };
}
build!(OLD, old);
build!(NEW, new);
build!(OTHER, other);
build!(FAILING, failing);
build!(FORGETFUL, forgetful);

/// Data with snapshots of ticks 30, 50 and 60.
fn kept() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let scenario = worlds::load_scenario("herd", OLD, &[]).unwrap();
    let record = WorldRecord { world: "herd".into(), scenario };
    for ticks in [30, 20, 10] {
        let mut world = worlds::Durable::open(data.path(), &record, OLD, options(1)).unwrap();
        (0..ticks).for_each(|_| world.tick().unwrap());
        world.close().unwrap();
    }
    data
}

/// Writes a hash checkpoint behind a log, as a server does now and then.
fn checkpoint(data: &Path, world: &str, tick: u64, hash: StateHash) {
    let options = LogOptions::new(spine::world_id(world), spine::build_id());
    let dir = data.join("worlds").join(world).join("log");
    let (mut log, _) = Log::open(Arc::new(RealDisk), &dir, &options).unwrap();
    log.append(&Record::Checkpoint { tick: Tick(tick), hash }).unwrap();
    log.commit().unwrap();
}

/// What is there, to the byte and the time of writing.
fn files(dir: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.insert(path.display().to_string(), (Vec::new(), SystemTime::UNIX_EPOCH));
            found.extend(files(&path));
        } else {
            let written = fs::metadata(&path).unwrap().modified().unwrap();
            found.insert(path.display().to_string(), (fs::read(&path).unwrap(), written));
        }
    }
    found
}

fn check(data: &Path, plugins: &'static [Plugin]) -> (Rehearsal, String, u8) {
    let before = files(data);
    let rehearsal = rehearse(data, None, TICKS_MAX_DEFAULT, plugins).unwrap();
    assert!(files(data) == before, "who rehearses writes nothing");
    // The builds are those of the day.
    let is_build = |line: &&str| line.starts_with("written by") || line.starts_with("this is");
    let text = rehearsal.to_string();
    let text: Vec<&str> = text.lines().filter(|line| !is_build(line)).collect();
    let text = text.join("\n");
    let code = rehearsal.verdict().err().map_or(0, |failed| failed.code);
    (rehearsal, text, code)
}

#[test]
fn the_same_build_finds_nothing() {
    let data = kept();
    let (rehearsal, text, code) = check(data.path(), OLD);
    expect![[r#"
        world      herd
        stopped at tick 60, in order: an upgrade begins at its newest snapshot
        snapshots  30, 50, 60

        schema
          taken as they are: needs, uid, wool, inputs, systems, time, timers, uids

        replay of ticks 31 to 60 under this build
          2 snapshots and 0 hash checkpoints compared
          no divergence: all agree"#]]
    .assert_eq(&text);
    assert_eq!((code, rehearsal.replay.unwrap().agrees_until), (0, Tick(60)));
}

#[test]
fn a_build_that_declares_its_migrations_goes_on() {
    let data = kept();
    checkpoint(data.path(), "herd", 40, StateHash(1));
    let (rehearsal, text, code) = check(data.path(), NEW);
    expect![[r#"
        world      herd
        stopped at tick 60, in order: an upgrade begins at its newest snapshot
        snapshots  30, 50, 60

        schema
          column    needs  version 1 -> 2: hungr renamed to hunger; thirst added as 0.25; shorn dropped (5 rows)
                           - hungr f32
                           - shorn u32
                           + hunger f32
                           + thirst f32
          column    wool   version 1, retired: left behind (5 rows)
          taken as they are: uid, inputs, systems, time, timers, uids

        replay of ticks 31 to 60 under this build
          2 snapshots and 0 hash checkpoints compared, 1 checkpoints of the former schema passed over
          no divergence: all agree"#]]
    .assert_eq(&text);
    assert_eq!(code, 0);
    assert!(rehearsal.stopped_in_order, "a hash of a tick that the snapshot has adds nothing");
}

#[test]
fn the_first_tick_that_differs_is_told_with_what_differs() {
    let data = kept();
    let (rehearsal, text, code) = check(data.path(), OTHER);
    assert_eq!(code, 3);
    let end = text.split("replay of").nth(1).unwrap();
    let end: Vec<&str> = end.lines().map(str::trim).filter(|line| !line.contains("hash")).collect();
    expect![[r#"
        ticks 31 to 50 under this build
        agrees until tick 30, differs at tick 50
        column needs: 1 rows differ
        entity 3, needs
        recorded    {"hunger":150.5,"thirst":0.25}
        this build  {"hunger":156.5,"thirst":0.25}"#]]
    .assert_eq(&end.join("\n"));
    let divergence = rehearsal.replay.unwrap().divergence.unwrap();
    assert_eq!((divergence.tick, divergence.rows["needs"]), (Tick(50), 1));
    assert_eq!(divergence.examples[0].found.as_ref().unwrap()["hunger"], 156.5);

    let (rehearsal, _, code) = check(data.path(), FAILING);
    let divergence = rehearsal.replay.unwrap().divergence.unwrap();
    assert_eq!((code, divergence.tick), (3, Tick(41)));
    assert!(divergence.failure.unwrap().contains("as planted"));
}

/// A checkpoint narrows the tick down, where rows are what they were.
#[test]
fn hash_checkpoints_are_compared_on_the_way() {
    let data = kept();
    checkpoint(data.path(), "herd", 40, StateHash(1));
    let (rehearsal, _, code) = check(data.path(), OLD);
    let divergence = rehearsal.replay.unwrap().divergence.unwrap();
    assert_eq!((code, divergence.tick, divergence.expected), (3, Tick(40), Some(StateHash(1))));
}

#[test]
fn what_does_not_fit_is_named() {
    let data = kept();
    let (rehearsal, text, code) = check(data.path(), FORGETFUL);
    assert_eq!(code, 78);
    assert!(rehearsal.replay.is_none());
    let end = text.split("what does not fit\n").nth(1).unwrap();
    let end: Vec<&str> = end.lines().map(str::trim).collect();
    expect![[r#"
        column "needs": stored as version 1, this build has version 2, and no migration from version 1 is declared
        column "wool": this build has no such column; declare retired("wool"), or was(.., "wool") where it has another name"#]]
    .assert_eq(&end.join("\n"));
}

/// A world that was stopped in order goes on in the new schema, and is kept in it.
#[test]
fn a_world_is_brought_along_when_it_is_opened() {
    let data = kept();
    let record =
        WorldRecord { world: "herd".into(), scenario: worlds::load_scenario("herd", OLD, &[]).unwrap() };
    let play = |plugins, ticks| -> Result<(u64, StateHash), spine::SpineError> {
        let mut world = worlds::Durable::open(data.path(), &record, plugins, options(1))?;
        for _ in 0..ticks {
            world.tick()?;
        }
        let live = world.live();
        let now = (live.now().0, live.state_hash());
        world.close()?;
        Ok(now)
    };
    let refused = play(FORGETFUL, 0).unwrap_err();
    assert_eq!(refused.exit_code(), 78);
    let text = spine::chain(&refused);
    assert!(text.contains("column \"wool\": this build has no such column"), "{text}");
    let (tick, hash) = play(NEW, 0).unwrap();
    assert_eq!(tick, 60);
    // Once kept in the new schema it needs no migration.
    assert_eq!(play(NEW, 0).unwrap(), (60, hash));
    assert_eq!(play(NEW, 15).unwrap().0, 75);
    // And the former build refuses what is newer than itself.
    let text = spine::chain(&play(OLD, 0).unwrap_err());
    assert!(text.contains("stored as version 2 by a newer build, this one has version 1"), "{text}");
}

/// Replay is bounded: from the newest snapshot where the older ones are too far.
#[test]
fn only_so_many_ticks_are_replayed() {
    let data = kept();
    let from = |ticks| rehearse(data.path(), None, ticks, OLD).unwrap().replay.unwrap().from;
    assert_eq!((from(1_000), from(29), from(10), from(0)), (Tick(30), Tick(50), Tick(50), Tick(60)));
    let far = rehearse(data.path(), None, 0, OLD).unwrap().to_string();
    assert!(far.ends_with("no ticks to replay: the snapshot is the end of the log\n"), "{far}");
}

#[test]
fn the_command_answers_with_its_exit_codes() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().to_str().unwrap();
    let run = |args: &[&str], code: i32, says: &str| {
        let output = everworld(&[&["upgrade", "check", "--data", path], args].concat());
        let text = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(says), "{args:?} does not say {says:?}: {text}");
        output.stdout
    };
    run(&[], 2, "is no data directory");
    let server = Server::start(data.path(), &[]);
    server.until(|server| (server.get("/v1/status").1["tick"].as_u64() > Some(20)).then_some(()));
    run(&[], 75, "in use by another process");
    assert!(server.terminate().0.success());
    run(&[], 0, "no divergence");
    run(&["--world", "town"], 0, "no divergence");
    run(&["--world", "city"], 2, "this data directory has: town");
    let json: serde_json::Value = serde_json::from_slice(&run(&["--json"], 0, "")).unwrap();
    assert_eq!((&json["world"], &json["build"]), (&"town".into(), &json["stored_build"]));
    assert!(json["replay"]["divergence"].is_null() && json["stopped_in_order"] == true, "{json}");
    let end = json["stopped_at"].as_u64().unwrap();
    // A divergence by the command: a recorded hash that no replay comes to. Without snapshots it begins at tick 0.
    for entry in fs::read_dir(data.path().join("worlds/town")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "redb") {
            fs::remove_file(path).unwrap();
        }
    }
    checkpoint(data.path(), "town", end, StateHash(7));
    run(&[], 3, &format!("tick {end} comes out differently under this build"));
    let segment = data.path().join("worlds/town/log/00000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[150] ^= 1;
    fs::write(&segment, bytes).unwrap();
    run(&[], 74, "00000001.seg");
}

/// What another build has written behind tick 60: that its ticks went on to 100, two hashes, and an input that waits.
fn foreign_tail(data: &Path, at_80: StateHash) {
    let options = LogOptions::new(spine::world_id("herd"), [9; 16]);
    let dir = data.join("worlds/herd/log");
    let (mut log, _) = Log::open(Arc::new(RealDisk), &dir, &options).unwrap();
    let (kind, payload) = ("nothing".into(), b"{}".to_vec());
    let (principal, request_id) = ("test".into(), String::new());
    let input =
        InputRecord { seq: 1, kind, at_tick: None, principal, request_id, payload, idempotency: None };
    let records = [
        Record::Build { build_id: [9; 16] },
        Record::Horizon { tick: Tick(100) },
        Record::Checkpoint { tick: Tick(80), hash: at_80 },
        Record::Checkpoint { tick: Tick(90), hash: StateHash(90) },
        Record::Input(input),
    ];
    records.iter().for_each(|record| _ = log.append(record).unwrap());
    log.commit().unwrap();
}

fn remove_snapshots(data: &Path) {
    for entry in fs::read_dir(data.join("worlds/herd")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "redb") {
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn the_log_of_another_build_goes_on_as_a_branch_once_it_is_accepted() {
    let data = kept();
    let scenario = worlds::load_scenario("herd", OLD, &[]).unwrap();
    let record = WorldRecord { world: "herd".into(), scenario };
    let mut reference = worlds::create(&record, OLD, options(1)).unwrap();
    let mut hash_at = |tick: u64| {
        while reference.now().0 < tick {
            reference.tick(&[]).unwrap();
        }
        reference.state_hash()
    };
    let (at_80, at_100) = (hash_at(80), hash_at(100));
    foreign_tail(data.path(), at_80);
    let open = |accept_foreign_log| {
        let kept = SpineOptions { accept_foreign_log, ..SpineOptions::default() };
        Spine::open(data.path(), &record, OLD, options(1), &kept)
    };
    let refused = open(false).err().unwrap();
    assert!(matches!(refused, SpineError::ForeignLog { .. }), "{refused}");
    let check = |accept: bool, with_snapshots: bool| {
        let (spine, live) = open(accept).unwrap();
        assert_eq!((live.now(), live.state_hash()), (Tick(100), at_100), "{accept} {with_snapshots}");
        let branches = spine.history.branches();
        assert_eq!(branches.current(), 1, "what follows is on a line of its own");
        assert_eq!(
            (branches.0[0].parent, branches.0[0].tick, branches.end(0)),
            (0, Tick(100), Some(Tick(100)))
        );
        let queued: Vec<u64> = spine.queued.iter().map(|logged| logged.input.seq).collect();
        assert_eq!(queued, [1], "what waited for a tick goes on with it");
        assert_eq!(branches.left_behind(1), None);
    };
    check(true, true);
    // From here on the log is this build's, and its own snapshot holds what followed.
    check(false, true);
    remove_snapshots(data.path());
    check(false, false);
    // A state that the log does not confirm is not shown as that of a former tick.
    let history = History::open(data.path(), "herd", OLD, &SpineOptions::default()).unwrap();
    assert_eq!(history.world_at(0, Tick(80), &options(1)).unwrap().now(), Tick(80));
    let unconfirmed = history.world_at(0, Tick(85), &options(1)).err().unwrap();
    assert!(spine::chain(&unconfirmed).contains("no hash tells"), "{unconfirmed}");
    let differs = history.world_at(0, Tick(95), &options(1)).err().unwrap();
    assert!(matches!(differs, SpineError::Diverged { tick: Tick(90), .. }), "{differs}");
    assert!(differs.to_string().contains("computed it, this is another one"), "{differs}");
    assert_eq!(history.world_at(1, Tick(100), &options(1)).unwrap().state_hash(), at_100);
}

/// The rows of an upgraded world have no hashes that could tell how ticks before it come out: none is shown that may be
/// another one than it was (D3).
#[test]
fn d3_ticks_before_an_upgrade_are_not_computed_by_the_new_build() {
    let data = kept();
    let scenario = worlds::load_scenario("herd", OLD, &[]).unwrap();
    let record = WorldRecord { world: "herd".into(), scenario };
    let new = |accept_foreign_log| {
        let kept = SpineOptions { build_id: [9; 16], accept_foreign_log, ..SpineOptions::default() };
        Spine::open(data.path(), &record, NEW, options(1), &kept)
    };
    let (mut spine, mut live) = new(false).unwrap();
    (0..10).for_each(|_| spine.tick_by_hand(&mut live).unwrap());
    spine.close(&mut live).unwrap();
    drop((spine, live));
    let kept = SpineOptions { build_id: [9; 16], ..SpineOptions::default() };
    let history = History::open(data.path(), "herd", NEW, &kept).unwrap();
    let past = |tick| history.world_at(0, Tick(tick), &options(1)).map(|live| live.now());
    assert_eq!(past(65).unwrap(), Tick(65), "its own ticks follow on the state of the upgrade");
    assert_eq!(past(50).unwrap(), Tick(50), "a snapshot is brought along as it is");
    let refused = spine::chain(&past(55).err().unwrap());
    assert!(refused.contains("tick 55") && refused.contains("no hash tells"), "{refused}");
    // Who verifies is told whose ticks come out otherwise.
    let questions =
        Questions { history, newest: (0, Tick(70)), options: options(1), wanted: Arc::new(|| true) };
    let verify =
        |from| questions.verify(&VerifyOptions { from, threads: 1, deep: true, ..VerifyOptions::default() });
    let all = verify(None).unwrap();
    let of_before = all.mismatch.unwrap();
    assert_eq!(of_before.other_build, Some(spine::hex(spine::build_id())), "{of_before:?}");
    assert!(
        !all.agrees && all.to == Tick(70),
        "this build's own ticks are looked at all the same: {}",
        all.to
    );
    let own = verify(Some(Tick(60))).unwrap();
    assert!(own.agrees && own.ticks == 10, "{own:?}");
    drop(questions);
    // The snapshots of tick 60 and later are lost.
    let epochs = fs::read_dir(data.path().join("worlds/herd")).unwrap();
    let mut epochs: Vec<_> = epochs.map(|entry| entry.unwrap().path()).collect();
    epochs.retain(|path| path.extension().is_some_and(|extension| extension == "redb"));
    epochs.sort();
    // Each start begins another one, and there were three of the former build.
    epochs.drain(..2);
    epochs.iter().for_each(|path| fs::remove_file(path).unwrap());
    let left = History::open(data.path(), "herd", NEW, &SpineOptions::default()).unwrap();
    assert_eq!(left.snapshots().iter().map(|meta| meta.tick.0).max(), Some(50));
    drop(left);
    let refused = new(false).err().unwrap();
    assert!(matches!(refused, SpineError::ForeignLog { .. }), "{refused}");
    // Nor with none left: this build would create another world than that build did.
    let (spine, live) = new(true).unwrap();
    assert_eq!((live.now(), spine.history.branches().current()), (Tick(70), 1));
    drop((spine, live));
    let (spine, live) = new(false).unwrap();
    assert_eq!((live.now(), spine.history.branches().current()), (Tick(70), 1));
    drop((spine, live));
    remove_snapshots(data.path());
    // What it went on with is confirmed by the hash that the branch begins with, if it comes out so.
    let refused = new(false).err().unwrap();
    assert!(matches!(refused, SpineError::Diverged { tick: Tick(70), .. }), "{refused}");
}
