//! The durable spine of a world: its directory, its log, its store, and how it comes back from them.
//!
//! Start = newest good snapshot + replay of the log up to the durable horizon (D2, D3). Inputs without a Seal were
//! never shown as applied; they come after. Nothing is served that does not agree with what the log says.

use crate::{
    catalogue::{self, Event, Origin},
    history::{
        self, Compared, Fix, Fixed, History, HostState, Kept, LogSource, Logged, OnPanic, RunMode, Timeline,
        Told,
    },
    ledger::{Changes, Durable, Entry, Ledger},
    sequencer::{Applied, Position},
    status::{Phase, WorldStatus},
};
use everworld_engine::{BuildErrors, Image, ImageError, LiveWorld, Options, StateHash, Tick, TickError};
use everworld_persistence::{
    Control, Disk, DurablePoint, InputRecord, Log, LogDone, LogError, LogHandle, LogOptions, LogWriter,
    OpenReport, RealDisk, Record, Retention, Snapshot, SnapshotMeta, Store, StoreError, StoreOptions,
    WriteStats,
};
use everworld_systems::{Plugin, ScenarioError, WorldRecord};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fs::{File, TryLockError},
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The build id of this program in hex: what decides the results of its ticks.
pub const BUILD_ID_HEX: &str = env!("EVERWORLD_BUILD_ID");

/// The build id of this program.
pub fn build_id() -> [u8; 16] {
    u128::from_str_radix(BUILD_ID_HEX, 16).expect("build.rs writes 32 hex digits").to_be_bytes()
}

/// A build id as people see it.
pub fn hex(build_id: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(build_id))
}

/// How a world is kept.
#[derive(Clone)]
pub struct SpineOptions {
    /// Where its files are.
    pub disk: Arc<dyn Disk>,
    /// Bytes of a log segment.
    pub segment_bytes: u64,
    /// Records that may wait for the log's thread.
    pub queue_len_max: usize,
    /// How snapshots are kept.
    pub store: StoreOptions,
    /// Go on with a log tail of another build.
    pub accept_foreign_log: bool,
    /// What to do about a tick that fails twice, or hung.
    pub on_panic: OnPanic,
    /// Idempotency keys that are remembered.
    pub idempotency_keys_max: usize,
    /// By what the log tells this build from others.
    pub build_id: [u8; 16],
}

impl Default for SpineOptions {
    fn default() -> Self {
        Self {
            disk: Arc::new(RealDisk),
            segment_bytes: 4 << 20,
            queue_len_max: 8_192,
            store: StoreOptions::default(),
            accept_foreign_log: false,
            on_panic: OnPanic::default(),
            idempotency_keys_max: 65_536,
            build_id: build_id(),
        }
    }
}

/// Why a world cannot be opened or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpineError {
    /// Another process has the data directory.
    #[error("data directory \"{}\" is in use by another process", .0.display())]
    InUse(PathBuf),
    /// A file operation failed.
    #[error("could not {what} \"{}\"", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// The log cannot be used.
    #[error("could not use the log of world \"{world}\"")]
    Log {
        /// The world.
        world: String,
        /// What is wrong with it.
        #[source]
        source: Arc<LogError>,
    },
    /// The store cannot be used.
    #[error("could not use the store of world \"{world}\"")]
    Store {
        /// The world.
        world: String,
        /// What is wrong with it.
        #[source]
        source: StoreError,
    },
    /// The log contradicts itself or the store.
    #[error("the log of world \"{world}\" is not one that this program wrote: {detail}")]
    Inconsistent {
        /// The world.
        world: String,
        /// What does not fit.
        detail: String,
    },
    /// The log has ticks that another build computed.
    #[error(
        "the log of world \"{world}\" ends with ticks of another build ({found}); this is {own}. Start that build \
         and stop it in order, or accept with --accept-foreign-log that they may come out differently"
    )]
    ForeignLog {
        /// The world.
        world: String,
        /// The build that wrote it.
        found: String,
        /// This build.
        own: String,
    },
    /// The scenario in the world record is not one that this build can make.
    #[error("could not build world \"{world}\" from its record")]
    Scenario {
        /// The world.
        world: String,
        /// Why.
        #[source]
        source: ScenarioError,
    },
    /// The scenario's parts do not make a world.
    #[error("could not build world \"{world}\"")]
    Build {
        /// The world.
        world: String,
        /// Why.
        #[source]
        source: BuildErrors,
    },
    /// The stored state is of a schema that this build cannot bring along.
    #[error("world \"{world}\" was stored by another build; everworld upgrade check tells what can be done")]
    Schema {
        /// The world.
        world: String,
        /// What does not fit.
        #[source]
        source: ImageError,
    },
    /// A tick of the replay, or of the run, failed.
    #[error("world \"{world}\" stopped")]
    Tick {
        /// The world.
        world: String,
        /// Why.
        #[source]
        source: TickError,
    },
    /// A tick hung, and the policy is not to leave out what hung.
    #[error(
        "world \"{world}\" hung in tick {tick}, and recovery.on_panic = \"stop\" leaves nothing out: {what}; set it \
         to \"quarantine\" to go on without"
    )]
    Hung {
        /// The world.
        world: String,
        /// The tick that did not end.
        tick: Tick,
        /// Who did not come back.
        what: String,
    },
    /// A tick that was computed again has another state than the log remembers.
    #[error(
        "world \"{world}\" does not come back as it was: the log says that its state at tick {tick} has the hash \
         {expected}, computed again it has {found}{}",
        other_build.as_ref().map_or_else(String::new, |build| format!(": build {build} computed it, this is another one"))
    )]
    Diverged {
        /// The world.
        world: String,
        /// The first tick that differs and whose hash is known.
        tick: Tick,
        /// What the log says.
        expected: StateHash,
        /// What came out.
        found: StateHash,
        /// The build that computed it at first, where it is another one.
        other_build: Option<String>,
    },
    /// A tick of the past cannot be had.
    #[error("tick {tick} of world \"{world}\" cannot be brought back: {detail}")]
    NotKept {
        /// The world.
        world: String,
        /// The tick.
        tick: Tick,
        /// Why.
        detail: String,
    },
    /// The mirror's thread has died: a bug, reported before.
    #[error("the mirror of world \"{world}\" has died")]
    Mirror {
        /// The world.
        world: String,
    },
    /// There is a world of that name.
    #[error("there is a world \"{world}\" already")]
    Exists {
        /// Its name.
        world: String,
    },
    /// The server's own log cannot be used.
    #[error("could not use the server's own log, which lists the worlds{}", make_again(source))]
    Catalogue {
        /// What is wrong with it.
        #[source]
        source: Arc<LogError>,
    },
    /// The server's own log has a record that is none of its.
    #[error("record {lsn} of the server's own log is not one that this program wrote: {detail}")]
    StrangeCatalogue {
        /// Its place.
        lsn: u64,
        /// What does not fit.
        detail: String,
    },
    /// A part of a world that was there is gone.
    #[error("{what} of world \"{world}\" is gone: there is no \"{}\"; bring it back from a backup", path.display())]
    Lost {
        /// The world.
        world: String,
        /// Which part.
        what: &'static str,
        /// Where it was.
        path: PathBuf,
    },
    /// Somebody wanted the process to end before the world was there. Nothing is lost by it.
    #[error("stopped before the world was brought back")]
    Interrupted,
    /// No snapshot and no log from the beginning that lead to the state.
    #[error("world \"{world}\" cannot be brought back: {detail}")]
    Unrecoverable {
        /// The world.
        world: String,
        /// What was tried.
        detail: String,
    },
}

