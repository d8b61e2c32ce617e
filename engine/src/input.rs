//! Inputs: what the outside asks of a world, typed, checked before it is logged, applied at a tick's start.
//!
//! An input travels and is logged as JSON. In the tick it is always read from those logged bytes, also when
//! nothing was restored: so the first run and every replay do the same (D3). A rejection in the tick is an
//! outcome, not an error: it is as deterministic as success.

use crate::{
    column::Fault,
    edits::column_at,
    effects::{self, SharedRegistry, UidIndex},
    explain,
    ids::{Tick, Uid},
    marks::Marks,
    registry::Registry,
    resource,
    state::{StateResource, TickTime},
    watch::Watch,
};
use bevy_ecs::{
    bundle::{Bundle, NoBundleEffect},
    prelude::*,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::{any::TypeId, collections::BTreeSet, sync::Arc};

/// A kind of input. The type is its JSON payload.
pub trait Input: Serialize + DeserializeOwned + 'static {
    /// The name of the kind, an imperative in snake case.
    const KIND: &'static str;
    /// One line on what it does.
    const DOC: &'static str;

    /// What can be told without the world. Called before the input is logged; never decides state.
    fn check(&self, registry: &Registry) -> Vec<Fault> {
        let _ = registry;
        Vec::new()
    }

    /// Does it. On an error nothing may have changed.
    fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError>;
}

/// An input as it is logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputEnvelope {
    /// Its number in the world's log, from 1.
    pub seq: u64,
    /// Which [`Input`] it is.
    pub kind: String,
    /// Not before that tick.
    pub at_tick: Option<Tick>,
    /// The JSON payload.
    pub payload: Vec<u8>,
}

/// What an applied input did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The entities that it created.
    pub created: Vec<Uid>,
}

/// Why an input was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum InputError {
    /// This build does not know the kind.
    #[error("unknown kind of input \"{0}\"")]
    UnknownKind(String),
    /// The payload is not what the kind expects.
    #[error("malformed payload: {0}")]
    Malformed(String),
    /// The world as it is does not allow it.
    #[error("{0}")]
    Rejected(String),
    /// It made the world panic, twice, and was left out.
    #[error("skipped: applying it made the world panic")]
    Skipped,
    /// There is no such entity.
    #[error("there is no entity {0}")]
    NotFound(Uid),
    /// An entity is not what the sender expects it to be.
    #[error("entity {0} has changed since")]
    PreconditionFailed(Uid),
}

/// A registered kind of input.
pub struct InputKind {
    /// Its name.
    pub kind: &'static str,
    /// What it does.
    pub doc: &'static str,
    check: fn(&Value, &Registry) -> Result<Vec<u8>, Vec<Fault>>,
    apply: fn(&[u8], &mut InputWorld<'_>) -> Result<Outcome, InputError>,
}

impl InputKind {
    pub(crate) fn of<I: Input>() -> Self {
        Self {
            kind: I::KIND,
            doc: I::DOC,
            check: |value, registry| {
                let input = I::deserialize(value).map_err(|error| vec![Fault::new("", error.to_string())])?;
                let faults = input.check(registry);
                if faults.is_empty() {
                    serde_json::to_vec(&input).map_err(|error| vec![Fault::new("", error.to_string())])
                } else {
                    Err(faults)
                }
            },
            apply: |payload, world| {
                let input: I = serde_json::from_slice(payload)
                    .map_err(|error| InputError::Malformed(error.to_string()))?;
                input.apply(world)
            },
        }
    }

    /// Checks a payload and gives the bytes to log.
    ///
    /// # Errors
    /// Every fault with its JSON pointer.
    pub fn check(&self, payload: &Value, registry: &Registry) -> Result<Vec<u8>, Vec<Fault>> {
        (self.check)(payload, registry)
    }
}

/// The world as an input sees it, and as the set-up of a new world does.
pub struct InputWorld<'w> {
    pub(crate) world: &'w mut World,
}

