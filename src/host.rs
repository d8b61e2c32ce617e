//! The host of a world: the one thread that ticks it (T3), and what others hold of it.
//!
//! ```text
//! commands ─► control records ─┐
//! sequencer.take ─► Seal ──────┤ logged, not waited for
//!                              ▼
//!                        live.tick ─► capture ─► mirror ─► snapshot thread
//!                              ▼
//!                 publisher: shown once Seal and Horizon are durable (D2)
//! ```

mod cost;
mod publisher;
mod snapshots;

use crate::{
    clock,
    config::Config,
    events::{Happened, What},
    history::{Fix, History, HostStates, Past},
    metrics::{Metrics, WorldMetrics},
    pool::{self, Haste, TickClocks},
    rig::Rig,
    scrubber::{ScrubOptions, Scrubber},
    sequencer::{Begin, Limits, Origin, Sequencer},
    spine::{self, Spine, SpineError, SpineOptions},
    statistician::Statistician,
    status::{Phase, Shown, TickTimes, Timings, WorldState, WorldStatus},
    verifier::{Verifier, VerifyOptions},
    watchdog,
};
use cost::{LEASE_SHARE, TickCost, lease_ticks, replay_secs, rest_of_new};
use everworld_engine::{
    Applied, Image, InputEnvelope, LiveWorld, Mirror, MirrorHandle, MirrorHooks, Options, Parallel, Plan,
    Pool, Registry, Tick, TickError,
};
use everworld_persistence::{
    Control, Disk, DurablePoint, LogDone, LogError, LogHandle, Record, Retention, StoreOptions,
};
use everworld_systems::{Plugin, WorldRecord};
use parking_lot::Mutex;
use publisher::{News, Publisher};
use snapshots::{Every, Snapshots};
use std::{
    fmt,
    fs::File,
    ops::ControlFlow,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    time::Duration,
};
use tokio::sync::{Notify, oneshot};

/// What the rest of the process holds of a world.
#[derive(Clone)]
pub struct WorldHandle {
    /// The world's name.
    pub name: String,
    /// Its published state.
    pub status: Arc<WorldStatus>,
    running: Arc<OnceLock<Arc<Running>>>,
    commands: SyncSender<Command>,
}

/// What there is of a world once it is brought back.
pub struct Running {
    /// The way in.
    pub sequencer: Arc<Sequencer>,
    /// The mirror; handlers want [`Running::view`].
    pub mirror: MirrorHandle,
    /// Told when another view is visible.
    views: Arc<Notify>,
    /// What it is made of.
    pub registry: Arc<Registry>,
    /// What runs in a tick.
    pub plan: Arc<Plan>,
    /// Whether there are figures that worlds of its kind are measured by.
    pub is_measured: bool,
    /// The name of its scenario and its seed.
    pub scenario: (String, u64),
    /// Its log, for figures.
    pub log: LogHandle,
    /// Its past.
    pub history: History,
}

/// A reader waits so long at the most for a view as new as the mirror; then an older one has to do.
const VIEW_WAIT: Duration = Duration::from_secs(2);

impl Running {
    /// The newest view. Views are cut on demand: the first reader after a while waits for one.
    pub async fn view(&self) -> Option<Arc<Image>> {
        let visible = self.views.notified();
        tokio::pin!(visible);
        // From here on no view is missed.
        visible.as_mut().enable();
        if self.mirror.ask() {
            // Late is no error: the older view says which tick it is of.
            let _ = tokio::time::timeout(VIEW_WAIT, visible).await;
        }
        self.mirror.view()
    }
}

/// A wish to the host, with who asks.
pub struct Command {
    what: Wish,
    origin: Origin,
    reply: Option<Reply>,
}

type Reply = oneshot::Sender<Result<Done, Refused>>;

/// What can be asked of a host.
#[derive(Clone, Copy, Debug)]
pub enum Wish {
    /// No more ticks.
    Pause,
    /// Tick again.
    Resume,
    /// So many ticks while paused.
    Step(u64),
    /// Ticks up to that one while paused.
    StepUntil(Tick),
    /// Another rate, in ticks per thousand seconds; 0 is as fast as possible.
    Rate(u64),
    /// Other times for which old snapshots are kept.
    Retention(Retention),
    /// A snapshot now, not when it is due.
    Snapshot,
    /// Go back to a tick that is still kept, and go on from there on a new branch.
    Rewind(Tick),
    /// End in order.
    Stop,
}

/// A wish that was granted and is durable.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// The number of its control record.
    pub seq: u64,
    /// The line of history on which it took effect.
    pub branch: u32,
    /// The tick after which it took effect.
    pub tick: Tick,
}

/// Why a wish was not granted.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It makes no sense now.
    #[error("{0}")]
    WrongState(String),
    /// Too many wishes at once, or the world is not there yet.
    #[error("{0}")]
    Busy(String),
    /// The log took no record.
    #[error("the control record is not durable: {0}")]
    Log(String),
}

impl fmt::Debug for WorldHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorldHandle").field("name", &self.name).finish_non_exhaustive()
    }
}

impl WorldHandle {
    /// The world's parts, once it is brought back.
    pub fn running(&self) -> Option<&Arc<Running>> {
        self.running.get()
    }

    /// What is published, with something that was read of the mirror: both of one line of history. A rewind turns the
    /// mirror to the new line's first tick, which both lines share, before it publishes the branch; so what was
    /// read between two looks at one branch is of that branch.
    pub fn shown_with<T>(&self, read: impl Fn() -> T) -> (Shown, T) {
        let mut before = self.status.shown();
        loop {
            let value = read();
            let after = self.status.shown();
            if before.branch == after.branch {
                return (after, value);
            }
            before = after;
        }
    }

    /// Asks the host, and waits until the control record is durable.
    pub async fn ask(&self, what: Wish, origin: Origin) -> Result<Done, Refused> {
        let (reply, done) = oneshot::channel();
        let command = Command { what, origin, reply: Some(reply) };
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => Refused::Busy("too many control requests wait for the world".into()),
            TrySendError::Disconnected(_) => Refused::Busy("the world has stopped".into()),
        })?;
        done.await.unwrap_or_else(|_| Err(Refused::Busy("the world has stopped".into())))
    }
}

/// What the worlds of a process share.
pub struct Shared {
    /// The configuration.
    pub config: Arc<Config>,
    /// The scenarios that the program has.
    pub plugins: &'static [Plugin],
    /// All metrics of the process.
    pub metrics: Arc<Metrics>,
    /// Go on with logs of other builds.
    pub accept_foreign_log: bool,
    /// The lock of the data directory.
    lock: File,
    /// All of them tick on it.
    pool: Arc<Pool>,
}

