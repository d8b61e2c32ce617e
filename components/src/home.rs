//! Where someone lives.

use everworld_engine::component;

component! {
    /// Where someone lives.
    pub struct Home("home", version 1) {
        /// Metres to the east.
        x: f32,
        /// Metres to the north.
        y: f32,
        /// The household: the same number for all who live there.
        household: u32,
    }
}
