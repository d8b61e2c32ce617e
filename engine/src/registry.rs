//! What a world is made of: the lists of columns, resources, inputs and prototypes, by name.
//!
//! Numbers are given in the order of registration and differ between builds; only names leave the process.

use crate::{
    column::{
        Column, Fault, FieldInfo, Layout, RowJson, SlowColumn, field_paths, merge_json_into_row, row_schema,
        row_to_json,
    },
    event::EventInfo,
    hash::column_salt,
    image::{ColumnSchema, ImageError, ResourceImage},
    input::InputKind,
    migrate::Evolution,
    plan::BuildError,
    raw,
    settings::Settable,
    state::StateResource,
};
use bevy_ecs::{component::ComponentId, prelude::*, storage::Table};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// The lists. Shared and immutable once a world is built.
#[derive(Default)]
pub struct Registry {
    pub(crate) columns: Vec<ColumnInfo>,
    pub(crate) resources: Vec<ResourceInfo>,
    pub(crate) inputs: Vec<InputKind>,
    /// What may happen in it, in the order of names.
    pub events: Vec<&'static EventInfo>,
    pub(crate) prototypes: BTreeMap<String, Vec<(usize, Vec<u8>)>>,
    pub(crate) evolution: Evolution,
    pub(crate) settable: Vec<Settable>,
}