impl Shared {
    /// For the worlds of the locked data directory of the configuration.
    ///
    /// # Errors
    /// When the threads of the pool cannot be started.
    pub fn new(
        config: &Arc<Config>,
        lock: File,
        plugins: &'static [Plugin],
        accept_foreign_log: bool,
    ) -> anyhow::Result<Self> {
        let pool = pool::start(config.threads.workers, true)?;
        Ok(Self { config: config.clone(), plugins, metrics: Metrics::new(), accept_foreign_log, lock, pool })
    }
}

/// A world whose host runs.
pub struct Hosted {
    /// What the rest of the process holds.
    pub handle: WorldHandle,
    /// All metrics of the process.
    pub metrics: Arc<Metrics>,
    /// Resolves when the host's thread ends.
    pub ended: oneshot::Receiver<Result<(), SpineError>>,
    /// A world that failed lets go of its own while its last view is still served, and its log is still open.
    _lock: File,
}

impl Hosted {
    /// Takes out what resolves when the host's thread ends.
    pub(crate) fn take_ended(&mut self) -> oneshot::Receiver<Result<(), SpineError>> {
        std::mem::replace(&mut self.ended, oneshot::channel().1)
    }

    /// Asks the host to end in order.
    pub fn stop(&self) {
        self.handle.status.set_stopping();
        let origin = Origin { principal: "host".into(), request_id: String::new() };
        // Disconnected: it has ended. Full: a blocking send waits for the next tick's border.
        let _ = self.handle.commands.send(Command { what: Wish::Stop, origin, reply: None });
    }
}

/// Wishes that may wait for the border of two ticks (L1).
const COMMANDS_MAX: usize = 64;

/// Starts the host of a world in the locked data directory of the configuration.
pub fn start(
    config: &Arc<Config>,
    lock: File,
    record: WorldRecord,
    plugins: &'static [Plugin],
    accept_foreign_log: bool,
) -> Result<Hosted, SpineError> {
    start_rigged(Rig::default(), config, lock, record, plugins, accept_foreign_log)
}

/// As [`start`], with the world's files on a disk of the caller's.
pub fn start_on(
    disk: Arc<dyn Disk>,
    config: &Arc<Config>,
    lock: File,
    record: WorldRecord,
    plugins: &'static [Plugin],
    accept_foreign_log: bool,
) -> Result<Hosted, SpineError> {
    start_rigged(Rig { disk, ..Rig::default() }, config, lock, record, plugins, accept_foreign_log)
}

/// As [`start`], as the harness wants it.
#[doc(hidden)]
pub fn start_rigged(
    rig: Rig,
    config: &Arc<Config>,
    lock: File,
    record: WorldRecord,
    plugins: &'static [Plugin],
    accept_foreign_log: bool,
) -> Result<Hosted, SpineError> {
    let shared = Shared::new(config, lock, plugins, accept_foreign_log);
    let shared = shared.map_err(|error| SpineError::Unrecoverable {
        world: record.world.clone(),
        detail: format!("{error:#}"),
    })?;
    start_beside(rig, &shared, record)
}

/// Starts the host of a world beside others.
pub fn start_beside(rig: Rig, shared: &Shared, record: WorldRecord) -> Result<Hosted, SpineError> {
    let Shared { config, plugins, metrics, accept_foreign_log, lock, pool } = shared;
    let hold = || {
        lock.try_clone().map_err(|source| {
            let (what, path) = ("keep the lock of", config.data.dir.clone());
            SpineError::Io { what, path, source }
        })
    };
    let (lock, kept_lock, pool) = (hold()?, hold()?, pool.clone());
    let (commands, incoming) = sync_channel(COMMANDS_MAX);
    let handle =
        WorldHandle { name: record.world.clone(), status: Arc::default(), running: Arc::default(), commands };
    let (ended_tx, ended) = oneshot::channel();
    let (accept_foreign_log, plugins) = (*accept_foreign_log, *plugins);
    let start = Start { rig, config: config.clone(), record, plugins, accept_foreign_log, lock, pool };
    let limits = watchdog::Limits {
        soft_millis: config.tick.soft_limit_millis,
        hard_millis: config.tick.hard_limit_millis,
    };
    watchdog::start(&handle.name, &handle.status, limits)
        .map_err(|source| thread_error(&handle.name, source))?;
    let (own, own_metrics, for_end) = (handle.clone(), metrics.clone(), handle.clone());
    let body = move || {
        let status = own.status.clone();
        let result = open(start, own, &own_metrics).and_then(|mut host| {
            // Short ticks run on this thread, in turns like the pool's. Threads that it spawns would have them, too.
            pool::tick_here();
            let result = host.run(&incoming);
            if result.is_err() {
                // Views are cut on demand, and readers may come later than the mirror's end.
                host.mirror.handle().settled();
            }
            result
        });
        if let Err(error) = &result {
            status.set_state(WorldState::Failed, Some(spine::chain(error)));
            // What would be acknowledged now could not be applied before the next start.
            if let Some(running) = for_end.running() {
                running.sequencer.close();
            }
        }
        // The server has ended before the world.
        let _ = ended_tx.send(result);
    };
    let thread = std::thread::Builder::new().name(format!("world {}", handle.name)).spawn(body);
    thread.map_err(|source| thread_error(&handle.name, source))?;
    metrics.watch(handle.clone());
    Ok(Hosted { handle, metrics: metrics.clone(), ended, _lock: kept_lock })
}

fn thread_error(world: &str, source: std::io::Error) -> SpineError {
    SpineError::Io { what: "start a thread for", path: world.into(), source }
}

struct Start {
    rig: Rig,
    config: Arc<Config>,
    record: WorldRecord,
    plugins: &'static [Plugin],
    accept_foreign_log: bool,
    lock: File,
    pool: Arc<Pool>,
}

/// How worlds of a configuration are kept.
pub(crate) fn spine_options(config: &Config, accept_foreign_log: bool, disk: Arc<dyn Disk>) -> SpineOptions {
    SpineOptions {
        segment_bytes: config.log.segment_bytes,
        queue_len_max: config.log.queue_len_max,
        store: StoreOptions {
            dense_secs: config.snapshot.dense_secs,
            sparse_every_secs: config.snapshot.sparse_every_secs,
            keep_secs: config.snapshot.keep_secs,
            roll_secs: config.recovery.fallback_secs,
            pace: pool::shared_pace(),
            ..StoreOptions::default()
        },
        accept_foreign_log,
        on_panic: config.recovery.on_panic,
        idempotency_keys_max: config.inputs.idempotency_keys_max,
        disk,
        ..SpineOptions::default()
    }
}

