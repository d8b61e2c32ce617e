//! What holds in a town: what work yields, and whether people are born and die.

use everworld_engine::resource;

resource! {
    /// What holds in a town.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct Customs("customs", version 1) {
        /// Meals that an hour of work yields.
        pub meals_per_hour: f32,
        /// Wares that an hour of work yields.
        pub wares_per_hour: f32,
        /// What the town pays for a day of service at most, in coins.
        pub wage: u32,
        /// What a meal and a piece of wares are worth in a common year, in coins.
        pub base_price: [f64; 2],
        /// 1 where people are born and die.
        pub mortal: u8,
    }
}
