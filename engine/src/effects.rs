//! Structural change: births, deaths, columns that come and go. Always at a node of the plan, never at will.
//!
//! A system writes what it wants into its own queue. The node at the end of its phase sorts by (name of the
//! system, Uid of the one who asked, sequence) and applies; Uids are given there. So neither threads nor
//! row order decide who is born first (W3).

use crate::{
    column::Column, explain, ids::Uid, marks::Marks, registry::Registry, resource, system::CurrentSystem,
    uid_map::UidMap,
};
use bevy_ecs::{
    archetype::{Archetype, ArchetypeEntity},
    bundle::Bundle,
    observer::Observer,
    prelude::*,
    resource::IsResource,
    system::SystemParam,
    world::EntityWorldMut,
};
use parking_lot::Mutex;
use std::sync::Arc;

/// Structural change from a system. Usable from parallel rows.
#[derive(SystemParam)]
pub struct Effects<'s> {
    slot: Local<'s, StructureSlot>,
}

impl Effects<'_> {
    /// A new entity with these columns. `by` is who asks: its Uid, or any key that is unique in this system and
    /// tick. What one asks for is applied in the order of asking, what several ask for in the order of their keys.
    pub fn spawn(&self, by: Uid, columns: impl Bundle) {
        self.push(
            by,
            Effect::Spawn(Box::new(move |entity| {
                entity.insert(columns);
            })),
        );
    }

    /// Removes an entity. One that is gone already is no error.
    pub fn despawn(&self, by: Uid, uid: Uid) {
        self.push(by, Effect::Despawn(uid));
    }

    /// Adds a column to an entity, or overwrites it.
    pub fn insert(&self, by: Uid, uid: Uid, column: impl Column) {
        self.push(
            by,
            Effect::Change(
                uid,
                Box::new(move |entity| {
                    entity.insert(column);
                }),
            ),
        );
    }

    /// Takes a column from an entity.
    pub fn remove<T: Column>(&self, by: Uid, uid: Uid) {
        self.push(
            by,
            Effect::Change(
                uid,
                Box::new(|entity| {
                    entity.remove::<T>();
                }),
            ),
        );
    }

    fn push(&self, by: Uid, effect: Effect) {
        self.slot.0.queue.lock().push((by, effect));
    }
}

