//! A host whose disk is slow or full: the tick goes on, inputs are refused before the log's queue is full, and what was
//! taken is applied once the disk is there again (L1, L2).

use crate::time::World;
use everworld::{
    sequencer::{AdmitError, Asked, Fate, Origin, Submitted},
    status::WorldState,
};
use everworld_engine::Tick;
use everworld_persistence::sim::SimDisk;
use serde_json::json;
use std::sync::Arc;

fn submit(world: &World) -> Result<Submitted, AdmitError> {
    let origin = Origin { principal: "test".into(), request_id: String::new() };
    let asked = Asked {
        kind: "spawn_entities",
        payload: &json!({"entities": [{"prototype": "townsman"}]}),
        at_tick: None,
        wants_outcome: true,
        idempotency_key: None,
    };
    world.hosted.handle.running().unwrap().sequencer.submit(asked, &origin)
}

/// Waits until all of them are applied; then as many entities are there.
fn check_applied(world: &World, taken: Vec<Submitted>) {
    let count = taken.len() as u64;
    world.runtime.block_on(async {
        for submitted in taken {
            match submitted.fate.unwrap().await.unwrap() {
                Fate::Applied(applied) => applied.outcome.unwrap(),
                Fate::LeftBehind(branch) => panic!("left behind on branch {branch}"),
            };
        }
    });
    assert_eq!(world.entities(), 200 + count);
}

#[test]
fn l2_a_slow_disk_never_holds_up_the_tick() {
    let (data, disk) = (tempfile::tempdir().unwrap(), SimDisk::default());
    let world = World::start_as(Arc::new(disk.clone()), data.path(), "town", |config| {
        config.log.queue_len_max = 64;
    });
    world.reaches(20);
    let (status, log) = (&world.hosted.handle.status, &world.hosted.handle.running().unwrap().log);
    let computed = || status.recent_ticks(Tick(0)).last().map_or(0, |times| times.tick.0);
    let held = disk.hold_syncs();
    let (begun, mut taken, mut refused) = (computed(), Vec::new(), 0);
    world.until("ticks without the disk", |world| {
        match submit(world) {
            Ok(submitted) => taken.push(submitted),
            Err(AdmitError::Busy(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        (computed() > begun + 60).then_some(())
    });
    assert!(refused > 0 && !taken.is_empty(), "{refused} refused, {} taken", taken.len());
    let unsynced = log.stats().queue_len;
    assert!(unsynced < 64, "{unsynced} records wait");
    let unknown = taken.iter_mut().filter_map(|taken| taken.durable.try_recv().err()).count();
    assert!(unknown > 0, "nothing is acknowledged that is not synced");
    drop(held);
    check_applied(&world, taken);
    world.stop();
}

#[test]
fn l2_a_full_disk_refuses_inputs_until_there_is_room() {
    let (data, disk) = (tempfile::tempdir().unwrap(), SimDisk::default());
    let world = World::start_as(Arc::new(disk.clone()), data.path(), "town", |config| {
        config.log.segment_bytes = 65_536;
        config.snapshot.period_millis = 3_600_000;
    });
    world.reaches(20);
    disk.set_space_left(Some(0));
    let mut taken = Vec::new();
    let why = world.until("no more space", |world| match submit(world) {
        Ok(mut submitted) => {
            // One after the other: it is the disk that is to be full, not the queue.
            let durable = std::mem::replace(&mut submitted.durable, tokio::sync::oneshot::channel().1);
            world.runtime.block_on(durable).unwrap().unwrap();
            taken.push(submitted);
            None
        }
        Err(AdmitError::Busy(why)) => Some(why).filter(|why| why.contains("reserve")),
        Err(error) => panic!("{error}"),
    });
    assert!(!taken.is_empty(), "{why}");
    let handle = &world.hosted.handle;
    assert_ne!(handle.status.state().0, WorldState::Failed, "it is no fault");
    assert!(handle.running().unwrap().mirror.view().is_some(), "readers see the last view");
    disk.set_space_left(None);
    taken.push(world.until("room again", |world| submit(world).ok()));
    check_applied(&world, taken);
    world.stop();
}
