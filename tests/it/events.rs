//! What happens in a world, as pages and streams; and the program's log.

use crate::support::{Server, Stream};
use serde_json::{Value, json};

const EVENTS: &str = "/v1/worlds/town/events";

fn place(event: &Value) -> (u64, u64) {
    let (tick, number) = event["id"].as_str().unwrap().split_once('.').unwrap();
    (tick.parse().unwrap(), number.parse().unwrap())
}

#[test]
fn events_are_told_in_order_and_a_reader_goes_on_where_he_was() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let mut stream =
        Stream::open(&server, &format!("{EVENTS}?topic=tick,input,state"), "application/x-ndjson");
    let (_, made) = server.post("/v1/worlds/town/entities?ack=applied", r#"{"prototype": "townsman"}"#);
    let uid = made["created"][0].as_str().unwrap();
    assert_eq!(
        server
            .post(
                "/v1/worlds/town/inputs?ack=applied",
                r#"{"kind": "despawn_entities", "payload": {"entities": [{"uid": "1"}, {"uid": "999999"}]}}"#
            )
            .0,
        202
    );
    assert_eq!(server.post("/v1/worlds/town/pause", "").0, 202);
    // Ticks in order; what became of an input comes with its tick, and not before it.
    let mut seen: Vec<Value> = Vec::new();
    while seen.last().is_none_or(|event| event["topic"] != "state") {
        seen.extend(stream.json());
    }
    assert!(seen.windows(2).all(|pair| place(&pair[0]).1 < place(&pair[1]).1), "{seen:?}");
    assert!(seen.windows(2).all(|pair| place(&pair[0]).0 <= place(&pair[1]).0), "{seen:?}");
    let inputs: Vec<usize> = (0..seen.len()).filter(|i| seen[*i]["topic"] == "input").collect();
    let [born, refused] = inputs[..] else { panic!("{seen:?}") };
    assert_eq!((&seen[born]["created"], &seen[born]["tick"]), (&json!([uid]), &made["tick"]));
    assert!(
        seen[refused]["rejected"].as_str().is_some_and(|why| why.contains("999999")),
        "{}",
        seen[refused]
    );
    assert!(seen[..born].iter().any(|event| event["topic"] == "tick" && event["tick"] == made["tick"]));
    assert_eq!(seen.last().unwrap()["state"], "paused");

    // A page tells the same, of one entity, or behind an event.
    let (_, page) = server.get(&format!("{EVENTS}?topic=input&entity={uid}"));
    assert_eq!(page["items"], json!([seen[born]]));
    // Who came is told also by the tick.
    let (_, lives) = server.get(&format!("{EVENTS}?topic=entity&entity={uid}"));
    let came = &lives["items"][0];
    assert_eq!(
        (&came["born"], &came["born_count"], &came["tick"]),
        (&json!([uid]), &json!(1), &made["tick"]),
        "{lives}"
    );
    assert_eq!(came["gone_count"], 0);
    let id = seen[born]["id"].as_str().unwrap();
    let (_, page) = server.get(&format!("{EVENTS}?topic=input,state&after={id}"));
    assert_eq!(page["items"], json!([seen[refused], seen.last().unwrap()]));
    let (_, first) = server.get(&format!("{EVENTS}?topic=input&limit=1"));
    assert_eq!(first["items"], json!([seen[born]]));
    let next = first["next"].as_str().unwrap();
    assert_eq!(server.get(&format!("{EVENTS}?topic=input&after={next}")).1["items"], json!([seen[refused]]));
    let (status, answer) = server.get(&format!("{EVENTS}?topic=weather"));
    assert_eq!(status, 400, "{answer}");
    assert_eq!(server.get(&format!("{EVENTS}?after=never")).0, 400);

    // Who is away for too long is told what he has missed.
    assert_eq!(server.client().request("PUT", "/v1/worlds/town/rate", r#"{"rate_hz": 0}"#).unwrap().0, 202);
    assert_eq!(server.post("/v1/worlds/town/step", r#"{"ticks": 6000}"#).0, 202);
    let late = server.until(|server| {
        let (_, page) = server.get(&format!("{EVENTS}?after={id}&limit=1"));
        page["lagged"].is_object().then_some(page)
    });
    assert_eq!(late["lagged"]["from"], place(&seen[born]).1 + 1);
    assert_eq!(place(&late["items"][0]).1, late["lagged"]["to"].as_u64().unwrap() + 1);
    let mut stream = Stream::open(&server, &format!("{EVENTS}?after={id}"), "text/event-stream;q=0.9, */*");
    assert_eq!(stream.line().as_deref(), Some("event: lagged"));
    // What a browser accepts is no stream.
    let mut page =
        Stream::open(&server, &format!("{EVENTS}?limit=1"), "text/html,application/xml;q=0.9,*/*;q=0.8");
    assert_eq!(page.json().unwrap()["items"].as_array().map(Vec::len), Some(1));

    // Also when it was the server that was away: its ids are not used again.
    server.kill();
    let server = Server::start(data.path(), &[]);
    let (_, page) = server.get(&format!("{EVENTS}?after={id}&limit=1"));
    assert_eq!(page["lagged"]["from"], place(&seen[born]).1 + 1, "{page}");
    assert!(place(&page["items"][0]).1 > place(seen.last().unwrap()).1, "{page}");
}

/// What the systems of a world emit is told under its own topic, and a reader goes on in the midst of a tick.
#[test]
fn what_systems_emit_is_told_in_order() {
    const EVENTS: &str = "/v1/worlds/battle/events";
    let data = tempfile::tempdir().unwrap();
    // So dense that a volley of many hits each: hundreds are lost in one tick.
    let scenario = data.path().join("battle.toml");
    let text = include_str!("../../configs/battle.toml").replace("# side = 1000.0", "side = 24.0");
    std::fs::write(&scenario, text.replace("height = 200.0", "height = 12.0")).unwrap();
    let scenario = format!("world.scenario={}", scenario.display());
    let dir = data.path().join("data");
    let sets = ["--set", &scenario, "--set", "world.population=3000", "--set", "tick.rate_hz=0"];
    let server = Server::start(&dir, &sets);
    let lost = server.until(|server| {
        let (_, page) = server.get(&format!("{EVENTS}?topic=lost&limit=1000"));
        (page["items"].as_array()?.len() >= 600).then_some(page)
    });
    assert_eq!(server.post("/v1/worlds/battle/pause", "").0, 202);
    let items = lost["items"].as_array().unwrap();
    let place = |event: &Value| {
        let id = event["id"].as_str().unwrap().split('.').map(|part| part.parse().unwrap());
        <[u64; 3]>::try_from(id.collect::<Vec<_>>()).unwrap()
    };
    assert!(items.windows(2).all(|pair| place(&pair[0]) < place(&pair[1])), "{items:?}");
    let uid = |event: &Value| event["entity"].as_str().unwrap().parse::<u64>().unwrap();
    let of_a_tick = |pair: &&[Value]| pair[0]["tick"] == pair[1]["tick"];
    assert!(items.windows(2).filter(of_a_tick).all(|pair| uid(&pair[0]) < uid(&pair[1])), "{items:?}");
    assert!(items.iter().all(|event| event["event"]["hits"].as_u64().is_some_and(|hits| hits > 0)));

    // By pages of any size, and by one who comes back in the midst of a tick.
    let mut pages = Vec::new();
    let mut after = "0".to_owned();
    while pages.len() < items.len() {
        let (_, page) = server.get(&format!("{EVENTS}?topic=lost&limit=7&after={after}"));
        pages.extend(page["items"].as_array().unwrap().iter().cloned());
        after = page["after"].as_str().unwrap().to_owned();
    }
    assert_eq!(pages[..items.len()], items[..]);
    let last = items[5]["id"].as_str().unwrap();
    let mut stream =
        Stream::open(&server, &format!("{EVENTS}?topic=lost&after={last}"), "application/x-ndjson");
    for item in &items[6..600] {
        assert_eq!(stream.json().as_ref(), Some(item));
    }
    let own = uid(&items[3]);
    let (_, page) = server.get(&format!("{EVENTS}?topic=lost&entity={own}"));
    assert_eq!(page["items"], json!([items[3]]));
    let (status, answer) = server.get(&format!("{EVENTS}?topic=weather"));
    assert!(status == 400 && answer.to_string().contains("alert, lost"), "{answer}");
    let mut metrics = Vec::new();
    server.client().download("/metrics", &mut metrics).unwrap();
    let metrics = String::from_utf8(metrics).unwrap();
    assert!(metrics.contains("everworld_events_total{world=\"battle\",topic=\"lost\"}"), "{metrics}");
    server.kill();

    // As many as are wanted, the others counted.
    let dir = data.path().join("other");
    let server = Server::start(&dir, &[&sets[..], &["--set", "tick.events_max=3"]].concat());
    let dropped = server.until(|server| {
        let (_, page) = server.get(&format!("{EVENTS}?topic=lost&limit=1000"));
        page["items"].as_array()?.iter().find(|event| event["dropped"].is_u64()).cloned()
    });
    assert!(place(&dropped)[2] == 2 && dropped["dropped"].as_u64().is_some_and(|dropped| dropped > 0));
}

/// What a world is measured by is a series, of what may be seen, and a metric; a kind that is not says so.
#[test]
fn a_world_is_measured_from_time_to_time() {
    const STATISTICS: &str = "/v1/worlds/flocking/statistics";
    let data = tempfile::tempdir().unwrap();
    let sets = "--set world.scenario=flocking --set world.population=400 --set tick.rate_hz=50 \
                --set statistics.every_secs=0.05";
    let sets: Vec<&str> = sets.split_whitespace().collect();
    let server = Server::start(data.path(), &sets);
    let page = server.until(|server| {
        let (_, page) = server.get(STATISTICS);
        (page["items"].as_array()?.len() >= 5).then_some(page)
    });
    let items = page["items"].as_array().unwrap();
    let tick = |sample: &Value| sample["tick"].as_u64().unwrap();
    assert!(items.windows(2).all(|pair| tick(&pair[0]) < tick(&pair[1])), "{page}");
    let orders = items.iter().map(|sample| sample["statistics"]["order_parameter"].as_f64().unwrap());
    let orders: Vec<f64> = orders.collect();
    assert!(orders.iter().all(|order| (0.0..=1.0).contains(order)) && orders[0] != orders[4], "{orders:?}");
    // They are those of the tick, as a run of the same scenario has them.
    let scenario = everworld::worlds::load_scenario("flocking", everworld::PLUGINS, &[]).unwrap();
    let record = everworld::WorldRecord { world: "flocking".into(), scenario };
    let mut live =
        everworld::worlds::create(&record, everworld::PLUGINS, crate::support::options(1)).unwrap();
    (0..tick(&items[1])).for_each(|_| _ = live.tick(&[]).unwrap());
    let plugin = everworld::PLUGINS.iter().find(|plugin| plugin.name == "flocking").unwrap();
    let expected: serde_json::Map<String, Value> = plugin.statistics.unwrap()(&live.image())
        .iter()
        .map(|statistic| (statistic.name.to_owned(), json!(statistic.value)))
        .collect();
    assert_eq!(items[1]["statistics"], json!(expected));
    let after = items[2]["id"].as_str().unwrap();
    let (_, later) = server.get(&format!("{STATISTICS}?after={after}&limit=1"));
    assert_eq!(later["items"], json!([items[3]]));
    let mut stream = Stream::open(&server, &format!("{STATISTICS}?after={after}"), "text/event-stream");
    let line = std::iter::from_fn(|| stream.line()).find(|line| line.starts_with("event: "));
    assert_eq!(line.as_deref(), Some("event: statistics"));
    let mut metrics = Vec::new();
    server.client().download("/metrics", &mut metrics).unwrap();
    let metrics = String::from_utf8(metrics).unwrap();
    let metric = "everworld_world_statistic{world=\"flocking\",statistic=\"order_parameter\"}";
    assert!(metrics.contains(metric), "{metrics}");
    server.kill();

    let dir = data.path().join("march");
    let server = Server::start(&dir, &["--set", "world.scenario=march", "--set", "world.population=50"]);
    let (status, answer) = server.get("/v1/worlds/march/statistics");
    assert!(status == 404 && answer.to_string().contains("measured by nothing"), "{answer}");
}

#[test]
fn the_log_can_be_read_and_told_to_say_more() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let (_, lines) = server.get("/v1/logs");
    let ready = |line: &&Value| line["fields"]["message"] == "world is ready";
    let ready = lines["items"].as_array().unwrap().iter().find(ready).unwrap().clone();
    assert_eq!((&ready["level"], &ready["fields"]["world"]), (&json!("INFO"), &json!("town")));
    let mut stream = Stream::open(&server, "/v1/logs", "application/x-ndjson");
    let filter = |text: &str| {
        let body = json!({"filter": text}).to_string();
        server.client().request("PUT", "/v1/logs/filter", &body).unwrap().0
    };
    assert_eq!((filter("everworld=nonsense"), filter("debug")), (422, 200));
    let told = std::iter::from_fn(|| stream.json()).find(|line| line["fields"]["filter"] == "debug");
    assert!(told.is_some());
    assert_eq!(server.post("/v1/worlds/town/snapshots", "").0, 200);
    let wrote = std::iter::from_fn(|| stream.json()).find(|line| line["level"] == "DEBUG");
    assert!(wrote.is_some());
}
