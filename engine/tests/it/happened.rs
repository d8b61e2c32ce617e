//! What happens in a tick is told in one order, whatever the threads and the rows (W1, W3), and is gone with it (W4).

use crate::{created, options};
use everworld_engine::{EventBatch, LiveWorld, Parallel, Phase, WorldBuilder, component, event, prelude::*};
use serde_json::json;
use std::collections::BTreeMap;

component! {
    struct Voice("voice", version 1) { pitch: u64 }
}
event! {
    /// Somebody called.
    struct Called("called") {
        whom: Uid,
        times: u64,
    }
}
event! {
    struct Fell("fell") { height: f32, depth: f32 }
}
resource! {
    /// What was heard of all that was called, in its order.
    #[derive(Clone, Debug, Default)]
    struct Heard("heard", version 1) { sum: u64, count: u64 }
}

const TALK: Phase = Phase("talk");
const LISTEN: Phase = Phase("listen");

/// Calls twice in a first pass, and once in a second one.
fn call(mut voices: Rows<(&'static Uid, &'static Voice)>, called: Emit<Called>) {
    // Of one who is told of by another thread next.
    for uid in (9..9_000).step_by(97) {
        called.emit(Uid::new(uid), Called { whom: Uid::NONE, times: 77 });
    }
    for pass in 0..2 {
        voices.for_each(|(uids, voices)| {
            for (uid, voice) in uids.iter().zip(voices) {
                for times in 0..2 - pass {
                    called.emit(*uid, Called { whom: Uid::new(voice.pitch), times: 10 * pass + times });
                }
            }
        });
    }
}

fn fall(voices: Rows<&'static Voice>, fell: Emit<Fell>, called: Emit<Called>) {
    let count = voices.count() as u64;
    fell.emit(Uid::new(1), Fell { height: 2.5, depth: 1.0 });
    // Before what `zcall` emits, as its name is.
    called.emit(Uid::new(count), Called { whom: Uid::NONE, times: 99 });
}

fn hear(called: Res<Happened<Called>>, mut heard: ResMut<Heard>) {
    for (about, called) in called.iter() {
        heard.sum = heard.sum.rotate_left(7) ^ about.get() ^ (called.whom.get() << 20) ^ (called.times << 50);
        heard.count += 1;
    }
}

fn fail_once(time: Res<TickTime>, fell: Emit<Fell>) {
    fell.emit(Uid::new(2), Fell::default());
    assert!(FAILING.load(std::sync::atomic::Ordering::SeqCst) != time.tick.0, "as planned");
}

static FAILING: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

fn world(population: u64) -> WorldBuilder {
    let mut world = WorldBuilder::new(5, 1.0);
    world
        .column::<Voice>()
        .resource(Heard::default())
        .event::<Called>()
        .event::<Fell>()
        .phases(&[TALK, LISTEN])
        .system(system(call).named("zcall").phase(TALK))
        .system(system(fall).phase(TALK))
        .system(system(hear).phase(LISTEN));
    world.setup(move |world| {
        world.spawn_many((0..population).map(|i| (Voice { pitch: i * 7 },)));
    });
    world
}

fn told(live: &LiveWorld, name: &str) -> EventBatch {
    let events = &live.report().events;
    events.iter().find(|batch| batch.info.name == name).cloned().unwrap()
}

