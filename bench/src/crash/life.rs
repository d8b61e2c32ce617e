//! One life of a hosted world: inputs, controls, rewinds and failures by a seed, and what was told to the outside.
//!
//! The host is the product's own, with its threads; only its disk is the harness's. So a seed repeats the script, not
//! the interleaving: what goes wrong is kept as files.

use crate::harness;
use anyhow::{Context as _, bail};
use everworld::{
    Plugin, clock,
    config::Config,
    history,
    host::{self, Hosted, Running, Wish, WorldHandle},
    rig::Rig,
    sequencer::{Asked, Origin},
    spine::{SpineError, SpineOptions},
    status::WorldState,
};
use everworld_engine::{StateHash, Tick, random::Draws};
use everworld_persistence::{Record, StoreOptions};
use everworld_systems::WorldRecord;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, sync::oneshot};

/// Something that somebody outside knows now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Fact {
    /// An input is durable.
    Acknowledged { seq: u64, mark: u64 },
    /// A tick of a line was published.
    Shown { branch: u32, tick: Tick },
    /// The hash of a tick was published.
    Hash { branch: u32, tick: Tick, hash: StateHash },
    /// A world was forked off.
    Forked { name: String },
}

/// Takes down what is known outside, with the time at which it became known.
pub(crate) trait Teller {
    fn tell(&mut self, fact: Fact);
    /// An input with that mark is on its way.
    fn marked(&mut self, _mark: u64) {}
}

/// What a life is to do.
#[derive(Clone, Copy)]
pub(crate) struct Script {
    /// Steps, with every kind of step among them.
    pub(crate) steps: u32,
    /// The largest text of an input.
    pub(crate) bytes_max: u32,
    /// Whether steps that fail on purpose are among them.
    pub(crate) failures: bool,
    /// The number of the first mark.
    pub(crate) first_mark: u64,
    /// The first record that the log has.
    pub(crate) first_lsn: u64,
    /// What the build is made of.
    pub(crate) plugins: &'static [Plugin],
    /// Whether time makes leaps, so that epochs roll and old ones go.
    pub(crate) ages: bool,
    /// No rewind goes behind that tick: another build computed what is before.
    pub(crate) rewind_min: Tick,
}

impl Script {
    /// A script of so many steps, for a world's first life.
    pub(crate) fn first(steps: u32, bytes_max: u32) -> Self {
        let plugins = crate::scenarios::plugins();
        let (first_mark, first_lsn, rewind_min) = (1, 1, Tick(0));
        let (failures, ages) = (true, true);
        Self { steps, bytes_max, failures, first_mark, first_lsn, plugins, ages, rewind_min }
    }
}

/// The kinds of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Deliver,
    DeliverLater,
    DeliverLarge,
    Settle,
    Repeat,
    WaitForAcks,
    WaitForTicks,
    PauseStepResume,
    Rewind,
    Fork,
    BreakInput,
    BreakSystem,
    MakeOld,
    Rate,
}

impl Step {
    /// Each once.
    pub(crate) const ALL: [Self; 14] = [
        Self::Deliver,
        Self::DeliverLater,
        Self::DeliverLarge,
        Self::Settle,
        Self::Repeat,
        Self::WaitForAcks,
        Self::WaitForTicks,
        Self::PauseStepResume,
        Self::Rewind,
        Self::Fork,
        Self::BreakInput,
        Self::BreakSystem,
        Self::MakeOld,
        Self::Rate,
    ];
}

/// All of them, the usual ones more often.
const DECK: [Step; 24] = [
    Step::Fork,
    Step::Deliver,
    Step::Deliver,
    Step::Deliver,
    Step::Deliver,
    Step::Deliver,
    Step::DeliverLater,
    Step::DeliverLater,
    Step::DeliverLarge,
    Step::Settle,
    Step::Settle,
    Step::Repeat,
    Step::WaitForAcks,
    Step::WaitForAcks,
    Step::WaitForTicks,
    Step::WaitForTicks,
    Step::WaitForTicks,
    Step::WaitForTicks,
    Step::PauseStepResume,
    Step::Rewind,
    Step::MakeOld,
    Step::Rate,
    Step::BreakInput,
    Step::BreakSystem,
];

