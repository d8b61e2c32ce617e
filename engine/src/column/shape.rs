//! The shape of a row: which numbers lie where.

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

/// A type that may stand in a plain row.
pub trait Field: Pod {
    /// Which numbers it is made of.
    const SHAPE: Shape;

    /// All bytes zero: the value that a row starts with.
    fn zero() -> Self {
        Zeroable::zeroed()
    }
}

/// What a field is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One number.
    Scalar(Scalar),
    /// One number whose known values have names.
    Label(Scalar, &'static [&'static str]),
    /// Several of one shape.
    Array(&'static Shape, usize),
    /// Named fields.
    Row(&'static [FieldInfo]),
}

/// A named field of a row.
#[derive(Clone, Copy, Debug)]
pub struct FieldInfo {
    /// Its name in JSON and queries.
    pub name: &'static str,
    /// Its documentation.
    pub doc: &'static str,
    /// Where it starts in the row, in bytes.
    pub offset: usize,
    /// What it is made of.
    pub shape: Shape,
    /// The values that an input may set, both ends included.
    pub range: Option<(f64, f64)>,
}

// By name and place; ranges are f64 and play no part in whether two rows are laid out alike.
impl PartialEq for FieldInfo {
    fn eq(&self, other: &Self) -> bool {
        (self.name, self.offset, self.shape) == (other.name, other.offset, other.shape)
    }
}

impl Eq for FieldInfo {}

/// A number as it lies in memory and on disk, little endian. New ones are appended: the position is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scalar {
    /// Unsigned, 1 byte.
    U8,
    /// Unsigned, 2 bytes.
    U16,
    /// Unsigned, 4 bytes.
    U32,
    /// Unsigned, 8 bytes.
    U64,
    /// Signed, 1 byte.
    I8,
    /// Signed, 2 bytes.
    I16,
    /// Signed, 4 bytes.
    I32,
    /// Signed, 8 bytes.
    I64,
    /// IEEE 754, 4 bytes.
    F32,
    /// IEEE 754, 8 bytes.
    F64,
    /// An entity's stable name, 8 bytes; a string in JSON.
    Uid,
}

/// A run of bytes in a row that is one number: what the delta codec works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Where it starts in the row.
    pub offset: usize,
    /// 1, 2, 4 or 8 bytes.
    pub width: usize,
}

impl Scalar {
    /// How many bytes it takes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Uid => 8,
        }
    }
}

impl Shape {
    /// How many bytes it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Scalar(scalar) | Self::Label(scalar, _) => scalar.bytes(),
            Self::Array(of, count) => of.bytes() * count,
            Self::Row(fields) => row_bytes(fields),
        }
    }

    /// The number that a label or scalar is kept as.
    pub const fn scalar(&self) -> Scalar {
        match self {
            Self::Scalar(scalar) | Self::Label(scalar, _) => *scalar,
            Self::Array(..) | Self::Row(_) => panic!("not a single number"),
        }
    }

    fn push_lanes(&self, offset: usize, lanes: &mut Vec<Lane>) {
        match self {
            Self::Scalar(scalar) | Self::Label(scalar, _) => {
                lanes.push(Lane { offset, width: scalar.bytes() });
            }
            Self::Array(of, count) => (0..*count).for_each(|i| of.push_lanes(offset + i * of.bytes(), lanes)),
            Self::Row(fields) => {
                fields.iter().for_each(|field| field.shape.push_lanes(offset + field.offset, lanes));
            }
        }
    }
}

/// How many bytes a row of these fields takes.
pub fn row_bytes(fields: &[FieldInfo]) -> usize {
    fields.iter().map(|field| field.shape.bytes()).sum()
}

/// The numbers of a row in the order of its bytes.
pub fn lanes(fields: &'static [FieldInfo]) -> Vec<Lane> {
    let mut lanes = Vec::new();
    Shape::Row(fields).push_lanes(0, &mut lanes);
    lanes
}

macro_rules! scalar_fields {
    ($($ty:ty => $scalar:ident),*) => {$(
        impl Field for $ty {
            const SHAPE: Shape = Shape::Scalar(Scalar::$scalar);
        }
    )*};
}
scalar_fields! { u8 => U8, u16 => U16, u32 => U32, u64 => U64, i8 => I8, i16 => I16, i32 => I32, i64 => I64,
f32 => F32, f64 => F64 }

impl<T: Field, const N: usize> Field for [T; N] {
    const SHAPE: Shape = Shape::Array(&T::SHAPE, N);
}