type Change = Box<dyn FnOnce(&mut EntityWorldMut<'_>) + Send>;

pub(crate) enum Effect {
    Spawn(Change),
    Despawn(Uid),
    Change(Uid, Change),
}

/// The queue of one system.
pub(crate) struct Slot<E> {
    pub(crate) system: String,
    queue: Mutex<Vec<(Uid, E)>>,
}

impl<E> Slot<E> {
    pub(crate) fn new(system: String) -> Arc<Self> {
        Arc::new(Self { system, queue: Mutex::default() })
    }

    pub(crate) fn push(&self, by: Uid, effect: E) {
        self.queue.lock().push((by, effect));
    }

    /// What was queued, by who asked; within one in the order of asking, which one thread has done.
    pub(crate) fn take(&self) -> Vec<(Uid, E)> {
        let mut effects = std::mem::take(&mut *self.queue.lock());
        effects.sort_by_key(|(by, _)| *by);
        effects
    }
}

/// All queues of structural effects, in the order in which systems were initialised.
#[derive(Resource, Default)]
pub(crate) struct StructureSlots(pub(crate) Vec<Arc<Slot<Effect>>>);

struct StructureSlot(Arc<Slot<Effect>>);

impl FromWorld for StructureSlot {
    fn from_world(world: &mut World) -> Self {
        let slot = Slot::new(world.resource::<CurrentSystem>().name.clone());
        world.resource_mut::<StructureSlots>().0.push(slot.clone());
        Self(slot)
    }
}

resource! {
    /// The next Uid to be given.
    pub(crate) struct UidCounter("uids", version 1) {
        pub(crate) next: u64,
    }
}

/// Where the entity of a Uid is. Derived: rebuilt from the Uid column.
#[derive(Resource, Default)]
pub struct UidIndex(UidMap<Entity>);

impl UidIndex {
    /// The entity of that Uid, for [`Query::get`].
    #[inline]
    pub fn get(&self, uid: Uid) -> Option<Entity> {
        self.0.get(uid)
    }

    /// How many entities there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is nobody.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn insert(&mut self, uid: Uid, entity: Entity) {
        self.0.insert(uid, entity);
    }

    fn remove(&mut self, uid: Uid) -> Option<Entity> {
        self.0.remove(uid)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Who was born and who is gone in a tick, for whoever looks on: no system reads it, and it is no state.
#[derive(Resource, Clone, Debug, Default, PartialEq, Eq)]
pub struct Lives {
    /// The first of those who were born, in order.
    pub born: Vec<Uid>,
    /// How many were born.
    pub born_count: u64,
    /// The first of those who are gone, in order.
    pub gone: Vec<Uid>,
    /// How many are gone.
    pub gone_count: u64,
}

/// So many of each are told by name.
pub const LIVES_MAX: usize = 100;

impl Lives {
    /// True when nobody came or went.
    pub fn is_empty(&self) -> bool {
        self.born_count + self.gone_count == 0
    }

    pub(crate) fn are_born(&mut self, first: Uid, count: u64) {
        let told = (LIVES_MAX - self.born.len().min(LIVES_MAX)) as u64;
        self.born.extend((first.get()..first.get() + count.min(told)).map(Uid::new));
        self.born_count += count;
    }

    fn is_gone(&mut self, uid: Uid) {
        if self.gone.len() < LIVES_MAX {
            self.gone.push(uid);
        }
        self.gone_count += 1;
    }
}

/// Gives the next Uid.
pub(crate) fn next_uid(world: &mut World) -> Uid {
    let mut counter = world.resource_mut::<UidCounter>();
    let uid = Uid::new(counter.next);
    counter.next += 1;
    uid
}

/// A new entity: Uid, columns, index.
pub(crate) fn spawn(world: &mut World, columns: impl FnOnce(&mut EntityWorldMut<'_>)) -> Uid {
    let uid = next_uid(world);
    let mut entity = world.spawn(uid);
    columns(&mut entity);
    assert!(entity.get() == Some(&uid), "an entity was spawned with a Uid of its own: the engine gives them");
    let id = entity.id();
    world.resource_mut::<UidIndex>().insert(uid, id);
    world.resource_mut::<Lives>().are_born(uid, 1);
    uid
}

/// Removes an entity; false when it is not there.
pub(crate) fn despawn(world: &mut World, uid: Uid) -> bool {
    let entity = world.resource_mut::<UidIndex>().remove(uid);
    let is_gone = entity.is_some_and(|entity| restructure(world, entity, |world| world.despawn(entity)));
    if is_gone {
        world.resource_mut::<Lives>().is_gone(uid);
    }
    is_gone
}

/// Does something to an entity that may move it, and touches it and whoever takes the row that it leaves: marks belong
/// to rows, and do not follow who is moved.
///
/// # Panics
/// When it changes the entity's Uid.
pub(crate) fn restructure<R>(world: &mut World, entity: Entity, change: impl FnOnce(&mut World) -> R) -> R {
    let table = |world: &World| world.entities().get_spawned(entity).map(|place| place.table_id).ok();
    let (before, uid) = (table(world), world.get::<Uid>(entity).copied());
    let rows = before.and_then(|table| world.storages().tables.get(table));
    let last = rows.and_then(|table| table.entities().last().copied());
    let result = change(world);
    let kept = world.get::<Uid>(entity).is_none_or(|now| Some(*now) == uid);
    assert!(kept, "an entity was given another Uid: the engine gives them, once");
    let has_moved = table(world) != before;
    let mut marks = world.resource_mut::<Marks>();
    marks.touch(entity);
    if let Some(last) = last.filter(|last| has_moved && *last != entity) {
        marks.touch(last);
    }
    result
}

/// Applies the queues of some systems in the order given.
pub(crate) fn apply(world: &mut World, slots: &[Arc<Slot<Effect>>]) {
    let mut changed = false;
    for slot in slots {
        for (_, effect) in slot.take() {
            changed = true;
            match effect {
                Effect::Spawn(columns) => {
                    let uid = spawn(world, columns);
                    explain!(uid, "{} has asked for its birth", slot.system);
                }
                Effect::Despawn(uid) => {
                    explain!(uid, "{} has asked for its end", slot.system);
                    despawn(world, uid);
                }
                Effect::Change(uid, change) => {
                    explain!(uid, "{} has asked for other columns", slot.system);
                    if let Some(entity) = world.resource::<UidIndex>().get(uid) {
                        restructure(world, entity, |world| change(&mut world.entity_mut(entity)));
                    }
                }
            }
        }
    }
    if changed {
        settle_structure(world);
    }
}

/// How many archetypes there were when the world was built: bevy's own.
#[derive(Resource, Default)]
pub(crate) struct BuiltArchetypes(pub(crate) usize);

/// The archetypes of entities that are neither bevy's own nor resources. Those without entities are left out:
/// stages that some passed through, or left by what a restore undid.
fn own_archetypes(world: &World) -> impl Iterator<Item = &Archetype> {
    let built = world.resource::<BuiltArchetypes>().0;
    let is_resource = world.component_id::<IsResource>();
    let own = move |archetype: &&Archetype| {
        !archetype.is_empty() && !is_resource.is_some_and(|id| archetype.contains(id))
    };
    world.archetypes().iter().skip(built).filter(own)
}

/// Removes every entity, also what a system has smuggled in.
pub(crate) fn clear(world: &mut World) {
    let entities =
        own_archetypes(world).flat_map(|archetype| archetype.entities().iter().map(ArchetypeEntity::id));
    let entities: Vec<Entity> = entities.collect();
    for entity in entities {
        world.despawn(entity);
    }
    world.resource_mut::<UidIndex>().clear();
    // Who came or went in a tick that failed is not told.
    *world.resource_mut::<Lives>() = Lives::default();
}

/// After structural change: room for marks, and nothing in the world that is not state.
///
/// # Panics
/// When an entity has an unregistered component or no Uid, or was spawned past the engine: it would be lost
/// at the next restore (W4).
pub(crate) fn settle_structure(world: &mut World) {
    settle(world, true);
}

/// The same, where structure may have changed or not: whatever an exclusive system did.
pub(crate) fn settle_whatever_happened(world: &mut World) {
    settle(world, false);
}

fn settle(world: &mut World, has_changed: bool) {
    world.flush();
    assert!(
        world.component_id::<Observer>().is_none(),
        "the world has observers: they act where no plan says so"
    );
    let registry = world.resource::<SharedRegistry>().0.clone();
    let uid = world.component_id::<Uid>().expect("every world registers Uid");
    for archetype in own_archetypes(world) {
        assert!(
            archetype.contains(uid),
            "an entity was spawned without a Uid: use Effects or an input, not the world"
        );
        for id in archetype.components() {
            assert!(
                registry.by_id(*id).is_some(),
                "an entity has a component that is not registered (component {}): it would not survive a restore",
                id.index()
            );
        }
    }
    world.resource_scope(|world, mut marks: Mut<'_, Marks>| {
        marks.structure_changed = true;
        let mut entities = 0;
        for table in world.storages().tables.iter() {
            if !table.has_column(uid) {
                continue;
            }
            entities += table.entity_count() as usize;
            let table_id = world
                .entities()
                .get_spawned(*table.entities().first().unwrap_or(&Entity::PLACEHOLDER))
                .map(|location| location.table_id);
            let Ok(table_id) = table_id else { continue };
            for column in registry.columns.iter().filter(|column| table.has_column(column.id)) {
                marks.grow(table_id, column.id, &column.schema, table.entity_count() as usize);
            }
        }
        assert_eq!(
            entities,
            world.resource::<UidIndex>().len(),
            "entities were spawned or removed past the engine: use Effects or an input, not the world"
        );
        if marks.follow_moves(world, uid) || has_changed {
            marks.structure += 1;
        }
        for entity in marks.take_touched() {
            // One that is gone leaves a row that another has, or none: the capture sees that by the Uid.
            if let Ok(location) = world.entities().get_spawned(entity) {
                marks.mark_entity(location.table_id, location.table_row.index());
            }
        }
    });
}

/// The registry as every node sees it. Not state.
#[derive(Resource)]
pub(crate) struct SharedRegistry(pub(crate) Arc<Registry>);
