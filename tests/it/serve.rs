//! A real server: what it answers, what it survives, how it ends.

use crate::support::Server;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

#[test]
fn it_answers_for_the_process_and_the_world() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    assert_eq!(server.get("/livez").0, 200);
    let (code, ready) = server.get("/readyz?verbose");
    assert_eq!((code, &ready["ready"], &ready["worlds"][0]["world"]), (200, &json!(true), &json!("town")));
    let (_, status) = server.get("/v1/status");
    assert_eq!(
        (&status["world"], &status["state"], &status["rate_hz"]),
        (&json!("town"), &json!("running"), &json!(100.0))
    );
    let (_, world) = server.get("/v1/worlds/town");
    assert_eq!(
        (&world["entities"], &world["scenario"], &world["seed"]),
        (&json!(300), &json!("town"), &json!(1))
    );
    let (_, systems) = server.get("/v1/worlds/town/systems");
    let systems = systems["items"].as_array().unwrap();
    assert!(
        systems.iter().any(|system| system["name"] == "mind::decide" && system["writes"] == json!(["goal"]))
    );
    let (_, components) = server.get("/v1/worlds/town/components");
    assert!(
        components["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["schema"]["properties"]["hunger"]["maximum"] == 1.0)
    );
    let (_, resources) = server.get("/v1/worlds/town/resources");
    assert!(
        resources["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| r["name"] == "day" && r["value"]["minute"].is_u64())
    );
    let (_, kinds) = server.get("/v1/worlds/town/inputs/kinds");
    assert_eq!(kinds["items"][0]["kind"], "spawn_entities");
    let (_, marta) = server.get("/v1/worlds/town/entities/1");
    assert_eq!(marta["components"]["name"]["name"], "Marta Vell");
}

#[test]
fn every_route_of_the_list_answers() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let (_, routes) = server.get("/v1/routes");
    let routes = routes.as_array().unwrap().clone();
    assert!(routes.len() > 15);
    for route in routes {
        let (method, path) = (route["method"].as_str().unwrap(), route["path"].as_str().unwrap());
        if path == "/v1/shutdown" {
            continue;
        }
        let uid = if method == "DELETE" { "2" } else { "1" };
        let path = path
            .replace("{w}", "town")
            .replace("{uid}", uid)
            .replace("{c}", "purse")
            .replace("{name}", "1")
            .replace("{n}", "0")
            .replace("{s}", "walk::step");
        let is_import = path.ends_with("/import");
        let kind = if is_import { "content-type: application/x-ndjson\r\n" } else { "" };
        let (code, _) = server.client().request_with(method, &path, kind, "").unwrap();
        // A write without a body, a step of a running world, an unknown id is refused by its handler.
        let refused = code == 404 && ["{id}", "{n}"].iter().any(|id| route["path"].to_string().contains(id));
        assert!(refused || matches!(code, 200 | 202 | 400 | 409), "{method} {path}: {code}");
    }
}

