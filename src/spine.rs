//! The durable spine of a world: its directory, its log, its store, and how it comes back from them.
//!
//! Start = newest good keyframe + replay of the log up to the durable horizon (D2, D3). Inputs without a Seal were
//! never shown as applied; they come after. Nothing is served that does not agree with what the log says.

use crate::status::WorldStatus;
use everworld_engine::{BuildErrors, ImageError, InputEnvelope, LiveWorld, Options, Tick, TickError};
use everworld_persistence::{
    Control, DurablePoint, KeyframeMeta, Log, LogDone, LogError, LogHandle, LogOptions, LogWriter,
    OpenReport, RealDisk, Record, Store, StoreError, StoreOptions,
};
use everworld_systems::{Plugin, ScenarioError, WorldRecord};
use std::{
    collections::{BTreeMap, VecDeque},
    fs::{File, TryLockError},
    io,
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

/// How a world is kept.
#[derive(Clone, Debug)]
pub struct SpineOptions {
    /// Bytes of a log segment.
    pub segment_bytes: u64,
    /// Records that may wait for the log's thread.
    pub queue_len_max: usize,
    /// Keyframes that are kept.
    pub keyframes_kept: usize,
    /// Go on with a log tail of another build.
    pub accept_foreign_log: bool,
}

impl Default for SpineOptions {
    fn default() -> Self {
        Self { segment_bytes: 4 << 20, queue_len_max: 8_192, keyframes_kept: 3, accept_foreign_log: false }
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
    /// A tick of the replay, or of the run, failed.
    #[error("world \"{world}\" stopped")]
    Tick {
        /// The world.
        world: String,
        /// Why.
        #[source]
        source: TickError,
    },
    /// Somebody wanted the process to end before the world was there. Nothing is lost by it.
    #[error("stopped before the world was brought back")]
    Interrupted,
    /// No keyframe and no log from the beginning that lead to the state.
    #[error("world \"{world}\" cannot be brought back: {detail}")]
    Unrecoverable {
        /// The world.
        world: String,
        /// What was tried.
        detail: String,
    },
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
            | Self::Unrecoverable { .. } => 74,
            Self::Interrupted => 0,
            Self::ForeignLog { .. } | Self::Tick { .. } => 1,
            Self::Scenario { .. } | Self::Build { .. } => 78,
        }
    }
}

/// What a world does when it is not told otherwise; from the control records of its log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunMode {
    /// Not ticking, but for steps.
    pub paused: bool,
    /// Where stepping ends.
    pub step_until: Tick,
    /// The rate that an operator set; without one, the configured.
    pub millihertz: Option<u64>,
}

/// The log and the store of a world that is open.
pub struct Spine {
    /// Held for as long as the world is open: a second process exits with 75.
    _lock: File,
    world: String,
    /// The world's log.
    pub log: LogHandle,
    /// The world's keyframes. Taken out by the thread that writes them.
    pub store: Option<Store>,
    /// What the world was created from; whoever opens it may have asked for something else.
    pub record: WorldRecord,
    /// What the log says the world does.
    pub mode: RunMode,
    /// Logged inputs that no tick has taken.
    pub queued: Vec<InputEnvelope>,
    /// The numbers after the last input and the last control record in the log.
    pub next: (u64, u64),
    /// The tick of the newest keyframe.
    pub last_keyframe: Option<Tick>,
    /// How many ticks were replayed.
    pub replayed: u64,
    /// For [`Spine::tick_by_hand`]: when the last horizon was written.
    horizon_nanos: u64,
}

/// The history of a world as its log tells it.
#[derive(Default)]
struct History {
    record: Option<WorldRecord>,
    inputs: VecDeque<InputEnvelope>,
    seals: BTreeMap<Tick, u64>,
    horizon: Tick,
    mode: Option<RunMode>,
    next_seq: u64,
    next_control: u64,
    /// The build of the newest [`Record::Build`].
    build_id: Option<[u8; 16]>,
}

