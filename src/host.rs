//! The host of a world: the one thread that ticks it (T3), and what others hold of it.
//!
//! ```text
//! commands ─► control records ─┐
//! sequencer.take ─► Seal ──────┤ logged, not waited for
//!                              ▼
//!                        live.tick ─► capture ─► mirror ─► keyframe thread
//!                              ▼
//!                 publisher: shown once Seal and Horizon are durable (D2)
//! ```

mod keyframes;
mod publisher;

use crate::{
    clock,
    config::Config,
    metrics::{Metrics, WorldMetrics},
    pool,
    sequencer::{Origin, Sequencer},
    spine::{self, RunMode, Spine, SpineError, SpineOptions, next_mode},
    status::{Timings, WorldState, WorldStatus},
};
use everworld_engine::{LiveWorld, Mirror, MirrorHandle, Options, Parallel, Plan, Pool, Registry, Tick};
use everworld_persistence::{Control, DurablePoint, LogDone, LogError, LogHandle, Record};
use everworld_systems::{Plugin, WorldRecord};
use keyframes::Keyframes;
use parking_lot::Mutex;
use publisher::Publisher;
use std::{
    fmt,
    fs::File,
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};
use tokio::sync::oneshot;

/// What the rest of the process holds of a world.
#[derive(Clone)]
pub struct WorldHandle {
    /// The world's name.
    pub name: String,
    /// Its published state.
    pub status: Arc<WorldStatus>,
    running: Arc<OnceLock<Running>>,
    commands: SyncSender<Command>,
}

/// What there is of a world once it is brought back.
pub struct Running {
    /// The way in.
    pub sequencer: Arc<Sequencer>,
    /// The view.
    pub mirror: MirrorHandle,
    /// What it is made of.
    pub registry: Arc<Registry>,
    /// What runs in a tick.
    pub plan: Arc<Plan>,
    /// The name of its scenario and its seed.
    pub scenario: (String, u64),
    /// Its log, for figures.
    pub log: LogHandle,
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
    /// Another rate, in ticks per thousand seconds; 0 is as fast as possible.
    Rate(u64),
    /// End in order.
    Stop,
}

/// A wish that was granted and is durable.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// The number of its control record.
    pub seq: u64,
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
    pub fn running(&self) -> Option<&Running> {
        self.running.get()
    }

    /// Asks the host, and waits until the control record is durable.
    pub async fn ask(&self, what: Wish, origin: Origin) -> Result<Done, Refused> {
        let (reply, done) = oneshot::channel();
        let command = Command { what, origin, reply: Some(reply) };
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => Refused::Busy("too many control requests wait for the world".into()),
            TrySendError::Disconnected(_) => Refused::WrongState("the world has stopped".into()),
        })?;
        done.await.unwrap_or_else(|_| Err(Refused::WrongState("the world has stopped".into())))
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
}

