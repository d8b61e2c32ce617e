//! Ships in a box with walls, and the plain motion that they share with a march.

use everworld_engine::{Uid, component, event, resource};

component! {
    /// Where something is in space, in units.
    pub struct Position3("position", version 1) {
        /// To the east.
        x: f32,
        /// To the north.
        y: f32,
        /// Upwards.
        z: f32,
    }
}

component! {
    /// How fast something goes: units a second in a battle, units a tick in a march.
    pub struct Velocity3("velocity", version 1) {
        /// To the east.
        x: f32,
        /// To the north.
        y: f32,
        /// Upwards.
        z: f32,
    }
}

component! {
    /// What holds a ship together.
    pub struct Hull("hull", version 1) {
        /// Damage that it can still take; a hit that takes all of it is its end.
        points: u32,
    }
}

component! {
    /// Whom a ship pursues.
    pub struct Target("target", version 1) {
        /// The other ship; nobody while it has none.
        ship: Uid,
    }
}

resource! {
    /// The box that a battle is fought in, from (0, 0, 0) on, with walls.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct Arena("arena", version 1) {
        /// Units from west to east, and from south to north.
        pub side: f32,
        /// Units from the ground up.
        pub height: f32,
    }
}

resource! {
    /// What has been fired since a battle began.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct Tally("tally", version 1) {
        /// Shots.
        pub shots: u64,
        /// Those that hit.
        pub hits: u64,
        /// Ships lost.
        pub lost: u64,
    }
}

event! {
    /// A ship was shot to pieces.
    pub struct Lost("lost") {
        /// Where, to the east.
        x: f32,
        /// To the north.
        y: f32,
        /// Upwards.
        z: f32,
        /// The hits that it took in its last tick.
        hits: u32,
    }
}

impl Position3 {
    /// As a place of a grid.
    pub fn place(&self) -> [f64; 3] {
        self.to_array().map(f64::from)
    }

    /// East, north and up.
    pub const fn to_array(self) -> [f32; 3] {
        [self.x, self.y, self.z]
    }
}

impl From<[f32; 3]> for Position3 {
    fn from([x, y, z]: [f32; 3]) -> Self {
        Self { x, y, z }
    }
}

impl Velocity3 {
    /// East, north and up.
    pub const fn to_array(self) -> [f32; 3] {
        [self.x, self.y, self.z]
    }
}

impl From<[f32; 3]> for Velocity3 {
    fn from([x, y, z]: [f32; 3]) -> Self {
        Self { x, y, z }
    }
}
