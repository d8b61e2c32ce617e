//! Rows to and from JSON, and their JSON Schema.
//!
//! Reading never stops at the first fault: every wrong member is named by its JSON pointer.

use super::{FieldInfo, Scalar, Shape};
use serde::{Serialize, Serializer};
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

/// A row as a JSON object with a member per field, written as it is read: a tree of values in between would take most of the
/// time. Where one is wanted: [`value_as_written`].
pub struct RowJson<'r> {
    /// What the row has.
    pub fields: &'r [FieldInfo],
    /// Its bytes.
    pub row: &'r [u8],
}

impl Serialize for RowJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = |field: &FieldInfo| &self.row[field.offset..field.offset + field.shape.bytes()];
        serializer
            .collect_map(self.fields.iter().map(|field| (field.name, ShapeJson(&field.shape, bytes(field)))))
    }
}

struct ShapeJson<'r>(&'r Shape, &'r [u8]);

impl Serialize for ShapeJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(shape, bytes) = *self;
        match shape {
            Shape::Scalar(scalar) => serialize_scalar(*scalar, bytes, serializer),
            Shape::Label(scalar, names) => match names.get(label(*scalar, bytes)) {
                Some(name) => serializer.serialize_str(name),
                None => serialize_scalar(*scalar, bytes, serializer),
            },
            Shape::Array(of, _) => {
                serializer.collect_seq(bytes.chunks_exact(of.bytes()).map(|bytes| ShapeJson(of, bytes)))
            }
            Shape::Row(fields) => RowJson { fields, row: bytes }.serialize(serializer),
        }
    }
}

/// The number of a label's name.
fn label(scalar: Scalar, bytes: &[u8]) -> usize {
    let mut number = [0; 8];
    number[..bytes.len()].copy_from_slice(bytes);
    match scalar {
        // None of these names anything below zero.
        Scalar::I8 | Scalar::I16 | Scalar::I32 | Scalar::I64 if bytes[bytes.len() - 1] > 0x7f => usize::MAX,
        _ => usize::try_from(u64::from_le_bytes(number)).unwrap_or(usize::MAX),
    }
}

/// A row as a JSON object with a member per field.
pub fn row_to_json(fields: &[FieldInfo], row: &[u8]) -> Value {
    value_as_written(&RowJson { fields, row })
}

/// A tree of what is made to be written (rows, say), with the numbers that the text has: 0.1f32 is 0.1, not
/// 0.10000000149011612 as it would be without having been written.
pub fn value_as_written(what: &impl Serialize) -> Value {
    let text = serde_json::to_string(what).expect("names, numbers and texts are JSON");
    serde_json::from_str(&text).expect("what was just written")
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

fn serialize_scalar<S: Serializer>(scalar: Scalar, bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    macro_rules! read {
        ($ty:ty) => {
            <$ty>::from_le_bytes(bytes.try_into().expect("the shape says how many bytes"))
        };
    }
    match scalar {
        Scalar::U8 => serializer.serialize_u8(read!(u8)),
        Scalar::U16 => serializer.serialize_u16(read!(u16)),
        Scalar::U32 => serializer.serialize_u32(read!(u32)),
        Scalar::U64 => serializer.serialize_u64(read!(u64)),
        Scalar::I8 => serializer.serialize_i8(read!(i8)),
        Scalar::I16 => serializer.serialize_i16(read!(i16)),
        Scalar::I32 => serializer.serialize_i32(read!(i32)),
        Scalar::I64 => serializer.serialize_i64(read!(i64)),
        Scalar::F32 => serializer.serialize_f32(read!(f32)),
        Scalar::F64 => serializer.serialize_f64(read!(f64)),
        Scalar::Uid => serializer.collect_str(&read!(u64)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_of_32_bits_read_as_they_are_written(bits in any::<u32>()) {
            let number = f32::from_bits(bits);
            let fields = [FieldInfo { name: "n", doc: "", offset: 0, shape: Shape::Scalar(Scalar::F32), range: None }];
            let row = number.to_le_bytes();
            let text = serde_json::to_string(&RowJson { fields: &fields, row: &row }).unwrap();
            let of_text: Value = serde_json::from_str(&text).unwrap();
            let read = row_to_json(&fields, &row);
            prop_assert_eq!(&of_text, &read);
            if number.is_finite() {
                prop_assert_eq!(read["n"].as_f64().unwrap() as f32, number);
                // In as few digits as can be; of two texts that are as near, formatters take one or the other.
                let digits = |text: String| {
                    let mantissa = text.split('e').next().unwrap().replace(['-', '.'], "");
                    mantissa.trim_matches('0').len()
                };
                prop_assert_eq!(digits(read["n"].to_string()), digits(format!("{number:e}")));
            } else {
                prop_assert!(read["n"].is_null(), "JSON has no such number");
            }
        }
    }

    #[test]
    fn a_row_is_told_member_by_member() {
        let one = |name, offset, shape| FieldInfo { name, doc: "", offset, shape, range: None };
        let fields = [
            one("mood", 0, Shape::Label(Scalar::U8, &["glad", "sad"])),
            one("odd", 1, Shape::Label(Scalar::U8, &["one"])),
            one("warmth", 2, Shape::Scalar(Scalar::F32)),
            one("friend", 6, Shape::Scalar(Scalar::Uid)),
            one("below", 14, Shape::Array(&Shape::Scalar(Scalar::I16), 2)),
        ];
        let mut row = vec![1, 7];
        row.extend(0.1f32.to_le_bytes());
        row.extend(u64::MAX.to_le_bytes());
        row.extend([(-2i16).to_le_bytes(), 3i16.to_le_bytes()].concat());
        let told = r#"{"mood":"sad","odd":7,"warmth":0.1,"friend":"18446744073709551615","below":[-2,3]}"#;
        assert_eq!(serde_json::to_string(&RowJson { fields: &fields, row: &row }).unwrap(), told);
        let tree: Value = serde_json::from_str(told).unwrap();
        assert_eq!(row_to_json(&fields, &row), tree);
    }
}