impl Hosted {
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
    let pool = pool::start(config.threads.workers, true).map_err(|error| SpineError::Unrecoverable {
        world: record.world.clone(),
        detail: format!("{error:#}"),
    })?;
    let (commands, incoming) = sync_channel(COMMANDS_MAX);
    let handle =
        WorldHandle { name: record.world.clone(), status: Arc::default(), running: Arc::default(), commands };
    let metrics = Metrics::new(std::slice::from_ref(&handle));
    let (ended_tx, ended) = oneshot::channel();
    let start = Start { config: config.clone(), record, plugins, accept_foreign_log, lock, pool };
    let (own, own_metrics, for_end) = (handle.clone(), metrics.clone(), handle.clone());
    let body = move || {
        // Short ticks run on this thread: they stand back behind HTTP like the pool's.
        pool::stand_back();
        let status = own.status.clone();
        let result = open(start, own, &own_metrics).and_then(|mut host| host.run(&incoming));
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
    thread.map_err(|source| SpineError::Io {
        what: "start a thread for",
        path: handle.name.clone().into(),
        source,
    })?;
    Ok(Hosted { handle, metrics, ended })
}

struct Start {
    config: Arc<Config>,
    record: WorldRecord,
    plugins: &'static [Plugin],
    accept_foreign_log: bool,
    lock: File,
    pool: Arc<Pool>,
}

/// Brings the world back and makes its host.
fn open(start: Start, handle: WorldHandle, metrics: &Metrics) -> Result<Host, SpineError> {
    let Start { config, record, plugins, accept_foreign_log, lock, pool } = start;
    let begun = clock::now_nanos();
    let options = Options { pool, parallel: Parallel::Auto, stopwatch: clock::stopwatch() };
    let spine_options = SpineOptions {
        segment_bytes: config.log.segment_bytes,
        queue_len_max: config.log.queue_len_max,
        keyframes_kept: config.keyframe.kept,
        accept_foreign_log,
    };
    let status = handle.status.clone();
    let (mut spine, mut live) = Spine::open_observed(
        lock,
        &config.data.dir,
        &record,
        plugins,
        options,
        &spine_options,
        &status,
        &mut |_| {},
    )?;
    let registry = live.registry().clone();
    let queued = std::mem::take(&mut spine.queued);
    let sequencer = Arc::new(Sequencer::new(
        spine.log.clone(),
        registry.clone(),
        status.clone(),
        spine.next,
        queued,
        config.tick.pending_inputs_max,
    ));
    let mirror = Mirror::start(&handle.name, pool::stand_back).map_err(|source| SpineError::Io {
        what: "start a thread for",
        path: handle.name.clone().into(),
        source,
    })?;
    let systems = live.plan().nodes.iter().map(|node| node.name.clone());
    let metrics = metrics.world(&handle.name, systems);
    let store = spine.store.take().expect("a world is opened with its store");
    let keyframes =
        Keyframes::start(store, &handle.name, status.clone(), metrics.clone(), spine.last_keyframe).map_err(
            |source| SpineError::Io { what: "start a thread for", path: handle.name.clone().into(), source },
        )?;
    let now = live.now();
    tracing::info!(
        world = handle.name,
        tick = %now,
        entities = live.entities(),
        replayed = spine.replayed,
        millis = (clock::now_nanos() - begun) / 1_000_000,
        "world is ready"
    );
    // What was brought back is covered by the log: it may be shown at once.
    // And the first view is there before anybody is told that the world is.
    mirror.offer(live.capture());
    mirror.handle().settled();
    mirror.allow(now);
    let publisher = Arc::new(Publisher::new(status.clone(), sequencer.clone(), now));
    publisher.show(now, live.entities(), &mirror);
    let running = Running {
        sequencer: sequencer.clone(),
        mirror: mirror.handle(),
        registry,
        plan: Arc::new(live.plan().clone()),
        scenario: (spine.record.scenario.name.clone(), live.seed()),
        log: spine.log.clone(),
    };
    assert!(handle.running.set(running).is_ok(), "a world is opened once");
    let mode = spine.mode;
    let timings = Timings::new(live.plan());
    let mut host = Host {
        status,
        sequencer,
        mirror: Arc::new(mirror),
        keyframes,
        metrics,
        timings,
        publisher,
        horizon: Horizon { tick: now, renewed_nanos: 0, lowered: 0 },
        last_capture_nanos: clock::now_nanos(),
        captured: now,
        last_stats_nanos: 0,
        ticks_since_stats: 0,
        ticks_per_sec: 0.0,
        mode,
        config,
        spine,
        live,
    };
    host.show_mode();
    Ok(host)
}

/// The tick loop and what it holds.
struct Host {
    config: Arc<Config>,
    spine: Spine,
    live: LiveWorld,
    mode: RunMode,
    status: Arc<WorldStatus>,
    sequencer: Arc<Sequencer>,
    mirror: Arc<Mirror>,
    keyframes: Keyframes,
    publisher: Arc<Publisher>,
    metrics: WorldMetrics,
    timings: Timings,
    horizon: Horizon,
    last_capture_nanos: u64,
    /// The newest tick that the mirror was given.
    captured: Tick,
    last_stats_nanos: u64,
    ticks_since_stats: u64,
    /// Smoothed, for the length of the lease.
    ticks_per_sec: f64,
}

/// The lease of ticks that may be shown, as far as it is appended.
#[derive(Clone, Copy)]
struct Horizon {
    tick: Tick,
    renewed_nanos: u64,
    /// How often it was lowered.
    lowered: u64,
}

/// A world at rest looks so often whether its log and its mirror are well.
const REST_NANOS: u64 = 20_000_000;

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
        let wait = if self.wants_tick() {
            due.saturating_sub(clock::now_nanos())
        } else {
            self.capture_at_rest();
            REST_NANOS
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
        let control = match what {
            Wish::Pause => Control::Pause,
            Wish::Resume => Control::Resume,
            Wish::Step(ticks) if self.mode.paused => {
                Control::Step { until: Tick(self.mode.step_until.max(now).0 + ticks) }
            }
            Wish::Step(_) => {
                let refused = Refused::WrongState("only a paused world can be stepped".into());
                reply.map(|reply| reply.send(Err(refused)));
                return Ok(());
            }
            Wish::Rate(millihertz) => Control::Rate { millihertz },
            Wish::Stop => unreachable!("obey() ends the world"),
        };
        if let Control::Pause = control {
            // Nothing past this tick was shown: recovery is to stop here, not where the lease ends. Before the
            // record itself in the log: who was told of the pause finds the world at this tick after a crash.
            self.append_horizon(now)?;
        }
        let reply = Arc::new(Mutex::new(reply));
        let answer = |reply: &Mutex<Option<Reply>>, answer| {
            if let Some(reply) = reply.lock().take() {
                // The client may have gone.
                let _ = reply.send(answer);
            }
        };
        let waiting = reply.clone();
        let acknowledge = move |seq, result: Result<(), Arc<LogError>>| {
            let done = result.map(|()| Done { seq, tick: now });
            answer(&waiting, done.map_err(|error| Refused::Log(error.to_string())));
        };
        match self.sequencer.control(control, now, &origin, acknowledge) {
            Ok(_) => {}
            Err(error @ (LogError::QueueFull { .. } | LogError::NoSpace { .. })) => {
                answer(&reply, Err(Refused::Busy(error.to_string())));
                return Ok(());
            }
            Err(error) => return Err(self.log_failed(error)),
        }
        self.mode = next_mode(Some(self.mode), control, now);
        self.show_mode();
        Ok(())
    }

