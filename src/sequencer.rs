//! The sequencer: admits inputs, numbers and logs them, and hands them to the tick; the only way in (law 2).
//!
//! An input is acknowledged once its log record is synced (D1). The tick takes what is logged, in the order of the
//! numbers; its Seal comes later in the same log, so that whatever a durable Seal covers is durable too.

use crate::{
    history::{BranchInfo, Branches, Logged},
    ledger::{Changes, Durable, Entry, Ledger},
    status::WorldStatus,
};
use everworld_engine::{InputEnvelope, InputError, Outcome, Registry, Tick, column::Fault};
use everworld_persistence::{
    Control, DurablePoint, IdempotencyKey, InputRecord, LogError, LogHandle, Record,
};
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::sync::oneshot;

/// Who asks, and under which request: the audit log is the input log.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The token's name, or `local` where there are none.
    pub principal: String,
    /// The request's id.
    pub request_id: String,
}

/// An input on its way.
pub struct Submitted {
    /// Its number.
    pub seq: u64,
    /// The first tick that can see it.
    pub earliest_tick: Tick,
    /// Resolves once it is durable.
    pub durable: oneshot::Receiver<Result<(), Arc<LogError>>>,
    /// Resolves once its tick is published, or none comes; for who wants to wait for that.
    pub fate: Option<oneshot::Receiver<Fate>>,
    /// It came before, under the same key, and was not taken again.
    pub repeated: bool,
}

/// An input that somebody asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a, P = &'a Value> {
    /// What kind of input.
    pub kind: &'a str,
    /// Its JSON, or the bytes that a check has made of it.
    pub payload: P,
    /// Not before that tick.
    pub at_tick: Option<Tick>,
    /// Whether the sender waits for the outcome.
    pub wants_outcome: bool,
    /// The sender's key: the same one again means the same input.
    pub idempotency_key: Option<&'a str>,
}

/// An applied input.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The tick in which it was applied.
    pub tick: Tick,
    /// What became of it.
    pub outcome: Result<Outcome, InputError>,
}

/// What becomes of a durable input.
#[derive(Clone, Debug)]
pub enum Fate {
    /// A tick took it, and is published.
    Applied(Applied),
    /// A rewind left it to this former branch before a tick of the line that goes on had taken it.
    LeftBehind(u32),
}

/// What is known of an input.
#[derive(Clone, Debug)]
pub enum Known {
    /// It waits for a tick.
    Waiting,
    /// A tick has taken it; its outcome, where that is remembered.
    Taken(Option<Applied>),
    /// A rewind left it to this former branch; its outcome there, where that is remembered.
    LeftBehind(u32, Option<Applied>),
}

/// Why an input was not admitted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdmitError {
    /// The world does not know the kind.
    #[error("unknown kind of input \"{0}\"")]
    UnknownKind(String),
    /// The payload has faults; each names its place.
    #[error("the input has {} faults", .0.len())]
    Invalid(Vec<Fault>),
    /// The key stands for another input.
    #[error("the idempotency key \"{0}\" came before with another body")]
    KeyReused(String),
    /// Too many wait for a tick, or the log's queue or disk is full: try again later (L2).
    #[error("{0}")]
    Busy(String),
    /// The log failed or is closed: the world takes nothing any more.
    #[error("the input log is not available: {0}")]
    Unavailable(String),
}

/// How many inputs a world takes (L1).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// That wait for a tick, at the most.
    pub pending_max: usize,
    /// That one tick takes, at the most.
    pub tick_max: usize,
}

/// Where a sequencer goes on.
pub struct Begin {
    /// The numbers after the last input and the last control record in the log.
    pub next: (u64, u64),
    /// The inputs in it that no tick has taken.
    pub queued: Vec<Logged>,
    /// Those that wait in the state for their own tick.
    pub pending: Vec<u64>,
    /// What is known of idempotency keys.
    pub ledger: Ledger,
    /// The lines of history.
    pub branches: Branches,
}

/// Admits inputs of one world.
pub struct Sequencer {
    log: LogHandle,
    registry: Arc<Registry>,
    status: Arc<WorldStatus>,
    limits: Limits,
    closed: AtomicBool,
    admitted: AtomicU64,
    deduplicated: AtomicU64,
    /// Inputs that a tick has taken and that wait in the state for their own tick.
    pending: AtomicUsize,
    inner: Mutex<Inner>,
}

