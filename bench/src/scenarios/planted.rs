//! Worlds with one planted bug each. `canaries` builds them and expects that a harness notices.
//!
//! Each is an ordinary town of a few hundred rows but for the one system that does what no system may do. The
//! statics and clocks here are the bugs.

use everworld::{Plugin, Scenario, ScenarioError};
use everworld_engine::{prelude::*, random::Draws};
use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

component! {
    struct Level("level", version 1) { value: u64 }
}
resource! {
    #[derive(Default)]
    struct Newest("newest", version 1) { value: u64 }
}

macro_rules! planted {
    ($($(#[doc = $doc:literal])+ $CONST:ident = $name:literal, $systems:expr;)+) => {
        $(
            $(#[doc = $doc])+
            pub(crate) const $CONST: Plugin = Plugin::new(
                $name,
                concat!("name = '", $name, "'\nplugin = '", $name, "'\nseed = 1\npopulation = 300\ndt_secs = 1.0"),
                |world, scenario| {
                    ground(world, scenario);
                    let systems: fn(&mut WorldBuilder) = $systems;
                    systems(world);
                    Ok::<(), ScenarioError>(())
                },
            );
        )+
    };
}

planted! {
    /// Nothing planted: what the canaries are compared with.
    SOUND = "sound", |world| _ = world.system(system(grow));
    /// Reads a hash map of the standard library in its own order.
    HASH_MAP = "hash-map", |world| _ = world.system(system(read_hash_map));
    /// Keeps the row of somebody from one tick to the next.
    CACHED_ROW = "cached-row", |world| _ = world.system(system(grow)).system(system(keep_a_row).after(grow));
    /// Draws by the number of the row instead of by the Uid.
    ROW_SALT = "row-salt", |world| _ = world.system(system(draw_by_row));
    /// Takes the time that passed from the clock of the machine.
    WALL_CLOCK = "wall-clock", |world| _ = world.system(system(read_the_clock));
    /// Two systems that only a declared dependency keeps apart; the canary loses it.
    APART = "apart", |world| _ = world.derived::<Board>().system(system(fill)).system(system(read).after(fill));
    /// Rows come and go in every tick.
    BIRTHS = "births", |world| _ = world.system(system(grow)).system(system(come_and_go));
}

fn ground(world: &mut WorldBuilder, scenario: &Scenario) {
    world.column::<Level>().resource(Newest::default());
    let population = scenario.population;
    world.setup(move |world| _ = world.spawn_many((0..population).map(|value| Level { value })));
}

fn grow(random: Random, mut rows: Rows<(&'static Uid, Write<Level>)>) {
    rows.for_each(|(uids, mut levels)| {
        for i in 0..uids.len() {
            levels.row_mut(i).value += u64::from(random.of(uids[i]).below(10));
        }
    });
}

fn read_hash_map(mut newest: ResMut<Newest>, levels: Query<(&Uid, &Level)>) {
    let map: HashMap<u64, u64> = levels.iter().map(|(uid, level)| (uid.get(), level.value)).collect();
    #[expect(clippy::iter_over_hash_type, reason = "the planted bug")]
    for (uid, value) in map {
        newest.value = newest.value.wrapping_mul(31).wrapping_add(uid ^ value);
    }
}

static ROW: AtomicUsize = AtomicUsize::new(usize::MAX);

fn keep_a_row(mut newest: ResMut<Newest>, mut rows: Rows<(&'static Uid, &'static Level)>) {
    let found = std::sync::Mutex::new(0);
    rows.for_each(|(uids, levels)| {
        let kept = ROW.load(Relaxed);
        let row =
            if kept < uids.len() { kept } else { uids.iter().position(|uid| uid.get() == 7).unwrap_or(0) };
        ROW.store(row, Relaxed);
        *found.lock().expect("nobody panics with it") = levels[row].value;
    });
    newest.value = found.into_inner().expect("nobody panics with it");
}

fn draw_by_row(time: Res<TickTime>, mut rows: Rows<(&'static Uid, Write<Level>)>) {
    rows.for_each(|(uids, mut levels)| {
        for row in 0..uids.len() {
            levels.row_mut(row).value += Draws::new(time.seed, time.tick.0, 1, row as u64).u64() % 10;
        }
    });
}

static LAST_NANOS: AtomicU64 = AtomicU64::new(0);

fn read_the_clock(mut newest: ResMut<Newest>) {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let now = START.get_or_init(Instant::now).elapsed().as_nanos() as u64;
    newest.value += now.wrapping_sub(LAST_NANOS.swap(now, Relaxed));
}

/// Shared without a declared write: only the order of the two systems makes it safe to rely on.
#[derive(bevy_ecs::prelude::Resource, Default)]
struct Board {
    value: AtomicU64,
    /// The last tick in which it was read.
    read_in: AtomicU64,
}

/// Once in a run a reader that does not wait is given so long to come first, however busy the machine is.
const HEAD_START: Duration = Duration::from_millis(700);
const HEAD_START_TICK: u64 = 5;

fn fill(time: Res<TickTime>, board: Res<Board>) {
    let begun = Instant::now();
    while time.tick.0 == HEAD_START_TICK
        && board.read_in.load(Relaxed) != time.tick.0
        && begun.elapsed() < HEAD_START
    {
        std::thread::sleep(Duration::from_micros(200));
    }
    board.value.store(time.tick.0.wrapping_mul(6_364_136_223_846_793_005), Relaxed);
}

fn read(time: Res<TickTime>, board: Res<Board>, mut newest: ResMut<Newest>) {
    newest.value = newest.value.wrapping_mul(31).wrapping_add(board.value.load(Relaxed));
    board.read_in.store(time.tick.0, Relaxed);
}

fn come_and_go(random: Random, effects: Effects, mut rows: Rows<(&'static Uid, &'static Level)>) {
    rows.for_each(|(uids, levels)| {
        for (uid, level) in uids.iter().zip(levels) {
            match random.of(*uid).below(20) {
                0 => effects.despawn(*uid, *uid),
                1 => effects.spawn(*uid, Level { value: level.value }),
                _ => {}
            }
        }
    });
}