/// What became of a life.
pub(crate) struct Lived {
    /// How the host ended.
    pub(crate) ended: Result<(), SpineError>,
    /// How often each step was granted.
    pub(crate) steps: BTreeMap<Step, u64>,
    /// The records that the log had, those that were cut included.
    pub(crate) records: BTreeMap<u64, Record>,
    /// Snapshots that were seen, and none.
    pub(crate) snapshots: u64,
    /// The mark of the next input.
    pub(crate) next_mark: u64,
}

pub(super) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime without threads")
});

/// So long a step may take before the harness calls it stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where worlds are on a disk in memory.
pub(crate) const DATA: &str = "data";

/// A store in which everything happens soon: epochs roll, old ones are thinned and removed.
pub(crate) fn quick_store() -> StoreOptions {
    StoreOptions {
        dense_secs: 0,
        sparse_every_secs: 1_000,
        keep_secs: 2_000,
        opening_snapshots: 2,
        roll_factor: 1,
        roll_secs: 500,
        cache_bytes: 1 << 20,
        ..StoreOptions::default()
    }
}

/// The same, but nothing is ever removed: the whole log can be read.
pub(crate) fn keeping_store() -> StoreOptions {
    StoreOptions { dense_secs: u64::MAX, keep_secs: u64::MAX, ..quick_store() }
}

/// The configuration of a host of the harness.
pub(crate) fn config(data: &Path, segment_bytes: u64) -> Config {
    let mut config = Config::default();
    config.data.dir = data.into();
    config.tick.rate_hz = 1_000.0;
    config.tick.pending_inputs_max = 1_000_000;
    config.mirror.period_millis = 1;
    config.snapshot.period_millis = 4;
    config.log.segment_bytes = segment_bytes;
    config.log.horizon_lease_millis = 20;
    config.log.checkpoint_ticks = 7;
    config.threads.workers = 1;
    config.inputs.idempotency_keys_max = 8;
    // The operations on the disk are counted.
    config.verify.enabled = false;
    config
}

/// Runs a world by the script, to an orderly end or to the failure of its disk.
pub(crate) fn live(
    rig: Rig,
    config: Config,
    record: &WorldRecord,
    script: Script,
    draws: &mut Draws,
    teller: &mut dyn Teller,
) -> anyhow::Result<Lived> {
    // The harness uses a directory once: there is nothing to lock.
    let lock = File::open("/dev/null")?;
    let fork_options = SpineOptions {
        disk: rig.disk.clone(),
        segment_bytes: config.log.segment_bytes,
        store: rig.store.clone().unwrap_or_default(),
        build_id: rig.build_id,
        ..SpineOptions::default()
    };
    let data = config.data.dir.clone();
    let config = Arc::new(config);
    let hosted = match host::start_rigged(rig, &config, lock, record.clone(), script.plugins, false) {
        Ok(hosted) => hosted,
        Err(error) => return Ok(Lived::failed(error, script)),
    };
    let mut life = Life {
        hosted,
        data,
        fork_options,
        draws,
        teller,
        waiting: Vec::new(),
        shown: None,
        hash: None,
        steps: BTreeMap::new(),
        records: BTreeMap::new(),
        next_mark: script.first_mark,
        script,
        keys: Vec::new(),
        rewound: None,
        snapshots: BTreeSet::new(),
        over: None,
    };
    life.run()?;
    life.end()
}

impl Lived {
    fn failed(error: SpineError, script: Script) -> Self {
        let next_mark = script.first_mark;
        let (steps, records) = (BTreeMap::new(), BTreeMap::new());
        Self { ended: Err(error), steps, records, snapshots: 0, next_mark }
    }
}

