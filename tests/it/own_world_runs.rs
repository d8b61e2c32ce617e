//! The example of a world of one's own runs, and has what ours have.

use crate::{own_world, support::options};
use everworld::{WorldRecord, worlds};
use everworld_engine::InputEnvelope;
use serde_json::json;

#[test]
fn a_users_own_world_has_what_ours_have() {
    let source = include_str!("../../examples/own_world.rs");
    assert!(source.lines().count() < 60, "it is to show how little it takes");
    let scenario = worlds::load_scenario("bees", own_world::PLUGINS, &["population=20".into()]).unwrap();
    let data = tempfile::tempdir().unwrap();
    let record = WorldRecord { world: "bees".into(), scenario };
    let play = |ticks| {
        let mut world = worlds::Durable::open(data.path(), &record, own_world::PLUGINS, options(2)).unwrap();
        (0..ticks).for_each(|_| world.tick().unwrap());
        let (now, hash) = (world.live().now().0, world.live().state_hash());
        world.close().unwrap();
        (now, hash)
    };
    let first = play(10);
    assert_eq!(play(0), first, "it is kept on disk");
    assert_eq!(play(5).0, 15, "and goes on");

    let mut live = worlds::create(&record, own_world::PLUGINS, options(1)).unwrap();
    let kind = live.registry().input("harvest").unwrap();
    let payload = kind.check(&json!({"hive": "3", "grams": 1e9}), live.registry()).unwrap();
    assert!(
        kind.check(&json!({"hive": "3", "gram": 1}), live.registry()).is_err(),
        "unknown members are named"
    );
    let input = InputEnvelope { seq: 1, kind: "harvest".into(), at_tick: None, payload };
    let report = live.tick(&[input]).unwrap();
    let rejected = report.outcomes[0].1.as_ref().unwrap_err().to_string();
    assert_eq!(rejected, "there is not that much honey");
}
