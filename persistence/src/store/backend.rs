//! redb on our files: every operation of a store goes through [`Disk`](crate::Disk), so that a harness can break it.
//!
//! redb's own locks are left out: the caller's LOCK file guards the whole data directory.

use crate::disk::DiskFile;
use parking_lot::Mutex;
use redb::StorageBackend;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt::{self, Debug, Formatter},
    io,
};

/// A file that redb reads and writes.
pub(super) struct Direct(pub Box<dyn DiskFile>);

/// A file that redb only believes to write: what it writes, as it does to any file that it opens, stays in memory.
pub(super) struct Overlay {
    file: Box<dyn DiskFile>,
    state: Mutex<Written>,
}

struct Written {
    bytes: u64,
    /// Bytes of the file that are still the file's own.
    below: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK_BYTES]>>,
}

const BLOCK_BYTES: usize = 4096;

impl Overlay {
    pub fn new(file: Box<dyn DiskFile>) -> io::Result<Self> {
        let bytes = file.len()?;
        Ok(Self { file, state: Mutex::new(Written { bytes, below: bytes, blocks: BTreeMap::new() }) })
    }

    /// What the file holds at that block, zeros behind its end.
    fn read_block(&self, block: u64, below: u64) -> io::Result<Box<[u8; BLOCK_BYTES]>> {
        let mut bytes = Box::new([0; BLOCK_BYTES]);
        let start = block * BLOCK_BYTES as u64;
        let present = below.saturating_sub(start).min(BLOCK_BYTES as u64) as usize;
        if present > 0 {
            self.file.read_at(&mut bytes[..present], start)?;
        }
        Ok(bytes)
    }
}

/// The blocks that a range touches: number, begin and end within the block.
fn blocks(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + bytes as u64;
    let size = BLOCK_BYTES as u64;
    (offset / size..end.div_ceil(size)).map(move |block| {
        let start = offset.max(block * size) - block * size;
        (block, start as usize, (end.min((block + 1) * size) - block * size) as usize)
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock();
        if offset + out.len() as u64 > state.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if offset + out.len() as u64 <= state.below && state.blocks.is_empty() {
            drop(state);
            return self.file.read_at(out, offset);
        }
        let mut rest = out;
        for (block, start, end) in blocks(offset, rest.len()) {
            let (part, after) = rest.split_at_mut(end - start);
            match state.blocks.get(&block) {
                Some(written) => part.copy_from_slice(&written[start..end]),
                None => part.copy_from_slice(&self.read_block(block, state.below)?[start..end]),
            }
            rest = after;
        }
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        if bytes < state.bytes {
            // What comes back after a cut is zero, in the last block as well.
            state.below = state.below.min(bytes);
            let size = BLOCK_BYTES as u64;
            state.blocks.split_off(&bytes.div_ceil(size));
            if let Some(last) = state.blocks.get_mut(&(bytes / size)) {
                last[(bytes % size) as usize..].fill(0);
            }
        }
        state.bytes = bytes;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        let mut rest = data;
        let below = state.below;
        for (block, start, end) in blocks(offset, data.len()) {
            let (part, after) = rest.split_at(end - start);
            let written = match state.blocks.entry(block) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(self.read_block(block, below)?),
            };
            written[start..end].copy_from_slice(part);
            rest = after;
        }
        Ok(())
    }
}

impl StorageBackend for Direct {
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

impl Debug for Direct {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("file")
    }
}

impl Debug for Overlay {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("file that is only read")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{disk::Disk, sim::SimDisk};
    use proptest::prelude::*;
    use std::path::Path;

    proptest! {
        /// Reads see the writes, and the file none of them.
        #[test]
        fn an_overlay_is_like_a_file(
            steps in prop::collection::vec((0u8..3, 0u64..20_000, 0usize..9_000), 1..30)
        ) {
            let disk = SimDisk::default();
            let path = Path::new("d/file");
            let original: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
            disk.set_file(path, original.clone());
            let overlay = Overlay::new(disk.open(path).unwrap()).unwrap();
            let mut model = original.clone();
            for (i, (what, offset, bytes)) in steps.into_iter().enumerate() {
                let range = offset as usize..offset as usize + bytes;
                match what {
                    0 => {
                        model.resize(offset as usize, 0);
                        overlay.set_len(offset).unwrap();
                    }
                    1 if range.end <= model.len() => {
                        model[range].fill(i as u8);
                        overlay.write(offset, &vec![i as u8; bytes]).unwrap();
                    }
                    _ => {
                        let mut found = vec![0; bytes];
                        let read = overlay.read(offset, &mut found);
                        prop_assert_eq!(read.is_ok(), range.end <= model.len());
                        if read.is_ok() {
                            prop_assert_eq!(&found, &model[range]);
                        }
                    }
                }
            }
            prop_assert_eq!(disk.file(path).unwrap(), original);
        }
    }
}
