//! What a host needs to get past a tick that fails: disabled systems, skipped inputs, the culprit's name, the watch.

use crate::{created, options};
use bevy_ecs::prelude::*;
use everworld_engine::{
    Doing, EnableError, Input, InputEnvelope, InputError, Outcome, Parallel, Tick, TickError, TickTime, Uid,
    WorldBuilder, component, input::InputWorld, resource, system,
};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

component! {
    pub struct Age("age", version 1) { ticks: u64 }
}
resource! {
    #[derive(Default, Clone, PartialEq, Debug)]
    pub struct Sum("sum", version 1) { total: u64 }
}
#[derive(Resource, Default)]
struct Grid(Vec<u64>);
#[derive(Component)]
struct Smuggled;

fn index(time: Res<TickTime>, mut grid: ResMut<Grid>) {
    *grid = Grid(vec![time.tick.0; 3]);
}
fn add(grid: Res<Grid>, mut sum: ResMut<Sum>) {
    sum.total += 1 + grid.0.iter().sum::<u64>();
}

#[derive(Serialize, Deserialize)]
enum Act {
    Add(u64),
    Panic,
    Smuggle,
}

impl Input for Act {
    const KIND: &'static str = "act";
    const DOC: &'static str = "Does as told.";

    fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError> {
        match self {
            Self::Add(total) => world.resource_mut::<Sum>().total += total,
            Self::Panic => panic!("as told"),
            Self::Smuggle => _ = world.insert(Uid::new(1), Smuggled),
        }
        Ok(Outcome::default())
    }
}

fn act(seq: u64, act: &Act) -> InputEnvelope {
    InputEnvelope { seq, kind: "act".into(), at_tick: None, payload: serde_json::to_vec(act).unwrap() }
}

fn builder() -> WorldBuilder {
    let mut world = WorldBuilder::new(1, 1.0);
    world.column::<Age>().resource(Sum::default()).derived::<Grid>().input::<Act>();
    world.system(system(index)).system(system(add).after(index));
    world.setup(|world| _ = world.spawn(Age { ticks: 1 }));
    world
}

#[test]
fn a_disabled_system_does_not_run_and_others_do() {
    for parallel in [Parallel::Always, Parallel::Never] {
        let mut live = created(builder(), 2, parallel);
        live.set_enabled("watch::add", false).unwrap();
        assert_eq!(live.disabled().collect::<Vec<_>>(), ["watch::add"]);
        let ran: Vec<bool> = live.tick(&[]).unwrap().systems.iter().map(|system| system.ran).collect();
        assert_eq!(ran, [true, false]);
        assert_eq!(live.resource::<Sum>().total, 0);
        live.set_enabled("watch::add", true).unwrap();
        live.tick(&[]).unwrap();
        assert_eq!(live.resource::<Sum>().total, 7);
        assert_eq!(live.set_enabled("nobody", false), Err(EnableError::Unknown("nobody".into())));
    }
}

#[test]
fn nodes_of_the_engine_cannot_be_disabled() {
    fn breed(effects: everworld_engine::Effects) {
        effects.spawn(Uid::new(1), Age { ticks: 1 });
    }
    let mut world = builder();
    world.system(system(breed));
    let mut live = created(world, 1, Parallel::Never);
    assert_eq!(
        live.set_enabled("tick::structure", false),
        Err(EnableError::Engine("tick::structure".into()))
    );
}

/// W4: what a disabled system rebuilt is empty, and not what it was when the system last ran.
#[test]
fn w4_a_restore_is_unobservable_where_a_system_is_disabled() {
    let mut live = created(builder(), 1, Parallel::Never);
    live.tick(&[]).unwrap();
    live.set_enabled("watch::index", false).unwrap();
    let image = live.image();
    let mut other = builder().build(options(1, Parallel::Never)).unwrap();
    other.restore(&image).unwrap();
    other.set_enabled("watch::index", false).unwrap();
    for _ in 0..3 {
        live.tick(&[]).unwrap();
        other.tick(&[]).unwrap();
        assert_eq!(live.state_hash(), other.state_hash());
    }
}

#[test]
fn the_input_that_fails_is_named_and_can_be_skipped() {
    let inputs = [act(3, &Act::Add(5)), act(4, &Act::Panic), act(5, &Act::Smuggle), act(6, &Act::Add(7))];
    let mut live = created(builder(), 1, Parallel::Never);
    let start = live.image();
    let culprit = |error: TickError| match error {
        TickError::Inputs { seq, .. } => seq,
        other => panic!("{other}"),
    };
    assert_eq!(culprit(live.tick(&inputs).unwrap_err()), Some(4));
    let anew = || {
        let mut live = builder().build(options(1, Parallel::Never)).unwrap();
        live.restore(&start).unwrap();
        live.skip_input(4);
        live
    };
    let mut live = anew();
    live.set_careful(true);
    assert_eq!(culprit(live.tick(&inputs).unwrap_err()), Some(5), "not the last one");
    let mut live = anew();
    live.skip_input(5);
    let report = live.tick(&inputs).unwrap();
    let outcomes: Vec<_> = report.outcomes.iter().map(|(seq, outcome)| (*seq, outcome.is_ok())).collect();
    assert_eq!(outcomes, [(3, true), (4, false), (5, false), (6, true)]);
    assert_eq!(report.outcomes[1].1, Err(InputError::Skipped));
    assert_eq!(live.taken_seq(), 6);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "who watches is another thread")]
fn the_watch_names_the_system_that_does_not_end() {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    static OVER: AtomicBool = AtomicBool::new(false);
    fn endless(time: Res<TickTime>) {
        if time.tick == Tick(2) {
            STARTED.fetch_add(1, SeqCst);
            while !OVER.load(SeqCst) {
                std::thread::yield_now();
            }
        }
    }
    for (threads, parallel) in [(1, Parallel::Never), (1, Parallel::Always), (4, Parallel::Always)] {
        OVER.store(false, SeqCst);
        STARTED.store(0, SeqCst);
        let mut world = builder();
        world.system(system(endless).named("z::endless"));
        let mut live = created(world, threads, parallel);
        let watch = live.watch();
        assert_eq!(watch.look(), None);
        live.tick(&[]).unwrap();
        assert_eq!(watch.look(), None);
        let ticking = std::thread::spawn(move || live.tick(&[]).map(|_| ()));
        while STARTED.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        // The others end some time.
        let endless = Doing::System("z::endless".into());
        while watch.look().unwrap().doing != endless {
            std::thread::yield_now();
        }
        assert_eq!(watch.look().unwrap().tick, Tick(2));
        OVER.store(true, SeqCst);
        ticking.join().unwrap().unwrap();
        assert_eq!(watch.look(), None);
    }
}
