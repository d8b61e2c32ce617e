//! Sheep, wolves and grass.

use everworld_engine::{component, labels, resource};

labels! {
    /// What an animal is.
    pub enum Species: u32 {
        Sheep = "sheep",
        Wolf = "wolf",
    }
}

component! {
    /// An animal, and what it lives on.
    pub struct Animal("animal", version 1) {
        /// Food in store; it dies below 0.
        energy: f64,
        /// What it is.
        species: Species,
        /// Drawn in each tick where all act at once: who comes first of those who want the same.
        turn: u32,
    }
}

component! {
    /// The grass of a site.
    pub struct Grass("grass", version 1) {
        /// Ticks until it is grown; grown at 0 and below.
        countdown: i32,
    }
}

resource! {
    /// The lattice that animals live on, and what they live by.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct Pasture("pasture", version 1) {
        /// Sites along each side.
        pub side: u32,
        /// Ticks that grass takes to grow.
        pub regrow: i32,
        /// Energy that a sheep gains by a meal.
        pub sheep_gain: f64,
        /// Energy that a wolf gains by a meal.
        pub wolf_gain: f64,
        /// With which probability a sheep has a lamb in a tick.
        pub sheep_birth: f64,
        /// With which probability a wolf has a cub in a tick.
        pub wolf_birth: f64,
    }
}
