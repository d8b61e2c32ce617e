//! Inputs that change and remove single entities: what every world has beside [`SpawnEntities`](crate::input::SpawnEntities).
//!
//! A batch is atomic: all of it is looked at before any of it is done. What somebody expects of an entity travels with the
//! input as the hash of its columns, and is looked at again in the tick.

use crate::{
    column::{Column as _, Fault},
    effects::{self, UidIndex},
    hash::{column_salt, hash_row},
    ids::Uid,
    image::{Image, TableImage},
    input::{Input, InputError, InputWorld, Outcome},
    registry::Registry,
};
use bevy_ecs::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The most entities in one batch (L1).
pub const EDITS_MAX: usize = 10_000;

/// Changes components of entities, as one atomic batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateEntities {
    /// What changes.
    pub entities: Vec<EntityUpdate>,
}

/// A part of [`UpdateEntities`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntityUpdate {
    /// Whose.
    pub uid: Uid,
    /// Columns by name, merged into what is there (RFC 7396): members that are left out stay, null removes the component.
    /// One that the entity lacks is added.
    pub components: Map<String, Value>,
    /// Members that are left out do not stay, they get their default.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
    /// Only if this is the hash of its columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_match: Option<String>,
}

/// Removes entities, as one atomic batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DespawnEntities {
    /// Which.
    pub entities: Vec<EntityRemoval>,
}

/// A part of [`DespawnEntities`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntityRemoval {
    /// Who goes.
    pub uid: Uid,
    /// Only if this is the hash of its columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_match: Option<String>,
}

/// The hash of an entity's columns, by which a client knows whether it is still what it saw.
pub fn entity_hash<'a>(uid: Uid, columns: impl Iterator<Item = (&'a str, u16, &'a [u8])>) -> String {
    let hash =
        |(name, version, row): (&str, u16, &[u8])| hash_row(uid.get(), column_salt(name, version), row);
    let sum = columns.filter(|(name, ..)| *name != Uid::NAME).map(hash).fold(0, u64::wrapping_add);
    format!("{sum:016x}")
}

/// That of a row of an image.
pub fn row_hash(image: &Image, table: &TableImage, row: usize) -> String {
    let columns = table.columns.iter();
    let columns =
        columns.map(|column| (column.schema.name.as_str(), column.schema.version, image.row(column, row)));
    entity_hash(table.uid(row).unwrap_or(Uid::NONE), columns)
}

/// Where an entity is, if it is there and as expected.
fn expect(world: &InputWorld<'_>, uid: Uid, if_match: Option<&String>) -> Result<Entity, InputError> {
    let entity = world.world.resource::<UidIndex>().get(uid).ok_or(InputError::NotFound(uid))?;
    if let Some(expected) = if_match {
        let registry = world.registry();
        let rows: Vec<_> = registry
            .columns
            .iter()
            .filter_map(|column| Some((column.name, column.version, (column.row_of)(world.world, entity)?)))
            .collect();
        let rows = rows.iter().map(|(name, version, row)| (*name, *version, row.as_slice()));
        if entity_hash(uid, rows) != *expected {
            return Err(InputError::PreconditionFailed(uid));
        }
    }
    Ok(entity)
}

/// What can be told of a batch without the world.
fn check_batch(uids: impl Iterator<Item = Uid>, count: usize) -> Vec<Fault> {
    let mut faults = Vec::new();
    if count == 0 || count > EDITS_MAX {
        faults.push(Fault::new("/entities", format!("expected 1 to {EDITS_MAX} entities, found {count}")));
    }
    let mut seen = BTreeSet::new();
    for (i, uid) in uids.enumerate().take(EDITS_MAX) {
        if !seen.insert(uid) {
            faults.push(Fault::new(
                format!("/entities/{i}/uid"),
                format!("entity {uid} comes twice in this batch"),
            ));
        }
    }
    faults
}

/// A column that an input names.
pub(crate) fn column_at(
    name: &str,
    pointer: &str,
    registry: &Registry,
    faults: &mut Vec<Fault>,
) -> Option<usize> {
    registry.component(name).map_err(|detail| faults.push(Fault::new(pointer, detail))).ok()
}

impl Input for UpdateEntities {
    const KIND: &'static str = "update_entities";
    const DOC: &'static str =
        "Merges columns in JSON into entities, adds and removes components, as one atomic batch.";

    fn check(&self, registry: &Registry) -> Vec<Fault> {
        let mut faults = check_batch(self.entities.iter().map(|entity| entity.uid), self.entities.len());
        for (i, entity) in self.entities.iter().enumerate().take(EDITS_MAX) {
            for (name, value) in &entity.components {
                let pointer = format!("/entities/{i}/components/{name}");
                let Some(column) = column_at(name, &pointer, registry, &mut faults) else { continue };
                if !value.is_null() {
                    registry.columns[column].from_json(value, None, &pointer, &mut faults);
                }
            }
        }
        faults
    }

    fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError> {
        let registry = world.registry();
        let mut faults = Vec::new();
        let mut changes: Vec<(Entity, usize, Option<Vec<u8>>)> = Vec::new();
        for update in &self.entities {
            let entity = expect(world, update.uid, update.if_match.as_ref())?;
            for (name, value) in &update.components {
                let Some(index) = column_at(name, name, &registry, &mut faults) else { continue };
                let column = &registry.columns[index];
                let row = if value.is_null() {
                    None
                } else {
                    let base = if update.replace { None } else { (column.row_of)(world.world, entity) };
                    Some(column.from_json(value, base.as_deref(), name, &mut faults))
                };
                changes.push((entity, index, row));
            }
        }
        if let Some(fault) = faults.first() {
            return Err(InputError::Rejected(fault.to_string()));
        }
        for (entity, index, row) in changes {
            let column = &registry.columns[index];
            effects::restructure(world.world, entity, |world| {
                let mut entity = world.entity_mut(entity);
                match row {
                    Some(row) => {
                        (column.insert)(&mut entity, &row).expect("from_json makes rows of the right size");
                    }
                    None => (column.remove)(&mut entity),
                }
            });
        }
        Ok(Outcome::default())
    }
}

impl Input for DespawnEntities {
    const KIND: &'static str = "despawn_entities";
    const DOC: &'static str = "Removes entities, as one atomic batch.";

    fn check(&self, _: &Registry) -> Vec<Fault> {
        check_batch(self.entities.iter().map(|entity| entity.uid), self.entities.len())
    }

    fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError> {
        for EntityRemoval { uid, if_match } in &self.entities {
            expect(world, *uid, if_match.as_ref())?;
        }
        for EntityRemoval { uid, .. } in &self.entities {
            world.despawn(*uid);
        }
        Ok(Outcome::default())
    }
}