struct Inner {
    next_seq: u64,
    next_control: u64,
    queue: VecDeque<Queued>,
    waiters: BTreeMap<u64, Vec<oneshot::Sender<Fate>>>,
    /// The lines of history: they tell what rewinds left behind, for which no outcome comes.
    branches: Branches,
    ledger: Ledger,
}

/// An input that waits for a tick.
struct Queued {
    /// A durable record before it in the log.
    before: DurablePoint,
    input: InputEnvelope,
}

/// Where the log goes on after the last finished tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// A durable record before all that belong to later ticks; the newest that is known.
    pub before: DurablePoint,
    /// The number of the first input in it.
    pub next_seq: u64,
    /// The number of the first control record in it.
    pub next_control: u64,
}

impl Sequencer {
    /// Goes on where the log says.
    pub fn new(
        log: LogHandle,
        registry: Arc<Registry>,
        status: Arc<WorldStatus>,
        begin: Begin,
        limits: Limits,
    ) -> Self {
        let Begin { next: (next_seq, next_control), queued, pending, ledger, branches } = begin;
        let pending = AtomicUsize::new(pending.len());
        // Whoever opened the log knows better what is before these.
        let before = DurablePoint::default();
        let queue = queued.into_iter().map(|logged| Queued { before, input: logged.input }).collect();
        let inner = Inner { next_seq, next_control, queue, waiters: BTreeMap::new(), branches, ledger };
        let (closed, admitted) = (AtomicBool::new(false), AtomicU64::new(0));
        let (deduplicated, inner) = (AtomicU64::new(0), Mutex::new(inner));
        Self { log, registry, status, limits, closed, admitted, deduplicated, pending, inner }
    }

    /// Checks, numbers and logs an input.
    ///
    /// # Errors
    /// See [`AdmitError`]; nothing is logged then.
    pub fn submit(&self, asked: Asked<'_>, origin: &Origin) -> Result<Submitted, AdmitError> {
        let Asked { kind, payload, at_tick, wants_outcome, idempotency_key } = asked;
        let payload = self.check(kind, payload)?;
        self.submit_checked(Asked { kind, payload, at_tick, wants_outcome, idempotency_key }, origin)
    }

    /// Looks at an input without taking it; the payload as it will be logged.
    ///
    /// # Errors
    /// When its kind is not known, or its payload is not as expected.
    pub fn check(&self, kind: &str, payload: &Value) -> Result<Vec<u8>, AdmitError> {
        let known = self.registry.input(kind).ok_or_else(|| AdmitError::UnknownKind(kind.to_owned()))?;
        known.check(payload, &self.registry).map_err(AdmitError::Invalid)
    }

    /// As [`Sequencer::submit`], with the payload that a check has given.
    ///
    /// # Errors
    /// As there.
    pub fn submit_checked(
        &self,
        asked: Asked<'_, Vec<u8>>,
        origin: &Origin,
    ) -> Result<Submitted, AdmitError> {
        let Asked { kind, payload, at_tick, wants_outcome, idempotency_key } = asked;
        let key = idempotency_key.map(|key| {
            let body_hash = body_hash(kind, at_tick, &payload);
            IdempotencyKey { key: key.to_owned(), body_hash }
        });
        let durable = Durable::default();
        // Number and place in the log are given under one lock: the log has inputs in the order of their numbers.
        let mut inner = self.inner.lock();
        if self.closed.load(Relaxed) {
            return Err(AdmitError::Unavailable("the server is stopping".into()));
        }
        if let Some(key) = &key
            && let Some(repeated) = inner.repeated(key, wants_outcome)?
        {
            self.deduplicated.fetch_add(1, Relaxed);
            return Ok(repeated);
        }
        let waiting = inner.queue.len() + self.pending.load(Relaxed);
        if waiting >= self.limits.pending_max {
            return Err(AdmitError::Busy(format!("{waiting} inputs wait for a tick")));
        }
        let seq = inner.next_seq;
        let record = Record::Input(InputRecord {
            seq,
            kind: kind.to_owned(),
            at_tick,
            principal: origin.principal.clone(),
            request_id: origin.request_id.clone(),
            payload: payload.clone(),
            idempotency: key.clone(),
        });
        let settle = durable.clone();
        let done = Box::new(move |result: Result<_, Arc<LogError>>| settle.settle(result.map(|_| ())));
        // Before the record has its place: so this is before it, also when it is durable itself and waits on.
        let before = self.log.durable();
        let lsn = self.log.append_leaving_room(record, Some(done)).map_err(|error| match error {
            LogError::QueueFull { .. } | LogError::NoSpace { .. } => AdmitError::Busy(error.to_string()),
            LogError::RecordTooLarge { .. } => AdmitError::Invalid(vec![Fault::new("", error.to_string())]),
            other => AdmitError::Unavailable(other.to_string()),
        })?;
        inner.next_seq += 1;
        let input = InputEnvelope { seq, kind: kind.to_owned(), at_tick, payload };
        inner.queue.push_back(Queued { before, input });
        let fate = wants_outcome.then(|| inner.wait_for(seq));
        self.admitted.fetch_add(1, Relaxed);
        let earliest_tick = at_tick.unwrap_or_default().max(self.status.tick().next());
        let receiver = durable.wait();
        if let Some(key) = key {
            inner.ledger.insert(seq, Entry { key, earliest_tick, applied: None, lsn, durable });
        }
        Ok(Submitted { seq, earliest_tick, durable: receiver, fate, repeated: false })
    }

