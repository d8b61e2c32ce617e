//! Where someone is, and how fast they move.

use everworld_engine::component;

component! {
    /// Where someone is, in metres from the south-west corner of the town.
    pub struct Position("position", version 1) {
        /// Metres to the east.
        x: f32,
        /// Metres to the north.
        y: f32,
    }
}

component! {
    /// How far someone moves in a tick, in metres.
    pub struct Velocity("velocity", version 1) {
        /// Metres to the east in a tick.
        x: f32,
        /// Metres to the north in a tick.
        y: f32,
    }
}

impl Position {
    /// The square of the distance to a point, in square metres.
    pub fn distance_squared(self, x: f32, y: f32) -> f32 {
        (self.x - x) * (self.x - x) + (self.y - y) * (self.y - y)
    }
}
