//! Who is about what, as numbers.

use everworld_engine::resource;

resource! {
    /// How many people are about what, counted in every tenth tick.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Census("census", version 1) {
        /// All of them.
        pub people: u64,
        /// Not asleep in their beds.
        pub awake: u64,
        /// At their workplace, working.
        pub at_work: u64,
        /// On a market.
        pub at_market: u64,
        /// With a hunger of 0.9 or more.
        pub starving: u64,
        /// In the town's service.
        pub servants: u64,
    }
}