    fn wants_tick(&self) -> bool {
        !self.mode.paused || self.live.now() < self.mode.step_until
    }

    fn tick(&mut self) -> Result<(), SpineError> {
        let tick = self.live.now().next();
        let inputs = self.sequencer.take(self.config.tick.inputs_max);
        // Written before the tick, synced beside it: whoever sees the tick sees a durable Seal.
        let seal = inputs.last().map(|last| Record::Seal { tick, up_to_seq: last.seq });
        let seal = seal.map(|record| self.append(record)).transpose()?.unwrap_or(0);
        if let Err(source) = self.live.tick(&inputs) {
            return Err(SpineError::Tick { world: self.handle_name(), source });
        }
        self.renew_horizon(tick)?;
        let report = self.live.report();
        self.metrics.record(report);
        self.timings.record(report);
        self.ticks_since_stats += 1;
        self.sequencer.set_pending(self.live.pending_inputs());
        self.publisher.computed(tick, seal, report.entities, report.outcomes.clone(), &self.mirror);
        self.capture(tick);
        self.show_stats();
        Ok(())
    }

    fn handle_name(&self) -> String {
        self.spine.world().to_owned()
    }

    /// Renews the lease once half of it is used up.
    fn renew_horizon(&mut self, tick: Tick) -> Result<(), SpineError> {
        let now = clock::now_nanos();
        let lease = self.config.log.horizon_lease_millis as f64 / 1e3;
        let ticks = ((self.ticks_per_sec.max(1.0) * lease * 2.0).ceil() as u64).max(1);
        let left = self.horizon.tick.0.saturating_sub(tick.0);
        let stepping = self.mode.paused;
        if stepping && tick >= self.mode.step_until {
            return self.append_horizon(tick);
        }
        let elapsed = now - self.horizon.renewed_nanos;
        if tick > self.horizon.tick || (left < ticks / 2 && elapsed as f64 / 1e9 > lease / 4.0) {
            let until = Tick(tick.0 + ticks);
            // Stepping ends where it was told to, also after a crash.
            return self.append_horizon(if stepping { until.min(self.mode.step_until) } else { until });
        }
        Ok(())
    }

