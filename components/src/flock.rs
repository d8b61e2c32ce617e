//! A flock on a torus: where each is, where it goes, and what it steers by.

use everworld_engine::{component, resource};

component! {
    /// Where a bird is, on a torus.
    pub struct BirdPosition("position", version 1) {
        /// Units to the east, from 0 to the side of the torus.
        x: f64,
        /// Units to the north, from 0 to the side of the torus.
        y: f64,
    }
}

component! {
    /// How far a bird goes in a tick.
    pub struct BirdVelocity("velocity", version 1) {
        /// Units to the east.
        x: f64,
        /// Units to the north.
        y: f64,
    }
}

resource! {
    /// The torus of a flock, and what its birds steer by.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct Flock("flock", version 1) {
        /// The side of the torus, in units.
        pub side: f64,
        /// Whom a bird sees: those within so many units.
        pub radius: f64,
        /// Whom it keeps off: those within so many units.
        pub separation: f64,
        /// Weight of the way to those it sees.
        pub cohere: f64,
        /// Weight of the way to those it keeps off.
        pub separate: f64,
        /// Weight of the velocities of those it sees.
        pub align: f64,
    }
}
