//! The file that redb writes an epoch into: every operation goes through [`Disk`](crate::Disk), so that a harness can
//! break it, and what redb reads is what it wrote.
//!
//! redb looks at no checksum when it reads, and may panic on what it finds, or worse. So a checksum of each block is
//! kept in memory while the file is written (8 bytes for 4,096), and compared with what is read: redb is told of an
//! error, which it can stand. It never opens a file that it did not begin in this process: those are read by
//! [`Pages`](super::pages::Pages). redb's own locks are left out: the caller's LOCK file guards the whole data
//! directory.

use crate::disk::DiskFile;
use parking_lot::RwLock;
use redb::StorageBackend;
use std::{
    fmt::{self, Debug, Formatter},
    io,
    sync::Arc,
};
use xxhash_rust::xxh3::xxh3_64;

/// What has a checksum of its own.
pub(super) const BLOCK_BYTES: usize = 4096;

/// A file that redb has begun, with the checksums of its blocks.
pub(super) struct Blocks {
    file: Box<dyn DiskFile>,
    state: RwLock<Sums>,
}

#[derive(Default)]
struct Sums {
    bytes: u64,
    /// Of each block, as if the last one went on with zeros.
    sums: Vec<u64>,
}

/// What redb gets of it.
pub(super) struct Backend(pub Arc<Blocks>);

/// The blocks that a range touches: number, begin and end within the block.
fn blocks(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + bytes as u64;
    let size = BLOCK_BYTES as u64;
    (offset / size..end.div_ceil(size)).map(move |block| {
        let start = offset.max(block * size) - block * size;
        (block, start as usize, (end.min((block + 1) * size) - block * size) as usize)
    })
}

impl Blocks {
    /// A file that has no bytes yet.
    pub fn new(file: Box<dyn DiskFile>) -> Self {
        Self { file, state: RwLock::default() }
    }

    /// How many blocks there are.
    pub fn count(&self) -> u64 {
        self.state.read().sums.len() as u64
    }

    /// Reads a block from the disk and compares it. A block that is no more is well.
    pub fn verify(&self, block: u64) -> io::Result<()> {
        let sums = self.state.read();
        if block < sums.sums.len() as u64 {
            self.file.forget(block * BLOCK_BYTES as u64, BLOCK_BYTES as u64);
            self.block(&sums, block)?;
        }
        Ok(())
    }

    /// A block that is what was written.
    fn block(&self, sums: &Sums, block: u64) -> io::Result<Box<[u8; BLOCK_BYTES]>> {
        let mut bytes = Box::new([0; BLOCK_BYTES]);
        let start = block * BLOCK_BYTES as u64;
        let present = sums.bytes.saturating_sub(start).min(BLOCK_BYTES as u64) as usize;
        self.file.read_at(&mut bytes[..present], start)?;
        sums.check(block, &*bytes)?;
        Ok(bytes)
    }
}

impl Sums {
    fn check(&self, block: u64, bytes: &[u8]) -> io::Result<()> {
        if self.sums.get(block as usize) == Some(&xxh3_64(bytes)) {
            return Ok(());
        }
        let what = format!("the block at byte {} is not what was written", block * BLOCK_BYTES as u64);
        Err(io::Error::new(io::ErrorKind::InvalidData, what))
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.state.read().bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let sums = self.0.state.read();
        if offset + out.len() as u64 > sums.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.file.read_at(out, offset)?;
        let mut rest = out;
        for (block, start, end) in blocks(offset, rest.len()) {
            let (part, after) = rest.split_at_mut(end - start);
            if part.len() == BLOCK_BYTES {
                sums.check(block, part)?;
            } else {
                part.copy_from_slice(&self.0.block(&sums, block)?[start..end]);
            }
            rest = after;
        }
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut sums = self.0.state.write();
        // What comes back after a cut is zero, in the last block as well.
        let (last, kept) = (bytes / BLOCK_BYTES as u64, (bytes % BLOCK_BYTES as u64) as usize);
        let cut = if bytes < sums.bytes && kept > 0 { Some(self.0.block(&sums, last)?) } else { None };
        self.0.file.set_len(bytes)?;
        sums.bytes = bytes;
        sums.sums.resize(bytes.div_ceil(BLOCK_BYTES as u64) as usize, xxh3_64(&[0; BLOCK_BYTES]));
        if let Some(mut block) = cut {
            block[kept..].fill(0);
            sums.sums[last as usize] = xxh3_64(&*block);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut sums = self.0.state.write();
        if offset + data.len() as u64 > sums.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut written = Vec::with_capacity(data.len() / BLOCK_BYTES + 2);
        let mut rest = data;
        for (block, start, end) in blocks(offset, data.len()) {
            let (part, after) = rest.split_at(end - start);
            written.push(if part.len() == BLOCK_BYTES {
                xxh3_64(part)
            } else {
                let mut bytes = self.0.block(&sums, block)?;
                bytes[start..end].copy_from_slice(part);
                xxh3_64(&*bytes)
            });
            rest = after;
        }
        self.0.file.write_at(data, offset)?;
        let first = (offset / BLOCK_BYTES as u64) as usize;
        sums.sums[first..first + written.len()].copy_from_slice(&written);
        Ok(())
    }
}

impl Debug for Backend {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("file")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{disk::Disk, sim::SimDisk};
    use proptest::prelude::*;
    use std::path::Path;

    proptest! {
        /// Reads see the writes, and the file has them; whatever is turned over in the file is told.
        #[test]
        fn blocks_are_like_a_file(
            steps in prop::collection::vec((0u8..3, 0u64..20_000, 0usize..9_000), 1..30),
            flip in any::<prop::sample::Index>(),
        ) {
            let disk = SimDisk::default();
            let path = Path::new("d/file");
            disk.set_file(path, Vec::new());
            let backend = Backend(Arc::new(Blocks::new(disk.open(path).unwrap())));
            let mut model = Vec::new();
            for (i, (what, offset, bytes)) in steps.into_iter().enumerate() {
                let range = offset as usize..offset as usize + bytes;
                match what {
                    0 => {
                        model.resize(offset as usize, 0);
                        backend.set_len(offset).unwrap();
                    }
                    1 if range.end <= model.len() => {
                        model[range].fill(i as u8);
                        backend.write(offset, &vec![i as u8; bytes]).unwrap();
                    }
                    _ => {
                        let mut found = vec![0; bytes];
                        let read = backend.read(offset, &mut found);
                        prop_assert_eq!(read.is_ok(), range.end <= model.len());
                        if read.is_ok() {
                            prop_assert_eq!(&found, &model[range]);
                        }
                    }
                }
            }
            prop_assert_eq!(disk.file(path).unwrap(), &model[..]);
            prop_assert_eq!(backend.len().unwrap(), model.len() as u64);
            if model.is_empty() {
                return Ok(());
            }
            let bit = flip.index(model.len() * 8);
            disk.flip(path, bit);
            let mut byte = [0];
            let read = backend.read(bit as u64 / 8, &mut byte);
            prop_assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData);
            for block in 0..backend.0.count() {
                prop_assert_eq!(backend.0.verify(block).is_err(), block == (bit / 8 / BLOCK_BYTES) as u64);
            }
        }
    }
}
