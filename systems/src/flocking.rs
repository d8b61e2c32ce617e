//! Flocking: a bird turns to where its neighbours are, off those that are too near, and to where they go.
//!
//! Reynolds 1987, "Flocks, herds, and schools: a distributed behavioral model", as the agent-based field compares
//! frameworks by it (JuliaDynamics, ABMFrameworksComparison): with N the others within `radius` on the torus,
//! k = max(|N|, 1) and d the way to each of them,
//! v' = normalise(v + (cohere * sum d - separate * sum of those d with |d| < separation + align * sum of their v) / k),
//! x' = (x + v') mod side. A velocity of zero is kept as it is.

use crate::scenario::{Plugin, Scenario, ScenarioError, Statistic, Update};
use everworld_components::{BirdPosition, BirdVelocity, Flock};
use everworld_engine::{Geometry, Grid, Image, InCells, Space, input::InputWorld, prelude::*, random::Draws};
use serde::Deserialize;
use wide::f64x2;

/// Flocking, as a kind of world.
pub const PLUGIN: Plugin =
    Plugin::new("flocking", include_str!("../../configs/flocking.toml"), plugin).measured_by(statistics);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    flocking: FlockingParams,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlockingParams {
    update: Update,
    side: Option<f64>,
    radius: f64,
    separation: f64,
    cohere: f64,
    separate: f64,
    align: f64,
}

/// A bird, as the others see it.
pub type Bird = (BirdPosition, BirdVelocity);

/// The birds by where they are.
pub struct Birds;

impl Space for Birds {
    const NAME: &'static str = "birds";
    type Map = Flock;
    type Columns = Bird;
    type Filter = ();

    fn geometry(flock: &Flock) -> Geometry {
        Geometry::torus([flock.side; 2], flock.radius)
    }

    fn place((position, _): &Bird) -> [f64; 3] {
        [position.x, position.y, 0.0]
    }
}

fn plugin(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    match ground(world, scenario)? {
        Update::Synchronous => {
            world.grid::<Birds>(|grid| grid);
            world.system(system(fly::<Birds>).after(everworld_engine::grid::build::<Birds>));
        }
        Update::Asynchronous => {
            world.system(system(fly_in_turn));
        }
    }
    Ok(())
}

/// The birds of a scenario and their torus, without any system; returns how they are to fly.
///
/// # Errors
/// When a parameter is no good.
pub fn ground(world: &mut WorldBuilder, scenario: &Scenario) -> Result<Update, ScenarioError> {
    let Params { flocking } = scenario.params()?;
    // The density of the "large" variant: 400 birds on a torus of 150.
    let side = flocking.side.unwrap_or_else(|| 150.0 * (scenario.population.max(1) as f64 / 400.0).sqrt());
    let FlockingParams { update, radius, separation, cohere, separate, align, .. } = flocking;
    let flock = Flock { side, radius, separation, cohere, separate, align };
    check(&flock, scenario)?;
    world
        .column::<BirdPosition>()
        .column::<BirdVelocity>()
        .resource(flock)
        .prototype("bird", &[("position", None), ("velocity", None)]);
    let population = scenario.population;
    world.setup(move |world| hatch(world, population));
    Ok(update)
}

fn check(flock: &Flock, scenario: &Scenario) -> Result<(), ScenarioError> {
    let mut expected = scenario.expected();
    let Flock { side, radius, separation, cohere, separate, align } = *flock;
    expected.that((1e-3..=1e9).contains(&side), "flocking.side", "0.001 to 1e9", side);
    let half = format!("more than 0 and less than {}, half of the side", side / 2.0);
    expected.that(radius > 0.0 && radius < side / 2.0, "flocking.radius", half, radius);
    let within = format!("0 to {radius}, the radius");
    expected.that((0.0..=radius).contains(&separation), "flocking.separation", within, separation);
    for (name, weight) in [("cohere", cohere), ("separate", separate), ("align", align)] {
        expected.that((-1e3..=1e3).contains(&weight), format!("flocking.{name}"), "-1000 to 1000", weight);
    }
    expected.met()
}

const HATCH_STREAM: u64 = 1;

fn hatch(world: &mut InputWorld<'_>, population: u64) {
    let (seed, side) = (world.time().seed, world.resource::<Flock>().side);
    world.spawn_many((0..population).map(|i| {
        let mut draws = Draws::new(seed, 0, HATCH_STREAM, i);
        let position = BirdPosition { x: draws.unit64() * side, y: draws.unit64() * side };
        let mut speed = || 2.0 * draws.unit64() - 1.0;
        (position, BirdVelocity { x: speed(), y: speed() })
    }));
}

