//! Several worlds in one process.

use crate::support::Server;
use serde_json::{Value, json};
use std::{fs, io::Write as _, net::TcpStream, path::Path};

fn state(server: &Server, world: &str) -> Value {
    server.get(&format!("/v1/worlds/{world}")).1["state"].clone()
}

fn tick(server: &Server, world: &str) -> u64 {
    server.get(&format!("/v1/worlds/{world}")).1["tick"].as_u64().unwrap_or(0)
}

fn change(server: &Server, world: &str, state: &str) -> (u16, Value) {
    server
        .client()
        .request("PATCH", &format!("/v1/worlds/{world}"), &json!({"state": state}).to_string())
        .unwrap()
}

/// Nothing of a world's log can be read any more.
fn damage(world: &Path) {
    for entry in fs::read_dir(world.join("log")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 0x5A);
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn worlds_are_made_beside_each_other_and_come_back_together() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--set", "data.worlds_max=3"]);
    let make = |server: &Server, name: &str| {
        let body = json!({"name": name, "scenario": "town", "seed": 7, "population": 50});
        server.post("/v1/worlds", &body.to_string())
    };
    let (status, answer) = make(&server, "village");
    assert_eq!((status, &answer["world"], &answer["seed"]), (201, &json!("village"), &json!(7)), "{answer}");
    assert_eq!(answer["entities"], 50);
    assert_eq!(make(&server, "village").0, 409);
    assert_eq!(make(&server, "No!").0, 422);
    let (status, answer) = server.post("/v1/worlds", r#"{"name": "x", "scenario": "atlantis"}"#);
    assert_eq!((status, &answer["errors"][0]["pointer"]), (422, &json!("/scenario")), "{answer}");
    assert_eq!(server.post("/v1/worlds", r#"{"name": "x"}"#).0, 422);
    assert_eq!(make(&server, "hamlet").0, 201);
    assert_eq!(make(&server, "too-many").0, 409);
    // Each ticks for itself, and takes inputs for itself.
    server.until(|server| (tick(server, "village") > 3 && tick(server, "town") > 3).then_some(()));
    let (status, made) =
        server.post("/v1/worlds/village/entities?ack=applied", r#"{"prototype": "townsman"}"#);
    assert_eq!(status, 202, "{made}");
    let uid = made["created"][0].as_str().unwrap().to_owned();
    assert_eq!(change(&server, "hamlet", "paused").0, 200);
    assert_eq!((state(&server, "hamlet"), state(&server, "town")), (json!("paused"), json!("running")));
    assert!(server.text("/metrics").contains(r#"everworld_world_tick{world="village"}"#));
    // Unloaded it stays where it is; the last one that is hosted does not go.
    assert_eq!(change(&server, "hamlet", "stored").0, 200);
    let (_, worlds) = server.get("/v1/worlds");
    let stored = worlds["items"].as_array().unwrap().iter().find(|item| item["world"] == "hamlet").unwrap();
    assert_eq!(stored["state"], "stored", "{worlds}");
    assert_eq!(state(&server, "hamlet"), "stored");
    server.kill();

    let server = Server::start(data.path(), &[]);
    assert_eq!(state(&server, "hamlet"), "stored");
    assert_eq!(server.get("/v1/worlds/nowhere").0, 404);
    assert_eq!(server.get("/v1/status").1["world"], "town");
    assert_eq!(server.get(&format!("/v1/worlds/village/entities/{uid}")).0, 200);
    assert_eq!(change(&server, "nowhere", "running").0, 404);
    assert_eq!(change(&server, "hamlet", "running").0, 202);
    server.until(|server| (state(server, "hamlet") == "paused").then_some(()));
    assert_eq!(change(&server, "hamlet", "running").0, 200);
    server.until(|server| (state(server, "hamlet") == "running").then_some(()));
    // Removed for good, also when the work is cut off in the middle.
    let delete = |world: &str, query: &str| {
        server.client().request("DELETE", &format!("/v1/worlds/{world}{query}"), "").unwrap().0
    };
    assert_eq!((delete("hamlet", ""), delete("nowhere", "?confirm=nowhere")), (400, 404));
    assert_eq!(delete("hamlet", "?confirm=hamlet"), 200);
    let worlds = data.path().join("worlds");
    assert!(!worlds.join("hamlet").exists() && !worlds.join(".removed-hamlet").exists());
    assert_eq!(make(&server, "hamlet").0, 201);
    server.kill();
    fs::rename(worlds.join("hamlet"), worlds.join(".removed-hamlet")).unwrap();
    let server = Server::start(data.path(), &[]);
    assert_eq!(server.get("/v1/worlds").1["items"].as_array().unwrap().len(), 2);
    assert!(!worlds.join(".removed-hamlet").exists());
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
}

#[test]
fn a_world_is_made_to_its_end_also_when_the_client_goes_away() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let make = r#"{"name": "large", "scenario": "town", "population": 20000}"#;
    let mut stream = TcpStream::connect(server.address).unwrap();
    write!(
        stream,
        "POST /v1/worlds HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{make}",
        make.len()
    )
    .unwrap();
    server.until(|server| (server.get("/v1/worlds/large").0 == 200).then_some(()));
    drop(stream);
    // It waits for its turn, so what was begun has come to its end.
    assert_eq!(server.post("/v1/worlds", make).0, 409);
    server.kill();
    let server = Server::start(data.path(), &[]);
    assert_eq!(state(&server, "large"), "running");
}

#[test]
fn a_fork_begins_with_what_it_is_told() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let (_, paused) = server.post("/v1/worlds/town/pause", "");
    let at = paused["tick"].as_u64().unwrap();
    let fork = |name: &str, inputs: Value| {
        let body = json!({"name": name, "at_tick": at, "inputs": inputs});
        server.in_the_end(server.post("/v1/worlds/town/fork", &body.to_string()))
    };
    let spawn = |at_tick: Option<u64>| {
        let payload = json!({"entities": [{"prototype": "townsman"}, {"prototype": "townsman"}]});
        match at_tick {
            Some(tick) => json!({"kind": "spawn_entities", "payload": payload, "at_tick": tick}),
            None => json!({"kind": "spawn_entities", "payload": payload}),
        }
    };
    for (name, inputs) in [
        ("as-it-was", json!([])),
        ("crowded", json!([spawn(None), spawn(Some(at + 4))])),
        ("again", json!([spawn(None), spawn(Some(at + 4))])),
    ] {
        let (status, answer) = fork(name, inputs);
        assert_eq!(status, 200, "{answer}");
        assert_eq!(change(&server, name, "running").0, 202);
        server.until(|server| (tick(server, name) > at + 8).then_some(()));
    }
    let entities = |world: &str, tick: u64| {
        let (status, answer) = server.get(&format!("/v1/worlds/{world}/inspect?at={tick}"));
        assert_eq!(status, 200, "{answer}");
        (answer["entities"].clone(), answer["state_hash"].clone())
    };
    assert_eq!(entities("as-it-was", at + 6).0, 300);
    assert_eq!(entities("crowded", at).0, 300);
    assert_eq!(entities("crowded", at + 1).0, 302);
    assert_eq!(entities("crowded", at + 3).0, 302);
    assert_eq!(entities("crowded", at + 4).0, 304);
    assert_eq!(entities("crowded", at + 8), entities("again", at + 8));
    let (status, answer) = fork(
        "wrong",
        json!([spawn(None), {"kind": "spawn_entities", "payload": {"entities": [{"prototype": "dragon"}]}}]),
    );
    assert_eq!(
        (status, &answer["errors"][0]["pointer"]),
        (422, &json!("/inputs/1/payload/entities/0/prototype")),
        "{answer}"
    );
    assert_eq!(fork("wrong", json!([{"kind": "fly"}])).0, 422);
    // Not even at the end of time.
    let (status, answer) = fork("wrong", json!([spawn(Some(at + 1)), spawn(Some(u64::MAX))]));
    assert_eq!((status, &answer["errors"][0]["pointer"]), (422, &json!("/inputs/1/at_tick")), "{answer}");
    assert_eq!(server.get("/v1/worlds/wrong").0, 404);
}

#[test]
fn a_world_that_fails_leaves_the_others_alone() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--set", "data.worlds_max=2"]);
    let (status, answer) =
        server.post("/v1/worlds", r#"{"name": "weak", "scenario": "town", "population": 20}"#);
    assert_eq!(status, 201, "{answer}");
    assert_eq!(change(&server, "weak", "stored").0, 200);
    damage(&data.path().join("worlds/weak"));
    assert_eq!(change(&server, "weak", "running").0, 202);
    server.until(|server| (state(server, "weak") == "failed").then_some(()));
    let before = tick(&server, "town");
    server.until(|server| (tick(server, "town") > before + 5).then_some(()));
    assert_eq!(server.get("/readyz").0, 503);
    let reason = server.get("/v1/worlds/weak").1["reason"].clone();
    assert!(reason.as_str().is_some_and(|reason| reason.contains("weak")), "{reason}");
    // It has its place: that there are as many as may be hosted does not keep it from being tried again.
    assert_eq!(change(&server, "weak", "running").0, 202);
    server.until(|server| (state(server, "weak") == "failed").then_some(()));
    // Nor is one that runs refused, and one that is not there is not.
    assert_eq!(change(&server, "town", "running").0, 200);
    assert_eq!(change(&server, "nobody", "running").0, 404);
    // Whoever asks for it in vain hears why; the others can be asked for an entity.
    assert_eq!(server.get("/v1/worlds/weak/entities").0, 503);
    assert_eq!(server.get("/v1/worlds/town/entities?limit=1").0, 200);
    let delete = server.client().request("DELETE", "/v1/worlds/weak?confirm=weak", "").unwrap();
    assert_eq!(delete.0, 200, "{}", delete.1);
    server.wait_ready();
    assert!(server.terminate().0.success());
}
