//! The standard models as worlds: what an input does to them, none of their systems fails by.

use crate::support::options;
use everworld::{PLUGINS, WorldRecord, worlds};
use everworld_engine::{InputEnvelope, Tick};
use serde_json::json;

#[test]
fn whoever_is_put_off_the_lattice_breaks_nothing() {
    for (model, uid, sets) in [
        ("schelling", 7, &["population=300", "schelling.side=20"][..]),
        ("schelling", 7, &["population=300", "schelling.side=20", "schelling.update=asynchronous"]),
        ("wolfsheep", 630, &[]),
        ("forestfire", 7, &[]),
        ("flocking", 7, &[]),
        ("flocking", 7, &["flocking.update=asynchronous"]),
    ] {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let scenario = worlds::load_scenario(model, PLUGINS, &sets).unwrap();
        let record = WorldRecord { world: model.into(), scenario };
        let mut live = worlds::create(&record, PLUGINS, options(2)).unwrap();
        let far = if model == "flocking" {
            json!({"position": {"x": -1e300, "y": 1e300}})
        } else {
            json!({"site": {"x": u32::MAX, "y": 3}})
        };
        let payload = json!({"entities": [{"uid": uid.to_string(), "components": far}]});
        let registry = live.registry().clone();
        let payload = registry.input("update_entities").unwrap().check(&payload, &registry).unwrap();
        let envelope = InputEnvelope { seq: 1, kind: "update_entities".into(), at_tick: None, payload };
        let report = live.tick(&[envelope]).unwrap();
        assert!(report.outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{:?}", report.outcomes);
        for _ in 0..30 {
            live.tick(&[]).unwrap();
        }
        assert_eq!(live.now(), Tick(31), "{model}");
        let plugin = PLUGINS.iter().find(|plugin| plugin.name == model).unwrap();
        let statistics = plugin.statistics.unwrap()(&live.image());
        assert!(statistics.iter().all(|statistic| statistic.value.is_some()), "{model}: {statistics:?}");
    }
}
