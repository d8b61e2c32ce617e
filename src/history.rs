//! The time machine: what a world's log tells, and the world as it was at any tick that is still kept.
//!
//! A tick of the past is its nearest snapshot on the same line of history, and the ticks after it computed again from the
//! log; recovery, rewinds and forks are that too. Each hash that the log remembers is compared on the way. The log is
//! linear: a rewind begins a new branch, and ticks are named by (branch, tick). Reads go beside a running world.

mod timeline;

pub(crate) use timeline::Compared;
pub use timeline::{Logged, Timeline, Told, hung_name};

use timeline::Checkpoints;

use crate::{
    catalogue::{self, Event, Origin},
    spine::{self, SpineError, SpineOptions, chain},
};
use everworld_engine::{
    Chunk, ColumnSchema, Image, ImageError, LiveWorld, Options, Tick, TickError, migrate_image,
};
use everworld_persistence::{
    Control, DurablePoint, InputRecord, Loaded, LogHandle, LogOptions, LogReader, Record, Records, Retention,
    SnapshotMeta, Store, StoreError,
};
use everworld_systems::{Plugin, WorldRecord};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    ops::ControlFlow,
    path::Path,
    sync::{Arc, OnceLock, mpsc},
    thread,
};

/// What a world does when it is not told otherwise; from the control records of its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunMode {
    /// Not ticking, but for steps.
    pub paused: bool,
    /// Where stepping ends.
    pub step_until: Tick,
    /// The rate that an operator set; without one, the configured.
    pub millihertz: Option<u64>,
}

impl RunMode {
    /// The mode after a control record that was consumed after `tick`.
    pub fn after(self, control: &Control, tick: Tick) -> Self {
        match *control {
            Control::Pause => Self { paused: true, step_until: tick, ..self },
            Control::Resume => Self { paused: false, ..self },
            Control::Step { until } => Self { paused: true, step_until: until, ..self },
            Control::Rate { millihertz } => Self { millihertz: Some(millihertz), ..self },
            // Who paused it did not ask for steps on another line.
            Control::Branch { tick, .. } => Self { step_until: self.step_until.min(tick), ..self },
            Control::Quarantine { .. } | Control::Skip { .. } | Control::Retention(_) => self,
        }
    }
}

/// What is left out from a tick on, because the tick failed with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fix {
    /// A system, for good.
    Quarantine(String),
    /// An input.
    Skip(u64),
}

impl Fix {
    /// The record that makes it durable.
    pub fn control(&self) -> Control {
        match self {
            Self::Quarantine(system) => Control::Quarantine { system: system.clone() },
            Self::Skip(seq) => Control::Skip { seq: *seq },
        }
    }

    /// What a control record leaves out.
    fn from_control(control: &Control) -> Option<Self> {
        match control {
            Control::Quarantine { system } => Some(Self::Quarantine(system.clone())),
            Control::Skip { seq } => Some(Self::Skip(*seq)),
            _ => None,
        }
    }

    /// What leaves out who is to blame for a failed tick, if that can be done.
    pub fn of(error: &TickError, live: &LiveWorld) -> Option<Self> {
        match error {
            TickError::System { system, .. } => {
                let node = live.plan().nodes.iter().find(|node| node.name == *system)?;
                use everworld_engine::NodeKind::{Exclusive, System};
                matches!(node.kind, System | Exclusive).then(|| Self::Quarantine(system.clone()))
            }
            TickError::Inputs { seq, .. } => seq.map(Self::Skip),
            _ => None,
        }
    }

    /// Applies it, before the tick that it fixes.
    pub fn apply(&self, live: &mut LiveWorld) {
        match self {
            // A system that is no longer there does no harm.
            Self::Quarantine(system) => _ = live.set_enabled(system, false),
            Self::Skip(seq) => live.skip_input(*seq),
        }
    }
}

impl std::fmt::Display for Fix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Quarantine(system) => write!(f, "system \"{system}\" is quarantined"),
            Self::Skip(seq) => write!(f, "input {seq} is skipped"),
        }
    }
}

/// A [`Fix`] that the log has. Recovery may have written it long after ticks that came later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixed {
    /// Where.
    pub lsn: u64,
    /// The line of history.
    pub branch: u32,
    /// From this tick on.
    pub tick: Tick,
    /// What is left out.
    pub fix: Fix,
}

/// A line of history that left another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchInfo {
    /// Its number; the first line is 0, and is not listed.
    pub branch: u32,
    /// The line that it left.
    pub parent: u32,
    /// The last tick that both share.
    pub tick: Tick,
    /// The last input of the older line.
    pub floor_seq: u64,
    /// The last input that the shared state has taken.
    pub taken_seq: u64,
    /// The last tick that may have been shown of the line that went on until then.
    pub end: Tick,
    /// Where the log says so.
    pub lsn: u64,
}

impl BranchInfo {
    /// The record that makes it durable.
    pub fn control(&self) -> Control {
        let Self { branch, parent, tick, floor_seq, taken_seq, .. } = *self;
        Control::Branch { branch, parent, tick, floor_seq, taken_seq }
    }

    /// What a control record says; it does not say how far the line before went.
    fn from_control(control: &Control, lsn: u64) -> Option<Self> {
        let Control::Branch { branch, parent, tick, floor_seq, taken_seq } = *control else { return None };
        Some(Self { branch, parent, tick, floor_seq, taken_seq, end: tick, lsn })
    }
}

/// The lines of history of a world. The newest one is the one that goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branches(pub Vec<BranchInfo>);

impl Branches {
    /// The line that goes on.
    pub fn current(&self) -> u32 {
        self.0.last().map_or(0, |info| info.branch)
    }

    /// The line that went on when the log had that record.
    fn at(&self, lsn: u64) -> u32 {
        self.0.iter().rfind(|info| info.lsn < lsn).map_or(0, |info| info.branch)
    }

    /// Whether the newest line went on when the log had that record.
    fn is_current(&self, lsn: u64) -> bool {
        self.0.last().is_none_or(|info| info.lsn < lsn)
    }

    /// Another line begins, unless that is known.
    pub fn add(&mut self, info: BranchInfo) {
        if self.get(info.branch).is_none() {
            self.0.push(info);
        }
    }

