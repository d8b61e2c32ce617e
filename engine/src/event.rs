//! What happens in a tick, told in an order that depends on nothing but the world.
//!
//! A system emits plain rows, declared with [`event!`](crate::event!), through [`Emit`], also from parallel rows. At the end
//! of each phase a node of the plan puts what its systems emitted in order: by the name of the system, then by the Uid of
//! whom it is about, then as it was emitted. Systems of later phases read it as `Res<Happened<E>>`; whoever looks on from
//! outside gets it with the tick's report, as [`EventBatch`]es. What happened in a tick is gone with the next one: it is
//! neither state nor stored, and comes again whenever the tick does (W1, W3, W4).

use crate::{
    column::{FieldInfo, Scalar, Shape, row_to_json},
    ids::Uid,
    pool::pass,
    system::CurrentSystem,
};
use bevy_ecs::{
    prelude::*,
    system::{BoxedSystem, SystemParam},
};
use bytemuck::Pod;
use parking_lot::Mutex;
use rayon::prelude::*;
use serde_json::Value;
use std::{mem, sync::Arc};

/// A plain row that tells of something. Declare it with [`event!`](crate::event!), never by hand.
pub trait Event: Pod + Default + PartialEq + Send + Sync {
    /// Its name, and the topic under which it is told; unique in a world.
    const NAME: &'static str;
    /// The first lines of its documentation.
    const DOC: &'static str;
    /// Its named fields, in the order of the row's bytes.
    const FIELDS: &'static [FieldInfo];
}

/// Declares an event as a plain row of named numeric fields, as [`component!`](crate::component!) does a column.
///
/// ```
/// use everworld_engine::{Uid, event, event::Event};
/// event! {
///     /// One was told something by another.
///     pub struct Told("told") {
///         by: Uid,
///         /// How surprising it was, from 0 to 1.
///         weight: f32,
///         /// Which rumour.
///         rumour: u32,
///     }
/// }
/// assert_eq!(Told::FIELDS[1].name, "weight");
/// ```
#[macro_export]
macro_rules! event {
    ($(#[$($meta:tt)*])* $vis:vis struct $Name:ident($name:literal) { $($fields:tt)* }) => {
        $crate::__plain_row! { $(#[$($meta)*])* $vis struct $Name { $($fields)* } }

        impl $crate::event::Event for $Name {
            const NAME: &'static str = $name;
            const DOC: &'static str = $crate::__doc_of!($(#[$($meta)*])*);
            const FIELDS: &'static [$crate::column::FieldInfo] = Self::ROW_FIELDS;
        }
    };
}

/// Tells that something happened. Usable from parallel rows.
#[derive(SystemParam)]
pub struct Emit<'s, E: Event> {
    queue: Local<'s, QueueOf<E>>,
}

impl<E: Event> Emit<'_, E> {
    /// Something happened to `about`, or was done by it. In one pass over rows only one row may tell of an entity, its own as
    /// a rule: what two rows tell of a third comes in no order that all threads agree on.
    pub fn emit(&self, about: Uid, event: E) {
        self.queue.0.push(about, event);
    }
}

/// What one system emits.
struct Queue<E> {
    system: String,
    /// By thread, so that none waits for another.
    shards: Vec<Shard<E>>,
}

/// On cache lines of its own.
#[repr(align(128))]
struct Shard<E>(Mutex<Vec<Emitted<E>>>);

#[derive(Clone, Copy)]
struct Emitted<E> {
    about: Uid,
    /// In which pass over rows: a system may make several, one after the other.
    pass: u64,
    event: E,
}

/// Of a pool with more threads, some share one.
const SHARDS: usize = 33;

impl<E: Event> Queue<E> {
    fn new(system: String) -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Shard(Mutex::default())).collect();
        Arc::new(Self { system, shards })
    }

    #[inline]
    fn push(&self, about: Uid, event: E) {
        let shard = rayon::current_thread_index().map_or(0, |thread| 1 + thread % (SHARDS - 1));
        self.shards[shard].0.lock().push(Emitted { about, pass: pass(), event });
    }
}

