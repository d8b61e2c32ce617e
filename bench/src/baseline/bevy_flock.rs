//! Flocking as users of bevy_ecs write it: once in its idioms, once tuned with a sorted flat grid. The rules are those of
//! `flock.rs`.

use super::flock::{ALIGN, Bird, COHERE, RADIUS, SEPARATE, SEPARATION};
use bevy_ecs::prelude::*;
use bevy_platform::collections::HashMap;

#[derive(Component, Clone, Copy)]
pub(crate) struct Position([f64; 2]);
#[derive(Component, Clone, Copy)]
pub(crate) struct Velocity([f64; 2]);

#[derive(Resource, Clone, Copy)]
struct Side(f64);

/// Who is in which cell.
#[derive(Resource, Default)]
struct Hashed(HashMap<(i32, i32), Vec<(Entity, Bird)>>);

/// The birds sorted by cells, and where each cell begins.
#[derive(Resource, Default)]
struct Sorted {
    cells: usize,
    starts: Vec<u32>,
    birds: Vec<(Entity, Bird)>,
    cell_of: Vec<u32>,
}

/// A world of these birds.
pub(crate) fn world(side: f64, birds: &[Bird], threads: usize) -> World {
    // The systems run on the pool's own threads, and so do their loops.
    bevy_tasks::ComputeTaskPool::get_or_init(|| {
        bevy_tasks::TaskPoolBuilder::new().num_threads(threads).build()
    });
    let mut world = World::new();
    world.insert_resource(Side(side));
    world.init_resource::<Hashed>();
    world.init_resource::<Sorted>();
    let rows: Vec<_> = birds.iter().map(|bird| (Position(bird.position), Velocity(bird.velocity))).collect();
    world.spawn_batch(rows);
    world
}

/// A hash map of cells, a query over the birds.
pub(crate) fn idiomatic() -> Schedule {
    let mut schedule = super::bevy::multi_threaded();
    schedule.add_systems((hash_cells, steer_by_hash, fly).chain());
    schedule
}

/// A counting sort into flat arrays, a query over the birds.
pub(crate) fn tuned() -> Schedule {
    let mut schedule = super::bevy::multi_threaded();
    schedule.add_systems((sort_cells, steer_by_sort, fly).chain());
    schedule
}

/// How many cells there are along a side, and how many there are to a unit.
fn cells(side: f64) -> (usize, f64) {
    let cells = (side / RADIUS * (1.0 - 1e-9)).max(1.0) as usize;
    (cells, cells as f64 / side)
}

fn hash_cells(side: Res<Side>, mut hashed: ResMut<Hashed>, birds: Query<(Entity, &Position, &Velocity)>) {
    let (_, scale) = cells(side.0);
    hashed.0.values_mut().for_each(Vec::clear);
    for (entity, position, velocity) in &birds {
        let cell = position.0.map(|at| (at * scale) as i32);
        let bird = Bird { position: position.0, velocity: velocity.0 };
        hashed.0.entry((cell[0], cell[1])).or_default().push((entity, bird));
    }
}

fn sort_cells(side: Res<Side>, mut sorted: ResMut<Sorted>, birds: Query<(Entity, &Position, &Velocity)>) {
    let (n, scale) = cells(side.0);
    let Sorted { cells, starts, birds: all, cell_of } = &mut *sorted;
    *cells = n;
    starts.clear();
    starts.resize(n * n + 1, 0);
    cell_of.clear();
    for (_, position, _) in &birds {
        let [x, y] = position.0.map(|at| ((at * scale) as usize).min(n - 1));
        cell_of.push((y * n + x) as u32);
        starts[y * n + x + 1] += 1;
    }
    for cell in 0..n * n {
        starts[cell + 1] += starts[cell];
    }
    let mut next = starts.clone();
    all.resize(cell_of.len(), (Entity::PLACEHOLDER, Bird::default()));
    for ((entity, position, velocity), cell) in birds.iter().zip(&*cell_of) {
        let place = &mut next[*cell as usize];
        all[*place as usize] = (entity, Bird { position: position.0, velocity: velocity.0 });
        *place += 1;
    }
}

/// What a bird sees of the others.
#[derive(Default)]
struct Seen {
    others: f64,
    way: [f64; 2],
    near: [f64; 2],
    going: [f64; 2],
}

impl Seen {
    #[inline]
    fn look(&mut self, side: f64, own: (Entity, [f64; 2]), (entity, bird): &(Entity, Bird)) {
        if *entity == own.0 {
            return;
        }
        let way: [f64; 2] = std::array::from_fn(|axis| {
            let way = bird.position[axis] - own.1[axis];
            if way > side / 2.0 {
                way - side
            } else if way < -side / 2.0 {
                way + side
            } else {
                way
            }
        });
        let square = way[0] * way[0] + way[1] * way[1];
        if square > RADIUS * RADIUS {
            return;
        }
        self.others += 1.0;
        for axis in 0..2 {
            self.way[axis] += way[axis];
            self.going[axis] += bird.velocity[axis];
            if square < SEPARATION * SEPARATION {
                self.near[axis] += way[axis];
            }
        }
    }

    fn turn(&self, velocity: [f64; 2]) -> [f64; 2] {
        let k = self.others.max(1.0);
        let turned: [f64; 2] = std::array::from_fn(|axis| {
            let way = COHERE * self.way[axis] - SEPARATE * self.near[axis];
            velocity[axis] + (way + ALIGN * self.going[axis]) / k
        });
        let length = (turned[0] * turned[0] + turned[1] * turned[1]).sqrt();
        if length > 0.0 { turned.map(|part| part / length) } else { turned }
    }
}

fn steer_by_hash(side: Res<Side>, hashed: Res<Hashed>, mut birds: Query<(Entity, &Position, &mut Velocity)>) {
    let (n, scale) = cells(side.0);
    birds.par_iter_mut().for_each(|(entity, position, mut velocity)| {
        let [x, y] = position.0.map(|at| (at * scale) as i32);
        let mut seen = Seen::default();
        for dy in -1..=1 {
            for dx in -1..=1 {
                let cell = ((x + dx).rem_euclid(n as i32), (y + dy).rem_euclid(n as i32));
                for other in hashed.0.get(&cell).into_iter().flatten() {
                    seen.look(side.0, (entity, position.0), other);
                }
            }
        }
        velocity.0 = seen.turn(velocity.0);
    });
}

fn steer_by_sort(side: Res<Side>, sorted: Res<Sorted>, mut birds: Query<(Entity, &Position, &mut Velocity)>) {
    let (n, scale) = cells(side.0);
    birds.par_iter_mut().for_each(|(entity, position, mut velocity)| {
        let [x, y] = position.0.map(|at| ((at * scale) as usize).min(n - 1));
        let mut seen = Seen::default();
        for dy in [n - 1, 0, 1] {
            for dx in [n - 1, 0, 1] {
                let cell = (y + dy) % n * n + (x + dx) % n;
                let members = sorted.starts[cell] as usize..sorted.starts[cell + 1] as usize;
                for other in &sorted.birds[members] {
                    seen.look(side.0, (entity, position.0), other);
                }
            }
        }
        velocity.0 = seen.turn(velocity.0);
    });
}

fn fly(side: Res<Side>, mut birds: Query<(&mut Position, &Velocity)>) {
    birds.par_iter_mut().for_each(|(mut position, velocity)| {
        for axis in 0..2 {
            position.0[axis] = (position.0[axis] + velocity.0[axis]).rem_euclid(side.0);
        }
    });
}
