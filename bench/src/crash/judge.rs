//! Brings a world back from what a crash left of its disk, and holds what comes back against what was known outside.

use super::{
    life::{DATA, Fact, quick_store},
    reference::{Base, Reference, Replayed},
    tale::tale,
};
use crate::{harness, scenarios};
use anyhow::Context as _;
use everworld::{
    Plugin,
    catalogue::{Catalogue, Origin},
    spine::{Spine, SpineError, SpineOptions, chain},
    status::WorldStatus,
};
use everworld_engine::{InputEnvelope, NodeKind, Options, Parallel, StateHash, Tick, migrate_image};
use everworld_persistence::{Disk, LogError, Record};
use everworld_systems::WorldRecord;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// What is known of a world before it is brought back.
pub(crate) struct Case {
    pub(crate) record: WorldRecord,
    /// Each with the number of operations that the disk had begun.
    pub(crate) facts: Vec<(u64, Fact)>,
    /// All records that the log ever had, those that were cut included.
    pub(crate) records: BTreeMap<u64, Record>,
    pub(crate) segment_bytes: u64,
    /// What the build that brings it back is made of.
    plugins: &'static [Plugin],
    /// It goes on with a state of another build: what was forked off before has rows of that one.
    was_migrated: bool,
    /// A refusal is a fault: tell what may have led to it.
    tells: bool,
    reference: Reference,
    /// By the chain value at the end of a log: the same log is replayed once.
    memo: Mutex<BTreeMap<u64, Arc<Replayed>>>,
}

/// What judging came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// Recoveries that were tried.
    pub(crate) recoveries: u64,
    /// Of them, those that found no world yet and began one.
    pub(crate) begun_anew: u64,
    /// Those that computed ticks again.
    pub(crate) replays: u64,
    /// Facts that were held against what came back.
    pub(crate) acknowledged: u64,
    pub(crate) shown: u64,
    pub(crate) hashes: u64,
    /// Worlds that were forked off and opened.
    pub(crate) forks: u64,
    /// Those that fell short.
    pub(crate) lost: u64,
    pub(crate) contradicted: u64,
    pub(crate) differences: u64,
    pub(crate) refused: u64,
    /// Snapshots and stores that could not be used, and what was before them was.
    pub(crate) passed_over: u64,
    pub(crate) panics: u64,
    /// The codes with which a server would have refused.
    pub(crate) exit_codes: BTreeSet<u8>,
    /// What the first ones were.
    pub(crate) first: Vec<String>,
}

const NOTES_MAX: usize = 8;

impl Findings {
    pub(crate) fn add(&mut self, other: Self) {
        self.recoveries += other.recoveries;
        self.begun_anew += other.begun_anew;
        self.replays += other.replays;
        self.acknowledged += other.acknowledged;
        self.shown += other.shown;
        self.hashes += other.hashes;
        self.forks += other.forks;
        self.lost += other.lost;
        self.contradicted += other.contradicted;
        self.differences += other.differences;
        self.refused += other.refused;
        self.passed_over += other.passed_over;
        self.panics += other.panics;
        self.exit_codes.extend(other.exit_codes);
        self.first.extend(other.first);
        self.first.truncate(NOTES_MAX);
    }

    /// Everything that must not be.
    pub(crate) fn faults(&self) -> u64 {
        self.lost + self.contradicted + self.differences + self.refused + self.panics
    }

    /// What must not be served: all faults but a refusal.
    pub(crate) fn wrong(&self) -> u64 {
        self.faults() - self.refused
    }

    fn note(&mut self, text: String) {
        if self.first.len() < NOTES_MAX {
            self.first.push(text);
        }
    }
}

impl Case {
    pub(crate) fn new(
        record: WorldRecord,
        facts: Vec<(u64, Fact)>,
        records: BTreeMap<u64, Record>,
        segment_bytes: u64,
    ) -> Self {
        Self::with_base(record, facts, records, segment_bytes, (scenarios::plugins(), None))
    }

