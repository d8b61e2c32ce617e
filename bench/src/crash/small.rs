//! A small world on a disk of the caller's, that is driven by hand: for cases that the steps of a life do not meet.

use super::{
    judge::{self, Case, Findings},
    life::{self, Fact},
};
use crate::harness;
use anyhow::{Context as _, ensure};
use everworld::{
    config::Config,
    host::{self, Hosted, Running, Wish},
    rig::Rig,
    sequencer::{AdmitError, Asked, Submitted},
    spine::chain,
    status::WorldStatus,
};
use everworld_engine::{Tick, random::Draws};
use everworld_persistence::{Disk, sim::SimDisk};
use everworld_systems::WorldRecord;
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

/// Only a machine that does nothing at all needs so long.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);
const SEGMENT_BYTES: u64 = 64 << 10;

/// A small world on a disk of the caller's.
pub(super) struct Small {
    hosted: Hosted,
    record: WorldRecord,
}

impl Small {
    pub(super) fn start(
        disk: Arc<dyn Disk>,
        show_unsealed: bool,
        configure: fn(&mut Config),
    ) -> anyhow::Result<Self> {
        let mut config = life::config(judge::data(), SEGMENT_BYTES);
        configure(&mut config);
        let record = harness::record("churn", 20, 1)?;
        let rig = Rig { disk, store: Some(life::keeping_store()), show_unsealed, ..Rig::default() };
        let lock = File::open("/dev/null")?;
        let plugins = crate::scenarios::plugins();
        let hosted = host::start_rigged(rig, &Arc::new(config), lock, record.clone(), plugins, false)?;
        let small = Self { hosted, record };
        small.until("the world shows ticks", |small| small.shown() >= Tick(2))?;
        Ok(small)
    }

    pub(super) fn running(&self) -> anyhow::Result<&Arc<Running>> {
        self.hosted.handle.running().context("the world is there")
    }

    /// The last tick that anybody can see, 0 before the world is there.
    pub(super) fn shown(&self) -> Tick {
        self.hosted.handle.running().map_or(Tick(0), |_| self.hosted.handle.status.tick())
    }

    /// The last tick that was computed and handed on.
    pub(super) fn computed(&self) -> Tick {
        self.hosted.handle.status.recent_ticks(Tick(0)).last().map_or(Tick(0), |times| times.tick)
    }

    pub(super) fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) -> anyhow::Result<()> {
        let patience = Instant::now() + PATIENCE;
        while !is_so(self) {
            ensure!(Instant::now() < patience, "{what}: not in time");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    pub(super) fn status(&self) -> &WorldStatus {
        &self.hosted.handle.status
    }

    /// An input with that mark and a text of so many bytes.
    pub(super) fn submit(&self, mark: u64, bytes: usize) -> anyhow::Result<Submitted> {
        self.try_submit(mark, bytes)?.context("the input is refused")
    }

    /// As [`Small::submit`]; none when there is no room for it (503).
    pub(super) fn try_submit(&self, mark: u64, bytes: usize) -> anyhow::Result<Option<Submitted>> {
        let text = harness::text(&mut Draws::new(mark, 0, 2, 0), bytes);
        let payload = json!({"mark": mark, "text": text});
        let (kind, at_tick, idempotency_key) = ("deliver", None, None);
        let asked = Asked { kind, payload: &payload, at_tick, wants_outcome: false, idempotency_key };
        match self.running()?.sequencer.submit(asked, &life::origin()) {
            Ok(submitted) => Ok(Some(submitted)),
            Err(AdmitError::Busy(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Durably.
    pub(super) fn pause(&self) -> anyhow::Result<()> {
        let asked = self.hosted.handle.ask(Wish::Pause, life::origin());
        life::RUNTIME.block_on(asked)?;
        Ok(())
    }

    /// What can be seen now.
    pub(super) fn seen(&self) -> anyhow::Result<Vec<(u64, Fact)>> {
        let mut facts = vec![(0, Fact::Shown { branch: 0, tick: self.shown() })];
        if let Some(applied) = self.running()?.mirror.shown() {
            facts.push((0, Fact::Hash { branch: 0, tick: applied.tick, hash: applied.hash }));
        }
        Ok(facts)
    }

    pub(super) fn stop(mut self) -> anyhow::Result<WorldRecord> {
        self.hosted.stop();
        let mut ended = None;
        let patience = Instant::now() + PATIENCE;
        while ended.is_none() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
            ended = self.hosted.ended.try_recv().ok();
        }
        let ended = ended.context("the world does not stop")?;
        ended.map_err(|error| anyhow::anyhow!("the world failed: {}", chain(&error)))?;
        Ok(self.record)
    }
}

pub(super) fn judge_all(record: WorldRecord, facts: Vec<(u64, Fact)>, images: &[SimDisk]) -> Findings {
    let case = Case::new(record, facts, BTreeMap::new(), SEGMENT_BYTES);
    let mut findings = Findings::default();
    for (i, image) in images.iter().enumerate() {
        let disk: Arc<dyn Disk> = Arc::new(image.copy());
        findings.add(case.judge(&disk, judge::data(), u64::MAX, i as u64));
    }
    findings
}
