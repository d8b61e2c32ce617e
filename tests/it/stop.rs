//! SIGTERM at any time: the process ends in order within five seconds, and nothing that was acknowledged is lost.

use crate::support::{EVERWORLD, Server};
use everworld::client::Client;
use everworld_engine::random::Draws;
use serde_json::json;
use std::{
    collections::BTreeSet,
    io::Read as _,
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How often; `EVERWORLD_TERMINATIONS=200` is the thorough run.
fn terminations() -> u32 {
    std::env::var("EVERWORLD_TERMINATIONS").map_or(8, |count| count.parse().unwrap())
}

/// Households of the scenario are far below.
const FIRST_MARK: u32 = 1_000_000;
/// Five seconds are promised, to a server that gets the CPU; tests share it with others.
const END_MAX: Duration = Duration::from_secs(30);

/// Posts entities with marks until nobody answers any more; the marks that were acknowledged.
fn post(address: SocketAddr, mut mark: u32) -> BTreeSet<u32> {
    let mut acknowledged = BTreeSet::new();
    let Ok(mut client) = Client::connect(address) else { return acknowledged };
    loop {
        let body = json!({"prototype": "townsman", "components": {"home": {"x": mark}}}).to_string();
        match client.request("POST", "/v1/worlds/town/entities", &body) {
            Ok((202, _)) => _ = acknowledged.insert(mark),
            // It is not there yet, or ends.
            Ok((503, _)) => {}
            Ok((code, answer)) => panic!("{code} {answer}"),
            Err(_) => return acknowledged,
        }
        mark += 1;
    }
}

fn serve(data: &Path, more: &[&str]) -> Child {
    Command::new(EVERWORLD)
        .args(["serve", "--set", "http.bind=127.0.0.1:0", "--set", "world.population=300", "--data"])
        .arg(data)
        .args(more)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Tells it to end; how it ended and what it said.
fn terminate(mut child: Child, meanwhile: impl FnOnce()) -> (ExitStatus, String) {
    let told = Instant::now();
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    meanwhile();
    let status = child.wait().unwrap();
    assert!(told.elapsed() < END_MAX, "it took {:?}", told.elapsed());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (status, said)
}

/// A server that is told to end before it may have said anything.
fn end_at_the_start(data: &Path, wait: Duration) {
    let (child, begun) = (serve(data, &[]), Instant::now());
    while begun.elapsed() < wait {
        std::thread::yield_now();
    }
    let (status, said) = terminate(child, || ());
    // A program that has not begun ends as any program does.
    let not_begun = status.signal() == Some(15) && said.is_empty();
    assert!(status.code() == Some(0) || not_begun, "after {wait:?}: {status:?}: {said}");
}

/// It waits for its scenario, and has touched nothing yet: from then on it ends in order.
#[test]
fn sigterm_at_the_start_is_kept_until_it_can_be_obeyed() {
    let data = tempfile::tempdir().unwrap();
    let scenario = data.path().join("scenario.toml");
    assert!(Command::new("mkfifo").arg(&scenario).status().unwrap().success());
    let mut child = serve(data.path(), &["--set", &format!("world.scenario={}", scenario.display())]);
    let about = format!("/proc/{}/status", child.id());
    let is_caught = || {
        let about = std::fs::read_to_string(&about).unwrap();
        let mask = about.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() >> (15 - 1) & 1 == 1
    };
    let begun = Instant::now();
    while !is_caught() {
        if begun.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("SIGTERM would end it at once");
        }
        std::thread::yield_now();
    }
    let text = include_str!("../../configs/town.toml");
    let (status, said) = terminate(child, || std::fs::write(&scenario, text).unwrap());
    assert_eq!(status.code(), Some(0), "{said}");
}

#[test]
fn d1_sigterm_at_any_time_ends_in_order_and_loses_nothing() {
    let (data, mut draws) = (tempfile::tempdir().unwrap(), Draws::new(1, 0, 0, 0));
    let mut acknowledged = BTreeSet::new();
    for round in 0..terminations() {
        let wait = Duration::from_micros(u64::from(draws.below(400_000)));
        if round % 2 == 1 {
            end_at_the_start(data.path(), wait);
            continue;
        }
        let server = Server::launch(data.path(), &[]).unwrap_or_else(|log| panic!("round {round}: {log}"));
        if round % 4 == 0 {
            server.wait_ready();
        }
        let (address, begun) = (server.address, Instant::now());
        let client = std::thread::spawn(move || post(address, FIRST_MARK + round * 100_000));
        while begun.elapsed() < wait {
            std::thread::yield_now();
        }
        let told = Instant::now();
        let (status, log) = server.terminate();
        assert!(told.elapsed() < END_MAX, "round {round} took {:?}: {log}", told.elapsed());
        assert_eq!(status.code(), Some(0), "round {round}: {log}");
        assert!(!log.contains("ERROR"), "round {round}: the last snapshot is what the mirror has: {log}");
        acknowledged.extend(client.join().unwrap());
    }
    assert!(!acknowledged.is_empty(), "nothing was acknowledged: the test did no work");
    let server = Server::start(data.path(), &[]);
    let matched = |test: String| {
        let query = format!("/v1/worlds/town/inspect?limit=0&where=home.x{test}");
        server.until(|server| server.get(&query).1["matched"].as_u64())
    };
    // What no tick had taken is applied by the first ones of this life; what was not acknowledged may be there too.
    let wanted = acknowledged.len() as u64;
    server.until(|_| (matched(format!("%3E={FIRST_MARK}")) >= wanted).then_some(()));
    for mark in [acknowledged.first(), acknowledged.last()].into_iter().flatten() {
        assert_eq!(matched(format!("=={mark}")), 1, "each is there once");
    }
}
