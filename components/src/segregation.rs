//! Who lives where, and wants whom around.

use everworld_engine::{component, labels, resource};

labels! {
    /// The group that somebody is of.
    pub enum Group: u32 {
        One = "one",
        Two = "two",
    }
}

component! {
    /// Somebody who wants some of their own group around.
    pub struct Resident("resident", version 1) {
        /// The group.
        group: Group,
        /// How many of the same group were around when that was looked at.
        same: u32,
    }
}

resource! {
    /// The lattice that residents live on, and what they want.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct Neighbourhood("neighbourhood", version 1) {
        /// Sites along each side.
        pub side: u32,
        /// Who is around: those at most so many sites away along both axes.
        pub reach: u32,
        /// So many of the same group have to be around.
        pub wanted: u32,
        /// How many moved in the last tick.
        pub moves: u64,
    }
}
