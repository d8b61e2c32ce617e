//! One life with a disk of the caller's choice, for harnesses that break the disk.

use super::{
    Counting, judge,
    judge::Case,
    life::{self, Lived, Script},
};
use crate::harness;
use everworld::rig::Rig;
use everworld_engine::random::Draws;
use everworld_persistence::sim::SimDisk;
use std::sync::Arc;

/// What to try.
#[derive(Clone, Copy)]
pub(crate) struct Trial {
    pub(crate) seed: u64,
    pub(crate) steps: u32,
    /// The largest text of an input.
    pub(crate) bytes_max: u32,
    /// Nothing is ever removed.
    pub(crate) keeps_all: bool,
}

impl Trial {
    pub(crate) fn sound(seed: u64, steps: u32) -> Self {
        Self { seed, steps, bytes_max: 4_000, keeps_all: false }
    }

    /// One life on that disk; what it knew is in the case.
    pub(crate) fn live(&self, disk: &SimDisk) -> anyhow::Result<(Case, Lived)> {
        const SEGMENT_BYTES: u64 = 64 << 10;
        let mut draws = Draws::new(self.seed, 0, 3, 0);
        let record = harness::record("churn", 40, self.seed)?;
        let mut teller = Counting { disk, facts: Vec::new() };
        let rig = Rig {
            disk: Arc::new(disk.clone()),
            store: Some(if self.keeps_all { life::keeping_store() } else { life::quick_store() }),
            ..Rig::default()
        };
        let script = Script::first(self.steps, self.bytes_max);
        let config = life::config(judge::data(), SEGMENT_BYTES);
        let mut lived = life::live(rig, config, &record, script, &mut draws, &mut teller)?;
        let records = std::mem::take(&mut lived.records);
        Ok((Case::new(record, teller.facts, records, SEGMENT_BYTES), lived))
    }
}
