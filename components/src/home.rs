//! Where someone lives.

use everworld_engine::component;

component! {
    /// Where someone lives: those of a household live at one place.
    pub struct Home("home", version 1) {
        /// Metres to the east.
        x: f32,
        /// Metres to the north.
        y: f32,
    }
}
