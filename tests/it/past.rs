//! The past by command line and HTTP: real servers, killed in between, and their data directories.

use crate::support::{Server, everworld, stderr};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path, time::SystemTime};

fn run(args: &[&str], code: i32) -> (String, String) {
    let output = everworld(args);
    let (text, error) = (String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output));
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}{error}");
    (text, error)
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&run(&[args, &["--json"]].concat(), 0).0).unwrap()
}

/// What is there, to the byte and the time of writing.
fn files(dir: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let written = fs::metadata(&path).unwrap().modified().unwrap();
            found.insert(path.display().to_string(), (fs::read(&path).unwrap(), written));
        }
    }
    found
}

fn tick(server: &Server) -> u64 {
    server.get("/v1/status").1["tick"].as_u64().unwrap()
}

fn reaches(server: &Server, wanted: u64) {
    server.until(|server| (tick(server) >= wanted).then_some(()));
}

fn spawn(server: &Server) -> u64 {
    let spawned = server.post("/v1/worlds/town/entities?ack=applied", r#"{"prototype":"townsman"}"#).1;
    spawned["tick"].as_u64().unwrap()
}

/// What a running server says of its past, its data directory says after a kill, and saying it writes nothing.
#[test]
fn a_killed_world_tells_the_same_as_it_did_while_it_ran() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().to_str().unwrap();
    let server = Server::start(data.path(), &[]);
    let url = format!("http://{}", server.address);
    let born = spawn(&server);
    reaches(&server, born + 60);
    let (first, last) = (born.to_string(), (born + 30).to_string());
    let before = (born - 1).to_string();
    let questions: Vec<Vec<&str>> = vec![
        vec!["inspect", "--at-tick", &first, "--uid", "301"],
        vec!["inspect", "--at-tick", &last, "needs.hunger>=0 and needs"],
        vec!["diff", "--from", &before, "--to", &first],
        vec!["diff", "--from", &first, "--to", &last, "--limit", "2"],
        vec!["history", "--uid", "301", "--to", &last, "--from", &first, "--exact"],
        vec!["why", "--uid", "301", "--tick", &first],
    ];
    let live: Vec<Value> =
        questions.iter().map(|question| json(&[&question[..], &["--url", &url]].concat())).collect();
    assert_eq!((&live[0]["entities"], &live[0]["entity"]["uid"]), (&json!(301), &json!("301")));
    assert_eq!(live[1]["matched"], 301);
    assert_eq!((&live[2]["added"], &live[2]["removed"]), (&json!(1), &json!(0)));
    assert_eq!((&live[3]["added"], live[3]["changed"].as_u64() > Some(0)), (&json!(0), true));
    assert_eq!(live[4]["looked_at"], 31);
    assert!(live[5]["steps"].to_string().contains("spawn_entities"), "{}", live[5]);
    // The hash that the server shows for a tick is the one that its past has.
    let shown = server.get("/v1/status").1;
    let at = shown["state_hash_tick"].to_string();
    let found = json(&["inspect", "--url", &url, "--at-tick", &at]);
    assert_eq!(found["state_hash"], shown["state_hash"]);
    let entity = server.get(&format!("/v1/worlds/town/entities/301?at_tick={first}")).1;
    assert_eq!(entity["tick"].as_u64(), Some(born));
    assert!(entity["components"]["needs"].is_object(), "{entity}");
    assert_eq!(server.get(&format!("/v1/worlds/town/entities/301?at_tick={before}")).0, 404);
    run(&["inspect", path], 75);
    server.kill();

    let kept = files(data.path());
    for (question, live) in questions.iter().zip(&live) {
        assert_eq!(json(&[&question[..], &["--data", path]].concat()), *live, "{question:?}");
    }
    let newest = json(&["inspect", path]);
    let newest_tick = newest["tick"].as_u64().unwrap();
    assert!(newest_tick >= born + 60);
    let verified = json(&["verify", "--data", path, "--threads", "2"]);
    assert_eq!((&verified["agrees"], &verified["from"]), (&json!(true), &json!(0)));
    assert_eq!(verified["ticks"].as_u64(), Some(newest_tick), "all of it was computed again");
    assert!(verified["snapshots_compared"].as_u64() > Some(0), "{verified}");
    assert!(!json(&["snapshot", "list", "--data", path])["items"].as_array().unwrap().is_empty());
    let check = |args: &[&str], code, says: &str| {
        let (text, error) = run(args, code);
        assert!((text + &error).contains(says), "{args:?}: {error}");
    };
    check(&["inspect", path, "--at-tick", "99999999"], 2, &format!("the last one is {newest_tick}"));
    check(&["inspect", path, "--at-tick", "soon"], 2, "is no tick: expected 1200, 0/1200");
    check(&["inspect", path, "--branch", "3"], 2, "no branch 3; branches: 0");
    check(&["inspect", path, "--uid", "4711"], 2, "nobody has Uid 4711");
    check(&["inspect", path, "need.hunger>1"], 2, "no component \"need\"; components:");
    check(&["inspect", path, "needs.hungr>1"], 2, "no number \"needs.hungr\"; there are: needs.");
    check(&["inspect", path, "--world", "city"], 2, "this data directory has: town");
    check(&["inspect"], 2, "--data DIR of a stopped server, or --url");
    check(&["branches", "--url", "http://127.0.0.1:9"], 1, "no server answers");
    check(&["diff", "--data", path, "--from", "1", "--to", "2", "--other-world", "x"], 2, "no \"x\"");
    check(&["verify", "--data", path, "--from", "9", "--to", "3"], 2, "comes after");
    check(&["rewind", "--data", path, "--to", "3", "--confirm", "city"], 2, "expected the world's name");
    check(&["fork", "--data", path, "--at", "3", "--name", "../x"], 2, "is no name for a world");
    check(&["snapshot", "export", "--data", path, "--id", "0-0x", "/tmp/none"], 2, "kept are 0-");
    assert!(files(data.path()) == kept, "who looks writes nothing");
}