/// Brings the world back and makes its host.
fn open(start: Start, handle: WorldHandle, metrics: &Metrics) -> Result<Host, SpineError> {
    let Start { rig, config, record, plugins, accept_foreign_log, lock, pool } = start;
    let begun = clock::now_nanos();
    let options = Options { pool, parallel: Parallel::Auto, stopwatch: clock::stopwatch() };
    let mut spine_options = spine_options(&config, accept_foreign_log, rig.disk.clone());
    spine_options.build_id = rig.build_id;
    if let Some(store) = &rig.store {
        spine_options.store = store.clone();
    }
    let status = handle.status.clone();
    let (mut spine, mut live) = Spine::open_observed(
        lock,
        &config.data.dir,
        &record,
        plugins,
        options.clone(),
        &spine_options,
        &status,
        &mut |_| {},
    )?;
    let kind = plugins.iter().find(|plugin| plugin.name == spine.record.scenario.plugin);
    let measure = kind.and_then(|plugin| plugin.statistics);
    let registry = live.registry().clone();
    let begin = Begin {
        next: spine.next,
        queued: std::mem::take(&mut spine.queued),
        pending: live.pending_seqs(),
        ledger: std::mem::take(&mut spine.ledger),
        branches: spine.history.branches(),
    };
    let sequencer = Arc::new(Sequencer::new(
        spine.log.clone(),
        registry.clone(),
        status.clone(),
        begin,
        Limits { pending_max: config.tick.pending_inputs_max, tick_max: config.tick.inputs_max },
    ));
    let views = Arc::new(Notify::new());
    let told = views.clone();
    let (paced, is_awaited) = (status.clone(), Arc::new(AtomicBool::new(false)));
    let awaited = is_awaited.clone();
    let hooks = MirrorHooks {
        on_thread: Box::new(move || {
            pool::stand_aside(move || match (paced.rests(), awaited.load(SeqCst)) {
                (true, _) => Haste::Idle,
                (false, false) => Haste::Paced,
                (false, true) => Haste::Urgent,
            });
        }),
        pace: Box::new(pool::pace()),
        on_view: Box::new(move || told.notify_waiters()),
        pool: Some(options.pool.clone()),
    };
    let mirror = Mirror::start(&handle.name, live.buffers().clone(), hooks)
        .map_err(|source| thread_error(&handle.name, source))?;
    let systems = live.plan().nodes.iter().map(|node| node.name.clone());
    let events = live.registry().events.iter().map(|kind| kind.name);
    let metrics = metrics.world(&handle.name, systems, events);
    let snapshots = Snapshots::start(
        spine.store.clone(),
        spine.log.clone(),
        sequencer.clone(),
        &handle.name,
        status.clone(),
        metrics.clone(),
        spine.last_snapshot,
    )
    .map_err(|source| thread_error(&handle.name, source))?;
    // What was brought back is covered by the log: it may be shown at once.
    // And the first view is there before anybody is told that the world is.
    status.set_phase(Phase::Mirroring);
    let work_before = cost::user_secs();
    let now = live.now();
    let states = HostStates::default();
    states.captured(now, spine.host_state(&live, sequencer.position()));
    mirror.offer(live.capture());
    mirror.handle().settled();
    mirror.allow(now);
    let worked_secs = cost::user_secs().zip(work_before).map(|(after, before)| after - before);
    status.set_phase(Phase::Done);
    let [opening, reading, restoring, replaying, mirroring] = status.recovery_nanos();
    tracing::info!(
        world = handle.name,
        tick = %now,
        entities = live.entities(),
        replayed = spine.replayed,
        millis = (clock::now_nanos() - begun) / 1_000_000,
        opening_millis = opening / 1_000_000,
        reading_millis = reading / 1_000_000,
        restoring_millis = restoring / 1_000_000,
        replaying_millis = replaying / 1_000_000,
        mirroring_millis = mirroring / 1_000_000,
        "world is ready"
    );
    // As it was measured; of a world that was created only a part of it was.
    let secs = |nanos: u64| nanos as f64 / 1e9;
    let restored = secs(opening + reading + restoring + mirroring);
    let rest_secs = if spine.last_snapshot.is_some() {
        restored
    } else {
        rest_of_new(secs(mirroring), worked_secs, options.pool.threads())
    };
    let bytes = mirror.handle().applied().map_or(0, |applied| applied.bytes);
    let branch = spine.history.branches().current();
    let publisher =
        Arc::new(Publisher::new(status.clone(), sequencer.clone(), (branch, now), rig.show_unsealed));
    publisher.begin(branch, now, live.entities(), &mirror);
    let running = Running {
        sequencer: sequencer.clone(),
        mirror: mirror.handle(),
        views,
        registry,
        plan: Arc::new(live.plan().clone()),
        scenario: (spine.record.scenario.name.clone(), live.seed()),
        is_measured: measure.is_some(),
        log: spine.log.clone(),
        history: spine.history.clone(),
    };
    assert!(handle.running.set(running.into()).is_ok(), "a world is opened once");
    let verifier = start_verifier(&config, &spine, &mirror, &status, &metrics)
        .map_err(|source| thread_error(&handle.name, source))?;
    let scrubber = start_scrubber(&config, &spine, &handle, &metrics)
        .map_err(|source| thread_error(&handle.name, source))?;
    let every = Duration::from_secs_f64(config.statistics.every_secs);
    let statistician = measure
        .filter(|_| !every.is_zero())
        .map(|measure| Statistician::start(handle.clone(), measure, every))
        .transpose()
        .map_err(|source| thread_error(&handle.name, source))?;
    let timings = Timings::new(live.plan());
    status.watched.set(live.watch(), spine.log.clone());
    let mut host = Host {
        options,
        verifier,
        scrubber,
        _statistician: statistician,
        states,
        checkpoint: (now, clock::now_nanos()),
        hashed: now,
        status,
        sequencer,
        mirror: Arc::new(mirror),
        snapshots,
        metrics,
        timings,
        publisher,
        horizon: Horizon { tick: now, renewed_nanos: 0, lowered: 0 },
        last_capture_nanos: clock::now_nanos(),
        captured: now,
        is_awaited,
        last_stats_nanos: 0,
        ticks_since_stats: 0,
        ticks_per_sec: 0.0,
        cost: TickCost::default(),
        rest_secs_per_byte: rest_secs / bytes.max(1) as f64,
        rewinding: None,
        config,
        spine,
        live,
    };
    host.show_mode();
    Ok(host)
}

fn start_verifier(
    config: &Config,
    spine: &Spine,
    mirror: &Mirror,
    status: &Arc<WorldStatus>,
    metrics: &WorldMetrics,
) -> std::io::Result<Option<Verifier>> {
    if !config.verify.enabled {
        return Ok(None);
    }
    let options = VerifyOptions {
        pause: Duration::from_secs_f64(config.verify.pause_secs),
        ticks_max: config.verify.ticks_max,
        memory_bytes_max: config.verify.memory_bytes_max,
    };
    let (history, mirror) = (spine.history.clone(), mirror.handle());
    Verifier::start(history, mirror, status.clone(), metrics.clone(), options).map(Some)
}

