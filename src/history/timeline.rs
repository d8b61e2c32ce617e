//! What a world's log tells: how it ends, and how the world went on, tick by tick.
//!
//! A [`Told`] is the log skimmed to its end, without the inputs. A [`Timeline`] goes beside a world whose ticks are
//! computed again: it reads on as far as the next tick needs it, and forgets what no later tick needs. So it holds the
//! inputs between that tick and the next Seal, which the sequencer bounds, however long the log is (L1).

use super::{BranchInfo, Branches, Fix, Fixed, HostState, RunMode};
use crate::spine::SpineError;
use everworld_engine::{InputEnvelope, LiveWorld, StateHash, Tick, TickError};
use everworld_persistence::{Control, DurablePoint, IdempotencyKey, LogError, Record, Records, Retention};
use everworld_systems::WorldRecord;
use std::{collections::BTreeMap, sync::Arc};

/// An input as the log has it.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Its place.
    pub lsn: u64,
    /// What the tick sees of it.
    pub input: InputEnvelope,
    /// By what its sender knows it again.
    pub idempotency: Option<IdempotencyKey>,
}

/// What a log tells of its world as far as it was read, but for inputs and single ticks.
#[derive(Clone, Debug)]
pub struct Told {
    /// What the world was created from, once known.
    pub record: Option<WorldRecord>,
    /// The lines of history.
    pub branches: Branches,
    /// The build of the newest [`Record::Build`].
    pub build_id: Option<[u8; 16]>,
    /// Ticks up to that one of the newest branch may have been shown.
    pub horizon: Tick,
    /// What the world does.
    pub mode: RunMode,
    /// How old snapshots are kept, where that is not as configured.
    pub retention: Option<Retention>,
    /// The number after the last input.
    pub next_seq: u64,
    /// The number after the last control record.
    pub next_control: u64,
    /// What was read comes after this record.
    pub begin: DurablePoint,
    /// What was left out, as far as the log is kept.
    pub fixed: Vec<Fixed>,
    /// Which builds computed what follows.
    built: Vec<Built>,
    /// The newest tick of the newest branch that has a Seal.
    sealed: Tick,
    hung: Vec<(Tick, Fix)>,
}

impl Told {
    /// A world of which nothing is known.
    pub(super) fn empty() -> Self {
        Self {
            record: None,
            branches: Branches::default(),
            build_id: None,
            horizon: Tick(0),
            mode: RunMode::default(),
            retention: None,
            next_seq: 1,
            next_control: 1,
            begin: DurablePoint::default(),
            fixed: Vec::new(),
            built: Vec::new(),
            sealed: Tick(0),
            hung: Vec::new(),
        }
    }

    /// A world that was just created.
    pub(crate) fn of(record: WorldRecord, build_id: [u8; 16]) -> Self {
        Self { record: Some(record), build_id: Some(build_id), ..Self::empty() }
    }

    /// What was known when a snapshot was taken.
    pub(super) fn from_host(host: &HostState, build_id: [u8; 16]) -> Result<Self, String> {
        let record = serde_json::from_slice(&host.record_json);
        Ok(Self {
            record: Some(record.map_err(|error| format!("the world record: {error}"))?),
            branches: host.branches.clone(),
            build_id: Some(build_id),
            horizon: host.horizon,
            mode: host.mode,
            retention: host.retention,
            next_seq: host.next_seq,
            next_control: host.next_control,
            begin: DurablePoint { lsn: host.from.lsn, chain: host.from.chain },
            fixed: host.fixed.clone(),
            built: vec![Built { branch: host.branches.current(), after: Tick(0), build_id }],
            ..Self::empty()
        })
    }

    /// Reads all the rest of a log; `input` sees each input that comes by.
    pub(super) fn skim(
        &mut self,
        records: Records,
        world: &str,
        input: &mut dyn FnMut(&Logged),
    ) -> Result<(), SpineError> {
        for entry in records {
            let (lsn, record) = entry.map_err(|source| log_error(world, source))?;
            self.note(lsn, &record).map_err(|detail| inconsistent(world, detail))?;
            if let Some(logged) = logged(lsn, record) {
                input(&logged);
            }
        }
        Ok(())
    }

