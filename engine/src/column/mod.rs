//! Columns: one declaration per component, from which everything else comes.
//!
//! [`component!`](crate::component!) declares a small plain row of named numeric fields; its disk column, byte lanes, JSON, JSON
//! Schema, field names and hash are derived from the [`Shape`] here. [`slow_component!`](crate::slow_component!) is for rare
//! text-like data and goes through serde.

mod json;
mod shape;

pub use json::{Fault, RowJson, field_paths, merge_json_into_row, row_schema, row_to_json, value_as_written};
pub use shape::{Field, FieldInfo, Lane, Scalar, Shape, lanes, row_bytes};

use bevy_ecs::component::{Component, Mutable};
use bytemuck::Pod;
use serde::{Serialize, de::DeserializeOwned};

/// A component that is a plain row. Declare it with [`component!`](crate::component!), never by hand.
pub trait Column: Component<Mutability = Mutable> + Pod + Default + PartialEq {
    /// Its name on disk, in the API and in queries; unique in a world.
    const NAME: &'static str;
    /// Raised when the meaning or the shape of a stored row changes.
    const VERSION: u16;
    /// The first lines of its documentation.
    const DOC: &'static str;
    /// Its named fields, in the order of the row's bytes.
    const FIELDS: &'static [FieldInfo];
}

/// A rare component of any serde shape (a name, a persona). Declare it with [`slow_component!`](crate::slow_component!).
pub trait SlowColumn: Component<Mutability = Mutable> + Serialize + DeserializeOwned + Default {
    /// Its name on disk, in the API and in queries; unique in a world.
    const NAME: &'static str;
    /// Raised when the meaning or the shape of a stored value changes.
    const VERSION: u16;
    /// The first lines of its documentation.
    const DOC: &'static str;
    /// Its fields and the text of their types, in the order of the stored value.
    const FIELDS: &'static [(&'static str, &'static str)];
}

/// How a column's rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Rows of equal size with named fields.
    Plain {
        /// Bytes of one row.
        row_bytes: usize,
        /// The fields of a row.
        fields: &'static [FieldInfo],
    },
    /// Values of any size, encoded by postcard on disk and by serde in JSON.
    Slow,
}

