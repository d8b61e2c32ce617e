//! The sequencer: admits inputs, numbers and logs them, and hands them to the tick; the only way in (law 2).
//!
//! An input is acknowledged once its log record is synced (D1). The tick takes what is logged, in the order of the
//! numbers; its Seal comes later in the same log, so that whatever a durable Seal covers is durable too.

use crate::status::WorldStatus;
use everworld_engine::{InputEnvelope, InputError, Outcome, Registry, Tick, column::Fault};
use everworld_persistence::{Control, InputRecord, LogError, LogHandle, Record};
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
    /// Resolves once its tick is published; for who wants to wait for that.
    pub applied: Option<oneshot::Receiver<Applied>>,
}

/// An applied input.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The tick in which it was applied.
    pub tick: Tick,
    /// What became of it.
    pub outcome: Result<Outcome, InputError>,
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
    /// Too many wait for a tick, or the log's queue or disk is full: try again later (L2).
    #[error("{0}")]
    Busy(String),
    /// The log failed or is closed: the world takes nothing any more.
    #[error("the input log is not available: {0}")]
    Unavailable(String),
}

/// Admits inputs of one world.
pub struct Sequencer {
    log: LogHandle,
    registry: Arc<Registry>,
    status: Arc<WorldStatus>,
    pending_max: usize,
    closed: AtomicBool,
    admitted: AtomicU64,
    /// Inputs that a tick has taken and that wait in the state for their own tick.
    pending: AtomicUsize,
    inner: Mutex<Inner>,
}

struct Inner {
    next_seq: u64,
    next_control: u64,
    queue: VecDeque<InputEnvelope>,
    waiters: BTreeMap<u64, oneshot::Sender<Applied>>,
}

impl Sequencer {
    /// Goes on after the last number in the log, with the inputs that no tick has taken yet.
    pub fn new(
        log: LogHandle,
        registry: Arc<Registry>,
        status: Arc<WorldStatus>,
        (next_seq, next_control): (u64, u64),
        queued: Vec<InputEnvelope>,
        pending_max: usize,
    ) -> Self {
        let pending = AtomicUsize::new(0);
        let inner = Inner { next_seq, next_control, queue: queued.into(), waiters: BTreeMap::new() };
        let (closed, admitted) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { log, registry, status, pending_max, closed, admitted, pending, inner: Mutex::new(inner) }
    }

    /// Checks, numbers and logs an input.
    ///
    /// # Errors
    /// See [`AdmitError`]; nothing is logged then.
    pub fn submit(
        &self,
        kind: &str,
        payload: &Value,
        at_tick: Option<Tick>,
        wants_outcome: bool,
        origin: &Origin,
    ) -> Result<Submitted, AdmitError> {
        let known = self.registry.input(kind).ok_or_else(|| AdmitError::UnknownKind(kind.to_owned()))?;
        let payload = known.check(payload, &self.registry).map_err(AdmitError::Invalid)?;
        let (durable_tx, durable) = oneshot::channel();
        // Number and place in the log are given under one lock: the log has inputs in the order of their numbers.
        let mut inner = self.inner.lock();
        if self.closed.load(Relaxed) {
            return Err(AdmitError::Unavailable("the server is stopping".into()));
        }
        let waiting = inner.queue.len() + self.pending.load(Relaxed);
        if waiting >= self.pending_max {
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
        });
        let done = Box::new(move |result: Result<_, Arc<LogError>>| {
            // Nobody waits any more when the client has gone.
            let _ = durable_tx.send(result.map(|_| ()));
        });
        self.log.append(record, Some(done)).map_err(|error| match error {
            LogError::QueueFull { .. } | LogError::NoSpace { .. } => AdmitError::Busy(error.to_string()),
            LogError::RecordTooLarge { .. } => AdmitError::Invalid(vec![Fault::new("", error.to_string())]),
            other => AdmitError::Unavailable(other.to_string()),
        })?;
        inner.next_seq += 1;
        inner.queue.push_back(InputEnvelope { seq, kind: kind.to_owned(), at_tick, payload });
        let applied = wants_outcome.then(|| {
            let (sender, receiver) = oneshot::channel();
            // Those who have gone are forgotten when the next one comes (L1).
            inner.waiters.retain(|_, waiter| !waiter.is_closed());
            inner.waiters.insert(seq, sender);
            receiver
        });
        self.admitted.fetch_add(1, Relaxed);
        let earliest_tick = at_tick.unwrap_or_default().max(self.status.tick().next());
        Ok(Submitted { seq, earliest_tick, durable, applied })
    }

    /// Logs a control record with a number of its own. The host calls it at the border of two ticks.
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
        self.log.append(record, Some(Box::new(move |result| done(seq, result.map(|_| ())))))?;
        inner.next_control += 1;
        Ok(seq)
    }

    /// Takes up to `max` logged inputs for a tick.
    pub fn take(&self, max: usize) -> Vec<InputEnvelope> {
        let mut inner = self.inner.lock();
        let count = inner.queue.len().min(max);
        inner.queue.drain(..count).collect()
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
        self.pending_max
    }

    /// How many inputs were admitted in this process.
    pub fn admitted(&self) -> u64 {
        self.admitted.load(Relaxed)
    }

    /// Tells those who wait what became of their inputs, once the tick is published.
    pub fn resolve(&self, tick: Tick, outcomes: Vec<(u64, Result<Outcome, InputError>)>) {
        let mut inner = self.inner.lock();
        for (seq, outcome) in outcomes {
            if let Some(waiter) = inner.waiters.remove(&seq) {
                // Most clients do not wait for it.
                let _ = waiter.send(Applied { tick, outcome });
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
