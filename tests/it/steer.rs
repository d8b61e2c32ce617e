//! A running world looked into and steered: its systems, a trace of its ticks, a map of its people, the terminal.

use crate::support::{Server, everworld, fetch, stderr};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn system(server: &Server, name: &str) -> Value {
    let (_, systems) = server.get("/v1/worlds/town/systems");
    systems["items"].as_array().unwrap().iter().find(|system| system["name"] == name).unwrap().clone()
}

fn patch(server: &Server, name: &str, body: &Value) -> (u16, Value) {
    let path = format!("/v1/worlds/town/systems/{name}?ack=applied");
    server.client().request("PATCH", &path, &body.to_string()).unwrap()
}

#[test]
fn systems_are_switched_by_inputs_that_survive_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    assert_eq!(system(&server, "needs::change")["enabled"], true);
    let (status, answer) = patch(&server, "needs::change", &json!({"enabled": false}));
    assert_eq!(status, 202, "{answer}");
    let (status, answer) = patch(&server, "mind::decide", &json!({"every": 5, "offset": 2}));
    assert_eq!(status, 202, "{answer}");
    // Nobody gets more tired.
    let fatigue = |server: &Server, tick: &Value| {
        let body = json!({"aggregate": ["sum(needs.fatigue)"], "min_tick": tick});
        server.post("/v1/worlds/town/query", &body.to_string()).1["items"][0]["values"]["sum(needs.fatigue)"]
            .clone()
    };
    let before = fatigue(&server, &answer["tick"]);
    server.until(|server| {
        (server.get("/v1/worlds/town").1["tick"].as_u64() > answer["tick"].as_u64().map(|tick| tick + 20))
            .then_some(())
    });
    let tick = server.get("/v1/worlds/town").1["tick"].clone();
    assert_eq!(fatigue(&server, &tick), before);
    server.kill();

    let server = Server::start(data.path(), &[]);
    let needs = system(&server, "needs::change");
    assert_eq!((&needs["enabled"], &needs["quarantined"]), (&json!(false), &json!(false)), "{needs}");
    let steer = system(&server, "mind::decide");
    assert_eq!(
        (&steer["every"], &steer["offset"], &steer["declared"]["every"]),
        (&json!(5), &json!(2), &json!(1))
    );
    assert_eq!(patch(&server, "nobody::does", &json!({"enabled": false})).0, 404);
    assert_eq!(patch(&server, "decide::structure", &json!({"enabled": false})).0, 404);
    let (status, answer) = patch(&server, "mind::decide", &json!({"every": 5, "offset": 5}));
    assert_eq!((status, &answer["errors"][0]["pointer"]), (422, &json!("/offset")), "{answer}");
    assert_eq!(patch(&server, "mind::decide", &json!({"speed": 5})).0, 422);
}

/// The events of a phase.
fn of<'t>(trace: &'t Value, phase: &str, category: &str) -> Vec<&'t Value> {
    let events = trace["traceEvents"].as_array().unwrap().iter();
    events.filter(|event| event["ph"] == phase && (category.is_empty() || event["cat"] == category)).collect()
}

#[test]
fn a_trace_tells_when_and_where_each_system_ran() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--set", "world.population=30000", "--set", "tick.rate_hz=20"]);
    assert_eq!(patch(&server, "memory::fade", &json!({"enabled": false})).0, 202);
    assert_eq!(patch(&server, "mind::decide", &json!({"every": 2})).0, 202);
    let (status, trace) = server.post("/v1/worlds/town/capture", r#"{"ticks": 4}"#);
    assert_eq!(status, 200, "{trace}");
    let ticks = of(&trace, "X", "tick");
    assert_eq!(ticks.iter().filter(|tick| tick["name"].as_str().unwrap().starts_with("tick ")).count(), 4);
    let number =
        |event: &Value, name: &str| event[name].as_f64().unwrap_or_else(|| panic!("{name}: {event}"));
    // On a thread one thing at a time; the ticks themselves are around them.
    let mut threads: BTreeMap<u64, Vec<(f64, f64)>> = BTreeMap::new();
    let spans = of(&trace, "X", "system");
    for span in &spans {
        assert!(number(span, "dur") >= 0.0 && span["args"]["phase"].is_string(), "{span}");
        threads
            .entry(span["tid"].as_u64().unwrap())
            .or_default()
            .push((number(span, "ts"), number(span, "dur")));
    }
    for spans in threads.values_mut() {
        spans.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(spans.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0 + 0.001), "{spans:?}");
    }
    // What it waited for last ended when it could begin.
    for span in spans.iter().filter(|span| span["args"]["after"].is_string()) {
        let before = spans.iter().find(|other| {
            other["name"] == span["args"]["after"] && other["args"]["tick"] == span["args"]["tick"]
        });
        let before = before.unwrap_or_else(|| panic!("{span}"));
        let ready = number(span, "ts") - span["args"]["waited_us"].as_f64().unwrap();
        assert!((number(before, "ts") + number(before, "dur") - ready).abs() < 0.01, "{before} {span}");
    }
    let runs = |name: &str| spans.iter().filter(|span| span["name"] == name).count();
    assert_eq!((runs("walk::step"), runs("mind::decide"), runs("memory::fade")), (4, 2, 0));
    let reasons = |name: &str| -> Vec<&str> {
        let left_out = of(&trace, "i", "left out").into_iter().filter(|event| event["name"] == name);
        left_out.map(|event| event["args"]["reason"].as_str().unwrap()).collect()
    };
    assert_eq!(reasons("memory::fade"), ["disabled"; 4]);
    assert_eq!(reasons("mind::decide").len(), 2);
    // By the plan the step waits for others, and the longest way ends with the last of all.
    let critical = of(&trace, "X", "critical");
    assert!(
        critical
            .iter()
            .all(|event| spans.iter().any(|span| span["name"] == event["name"] && span["ts"] == event["ts"]))
    );
    assert!(critical.len() >= 8, "{critical:?}");
    let step = spans.iter().find(|span| span["name"] == "walk::step" && span["args"]["after"].is_string());
    assert!(step.is_some());
    assert_eq!(of(&trace, "b", "wait").len(), of(&trace, "e", "wait").len());

    let (status, answer) = server.post("/v1/worlds/town/capture", r#"{"ticks": 0}"#);
    assert_eq!((status, &answer["errors"][0]["pointer"]), (422, &json!("/ticks")), "{answer}");
}