/// What helps where a catalogue is damaged, and not just out of reach.
fn make_again(error: &LogError) -> &'static str {
    match error {
        LogError::Io { .. } => "",
        _ => "; with the directory \"server\" moved aside it is made again of the worlds that are there",
    }
}

impl SpineError {
    /// The code that a process ends with for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::InUse(_) | Self::Store { source: StoreError::InUse { .. }, .. } => 75,
            Self::Io { .. }
            | Self::Log { .. }
            | Self::Store { .. }
            | Self::Inconsistent { .. }
            | Self::Catalogue { .. }
            | Self::StrangeCatalogue { .. }
            | Self::Lost { .. }
            | Self::Unrecoverable { .. } => 74,
            Self::Interrupted => 0,
            Self::Diverged { .. } => 3,
            Self::Hung { .. } => 70,
            Self::Exists { .. }
            | Self::NotKept { .. }
            | Self::ForeignLog { .. }
            | Self::Mirror { .. }
            | Self::Tick { .. } => 1,
            Self::Scenario { .. } | Self::Build { .. } | Self::Schema { .. } => 78,
        }
    }
}

/// The log and the store of a world that is open.
pub struct Spine {
    /// Held for as long as the world is open: a second process exits with 75.
    _lock: File,
    world: String,
    /// The world's log.
    pub log: LogHandle,
    /// The world's snapshots.
    pub store: Arc<Store>,
    /// What the world was created from; whoever opens it may have asked for something else.
    pub record: WorldRecord,
    record_json: Arc<[u8]>,
    /// What the log says the world does.
    pub mode: RunMode,
    /// How old snapshots are kept, where the log says so.
    pub retention: Option<Retention>,
    /// Logged inputs that no tick has taken.
    pub queued: Vec<Logged>,
    /// What is known of idempotency keys.
    pub ledger: Ledger,
    /// The numbers after the last input and the last control record in the log.
    pub next: (u64, u64),
    /// What is left out from ticks to come on.
    pub fixes: BTreeMap<Tick, Vec<Fix>>,
    /// Its past.
    pub history: History,
    /// The tick of the newest snapshot.
    pub last_snapshot: Option<Tick>,
    /// How many ticks were replayed.
    pub replayed: u64,
    /// Ticks up to that one may have been shown, as far as was appended.
    pub horizon: Tick,
    /// A durable record before all that later ticks need.
    point: DurablePoint,
    /// For [`Spine::tick_by_hand`]: when the last horizon was written.
    horizon_nanos: u64,
}

/// Opens the lock file of a data directory.
pub fn lock(data: &Path) -> Result<File, SpineError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| SpineError::Io { what, path, source }
    };
    if !data.is_dir() {
        std::fs::create_dir_all(data).map_err(failed("create", data))?;
        let parent = data.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or_else(|| Path::new("."));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed("sync", parent))?;
    }
    let path = data.join("LOCK");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SpineError::InUse(data.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed("lock", &path)(source)),
    }
}

impl Spine {
    /// Opens a world in a data directory, bringing back its state, or creates it from `record`.
    pub fn open(
        data: &Path,
        record: &WorldRecord,
        plugins: &[Plugin],
        options: Options,
        spine_options: &SpineOptions,
    ) -> Result<(Self, LiveWorld), SpineError> {
        let lock = lock(data)?;
        let status = WorldStatus::default();
        Self::open_observed(lock, data, record, plugins, options, spine_options, &status, &mut |_| {})
    }

    /// As [`Spine::open`], with the lock already held, progress told to `status`, and `observe` called with the
    /// world that recovery begins with and after each tick that it replays.
    #[expect(clippy::too_many_arguments, reason = "the one place where a world's parts come together")]
    pub fn open_observed(
        lock: File,
        data: &Path,
        record: &WorldRecord,
        plugins: &[Plugin],
        options: Options,
        spine_options: &SpineOptions,
        status: &WorldStatus,
        observe: &mut dyn FnMut(&LiveWorld),
    ) -> Result<(Self, LiveWorld), SpineError> {
        let dir = data.join("worlds").join(&record.world);
        let (world, plugins) = (record.world.clone(), plugins.into());
        let opening = Opening { world, dir, plugins, options, spine_options, status };
        let log = opening.dir.join("log");
        if spine_options.disk.exists(&log).map_err(io_error("look for", &log))? {
            return opening.recover(lock, observe);
        }
        if spine_options.disk.exists(&opening.dir).map_err(io_error("look for", &opening.dir))? {
            // A world gets its name with its log in it, and with nothing else.
            return Err(SpineError::Lost { world: opening.world, what: "the log", path: log });
        }
        opening.create(lock, data, record)
    }