impl InputWorld<'_> {
    /// What the world is made of.
    pub fn registry(&self) -> Arc<Registry> {
        self.world.resource::<SharedRegistry>().0.clone()
    }

    /// The tick that is being computed, and the seed.
    pub fn time(&self) -> TickTime {
        *self.world.resource::<TickTime>()
    }

    /// A new entity with these columns.
    pub fn spawn(&mut self, columns: impl Bundle) -> Uid {
        effects::spawn(self.world, |entity| {
            entity.insert(columns);
        })
    }

    /// Many new entities with the same kinds of columns; returns the first Uid, the others follow it.
    pub fn spawn_many<B>(&mut self, columns: impl IntoIterator<Item = B>) -> Uid
    where
        B: Bundle<Effect: NoBundleEffect>,
    {
        let first = self.world.resource::<effects::UidCounter>().next;
        // As they come: a million rows side by side would be as much memory again.
        let rows = (first..).map(Uid::new).zip(columns);
        let entities: Vec<Entity> = self.world.spawn_batch(rows).collect();
        let next = first + entities.len() as u64;
        self.world.resource_mut::<effects::UidCounter>().next = next;
        let mut index = self.world.resource_mut::<UidIndex>();
        entities.into_iter().zip(first..).for_each(|(entity, uid)| index.insert(Uid::new(uid), entity));
        self.world.resource_mut::<effects::Lives>().are_born(Uid::new(first), next - first);
        Uid::new(first)
    }

    /// Removes an entity; false when it is not there.
    pub fn despawn(&mut self, uid: Uid) -> bool {
        effects::despawn(self.world, uid)
    }

    /// A component of an entity, to read.
    pub fn get<T: Component>(&self, uid: Uid) -> Option<&T> {
        self.world.get::<T>(self.world.resource::<UidIndex>().get(uid)?)
    }

    /// A component of an entity, to change.
    ///
    /// # Panics
    /// When it is the Uid.
    pub fn get_mut<T: Component<Mutability = bevy_ecs::component::Mutable>>(
        &mut self,
        uid: Uid,
    ) -> Option<Mut<'_, T>> {
        assert!(
            TypeId::of::<T>() != TypeId::of::<Uid>(),
            "a Uid is not changed: the engine gives them, once"
        );
        let entity = self.world.resource::<UidIndex>().get(uid)?;
        self.world.resource_mut::<Marks>().touch(entity);
        self.world.get_mut::<T>(entity)
    }

    /// Adds a component to an entity, or overwrites it; false when the entity is not there.
    pub fn insert(&mut self, uid: Uid, column: impl Component) -> bool {
        let Some(entity) = self.world.resource::<UidIndex>().get(uid) else { return false };
        effects::restructure(self.world, entity, |world| _ = world.entity_mut(entity).insert(column));
        true
    }

    /// A registered resource, to read.
    pub fn resource<R: StateResource>(&self) -> &R {
        self.world.resource::<R>()
    }

    /// A registered resource, to change.
    pub fn resource_mut<R: StateResource>(&mut self) -> Mut<'_, R> {
        self.world.resource_mut::<R>()
    }

    /// How many entities there are.
    pub fn entities(&self) -> usize {
        self.world.resource::<UidIndex>().len()
    }
}

resource! {
    /// Which inputs were taken from the log, and those of them that wait for their tick.
    #[derive(Default)]
    pub(crate) struct TakenInputs("inputs", version 1) {
        /// The last one taken.
        pub(crate) up_to_seq: u64,
        /// By (tick, seq).
        pub(crate) pending: Vec<InputEnvelope>,
    }
}

/// How inputs are applied.
pub(crate) struct HowToApply<'h> {
    pub(crate) watch: &'h Watch,
    pub(crate) skipped: &'h BTreeSet<u64>,
    /// Look at the structure after each input instead of once: a breach then has its culprit.
    pub(crate) settle_each: bool,
}