fn start_scrubber(
    config: &Config,
    spine: &Spine,
    handle: &WorldHandle,
    metrics: &WorldMetrics,
) -> std::io::Result<Option<Scrubber>> {
    if config.scrub.mb_per_sec == 0.0 {
        return Ok(None);
    }
    let options = ScrubOptions {
        mb_per_sec: config.scrub.mb_per_sec,
        pause: Duration::from_secs_f64(config.scrub.every_secs),
    };
    let commands = handle.commands.clone();
    let snapshot_now = move || {
        let origin = Origin { principal: "scrub".into(), request_id: String::new() };
        // Too many wishes at once: the next pass asks again.
        let _ = commands.try_send(Command { what: Wish::Snapshot, origin, reply: None });
    };
    let (store, log, status) = (spine.store.clone(), spine.log.clone(), handle.status.clone());
    let snapshot_now = Box::new(snapshot_now);
    Scrubber::start(store, log, &handle.name, status, metrics.clone(), options, snapshot_now).map(Some)
}

/// The tick loop and what it holds.
struct Host {
    config: Arc<Config>,
    options: Options,
    /// What belongs to the images that the mirror has.
    states: HostStates,
    /// The newest tick whose hash is in the log, and when it got there.
    checkpoint: (Tick, u64),
    /// The newest tick whose hash the mirror has told.
    hashed: Tick,
    spine: Spine,
    live: LiveWorld,
    status: Arc<WorldStatus>,
    sequencer: Arc<Sequencer>,
    mirror: Arc<Mirror>,
    snapshots: Snapshots,
    /// Computes ticks a second time.
    verifier: Option<Verifier>,
    /// Reads the files again.
    scrubber: Option<Scrubber>,
    /// Measures it.
    _statistician: Option<Statistician>,
    publisher: Arc<Publisher>,
    metrics: WorldMetrics,
    timings: Timings,
    horizon: Horizon,
    last_capture_nanos: u64,
    /// A snapshot waits for a view of the mirror.
    is_awaited: Arc<AtomicBool>,
    /// The newest tick that the mirror was given.
    captured: Tick,
    last_stats_nanos: u64,
    ticks_since_stats: u64,
    /// Smoothed, for the length of the lease.
    ticks_per_sec: f64,
    cost: TickCost,
    /// What a recovery takes beside computing ticks, by the bytes of the state.
    rest_secs_per_byte: f64,
    /// A world of the past that is being built, to go on with.
    rewinding: Option<Rewinding>,
}

/// Who asked hears of it once it is durable, which the log's thread knows, and the world's status shows it.
#[derive(Default)]
struct Told {
    reply: Option<Reply>,
    done: Option<Result<Done, Refused>>,
    is_shown: bool,
}

impl Told {
    fn logged(&mut self, done: Result<Done, Refused>) {
        self.done = Some(done);
        self.tell();
    }

    fn shown(&mut self) {
        self.is_shown = true;
        self.tell();
    }

    fn tell(&mut self) {
        if !self.is_shown {
            return;
        }
        if let Some(done) = self.done.take()
            && let Some(reply) = self.reply.take()
        {
            // The client may have gone.
            let _ = reply.send(done);
        }
    }
}

/// A rewind on its way. The world ticks on until the other one is there.
struct Rewinding {
    tick: Tick,
    origin: Origin,
    reply: Option<Reply>,
    built: Receiver<Result<Past, SpineError>>,
}

/// Of the time in which a world has to be back, what passes until a snapshot that is being written asks for more of the CPU.
const PATIENCE_SHARE: f64 = 0.1;

/// The lease of ticks that may be shown, as far as it is appended.
#[derive(Clone, Copy)]
struct Horizon {
    tick: Tick,
    renewed_nanos: u64,
    /// How often it was lowered.
    lowered: u64,
}

/// Each tick of a world at 20 Hz; one that runs as fast as it can is not held up by captures.
const TICK_PERIOD_MILLIS: u64 = 45;

/// The time between two snapshots of a small world. Each syncs twice on the disk that acknowledgements wait for: at
/// twenty a second that alone was their p99.
const SNAPSHOT_PERIOD_MILLIS: u64 = 250;

/// A world at rest looks so often whether its log and its mirror are well.
const REST_NANOS: u64 = 20_000_000;

/// A world that waits longer than this for its next tick rests, too: who asks for a view, a snapshot or a rewind does not
/// wait for that tick.
const LONG_NANOS: u64 = 1_000_000_000;

/// A world that is further behind than this gives the lost time up instead of running after it.
const CATCH_UP_NANOS: u64 = 1_000_000_000;

impl Host {
    /// Ticks until told to stop.
    fn run(&mut self, commands: &Receiver<Command>) -> Result<(), SpineError> {
        let mut due = clock::now_nanos();
        loop {
            if let Some(stop) = self.obey(commands, due)? {
                return stop;
            }
            let now = clock::now_nanos();
            if let millihertz @ 1.. = self.status.millihertz() {
                // The rate may have been raised while the next tick was waited for.
                due = due.min(now + 1_000_000_000_000 / millihertz);
            } else {
                due = due.min(now);
            }
            if !self.wants_tick() || now < due {
                continue;
            }
            self.tick()?;
            due = self.next_due(due, now);
        }
    }