/// Opens the lock file of a data directory.
pub fn lock(data: &Path) -> Result<File, SpineError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| SpineError::Io { what, path, source }
    };
    std::fs::create_dir_all(data).map_err(failed("create", data))?;
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
        let opening = Opening { world: record.world.clone(), dir, plugins, options, spine_options, status };
        if opening.dir.join("log").is_dir() {
            opening.recover(lock, observe)
        } else {
            opening.create(lock, record)
        }
    }

    /// A tick of a world that nobody else looks at: no seals, a horizon once a second, so that a crash loses at
    /// most that and gives back nothing that is not on the way.
    pub fn tick_by_hand(&mut self, live: &mut LiveWorld) -> Result<(), SpineError> {
        let inputs = std::mem::take(&mut self.queued);
        let tick = live.now().next();
        if let Some(last) = inputs.last() {
            self.append(Record::Seal { tick, up_to_seq: last.seq })?;
        }
        live.tick(&inputs).map_err(|source| SpineError::Tick { world: self.world.clone(), source })?;
        let now = crate::clock::now_nanos();
        if now.saturating_sub(self.horizon_nanos) > 1_000_000_000 {
            self.horizon_nanos = now;
            self.append(Record::Horizon { tick })?;
        }
        Ok(())
    }

    /// Ends in order: the horizon at the last tick, a keyframe, the log synced and closed.
    pub fn close(&mut self, live: &mut LiveWorld) -> Result<(), SpineError> {
        // Who ends waits for room in a full log for some seconds at the most: nothing shown is past its horizon.
        let horizon = Record::Horizon { tick: live.now() };
        let lsn =
            append_patiently(&self.log, &horizon, || None, || true).map_err(|error| self.log_error(error))?;
        let point = self.log.wait_durable(lsn).map_err(|error| self.log_error(error))?;
        let image = live.image();
        if let Some(store) = &mut self.store {
            let meta = keyframe_meta(&image, live.taken_seq(), point);
            if let Err(error) = store.write_keyframe(&meta, &image) {
                // Nothing is lost: the log has it all, and the next start replays more of it.
                tracing::error!(world = self.world, "could not write the last keyframe: {}", chain(&error));
            }
        }
        self.log.close().map(|_| ()).map_err(|error| self.log_error(error))
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

/// The header of a keyframe of that image, covered by the log up to `point` (D7).
pub fn keyframe_meta(image: &everworld_engine::Image, applied_seq: u64, point: DurablePoint) -> KeyframeMeta {
    KeyframeMeta {
        branch: 0,
        tick: image.tick,
        hash: image.hash,
        applied_seq,
        lsn: point.lsn,
        chain: point.chain,
        build_id: build_id(),
        entities: image.entities() as u64,
    }
}

/// A world that is being opened.
struct Opening<'a> {
    world: String,
    dir: PathBuf,
    plugins: &'a [Plugin],
    options: Options,
    spine_options: &'a SpineOptions,
    status: &'a WorldStatus,
}

