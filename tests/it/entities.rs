//! Entities over HTTP: looked for, followed, changed; and who may.

use crate::support::{Server, Stream, everworld, stderr};
use everworld::{client::Client, tokens::Role};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const TOWN: &str = "/v1/worlds/town";

fn paused(data: &std::path::Path) -> Server {
    let server = Server::start(data, &[]);
    server.until(|server| (server.get(TOWN).1["tick"].as_u64() > Some(5)).then_some(()));
    assert_eq!(server.post(&format!("{TOWN}/pause"), "").0, 202);
    // What was computed before is shown, and the view is of it.
    server.until(|server| {
        let (_, view) = server.get(&format!("{TOWN}/entities?limit=1"));
        let (_, world) = server.get(TOWN);
        (world["state"] == "paused" && view["tick"] == world["tick"]).then_some(())
    });
    server
}

fn uids(answer: &Value) -> Vec<u64> {
    answer["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["uid"].as_str().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn lists_go_on_with_a_cursor_in_the_view_that_they_began_in() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let mut client = server.client();
    let mut get = |path: &str| client.request("GET", &format!("{TOWN}{path}"), "").unwrap();
    let (status, first) = get("/entities?limit=70&sort=-needs.hunger&select=needs.hunger");
    assert_eq!(status, 200, "{first}");
    let (mut page, mut found) = (first.clone(), Vec::new());
    loop {
        assert_eq!(page["tick"], first["tick"], "all of one tick, however the world goes on");
        found.extend(page["items"].as_array().unwrap().clone());
        let Some(cursor) = page["next"].as_str() else { break };
        page = get(&format!("/entities?limit=70&sort=-needs.hunger&select=needs.hunger&cursor={cursor}")).1;
    }
    let hunger: Vec<f64> =
        found.iter().map(|item| item["components"]["needs"]["hunger"].as_f64().unwrap()).collect();
    assert!(hunger.len() >= 300 && hunger.is_sorted_by(|one, other| one >= other));
    let names: BTreeSet<&str> = found.iter().map(|item| item["uid"].as_str().unwrap()).collect();
    assert_eq!(names.len(), found.len(), "nobody comes twice");
    let cursor = first["next"].as_str().unwrap();
    let check = |(status, answer): (u16, Value), code: u16, says: &str| {
        assert_eq!(status, code, "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains(says), "{answer}");
    };
    check(get(&format!("/entities?limit=70&cursor={cursor}")), 400, "another question");
    check(get("/entities?cursor=abc"), 400, "not one of this server's");
    check(get("/entities?limit=0"), 400, "expected 1 to 1000");
    check(get("/entities?where=needs.hungr%3E1"), 400, "there is no number \"needs.hungr\"");
    check(get("/entities?where=needs.hunger%3D1"), 400, "at character 13");
    check(get("/entities?near=1,2"), 400, "x,y,r");
    check(get("/entities?colour=red"), 400, "colour");
    check(get("/entities?min_tick=100000000"), 409, "min_tick");
    let newer = first["tick"].as_u64().unwrap() + 30;
    assert!(get(&format!("/entities?limit=1&min_tick={newer}")).1["tick"].as_u64() >= Some(newer));
    let past = get("/entities?limit=1000&at_tick=3").1;
    assert_eq!((&past["tick"], uids(&past).len()), (&json!(3), 300));
    for (path, count) in [("/entities?count_only=true", 300), ("/entities?without=needs&count_only=true", 0)]
    {
        assert_eq!(get(path).1["count"], count, "{path}");
    }
}

#[test]
fn sums_and_regions_agree_with_the_rows() {
    let data = tempfile::tempdir().unwrap();
    let server = paused(data.path());
    let (_, all) = server.get(&format!("{TOWN}/entities?limit=1000"));
    let rows = all["items"].as_array().unwrap();
    let ask = |body: Value| {
        let (status, answer) = server.post(&format!("{TOWN}/query"), &body.to_string());
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let sums = ask(json!({"aggregate": ["count", "max(needs.hunger)"], "group_by": "occupation.trade"}));
    let mut expected: BTreeMap<&str, (u64, f64)> = BTreeMap::new();
    for row in rows {
        let components = &row["components"];
        let group = expected.entry(components["occupation"]["trade"].as_str().unwrap()).or_default();
        *group = (group.0 + 1, group.1.max(components["needs"]["hunger"].as_f64().unwrap()));
    }
    let found: BTreeMap<&str, (u64, f64)> = sums["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            let values = &item["values"];
            (
                item["group"].as_str().unwrap(),
                (values["count"].as_u64().unwrap(), values["max(needs.hunger)"].as_f64().unwrap()),
            )
        })
        .collect();
    assert_eq!(found, expected);
    let at = |row: &Value, axis: &str| row["components"]["position"][axis].as_f64().unwrap();
    let (x, y) = (at(&rows[7], "x"), at(&rows[7], "y"));
    let near = ask(json!({"near": format!("{x},{y},5"), "limit": 1000}));
    let expected: Vec<u64> = rows
        .iter()
        .filter(|row| (at(row, "x") - x).powi(2) + (at(row, "y") - y).powi(2) <= 25.0)
        .map(|row| row["uid"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(expected.len() < rows.len());
    assert_eq!(uids(&near), expected);
    let (status, answer) = server.post(&format!("{TOWN}/query"), r#"{"aggregate":["median(needs.hunger)"]}"#);
    assert_eq!(status, 400, "{answer}");
}

#[test]
fn all_rows_come_as_lines() {
    let data = tempfile::tempdir().unwrap();
    let server = paused(data.path());
    let (_, all) = server.get(&format!("{TOWN}/entities?limit=1000"));
    let mut stream = Stream::open(&server, "/v1/worlds/town/entities", "application/x-ndjson");
    let mut rows: Vec<Value> = std::iter::from_fn(|| stream.json()).collect();
    rows.sort_by_key(|row| row["uid"].as_str().unwrap().parse::<u64>().unwrap());
    assert!(json!(rows) == all["items"], "{} rows", rows.len());
}

/// What a reader makes of a stream, step by step, is what the world is at those ticks.
#[test]
fn changes_lead_from_the_cut_to_every_later_tick() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let wanted = "needs.hunger>0.3";
    let mut stream =
        Stream::open(&server, "/v1/worlds/town/changes?where=needs.hunger%3E0.3", "application/x-ndjson");
    let mut known: BTreeMap<String, Value> = BTreeMap::new();
    let apply = |known: &mut BTreeMap<String, Value>, message: &Value| {
        for item in message["enter"].as_array().into_iter().flatten() {
            let before = known.insert(item["uid"].as_str().unwrap().into(), item["components"].clone());
            assert!(before.is_none(), "who comes in was outside");
        }
        for uid in message["leave"].as_array().into_iter().flatten() {
            known.remove(uid.as_str().unwrap()).expect("who goes out was inside");
        }
        for item in message["changed"].as_array().into_iter().flatten() {
            let row = known.get_mut(item["uid"].as_str().unwrap()).expect("who changes is inside");
            for (name, value) in item["components"].as_object().unwrap() {
                row[name] = value.clone();
            }
        }
    };
    let mut last = 0;
    let mut moves = 0;
    while moves < 40 {
        let message = stream.json().unwrap();
        if message["type"] == "changes" {
            assert_eq!(message["from"], last, "no tick between is left out");
            moves += 1;
        }
        apply(&mut known, &message);
        last = message["tick"].as_u64().unwrap();
    }
    // Let the world stand still, and read to its last tick, in which there is something to tell.
    assert_eq!(server.post(&format!("{TOWN}/pause"), "").0, 202);
    let before = server.get(TOWN).1["tick"].as_u64();
    let set = r#"{"needs":{"hunger":0.77}}"#;
    let kind = "content-type: application/json\r\n";
    let patched = server.client().request_with("PATCH", &format!("{TOWN}/entities/3"), kind, set).unwrap();
    assert_eq!(patched.0, 202, "{}", patched.1);
    assert_eq!(server.post(&format!("{TOWN}/step"), r#"{"ticks":1}"#).0, 202);
    let expected = server.until(|server| {
        let body = json!({"where": wanted, "limit": 1000}).to_string();
        let (_, one) = server.post(&format!("{TOWN}/query"), &body);
        (one["tick"].as_u64() > before && one["tick"] == server.get(TOWN).1["tick"]).then_some(one)
    });
    while last < expected["tick"].as_u64().unwrap() {
        let message = stream.json().unwrap();
        apply(&mut known, &message);
        last = message["tick"].as_u64().unwrap();
    }
    let expected: BTreeMap<String, Value> = expected["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["uid"].as_str().unwrap().to_owned(), item["components"].clone()))
        .collect();
    assert!(!expected.is_empty() && known == expected, "{} known, {} expected", known.len(), expected.len());
}

#[test]
fn server_sent_events_name_their_tick() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let mut stream =
        Stream::open(&server, "/v1/worlds/town/changes?around=1,20&select=position", "text/event-stream");
    let lines: Vec<String> = (0..6).map(|_| stream.line().unwrap()).collect();
    assert!(lines[0].starts_with("id: ") && lines[0].ends_with(".0"), "{lines:?}");
    assert_eq!((lines[1].as_str(), lines[4].as_str()), ("event: cut", "event: changes"));
    let data: Value = serde_json::from_str(lines[2].strip_prefix("data: ").unwrap()).unwrap();
    let items = data["enter"].as_array().unwrap();
    assert!(items.iter().any(|item| item["uid"] == "1"), "everybody is around himself");
    assert!(items.iter().all(|item| item["components"].as_object().unwrap().keys().eq(["position"])));
}

#[test]
fn entities_change_by_inputs_that_the_tick_checks_again() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let mut client = server.client();
    let mut ask = |method: &str, path: &str, headers: &str, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        client.request_with(method, &format!("{TOWN}/entities{path}"), headers, &body).unwrap()
    };
    let (status, made) =
        ask("POST", "?ack=applied", "", json!({"components": {"needs": {"hunger": 0.25, "fatigue": 0.5}}}));
    assert_eq!(status, 202, "{made}");
    let uid = made["created"][0].as_str().unwrap().to_owned();
    let one = format!("/{uid}");
    // The view of that tick: the mirror may be some ticks behind.
    let newest = |tick: &Value| {
        let (status, answer) = server.get(&format!("{TOWN}/entities/1?min_tick={tick}"));
        assert_eq!(status, 200, "{answer}");
    };
    let (status, done) = ask("PATCH", &format!("{one}?ack=applied"), "", json!({"purse": {"coins": 7}}));
    assert_eq!((status, done.get("rejected")), (202, None), "{done}");
    newest(&done["tick"]);
    let (_, shown) = ask("GET", &one, "", Value::Null);
    assert_eq!(shown["components"]["purse"]["coins"], 7, "{shown} {done}");
    let (status, done) =
        ask("PUT", &format!("{one}/components/needs?ack=applied"), "", json!({"fatigue": 0.75}));
    assert_eq!(status, 202, "{done}");
    // What is merely merged would keep its value; a whole component gets the default.
    newest(&done["tick"]);
    let (_, shown) = ask("GET", &one, "", Value::Null);
    assert!(shown["components"]["needs"]["hunger"].as_f64() < Some(0.2), "{shown}");
    let (status, done) = ask("DELETE", &format!("{one}/components/needs?ack=applied"), "", Value::Null);
    assert_eq!(status, 202, "{done}");
    newest(&done["tick"]);
    let (_, shown) = ask("GET", &one, "", Value::Null);
    assert!(shown["components"].get("needs").is_none(), "{shown}");
    // Nothing that ticks change is left of it: its tag stays.
    let tag = {
        let text = server.text(&format!("{TOWN}/entities{one}"));
        let line =
            text.lines().find(|line| line.to_ascii_lowercase().starts_with("etag:")).unwrap().to_owned();
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    assert_eq!(ask("GET", &one, &format!("if-none-match: {tag}\r\n"), Value::Null).0, 304);
    let (status, answer) =
        ask("PATCH", &one, "if-match: \"0000000000000000\"\r\n", json!({"purse": {"coins": 1}}));
    assert_eq!((status, answer["type"].as_str()), (412, Some("/problems/precondition")), "{answer}");
    let (status, answer) =
        ask("PATCH", &one, &format!("if-match: {tag}\r\n"), json!({"purse": {"coins": 8}}));
    assert_eq!(status, 202, "{answer}");
    let pointer = |(status, answer): (u16, Value)| {
        assert_eq!(status, 422, "{answer}");
        answer["errors"][0]["pointer"].as_str().unwrap().to_owned()
    };
    assert_eq!(pointer(ask("PATCH", &one, "", json!({"needs": {"hunger": 2.0}}))), "/needs/hunger");
    assert_eq!(pointer(ask("PATCH", &one, "", json!({"purs": {}}))), "/purs");
    assert_eq!(pointer(ask("PUT", &format!("{one}/components/needs"), "", json!({"hungr": 1}))), "/hungr");
    assert_eq!(ask("POST", "", "", json!([])).0, 400);
    let many: Vec<Value> = (0..300).map(|_| json!({"prototype": "nobody"})).collect();
    let (status, faults) = ask("POST", "", "", json!({"entities": many}));
    assert_eq!((status, faults["errors"].as_array().unwrap().len()), (422, 100));
    assert!(faults["detail"].as_str().unwrap().starts_with("300 members"), "{}", faults["detail"]);
    assert_eq!(ask("PATCH", "/123456789", "", json!({})).0, 404);
    assert_eq!(ask("PATCH", "/x", "", json!({})).0, 400);
    let (status, done) = ask("DELETE", &format!("{one}?ack=applied"), "", Value::Null);
    assert_eq!(status, 202, "{done}");
    newest(&done["tick"]);
    assert_eq!(ask("GET", &one, "", Value::Null).0, 404);
    assert_eq!(ask("DELETE", &one, "", Value::Null).0, 404);
}

/// Every route for everybody: what a role may not do is refused before the route is asked.
#[test]
fn each_route_is_for_its_role_and_those_above() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().to_str().unwrap();
    let set = format!("data.dir={path}");
    let token = |role: Role| {
        let role = role.to_string();
        let made = everworld(&["token", "create", "--role", &role, "--set", &set]);
        assert!(made.status.success(), "{}", stderr(&made));
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    };
    let tokens = [Role::Viewer, Role::Operator, Role::Admin].map(|role| (role, token(role)));
    let listed = everworld(&["token", "list", "--set", &set]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), 3);
    let server = Server::launch(data.path(), &[]).unwrap();
    server.wait_ready();
    let ask = |method: &str, path: &str, token: Option<&str>| {
        let mut client = Client::connect(server.address).unwrap();
        token.iter().for_each(|token| client.authorize(token));
        client.request(method, path, "").unwrap()
    };
    for route in everworld::api::ROUTES {
        // A stream has no end; its head is what counts.
        if route.path.ends_with("/changes")
            || route.path.ends_with("/download")
            || route.path == "/v1/shutdown"
        {
            continue;
        }
        let path = route.path.replace("{w}", "nowhere").replace(['{', '}'], "1");
        let is_refused = |token: Option<&str>| matches!(ask(route.method, &path, token).0, 401 | 403);
        let about = format!("{} {}", route.method, route.path);
        assert_eq!(is_refused(None), route.role > Role::Open, "{about} without a token");
        assert_eq!(ask(route.method, &path, Some("ew_0123")).0, 401, "{about} with a token that is none");
        for (role, token) in &tokens {
            assert_eq!(is_refused(Some(token)), *role < route.role, "{about} for {role}");
        }
    }
    for (role, token) in &tokens[..2] {
        assert_eq!(ask("POST", "/v1/shutdown", Some(token)).0, 403, "{role}");
    }
    // Who asked is in the log: the principal of an input is the token's name.
    let (_, operator) = &tokens[1];
    let mut client = server.client();
    client.authorize(operator);
    let headers = "x-everworld-principal: root\r\n";
    let (status, answer) = client
        .request_with("POST", &format!("{TOWN}/entities"), headers, r#"{"prototype":"townsman"}"#)
        .unwrap();
    assert_eq!(status, 202, "{answer}");
    let (_, inputs) = client.request("GET", &format!("{TOWN}/inputs?limit=5"), "").unwrap();
    let one = &inputs["items"][0];
    // A token is sent on purpose, also by a page of another site.
    let headers = "origin: https://console.example\r\n";
    let (status, answer) = client
        .request_with("POST", &format!("{TOWN}/entities"), headers, r#"{"prototype":"townsman"}"#)
        .unwrap();
    assert_eq!(status, 202, "{answer}");
    assert_eq!((&one["principal"], &one["kind"]), (&json!("operator"), &json!("spawn_entities")), "{inputs}");
    assert_eq!(
        (&one["payload"]["entities"][0]["prototype"], &inputs["next"]),
        (&json!("townsman"), &Value::Null)
    );
    let (_, later) = client.request("GET", &format!("{TOWN}/inputs?from_seq=3"), "").unwrap();
    assert_eq!(later["items"], json!([]));
    drop(client);
    let (_, config) = ask("GET", "/v1/config", Some(&tokens[2].1));
    let dir =
        config["items"].as_array().unwrap().iter().find(|item| item["key"] == "data.dir").unwrap().clone();
    assert_eq!((&dir["value"], &dir["default"]), (&json!(path), &json!("./data")));
    let (status, _) = ask("POST", "/v1/shutdown", Some(&tokens[2].1));
    assert_eq!(status, 202);
    assert!(server.ended().0.success());
    let mut principals = BTreeSet::new();
    for entry in std::fs::read_dir(data.path().join("worlds/town/log")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let found = |name: &str| bytes.windows(name.len()).any(|window| window == name.as_bytes());
        principals.extend(["operator", "root"].into_iter().filter(|name| found(name)));
    }
    assert_eq!(principals, BTreeSet::from(["operator"]));
}

#[test]
fn a_batch_of_inputs_is_looked_at_as_a_whole_and_survives_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--set", "http.batch_bytes_max=200000"]);
    let line = |prototype: &str, key: Option<&str>| {
        let mut line = json!({"kind": "spawn_entities", "payload": {"entities": [{"prototype": prototype}]}});
        if let Some(key) = key {
            line["idempotency_key"] = key.into();
        }
        line.to_string() + "\n"
    };
    let post = |server: &Server, query: &str, body: &str| {
        let path = format!("{TOWN}/inputs{query}");
        server.client().request_with("POST", &path, "content-type: application/x-ndjson\r\n", body).unwrap()
    };
    let entities = |server: &Server| server.get(TOWN).1["entities"].as_u64().unwrap();
    let before = entities(&server);
    // One fault, and nothing is taken.
    let mut wrong = line("townsman", None).repeat(3);
    wrong += &line("dragon", None);
    wrong += r#"{"kind": "rain", "payload": {}}"#;
    let (status, answer) = post(&server, "", &wrong);
    assert_eq!(status, 422, "{answer}");
    let pointers: Vec<&str> =
        answer["errors"].as_array().unwrap().iter().filter_map(|error| error["pointer"].as_str()).collect();
    assert_eq!((status, pointers), (422, vec!["/3/payload/entities/0/prototype", "/4/kind"]), "{answer}");
    let (status, answer) = post(&server, "", "{\"kind\": 7}\n");
    assert!(status == 400 && answer["detail"].as_str().unwrap().starts_with("line 1: "), "{answer}");
    assert_eq!(
        (post(&server, "", "\n").0, post(&server, "?ack=applied", &line("townsman", None)).0),
        (400, 400)
    );
    assert_eq!(post(&server, "", &"x".repeat(200_001)).0, 413);
    assert_eq!(server.get(&format!("{TOWN}/inputs")).1["items"], json!([]));

    let batch: String = (0..500).map(|i| line("townsman", Some(&format!("key-{i}")))).collect();
    let (status, answer) = post(&server, "", &batch);
    assert_eq!((status, &answer["accepted"]), (202, &json!(500)), "{answer}");
    let seqs = answer["seqs"].clone();
    server.kill();
    let server = Server::start(data.path(), &[]);
    // A retry is the same inputs.
    assert_eq!(post(&server, "", &batch).1["seqs"], seqs);
    server.until(|server| (entities(server) >= before + 500).then_some(()));
    assert_eq!(server.post(&format!("{TOWN}/pause"), "").0, 202);
    let tick = &server.get(TOWN).1["tick"];
    let question = json!({"count_only": true, "where": "occupation", "min_tick": tick}).to_string();
    let (_, all) = server.post(&format!("{TOWN}/query"), &question);
    let (_, inputs) = server.get(&format!("{TOWN}/inputs?limit=1000"));
    assert_eq!(inputs["items"].as_array().unwrap().len(), 500);
    assert!(all["count"].as_u64() >= Some(before + 500), "{all}");
}

#[test]
fn a_public_address_needs_tokens_and_says_so() {
    let data = tempfile::tempdir().unwrap();
    let public = ["--set", "http.bind=0.0.0.0:0"];
    let log = Server::launch(data.path(), &public).err().unwrap();
    assert!(log.contains("there are no tokens"), "{log}");
    let checked = everworld(&["config", "check", "--set", "http.bind=0.0.0.0:0"]);
    assert!(stderr(&checked).contains("there are no tokens"), "{}", stderr(&checked));
    let set = format!("data.dir={}", data.path().display());
    assert!(everworld(&["token", "create", "--role", "viewer", "--set", &set]).status.success());
    let log = Server::launch(data.path(), &public).err().unwrap();
    assert!(log.contains("without TLS"), "{log}");
    let wrong = everworld(&["token", "create", "--role", "root", "--set", &set]);
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
}

#[test]
fn the_command_line_speaks_the_same_api() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let url = format!("http://{}", server.address);
    let run = |args: &[&str], code: i32| {
        let output = everworld(&[args, &["--url", &url]].concat());
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        let error = stderr(&output);
        (String::from_utf8(output.stdout).unwrap(), error)
    };
    let (made, _) = run(&["entity", "spawn", "townsman", "purse.coins=7"], 0);
    let made: Value = serde_json::from_str(&made).unwrap();
    let uid = made["created"][0].as_str().unwrap();
    run(&["entity", "set", uid, "purse.coins=123456", "occupation.trade=smith"], 0);
    let (listed, _) = server.until(|_| {
        let listed =
            run(&["entity", "list", "purse.coins==123456", "--select", "purse.coins,occupation.trade"], 0);
        (!listed.0.is_empty()).then_some(listed)
    });
    assert!(listed.starts_with(uid) && listed.contains("smith"), "{listed}");
    run(&["entity", "remove", uid, "--component", "purse"], 0);
    run(&["entity", "remove", uid], 0);
    let refused = run(&["input", "despawn_entities", &format!(r#"{{"entities":[{{"uid":"{uid}"}}]}}"#)], 1).1;
    assert!(refused.contains("there is no entity"), "{refused}");
    assert!(run(&["input"], 0).0.contains("update_entities"));
    assert!(run(&["entity", "set", "1", "needs.hunger"], 2).1.contains("needs.hunger=0.5"));
    assert!(run(&["entity", "set", "1", "needs.hunger=7"], 2).1.contains("/needs/hunger"));
    assert!(run(&["input", "nothing", "{}"], 2).1.contains("nothing"));
    assert!(run(&["input", "spawn_entities", "{"], 2).1.contains("no JSON"));
}
