//! The time of the day.

use everworld_engine::resource;

/// Minutes of a day: ticks, as a tick is a minute.
pub const DAY_MINUTES: u64 = 1_440;

resource! {
    /// The time of the day, renewed in every tick.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct Day("day", version 1) {
        /// Days since the beginning, from 0.
        pub number: u64,
        /// Minutes since midnight.
        pub minute: u64,
        /// 0 in the night, 1 at noon.
        pub light: f32,
    }
}

impl Day {
    /// True between dusk and dawn.
    pub fn is_night(&self) -> bool {
        self.light <= 0.0
    }
}
