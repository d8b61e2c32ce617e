//! Battle: ships choose the nearest other ship, turn to it and fire at it.
//!
//! The rules and numbers of Typhon's SimpleSpaceBattle, with which that engine shows what it can do. In a tick all see the
//! same state: first who has no target takes the nearest other ship in sight, ties to the lower Uid; then all that are
//! aimed at by ships in range are hit or missed, all that live turn to their target, and go on; then the lost are taken
//! away. Who hits whom is drawn from the Uids of both and the tick ([`mix`]), as the original has it.
//!
//! An attacker does not write into who it fires at: it shows its target, and each ship looks at those around for who has
//! it as a target. So nothing has to be locked, and nothing depends on who comes first.

use crate::scenario::{Plugin, Scenario, ScenarioError, Statistic};
use everworld_components::{Arena, Hull, Lost, Position3, Tally, Target, Velocity3};
use everworld_engine::{
    Geometry, Grid, Image, InCells, Space, grid,
    input::InputWorld,
    prelude::*,
    random::{Draws, mix},
};
use serde::Deserialize;
use wide::u32x8;

/// Battle, as a kind of world.
pub const PLUGIN: Plugin =
    Plugin::new("battle", include_str!("../../configs/battle.toml"), plugin).measured_by(statistics);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    battle: BattleParams,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BattleParams {
    side: Option<f32>,
    height: f32,
}

/// Ships see each other within so many units.
const SIGHT: f32 = 50.0;
/// Square of how far they fire.
const RANGE_SQUARE: f32 = 900.0;
/// Units a second.
const SPEED: f32 = 50.0;
/// What part of the way to its target a ship turns in a tick.
const TURN: f32 = 0.08;
/// A ship fires once in so many ticks.
const RELOAD_TICKS: u64 = 8;
/// Points of a hull, and those that a hit takes.
const HULL: u32 = 1_000;
const DAMAGE: u32 = 25;

const AIM: Phase = Phase("aim");
const FIGHT: Phase = Phase("fight");

/// A ship, as the others see it.
pub type Ship = (Position3, Target, Uid);

/// The ships by where they are.
pub struct Ships;

impl Space for Ships {
    const NAME: &'static str = "ships";
    type Map = Arena;
    type Columns = Ship;
    type Filter = ();

    fn geometry(arena: &Arena) -> Geometry {
        let [side, height] = [arena.side, arena.height].map(f64::from);
        Geometry::bounded_box([side, side, height], f64::from(SIGHT))
    }

    fn place((position, ..): &Ship) -> [f64; 3] {
        position.place()
    }
}

fn plugin(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    let Params { battle: BattleParams { side, height } } = scenario.params()?;
    // The density of 50,000 ships in a box of 1,000.
    let side =
        side.unwrap_or_else(|| (1_000.0 * (scenario.population.max(1) as f64 / 50_000.0).sqrt()) as f32);
    let mut expected = scenario.expected();
    for (name, length) in [("side", side), ("height", height)] {
        expected.that((1.0..=1e6).contains(&length), format!("battle.{name}"), "1 to 1000000", length);
    }
    expected.met()?;
    let population = scenario.population;
    world
        .column::<Position3>()
        .column::<Velocity3>()
        .column::<Hull>()
        .column::<Target>()
        .resource(Arena { side, height })
        .resource(Tally::default())
        .event::<Lost>()
        .prototype("ship", &[("position", None), ("velocity", None), ("hull", None), ("target", None)])
        .phases(&[AIM, FIGHT])
        .grid::<Ships>(|grid| grid.phase(AIM))
        .system(system(acquire).phase(AIM).after(grid::build::<Ships>))
        .system(system(grid::refresh::<Ships>).named("publish").phase(AIM).after(acquire))
        .system(system(fight).phase(FIGHT))
        .setup(move |world| launch(world, population));
    Ok(())
}

const SHIP_STREAM: u64 = 1;

fn launch(world: &mut InputWorld<'_>, population: u64) {
    let (seed, arena) = (world.time().seed, *world.resource::<Arena>());
    world.spawn_many((0..population).map(|i| {
        let mut draws = Draws::new(seed, 0, SHIP_STREAM, i);
        let position = [arena.side, arena.side, arena.height].map(|length| draws.unit32() * length);
        // Uniform on the sphere: so are the height and the angle around (Archimedes).
        let z = 2.0 * draws.unit64() - 1.0;
        let (flat, angle) = ((1.0 - z * z).sqrt(), std::f64::consts::TAU * draws.unit64());
        let unit = [flat * math::cos64(angle), flat * math::sin64(angle), z];
        let velocity = unit.map(|part| SPEED * part as f32);
        (
            Position3::from(position),
            Velocity3::from(velocity),
            Hull { points: HULL },
            Target { ship: Uid::NONE },
        )
    }));
}

