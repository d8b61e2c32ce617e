//! What someone does for a living, and where.

use everworld_engine::{component, labels};

labels! {
    /// What someone does for a living.
    pub enum Trade: u16 {
        None = "none",
        Farmer = "farmer",
        Baker = "baker",
        Smith = "smith",
        Weaver = "weaver",
        Merchant = "merchant",
        Innkeeper = "innkeeper",
        Priest = "priest",
        Healer = "healer",
        Guard = "guard",
        Carpenter = "carpenter",
        Traveller = "traveller",
    }
}

component! {
    /// What someone does for a living, where and when.
    pub struct Occupation("occupation", version 1) {
        /// The workplace, metres to the east.
        x: f32,
        /// The workplace, metres to the north.
        y: f32,
        /// What they do.
        trade: Trade,
        /// The minute of the day at which work begins.
        starts: u16,
        /// How many minutes it lasts.
        lasts: u16,
        /// Coins for a day of work.
        wage: u16,
    }
}