#[test]
fn w1_w3_what_happened_comes_in_one_order() {
    let mut runs = Vec::new();
    for (threads, shuffled) in [(1, false), (2, false), (8, false), (3, true), (2, false), (4, false)] {
        let mut live = created(world(9_000), threads, Parallel::Always);
        live.tell_events(40_000);
        for tick in 0..3 {
            if shuffled {
                let image = live.image().shuffled(tick);
                live.restore(&image).unwrap();
            }
            live.tick(&[]).unwrap();
        }
        runs.push((live.state_hash(), told(&live, "called"), told(&live, "fell")));
    }
    for run in &runs {
        assert_eq!(run.0, runs[0].0);
        assert!(run.1 == runs[0].1 && run.2 == runs[0].2, "another order");
    }
    let (_, called, fell) = &runs[0];
    assert_eq!((called.count, called.len(), fell.count), (27_094, 27_094, 1));
    assert_eq!(called.to_json(0), (Uid::new(9_000), json!({"whom": "0", "times": 99})));
    // One after the other as they were emitted, the second pass after the first.
    for (index, times) in [(1, 0), (2, 1), (3, 10)] {
        assert_eq!(called.to_json(index), (Uid::new(1), json!({"whom": "0", "times": times})));
    }
    assert_eq!(called.to_json(4).0, Uid::new(2));
    let mut times: BTreeMap<Uid, Vec<u64>> = BTreeMap::new();
    for (uid, called) in (0..called.len()).map(|index| called.to_json(index)) {
        times.entry(uid).or_default().push(called["times"].as_u64().unwrap());
    }
    for uid in (9..9_000).step_by(97) {
        let times = &times[&Uid::new(uid)];
        assert_eq!(*times, [77, 0, 1, 10], "what was told before the first pass comes before it");
    }
    assert!(called.is_about(4, Uid::new(7)) && called.is_about(4, Uid::new(2)));
    assert!(!called.is_about(4, Uid::new(3)));
}

#[test]
fn a_report_tells_as_many_as_are_asked_for_and_counts_all() {
    let mut live = created(world(50), 2, Parallel::Always);
    live.tick(&[]).unwrap();
    assert_eq!((told(&live, "called").count, told(&live, "called").len()), (244, 0));
    live.tell_events(10);
    live.tick(&[]).unwrap();
    assert_eq!((told(&live, "called").count, told(&live, "called").len()), (244, 10));
}

/// W4: of a tick that failed nothing is told, nor of the tick before.
#[test]
fn w4_what_was_emitted_before_a_failure_did_not_happen() {
    let build = || {
        let mut world = world(10);
        world.system(system(fail_once).phase(LISTEN));
        world.build(options(2, Parallel::Never)).unwrap()
    };
    let mut live = build();
    live.create().unwrap();
    live.tick(&[]).unwrap();
    let image = live.image();
    FAILING.store(2, std::sync::atomic::Ordering::SeqCst);
    live.tick(&[]).unwrap_err();
    FAILING.store(0, std::sync::atomic::Ordering::SeqCst);
    live.restore(&image).unwrap();
    live.tick(&[]).unwrap();
    let mut other = build();
    other.create().unwrap();
    (0..2).for_each(|_| _ = other.tick(&[]).unwrap());
    assert_eq!(live.report().events, other.report().events);
    assert_eq!(live.state_hash(), other.state_hash());
}

#[test]
fn events_have_names_of_their_own_and_are_registered() {
    event! {
        struct Tick("tick") { number: u64 }
    }
    let mut builder = WorldBuilder::new(5, 1.0);
    builder.column::<Voice>().event::<Tick>().event::<Fell>().event::<Fell>().system(system(hear));
    let faults = builder.build(options(1, Parallel::Never)).err().unwrap().to_string();
    assert!(faults.contains("event \"fell\" is registered twice"), "{faults}");
    assert!(faults.contains("event \"tick\" has the name of something else"), "{faults}");
    event! {
        struct Voiced("voice") { number: u64 }
    }
    let mut builder = WorldBuilder::new(5, 1.0);
    builder.event::<Voiced>().column::<Voice>();
    let faults = builder.build(options(1, Parallel::Never)).err().unwrap().to_string();
    assert_eq!(
        faults,
        "event \"voice\" has the name of something else: a column, a resource or a topic of every world"
    );
    let mut builder = WorldBuilder::new(5, 1.0);
    builder.column::<Voice>().event::<Called>().system(system(fall));
    let faults = builder.build(options(1, Parallel::Never)).err().unwrap().to_string();
    assert!(faults.contains("it emits \"fell\", which is not registered"), "{faults}");
}
