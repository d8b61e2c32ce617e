//! What a stored column says of its own rows: the names, places and kinds of their fields.
//!
//! It travels with every image and every file, so that another build can tell what it has before it and bring rows
//! along by the names of their fields. Deliberately absent: how that is done, see `migrate.rs`.

use crate::{
    column::{FieldInfo, Scalar, Shape, lanes},
    image::ColumnSchema,
};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use std::{cell::Cell, fmt};

/// A field of a stored row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StoredField {
    /// Its name.
    pub name: String,
    /// Where it starts in the row, in bytes; 0 for the fields of a slow column, which have no fixed place.
    pub offset: u32,
    /// What it is made of.
    pub shape: StoredShape,
}

/// What a stored field is made of: [`Shape`] by value. New ones are appended: the position is stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StoredShape {
    /// One number.
    Scalar(Scalar),
    /// One number whose values from 0 have these names.
    Label(Scalar, Vec<String>),
    /// Several of one shape.
    Array(#[serde(deserialize_with = "one_deeper")] Box<StoredShape>, u32),
    /// Named fields.
    Row(#[serde(deserialize_with = "one_deeper")] Vec<StoredField>),
    /// A field of a slow column, by the text of its type.
    Serde(String),
}

impl StoredShape {
    /// A shape of this build by value.
    pub fn of(shape: &Shape) -> Self {
        match shape {
            Shape::Scalar(scalar) => Self::Scalar(*scalar),
            Shape::Label(scalar, names) => {
                Self::Label(*scalar, names.iter().map(|name| (*name).to_owned()).collect())
            }
            Shape::Array(of, count) => Self::Array(Box::new(Self::of(of)), *count as u32),
            Shape::Row(fields) => Self::Row(stored_fields(fields)),
        }
    }

    /// How many bytes it takes; none for a serde shape.
    pub fn bytes(&self) -> Option<usize> {
        match self {
            Self::Scalar(scalar) | Self::Label(scalar, _) => Some(scalar.bytes()),
            Self::Array(of, count) => of.bytes()?.checked_mul(*count as usize),
            Self::Row(fields) => {
                fields.iter().try_fold(0usize, |sum, field| sum.checked_add(field.shape.bytes()?))
            }
            Self::Serde(_) => None,
        }
    }

    /// Whether all of it lies within so many bytes. A file can say anything.
    pub(crate) fn lies_within(&self, bytes: usize) -> bool {
        let inner = match self {
            Self::Array(of, _) => of.bytes().is_some_and(|bytes| of.lies_within(bytes)),
            Self::Row(fields) => fields_lie_within(fields, bytes),
            Self::Scalar(_) | Self::Label(..) => true,
            Self::Serde(_) => false,
        };
        inner && self.bytes().is_some_and(|needed| needed <= bytes)
    }

    /// Whether every stored value of the other shape means the same under this one: equal, or with more labels
    /// behind those that were known.
    pub fn reads(&self, stored: &Self) -> bool {
        match (self, stored) {
            (Self::Label(kind, known), Self::Label(stored_kind, stored)) => {
                kind == stored_kind && known.starts_with(stored)
            }
            (Self::Array(of, count), Self::Array(stored_of, stored_count)) => {
                count == stored_count && of.reads(stored_of)
            }
            (Self::Row(fields), Self::Row(stored)) => fields_read(fields, stored),
            _ => self == stored,
        }
    }
}

/// Fields of this build by value.
pub fn stored_fields(fields: &[FieldInfo]) -> Vec<StoredField> {
    let field = |field: &FieldInfo| StoredField {
        name: field.name.to_owned(),
        offset: field.offset as u32,
        shape: StoredShape::of(&field.shape),
    };
    fields.iter().map(field).collect()
}

/// Whether fields of a stored row lie within its bytes.
pub(crate) fn fields_lie_within(fields: &[StoredField], bytes: usize) -> bool {
    let lies = |field: &StoredField| {
        bytes.checked_sub(field.offset as usize).is_some_and(|rest| field.shape.lies_within(rest))
    };
    fields.iter().all(lies)
}

/// Rows within rows within rows: no declaration goes deeper than that.
const DEPTH_MAX: u32 = 16;

/// Reads what is inside of a shape; refuses what is nested deeper than any declaration, before the stack ends.
fn one_deeper<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    thread_local! {
        static DEPTH: Cell<u32> = const { Cell::new(0) };
    }
    let depth = DEPTH.get();
    if depth == DEPTH_MAX {
        return Err(D::Error::custom("a shape is nested too deeply"));
    }
    DEPTH.set(depth + 1);
    let inner = T::deserialize(deserializer);
    DEPTH.set(depth);
    inner
}

