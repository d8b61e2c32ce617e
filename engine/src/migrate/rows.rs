//! Plain rows on their way: steps by the names of fields, put together once per column, run over bytes.

use super::{Map, RowFn, Step, ValueFn};
use crate::{
    column::{FieldInfo, Scalar, Shape, merge_json_into_row, row_bytes},
    image::{Chunk, ColumnImage, ColumnSchema},
    registry::{ColumnInfo, Registry},
    schema::{StoredField, StoredShape, fields_lie_within, stored_fields},
};
use serde_json::Value;

/// A stage of a row's way.
pub(super) enum Stage {
    Assemble { template: Vec<u8>, writes: Vec<Write> },
    Rows(RowFn),
    Value(ValueFn),
}

/// What is written into an assembled row.
pub(super) enum Write {
    Copy { from: usize, to: usize, bytes: usize },
    Number(NumberWrite),
}

pub(super) struct NumberWrite {
    field: String,
    from: (usize, Scalar),
    to: (usize, Scalar),
    /// For labels, the new number of each former one.
    labels: Option<Vec<Result<i128, String>>>,
    maps: Vec<Map>,
}

/// A field on its way: still in the stored row, or a value to come.
struct Slot {
    name: String,
    source: Source,
}

enum Source {
    Stored { offset: usize, shape: StoredShape, maps: Vec<Map> },
    Value(Value),
}

fn slots(fields: Vec<StoredField>) -> Vec<Slot> {
    let slot = |field: StoredField| Slot {
        name: field.name,
        source: Source::Stored { offset: field.offset as usize, shape: field.shape, maps: Vec::new() },
    };
    fields.into_iter().map(slot).collect()
}

/// The stages from a stored row to one of this build.
pub(super) fn plain_stages(
    registry: &Registry,
    known: &ColumnInfo,
    fields: &'static [FieldInfo],
    stored: &ColumnSchema,
    faults: &mut Vec<String>,
) -> Vec<Stage> {
    let Some(bytes) = stored.row_bytes() else {
        faults.push("it was kept by serde and is a plain column now: give it another name".into());
        return Vec::new();
    };
    if stored.fields.is_empty() || !fields_lie_within(&stored.fields, bytes) {
        faults.push("the stored state does not say which fields its rows have".into());
        return Vec::new();
    }
    let mut stages = Vec::new();
    let mut row = slots(stored.fields.clone());
    for migration in registry.evolution.chain(known.name, stored.version, known.version) {
        let version = migration.from;
        for step in &migration.steps {
            let find = |row: &[Slot], name: &str, faults: &mut Vec<String>| {
                let found = row.iter().position(|slot| slot.name == name);
                if found.is_none() {
                    let have: Vec<_> = row.iter().map(|slot| slot.name.as_str()).collect();
                    faults.push(format!(
                        "the step from version {version} names field \"{name}\", there are {}",
                        have.join(", ")
                    ));
                }
                found
            };
            match step {
                Step::Rename(old, new) => {
                    if row.iter().any(|slot| slot.name == *new) {
                        faults.push(format!(
                            "the step from version {version}: field \"{new}\" is there already"
                        ));
                    } else if let Some(at) = find(&row, old, faults) {
                        row[at].name.clone_from(new);
                    }
                }
                Step::Default(field, value) => {
                    if row.iter().any(|slot| slot.name == *field) {
                        faults.push(format!(
                            "the step from version {version}: field \"{field}\" is there already"
                        ));
                    } else {
                        row.push(Slot { name: field.clone(), source: Source::Value(value.clone()) });
                    }
                }
                Step::Drop(field) => {
                    if let Some(at) = find(&row, field, faults) {
                        row.remove(at);
                    }
                }
                Step::Map(field, map) => {
                    let Some(at) = find(&row, field, faults) else { continue };
                    match &mut row[at].source {
                        Source::Stored { maps, .. } => maps.push(map.clone()),
                        Source::Value(value) => match value.as_f64() {
                            Some(number) => *value = map(number).into(),
                            None => {
                                faults
                                    .push(format!("field \"{field}\" is not a number: it cannot be mapped"));
                            }
                        },
                    }
                }
                Step::Rows { old, new, run } => {
                    stages.push(assemble(&row, old.fields, faults));
                    stages.push(Stage::Rows(run.clone()));
                    row = slots(stored_fields(new.fields));
                }
                Step::Value(_) => {}
            }
        }
    }
    stages.push(assemble(&row, fields, faults));
    stages
}