    /// A tick of a world that nobody else looks at: no seals, a horizon once a second, so that a crash loses at
    /// most that and gives back nothing that is not on the way.
    pub fn tick_by_hand(&mut self, live: &mut LiveWorld) -> Result<(), SpineError> {
        let inputs: Vec<_> = self.queued.drain(..).map(|logged| logged.input).collect();
        let tick = live.now().next();
        if let Some(last) = inputs.last() {
            self.append(Record::Seal { tick, up_to_seq: last.seq })?;
        }
        self.apply_fixes(live, tick);
        live.tick(&inputs).map_err(|source| SpineError::Tick { world: self.world.clone(), source })?;
        let now = crate::clock::now_nanos();
        if now.saturating_sub(self.horizon_nanos) > 1_000_000_000 {
            self.horizon_nanos = now;
            self.horizon = tick;
            self.append(Record::Horizon { tick })?;
        }
        Ok(())
    }

    /// Leaves out what the log says, before the tick that it fixes.
    pub fn apply_fixes(&mut self, live: &mut LiveWorld, tick: Tick) {
        for fix in self.fixes.remove(&tick).into_iter().flatten() {
            fix.apply(live);
        }
    }

    /// Remembers a fix that is durable, for whoever looks back.
    pub fn fixed(&mut self, lsn: u64, tick: Tick, fix: Fix) {
        let branch = self.history.branches().current();
        self.history.fixed.write().push(Fixed { lsn, branch, tick, fix });
    }

    /// What the host knows beside the state after the last tick: it goes into a snapshot of that state. Called at
    /// the border of two ticks.
    pub fn host_state(&mut self, live: &LiveWorld, position: Position) -> HostState {
        if position.before.lsn > self.point.lsn {
            self.point = position.before;
        }
        let fixes = self.fixes.iter();
        let fixes = fixes.flat_map(|(tick, fixes)| fixes.iter().map(|fix| (*tick, fix.clone())));
        HostState {
            record_json: self.record_json.clone(),
            mode: self.mode,
            horizon: self.horizon,
            quarantined: live.disabled().map(str::to_owned).collect(),
            fixes: fixes.collect(),
            fixed: self.history.fixed.read().clone(),
            retention: self.retention,
            branches: self.history.branches(),
            next_seq: position.next_seq,
            next_control: position.next_control,
            from: self.point.into(),
            covered: self.point.into(),
        }
    }

    /// Ends in order: the horizon at the last tick, a snapshot, the log synced and closed.
    pub fn close(&mut self, live: &mut LiveWorld) -> Result<(), SpineError> {
        let mut ledger = std::mem::take(&mut self.ledger);
        let (log, position) = (self.log.clone(), self.position());
        let keys = &mut || ledger.changes(false, log.durable_lsn());
        self.close_at(live, &position, keys, &mut |live| Arc::new(live.image()))
    }

    /// Where the log goes on, as long as nobody else has the queue.
    fn position(&self) -> impl Fn() -> Position + use<> {
        let first = self.queued.first().map(|logged| logged.input.seq);
        let (log, next, point) = (self.log.clone(), self.next, self.point);
        move || Position {
            before: if first.is_some() { point } else { log.durable() },
            next_seq: first.unwrap_or(next.0),
            next_control: next.1,
        }
    }

    /// Goes on, on a line of its own, where ticks of another build end that were computed again.
    fn take_over(&mut self, live: &LiveWorld, foreign: &Foreign) -> Result<(), SpineError> {
        let (tick, taken) = (live.now(), live.taken_seq());
        // What no tick has taken belongs to the new line.
        self.begin_branch(tick, (taken, taken), "host")?;
        let Foreign { equal, different, first } = foreign;
        let first = first.map_or_else(|| "none".into(), |tick| tick.to_string());
        let branch = self.history.branches().current();
        tracing::warn!(
            world = self.world, %tick, branch, equal, different, first_different = first,
            "the log of another build is accepted: what follows is a branch of its own"
        );
        Ok(())
    }

    /// Writes a snapshot of a world whose queue nobody else has yet.
    fn keep(&mut self, live: &LiveWorld) {
        let position = self.position()();
        let host = self.host_state(live, position);
        let keys = self.ledger.changes(true, self.log.durable_lsn());
        match write_snapshot(&self.store, &self.log, live.image(), host, &keys) {
            Ok(_) => self.last_snapshot = Some(live.now()),
            // The next start computes the ticks of the other build once more.
            Err(error) => {
                tracing::error!(world = self.world, "could not write a snapshot: {}", chain(&error));
            }
        }
    }

    /// As [`Spine::close`], where another one has the queue and the ledger: the last snapshot must not leave behind
    /// what they have beyond those of the opening (D1). The image is asked for once the log covers the last tick.
    pub fn close_at(
        &mut self,
        live: &mut LiveWorld,
        position: &dyn Fn() -> Position,
        keys: &mut dyn FnMut() -> Changes,
        image: &mut dyn FnMut(&mut LiveWorld) -> Arc<Image>,
    ) -> Result<(), SpineError> {
        // Who ends waits for room in a full log for some seconds at the most: nothing shown is past its horizon.
        let tick = live.now();
        let lsn = append_patiently(&self.log, &Record::Horizon { tick }, || None, || true)
            .map_err(|error| self.log_error(error))?;
        self.horizon = tick;
        self.log.wait_durable(lsn).map_err(|error| self.log_error(error))?;
        let host = self.host_state(live, position());
        let branch = host.branches.current();
        let newest = self.store.snapshots().kept.first().map(|meta| (meta.branch, meta.tick));
        // What came since a snapshot of this very tick is in the log: no tick, hence nothing to compute again.
        if newest == Some((branch, tick)) {
            return self.log.close().map(|_| ()).map_err(|error| self.log_error(error));
        }
        let image = image(live);
        if let Err(error) = write_snapshot(&self.store, &self.log, image, host, &keys()) {
            // Nothing is lost: the log has it all, and the next start replays more of it.
            tracing::error!(world = self.world, "could not write the last snapshot: {}", chain(&error));
        }
        self.log.close().map(|_| ()).map_err(|error| self.log_error(error))
    }