fn fields_read(fields: &[StoredField], stored: &[StoredField]) -> bool {
    let reads = |(field, stored): (&StoredField, &StoredField)| {
        (&field.name, field.offset) == (&stored.name, stored.offset) && field.shape.reads(&stored.shape)
    };
    fields.len() == stored.len() && fields.iter().zip(stored).all(reads)
}

impl ColumnSchema {
    /// The schema of a plain column.
    pub fn plain(name: &str, version: u16, fields: &'static [FieldInfo]) -> Self {
        let widths = lanes(fields).iter().map(|lane| lane.width as u8).collect();
        Self { name: name.into(), version, lanes: Some(widths), fields: stored_fields(fields) }
    }

    /// The schema of a slow column, its fields as (name, text of the type).
    pub fn slow(name: &str, version: u16, fields: &[(&str, &str)]) -> Self {
        let field = |(name, ty): &(&str, &str)| StoredField {
            name: (*name).to_owned(),
            offset: 0,
            // Where a line breaks in the source is nothing to do with the type.
            shape: StoredShape::Serde(ty.split_whitespace().collect()),
        };
        Self { name: name.into(), version, lanes: None, fields: fields.iter().map(field).collect() }
    }

    /// Whether stored rows of the other schema can be taken as they are: same version, same layout. Labels may have
    /// been added behind the known ones; a file that names no fields is judged by its version and lanes.
    pub fn reads(&self, stored: &Self) -> bool {
        (&self.name, self.version, &self.lanes) == (&stored.name, stored.version, &stored.lanes)
            && (stored.fields.is_empty() || fields_read(&self.fields, &stored.fields))
    }
}

impl fmt::Display for StoredShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(scalar) => write!(f, "{scalar}"),
            Self::Label(scalar, names) => write!(f, "{scalar} of {}", names.join("|")),
            Self::Array(of, count) => write!(f, "[{of}; {count}]"),
            Self::Row(fields) => {
                let fields: Vec<_> =
                    fields.iter().map(|field| format!("{}: {}", field.name, field.shape)).collect();
                write!(f, "{{{}}}", fields.join(", "))
            }
            Self::Serde(ty) => f.write_str(ty),
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Uid => "uid",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crafted file: nesting ends in an error, not in the end of the stack.
    #[test]
    fn deep_nesting_is_refused() {
        let nested = |depth: usize| {
            // Kind 2 is an array, kind 0 a scalar; each array ends with its count.
            let mut bytes = vec![2; depth];
            bytes.extend([0, 0]);
            bytes.extend(vec![1; depth]);
            postcard::from_bytes::<StoredShape>(&bytes)
        };
        let deep = nested(16).unwrap();
        assert_eq!(deep.bytes(), Some(1));
        assert_eq!(
            postcard::from_bytes::<StoredShape>(&postcard::to_allocvec(&deep).unwrap()).unwrap(),
            deep
        );
        assert!(nested(17).is_err());
        assert!(nested(10_000_000).is_err());
        // The depth is counted anew after a failure.
        assert!(nested(16).is_ok());
    }

    /// Places that lie outside of the row are seen before anything is read there.
    #[test]
    fn fields_outside_of_their_row_are_found() {
        let field = |offset, shape| StoredField { name: "a".into(), offset, shape };
        let number = || StoredShape::Scalar(Scalar::U32);
        let check = |field: StoredField, expected| assert_eq!(fields_lie_within(&[field], 8), expected);
        check(field(4, number()), true);
        check(field(5, number()), false);
        check(field(u32::MAX, number()), false);
        check(field(0, StoredShape::Array(Box::new(number()), 2)), true);
        check(field(0, StoredShape::Array(Box::new(number()), 3)), false);
        check(
            field(
                0,
                StoredShape::Array(Box::new(StoredShape::Array(Box::new(number()), u32::MAX)), u32::MAX),
            ),
            false,
        );
        check(field(0, StoredShape::Row(vec![field(4, number())])), true);
        check(field(0, StoredShape::Row(vec![field(5, number())])), false);
        check(field(4, StoredShape::Row(vec![field(4, number())])), false);
        check(field(0, StoredShape::Serde("u8".into())), false);
    }
}
