//! The state hash: one number for the whole state, the same for any order of rows, tables and registration.
//!
//! Per column a wrapping sum over rows of a hash of (Uid, column, bytes); then all columns and resources by
//! name. A sum can be updated row by row, which is what the mirror does with it.

use crate::ids::Tick;
use serde::{Deserialize, Serialize};
use std::fmt;
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

/// The hash of a world's state at a finished tick; invariants W1 to W4 are tested with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateHash(pub u64);

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for StateHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for StateHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            u64::from_str_radix(&text, 16).map(Self).map_err(serde::de::Error::custom)
        } else {
            u64::deserialize(deserializer).map(Self)
        }
    }
}

/// What tells the rows of one column from those of another: by name, as numbers differ between processes.
pub(crate) fn column_salt(name: &str, version: u16) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), u64::from(version))
}

/// The hash of one row. The Uid goes in by a multiplication with an odd number, so that no two collide.
#[inline]
pub(crate) fn hash_row(uid: u64, salt: u64, row: &[u8]) -> u64 {
    xxh3_64_with_seed(row, salt ^ uid.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// The sum over the rows of one chunk of a plain column.
pub(crate) fn hash_plain_rows(uids: &[u64], salt: u64, rows: &[u8], row_bytes: usize) -> u64 {
    assert_eq!(uids.len() * row_bytes, rows.len(), "a column has one row per entity");
    // A constant length per call lets the compiler take xxh3's short paths without a test per row.
    macro_rules! sum {
        ($bytes:expr) => {
            uids.iter()
                .zip(rows.chunks_exact($bytes))
                .fold(0u64, |sum, (uid, row)| sum.wrapping_add(hash_row(*uid, salt, row)))
        };
    }
    match row_bytes {
        4 => sum!(4),
        8 => sum!(8),
        12 => sum!(12),
        16 => sum!(16),
        20 => sum!(20),
        24 => sum!(24),
        32 => sum!(32),
        other => sum!(other),
    }
}

/// Puts the sums of all columns and the bytes of all resources together, in the order of their names.
pub(crate) fn hash_state<'a>(
    tick: Tick,
    columns: impl IntoIterator<Item = (&'a str, u64)>,
    resources: impl IntoIterator<Item = (&'a str, u64)>,
) -> StateHash {
    let mut columns: Vec<_> = columns.into_iter().filter(|(_, sum)| *sum != 0).collect();
    let mut resources: Vec<_> = resources.into_iter().collect();
    columns.sort_unstable();
    resources.sort_unstable();
    let mut hasher = Xxh3::new();
    hasher.update(&tick.0.to_le_bytes());
    for (name, hash) in columns.into_iter().chain(resources) {
        hasher.update(&xxh3_64(name.as_bytes()).to_le_bytes());
        hasher.update(&hash.to_le_bytes());
    }
    StateHash(hasher.digest())
}

/// The hash of a resource's stored bytes.
pub(crate) fn hash_resource(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}
