//! Whether a world comes back as it was: its kept ticks computed again with another number of threads, and compared
//! with every hash that is known of them.

use super::{AskError, ImageDiff, Questions, diff_images};
use crate::{clock, history::Timeline, pool, spine::SpineError};
use everworld_engine::{LiveWorld, Options, Parallel, StateHash, Tick, migrate_image};
use everworld_persistence::SnapshotMeta;
use serde::{Deserialize, Serialize};

/// What to verify.
#[derive(Clone, Copy, Debug, Default)]
pub struct VerifyOptions {
    /// The line of history; without one, that which goes on.
    pub branch: Option<u32>,
    /// The first tick; without one, the oldest that is kept.
    pub from: Option<Tick>,
    /// The last tick; without one, the newest.
    pub to: Option<Tick>,
    /// On so many threads.
    pub threads: usize,
    /// Begin at every kept snapshot and load each; else at some of them, and compare the hashes of the others.
    pub deep: bool,
    /// Whether they are to stand back behind everybody else.
    pub idle: bool,
}

/// What a verification found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verified {
    /// The world.
    pub world: String,
    /// The line of history.
    pub branch: u32,
    /// Where it began.
    pub from: Tick,
    /// How far it came.
    pub to: Tick,
    /// On so many threads.
    pub threads: usize,
    /// Ticks that were computed again.
    pub ticks: u64,
    /// Snapshots whose hash was compared.
    pub snapshots_compared: u64,
    /// Snapshots whose whole state was read and compared.
    pub snapshots_loaded: u64,
    /// Hashes of the log that were compared.
    pub checkpoints_compared: u64,
    /// Snapshots that could not be read, and why.
    pub damaged: Vec<String>,
    /// Whether every hash agrees.
    pub agrees: bool,
    /// The first that does not.
    pub mismatch: Option<Mismatch>,
}

/// A tick that comes out differently.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mismatch {
    /// The first tick that is known to differ.
    pub tick: Tick,
    /// The last tick before it that is known to agree.
    pub agrees_until: Tick,
    /// `snapshot`, `checkpoint`, or `tick` when it failed.
    pub what: String,
    /// What was recorded.
    pub expected: Option<StateHash>,
    /// What came out.
    pub found: Option<StateHash>,
    /// What another number of threads comes to: when that differs too, ticks depend on threads.
    pub depends_on_threads: bool,
    /// Why the tick failed.
    pub failure: Option<String>,
    /// The build that computed the tick then, where it is not this one.
    pub other_build: Option<String>,
    /// What differs, where both states are at hand: from what was recorded, or computed by the other number of
    /// threads, to what came out.
    pub differs: Option<ImageDiff>,
}

impl Mismatch {
    /// Nothing more is known yet.
    fn at(tick: Tick, agrees_until: Tick, what: &str) -> Self {
        Self {
            tick,
            agrees_until,
            what: what.into(),
            expected: None,
            found: None,
            depends_on_threads: false,
            failure: None,
            other_build: None,
            differs: None,
        }
    }
}

/// From so many snapshots ticks are computed again, unless each is wanted: loading one costs more than many ticks.
const STRETCHES_MAX: usize = 32;
/// So many entities of a mismatch are shown.
const SHOWN_MAX: usize = 10;

