//! `why`: a tick of a kept town again, told step by step, with nothing written.

use crate::support::{Server, everworld, options, stderr};
use everworld::{PLUGINS, WorldRecord, worlds};
use serde_json::Value;
use std::{collections::BTreeSet, path::Path};

/// A town that was stopped at tick 260; its hashes by tick.
fn town(data: &Path) -> Vec<String> {
    let scenario = worlds::load_scenario("town", PLUGINS, &["population=900".into()]).unwrap();
    let record = WorldRecord { world: "town".into(), scenario };
    let mut hashes = vec![String::new()];
    for ticks in [100, 160] {
        let mut world = worlds::Durable::open(data, &record, PLUGINS, options(2)).unwrap();
        for _ in 0..ticks {
            world.tick().unwrap();
            hashes.push(world.live().state_hash().to_string());
        }
        world.close().unwrap();
    }
    hashes
}

fn why(data: &Path, uid: u64, tick: u64, more: &[&str]) -> (i32, String, String) {
    let (uid, tick) = (uid.to_string(), tick.to_string());
    let args = ["why", "--data", data.to_str().unwrap(), "--uid", &uid, "--tick", &tick];
    let output = everworld(&[&args[..], more].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap(), text, stderr(&output))
}

#[test]
fn systems_tell_what_they_do_and_why() {
    let data = tempfile::tempdir().unwrap();
    let hashes = town(data.path());
    let mut reasons = BTreeSet::new();
    // Half a day of three people, and a traveller's first minutes: ticks before, at and behind a snapshot.
    let ticks = (1..260).step_by(11).chain([99, 100, 101, 102, 260]);
    let turns = (10..260).step_by(10).flat_map(|tick| [(1, tick), (17, tick)]);
    let asked = ticks.flat_map(|tick| [(1, tick), (17, tick), (400, tick)]).chain(turns).chain([
        (901, 120),
        (901, 121),
        (902, 122),
    ]);
    for (uid, tick) in asked {
        let (code, text, error) = why(data.path(), uid, tick, &["--json"]);
        assert_eq!((code, error.as_str()), (0, ""), "{uid} {tick}");
        let told: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(told["state_hash"], hashes[tick as usize], "the tick came out otherwise: {uid} {tick}");
        let steps = told["steps"].as_array().unwrap();
        for step in steps {
            let name = step["system"].as_str().unwrap_or("input");
            let words = step["reasons"].as_array().unwrap().iter();
            reasons.extend(words.map(|text| {
                let words: Vec<_> = text.as_str().unwrap().split([' ', ',', ':']).take(2).collect();
                format!("{name}: {}", words.join(" "))
            }));
            // What is told to change is what differs.
            let differs = step["before"] != step["after"];
            assert_eq!(differs, !step["changes"].as_array().unwrap().is_empty(), "{step}");
        }
        let names: Vec<_> = steps.iter().filter_map(|step| step["system"].as_str()).collect();
        if uid < 900 {
            let all =
                ["needs::change", "mind::decide", "work::act", "walk::step", "work::pay", "sense::look"];
            assert!(all.iter().all(|name| names.contains(name)), "{names:?}");
        }
    }
    let said: Vec<_> = reasons.iter().map(String::as_str).collect();
    for expected in [
        "mind::decide: does not",
        "mind::decide: it is",
        "sense::look: has",
        "needs::change: spends 10",
        "visits::announce: has just",
        "timers::set: visits",
        "settle::structure: visits",
    ] {
        assert!(
            said.iter().any(|reason| reason.starts_with(expected)),
            "nobody says {expected:?}: {said:#?}"
        );
    }
}

#[test]
fn the_text_is_aligned_and_shows_only_what_changes() {
    let data = tempfile::tempdir().unwrap();
    town(data.path());
    let (code, text, _) = why(data.path(), 1, 30, &[]);
    assert_eq!(code, 0);
    assert!(text.starts_with("Marta Vell, entity 1, in tick 30 of world \"town\"\n"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours where there is no terminal");
    let changes: Vec<_> = text.lines().filter(|line| line.contains(" -> ")).collect();
    assert!(changes.iter().any(|line| line.contains("needs.hunger") && line.ends_with("For food")), "{text}");
    assert!(!text.contains("traits."), "what does not change is not shown: {text}");
    let needs: BTreeSet<_> =
        changes.iter().filter(|line| line.contains("needs.")).map(|line| line.find("->")).collect();
    assert_eq!(needs.len(), 1, "{text}");
    assert!(text.lines().all(|line| line == line.trim_end()), "{text}");
}

#[test]
fn inputs_that_concern_the_entity_are_told() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    // A second one: the first is not to be taken again.
    let spawn = r#"{"prototype":"townsman","components":{"home":{"x":5}}}"#;
    let post = || server.post("/v1/worlds/town/entities?ack=applied", spawn).1;
    let _ = post();
    let answer = post();
    assert!(server.terminate().0.success());
    let text = answer.to_string();
    let number = |key: &str| {
        let value = find(&answer, key).unwrap_or_else(|| panic!("no {key}: {text}"));
        value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap()
    };
    let uid = find(&answer, "created")
        .map_or_else(|| number("uid"), |uids| uids[0].as_str().unwrap().parse().unwrap());
    let tick = find(&answer, "applied_tick").map_or_else(|| number("tick"), |tick| tick.as_u64().unwrap());
    let (code, text, error) = why(data.path(), uid, tick, &[]);
    assert_eq!(code, 0, "{error}");
    assert!(text.contains("spawn_entities") && text.contains("is born"), "{text}");
    assert!(
        text.lines().any(|line| line.split_whitespace().take(4).eq(["home.x", "-", "->", "5"])),
        "{text}"
    );
    let (code, _, error) = why(data.path(), uid, tick - 1, &[]);
    assert_eq!(code, 2);
    assert!(error.contains("yet at tick"), "{error}");
}

fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(members) => {
            members.get(key).or_else(|| members.values().find_map(|value| find(value, key)))
        }
        Value::Array(items) => items.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}

#[test]
fn typical_mistakes_are_answered() {
    let data = tempfile::tempdir().unwrap();
    let check = |uid, tick, more: &[&str], code: i32, says: &str| {
        let (found, text, error) = why(data.path(), uid, tick, more);
        assert_eq!((found, text.as_str()), (code, ""), "{error}");
        assert!(error.contains(says), "{error}");
    };
    check(1, 1, &[], 2, "is no data directory");
    let server = Server::start(data.path(), &[]);
    check(1, 1, &[], 75, "in use by another process");
    server.until(|server| (server.get("/v1/worlds/town").1["tick"].as_u64() > Some(1)).then_some(()));
    assert!(server.terminate().0.success());
    check(1, 0, &[], 2, "systems run from tick 1");
    check(1, 1_000_000_000, &[], 2, "has not been on branch 0");
    check(5_000_000, 1, &[], 2, "nobody has Uid 5000000 yet at tick 1; the newest is 300");
    check(0, 1, &[], 2, "nobody has Uid 0");
    check(1, 1, &["--world", "city"], 2, "this data directory has: town");
    std::fs::create_dir_all(data.path().join("worlds/city/log")).unwrap();
    check(1, 1, &[], 2, "say which one of: city, town");
}
