//! Ticks that fail: a panic at row 500, an input that panics, a system that does not end. Real servers with such
//! systems planted in them, which are this test program itself in another role.

use crate::support::{Server, options};
use everworld::{Plugin, Scenario, ScenarioError, WorldRecord, worlds};
use everworld_engine::{input::InputWorld, prelude::*};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

component! {
    /// What a hive has.
    pub struct Honey("honey", version 1) { grams: u64, visits: u64 }
}

/// Set by the scenario: a system has no other way to its parameters.
static PANIC_TICK: AtomicU64 = AtomicU64::new(u64::MAX);
static SPIN_TICK: AtomicU64 = AtomicU64::new(u64::MAX);
static ONCE: AtomicBool = AtomicBool::new(false);
static PANICKED: AtomicBool = AtomicBool::new(false);

fn gather(random: Random, mut hives: Rows<(&'static Uid, Write<Honey>)>) {
    hives.for_each(|(uids, mut honeys)| {
        for (honey, uid) in honeys.all_mut().iter_mut().zip(uids) {
            honey.grams += random.of(*uid).below(10) as u64;
        }
    });
}

/// Writes rows, and panics in the middle of them.
fn visit(time: Res<TickTime>, mut hives: Rows<(&'static Uid, Write<Honey>)>) {
    let fails = time.tick.0 >= PANIC_TICK.load(SeqCst) && !(ONCE.load(SeqCst) && PANICKED.load(SeqCst));
    hives.for_each(|(uids, mut honeys)| {
        for (honey, uid) in honeys.all_mut().iter_mut().zip(uids) {
            honey.visits += 1;
            if fails && uid.get() == 500 {
                PANICKED.store(true, SeqCst);
                panic!("planted at row 500");
            }
        }
    });
}

fn spin(time: Res<TickTime>) {
    while time.tick.0 >= SPIN_TICK.load(SeqCst) {
        std::thread::yield_now();
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Poke {
    hive: Uid,
    panic: bool,
}

impl Input for Poke {
    const KIND: &'static str = "poke";
    const DOC: &'static str = "Adds honey, and panics when told to.";

    fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError> {
        let mut honey = world.get_mut::<Honey>(self.hive).unwrap();
        honey.grams += 1_000_000;
        assert!(!self.panic, "poked");
        Ok(Outcome { created: vec![self.hive] })
    }
}

#[derive(Deserialize)]
struct Params {
    panic_tick: Option<u64>,
    spin_tick: Option<u64>,
    #[serde(default)]
    once: bool,
}

fn planted(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    let Params { panic_tick, spin_tick, once } = scenario.params()?;
    PANIC_TICK.store(panic_tick.unwrap_or(u64::MAX), SeqCst);
    SPIN_TICK.store(spin_tick.unwrap_or(u64::MAX), SeqCst);
    ONCE.store(once, SeqCst);
    let hives = scenario.population;
    world.column::<Honey>().input::<Poke>();
    world.system(system(gather).named("gather")).system(system(visit).named("visit"));
    world.system(system(spin).named("spin"));
    world.setup(move |world| _ = world.spawn_many((0..hives).map(|_| Honey::default())));
    Ok(())
}

const SCENARIO: &str = "name = 'planted'\nplugin = 'planted'\nseed = 1\npopulation = 1000\ndt_secs = 1.0\n";
const PLUGINS: &[Plugin] = &[Plugin::new("planted", SCENARIO, planted)];

/// Not a test: the server, when a test has started it.
#[test]
fn serves() {
    let Ok(args) = std::env::var("PLANTED_SERVER") else { return };
    let code = everworld::cli::main(args.split('\n').map(std::ffi::OsString::from), PLUGINS);
    // An ExitCode tells its number to nobody else.
    let digits: String = format!("{code:?}").chars().filter(char::is_ascii_digit).collect();
    std::process::exit(digits.parse().unwrap());
}

/// Starts a server with that added to its scenario.
fn launch(data: &Path, params: &str, more: &[&str]) -> Result<Server, String> {
    let scenario = data.join("scenario.toml");
    fs::write(&scenario, format!("{SCENARIO}{params}\n")).unwrap();
    let set = format!("world.scenario={}", scenario.display());
    let mut args: Vec<String> = ["everworld", "serve", "--set", &set].map(str::to_owned).into();
    args.extend(["--set", "http.bind=127.0.0.1:0", "--set", "logging.format=json"].map(str::to_owned));
    args.extend(["--set", "tick.rate_hz=200", "--set", "recovery.linger_secs=0"].map(str::to_owned));
    args.extend(["--set", "snapshot.period_millis=1000", "--data"].map(str::to_owned));
    args.push(data.to_str().unwrap().to_owned());
    args.extend(more.iter().map(ToString::to_string));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "recovery::serves", "--nocapture"]).env("PLANTED_SERVER", args.join("\n"));
    Server::spawn(command)
}

fn start(data: &Path, params: &str, more: &[&str]) -> Server {
    let server = launch(data, params, more).unwrap_or_else(|log| panic!("it did not start: {log}"));
    server.wait_ready();
    server
}

fn world(server: &Server) -> Value {
    server.get("/v1/worlds/planted").1
}

/// Pauses, and waits for the hash of the tick where it stands.
fn paused(server: &Server) -> (u64, String) {
    assert_eq!(server.post("/v1/worlds/planted/pause", "").0, 202);
    let world = server.until(|server| {
        let world = world(server);
        (world["state"] == "paused" && world["state_hash_tick"] == world["tick"]).then_some(world)
    });
    (world["tick"].as_u64().unwrap(), world["state_hash"].as_str().unwrap().to_owned())
}

fn reaches(server: &Server, tick: u64) {
    server.until(|server| (world(server)["tick"].as_u64() > Some(tick)).then_some(()));
}

/// What comes out when a system is left out from a tick on. The scenario of the tests' own process fails nowhere.
fn without(system: &str, from: u64, until: u64) -> String {
    static ONE_AT_A_TIME: OnceLock<parking_lot::Mutex<()>> = OnceLock::new();
    let _guard = ONE_AT_A_TIME.get_or_init(parking_lot::Mutex::default).lock();
    let scenario = worlds::load_scenario("planted", PLUGINS, &[]).unwrap();
    let record = WorldRecord { world: "planted".into(), scenario };
    let mut live = worlds::create(&record, PLUGINS, options(1)).unwrap();
    for tick in 1..=until {
        if tick == from {
            live.set_enabled(system, false).unwrap();
        }
        live.tick(&[]).unwrap();
    }
    live.state_hash().to_string()
}

fn remove_store(data: &Path) {
    let epochs: Vec<_> = fs::read_dir(data.join("worlds/planted"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "redb"))
        .collect();
    epochs.iter().for_each(|path| fs::remove_file(path).unwrap());
}

fn metric(server: &Server, name: &str) -> f64 {
    let text = server.text("/metrics");
    let line = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(-1.0)
}

#[test]
fn d3_a_system_that_panics_at_row_500_is_left_out_from_that_tick_on() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), "panic_tick = 150", &[]);
    reaches(&server, 400);
    assert_eq!(world(&server)["quarantined"], json!(["visit"]));
    assert_eq!(metric(&server, "everworld_failed_ticks_total"), 2.0, "it is tried once more first");
    let (tick, hash) = paused(&server);
    assert_eq!(hash, without("visit", 150, tick), "at tick {tick}");
    server.kill();
    let server = start(data.path(), "panic_tick = 150", &[]);
    assert_eq!(world(&server)["quarantined"], json!(["visit"]));
    assert_eq!(paused(&server), (tick, hash.clone()), "recovery leaves it out at the same tick");
    server.kill();
    // Without any snapshot the tick itself is computed again.
    remove_store(data.path());
    let server = start(data.path(), "panic_tick = 150", &[]);
    assert_eq!(paused(&server), (tick, hash));
}