/// The stage that lays a row out as these fields.
fn assemble(row: &[Slot], fields: &'static [FieldInfo], faults: &mut Vec<String>) -> Stage {
    let mut template = vec![0; row_bytes(fields)];
    let mut writes = Vec::new();
    for slot in row.iter().filter(|slot| !fields.iter().any(|field| field.name == slot.name)) {
        faults.push(format!("field \"{}\" is not in this build: declare drop or rename", slot.name));
    }
    for field in fields {
        let slot = row.iter().find(|slot| slot.name == field.name);
        match slot.map(|slot| &slot.source) {
            None => faults.push(format!("field \"{}\" is new: declare default or rename", field.name)),
            Some(Source::Value(value)) => {
                let mut wrong = Vec::new();
                let member = Value::Object([(field.name.to_owned(), value.clone())].into_iter().collect());
                merge_json_into_row(fields, &member, &mut template, "", &mut wrong);
                faults.extend(wrong.into_iter().map(|fault| format!("default of {fault}")));
            }
            Some(Source::Stored { offset, shape, maps }) => {
                lay_out(
                    field.name,
                    (shape, *offset),
                    (&field.shape, field.offset),
                    maps,
                    &mut writes,
                    faults,
                );
            }
        }
    }
    Stage::Assemble { template, writes }
}

/// How a stored field becomes a field of this build.
fn lay_out(
    name: &str,
    (stored, from): (&StoredShape, usize),
    (known, to): (&Shape, usize),
    maps: &[Map],
    writes: &mut Vec<Write>,
    faults: &mut Vec<String>,
) {
    let target = StoredShape::of(known);
    if maps.is_empty() && target.reads(stored) {
        writes.push(Write::Copy { from, to, bytes: known.bytes() });
        return;
    }
    let mut number = |from_scalar: Scalar, to_scalar: Scalar, labels| {
        writes.push(Write::Number(NumberWrite {
            field: name.to_owned(),
            from: (from, from_scalar),
            to: (to, to_scalar),
            labels,
            maps: maps.to_vec(),
        }));
    };
    match (stored, known) {
        (StoredShape::Label(a, then), Shape::Label(b, now)) if maps.is_empty() => {
            let place = |label: &String| {
                let place = now.iter().position(|known| known == label).map(|place| place as i128);
                place.ok_or_else(|| format!("label \"{label}\" is gone"))
            };
            number(*a, *b, Some(then.iter().map(place).collect()));
        }
        (StoredShape::Scalar(a) | StoredShape::Label(a, _), Shape::Scalar(b) | Shape::Label(b, _)) => {
            number(*a, *b, None);
        }
        (StoredShape::Array(of, count), Shape::Array(known_of, known_count))
            if *count as usize == *known_count =>
        {
            let (step, known_step) = (of.bytes().unwrap_or(0), known_of.bytes());
            for i in 0..*known_count {
                let name = format!("{name}.{i}");
                lay_out(&name, (of, from + i * step), (known_of, to + i * known_step), maps, writes, faults);
            }
        }
        (StoredShape::Row(then), Shape::Row(now))
            if then.len() == now.len() && now.iter().all(|f| then.iter().any(|g| g.name == f.name)) =>
        {
            for field in *now {
                let Some(stored) = then.iter().find(|stored| stored.name == field.name) else { continue };
                let name = format!("{name}.{}", field.name);
                let from = from + stored.offset as usize;
                lay_out(
                    &name,
                    (&stored.shape, from),
                    (&field.shape, to + field.offset),
                    maps,
                    writes,
                    faults,
                );
            }
        }
        _ => faults.push(format!("field \"{name}\" was {stored} and is {target}: use rows() for that")),
    }
}

/// Runs the stages over the rows or values of a chunk.
pub(super) fn run_chunk(
    stages: &[Stage],
    column: &ColumnImage,
    chunk: &Chunk,
    uids: &[u64],
) -> Result<Chunk, String> {
    let run = |(row, uid): (&[u8], &u64)| -> Result<Vec<u8>, String> {
        let mut row = row.to_vec();
        for stage in stages {
            row = stage.run(&row).map_err(|detail| format!("entity {uid}: {detail}"))?;
        }
        Ok(row)
    };
    match (chunk, column.schema.row_bytes()) {
        (Chunk::Slow(values), _) => {
            let values: Result<Vec<_>, _> = values.iter().map(Vec::as_slice).zip(uids).map(run).collect();
            values.map(Chunk::Slow)
        }
        (_, Some(bytes)) if bytes > 0 => {
            let mut out = Vec::new();
            for pair in chunk.runs().flat_map(|rows| rows.chunks_exact(bytes)).zip(uids) {
                out.extend_from_slice(&run(pair)?);
            }
            Ok(Chunk::Plain(out))
        }
        _ => Err("rows of no bytes".into()),
    }
}

