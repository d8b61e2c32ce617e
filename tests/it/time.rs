//! The time machine: worlds of the past, rewinds and forks, of a world that runs in this process.

use crate::support::options;
use everworld::{
    PLUGINS, WorldRecord,
    config::Config,
    history,
    host::{self, Hosted, Refused, Wish},
    sequencer::{Asked, Fate, Known, Origin},
    spine::{self, SpineOptions},
    status::WorldState,
    worlds,
};
use everworld_engine::{StateHash, Tick};
use everworld_persistence::{Disk, DiskFile, RealDisk, Store, StoreOptions};
use serde_json::json;
use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

fn record(name: &str) -> WorldRecord {
    let scenario = worlds::load_scenario("town", PLUGINS, &["population=200".into()]).unwrap();
    WorldRecord { world: name.into(), scenario }
}

/// A world whose host runs in this process.
pub struct World {
    pub hosted: Hosted,
    pub runtime: tokio::runtime::Runtime,
}

impl World {
    fn start(data: &Path, name: &str) -> Self {
        Self::start_as(Arc::new(RealDisk), data, name, |_| {})
    }

    pub fn start_as(disk: Arc<dyn Disk>, data: &Path, name: &str, set: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        data.clone_into(&mut config.data.dir);
        config.tick.rate_hz = 200.0;
        config.snapshot.period_millis = 1_000;
        config.log.checkpoint_ticks = 1;
        set(&mut config);
        let lock = spine::lock(data).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let hosted = host::start_on(disk, &Arc::new(config), lock, record(name), PLUGINS, false).unwrap();
        let world = Self { hosted, runtime };
        world.until("it is there", |world| {
            let state = world.hosted.handle.status.state();
            assert_ne!(state.0, WorldState::Failed, "{state:?}");
            (state.0 != WorldState::Recovering).then_some(())
        });
        world
    }

    pub fn until<T>(&self, what: &str, mut ready: impl FnMut(&Self) -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_mins(1);
        loop {
            if let Some(value) = ready(self) {
                return value;
            }
            assert!(Instant::now() < end, "not in time: {what}; {:?}", self.hosted.handle.status.state());
            std::thread::yield_now();
        }
    }

    fn tick(&self) -> u64 {
        self.hosted.handle.status.tick().0
    }

    pub fn reaches(&self, tick: u64) {
        self.until("the tick", |world| (world.tick() >= tick).then_some(()));
    }

    fn ask(&self, wish: Wish) -> Result<u64, Refused> {
        let origin = Origin { principal: "test".into(), request_id: String::new() };
        let asked = async {
            let asked = self.hosted.handle.ask(wish, origin);
            tokio::time::timeout(Duration::from_mins(1), asked).await.expect("a wish is answered")
        };
        self.runtime.block_on(asked).map(|done| done.tick.0)
    }

    /// The hashes that readers see, for so many ticks.
    fn look(&self, ticks: u64) -> BTreeMap<u64, StateHash> {
        let (mut seen, end) = (BTreeMap::new(), self.tick() + ticks);
        while self.tick() < end {
            let view = self.hosted.handle.running().unwrap().mirror.view().unwrap();
            seen.insert(view.tick.0, view.hash);
            std::thread::yield_now();
        }
        seen
    }

    fn spawn(&self, at_tick: Option<u64>) -> u64 {
        let origin = Origin { principal: "test".into(), request_id: String::new() };
        let asked = Asked {
            kind: "spawn_entities",
            payload: &json!({"entities": [{"prototype": "townsman"}]}),
            at_tick: at_tick.map(Tick),
            wants_outcome: at_tick.is_none(),
            idempotency_key: None,
        };
        let submitted = self.hosted.handle.running().unwrap().sequencer.submit(asked, &origin).unwrap();
        self.runtime.block_on(async {
            submitted.durable.await.unwrap().unwrap();
            match submitted.fate {
                Some(fate) => match fate.await.unwrap() {
                    Fate::Applied(applied) => applied.tick.0,
                    left @ Fate::LeftBehind(_) => panic!("{left:?}"),
                },
                None => 0,
            }
        })
    }

