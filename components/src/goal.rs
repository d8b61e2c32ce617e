//! What someone is about.

use everworld_engine::{component, labels};

labels! {
    /// What someone may be about.
    pub enum Action: u8 {
        Idle = "idle",
        Sleep = "sleep",
        Work = "work",
        Eat = "eat",
        Trade = "trade",
        Talk = "talk",
        Pray = "pray",
        Wander = "wander",
        Flee = "flee",
        Leave = "leave",
    }
}

impl Action {
    /// Done among others, where one may be met.
    pub fn is_public(self) -> bool {
        matches!(self, Self::Trade | Self::Talk | Self::Pray | Self::Wander)
    }
}

component! {
    /// What someone is about, where, with whom, and since when.
    pub struct Goal("goal", version 1) {
        /// The tick at which it was chosen.
        since: u32,
        /// Whom it is done with, by the number of their Uid; 0 for nobody.
        target: u32,
        /// Where it is done, metres to the east.
        x: f32,
        /// Where it is done, metres to the north.
        y: f32,
        /// How much it was worth when it was chosen, in thousandths.
        score: u16,
        /// What.
        action: Action,
        /// People within earshot when that was looked at for the last time, at most 255.
        near: u8,
    }
}
