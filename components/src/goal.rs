//! What someone is about.

use everworld_engine::{component, labels};

labels! {
    /// What someone may be about.
    pub enum Action: u32 {
        Idle = "idle",
        Sleep = "sleep",
        Work = "work",
        Eat = "eat",
        Trade = "trade",
        Socialise = "socialise",
        Wander = "wander",
        Leave = "leave",
    }
}

component! {
    /// What someone is about, where, and since when.
    pub struct Goal("goal", version 1) {
        /// The tick at which it was chosen.
        since: u64,
        /// Where it is done, metres to the east.
        x: f32,
        /// Where it is done, metres to the north.
        y: f32,
        /// How much it was worth when it was chosen.
        score: f32,
        /// What.
        action: Action,
    }
}