    fn paused(&self) -> (u64, StateHash) {
        let tick = self.ask(Wish::Pause).unwrap();
        self.until("its view", |world| {
            let mirror = &world.hosted.handle.running().unwrap().mirror;
            mirror.ask();
            let view = mirror.view().unwrap();
            (view.tick.0 == tick).then_some((tick, view.hash))
        })
    }

    pub fn entities(&self) -> u64 {
        self.hosted.handle.status.entities()
    }

    /// Ends in order.
    pub fn stop(self) {
        self.hosted.stop();
        self.runtime.block_on(self.hosted.ended).unwrap().unwrap();
    }
}

#[test]
fn d3_every_tick_of_the_past_comes_back_with_the_hash_that_was_shown() {
    let data = tempfile::tempdir().unwrap();
    let world = World::start(data.path(), "town");
    world.spawn(None);
    world.spawn(Some(world.tick() + 120));
    let seen = world.look(350);
    let history = world.hosted.handle.running().unwrap().history.clone();
    assert!(!history.snapshots().is_empty());
    // While it runs on.
    for (tick, hash) in seen.iter().step_by(seen.len() / 12) {
        let live = history.world_at(0, Tick(*tick), &options(2)).unwrap();
        assert_eq!((live.now(), live.state_hash()), (Tick(*tick), *hash));
    }
    let later = Tick(world.tick() + 1_000_000);
    assert!(history.world_at(0, later, &options(1)).is_err(), "the log does not reach it");
}

#[test]
fn a_rewind_goes_on_from_a_former_tick_on_a_branch_of_its_own_also_after_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let world = World::start(data.path(), "town");
    let first = world.spawn(None);
    let before = world.look(150);
    let second = world.spawn(None);
    assert!(second > first + 100);
    // Waits for a tick that only the former line has.
    world.spawn(Some(second + 100));
    world.reaches(second + 150);
    assert_eq!(world.entities(), 203);
    let refused = world.ask(Wish::Rewind(Tick(world.tick() + 100_000)));
    assert!(matches!(refused, Err(Refused::WrongState(_))), "{refused:?}");

    let back_to = second - 20;
    assert_eq!(world.ask(Wish::Rewind(Tick(back_to))).unwrap(), back_to);
    assert_eq!(world.hosted.handle.status.branch(), 1);
    assert!(world.tick() < second, "it is back");
    assert_eq!(world.entities(), 201);
    world.reaches(second + 150);
    assert_eq!(world.entities(), 201, "what came later on the former line is not on this one");
    let third = world.spawn(None);
    assert!(third > second + 149);
    let (tick, hash) = world.paused();
    let history = world.hosted.handle.running().unwrap().history.clone();
    for (tick, hash) in before.iter().rev().step_by(40) {
        assert_eq!(history.world_at(1, Tick(*tick), &options(1)).unwrap().state_hash(), *hash, "tick {tick}");
    }
    let (old, new) = (
        history.world_at(0, Tick(second + 110), &options(1)).unwrap(),
        history.world_at(1, Tick(second + 110), &options(1)).unwrap(),
    );
    assert_eq!((old.entities(), new.entities()), (203, 201), "both lines are there");
    // As a kill leaves it, with the snapshots of the new branch and without.
    for with_snapshots in [true, false] {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(data.path(), copy.path());
        if !with_snapshots {
            remove_store(&copy.path().join("worlds/town"));
        }
        let again = World::start(copy.path(), "town");
        assert_eq!(again.hosted.handle.status.branch(), 1);
        assert_eq!(again.paused(), (tick, hash), "with snapshots: {with_snapshots}");
        again.ask(Wish::Resume).unwrap();
        assert!(again.spawn(None) > tick, "it goes on");
        // Once more, to before the first rewind.
        again.ask(Wish::Rewind(Tick(first + 5))).unwrap();
        assert_eq!(again.hosted.handle.status.branch(), 2);
        again.reaches(first + 60);
        again.stop();
        let again = World::start(copy.path(), "town");
        assert_eq!(again.hosted.handle.status.branch(), 2);
        assert_eq!(again.entities(), 201);
    }
}