    /// Where the log goes on after the last finished tick. The host calls it at the border of two ticks.
    pub fn position(&self) -> Position {
        let inner = self.inner.lock();
        let first = inner.queue.front();
        Position {
            before: first.map_or_else(|| self.log.durable(), |queued| queued.before),
            next_seq: first.map_or(inner.next_seq, |queued| queued.input.seq),
            next_control: inner.next_control,
        }
    }

    /// Begins a new line of history: logs its record, with the last number given as its floor, and leaves all inputs up
    /// to that one to the former line that the shared state has not taken. Returns it with its place in the log.
    ///
    /// # Errors
    /// As the log's; then nothing has changed.
    pub fn branch(&self, info: BranchInfo, origin: &Origin) -> Result<BranchInfo, LogError> {
        let mut inner = self.inner.lock();
        let mut info = BranchInfo { floor_seq: inner.next_seq - 1, ..info };
        let (seq, tick, control) = (inner.next_control, info.tick, info.control());
        let record = Record::Control { seq, tick, principal: origin.principal.clone(), control };
        info.lsn = self.log.append(record, None)?;
        inner.next_control += 1;
        inner.queue.clear();
        inner.branches.add(info);
        // Those who wait for one of them are told that no outcome comes.
        for (seq, waiters) in inner.waiters.split_off(&(info.taken_seq + 1)) {
            let left = inner.branches.left_behind(seq).unwrap_or(info.parent);
            // Who waited may have gone.
            waiters.into_iter().for_each(|waiter| _ = waiter.send(Fate::LeftBehind(left)));
        }
        Ok(info)
    }

    /// What is known of an input by its number; `None` when there is none.
    pub fn known(&self, seq: u64) -> Option<Known> {
        let inner = self.inner.lock();
        if seq == 0 || seq >= inner.next_seq {
            return None;
        }
        let outcome = || inner.ledger.applied_to(seq).cloned();
        Some(match inner.branches.left_behind(seq) {
            Some(branch) => Known::LeftBehind(branch, outcome()),
            None if inner.queue.front().is_some_and(|queued| queued.input.seq <= seq) => Known::Waiting,
            None => Known::Taken(outcome()),
        })
    }

    /// What a snapshot needs of the keys: what changed since the last call, or all of it, as far as it is durable.
    pub fn keys_to_store(&self, all: bool) -> Changes {
        let durable = self.log.durable_lsn();
        self.inner.lock().ledger.changes(all, durable)
    }

