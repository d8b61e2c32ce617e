//! Faults as inputs of the store: the power fails anywhere, every operation fails once and for good, every kind of
//! record is damaged. Nothing durable is lost, nothing wrong is loaded, nothing panics (D5, D6, D8).

use crate::images::{Draws, World, share, snapshot};
use everworld_engine::Image;
use everworld_persistence::{
    Store, StoreError, StoreOptions,
    sim::{Cut, Fault, FaultKind, SimDisk},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

fn dir() -> PathBuf {
    "data/world".into()
}

/// Everything happens within a few dozen snapshots: rolls, thinning, removing.
fn options() -> StoreOptions {
    StoreOptions {
        dense_secs: 12,
        sparse_every_secs: 10,
        keep_secs: 30,
        opening_snapshots: 2,
        roll_factor: 2,
        roll_bytes_min: 0,
        roll_secs: 8,
        cache_bytes: 1 << 18,
        ..StoreOptions::default()
    }
}

type Images = BTreeMap<u64, Arc<Image>>;

/// What a life of the store came to.
#[derive(Default)]
struct Life {
    /// The last snapshot of which a write said that it is durable.
    acknowledged: Option<u64>,
    /// Whether a write or a pruning failed.
    failed: bool,
    /// What else was seen to happen, so that the test knows that it tests it.
    epochs_begun: u32,
    thinned: u64,
    removed: u64,
}

/// Opens the store, goes on from the newest snapshot and writes some more, as long as it goes.
fn live(disk: &SimDisk, world: &mut World, tried: &mut Images, steps: u64, seed: u64) -> Life {
    let mut life = Life::default();
    let Ok((store, _)) = Store::open(Arc::new(disk.clone()), &dir(), options()) else {
        life.failed = true;
        return life;
    };
    if let Some(newest) = store.snapshots().kept.first().copied()
        && (store.load(0, newest.tick).is_err() || store.resume(newest).is_err())
    {
        life.failed = true;
        return life;
    }
    let mut last: Option<Arc<Image>> = None;
    for step in 0..steps {
        world.step(seed * 1000 + step);
        let image = last.as_ref().map_or_else(|| world.image(), |last| share(last, world.image()));
        let image = Arc::new(image);
        last = Some(image.clone());
        tried.insert(world.tick, image.clone());
        match store.write(&snapshot(0, &image, &[(world.tick, vec![1])])) {
            Ok(stats) => {
                assert!(!life.failed, "nothing is acknowledged after a failure (D6)");
                life.acknowledged = Some(world.tick);
                life.epochs_begun += u32::from(stats.epoch_begun);
            }
            Err(error) => {
                assert!(!matches!(error, StoreError::Malformed(_)), "{error}");
                life.failed = true;
            }
        }
        match store.prune(1_000_000 + world.tick * 1000) {
            Ok(pruned) => {
                life.thinned += pruned.epochs_thinned;
                life.removed += pruned.epochs_removed;
            }
            Err(_) if life.failed => {}
            // A pruning that fails takes nothing away, and the store goes on.
            Err(error) => assert!(!matches!(error, StoreError::Failed { .. }), "{error}"),
        }
    }
    life
}

/// What was acknowledged is there, and all that is there is what was written.
fn check(disk: &SimDisk, acknowledged: Option<u64>, tried: &Images, what: &str) {
    let (store, report) = Store::open(Arc::new(disk.clone()), &dir(), options())
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(report.set_aside.is_empty(), "{what}: {report:?}");
    let listed = store.snapshots();
    assert!(listed.damaged.is_empty(), "{what}: {:?}", listed.damaged);
    let newest = listed.kept.first().map(|meta| meta.tick.0);
    assert!(newest >= acknowledged, "{what}: {newest:?}, acknowledged was {acknowledged:?}");
    for meta in &listed.kept {
        let loaded = store.load(0, meta.tick).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(loaded.image, *tried[&meta.tick.0], "{what}: tick {}", meta.tick);
        let ledger: Vec<u64> = loaded.ledger.iter().map(|(number, _)| *number).collect();
        let expected: Vec<u64> = tried.keys().copied().filter(|tick| ledger.contains(tick)).collect();
        assert_eq!(ledger, expected, "{what}");
        assert!(ledger.last() == Some(&meta.tick.0), "{what}: the ledger of tick {}", meta.tick);
    }
}

const STEPS: u64 = 45;

/// The operations of a life without faults, and that it has all that is to be tested.
fn operations() -> u64 {
    let disk = SimDisk::default();
    let life = live(&disk, &mut World::new(40, 1), &mut Images::new(), STEPS, 1);
    assert!(!life.failed && life.epochs_begun > 4 && life.thinned > 1 && life.removed > 1);
    disk.operations()
}

/// D8 and the rest: whenever the power fails, and in whatever way.
#[test]
fn nothing_durable_is_lost_whenever_the_power_fails() {
    let operations = operations();
    let mut draws = Draws(3);
    let stride = operations / 60;
    for at in (0..operations).step_by(stride as usize) {
        let at = (at + draws.next() % stride).min(operations - 1);
        let disk = SimDisk::default();
        disk.fail_from(Some(at));
        let (mut world, mut tried) = (World::new(40, 1), Images::new());
        let life = live(&disk, &mut world, &mut tried, STEPS, 1);
        assert!(life.failed || disk.faults_fired() > 0, "operation {at} never came");
        for cut in [Cut::Synced, Cut::Issued, Cut::Any(at * 2), Cut::Any(at * 2 + 1)] {
            let what = format!("power cut at operation {at}, {cut:?}");
            check(&disk.cut(cut), life.acknowledged, &tried, &what);
            // Life goes on, until the power fails again during it.
            let again = disk.cut(cut);
            again.fail_from(Some(5 + at % 40));
            let (mut world, mut tried) = (world.clone(), tried.clone());
            let second = live(&again, &mut world, &mut tried, 6, at + 7);
            let acknowledged = second.acknowledged.max(life.acknowledged);
            check(&again.power_cut(at), acknowledged, &tried, &format!("{what}, and again"));
        }
    }
}

/// D6: each operation fails once; the process lives on, and is started again.
#[test]
fn a_failure_is_no_success_and_loses_nothing() {
    let operations = operations();
    let mut draws = Draws(4);
    let stride = operations / 80;
    for at in (0..operations).step_by(stride as usize) {
        let at = (at + draws.next() % stride).min(operations - 1);
        for error in [FaultKind::Io, FaultKind::NoSpace] {
            let disk = SimDisk::default();
            disk.set_fault(Some(Fault { at, for_good: false, error }));
            let (mut world, mut tried) = (World::new(40, 1), Images::new());
            let life = live(&disk, &mut world, &mut tried, STEPS, 1);
            assert!(disk.faults_fired() == 1, "operation {at} never came");
            let what = format!("{error:?} at operation {at}");
            check(&disk.cut(Cut::Synced), life.acknowledged, &tried, &format!("{what}, power cut"));
            disk.set_fault(None);
            check(&disk.cut(Cut::Issued), life.acknowledged, &tried, &what);
        }
    }
}

/// Reads that fail are errors, never other data.
#[test]
fn failing_reads_are_errors() {
    let disk = SimDisk::default();
    let (mut world, mut tried) = (World::new(40, 1), Images::new());
    live(&disk, &mut world, &mut tried, 12, 1);
    disk.count_reads(true);
    let look = |disk: &SimDisk| -> Result<usize, StoreError> {
        let (store, report) = Store::open(Arc::new(disk.clone()), &dir(), options())?;
        assert!(report.set_aside.is_empty(), "a disk that fails to read is no damage: {report:?}");
        let kept = store.snapshots().kept;
        for meta in &kept {
            assert_eq!(store.load(0, meta.tick)?.image, *tried[&meta.tick.0]);
        }
        Ok(kept.len())
    };
    let before = disk.operations();
    let kept = look(&disk).unwrap();
    let reads = disk.operations() - before;
    assert!(kept > 5 && reads > 50);
    for at in (0..reads).step_by((reads / 60) as usize) {
        let at = disk.operations() + at;
        disk.set_fault(Some(Fault { at, for_good: false, error: FaultKind::Io }));
        if let Ok(found) = look(&disk) {
            assert_eq!(found, kept);
        }
    }
}

/// D5: flips anywhere in a file that has all kinds of records. What loads is right; what does not is named.
#[test]
fn flipped_bits_are_found_or_harmless() {
    let disk = SimDisk::default();
    let (mut world, mut tried) = (World::new(40, 1), Images::new());
    live(&disk, &mut world, &mut tried, 5, 1);
    let path = disk.files().into_iter().next().unwrap();
    let good = disk.file(&path).unwrap();
    let used: Vec<usize> = (0..good.len()).filter(|at| good[*at] != 0).collect();
    let mut draws = Draws(5);
    let (mut loaded, mut named) = (0, 0);
    for turn in 0..800 {
        let bit = used[draws.below(used.len())] * 8 + draws.below(8);
        let disk = disk.copy();
        disk.flip(&path, bit);
        let opened = Store::open(Arc::new(disk.clone()), &dir(), options());
        let Ok((store, report)) = opened else {
            named += 1;
            continue;
        };
        named += u64::from(!report.set_aside.is_empty());
        let kept = store.snapshots();
        named += kept.damaged.len() as u64;
        for meta in kept.kept {
            match store.load(0, meta.tick) {
                Ok(found) => {
                    assert_eq!(found.image, *tried[&meta.tick.0], "bit {bit} in turn {turn}");
                    assert_eq!(found.host, b"host");
                    loaded += 1;
                }
                Err(StoreError::Damaged { .. } | StoreError::NewerFormat { .. }) => named += 1,
                Err(other) => panic!("bit {bit}: {other}"),
            }
        }
    }
    println!("{} bytes used: {loaded} loads were right, {named} were named as damaged", used.len());
    assert!(loaded > 1000 && named > 50, "{loaded} {named}");
}

/// Opens a damaged store, loads all that it lists, and goes on with it for a while.
fn live_with_damage(disk: &SimDisk) {
    let opened = Store::open(Arc::new(disk.clone()), &dir(), options());
    let Ok((store, _)) = opened else { return };
    let kept = store.snapshots().kept;
    for meta in &kept {
        let _ = store.load(meta.branch, meta.tick);
    }
    if let Some(newest) = kept.first() {
        store.resume(*newest).unwrap();
        let mut world = World::new(20, 1);
        for _ in 0..3 {
            world.tick = world.tick.max(newest.tick.0) + 1;
            if store.write(&snapshot(newest.branch, &Arc::new(world.image()), &[])).is_err() {
                store.begin_anew().unwrap();
            }
        }
        assert_eq!(store.snapshots().kept[0].tick.0, world.tick);
    }
    store.prune(u64::MAX).unwrap();
    store.scrub(&mut |_| true);
}

/// The newest epoch file of a small world, as a kill leaves it or closed.
fn an_epoch(closed: bool) -> (SimDisk, PathBuf) {
    let disk = SimDisk::default();
    let (store, _) = Store::open(Arc::new(disk.clone()), &dir(), StoreOptions::default()).unwrap();
    let mut world = World::new(40, 1);
    for step in 0..8 {
        store.write(&snapshot(0, &Arc::new(world.image()), &[(step, vec![1])])).unwrap();
        world.step(step);
    }
    let killed = disk.copy();
    drop(store);
    let disk = if closed { disk } else { killed };
    let path = disk.files().into_iter().next().unwrap();
    (disk, path)
}

/// As many flips as `EVERWORLD_FLIPS` says, one after the other, with what is drawn from `EVERWORLD_SEED`. The last line
/// names the flip that a process did not survive.
#[test]
fn flips_do_not_end_the_process() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let epochs = [an_epoch(true), an_epoch(false)];
    let mut draws = Draws(number("EVERWORLD_SEED").unwrap_or(8));
    for turn in 0..number("EVERWORLD_FLIPS").unwrap_or(300) {
        let (good, path) = &epochs[(turn % 2) as usize];
        let bytes = good.file(path).unwrap();
        // Every other one where there is something to damage.
        let used: Vec<usize> = (0..bytes.len()).filter(|at| turn % 4 < 2 || bytes[*at] != 0).collect();
        let bit = used[draws.below(used.len())] * 8 + draws.below(8);
        println!("turn {turn} bit {bit}");
        let disk = good.copy();
        disk.flip(path, bit);
        live_with_damage(&disk);
    }
}