/// Applies the inputs of a tick: those that waited for it, then the new ones, each in the order of its number.
/// Returns what became of each. Those in `how.skipped` are left out.
pub(crate) fn apply_all(
    world: &mut World,
    tick: Tick,
    inputs: &[InputEnvelope],
    how: &HowToApply<'_>,
) -> Vec<(u64, Result<Outcome, InputError>)> {
    let mut taken = world.resource_mut::<TakenInputs>();
    let waiting = std::mem::take(&mut taken.pending);
    let (mut now, mut later): (Vec<_>, Vec<_>) =
        waiting.into_iter().partition(|input| input.at_tick.is_none_or(|at| at <= tick));
    for input in inputs {
        assert!(input.seq > taken.up_to_seq, "inputs are taken once, in the order of their numbers");
        taken.up_to_seq = input.seq;
        if input.at_tick.is_none_or(|at| at <= tick) {
            now.push(input.clone());
        } else {
            later.push(input.clone());
        }
    }
    later.sort_by_key(|input| (input.at_tick, input.seq));
    taken.pending = later;
    let registry = world.resource::<SharedRegistry>().0.clone();
    let outcomes: Vec<_> = now
        .into_iter()
        .map(|input| {
            how.watch.input(input.seq);
            if how.skipped.contains(&input.seq) {
                return (input.seq, Err(InputError::Skipped));
            }
            let before = explain::look(world);
            let outcome = match registry.input(&input.kind) {
                Some(kind) => (kind.apply)(&input.payload, &mut InputWorld { world }),
                None => Err(InputError::UnknownKind(input.kind.clone())),
            };
            if how.settle_each {
                effects::settle_structure(world);
            }
            explain::input_applied(world, before, &input, &outcome);
            (input.seq, outcome)
        })
        .collect();
    if !outcomes.is_empty() {
        effects::settle_structure(world);
    }
    outcomes
}

/// Creates entities from columns in JSON: the input that every world has.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpawnEntities {
    /// One atomic batch.
    pub entities: Vec<NewEntity>,
}

/// An entity of [`SpawnEntities`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewEntity {
    /// Start from this prototype of the scenario; without one, from nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prototype: Option<String>,
    /// Columns by name; members that are left out keep the prototype's or the default value.
    #[serde(default)]
    pub components: Map<String, Value>,
}

/// The most entities in one [`SpawnEntities`] (L1).
pub const SPAWN_MAX: usize = 10_000;

impl NewEntity {
    /// Its columns as (index of the column, row).
    fn columns(&self, registry: &Registry, pointer: &str, faults: &mut Vec<Fault>) -> Vec<(usize, Vec<u8>)> {
        let mut columns = match &self.prototype {
            None => Vec::new(),
            Some(name) => registry.prototypes.get(name).cloned().unwrap_or_else(|| {
                let known: Vec<_> = registry.prototypes().collect();
                let detail = format!("unknown prototype \"{name}\", this world has: {}", known.join(", "));
                faults.push(Fault::new(format!("{pointer}/prototype"), detail));
                Vec::new()
            }),
        };
        for (name, value) in &self.components {
            let pointer = format!("{pointer}/components/{name}");
            let Some(index) = column_at(name, &pointer, registry, faults) else { continue };
            let base = columns.iter().position(|(known, _)| *known == index);
            let row = registry.columns[index].from_json(
                value,
                base.map(|base| columns[base].1.as_slice()),
                &pointer,
                faults,
            );
            match base {
                Some(base) => columns[base].1 = row,
                None => columns.push((index, row)),
            }
        }
        columns
    }
}

impl Input for SpawnEntities {
    const KIND: &'static str = "spawn_entities";
    const DOC: &'static str =
        "Creates entities, each from a prototype and columns in JSON, as one atomic batch.";

    fn check(&self, registry: &Registry) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.entities.is_empty() || self.entities.len() > SPAWN_MAX {
            let detail = format!("expected 1 to {SPAWN_MAX} entities, found {}", self.entities.len());
            faults.push(Fault::new("/entities", detail));
        }
        for (i, entity) in self.entities.iter().enumerate().take(SPAWN_MAX) {
            entity.columns(registry, &format!("/entities/{i}"), &mut faults);
        }
        faults
    }

    fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError> {
        let registry = world.registry();
        let mut faults = self.check(&registry);
        let rows: Vec<_> =
            self.entities.iter().map(|entity| entity.columns(&registry, "", &mut faults)).collect();
        if let Some(fault) = faults.first() {
            return Err(InputError::Rejected(fault.to_string()));
        }
        let spawn = |columns: Vec<(usize, Vec<u8>)>| {
            effects::spawn(world.world, |entity| {
                for (index, row) in columns {
                    (registry.columns[index].insert)(entity, &row)
                        .expect("from_json makes rows of the right size");
                }
            })
        };
        Ok(Outcome { created: rows.into_iter().map(spawn).collect() })
    }
}