/// A rewind leaves inputs to the former line. Who asks for the outcome of one by its key is told that none comes, at once
/// and after a restart.
#[test]
fn no_outcome_is_waited_for_that_a_rewind_has_left_behind() {
    let data = tempfile::tempdir().unwrap();
    let ask = |world: &World| {
        let asked = Asked {
            kind: "spawn_entities",
            payload: &json!({"entities": [{"prototype": "townsman"}]}),
            at_tick: Some(Tick(5_000_000)),
            wants_outcome: true,
            idempotency_key: Some("late"),
        };
        let origin = Origin { principal: "test".into(), request_id: String::new() };
        world.hosted.handle.running().unwrap().sequencer.submit(asked, &origin).unwrap()
    };
    let none_comes = |world: &World| {
        let submitted = ask(world);
        assert!(submitted.repeated);
        let fate = async { tokio::time::timeout(Duration::from_secs(20), submitted.fate.unwrap()).await };
        let fate = world.runtime.block_on(fate).expect("it is told at once").unwrap();
        assert!(matches!(fate, Fate::LeftBehind(0)), "{fate:?}");
    };
    let world = World::start(data.path(), "town");
    world.reaches(30);
    let first = ask(&world);
    world.runtime.block_on(first.durable).unwrap().unwrap();
    let taken = world.tick() + 1;
    world.reaches(taken + 5);
    world.ask(Wish::Rewind(Tick(20))).unwrap();
    none_comes(&world);
    world.stop();
    none_comes(&World::start(data.path(), "town"));
}

/// At a rate of a tick in a quarter of an hour nobody waits for the next tick.
#[test]
fn a_world_that_ticks_seldom_is_asked_at_any_time() {
    let data = tempfile::tempdir().unwrap();
    let world = World::start_as(Arc::new(RealDisk), data.path(), "town", |config| {
        config.snapshot.period_millis = 3_600_000;
    });
    world.reaches(30);
    let tick = world.ask(Wish::Rate(1)).unwrap();
    world.until("its newest view", |world| {
        let mirror = &world.hosted.handle.running().unwrap().mirror;
        mirror.ask();
        (mirror.view().unwrap().tick.0 >= tick).then_some(())
    });
    world.ask(Wish::Snapshot).unwrap();
    world.until("the snapshot", |world| (world.hosted.handle.status.last_snapshot().0 >= tick).then_some(()));
    assert_eq!(world.ask(Wish::Rewind(Tick(20))).unwrap(), 20);
    assert_eq!(world.hosted.handle.status.branch(), 1);
    world.stop();
}

/// Who is told that a wish is granted finds it in the status, also where the log's thread is faster than the world's.
#[test]
fn a_granted_wish_is_in_the_status() {
    let data = tempfile::tempdir().unwrap();
    let disk = Flaky(Arc::default(), true);
    let world = World::start_as(Arc::new(disk), data.path(), "town", |_| {});
    let (status, over) = (&world.hosted.handle.status, AtomicBool::new(false));
    let seen = std::thread::scope(|scope| {
        // Others look, too: the world waits for them where it shows something.
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    drop((status.state(), status.quarantined()));
                }
            });
        }
        let seen = (0..100).map(|i| {
            world.ask(Wish::Pause).unwrap();
            let paused = status.state().0;
            world.ask(Wish::Rate(200_000 + i)).unwrap();
            let rate = status.millihertz() - i;
            world.ask(Wish::Resume).unwrap();
            // Or degraded, where the machine is slow.
            (paused, rate, status.state().0 == WorldState::Paused)
        });
        let seen: Vec<_> = seen.collect();
        over.store(true, Relaxed);
        seen
    });
    assert!(seen.iter().all(|seen| *seen == (WorldState::Paused, 200_000, false)), "{seen:?}");
    world.stop();
}