/// Who has no target takes the nearest other ship in sight.
pub(crate) fn acquire(
    grid: Res<Grid<Ships>>,
    mut ships: Rows<(&'static Uid, &'static Position3, Write<Target>)>,
) {
    ships.for_each(|(uids, positions, mut targets)| {
        let mut found = Vec::new();
        for (i, uid) in uids.iter().enumerate() {
            if targets[i].ship == Uid::NONE {
                let other = |(.., other): &Ship| (other != uid).then_some(*other);
                grid.nearest(positions[i].place(), 1, f64::from(SIGHT), other, &mut found);
                if let Some(nearest) = found.first() {
                    targets.row_mut(i).ship = nearest.uid;
                }
            }
        }
    });
}

/// What a tick brings a ship.
#[derive(Clone, Copy, Default)]
pub(crate) struct Fate {
    shots: u32,
    hits: u32,
    /// Where its target is, if it is in sight.
    target: Option<[f32; 3]>,
}

impl Fate {
    /// Of `ship`, which sees `other`, if one has the other as a target.
    fn meet(&mut self, ship: &Ship, other: &Ship, tick: u64) {
        let (position, Target { ship: target }, uid) = ship;
        let (at, Target { ship: theirs }, who) = other;
        let square = square(sub(position.to_array(), at.to_array()));
        if who == uid {
            return;
        }
        if target == who && square <= SIGHT * SIGHT {
            self.target = Some(at.to_array());
        }
        let fires = tick.wrapping_add(mix(who.get())).is_multiple_of(RELOAD_TICKS);
        if theirs == uid && square <= RANGE_SQUARE && fires {
            self.shots += 1;
            let chance = (1024.0 - 512.0 * square / RANGE_SQUARE) as u64;
            self.hits += u32::from(mix(who.get() ^ uid.get() ^ tick) % 1024 < chance);
        }
    }
}

/// The lower halves of a Uid, as lanes compare them: where these are equal the whole is compared.
fn half(uid: Uid) -> u32 {
    uid.get() as u32
}

/// Ships of one cell side by side in the lanes of vectors, to be compared with all others around at once.
struct Lanes<'c> {
    ships: &'c [Ship],
    uids: u32x8,
    targets: u32x8,
}

impl<'c> Lanes<'c> {
    fn of(ships: &'c [Ship]) -> Self {
        let lanes = |half: fn(&Ship) -> u32| {
            u32x8::from(std::array::from_fn::<_, 8, _>(|i| ships.get(i).map_or(0, half)))
        };
        Self {
            ships,
            uids: lanes(|(.., uid)| half(*uid)),
            targets: lanes(|(_, target, _)| half(target.ship)),
        }
    }

    /// Each ship sees others, and is seen.
    #[inline]
    fn look(&self, others: &[Ship], fates: &mut [Fate], tick: u64) {
        for other in others {
            let (_, Target { ship: theirs }, who) = other;
            let concerns = self.uids.simd_eq(u32x8::splat(half(*theirs)))
                | self.targets.simd_eq(u32x8::splat(half(*who)));
            if concerns.any() {
                let concerns = concerns.to_array();
                for ((ship, fate), concerns) in self.ships.iter().zip(&mut *fates).zip(concerns) {
                    if concerns != 0 {
                        fate.meet(ship, other, tick);
                    }
                }
            }
        }
    }
}

