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

pub(crate) const PLUGIN: Plugin =
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

/// The birds by where they are.
pub struct Birds;

impl Space for Birds {
    const NAME: &'static str = "birds";
    type Map = Flock;
    type Columns = (BirdPosition, BirdVelocity);
    type Filter = ();

    fn geometry(flock: &Flock) -> Geometry {
        Geometry::torus([flock.side; 2], flock.radius)
    }

    fn place((position, _): &(BirdPosition, BirdVelocity)) -> [f64; 3] {
        [position.x, position.y, 0.0]
    }
}

fn plugin(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    let Params { flocking } = scenario.params()?;
    // The density of the "large" variant: 400 birds on a torus of 150.
    let side = flocking.side.unwrap_or_else(|| 150.0 * (scenario.population.max(1) as f64 / 400.0).sqrt());
    let asynchronous = flocking.update == Update::Asynchronous;
    let FlockingParams { radius, separation, cohere, separate, align, .. } = flocking;
    let flock = Flock { side, radius, separation, cohere, separate, align, asynchronous };
    check(&flock, scenario)?;
    world
        .column::<BirdPosition>()
        .column::<BirdVelocity>()
        .resource(flock)
        .prototype("bird", &[("position", None), ("velocity", None)]);
    if asynchronous {
        world.system(system(fly_in_turn));
    } else {
        world.grid::<Birds>(|grid| grid).system(system(fly).after(everworld_engine::grid::build::<Birds>));
    }
    let population = scenario.population;
    world.setup(move |world| hatch(world, population));
    Ok(())
}