    /// The line that would begin at a tick of the one that goes on, whose last tick is `end`. Its parent is the line that has
    /// a state of that tick: the one that goes on also where that one begins, as the snapshot of its beginning may be all
    /// that is kept of it.
    pub fn next(&self, tick: Tick, end: Tick, (floor_seq, taken_seq): (u64, u64)) -> BranchInfo {
        let branch = self.0.iter().map(|info| info.branch).max().unwrap_or(0) + 1;
        let mut parent = self.current();
        while let Some(info) = self.get(parent).filter(|info| tick < info.tick) {
            parent = info.parent;
        }
        BranchInfo { branch, parent, tick, floor_seq, taken_seq, end, lsn: 0 }
    }

    /// The last tick of a line that was left.
    pub fn end(&self, branch: u32) -> Option<Tick> {
        let next = self.0.iter().position(|info| info.branch == branch).map_or(0, |at| at + 1);
        self.0.get(next).map(|next| next.end)
    }

    /// The former line that an input belongs to, if the line that goes on does not have it.
    pub fn left_behind(&self, seq: u64) -> Option<u32> {
        let on = self.0.iter().rfind(|info| info.floor_seq < seq).map_or(0, |info| info.branch);
        let (mut line, mut taken) = (self.current(), u64::MAX);
        while line != on {
            // A line that the present one does not come from.
            let Some(info) = self.get(line) else { return Some(on) };
            taken = taken.min(info.taken_seq);
            line = info.parent;
        }
        (seq > taken).then_some(on)
    }

    fn get(&self, branch: u32) -> Option<&BranchInfo> {
        self.0.iter().find(|info| info.branch == branch)
    }

    /// The last input that a branch leaves to older ones.
    pub fn floor(&self, branch: u32) -> u64 {
        self.get(branch).map_or(0, |info| info.floor_seq)
    }

    /// Which line a tick belongs to, seen from `branch`.
    pub fn resolve(&self, mut branch: u32, tick: Tick) -> u32 {
        while let Some(info) = self.get(branch).filter(|info| tick <= info.tick) {
            branch = info.parent;
        }
        branch
    }

    /// The lines on the way to `branch` that begin with that tick, the newest first.
    fn begin_at(&self, branch: u32, tick: Tick) -> impl Iterator<Item = u32> {
        let way = std::iter::successors(self.get(branch), |info| self.get(info.parent));
        way.filter(move |info| info.tick == tick).map(|info| info.branch)
    }

    /// The last tick that two lines have in common.
    pub fn common(&self, one: u32, other: u32) -> Tick {
        let line = |mut branch: u32| {
            let mut line = vec![(branch, Tick(u64::MAX))];
            while let Some(info) = self.get(branch) {
                let until = line.last().map_or(info.tick, |(_, until)| info.tick.min(*until));
                branch = info.parent;
                line.push((branch, until));
            }
            line
        };
        let other = line(other);
        let shared = line(one).into_iter().find_map(|(branch, until)| {
            let (_, other) = other.iter().find(|(known, _)| *known == branch)?;
            Some(until.min(*other))
        });
        shared.unwrap_or_default()
    }

    /// Whether the state at `(branch, tick)` lies on the way to `to`. Where a branch begins it has its parent's state.
    pub fn on_the_way(&self, (branch, tick): (u32, Tick), to: (u32, Tick)) -> bool {
        let (mut line, mut until) = to;
        loop {
            let info = self.get(line);
            if line == branch {
                return tick <= until && info.is_none_or(|info| tick >= info.tick);
            }
            let Some(info) = info else { return false };
            (line, until) = (info.parent, until.min(info.tick));
        }
    }
}

/// What the host knows beside the state at a tick, kept with its snapshot: so that the log before is not needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostState {
    /// The world record as JSON.
    pub record_json: Arc<[u8]>,
    /// What the world does.
    pub mode: RunMode,
    /// Ticks up to that one may have been shown.
    pub horizon: Tick,
    /// The systems that are left out.
    pub quarantined: Vec<String>,
    /// What is left out from later ticks on.
    pub fixes: Vec<(Tick, Fix)>,
    /// What was left out from any tick on, as far as the log is kept.
    pub fixed: Vec<Fixed>,
    /// How old snapshots are kept, where that is not as configured.
    pub retention: Option<Retention>,
    /// The lines of history; the snapshot's tick belongs to the newest.
    pub branches: Branches,
    /// The number of the first input that the state has not taken and that the log has after `from`, or the next.
    pub next_seq: u64,
    /// The number of the next control record.
    pub next_control: u64,
    /// The records after this one tell how the world goes on.
    pub from: DurableAt,
    /// The log was durable up to there when the snapshot was written (D7).
    pub covered: DurableAt,
}

/// A [`DurablePoint`], as it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DurableAt {
    /// See [`DurablePoint::lsn`].
    pub lsn: u64,
    /// See [`DurablePoint::chain`].
    pub chain: u64,
}

impl From<DurablePoint> for DurableAt {
    fn from(point: DurablePoint) -> Self {
        Self { lsn: point.lsn, chain: point.chain }
    }
}

/// What was known beside the states that were captured last, until their images have become snapshots or were passed
/// over. The host adds at each capture; who writes a snapshot takes the one of its tick.
#[derive(Default)]
pub struct HostStates(Mutex<VecDeque<(Tick, HostState)>>);

/// Captures on their way are few: the mirror takes one at a time.
const HOST_STATES_MAX: usize = 64;

impl HostStates {
    /// A state of that tick was captured.
    pub fn captured(&self, tick: Tick, host: HostState) {
        let mut states = self.0.lock();
        states.retain(|(known, _)| *known < tick);
        if states.len() == HOST_STATES_MAX {
            states.pop_front();
        }
        states.push_back((tick, host));
    }

    /// What belongs to an image of that tick; earlier ones are forgotten.
    pub fn of(&self, tick: Tick) -> Option<HostState> {
        let mut states = self.0.lock();
        while states.front().is_some_and(|(known, _)| *known < tick) {
            states.pop_front();
        }
        states.front().filter(|(known, _)| *known == tick).map(|(_, host)| host.clone())
    }

