//! The scrubber: it finds what was turned over on the disk of a running world, and the world gets over it.

use everworld::{
    PLUGINS, WorldRecord,
    config::Config,
    events::What,
    host::{self, Hosted, Wish},
    scrubber::Scrub,
    sequencer::Origin,
    spine, worlds,
};
use everworld_engine::Tick;
use everworld_persistence::RealDisk;
use std::{
    fs::{File, read_dir},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

fn start(data: &Path, snapshot_millis: u64) -> Hosted {
    let scenario = worlds::load_scenario("town", PLUGINS, &["population=200".to_owned()]).unwrap();
    let mut config = Config::default();
    data.clone_into(&mut config.data.dir);
    config.tick.rate_hz = 100.0;
    config.snapshot.period_millis = snapshot_millis;
    config.verify.enabled = false;
    config.scrub.mb_per_sec = 1000.0;
    config.scrub.every_secs = 0.05;
    let record = WorldRecord { world: "town".into(), scenario };
    // Snapshots come by their period alone, however slow the machine is.
    config.recovery.target_secs = 3_600.0;
    let lock = spine::lock(data).unwrap();
    host::start_on(Arc::new(RealDisk), &Arc::new(config), lock, record, PLUGINS, false).unwrap()
}

fn until<T>(hosted: &Hosted, what: &str, mut ready: impl FnMut(&Scrub) -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        let scrub = hosted.handle.status.scrub();
        if let Some(found) = ready(&scrub) {
            return found;
        }
        let state = hosted.handle.status.state();
        assert!(Instant::now() < end, "not in time: {what}; {scrub:?}; {state:?}");
        std::thread::yield_now();
    }
}

fn ask(hosted: &Hosted, wish: Wish) {
    let origin = Origin { principal: "test".into(), request_id: String::new() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(hosted.handle.ask(wish, origin)).unwrap();
}

fn stop(hosted: Hosted) {
    hosted.stop();
    hosted.ended.blocking_recv().unwrap().unwrap();
}

fn alerts(hosted: &Hosted) -> Vec<String> {
    let events = hosted.handle.status.events.after(0, usize::MAX).items;
    let alerts = events.into_iter().filter_map(|(_, event)| match &event.what {
        What::Alert { what } => Some(what.clone()),
        _ => None,
    });
    alerts.collect()
}

/// The newest file of that ending.
fn newest(dir: &Path, ending: &str) -> PathBuf {
    let files = read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == ending)).max().unwrap()
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

#[test]
fn a_damaged_epoch_is_found_and_snapshots_go_on_in_another() {
    let data = tempfile::tempdir().unwrap();
    let hosted = start(data.path(), 50);
    let dir = data.path().join("worlds/town");
    until(&hosted, "passes", |scrub| (scrub.passes >= 3 && scrub.bytes > 100_000).then_some(()));
    let well = hosted.handle.status.scrub();
    assert!(well.enabled && well.damaged.is_empty(), "{well:?}");
    // Nothing is written meanwhile.
    ask(&hosted, Wish::Pause);
    std::thread::sleep(Duration::from_millis(200));
    let epoch = newest(&dir, "redb");
    flip(&epoch, std::fs::metadata(&epoch).unwrap().len() / 2);
    let name = epoch.to_string_lossy().into_owned();
    until(&hosted, "the damage", |scrub| {
        (scrub.damaged.len() == 1 && scrub.damaged[0].contains(&name)).then_some(())
    });
    let metrics = hosted.metrics.encode().unwrap();
    assert!(metrics.contains("everworld_scrub_faults_total{world=\"town\"} 1"), "{metrics}");
    assert!(metrics.contains("everworld_scrubbed_bytes_total{world=\"town\"}"), "{metrics}");
    ask(&hosted, Wish::Resume);
    let before = hosted.handle.status.last_snapshot();
    until(&hosted, "another epoch", |_| {
        let saved = hosted.handle.status.last_snapshot() > Tick(before.0 + 5);
        (saved && newest(&dir, "redb") > epoch).then_some(())
    });
    let state = hosted.handle.status.state();
    assert_eq!(state.1, None, "{state:?}");
    stop(hosted);
    // And what is there brings it back.
    let hosted = start(data.path(), 50);
    until(&hosted, "ready", |_| hosted.handle.running());
    stop(hosted);
}

#[test]
fn a_damaged_log_that_a_recovery_would_need_is_told() {
    let data = tempfile::tempdir().unwrap();
    let hosted = start(data.path(), 3_600_000);
    let log = data.path().join("worlds/town/log");
    until(&hosted, "a pass", |scrub| (scrub.passes >= 1).then_some(()));
    assert!(hosted.handle.status.scrub().damaged.is_empty());
    // The one snapshot does not cover what comes now.
    let known = until(&hosted, "the log", |_| hosted.handle.running().map(|running| running.log.clone()));
    // The first one may be of tick 0.
    until(&hosted, "ticks", |_| (hosted.handle.status.tick() > Tick(3)).then_some(()));
    ask(&hosted, Wish::Snapshot);
    let saved = until(&hosted, "a snapshot", |_| {
        (hosted.handle.status.last_snapshot() > Tick(0)).then(|| known.durable_lsn())
    });
    until(&hosted, "more records", |_| (known.durable_lsn() > saved).then_some(()));
    // In the first record of all.
    flip(&newest(&log, "seg").with_file_name("00000001.seg"), 170);
    let damaged = |scrub: &Scrub| scrub.damaged.first().cloned();
    until(&hosted, "the damage", |scrub| damaged(scrub).filter(|found| found.contains("00000001.seg")));
    // The snapshot that it asks for makes a recovery do without the file. The damage is the same, and told once.
    until(&hosted, "its snapshot", |scrub| damaged(scrub).filter(|found| !found.contains("would need it")));
    let passes = hosted.handle.status.scrub().passes;
    until(&hosted, "passes", |scrub| (scrub.passes > passes + 2).then_some(()));
    let alerts: Vec<String> = alerts(&hosted);
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert!(
        alerts[0].contains("00000001.seg") && alerts[0].contains("a recovery would need it"),
        "{alerts:?}"
    );
    let metrics = hosted.metrics.encode().unwrap();
    assert!(metrics.contains("everworld_scrub_faults_total{world=\"town\"} 1"), "{metrics}");
    stop(hosted);
    // The world comes back without it, and all of its past that does not need it is there.
    let hosted = start(data.path(), 3_600_000);
    until(&hosted, "ready", |_| hosted.handle.running());
    assert!(hosted.handle.status.tick() > Tick(3));
    stop(hosted);
}