    /// Begins a new line of history at a former tick of a world that nobody else looks at; the world of that tick.
    pub fn rewind(&mut self, tick: Tick, options: &Options) -> Result<LiveWorld, SpineError> {
        let former = self.history.branches();
        let mut visit = |_: &LiveWorld| ControlFlow::Continue(());
        let live = self.history.past(former.current(), tick, options, &mut visit)?.live;
        let floor_seq = self.next.0 - 1;
        self.begin_branch(tick, (floor_seq, live.taken_seq()), "local")?;
        self.queued.clear();
        self.fixes.clear();
        Ok(live)
    }

    /// Begins a new line of history at a tick of the one that goes on, durably. The inputs after the floor are its.
    fn begin_branch(&mut self, tick: Tick, seqs: (u64, u64), principal: &str) -> Result<(), SpineError> {
        let mut info = self.history.branches().next(tick, self.horizon.max(tick), seqs);
        let (seq, principal, control) = (self.next.1, principal.to_owned(), info.control());
        info.lsn = self.append(Record::Control { seq, tick, principal, control: control.clone() })?;
        let horizon = self.append(Record::Horizon { tick })?;
        self.log.wait_durable(horizon).map_err(|error| self.log_error(error))?;
        self.next.1 += 1;
        self.history.branches.write().add(info);
        self.mode = self.mode.after(&control, tick);
        self.horizon = tick;
        Ok(())
    }

    /// Keeps old snapshots for other times from now on, also after a restart, in a world that nobody else looks at.
    pub fn set_retention(&mut self, tick: Tick, retention: Retention) -> Result<(), SpineError> {
        let (seq, principal) = (self.next.1, "local".to_owned());
        let control = Control::Retention(retention);
        let lsn = self.append(Record::Control { seq, tick, principal, control })?;
        self.log.wait_durable(lsn).map_err(|error| self.log_error(error))?;
        self.next.1 += 1;
        self.retention = Some(retention);
        self.store.set_retention(retention);
        Ok(())
    }

    /// The world's name.
    pub fn world(&self) -> &str {
        &self.world
    }

    fn append(&self, record: Record) -> Result<u64, SpineError> {
        append_patiently(&self.log, &record, || None, || false).map_err(|error| self.log_error(error))
    }

    fn log_error(&self, error: LogError) -> SpineError {
        SpineError::Log { world: self.world.clone(), source: Arc::new(error) }
    }
}

/// Writes a snapshot, covered by what is durable now (D7): the state, what the host knew then, and what changed in the
/// ledger since the last one.
pub fn write_snapshot(
    store: &Store,
    log: &LogHandle,
    image: impl Into<Arc<Image>>,
    mut host: HostState,
    keys: &Changes,
) -> Result<WriteStats, StoreError> {
    host.covered = log.durable().into();
    store.set_ledger_floor(keys.floor);
    write_image(store, image.into(), &host, &keys.encode(), log.build_id())
}

fn write_image(
    store: &Store,
    image: Arc<Image>,
    host: &HostState,
    ledger: &[(u64, Vec<u8>)],
    build_id: [u8; 16],
) -> Result<WriteStats, StoreError> {
    let meta = SnapshotMeta {
        branch: host.branches.current(),
        tick: image.tick,
        hash: image.hash,
        applied_seq: image.taken_seq(),
        // The log is cut behind the oldest of these (D4).
        lsn: host.from.lsn,
        chain: host.from.chain,
        build_id,
        entities: image.entities() as u64,
        unix_millis: crate::clock::unix_millis(),
    };
    store.write(&Snapshot { meta, image, host: &host.encode(), ledger })
}

/// Makes the directory of a world that begins with the state of another one, in one step.
pub(crate) fn write_fork(
    data: &Path,
    record: &WorldRecord,
    live: &mut LiveWorld,
    inputs: &[InputRecord],
    options: &SpineOptions,
) -> Result<(), SpineError> {
    let (world, disk) = (record.world.as_str(), &options.disk);
    let worlds = data.join("worlds");
    let dir = worlds.join(world);
    if disk.exists(&dir).map_err(io_error("look for", &dir))? {
        return Err(SpineError::Exists { world: world.to_owned() });
    }
    let making = begin_directory(&**disk, &dir, world)?;
    let in_log = |source| SpineError::Log { world: world.to_owned(), source: Arc::new(source) };
    let (mut log, _) =
        Log::open(disk.clone(), &making.join("log"), &log_options(world, options)).map_err(in_log)?;
    let image = live.image();
    // Whoever lost the snapshot and began with the record would be found out by the hash.
    let tick = live.now();
    let records = [
        Record::Create { world_record: record_json(record) },
        Record::Build { build_id: options.build_id },
        Record::Checkpoint { tick, hash: image.hash },
        Record::Horizon { tick },
    ];
    records.iter().try_for_each(|record| log.append(record).map(|_| ())).map_err(in_log)?;
    let durable = log.commit().map_err(in_log)?;
    let host = HostState {
        record_json: record_json(record).into(),
        mode: RunMode::default(),
        horizon: tick,
        quarantined: live.disabled().map(str::to_owned).collect(),
        fixes: Vec::new(),
        fixed: Vec::new(),
        retention: None,
        branches: history::Branches::default(),
        next_seq: live.taken_seq() + 1,
        next_control: 1,
        from: durable.into(),
        covered: durable.into(),
    };
    let in_store = |source| SpineError::Store { world: world.to_owned(), source };
    let (store, _) = Store::open(disk.clone(), &making, options.store.clone()).map_err(in_store)?;
    write_image(&store, Arc::new(image), &host, &[], options.build_id).map_err(in_store)?;
    // Behind the snapshot and without a Seal: its first tick takes them.
    for (input, seq) in inputs.iter().zip(host.next_seq..) {
        log.append(&Record::Input(InputRecord { seq, ..input.clone() })).map_err(in_log)?;
    }
    log.commit().map_err(in_log)?;
    drop((store, log));
    disk.sync_dir(&making).map_err(io_error("sync", &making))?;
    finish_directory(&**disk, &making, &dir)
}