    /// Another line of history begins: nothing that was captured before is on it.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

/// The version of [`HostState`] that this build writes; the first byte of its encoding.
const HOST_STATE_VERSION: u8 = 2;

/// Version 1 of [`HostState`].
#[derive(Deserialize)]
struct HostStateV1 {
    record_json: Arc<[u8]>,
    mode: RunMode,
    horizon: Tick,
    quarantined: Vec<String>,
    fixes: Vec<(Tick, Fix)>,
    branches: Vec<BranchInfoV1>,
    next_seq: u64,
    next_control: u64,
    from: DurableAt,
    covered: DurableAt,
}

#[derive(Deserialize)]
struct BranchInfoV1 {
    branch: u32,
    parent: u32,
    tick: Tick,
    floor_seq: u64,
    lsn: u64,
}

impl From<HostStateV1> for HostState {
    fn from(former: HostStateV1) -> Self {
        let HostStateV1 { record_json, mode, horizon, quarantined, fixes, branches, .. } = former;
        let HostStateV1 { next_seq, next_control, from, covered, .. } = former;
        let info = |BranchInfoV1 { branch, parent, tick, floor_seq, lsn }| {
            // What was left behind, and how far the line before went, it does not say: only what is sure counts.
            BranchInfo { branch, parent, tick, floor_seq, taken_seq: floor_seq, end: tick, lsn }
        };
        let branches = Branches(branches.into_iter().map(info).collect());
        let (fixed, retention) = (Vec::new(), None);
        Self {
            record_json,
            mode,
            horizon,
            quarantined,
            fixes,
            fixed,
            retention,
            branches,
            next_seq,
            next_control,
            from,
            covered,
        }
    }
}

impl HostState {
    /// As bytes for the store.
    pub fn encode(&self) -> Vec<u8> {
        let encoded = postcard::to_extend(self, vec![HOST_STATE_VERSION]);
        encoded.expect("a host's state holds only sized sequences, which postcard always encodes")
    }

    /// From the bytes of a snapshot that was verified.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let malformed = |error: postcard::Error| format!("the host's state: {error}");
        match bytes.split_first() {
            Some((&HOST_STATE_VERSION, rest)) => postcard::from_bytes(rest).map_err(malformed),
            Some((1, rest)) => postcard::from_bytes(rest).map(HostStateV1::into).map_err(malformed),
            Some((version, _)) => {
                Err(format!("the host's state has version {version}, this build knows {HOST_STATE_VERSION}"))
            }
            None => Err("the host's state is missing".into()),
        }
    }
}

/// What to do about ticks that fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnPanic {
    /// Leave out the system or the input that failed, for good, and go on.
    #[default]
    Quarantine,
    /// Stop with the reason.
    Stop,
}

impl OnPanic {
    /// Their names in the configuration.
    pub const NAMES: [(&'static str, Self); 2] = [("quarantine", Self::Quarantine), ("stop", Self::Stop)];
}

/// A snapshot that was loaded and verified.
pub(crate) struct Kept {
    pub(crate) meta: SnapshotMeta,
    pub(crate) image: Arc<Image>,
    pub(crate) host: HostState,
    pub(crate) ledger: Vec<(u64, Vec<u8>)>,
    /// The world of it, where that was built while it was read.
    built: Mutex<Option<Built>>,
}

/// A world that was restored, and the record that it was built from.
struct Built {
    record: WorldRecord,
    live: LiveWorld,
}

impl Kept {
    pub(crate) fn load(store: &Store, meta: &SnapshotMeta) -> Result<Self, String> {
        Self::of(store.load(meta.branch, meta.tick), None)
    }

    /// As [`Kept::load`], on the threads of the pool, and the calling thread builds the world meanwhile, chunk by chunk as they
    /// are read. Where it cannot, for any reason, the world is built from the whole later, which then says why.
    pub(crate) fn load_and_build(
        store: &Store,
        meta: &SnapshotMeta,
        plugins: &[Plugin],
        options: &Options,
    ) -> Result<Self, String> {
        let at = (meta.branch, meta.tick);
        let host = store.load_host(at.0, at.1).map_err(|error| chain(&error));
        let record = host.and_then(|host| HostState::decode(&host)).ok();
        let record = record.and_then(|host| serde_json::from_slice::<WorldRecord>(&host.record_json).ok());
        let live = record.and_then(|record| {
            let live = build(&record, plugins, options).ok()?;
            Some(Built { record, live })
        });
        // A thread of the pool would wait for itself.
        let Some(mut built) = live.filter(|_| !options.pool.is_here()) else {
            return options.pool.install(|| Self::load(store, meta));
        };
        let (sender, chunks) = mpsc::channel();
        let (loaded, fed) = thread::scope(|scope| {
            let loading = scope.spawn(move || {
                let note = |number: usize, schemas: &[ColumnSchema], chunks: &[Arc<Chunk>]| {
                    let schemas = schemas.iter().cloned().map(Arc::new);
                    // Who takes them may have given up.
                    let _ = sender.send((number, schemas.zip(chunks.iter().cloned()).collect()));
                };
                options.pool.install(|| store.load_noting(at.0, at.1, &note))
            });
            let fed = feed(&mut built.live, (meta.tick, meta.entities), chunks);
            (loading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), fed)
        });
        let mut is_built = |Loaded { meta, image, .. }: &Loaded| {
            let migrated = migrate_image(built.live.registry(), image.clone());
            fed && image.hash == meta.hash
                && migrated.is_ok_and(|(_, report)| report.is_identity())
                && built.live.finish_restore(image).is_ok()
        };
        let is_built = loaded.as_ref().is_ok_and(&mut is_built);
        Self::of(loaded, is_built.then_some(built))
    }

    fn of(loaded: Result<Loaded, StoreError>, built: Option<Built>) -> Result<Self, String> {
        let Loaded { meta, image, host, ledger } = loaded.map_err(|error| chain(&error))?;
        let (host, built) = (HostState::decode(&host)?, Mutex::new(built));
        Ok(Self { meta, image: Arc::new(image), host, ledger, built })
    }

    /// Lets go of the world that was built for it, if there is one.
    pub(crate) fn forget_built(&self) {
        drop(self.built.lock().take());
    }
}

/// Columns of some rows.
type Columns = Vec<(Arc<ColumnSchema>, Arc<Chunk>)>;

/// Restores chunks in the order of their numbers, whatever order they come in. False if this world does not take them, or so
/// few are left of so many who once were that it may be no state at all.
fn feed(
    live: &mut LiveWorld,
    (tick, entities): (Tick, u64),
    chunks: mpsc::Receiver<(usize, Columns)>,
) -> bool {
    let uid_max = (1 << 20) + entities.saturating_mul(64);
    live.begin_restore(tick);
    let (mut early, mut next) = (BTreeMap::new(), 0);
    for (number, columns) in chunks {
        // Begun once more, from another epoch.
        if number < next || early.insert(number, columns).is_some() {
            return false;
        }
        while let Some(columns) = early.remove(&next) {
            if live.restore_chunk(&columns, uid_max).is_err() {
                return false;
            }
            next += 1;
        }
    }
    early.is_empty()
}

/// Where the log of a past is read from.
#[derive(Clone)]
pub enum LogSource {
    /// From a log that is being written.
    Live(LogHandle),
    /// From that of a stopped world.
    Stopped(Arc<LogReader>),
}

impl LogSource {
    fn records(&self, from_lsn: u64) -> Records {
        match self {
            Self::Live(log) => log.records(from_lsn),
            Self::Stopped(log) => log.records(from_lsn),
        }
    }
}

/// The past of one world: its store, its log, and what it is made of. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct History {
    pub(crate) world: String,
    pub(crate) plugins: Arc<[Plugin]>,
    pub(crate) store: Arc<Store>,
    pub(crate) log: LogSource,
    pub(crate) branches: Arc<RwLock<Branches>>,
    /// What was left out from any tick on, as far as the log is kept.
    pub(crate) fixed: Arc<RwLock<Vec<Fixed>>>,
    /// What the world was created from, once it was read.
    pub(crate) record: Arc<OnceLock<WorldRecord>>,
    /// This build.
    pub(crate) build_id: [u8; 16],
    /// Hashes that differ are reported, not refused: the log is another build's.
    pub(crate) lenient: bool,
    /// Stores that could not be opened, and why.
    pub(crate) damaged: Arc<[String]>,
}

