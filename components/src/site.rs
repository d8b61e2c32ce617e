//! Where something is on a lattice.

use everworld_engine::component;

component! {
    /// A site of a lattice.
    pub struct Site("site", version 1) {
        /// The column, from 0 on.
        x: u32,
        /// The row, from 0 on.
        y: u32,
    }
}

impl Site {
    /// As a place of a grid over the lattice.
    pub fn place(&self) -> [f64; 3] {
        [f64::from(self.x), f64::from(self.y), 0.0]
    }
}