/// D2: no reader sees a tick or a hash of one line of history under the name of another.
#[test]
fn d2_branch_tick_and_hash_are_of_one_moment_during_rewinds() {
    const REWINDS: u32 = 12;
    let data = tempfile::tempdir().unwrap();
    let world = World::start(data.path(), "town");
    let (handle, over) = (world.hosted.handle.clone(), AtomicBool::new(false));
    world.reaches(30);
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut seen, mut last) = (BTreeMap::new(), handle.status.shown());
            while !over.load(Relaxed) {
                let hashed = || handle.running().unwrap().mirror.shown().unwrap();
                let (shown, hashed) = handle.shown_with(hashed);
                let goes_on = shown.branch == last.branch && shown.tick >= last.tick;
                assert!(goes_on || shown.branch > last.branch, "{shown:?} after {last:?}");
                let known = seen.insert((shown.branch, hashed.tick), hashed.hash);
                assert!(known.is_none_or(|known| known == hashed.hash), "two hashes at {shown:?}");
                last = shown;
            }
            seen
        });
        for rewind in 0..REWINDS {
            // No two lines are the same.
            world.spawn(None);
            world.reaches(45 + u64::from(rewind));
            assert_eq!(world.ask(Wish::Rewind(Tick(20))).unwrap(), 20);
        }
        over.store(true, Relaxed);
        reader.join().unwrap()
    });
    let history = world.hosted.handle.running().unwrap().history.clone();
    for branch in 0..REWINDS {
        // What is next to the change is what could be of the other line.
        let mut ticks = seen.range((branch, Tick(0))..=(branch, Tick(u64::MAX)));
        for ((_, tick), hash) in [ticks.next(), ticks.next_back()].into_iter().flatten() {
            let live = history.world_at(branch, *tick, &options(1)).unwrap();
            assert_eq!(live.state_hash(), *hash, "tick {tick} of branch {branch}");
        }
    }
}

#[test]
fn a_fork_is_a_world_of_its_own_from_the_parents_state() {
    let data = tempfile::tempdir().unwrap();
    let world = World::start(data.path(), "town");
    let born = world.spawn(None);
    world.spawn(Some(born + 100));
    world.reaches(born + 50);
    let history = world.hosted.handle.running().unwrap().history.clone();
    let at = Tick(born + 20);
    let options_of_fork = SpineOptions::default();
    let fork = |name: &str| {
        history::fork(&history, data.path(), (0, at), (name, &[]), &options(1), &options_of_fork)
    };
    fork("other").unwrap();
    assert!(fork("other").unwrap_err().to_string().contains("there is a world"));
    let parent = history.world_at(0, at, &options(1)).unwrap().state_hash();
    let mut later = history.world_at(0, at, &options(1)).unwrap();
    (0..200).for_each(|_| _ = later.tick(&[]).unwrap());
    assert_eq!(later.entities(), 202, "an input that waited for its tick waits in the fork too");
    world.stop();
    let play = |ticks| {
        let mut other = worlds::Durable::open(data.path(), &record("other"), PLUGINS, options(1)).unwrap();
        (0..ticks).for_each(|_| other.tick().unwrap());
        let shown = (other.live().now(), other.live().state_hash());
        other.close().unwrap();
        shown
    };
    assert_eq!(play(0), (at, parent));
    assert_eq!(play(200), (later.now(), later.state_hash()), "it goes on as its parent did");
    // Read without opening it for writing.
    let past = history::History::open(data.path(), "other", PLUGINS, &options_of_fork).unwrap();
    assert_eq!(past.newest().unwrap().target(), later.now());
    assert_eq!(past.world_at(0, Tick(at.0 + 130), &options(1)).unwrap().entities(), 202);
    // Without its snapshots it cannot come back, and says so rather than begin anew.
    remove_store(&data.path().join("worlds/other"));
    let lost = worlds::Durable::open(data.path(), &record("other"), PLUGINS, options(1));
    let error = lost.map(|_| ()).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
}

fn remove_store(world: &Path) {
    for entry in std::fs::read_dir(world).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "redb") {
            std::fs::remove_file(path).unwrap();
        }
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            std::fs::copy(path, target).unwrap();
        }
    }
}