/// A world of the past, and what the log tells beside it.
pub struct Past {
    /// The world.
    pub live: LiveWorld,
    /// How it goes on.
    pub timeline: Timeline,
    /// The snapshot that it began with; without one, the world as it was created.
    pub snapshot: Option<SnapshotMeta>,
    /// How many ticks were computed again.
    pub replayed: u64,
}

impl History {
    /// The past of a world that no process runs, read without writing anything. The caller holds the directory's lock.
    ///
    /// # Errors
    /// When there is no such world, or its files cannot be used.
    pub fn open(
        data: &Path,
        world: &str,
        plugins: &[Plugin],
        spine_options: &SpineOptions,
    ) -> Result<Self, SpineError> {
        let (dir, disk) = (data.join("worlds").join(world), &spine_options.disk);
        let world = world.to_owned();
        let opened = Store::open_read_only(disk.clone(), &dir, spine_options.store.clone());
        let (store, report) = opened.map_err(|source| SpineError::Store { world: world.clone(), source })?;
        for (path, detail) in &report.set_aside {
            tracing::warn!(world, "passing over a damaged store, {}: {detail}", path.display());
        }
        let damaged = report.set_aside.iter();
        let damaged = damaged.map(|(path, detail)| format!("\"{}\": {detail}", path.display())).collect();
        let snapshots = kept(&store, &world);
        let options = LogOptions {
            oldest_needed: snapshots.iter().map(|meta| meta.lsn + 1).min().unwrap_or(1),
            known_durable: snapshots
                .iter()
                .map(|meta| DurablePoint { lsn: meta.lsn, chain: meta.chain })
                .collect(),
            ..spine::log_options(&world, spine_options)
        };
        let log = LogReader::open(disk.clone(), &dir.join("log"), &options);
        let (log, _) =
            log.map_err(|source| SpineError::Log { world: world.clone(), source: Arc::new(source) })?;
        let history = Self {
            world,
            plugins: plugins.into(),
            store: Arc::new(store),
            log: LogSource::Stopped(Arc::new(log)),
            branches: Arc::default(),
            fixed: Arc::default(),
            record: Arc::default(),
            build_id: spine_options.build_id,
            lenient: false,
            damaged,
        };
        history.knows(&history.newest()?);
        Ok(history)
    }

    /// Takes over what a log tells of all its ticks.
    pub(crate) fn knows(&self, told: &Told) {
        self.branches.write().clone_from(&told.branches);
        self.fixed.write().clone_from(&told.fixed);
    }

    /// What the whole log tells: the newest snapshot whose host's state loads, and the log after it.
    pub fn newest(&self) -> Result<Told, SpineError> {
        let kept = self.snapshots().into_iter().find_map(|meta| match self.host_of(&meta) {
            Ok(host) => Some((meta, host)),
            Err(detail) => {
                tracing::warn!(world = self.world, tick = %meta.tick, "passing over a snapshot: {detail}");
                None
            }
        });
        self.skim(kept.as_ref().map(|(meta, host)| (meta, host)), &mut |_| {})
    }

    /// The host's state in a snapshot, without that of the world.
    fn host_of(&self, meta: &SnapshotMeta) -> Result<HostState, String> {
        let host = self.store.load_host(meta.branch, meta.tick).map_err(|error| chain(&error))?;
        HostState::decode(&host)
    }

    /// What the whole log tells, of which a snapshot knows the beginning. `input` sees the inputs after that.
    pub(crate) fn skim(
        &self,
        kept: Option<(&SnapshotMeta, &HostState)>,
        input: &mut dyn FnMut(&Logged),
    ) -> Result<Told, SpineError> {
        let mut told = match kept {
            None => Told::empty(),
            Some((meta, host)) => self.told(meta, host)?,
        };
        told.skim(self.log.records(told.begin.lsn + 1), &self.world, input)?;
        Ok(told)
    }

    fn told(&self, meta: &SnapshotMeta, host: &HostState) -> Result<Told, SpineError> {
        let told = Told::from_host(host, meta.build_id);
        told.map_err(|detail| SpineError::Inconsistent { world: self.world.clone(), detail })
    }

    /// Forgets what was left out before the oldest snapshot: that one knows it (L1).
    pub(crate) fn forget_fixes(&self) {
        let oldest = self.snapshots().iter().map(|meta| meta.lsn).min().unwrap_or(0);
        self.fixed.write().retain(|fixed| fixed.lsn > oldest);
    }

    /// What the world was created from.
    pub(crate) fn record(&self) -> Result<&WorldRecord, SpineError> {
        if let Some(record) = self.record.get() {
            return Ok(record);
        }
        let record = self.newest()?.record.ok_or_else(|| self.no_create())?;
        Ok(self.record.get_or_init(|| record))
    }