#[test]
fn a_panic_that_does_not_come_again_costs_nothing() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), "panic_tick = 150\nonce = true", &[]);
    reaches(&server, 300);
    assert_eq!(world(&server)["quarantined"], json!([]));
    assert_eq!(metric(&server, "everworld_failed_ticks_total"), 1.0);
    let (tick, hash) = paused(&server);
    assert_eq!(hash, without("visit", u64::MAX, tick));
}

#[test]
fn by_the_other_policy_the_world_stops_also_when_it_is_brought_back() {
    let data = tempfile::tempdir().unwrap();
    let stop = ["--set", "recovery.on_panic=stop"];
    for round in 0..2 {
        let (status, log) = launch(data.path(), "panic_tick = 150", &stop)
            .map_or_else(|log| panic!("it did not listen: {log}"), Server::ended);
        assert_eq!(status.code(), Some(1), "round {round}: {log}");
        assert!(log.contains("planted at row 500"), "round {round}: {log}");
    }
    let server = start(data.path(), "panic_tick = 150", &[]);
    reaches(&server, 200);
    let (tick, hash) = paused(&server);
    assert_eq!(hash, without("visit", 150, tick));
}

#[test]
fn an_input_that_panics_is_skipped_and_its_sender_is_told() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), "", &[]);
    let poke = |server: &Server, hive: &str, panic: bool| {
        let body = json!({"kind": "poke", "payload": {"hive": hive, "panic": panic}}).to_string();
        let (code, answer) = server.post("/v1/worlds/planted/inputs?ack=applied", &body);
        assert_eq!(code, 202, "{answer}");
        answer
    };
    assert_eq!(poke(&server, "3", false)["created"], json!(["3"]));
    let skipped = poke(&server, "4", true);
    assert!(skipped["rejected"].as_str().unwrap().contains("skipped"), "{skipped}");
    assert_eq!(poke(&server, "5", false)["created"], json!(["5"]));
    let shown = paused(&server);
    let grams = |server: &Server, hive: u64| {
        let entity = server.get(&format!("/v1/worlds/planted/entities/{hive}")).1;
        entity["components"]["honey"]["grams"].as_u64().unwrap()
    };
    let rich = |server: &Server| [3, 4, 5].map(|hive| grams(server, hive) >= 1_000_000);
    assert_eq!(rich(&server), [true, false, true], "nothing of it has happened");
    server.kill();
    remove_store(data.path());
    let server = start(data.path(), "", &[]);
    assert_eq!(paused(&server), shown);
    assert_eq!(rich(&server), [true, false, true]);
}

