//! Questions about the entities of an image: which ones, in what order, and what they add up to.
//!
//! They are answered from views of the mirror, chunk by chunk, in parallel on a thread of a pool (T2). Numbers are compared
//! in the bytes of their rows; only slow columns are decoded for it. An answer is the same for any number of threads: chunks
//! are joined in their order, and sums do not depend on theirs.

mod bind;
mod map;
mod parse;

pub use bind::{BoundFilter, Region};
pub use map::{Cells, Density, Picture, Point};
pub use parse::{Filter, Path, QueryError};

use crate::{
    capture::{Bits, rows_of},
    changes::Place,
    column::{Layout, Scalar, Shape},
    fold::FixedSum,
    ids::Uid,
    image::{CHUNK_ROWS, Image, TableImage},
    registry::{ColumnInfo, Registry},
};
use bind::{Number, NumberField, column_of, number_field, read};
use rayon::prelude::*;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

/// An entity that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FoundRow {
    /// Which one.
    pub uid: Uid,
    /// Where it is in the image.
    pub place: Place,
    key: Key,
}

/// What a row is sorted by.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Key {
    Number(Number),
    /// It lacks the column: behind all that have it.
    None,
}

/// Where a page ended: the next one begins behind it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct After {
    uid: u64,
    key: Option<AfterKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
enum AfterKey {
    Int(i128),
    /// The bits of a float.
    Float(u64),
}

/// The order of an answer.
#[derive(Clone)]
pub struct Sort {
    field: NumberField,
    column: &'static str,
    descends: bool,
}

impl Sort {
    /// By a number, `needs.hunger`; with `-` before it the largest first. Equal ones go by Uid.
    pub fn bind(text: &str, registry: &Registry) -> Result<Self, QueryError> {
        let (descends, name) = text.strip_prefix('-').map_or((false, text), |name| (true, name));
        let path: Path = name.parse()?;
        let field = single(&path, registry)?;
        Ok(Self { column: registry.columns()[field.column].name, field, descends })
    }

    fn key(&self, table: &TableImage, chunk: usize, row: usize) -> Key {
        number_at(&self.field, self.column, table, chunk, row).map_or(Key::None, Key::Number)
    }
}

fn number_at(
    field: &NumberField,
    column: &str,
    table: &TableImage,
    chunk: usize,
    row: usize,
) -> Option<Number> {
    let column = table.column(column)?;
    let row = column.chunks[chunk].row(row, column.schema.row_bytes()?)?;
    Some(read(field.scalar, &row[field.places[0]..]))
}

/// A field that is one number in each row.
fn single(path: &Path, registry: &Registry) -> Result<NumberField, QueryError> {
    let slow = || QueryError(format!("\"{path}\" is of a component without numbers at fixed places"));
    let field = number_field(path, registry)?.ok_or_else(slow)?;
    if field.places.len() != 1 {
        return Err(QueryError(format!("\"{path}\" is several numbers: name one of them")));
    }
    Ok(field)
}

impl BoundFilter {
    /// How many there are.
    pub fn count(&self, image: &Image) -> u64 {
        let count = |(table, chunk): (usize, usize)| {
            let bits = self.holds(&image.tables[table], chunk);
            bits.iter().map(|word| u64::from(word.count_ones())).sum::<u64>()
        };
        in_parallel(chunks_of(image), count).into_iter().sum()
    }

