//! The ground plan.

use everworld_engine::resource;

resource! {
    /// The ground plan of the town: a square with markets on a lattice and a gate in the middle of the west side.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct TownMap("town_map", version 1) {
        /// Metres from one side to the other.
        pub side: f32,
        /// Markets along each side; the town has the square of it.
        pub markets: u32,
    }
}

impl TownMap {
    /// The market nearest to a point: the middle of its quarter.
    pub fn market_near(&self, x: f32, y: f32) -> (f32, f32) {
        let quarter = self.side / self.markets as f32;
        let middle = |at: f32| ((at / quarter).floor().clamp(0.0, (self.markets - 1) as f32) + 0.5) * quarter;
        (middle(x), middle(y))
    }

    /// Where travellers come and go.
    pub fn gate(&self) -> (f32, f32) {
        (0.0, self.side / 2.0)
    }
}