impl Questions {
    /// Verifies the kept ticks.
    pub fn verify(&self, options: &VerifyOptions) -> Result<Verified, AskError> {
        let at = super::At { branch: options.branch, tick: options.to };
        let (branch, to) = self.place(at)?;
        let from = options.from.unwrap_or_default().max(self.oldest(branch));
        let from = if options.from.is_none() && self.history.begin_anew(branch, &self.options).is_ok() {
            // The log goes back to the beginning: so does the verification.
            self.begins_at(branch)
        } else {
            from
        };
        if from > to {
            return Err(AskError::Wrong(format!("from: tick {from} comes after tick {to}")));
        }
        let mut verified = Verified {
            world: self.history.world.clone(),
            branch,
            from,
            to: from,
            threads: options.threads,
            ticks: 0,
            snapshots_compared: 0,
            snapshots_loaded: 0,
            checkpoints_compared: 0,
            damaged: Vec::new(),
            agrees: true,
            mismatch: None,
        };
        let verifier = Self { options: Self::threads(options.threads, options.idle)?, ..self.clone() };
        let branches = self.history.branches();
        let listed = self.history.store.snapshots();
        verified.damaged.extend(self.history.damaged.iter().cloned());
        verified.damaged.extend(listed.damaged.iter().map(|error| crate::spine::chain(error)));
        let mut snapshots = listed.kept;
        snapshots
            .retain(|meta| meta.tick >= from && branches.on_the_way((meta.branch, meta.tick), (branch, to)));
        snapshots.sort_by_key(|meta| (meta.tick, meta.branch));
        // From each snapshot to the next one: what is wrong in one stretch does not hide what is wrong in others.
        let mut stretches: Vec<(Option<SnapshotMeta>, Tick)> = Vec::new();
        if snapshots.first().is_none_or(|first| first.tick > from) {
            stretches.push((None, snapshots.first().map_or(to, |first| first.tick)));
        }
        let every = if options.deep { 1 } else { snapshots.len().div_ceil(STRETCHES_MAX).max(1) };
        // The newest counts most: it is what a restart begins with.
        let last = snapshots.len().saturating_sub(1);
        let begins: Vec<SnapshotMeta> = snapshots
            .iter()
            .enumerate()
            .filter(|(i, _)| i % every == 0 || *i == last)
            .map(|(_, meta)| *meta)
            .collect();
        for (i, meta) in begins.iter().enumerate() {
            stretches.push((Some(*meta), begins.get(i + 1).map_or(to, |next| next.tick)));
        }
        // What a former build computed hides nothing of what this one did.
        let mut of_other_build = None;
        for (begin, end) in stretches {
            verifier.stretch(&mut verified, begin.as_ref(), from, end, &snapshots)?;
            if let Some(mismatch) = verified.mismatch.take_if(|mismatch| mismatch.other_build.is_some()) {
                of_other_build.get_or_insert(mismatch);
            }
            if verified.mismatch.is_some() {
                break;
            }
        }
        verified.mismatch = verified.mismatch.or(of_other_build);
        verified.agrees = verified.mismatch.is_none() && verified.damaged.is_empty();
        Ok(verified)
    }

    fn begins_at(&self, branch: u32) -> Tick {
        // A fork's log begins at its first snapshot.
        let first = self.history.first_checkpoint();
        if branch == 0 { first } else { first.min(self.oldest(branch)) }
    }

    fn threads(threads: usize, idle: bool) -> Result<Options, AskError> {
        let pool = if idle { pool::start_idle(threads) } else { pool::start(threads, false) };
        let pool = pool.map_err(|error| AskError::Wrong(format!("{error:#}")))?;
        // Each system is split, however short: that is what is to be tried.
        Ok(Options { pool, parallel: Parallel::Always, stopwatch: clock::stopwatch() })
    }