#[test]
fn errors_are_problems_that_name_the_place() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let check = |method: &str, path: &str, body: &str, code: u16, expected: &[&str]| {
        let (found, problem) = server.client().request(method, path, body).unwrap();
        assert_eq!(found, code, "{method} {path}: {problem}");
        assert_eq!(problem["status"], code, "{problem}");
        for part in expected {
            assert!(problem.to_string().contains(part), "{method} {path} does not say {part}: {problem}");
        }
    };
    let entities = "/v1/worlds/town/entities";
    check("GET", "/nowhere", "", 404, &["/v1/routes"]);
    check("GET", "/v1/worlds/city", "", 404, &["there is no world \\\"city\\\"; worlds: town"]);
    check("DELETE", "/livez", "", 405, &["Method not allowed"]);
    check("GET", &format!("{entities}/99999"), "", 404, &["no entity 99999"]);
    check("GET", &format!("{entities}/x"), "", 400, &["not a Uid"]);
    check("POST", entities, "{", 400, &["EOF"]);
    check("POST", &format!("{entities}?akc=durable"), "{}", 400, &["akc"]);
    check(
        "POST",
        entities,
        r#"{"components":{"needs":{"hunger":2}}}"#,
        422,
        &["/components/needs/hunger", "0 to 1"],
    );
    check(
        "POST",
        entities,
        r#"{"entities":[{},{"prototype":"x"}]}"#,
        422,
        &["/entities/1/prototype", "townsman"],
    );
    check("POST", entities, r#"{"entities":[]}"#, 422, &["1 to 10000"]);
    check("POST", entities, r#"{"prototip":"townsman"}"#, 422, &["unknown field `prototip`"]);
    check("POST", "/v1/worlds/town/inputs", r#"{"kind":"dance","payload":{}}"#, 422, &["/kind", "dance"]);
    check("POST", "/v1/worlds/town/step", "", 409, &["only a paused world"]);
    check("POST", "/v1/worlds/town/step", r#"{"ticks":0}"#, 422, &["/ticks"]);
    check("PUT", "/v1/worlds/town/rate", r#"{"rate_hz":-1}"#, 422, &["/rate_hz"]);
    let large = format!("{{\"components\":{{\"name\":{{\"name\":\"{}\"}}}}}}", "x".repeat(70_000));
    check("POST", entities, &large, 413, &["too-large"]);
}

#[test]
fn a_page_of_another_name_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[test]
fn slow_senders_and_too_many_connections_are_turned_away() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(
        data.path(),
        &["--set", "http.header_timeout_millis=200", "--set", "http.connections_max=8"],
    );
    let mut slow: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    slow.iter_mut().for_each(|stream| stream.write_all(b"GET /livez HTTP/1.1\r\nho").unwrap());
    // Their places are free again once the header timeout has closed them, long before hyper's own 30 s.
    let start = Instant::now();
    server.until(|server| {
        let mut client = everworld::client::Client::connect(server.address).ok()?;
        client.request("GET", "/livez", "").ok().filter(|(code, _)| *code == 200)
    });
    assert!(start.elapsed() < Duration::from_secs(15), "closed by another timeout than ours");
    for mut stream in slow {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut rest = Vec::new();
        // Closed with or without a 408: not held.
        let _ = stream.read_to_end(&mut rest);
    }
}

/// What is around each route: the time that it may take, what it took, and how an answer goes over the wire.
#[test]
fn answers_come_in_time_and_packed_where_that_holds_nothing_up() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--set", "http.request_timeout_millis=1000"]);
    let head_of = |path: &str, accept: &str| {
        let mut stream = TcpStream::connect(server.address).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        lines.by_ref().take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n").to_lowercase()
    };
    let check = |(path, accept): (&str, &str), code: u16, is_packed: bool| {
        let head = head_of(path, accept);
        assert!(head.starts_with(&format!("http/1.1 {code}")), "{path}: {head}");
        assert_eq!(head.contains("content-encoding: gzip"), is_packed, "{path}: {head}");
        assert!(head.contains("server-timing: queue;dur="), "{path}: {head}");
    };
    let entities = "/v1/worlds/town/entities";
    check((&format!("{entities}?limit=100"), "application/json"), 200, true);
    check((&format!("{entities}/1"), "application/json"), 200, true);
    check(("/v1/worlds/town", "application/json"), 200, false);
    check((entities, "application/x-ndjson"), 200, false);
    check((entities, "text/csv"), 200, false);
    check(("/v1/worlds/town/events", "text/event-stream"), 200, false);
    check((&format!("{entities}?colour=red"), "application/json"), 400, false);
    let begun = Instant::now();
    check((&format!("{entities}?min_tick=100000000"), "application/json"), 408, false);
    assert!(begun.elapsed() < Duration::from_secs(4), "by another timeout than ours");
    let metrics = server.text("/metrics");
    let counted = r#"http_requests_total{route="/v1/worlds/{w}/entities",method="GET",code="408"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[test]
fn a_page_of_another_site_cannot_change_a_world() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let check = |method: &str, header: &str, code: &str| {
        let mut stream = TcpStream::connect(server.address).unwrap();
        let path = if method == "GET" { "" } else { "/pause" };
        let request = format!(
            "{method} /v1/worlds/town{path} HTTP/1.1\r\nhost: localhost\r\n{header}connection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{method} {header}: {answer}");
    };
    check("POST", "origin: http://evil.example\r\n", "403");
    check("POST", "origin: null\r\n", "403");
    check("POST", "sec-fetch-site: cross-site\r\n", "403");
    check("POST", "origin: http://localhost:7170\r\nsec-fetch-site: same-origin\r\n", "202");
    check("POST", "", "202");
    check("GET", "origin: http://evil.example\r\n", "200");
}

#[test]
fn a_raised_rate_does_not_wait_out_the_old_one() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--set", "tick.rate_hz=0.001"]);
    let at = tick(&server);
    assert_eq!(server.client().request("PUT", "/v1/worlds/town/rate", r#"{"rate_hz":100}"#).unwrap().0, 202);
    server.until(|server| (tick(server) > at + 5).then_some(()));
}

/// D2: a lease that a pause takes back allows nothing any more, however quickly the world goes on.
#[test]
fn d2_pauses_steps_and_resumes_in_quick_turns_are_never_contradicted() {
    let data = tempfile::tempdir().unwrap();
    let mut shown = 0;
    for round in 0..6 {
        let server = Server::start(data.path(), &["--set", "tick.rate_hz=0"]);
        let mut client = server.client();
        assert!(tick(&server) >= shown, "round {round}: recovery ends before what was shown");
        for _ in 0..20 {
            for wish in ["pause", "step", "resume"] {
                let (code, answer) = client.request("POST", &format!("/v1/worlds/town/{wish}"), "").unwrap();
                assert_eq!(code, 202, "{wish}: {answer}");
            }
            shown = client.request("GET", "/v1/worlds/town", "").unwrap().1["tick"].as_u64().unwrap();
        }
        server.kill();
    }
}

#[test]
fn an_input_for_a_tick_beyond_the_horizon_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--set", "inputs.ahead_ticks_max=1000000"]);
    let post = |path: &str, body: &str| server.post(&format!("/v1/worlds/town/{path}"), body);
    for at in ["18446744073709551615", "3000000"] {
        let (code, problem) = post(&format!("entities?at_tick={at}"), r#"{"prototype":"townsman"}"#);
        assert_eq!(code, 422, "{problem}");
        assert_eq!(problem["errors"][0]["pointer"], "?at_tick", "{problem}");
        assert!(problem.to_string().contains("inputs.ahead_ticks_max is 1000000"), "{problem}");
        let body = r#"{"kind":"spawn_entities","payload":{"entities":[{"prototype":"townsman"}]}}"#;
        assert_eq!(post(&format!("inputs?at_tick={at}"), body).0, 422);
    }
    assert_eq!(post("entities?at_tick=900000", r#"{"prototype":"townsman"}"#).0, 202);
}

#[test]
fn a_port_in_use_is_named() {
    let data = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let bind = format!("http.bind={address}");
    let output =
        crate::support::everworld(&["serve", "--set", &bind, "--data", data.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = crate::support::stderr(&output);
    assert!(said.contains(&format!("could not listen on {address}: Address already in use")), "{said}");
}

#[test]
fn inputs_that_wait_for_a_far_tick_are_bounded() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--set", "tick.pending_inputs_max=10"]);
    let mut codes = Vec::new();
    for _ in 0..15 {
        let path = "/v1/worlds/town/entities?at_tick=10000000";
        codes.push(server.post(path, r#"{"prototype":"townsman"}"#).0);
        // Until a tick has taken it: from then on it waits in the state, no longer in the queue.
        let before = tick(&server);
        server.until(|server| (tick(server) > before + 1).then_some(()));
    }
    assert_eq!(codes, [[202; 10].as_slice(), &[503; 5]].concat());
    assert_eq!(server.get("/v1/worlds/town").1["inputs_waiting"], 10);
}

fn tick(server: &Server) -> u64 {
    server.get("/v1/worlds/town").1["tick"].as_u64().unwrap()
}

#[test]
fn pause_step_resume_and_rate_are_durable() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let (code, paused) = server.post("/v1/worlds/town/pause", "");
    assert_eq!(code, 202);
    let at = paused["tick"].as_u64().unwrap();
    assert_eq!(tick(&server), at);
    assert_eq!(server.post("/v1/worlds/town/step", r#"{"ticks":3}"#).0, 202);
    server.until(|server| (tick(server) == at + 3).then_some(()));
    let (code, _) = server.client().request("PUT", "/v1/worlds/town/rate", r#"{"rate_hz":250}"#).unwrap();
    assert_eq!(code, 202);
    let hash = |server: &Server| {
        server.until(|server| {
            let world = server.get("/v1/worlds/town").1;
            (world["state_hash_tick"] == world["tick"]).then(|| world["state_hash"].clone())
        })
    };
    let before = hash(&server);
    server.kill();
    let server = Server::start(data.path(), &[]);
    let world = server.get("/v1/worlds/town").1;
    assert_eq!(
        (&world["state"], &world["tick"], &world["rate_hz"]),
        (&json!("paused"), &json!(at + 3), &json!(250.0))
    );
    assert_eq!(hash(&server), before, "the paused world is the same, bit for bit");
    assert_eq!(server.post("/v1/worlds/town/resume", "").0, 202);
    server.until(|server| (tick(server) > at + 5).then_some(()));
}

#[test]
fn an_input_at_a_later_tick_waits_for_it_also_over_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--set", "tick.rate_hz=20"]);
    let at = tick(&server) + 60;
    let body = r#"{"prototype":"townsman"}"#;
    let (code, answer) = server.post(&format!("/v1/worlds/town/entities?at_tick={at}"), body);
    assert_eq!((code, answer["earliest_tick"].as_u64()), (202, Some(at)));
    // Taken from the log by a tick, it is part of the state.
    server.until(|server| (server.get("/v1/worlds/town").1["inputs_waiting"] == 0).then_some(()));
    server.kill();
    let server = Server::start(data.path(), &["--set", "tick.rate_hz=200"]);
    let entities = |server: &Server| server.get("/v1/worlds/town").1["entities"].as_u64().unwrap();
    let born = server.until(|server| {
        let (before, now) = (entities(server), tick(server));
        assert!(before <= 300 || now >= at, "born before its tick");
        (before > 300).then_some(now)
    });
    assert!(born >= at);
}

/// D1, D3: what was acknowledged is there after every kill. The thorough one is `everworld-bench kill`.
#[test]
fn d1_d3_nothing_acknowledged_is_lost_over_kills() {
    let data = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeSet<String> = BTreeSet::new();
    for round in 0..4 {
        let server = Server::start(data.path(), &["--set", "snapshot.period_millis=1000"]);
        for uid in &acknowledged {
            assert_eq!(server.get(&format!("/v1/worlds/town/entities/{uid}")).0, 200, "entity {uid} is lost");
        }
        let mut client = server.client();
        for i in 0..25 {
            let body = json!({"components": {"purse": {"coins": round * 100 + i}}}).to_string();
            let (code, answer) =
                client.request("POST", "/v1/worlds/town/entities?ack=applied", &body).unwrap();
            assert_eq!(code, 202, "{answer}");
            acknowledged.insert(answer["created"][0].as_str().unwrap().to_owned());
        }
        server.kill();
    }
    assert_eq!(acknowledged.len(), 100, "a Uid is never given twice");
}

#[test]
fn sigterm_ends_in_order_with_nothing_to_replay() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    server.post("/v1/worlds/town/entities?ack=applied", r#"{"prototype":"townsman"}"#);
    let (status, log) = server.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
    let stopped_at = log.lines().find_map(|line| {
        let entry: Value = serde_json::from_str(line).ok()?;
        (entry["fields"]["message"] == "world stopped")
            .then(|| entry["fields"]["tick"].as_str().map(str::to_owned))?
    });
    let server = Server::start(data.path(), &["--set", "tick.rate_hz=0.001"]);
    assert_eq!(server.get("/v1/worlds/town").1["entities"], 301);
    let (_, log) = server.terminate();
    let ready: Value = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|entry| entry["fields"]["message"] == "world is ready")
        .unwrap();
    assert_eq!(ready["fields"]["replayed"], 0);
    assert_eq!(ready["fields"]["tick"].as_str().map(str::to_owned), stopped_at);
}

#[test]
fn a_second_server_on_the_same_data_exits_75() {
    let data = tempfile::tempdir().unwrap();
    let first = Server::start(data.path(), &[]);
    let second = crate::support::everworld(&[
        "serve",
        "--data",
        data.path().to_str().unwrap(),
        "--set",
        "http.bind=127.0.0.1:0",
    ]);
    assert_eq!(second.status.code(), Some(75));
    assert!(crate::support::stderr(&second).contains("in use by another process"));
    first.kill();
    // The lock goes with the process, however it ended.
    Server::start(data.path(), &[]);
}

#[test]
fn metrics_are_openmetrics_with_registered_names() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    server.post("/v1/worlds/town/entities?ack=applied", r#"{"prototype":"townsman"}"#);
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.trim_end().ends_with("# EOF"), "the page is whole");
    for line in [
        "everworld_ticks_total{world=\"town\"} ",
        "everworld_world_entities{world=\"town\"} 301",
        "everworld_inputs_total{world=\"town\",outcome=\"applied\"} 1",
        "everworld_system_duration_seconds_count{world=\"town\",system=\"walk::step\"} ",
        "everworld_world_state{world=\"town\",state=\"running\"} 1",
        "everworld_log_written_bytes_total{world=\"town\"} ",
    ] {
        assert!(text.contains(line), "no {line}");
    }
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        assert!(line.starts_with("# TYPE everworld_"), "{line}");
    }
}