/// The log remembers hashes: who computes another state is found out, and nothing of it is served.
#[test]
fn d3_a_replay_that_does_not_come_to_the_logged_hash_is_refused() {
    use everworld_persistence::{Log, LogOptions, Record};

    let data = tempfile::tempdir().unwrap();
    let open = || worlds::Durable::open(data.path(), &record("town"), PLUGINS, options(1));
    let mut world = open().unwrap();
    (0..20).for_each(|_| world.tick().unwrap());
    world.close().unwrap();
    let mut reference = worlds::create(&record("town"), PLUGINS, options(1)).unwrap();
    (0..25).for_each(|_| _ = reference.tick(&[]).unwrap());
    let append = |records: &[Record]| {
        let options = LogOptions::new(spine::world_id("town"), spine::build_id());
        let log = data.path().join("worlds/town/log");
        let (mut log, _) = Log::open(Arc::new(RealDisk), &log, &options).unwrap();
        records.iter().for_each(|record| _ = log.append(record).unwrap());
        log.commit().unwrap();
    };
    append(&[
        Record::Checkpoint { tick: Tick(25), hash: reference.state_hash() },
        Record::Horizon { tick: Tick(30) },
    ]);
    let world = open().unwrap();
    assert_eq!(world.live().now(), Tick(30), "the right one is fine");
    // As a kill leaves it: no snapshot of tick 30.
    drop(world);
    let wrong = StateHash(reference.state_hash().0 ^ 1);
    append(&[Record::Checkpoint { tick: Tick(28), hash: wrong }]);
    let error = open().map(|_| ()).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    let said = error.to_string();
    assert!(said.contains("tick 28") && said.contains(&wrong.to_string()), "{said}");
}

/// The whole spine on a disk that loses power after each operation: what comes back is a state that was, and no earlier
/// one than was durable.
#[test]
fn d3_d8_a_power_cut_at_any_operation_leaves_a_world_that_comes_back() {
    use everworld::{spine::Spine, status::WorldStatus};
    use everworld_persistence::sim::{Cut, SimDisk};

    let locks = tempfile::tempdir().unwrap();
    let open = |disk: &SimDisk| {
        let lock = spine::lock(&locks.path().join(format!("{:p}", std::ptr::from_ref(disk)))).unwrap();
        let spine_options = SpineOptions { disk: Arc::new(disk.clone()), ..SpineOptions::default() };
        let (data, status) = (Path::new("/data"), WorldStatus::default());
        Spine::open_observed(
            lock,
            data,
            &record("town"),
            PLUGINS,
            options(1),
            &spine_options,
            &status,
            &mut |_| {},
        )
    };
    let mut reference = worlds::create(&record("town"), PLUGINS, options(1)).unwrap();
    let mut hashes = vec![reference.state_hash()];
    for _ in 0..60 {
        reference.tick(&[]).unwrap();
        hashes.push(reference.state_hash());
    }
    let disk = SimDisk::default();
    disk.keep_images_at(0..10_000);
    let mut durable = Vec::new();
    for _ in 0..3 {
        let (mut spine, mut live) = open(&disk).unwrap();
        (0..15).for_each(|_| spine.tick_by_hand(&mut live).unwrap());
        spine.close(&mut live).unwrap();
        durable.push((disk.operations(), live.now().0));
    }
    let images = disk.take_images();
    assert!(images.len() > 50, "{} operations", images.len());
    for (operation, image) in images {
        let least = durable.iter().rfind(|(after, _)| *after <= operation).map_or(0, |(_, tick)| *tick);
        // One of them each: they take turns.
        let cut = [Cut::Synced, Cut::Issued, Cut::Any(operation)][operation as usize % 3];
        let (_spine, live) = open(&image.cut(cut))
            .unwrap_or_else(|error| panic!("operation {operation}, {cut:?}: {}", spine::chain(&error)));
        let now = live.now().0;
        assert!(now >= least, "operation {operation}, {cut:?}: tick {now}, {least} was durable");
        assert_eq!(live.state_hash(), hashes[now as usize], "operation {operation}, {cut:?}: tick {now}");
    }
}