    /// So many of them, the first ones behind `after`; and whether there are more.
    pub fn page(
        &self,
        image: &Image,
        sort: Option<&Sort>,
        after: Option<After>,
        limit: usize,
    ) -> (Vec<FoundRow>, bool) {
        let descends = sort.is_some_and(|sort| sort.descends);
        let order =
            |one: &FoundRow, other: &FoundRow| compare((one.key, one.uid), (other.key, other.uid), descends);
        let after = after.map(After::key);
        let look = |(table_number, chunk): (usize, usize)| {
            let table = &image.tables[table_number];
            let uids = table.chunk_uids(chunk);
            let mut found = Vec::new();
            for row in rows_of(&self.holds(table, chunk)) {
                let (uid, key) =
                    (Uid::new(uids[row]), sort.map_or(Key::None, |sort| sort.key(table, chunk, row)));
                if after.is_none_or(|after| compare((key, uid), after, descends) == Ordering::Greater) {
                    let place = Place { table: table_number as u32, row: (chunk * CHUNK_ROWS + row) as u32 };
                    found.push(FoundRow { uid, place, key });
                }
            }
            // No more than a page and one of them can be wanted.
            if found.len() > limit + 1 {
                found.select_nth_unstable_by(limit, order);
                found.truncate(limit + 1);
            }
            found
        };
        let mut found: Vec<FoundRow> = in_parallel(chunks_of(image), look).into_iter().flatten().collect();
        found.sort_unstable_by(order);
        let has_more = found.len() > limit;
        found.truncate(limit);
        (found, has_more)
    }

    /// The rows of a chunk that are meant. [`chunks_of`] lists all chunks.
    pub fn rows(&self, image: &Image, place: (usize, usize)) -> ChunkRows {
        ChunkRows { place, bits: Box::new(self.holds(&image.tables[place.0], place.1)) }
    }

    /// What they add up to, by group if there is one.
    pub fn aggregate(&self, image: &Image, wanted: &Aggregation) -> Result<Vec<Group>, QueryError> {
        let look = |place| wanted.of_chunk(self, image, place);
        let mut groups: BTreeMap<GroupKey, Vec<Sum>> = BTreeMap::new();
        for found in in_parallel(chunks_of(image), look) {
            for (key, sums) in found {
                let all = groups.entry(key).or_insert_with(|| vec![Sum::default(); sums.len()]);
                all.iter_mut().zip(sums).for_each(|(all, sum)| all.add(&sum));
            }
            if groups.len() > GROUPS_MAX {
                return Err(QueryError(format!(
                    "more than {GROUPS_MAX} groups: group by a field with fewer values"
                )));
            }
        }
        if groups.is_empty() && wanted.group.is_none() {
            groups.insert(GroupKey::All, vec![Sum::default(); wanted.terms.len()]);
        }
        Ok(groups.into_iter().map(|(key, sums)| wanted.group_of(key, &sums)).collect())
    }
}

/// Rows of a chunk that were found, to be taken piece by piece: two kilobytes, however many they are.
pub struct ChunkRows {
    place: (usize, usize),
    bits: Box<Bits>,
}

impl ChunkRows {
    /// Whether all are taken.
    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|word| *word == 0)
    }

    /// The next so many, in the order of the table, of the image in which they were found.
    pub fn take(&mut self, image: &Image, count: usize) -> Vec<FoundRow> {
        let (table, chunk) = self.place;
        let uids = image.tables[table].chunk_uids(chunk);
        let found = |row: usize| FoundRow {
            uid: Uid::new(uids[row]),
            place: Place { table: table as u32, row: (chunk * CHUNK_ROWS + row) as u32 },
            key: Key::None,
        };
        let rows: Vec<usize> = rows_of(&self.bits).take(count).collect();
        rows.iter().for_each(|row| self.bits[row / 64] &= !(1 << (row % 64)));
        rows.into_iter().map(found).collect()
    }
}

fn compare((one, one_uid): (Key, Uid), (other, other_uid): (Key, Uid), descends: bool) -> Ordering {
    let keys = match (one, other) {
        (Key::None, Key::None) => Ordering::Equal,
        (Key::None, Key::Number(_)) => Ordering::Greater,
        (Key::Number(_), Key::None) => Ordering::Less,
        (Key::Number(one), Key::Number(other)) if descends => other.compare(one),
        (Key::Number(one), Key::Number(other)) => one.compare(other),
    };
    keys.then(one_uid.cmp(&other_uid))
}

impl FoundRow {
    /// To go on behind it.
    pub fn after(&self) -> After {
        let key = match self.key {
            Key::Number(Number::Int(value)) => Some(AfterKey::Int(value)),
            Key::Number(Number::Float(value)) => Some(AfterKey::Float(value.to_bits())),
            Key::None => None,
        };
        After { uid: self.uid.get(), key }
    }
}