/// An empty directory in which a world is made, under another name than it will have.
fn begin_directory(disk: &dyn Disk, dir: &Path, world: &str) -> Result<PathBuf, SpineError> {
    let making = dir.with_file_name(format!(".{world}.new"));
    let worlds = dir.parent().expect("a world's directory is in one");
    disk.create_dir_all(worlds).map_err(io_error("create", worlds))?;
    // Else the first world of all would be lost with the name of the directory that it is in.
    let data = worlds.parent().expect("the worlds are in a data directory");
    disk.sync_dir(data).map_err(io_error("sync", data))?;
    if disk.exists(&making).map_err(io_error("look for", &making))? {
        disk.remove_dir_all(&making).map_err(io_error("remove", &making))?;
    }
    disk.create_dir_all(&making).map_err(io_error("create", &making))?;
    Ok(making)
}

/// Gives the world its name, when all of it is durable: a crash before leaves no half world.
fn finish_directory(disk: &dyn Disk, making: &Path, dir: &Path) -> Result<(), SpineError> {
    disk.rename(making, dir).map_err(io_error("rename", making))?;
    let parent = dir.parent().expect("a world's directory is in one");
    disk.sync_dir(parent).map_err(io_error("sync", parent))
}

pub(crate) fn log_options(world: &str, options: &SpineOptions) -> LogOptions {
    LogOptions {
        segment_bytes: options.segment_bytes,
        clock: crate::clock::now_nanos,
        on_thread: crate::pool::answer_soon,
        ..LogOptions::new(world_id(world), options.build_id)
    }
}

/// Held by who copies the files of a world, and tried by who removes old ones: these wait until the next time.
pub(crate) static COPYING: Mutex<()> = Mutex::new(());

/// Removes what retention no longer keeps: old snapshots, then the log before the oldest one that stays (D4, D8). Not
/// before a new branch has a snapshot of its own: until then it needs an older one of its parent.
pub fn prune(store: &Store, log: &LogHandle, world: &str) -> Result<(), SpineError> {
    prune_at(store, log, world, crate::clock::unix_millis())
}

/// As [`prune`], at a time in milliseconds since 1970.
pub fn prune_at(store: &Store, log: &LogHandle, world: &str, unix_millis: u64) -> Result<(), SpineError> {
    let Some(_nobody_copies) = COPYING.try_lock() else { return Ok(()) };
    let in_store = |source| SpineError::Store { world: world.to_owned(), source };
    let pruned = store.prune(unix_millis).map_err(in_store)?;
    // Its own record stays, too: recovery compares what it was written under.
    let removed = log.cut_before(pruned.oldest_lsn);
    let removed =
        removed.map_err(|error| SpineError::Log { world: world.to_owned(), source: Arc::new(error) })?;
    if removed > 0 || pruned.epochs_removed > 0 {
        tracing::debug!(world, segments = removed, epochs = pruned.epochs_removed, "removed old history");
    }
    Ok(())
}

/// A world that is being opened.
struct Opening<'a> {
    world: String,
    dir: PathBuf,
    plugins: Arc<[Plugin]>,
    options: Options,
    spine_options: &'a SpineOptions,
    status: &'a WorldStatus,
}

/// A long replay says so often how far it is.
const PROGRESS_NANOS: u64 = 5_000_000_000;

/// A world that is where its log ends.
struct Begun {
    live: LiveWorld,
    /// What the whole log tells.
    told: Told,
    /// The inputs that no tick has taken.
    queued: Vec<Logged>,
    /// What is left out from later ticks on.
    fixes: Vec<(Tick, Fix)>,
    /// The snapshot that it began with.
    snapshot: Option<SnapshotMeta>,
    /// Ticks of another build were computed again; the hashes that were compared.
    foreign: Option<Foreign>,
}

/// How a log of another build comes out under this one.
#[derive(Default)]
struct Foreign {
    equal: u64,
    different: u64,
    first: Option<Tick>,
}

impl Foreign {
    fn note(&mut self, world: &str, compared: Compared) {
        let Compared { tick, expected, found, .. } = compared;
        if found == expected {
            self.equal += 1;
            tracing::info!(world, %tick, hash = %found, "this build computes the state that the log says");
        } else {
            self.different += 1;
            self.first.get_or_insert(tick);
            tracing::warn!(world, %tick, %expected, %found, "this build computes another state than the log says");
        }
    }
}