    /// Of a world that goes on with `base`, in a build of those plugins.
    pub(crate) fn with_base(
        record: WorldRecord,
        facts: Vec<(u64, Fact)>,
        records: BTreeMap<u64, Record>,
        segment_bytes: u64,
        (plugins, base): (&'static [Plugin], Option<Base>),
    ) -> Self {
        let mut seen: BTreeMap<u32, Tick> = BTreeMap::new();
        for (_, fact) in &facts {
            if let Fact::Shown { branch, tick } | Fact::Hash { branch, tick, .. } = fact {
                let newest = seen.entry(*branch).or_default();
                *newest = (*newest).max(*tick);
            }
        }
        let was_migrated = base.is_some();
        let reference = Reference::new(record.clone(), plugins, base, seen);
        Self {
            record,
            facts,
            records,
            segment_bytes,
            plugins,
            was_migrated,
            tells: true,
            reference,
            memo: Mutex::default(),
        }
    }

    /// Of a disk whose refusal is no fault.
    pub(crate) fn without_tales(self) -> Self {
        Self { tells: false, ..self }
    }

    /// Brings the world back; all facts that were known before operation `until` must hold. `data` is the data directory.
    pub(crate) fn judge(&self, disk: &Arc<dyn Disk>, data: &Path, until: u64, draw: u64) -> Findings {
        self.judge_opened(disk, data, (until, draw), &|| {})
    }

    /// As [`Case::judge`], with `opened` called when the world is back or refused.
    pub(crate) fn judge_opened(
        &self,
        disk: &Arc<dyn Disk>,
        data: &Path,
        (until, draw): (u64, u64),
        opened: &dyn Fn(),
    ) -> Findings {
        let mut findings = Findings { recoveries: 1, ..Findings::default() };
        let before = harness::panics_here();
        let hold = || self.hold(disk, data, (until, draw), opened, &mut findings);
        let judged = catch_unwind(AssertUnwindSafe(hold));
        match judged {
            Ok(Ok(())) => {}
            Ok(Err(Broken::Refused(error))) => {
                findings.refused += 1;
                findings.exit_codes.insert(error.exit_code());
                findings.note(format!("refused: {}", chain(&error)));
                if self.tells {
                    findings.note(self.explain(disk, data, &error));
                }
            }
            Ok(Err(Broken::Harness(error))) => {
                findings.differences += 1;
                findings.note(format!("the log cannot be told a second time: {error:#}"));
            }
            Err(_) => findings.note("a panic".into()),
        }
        findings.panics += harness::panics_here() - before;
        findings
    }

    /// What may tell why a world is refused, or does not come back as it was.
    fn explain(&self, disk: &Arc<dyn Disk>, data: &Path, error: &SpineError) -> String {
        let tale = tale(disk, data);
        let SpineError::Diverged { tick, .. } = error else { return tale };
        let by_log = match self.reference.replay(&self.records) {
            Ok(told) => told.of_tick(*tick),
            Err(error) => format!("{error:#}"),
        };
        format!("{tale}; tick {tick} by all that the log ever had: {by_log}")
    }

    fn hold(
        &self,
        disk: &Arc<dyn Disk>,
        data: &Path,
        (until, draw): (u64, u64),
        opened: &dyn Fn(),
        findings: &mut Findings,
    ) -> Result<(), Broken> {
        // The other number of threads than the reference has.
        let parallel = if draw.is_multiple_of(4) { Parallel::Always } else { Parallel::Never };
        let mut options =
            harness::options(if draw.is_multiple_of(4) { 2 } else { 1 }).map_err(Broken::Harness)?;
        options.parallel = parallel;
        let dir: PathBuf = data.join("worlds").join(&self.record.world);
        // A disk that cannot tell is not without one.
        let is_new = disk.exists(&dir.join("log")).is_ok_and(|exists| !exists);
        let known: Vec<&Fact> =
            self.facts.iter().filter(|(op, _)| *op <= until).map(|(_, fact)| fact).collect();
        if is_new && !known.is_empty() {
            findings.lost += known.len() as u64;
            findings.note("the world is gone".into());
            return Ok(());
        }
        let mut observed: BTreeMap<Tick, StateHash> = BTreeMap::new();
        let wanted: BTreeSet<Tick> = known
            .iter()
            .filter_map(|fact| match fact {
                Fact::Hash { tick, .. } => Some(*tick),
                _ => None,
            })
            .collect();
        let mut observe = |live: &everworld_engine::LiveWorld| {
            if wanted.contains(&live.now()) {
                observed.insert(live.now(), live.state_hash());
            }
        };
        let status = WorldStatus::default();
        let back = self.open_as(disk, data, (&self.record, options), &status, &mut observe);
        opened();
        for what in status.passed_over() {
            findings.passed_over += 1;
            findings.note(format!("passed over {what}"));
        }
        let (mut spine, mut live) = back.map_err(Broken::Refused)?;
        findings.begun_anew += u64::from(is_new);
        findings.replays += u64::from(spine.replayed > 0);
        let told = self.told(&spine).map_err(Broken::Harness)?;
        let (branch, now, hash) = (spine.history.branches().current(), live.now(), live.state_hash());
        if (branch, now) != (told.branch, told.tick) || told.hash(branch, now) != Some(hash) {
            findings.differences += 1;
            findings.note(format!(
                "came back at ({branch}, {now}) with {hash}, by the log it is ({}, {}) with {:?}",
                told.branch,
                told.tick,
                told.hash(told.branch, told.tick)
            ));
        }
        for (tick, hash) in &observed {
            // Of the line that was replayed, ticks before its beginning are its parent's.
            if !told.lines.keys().any(|line| told.hash(*line, *tick) == Some(*hash)) {
                findings.differences += 1;
                findings.note(format!("tick {tick} came by with {hash}, which no line has"));
            }
        }
        let queued: Vec<_> = spine.queued.iter().map(|logged| key(&logged.input)).collect();
        let expected: Vec<_> = told.queued().iter().map(key).collect();
        if queued != expected {
            findings.differences += 1;
            let seqs = |queued: &[QueuedKey<'_>]| queued.iter().map(|key| key.0).collect::<Vec<u64>>();
            let (queued, expected) = (seqs(&queued), seqs(&expected));
            findings.note(format!(
                "queued are {queued:?}, by the log {expected:?}, or others under their numbers"
            ));
        }
        for fact in &known {
            match fact {
                Fact::Forked { .. } => {}
                Fact::Acknowledged { seq, mark } => {
                    findings.acknowledged += 1;
                    if told.marks.get(seq) != Some(&Some(*mark)) {
                        findings.lost += 1;
                        findings.note(format!("acknowledged input {seq} (mark {mark}) is gone"));
                    }
                }
                Fact::Shown { branch: on, tick } => {
                    findings.shown += 1;
                    if *on > branch || (*on == branch && *tick > now) {
                        findings.contradicted += 1;
                        findings.note(format!("({on}, {tick}) was shown, it came back at ({branch}, {now})"));
                    }
                }
                Fact::Hash { branch: on, tick, hash } => {
                    findings.hashes += 1;
                    if told.hash(*on, *tick) != Some(*hash) {
                        findings.contradicted += 1;
                        let found = told.hash(*on, *tick);
                        findings.note(format!("({on}, {tick}) was shown with {hash}, it has {found:?}"));
                    }
                }
            }
        }
        // The inputs that no tick had are applied now; in some cases only, as it doubles the work.
        if draw.is_multiple_of(3) {
            let after = spine.tick_by_hand(&mut live).map(|()| live.state_hash());
            let expected = self.reference.after(&told).map_err(Broken::Harness)?;
            if expected.is_some() && after.as_ref().ok() != expected.as_ref() {
                findings.differences += 1;
                findings.note(format!("one tick later the hash is {after:?}, by the log {expected:?}"));
            }
        }
        drop(spine);
        // In some cases only: it is as much again.
        if draw.is_multiple_of(4) {
            self.hold_others(disk, data, (&told, &known), findings)?;
        }
        Ok(())
    }

    /// The server's own log, and the worlds that were forked off: each is there with its state, or not at all.
    fn hold_others(
        &self,
        disk: &Arc<dyn Disk>,
        data: &Path,
        (told, known): (&Replayed, &[&Fact]),
        findings: &mut Findings,
    ) -> Result<(), Broken> {
        let mut catalogue = Catalogue::open(disk, data).map_err(Broken::Refused)?;
        let reconciled = catalogue.reconcile().map_err(Broken::Refused)?;
        let entries = catalogue.entries().clone();
        drop(catalogue);
        let own = entries.get(&self.record.world);
        if own.is_none_or(|entry| entry.origin != Origin::Created) || !reconciled.missing.is_empty() {
            findings.lost += 1;
            findings.note(format!("the server's log has forgotten how a world began: {entries:?}"));
        }
        for fact in known {
            if let Fact::Forked { name, .. } = fact
                && !entries.contains_key(name)
            {
                findings.lost += 1;
                findings.note(format!("fork {name} is gone"));
            }
        }
        for (name, entry) in &entries {
            let Origin::Forked { branch, tick, .. } = entry.origin else { continue };
            let record = WorldRecord { world: name.clone(), ..self.record.clone() };
            let options = harness::options(1).map_err(Broken::Harness)?;
            let (_, live) =
                self.open(disk, data, (&record, options), &mut |_| {}).map_err(Broken::Refused)?;
            findings.forks += 1;
            let expected = told.hash_on(branch, tick);
            if expected.is_none() && self.was_migrated {
                continue;
            }
            if live.now() != tick || expected != Some(live.state_hash()) {
                findings.differences += 1;
                let (now, hash) = (live.now(), live.state_hash());
                findings.note(format!(
                    "fork {name} of ({branch}, {tick}) is at {now} with {hash}, by the log {expected:?}"
                ));
            }
        }
        Ok(())
    }

    /// Opens the world, without an orderly end: the log's thread ends when the spine goes.
    fn open(
        &self,
        disk: &Arc<dyn Disk>,
        data: &Path,
        (record, options): (&WorldRecord, Options),
        observe: &mut dyn FnMut(&everworld_engine::LiveWorld),
    ) -> Result<(Spine, everworld_engine::LiveWorld), SpineError> {
        self.open_as(disk, data, (record, options), &WorldStatus::default(), observe)
    }

    fn open_as(
        &self,
        disk: &Arc<dyn Disk>,
        data: &Path,
        (record, options): (&WorldRecord, Options),
        status: &WorldStatus,
        observe: &mut dyn FnMut(&everworld_engine::LiveWorld),
    ) -> Result<(Spine, everworld_engine::LiveWorld), SpineError> {
        let lock = File::open("/dev/null").map_err(|source| SpineError::Io {
            what: "open",
            path: "/dev/null".into(),
            source,
        })?;
        let spine_options = SpineOptions {
            disk: disk.clone(),
            segment_bytes: self.segment_bytes,
            store: quick_store(),
            build_id: crate::scenarios::build_id_of(self.plugins),
            ..SpineOptions::default()
        };
        Spine::open_observed(lock, data, record, self.plugins, options, &spine_options, status, observe)
    }

    /// The log, told a second time on two threads.
    fn told(&self, spine: &Spine) -> anyhow::Result<Arc<Replayed>> {
        let chain = spine.log.durable().chain;
        if let Some(known) = self.memo.lock().ok().and_then(|memo| memo.get(&chain).cloned()) {
            return Ok(known);
        }
        let records = self.merged(spine)?;
        let told = Arc::new(self.reference.replay(&records)?);
        if let Ok(mut memo) = self.memo.lock() {
            memo.insert(chain, told.clone());
        }
        Ok(told)
    }

    /// Lets a world that ended without a last snapshot end in order, as who wants to change the build must.
    pub(crate) fn stop_in_order(&self, disk: &Arc<dyn Disk>, data: &Path) -> anyhow::Result<()> {
        let (mut spine, mut live) =
            self.open(disk, data, (&self.record, harness::options(1)?), &mut |_| {})?;
        Ok(spine.close(&mut live)?)
    }

    /// The state with which a world goes on that was stopped in order, in a build of those plugins, and whether it was
    /// of an older one.
    pub(crate) fn end(
        &self,
        disk: &Arc<dyn Disk>,
        data: &Path,
        plugins: &'static [Plugin],
    ) -> anyhow::Result<(Base, bool)> {
        let (spine, live) = self.open(disk, data, (&self.record, harness::options(1)?), &mut |_| {})?;
        let goes_on = self.record.scenario.builder(plugins)?.build(harness::options(1)?)?;
        let (image, report) = migrate_image(goes_on.registry(), live.image())?;
        let branches = spine.history.branches();
        let base = Base {
            branch: branches.current(),
            floor: branches.floor(branches.current()),
            lsn: spine.log.durable().lsn,
            image: Arc::new(image),
            disabled: live.disabled().map(str::to_owned).collect(),
        };
        Ok((base, !report.is_identity()))
    }

    /// Lets a world that was stopped end as one does that hangs in its next tick.
    pub(crate) fn hang(&self, disk: &Arc<dyn Disk>, data: &Path) -> anyhow::Result<()> {
        let (spine, live) = self.open(disk, data, (&self.record, harness::options(1)?), &mut |_| {})?;
        let mut systems = live.plan().nodes.iter().filter(|node| node.kind == NodeKind::System);
        let system = systems.next_back().context("there is a system")?.name.clone();
        let lsn = spine.log.append(Record::Hung { tick: live.now().next(), system }, None)?;
        spine.log.wait_durable(lsn)?;
        Ok(())
    }

    /// All records that a world has when it comes back from that disk, those that were cut before included.
    pub(crate) fn records_at(
        &self,
        disk: &Arc<dyn Disk>,
        data: &Path,
    ) -> anyhow::Result<BTreeMap<u64, Record>> {
        let (spine, _live) = self.open(disk, data, (&self.record, harness::options(1)?), &mut |_| {})?;
        self.merged(&spine)
    }

    /// What the log has, and before it what was cut from it.
    pub(crate) fn merged(&self, spine: &Spine) -> anyhow::Result<BTreeMap<u64, Record>> {
        let mut records = BTreeMap::new();
        let mut from = 1;
        'again: loop {
            for entry in spine.log.records(from) {
                match entry {
                    Ok((lsn, record)) => _ = records.insert(lsn, record),
                    Err(LogError::Missing { first_lsn, .. }) if from == 1 && first_lsn > 1 => {
                        from = first_lsn;
                        continue 'again;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            break;
        }
        let first = records.first_key_value().map_or(1, |(lsn, _)| *lsn);
        records.extend(self.records.range(..first).map(|(lsn, record)| (*lsn, record.clone())));
        let gap = records.keys().zip(1..).find(|(lsn, expected)| **lsn != *expected);
        if let Some((lsn, expected)) = gap {
            anyhow::bail!("record {expected} is nowhere, the next one is {lsn}");
        }
        Ok(records)
    }
}

/// All that a tick sees of an input.
type QueuedKey<'i> = (u64, &'i str, Option<Tick>, &'i [u8]);

fn key(input: &InputEnvelope) -> QueuedKey<'_> {
    (input.seq, &input.kind, input.at_tick, &input.payload)
}

enum Broken {
    Refused(SpineError),
    Harness(anyhow::Error),
}

/// The data directory on a disk in memory.
pub(crate) fn data() -> &'static Path {
    Path::new(DATA)
}
