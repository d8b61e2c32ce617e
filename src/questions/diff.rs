//! What differs between two states, by entity, component and field; and since when.

use super::{AskError, Questions, changes, extended};
use crate::spine::SpineError;
use everworld_engine::{Changes, Image, Place, Registry, Tick, Uid};
use everworld_persistence::SnapshotMeta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What differs between two states.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageDiff {
    /// Whether nothing does.
    pub same: bool,
    /// Entities that only the second has.
    pub added: u64,
    /// Entities that only the first has.
    pub removed: u64,
    /// Entities that are others.
    pub changed: u64,
    /// How many rows of each component differ, of entities that both have.
    pub components: BTreeMap<String, u64>,
    /// How often each field differs, among the entities that are listed.
    pub fields: BTreeMap<String, u64>,
    /// Resources that differ.
    pub resources: Vec<String>,
    /// Some of the entities, by Uid.
    pub items: Vec<ItemDiff>,
}

/// An entity that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemDiff {
    /// Whose.
    pub uid: Uid,
    /// `added`, `removed` or `changed`.
    pub change: String,
    /// The fields that differ.
    pub fields: Vec<FieldDifference>,
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FieldDifference {
    /// Its path: `needs.hunger`.
    pub field: String,
    /// In the first state.
    pub from: Option<Value>,
    /// In the second.
    pub to: Option<Value>,
}

/// Compares two states, and lists at most so many entities.
pub fn diff_images(registry: &Registry, from: &Image, to: &Image, limit: usize) -> ImageDiff {
    let differences = Changes::between(from, to);
    let mut diff = ImageDiff { same: differences.is_empty(), ..ImageDiff::default() };
    for change in &differences.entities {
        let (count, name) = match (change.from, change.to) {
            (None, _) => (&mut diff.added, "added"),
            (_, None) => (&mut diff.removed, "removed"),
            _ => (&mut diff.changed, "changed"),
        };
        *count += 1;
        if name == "changed" {
            for column in differences.columns(change) {
                *diff.components.entry(column.to_owned()).or_default() += 1;
            }
        }
        if diff.items.len() < limit {
            let row = |image: &Image, place: Option<Place>| {
                let table = |place: Place| &image.tables[place.table as usize];
                place.map(|place| image.entity_row(registry, table(place), place.row as usize))
            };
            let fields = changes(row(from, change.from).as_ref(), row(to, change.to).as_ref()).into_iter();
            let fields: Vec<FieldDifference> = fields
                .map(|change| FieldDifference { field: change.field, from: change.before, to: change.after })
                .collect();
            if name == "changed" {
                fields.iter().for_each(|field| *diff.fields.entry(field.field.clone()).or_default() += 1);
            }
            diff.items.push(ItemDiff { uid: change.uid, change: name.into(), fields });
        }
    }
    diff.resources = differences.resources;
    diff
}

impl Questions {
    /// What differs between two ticks of this world, or between this one and another; for two lines of history also
    /// the first tick that does.
    pub fn diff(
        &self,
        from: super::At,
        to: super::At,
        other: Option<&Self>,
        limit: usize,
    ) -> Result<Value, AskError> {
        let (first, second) = (self.place(from)?, other.unwrap_or(self).place(to)?);
        let (old, registry) = self.image_at(first)?;
        let (new, _) = other.unwrap_or(self).image_at(second)?;
        let diff = diff_images(&registry, &old, &new, limit);
        let place = |world: &Self, (branch, tick): (u32, Tick), image: &Image| {
            json!({
                "world": world.history.world, "branch": branch, "tick": tick,
                "state_hash": image.hash, "entities": image.entities(),
            })
        };
        let mut answer = json!({
            "from": place(self, first, &old),
            "to": place(other.unwrap_or(self), second, &new),
        });
        drop((old, new));
        let end = first.1.min(second.1);
        let common = self.history.branches().common(first.0, second.0);
        if other.is_some() || common < end {
            let from = if other.is_some() { Tick(0) } else { common };
            answer["first_tick_that_differs"] = self.first_difference(other, first.0, second.0, from, end)?;
        }
        let Value::Object(more) = serde_json::to_value(diff).unwrap_or_default() else { return Ok(answer) };
        Ok(extended(answer, more))
    }

    /// The first tick from that one on at which two lines differ, as far as is kept.
    fn first_difference(
        &self,
        other: Option<&Self>,
        branch: u32,
        other_branch: u32,
        from: Tick,
        end: Tick,
    ) -> Result<Value, AskError> {
        let second = other.unwrap_or(self);
        let begin = from.max(self.oldest(branch)).max(second.oldest(other_branch));
        let answer = |tick: Option<Tick>| json!({"tick": tick, "compared_from": begin, "compared_to": end});
        if begin > end {
            return Ok(answer(None));
        }
        let (mut a, mut first_line) = self.world_at((branch, begin))?;
        let (mut b, mut second_line) = second.world_at((other_branch, begin))?;
        loop {
            if a.state_hash() != b.state_hash() {
                return Ok(answer(Some(a.now())));
            }
            if a.now() >= end {
                return Ok(answer(None));
            }
            if !(self.wanted)() {
                return Err(SpineError::Interrupted.into());
            }
            let failed = |source| SpineError::Tick { world: self.history.world.clone(), source };
            first_line.advance(&mut a)?.map_err(failed)?;
            second_line.advance(&mut b)?.map_err(failed)?;
        }
    }

    /// The tick of the oldest snapshot of a line: all later ones can be computed.
    pub(crate) fn oldest(&self, branch: u32) -> Tick {
        let branches = self.history.branches();
        let snapshots = self.history.snapshots();
        let on_it =
            |meta: &&SnapshotMeta| branches.on_the_way((meta.branch, meta.tick), (branch, Tick(u64::MAX)));
        snapshots.iter().filter(on_it).map(|meta| meta.tick).min().unwrap_or_default()
    }
}
