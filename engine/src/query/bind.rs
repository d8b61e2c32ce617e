//! Conditions bound to the columns of a build, and held against the rows of a chunk, 64 at a time.

use super::parse::{Expression, Filter, Literal, Path, QueryError, Test};
use crate::{
    capture::{Bits, keep_first},
    column::{FieldInfo, Layout, Scalar, Shape},
    image::{CHUNK_ROWS, Chunk, TableImage},
    marks::CHUNK_WORDS,
    registry::Registry,
};
use serde_json::Value;
use std::{borrow::Cow, cmp::Ordering, sync::Arc};

/// Conditions whose fields are known: what [`Filter::bind`] makes.
#[derive(Clone)]
pub struct BoundFilter {
    registry: Arc<Registry>,
    condition: Condition,
}

#[derive(Clone)]
enum Condition {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Has(usize),
    Number { column: usize, places: Vec<usize>, scalar: Scalar, test: Test, values: Vec<Number> },
    Value { column: usize, parts: Vec<String>, test: Test, values: Vec<Literal> },
    Near { column: usize, fields: [(usize, Scalar); 2], region: Region },
}

/// A part of the plane in which entities with a position are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Region {
    /// All within a distance, those at it included.
    Circle {
        /// The middle.
        x: f64,
        /// The middle.
        y: f64,
        /// The distance.
        r: f64,
    },
    /// All within a rectangle, those at its border included.
    Box {
        /// The lower left corner.
        low: (f64, f64),
        /// The upper right corner.
        high: (f64, f64),
    },
}

/// A number of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Int(i128),
    Float(f64),
}

/// A field of a plain column, found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NumberField {
    pub(super) column: usize,
    /// Where it starts in the row; several for an array's elements.
    pub(super) places: Vec<usize>,
    pub(super) scalar: Scalar,
    pub(super) labels: &'static [&'static str],
}

impl Filter {
    /// Finds the columns and fields that it names.
    pub fn bind(&self, registry: &Arc<Registry>) -> Result<BoundFilter, QueryError> {
        Ok(BoundFilter { registry: registry.clone(), condition: bind(&self.0, registry)? })
    }
}

