//! Flocking as users of krABMaga write it: birds are agents of its sequential schedule, in its `Field2D`, a torus.
//!
//! The field has two buffers, so that all birds turn by what was there when the step began, as in the model. What is not
//! comparable:
//! - Its numbers are f32: the sums agree with ours to a few digits only.
//! - Its neighbour query stops at the edges even of a torus: birds near the seam see nobody beyond it.
//! - Its cells are as wide as a bird sees, and the birds in them are filtered here: its own query by distance passes over
//!   a cell of which no corner is near enough, although a bird in it may be.
//! - One thread: its `parallel` feature puts the whole state behind one lock.

use crate::{
    Contestant,
    flock::{self, ALIGN, COHERE, RADIUS, SEPARATE, SEPARATION},
};
use krabmaga::engine::{
    agent::Agent,
    fields::{
        field::Field,
        field_2d::{Field2D, Location2D, toroidal_distance, toroidal_transform},
    },
    location::Real2D,
    schedule::Schedule,
    state::State,
};
use std::{
    any::Any,
    fmt,
    hash::{Hash, Hasher},
};

#[derive(Clone, Copy)]
struct Bird {
    id: u32,
    position: Real2D,
    velocity: Real2D,
}

impl PartialEq for Bird {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Bird {}

impl Hash for Bird {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Display for Bird {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bird {}", self.id)
    }
}

impl Location2D<Real2D> for Bird {
    fn get_location(self) -> Real2D {
        self.position
    }

    fn set_location(&mut self, position: Real2D) {
        self.position = position;
    }
}

impl Agent for Bird {
    fn step(&mut self, state: &mut dyn State) {
        let sky = state.as_any().downcast_ref::<Sky>().expect("birds fly in a sky");
        let (radius, separation) = (RADIUS as f32, SEPARATION as f32);
        let (cohere, separate, align) = (COHERE as f32, SEPARATE as f32, ALIGN as f32);
        let mut others = 0.0_f32;
        let (mut way, mut near, mut going) = (Real2D::default(), Real2D::default(), Real2D::default());
        for other in sky.field.get_neighbors_within_relax_distance(self.position, radius) {
            let dx = toroidal_distance(other.position.x, self.position.x, sky.side);
            let dy = toroidal_distance(other.position.y, self.position.y, sky.side);
            let square = dx * dx + dy * dy;
            if other.id == self.id || square > radius * radius {
                continue;
            }
            others += 1.0;
            way.x += dx;
            way.y += dy;
            going.x += other.velocity.x;
            going.y += other.velocity.y;
            if square < separation * separation {
                near.x += dx;
                near.y += dy;
            }
        }
        let k = others.max(1.0);
        let x = self.velocity.x + (cohere * way.x - separate * near.x + align * going.x) / k;
        let y = self.velocity.y + (cohere * way.y - separate * near.y + align * going.y) / k;
        let length = (x * x + y * y).sqrt();
        let scale = if length > 0.0 { 1.0 / length } else { 1.0 };
        self.velocity = Real2D { x: x * scale, y: y * scale };
        self.position = Real2D {
            x: toroidal_transform(self.position.x + self.velocity.x, sky.side),
            y: toroidal_transform(self.position.y + self.velocity.y, sky.side),
        };
        sky.field.set_object_location(*self, self.position);
    }
}

/// Where the birds are.
struct Sky {
    side: f32,
    field: Field2D<Bird>,
    hatched: Vec<Bird>,
}

impl State for Sky {
    fn init(&mut self, schedule: &mut Schedule) {
        self.reset();
        for bird in &self.hatched {
            self.field.set_object_location(*bird, bird.position);
            schedule.schedule_repeating(Box::new(*bird), 0.0, 0);
        }
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_state_mut(&mut self) -> &mut dyn State {
        self
    }

    fn as_state(&self) -> &dyn State {
        self
    }

    fn reset(&mut self) {
        self.field = Field2D::new(self.side, self.side, RADIUS as f32, true);
    }

    fn update(&mut self, _: u64) {
        self.field.lazy_update();
    }
}

/// A flock in a schedule of krABMaga.
pub(crate) struct Flock {
    sky: Sky,
    schedule: Schedule,
}

impl Flock {
    pub(crate) fn new(side: f64, birds: &[flock::Bird]) -> Self {
        let side = side as f32;
        let real = |[x, y]: [f64; 2]| Real2D { x: x as f32, y: y as f32 };
        // A place just below the side may round to it.
        let wrapped =
            |at: Real2D| Real2D { x: toroidal_transform(at.x, side), y: toroidal_transform(at.y, side) };
        let hatched = (0..).zip(birds).map(|(id, bird)| Bird {
            id,
            position: wrapped(real(bird.position)),
            velocity: real(bird.velocity),
        });
        let field = Field2D::new(side, side, RADIUS as f32, true);
        let mut sky = Sky { side, field, hatched: hatched.collect() };
        let mut schedule = Schedule::new();
        sky.init(&mut schedule);
        Self { sky, schedule }
    }
}

impl Contestant for Flock {
    fn step(&mut self) {
        self.schedule.step(&mut self.sky);
    }

    fn birds(&self) -> Vec<flock::Bird> {
        let agents = self.schedule.get_all_events();
        let mut birds: Vec<_> = agents.iter().filter_map(|agent| agent.downcast_ref::<Bird>()).collect();
        birds.sort_unstable_by_key(|bird| bird.id);
        birds
            .iter()
            .map(|bird| flock::Bird {
                position: [f64::from(bird.position.x), f64::from(bird.position.y)],
                velocity: [f64::from(bird.velocity.x), f64::from(bird.velocity.y)],
            })
            .collect()
    }
}