    /// One stretch from a snapshot to the next.
    fn stretch(
        &self,
        verified: &mut Verified,
        begin: Option<&SnapshotMeta>,
        from: Tick,
        end: Tick,
        snapshots: &[SnapshotMeta],
    ) -> Result<(), AskError> {
        let branch = verified.branch;
        let begun = match begin {
            Some(meta) => self.history.begin_with(meta, branch, &self.options),
            None => self.world_at((branch, from)).map_err(|error| match error {
                AskError::World(error) => error,
                other => SpineError::NotKept {
                    world: verified.world.clone(),
                    tick: from,
                    detail: other.to_string(),
                },
            }),
        };
        let (mut live, mut timeline) = match begun {
            Ok(begun) => begun,
            Err(error @ (SpineError::NotKept { .. } | SpineError::Store { .. })) => {
                verified.damaged.push(crate::spine::chain(&error));
                return Ok(());
            }
            // On the way to where it was to begin, from the beginning of the log.
            Err(SpineError::Diverged { tick, expected, found, other_build, .. }) => {
                verified.mismatch = Some(Mismatch {
                    expected: Some(expected),
                    found: Some(found),
                    other_build,
                    ..Mismatch::at(tick, from, "checkpoint")
                });
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let first = live.now();
        if let Some(meta) = begin
            && live.now() == meta.tick
        {
            // Restoring has compared the state with the snapshot's hash.
            verified.snapshots_compared += 1;
            verified.snapshots_loaded += 1;
        }
        let mut agrees_until = first;
        while live.now() < end {
            if !(self.wanted)() {
                return Err(SpineError::Interrupted.into());
            }
            let until = agrees_until;
            let mismatch = |what: &str, tick| Mismatch::at(tick, until, what);
            if let Err(error) = timeline.advance(&mut live)? {
                let tick = error.tick();
                let other_build = self.other_build(&timeline, tick)?;
                verified.mismatch = Some(Mismatch {
                    failure: Some(error.to_string()),
                    other_build,
                    ..mismatch("tick", tick)
                });
                return Ok(());
            }
            let tick = live.now();
            verified.ticks += 1;
            verified.to = verified.to.max(tick);
            let known = timeline.checkpoint(tick)?.filter(|_| !timeline.migrated);
            if let Some(expected) = known {
                verified.checkpoints_compared += 1;
                let found = live.state_hash();
                if found != expected {
                    let mut mismatch = mismatch("checkpoint", tick);
                    (mismatch.expected, mismatch.found) = (Some(expected), Some(found));
                    mismatch.other_build = self.other_build(&timeline, tick)?;
                    self.look_closer(&mut mismatch, branch, first, begin)?;
                    verified.mismatch = Some(mismatch);
                    return Ok(());
                }
                agrees_until = tick;
            }
            for meta in snapshots.iter().filter(|meta| meta.tick == tick) {
                let found = live.state_hash();
                let load = || migrate_image(live.registry(), self.history.stored(meta).ok()?).ok();
                // Where a stretch ends the next one loads it; a former schema's hash says nothing about ours.
                let loaded = if timeline.migrated { load() } else { None };
                let expected = loaded.as_ref().map_or(meta.hash, |(image, _)| image.hash);
                verified.snapshots_compared += u64::from(tick < end);
                if found != expected {
                    let mut mismatch = mismatch("snapshot", tick);
                    (mismatch.expected, mismatch.found) = (Some(expected), Some(found));
                    mismatch.other_build = self.other_build(&timeline, tick)?;
                    mismatch.differs = load()
                        .map(|(image, _)| diff_images(live.registry(), &image, &live.image(), SHOWN_MAX));
                    self.look_closer(&mut mismatch, branch, first, begin)?;
                    verified.mismatch = Some(mismatch);
                    return Ok(());
                }
                agrees_until = tick;
            }
        }
        Ok(())
    }

    /// The build that computed a tick, where it is not this one.
    fn other_build(&self, timeline: &Timeline, tick: Tick) -> Result<Option<String>, AskError> {
        let foreign = self.history.last_foreign(timeline, Tick(tick.0.saturating_sub(1)), tick)?;
        Ok(foreign.map(|(_, build)| crate::spine::hex(build)))
    }

    /// Whether the ticks of a stretch depend on the number of threads, and the first tick at which they do.
    fn look_closer(
        &self,
        mismatch: &mut Mismatch,
        branch: u32,
        first: Tick,
        begin: Option<&SnapshotMeta>,
    ) -> Result<(), AskError> {
        if mismatch.other_build.is_some() {
            // That is the cause.
            return Ok(());
        }
        let other = if self.options.pool.threads() == 1 { 2 } else { 1 };
        let other = Self { options: Self::threads(other, false)?, ..self.clone() };
        let open = |questions: &Self| match begin {
            Some(meta) => {
                questions.history.begin_with(meta, branch, &questions.options).map_err(AskError::from)
            }
            None => questions.world_at((branch, first)),
        };
        let ((mut a, mut first_line), (mut b, mut second_line)) = (open(&other)?, open(self)?);
        let failed = |source| SpineError::Tick { world: self.history.world.clone(), source };
        let differ = |a: &LiveWorld, b: &LiveWorld| a.state_hash() != b.state_hash();
        while a.now() < mismatch.tick {
            if !(self.wanted)() {
                return Err(SpineError::Interrupted.into());
            }
            first_line.advance(&mut a)?.map_err(failed)?;
            second_line.advance(&mut b)?.map_err(failed)?;
            if differ(&a, &b) {
                mismatch.depends_on_threads = true;
                mismatch.tick = a.now();
                mismatch.agrees_until = Tick(a.now().0 - 1);
                mismatch.expected = Some(a.state_hash());
                mismatch.found = Some(b.state_hash());
                mismatch.differs = Some(diff_images(a.registry(), &a.image(), &b.image(), SHOWN_MAX));
                break;
            }
        }
        Ok(())
    }
}
