//! Rows to and from JSON, and their JSON Schema.
//!
//! Reading never stops at the first fault: every wrong member is named by its JSON pointer.

use super::{FieldInfo, Scalar, Shape};
use serde_json::{Map, Value, json};
use std::fmt;

/// A wrong member of a JSON document.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// Where: a JSON pointer (RFC 6901).
    pub pointer: String,
    /// What was expected there.
    pub detail: String,
}

impl Fault {
    /// A fault at that place.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", if self.pointer.is_empty() { "/" } else { &self.pointer }, self.detail)
    }
}

/// A row as a JSON object with a member per field.
pub fn row_to_json(fields: &[FieldInfo], row: &[u8]) -> Value {
    let member = |field: &FieldInfo| {
        let bytes = &row[field.offset..field.offset + field.shape.bytes()];
        (field.name.to_owned(), shape_to_json(&field.shape, bytes))
    };
    Value::Object(fields.iter().map(member).collect::<Map<_, _>>())
}

/// Writes the members of a JSON object over a row; members that are absent leave their field as it is.
pub fn merge_json_into_row(
    fields: &[FieldInfo],
    value: &Value,
    row: &mut [u8],
    pointer: &str,
    faults: &mut Vec<Fault>,
) {
    let Value::Object(members) = value else {
        let names: Vec<_> = fields.iter().map(|field| field.name).collect();
        faults.push(Fault::new(pointer, format!("expected an object with {}", names.join(", "))));
        return;
    };
    for (name, value) in members {
        let pointer = format!("{pointer}/{name}");
        let Some(field) = fields.iter().find(|field| field.name == name) else {
            let names: Vec<_> = fields.iter().map(|field| field.name).collect();
            faults.push(Fault::new(pointer, format!("unknown field, expected one of {}", names.join(", "))));
            continue;
        };
        let bytes = &mut row[field.offset..field.offset + field.shape.bytes()];
        merge_shape(&field.shape, field.range, value, bytes, &pointer, faults);
    }
}

