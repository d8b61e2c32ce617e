//! What someone remembers: a few episodes, each a moment with a subject, a place and a feeling.

use everworld_engine::{component, labels, row};

labels! {
    /// What an episode is about.
    pub enum EpisodeKind: u8 {
        None = "none",
        Met = "met",
        Befriended = "befriended",
        Quarrelled = "quarrelled",
        Reconciled = "reconciled",
        Hungered = "hungered",
        FellIll = "fell ill",
        Recovered = "recovered",
        Hired = "hired",
        Born = "born",
        Died = "died",
        Rumour = "rumour",
    }
}

row! {
    /// An episode: 16 bytes. Tick, kind and subject name it: whoever hears of it remembers the same one.
    pub struct Episode {
        /// When it happened.
        tick: u32,
        /// Whom it happened to, by the number of their Uid.
        subject: u32,
        /// How much it weighs, from 0 to 1: in one's own memory when it was made, less with each mouth that passed it on.
        weight: f32,
        /// Where: the quarter of the town, counted row by row from the south-west.
        place: u16,
        /// What.
        kind: EpisodeKind,
        /// How it felt, from -100 to 100.
        valence: i8,
    }
}

/// So many episodes someone keeps.
pub const EPISODES: usize = 16;

component! {
    /// What someone remembers: a ring of episodes; where it is full, the least worth keeping makes room.
    pub struct Memory("memory", version 1) {
        /// The episodes in no order; empty ones are of kind none.
        episodes: [Episode; 16],
    }
}

impl Episode {
    /// The same moment, however it was heard of.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.tick, self.subject, self.kind) == (other.tick, other.subject, other.kind)
    }
}