impl After {
    fn key(self) -> (Key, Uid) {
        let key = match self.key {
            Some(AfterKey::Int(value)) => Key::Number(Number::Int(value)),
            Some(AfterKey::Float(bits)) => Key::Number(Number::Float(f64::from_bits(bits))),
            None => Key::None,
        };
        (key, Uid::new(self.uid))
    }
}

/// The chunks of all tables: a table and a chunk of it.
pub fn chunks_of(image: &Image) -> Vec<(usize, usize)> {
    let chunks = |(number, table): (usize, &TableImage)| {
        (0..table.rows.div_ceil(CHUNK_ROWS)).map(move |chunk| (number, chunk))
    };
    image.tables.iter().enumerate().flat_map(chunks).collect()
}

/// In the order of the places. rayon would start its global pool for a thread that is on none.
fn in_parallel<P: Send, T: Send>(places: Vec<P>, look: impl Fn(P) -> T + Sync + Send) -> Vec<T> {
    if rayon::current_thread_index().is_some() && places.len() > 1 {
        places.into_par_iter().map(look).collect()
    } else {
        places.into_iter().map(look).collect()
    }
}

/// L1.
const GROUPS_MAX: usize = 10_000;

/// What is to be computed of the entities that are meant.
pub struct Aggregation {
    terms: Vec<Term>,
    group: Option<(NumberField, &'static str)>,
}

struct Term {
    name: String,
    what: What,
    field: Option<(NumberField, &'static str)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Count,
    Min,
    Max,
    Avg,
    Sum,
}

/// A group of entities and what they add up to.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// What they have in common; null for all.
    pub group: Value,
    /// What was asked for, by its text.
    pub values: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum GroupKey {
    All,
    /// It lacks the column.
    None,
    Int(i128),
    /// In the order of the numbers, see [`ordered_bits`].
    Float(i64),
}

#[derive(Clone, Copy, Default)]
struct Sum {
    count: u64,
    sum: FixedSum,
    int: i128,
    range: Option<(Number, Number)>,
}

impl Sum {
    fn push(&mut self, number: Number) {
        match number {
            Number::Int(value) => self.int += value,
            Number::Float(value) => self.sum = self.sum + FixedSum::of(value),
        }
        self.count += 1;
        let (low, high) = self.range.unwrap_or((number, number));
        self.range = Some((
            if number.compare(low) == Ordering::Less { number } else { low },
            if number.compare(high) == Ordering::Greater { number } else { high },
        ));
    }

    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.sum = self.sum + other.sum;
        self.int += other.int;
        if let Some((low, high)) = other.range {
            let (own_low, own_high) = self.range.unwrap_or((low, high));
            self.range = Some((
                if low.compare(own_low) == Ordering::Less { low } else { own_low },
                if high.compare(own_high) == Ordering::Greater { high } else { own_high },
            ));
        }
    }
}

impl Aggregation {
    /// `count`, and `min`, `max`, `avg`, `sum` of a number: `avg(needs.hunger)`; by the values of another number or label.
    /// Sums of reals are exact to 2^-32 per summand, whatever the order.
    pub fn bind(terms: &[String], group: Option<&str>, registry: &Registry) -> Result<Self, QueryError> {
        let field = |text: &str| -> Result<(NumberField, &'static str), QueryError> {
            let field = single(&text.parse()?, registry)?;
            let column = registry.columns()[field.column].name;
            Ok((field, column))
        };
        let term = |text: &String| -> Result<Term, QueryError> {
            let wrong = || {
                QueryError(format!(
                    "\"{text}\": expected count, or min, max, avg or sum of a number: avg(needs.hunger)"
                ))
            };
            if text == "count" {
                return Ok(Term { name: text.clone(), what: What::Count, field: None });
            }
            let (what, rest) = text.split_once('(').ok_or_else(wrong)?;
            let path = rest.strip_suffix(')').ok_or_else(wrong)?;
            let what = match what {
                "count" => What::Count,
                "min" => What::Min,
                "max" => What::Max,
                "avg" => What::Avg,
                "sum" => What::Sum,
                _ => return Err(wrong()),
            };
            Ok(Term { name: text.clone(), what, field: Some(field(path)?) })
        };
        if terms.is_empty() {
            return Err(QueryError("an aggregation needs a term, such as count or avg(needs.hunger)".into()));
        }
        let terms = terms.iter().map(term).collect::<Result<_, _>>()?;
        Ok(Self { terms, group: group.map(field).transpose()? })
    }