impl BoundFilter {
    /// Those in a region, too: of the entities that have a `position` with fields `x` and `y`.
    pub fn within(self, region: Region) -> Result<Self, QueryError> {
        let (column, fields) = super::map::plane(&self.registry)?;
        let near = Condition::Near { column, fields, region };
        Ok(Self { condition: Condition::All(vec![near, self.condition]), registry: self.registry })
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A bit for each row of a chunk for which it holds.
    pub(super) fn holds(&self, table: &TableImage, chunk: usize) -> Bits {
        let rows = CHUNK_ROWS.min(table.rows - chunk * CHUNK_ROWS);
        let mut bits = self.look(&self.condition, table, chunk);
        keep_first(&mut bits, rows);
        bits
    }

    /// Bits behind the last row say nothing.
    fn look(&self, condition: &Condition, table: &TableImage, chunk: usize) -> Bits {
        let look = |condition: &Condition| self.look(condition, table, chunk);
        let column = |column: usize| table.column(self.registry.columns()[column].name);
        match condition {
            Condition::All(all) => {
                let mut bits = ALL;
                for condition in all {
                    if bits == NONE {
                        break;
                    }
                    join(&mut bits, &look(condition), |one, other| one & other);
                }
                bits
            }
            Condition::Any(any) => {
                let mut bits = NONE;
                any.iter().for_each(|condition| join(&mut bits, &look(condition), |one, other| one | other));
                bits
            }
            Condition::Not(inner) => {
                let mut bits = look(inner);
                bits.iter_mut().for_each(|word| *word = !*word);
                bits
            }
            Condition::Has(wanted) => {
                if column(*wanted).is_some() {
                    ALL
                } else {
                    NONE
                }
            }
            Condition::Number { column: wanted, places, scalar, test, values } => {
                let Some(found) = column(*wanted) else { return NONE };
                let Some((bytes, row_bytes)) = plain_chunk(found, chunk) else { return NONE };
                let mut bits = NONE;
                for place in places {
                    let column = NumbersOf { bytes: &bytes, row_bytes, place: *place };
                    column.compare(*scalar, *test, values, &mut bits);
                }
                bits
            }
            Condition::Value { column: wanted, parts, test, values } => {
                let Some(found) = column(*wanted) else { return NONE };
                let Chunk::Slow(rows) = &*found.chunks[chunk] else { return NONE };
                let info = &self.registry.columns()[*wanted];
                let mut bits = NONE;
                for (row, bytes) in rows.iter().enumerate() {
                    let is_so = any_below(&info.to_json(bytes), parts, &mut |found| {
                        values.iter().any(|value| value_holds(found, *test, value))
                    });
                    bits[row / 64] |= u64::from(is_so) << (row % 64);
                }
                bits
            }
            Condition::Near { column: wanted, fields, region } => {
                let Some(found) = column(*wanted) else { return NONE };
                let Some((bytes, row_bytes)) = plain_chunk(found, chunk) else { return NONE };
                let mut bits = NONE;
                for (row, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
                    let [x, y] = fields.map(|(place, scalar)| read(scalar, &bytes[place..]).as_f64());
                    bits[row / 64] |= u64::from(region.contains(x, y)) << (row % 64);
                }
                bits
            }
        }
    }
}

const ALL: Bits = [u64::MAX; CHUNK_WORDS];
const NONE: Bits = [0; CHUNK_WORDS];

fn join(bits: &mut Bits, other: &Bits, how: impl Fn(u64, u64) -> u64) {
    bits.iter_mut().zip(other).for_each(|(bits, other)| *bits = how(*bits, *other));
}

impl Region {
    /// Whether a place is in it.
    pub fn contains(&self, x: f64, y: f64) -> bool {
        match *self {
            Self::Circle { x: mx, y: my, r } => {
                let (dx, dy) = (x - mx, y - my);
                dx * dx + dy * dy <= r * r
            }
            Self::Box { low, high } => (low.0..=high.0).contains(&x) && (low.1..=high.1).contains(&y),
        }
    }
}

fn bind(expression: &Expression, registry: &Registry) -> Result<Condition, QueryError> {
    let all = |inner: &[Expression]| -> Result<Vec<Condition>, QueryError> {
        inner.iter().map(|inner| bind(inner, registry)).collect()
    };
    Ok(match expression {
        Expression::All(inner) => Condition::All(all(inner)?),
        Expression::Any(inner) => Condition::Any(all(inner)?),
        Expression::Not(inner) => Condition::Not(Box::new(bind(inner, registry)?)),
        Expression::Has(name) => Condition::Has(column_of(name, registry)?),
        Expression::Compare { path, test, values } => match number_field(path, registry)? {
            Some(field) => {
                let values = values.iter().map(|value| number_of(path, &field, *test, value));
                let (values, NumberField { column, places, scalar, .. }) =
                    (values.collect::<Result<_, _>>()?, field);
                Condition::Number { column, places, scalar, test: *test, values }
            }
            None => Condition::Value {
                column: column_of(&path.column, registry)?,
                parts: path.parts.clone(),
                test: *test,
                values: values.clone(),
            },
        },
    })
}

/// The bytes of a chunk of plain rows, and those of each row.
fn plain_chunk(column: &crate::ColumnImage, chunk: usize) -> Option<(Cow<'_, [u8]>, usize)> {
    Some((column.chunks[chunk].plain()?, column.schema.row_bytes()?))
}

/// The number of a column in the registry.
pub(super) fn column_of(name: &str, registry: &Registry) -> Result<usize, QueryError> {
    registry.component(name).map_err(QueryError)
}

/// Where a number is in the rows of its column; `None` for a field of a slow one.
pub(super) fn number_field(path: &Path, registry: &Registry) -> Result<Option<NumberField>, QueryError> {
    let column = column_of(&path.column, registry)?;
    let info = &registry.columns()[column];
    let Layout::Plain { fields, .. } = info.layout else { return Ok(None) };
    let unknown = || {
        let known = info.query_fields();
        QueryError(format!("there is no number \"{path}\"; there are: {}", known.join(", ")))
    };
    let (mut places, mut shape) = (vec![0], Shape::Row(fields));
    for part in &path.parts {
        (places, shape) = below(&places, shape, part).ok_or_else(unknown)?;
    }
    let (scalar, labels) = match shape {
        Shape::Scalar(scalar) => (scalar, &[][..]),
        Shape::Label(scalar, labels) => (scalar, labels),
        Shape::Array(..) | Shape::Row(_) => return Err(unknown()),
    };
    Ok(Some(NumberField { column, places, scalar, labels }))
}

fn below(places: &[usize], shape: Shape, part: &str) -> Option<(Vec<usize>, Shape)> {
    match shape {
        Shape::Row(fields) => {
            let field: &FieldInfo = fields.iter().find(|field| field.name == part)?;
            Some((places.iter().map(|place| place + field.offset).collect(), field.shape))
        }
        Shape::Array(of, count) => {
            let elements = if part == "*" {
                0..count
            } else {
                part.parse().ok().filter(|i| *i < count).map(|i| i..i + 1)?
            };
            let at = |place: &usize| {
                let place = *place;
                elements.clone().map(move |i| place + i * of.bytes())
            };
            Some((places.iter().flat_map(at).collect(), *of))
        }
        Shape::Scalar(_) | Shape::Label(..) => None,
    }
}

/// The number that a field is compared with, as exact as the field is.
fn number_of(path: &Path, field: &NumberField, test: Test, value: &Literal) -> Result<Number, QueryError> {
    let wrong = |what: &str| Err(QueryError(format!("\"{path}\" is compared with {what}")));
    match (field.scalar, value) {
        (_, Literal::Text(text)) if !field.labels.is_empty() => {
            if !matches!(test, Test::Equal | Test::Unequal) {
                return Err(QueryError(format!(
                    "the values of \"{path}\" are names without an order: use == or !="
                )));
            }
            let position = field.labels.iter().position(|label| label == text);
            let Some(position) = position else {
                return wrong(&format!("one of {}", field.labels.join(", ")));
            };
            Ok(Number::Int(position as i128))
        }
        (Scalar::Uid, Literal::Text(text)) => match text.parse() {
            Ok(uid) => Ok(Number::Int(uid)),
            Err(_) => wrong("a Uid, a decimal number"),
        },
        // As the field has it: 0.8 is equal to an f32 that was set to 0.8.
        (Scalar::F32, Literal::Float(value)) => Ok(Number::Float(f64::from(*value as f32))),
        (_, Literal::Float(value)) => Ok(Number::Float(*value)),
        (Scalar::F32 | Scalar::F64, Literal::Int(value)) => Ok(Number::Float(*value as f64)),
        (_, Literal::Int(value)) => Ok(Number::Int(*value)),
        (_, Literal::Text(_) | Literal::Bool(_)) => wrong("a number"),
    }
}

/// A number at one place in each row.
struct NumbersOf<'b> {
    bytes: &'b [u8],
    row_bytes: usize,
    place: usize,
}