impl Opening<'_> {
    fn create(
        &self,
        lock: File,
        data: &Path,
        record: &WorldRecord,
    ) -> Result<(Spine, LiveWorld), SpineError> {
        let mut live = history::build(record, &self.plugins, &self.options)?;
        live.create().map_err(|source| self.tick_error(source))?;
        let disk = &self.spine_options.disk;
        let begun = Event::begun(&self.world, Some(&record.scenario.name), Origin::Created);
        catalogue::making(disk, data, begun, || {
            let making = begin_directory(&**disk, &self.dir, &self.world)?;
            let (mut log, _) = self.open_log(&making, Vec::new(), 1)?;
            let create = Record::Create { world_record: record_json(record) };
            log.append(&create).map_err(|e| self.log_error(e))?;
            log.append(&Record::Build { build_id: self.spine_options.build_id })
                .map_err(|e| self.log_error(e))?;
            log.commit().map_err(|e| self.log_error(e))?;
            drop(log);
            finish_directory(&**disk, &making, &self.dir)
        })?;
        let (log, _) = self.open_log(&self.dir, Vec::new(), 1)?;
        let store = Arc::new(self.open_store()?);
        let log = self.start_log(log)?;
        let history = self.history(store, log.clone());
        let begun = Begun {
            live,
            told: Told::of(record.clone(), self.spine_options.build_id),
            queued: Vec::new(),
            fixes: Vec::new(),
            snapshot: None,
            foreign: None,
        };
        let ledger = Ledger::new(self.spine_options.idempotency_keys_max, Vec::new());
        self.spine(lock, log, history, begun, ledger.expect("no entries"), Tick(0))
    }

    fn recover(
        &self,
        lock: File,
        observe: &mut dyn FnMut(&LiveWorld),
    ) -> Result<(Spine, LiveWorld), SpineError> {
        self.status.set_phase(Phase::Opening);
        let store = Arc::new(self.open_store()?);
        let snapshots = history::kept(&store, &self.world);
        // The newest that loads, before the log: what was durable when it was written must be there (D7).
        let newest = snapshots.iter().find_map(|snapshot| match self.load(&store, snapshot) {
            Ok(kept) => Some(kept),
            Err(detail) => {
                self.pass_over(snapshot, &detail);
                None
            }
        });
        let point = |meta: &SnapshotMeta| DurablePoint { lsn: meta.lsn, chain: meta.chain };
        let mut known: Vec<_> = snapshots.iter().map(point).collect();
        known.extend(
            newest
                .iter()
                .map(|kept| DurablePoint { lsn: kept.host.covered.lsn, chain: kept.host.covered.chain }),
        );
        let verify_from = newest.as_ref().map_or(1, |kept| kept.host.from.lsn + 1);
        let (log, report) = self.open_log(&self.dir, known, verify_from)?;
        if report.mark_missing {
            tracing::warn!(
                world = self.world,
                path = %self.dir.join("log").join("mark").display(),
                "the mark of the log is gone; what the log was durable up to is known from the snapshots only"
            );
        }
        if report.torn_bytes > 0 {
            tracing::warn!(
                world = self.world,
                bytes = report.torn_bytes,
                "cut a torn tail off the log; nothing of it was acknowledged"
            );
        }
        let log = self.start_log(log)?;
        let mut history = self.history(store, log.clone());
        let mut ledger = self.ledger(newest.as_ref())?;
        let (mut begun, from) =
            self.replay(&log, &mut history, &snapshots, newest.as_ref(), &mut ledger, observe)?;
        let own = self.spine_options.build_id;
        let is_upgrade = begun.told.build_id != Some(own);
        if let Some(meta) = begun.snapshot {
            let resumed = history.store.resume(meta);
            resumed.map_err(|source| SpineError::Store { world: self.world.clone(), source })?;
        }
        let foreign = begun.foreign.take();
        let (mut spine, live) = self.spine(lock, log, history, begun, ledger, from)?;
        if let Some(foreign) = &foreign {
            // Before the log says that this build goes on with it.
            spine.take_over(&live, foreign)?;
        }
        if is_upgrade {
            self.append(&spine.log, Record::Build { build_id: own })?;
        }
        if foreign.is_some() {
            // Whoever comes this way once more is told by it whether he is right.
            self.append(&spine.log, Record::Checkpoint { tick: live.now(), hash: live.state_hash() })?;
            spine.keep(&live);
        }
        Ok((spine, live))
    }

    /// Brings the world to where the log says it was, past ticks that fail. Returns the tick that it began with.
    fn replay(
        &self,
        log: &LogHandle,
        history: &mut History,
        snapshots: &[SnapshotMeta],
        newest: Option<&Kept>,
        ledger: &mut Ledger,
        observe: &mut dyn FnMut(&LiveWorld),
    ) -> Result<(Begun, Tick), SpineError> {
        // The tick that has failed.
        let mut failed: Option<Tick> = None;
        loop {
            self.status.set_phase(Phase::Reading);
            let mut told = history
                .skim(newest.map(|kept| (&kept.meta, &kept.host)), &mut |logged| remember(ledger, logged))?;
            history.knows(&told);
            let (mut live, mut timeline, snapshot) = self.begin(history, snapshots, newest, &told)?;
            let (from, branch, target) = (live.now(), told.branches.current(), told.target());
            // Ticks of another build that this one would compute again: at the end, or before an upgrade.
            let tail = (from < target && told.build_id != Some(self.spine_options.build_id))
                .then(|| told.build_id.map_or_else(|| "unknown".into(), hex));
            let inside = if snapshot == newest.map(|kept| kept.meta) {
                told.last_foreign(branch, (from, target), self.spine_options.build_id)
            } else {
                history.last_foreign(&timeline, from, target)?
            };
            let accepts = self.spine_options.accept_foreign_log && (tail.is_some() || inside.is_some());
            if let Some(found) = tail.filter(|_| !accepts) {
                return Err(self.foreign_log(found));
            }
            let mut foreign = accepts.then(Foreign::default);
            history.lenient = foreign.is_some();
            if self.answer_hangs(log, &live, &told)? {
                continue;
            }
            self.status.begin_replay(from, target);
            self.status.watched.set(live.watch(), log.clone());
            let mut told_nanos = crate::clock::now_nanos();
            let mut visit = |live: &LiveWorld, compared: Option<Compared>| {
                for (seq, outcome) in &live.report().outcomes {
                    ledger.applied(*seq, &Applied { tick: live.now(), outcome: outcome.clone() });
                }
                if let (Some(foreign), Some(compared)) = (&mut foreign, compared) {
                    foreign.note(&self.world, compared);
                }
                self.status.set_recovery(live.now());
                let now = crate::clock::now_nanos();
                if now - told_nanos >= PROGRESS_NANOS {
                    told_nanos = now;
                    let eta_secs = self.status.recovery().eta_secs.unwrap_or_default().round();
                    tracing::info!(world = self.world, tick = %live.now(), %target, eta_secs, "computing ticks again");
                }
                observe(live);
                if self.status.is_stopping() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let result = history.replay_past(&mut timeline, &mut live, target, failed, &mut visit);
            // From here on no state that is another one than the log says is shown as that of a former tick.
            history.lenient = false;
            let error = match result {
                Ok(()) => {
                    // An upgrade is confirmed by the hashes that its build has left since.
                    if let Some((last, build)) = inside
                        && foreign.is_none()
                        && !timeline.is_confirmed(last)
                    {
                        return Err(self.foreign_log(hex(build)));
                    }
                    timeline.read_to_end()?;
                    let (queued, fixes) =
                        (timeline.queued(live.taken_seq()), timeline.fixes_after(live.now()));
                    told.begin = timeline.told.begin;
                    return Ok((Begun { live, told, queued, fixes, snapshot, foreign }, from));
                }
                Err(SpineError::Tick { source, .. }) => source,
                Err(error) => return Err(error),
            };
            let tick = error.tick();
            if failed.replace(tick) != Some(tick) {
                tracing::error!(world = self.world, %tick, "{error}: trying once more");
                continue;
            }
            let fix = judge(self.spine_options.on_panic, &error, &live);
            let own = told.branches.resolve(branch, tick) == branch;
            let Some(fix) = fix.filter(|_| own) else { return Err(self.tick_error(error)) };
            tracing::error!(world = self.world, %tick, "{error}, again: {fix} from this tick on");
            log_fix(log, &self.world, told.next_control, tick, &fix)?;
        }
    }

    /// The newest snapshot on the line that goes on which verifies, and how the world goes on after it; else the world
    /// as it was created.
    fn begin(
        &self,
        history: &History,
        snapshots: &[SnapshotMeta],
        newest: Option<&Kept>,
        told: &Told,
    ) -> Result<(LiveWorld, Timeline, Option<SnapshotMeta>), SpineError> {
        let (line, end) = (told.branches.current(), (told.branches.current(), told.target()));
        let on_the_way = |meta: &&SnapshotMeta| told.branches.on_the_way((meta.branch, meta.tick), end);
        let first = snapshots.iter().find(on_the_way);
        // Of a line that was left, say. There is one world at a time.
        if let Some(newest) = newest.filter(|newest| Some(&newest.meta) != first) {
            newest.forget_built();
        }
        for snapshot in snapshots.iter().filter(on_the_way) {
            self.status.set_phase(Phase::Reading);
            let own;
            let kept = match newest {
                Some(newest) if newest.meta == *snapshot => newest,
                _ => match self.load(&history.store, snapshot) {
                    Ok(loaded) => {
                        own = loaded;
                        &own
                    }
                    Err(detail) => {
                        self.pass_over(snapshot, &detail);
                        continue;
                    }
                },
            };
            let mut timeline = history.timeline(kept, line)?;
            self.status.set_phase(Phase::Restoring);
            match history.restore(kept, &mut timeline, &self.options) {
                Ok(live) => return Ok((live, timeline, Some(kept.meta))),
                Err(SpineError::NotKept { detail, .. }) => self.pass_over(snapshot, &detail),
                Err(error) => return Err(error),
            }
        }
        self.status.set_phase(Phase::Reading);
        let (live, timeline) = history.begin_anew(line, &self.options)?;
        Ok((live, timeline, None))
    }

    fn foreign_log(&self, found: String) -> SpineError {
        SpineError::ForeignLog { world: self.world.clone(), found, own: hex(self.spine_options.build_id) }
    }

    /// Leaves out what hung, by policy. Returns whether anything was logged for it.
    fn answer_hangs(&self, log: &LogHandle, live: &LiveWorld, told: &Told) -> Result<bool, SpineError> {
        let mut next_control = told.next_control;
        for (tick, fix) in told.unanswered_hangs() {
            if tick <= live.now() {
                continue;
            }
            let mut systems = live.plan().nodes.iter();
            if matches!(&fix, Fix::Quarantine(name) if !systems.any(|node| node.name == *name)) {
                tracing::warn!(world = self.world, %tick, "the last run hung outside of any system: trying again");
                continue;
            }
            if self.spine_options.on_panic == OnPanic::Stop {
                return Err(SpineError::Hung { world: self.world.clone(), tick, what: fix.to_string() });
            }
            tracing::error!(world = self.world, %tick, "the last run hung: {fix} from this tick on");
            log_fix(log, &self.world, next_control, tick, &fix)?;
            next_control += 1;
        }
        Ok(next_control > told.next_control)
    }

    fn spine(
        &self,
        lock: File,
        log: LogHandle,
        history: History,
        begun: Begun,
        ledger: Ledger,
        from: Tick,
    ) -> Result<(Spine, LiveWorld), SpineError> {
        let Begun { live, told, queued, fixes: later, snapshot, .. } = begun;
        let mut fixes: BTreeMap<Tick, Vec<Fix>> = BTreeMap::new();
        for (tick, fix) in later {
            fixes.entry(tick).or_default().push(fix);
        }
        history.knows(&told);
        history.forget_fixes();
        if let Some(retention) = told.retention {
            history.store.set_retention(retention);
        }
        let inconsistent = || self.inconsistent("it does not begin with Create");
        let record = told.record.ok_or_else(inconsistent)?;
        let record = history.record.get_or_init(|| record).clone();
        let spine = Spine {
            _lock: lock,
            world: self.world.clone(),
            log,
            store: history.store.clone(),
            mode: told.mode,
            retention: told.retention,
            queued,
            ledger,
            next: (told.next_seq, told.next_control),
            fixes,
            last_snapshot: snapshot.map(|meta| meta.tick),
            replayed: live.now().0 - from.0,
            horizon: told.horizon,
            point: told.begin,
            record_json: record_json(&record).into(),
            record,
            history,
            horizon_nanos: crate::clock::now_nanos(),
        };
        Ok((spine, live))
    }

    fn history(&self, store: Arc<Store>, log: LogHandle) -> History {
        let (world, plugins) = (self.world.clone(), self.plugins.clone());
        let log = LogSource::Live(log);
        History {
            world,
            plugins,
            store,
            log,
            branches: Arc::default(),
            fixed: Arc::default(),
            record: Arc::default(),
            build_id: self.spine_options.build_id,
            lenient: false,
            damaged: Arc::new([]),
        }
    }

    fn ledger(&self, newest: Option<&Kept>) -> Result<Ledger, SpineError> {
        let stored = newest.map_or_else(Vec::new, |kept| kept.ledger.clone());
        let ledger = Ledger::new(self.spine_options.idempotency_keys_max, stored);
        ledger.map_err(|detail| self.inconsistent(&detail))
    }

    /// On all threads: nobody ticks yet.
    fn load(&self, store: &Store, snapshot: &SnapshotMeta) -> Result<Kept, String> {
        Kept::load_and_build(store, snapshot, &self.plugins, &self.options)
    }

    fn pass_over(&self, snapshot: &SnapshotMeta, detail: &str) {
        self.status.pass_over(format!("the snapshot of tick {}: {detail}", snapshot.tick));
        tracing::warn!(
            world = self.world,
            tick = %snapshot.tick,
            "passing over a snapshot: {detail}; replaying more of the log"
        );
    }

    fn open_store(&self) -> Result<Store, SpineError> {
        let opened =
            Store::open(self.spine_options.disk.clone(), &self.dir, self.spine_options.store.clone());
        let (store, report) =
            opened.map_err(|source| SpineError::Store { world: self.world.clone(), source })?;
        for (path, detail) in &report.set_aside {
            self.status.pass_over(format!("{}: {detail}", path.display()));
            tracing::warn!(world = self.world, "set a damaged store aside as {}: {detail}", path.display());
        }
        Ok(store)
    }

    /// Opens the log, and verifies what comes from that record on.
    fn open_log(
        &self,
        dir: &Path,
        known_durable: Vec<DurablePoint>,
        verify_from: u64,
    ) -> Result<(Log, OpenReport), SpineError> {
        // Cut behind the oldest snapshot (D4); without one, all of it is needed.
        let oldest_needed = known_durable.iter().map(|point| point.lsn + 1).min().unwrap_or(1);
        let options = LogOptions {
            known_durable,
            oldest_needed,
            verify_from,
            ..log_options(&self.world, self.spine_options)
        };
        Log::open(self.spine_options.disk.clone(), &dir.join("log"), &options).map_err(|e| self.log_error(e))
    }

    fn start_log(&self, log: Log) -> Result<LogHandle, SpineError> {
        LogWriter::start(log, self.spine_options.queue_len_max).map_err(|e| self.log_error(e))
    }

    fn append(&self, log: &LogHandle, record: Record) -> Result<(), SpineError> {
        let appended = append_patiently(log, &record, || None, || self.status.is_stopping());
        appended.and_then(|lsn| log.wait_durable(lsn)).map(|_| ()).map_err(|e| self.log_error(e))
    }

    fn log_error(&self, error: LogError) -> SpineError {
        SpineError::Log { world: self.world.clone(), source: Arc::new(error) }
    }

    fn tick_error(&self, source: TickError) -> SpineError {
        SpineError::Tick { world: self.world.clone(), source }
    }

    fn inconsistent(&self, detail: &str) -> SpineError {
        SpineError::Inconsistent { world: self.world.clone(), detail: detail.to_owned() }
    }
}