impl Opening<'_> {
    fn create(&self, lock: File, record: &WorldRecord) -> Result<(Spine, LiveWorld), SpineError> {
        let mut live = self.build(record)?;
        live.create().map_err(|source| self.tick_error(source))?;
        // Made under another name and renamed when Create is durable: a crash in between leaves no half world.
        let making = self.dir.with_file_name(format!(".{}.new", self.world));
        if making.exists() {
            std::fs::remove_dir_all(&making).map_err(io_error("remove", &making))?;
        }
        std::fs::create_dir_all(&making).map_err(io_error("create", &making))?;
        let (mut log, _) = self.open_log(&making, &[])?;
        let json = serde_json::to_vec(record).expect("a world record is plain data");
        log.append(&Record::Create { world_record: json }).map_err(|e| self.log_error(e))?;
        log.append(&Record::Build { build_id: build_id() }).map_err(|e| self.log_error(e))?;
        log.commit().map_err(|e| self.log_error(e))?;
        drop(log);
        std::fs::rename(&making, &self.dir).map_err(io_error("rename", &making))?;
        let parent = self.dir.parent().expect("a world's directory is in one");
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(io_error("sync", parent))?;
        let (log, _) = self.open_log(&self.dir, &[])?;
        let store = self.open_store()?;
        let mode = RunMode { paused: false, step_until: Tick(0), millihertz: None };
        Ok((self.spine(lock, log, store, record.clone(), mode, Vec::new(), (1, 1))?, live))
    }

    fn recover(
        &self,
        lock: File,
        observe: &mut dyn FnMut(&LiveWorld),
    ) -> Result<(Spine, LiveWorld), SpineError> {
        let store = match self.open_store() {
            Ok(store) => Some(store),
            Err(SpineError::Store { source: source @ StoreError::InUse { .. }, world }) => {
                return Err(SpineError::Store { source, world });
            }
            Err(error) => {
                tracing::warn!(world = self.world, "{}: replaying the whole log instead", chain(&error));
                None
            }
        };
        let keyframes = self.keyframes(store.as_ref());
        // D7: a log that lacks what a keyframe was written under has lost what was durable.
        let (mut log, report) = self.open_log(&self.dir, &keyframes)?;
        if report.torn_bytes > 0 {
            tracing::warn!(
                world = self.world,
                bytes = report.torn_bytes,
                "cut a torn tail off the log; nothing of it was acknowledged"
            );
        }
        let mut history = self.read_history(&log)?;
        let record =
            history.record.take().ok_or_else(|| self.inconsistent("it does not begin with Create"))?;
        let (mut live, keyframe) = self.nearest(&record, store.as_ref(), &keyframes)?;
        let target = history.horizon.max(history.seals.last_key_value().map_or(Tick(0), |(tick, _)| *tick));
        if history.build_id != Some(build_id()) {
            if live.now() < target && !self.spine_options.accept_foreign_log {
                let hex = |id: [u8; 16]| format!("{:032x}", u128::from_be_bytes(id));
                return Err(SpineError::ForeignLog {
                    world: self.world.clone(),
                    found: history.build_id.map_or_else(|| "unknown".into(), hex),
                    own: BUILD_ID_HEX.into(),
                });
            }
            log.append(&Record::Build { build_id: build_id() }).map_err(|e| self.log_error(e))?;
            log.commit().map_err(|e| self.log_error(e))?;
        }
        let from = live.now();
        observe(&live);
        self.replay(&mut live, &mut history, target, observe)?;
        let mode = history.mode.unwrap_or(RunMode { paused: false, step_until: Tick(0), millihertz: None });
        let queued = history.inputs.into_iter().collect();
        // A store that did not open is set aside, and a fresh one begun: its damage is kept for who wants to look.
        let store = match store {
            Some(store) => store,
            None => self.renew_store()?,
        };
        let mut spine =
            self.spine(lock, log, store, record, mode, queued, (history.next_seq, history.next_control))?;
        spine.last_keyframe = keyframe;
        spine.replayed = live.now().0 - from.0;
        Ok((spine, live))
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one struct, at its two places of origin")]
    fn spine(
        &self,
        lock: File,
        log: Log,
        store: Store,
        record: WorldRecord,
        mode: RunMode,
        queued: Vec<InputEnvelope>,
        next: (u64, u64),
    ) -> Result<Spine, SpineError> {
        let log = LogWriter::start(log, self.spine_options.queue_len_max).map_err(|e| self.log_error(e))?;
        Ok(Spine {
            _lock: lock,
            world: self.world.clone(),
            log,
            store: Some(store),
            record,
            mode,
            queued,
            next,
            last_keyframe: None,
            replayed: 0,
            horizon_nanos: crate::clock::now_nanos(),
        })
    }

    /// The readable keyframes, newest first. One that is damaged is named and passed over.
    fn keyframes(&self, store: Option<&Store>) -> Vec<KeyframeMeta> {
        let listed = match store.map(Store::keyframes) {
            None => return Vec::new(),
            Some(Ok(listed)) => listed,
            Some(Err(error)) => {
                tracing::warn!(world = self.world, "could not list keyframes: {}", chain(&error));
                return Vec::new();
            }
        };
        for error in &listed.damaged {
            tracing::warn!(world = self.world, "passing over a damaged keyframe: {}", chain(error));
        }
        listed.kept
    }

    /// Reads the whole log.
    fn read_history(&self, log: &Log) -> Result<History, SpineError> {
        let mut history = History { next_seq: 1, next_control: 1, ..History::default() };
        for entry in log.records(1) {
            let (_, record) = entry.map_err(|e| self.log_error(e))?;
            match record {
                Record::Create { world_record } => {
                    let record = serde_json::from_slice(&world_record);
                    history.record =
                        Some(record.map_err(|error| self.inconsistent(&format!("Create: {error}")))?);
                }
                Record::Build { build_id } => history.build_id = Some(build_id),
                Record::Input(input) => {
                    history.next_seq = input.seq + 1;
                    let (seq, kind, at_tick, payload) = (input.seq, input.kind, input.at_tick, input.payload);
                    history.inputs.push_back(InputEnvelope { seq, kind, at_tick, payload });
                }
                Record::Seal { tick, up_to_seq } => {
                    history.seals.insert(tick, up_to_seq);
                }
                // The newest one counts, not the highest: a pause lowers what the lease had allowed.
                Record::Horizon { tick } => history.horizon = tick,
                Record::Control { seq, control, tick, .. } => {
                    history.next_control = seq + 1;
                    history.mode = Some(next_mode(history.mode, control, tick));
                }
                Record::Checkpoint { .. } => {}
            }
        }
        Ok(history)
    }

    /// The newest keyframe that loads, restores and has the hash that it says; else the world as it was created.
    fn nearest(
        &self,
        record: &WorldRecord,
        store: Option<&Store>,
        keyframes: &[KeyframeMeta],
    ) -> Result<(LiveWorld, Option<Tick>), SpineError> {
        let mut live = self.build(record)?;
        for meta in keyframes {
            let Some(store) = store else { break };
            match load(&mut live, store, meta) {
                Ok(()) => return Ok((live, Some(meta.tick))),
                Err(detail) => {
                    tracing::warn!(world = self.world, tick = %meta.tick, "passing over a keyframe: {detail}; replaying more of the log");
                    live = self.build(record)?;
                }
            }
        }
        live.create().map_err(|source| self.tick_error(source))?;
        Ok((live, None))
    }

    /// Runs to `target`, each tick with the inputs that its Seal gave it.
    fn replay(
        &self,
        live: &mut LiveWorld,
        history: &mut History,
        target: Tick,
        observe: &mut dyn FnMut(&LiveWorld),
    ) -> Result<(), SpineError> {
        let taken = live.taken_seq();
        history.inputs.retain(|input| input.seq > taken);
        while live.now() < target {
            if self.status.is_stopping() {
                return Err(SpineError::Interrupted);
            }
            let tick = live.now().next();
            self.status.set_recovery(tick, target);
            let up_to = history.seals.get(&tick).copied().unwrap_or(0);
            let count = history.inputs.iter().take_while(|input| input.seq <= up_to).count();
            let inputs: Vec<InputEnvelope> = history.inputs.drain(..count).collect();
            live.tick(&inputs).map_err(|source| self.tick_error(source))?;
            observe(live);
        }
        Ok(())
    }

    fn build(&self, record: &WorldRecord) -> Result<LiveWorld, SpineError> {
        let builder = record.scenario.builder(self.plugins);
        let builder = builder.map_err(|source| SpineError::Scenario { world: self.world.clone(), source })?;
        builder
            .build(self.options.clone())
            .map_err(|source| SpineError::Build { world: self.world.clone(), source })
    }

    fn open_store(&self) -> Result<Store, SpineError> {
        let options =
            StoreOptions { keyframes_kept: self.spine_options.keyframes_kept, ..StoreOptions::default() };
        Store::open(&self.dir, options)
            .map_err(|source| SpineError::Store { world: self.world.clone(), source })
    }

    fn renew_store(&self) -> Result<Store, SpineError> {
        let damaged = self.dir.join("epoch-1.redb");
        let aside =
            (1..u32::MAX).map(|n| self.dir.join(format!("epoch-1.damaged-{n}"))).find(|path| !path.exists());
        let aside = aside.expect("there are more numbers than files");
        std::fs::rename(&damaged, &aside).map_err(io_error("set aside", &damaged))?;
        tracing::warn!(world = self.world, "the damaged store is kept as {}", aside.display());
        self.open_store()
    }

    fn open_log(&self, dir: &Path, keyframes: &[KeyframeMeta]) -> Result<(Log, OpenReport), SpineError> {
        let options = LogOptions {
            segment_bytes: self.spine_options.segment_bytes,
            known_durable: keyframes
                .iter()
                .map(|meta| DurablePoint { lsn: meta.lsn, chain: meta.chain })
                .collect(),
            clock: crate::clock::now_nanos,
            ..LogOptions::new(world_id(&self.world), build_id())
        };
        Log::open(Arc::new(RealDisk), &dir.join("log"), &options).map_err(|e| self.log_error(e))
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

/// The mode after a control record that was consumed at `tick`.
pub fn next_mode(mode: Option<RunMode>, control: Control, tick: Tick) -> RunMode {
    let mode = mode.unwrap_or(RunMode { paused: false, step_until: Tick(0), millihertz: None });
    match control {
        Control::Pause => RunMode { paused: true, step_until: tick, ..mode },
        Control::Resume => RunMode { paused: false, ..mode },
        Control::Step { until } => RunMode { paused: true, step_until: until, ..mode },
        Control::Rate { millihertz } => RunMode { millihertz: Some(millihertz), ..mode },
    }
}

/// Between two tries to append to a full log.
const FULL_LOG_WAIT: Duration = Duration::from_millis(20);
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

/// Makes a world be what a keyframe says.
fn load(live: &mut LiveWorld, store: &Store, meta: &KeyframeMeta) -> Result<(), String> {
    let image = store.load(meta.branch, meta.tick).map_err(|error| chain(&error))?;
    live.restore(&image).map_err(|error: ImageError| chain(&error))?;
    if live.taken_seq() != meta.applied_seq {
        let taken = live.taken_seq();
        return Err(format!("its state has taken {taken} inputs, its header says {}", meta.applied_seq));
    }
    Ok(())
}

fn io_error<'p>(what: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> SpineError + use<'p> {
    move |source| SpineError::Io { what, path: path.to_owned(), source }
}

/// The id of a world in its log's headers: FNV-1a of its name.
fn world_id(name: &str) -> u64 {
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