/// A registered column.
pub struct ColumnInfo {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: u16,
    /// Its documentation.
    pub doc: &'static str,
    /// How its rows are kept.
    pub layout: Layout,
    /// What the store knows of it.
    pub schema: Arc<ColumnSchema>,
    pub(crate) salt: u64,
    pub(crate) id: ComponentId,
    pub(crate) insert: fn(&mut EntityWorldMut<'_>, &[u8]) -> Result<(), String>,
    pub(crate) remove: fn(&mut EntityWorldMut<'_>),
    pub(crate) default_row: fn() -> Vec<u8>,
    pub(crate) row_of: fn(&World, Entity) -> Option<Vec<u8>>,
    pub(crate) rows: RowsOf,
    json: JsonOf,
}

/// How to reach the rows of a column in a table.
pub(crate) enum RowsOf {
    /// All of them as bytes.
    Plain(for<'w> fn(&'w Table, ComponentId) -> &'w [u8]),
    /// A postcard value of an entity that has the column.
    Slow(fn(&World, Entity) -> Vec<u8>),
}

/// JSON of slow columns; plain ones go by their fields.
enum JsonOf {
    Fields(&'static [FieldInfo]),
    Serde { to: fn(&[u8]) -> Value, from: fn(&Value) -> Result<Vec<u8>, String> },
}

/// A registered resource.
pub struct ResourceInfo {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: u16,
    pub(crate) id: ComponentId,
    pub(crate) save: fn(&World) -> Vec<u8>,
    pub(crate) load: fn(&mut World, &[u8]) -> Result<(), ImageError>,
    /// Its first value, for a state that is older than the resource.
    pub(crate) first: Vec<u8>,
    /// Its value as JSON.
    pub to_json: fn(&[u8]) -> Value,
}

impl Registry {
    /// The columns in the order of registration.
    pub fn columns(&self) -> &[ColumnInfo] {
        &self.columns
    }

    /// The resources in the order of registration.
    pub fn resources(&self) -> &[ResourceInfo] {
        &self.resources
    }

    /// The kinds of input in the order of registration.
    pub fn inputs(&self) -> &[InputKind] {
        &self.inputs
    }

    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&ColumnInfo> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The columns that questions and inputs can name: all but the Uid, which is the entity itself.
    pub fn components(&self) -> impl Iterator<Item = (usize, &ColumnInfo)> {
        self.columns
            .iter()
            .enumerate()
            .filter(|(_, column)| column.name != <crate::Uid as crate::Column>::NAME)
    }

    /// The number of a component, or what to say of a name that is none.
    pub fn component(&self, name: &str) -> Result<usize, String> {
        let found = self.components().find(|(_, column)| column.name == name);
        found.map(|(index, _)| index).ok_or_else(|| {
            let known: Vec<&str> = self.components().map(|(_, column)| column.name).collect();
            format!("there is no component \"{name}\"; components: {}", known.join(", "))
        })
    }

    /// The kind of input of that name.
    pub fn input(&self, kind: &str) -> Option<&InputKind> {
        self.inputs.iter().find(|input| input.kind == kind)
    }

    /// The names of the prototypes that [`crate::input::SpawnEntities`] can start from.
    pub fn prototypes(&self) -> impl Iterator<Item = &str> {
        self.prototypes.keys().map(String::as_str)
    }

    /// The resources as they are now, by name.
    pub(crate) fn save_resources(&self, world: &World) -> Vec<ResourceImage> {
        let save = |resource: &ResourceInfo| ResourceImage {
            name: resource.name.into(),
            version: resource.version,
            bytes: (resource.save)(world).into(),
        };
        let mut resources: Vec<_> = self.resources.iter().map(save).collect();
        resources.sort_by(|a, b| a.name.cmp(&b.name));
        resources
    }

    pub(crate) fn by_id(&self, id: ComponentId) -> Option<&ColumnInfo> {
        self.columns.iter().find(|column| column.id == id)
    }

    pub(crate) fn add_column<T: Column>(&mut self, world: &mut World) -> Result<(), BuildError> {
        let layout = Layout::Plain { row_bytes: size_of::<T>(), fields: T::FIELDS };
        self.push_column(ColumnInfo {
            name: T::NAME,
            version: T::VERSION,
            doc: T::DOC,
            layout,
            schema: Arc::new(ColumnSchema::plain(T::NAME, T::VERSION, T::FIELDS)),
            salt: column_salt(T::NAME, T::VERSION),
            id: world.register_component::<T>(),
            insert: |entity, row| {
                let row = bytemuck::try_pod_read_unaligned::<T>(row).map_err(|error| error.to_string())?;
                entity.insert(row);
                Ok(())
            },
            remove: |entity| _ = entity.remove::<T>(),
            default_row: || bytemuck::bytes_of(&T::default()).to_vec(),
            row_of: |world, entity| world.get::<T>(entity).map(|row| bytemuck::bytes_of(row).to_vec()),
            rows: RowsOf::Plain(raw::column_bytes::<T>),
            json: JsonOf::Fields(T::FIELDS),
        })
    }

    pub(crate) fn add_slow_column<T: SlowColumn>(&mut self, world: &mut World) -> Result<(), BuildError> {
        self.push_column(ColumnInfo {
            name: T::NAME,
            version: T::VERSION,
            doc: T::DOC,
            layout: Layout::Slow,
            schema: Arc::new(ColumnSchema::slow(T::NAME, T::VERSION, T::FIELDS)),
            salt: column_salt(T::NAME, T::VERSION),
            id: world.register_component::<T>(),
            insert: |entity, value| {
                let value = postcard::from_bytes::<T>(value).map_err(|error| error.to_string())?;
                entity.insert(value);
                Ok(())
            },
            remove: |entity| _ = entity.remove::<T>(),
            default_row: || encode(&T::default()),
            rows: RowsOf::Slow(|world, entity| world.get::<T>(entity).map(encode).unwrap_or_default()),
            row_of: |world, entity| world.get::<T>(entity).map(encode),
            json: JsonOf::Serde {
                to: |bytes| to_json::<T>(bytes),
                from: |value| {
                    T::deserialize(value).map(|value| encode(&value)).map_err(|error| error.to_string())
                },
            },
        })
    }

    fn push_column(&mut self, column: ColumnInfo) -> Result<(), BuildError> {
        if self.columns.iter().any(|known| known.name == column.name || known.id == column.id) {
            return Err(BuildError::DuplicateName("column", column.name.into()));
        }
        self.columns.push(column);
        Ok(())
    }

    pub(crate) fn add_resource<R: StateResource>(
        &mut self,
        world: &mut World,
        value: R,
    ) -> Result<(), BuildError> {
        let id = world.register_component::<R>();
        if self.resources.iter().any(|known| known.name == R::NAME || known.id == id) {
            return Err(BuildError::DuplicateName("resource", R::NAME.into()));
        }
        let first = encode(&value);
        world.insert_resource(value);
        self.resources.push(ResourceInfo {
            name: R::NAME,
            version: R::VERSION,
            id,
            first,
            save: |world| encode(world.resource::<R>()),
            load: |world, bytes| {
                let value = postcard::from_bytes::<R>(bytes).map_err(|error| ImageError::Decode {
                    what: format!("resource \"{}\"", R::NAME),
                    detail: error.to_string(),
                })?;
                world.insert_resource(value);
                Ok(())
            },
            to_json: |bytes| to_json::<R>(bytes),
        });
        Ok(())
    }
}

/// See [`ColumnInfo::cell_json`].
struct CellJson<'r> {
    info: &'r ColumnInfo,
    row: &'r [u8],
}

impl Serialize for CellJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.info.json {
            JsonOf::Fields(fields) => RowJson { fields, row: self.row }.serialize(serializer),
            JsonOf::Serde { to, .. } => to(self.row).serialize(serializer),
        }
    }
}