/// The JSON Schema (2020-12) of a row.
pub fn row_schema(fields: &[FieldInfo]) -> Value {
    let mut properties = Map::new();
    for field in fields {
        let mut schema = shape_schema(&field.shape);
        if let Value::Object(members) = &mut schema {
            if !field.doc.is_empty() {
                members.insert("description".into(), field.doc.trim().into());
            }
            if let Some((low, high)) = field.range {
                members.insert("minimum".into(), low.into());
                members.insert("maximum".into(), high.into());
            }
        }
        properties.insert(field.name.into(), schema);
    }
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

/// The names by which a query reaches the numbers of a row: `hunger`, `slots.3.subject`.
pub fn field_paths(fields: &[FieldInfo]) -> Vec<String> {
    fn push(shape: &Shape, path: String, paths: &mut Vec<String>) {
        match shape {
            Shape::Scalar(_) | Shape::Label(..) => paths.push(path),
            Shape::Array(of, count) => (0..*count).for_each(|i| push(of, format!("{path}.{i}"), paths)),
            Shape::Row(fields) => {
                fields.iter().for_each(|field| push(&field.shape, format!("{path}.{}", field.name), paths));
            }
        }
    }
    let mut paths = Vec::new();
    fields.iter().for_each(|field| push(&field.shape, field.name.to_owned(), &mut paths));
    paths
}

fn shape_to_json(shape: &Shape, bytes: &[u8]) -> Value {
    match shape {
        Shape::Scalar(scalar) => scalar_to_json(*scalar, bytes),
        Shape::Label(scalar, names) => {
            let number = scalar_to_json(*scalar, bytes);
            let name = number.as_u64().and_then(|value| names.get(value as usize));
            name.map_or(number, |name| (*name).into())
        }
        Shape::Array(of, _) => bytes.chunks_exact(of.bytes()).map(|bytes| shape_to_json(of, bytes)).collect(),
        Shape::Row(fields) => row_to_json(fields, bytes),
    }
}

fn scalar_to_json(scalar: Scalar, bytes: &[u8]) -> Value {
    macro_rules! read {
        ($ty:ty) => {
            <$ty>::from_le_bytes(bytes.try_into().expect("the shape says how many bytes"))
        };
    }
    match scalar {
        Scalar::U8 => read!(u8).into(),
        Scalar::U16 => read!(u16).into(),
        Scalar::U32 => read!(u32).into(),
        Scalar::U64 => read!(u64).into(),
        Scalar::I8 => read!(i8).into(),
        Scalar::I16 => read!(i16).into(),
        Scalar::I32 => read!(i32).into(),
        Scalar::I64 => read!(i64).into(),
        // Through its shortest decimal form: 0.1f32 reads 0.1, not 0.10000000149011612.
        Scalar::F32 => read!(f32).to_string().parse::<f64>().map_or(Value::Null, Value::from),
        Scalar::F64 => read!(f64).into(),
        Scalar::Uid => read!(u64).to_string().into(),
    }
}

fn merge_shape(
    shape: &Shape,
    range: Option<(f64, f64)>,
    value: &Value,
    bytes: &mut [u8],
    pointer: &str,
    faults: &mut Vec<Fault>,
) {
    match shape {
        Shape::Scalar(scalar) => match scalar_from_json(*scalar, range, value, bytes) {
            Ok(()) => {}
            Err(detail) => faults.push(Fault::new(pointer, detail)),
        },
        Shape::Label(scalar, names) => {
            let position = value.as_str().and_then(|name| names.iter().position(|known| *known == name));
            let Some(position) = position else {
                faults.push(Fault::new(pointer, format!("expected one of {}", names.join(", "))));
                return;
            };
            if let Err(detail) = scalar_from_json(*scalar, None, &position.into(), bytes) {
                faults.push(Fault::new(pointer, detail));
            }
        }
        Shape::Array(of, count) => {
            let Some(items) = value.as_array().filter(|items| items.len() == *count) else {
                faults.push(Fault::new(pointer, format!("expected an array of {count}")));
                return;
            };
            for (i, (item, bytes)) in items.iter().zip(bytes.chunks_exact_mut(of.bytes())).enumerate() {
                merge_shape(of, range, item, bytes, &format!("{pointer}/{i}"), faults);
            }
        }
        Shape::Row(fields) => merge_json_into_row(fields, value, bytes, pointer, faults),
    }
}

fn scalar_from_json(
    scalar: Scalar,
    range: Option<(f64, f64)>,
    value: &Value,
    bytes: &mut [u8],
) -> Result<(), String> {
    macro_rules! integer {
        ($ty:ty) => {{
            let number = value.as_i64().map(i128::from).or(value.as_u64().map(i128::from));
            let number = number.ok_or_else(|| "expected a whole number".to_owned())?;
            let number = <$ty>::try_from(number)
                .map_err(|_| format!("expected a number from {} to {}", <$ty>::MIN, <$ty>::MAX))?;
            bytes.copy_from_slice(&number.to_le_bytes());
        }};
    }
    if let (Some((low, high)), Some(number)) = (range, value.as_f64())
        && !(low..=high).contains(&number)
    {
        return Err(format!("expected a number from {low} to {high}, found {number}"));
    }
    match scalar {
        Scalar::U8 => integer!(u8),
        Scalar::U16 => integer!(u16),
        Scalar::U32 => integer!(u32),
        Scalar::U64 => integer!(u64),
        Scalar::I8 => integer!(i8),
        Scalar::I16 => integer!(i16),
        Scalar::I32 => integer!(i32),
        Scalar::I64 => integer!(i64),
        Scalar::F32 => {
            let number = value.as_f64().ok_or("expected a number")? as f32;
            if !number.is_finite() {
                return Err("expected a finite 32-bit number".into());
            }
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        Scalar::F64 => {
            let number = value.as_f64().filter(|number| number.is_finite()).ok_or("expected a number")?;
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        Scalar::Uid => {
            let number = value.as_str().and_then(|text| text.parse::<u64>().ok());
            let number = number.ok_or("expected a Uid: a decimal number in a string")?;
            bytes.copy_from_slice(&number.to_le_bytes());
        }
    }
    Ok(())
}

fn shape_schema(shape: &Shape) -> Value {
    match shape {
        Shape::Scalar(Scalar::F32 | Scalar::F64) => json!({"type": "number"}),
        Shape::Scalar(Scalar::Uid) => json!({"type": "string", "pattern": "^[0-9]+$"}),
        Shape::Scalar(scalar) => {
            let bits = scalar.bytes() * 8;
            let (low, high) = match scalar {
                Scalar::I8 | Scalar::I16 | Scalar::I32 | Scalar::I64 => {
                    (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
                }
                _ => (0, (1i128 << bits) - 1),
            };
            json!({"type": "integer", "minimum": low as i64, "maximum": high as u64})
        }
        Shape::Label(_, names) => json!({"enum": names}),
        Shape::Array(of, count) => {
            json!({"type": "array", "items": shape_schema(of), "minItems": count, "maxItems": count})
        }
        Shape::Row(fields) => row_schema(fields),
    }
}