    /// The lines of history.
    pub fn branches(&self) -> Branches {
        self.branches.read().clone()
    }

    /// The readable snapshots, newest first. One that is damaged is named and passed over.
    pub fn snapshots(&self) -> Vec<SnapshotMeta> {
        kept(&self.store, &self.world)
    }

    /// The world as it was after a tick that is still kept.
    ///
    /// # Errors
    /// When the tick is not kept, or cannot be brought back as the log says it was.
    pub fn world_at(&self, branch: u32, tick: Tick, options: &Options) -> Result<LiveWorld, SpineError> {
        let too_far = || self.not_kept(tick, "the log does not reach that tick".into());
        if self.branches().end(branch).is_some_and(|end| tick > end) {
            return Err(too_far());
        }
        let (mut live, mut timeline, _) = self.begin_before(branch, tick, options)?;
        let from = live.now();
        while live.now() < tick {
            self.step(&mut timeline, &mut live)?;
            if !timeline.reaches(live.now()) {
                return Err(too_far());
            }
        }
        self.confirm(&timeline, from, tick)?;
        Ok(live)
    }

    /// As [`History::world_at`], with all that is known beside it. `visit` sees the world before the first tick and
    /// after each, and may end the matter.
    pub fn past(
        &self,
        branch: u32,
        tick: Tick,
        options: &Options,
        visit: &mut dyn FnMut(&LiveWorld) -> ControlFlow<()>,
    ) -> Result<Past, SpineError> {
        let (mut live, mut timeline, snapshot) = self.begin_before(branch, tick, options)?;
        let from = live.now();
        self.replay(&mut timeline, &mut live, tick, visit)?;
        self.confirm(&timeline, from, tick)?;
        Ok(Past { replayed: live.now().0 - from.0, live, timeline, snapshot })
    }

