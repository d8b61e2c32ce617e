//! What the town remembers of its cast: so the story of it outlives any retention.

use everworld_engine::resource;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deed {
    /// When.
    pub tick: u64,
    /// What: its place among [`Deed::KINDS`].
    pub kind: u8,
    /// Who.
    pub who: u64,
    /// With whom, or about whom; 0 for nobody.
    pub whom: u64,
    /// What they were told of, as [`EpisodeKind`](crate::EpisodeKind), or which [`Trade`](crate::Trade) they took up.
    pub of: u8,
    /// How it felt, from -100 to 100.
    pub valence: i8,
    /// How much it matters, from 0 to 255.
    pub salience: u8,
}

impl Deed {
    /// What entries may be about.
    pub const KINDS: &'static [&'static str] = &[
        "met",
        "told",
        "befriended",
        "quarrelled",
        "reconciled",
        "hungered",
        "fell_ill",
        "recovered",
        "hired",
        "born",
        "died",
        "rumour",
    ];
}

/// Somebody of the cast, as they were when they joined it: what is told of them when they are no more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    /// The full name.
    pub name: String,
    /// As [`Trade`](crate::Trade).
    pub trade: u8,
    /// What they hoped for.
    pub wish: String,
    /// What nobody was to know.
    pub secret: String,
}

/// So many entries the annals have room for.
pub const DEEDS_MAX: usize = 2_048;

resource! {
    /// Whom the town tells of, and what they did: where there is no more room, the least salient entry goes.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct Annals("annals", version 2) {
        /// By which the story is worded: the world's seed.
        pub seed: u64,
        /// The cast, in the order of Uids.
        pub cast: Vec<u64>,
        /// What happened to them, in order.
        pub deeds: Vec<Deed>,
        /// Who they are, by Uid.
        pub remembered: BTreeMap<u64, Remembered>,
    }
}

/// The annals as version 1 had them: whoever died was forgotten.
#[derive(Deserialize)]
pub struct AnnalsOne {
    seed: u64,
    cast: Vec<u64>,
    deeds: Vec<Deed>,
}

impl From<AnnalsOne> for Annals {
    fn from(AnnalsOne { seed, cast, deeds }: AnnalsOne) -> Self {
        Self { seed, cast, deeds, remembered: BTreeMap::new() }
    }
}