    fn append_horizon(&mut self, tick: Tick) -> Result<(), SpineError> {
        if tick < self.horizon.tick {
            // What an earlier horizon allowed is taken back before this one can be durable (D2).
            self.horizon.lowered += 1;
            self.publisher.lower_horizon(tick, self.horizon.lowered);
        }
        self.horizon = Horizon { tick, renewed_nanos: clock::now_nanos(), ..self.horizon };
        let (publisher, mirror) = (self.publisher.clone(), Arc::downgrade(&self.mirror));
        let lowered = self.horizon.lowered;
        let durable = move |result: Result<DurablePoint, Arc<LogError>>| {
            if let (Ok(_), Some(mirror)) = (result, mirror.upgrade()) {
                publisher.horizon_durable(tick, lowered, &mirror);
            }
        };
        self.append_with(&Record::Horizon { tick }, || Box::new(durable.clone())).map(|_| ())
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

    /// Hands the state to the mirror when it is time, and the mirror's image to the store.
    fn capture(&mut self, tick: Tick) {
        let now = clock::now_nanos();
        let entities = self.live.entities();
        let period = match self.config.mirror.period_millis {
            0 if entities <= 20_000 => 0,
            0 => 1_000,
            millis => millis,
        };
        if now - self.last_capture_nanos >= period * 1_000_000 {
            if self.mirror.is_ready() {
                self.capture_now(tick);
            } else {
                self.metrics.captures_skipped.inc();
            }
        }
        let period_secs = match self.config.keyframe.period_secs {
            0 if entities <= 200_000 => 10,
            0 => 30,
            secs => secs,
        };
        if let Some(view) = self.mirror.handle().view() {
            self.keyframes.offer(view, period_secs, &self.spine.log);
        }
    }

    fn capture_now(&mut self, tick: Tick) {
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
    }

    fn show_mode(&mut self) {
        let rate_hz = self.config.tick.rate_hz;
        // A rate that is slower than can be told is not as fast as possible.
        let configured = if rate_hz == 0.0 { 0 } else { ((rate_hz * 1e3).round() as u64).max(1) };
        let millihertz = self.mode.millihertz.unwrap_or(configured);
        self.status.set_millihertz(millihertz);
        self.status.set_state(if self.mode.paused { WorldState::Paused } else { WorldState::Running }, None);
    }

    /// Publishes the figures of systems about once a second.
    fn show_stats(&mut self) {
        let now = clock::now_nanos();
        if now - self.last_stats_nanos >= 1_000_000_000 {
            let secs = (now - self.last_stats_nanos) as f64 / 1e9;
            self.ticks_per_sec =
                if self.last_stats_nanos == 0 { 1.0 } else { self.ticks_since_stats as f64 / secs };
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

    /// Ends in order: nothing new is admitted, the log ends with a horizon at the last tick, a keyframe follows.
    fn stop(&mut self) -> Result<(), SpineError> {
        self.sequencer.close();
        self.keyframes.finish();
        self.spine.store = self.keyframes.store.lock().take();
        self.spine.close(&mut self.live)?;
        tracing::info!(world = self.spine.world(), tick = %self.live.now(), "world stopped");
        Ok(())
    }
}