    /// Notes the next record of the log.
    fn note(&mut self, lsn: u64, record: &Record) -> Result<(), String> {
        match record {
            Record::Create { world_record } => {
                let record = serde_json::from_slice(world_record);
                self.record = Some(record.map_err(|error| format!("Create: {error}"))?);
            }
            Record::Build { build_id } => {
                let (branch, after) = (self.branches.at(lsn), self.target());
                self.built.push(Built { branch, after, build_id: *build_id });
                self.build_id = Some(*build_id);
            }
            Record::Input(input) => self.next_seq = self.next_seq.max(input.seq + 1),
            // What lies before the branch that a snapshot is of says nothing about its end.
            Record::Seal { tick, .. } if self.branches.is_current(lsn) => self.sealed = *tick,
            Record::Seal { .. } | Record::Checkpoint { .. } => {}
            // The newest one counts, not the highest: a pause lowers what the lease had allowed.
            Record::Horizon { tick } => self.horizon = *tick,
            Record::Server { .. } => return Err("it has a record of the server's own log".into()),
            Record::Hung { tick, system } => self.hung.push((*tick, blame(system))),
            Record::Control { seq, control, tick, .. } => {
                if let Some(fix) = Fix::from_control(control) {
                    self.hung.retain(|(_, hung)| *hung != fix);
                    let branch = self.branches.at(lsn);
                    let fixed = Fixed { lsn, branch, tick: *tick, fix };
                    if !self.fixed.contains(&fixed) {
                        self.fixed.push(fixed);
                    }
                }
                // What a snapshot's host state already has.
                if *seq < self.next_control {
                    return Ok(());
                }
                self.next_control = seq + 1;
                self.mode = self.mode.after(control, *tick);
                match *control {
                    Control::Branch { branch, parent, tick, floor_seq, taken_seq } => {
                        let end = self.target();
                        let info = BranchInfo { branch, parent, tick, floor_seq, taken_seq, end, lsn };
                        self.branches.add(info);
                        (self.horizon, self.sealed) = (tick, Tick(0));
                        self.hung.clear();
                    }
                    Control::Retention(retention) => self.retention = Some(retention),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The last tick of the newest branch that recovery has to reach: whatever may have been shown, and whatever has
    /// its inputs.
    pub fn target(&self) -> Tick {
        self.horizon.max(self.sealed)
    }

    /// The last tick of a line after `from`, up to and with `until`, that another build than `own` computed.
    pub fn last_foreign(
        &self,
        line: u32,
        (from, until): (Tick, Tick),
        own: [u8; 16],
    ) -> Option<(Tick, [u8; 16])> {
        let build = |tick: Tick| {
            let on = self.branches.resolve(line, tick);
            let built = |built: &&Built| built.branch < on || (built.branch == on && built.after < tick);
            self.built.iter().rfind(built).map(|built| built.build_id)
        };
        (from.0 + 1..=until.0).rev().find_map(|tick| {
            let build = build(Tick(tick)).filter(|build| *build != own)?;
            Some((Tick(tick), build))
        })
    }

    /// The hangs that nothing was done about yet, in the order of the log.
    pub fn unanswered_hangs(&self) -> Vec<(Tick, Fix)> {
        self.hung.clone()
    }
}

/// From when on a build computed the ticks.
#[derive(Clone, Copy, Debug)]
struct Built {
    branch: u32,
    /// The last tick of that line that another one computed.
    after: Tick,
    build_id: [u8; 16],
}

/// What the log says about a tick.
#[derive(Clone, Debug, Default)]
struct At {
    seal: Option<u64>,
    fixes: Vec<Fix>,
}

/// How a world goes on along one line of history, read from its log tick by tick.
pub struct Timeline {
    /// What was known where it begins.
    pub(super) begin: Told,
    /// What was read so far; of the lines of history all that are known.
    pub told: Told,
    /// It begins with a state of a former build's schema: hashes of those rows say nothing about ours.
    pub migrated: bool,
    /// It begins with the world as this build creates it.
    pub(super) begins_anew: bool,
    /// The last tick whose hash was compared and found equal.
    confirmed: Option<Tick>,
    world: String,
    /// This build.
    build_id: [u8; 16],
    /// Where it goes.
    line: u32,
    /// The inputs that are read and that no computed tick has taken, by number.
    inputs: BTreeMap<u64, Logged>,
    at: BTreeMap<(u32, Tick), At>,
    /// All is known of the ticks of lines up to this one: lines follow each other in the log.
    known: (u32, Tick),
    /// The inputs up to this one have their Seal.
    sealed_seq: u64,
    rest: Option<Records>,
    checkpoints: Checkpoints,
}

impl Timeline {
    /// Goes on after `told` with two readers of the log from there on. The lines and what was left out are those of the
    /// whole log, where that is known: a tick may have been fixed long after.
    pub(super) fn new(
        mut told: Told,
        (world, own): (&str, [u8; 16]),
        line: u32,
        (branches, fixed): (&Branches, &[Fixed]),
        records: impl Fn() -> Records,
    ) -> Self {
        let mut at: BTreeMap<(u32, Tick), At> = BTreeMap::new();
        for fixed in fixed.iter().filter(|fixed| fixed.lsn > told.begin.lsn) {
            at.entry((fixed.branch, fixed.tick)).or_default().fixes.push(fixed.fix.clone());
        }
        branches.0.iter().for_each(|info| told.branches.add(*info));
        let build = told.build_id;
        Self {
            begin: told.clone(),
            checkpoints: Checkpoints { rest: records(), branches: told.branches.clone(), build, next: None },
            told,
            migrated: false,
            begins_anew: false,
            confirmed: None,
            world: world.to_owned(),
            build_id: own,
            line,
            inputs: BTreeMap::new(),
            at,
            known: (0, Tick(0)),
            sealed_seq: 0,
            rest: Some(records()),
        }
    }

    /// What was left out from later ticks on when the snapshot was taken.
    pub(super) fn fix_later(&mut self, branch: u32, fixes: &[(Tick, Fix)]) {
        fixes.iter().for_each(|(tick, fix)| self.add_fix((branch, *tick), fix.clone()));
    }

    fn add_fix(&mut self, place: (u32, Tick), fix: Fix) {
        let fixes = &mut self.at.entry(place).or_default().fixes;
        if !fixes.contains(&fix) {
            fixes.push(fix);
        }
    }

    /// Reads on until the world record is known.
    pub(super) fn read_record(&mut self) -> Result<(), SpineError> {
        while self.told.record.is_none() && self.read_one()? {}
        Ok(())
    }

    /// Reads all that is left: then [`Timeline::told`] is the whole, and the inputs are those that wait for a tick.
    pub(crate) fn read_to_end(&mut self) -> Result<(), SpineError> {
        while self.read_one()? {}
        Ok(())
    }

    /// Reads one record; false at the end.
    fn read_one(&mut self) -> Result<bool, SpineError> {
        let Some(entry) = self.rest.as_mut().and_then(Iterator::next) else {
            self.rest = None;
            return Ok(false);
        };
        let (lsn, record) = entry.map_err(|source| log_error(&self.world, source))?;
        let branch = self.told.branches.at(lsn);
        self.told.note(lsn, &record).map_err(|detail| inconsistent(&self.world, detail))?;
        match &record {
            Record::Seal { tick, up_to_seq } => {
                if self.told.branches.resolve(self.line, *tick) == branch {
                    self.at.entry((branch, *tick)).or_default().seal = Some(*up_to_seq);
                } else {
                    self.forget(self.sealed_seq + 1, *up_to_seq);
                }
                self.sealed_seq = self.sealed_seq.max(*up_to_seq);
                // Nothing is known of this tick before the next one: it may have failed.
                self.known = self.known.max((branch, Tick(tick.0.saturating_sub(1))));
            }
            Record::Checkpoint { tick, .. } => self.known = self.known.max((branch, *tick)),
            Record::Control { tick, control, .. } => {
                if let Some(fix) = Fix::from_control(control) {
                    self.add_fix((branch, *tick), fix);
                }
                if let Control::Branch { .. } = control {
                    self.known = self.known.max((branch, Tick(u64::MAX)));
                }
            }
            _ => {}
        }
        if let Some(logged) = logged(lsn, record) {
            self.inputs.insert(logged.input.seq, logged);
        }
        Ok(true)
    }

    /// Forgets the inputs of ticks that this line does not have.
    fn forget(&mut self, from: u64, up_to: u64) {
        let mut later = self.inputs.split_off(&from);
        self.inputs.append(&mut later.split_off(&(up_to + 1)));
    }

    /// What is left out from ticks of this line after `now` on.
    pub(crate) fn fixes_after(&self, now: Tick) -> Vec<(Tick, Fix)> {
        let later = self.at.range((self.line, now.next())..=(self.line, Tick(u64::MAX)));
        later.flat_map(|((_, tick), at)| at.fixes.iter().map(|fix| (*tick, fix.clone()))).collect()
    }

    /// The inputs that no tick has taken, once all is read.
    pub(crate) fn queued(&self, taken: u64) -> Vec<Logged> {
        let after = taken.max(self.told.branches.floor(self.line));
        self.inputs.range(after + 1..).map(|(_, logged)| logged.clone()).collect()
    }

    /// How many inputs and bytes of them are held now.
    pub fn held(&self) -> (usize, usize) {
        (self.inputs.len(), self.inputs.values().map(|logged| logged.input.payload.len()).sum())
    }

    /// Readies a world for its next tick: leaves out what was left out then, and returns the inputs that the tick's Seal
    /// gave it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn prepare(&mut self, live: &mut LiveWorld) -> Result<Vec<InputEnvelope>, SpineError> {
        let tick = live.now().next();
        let on = self.told.branches.resolve(self.line, tick);
        while self.known < (on, tick) && self.read_one()? {}
        // Earlier ticks are behind us.
        self.at = self.at.split_off(&(on, tick));
        let at = self.at.remove(&(on, tick)).unwrap_or_default();
        at.fixes.iter().for_each(|fix| fix.apply(live));
        let after = live.taken_seq().max(self.told.branches.floor(on));
        let up_to = at.seal.unwrap_or(0).max(after);
        let later = self.inputs.split_off(&(up_to + 1));
        let taken = std::mem::replace(&mut self.inputs, later);
        let taken = taken.into_iter().filter(|(seq, _)| *seq > after);
        Ok(taken.map(|(_, logged)| logged.input).collect())
    }

    /// Computes the next tick as it was. Nothing is compared.
    ///
    /// # Errors
    /// When the log cannot be read; the tick's own failure is inside.
    pub fn advance(&mut self, live: &mut LiveWorld) -> Result<Result<(), TickError>, SpineError> {
        let inputs = self.prepare(live)?;
        Ok(live.tick(&inputs).map(|_| ()))
    }

    /// Whether an equal hash tells that the world is what it was, at that tick or after it.
    pub(crate) fn is_confirmed(&self, tick: Tick) -> bool {
        self.confirmed >= Some(tick)
    }

    /// The line that it goes along.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// Whether the line is known to have had that tick, once it was prepared.
    pub(super) fn reaches(&self, tick: Tick) -> bool {
        self.known >= (self.line, tick) || tick <= self.told.target()
    }

    /// The hash that the log remembers of a tick; ticks are asked for in their order.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn checkpoint(&mut self, tick: Tick) -> Result<Option<StateHash>, SpineError> {
        Ok(self.remembered(tick)?.map(|known| known.hash))
    }

    fn remembered(&mut self, tick: Tick) -> Result<Option<Remembered>, SpineError> {
        let on = self.told.branches.resolve(self.line, tick);
        self.checkpoints.at((on, tick)).map_err(|source| log_error(&self.world, source))
    }

    /// Compares a tick that was computed with the hash that the log remembers.
    pub(super) fn compare(&mut self, live: &LiveWorld) -> Result<Option<Compared>, SpineError> {
        let tick = live.now();
        let on = self.told.branches.resolve(self.line, tick);
        let mut known = self.remembered(tick)?;
        // A line that goes on with ticks of another build begins with a hash of its own.
        let mut begin: Vec<u32> = self.told.branches.begin_at(self.line, tick).collect();
        // In the order of the log.
        begin.reverse();
        for line in begin {
            known =
                self.checkpoints.at((line, tick)).map_err(|source| log_error(&self.world, source))?.or(known);
        }
        let Some(Remembered { hash: expected, build, .. }) = known else { return Ok(None) };
        if self.migrated && build != Some(self.build_id) {
            return Ok(None);
        }
        let found = live.state_hash();
        if found == expected {
            self.confirmed = Some(tick);
        }
        // A line that begins where another build ended is on its own from there on.
        let foreign = on != self.line && build != Some(self.build_id);
        let other_build = build.filter(|build| *build != self.build_id);
        Ok(Some(Compared { tick, expected, found, foreign, other_build }))
    }
}

/// What comparing a tick came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compared {
    pub(crate) tick: Tick,
    pub(crate) expected: StateHash,
    pub(crate) found: StateHash,
    /// Another build computed it, on a line that was left since.
    pub(crate) foreign: bool,
    /// The build that computed it, where it is another one.
    pub(crate) other_build: Option<[u8; 16]>,
}

/// Reads ahead for the hashes that a log remembers: they come some time after their ticks. Holds nothing but the next.
pub(super) struct Checkpoints {
    rest: Records,
    branches: Branches,
    build: Option<[u8; 16]>,
    next: Option<Remembered>,
}

#[derive(Clone, Copy)]
pub(super) struct Remembered {
    place: (u32, Tick),
    hash: StateHash,
    build: Option<[u8; 16]>,
}

impl Checkpoints {
    pub(super) fn new(rest: Records, branches: Branches) -> Self {
        Self { rest, branches, build: None, next: None }
    }