/// The log is cut behind the oldest snapshot that stays, and each that stays still leads to the same world.
#[test]
fn d4_d8_the_log_is_cut_behind_the_oldest_snapshot_only() {
    use everworld::{clock, ledger::Changes, sequencer::Position, spine::Spine, status::WorldStatus};
    use everworld_persistence::Record;

    let data = tempfile::tempdir().unwrap();
    let open = |data: &Path| {
        let mut spine_options = SpineOptions { segment_bytes: 65_536, ..SpineOptions::default() };
        spine_options.store.keep_secs = 60;
        let (lock, status) = (spine::lock(data).unwrap(), WorldStatus::default());
        let (world, plugins) = (record("town"), PLUGINS);
        Spine::open_observed(lock, data, &world, plugins, options(1), &spine_options, &status, &mut |_| {})
            .unwrap()
    };
    let (mut spine, mut live) = open(data.path());
    for _ in 0..6 {
        (0..10).for_each(|_| spine.tick_by_hand(&mut live).unwrap());
        for _ in 0..2_000 {
            // Waits for the next segment where it has to.
            let horizon = Record::Horizon { tick: live.now() };
            spine::append_patiently(&spine.log, &horizon, || None, || false).unwrap();
            spine.horizon = live.now();
        }
        spine.log.wait_durable(spine.log.last_lsn()).unwrap();
        let position = Position { before: spine.log.durable(), next_seq: 1, next_control: 1 };
        let host = spine.host_state(&live, position);
        spine.store.begin_epoch();
        spine::write_snapshot(&spine.store, &spine.log, live.image(), host, &Changes::default()).unwrap();
        assert_eq!(spine.log.cut_before(0).unwrap(), 0);
    }
    (0..5).for_each(|_| spine.tick_by_hand(&mut live).unwrap());
    let lsn = spine.log.append(Record::Horizon { tick: live.now() }, None).unwrap();
    spine.log.wait_durable(lsn).unwrap();
    let first = data.path().join("worlds/town/log/00000001.seg");
    assert!(first.exists());
    spine::prune_at(&spine.store, &spine.log, "town", clock::unix_millis() + 10_000_000).unwrap();
    assert!(!first.exists(), "the log is cut");
    let kept = spine.history.snapshots();
    assert_eq!(kept.len(), 2, "two epochs always stay");
    let (tick, hash) = (live.now(), live.state_hash());
    drop((spine, live));
    for lost in [None, Some(kept[0].tick)] {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(data.path(), copy.path());
        if lost.is_some() {
            let mut epochs: Vec<_> = std::fs::read_dir(copy.path().join("worlds/town"))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "redb"))
                .collect();
            epochs.sort();
            std::fs::remove_file(epochs.pop().unwrap()).unwrap();
        }
        let (spine, live) = open(copy.path());
        assert_eq!((live.now(), live.state_hash()), (tick, hash), "{lost:?}");
        assert_eq!(spine.replayed, if lost.is_some() { 15 } else { 5 });
    }
    remove_store(&data.path().join("worlds/town"));
    let lock = spine::lock(data.path()).unwrap();
    let (spine_options, status) = (SpineOptions::default(), WorldStatus::default());
    let lost = Spine::open_observed(
        lock,
        data.path(),
        &record("town"),
        PLUGINS,
        options(1),
        &spine_options,
        &status,
        &mut |_| {},
    );
    assert_eq!(lost.map(|_| ()).unwrap_err().exit_code(), 74, "refused, not begun anew");
}