    fn of_chunk(
        &self,
        filter: &BoundFilter,
        image: &Image,
        (table, chunk): (usize, usize),
    ) -> BTreeMap<GroupKey, Vec<Sum>> {
        let table = &image.tables[table];
        let mut groups: BTreeMap<GroupKey, Vec<Sum>> = BTreeMap::new();
        for row in rows_of(&filter.holds(table, chunk)) {
            let key = match &self.group {
                None => GroupKey::All,
                Some((field, column)) => match number_at(field, column, table, chunk, row) {
                    None => GroupKey::None,
                    Some(Number::Int(value)) => GroupKey::Int(value),
                    Some(Number::Float(value)) => GroupKey::Float(ordered_bits(value)),
                },
            };
            let sums = groups.entry(key).or_insert_with(|| vec![Sum::default(); self.terms.len()]);
            for (term, sum) in self.terms.iter().zip(sums) {
                match &term.field {
                    None => sum.count += 1,
                    Some((field, column)) => {
                        if let Some(number) = number_at(field, column, table, chunk, row) {
                            sum.push(number);
                        }
                    }
                }
            }
        }
        groups
    }

    fn group_of(&self, key: GroupKey, sums: &[Sum]) -> Group {
        let group = match (key, &self.group) {
            (GroupKey::Int(value), Some((field, _))) => integer(field, value),
            (GroupKey::Float(bits), Some((field, _))) => {
                number(field, Number::Float(from_ordered_bits(bits)))
            }
            _ => Value::Null,
        };
        let value = |(term, sum): (&Term, &Sum)| {
            let is_real = |field: &NumberField| matches!(field.scalar, Scalar::F32 | Scalar::F64);
            let value = match (&term.field, term.what) {
                (None, _) | (_, What::Count) => sum.count.into(),
                (Some((field, _)), What::Min) => sum.range.map_or(Value::Null, |(low, _)| number(field, low)),
                (Some((field, _)), What::Max) => {
                    sum.range.map_or(Value::Null, |(_, high)| number(field, high))
                }
                (Some((field, _)), What::Sum) if is_real(field) => sum.sum.get().into(),
                (Some(_), What::Sum) => whole(sum.int),
                (Some(_), What::Avg) if sum.count == 0 => Value::Null,
                (Some((field, _)), What::Avg) if is_real(field) => (sum.sum.get() / sum.count as f64).into(),
                (Some(_), What::Avg) => (sum.int as f64 / sum.count as f64).into(),
            };
            (term.name.clone(), value)
        };
        Group { group, values: self.terms.iter().zip(sums).map(value).collect() }
    }
}

/// Integers that are in the order of the floats.
fn ordered_bits(value: f64) -> i64 {
    let bits = value.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

fn from_ordered_bits(bits: i64) -> f64 {
    f64::from_bits((bits ^ (((bits >> 63) as u64) >> 1) as i64) as u64)
}

/// A number as the API has it: labels by name, Uids as text.
fn number(field: &NumberField, value: Number) -> Value {
    match value {
        Number::Int(value) => integer(field, value),
        // Through its shortest decimal form, as rows have it.
        Number::Float(value) if field.scalar == Scalar::F32 => {
            (value as f32).to_string().parse::<f64>().map_or(Value::Null, Value::from)
        }
        Number::Float(value) => value.into(),
    }
}

fn integer(field: &NumberField, value: i128) -> Value {
    let label = usize::try_from(value).ok().and_then(|value| field.labels.get(value));
    match label {
        Some(label) => (*label).into(),
        None if field.scalar == Scalar::Uid => value.to_string().into(),
        None => whole(value),
    }
}

fn whole(value: i128) -> Value {
    i64::try_from(value)
        .map(Value::from)
        .or_else(|_| u64::try_from(value).map(Value::from))
        .unwrap_or_else(|_| (value as f64).into())
}

/// What is told of each entity.
#[derive(Clone, Default)]
pub struct Select(Option<Vec<(usize, Vec<String>)>>);

/// See [`Select::entity`].
#[derive(Serialize)]
struct EntityJson<'s> {
    uid: Uid,
    components: Selected<'s>,
}

/// The selected components of a row.
struct Selected<'s> {
    select: &'s Select,
    image: &'s Image,
    registry: &'s Registry,
    place: Place,
}