#[test]
fn a_rewind_and_a_fork_outlive_a_kill_and_can_be_compared() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().to_str().unwrap();
    let server = Server::start(data.path(), &[]);
    reaches(&server, 30);
    let born = spawn(&server);
    reaches(&server, born + 30);
    let back = born - 1;
    let wish = json!({"tick": back}).to_string();
    let (status, problem) = server.post("/v1/worlds/town/rewind", &wish);
    assert_eq!(status, 400, "{problem}");
    assert!(problem["detail"].to_string().contains("?confirm=town"), "{problem}");
    let fork = json!({"at_tick": born + 5, "name": "other"}).to_string();
    let (status, forked) = server.in_the_end(server.post("/v1/worlds/town/fork", &fork));
    assert_eq!((status, &forked["tick"]), (200, &json!(born + 5)), "{forked}");
    assert_eq!(server.post("/v1/worlds/town/fork", &fork).0, 409);
    let other = &server.get("/v1/worlds").1["items"][1];
    assert_eq!((&other["world"], &other["state"]), (&json!("other"), &json!("stored")));
    let (status, rewound) = server.post("/v1/worlds/town/rewind?confirm=town", &wish);
    assert_eq!((status, &rewound["branch"], &rewound["tick"]), (200, &json!(1), &json!(back)), "{rewound}");
    reaches(&server, born + 40);
    server.kill();

    let branches = json(&["branches", "--data", path, "--world", "town"]);
    assert_eq!((&branches["current"], &branches["items"][1]["from_tick"]), (&json!(1), &json!(back)));
    let inspect = |world: &str, at: &str| json(&["inspect", path, "--world", world, "--at-tick", at]);
    let (old, new) = (format!("0/{}", born + 5), format!("1/{}", born + 5));
    assert_eq!(inspect("town", &old)["entities"], 301);
    assert_eq!(inspect("town", &new)["entities"], 300);
    assert_eq!(inspect("other", "now")["state_hash"], inspect("town", &old)["state_hash"]);
    let beyond = format!("0/{}", born + 100_000);
    let (_, error) = run(&["inspect", path, "--world", "town", "--at-tick", &beyond], 2);
    assert!(error.contains("has not been on branch 0"), "{error}");
    // The lines part at the tick in which somebody was born on the one.
    let diff = json(&["diff", "--data", path, "--world", "town", "--from", &old, "--to", &new]);
    assert_eq!(diff["first_tick_that_differs"]["tick"].as_u64(), Some(born), "{diff}");
    assert_eq!(diff["removed"], 1);
    let beside = ["diff", "--data", path, "--world", "town", "--from", &old, "--other-world", "other"];
    let diff = json(&[&beside[..], &["--to", &(born + 5).to_string()]].concat());
    assert_eq!((&diff["same"], &diff["to"]["world"]), (&json!(true), &json!("other")));
    // Stopped, it goes back once more.
    let to = (born - 10).to_string();
    let rewound = json(&["rewind", "--data", path, "--world", "town", "--to", &to, "--confirm", "town"]);
    assert_eq!(rewound["branch"], 2);
    assert_eq!(inspect("town", "now")["tick"].as_u64(), Some(born - 10));
    assert_eq!(inspect("town", &new)["entities"], 300, "the former lines are kept");
    // The fork is a world like any other.
    let server = Server::start(data.path(), &["--set", "world.name=other"]);
    assert_eq!(server.get("/v1/status").1["world"], "other");
    reaches(&server, born + 20);
    let live = json(&["inspect", "--url", &format!("http://{}", server.address)]);
    assert_eq!(live["entities"], 301);
    server.kill();
    let server = Server::start(data.path(), &[]);
    assert_eq!(server.get("/v1/status").1["branch"], 2);
    reaches(&server, born + 10);
    assert_eq!(server.get("/v1/status").1["entities"], 300);
}

