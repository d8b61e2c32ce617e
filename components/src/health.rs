//! Illness, by the SIRS model: who has been ill is safe for a while (Kermack and McKendrick 1927, "A contribution to the
//! mathematical theory of epidemics").

use everworld_engine::{component, labels};

labels! {
    /// How a body fares.
    pub enum Condition: u8 {
        Well = "well",
        Ill = "ill",
        Immune = "immune",
    }
}

component! {
    /// How a body fares, and for how long still.
    pub struct Health("health", version 1) {
        /// How.
        condition: Condition,
        /// Hours until that is over.
        hours: u8,
    }
}