impl Serialize for Selected<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { select, image, registry, place } = self;
        if select.0.is_some() {
            return select.components(image, registry, *place).serialize(serializer);
        }
        let (table, row) = (&image.tables[place.table as usize], place.row as usize);
        image.entity_json(registry, table, row).serialize(serializer)
    }
}

impl Select {
    /// These components and fields, `needs` or `needs.hunger`; all components if there is none.
    pub fn bind(texts: &[String], registry: &Registry) -> Result<Self, QueryError> {
        if texts.is_empty() {
            return Ok(Self(None));
        }
        let one = |text: &String| -> Result<(usize, Vec<String>), QueryError> {
            let path: Path = text.parse()?;
            let column = column_of(&path.column, registry)?;
            let schema = registry.columns()[column].json_schema();
            let is_known = path.parts.first().is_none_or(|part| schema["properties"].get(part).is_some());
            if path.parts.len() > 1 || !is_known {
                let known =
                    schema["properties"].as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>());
                return Err(QueryError(format!(
                    "\"{text}\": expected a component or one of its fields: {}",
                    known.unwrap_or_default().join(", ")
                )));
            }
            Ok((column, path.parts))
        };
        texts.iter().map(one).collect::<Result<_, _>>().map(Some).map(Self)
    }

    /// The single values that are told of an entity, by their paths: what a table has as its columns. A slow component is
    /// one.
    pub fn leaves(&self, registry: &Registry) -> Vec<Leaf> {
        let all = || registry.components().map(|(column, _)| (column, Vec::new())).collect();
        let wanted: Vec<(usize, Vec<String>)> = self.0.clone().unwrap_or_else(all);
        let mut leaves = Vec::new();
        for (column, parts) in wanted {
            let info = &registry.columns()[column];
            let path = vec![info.name.to_owned()];
            match (info.layout, parts.first()) {
                (Layout::Slow, part) => {
                    let path = path.into_iter().chain(part.cloned()).collect();
                    leaves.push(Leaf { path, kind: LeafKind::Json, column, spot: Spot::Slow(part.cloned()) });
                }
                (Layout::Plain { fields, .. }, part) => {
                    for field in fields.iter().filter(|field| part.is_none_or(|part| field.name == part)) {
                        let path = [&path[..], &[field.name.to_owned()]].concat();
                        leaves_of((&field.shape, column, field.offset), path, &mut leaves);
                    }
                }
            }
        }
        leaves
    }

    /// The components of a row, as JSON.
    pub fn components(&self, image: &Image, registry: &Registry, place: Place) -> Map<String, Value> {
        let (table, row) = (&image.tables[place.table as usize], place.row as usize);
        let Some(wanted) = &self.0 else { return image.entity_row(registry, table, row) };
        let mut components = Map::new();
        for (column, parts) in wanted {
            let info = &registry.columns()[*column];
            let Some(column) = table.column(info.name) else { continue };
            let value = info.to_json(image.row(column, row));
            match parts.first() {
                None => _ = components.insert(info.name.to_owned(), value),
                Some(part) => {
                    let inner = components.entry(info.name).or_insert_with(|| json!({}));
                    if let Value::Object(inner) = inner {
                        inner.insert(part.clone(), value[part].clone());
                    }
                }
            }
        }
        components
    }

    /// An entity as an answer has it.
    pub fn entity<'s>(
        &'s self,
        image: &'s Image,
        registry: &'s Registry,
        found: &FoundRow,
    ) -> impl Serialize + use<'s> {
        let (uid, components) = (found.uid, Selected { select: self, image, registry, place: found.place });
        EntityJson { uid, components }
    }
}