/// What two birds see of the others, summed up: side by side in the lanes of a vector, as both see the same others.
#[derive(Clone, Copy)]
struct Seen {
    from: [f64x2; 2],
    others: f64x2,
    way: [f64x2; 2],
    near_way: [f64x2; 2],
    velocity: [f64x2; 2],
}

/// The squares of how far a bird sees, and of how far it keeps off.
#[derive(Clone, Copy)]
struct Squares {
    seen: f64x2,
    near: f64x2,
}

impl Squares {
    fn of(flock: &Flock) -> Self {
        let square = |length: f64| f64x2::splat(length * length);
        Self { seen: square(flock.radius), near: square(flock.separation) }
    }
}

impl Seen {
    /// Nothing yet. Each bird will see itself, too, at no distance.
    fn by(birds: [Bird; 2]) -> Self {
        let both = |part: fn(&Bird) -> f64| f64x2::from(birds.map(|bird| part(&bird)));
        let zero = [f64x2::splat(0.0); 2];
        Self {
            from: [both(|(position, _)| position.x), both(|(position, _)| position.y)],
            others: f64x2::splat(-1.0),
            way: zero,
            near_way: zero,
            velocity: [both(|(_, velocity)| -velocity.x), both(|(_, velocity)| -velocity.y)],
        }
    }

    /// Adds those of a run that can be seen, by masks: a branch would be taken at random.
    #[inline]
    fn look(&mut self, birds: &[Bird], shift: [f64; 3], squares: Squares) {
        let from = [self.from[0] - f64x2::splat(shift[0]), self.from[1] - f64x2::splat(shift[1])];
        let one = f64x2::splat(1.0);
        for (position, velocity) in birds {
            let way = [f64x2::splat(position.x) - from[0], f64x2::splat(position.y) - from[1]];
            let square = way[0] * way[0] + way[1] * way[1];
            let (is_seen, is_near) = (square.simd_le(squares.seen), square.simd_lt(squares.near));
            self.others += is_seen & one;
            self.way[0] += is_seen & way[0];
            self.way[1] += is_seen & way[1];
            self.near_way[0] += is_near & way[0];
            self.near_way[1] += is_near & way[1];
            self.velocity[0] += is_seen & f64x2::splat(velocity.x);
            self.velocity[1] += is_seen & f64x2::splat(velocity.y);
        }
    }

    /// Where they then go, and how.
    #[inline]
    fn turn(&self, flock: &Flock, birds: [Bird; 2]) -> [Bird; 2] {
        let k = self.others.max(f64x2::splat(1.0));
        let [cohere, separate, align] = [flock.cohere, flock.separate, flock.align].map(f64x2::splat);
        let [ax, ay] = [0, 1].map(|axis| {
            (cohere * self.way[axis] - separate * self.near_way[axis] + align * self.velocity[axis]) / k
        });
        let (ax, ay) = (ax.to_array(), ay.to_array());
        [turned(birds[0], [ax[0], ay[0]], flock.side), turned(birds[1], [ax[1], ay[1]], flock.side)]
    }
}

/// A bird that turned by so much, and flew.
#[inline]
fn turned((position, velocity): Bird, by: [f64; 2], side: f64) -> Bird {
    let (x, y) = (velocity.x + by[0], velocity.y + by[1]);
    let length = (x * x + y * y).sqrt();
    let (x, y) = if length > 0.0 { (x / length, y / length) } else { (x, y) };
    let position = BirdPosition { x: wrapped(position.x + x, side), y: wrapped(position.y + y, side) };
    (position, BirdVelocity { x, y })
}

/// A place on the torus.
#[inline]
fn wrapped(at: f64, side: f64) -> f64 {
    if (0.0..side).contains(&at) {
        return at;
    }
    let at = at.rem_euclid(side);
    // A tiny step below 0 rounds to the side itself.
    if at < side { at } else { 0.0 }
}

/// All turn by what they saw at the beginning of the tick, and fly.
pub fn fly<S: Space<Columns = Bird>>(
    flock: Res<Flock>,
    mut birds: InCells<S, (Write<BirdPosition>, Write<BirdVelocity>), Bird>,
) {
    let squares = Squares::of(&flock);
    birds.for_each(
        |cell, flown| {
            for (two, flown) in cell.rows().chunks(2).zip(flown.chunks_mut(2)) {
                // An odd one is there twice.
                let two = [two[0], two[two.len() - 1]];
                let mut seen = Seen::by(two);
                for (run, birds) in cell.runs() {
                    seen.look(birds, run.shift, squares);
                }
                let turned = seen.turn(&flock, two);
                flown.copy_from_slice(&turned[..flown.len()]);
            }
        },
        |(mut positions, mut velocities), flown| {
            let rows = positions.all_mut().iter_mut().zip(velocities.all_mut());
            for (i, (position, velocity)) in rows.enumerate() {
                (*position, *velocity) = flown.of(i);
            }
        },
    );
}