#[test]
fn a_system_that_does_not_end_ends_the_process_and_is_left_out_after_the_restart() {
    let data = tempfile::tempdir().unwrap();
    let limits = [
        "--set",
        "tick.soft_limit_millis=150",
        "--set",
        "tick.hard_limit_millis=1500",
        "--set",
        "threads.workers=2",
    ];
    let server = launch(data.path(), "spin_tick = 100", &limits).unwrap();
    let seen: Arc<OnceLock<Value>> = Arc::default();
    server.until(|server| {
        let world = everworld::client::Client::connect(server.address)
            .and_then(|mut client| client.request("GET", "/v1/worlds/planted", ""));
        match world {
            Ok((_, world)) if world["state"] == "degraded" => Some(_ = seen.set(world)),
            _ => None,
        }
    });
    let reason = seen.get().unwrap()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("tick 100 takes longer than 150 ms, in system \"spin\""), "{reason}");
    let (status, log) = server.ended();
    assert_eq!(status.code(), Some(70), "{log}");
    let (status, log) = launch(data.path(), "spin_tick = 100", &["--set", "recovery.on_panic=stop"])
        .map_or_else(|log| panic!("{log}"), Server::ended);
    assert_eq!(status.code(), Some(70), "by the other policy it refuses: {log}");
    assert!(log.contains("hung in tick 100"), "{log}");
    let server = start(data.path(), "spin_tick = 100", &limits);
    reaches(&server, 150);
    assert_eq!(world(&server)["quarantined"], json!(["spin"]));
    let shown = paused(&server);
    server.kill();
    assert_eq!(paused(&start(data.path(), "spin_tick = 100", &limits)), shown);
}

/// The same key means the same input, over kills, with and without a snapshot.
#[test]
fn d1_an_input_that_comes_again_under_its_key_is_applied_once() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), "", &[]);
    let send = |server: &Server, key: &str, hive: &str, ack: &str| {
        let body = json!({"kind": "poke", "payload": {"hive": hive, "panic": false}}).to_string();
        let path = format!("/v1/worlds/planted/inputs?ack={ack}");
        let headers = format!("idempotency-key: {key}\r\nx-request-id: q-{key}\r\n");
        server.client().request_with("POST", &path, &headers, &body).unwrap()
    };
    let (code, first) = send(&server, "a", "3", "applied");
    assert_eq!((code, &first["created"]), (202, &json!(["3"])));
    assert_eq!(send(&server, "a", "3", "applied"), (202, first.clone()), "the original answer");
    let (code, problem) = send(&server, "a", "4", "applied");
    assert_eq!((code, &problem["type"]), (422, &json!("/problems/key-reused")));
    let (_, second) = send(&server, "b", "4", "durable");
    assert_eq!(metric(&server, "everworld_inputs_deduplicated_total"), 1.0);
    assert_eq!(metric(&server, "everworld_idempotency_keys"), 2.0);
    reaches(&server, world(&server)["last_snapshot"].as_u64().unwrap() + 250);
    server.kill();
    for round in ["from the snapshot", "from the log alone"] {
        if round == "from the log alone" {
            remove_store(data.path());
        }
        let server = start(data.path(), "", &[]);
        let (code, again) = send(&server, "a", "3", "applied");
        assert_eq!(
            (code, &again["seq"], &again["tick"], &again["created"]),
            (202, &first["seq"], &first["tick"], &json!(["3"])),
            "{round}"
        );
        let (_, again) = send(&server, "b", "4", "applied");
        assert_eq!((&again["seq"], &again["created"]), (&second["seq"], &json!(["4"])), "{round}");
        assert_eq!(send(&server, "b", "5", "durable").0, 422, "{round}");
        let grams = server.get("/v1/worlds/planted/entities/3").1["components"]["honey"]["grams"].as_u64();
        assert!(grams.unwrap() < 2_000_000, "it was applied once: {grams:?}");
        server.kill();
    }
}