/// A damaged epoch is set aside by name, and the older one is used.
#[test]
fn an_older_epoch_is_used_when_the_newest_is_damaged() {
    let disk = SimDisk::default();
    let (mut world, mut tried) = (World::new(40, 1), Images::new());
    live(&disk, &mut world, &mut tried, 20, 1);
    let newest = disk.files().into_iter().filter(|path| path.extension().unwrap() == "redb").max().unwrap();
    let bytes = disk.file(&newest).unwrap();
    for damage in [bytes[..bytes.len() / 2].to_vec(), Vec::new(), b"not a store".to_vec()] {
        let disk = disk.copy();
        disk.set_file(&newest, damage);
        let (store, report) = Store::open(Arc::new(disk.clone()), &dir(), options()).unwrap();
        let aside = Path::new("data/world")
            .join(format!("{}.damaged-1", newest.file_stem().unwrap().to_str().unwrap()));
        assert!(report.set_aside.len() == 1 && report.set_aside[0].0 == aside, "{report:?}");
        assert!(disk.file(&aside).is_some());
        let kept = store.snapshots().kept;
        assert!(!kept.is_empty());
        assert_eq!(store.load(0, kept[0].tick).unwrap().image, *tried[&kept[0].tick.0]);
        // The next epoch does not take the number of the damaged one.
        world.tick += 1;
        store.write(&snapshot(0, &Arc::new(world.image()), &[])).unwrap();
        assert!(disk.file(&newest).is_none());
    }
}