struct Life<'a> {
    hosted: Hosted,
    data: PathBuf,
    fork_options: SpineOptions,
    draws: &'a mut Draws,
    teller: &'a mut dyn Teller,
    waiting: Vec<(u64, u64, oneshot::Receiver<Result<(), Arc<everworld_persistence::LogError>>>)>,
    shown: Option<(u32, Tick)>,
    hash: Option<(u32, Tick)>,
    steps: BTreeMap<Step, u64>,
    records: BTreeMap<u64, Record>,
    next_mark: u64,
    script: Script,
    /// Inputs that were sent under a key: key, mark, seq.
    keys: Vec<(String, u64, u64)>,
    /// Where the newest line of this life began.
    rewound: Option<Tick>,
    snapshots: BTreeSet<Tick>,
    over: Option<Result<(), SpineError>>,
}

pub(super) fn origin() -> Origin {
    Origin { principal: "harness".into(), request_id: String::new() }
}

impl Life<'_> {
    fn run(&mut self) -> anyhow::Result<()> {
        let patience = Instant::now() + PATIENCE;
        // It is there a moment before its status says how: running, or paused as the life before left it.
        let is_there = |handle: &WorldHandle| {
            handle.running().is_some() && handle.status.state().0 != WorldState::Recovering
        };
        while !is_there(&self.hosted.handle) {
            if self.is_over() {
                return Ok(());
            }
            if Instant::now() > patience {
                bail!("the world does not come up");
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        let mut deck: Vec<Step> = Vec::new();
        for _ in 0..self.script.steps {
            if self.is_over() {
                return Ok(());
            }
            if deck.is_empty() {
                deck = DECK.to_vec();
            }
            let step = deck.swap_remove(self.draws.below(deck.len() as u32) as usize);
            let granted = self.step(step)?;
            *self.steps.entry(step).or_default() += u64::from(granted);
            self.look();
            self.read_log();
        }
        Ok(())
    }

    fn is_over(&mut self) -> bool {
        if self.over.is_none() {
            self.over = self.hosted.ended.try_recv().ok();
        }
        self.over.is_some()
    }

    fn running(&self) -> anyhow::Result<&Arc<Running>> {
        self.hosted.handle.running().context("the world is there")
    }

    /// True if it was done.
    fn step(&mut self, step: Step) -> anyhow::Result<bool> {
        let bytes = 1 + self.draws.below(400) as usize;
        match step {
            Step::Deliver => self.deliver(bytes, None, false),
            Step::DeliverLater => {
                let at = self.hosted.handle.status.tick().0 + u64::from(self.draws.below(40));
                self.deliver(bytes, Some(Tick(at)), false)
            }
            Step::DeliverLarge => {
                let bytes = 1 + self.draws.below(self.script.bytes_max) as usize;
                self.deliver(bytes, None, false)
            }
            Step::Settle => {
                let payload = json!({"mark": self.next_mark, "count": 1 + self.draws.below(6)});
                Ok(self.submit("settle", &payload, None, None)?.is_some())
            }
            Step::Repeat => self.deliver(bytes, None, true),
            Step::WaitForAcks => self.wait_for_acks(),
            Step::WaitForTicks => self.wait_for_ticks(),
            Step::PauseStepResume => {
                let steps = u64::from(1 + self.draws.below(3));
                Ok(self.ask(Wish::Pause)? && self.ask(Wish::Step(steps))? && {
                    self.look();
                    self.ask(Wish::Resume)?
                })
            }
            Step::Rewind => {
                let now = self.hosted.handle.status.tick().0;
                let back = u64::from(self.draws.below(12));
                let to = Tick(now.saturating_sub(back));
                // Again to where the line that goes on began, too: two lines then begin with one state.
                let to = self.rewound.filter(|_| self.draws.below(3) == 0).unwrap_or(to);
                let done = to >= self.script.rewind_min && self.ask(Wish::Rewind(to))?;
                self.rewound = Some(to).filter(|_| done).or(self.rewound);
                Ok(done)
            }
            Step::Fork => self.fork(),
            Step::BreakInput | Step::BreakSystem if !self.script.failures => Ok(false),
            Step::BreakInput => Ok(self.submit("break", &json!({"what": "input"}), None, None)?.is_some()),
            Step::BreakSystem => {
                // Once and for all: the system is left out from then on.
                let done = self.steps.get(&Step::BreakSystem).copied().unwrap_or(0) > 0;
                Ok(!done && self.submit("break", &json!({"what": "system"}), None, None)?.is_some())
            }
            Step::MakeOld if !self.script.ages => Ok(false),
            Step::MakeOld => {
                clock::shift_unix_millis(u64::from(500 + self.draws.below(1_500)) * 1_000);
                self.wait_for_ticks()
            }
            Step::Rate => {
                let millihertz = [200_000, 1_000_000, 500_000][self.draws.below(3) as usize];
                self.ask(Wish::Rate(millihertz))
            }
        }
    }

    fn deliver(&mut self, bytes: usize, at_tick: Option<Tick>, with_key: bool) -> anyhow::Result<bool> {
        if with_key && !self.keys.is_empty() && self.draws.below(2) == 0 {
            return self.repeat();
        }
        let mark = self.next_mark;
        let text = harness::text(&mut Draws::new(mark, 0, 2, 0), bytes);
        let key = with_key.then(|| format!("key {mark}"));
        let seq = self.submit("deliver", &json!({"mark": mark, "text": text}), at_tick, key.as_deref())?;
        if let (Some(key), Some(seq)) = (key, seq) {
            self.keys.push((key, mark, seq));
        }
        Ok(seq.is_some())
    }

    /// Another world of a tick that was shown. Once a life: there is enough to look at.
    fn fork(&mut self) -> anyhow::Result<bool> {
        let shown = self.hosted.handle.status.shown();
        let back = u64::from(self.draws.below(6));
        let place = (shown.branch, Tick(shown.tick.0.saturating_sub(back)));
        if self.steps.get(&Step::Fork).copied().unwrap_or(0) > 0 || place.1 < self.script.rewind_min {
            return Ok(false);
        }
        let name = format!("fork-{}", self.next_mark);
        let (history, options) = (self.running()?.history.clone(), harness::options(1)?);
        // As the API does it: refused where it is not kept, and while the disk fails.
        let forked = history::fork(&history, &self.data, place, (&name, &[]), &options, &self.fork_options);
        if forked.is_ok() {
            self.teller.tell(Fact::Forked { name });
        }
        Ok(forked.is_ok())
    }

    /// Sends an input again that was sent before: its number must be the same, or it is refused.
    fn repeat(&mut self) -> anyhow::Result<bool> {
        let at = self.draws.below(self.keys.len() as u32) as usize;
        let (key, _, seq) = self.keys[at].clone();
        // Another body under the same key: it must not be taken as a new input.
        let payload = json!({"mark": self.next_mark, "text": "another"});
        let asked = Asked {
            kind: "deliver",
            payload: &payload,
            at_tick: None,
            wants_outcome: false,
            idempotency_key: Some(&key),
        };
        let submitted = self.running()?.sequencer.submit(asked, &origin());
        match submitted {
            // Forgotten: only so many keys are remembered.
            Ok(submitted) if !submitted.repeated => {
                let mark = self.next_mark;
                self.next_mark += 1;
                self.keys[at] = (key, mark, submitted.seq);
                self.waiting.push((submitted.seq, mark, submitted.durable));
                Ok(true)
            }
            Ok(submitted) => {
                bail!("another body under key \"{key}\" of input {seq} was taken as {}", submitted.seq)
            }
            Err(_) => Ok(true),
        }
    }

    fn submit(
        &mut self,
        kind: &str,
        payload: &serde_json::Value,
        at_tick: Option<Tick>,
        idempotency_key: Option<&str>,
    ) -> anyhow::Result<Option<u64>> {
        self.teller.marked(self.next_mark);
        let asked = Asked { kind, payload, at_tick, wants_outcome: false, idempotency_key };
        // Busy or not available: nothing was taken.
        let Ok(submitted) = self.running()?.sequencer.submit(asked, &origin()) else { return Ok(None) };
        if let Some(mark) = payload["mark"].as_u64() {
            self.next_mark += 1;
            self.waiting.push((submitted.seq, mark, submitted.durable));
        }
        Ok(Some(submitted.seq))
    }

    fn ask(&mut self, wish: Wish) -> anyhow::Result<bool> {
        let handle = self.hosted.handle.clone();
        let asked =
            RUNTIME.block_on(async { tokio::time::timeout(PATIENCE, handle.ask(wish, origin())).await });
        match asked {
            Ok(result) => Ok(result.is_ok()),
            Err(_) => bail!("{wish:?} is not answered"),
        }
    }

    fn wait_for_acks(&mut self) -> anyhow::Result<bool> {
        let patience = Instant::now() + PATIENCE;
        while !self.waiting.is_empty() {
            self.look();
            if self.is_over() {
                return Ok(false);
            }
            if Instant::now() > patience {
                bail!("{} inputs are not acknowledged", self.waiting.len());
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(true)
    }

    fn wait_for_ticks(&mut self) -> anyhow::Result<bool> {
        // The last life may have ended between a pause and the end of it.
        if self.hosted.handle.status.state().0 == WorldState::Paused && !self.ask(Wish::Resume)? {
            return Ok(false);
        }
        let patience = Instant::now() + PATIENCE;
        let until = self.hosted.handle.status.tick().0 + u64::from(1 + self.draws.below(6));
        while self.hosted.handle.status.tick().0 < until {
            self.look();
            if self.is_over() {
                return Ok(false);
            }
            if Instant::now() > patience {
                let status = &self.hosted.handle.status;
                bail!("tick {until} does not come, it is {} and {:?}", status.tick(), status.state());
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(true)
    }

    /// Takes down what can be known now.
    fn look(&mut self) {
        let mut told = Vec::new();
        self.waiting.retain_mut(|(seq, mark, durable)| match durable.try_recv() {
            Ok(Ok(())) => {
                told.push(Fact::Acknowledged { seq: *seq, mark: *mark });
                false
            }
            Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => false,
            Err(oneshot::error::TryRecvError::Empty) => true,
        });
        if let Some(running) = self.hosted.handle.running() {
            let (now, applied) = self.hosted.handle.shown_with(|| running.mirror.shown());
            let (branch, shown) = (now.branch, (now.branch, now.tick));
            if self.shown != Some(shown) {
                self.shown = Some(shown);
                told.push(Fact::Shown { branch: shown.0, tick: shown.1 });
            }
            if let Some(applied) = applied
                && self.hash != Some((branch, applied.tick))
            {
                self.hash = Some((branch, applied.tick));
                told.push(Fact::Hash { branch, tick: applied.tick, hash: applied.hash });
            }
        }
        self.snapshots.insert(self.hosted.handle.status.last_snapshot());
        told.into_iter().for_each(|fact| self.teller.tell(fact));
    }

    /// Takes the log's records down before retention cuts them away.
    fn read_log(&mut self) {
        let Some(running) = self.hosted.handle.running() else { return };
        let next = self.records.last_key_value().map_or(self.script.first_lsn, |(lsn, _)| lsn + 1);
        if running.log.durable_lsn() >= next {
            self.records.extend(running.log.records(next).map_while(Result::ok));
        }
    }

    fn end(mut self) -> anyhow::Result<Lived> {
        if !self.is_over() {
            self.hosted.stop();
        }
        let patience = Instant::now() + PATIENCE;
        while !self.is_over() {
            self.look();
            if Instant::now() > patience {
                bail!("the world does not stop");
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        self.look();
        self.read_log();
        let Self { over, steps, records, next_mark, snapshots, .. } = self;
        let ended = over.context("the world has ended")?;
        let snapshots = snapshots.len() as u64;
        Ok(Lived { ended, steps, records, snapshots, next_mark })
    }
}
