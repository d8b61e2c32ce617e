//! Whom someone sides with.

use everworld_engine::{component, labels};

labels! {
    /// The parties of the town.
    pub enum Party: u8 {
        None = "none",
        Guilds = "guilds",
        Temple = "temple",
        Fields = "fields",
        Watch = "watch",
    }
}

component! {
    /// Whom someone sides with.
    pub struct Faction("faction", version 1) {
        /// The party.
        party: Party,
        /// How firmly, from 0 to 255.
        zeal: u8,
    }
}
