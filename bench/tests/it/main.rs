//! Small counts of every harness, by the program itself: each must find nothing, and have done its work. Large
//! counts are for `everworld-bench NAME --help`.

#![allow(clippy::disallowed_methods, reason = "tests start processes; no tick does")]

use std::process::{Command, Stdio};

/// Runs a harness; it ends with 0 only when nothing was found and everything fired.
fn check(args: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everworld-bench"));
    let output = command.args(args).stdin(Stdio::null()).output().expect("the harness starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?} ended with {}\n{out}\n{err}", output.status);
    assert!(out.contains(" met"), "{args:?} has checked nothing: {out}");
    assert!(!out.contains("MISSED"), "{args:?}: {out}");
}

#[test]
fn d1_d2_d3_crashes_lose_and_contradict_nothing() {
    check(&[
        "crash",
        "--kill",
        "60",
        "--power-loss",
        "600",
        "--double",
        "40",
        "--real",
        "4",
        "--slow-rounds",
        "1",
        "--no-region",
    ]);
}

#[test]
fn d6_a_failed_write_or_sync_is_no_acknowledgement() {
    check(&["iofault", "--faults", "12"]);
}

#[test]
fn d5_no_turned_bit_makes_a_wrong_state() {
    check(&["bitrot", "--exhaustive", "--stride", "97", "--file-flips", "100"]);
}

#[test]
fn w4_a_restore_at_every_tick_is_not_noticed() {
    check(&["heavy", "--ticks", "60", "--npcs", "200"]);
    check(&["heavy", "--ticks", "60", "--npcs", "200", "--shuffle-rows"]);
}

#[test]
fn w1_w3_threads_and_registration_decide_nothing() {
    check(&["det", "--ticks", "40", "--npcs", "300", "--seeds", "2", "--shuffle-systems", "4"]);
}

#[test]
fn planted_bugs_are_caught() {
    check(&["canaries"]);
}

#[test]
fn the_standard_models_come_to_what_they_come_to_elsewhere() {
    check(&["models", "--variants", "small", "--seeds", "20"]);
}