/// What to leave out so that a tick that failed twice gets through, if that is the policy and can be done.
pub fn judge(on_panic: OnPanic, error: &TickError, live: &LiveWorld) -> Option<Fix> {
    let left_out = |fix: &Fix| match fix {
        Fix::Quarantine(system) => live.disabled().any(|disabled| disabled == system),
        Fix::Skip(_) => false,
    };
    // What is left out already is not to blame; then nobody known is.
    Fix::of(error, live).filter(|fix| on_panic == OnPanic::Quarantine && !left_out(fix))
}

/// Makes a fix durable, before the tick that it fixes is run again.
fn log_fix(log: &LogHandle, world: &str, seq: u64, tick: Tick, fix: &Fix) -> Result<(), SpineError> {
    let record = Record::Control { seq, tick, principal: "host".into(), control: fix.control() };
    let appended = append_patiently(log, &record, || None, || true);
    let durable = appended.and_then(|lsn| log.wait_durable(lsn));
    durable.map(|_| ()).map_err(|error| SpineError::Log { world: world.to_owned(), source: Arc::new(error) })
}

/// Notes an input with a key that the log has.
fn remember(ledger: &mut Ledger, logged: &Logged) {
    if let Some(key) = logged.idempotency.clone() {
        let earliest_tick = logged.input.at_tick.unwrap_or_default();
        ledger.insert(
            logged.input.seq,
            Entry { key, earliest_tick, applied: None, lsn: logged.lsn, durable: Durable::already() },
        );
    }
}