#[test]
fn backups_of_a_running_server_and_single_snapshots_become_worlds_again() {
    let (data, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = data.path().to_str().unwrap();
    let [backup, again, exported] =
        ["backup", "again", "one.snapshot"].map(|name| copies.path().join(name).display().to_string());
    let server = Server::start(data.path(), &[]);
    let url = format!("http://{}", server.address);
    let born = spawn(&server);
    reaches(&server, born + 20);
    let told = json(&["backup", "--url", &url, "--to", &backup]);
    assert_eq!(told["worlds"][0]["world"], "town");
    let (_, error) = run(&["backup", "--url", &url, "--to", &backup], 1);
    assert!(error.contains("is there already"), "{error}");
    let created = json(&["snapshot", "create", "--url", &url]);
    let id = created["id"].as_str().unwrap().to_owned();
    json(&["snapshot", "export", "--url", &url, "--id", &id, &exported]);
    let exported_hash = json(&["inspect", "--url", &url, "--at-tick", &created["tick"].to_string()]);
    reaches(&server, born + 40);
    server.kill();

    json(&["restore", "--from", &backup, "--data", &again]);
    let (_, error) = run(&["restore", "--from", &backup, "--data", &again], 2);
    assert!(error.contains("overwrites nothing"), "{error}");
    let newest = json(&["inspect", &again]);
    assert!(newest["tick"].as_u64() >= Some(born), "what was applied before the backup is in it");
    let at = newest["tick"].to_string();
    assert_eq!(json(&["inspect", path, "--at-tick", &at]), newest);
    json(&["verify", "--data", &again]);
    json(&["snapshot", "import", &exported, "--data", &again, "--name", "single"]);
    let single = json(&["inspect", &again, "--world", "single"]);
    assert_eq!((&single["state_hash"], &single["tick"]), (&exported_hash["state_hash"], &created["tick"]));
    let server = Server::start(Path::new(&again), &[]);
    reaches(&server, born + 60);
    assert_eq!(server.get("/v1/status").1["entities"], 301);
}

/// T4, L2: bulk work has threads of its own that take what nobody else wants, and a bounded queue before them.
#[test]
fn t4_work_on_the_past_is_idle_and_bounded() {
    let data = tempfile::tempdir().unwrap();
    let bounds = ["--set", "history.workers=1", "--set", "history.queue_len_max=1"];
    let server = Server::start(data.path(), &bounds);
    reaches(&server, 100);
    let mut policies: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap() {
        let stat = fs::read_to_string(entry.unwrap().path().join("stat")).unwrap();
        let (name, rest) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        let policy = rest.split_whitespace().nth(38).unwrap().to_owned();
        policies.entry(name.split(' ').next().unwrap().to_owned()).or_default().push(policy);
    }
    // 5 is SCHED_IDLE. One thread takes questions, one computes ticks for it.
    assert_eq!(policies["history"], ["5", "5"], "{policies:?}");
    assert!(policies["tick"].iter().all(|policy| policy == "0"), "{policies:?}");
    let ask = || {
        let mut client = server.client();
        move || client.request("POST", "/v1/worlds/town/verify", r#"{"deep":true}"#).unwrap()
    };
    let asking: Vec<_> = std::iter::repeat_with(ask).take(16).collect();
    let answers: Vec<(u16, Value)> = std::thread::scope(|scope| {
        let asked: Vec<_> = asking.into_iter().map(|ask| scope.spawn(ask)).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (mut done, mut refused) = (0, 0);
    for (status, answer) in answers {
        match status {
            503 => {
                assert!(answer["detail"].to_string().contains("history.queue_len_max"), "{answer}");
                refused += 1;
            }
            200 => {
                assert_eq!(answer["agrees"], true, "{answer}");
                done += 1;
            }
            // It takes long: the answer says where to look.
            202 => {
                let location = answer["location"].as_str().unwrap();
                let found = server.until(|server| {
                    let job = server.get(location).1;
                    (job["state"] != "running").then_some(job)
                });
                assert_eq!((&found["state"], &found["result"]["agrees"]), (&json!("done"), &json!(true)));
                done += 1;
            }
            _ => panic!("{status}: {answer}"),
        }
    }
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused");
}

/// A hash that was logged and is not that of the tick is found, with the tick.
#[test]
fn verify_finds_the_tick_that_does_not_come_back() {
    use everworld::spine;
    use everworld_engine::{StateHash, Tick};
    use everworld_persistence::{Log, LogOptions, RealDisk, Record};

    let data = tempfile::tempdir().unwrap();
    let path = data.path().to_str().unwrap();
    run(&["run", "town", "--npcs", "300", "--ticks", "60", "--data", path], 0);
    run(&["run", "town", "--npcs", "300", "--ticks", "40", "--data", path], 0);
    let verified = json(&["verify", "--data", path]);
    assert_eq!((&verified["ticks"], &verified["snapshots_compared"]), (&json!(100), &json!(2)), "{verified}");
    let options = LogOptions::new(spine::world_id("town"), spine::build_id());
    let dir = data.path().join("worlds/town/log");
    let (mut log, _) = Log::open(std::sync::Arc::new(RealDisk), &dir, &options).unwrap();
    log.append(&Record::Checkpoint { tick: Tick(77), hash: StateHash(1) }).unwrap();
    log.commit().unwrap();
    drop(log);
    let (text, error) = run(&["verify", "--data", path, "--threads", "2"], 3);
    assert!(text.contains("differs     at tick 77 (checkpoint)"), "{text}");
    assert!(text.contains("expected    0000000000000001"), "{text}");
    assert!(text.contains("not the number of threads") && error.contains("tick 77"), "{text}{error}");
    run(&["verify", "--data", path, "--to", "60"], 0);
    // A store that cannot be read is not passed over in silence.
    for entry in fs::read_dir(data.path().join("worlds/town")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|extension| extension == "redb") {
            fs::write(&file, b"nothing").unwrap();
        }
    }
    let (text, _) = run(&["verify", "--data", path, "--to", "60"], 3);
    assert!(text.contains("damaged"), "{text}");
}

#[test]
fn retention_is_set_while_the_world_runs_and_outlives_it() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().to_str().unwrap();
    let server = Server::start(data.path(), &[]);
    let seconds = |dense: u64, every: u64, keep: u64| json!({"world": "town", "dense_secs": dense, "sparse_every_secs": every, "keep_secs": keep});
    let at = "/v1/worlds/town/retention";
    let shown = |server: &Server| server.get(at).1;
    let put = |server: &Server, body: &str| server.client().request("PUT", at, body).unwrap();
    assert_eq!(shown(&server), seconds(600, 600, 86_400), "as configured");
    let (code, refused) = put(&server, r#"{"sparse_every_secs": 0}"#);
    assert_eq!((code, &refused["errors"][0]["pointer"]), (422, &json!("/sparse_every_secs")), "{refused}");
    assert_eq!(put(&server, r#"{"days": 1}"#).0, 400);
    assert_eq!(put(&server, r#"{"keep_secs": 7200}"#), (200, seconds(600, 600, 7_200)));
    // As a kill leaves it: what was acknowledged is durable.
    server.kill();
    assert_eq!(json(&["retention", "--data", path]), seconds(600, 600, 7_200));
    let server = Server::start(data.path(), &["--set", "snapshot.dense_secs=60"]);
    assert_eq!(shown(&server), seconds(600, 600, 7_200), "what was set goes before the configuration");
    let url = format!("http://{}", server.address);
    assert_eq!(json(&["retention", "--url", &url, "--dense-secs", "30"]), seconds(30, 600, 7_200));
    let (_, error) = run(&["retention", "--url", &url, "--sparse-every-secs", "0"], 2);
    assert!(error.contains("expected 1 to"), "{error}");
    assert!(server.terminate().0.success());
    assert_eq!(json(&["retention", "--data", path, "--keep-secs", "90"]), seconds(30, 600, 90));
    let server = Server::start(data.path(), &[]);
    assert_eq!(shown(&server), seconds(30, 600, 90), "by a snapshot now");
}
