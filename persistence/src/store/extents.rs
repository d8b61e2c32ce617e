//! Records in redb's table: cut into values that fill redb's pages.
//!
//! A value larger than a page is given pages of a power of two; one just above such a size would waste almost
//! half. Measured by allocated over stored bytes: 1.46 without this cut, 1.02 with it.

use super::envelope::sealed_bytes;
use redb::{ReadableTable, StorageError, Table};

/// Branch, tick, record, extent.
pub(super) type Key = (u32, u64, u32, u32);
pub(super) type RecordsTable<'txn> = Table<'txn, Key, &'static [u8]>;

/// Branch, tick, record.
type Record = (u32, u64, u32);

const PAGE_BYTES: usize = 4096;
/// What redb puts into a page besides a value: its own 4 bytes, the value's end and the key.
const PAGE_OVERHEAD: usize = 4 + 4 + 20;
/// The largest extent takes a mebibyte of pages.
const EXTENT_PAGES_LOG2_MAX: u32 = 8;

/// The length of the next extent, of so many bytes that are left.
pub(super) fn extent_bytes(left: usize) -> usize {
    let fits = (0..=EXTENT_PAGES_LOG2_MAX).rev().map(|k| (PAGE_BYTES << k) - PAGE_OVERHEAD);
    fits.into_iter().find(|bytes| *bytes <= left).unwrap_or(left)
}

/// Stores a sealed record.
pub(super) fn put(table: &mut RecordsTable<'_>, record: Record, sealed: &[u8]) -> Result<(), StorageError> {
    let mut rest = sealed;
    let mut extent = 0;
    while !rest.is_empty() {
        let (value, after) = rest.split_at(extent_bytes(rest.len()));
        table.insert((record.0, record.1, record.2, extent), value)?;
        rest = after;
        extent += 1;
    }
    Ok(())
}

/// A sealed record, not yet verified. `None` if it is not there, or not all of it.
pub(super) fn get(
    table: &impl ReadableTable<Key, &'static [u8]>,
    record: Record,
) -> Result<Option<Vec<u8>>, StorageError> {
    let mut sealed = Vec::new();
    for extent in 0.. {
        let Some(value) = table.get((record.0, record.1, record.2, extent))? else { return Ok(None) };
        sealed.extend_from_slice(value.value());
        match sealed_bytes(&sealed) {
            Some(bytes) if sealed.len() < bytes && !value.value().is_empty() => {}
            Some(bytes) if sealed.len() == bytes => return Ok(Some(sealed)),
            _ => break,
        }
    }
    Ok(None)
}

/// Removes all records of a keyframe.
pub(super) fn remove_all(table: &mut RecordsTable<'_>, branch: u32, tick: u64) -> Result<(), StorageError> {
    table.retain_in((branch, tick, 0, 0)..=(branch, tick, u32::MAX, u32::MAX), |_, _| false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_fill_their_pages() {
        let cut = |bytes: usize| {
            let mut rest = bytes;
            let mut extents = Vec::new();
            while rest > 0 {
                extents.push(extent_bytes(rest));
                rest -= extents[extents.len() - 1];
            }
            extents
        };
        assert_eq!(cut(100), [100]);
        assert_eq!(cut(4068), [4068]);
        assert_eq!(cut(4069), [4068, 1]);
        assert_eq!(cut(16_500), [16_356, 144]);
        assert_eq!(cut(2_200_000), [1_048_548, 1_048_548, 65_508, 32_740, 4_068, 588]);
    }
}