    /// Handles the next thing that is asked, waiting for it until a tick is due. `Some` ends the world.
    fn obey(
        &mut self,
        commands: &Receiver<Command>,
        due: u64,
    ) -> Result<Option<Result<(), SpineError>>, SpineError> {
        self.finish_rewind()?;
        let wait = if self.wants_tick() { due.saturating_sub(clock::now_nanos()) } else { u64::MAX };
        let wait = if wait > LONG_NANOS {
            self.capture_at_rest();
            REST_NANOS
        } else if self.rewinding.is_some() {
            wait.min(REST_NANOS)
        } else {
            wait
        };
        let command = match commands.recv_timeout(Duration::from_nanos(wait)) {
            Ok(command) => command,
            Err(RecvTimeoutError::Timeout) => {
                if let Some(error) = self.spine.log.failed() {
                    return Err(self.log_failed(LogError::Failed(error)));
                }
                return Ok(None);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(Some(self.stop())),
        };
        if let Wish::Stop = command.what {
            return Ok(Some(self.stop()));
        }
        self.grant(command)?;
        // What is due may have changed: back to the loop that knows.
        Ok(None)
    }

    /// Logs and applies a wish between two ticks.
    fn grant(&mut self, command: Command) -> Result<(), SpineError> {
        let Command { what, origin, reply } = command;
        let now = self.live.now();
        let branch = self.spine.history.branches().current();
        let control = match what {
            Wish::Pause => Control::Pause,
            Wish::Resume => Control::Resume,
            Wish::Step(ticks) if self.spine.mode.paused => {
                Control::Step { until: Tick(self.spine.mode.step_until.max(now).0 + ticks) }
            }
            Wish::StepUntil(until) if self.spine.mode.paused && until > now => {
                Control::Step { until: until.max(self.spine.mode.step_until) }
            }
            Wish::StepUntil(until) if until <= now => {
                let refused = Refused::WrongState(format!("the world is at tick {now} already"));
                reply.map(|reply| reply.send(Err(refused)));
                return Ok(());
            }
            Wish::Step(_) | Wish::StepUntil(_) => {
                let refused = Refused::WrongState("only a paused world can be stepped".into());
                reply.map(|reply| reply.send(Err(refused)));
                return Ok(());
            }
            Wish::Rate(millihertz) => Control::Rate { millihertz },
            Wish::Retention(retention) => Control::Retention(retention),
            Wish::Snapshot => {
                self.snapshots.wanted();
                reply.map(|reply| reply.send(Ok(Done { seq: 0, branch, tick: now })));
                return Ok(());
            }
            Wish::Rewind(tick) => {
                self.begin_rewind(tick, origin, reply);
                return Ok(());
            }
            Wish::Stop => unreachable!("obey() ends the world"),
        };
        if let Control::Pause = control {
            // Nothing past this tick was shown: recovery is to stop here, not where the lease ends. Before the
            // record itself in the log: who was told of the pause finds the world at this tick after a crash.
            self.append_horizon(now)?;
        }
        let told = Arc::new(Mutex::new(Told { reply, ..Told::default() }));
        let waiting = told.clone();
        let (store, retention) = (
            self.spine.store.clone(),
            match control {
                Control::Retention(retention) => Some(retention),
                _ => None,
            },
        );
        let acknowledge = move |seq, result: Result<(), Arc<LogError>>| {
            // Nothing is removed by it before it is durable.
            if let (Ok(()), Some(retention)) = (&result, retention) {
                store.set_retention(retention);
            }
            let done = result.map(|()| Done { seq, branch, tick: now });
            waiting.lock().logged(done.map_err(|error| Refused::Log(error.to_string())));
        };
        match self.sequencer.control(control.clone(), now, &origin, acknowledge) {
            Ok(_) => {}
            Err(error @ (LogError::QueueFull { .. } | LogError::NoSpace { .. })) => {
                let mut told = told.lock();
                told.logged(Err(Refused::Busy(error.to_string())));
                told.shown();
                return Ok(());
            }
            Err(error) => return Err(self.log_failed(error)),
        }
        self.spine.mode = self.spine.mode.after(&control, now);
        self.spine.retention = retention.or(self.spine.retention);
        self.show_mode();
        told.lock().shown();
        Ok(())
    }

    fn wants_tick(&self) -> bool {
        !self.spine.mode.paused || self.live.now() < self.spine.mode.step_until
    }

    fn tick(&mut self) -> Result<(), SpineError> {
        let begun = clock::now_nanos();
        let tick = self.live.now().next();
        let inputs = self.sequencer.take();
        // Written before the tick, synced beside it: whoever sees the tick sees a durable Seal.
        let seal = inputs.last().map(|last| Record::Seal { tick, up_to_seq: last.seq });
        let seal = seal.map(|record| self.append(record)).transpose()?.unwrap_or(0);
        let fixes = self.spine.fixes.remove(&tick).unwrap_or_default();
        fixes.iter().for_each(|fix| fix.apply(&mut self.live));
        if !fixes.is_empty() {
            self.show_mode();
        }
        let traced = self.look_closely();
        let clocks = self.cost.wants_cpu().then(TickClocks::start);
        if let Err(error) = self.live.tick(&inputs) {
            self.get_past(tick, &inputs, fixes, error)?;
        }
        let cpu_secs = clocks.map(|clocks| clocks.busiest_nanos() as f64 / 1e9);
        self.renew_horizon(tick)?;
        let report = self.live.report();
        let mut times = TickTimes {
            tick,
            inputs_nanos: report.inputs_nanos,
            systems_nanos: report.wall_nanos.saturating_sub(report.inputs_nanos),
            entities: report.entities as u64,
            inputs: report.outcomes.len() as u64,
            ..TickTimes::default()
        };
        self.metrics.record(report);
        self.cost.note(report.wall_nanos as f64 / 1e9, cpu_secs);
        self.timings.record(report);
        self.ticks_since_stats += 1;
        self.sequencer.set_pending(self.live.pending_inputs());
        let (entities, outcomes, lives) = (report.entities, report.outcomes.clone(), report.lives.clone());
        let happened = self.live.take_events().into_iter();
        self.publisher.happened(happened.flat_map(|batch| Happened::cut(tick, batch)));
        self.publisher.computed(tick, seal, entities, News { outcomes, lives }, &self.mirror);
        let (capture_nanos, shown) = self.capture(tick)?;
        times.capture_nanos = capture_nanos;
        self.show_stats();
        let now = clock::now_nanos();
        if traced {
            let report = self.live.report();
            let took = (now.saturating_sub(report.began_nanos), times.capture_nanos);
            self.status.tracer.note(report, took, self.status.quarantined());
        }
        times.total_nanos = now - begun;
        self.status.note_tick(times);
        if let Some(shown) = shown.filter(|shown| shown.tick > self.hashed) {
            self.status.note_hash(shown.tick, shown.hash);
            self.hashed = shown.tick;
        }
        Ok(())
    }

    /// A tick failed, and the world is half changed: it comes back as it was before the tick, which is tried once more;
    /// then without who is to blame, as the policy says. Readers see the old view meanwhile.
    fn get_past(
        &mut self,
        tick: Tick,
        inputs: &[InputEnvelope],
        mut fixes: Vec<Fix>,
        mut error: TickError,
    ) -> Result<(), SpineError> {
        let world = self.handle_name();
        let mut tried = 0;
        loop {
            self.metrics.failed_ticks.inc();
            tracing::error!(world, %tick, "{error}");
            self.status.set_degraded(Some(format!("computing tick {tick} again: {error}")));
            tried += 1;
            if tried > 1 {
                let fix = spine::judge(self.config.recovery.on_panic, &error, &self.live);
                let Some(fix) = fix.filter(|fix| !fixes.contains(fix)) else {
                    return Err(SpineError::Tick { world, source: error });
                };
                // Durable before the tick that it fixes.
                let lsn = self.control_of_host(fix.control(), tick)?;
                self.spine.log.wait_durable(lsn).map_err(|error| self.log_failed(error))?;
                tracing::error!(world, "{fix} from tick {tick} on");
                self.status.tell(What::System { fix: format!("{fix} from tick {tick} on") });
                self.spine.fixed(lsn, tick, fix.clone());
                fixes.push(fix);
            }
            self.roll_back(tick)?;
            fixes.iter().for_each(|fix| fix.apply(&mut self.live));
            self.look_closely();
            self.live.set_careful(true);
            let result = self.live.tick(inputs).map(|_| ());
            self.live.set_careful(false);
            match result {
                Ok(()) => break,
                Err(again) => error = again,
            }
        }
        self.status.set_degraded(None);
        self.show_mode();
        Ok(())
    }

    /// Has the next tick tell what is wanted of it; returns whether it is traced.
    fn look_closely(&mut self) -> bool {
        let traced = self.status.tracer.is_on();
        self.live.set_traced(traced);
        self.live.tell_events(self.config.tick.events_max);
        traced
    }

    /// The world as it was before a tick, from the nearest snapshot and the log.
    fn roll_back(&mut self, tick: Tick) -> Result<(), SpineError> {
        let last = self.spine.log.last_lsn();
        self.spine.log.wait_durable(last).map_err(|error| self.log_failed(error))?;
        let (history, log) = (self.spine.history.clone(), self.spine.log.clone());
        // The broken one goes first: two may not fit into memory.
        let buffers = self.live.buffers().clone();
        self.live = history.build(&self.spine.record, &self.options)?;
        let branch = history.branches().current();
        let status = &self.status;
        let mut visit = |live: &LiveWorld| {
            status.watched.set(live.watch(), log.clone());
            if status.is_stopping() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let past = history.past(branch, Tick(tick.0 - 1), &self.options, &mut visit);
        // The tick before is always kept: a disk that does not give it is at fault.
        let past = past.map_err(|error| match error {
            SpineError::NotKept { world, detail, .. } => SpineError::Unrecoverable { world, detail },
            other => other,
        })?;
        tracing::info!(
            world = self.spine.world(),
            tick = tick.0 - 1,
            replayed = past.replayed,
            "the world is back at the tick before"
        );
        self.live = past.live;
        self.live.set_buffers(buffers);
        self.status.watched.set(self.live.watch(), self.spine.log.clone());
        Ok(())
    }

    /// Builds the world of a former tick on another thread; it takes this one's place at the border of two ticks.
    fn begin_rewind(&mut self, tick: Tick, origin: Origin, reply: Option<Reply>) {
        let refuse = |reply: Option<Reply>, why: String| {
            // The client may have gone.
            _ = reply.map(|reply| reply.send(Err(Refused::WrongState(why))));
        };
        if tick > self.live.now() {
            return refuse(
                reply,
                format!("tick {tick} is still to come: the world is at {}", self.live.now()),
            );
        }
        if self.rewinding.is_some() {
            return refuse(reply, "another rewind is on its way".into());
        }
        let (history, log, options) =
            (self.spine.history.clone(), self.spine.log.clone(), self.options.clone());
        let (status, (send, built)) = (self.status.clone(), sync_channel(1));
        // What it is built from is what the new branch needs until it has a snapshot.
        let retention = self.snapshots.retention().clone();
        retention.hold();
        let build = move || {
            pool::stand_back();
            let mut visit = |_: &LiveWorld| {
                if status.is_stopping() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            retention.settled();
            let branch = history.branches().current();
            // A log that has failed ends the world in other ways.
            let _ = log.wait_durable(log.last_lsn());
            let past = history.past(branch, tick, &options, &mut visit);
            // The world may have ended.
            let _ = send.send(past);
        };
        match std::thread::Builder::new().name("rewind".into()).spawn(build) {
            Ok(_) => self.rewinding = Some(Rewinding { tick, origin, reply, built }),
            Err(error) => {
                self.snapshots.retention().release();
                refuse(reply, format!("could not start a thread: {error}"));
            }
        }
    }

    /// Goes on with the world of the past once it is there. Whatever fails before the new branch is durable leaves the
    /// world as it is.
    fn finish_rewind(&mut self) -> Result<(), SpineError> {
        let Some(rewinding) = &self.rewinding else { return Ok(()) };
        let built = match rewinding.built.try_recv() {
            Err(TryRecvError::Empty) => return Ok(()),
            Err(TryRecvError::Disconnected) => Err("building that world panicked".to_owned()),
            Ok(built) => built.map_err(|error| spine::chain(&error)),
        };
        let Some(Rewinding { tick, origin, reply, .. }) = self.rewinding.take() else { return Ok(()) };
        let answer = |answer| {
            // The client may have gone.
            _ = reply.map(|reply| reply.send(answer));
        };
        let kept = built.and_then(|past| match past.snapshot {
            Some(base) if !self.spine.history.snapshots().contains(&base) => {
                Err(format!("the snapshot of tick {} is not kept any more", base.tick))
            }
            _ => Ok(past.live),
        });
        let live = match kept {
            Ok(live) => live,
            Err(why) => {
                self.snapshots.retention().release();
                tracing::warn!(world = self.spine.world(), %tick, "could not rewind: {why}");
                answer(Err(Refused::WrongState(why)));
                return Ok(());
            }
        };
        // Nothing of the former line is shown any more that was not yet, from before the log says so (D2).
        self.publisher.rewind(tick);
        // The floor is known once nothing can come before it.
        let info = self.spine.history.branches().next(tick, self.horizon.tick, (0, live.taken_seq()));
        let info = self.patiently(|host| host.sequencer.branch(info, &origin))?;
        let horizon = self.append_horizon(tick)?;
        let durable = self.spine.log.wait_durable(horizon).map_err(|error| self.log_failed(error))?;
        // Shown now, in their order, if the log's thread has not come to it: then comes the other world.
        self.publisher.log_durable(durable.lsn, &self.mirror);
        self.spine.history.branches.write().add(info);
        self.spine.mode = self.spine.mode.after(&info.control(), tick);
        let (branch, lsn) = (info.branch, info.lsn);
        self.go_on_with(live, branch);
        tracing::info!(world = self.spine.world(), %tick, branch, "rewound");
        answer(Ok(Done { seq: lsn, branch, tick }));
        Ok(())
    }

    /// Another world takes this one's place, in all that knows it.
    fn go_on_with(&mut self, live: LiveWorld, branch: u32) {
        let tick = live.now();
        // The mirror gives its buffers back to whom it has them from.
        let buffers = self.live.buffers().clone();
        self.live = live;
        self.live.set_buffers(buffers);
        self.spine.fixes.clear();
        self.status.watched.set(self.live.watch(), self.spine.log.clone());
        self.sequencer.set_pending(self.live.pending_inputs());
        self.states.clear();
        self.checkpoint = (tick, clock::now_nanos());
        self.hashed = tick;
        // What the mirror still has in hand is of the former line.
        self.mirror.handle().settled();
        self.mirror.allow(tick);
        self.capture_now(tick);
        self.mirror.handle().settled();
        // After the mirror, see [`WorldHandle::shown_with`]; before the hold on what is old ends.
        self.publisher.begin(branch, tick, self.live.entities(), &self.mirror);
        self.snapshots.rewound();
        // From here on it waits for the first snapshot of the branch.
        self.snapshots.retention().release();
        self.show_mode();
    }

    /// Logs a control record that nobody asked for; waits for room in the log.
    fn control_of_host(&self, control: Control, tick: Tick) -> Result<u64, SpineError> {
        let origin = Origin { principal: "host".into(), request_id: String::new() };
        self.patiently(|host| host.sequencer.control(control.clone(), tick, &origin, |_, _| {}))
    }

    /// Tries again while the log is full, unless the world is to end.
    fn patiently<T>(&self, mut append: impl FnMut(&Self) -> Result<T, LogError>) -> Result<T, SpineError> {
        loop {
            match append(self) {
                Err(LogError::QueueFull { .. } | LogError::NoSpace { .. }) if !self.status.is_stopping() => {
                    std::thread::sleep(spine::FULL_LOG_WAIT);
                }
                Err(error) => return Err(self.log_failed(error)),
                Ok(done) => return Ok(done),
            }
        }
    }

    fn handle_name(&self) -> String {
        self.spine.world().to_owned()
    }

    /// Renews the lease once half of it is used up.
    fn renew_horizon(&mut self, tick: Tick) -> Result<(), SpineError> {
        let now = clock::now_nanos();
        let lease = self.config.log.horizon_lease_millis as f64 / 1e3;
        let ticks = lease_ticks(self.ticks_per_sec, lease, self.ticks_of_recovery(LEASE_SHARE));
        let left = self.horizon.tick.0.saturating_sub(tick.0);
        let stepping = self.spine.mode.paused;
        if stepping && tick >= self.spine.mode.step_until {
            return self.append_horizon(tick).map(|_| ());
        }
        let elapsed = now - self.horizon.renewed_nanos;
        if tick > self.horizon.tick || (left < ticks / 2 && elapsed as f64 / 1e9 > lease / 4.0) {
            let until = Tick(tick.0 + ticks);
            // Stepping ends where it was told to, also after a crash.
            let until = if stepping { until.min(self.spine.mode.step_until) } else { until };
            return self.append_horizon(until).map(|_| ());
        }
        Ok(())
    }

    fn append_horizon(&mut self, tick: Tick) -> Result<u64, SpineError> {
        if tick < self.horizon.tick {
            // What an earlier horizon allowed is taken back before this one can be durable (D2).
            self.horizon.lowered += 1;
            self.publisher.lower_horizon(tick, self.horizon.lowered);
        }
        self.publisher.horizon_appended(tick);
        self.horizon = Horizon { tick, renewed_nanos: clock::now_nanos(), ..self.horizon };
        self.spine.horizon = tick;
        let (publisher, mirror) = (self.publisher.clone(), Arc::downgrade(&self.mirror));
        let lowered = self.horizon.lowered;
        let durable = move |result: Result<DurablePoint, Arc<LogError>>| {
            if let (Ok(_), Some(mirror)) = (result, mirror.upgrade()) {
                publisher.horizon_durable(tick, lowered, &mirror);
            }
        };
        self.append_with(&Record::Horizon { tick }, || Box::new(durable.clone()))
    }

    /// Appends a record whose durability lets ticks be shown.
    fn append(&self, record: Record) -> Result<u64, SpineError> {
        let (publisher, mirror) = (self.publisher.clone(), Arc::downgrade(&self.mirror));
        let durable = move |result: Result<DurablePoint, Arc<LogError>>| {
            if let (Ok(point), Some(mirror)) = (result, mirror.upgrade()) {
                publisher.log_durable(point.lsn, &mirror);
            }
        };
        self.append_with(&record, || Box::new(durable.clone()))
    }

    /// Appends; while the log's queue or disk is full the world waits, and goes on when there is room.
    fn append_with(&self, record: &Record, done: impl Fn() -> LogDone) -> Result<u64, SpineError> {
        let hurried = || self.status.is_stopping();
        let appended = spine::append_patiently(&self.spine.log, record, || Some(done()), hurried);
        appended.map_err(|error| self.log_failed(error))
    }

    fn log_failed(&self, error: LogError) -> SpineError {
        // D6: never retried. What is past the durable horizon was never shown, and goes with the process.
        SpineError::Log { world: self.handle_name(), source: Arc::new(error) }
    }

    /// Hands the state to the mirror when it is time, and the mirror's image to the store. Returns how long the copy took,
    /// and what of the mirror may be shown.
    fn capture(&mut self, tick: Tick) -> Result<(u64, Option<Applied>), SpineError> {
        let now = clock::now_nanos();
        let entities = self.live.entities();
        let period = match self.config.mirror.period_millis {
            0 if entities <= 20_000 => TICK_PERIOD_MILLIS,
            0 => 1_000,
            millis => millis,
        };
        self.snapshots.set_patience(self.ticks_of_recovery(PATIENCE_SHARE) as u64);
        let due = self.snapshot_due(tick, now);
        self.is_awaited.store(due.is_some(), SeqCst);
        // A snapshot of a view that is old already is of no use: all since then would be computed again.
        let is_time =
            now - self.last_capture_nanos >= period * 1_000_000 || due.is_some_and(|due| self.captured < due);
        let mut capture_nanos = 0;
        if is_time {
            if self.mirror.is_ready() {
                self.capture_now(tick);
                capture_nanos = clock::now_nanos() - now;
            } else if self.mirror.has_failed() {
                return Err(SpineError::Mirror { world: self.handle_name() });
            } else {
                self.metrics.captures_skipped.inc();
            }
        }
        let mirror = self.mirror.handle();
        if let Some(due) = due
            && !mirror.ask()
            && let Some(view) = mirror.view()
            && view.tick >= due
        {
            self.snapshots.offer(view, due, &self.states);
        }
        let shown = mirror.shown();
        if let Some(shown) = shown {
            self.checkpoint(shown)?;
        }
        Ok((capture_nanos, shown))
    }

    /// Since which tick a snapshot is due: as often as configured, and so often that a replay of what comes after one takes
    /// its share of the time in which the world has to be back; reading the state takes the rest. What comes after one ends
    /// with the ticks that are computed while the next is made.
    fn snapshot_due(&mut self, tick: Tick, now: u64) -> Option<Tick> {
        let by_size = match self.live.entities() {
            0..=20_000 => SNAPSHOT_PERIOD_MILLIS,
            20_001..=200_000 => 1_000,
            _ => 5_000,
        };
        let millis = if self.config.snapshot.period_millis == 0 {
            by_size
        } else {
            self.config.snapshot.period_millis
        };
        let target = self.config.recovery.target_secs;
        let bytes = self.mirror.handle().applied().map_or(0, |applied| applied.bytes);
        let replay = replay_secs(target, bytes as f64 * self.rest_secs_per_byte);
        let ticks = self.ticks_of_recovery(replay / target) as u64;
        self.snapshots.due_since(tick, now, Every { millis, least_millis: SNAPSHOT_PERIOD_MILLIS, ticks })
    }

    /// How many ticks are computed in that share of the time in which the world has to be back.
    fn ticks_of_recovery(&self, share: f64) -> f64 {
        self.cost.ticks_in(self.config.recovery.target_secs * share)
    }

    /// Logs the hash of a tick that may be seen, so that a recovery can tell whether it gets there.
    fn checkpoint(&mut self, shown: Applied) -> Result<(), SpineError> {
        let (last, logged_nanos) = self.checkpoint;
        let now = clock::now_nanos();
        let ticks = shown.tick.0.saturating_sub(last.0);
        if ticks >= self.config.log.checkpoint_ticks || (ticks > 0 && now - logged_nanos >= 1_000_000_000) {
            self.append(Record::Checkpoint { tick: shown.tick, hash: shown.hash })?;
            self.checkpoint = (shown.tick, now);
        }
        Ok(())
    }

    fn capture_now(&mut self, tick: Tick) {
        self.states.captured(tick, self.spine.host_state(&self.live, self.sequencer.position()));
        self.mirror.offer(self.live.capture());
        self.last_capture_nanos = clock::now_nanos();
        self.captured = tick;
    }

    /// Who looks at a world at rest sees its last tick.
    fn capture_at_rest(&mut self) {
        let now = self.live.now();
        if self.captured < now && self.mirror.is_ready() {
            self.capture_now(now);
        }
        let mirror = self.mirror.handle();
        if self.snapshots.is_wanted()
            && !mirror.ask()
            && let Some(view) = mirror.view()
        {
            self.snapshots.offer(view, now, &self.states);
        }
    }

    fn show_mode(&mut self) {
        let rate_hz = self.config.tick.rate_hz;
        // A rate that is slower than can be told is not as fast as possible.
        let configured = if rate_hz == 0.0 { 0 } else { ((rate_hz * 1e3).round() as u64).max(1) };
        let millihertz = self.spine.mode.millihertz.unwrap_or(configured);
        self.status.set_millihertz(millihertz);
        self.status.set_quarantined(self.live.disabled().map(str::to_owned).collect());
        self.status
            .set_state(if self.spine.mode.paused { WorldState::Paused } else { WorldState::Running }, None);
    }

    /// Publishes the figures of systems about once a second.
    fn show_stats(&mut self) {
        let now = clock::now_nanos();
        let is_first = self.last_stats_nanos == 0;
        if is_first || now - self.last_stats_nanos >= 1_000_000_000 {
            let secs = (now - self.last_stats_nanos) as f64 / 1e9;
            // Nothing is measured over a rest.
            self.ticks_per_sec = if is_first || secs > 2.0 {
                self.first_ticks_per_sec()
            } else {
                self.ticks_since_stats as f64 / secs
            };
            self.last_stats_nanos = now;
            self.ticks_since_stats = 0;
            self.status.set_systems(self.timings.stats());
        }
        let every = self.config.logging.summary_ticks;
        let tick = self.live.now().0;
        if every > 0 && tick.is_multiple_of(every) {
            let millis = self.live.report().wall_nanos as f64 / 1e6;
            tracing::info!(
                tick,
                entities = self.live.entities(),
                tick_millis = millis,
                inputs = self.sequencer.admitted(),
                "summary"
            );
        }
    }

    /// What the first tick tells of a rate that is not measured yet: as wanted, or as fast as that tick was. Too low, and
    /// the first second would renew its lease every few ticks.
    fn first_ticks_per_sec(&self) -> f64 {
        let fastest = 1e9 / self.live.report().wall_nanos.max(1) as f64;
        match self.status.millihertz() {
            0 => fastest,
            millihertz => fastest.min(millihertz as f64 / 1e3),
        }
    }

    /// When the next tick is due.
    fn next_due(&self, due: u64, started: u64) -> u64 {
        let now = clock::now_nanos();
        let millihertz = self.status.millihertz();
        if millihertz == 0 {
            self.status.set_lag_nanos(0);
            return now;
        }
        let interval = 1_000_000_000_000 / millihertz;
        if now - started > interval {
            self.metrics.overruns.inc();
        }
        let next = due + interval;
        let lag = now.saturating_sub(next);
        self.status.set_lag_nanos(lag);
        if lag > CATCH_UP_NANOS { now } else { next }
    }

    /// Ends in order: nothing new is admitted, the log ends with a horizon at the last tick, a snapshot follows.
    fn stop(&mut self) -> Result<(), SpineError> {
        self.sequencer.close();
        self.snapshots.finish();
        if let Some(verifier) = &mut self.verifier {
            verifier.finish();
        }
        if let Some(scrubber) = &mut self.scrubber {
            scrubber.finish();
        }
        // From here on it is not a tick that takes long.
        self.status.watched.clear();
        // What came and was not applied is not behind the last snapshot.
        let sequencer = self.sequencer.clone();
        let mut keys = || sequencer.keys_to_store(true);
        let mirror = self.mirror.clone();
        let mut image = |live: &mut LiveWorld| last_image(live, &mirror);
        self.spine.close_at(&mut self.live, &|| sequencer.position(), &mut keys, &mut image)?;
        tracing::info!(world = self.spine.world(), tick = %self.live.now(), "world stopped");
        Ok(())
    }
}

/// The state that a world ends with, of whose tick the log knows: the mirror's, as a copy of a large world would take as much
/// memory again.
fn last_image(live: &mut LiveWorld, mirror: &Mirror) -> Arc<Image> {
    mirror.handle().settled();
    mirror.allow(live.now());
    if mirror.is_ready() {
        mirror.offer(live.capture());
    }
    let hash = live.state_hash();
    let settled = mirror.handle().settled().filter(|image| (image.tick, image.hash) == (live.now(), hash));
    settled.unwrap_or_else(|| {
        tracing::error!(tick = %live.now(), "the mirror is not what the world is: the last snapshot is of the world");
        Arc::new(live.image())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_answered_once_it_is_durable_and_shown_whichever_comes_first() {
        for is_shown_first in [false, true] {
            let (reply, mut answer) = oneshot::channel();
            let mut told = Told { reply: Some(reply), ..Told::default() };
            let mut turn = |shows: bool| {
                if shows {
                    told.shown();
                } else {
                    told.logged(Ok(Done { seq: 7, branch: 0, tick: Tick(5) }));
                }
            };
            turn(is_shown_first);
            assert!(answer.try_recv().is_err(), "shown first: {is_shown_first}");
            turn(!is_shown_first);
            assert_eq!(answer.try_recv().unwrap().unwrap().seq, 7);
        }
    }
}