#[test]
fn d4_the_log_before_a_snapshot_is_not_needed_also_when_inputs_always_wait() {
    let data = tempfile::tempdir().unwrap();
    let world = World::start_as(Arc::new(RealDisk), data.path(), "town", |config| {
        config.tick.inputs_max = 1;
        config.snapshot.period_millis = 100;
    });
    let running = world.hosted.handle.running().unwrap();
    let origin = Origin { principal: "test".into(), request_id: String::new() };
    let payload = json!({"entities": [{"prototype": "townsman"}]});
    let wait_on = || {
        while running.sequencer.queue_len() < 20 {
            let asked = Asked {
                kind: "spawn_entities",
                payload: &payload,
                at_tick: None,
                wants_outcome: false,
                idempotency_key: None,
            };
            running.sequencer.submit(asked, &origin).unwrap();
        }
    };
    wait_on();
    let begun = running.log.last_lsn();
    running.log.wait_durable(begun).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while running.history.snapshots().first().is_none_or(|snapshot| snapshot.lsn <= begun) {
        assert!(Instant::now() < end, "recovery would read all of the log");
        wait_on();
        std::thread::yield_now();
    }
}

#[test]
fn d1_a_key_that_comes_just_before_the_end_is_in_the_last_snapshot_and_old_ones_are_not() {
    let data = tempfile::tempdir().unwrap();
    let set = |config: &mut Config| {
        config.inputs.idempotency_keys_max = 3;
        config.snapshot.period_millis = 50;
    };
    let origin = Origin { principal: "test".into(), request_id: String::new() };
    let payload = json!({"entities": [{"prototype": "townsman"}]});
    let submit = |world: &World, key: &str| {
        let asked = Asked {
            kind: "spawn_entities",
            payload: &payload,
            at_tick: None,
            wants_outcome: false,
            idempotency_key: Some(key),
        };
        let sequencer = &world.hosted.handle.running().unwrap().sequencer;
        sequencer.submit(asked, &origin).unwrap()
    };
    for round in 0..4 {
        let world = World::start_as(Arc::new(RealDisk), data.path(), "town", set);
        if round > 0 {
            assert!(submit(&world, &format!("last of {}", round - 1)).repeated, "round {round}");
        }
        for key in 0..5 {
            submit(&world, &format!("{round} {key}"));
        }
        let tick = world.tick();
        world.reaches(tick + 60);
        submit(&world, &format!("last of {round}"));
        world.stop();
    }
    let world = data.path().join("worlds/town");
    let (store, _) = Store::open_read_only(Arc::new(RealDisk), &world, StoreOptions::default()).unwrap();
    let newest = store.snapshots().kept[0];
    let stored = store.load(newest.branch, newest.tick).unwrap().ledger;
    assert_eq!(stored.len(), 3, "what is forgotten is not stored");
}

/// A disk whose stores cannot be written to while it says so, and which may make nothing durable: that takes no time then.
#[derive(Clone, Default)]
struct Flaky(Arc<AtomicBool>, bool);

struct FlakyFile(Box<dyn DiskFile>, Option<Flaky>, bool);

impl Flaky {
    fn file(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        let is_store = path.to_string_lossy().contains(".redb");
        Box::new(FlakyFile(file, is_store.then(|| self.clone()), self.1))
    }
}

impl FlakyFile {
    fn check(&self) -> io::Result<()> {
        let fails = self.1.as_ref().is_some_and(|disk| disk.0.load(Relaxed));
        if fails { Err(io::Error::other("out of order")) } else { Ok(()) }
    }
}