impl NumbersOf<'_> {
    /// Sets the bits of the rows for which the comparison holds with any of the values.
    fn compare(&self, scalar: Scalar, test: Test, values: &[Number], bits: &mut Bits) {
        for value in values {
            match (scalar, *value) {
                (Scalar::F32, value) => {
                    let wanted = value.as_f64() as f32;
                    self.each(bits, f32::from_le_bytes, |found| partial(test, &found, &wanted));
                }
                (Scalar::F64, value) => {
                    let wanted = value.as_f64();
                    self.each(bits, f64::from_le_bytes, |found| partial(test, &found, &wanted));
                }
                (scalar, Number::Int(wanted)) => {
                    self.each_int(scalar, bits, |found| partial(test, &found, &wanted));
                }
                (scalar, Number::Float(wanted)) => {
                    self.each_int(scalar, bits, |found| partial(test, &(found as f64), &wanted));
                }
            }
        }
    }

    fn each_int(&self, scalar: Scalar, bits: &mut Bits, holds: impl Fn(i128) -> bool) {
        macro_rules! each {
            ($ty:ty) => {
                self.each(bits, <$ty>::from_le_bytes, |found| holds(i128::from(found)))
            };
        }
        match scalar {
            Scalar::U8 => each!(u8),
            Scalar::U16 => each!(u16),
            Scalar::U32 => each!(u32),
            Scalar::U64 | Scalar::Uid => each!(u64),
            Scalar::I8 => each!(i8),
            Scalar::I16 => each!(i16),
            Scalar::I32 => each!(i32),
            Scalar::I64 => each!(i64),
            Scalar::F32 | Scalar::F64 => {}
        }
    }

    fn each<const N: usize, T>(&self, bits: &mut Bits, of: impl Fn([u8; N]) -> T, holds: impl Fn(T) -> bool) {
        let rows = self.bytes.chunks_exact(self.row_bytes);
        for (row, bytes) in rows.enumerate() {
            let bytes: [u8; N] = bytes[self.place..self.place + N].try_into().expect("N bytes");
            bits[row / 64] |= u64::from(holds(of(bytes))) << (row % 64);
        }
    }
}

