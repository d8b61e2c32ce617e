//! The market of the town: its goods, its prices and its till.

use everworld_engine::resource;

/// What the market deals in.
pub const GOODS: [&str; 2] = ["food", "wares"];

resource! {
    /// The market: what it has, what it asks, and what it owns.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct Market("market", version 1) {
        /// Pieces of food and of wares in store.
        pub stock: [u64; 2],
        /// What a piece of each is worth, in coins.
        pub price: [f64; 2],
        /// Pieces that people came to buy since prices were set, whether there were any or not.
        pub wanted: [u64; 2],
        /// Pieces that people brought since then.
        pub offered: [u64; 2],
        /// Coins in the till.
        pub till: i64,
        /// What the town pays for a day of service, in coins.
        pub wage: u32,
    }
}

impl Market {
    /// What a piece costs, in whole coins.
    pub fn cost(&self, good: usize) -> u64 {
        (self.price[good].round_ties_even() as u64).max(1)
    }
}
