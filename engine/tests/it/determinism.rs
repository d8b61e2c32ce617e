//! W1, W3, W4: threads, row order, registration order and restores decide nothing.

use crate::{created, options};
use bevy_ecs::prelude::*;
use everworld_engine::{
    Due, Effects, LiveWorld, Parallel, Phase, Random, Rows, StateHash, TickTime, Timers, Uid, UidIndex,
    WorldBuilder, Write, component, fold::FixedSum, resource, system,
};
use proptest::prelude::*;

component! {
    pub struct Energy("energy", version 1) { value: f32, bites: u32 }
}
component! {
    pub struct Target("target", version 1) { uid: Uid }
}
component! {
    pub struct Tired("tired", version 1) { since: u64 }
}
resource! {
    #[derive(Default)]
    pub struct Total("total", version 1) { sum: FixedSum, born: u64 }
}

component! {
    pub struct Wounded("wounded", version 1) { by: Uid }
}

const WAKE: u32 = 7;
const HEAL: u32 = 100;

/// A small world in which everything happens that could depend on an order.
fn spend(random: Random, mut rows: Rows<(&'static Uid, Write<Energy>), Without<Tired>>) {
    rows.for_each(|(uids, mut energies)| {
        for i in 0..uids.len() {
            let spent = random.of(uids[i]).unit32() * 0.2;
            energies.row_mut(i).value -= spent;
        }
    });
}
fn aim(random: Random, time: Res<TickTime>, mut rows: Rows<(&'static Uid, Write<Target>)>) {
    rows.for_each(|(uids, mut targets)| {
        for i in 0..uids.len() {
            if (time.tick.0 + uids[i].get()).is_multiple_of(3) {
                let uid = Uid::new(1 + u64::from(random.of(uids[i]).below(200)));
                targets.set(i, Target { uid });
            }
        }
    });
}
fn bite(index: Res<UidIndex>, targets: Query<&Target>, mut energies: Query<&mut Energy>) {
    for target in &targets {
        // Integers add up in any order.
        if let Some(mut energy) = index.get(target.uid).and_then(|entity| energies.get_mut(entity).ok()) {
            energy.bites += 1;
        }
    }
}
fn rest(
    time: Res<TickTime>,
    timers: Timers,
    effects: Effects,
    mut rows: Rows<(&'static Uid, &'static Energy), Without<Tired>>,
) {
    rows.for_each(|(uids, energies)| {
        for (uid, energy) in uids.iter().zip(energies) {
            if energy.value < 0.0 {
                effects.insert(*uid, *uid, Tired { since: time.tick.0 });
                timers.after(5 + uid.get() % 3, *uid, WAKE);
            }
        }
    });
}
fn wake(due: Due, effects: Effects, index: Res<UidIndex>, mut energies: Query<&mut Energy>) {
    for uid in due.of(WAKE) {
        effects.remove::<Tired>(uid, uid);
        if let Some(mut energy) = index.get(uid).and_then(|entity| energies.get_mut(entity).ok()) {
            energy.value += 2.0;
        }
    }
}
fn breed(effects: Effects, random: Random, mut rows: Rows<(&'static Uid, &'static Energy)>) {
    rows.for_each(|(uids, energies)| {
        for (uid, energy) in uids.iter().zip(energies) {
            let mut draws = random.of(*uid);
            if energy.value > 1.5 && draws.chance(0.2) {
                effects.spawn(*uid, (Energy { value: draws.unit32(), bites: 0 }, Target::default()));
            }
            if energy.bites > 40 {
                effects.despawn(*uid, *uid);
            }
        }
    });
}
/// Several aim at one: who is heard last must not be a matter of threads or rows.
fn wound(effects: Effects, timers: Timers, mut rows: Rows<(&'static Uid, &'static Target)>) {
    rows.for_each(|(uids, targets)| {
        for (uid, target) in uids.iter().zip(targets) {
            if target.uid != Uid::NONE && uid.get() % 5 == 0 {
                effects.insert(*uid, target.uid, Wounded { by: *uid });
                timers.after(2, target.uid, HEAL + uid.get() as u32 % 7);
            }
        }
    });
}
fn add_up(mut total: ResMut<Total>, mut rows: Rows<&'static Energy>) {
    total.sum =
        rows.sum(|energies| energies.iter().map(|energy| FixedSum::of(f64::from(energy.value))).sum());
}

fn builder(seed: u64) -> WorldBuilder {
    let mut world = WorldBuilder::new(seed, 1.0);
    world
        .column::<Energy>()
        .column::<Target>()
        .column::<Tired>()
        .column::<Wounded>()
        .resource(Total::default());
    world
        .system(system(spend))
        .system(system(aim))
        .system(system(bite).after(aim))
        .system(system(rest).after(spend))
        .system(system(wake))
        .system(system(wound))
        .system(system(breed).every(2))
        .system(system(add_up).after(breed));
    world.setup(|world| {
        world.spawn_many(
            (0..5_000).map(|i| (Energy { value: i as f32 / 5_000.0, bites: 0 }, Target::default())),
        );
    });
    world
}

const TICKS: u64 = 60;

fn play(mut live: LiveWorld, mut between: impl FnMut(&mut LiveWorld)) -> StateHash {
    for _ in 0..TICKS {
        live.tick(&[]).unwrap();
        between(&mut live);
    }
    assert!(live.entities() > 5_000, "births happened");
    live.state_hash()
}

fn reference(seed: u64) -> StateHash {
    play(created(builder(seed), 1, Parallel::Never), |_| {})
}

#[test]
fn w1_one_hash_for_any_number_of_threads() {
    let expected = reference(1);
    for threads in [1, 2, 4, 8] {
        assert_eq!(
            play(created(builder(1), threads, Parallel::Always), |_| {}),
            expected,
            "{threads} threads"
        );
    }
    assert_ne!(reference(2), expected, "the seed decides");
}

#[test]
fn w3_registration_order_decides_nothing() {
    let expected = reference(1);
    for permutation in 0..5 {
        let mut world = builder(1);
        world.permute_registration(permutation);
        assert_eq!(play(created(world, 2, Parallel::Always), |_| {}), expected, "permutation {permutation}");
    }
}

#[test]
fn w3_w4_neither_row_order_nor_restores_are_noticed() {
    let expected = reference(1);
    let heavy = play(created(builder(1), 2, Parallel::Always), |live| {
        let image = live.image();
        live.restore(&image).unwrap();
    });
    assert_eq!(heavy, expected, "restored in place after every tick");
    let shuffled = play(created(builder(1), 2, Parallel::Always), |live| {
        let image = live.image().shuffled(live.now().0);
        assert_eq!(image.compute_hash(), image.hash, "row order is not in the hash");
        live.restore(&image).unwrap();
    });
    assert_eq!(shuffled, expected, "rows shuffled after every tick");
    let mut moved = created(builder(1), 2, Parallel::Always);
    for tick in 0..TICKS {
        moved.tick(&[]).unwrap();
        if tick % 7 == 0 {
            let mut fresh = builder(1).build(options(1 + tick as usize % 3, Parallel::Auto)).unwrap();
            fresh.restore(&moved.image()).unwrap();
            moved = fresh;
        }
    }
    assert_eq!(moved.state_hash(), expected, "moved to fresh worlds with other threads");
}

// Systems over some of eight integer columns, in parallel and one after the other.
#[derive(Resource, Default)]
struct Cell<const I: usize>(u64);

fn mix<const R: usize, const W: usize, const N: usize>(from: Res<Cell<R>>, mut to: ResMut<Cell<W>>) {
    to.0 = to.0.wrapping_mul(31).wrapping_add(from.0).wrapping_add(N as u64);
}

type Cells<'w> = (ResMut<'w, Cell<0>>, ResMut<'w, Cell<1>>, ResMut<'w, Cell<2>>, ResMut<'w, Cell<3>>);

fn begin(time: Res<TickTime>, (mut a, mut b, mut c, mut d): Cells) {
    (a.0, b.0, c.0, d.0) = (time.tick.0, 1, 2, 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Random sets of systems that do not commute: whoever overtakes another shows in the cells.
    #[test]
    fn w1_parallel_equals_serial(picked in prop::collection::vec(any::<bool>(), 28), threads in 2usize..6) {
        let run = |parallel, threads| {
            let mut world = WorldBuilder::new(1, 1.0);
            world.derived::<Cell<0>>().derived::<Cell<1>>().derived::<Cell<2>>().derived::<Cell<3>>();
            world.phases(&[Phase("begin"), Phase("mix")]).system(system(begin).phase(Phase("begin")));
            let mut number = 0;
            macro_rules! each {
                ($($r:literal $w:literal $n:literal),*) => {$(
                    if picked[number] {
                        let name = format!("s{:02}", (number * 11) % 28);
                        world.system(system(mix::<$r, $w, $n>).named(name).phase(Phase("mix")));
                    }
                    number += 1;
                )*};
            }
            each!(0 1 0, 0 2 0, 0 3 0, 1 0 0, 1 2 0, 1 3 0, 2 0 0, 2 1 0, 2 3 0, 3 0 0, 3 1 0, 3 2 0, 0 1 1, 0 2 1,
                0 3 1, 1 0 1, 1 2 1, 1 3 1, 2 0 1, 2 1 1, 2 3 1, 3 0 1, 3 1 1, 3 2 1, 0 1 2, 1 2 2, 2 3 2, 3 0 2);
            prop_assert_eq!(number, 28);
            let mut live = created(world, threads, parallel);
            let mut seen = Vec::new();
            for _ in 0..50 {
                live.tick(&[]).unwrap();
                let cells = (live.resource::<Cell<0>>().0, live.resource::<Cell<1>>().0);
                seen.push((cells, live.resource::<Cell<2>>().0, live.resource::<Cell<3>>().0));
            }
            Ok(seen)
        };
        prop_assert_eq!(run(Parallel::Always, threads)?, run(Parallel::Never, 1)?);
    }
}