impl ColumnInfo {
    /// A row as JSON.
    pub fn to_json(&self, row: &[u8]) -> Value {
        match &self.json {
            JsonOf::Fields(fields) => row_to_json(fields, row),
            JsonOf::Serde { to, .. } => to(row),
        }
    }

    /// The same, written as it is read.
    pub(crate) fn cell_json<'r>(&'r self, row: &'r [u8]) -> impl Serialize + 'r {
        CellJson { info: self, row }
    }

    /// A row from JSON over a base row (the default where there is none); every wrong member is a fault.
    pub fn from_json(
        &self,
        value: &Value,
        base: Option<&[u8]>,
        pointer: &str,
        faults: &mut Vec<Fault>,
    ) -> Vec<u8> {
        let mut row = base.map_or_else(self.default_row, <[u8]>::to_vec);
        match &self.json {
            JsonOf::Fields(fields) => merge_json_into_row(fields, value, &mut row, pointer, faults),
            JsonOf::Serde { from, to } => {
                let merged = base.map(|base| merged(to(base), value));
                match from(merged.as_ref().unwrap_or(value)) {
                    Ok(bytes) => row = bytes,
                    Err(detail) => faults.push(Fault::new(pointer, detail)),
                }
            }
        }
        row
    }

    /// The JSON Schema (2020-12) of a row.
    pub fn json_schema(&self) -> Value {
        let mut schema = match &self.json {
            JsonOf::Fields(fields) => row_schema(fields),
            JsonOf::Serde { to, .. } => {
                // The members of the default value: what serde would accept.
                let members = to(&(self.default_row)());
                let kind = |value: &Value| match value {
                    Value::String(_) => json!({"type": "string"}),
                    Value::Array(_) => json!({"type": "array"}),
                    Value::Object(_) => json!({"type": "object"}),
                    Value::Number(_) => json!({"type": "number"}),
                    Value::Bool(_) => json!({"type": "boolean"}),
                    Value::Null => json!({}),
                };
                let properties = members.as_object().into_iter().flatten();
                let properties: serde_json::Map<_, _> =
                    properties.map(|(name, value)| (name.clone(), kind(value))).collect();
                json!({"type": "object", "properties": properties, "additionalProperties": false})
            }
        };
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
        schema["title"] = self.name.into();
        schema["description"] = self.doc.trim().into();
        schema
    }

    /// The names by which a query reaches its numbers, `needs.hunger`; none for a slow column.
    pub fn query_fields(&self) -> Vec<String> {
        match &self.json {
            JsonOf::Fields(fields) => {
                field_paths(fields).into_iter().map(|path| format!("{}.{path}", self.name)).collect()
            }
            JsonOf::Serde { .. } => Vec::new(),
        }
    }
}

/// Members over those that are there; null takes one away (RFC 7396).
fn merged(base: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut members = if let Value::Object(members) = base { members } else { serde_json::Map::new() };
    for (name, value) in patch {
        if value.is_null() {
            members.remove(name);
        } else {
            let before = members.remove(name).unwrap_or_default();
            members.insert(name.clone(), merged(before, value));
        }
    }
    members.into()
}

pub(crate) fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("registered state is plain data: it always encodes")
}

fn to_json<T: serde::de::DeserializeOwned + serde::Serialize>(bytes: &[u8]) -> Value {
    postcard::from_bytes::<T>(bytes)
        .ok()
        .and_then(|value| serde_json::to_value(value).ok())
        .unwrap_or(Value::Null)
}