fn record_json(record: &WorldRecord) -> Vec<u8> {
    serde_json::to_vec(record).expect("a world record is plain data")
}

/// Between two tries to append to a full log.
pub(crate) const FULL_LOG_WAIT: Duration = Duration::from_millis(20);
/// So long a full log is waited for by who wants to end.
const FULL_LOG_WAIT_MAX: u32 = 100;

/// Appends; while the log's queue or disk is full the caller waits, and goes on when there is room. Once `hurried`
/// says so it waits for some seconds more at the most.
pub fn append_patiently(
    log: &LogHandle,
    record: &Record,
    done: impl Fn() -> Option<LogDone>,
    hurried: impl Fn() -> bool,
) -> Result<u64, LogError> {
    let mut hurried_waits = 0;
    let mut told = false;
    loop {
        match log.append(record.clone(), done()) {
            Err(error @ (LogError::QueueFull { .. } | LogError::NoSpace { .. })) => {
                if hurried_waits == FULL_LOG_WAIT_MAX {
                    return Err(error);
                }
                if !told {
                    tracing::warn!("waiting for room in the log: {}", chain(&error));
                }
                told = true;
                hurried_waits += u32::from(hurried());
                std::thread::sleep(FULL_LOG_WAIT);
            }
            other => return other,
        }
    }
}

fn io_error<'p>(what: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> SpineError + use<'p> {
    move |source| SpineError::Io { what, path: path.to_owned(), source }
}

/// The id of a world in its log's headers: FNV-1a of its name.
pub fn world_id(name: &str) -> u64 {
    name.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// An error with its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