/// Each turns and flies by itself, in an order that is drawn anew in each tick, and sees what those before it did.
pub(crate) fn fly_in_turn(
    flock: Res<Flock>,
    random: Random,
    mut birds: Query<(&Uid, &mut BirdPosition, &mut BirdVelocity)>,
) {
    let mut all: Vec<(Uid, Bird)> =
        birds.iter().map(|(uid, position, velocity)| (*uid, (*position, *velocity))).collect();
    all.sort_unstable_by_key(|(uid, _)| *uid);
    let geometry = Birds::geometry(&flock);
    let cell_of = |bird: &Bird| geometry.cell_of(Birds::place(bird));
    // Who is in each cell, and where in it.
    let mut cells: Vec<Vec<(usize, Bird)>> = vec![Vec::new(); geometry.count()];
    for (i, (_, bird)) in all.iter().enumerate() {
        cells[cell_of(bird)].push((i, *bird));
    }
    let squares = Squares::of(&flock);
    let mut order: Vec<usize> = (0..all.len()).collect();
    random.of(Uid::new(0)).shuffle(&mut order);
    for i in order {
        let bird = all[i].1;
        let here = cell_of(&bird);
        let mut seen = Seen::by([bird; 2]);
        geometry.near(here, |near, shift| {
            for (_, other) in cells[near].iter().flatten() {
                seen.look(std::slice::from_ref(other), shift, squares);
            }
        });
        let [flown, _] = seen.turn(&flock, [bird; 2]);
        all[i].1 = flown;
        let there = cell_of(&flown);
        if let Some(at) = cells[here].iter().position(|(other, _)| *other == i) {
            if there == here {
                cells[here][at].1 = flown;
            } else {
                cells[here].remove(at);
                cells[there].push((i, flown));
            }
        }
    }
    for (uid, mut position, mut velocity) in &mut birds {
        if let Ok(at) = all.binary_search_by_key(uid, |(uid, _)| *uid) {
            (*position, *velocity) = all[at].1;
        }
    }
}

/// Order, neighbourhood and alignment, as the reference of the standard model has them.
pub fn statistics(image: &Image) -> Vec<Statistic> {
    let Some((flock, birds)) = image.value::<Flock>().zip(Grid::<Birds>::of(image)) else {
        return Vec::new();
    };
    let squares = [flock.radius * flock.radius, flock.separation * flock.separation];
    let unit = |[x, y]: [f64; 2]| {
        let length = (x * x + y * y).sqrt();
        if length > 0.0 { [x / length, y / length] } else { [0.0; 2] }
    };
    let (mut heading, mut others, mut near, mut isolated, mut aligned) = ([0.0; 2], 0.0, 0.0, 0.0, 0.0);
    birds.each_cell(|cell| {
        for (position, velocity) in cell.rows() {
            let own = unit([velocity.x, velocity.y]);
            heading = [heading[0] + own[0], heading[1] + own[1]];
            let (mut seen, mut kept_off, mut along) = (-1.0, -1.0, -1.0);
            for (run, birds) in cell.runs() {
                for (other, velocity) in birds {
                    let way = [other.x + run.shift[0] - position.x, other.y + run.shift[1] - position.y];
                    let square = way[0] * way[0] + way[1] * way[1];
                    if square <= squares[0] {
                        let other = unit([velocity.x, velocity.y]);
                        seen += 1.0;
                        along += own[0] * other[0] + own[1] * other[1];
                    }
                    kept_off += f64::from(u8::from(square < squares[1]));
                }
            }
            others += seen;
            near += kept_off;
            if seen > 0.5 {
                aligned += along / seen;
            } else {
                isolated += 1.0;
            }
        }
    });
    let birds = birds.len() as f64;
    vec![
        Statistic::new("order_parameter", (heading[0] * heading[0] + heading[1] * heading[1]).sqrt() / birds),
        Statistic::new("mean_neighbours", others / birds),
        Statistic::new("local_alignment", aligned / (birds - isolated)),
        Statistic::new("isolated_fraction", isolated / birds),
        Statistic::new("mean_neighbours_within_separation", near / birds),
    ]
}