/// Ships are hit or missed, turn to their target, and go on.
pub(crate) fn fight(
    arena: Res<Arena>,
    time: Res<TickTime>,
    effects: Effects,
    lost: Emit<Lost>,
    mut tally: ResMut<Tally>,
    mut ships: InCells<
        Ships,
        (&'static Uid, Write<Position3>, Write<Velocity3>, Write<Hull>, Write<Target>),
        Fate,
    >,
) {
    let (tick, dt) = (time.tick.0, time.dt_secs as f32);
    let walls = [arena.side, arena.side, arena.height];
    let [shots, hits, losses] = ships.sum(
        |cell, fates| {
            fates.fill(Fate::default());
            for (ships, fates) in cell.rows().chunks(8).zip(fates.chunks_mut(8)) {
                let lanes = Lanes::of(ships);
                for (_, others) in cell.runs() {
                    lanes.look(others, fates, tick);
                }
            }
        },
        |(uids, mut positions, mut velocities, mut hulls, mut targets), fates| {
            let mut sums = [0u64; 3];
            let rows = positions.all_mut().iter_mut().zip(velocities.all_mut());
            for (i, (position, velocity)) in rows.enumerate() {
                let fate = fates.of(i);
                sums[0] += u64::from(fate.shots);
                sums[1] += u64::from(fate.hits);
                let left = hulls[i].points.saturating_sub(fate.hits * DAMAGE);
                hulls.set(i, Hull { points: left });
                if left == 0 {
                    sums[2] += 1;
                    let Position3 { x, y, z } = *position;
                    lost.emit(uids[i], Lost { x, y, z, hits: fate.hits });
                    effects.despawn(uids[i], uids[i]);
                    continue;
                }
                match fate.target {
                    Some(target) => {
                        *velocity = turned(velocity.to_array(), sub(target, position.to_array())).into();
                    }
                    None => targets.set(i, Target { ship: Uid::NONE }),
                }
                let (mut at, mut going) = (position.to_array(), velocity.to_array());
                for axis in 0..3 {
                    bounce(&mut at[axis], &mut going[axis], dt, walls[axis]);
                }
                (*position, *velocity) = (at.into(), going.into());
            }
            sums
        },
    );
    tally.shots += shots;
    tally.hits += hits;
    tally.lost += losses;
}

/// A velocity that turned to a way by some part.
fn turned(velocity: [f32; 3], way: [f32; 3]) -> [f32; 3] {
    let (heading, wanted) = (unit(velocity), unit(way));
    let turned = std::array::from_fn(|axis| heading[axis] + (wanted[axis] - heading[axis]) * TURN);
    unit(turned).map(|part| SPEED * part)
}

/// Goes on along an axis, and back from a wall.
fn bounce(at: &mut f32, going: &mut f32, dt: f32, wall: f32) {
    *at += *going * dt;
    if *at < 0.0 || *at > wall {
        let back = if *at < 0.0 { -*at } else { 2.0 * wall - *at };
        // Whom an input put far outside, its wall takes back.
        *at = back.clamp(0.0, wall);
        *going = -*going;
    }
}

fn sub(a: [f32; 3], b: [f32; 3]) -> [f32; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn square([x, y, z]: [f32; 3]) -> f32 {
    x * x + y * y + z * z
}

fn unit(way: [f32; 3]) -> [f32; 3] {
    let length = square(way).sqrt();
    if length > 0.0 { way.map(|part| part / length) } else { [0.0; 3] }
}

/// How many are left, and how well they shot.
pub fn statistics(image: &Image) -> Vec<Statistic> {
    let Some((tally, ships)) = image.value::<Tally>().zip(Grid::<Ships>::of(image)) else {
        return Vec::new();
    };
    // Of all, and of those that are out of sight of every wall: what a ship sees of space alone.
    let (mut seen, mut seen_inside, mut inside) = (0u64, 0u64, 0u64);
    let walls = image.value::<Arena>().map_or([0.0; 3], |arena| [arena.side, arena.side, arena.height]);
    ships.each_cell(|cell| {
        for (position, ..) in cell.rows() {
            let near = |(at, ..): &&Ship| square(sub(at.to_array(), position.to_array())) <= SIGHT * SIGHT;
            let others: usize = cell.runs().map(|(_, others)| others.iter().filter(near).count()).sum();
            // But itself.
            let others = (others as u64).saturating_sub(1);
            seen += others;
            let mut axes = position.to_array().into_iter().zip(walls);
            if axes.all(|(at, wall)| (SIGHT..=wall - SIGHT).contains(&at)) {
                inside += 1;
                seen_inside += others;
            }
        }
    });
    let count = |count: u64| count as f64;
    vec![
        Statistic::new("ships", ships.len() as f64),
        Statistic::new("mean_neighbours", count(seen) / ships.len() as f64),
        Statistic::new("mean_neighbours_inside", count(seen_inside) / count(inside)),
        Statistic::new("shots", count(tally.shots)),
        Statistic::new("hits", count(tally.hits)),
        Statistic::new("hit_share", count(tally.hits) / count(tally.shots)),
    ]
}