impl Disk for Flaky {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.create_new(path).map(|file| self.file(path, file))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open(path).map(|file| self.file(path, file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.remove_dir_all(dir)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
}

impl DiskFile for FlakyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check().and_then(|()| self.0.write_at(bytes, offset))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.check().and_then(|()| if self.2 { Ok(()) } else { self.0.sync_data() })
    }
    fn sync_all(&self) -> io::Result<()> {
        self.check().and_then(|()| if self.2 { Ok(()) } else { self.0.sync_all() })
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.check().and_then(|()| self.0.set_len(bytes))
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

#[test]
fn d6_snapshots_go_on_in_a_new_epoch_after_one_has_failed() {
    let data = tempfile::tempdir().unwrap();
    let disk = Flaky::default();
    let set = |config: &mut Config| config.snapshot.period_millis = 50;
    let world = World::start_as(Arc::new(disk.clone()), data.path(), "town", set);
    let status = world.hosted.handle.status.clone();
    let saved_after =
        |tick: u64| world.until("a snapshot", |_| (status.last_snapshot().0 > tick).then_some(()));
    saved_after(0);
    disk.0.store(true, Relaxed);
    world.until("it is seen", |_| (status.state().0 == WorldState::Degraded).then_some(()));
    let tick = world.tick();
    world.reaches(tick + 20);
    disk.0.store(false, Relaxed);
    saved_after(tick);
    world.until("it is well", |_| (status.state().0 == WorldState::Running).then_some(()));
    let (tick, hash) = world.paused();
    world.stop();
    let world = World::start_as(Arc::new(disk), data.path(), "town", set);
    assert_eq!(world.paused(), (tick, hash));
    let before = world.hosted.handle.running().unwrap().history.snapshots();
    assert!(before.len() > 2, "those from before are there, too");
}

#[test]
fn an_input_that_a_rewind_left_behind_says_so_also_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let origin = Origin { principal: "test".into(), request_id: String::new() };
    let submit = |world: &World, key: &str, at_tick: Option<u64>, wants_outcome: bool| {
        let asked = Asked {
            kind: "spawn_entities",
            payload: &json!({"entities": [{"prototype": "townsman"}]}),
            at_tick: at_tick.map(Tick),
            wants_outcome,
            idempotency_key: Some(key),
        };
        let submitted = world.hosted.handle.running().unwrap().sequencer.submit(asked, &origin).unwrap();
        world.runtime.block_on(async {
            submitted.durable.await.unwrap().unwrap();
            let fate = match submitted.fate {
                // Whoever is not told waits for ever.
                Some(fate) => {
                    Some(tokio::time::timeout(Duration::from_secs(20), fate).await.unwrap().unwrap())
                }
                None => None,
            };
            (submitted.seq, fate)
        })
    };
    let known = |world: &World, seq: u64| world.hosted.handle.running().unwrap().sequencer.known(seq);
    let world = World::start(data.path(), "town");
    let (stays, fate) = submit(&world, "stays", None, true);
    let Some(Fate::Applied(applied)) = fate else { panic!("{fate:?}") };
    let back_to = applied.tick.0 + 20;
    world.reaches(back_to + 5);
    let far = back_to + 1_000_000;
    let (waits, _) = submit(&world, "waits", Some(far), false);
    let (done, _) = submit(&world, "done", None, true);
    // One that waits while the rewind comes.
    let sequencer = world.hosted.handle.running().unwrap().sequencer.clone();
    let asked = Asked {
        kind: "spawn_entities",
        payload: &json!({"entities": [{"prototype": "townsman"}]}),
        at_tick: Some(Tick(far)),
        wants_outcome: true,
        idempotency_key: None,
    };
    let waiting = sequencer.submit(asked, &origin).unwrap().fate.unwrap();
    assert_eq!(world.ask(Wish::Rewind(Tick(back_to))).unwrap(), back_to);
    assert!(matches!(world.runtime.block_on(waiting).unwrap(), Fate::LeftBehind(0)));
    let (fresh, _) = submit(&world, "fresh", None, true);
    let check = |world: &World| {
        let (seq, fate) = submit(world, "waits", Some(far), true);
        assert_eq!(seq, waits);
        assert!(matches!(fate, Some(Fate::LeftBehind(0))), "{fate:?}");
        assert!(matches!(known(world, waits), Some(Known::LeftBehind(0, None))));
        assert!(matches!(known(world, done), Some(Known::LeftBehind(0, Some(_)))));
        for seq in [stays, fresh] {
            assert!(matches!(known(world, seq), Some(Known::Taken(Some(_)))), "{seq}");
        }
        assert!(known(world, fresh + 1).is_none() && known(world, 0).is_none());
    };
    check(&world);
    world.stop();
    let world = World::start(data.path(), "town");
    check(&world);
    world.stop();
    // Also where no snapshot tells of it.
    remove_store(&data.path().join("worlds/town"));
    let world = World::start(data.path(), "town");
    assert!(matches!(known(&world, waits), Some(Known::LeftBehind(0, _))));
}
