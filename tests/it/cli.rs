//! The command line: exit codes, bad configuration, what `run` prints.

use crate::support::{everworld, stderr};
use serde_json::Value;

#[track_caller]
fn check(args: &[&str], code: i32, says: &[&str]) {
    let output = everworld(args);
    let text = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    for part in says {
        assert!(text.contains(part), "{args:?} does not say {part:?}: {text}");
    }
}

#[test]
fn exit_codes_and_messages() {
    check(&["--help"], 0, &["serve", "Exit codes:", "75  the data directory is in use"]);
    check(&["run", "--help"], 0, &["--hash-every <N>", "--data <DIR>"]);
    check(&[], 2, &["Usage: everworld <COMMAND>"]);
    check(&["dance"], 2, &["unrecognized subcommand 'dance'"]);
    check(&["run", "town", "--hash-every", "0"], 2, &["0 is not in 1.."]);
    check(&["run", "town", "--threads", "18446744073709551615"], 2, &["--threads", "1..=256"]);
    check(&["run", "town", "--threads", "0"], 2, &["1..=256"]);
    check(
        &["run", "nowhere.toml"],
        78,
        &["could not read scenario \"nowhere.toml\"", "built-in scenarios: town"],
    );
    check(&["run", "town", "--set", "town.wages=1"], 78, &["unknown field `wages`"]);
    check(&["run", "town", "--set", "town.wage"], 78, &["--set town.wage: expected key=value"]);
    check(&["run", "town", "--npcs", "3"], 78, &["population: expected at least", "the cast, found 3"]);
    check(
        &["run", "town", "--set", "plugin=village"],
        78,
        &["unknown plugin \"village\", expected one of town"],
    );
    check(&["serve", "--set", "http.bind=0.0.0.0:1"], 78, &["reachable from other machines"]);
    check(&["serve", "--set", "http.bnid=1"], 78, &["--set", "http.bnid", "http.bind"]);
    check(&["config", "check"], 0, &["configuration ok"]);
    check(&["completions", "bash"], 0, &["_everworld"]);
}

#[test]
fn all_faults_of_a_file_are_told_with_their_lines() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("server.toml");
    std::fs::write(&file, "[http]\nbind = \"here\"\n\n[tick]\nrate_hz = -1.0\nrate = 3\n").unwrap();
    let path = file.to_str().unwrap();
    for command in [["config", "check", "--config"], ["config", "show", "--config"]] {
        let output = everworld(&[&command[..], &[path]].concat());
        assert_eq!(output.status.code(), Some(78));
        for line in ["server.toml:2: http.bind", "server.toml:5: tick.rate_hz", "server.toml:6: tick.rate"] {
            assert!(stderr(&output).contains(line), "{line}: {}", stderr(&output));
        }
    }
    let data = dir.path().join("data");
    let output = everworld(&["serve", "--config", path, "--data", data.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    assert!(!data.exists(), "nothing is started on a bad configuration");
    let scenario = dir.path().join("bad.toml");
    std::fs::write(&scenario, "name = 'x'\nplugin = 'town'\nseed = 'a'\npopulation = 1\ndt_secs = 1.0\n")
        .unwrap();
    check(&["run", scenario.to_str().unwrap()], 78, &["bad.toml:3: invalid type: string"]);
}

#[test]
fn config_init_writes_what_check_accepts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("server.toml");
    let path = file.to_str().unwrap();
    check(&["config", "init", path], 0, &["wrote"]);
    check(&["config", "check", "--config", path], 0, &["configuration ok"]);
    check(&["config", "init", path], 1, &["could not write"]);
    check(
        &["config", "show", "--config", path, "--set", "tick.rate_hz=5"],
        0,
        &["tick.rate_hz = 5", "# --set"],
    );
}

fn run_json(args: &[&str]) -> Value {
    let output = everworld(&[&["run", "town", "--json"], args].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "", "no progress bar where there is no terminal");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn run_prints_one_json_object() {
    let summary =
        run_json(&["--ticks", "40", "--npcs", "500", "--threads", "2", "--seed", "9", "--hash-every", "10"]);
    assert_eq!(summary["scenario"], "town");
    assert_eq!((summary["seed"].as_u64(), summary["threads"].as_u64()), (Some(9), Some(2)));
    assert_eq!((summary["ticks"].as_u64(), summary["entities"].as_u64()), (Some(40), Some(500)));
    for figure in ["wall_secs", "ticks_per_sec", "ns_per_entity_tick", "peak_rss_bytes"] {
        assert!(summary[figure].as_f64().unwrap() > 0.0, "{figure}");
    }
    let hashes = summary["hashes"].as_array().unwrap();
    let ticks: Vec<_> = hashes.iter().map(|hash| hash["tick"].as_u64().unwrap()).collect();
    assert_eq!(ticks, [10, 20, 30, 40]);
    assert_eq!(hashes[3]["hash"], summary["state_hash"]);
    assert_eq!(summary["state_hash"].as_str().unwrap().len(), 16);
    let walk =
        summary["systems"].as_array().unwrap().iter().find(|system| system["name"] == "walk::step").unwrap();
    assert_eq!(walk["runs"], 40);
    assert!(
        walk["total_ms"].as_f64() > Some(0.0) && walk["p99_us"].as_f64() >= walk["p50_us"].as_f64(),
        "{walk}"
    );
    let again = run_json(&["--ticks", "40", "--npcs", "500", "--threads", "1", "--seed", "9"]);
    assert_eq!(again["state_hash"], summary["state_hash"]);
    assert!(again.get("hashes").is_none());
}

#[test]
fn run_with_data_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let with = |ticks| run_json(&["--ticks", ticks, "--npcs", "300", "--data", data.to_str().unwrap()]);
    with("30");
    let both = with("20");
    let once = run_json(&["--ticks", "50", "--npcs", "300"]);
    assert_eq!(both["state_hash"], once["state_hash"]);
}

/// Whoever reads the first line only, as `head` does, is not told of a crash.
#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let mut command = std::process::Command::new(crate::support::EVERWORLD);
    // Closed before it writes: what fits into a pipe would else be taken before we are.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command.args(["plan", "town", "--json"]).stdout(writer).output().unwrap();
    assert_eq!(crate::support::stderr(&output), "");
    assert_eq!(output.status.code(), Some(141));
}
