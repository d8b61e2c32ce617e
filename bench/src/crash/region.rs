//! A world whose epoch file is past a region of redb: its crashes are like those of small ones.

use super::{
    Counting,
    judge::{self, Case, Findings},
    life::{self, Script},
};
use crate::harness;
use anyhow::{Context as _, ensure};
use everworld::rig::Rig;
use everworld_engine::random::Draws;
use everworld_persistence::{
    Disk,
    sim::{self, Cut, REGION_BYTES, SimDisk},
};
use std::sync::Arc;

/// Bytes of the file, images that were kept while it was written to, and what came back of them.
pub(crate) struct PastRegion {
    pub(crate) file_bytes: u64,
    pub(crate) images: u64,
    pub(crate) findings: Findings,
}

const SEGMENT_BYTES: u64 = 64 << 10;
const STEPS: u32 = 24;
/// Each takes some ten MiB.
const IMAGES: u64 = 12;

pub(crate) fn past_region(seed: u64) -> anyhow::Result<PastRegion> {
    let mut draws = Draws::new(seed, 0, 7, 0);
    let disk = SimDisk::default();
    let record = harness::record("churn", 30, seed)?;
    let mut teller = Counting { disk: &disk, facts: Vec::new() };
    let rig = || Rig { disk: Arc::new(disk.clone()), store: Some(life::keeping_store()), ..Rig::default() };
    let config = || life::config(judge::data(), SEGMENT_BYTES);
    let first = Script { ages: false, ..Script::first(STEPS, 4_000) };
    let lived = life::live(rig(), config(), &record, first, &mut draws, &mut teller)?;
    lived.ended?;
    let epoch = disk.files().into_iter().rfind(|path| path.extension().is_some_and(|kind| kind == "redb"));
    let epoch = epoch.context("there is an epoch")?;
    let file_bytes = sim::grow_past_a_region(&disk, &epoch)?;
    ensure!(file_bytes > REGION_BYTES, "the file has {file_bytes} bytes");
    let begin = disk.operations();
    disk.keep_images_at((0..IMAGES).map(|i| begin + 3 + i * 17));
    let script = Script { first_mark: lived.next_mark, failures: false, ..first };
    let lived = life::live(rig(), config(), &record, script, &mut draws, &mut teller)?;
    lived.ended?;
    ensure!(disk.file_len(&epoch) >= Some(file_bytes), "another epoch was written");
    let images = disk.take_images();
    let case = Case::new(record, teller.facts, lived.records, SEGMENT_BYTES);
    let mut findings = Findings::default();
    for (op, image) in &images {
        for cut in [Cut::Synced, Cut::Any(draws.u64()), Cut::Issued] {
            let left: Arc<dyn Disk> = Arc::new(image.cut(cut));
            findings.add(case.judge(&left, judge::data(), *op, draws.u64()));
        }
    }
    Ok(PastRegion { file_bytes, images: images.len() as u64, findings })
}
