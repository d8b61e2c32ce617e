//! The two names that leave a world: the tick and the Uid.
//!
//! bevy's `Entity` is neither stored nor shown: its bits are reused and promise nothing across versions.

use crate::column::{Field, Scalar, Shape};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A finished step of a world. Tick 0 is the world as it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tick(pub u64);

impl Tick {
    /// The tick after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

crate::component! {
    /// The stable name of an entity, from a counter in world state; never reused. 0 names nobody.
    #[derive(Eq, PartialOrd, Ord, Hash)]
    pub struct Uid("uid", version 1) {
        /// The number itself.
        value: u64,
    }
}

impl Uid {
    /// Names nobody: the empty reference.
    pub const NONE: Self = Self { value: 0 };

    /// The Uid of that number.
    pub const fn new(value: u64) -> Self {
        Self { value }
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.value
    }
}

impl Field for Uid {
    const SHAPE: Shape = Shape::Scalar(Scalar::Uid);
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

// As a string: JSON numbers lose digits past 2^53.
impl Serialize for Uid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_u64(self.value)
        }
    }
}

impl<'de> Deserialize<'de> for Uid {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse()
                .map(Self::new)
                .map_err(|_| serde::de::Error::custom("a Uid is a decimal number in a string"))
        } else {
            u64::deserialize(deserializer).map(Self::new)
        }
    }
}
