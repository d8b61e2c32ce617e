//! The server's own log: which worlds there are, where they come from, and what happens when that is not so.

use crate::support::{Server, everworld, stderr};
use everworld::{
    catalogue::{self, Catalogue, Event, Origin, Reconciled},
    spine::SpineError,
};
use everworld_engine::Tick;
use everworld_persistence::{Disk, RealDisk};
use serde_json::{Value, json};
use std::{fs, path::Path, sync::Arc};

fn real() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

fn listed(data: &Path) -> Vec<Value> {
    let output = everworld(&["worlds", "--json", "--data", data.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    listed["items"].as_array().unwrap().clone()
}

/// A directory with what a world has, as far as the catalogue looks.
fn make(data: &Path, name: &str) {
    fs::create_dir_all(data.join("worlds").join(name).join("log")).unwrap();
}

fn made(data: &Path, name: &str) -> impl FnOnce() -> Result<(), SpineError> {
    move || {
        make(data, name);
        Ok(())
    }
}

fn reconciled(data: &Path) -> Reconciled {
    Catalogue::open(&real(), data).unwrap().reconcile().unwrap()
}

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    names.into_iter().map(str::to_owned).collect()
}

#[test]
fn worlds_are_written_down_with_where_they_come_from_and_any_can_be_hosted() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().to_str().unwrap();
    let server = Server::start(data.path(), &[]);
    let tick = server.until(|server| {
        let tick = server.get("/v1/status").1["tick"].as_u64()?;
        (tick > 20).then_some(tick)
    });
    let fork = json!({"at_tick": tick, "name": "other"}).to_string();
    let (code, forked) = server.in_the_end(server.post("/v1/worlds/town/fork", &fork));
    assert_eq!(code, 200, "{forked}");
    let worlds = server.get("/v1/worlds").1["items"].clone();
    assert_eq!((&worlds[0]["world"], &worlds[0]["state"]), (&json!("town"), &json!("running")), "{worlds}");
    assert_eq!((&worlds[1]["world"], &worlds[1]["state"]), (&json!("other"), &json!("stored")), "{worlds}");
    assert_eq!(worlds[1]["origin"], json!({"forked": {"parent": "town", "branch": 0, "tick": tick}}));
    assert_eq!(server.terminate().0.code(), Some(0));

    let worlds = listed(data.path());
    assert_eq!(
        worlds.iter().map(|world| world["world"].as_str().unwrap()).collect::<Vec<_>>(),
        ["other", "town"]
    );
    assert_eq!(worlds[0]["last_tick"].as_u64(), Some(tick));
    assert!(worlds[1]["last_tick"].as_u64().unwrap() > tick && worlds[1]["bytes"].as_u64().unwrap() > 65_536);
    assert_eq!((&worlds[0]["scenario"], &worlds[1]["origin"]), (&json!("town"), &json!("created")));
    let text = everworld(&["worlds", "--data", path]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(&format!("town at tick 0/{tick}")) && text.contains("its scenario"), "{text}");

    let server = Server::start(data.path(), &["--world", "other"]);
    let worlds = server.get("/v1/worlds").1["items"].clone();
    assert_eq!((&worlds[0]["world"], &worlds[1]["world"]), (&json!("other"), &json!("town")), "{worlds}");
    assert_eq!(worlds[1]["state"], "stored");
    drop(server);
    let said = Server::launch(data.path(), &["--world", "third"]).err().unwrap();
    assert!(said.contains("there is no \"third\"; this data directory has: other, town"), "{said}");
}

#[test]
fn a_crash_while_a_world_is_made_leaves_it_made_or_forgotten() {
    let data = tempfile::tempdir().unwrap();
    let begun = |name: &str| Event::begun(name, Some("town"), Origin::Created);
    catalogue::making(&real(), data.path(), begun("whole"), made(data.path(), "whole")).unwrap();
    // It ends before the directory is there, and after.
    Catalogue::open(&real(), data.path()).unwrap().note(begun("early")).unwrap();
    let origin = Origin::Forked { parent: "whole".into(), branch: 2, tick: Tick(7) };
    let late = Event::begun("late", Some("town"), origin.clone());
    Catalogue::open(&real(), data.path()).unwrap().note(late).unwrap();
    make(data.path(), "late");
    let found = reconciled(data.path());
    assert_eq!(found, Reconciled { forgotten: names(["early"]), ..Reconciled::default() });
    let entries = Catalogue::read(&real(), data.path()).unwrap();
    assert_eq!(entries.keys().cloned().collect::<Vec<_>>(), ["late", "whole"]);
    assert!(entries["late"].done && entries["late"].origin == origin);
    assert_eq!(reconciled(data.path()), Reconciled::default(), "what was written down stays");
    let twice = catalogue::making(&real(), data.path(), begun("whole"), made(data.path(), "whole"));
    assert!(matches!(twice, Err(SpineError::Exists { .. })));
}

#[test]
fn a_world_that_nobody_wrote_down_is_adopted_and_one_that_is_gone_is_named() {
    let data = tempfile::tempdir().unwrap();
    let begun = Event::begun("gone", Some("town"), Origin::Created);
    catalogue::making(&real(), data.path(), begun, made(data.path(), "gone")).unwrap();
    fs::remove_dir_all(data.path().join("worlds/gone")).unwrap();
    make(data.path(), "stray");
    let expected = Reconciled { adopted: names(["stray"]), missing: names(["gone"]), forgotten: Vec::new() };
    assert_eq!(reconciled(data.path()), expected);
    let stored = catalogue::stored(&real(), data.path()).unwrap();
    assert!(!stored["gone"].there && stored["stray"].there);
    assert_eq!(stored["stray"].entry.as_ref().unwrap().origin, Origin::Adopted);
}