struct QueueOf<E>(Arc<Queue<E>>);

impl<E: Event> FromWorld for QueueOf<E> {
    fn from_world(world: &mut World) -> Self {
        let queue = Queue::new(world.resource::<CurrentSystem>().name.clone());
        let Some(mut queues) = world.get_resource_mut::<Queues<E>>() else {
            panic!("it emits \"{}\", which is not registered as an event", E::NAME)
        };
        queues.0.push(queue.clone());
        Self(queue)
    }
}

/// The queues of all systems that emit it.
#[derive(Resource)]
struct Queues<E>(Vec<Arc<Queue<E>>>);

/// What happened in this tick, in order; of the phases before the one in which it is read.
#[derive(Resource)]
pub struct Happened<E> {
    events: Vec<Emitted<E>>,
    /// Whether they are in the order of Uids: not where several systems emit, one after the other.
    is_out_of_order: bool,
    /// How many more there were than are kept.
    lost: u64,
}

impl<E> Default for Happened<E> {
    fn default() -> Self {
        Self { events: Vec::new(), is_out_of_order: false, lost: 0 }
    }
}

/// So many of a kind are kept in a tick; the same ones in each run (L1).
pub const EVENTS_MAX: usize = 1 << 22;

impl<E: Event> Happened<E> {
    /// Each with whom it is about.
    pub fn iter(&self) -> impl Iterator<Item = (Uid, &E)> {
        self.events.iter().map(|emitted| (emitted.about, &emitted.event))
    }

    /// What happened of one.
    ///
    /// # Panics
    /// Where several systems emitted of the kind.
    pub fn of(&self, uid: Uid) -> impl Iterator<Item = &E> {
        let own = self.events[self.first_of(uid)..].iter();
        own.take_while(move |emitted| emitted.about == uid).map(|emitted| &emitted.event)
    }

    /// # Panics
    /// Where they are not in the order of Uids.
    fn first_of(&self, uid: Uid) -> usize {
        assert!(
            !self.is_out_of_order,
            "\"{}\" is emitted by several systems: go through it by iter()",
            E::NAME
        );
        self.events.partition_point(|emitted| emitted.about < uid)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// True when nothing of the kind happened.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    fn gather(&mut self, queues: &[Arc<Queue<E>>]) {
        for queue in queues {
            let first = self.events.len();
            for shard in &queue.shards {
                let mut shard = shard.0.lock();
                if shard.is_empty() {
                    continue;
                }
                if self.events.is_empty() {
                    mem::swap(&mut self.events, &mut *shard);
                } else {
                    self.events.append(&mut shard);
                }
            }
            // One row is one thread's in a pass: what is of one Uid and one pass came in order already.
            let order = |emitted: &Emitted<E>| (emitted.about, emitted.pass);
            let new = &mut self.events[first..];
            if !new.is_sorted_by_key(order) {
                if rayon::current_thread_index().is_some() {
                    new.par_sort_by_key(order);
                } else {
                    new.sort_by_key(order);
                }
            }
            if first > 0 && self.events.len() > first {
                self.is_out_of_order |= self.events[first - 1].about > self.events[first].about;
            }
        }
        self.lost += self.events.len().saturating_sub(EVENTS_MAX) as u64;
        self.events.truncate(EVENTS_MAX);
    }
}

/// A kind of event as the engine keeps it, whatever its type.
#[derive(Clone, Copy)]
pub(crate) struct EventKind {
    pub(crate) info: &'static EventInfo,
    /// Whether it is told outside.
    pub(crate) is_told: bool,
    /// The names of the systems that emit it.
    pub(crate) emitters: fn(&World) -> Vec<String>,
    /// What gathers what these systems emitted.
    pub(crate) gathering: fn(&World, &[String]) -> BoxedSystem,
    /// Forgets what happened, and what was emitted and never gathered.
    pub(crate) forget: fn(&mut World),
    /// Empties what happened, for the next tick.
    pub(crate) clear: fn(&mut World),
    /// What happened, the first so many of it.
    pub(crate) told: fn(&World, usize) -> EventBatch,
}

