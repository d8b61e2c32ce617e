//! What someone does for a living, and where.

use everworld_engine::{component, labels};

labels! {
    /// What someone does for a living.
    pub enum Trade: u8 {
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

/// What comes of a trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yield {
    /// Nothing.
    Nothing,
    /// Something to eat.
    Food,
    /// Something to use.
    Wares,
    /// What the town pays for.
    Service,
}

impl Trade {
    /// What comes of it.
    pub fn yields(self) -> Yield {
        match self {
            Self::Farmer | Self::Baker => Yield::Food,
            Self::Smith | Self::Weaver | Self::Carpenter => Yield::Wares,
            Self::Merchant | Self::Innkeeper | Self::Priest | Self::Healer | Self::Guard => Yield::Service,
            _ => Yield::Nothing,
        }
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
        /// When work begins, in quarters of an hour after midnight.
        starts: u8 where 0..=95,
        /// How long it lasts, in quarters of an hour.
        lasts: u8 where 0..=95,
        /// How skilled they are, from 0 to 255: half as much again comes of the work of the best.
        skill: u8,
    }
}

impl Occupation {
    /// True in working hours; `minute` counts from midnight.
    pub fn is_at(&self, minute: u64) -> bool {
        let (starts, lasts) = (u64::from(self.starts) * 15, u64::from(self.lasts) * 15);
        (starts..starts + lasts).contains(&minute)
    }
}
