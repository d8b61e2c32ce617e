//! Flocking as users of flecs write it: once in its idioms, once tuned with a sorted flat grid, in its own pipeline on
//! its own worker threads.
//!
//! All birds turn by copies of what was there when the step began, as in the model. The cells are filled on one thread,
//! as a singleton can be written by one only; turning and flying run on all. The hash map hashes as bevy's does.

use crate::{
    Contestant,
    flock::{self, Bird, RADIUS, Seen},
};
use flecs_ecs::prelude::*;
use hashbrown::HashMap;

#[derive(Component, Clone, Copy)]
struct Position([f64; 2]);
#[derive(Component, Clone, Copy)]
struct Velocity([f64; 2]);

/// The cells of a torus, each at least as wide as a bird sees.
#[derive(Clone, Copy, Default)]
struct Ground {
    side: f64,
    cells: usize,
    scale: f64,
}

impl Ground {
    fn new(side: f64) -> Self {
        let cells = (side / RADIUS * (1.0 - 1e-9)) as usize;
        Self { side, cells, scale: cells as f64 / side }
    }

    #[inline]
    fn cell_of(&self, position: [f64; 2]) -> [usize; 2] {
        position.map(|at| ((at * self.scale) as usize).min(self.cells - 1))
    }

    /// A cell and the eight around it.
    #[inline]
    fn around(&self, [x, y]: [usize; 2]) -> impl Iterator<Item = [usize; 2]> {
        let n = self.cells;
        let beside = [n - 1, 0, 1];
        beside.into_iter().flat_map(move |dy| beside.map(|dx| [(x + dx) % n, (y + dy) % n]))
    }
}

/// Who is in which cell.
#[derive(Component, Default)]
struct Hashed {
    ground: Ground,
    cells: HashMap<[usize; 2], Vec<(Entity, Bird)>>,
}

impl Hashed {
    fn clear(&mut self) {
        self.cells.values_mut().for_each(Vec::clear);
    }

    fn add(&mut self, entity: Entity, bird: Bird) {
        self.cells.entry(self.ground.cell_of(bird.position)).or_default().push((entity, bird));
    }

    fn seen(&self, own: Entity, position: [f64; 2]) -> Seen {
        let mut seen = Seen::default();
        for cell in self.ground.around(self.ground.cell_of(position)) {
            for (entity, bird) in self.cells.get(&cell).into_iter().flatten() {
                if *entity != own {
                    seen.look(self.ground.side, position, bird);
                }
            }
        }
        seen
    }
}

/// The birds sorted by cells, and where each cell begins.
#[derive(Component, Default)]
struct Sorted {
    ground: Ground,
    starts: Vec<u32>,
    next: Vec<u32>,
    birds: Vec<(Entity, Bird)>,
}

impl Sorted {
    #[inline]
    fn index(&self, [x, y]: [usize; 2]) -> usize {
        y * self.ground.cells + x
    }

    fn clear(&mut self) {
        self.starts.clear();
        self.starts.resize(self.ground.cells * self.ground.cells + 1, 0);
    }

    fn count(&mut self, position: [f64; 2]) {
        let cell = self.index(self.ground.cell_of(position));
        self.starts[cell + 1] += 1;
    }

    fn sum_up(&mut self) {
        let mut sum = 0;
        for start in &mut self.starts {
            sum += *start;
            *start = sum;
        }
        self.next.clone_from(&self.starts);
        self.birds.resize(sum as usize, (Entity::default(), Bird::default()));
    }

    fn place(&mut self, entity: Entity, bird: Bird) {
        let cell = self.index(self.ground.cell_of(bird.position));
        self.birds[self.next[cell] as usize] = (entity, bird);
        self.next[cell] += 1;
    }

    fn seen(&self, own: Entity, position: [f64; 2]) -> Seen {
        let mut seen = Seen::default();
        for cell in self.ground.around(self.ground.cell_of(position)) {
            let cell = self.index(cell);
            for (entity, bird) in &self.birds[self.starts[cell] as usize..self.starts[cell + 1] as usize] {
                if *entity != own {
                    seen.look(self.ground.side, position, bird);
                }
            }
        }
        seen
    }
}

/// A flock in a world of flecs.
pub(crate) struct Flock(World);

impl Contestant for Flock {
    fn step(&mut self) {
        self.0.progress();
    }

    fn birds(&self) -> Vec<Bird> {
        let mut birds = Vec::new();
        self.0.new_query::<(&Position, &Velocity)>().each(|(position, velocity)| {
            birds.push(Bird { position: position.0, velocity: velocity.0 });
        });
        birds
    }
}

/// A hash map of cells.
pub(crate) fn idiomatic(side: f64, birds: &[Bird], threads: usize) -> Flock {
    let world = hatched(birds, threads);
    world.component::<Hashed>().add_trait::<flecs::Singleton>();
    world.set(Hashed { ground: Ground::new(side), ..Hashed::default() });
    // Systems run in the order in which they are declared.
    world.system::<&mut Hashed>().each(Hashed::clear);
    world.system::<(&mut Hashed, &Position, &Velocity)>().each_entity(
        |entity, (hashed, position, velocity)| {
            hashed.add(entity.id(), Bird { position: position.0, velocity: velocity.0 });
        },
    );
    world.system::<(&Hashed, &Position, &mut Velocity)>().par_each_entity(
        |entity, (hashed, position, velocity)| {
            velocity.0 = hashed.seen(entity.id(), position.0).turn(velocity.0);
        },
    );
    fly(&world, side);
    Flock(world)
}

/// A counting sort into flat arrays.
pub(crate) fn sorted(side: f64, birds: &[Bird], threads: usize) -> Flock {
    let world = hatched(birds, threads);
    world.component::<Sorted>().add_trait::<flecs::Singleton>();
    world.set(Sorted { ground: Ground::new(side), ..Sorted::default() });
    world.system::<&mut Sorted>().each(Sorted::clear);
    world.system::<(&mut Sorted, &Position)>().each(|(sorted, position)| sorted.count(position.0));
    world.system::<&mut Sorted>().each(Sorted::sum_up);
    world.system::<(&mut Sorted, &Position, &Velocity)>().each_entity(
        |entity, (sorted, position, velocity)| {
            sorted.place(entity.id(), Bird { position: position.0, velocity: velocity.0 });
        },
    );
    world.system::<(&Sorted, &Position, &mut Velocity)>().par_each_entity(
        |entity, (sorted, position, velocity)| {
            velocity.0 = sorted.seen(entity.id(), position.0).turn(velocity.0);
        },
    );
    fly(&world, side);
    Flock(world)
}

fn hatched(birds: &[Bird], threads: usize) -> World {
    let world = World::new();
    for bird in birds {
        world.entity().set(Position(bird.position)).set(Velocity(bird.velocity));
    }
    world.set_threads(threads as i32);
    world
}

fn fly(world: &World, side: f64) {
    world.system::<(&mut Position, &Velocity)>().par_each(move |(position, velocity)| {
        position.0 = flock::flown(side, position.0, velocity.0);
    });
}
