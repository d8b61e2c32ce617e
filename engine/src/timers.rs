//! In-world timers: a due list by (tick, Uid).
//!
//! Set by systems through their own queue, applied by a node of the plan; at the start of a tick the due ones
//! are taken out and can be read during that tick.

use crate::{
    effects::Slot,
    explain,
    ids::{Tick, Uid},
    resource,
    state::TickTime,
    system::CurrentSystem,
};
use bevy_ecs::{prelude::*, system::SystemParam};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Sets timers. Usable from parallel rows.
#[derive(SystemParam)]
pub struct Timers<'w, 's> {
    time: Res<'w, TickTime>,
    slot: Local<'s, TimerSlot>,
}

impl Timers<'_, '_> {
    /// A timer that is due so many ticks from now, in the next tick at the earliest. `kind` is the caller's.
    pub fn after(&self, ticks: u64, uid: Uid, kind: u32) {
        let at = Tick(self.time.tick.0 + ticks.max(1));
        self.slot.0.push(uid, (at, kind));
    }
}

/// The timers that are due in this tick, by (Uid, kind).
#[derive(SystemParam)]
pub struct Due<'w> {
    due: Res<'w, DueTimers>,
}

impl Due<'_> {
    /// Whose timer of that kind is due, in the order of Uids.
    pub fn of(&self, kind: u32) -> impl Iterator<Item = Uid> {
        self.due.0.iter().filter(move |(_, due)| *due == kind).map(|(uid, _)| *uid)
    }
}

resource! {
    /// All timers that are not due yet.
    #[derive(Default)]
    pub(crate) struct TimerQueue("timers", version 1) {
        by_tick: BTreeMap<u64, Vec<(Uid, u32)>>,
    }
}

/// The timers of this tick. Derived: taken from the queue at the tick's start.
#[derive(Resource, Default)]
pub(crate) struct DueTimers(Vec<(Uid, u32)>);

/// All queues of timers, in the order in which systems were initialised.
#[derive(Resource, Default)]
pub(crate) struct TimerSlots(pub(crate) Vec<Arc<Slot<(Tick, u32)>>>);

struct TimerSlot(Arc<Slot<(Tick, u32)>>);

impl FromWorld for TimerSlot {
    fn from_world(world: &mut World) -> Self {
        let slot = Slot::new(world.resource::<CurrentSystem>().name.clone());
        world.resource_mut::<TimerSlots>().0.push(slot.clone());
        Self(slot)
    }
}

/// At the start of a tick.
pub(crate) fn take_due(world: &mut World, tick: Tick) {
    let mut queue = world.resource_mut::<TimerQueue>();
    let mut due = queue.by_tick.remove(&tick.0).unwrap_or_default();
    due.sort_unstable();
    explain::timers_due(world, &due);
    world.resource_mut::<DueTimers>().0 = due;
}

/// Applies the queues of some systems in the order given.
pub(crate) fn apply(queue: &mut TimerQueue, slots: &[Arc<Slot<(Tick, u32)>>]) {
    let mut touched = BTreeSet::new();
    for slot in slots {
        for (uid, (at, kind)) in slot.take() {
            explain!(uid, "{} set a timer of kind {kind} for tick {at}", slot.system);
            queue.by_tick.entry(at.0).or_default().push((uid, kind));
            touched.insert(at.0);
        }
    }
    // The list is state, and two rows may set timers on one Uid: it is kept in an order that no thread decides.
    for tick in touched {
        queue.by_tick.entry(tick).or_default().sort_unstable();
    }
}