#[test]
fn a_lost_world_is_not_begun_anew_and_does_not_stop_the_others() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().to_str().unwrap();
    drop(Server::start(data.path(), &["--set", "world.name=one"]));
    drop(Server::start(data.path(), &["--set", "world.name=two"]));
    fs::remove_dir_all(data.path().join("worlds/one")).unwrap();
    let said = Server::launch(data.path(), &["--world", "one"]).err().unwrap();
    assert!(said.contains("the directory of world \"one\" is gone"), "{said}");
    let server = Server::start(data.path(), &["--world", "two"]);
    let missing = server.get("/v1/worlds").1["items"][1].clone();
    assert_eq!((&missing["world"], &missing["state"]), (&json!("one"), &json!("missing")), "{missing}");
    drop(server);
    // Whoever wants it gone says so.
    let there = everworld(&["worlds", "--data", path, "--forget", "two"]);
    assert_eq!(there.status.code(), Some(2), "{}", stderr(&there));
    assert_eq!(everworld(&["worlds", "--data", path, "--forget", "one"]).status.code(), Some(0));
    assert_eq!(listed(data.path()).len(), 1);
    Server::start(data.path(), &["--set", "world.name=one"]).kill();
    // A log that is lost is named too, and the store stays as it is.
    fs::remove_dir_all(data.path().join("worlds/two/log")).unwrap();
    let (status, said) = Server::launch(data.path(), &["--world", "two"]).unwrap().ended();
    assert_eq!(status.code(), Some(74), "{said}");
    assert!(said.contains("the log of world \"two\" is gone"), "{said}");
}

#[test]
fn a_damaged_catalogue_is_refused_by_name_and_can_be_made_again() {
    let data = tempfile::tempdir().unwrap();
    drop(Server::start(data.path(), &[]));
    let segment = data.path().join("server/log/00000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[150] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let said = Server::launch(data.path(), &[]).err().unwrap();
    assert!(said.contains("could not use the server's own log") && said.contains("00000001.seg"), "{said}");
    fs::rename(data.path().join("server"), data.path().join("server.aside")).unwrap();
    let server = Server::start(data.path(), &[]);
    assert_eq!(server.get("/v1/worlds").1["items"].as_array().unwrap().len(), 1);
    drop(server);
    assert_eq!(listed(data.path())[0]["origin"], "adopted");
}

#[test]
fn a_backup_holds_the_catalogue_and_the_worlds_that_are_not_hosted() {
    let (data, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = data.path().to_str().unwrap();
    let place = |name: &str| copies.path().join(name).display().to_string();
    let run = |args: &[&str], code: i32| {
        let output = everworld(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        stderr(&output)
    };
    let origins = |data: &Path| {
        let worlds = listed(data).into_iter();
        worlds.map(|world| (world["world"].clone(), world["origin"].clone())).collect::<Vec<_>>()
    };
    let server = Server::start(data.path(), &[]);
    let tick = server.until(|server| server.get("/v1/status").1["tick"].as_u64().filter(|tick| *tick > 20));
    let url = format!("http://{}", server.address);
    run(&["fork", "--url", &url, "--at", &tick.to_string(), "--name", "other"], 0);
    run(&["backup", "--url", &url, "--to", &place("live")], 0);
    assert_eq!(server.terminate().0.code(), Some(0));
    run(&["backup", "--data", path, "--to", &place("stopped")], 0);
    let forked = json!({"forked": {"parent": "town", "branch": 0, "tick": tick}});
    let expected = [(json!("other"), forked), (json!("town"), json!("created"))];
    for kind in ["live", "stopped"] {
        let (from, to) = (place(kind), place(&format!("{kind} again")));
        run(&["restore", "--from", &from, "--data", &to], 0);
        assert_eq!(origins(Path::new(&to)), expected, "{kind}");
        for world in ["other", "town"] {
            let server = Server::start(Path::new(&to), &["--world", world]);
            assert_eq!(server.terminate().0.code(), Some(0), "{kind} {world}");
        }
    }
    // One world, into a directory that has another.
    let (from, to) = (place("live"), place("one"));
    assert!(run(&["restore", "--from", &from, "--data", &to, "--world", "third"], 2).contains("other, town"));
    for world in ["other", "town"] {
        run(&["restore", "--from", &from, "--data", &to, "--world", world], 0);
        let again = run(&["restore", "--from", &from, "--data", &to, "--world", world], 2);
        assert!(again.contains("overwrites nothing"), "{again}");
    }
    let restored = [(json!("other"), json!("restored")), (json!("town"), json!("restored"))];
    assert_eq!(origins(Path::new(&to)), restored);
    Server::start(Path::new(&to), &["--world", "other"]);
    assert!(run(&["restore", "--from", path, "--data", path], 2).contains("overwrites nothing"));
    assert!(run(&["restore", "--from", &place("none"), "--data", &place("x")], 2).contains("is no backup"));
}
