//! The sampling verifier: it finds a system whose results are not the state's, and nothing in a world that is well.

use crate::support::Server;
use everworld::{
    PLUGINS, Plugin, Scenario, ScenarioError, WorldRecord,
    config::Config,
    host::{self, Hosted},
    spine::{self, SpineError},
    verifier::{Doing, Verification},
    worlds,
};
use everworld_engine::{Tick, prelude::*};
use everworld_persistence::RealDisk;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

component! {
    /// What a hive has.
    pub struct Wax("wax", version 1) { grams: u64, calls: u64 }
}

/// What no state has: how often a system of this process was called.
static CALLS: AtomicU64 = AtomicU64::new(0);

fn build(random: Random, mut hives: Rows<(&'static Uid, Write<Wax>)>) {
    hives.for_each(|(uids, mut waxes)| {
        for (wax, uid) in waxes.all_mut().iter_mut().zip(uids) {
            wax.grams += random.of(*uid).below(10) as u64;
        }
    });
}

fn count(time: Res<TickTime>, mut hives: Rows<(&'static Uid, Write<Wax>)>) {
    let calls = CALLS.fetch_add(1, SeqCst);
    hives.for_each(|(uids, mut waxes)| {
        for (wax, uid) in waxes.all_mut().iter_mut().zip(uids) {
            if uid.get() == 7 && time.tick.0 > 50 {
                wax.calls = calls;
            }
        }
    });
}

#[expect(clippy::unnecessary_wraps, reason = "what every plugin returns")]
fn planted(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    let hives = scenario.population;
    world.column::<Wax>();
    world.system(system(build).named("build")).system(system(count).named("count"));
    world.setup(move |world| _ = world.spawn_many((0..hives).map(|_| Wax::default())));
    Ok(())
}

const SCENARIO: &str = "name = 'planted'\nplugin = 'planted'\nseed = 1\npopulation = 20\ndt_secs = 1.0\n";
const PLANTED: &[Plugin] = &[Plugin::new("planted", SCENARIO, planted)];

fn start(
    data: &Path,
    name: &str,
    plugins: &'static [Plugin],
    change: impl FnOnce(&mut Config),
) -> Result<Hosted, SpineError> {
    let sets = if name == "town" { vec!["population=200".to_owned()] } else { Vec::new() };
    let scenario = worlds::load_scenario(name, plugins, &sets).unwrap();
    let mut config = Config::default();
    data.clone_into(&mut config.data.dir);
    config.tick.rate_hz = 200.0;
    config.snapshot.period_millis = 100;
    config.log.checkpoint_ticks = 10;
    config.verify.pause_secs = 0.02;
    change(&mut config);
    let record = WorldRecord { world: name.into(), scenario };
    let lock = spine::lock(data).unwrap();
    host::start_on(Arc::new(RealDisk), &Arc::new(config), lock, record, plugins, false)
}

fn until(hosted: &Hosted, what: &str, ready: impl Fn(&Verification) -> bool) -> Verification {
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        let verification = hosted.handle.status.verification();
        if ready(&verification) {
            return verification;
        }
        let state = hosted.handle.status.state();
        assert!(Instant::now() < end, "not in time: {what}; {verification:?}; {state:?}");
        std::thread::yield_now();
    }
}

/// How long that took.
fn stop(hosted: Hosted) -> Duration {
    let start = Instant::now();
    hosted.stop();
    let _ = hosted.ended.blocking_recv().unwrap();
    start.elapsed()
}

#[test]
fn a_world_that_is_well_is_covered_without_a_mismatch() {
    let data = tempfile::tempdir().unwrap();
    let hosted = start(data.path(), "town", PLUGINS, |_| {}).unwrap();
    let well = until(&hosted, "coverage", |verification| {
        verification.verified_ticks >= 300 && verification.coverage > 0.0
    });
    assert_eq!((well.mismatches, well.unreadable, &well.mismatch), (0, 0, &None), "{well:?}");
    assert!(well.coverage <= 1.0 && well.hashes_compared > 10 && well.last_tick > Tick(0), "{well:?}");
    let metrics = hosted.metrics.encode().unwrap();
    assert!(metrics.contains("everworld_state_hash_mismatches_total{world=\"town\"} 0"), "{metrics}");
    assert!(stop(hosted) < Duration::from_secs(10));
}

#[test]
fn a_system_that_reads_what_is_no_state_is_found_and_named() {
    let data = tempfile::tempdir().unwrap();
    let hosted = start(data.path(), "planted", PLANTED, |_| {}).unwrap();
    let found = until(&hosted, "the mismatch", |verification| verification.mismatches > 0);
    let mismatch = found.mismatch.unwrap();
    assert!(mismatch.tick > Tick(50) && mismatch.agrees_until < mismatch.tick, "{mismatch:?}");
    assert_ne!(mismatch.expected, mismatch.found);
    let (tick, diff) = mismatch.differs.clone().unwrap();
    assert!(tick >= mismatch.tick && diff.changed == 1, "{diff:?}");
    let field = &diff.items[0].fields[0];
    assert_eq!((diff.items[0].uid, field.field.as_str()), (Uid::new(7), "wax.calls"), "{diff:?}");
    assert_ne!(field.from, field.to);
    let text = mismatch.to_string();
    assert!(text.contains("entity 7 changed: wax.calls is"), "{text}");
    let metrics = hosted.metrics.encode().unwrap();
    assert!(!metrics.contains("everworld_state_hash_mismatches_total{world=\"planted\"} 0"), "{metrics}");
    // The world goes on.
    let tick = hosted.handle.status.tick();
    until(&hosted, "later ticks", |_| hosted.handle.status.tick().0 > tick.0 + 10);
    stop(hosted);
}

/// T4: verifying is bulk work, and has the CPU only when nobody else wants it.
#[test]
fn t4_it_runs_at_idle_priority_on_one_thread_of_a_pool() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--set", "verify.pause_secs=0.02"]);
    let verification = server.until(|server| {
        let world = server.get("/v1/worlds/town").1;
        (world["verification"]["verified_ticks"].as_u64()? > 0).then(|| world["verification"].clone())
    });
    assert_eq!(verification["mismatches"], 0, "{verification}");
    assert!(verification["coverage"].as_f64().unwrap() > 0.0, "{verification}");
    let policies = |thread: &str| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
        let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
        let of_name = stats.filter(|stat| stat.contains(&format!("({thread}")));
        let policy = |stat: String| stat.rsplit(')').next()?.split_whitespace().nth(38)?.parse::<u32>().ok();
        of_name.filter_map(policy).collect::<Vec<_>>()
    };
    const SCHED_IDLE: u32 = 5;
    // Itself, and the one thread of its pool.
    assert_eq!(policies("verify"), [SCHED_IDLE; 2]);
    assert!(!policies("tick").contains(&SCHED_IDLE));
}

#[test]
fn a_world_that_does_not_fit_twice_is_left_out_and_says_so() {
    let data = tempfile::tempdir().unwrap();
    let hosted =
        start(data.path(), "town", PLUGINS, |config| config.verify.memory_bytes_max = 1_000).unwrap();
    let skipping = until(&hosted, "the refusal", |verification| verification.state == Doing::Skipping);
    assert!(skipping.reason.unwrap().contains("verify.memory_bytes_max is 1000"));
    assert_eq!(skipping.verified_ticks, 0);
    stop(hosted);
    let hosted = start(data.path(), "town", PLUGINS, |config| config.verify.enabled = false).unwrap();
    until(&hosted, "some ticks", |_| hosted.handle.status.tick().0 > 50);
    assert_eq!(hosted.handle.status.verification(), Verification::default());
    stop(hosted);
}

/// What it says about ticks holds for those after a start, too: a snapshot of another run is no stranger.
#[test]
fn it_goes_on_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let hosted = start(data.path(), "town", PLUGINS, |_| {}).unwrap();
        let well = until(&hosted, "coverage", |verification| verification.verified_ticks >= 50);
        assert!(well.mismatches == 0 && well.coverage <= 1.0, "{well:?}");
        stop(hosted);
    }
}