#[test]
fn a_key_that_is_none_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), "", &[]);
    let headers = format!("idempotency-key: {}\r\n", "x".repeat(200));
    let (code, _) = server
        .client()
        .request_with("POST", "/v1/worlds/planted/inputs", &headers, r#"{"kind":"poke"}"#)
        .unwrap();
    assert_eq!(code, 400);
}

/// D6: when the log cannot be written any more, nothing is acknowledged, the last view is shown for a while, and the
/// process says why it ends.
#[test]
fn d6_a_failed_write_of_the_log_stops_the_world_and_shows_its_last_view() {
    use everworld::{api, config::Config, host, hosting::Hosting, spine};
    use everworld_persistence::sim::{Fault, FaultKind, SimDisk};

    for kind in [FaultKind::Io, FaultKind::NoSpace] {
        let data = tempfile::tempdir().unwrap();
        let disk = SimDisk::default();
        fs::create_dir_all(data.path().join("worlds/planted")).unwrap();
        let mut config = Config::default();
        config.data.dir = data.path().to_owned();
        config.http.bind = "127.0.0.1:0".parse().unwrap();
        config.recovery.linger_secs = 2.0;
        let config = Arc::new(config);
        let scenario = worlds::load_scenario("planted", PLUGINS, &[]).unwrap();
        let record = WorldRecord { world: "planted".into(), scenario };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (server, signals) =
            runtime.block_on(async { (api::Server::bind(&config).unwrap(), api::Signals::new().unwrap()) });
        let address = server.address();
        let lock = spine::lock(data.path()).unwrap();
        let shared = host::Shared::new(&config, lock, PLUGINS, false).unwrap();
        let world =
            runtime.block_on(async { Hosting::start_on(Arc::new(disk.clone()), shared, record).unwrap() });
        let running = runtime.spawn(server.run(config, world, everworld::api::Served::default(), signals));
        let request = |method: &str, path: &str, body: &str| {
            everworld::client::Client::connect(address).unwrap().request(method, path, body).unwrap()
        };
        let until = |what: &str, ready: &dyn Fn() -> bool| {
            let end = std::time::Instant::now() + std::time::Duration::from_mins(1);
            while !ready() {
                assert!(std::time::Instant::now() < end, "{what}");
                std::thread::yield_now();
            }
        };
        until("ready", &|| request("GET", "/readyz", "").0 == 200);
        let poke = r#"{"kind":"poke","payload":{"hive":"3","panic":false}}"#;
        assert_eq!(request("POST", "/v1/worlds/planted/inputs?ack=applied", poke).0, 202);
        let shown = request("GET", "/v1/worlds/planted/entities/3", "").1["tick"].as_u64().unwrap();
        disk.set_fault(Some(Fault { at: disk.operations(), for_good: true, error: kind }));
        assert_eq!(request("POST", "/v1/worlds/planted/inputs", poke).0, 503, "no false acknowledgement");
        until("failed", &|| request("GET", "/v1/worlds/planted", "").1["state"] == "failed");
        assert!(disk.faults_fired() > 0);
        assert_eq!(request("GET", "/readyz", "").0, 503);
        assert!(
            matches!(spine::lock(data.path()), Err(spine::SpineError::InUse(_))),
            "nobody else begins while it is still there"
        );
        assert_eq!(request("POST", "/v1/worlds/planted/inputs", poke).0, 503);
        assert_eq!(request("POST", "/v1/worlds/planted/pause", "").0, 503);
        let (code, hive) = request("GET", "/v1/worlds/planted/entities/3", "");
        assert_eq!(code, 200, "readers see the last view");
        assert!(hive["tick"].as_u64() >= Some(shown), "{hive}");
        let failed = runtime.block_on(running).unwrap().unwrap_err();
        assert_eq!(failed.code, 74, "{failed}");
    }
}