    /// The world of the nearest snapshot on the way to a tick that is good, else as it was created; and what the log
    /// says after it.
    pub(crate) fn begin_before(
        &self,
        branch: u32,
        tick: Tick,
        options: &Options,
    ) -> Result<(LiveWorld, Timeline, Option<SnapshotMeta>), SpineError> {
        let branches = self.branches();
        let mut tried = Vec::new();
        let mut snapshots = self.snapshots();
        snapshots.retain(|snapshot| branches.on_the_way((snapshot.branch, snapshot.tick), (branch, tick)));
        snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.tick));
        for snapshot in snapshots.into_iter().map(Some).chain([None]) {
            let begun = match snapshot {
                Some(snapshot) => self.begin_with(&snapshot, branch, options),
                None => self.begin_anew(branch, options),
            };
            let (live, timeline) = match begun {
                Ok(begun) => begun,
                Err(error @ SpineError::Schema { .. }) => return Err(error),
                Err(error) => {
                    tried.push(chain(&error));
                    continue;
                }
            };
            return Ok((live, timeline, snapshot));
        }
        Err(SpineError::NotKept { world: self.world.clone(), tick, detail: tried.join("; ") })
    }

    /// The last tick on the way to `until` that another build computed, for a world that begins at `from`.
    pub(crate) fn last_foreign(
        &self,
        timeline: &Timeline,
        from: Tick,
        until: Tick,
    ) -> Result<Option<(Tick, [u8; 16])>, SpineError> {
        if from >= until {
            return Ok(None);
        }
        let mut told = timeline.begin.clone();
        told.skim(self.log.records(told.begin.lsn + 1), &self.world, &mut |_| {})?;
        Ok(told.last_foreign(timeline.line(), (from, until), self.build_id))
    }

    /// Refuses a world of the past that this build computed from where no hash can tell that it came out as it was: past
    /// ticks of another build, from rows of another schema or from the very beginning.
    pub(crate) fn confirm(&self, timeline: &Timeline, from: Tick, now: Tick) -> Result<(), SpineError> {
        if !timeline.migrated && !timeline.begins_anew {
            return Ok(());
        }
        match self.last_foreign(timeline, from, now)? {
            Some((last, build)) if !timeline.is_confirmed(last) => {
                let build = crate::spine::hex(build);
                Err(self.not_kept(
                    now,
                    format!(
                        "tick {last}, on the way from tick {from}, was computed by build {build}: this build could compute \
                         it, but no hash tells whether it came out as it was"
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Computes ticks of a line again, up to and with `until`.
    pub(crate) fn replay(
        &self,
        timeline: &mut Timeline,
        live: &mut LiveWorld,
        until: Tick,
        visit: &mut dyn FnMut(&LiveWorld) -> ControlFlow<()>,
    ) -> Result<(), SpineError> {
        self.replay_past(timeline, live, until, None, &mut |live, _| visit(live))
    }

    /// As [`History::replay`], with a closer look at one tick: its failure then names its culprit. `visit` hears of the
    /// hashes that were compared, too.
    pub(crate) fn replay_past(
        &self,
        timeline: &mut Timeline,
        live: &mut LiveWorld,
        until: Tick,
        suspect: Option<Tick>,
        visit: &mut dyn FnMut(&LiveWorld, Option<Compared>) -> ControlFlow<()>,
    ) -> Result<(), SpineError> {
        let mut compared = None;
        while live.now() < until {
            if visit(live, compared).is_break() {
                return Err(SpineError::Interrupted);
            }
            let is_suspect = suspect == Some(live.now().next());
            live.set_careful(is_suspect);
            compared = self.step(timeline, live)?;
            live.set_careful(false);
        }
        if visit(live, compared).is_break() { Err(SpineError::Interrupted) } else { Ok(()) }
    }

    /// Computes the next tick as it was, and compares the hash that the log remembers.
    fn step(&self, timeline: &mut Timeline, live: &mut LiveWorld) -> Result<Option<Compared>, SpineError> {
        let world = || self.world.clone();
        timeline.advance(live)?.map_err(|source| SpineError::Tick { world: world(), source })?;
        let Some(compared) = timeline.compare(live)? else { return Ok(None) };
        let Compared { tick, expected, found, foreign, other_build } = compared;
        if found != expected && !foreign && !self.lenient {
            let other_build = other_build.map(crate::spine::hex);
            return Err(SpineError::Diverged { world: world(), tick, expected, found, other_build });
        }
        Ok(Some(compared))
    }

    /// The world of a snapshot, and how it goes on along a line of history.
    pub(crate) fn begin_with(
        &self,
        meta: &SnapshotMeta,
        line: u32,
        options: &Options,
    ) -> Result<(LiveWorld, Timeline), SpineError> {
        let loaded = options.pool.install(|| Kept::load(&self.store, meta));
        let kept = loaded.map_err(|detail| self.not_kept(meta.tick, detail))?;
        let mut timeline = self.timeline(&kept, line)?;
        Ok((self.restore(&kept, &mut timeline, options)?, timeline))
    }

    /// The world of a snapshot, in this build's schema.
    pub(crate) fn restore(
        &self,
        kept: &Kept,
        timeline: &mut Timeline,
        options: &Options,
    ) -> Result<LiveWorld, SpineError> {
        let Kept { meta, image, host, .. } = kept;
        let record = timeline.told.record.as_ref().ok_or_else(|| self.no_create())?;
        let refused = |detail: String| self.not_kept(meta.tick, detail);
        let built = kept.built.lock().take().filter(|built| built.record == *record);
        let mut live = if let Some(Built { live, .. }) = built {
            // Of this schema, or the rows would not have fitted.
            timeline.migrated = false;
            live
        } else {
            let mut live = self.build(record, options)?;
            if image.hash != meta.hash {
                return Err(refused("its image has another hash than its header".into()));
            }
            let migrated = migrate_image(live.registry(), (**image).clone());
            let (image, report) = migrated.map_err(|error| match error {
                // All others are of that schema too, or of older ones: refused by name.
                ImageError::Misfits(_) => SpineError::Schema { world: self.world.clone(), source: error },
                error => refused(chain(&error)),
            })?;
            live.restore(&image).map_err(|error| refused(chain(&error)))?;
            timeline.migrated = !report.is_identity();
            live
        };
        if timeline.migrated {
            tracing::info!(world = self.world, tick = %meta.tick, "brought the state of a former build along");
        }
        for system in &host.quarantined {
            Fix::Quarantine(system.clone()).apply(&mut live);
        }
        if live.taken_seq() != meta.applied_seq {
            let (taken, says) = (live.taken_seq(), meta.applied_seq);
            return Err(refused(format!("its state has taken {taken} inputs, its header says {says}")));
        }
        Ok(live)
    }

    /// How the world goes on after a snapshot, along a line of history.
    pub(crate) fn timeline(&self, kept: &Kept, line: u32) -> Result<Timeline, SpineError> {
        let mut timeline = self.timeline_after(self.told(&kept.meta, &kept.host)?, line);
        timeline.fix_later(kept.host.branches.current(), &kept.host.fixes);
        Ok(timeline)
    }

    fn timeline_after(&self, told: Told, line: u32) -> Timeline {
        let (branches, fixed, from) = (self.branches(), self.fixed.read().clone(), told.begin.lsn + 1);
        Timeline::new(told, (&self.world, self.build_id), line, (&branches, &fixed), || {
            self.log.records(from)
        })
    }

    /// The world as it was created, and how it goes on along a line of history.
    pub(crate) fn begin_anew(
        &self,
        line: u32,
        options: &Options,
    ) -> Result<(LiveWorld, Timeline), SpineError> {
        let mut timeline = self.timeline_after(Told::empty(), line);
        timeline.begins_anew = true;
        timeline.read_record()?;
        let record = timeline.told.record.as_ref().ok_or_else(|| self.no_create())?;
        let mut live = self.build(record, options)?;
        live.create().map_err(|source| SpineError::Tick { world: self.world.clone(), source })?;
        Ok((live, timeline))
    }

    /// The last tick of a line after `after` whose hash the log remembers, and that is not after `limit`; if there is
    /// none, the first after that. The log is read from a record on.
    pub(crate) fn checkpoint_up_to(
        &self,
        from_lsn: u64,
        line: u32,
        (after, limit): (Tick, Tick),
    ) -> Result<Option<Tick>, SpineError> {
        let ticks = Checkpoints::new(self.log.records(from_lsn), self.branches()).ticks(line);
        let mut last = None;
        for tick in ticks {
            let tick = tick
                .map_err(|source| SpineError::Log { world: self.world.clone(), source: Arc::new(source) })?;
            if tick > limit {
                return Ok(last.or(Some(tick)));
            }
            last = Some(tick).filter(|tick| *tick > after).or(last);
        }
        Ok(last)
    }

    pub(crate) fn build(&self, record: &WorldRecord, options: &Options) -> Result<LiveWorld, SpineError> {
        build(record, &self.plugins, options)
    }

    /// The state of a snapshot as it was stored, verified.
    pub(crate) fn stored(&self, meta: &SnapshotMeta) -> Result<Image, SpineError> {
        let failed = |source| SpineError::Store { world: self.world.clone(), source };
        let loaded = self.store.load(meta.branch, meta.tick).map_err(failed)?;
        Ok(loaded.image)
    }

    /// Whether the world was stopped in order: the newest snapshot holds all that the log tells.
    pub(crate) fn is_in_order(&self) -> Result<bool, SpineError> {
        let snapshots = self.snapshots();
        let newest = snapshots.iter().find_map(|meta| Some((meta.tick, self.host_of(meta).ok()?)));
        let Some((newest, host)) = newest else { return Ok(false) };
        for entry in self.log.records(host.covered.lsn + 1) {
            let failed = |source| SpineError::Log { world: self.world.clone(), source: Arc::new(source) };
            let (_, record) = entry.map_err(failed)?;
            let adds_nothing = match record {
                Record::Build { .. } | Record::Control { .. } => true,
                Record::Horizon { tick } | Record::Checkpoint { tick, .. } => tick <= newest,
                _ => false,
            };
            if !adds_nothing {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The first tick that can be had: that which the log begins with, or of the oldest snapshot.
    pub(crate) fn first_tick(&self) -> Tick {
        match self.log.records(1).next() {
            Some(Ok(_)) => self.first_checkpoint(),
            _ => self.snapshots().iter().map(|meta| meta.tick).min().unwrap_or_default(),
        }
    }

    /// The tick that the log begins with: 0, or that of a fork's first state, whose hash is in the log before any
    /// horizon.
    pub(crate) fn first_checkpoint(&self) -> Tick {
        for (_, record) in self.log.records(1).map_while(Result::ok) {
            match record {
                Record::Checkpoint { tick, .. } => return tick,
                Record::Horizon { .. } | Record::Seal { .. } => break,
                _ => {}
            }
        }
        Tick(0)
    }

    fn not_kept(&self, tick: Tick, detail: String) -> SpineError {
        SpineError::NotKept { world: self.world.clone(), tick, detail }
    }

    fn no_create(&self) -> SpineError {
        let detail = "it does not begin with Create".into();
        SpineError::Inconsistent { world: self.world.clone(), detail }
    }
}

/// Builds the world of a record, still empty.
pub(crate) fn build(
    record: &WorldRecord,
    plugins: &[Plugin],
    options: &Options,
) -> Result<LiveWorld, SpineError> {
    let world = || record.world.clone();
    let builder = record.scenario.builder(plugins);
    let builder = builder.map_err(|source| SpineError::Scenario { world: world(), source })?;
    builder.build(options.clone()).map_err(|source| SpineError::Build { world: world(), source })
}

/// The readable snapshots of a store, newest first by the log. One that is damaged is named and passed over.
pub(crate) fn kept(store: &Store, world: &str) -> Vec<SnapshotMeta> {
    let snapshots = store.snapshots();
    for error in &snapshots.damaged {
        tracing::warn!(world, "passing over a damaged snapshot: {}", chain(error));
    }
    snapshots.kept
}

/// Makes a new world of a state that was exported to a file.
///
/// # Errors
/// When the file is damaged, its state unpacks to more than `bytes_max` bytes, its state does not fit this build, there is such a world already, or it cannot be written.
pub fn import(
    (file, bytes_max): (&Path, u64),
    data: &Path,
    name: &str,
    plugins: &[Plugin],
    options: &Options,
    spine_options: &SpineOptions,
) -> Result<Tick, SpineError> {
    let refused = |detail: String| SpineError::Inconsistent { world: name.to_owned(), detail };
    let loaded = Store::import(&*spine_options.disk, file, bytes_max);
    let loaded = loaded.map_err(|source| SpineError::Store { world: name.to_owned(), source })?;
    let host = HostState::decode(&loaded.host).map_err(refused)?;
    let record: WorldRecord = serde_json::from_slice(&host.record_json)
        .map_err(|error| refused(format!("the world record: {error}")))?;
    let record = WorldRecord { world: name.to_owned(), ..record };
    let mut live = build(&record, plugins, options)?;
    if loaded.image.hash != loaded.meta.hash {
        return Err(refused("its state has another hash than its header".into()));
    }
    let schema = |source| SpineError::Schema { world: name.to_owned(), source };
    let (image, _) = migrate_image(live.registry(), loaded.image).map_err(schema)?;
    live.restore(&image).map_err(|error| refused(chain(&error)))?;
    for system in &host.quarantined {
        Fix::Quarantine(system.clone()).apply(&mut live);
    }
    let begun = Event::begun(name, Some(&record.scenario.name), Origin::Imported { tick: live.now() });
    catalogue::making(&spine_options.disk, data, begun, || {
        spine::write_fork(data, &record, &mut live, &[], spine_options)
    })?;
    Ok(live.now())
}

/// Makes a new world beside its parent, in the same data directory, from the parent's state at a tick that is still kept:
/// with a record, a log and a first snapshot of its own. Nothing of it is there before all of it is durable. The world is
/// not opened; its first tick will take the inputs.
///
/// # Errors
/// When the tick is not kept, there is such a world already, or it cannot be written.
pub fn fork(
    parent: &History,
    data: &Path,
    (branch, tick): (u32, Tick),
    (name, inputs): (&str, &[InputRecord]),
    options: &Options,
    spine_options: &SpineOptions,
) -> Result<(), SpineError> {
    let past = parent.past(branch, tick, options, &mut |_| ControlFlow::Continue(()))?;
    let Past { mut live, timeline, .. } = past;
    let record = timeline.told.record.ok_or_else(|| parent.no_create())?;
    let record = WorldRecord { world: name.to_owned(), ..record };
    let origin = Origin::Forked { parent: parent.world.clone(), branch, tick };
    let begun = Event::begun(name, Some(&record.scenario.name), origin);
    catalogue::making(&spine_options.disk, data, begun, || {
        spine::write_fork(data, &record, &mut live, inputs, spine_options)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worlds::load_scenario;
    use everworld_engine::StateHash;
    use everworld_persistence::StoreOptions;

    #[test]
    fn a_line_that_begins_where_its_parent_begins_stands_on_what_is_kept_of_that() {
        let mut branches = Branches::default();
        let mut rewind = |tick| {
            let info = branches.next(Tick(tick), Tick(99), (0, 0));
            branches.add(BranchInfo { lsn: u64::from(info.branch) * 10, ..info });
            info.parent
        };
        // To 65, to 65 once more, on to 70 of that, and back before all of them.
        let parents = [65, 65, 70, 60].map(&mut rewind);
        assert_eq!(parents, [0, 1, 2, 0]);
        let is_on_the_way =
            |place: (u32, u64), to: u32| branches.on_the_way((place.0, Tick(place.1)), (to, Tick(u64::MAX)));
        assert!(
            is_on_the_way((1, 65), 2),
            "the snapshot with which the first of them began may be the only one"
        );
        assert!(is_on_the_way((0, 65), 2) && is_on_the_way((2, 70), 3) && is_on_the_way((1, 65), 3));
        assert!(!is_on_the_way((1, 66), 2) && !is_on_the_way((0, 66), 1) && !is_on_the_way((1, 65), 4));
        assert_eq!([64, 65, 66, 70, 71].map(|tick| branches.resolve(3, Tick(tick))), [0, 0, 2, 2, 3]);
        assert_eq!(branches.begin_at(3, Tick(65)).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(branches.common(3, 1), Tick(65));
    }

    fn options() -> Options {
        let pool = crate::pool::start(2, false).unwrap();
        Options { pool, parallel: everworld_engine::Parallel::Auto, stopwatch: crate::clock::stopwatch() }
    }

    /// What a store says of a world after some ticks.
    fn host_state(record: &WorldRecord) -> HostState {
        HostState {
            record_json: serde_json::to_vec(record).unwrap().into(),
            mode: RunMode::default(),
            horizon: Tick(0),
            quarantined: Vec::new(),
            fixes: Vec::new(),
            fixed: Vec::new(),
            retention: None,
            branches: Branches::default(),
            next_seq: 1,
            next_control: 1,
            from: DurableAt::default(),
            covered: DurableAt::default(),
        }
    }

    /// A world is built while it is read where it can be, and comes out as one that is built afterwards.
    #[test]
    fn a_snapshot_is_read_and_built_at_once() {
        let plugins = everworld_systems::PLUGINS;
        let sets = ["population=40000".to_owned()];
        let scenario = load_scenario("town", plugins, &sets).unwrap();
        let record = WorldRecord { world: "w".into(), scenario };
        let options = options();
        let mut live = build(&record, plugins, &options).unwrap();
        live.create().unwrap();
        (0..3).for_each(|_| _ = live.tick(&[]).unwrap());
        let image = Arc::new(Image { hash: live.state_hash(), ..live.image() });
        let meta = SnapshotMeta {
            branch: 0,
            tick: image.tick,
            hash: image.hash,
            applied_seq: 0,
            lsn: 1,
            chain: 0,
            build_id: [0; 16],
            entities: image.entities() as u64,
            unix_millis: 0,
        };
        let disk = everworld_persistence::sim::SimDisk::default();
        let store = Store::open(Arc::new(disk), Path::new("w"), StoreOptions::default()).unwrap().0;
        let write = |host: &[u8], tick: Tick, hash: StateHash| {
            let meta = SnapshotMeta { tick, hash, lsn: tick.0, ..meta };
            let image = Arc::new(Image { tick, hash, ..(*image).clone() });
            store.write(&everworld_persistence::Snapshot { meta, image, host, ledger: &[] }).unwrap();
            meta
        };
        let good = write(&host_state(&record).encode(), meta.tick, meta.hash);
        let kept = Kept::load_and_build(&store, &good, plugins, &options).unwrap();
        let built = kept.built.lock().take().expect("nothing is in the way");
        assert_eq!(built.record, record);
        let mut built = built.live;
        assert_eq!((built.now(), built.state_hash()), (live.now(), live.state_hash()));
        assert_eq!(built.image().tables, image.tables);
        let mut after = live;
        after.tick(&[]).unwrap();
        built.tick(&[]).unwrap();
        assert_eq!(built.state_hash(), after.state_hash());
        // A state that is not what its header says, and a record that builds no such world: both are read, neither is built.
        let wrong = write(&host_state(&record).encode(), Tick(meta.tick.0 + 1), StateHash(!meta.hash.0));
        let kept = Kept::load_and_build(&store, &wrong, plugins, &options).unwrap();
        assert!(kept.built.lock().is_none(), "another hash");
        let flock = load_scenario("flocking", plugins, &[]).unwrap();
        let other = WorldRecord { world: "w".into(), scenario: flock };
        let foreign = write(&host_state(&other).encode(), Tick(meta.tick.0 + 2), meta.hash);
        let kept = Kept::load_and_build(&store, &foreign, plugins, &options).unwrap();
        assert!(kept.built.lock().is_none(), "rows of another world");
    }

    #[test]
    fn chunks_are_built_in_their_order_and_each_once() {
        let plugins = everworld_systems::PLUGINS;
        let scenario = load_scenario("town", plugins, &["population=40000".into()]).unwrap();
        let record = WorldRecord { world: "w".into(), scenario };
        let options = options();
        let mut live = build(&record, plugins, &options).unwrap();
        live.create().unwrap();
        let image = Image { hash: live.state_hash(), ..live.image() };
        let mut chunks: Vec<Columns> = Vec::new();
        for table in &image.tables {
            for chunk in 0..table.columns[0].chunks.len() {
                let columns = table.columns.iter();
                chunks.push(columns.map(|c| (c.schema.clone(), c.chunks[chunk].clone())).collect());
            }
        }
        assert!(chunks.len() >= 4, "{}", chunks.len());
        let fed = |order: &[usize], live: &mut LiveWorld| {
            let (sender, incoming) = mpsc::channel();
            order.iter().for_each(|at| sender.send((*at, chunks[*at].clone())).unwrap());
            drop(sender);
            feed(live, (image.tick, 40_000), incoming)
        };
        let all: Vec<usize> = (0..chunks.len()).collect();
        let backwards: Vec<usize> = all.iter().rev().copied().collect();
        for order in [&all, &backwards] {
            let mut live = build(&record, plugins, &options).unwrap();
            assert!(fed(order, &mut live));
            live.finish_restore(&image).unwrap();
            assert_eq!(live.image().tables, image.tables);
        }
        for order in [&[0, 1, 0][..], &[1, 1], &[1], &[0, 2]] {
            assert!(!fed(order, &mut build(&record, plugins, &options).unwrap()), "{order:?}");
        }
    }

    /// The bytes that docs/FORMAT.md has. Whoever changes them raises the version.
    #[test]
    fn host_state_is_as_documented() {
        let branch = BranchInfo {
            branch: 1,
            parent: 2,
            tick: Tick(3),
            floor_seq: 4,
            taken_seq: 17,
            end: Tick(18),
            lsn: 300,
        };
        let state = HostState {
            record_json: Arc::from(&b"{}"[..]),
            mode: RunMode { paused: true, step_until: Tick(5), millihertz: Some(6) },
            horizon: Tick(7),
            quarantined: vec!["ab".into()],
            fixes: vec![(Tick(8), Fix::Quarantine("c".into())), (Tick(9), Fix::Skip(10))],
            fixed: vec![Fixed { lsn: 19, branch: 20, tick: Tick(21), fix: Fix::Skip(22) }],
            retention: Some(Retention { dense_secs: 23, sparse_every_secs: 24, keep_secs: 25 }),
            branches: Branches(vec![branch]),
            next_seq: 11,
            next_control: 12,
            from: DurableAt { lsn: 13, chain: 14 },
            covered: DurableAt { lsn: 15, chain: 16 },
        };
        let mut expected = vec![2, 2, b'{', b'}', 1, 5, 1, 6, 7, 1, 2, b'a', b'b'];
        expected.extend([2, 8, 0, 1, b'c', 9, 1, 10]);
        expected.extend([1, 19, 20, 21, 1, 22, 1, 23, 24, 25]);
        expected.extend([1, 1, 2, 3, 4, 17, 18, 0xAC, 2]);
        expected.extend([11, 12, 13, 14, 15, 16]);
        assert_eq!(state.encode(), expected);
        assert_eq!(HostState::decode(&expected), Ok(state));
        expected[0] = 3;
        assert!(HostState::decode(&expected).unwrap_err().contains("version 3"));
    }
}