/// A single value of an entity.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// The component, then the fields; a number is a place in an array.
    pub path: Vec<String>,
    /// What it is.
    pub kind: LeafKind,
    column: usize,
    spot: Spot,
}

/// What a single value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafKind {
    /// A number; Uids are text in JSON.
    Number(Scalar),
    /// The name of a value.
    Label,
    /// Of a slow component, whatever it is.
    Json,
}

/// Where in a row.
#[derive(Clone, Debug, PartialEq)]
enum Spot {
    Plain { place: usize, scalar: Scalar, labels: &'static [&'static str] },
    Slow(Option<String>),
}

/// A single value.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// The entity does not have it, or it is not finite.
    Missing,
    /// A whole number; Uids, and labels that have no name.
    Whole(i128),
    /// A number.
    Float(f64),
    /// What a label is called.
    Name(&'static str),
    /// A part of a slow component.
    Json(Value),
}

impl Leaf {
    /// Its values in those rows, read from their columns without a tree of JSON in between.
    pub fn cells<'c>(
        &'c self,
        image: &'c Image,
        registry: &'c Registry,
        rows: &'c [FoundRow],
    ) -> impl Iterator<Item = Cell> + 'c {
        let info = &registry.columns()[self.column];
        // Rows come table by table.
        let by_table = rows.chunk_by(|a, b| a.place.table == b.place.table);
        by_table.flat_map(move |rows| {
            let column = image.tables[rows[0].place.table as usize].column(info.name);
            rows.iter().map(move |row| match column {
                Some(column) => self.cell(info, image.row(column, row.place.row as usize)),
                None => Cell::Missing,
            })
        })
    }

    fn cell(&self, info: &ColumnInfo, row: &[u8]) -> Cell {
        match &self.spot {
            Spot::Plain { place, scalar, labels } => match read(*scalar, &row[*place..]) {
                Number::Int(number) => {
                    let name = usize::try_from(number).ok().and_then(|number| labels.get(number));
                    name.map_or(Cell::Whole(number), |name| Cell::Name(name))
                }
                Number::Float(number) if number.is_finite() => Cell::Float(number),
                Number::Float(_) => Cell::Missing,
            },
            Spot::Slow(part) => {
                let mut value = info.to_json(row);
                match part {
                    None => Cell::Json(value),
                    Some(part) => value.get_mut(part).map_or(Cell::Missing, |part| Cell::Json(part.take())),
                }
            }
        }
    }
}

fn leaves_of((shape, column, place): (&Shape, usize, usize), path: Vec<String>, leaves: &mut Vec<Leaf>) {
    let below = |part: String| [&path[..], &[part]].concat();
    let (scalar, labels, kind) = match shape {
        Shape::Scalar(scalar) => (*scalar, &[][..], LeafKind::Number(*scalar)),
        Shape::Label(scalar, labels) => (*scalar, *labels, LeafKind::Label),
        Shape::Array(of, count) => {
            for i in 0..*count {
                leaves_of((of, column, place + i * of.bytes()), below(i.to_string()), leaves);
            }
            return;
        }
        Shape::Row(fields) => {
            for field in *fields {
                leaves_of((&field.shape, column, place + field.offset), below(field.name.to_owned()), leaves);
            }
            return;
        }
    };
    leaves.push(Leaf { path, kind, column, spot: Spot::Plain { place, scalar, labels } });
}

/// All that is needed to ask the same of another view.
pub fn everything(registry: &Arc<Registry>) -> BoundFilter {
    Filter::with_and_without(&[], &[]).bind(registry).expect("it names nothing")
}

impl BoundFilter {
    /// All of them, by Uid.
    pub fn all(&self, image: &Image) -> Vec<FoundRow> {
        let mut found: Vec<FoundRow> =
            in_parallel(chunks_of(image), |place| self.rows(image, place).take(image, CHUNK_ROWS))
                .into_iter()
                .flatten()
                .collect();
        found.sort_unstable_by_key(|found| found.uid);
        found
    }
}