#[test]
fn a_map_counts_everybody_where_they_are() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    assert_eq!(server.post("/v1/worlds/town/pause", "").0, 202);
    // The view of the newest tick.
    let tick = &server.get("/v1/worlds/town").1["tick"];
    let path = format!("/v1/worlds/town/entities?limit=1000&select=position,needs.hunger&min_tick={tick}");
    let (_, page) = server.get(&path);
    let people: Vec<(f64, f64, f64)> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            let at = &item["components"]["position"];
            let hunger = item["components"]["needs"]["hunger"].as_f64().unwrap();
            (at["x"].as_f64().unwrap(), at["y"].as_f64().unwrap(), hunger)
        })
        .collect();
    assert_eq!(people.len(), 300);
    let map = |query: &str| {
        let (status, map) = server.get(&format!("/v1/worlds/town/map?{query}"));
        assert_eq!(status, 200, "{map}");
        map
    };
    let whole = map("w=4&h=3&color_by=needs.hunger");
    let corner = |i: usize| whole["bbox"][i].as_f64().unwrap();
    let [x0, y0, x1, y1] = [corner(0), corner(1), corner(2), corner(3)];
    assert_eq!(people.iter().map(|one| one.0).fold(f64::MAX, f64::min), x0);
    assert_eq!(people.iter().map(|one| one.1).fold(f64::MIN, f64::max), y1);
    let cell = |x: f64, y: f64| {
        let at = |share: f64, count: usize| ((share * count as f64) as usize).min(count - 1);
        at((y - y0) / (y1 - y0), 3) * 4 + at((x - x0) / (x1 - x0), 4)
    };
    let (mut counts, mut sums) = ([0_u64; 12], [0.0_f64; 12]);
    for (x, y, hunger) in &people {
        counts[cell(*x, *y)] += 1;
        sums[cell(*x, *y)] += hunger;
    }
    assert_eq!(whole["counts"], json!(counts));
    for i in 0..12 {
        let mean = whole["means"][i].as_f64();
        let wanted = (counts[i] > 0).then(|| sums[i] / counts[i] as f64);
        assert!(
            mean.zip(wanted).map_or(mean == wanted, |(mean, wanted)| (mean - wanted).abs() < 1e-6),
            "{whole}"
        );
    }
    let (x, y) = (x0.midpoint(x1), y0.midpoint(y1));
    let part = map(&format!("layer=points&bbox={x0},{y0},{x},{y}&color_by=needs.hunger"));
    let inside = people.iter().filter(|one| one.0 <= x && one.1 <= y).count();
    assert_eq!((&part["total"], part["points"].as_array().map(Vec::len)), (&json!(inside), Some(inside)));
    assert!(
        people.iter().any(|one| json!([one.0, one.1, one.2]) == part["points"][0]),
        "{}",
        part["points"][0]
    );
    assert_eq!(map("layer=points&limit=10")["points"].as_array().map(Vec::len), Some(10));
    let nobody = map("where=needs.hunger%3E9&w=2&h=2");
    assert_eq!(nobody["counts"], json!([0, 0, 0, 0]));

    let accept = [("accept", "application/octet-stream")];
    let (_, head, bytes) = fetch(&server, "GET", "/v1/worlds/town/map?w=4&h=3", &accept, b"");
    let found: Vec<u64> =
        bytes.chunks_exact(4).map(|bytes| u64::from(u32::from_le_bytes(bytes.try_into().unwrap()))).collect();
    assert_eq!(found, counts);
    assert!(head.contains("x-map-size: 4,3"), "{head}");
    assert_eq!(server.get("/v1/worlds/town/map?color_by=name").0, 400);
    assert_eq!(server.get("/v1/worlds/town/map?w=5000").0, 400);
}

