//! The plan of the town: what a change moves in the tick is read in review.

use crate::support::{everworld, options, town};
use expect_test::expect_file;
use serde_json::Value;

/// Renew with `UPDATE_EXPECT=1 cargo test`.
#[test]
fn the_town_ticks_by_this_plan() {
    let live = town(&[]).build(options(1)).unwrap();
    expect_file!["plan_town.txt"].assert_eq(&live.plan().to_string());
}

#[test]
fn the_command_prints_it_as_text_and_json() {
    let text = everworld(&["plan", "configs/town.toml"]);
    assert_eq!(String::from_utf8(text.stdout).unwrap(), include_str!("plan_town.txt"));
    let json: Value = serde_json::from_slice(&everworld(&["plan", "town", "--json"]).stdout).unwrap();
    let names: Vec<&str> =
        json["nodes"].as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"walk::step"));
    let edge = &json["edges"][0];
    assert!(edge["from"].as_u64() < edge["to"].as_u64() && !edge["reason"].is_null(), "{edge}");
}