fn check(flock: &Flock, scenario: &Scenario) -> Result<(), ScenarioError> {
    let mut faults = Vec::new();
    let mut expect = |right: bool, what: String| {
        if !right {
            faults.push(format!("scenario \"{}\": flocking.{what}", scenario.name));
        }
    };
    let Flock { side, radius, separation, cohere, separate, align, .. } = *flock;
    expect((1e-3..=1e9).contains(&side), format!("side: expected 0.001 to 1e9, found {side}"));
    expect(
        radius > 0.0 && radius <= side / 2.0,
        format!("radius: expected more than 0 and at most {}, half of the side, found {radius}", side / 2.0),
    );
    expect(
        (0.0..=radius).contains(&separation),
        format!("separation: expected 0 to {radius}, the radius, found {separation}"),
    );
    for (name, weight) in [("cohere", cohere), ("separate", separate), ("align", align)] {
        expect((-1e3..=1e3).contains(&weight), format!("{name}: expected -1000 to 1000, found {weight}"));
    }
    if faults.is_empty() { Ok(()) } else { Err(ScenarioError { faults }) }
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

/// What a bird sees of the others, summed up.
#[derive(Clone, Copy, Default)]
struct Seen {
    others: f64,
    way: [f64; 2],
    near_way: [f64; 2],
    velocity: [f64; 2],
}

impl Seen {
    /// Adds who is there, if it can be seen from a place: by a factor of 0 or 1, as a branch would be taken at random.
    #[inline]
    fn look(&mut self, from: [f64; 2], position: &BirdPosition, velocity: &BirdVelocity, squares: [f64; 2]) {
        let way = [position.x - from[0], position.y - from[1]];
        let square = way[0] * way[0] + way[1] * way[1];
        let is_seen = f64::from(u8::from(square <= squares[0]));
        let is_near = f64::from(u8::from(square < squares[1]));
        self.others += is_seen;
        for (axis, velocity) in [velocity.x, velocity.y].into_iter().enumerate() {
            self.way[axis] += is_seen * way[axis];
            self.near_way[axis] += is_near * way[axis];
            self.velocity[axis] += is_seen * velocity;
        }
    }

    /// Where the bird then goes, and how.
    #[inline]
    fn turn(&self, flock: &Flock, position: [f64; 2], velocity: [f64; 2]) -> Flown {
        let k = self.others.max(1.0);
        let turned: [f64; 2] = std::array::from_fn(|axis| {
            velocity[axis]
                + (flock.cohere * self.way[axis] - flock.separate * self.near_way[axis]
                    + flock.align * self.velocity[axis])
                    / k
        });
        let length = (turned[0] * turned[0] + turned[1] * turned[1]).sqrt();
        let [x, y] = if length > 0.0 { turned.map(|part| part / length) } else { turned };
        let wrapped = |at: f64| {
            let at = at.rem_euclid(flock.side);
            // A tiny step below 0 rounds to the side itself.
            if at < flock.side { at } else { 0.0 }
        };
        Flown {
            position: BirdPosition { x: wrapped(position[0] + x), y: wrapped(position[1] + y) },
            velocity: BirdVelocity { x, y },
        }
    }
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Flown {
    position: BirdPosition,
    velocity: BirdVelocity,
}

/// All turn by what they saw at the beginning of the tick, and fly.
pub(crate) fn fly(
    flock: Res<Flock>,
    mut birds: InCells<Birds, (Write<BirdPosition>, Write<BirdVelocity>), Flown>,
) {
    let squares = [flock.radius * flock.radius, flock.separation * flock.separation];
    birds.for_each(
        |cell, flown| {
            let (positions, velocities) = cell.columns();
            for ((position, velocity), flown) in positions.iter().zip(velocities).zip(flown) {
                // Itself is among those that it sees, at no distance.
                let own = [velocity.x, velocity.y];
                let mut seen = Seen { others: -1.0, velocity: [-own[0], -own[1]], ..Seen::default() };
                for (run, (positions, velocities)) in cell.runs() {
                    let from = [position.x - run.shift[0], position.y - run.shift[1]];
                    for (position, velocity) in positions.iter().zip(velocities) {
                        seen.look(from, position, velocity, squares);
                    }
                }
                *flown = seen.turn(&flock, [position.x, position.y], own);
            }
        },
        |(mut positions, mut velocities), flown| {
            let rows = positions.all_mut().iter_mut().zip(velocities.all_mut());
            for (i, (position, velocity)) in rows.enumerate() {
                let flown = flown.of(i);
                (*position, *velocity) = (flown.position, flown.velocity);
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
    let mut all: Vec<(Uid, BirdPosition, BirdVelocity)> =
        birds.iter().map(|(uid, position, velocity)| (*uid, *position, *velocity)).collect();
    all.sort_unstable_by_key(|(uid, ..)| *uid);
    let geometry = Birds::geometry(&flock);
    let cell_of = |position: &BirdPosition| geometry.cell_of([position.x, position.y, 0.0]);
    let mut cells: Vec<Vec<usize>> = vec![Vec::new(); geometry.count()];
    for (i, (_, position, _)) in all.iter().enumerate() {
        cells[cell_of(position)].push(i);
    }
    let squares = [flock.radius * flock.radius, flock.separation * flock.separation];
    let mut order: Vec<usize> = (0..all.len()).collect();
    random.of(Uid::new(0)).shuffle(&mut order);
    for i in order {
        let (_, position, velocity) = all[i];
        let own = [velocity.x, velocity.y];
        let mut seen = Seen { others: -1.0, velocity: [-own[0], -own[1]], ..Seen::default() };
        let here = cell_of(&position);
        geometry.near(here, |near, shift| {
            let from = [position.x - shift[0], position.y - shift[1]];
            for other in cells[near].iter().flatten() {
                let (_, position, velocity) = &all[*other];
                seen.look(from, position, velocity, squares);
            }
        });
        let Flown { position, velocity } = seen.turn(&flock, [position.x, position.y], own);
        (all[i].1, all[i].2) = (position, velocity);
        let there = cell_of(&position);
        if there != here {
            cells[here].retain(|other| *other != i);
            cells[there].push(i);
        }
    }
    for (uid, mut position, mut velocity) in &mut birds {
        if let Ok(at) = all.binary_search_by_key(uid, |(uid, ..)| *uid) {
            (*position, *velocity) = (all[at].1, all[at].2);
        }
    }
}

/// Order, neighbourhood and alignment, as the reference of the standard model has them.
fn statistics(image: &Image) -> Vec<Statistic> {
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
        let (positions, velocities) = cell.columns();
        for (position, velocity) in positions.iter().zip(velocities) {
            let own = unit([velocity.x, velocity.y]);
            heading = [heading[0] + own[0], heading[1] + own[1]];
            let (mut seen, mut kept_off, mut along) = (-1.0, -1.0, -1.0);
            for (run, (positions, velocities)) in cell.runs() {
                for (other, velocity) in positions.iter().zip(velocities) {
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
