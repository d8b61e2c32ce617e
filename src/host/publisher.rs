//! Decides when a computed tick may be seen outside (D2): once its Seal and a Horizon that reaches it are durable.

use crate::{sequencer::Sequencer, status::WorldStatus};
use everworld_engine::{InputError, Mirror, Outcome, Tick};
use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc};

/// Called by the tick thread when a tick is computed, and by the log's thread when something became durable.
pub(super) struct Publisher {
    status: Arc<WorldStatus>,
    sequencer: Arc<Sequencer>,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Ticks that are computed and not shown. Ticks without inputs are folded into one entry, so that this grows
    /// with the Seals that wait for a sync, not with the ticks.
    waiting: VecDeque<Computed>,
    durable_lsn: u64,
    durable_horizon: Tick,
    lowered: u64,
}

struct Computed {
    tick: Tick,
    seal: u64,
    entities: usize,
    outcomes: Vec<(u64, Result<Outcome, InputError>)>,
}

impl Publisher {
    pub(super) fn new(status: Arc<WorldStatus>, sequencer: Arc<Sequencer>, durable_horizon: Tick) -> Self {
        let inner = Inner { waiting: VecDeque::new(), durable_lsn: 0, durable_horizon, lowered: 0 };
        Self { status, sequencer, inner: Mutex::new(inner) }
    }

    /// Shows a tick that is known to be covered.
    pub(super) fn show(&self, tick: Tick, entities: usize, mirror: &Mirror) {
        self.status.publish(tick, entities);
        mirror.allow(tick);
    }

    /// A tick is computed; `seal` is the log position of its Seal, 0 without one.
    pub(super) fn computed(
        &self,
        tick: Tick,
        seal: u64,
        entities: usize,
        outcomes: Vec<(u64, Result<Outcome, InputError>)>,
        mirror: &Mirror,
    ) {
        let mut inner = self.inner.lock();
        let horizon = inner.durable_horizon;
        match inner.waiting.back_mut() {
            // Both beyond the horizon and without inputs: the later one says it all. One at or below the horizon
            // stays by itself, as it can be shown before.
            Some(last)
                if last.seal == 0
                    && seal == 0
                    && outcomes.is_empty()
                    && last.outcomes.is_empty()
                    && last.tick > horizon =>
            {
                *last = Computed { tick, seal, entities, outcomes };
            }
            _ => inner.waiting.push_back(Computed { tick, seal, entities, outcomes }),
        }
        self.advance(&mut inner, mirror);
    }

    pub(super) fn log_durable(&self, lsn: u64, mirror: &Mirror) {
        let mut inner = self.inner.lock();
        inner.durable_lsn = inner.durable_lsn.max(lsn);
        self.advance(&mut inner, mirror);
    }

    /// A horizon is durable that was appended when the horizon had been lowered `lowered` times.
    pub(super) fn horizon_durable(&self, tick: Tick, lowered: u64, mirror: &Mirror) {
        let mut inner = self.inner.lock();
        if lowered == inner.lowered {
            inner.durable_horizon = tick;
            self.advance(&mut inner, mirror);
        }
    }

    /// A lower horizon is about to be appended, for the `lowered`-th time: no earlier one counts any more.
    pub(super) fn lower_horizon(&self, tick: Tick, lowered: u64) {
        let mut inner = self.inner.lock();
        inner.durable_horizon = inner.durable_horizon.min(tick);
        inner.lowered = lowered;
    }

    fn advance(&self, inner: &mut Inner, mirror: &Mirror) {
        while let Some(next) = inner.waiting.front() {
            if next.seal > inner.durable_lsn || next.tick > inner.durable_horizon {
                return;
            }
            let Some(Computed { tick, entities, outcomes, .. }) = inner.waiting.pop_front() else { return };
            self.show(tick, entities, mirror);
            if !outcomes.is_empty() {
                self.sequencer.resolve(tick, outcomes);
            }
        }
    }
}
