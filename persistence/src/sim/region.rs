//! Epoch files that are larger than a region of redb, of which each file but the largest has one.
//!
//! A region has 4 GiB and cannot be made smaller from outside of redb. So the file is filled with values that are all
//! zeros, in a table that the store does not know: on a [`SimDisk`](super::SimDisk) these cost nothing.

use crate::disk::{Disk, DiskFile};
use redb::{StorageBackend, TableDefinition};
use std::{fmt, io, path::Path};

/// The bytes of a region.
pub const REGION_BYTES: u64 = 4 << 30;

/// A little more than half of the page of 256 MiB that it gets.
const VALUE_BYTES: usize = (128 << 20) + 1;
const FILLING: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("filling");

struct Backend(Box<dyn DiskFile>);

/// Lets a complete epoch file that nobody has open grow past its first region; its length then.
///
/// # Errors
/// What redb says.
pub fn grow_past_a_region(disk: &dyn Disk, path: &Path) -> Result<u64, redb::Error> {
    let db = redb::Builder::new().set_cache_size(1 << 20).create_with_backend(Backend(disk.open(path)?))?;
    let value = vec![0; VALUE_BYTES];
    let mut number = 0;
    while disk.open_read(path)?.len()? <= REGION_BYTES + u64::from(u32::MAX >> 4) {
        let mut txn = db.begin_write()?;
        txn.set_quick_repair(true);
        txn.open_table(FILLING)?.insert(number, value.as_slice())?;
        txn.commit()?;
        number += 1;
    }
    drop(db);
    Ok(disk.open_read(path)?.len()?)
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("file that is filled")
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(out, offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(data, offset)
    }
}
