//! The ground plan.

use everworld_engine::resource;

resource! {
    /// The ground plan of the town: a square with markets and taverns on two lattices, a temple beside each market, and a gate
    /// in the middle of the west side.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct TownMap("town_map", version 1) {
        /// Metres from one side to the other.
        pub side: f32,
        /// Markets along each side; the town has the square of it. Around each is a quarter of the town.
        pub markets: u32,
        /// Taverns along each side.
        pub taverns: u32,
    }
}

/// From a market to the temple beside it, along each axis, in metres.
const TEMPLE: f32 = 40.0;

impl TownMap {
    /// The market nearest to a point: the middle of its quarter.
    pub fn market_near(&self, x: f32, y: f32) -> (f32, f32) {
        (self.middle(x, self.markets), self.middle(y, self.markets))
    }

    /// The temple of a point's quarter.
    pub fn temple_near(&self, x: f32, y: f32) -> (f32, f32) {
        let (x, y) = self.market_near(x, y);
        ((x + TEMPLE).min(self.side), (y + TEMPLE).min(self.side))
    }

    /// The tavern nearest to a point.
    pub fn tavern_near(&self, x: f32, y: f32) -> (f32, f32) {
        (self.middle(x, self.taverns), self.middle(y, self.taverns))
    }

    /// The number of a point's quarter, counted row by row from the south-west.
    pub fn quarter(&self, x: f32, y: f32) -> u16 {
        let number = self.part(y, self.markets) as u32 * self.markets + self.part(x, self.markets) as u32;
        number.min(u32::from(u16::MAX)) as u16
    }

    /// Where travellers come and go.
    pub fn gate(&self) -> (f32, f32) {
        (0.0, self.side / 2.0)
    }

    fn part(&self, at: f32, parts: u32) -> f32 {
        (at / self.side * parts as f32).floor().clamp(0.0, (parts - 1) as f32)
    }

    fn middle(&self, at: f32, parts: u32) -> f32 {
        (self.part(at, parts) + 0.5) * self.side / parts as f32
    }
}