/// What a kind of event is.
#[derive(Debug, PartialEq, Eq)]
pub struct EventInfo {
    /// Its name.
    pub name: &'static str,
    /// The first lines of its documentation.
    pub doc: &'static str,
    /// Its fields.
    pub fields: &'static [FieldInfo],
}

/// For each type of event, its own.
trait Described: Event {
    const INFO: EventInfo = EventInfo { name: Self::NAME, doc: Self::DOC, fields: Self::FIELDS };
}

impl<E: Event> Described for E {}

impl EventKind {
    pub(crate) fn of<E: Event>() -> Self {
        Self {
            info: &<E as Described>::INFO,
            is_told: true,
            emitters: |world| {
                world.resource::<Queues<E>>().0.iter().map(|queue| queue.system.clone()).collect()
            },
            gathering: |world, systems| {
                let queues = world.resource::<Queues<E>>().0.iter();
                let mut queues: Vec<_> =
                    queues.filter(|queue| systems.contains(&queue.system)).cloned().collect();
                queues.sort_by(|a, b| a.system.cmp(&b.system));
                Box::new(IntoSystem::into_system(move |mut happened: ResMut<'_, Happened<E>>| {
                    happened.gather(&queues);
                }))
            },
            forget: |world| {
                for shard in world.resource::<Queues<E>>().0.iter().flat_map(|queue| &queue.shards) {
                    shard.0.lock().clear();
                }
                world.insert_resource(Happened::<E>::default());
            },
            clear: |world| {
                // Without a mark: nobody reads it as changed.
                let happened = &mut *world.resource_mut::<Happened<E>>();
                happened.events.clear();
                (happened.lost, happened.is_out_of_order) = (0, false);
            },
            told: |world, most| {
                let Happened { events, lost, .. } = world.resource::<Happened<E>>();
                let told = &events[..events.len().min(most)];
                let mut rows = Vec::with_capacity(told.len() * size_of::<E>());
                told.iter().for_each(|emitted| rows.extend_from_slice(bytemuck::bytes_of(&emitted.event)));
                EventBatch {
                    info: &<E as Described>::INFO,
                    count: events.len() as u64 + lost,
                    about: told.iter().map(|emitted| emitted.about).collect(),
                    rows,
                }
            },
        }
    }

    pub(crate) fn prepare<E: Event>(world: &mut World) {
        world.insert_resource(Queues::<E>(Vec::new()));
    }
}

/// What happened of a kind in a tick, for whoever looks on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventBatch {
    /// Of which kind.
    pub info: &'static EventInfo,
    /// How many there were; the first of them are here.
    pub count: u64,
    about: Vec<Uid>,
    rows: Vec<u8>,
}

impl EventBatch {
    /// How many are here.
    pub fn len(&self) -> usize {
        self.about.len()
    }

    /// True when none is here.
    pub fn is_empty(&self) -> bool {
        self.about.is_empty()
    }

    /// Whom one is about, and its fields by name.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn to_json(&self, index: usize) -> (Uid, Value) {
        (self.about[index], row_to_json(self.info.fields, self.row(index)))
    }

    /// Whether one is about that entity, or names it in a field.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn is_about(&self, index: usize, uid: Uid) -> bool {
        let names = |field: &FieldInfo| {
            let bytes = &self.row(index)[field.offset..];
            field.shape == Shape::Scalar(Scalar::Uid) && bytes.starts_with(&uid.get().to_ne_bytes())
        };
        self.about[index] == uid || self.info.fields.iter().any(names)
    }

    fn row(&self, index: usize) -> &[u8] {
        let bytes = self.rows.len() / self.len();
        &self.rows[index * bytes..][..bytes]
    }
}