/// A scrub finds what a load would find, of every epoch, and what is damaged is no more relied on.
#[test]
fn scrubbing_finds_damage_and_a_new_epoch_begins() {
    let disk = SimDisk::default();
    let (mut world, mut tried) = (World::new(40, 1), Images::new());
    live(&disk, &mut world, &mut tried, 20, 1);
    let (store, _) = Store::open(Arc::new(disk.clone()), &dir(), options()).unwrap();
    world.tick += 1;
    store.write(&snapshot(0, &Arc::new(world.image()), &[])).unwrap();
    let mut bytes = 0;
    let scrubbed = store.scrub(&mut |next| {
        bytes += next;
        true
    });
    assert!(scrubbed.damaged.is_empty() && bytes > 20_000, "{bytes} {:?}", scrubbed.damaged);
    let mut turns = 0;
    store.scrub(&mut |_| {
        turns += 1;
        turns < 3
    });
    assert_eq!(turns, 3, "it can be ended");

    let epochs: Vec<PathBuf> = disk.files();
    assert!(epochs.len() > 2);
    let old = &epochs[epochs.len() - 2];
    let good = disk.file(old).unwrap();
    let mut found = 0;
    let used = (0..good.len()).filter(|at| good[*at] != 0);
    for at in used.step_by(31) {
        disk.flip(old, at * 8 + at % 8);
        let scrubbed = store.scrub(&mut |_| true);
        assert!(!scrubbed.in_use);
        let damaged = !scrubbed.damaged.is_empty();
        assert!(scrubbed.damaged.iter().all(|error| error.to_string().contains(old.to_str().unwrap())));
        found += u32::from(damaged);
        let all_load = store.snapshots().kept.iter().all(|meta| {
            // The same snapshot may be in a sound epoch, too.
            store.load(0, meta.tick).is_ok_and(|loaded| {
                loaded.image == *tried.get(&meta.tick.0).unwrap_or(&Arc::new(world.image())).as_ref()
            })
        });
        assert!(damaged || all_load, "byte {at}");
        disk.set_file(old, good.clone());
    }
    assert!(found > 20, "{found}");
    // It counts no more: two others stay, however old they are.
    world.tick += 1;
    store.begin_epoch();
    store.write(&snapshot(0, &Arc::new(world.image()), &[])).unwrap();
    store.prune(u64::MAX).unwrap();
    assert!(disk.files().contains(old) && disk.files().len() == 3, "{:?}", disk.files());

    let newest = disk.files().into_iter().max().unwrap();
    disk.flip(&newest, disk.file(&newest).unwrap().len() * 4);
    let scrubbed = store.scrub(&mut |_| true);
    assert!(scrubbed.in_use && !scrubbed.damaged.is_empty());
    world.tick += 1;
    let image = Arc::new(world.image());
    let written = store.write(&snapshot(0, &image, &[])).or_else(|_| {
        // What it needed of the damaged one could not be read: as the host does.
        store.begin_anew()?;
        store.write(&snapshot(0, &image, &[]))
    });
    assert!(written.unwrap().epoch_begun);
    assert_eq!(store.load(0, image.tick).unwrap().image, *image);
}