impl Stage {
    fn run(&self, row: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Rows(run) => Ok(run(row)),
            Self::Value(run) => run(row),
            Self::Assemble { template, writes } => {
                let mut out = template.clone();
                for write in writes {
                    match write {
                        Write::Copy { from, to, bytes } => {
                            out[*to..to + bytes].copy_from_slice(&row[*from..from + bytes]);
                        }
                        Write::Number(number) => {
                            number
                                .run(row, &mut out)
                                .map_err(|why| format!("field \"{}\": {why}", number.field))?;
                        }
                    }
                }
                Ok(out)
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Float(f64),
}

impl NumberWrite {
    fn run(&self, row: &[u8], out: &mut [u8]) -> Result<(), String> {
        let (from, from_scalar) = self.from;
        let mut number = read(from_scalar, &row[from..from + from_scalar.bytes()]);
        if let (Some(labels), Number::Int(value)) = (&self.labels, number) {
            let known = usize::try_from(value).ok().and_then(|value| labels.get(value));
            // A number without a name stays what it is.
            number = Number::Int(known.map_or(Ok(value), Clone::clone)?);
        }
        for map in &self.maps {
            let value = match number {
                Number::Int(value) => value as f64,
                Number::Float(value) => value,
            };
            number = Number::Float(map(value));
        }
        let (to, to_scalar) = self.to;
        write(to_scalar, number, &mut out[to..to + to_scalar.bytes()])
    }
}

fn read(scalar: Scalar, bytes: &[u8]) -> Number {
    macro_rules! int {
        ($ty:ty) => {
            Number::Int(i128::from(<$ty>::from_le_bytes(
                bytes.try_into().expect("the shape says how many bytes"),
            )))
        };
    }
    macro_rules! float {
        ($ty:ty) => {
            Number::Float(f64::from(<$ty>::from_le_bytes(
                bytes.try_into().expect("the shape says how many bytes"),
            )))
        };
    }
    match scalar {
        Scalar::U8 => int!(u8),
        Scalar::U16 => int!(u16),
        Scalar::U32 => int!(u32),
        Scalar::U64 | Scalar::Uid => int!(u64),
        Scalar::I8 => int!(i8),
        Scalar::I16 => int!(i16),
        Scalar::I32 => int!(i32),
        Scalar::I64 => int!(i64),
        Scalar::F32 => float!(f32),
        Scalar::F64 => float!(f64),
    }
}

/// Writes a number that fits: a whole one into whole ones within their limits, into floats where none is lost.
fn write(scalar: Scalar, number: Number, out: &mut [u8]) -> Result<(), String> {
    let whole = || match number {
        Number::Int(value) => Ok(value),
        Number::Float(value) if value.is_finite() && value == libm::trunc(value) => Ok(value as i128),
        Number::Float(value) => Err(format!("{value} is not a whole number")),
    };
    let float = || match number {
        Number::Float(value) => value,
        Number::Int(value) => value as f64,
    };
    macro_rules! int {
        ($ty:ty) => {{
            let value = whole()?;
            let value = <$ty>::try_from(value).map_err(|_| format!("{value} is out of range"))?;
            out.copy_from_slice(&value.to_le_bytes());
        }};
    }
    macro_rules! float {
        ($ty:ty) => {{
            let value = float() as $ty;
            if let Number::Int(int) = number
                && value as i128 != int
            {
                return Err(format!("{int} has too many digits"));
            }
            if !value.is_finite() {
                return Err(format!("{} is out of range", float()));
            }
            out.copy_from_slice(&value.to_le_bytes());
        }};
    }
    match scalar {
        Scalar::U8 => int!(u8),
        Scalar::U16 => int!(u16),
        Scalar::U32 => int!(u32),
        Scalar::U64 | Scalar::Uid => int!(u64),
        Scalar::I8 => int!(i8),
        Scalar::I16 => int!(i16),
        Scalar::I32 => int!(i32),
        Scalar::I64 => int!(i64),
        Scalar::F32 => float!(f32),
        Scalar::F64 => float!(f64),
    }
    Ok(())
}