    fn at(&mut self, place: (u32, Tick)) -> Result<Option<Remembered>, LogError> {
        loop {
            match self.next {
                Some(known) if known.place == place => return Ok(Some(known)),
                Some(known) if known.place > place => return Ok(None),
                _ => self.next = self.read()?,
            }
            if self.next.is_none() {
                return Ok(None);
            }
        }
    }

    fn read(&mut self) -> Result<Option<Remembered>, LogError> {
        for entry in &mut self.rest {
            match entry? {
                (lsn, Record::Checkpoint { tick, hash }) => {
                    let place = (self.branches.at(lsn), tick);
                    return Ok(Some(Remembered { place, hash, build: self.build }));
                }
                (_, Record::Build { build_id }) => self.build = Some(build_id),
                (lsn, Record::Control { control, .. }) => {
                    if let Some(info) = BranchInfo::from_control(&control, lsn) {
                        self.branches.add(info);
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// The ticks of a line whose hashes are remembered, in their order.
    pub(super) fn ticks(mut self, line: u32) -> impl Iterator<Item = Result<Tick, LogError>> {
        std::iter::from_fn(move || {
            loop {
                match self.read() {
                    Err(error) => return Some(Err(error)),
                    Ok(None) => return None,
                    Ok(Some(Remembered { place: (on, tick), .. })) => {
                        if self.branches.resolve(line, tick) == on {
                            return Some(Ok(tick));
                        }
                    }
                }
            }
        })
    }
}

fn logged(lsn: u64, record: Record) -> Option<Logged> {
    let Record::Input(input) = record else { return None };
    let (seq, idempotency) = (input.seq, input.idempotency);
    let (kind, at_tick, payload) = (input.kind, input.at_tick, input.payload);
    Some(Logged { lsn, input: InputEnvelope { seq, kind, at_tick, payload }, idempotency })
}

fn log_error(world: &str, source: LogError) -> SpineError {
    SpineError::Log { world: world.to_owned(), source: Arc::new(source) }
}

fn inconsistent(world: &str, detail: String) -> SpineError {
    SpineError::Inconsistent { world: world.to_owned(), detail }
}

/// What a [`Record::Hung`] calls an input.
const HUNG_INPUT: &str = "input ";

/// Who hung, as [`Record::Hung`] has it. Names of systems have no spaces.
pub fn hung_name(doing: &everworld_engine::Doing) -> String {
    use everworld_engine::Doing;
    match doing {
        Doing::System(system) => system.clone(),
        Doing::Input(seq) => format!("{HUNG_INPUT}{seq}"),
        Doing::Engine => String::new(),
    }
}

fn blame(hung: &str) -> Fix {
    let seq = hung.strip_prefix(HUNG_INPUT).and_then(|seq| seq.parse().ok());
    seq.map_or_else(|| Fix::Quarantine(hung.to_owned()), Fix::Skip)
}