    /// How many keys are remembered, and how many can be.
    pub fn keys(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.ledger.len(), inner.ledger.keys_max())
    }

    /// How many inputs came again under their key, and were not taken again.
    pub fn deduplicated(&self) -> u64 {
        self.deduplicated.load(Relaxed)
    }

    /// Logs a control record with a number of its own; returns its place. The host calls it at the border of two ticks.
    ///
    /// # Errors
    /// As the log's.
    pub fn control(
        &self,
        control: Control,
        tick: Tick,
        origin: &Origin,
        done: impl FnOnce(u64, Result<(), Arc<LogError>>) + Send + 'static,
    ) -> Result<u64, LogError> {
        let mut inner = self.inner.lock();
        // Numbered apart: the numbers of inputs are part of the state, which a pause must not change.
        let seq = inner.next_control;
        let record = Record::Control { seq, tick, principal: origin.principal.clone(), control };
        let lsn = self.log.append(record, Some(Box::new(move |result| done(seq, result.map(|_| ())))))?;
        inner.next_control += 1;
        Ok(lsn)
    }

    /// Takes the logged inputs for a tick.
    pub fn take(&self) -> Vec<InputEnvelope> {
        let mut inner = self.inner.lock();
        let count = inner.queue.len().min(self.limits.tick_max);
        inner.queue.drain(..count).map(|queued| queued.input).collect()
    }

    /// How many logged inputs wait for a tick, in the queue or in the state.
    pub fn queue_len(&self) -> usize {
        self.inner.lock().queue.len() + self.pending.load(Relaxed)
    }

    /// Tells how many inputs wait in the state for their own tick.
    pub fn set_pending(&self, pending: usize) {
        self.pending.store(pending, Relaxed);
    }

    /// How many may wait.
    pub fn queue_max(&self) -> usize {
        self.limits.pending_max
    }

    /// How many inputs were admitted in this process.
    pub fn admitted(&self) -> u64 {
        self.admitted.load(Relaxed)
    }

    /// Notes what became of the inputs of a tick, publishes it by `show`, and tells those who wait. In this order and
    /// under one lock: a snapshot of the tick has the outcomes of its keys, and who hears of one finds the tick shown.
    pub fn resolve(
        &self,
        tick: Tick,
        outcomes: Vec<(u64, Result<Outcome, InputError>)>,
        show: impl FnOnce(),
    ) {
        let mut inner = self.inner.lock();
        let outcomes: Vec<(u64, Applied)> =
            outcomes.into_iter().map(|(seq, outcome)| (seq, Applied { tick, outcome })).collect();
        outcomes.iter().for_each(|(seq, applied)| inner.ledger.applied(*seq, applied));
        show();
        for (seq, applied) in outcomes {
            for waiter in inner.waiters.remove(&seq).into_iter().flatten() {
                // Who waited may have gone.
                let _ = waiter.send(Fate::Applied(applied.clone()));
            }
        }
    }

    /// Admits nothing from now on.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        self.closed.store(true, Relaxed);
        // Those who wait for an outcome are told that none comes in this life.
        inner.waiters.clear();
    }
}

impl Inner {
    /// The input that came before under this key.
    fn repeated(
        &mut self,
        key: &IdempotencyKey,
        wants_outcome: bool,
    ) -> Result<Option<Submitted>, AdmitError> {
        let Some((seq, entry)) = self.ledger.find(&key.key) else { return Ok(None) };
        if entry.key.body_hash != key.body_hash {
            return Err(AdmitError::KeyReused(key.key.clone()));
        }
        let (earliest_tick, durable, known) =
            (entry.earliest_tick, entry.durable.wait(), entry.applied.clone());
        let left = self.branches.left_behind(seq).map(Fate::LeftBehind);
        let fate = wants_outcome.then(|| match known.map(Fate::Applied).or(left) {
            Some(fate) => {
                let (sender, receiver) = oneshot::channel();
                // The other end is in our hands.
                let _ = sender.send(fate);
                receiver
            }
            None => self.wait_for(seq),
        });
        Ok(Some(Submitted { seq, earliest_tick, durable, fate, repeated: true }))
    }

    fn wait_for(&mut self, seq: u64) -> oneshot::Receiver<Fate> {
        let (sender, receiver) = oneshot::channel();
        // Those who have gone are forgotten when the next one comes (L1).
        self.waiters.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            !waiters.is_empty()
        });
        self.waiters.entry(seq).or_default().push(sender);
        receiver
    }
}

/// Tells inputs under the same key apart. It is stored: it must stay the same.
fn body_hash(kind: &str, at_tick: Option<Tick>, payload: &[u8]) -> u64 {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    hash.update(kind.as_bytes());
    hash.update(&[0]);
    hash.update(&at_tick.map_or(u64::MAX, |tick| tick.0).to_le_bytes());
    hash.update(payload);
    hash.digest()
}
