//! Damaged files: refused with a message, or the older keyframe and a longer replay; never a panic (D5, D7).

use crate::support::Server;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A data directory with keyframes and a log tail behind them, and what its world was when it was killed.
fn killed(data: &Path) -> (u64, String) {
    let server = Server::start(data, &["--set", "snapshot.period_millis=1000"]);
    server.until(|server| (server.get("/v1/status").1["last_snapshot"].as_u64() > Some(0)).then_some(()));
    server.post("/v1/worlds/town/entities?ack=applied", r#"{"prototype":"townsman"}"#);
    server.post("/v1/worlds/town/pause", "");
    let shown = server.until(|server| {
        let world = server.get("/v1/worlds/town").1;
        (world["state_hash_tick"] == world["tick"]).then_some(world)
    });
    server.kill();
    (shown["tick"].as_u64().unwrap(), shown["state_hash"].as_str().unwrap().to_owned())
}

/// Starts on the data; the world it shows, and what it said.
fn start(data: &Path) -> Result<(u64, String, String), String> {
    let server = Server::launch(data, &[])?;
    let alive = |server: &Server| {
        let mut client = everworld::client::Client::connect(server.address).ok()?;
        client.request("GET", "/v1/worlds/town", "").ok().map(|(_, world)| world)
    };
    loop {
        match alive(&server) {
            Some(world) if world["state_hash"].is_string() => {
                let (_, log) = server.terminate();
                return Ok((
                    world["tick"].as_u64().unwrap(),
                    world["state_hash"].as_str().unwrap().to_owned(),
                    log,
                ));
            }
            // Gone: it has refused.
            None => {
                let (status, log) = server.ended();
                return Err(format!("exit {:?}\n{log}", status.code()));
            }
            Some(_) => {}
        }
    }
}

fn world(data: &Path, file: &str) -> PathBuf {
    data.join("worlds/town").join(file)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[track_caller]
fn assert_clean(log: &str) {
    assert!(!log.contains("panicked"), "{log}");
}

#[track_caller]
fn assert_refused(result: Result<(u64, String, String), String>, says: &str) {
    let log = result.expect_err("a damaged log must be refused");
    assert!(log.starts_with("exit Some(74)"), "{log}");
    assert!(log.contains(says), "{log}");
    assert_clean(&log);
}

#[test]
fn d5_a_damaged_log_is_refused() {
    let data = tempfile::tempdir().unwrap();
    killed(data.path());
    let segment = world(data.path(), "log/00000001.seg");
    let good = fs::read(&segment).unwrap();
    let end = good.iter().rposition(|byte| *byte != 0).unwrap();
    // In the header, in the first record, in the middle, in the last record that was acknowledged.
    for at in [9, 120, end / 2, end - 2] {
        flip(&segment, at);
        assert_refused(start(data.path()), "00000001.seg");
        fs::write(&segment, &good).unwrap();
    }
    // Cut within what was durable.
    fs::write(&segment, &good[..end / 2]).unwrap();
    assert_refused(start(data.path()), "00000001.seg");
    fs::remove_file(&segment).unwrap();
    assert_refused(start(data.path()), "log");
}

#[test]
fn d3_a_damaged_store_means_an_older_keyframe_or_a_longer_replay() {
    let data = tempfile::tempdir().unwrap();
    let (tick, hash) = killed(data.path());
    let store = world(data.path(), "epoch-00000001.redb");
    let good = fs::read(&store).unwrap();
    // The one epoch as it was: what a start set aside or began goes.
    let put = |bytes: &[u8]| {
        for entry in fs::read_dir(store.parent().unwrap()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with("epoch-") {
                fs::remove_file(path).unwrap();
            }
        }
        fs::write(&store, bytes).unwrap();
    };
    let check = |what: &str| {
        let (found_tick, found_hash, log) = start(data.path()).unwrap_or_else(|log| panic!("{what}: {log}"));
        assert_clean(&log);
        assert_eq!((found_tick, &found_hash), (tick, &hash), "{what}: {log}");
        log
    };
    for part in 1..24 {
        put(&good);
        flip(&store, good.len() * part / 24);
        check(&format!("a flip at {part}/24"));
    }
    // redb takes space ahead, and leaves what it has freed: to lose only that does no harm.
    let used = good.iter().rposition(|byte| *byte != 0).unwrap();
    for (what, bytes) in
        [("empty", &good[..0]), ("cut", &good[..used / 16]), ("text", b"not a store".as_slice())]
    {
        put(bytes);
        let log = check(what);
        assert!(log.contains("WARN"), "{what}: somebody is told: {log}");
    }
    put(&good);
    fs::remove_file(&store).unwrap();
    check("missing");
}

#[test]
fn a_log_of_another_world_is_refused_by_name() {
    let data = tempfile::tempdir().unwrap();
    killed(data.path());
    fs::create_dir_all(data.path().join("worlds/other")).unwrap();
    fs::rename(world(data.path(), "log"), data.path().join("worlds/other/log")).unwrap();
    let scenario = data.path().join("other.toml");
    fs::write(
        &scenario,
        include_str!("../../configs/town.toml").replace("name = \"town\"", "name = \"other\""),
    )
    .unwrap();
    let set = format!("world.scenario={}", scenario.display());
    let server = Server::launch(data.path(), &["--set", &set]).map(Server::ended);
    let log = server.map_or_else(|log| log, |(status, log)| format!("{status}\n{log}"));
    assert!(log.contains("belongs to world"), "{log}");
}