/// Declares a component as a plain row of named numeric fields, a column.
///
/// Fields are numbers, [`Uid`](crate::Uid)s, labels ([`labels!`](crate::labels!)), arrays and [`row!`](crate::row!)s of these. A range
/// after `where` is what an input may set; systems keep to it themselves.
///
/// ```
/// use everworld_engine::{Column, component};
/// component! {
///     /// What a body lacks.
///     pub struct Needs("needs", version 1) {
///         /// 0 is sated, 1 starving.
///         hunger: f32 where 0.0..=1.0,
///         meals: u32,
///     }
/// }
/// assert_eq!(Needs::FIELDS[0].name, "hunger");
/// ```
#[macro_export]
macro_rules! component {
    ($(#[$($meta:tt)*])* $vis:vis struct $Name:ident($name:literal, version $version:literal) { $($fields:tt)* }) => {
        $crate::__plain_row! { $(#[$($meta)*])* $vis struct $Name { $($fields)* } }

        impl $crate::__private::bevy_ecs::component::Component for $Name {
            const STORAGE_TYPE: $crate::__private::bevy_ecs::component::StorageType =
                $crate::__private::bevy_ecs::component::StorageType::Table;
            type Mutability = $crate::__private::bevy_ecs::component::Mutable;
        }

        impl $crate::column::Column for $Name {
            const NAME: &'static str = $name;
            const VERSION: u16 = $version;
            const DOC: &'static str = $crate::__doc_of!($(#[$($meta)*])*);
            const FIELDS: &'static [$crate::column::FieldInfo] = Self::ROW_FIELDS;
        }
    };
}

/// Declares a plain row that is a field of a [`component!`](crate::component!), for example an element of an array.
#[macro_export]
macro_rules! row {
    ($(#[$($meta:tt)*])* $vis:vis struct $Name:ident { $($fields:tt)* }) => {
        $crate::__plain_row! { $(#[$($meta)*])* $vis struct $Name { $($fields)* } }

        impl $crate::column::Field for $Name {
            const SHAPE: $crate::column::Shape = $crate::column::Shape::Row(Self::ROW_FIELDS);
        }
    };
}

/// The struct of a [`component!`](crate::component!) or [`row!`](crate::row!) with its field list.
#[doc(hidden)]
#[macro_export]
macro_rules! __plain_row {
    ($(#[$($meta:tt)*])* $vis:vis struct $Name:ident {
        $($(#[$($field_meta:tt)*])* $field:ident : $ty:ty $(where $low:literal ..= $high:literal)?),+ $(,)?
    }) => {
        $(#[$($meta)*])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[repr(C)]
        $vis struct $Name {
            $($(#[$($field_meta)*])* pub $field: $ty,)+
        }

        impl $Name {
            #[doc(hidden)]
            pub const ROW_FIELDS: &'static [$crate::column::FieldInfo] = &[$(
                $crate::column::FieldInfo {
                    name: stringify!($field),
                    doc: $crate::__doc_of!($(#[$($field_meta)*])*),
                    offset: ::core::mem::offset_of!($Name, $field),
                    shape: <$ty as $crate::column::Field>::SHAPE,
                    range: $crate::__range_of!($($low, $high)?),
                },
            )+];
        }

        impl Default for $Name {
            fn default() -> Self {
                Self { $($field: <$ty as $crate::column::Field>::zero(),)+ }
            }
        }

        // Rows are hashed and stored as bytes, so that a padding byte would be garbage in the state.
        const _: () = assert!(
            ::core::mem::size_of::<$Name>() == 0 $(+ ::core::mem::size_of::<$ty>())+,
            "a row has padding: order its fields by size, or fill the gap with a field"
        );

        #[allow(unsafe_code, reason = "the row is plain by construction, see SAFETY")]
        const _: () = {
            // SAFETY: repr(C), every field is Pod (Field requires it), and the assertion above shows that
            // no byte of the struct is padding. All fields accept zero bytes.
            unsafe impl $crate::__private::bytemuck::Zeroable for $Name {}
            // SAFETY: as above; the struct is Copy and 'static.
            unsafe impl $crate::__private::bytemuck::Pod for $Name {}
        };
    };
}

/// Declares a field type that is a number with names: what others would make an enum of.
///
/// Any number may stand in a row (it is plain data); in JSON a known one is its name.
///
/// ```
/// everworld_engine::labels! {
///     /// What someone does for a living.
///     pub enum Trade: u8 { None = "none", Baker = "baker" }
/// }
/// assert_eq!(Trade::Baker.name(), Some("baker"));
/// ```
#[macro_export]
macro_rules! labels {
    ($(#[$($meta:tt)*])* $vis:vis enum $Name:ident : $ty:ident { $($label:ident = $text:literal),+ $(,)? }) => {
        $(#[$($meta)*])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        $vis struct $Name(pub $ty);

        $crate::__label_consts!($Name, $ty, 0, $($label = $text),+);

        impl $Name {
            /// The names of the known values, by value.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// The name of this value, if it is a known one.
            pub fn name(self) -> Option<&'static str> {
                Self::NAMES.get(self.0 as usize).copied()
            }

            /// The value of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::NAMES.iter().position(|known| *known == name).and_then(|i| i.try_into().ok()).map(Self)
            }
        }

        impl $crate::column::Field for $Name {
            const SHAPE: $crate::column::Shape = $crate::column::Shape::Label(
                <$ty as $crate::column::Field>::SHAPE.scalar(), Self::NAMES);
        }

        #[allow(unsafe_code, reason = "a transparent number, see SAFETY")]
        const _: () = {
            // SAFETY: repr(transparent) over an unsigned integer.
            unsafe impl $crate::__private::bytemuck::Zeroable for $Name {}
            // SAFETY: as above; Copy and 'static.
            unsafe impl $crate::__private::bytemuck::Pod for $Name {}
        };
    };
}

/// One associated constant per label, counted from 0.
#[doc(hidden)]
#[macro_export]
macro_rules! __label_consts {
    ($Name:ident, $ty:ident, $value:expr, $label:ident = $text:literal $(, $rest:ident = $rest_text:literal)*) => {
        #[allow(non_upper_case_globals, reason = "a label reads like an enum variant")]
        impl $Name {
            #[doc = concat!("`", $text, "`")]
            pub const $label: Self = Self($value);
        }
        $crate::__label_consts!($Name, $ty, $value + 1 $(, $rest = $rest_text)*);
    };
    ($Name:ident, $ty:ident, $value:expr $(,)?) => {};
}

/// Declares a component of any serde shape; for rare, text-like data.
#[macro_export]
macro_rules! slow_component {
    ($(#[$($meta:tt)*])* $vis:vis struct $Name:ident($name:literal, version $version:literal) {
        $($(#[$($field_meta:tt)*])* $field:ident : $ty:ty),+ $(,)?
    }) => {
        $(#[$($meta)*])*
        #[derive(Clone, Debug, Default, PartialEq,
            $crate::__private::serde::Serialize, $crate::__private::serde::Deserialize)]
        #[serde(crate = "everworld_engine::__private::serde", deny_unknown_fields, default)]
        $vis struct $Name {
            $($(#[$($field_meta)*])* pub $field: $ty,)+
        }

        impl $crate::__private::bevy_ecs::component::Component for $Name {
            const STORAGE_TYPE: $crate::__private::bevy_ecs::component::StorageType =
                $crate::__private::bevy_ecs::component::StorageType::Table;
            type Mutability = $crate::__private::bevy_ecs::component::Mutable;
        }

        impl $crate::column::SlowColumn for $Name {
            const NAME: &'static str = $name;
            const VERSION: u16 = $version;
            const DOC: &'static str = $crate::__doc_of!($(#[$($meta)*])*);
            const FIELDS: &'static [(&'static str, &'static str)] =
                &[$((stringify!($field), stringify!($ty)),)+];
        }
    };
}

/// The doc comments among some attributes, as one string.
#[doc(hidden)]
#[macro_export]
macro_rules! __doc_of {
    (@ [$($doc:literal)*]) => { concat!($($doc, "\n"),*) };
    (@ [$($doc:literal)*] #[doc = $text:literal] $($rest:tt)*) => { $crate::__doc_of!(@ [$($doc)* $text] $($rest)*) };
    (@ [$($doc:literal)*] #[$($other:tt)*] $($rest:tt)*) => { $crate::__doc_of!(@ [$($doc)*] $($rest)*) };
    (@ $($unexpected:tt)*) => { compile_error!("unreadable attribute") };
    ($($attributes:tt)*) => { $crate::__doc_of!(@ [] $($attributes)*) };
}

/// The bounds of a field, if it has any.
#[doc(hidden)]
#[macro_export]
macro_rules! __range_of {
    () => {
        None
    };
    ($low:literal, $high:literal) => {
        Some(($low as f64, $high as f64))
    };
}

/// The bytes of a row, as they lie in memory and on disk.
pub fn row_bytes_of<T: Column>(row: &T) -> &[u8] {
    bytemuck::bytes_of(row)
}