#[test]
fn top_shows_a_world_at_a_glance() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    server.until(|server| (server.get("/v1/worlds/town").1["tick"].as_u64() > Some(20)).then_some(()));
    let url = format!("http://{}", server.address);
    let output = everworld(&["top", &url, "--once"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["town  running  tick ", "300 entities", "p99", "needs::change", "walk::step", "q quit"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    // Not into a pipe.
    let output = everworld(&["top", &url]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--once"), "{}", stderr(&output));
}

#[test]
fn some_of_the_configuration_changes_while_the_server_runs() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let change = |body: &Value| server.client().request("PATCH", "/v1/config", &body.to_string()).unwrap();
    let row = |list: &Value, key: &str| {
        let rows = list["items"].as_array().unwrap();
        rows.iter().find(|row| row["key"] == key).unwrap().clone()
    };
    let (status, list) = change(&json!({"http.body_bytes_max": 1024, "http.rate_per_sec": 1000}));
    assert_eq!(status, 200, "{list}");
    let shown = row(&server.get("/v1/config").1, "http.body_bytes_max");
    assert_eq!((&shown["value"], &shown["source"]), (&json!(1024), &json!("request")));
    let long = json!({"prototype": "x".repeat(2_000)}).to_string();
    assert_eq!(server.post("/v1/worlds/town/entities", &long).0, 413);
    assert_eq!(change(&json!({"http.body_bytes_max": 4096})).0, 200);
    assert_eq!(server.post("/v1/worlds/town/entities", &long).0, 422);
    // All of it, or nothing.
    let check = |body: Value, place: &str, what: &str| {
        let (status, answer) = change(&body);
        assert_eq!((status, &answer["errors"][0]["pointer"]), (422, &json!(place)), "{answer}");
        assert!(answer.to_string().contains(what), "{answer}");
    };
    check(json!({"http.body_bytes_max": 2048, "http.bulk_rows": "many"}), "/http.bulk_rows", "whole number");
    check(json!({"http.body_bytes_max": 1}), "/http.body_bytes_max", "1024");
    check(json!({"http.bind": "0.0.0.0:80"}), "/http.bind", "next start");
    check(json!({"http.bulk_row": 1}), "/http.bulk_row", "http.bulk_rows");
    check(json!({"logging.filter": "everworld=nonsense"}), "/logging.filter", "nonsense");
    assert_eq!(row(&server.get("/v1/config").1, "http.body_bytes_max")["value"], 4096);
    assert_eq!(change(&json!({"http.rate_per_sec": 2})).0, 200);
    let refused = (0..20).any(|_| server.get("/v1/status").0 == 429);
    assert!(refused);
}

#[test]
fn a_page_that_is_known_is_not_sent_again() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    assert_eq!(server.post("/v1/worlds/town/pause", "").0, 202);
    let tick = &server.get("/v1/worlds/town").1["tick"];
    let first = format!("/v1/worlds/town/entities?limit=2&min_tick={tick}");
    let tag_of = |head: &str| {
        let line =
            head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap_or_else(|| panic!("{head}"));
        line.trim().to_owned()
    };
    let (status, head, body) = fetch(&server, "GET", &first, &[], b"");
    assert_eq!(status, 200);
    assert!(head.contains("server-timing: queue;dur="), "{head}");
    let tag = tag_of(&head);
    let ask = |path: &str| fetch(&server, "GET", path, &[("if-none-match", tag.as_str())], b"");
    let (status, head, nothing) = ask(&first);
    assert_eq!((status, nothing.len(), tag_of(&head)), (304, 0, tag.clone()), "{head}");
    // Another question, or another tick, has another one.
    assert_eq!(ask(&format!("{first}&where=needs.hunger%3E0")).0, 200);
    assert_eq!(fetch(&server, "GET", &first, &[], b"").2, body);
    let sum =
        |what: &str| server.get(&format!("/v1/worlds/town/entities?aggregate={what}")).1["items"].clone();
    assert_ne!(sum("count"), sum("max(needs.hunger)"));
    // What the client has goes on.
    let page: Value = serde_json::from_slice(&body).unwrap();
    let next = format!("/v1/worlds/town/entities?limit=2&cursor={}", page["next"].as_str().unwrap());
    assert_eq!(ask(&next).0, 200);
    assert_eq!(server.post("/v1/worlds/town/step", "").0, 202);
    server.until(|server| (server.get("/v1/worlds/town").1["tick"].as_u64() > tick.as_u64()).then_some(()));
    server.until(|_| (ask("/v1/worlds/town/entities?limit=2").0 == 200).then_some(()));
}
