//! Coins: in purses, and in the town's treasury. Their sum changes only with who comes and goes.

use everworld_engine::{component, resource};

component! {
    /// What someone carries in coins.
    pub struct Purse("purse", version 1) {
        /// Whole coins.
        coins: u32,
    }
}

resource! {
    /// What the town owns: it pays wages and takes what is spent at markets.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct Treasury("treasury", version 1) {
        /// Whole coins; negative when the town owes.
        pub coins: i64,
    }
}
