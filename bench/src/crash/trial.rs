//! One life with a disk of the caller's choice, judged after each of its images: for canaries and other harnesses.

use super::{
    Counting,
    hook::{HookDisk, Operation},
    judge,
    judge::{Case, Findings},
    life::{self, Lived, Script},
};
use crate::harness;
use everworld::rig::Rig;
use everworld_engine::random::Draws;
use everworld_persistence::{
    Disk, StoreOptions,
    sim::{Cut, SimDisk},
};
use std::{path::Path, sync::Arc};

/// What to try.
#[derive(Clone, Copy)]
pub(crate) struct Trial {
    pub(crate) seed: u64,
    pub(crate) steps: u32,
    /// Puts the disk of a canary around that of the trial.
    pub(crate) around: fn(SimDisk) -> Arc<dyn Disk>,
    pub(crate) show_unsealed: bool,
    /// Nothing is ever removed.
    pub(crate) keeps_all: bool,
}

impl Trial {
    pub(crate) fn sound(seed: u64, steps: u32) -> Self {
        Self { seed, steps, around: |disk| Arc::new(disk), show_unsealed: false, keeps_all: false }
    }

    /// One life on that disk; what it knew is in the case.
    pub(crate) fn live(&self, disk: &SimDisk) -> anyhow::Result<(Case, Lived)> {
        const SEGMENT_BYTES: u64 = 64 << 10;
        let mut draws = Draws::new(self.seed, 0, 3, 0);
        let record = harness::record("churn", 40, self.seed)?;
        let mut teller = Counting { disk, facts: Vec::new() };
        let rig = Rig {
            disk: (self.around)(disk.clone()),
            store: Some(if self.keeps_all {
                StoreOptions { dense_secs: u64::MAX, keep_secs: u64::MAX, ..life::quick_store() }
            } else {
                life::quick_store()
            }),
            show_unsealed: self.show_unsealed,
        };
        let script =
            Script { steps: self.steps, bytes_max: 4_000, failures: true, first_mark: 1, first_lsn: 1 };
        let config = life::config(judge::data(), SEGMENT_BYTES);
        let mut lived = life::live(rig, &config, &record, script, &mut draws, &mut teller)?;
        let records = std::mem::take(&mut lived.records);
        Ok((Case::new(record, teller.facts, records, SEGMENT_BYTES), lived))
    }

    /// One life, and losses of power at some of its operations.
    pub(crate) fn run(&self, prepare: impl FnOnce(&SimDisk)) -> anyhow::Result<Findings> {
        let disk = SimDisk::default();
        prepare(&disk);
        disk.keep_images_at((1..130).map(|i| i * 6));
        let (case, _) = self.live(&disk)?;
        let mut findings = Findings::default();
        for (op, image) in disk.take_images() {
            for (i, cut) in [Cut::Synced, Cut::Any(op)].into_iter().enumerate() {
                let left: Arc<dyn Disk> = Arc::new(image.cut(cut));
                findings.add(case.judge(&left, judge::data(), op, i as u64));
            }
        }
        Ok(findings)
    }
}

/// A planted bug: says that log segments are synced, and syncs nothing.
pub(crate) fn lying(disk: SimDisk) -> Arc<dyn Disk> {
    let is_of_log = |path: &Path| path.parent().is_some_and(|dir| dir.ends_with("log"));
    Arc::new(HookDisk::new(Arc::new(disk), move |path, operation| {
        operation != Operation::SyncData || !is_of_log(path)
    }))
}