impl Number {
    pub(super) fn as_f64(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
        }
    }

    /// Numbers in their order, what is no number behind them.
    pub(super) fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Int(one), Self::Int(other)) => one.cmp(&other),
            (one, other) => one.as_f64().total_cmp(&other.as_f64()),
        }
    }
}

/// The number that begins with these bytes.
pub(super) fn read(scalar: Scalar, bytes: &[u8]) -> Number {
    macro_rules! read {
        ($ty:ty) => {
            <$ty>::from_le_bytes(bytes[..size_of::<$ty>()].try_into().expect("as many bytes as it takes"))
        };
    }
    match scalar {
        Scalar::U8 => Number::Int(read!(u8).into()),
        Scalar::U16 => Number::Int(read!(u16).into()),
        Scalar::U32 => Number::Int(read!(u32).into()),
        Scalar::U64 | Scalar::Uid => Number::Int(read!(u64).into()),
        Scalar::I8 => Number::Int(read!(i8).into()),
        Scalar::I16 => Number::Int(read!(i16).into()),
        Scalar::I32 => Number::Int(read!(i32).into()),
        Scalar::I64 => Number::Int(read!(i64).into()),
        Scalar::F32 => Number::Float(read!(f32).into()),
        Scalar::F64 => Number::Float(read!(f64)),
    }
}

fn partial<T: PartialOrd>(test: Test, found: &T, wanted: &T) -> bool {
    match test {
        Test::Equal => found == wanted,
        Test::Unequal => found != wanted,
        Test::Less => found < wanted,
        Test::LessOrEqual => found <= wanted,
        Test::Greater => found > wanted,
        Test::GreaterOrEqual => found >= wanted,
    }
}

/// Whether a value below that path is as wanted; none is where the path leads nowhere.
fn any_below(value: &Value, parts: &[String], is_so: &mut dyn FnMut(&Value) -> bool) -> bool {
    let Some((first, rest)) = parts.split_first() else { return is_so(value) };
    match value {
        Value::Array(items) if first == "*" => items.iter().any(|item| any_below(item, rest, is_so)),
        Value::Array(items) => {
            let item = first.parse().ok().and_then(|i: usize| items.get(i));
            item.is_some_and(|item| any_below(item, rest, is_so))
        }
        other => other.get(first).is_some_and(|inner| any_below(inner, rest, is_so)),
    }
}

fn value_holds(found: &Value, test: Test, wanted: &Literal) -> bool {
    match (found, wanted) {
        (Value::String(found), Literal::Text(wanted)) => partial(test, &found.as_str(), &wanted.as_str()),
        (Value::Bool(found), Literal::Bool(wanted)) => partial(test, found, wanted),
        (Value::Number(found), Literal::Int(wanted)) => {
            let int = found.as_i64().map(i128::from).or(found.as_u64().map(i128::from));
            match int {
                Some(found) => partial(test, &found, wanted),
                None => found.as_f64().is_some_and(|found| partial(test, &found, &(*wanted as f64))),
            }
        }
        (Value::Number(found), Literal::Float(wanted)) => {
            found.as_f64().is_some_and(|found| partial(test, &found, wanted))
        }
        _ => test == Test::Unequal,
    }
}
