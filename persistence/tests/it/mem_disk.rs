//! A disk in memory that can fail from some operation on, run full, hold its syncs, and lose power.
//!
//! Until a sync, data and names are only cached. A failed sync forgets what it should have written, as Linux
//! does: the cache keeps it, no later sync brings it to the disk.

use everworld_persistence::{Disk, DiskFile};
use parking_lot::{Condvar, Mutex};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const SECTOR_BYTES: usize = 512;

#[derive(Clone, Default)]
pub struct MemDisk {
    inner: Arc<Mutex<Inner>>,
    released: Arc<Condvar>,
}

#[derive(Clone, Default)]
struct Inner {
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    unsynced_names: Vec<BTreeMap<PathBuf, usize>>,
    files: Vec<FileState>,
    /// Writing operations so far.
    operations: u64,
    /// From that one on all fail.
    fail_from: Option<u64>,
    space_left: Option<u64>,
    hold_syncs: bool,
    /// Syncs that came to the gate.
    syncs: u64,
}

#[derive(Clone, Default)]
struct FileState {
    cached: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

/// Releases held syncs, also when a test fails.
pub struct HeldSyncs(MemDisk);

impl Drop for HeldSyncs {
    fn drop(&mut self) {
        self.0.inner.lock().hold_syncs = false;
        self.0.released.notify_all();
    }
}

struct MemFile {
    disk: MemDisk,
    index: usize,
}

impl MemDisk {
    /// The same bytes on another disk, all of them durable, without faults.
    pub fn copy(&self) -> Self {
        let inner = self.inner.lock();
        let mut copy = Inner { names: inner.names.clone(), files: inner.files.clone(), ..Inner::default() };
        copy.durable_names = copy.names.clone();
        for file in &mut copy.files {
            file.durable = file.cached.clone();
            file.unsynced.clear();
        }
        Self { inner: Arc::new(Mutex::new(copy)), released: Arc::default() }
    }

    /// What is there after the power failed: of what was not synced, any sectors and any first names.
    pub fn power_cut(&self, seed: u64) -> Self {
        let mut random = seed;
        let mut draw = move |below: u64| {
            random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut x = random;
            x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (x ^ (x >> 31)) % below
        };
        let inner = self.inner.lock();
        let mut cut = Inner { files: inner.files.clone(), ..Inner::default() };
        let kept = draw(inner.unsynced_names.len() as u64 + 1) as usize;
        let names = inner.unsynced_names[..kept].last().unwrap_or(&inner.durable_names);
        cut.names = names.clone();
        cut.durable_names = names.clone();
        // Some cuts keep nothing, some all, the others any sectors.
        let style = draw(4);
        for file in &mut cut.files {
            for (offset, bytes) in std::mem::take(&mut file.unsynced) {
                for (i, byte) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    let keep = style == 1 || (style > 1 && draw(2) == 1);
                    if keep {
                        put(&mut file.durable, offset + i * SECTOR_BYTES, byte);
                    }
                }
            }
            file.cached = file.durable.clone();
        }
        Self { inner: Arc::new(Mutex::new(cut)), released: Arc::default() }
    }

    pub fn fail_from(&self, operation: Option<u64>) {
        self.inner.lock().fail_from = operation;
    }

    pub fn operations(&self) -> u64 {
        self.inner.lock().operations
    }

    pub fn set_space_left(&self, bytes: Option<u64>) {
        self.inner.lock().space_left = bytes;
    }

    /// Lets syncs wait until what this returns is dropped.
    pub fn hold_syncs(&self) -> HeldSyncs {
        self.inner.lock().hold_syncs = true;
        HeldSyncs(self.clone())
    }

    /// Waits until so many syncs have come, held or not.
    pub fn wait_for_syncs(&self, count: u64) {
        let mut inner = self.inner.lock();
        while inner.syncs < count {
            let waited = self.released.wait_for(&mut inner, Duration::from_secs(30));
            assert!(!waited.timed_out(), "sync {count} does not come");
        }
    }

    pub fn syncs(&self) -> u64 {
        self.inner.lock().syncs
    }

    pub fn file(&self, path: &Path) -> Option<Vec<u8>> {
        let inner = self.inner.lock();
        inner.names.get(path).map(|index| inner.files[*index].cached.clone())
    }

    /// Puts other bytes into a file, durably.
    pub fn set_file(&self, path: &Path, bytes: Vec<u8>) {
        let mut inner = self.inner.lock();
        let index = inner.files.len();
        inner.files.push(FileState { cached: bytes.clone(), durable: bytes, unsynced: Vec::new() });
        inner.names.insert(path.into(), index);
        inner.durable_names.insert(path.into(), index);
    }

    pub fn remove_file(&self, path: &Path) {
        let mut inner = self.inner.lock();
        inner.names.remove(path).unwrap();
        inner.durable_names.remove(path);
    }

    pub fn flip(&self, path: &Path, bit: usize) {
        let mut bytes = self.file(path).unwrap();
        bytes[bit / 8] ^= 1 << (bit % 8);
        self.set_file(path, bytes);
    }

    pub fn files(&self) -> Vec<PathBuf> {
        self.inner.lock().names.keys().cloned().collect()
    }
}

impl Inner {
    /// Counts an operation; fails if it is time to.
    fn operation(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.fail_from {
            Some(from) if self.operations > from => Err(io::Error::other("injected fault")),
            _ => Ok(()),
        }
    }

    fn index(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change_names(&mut self, change: impl FnOnce(&mut BTreeMap<PathBuf, usize>)) {
        change(&mut self.names);
        self.unsynced_names.push(self.names.clone());
    }

    fn sync_file(&mut self, index: usize) -> io::Result<()> {
        let synced = self.operation();
        let file = &mut self.files[index];
        for (offset, bytes) in std::mem::take(&mut file.unsynced) {
            if synced.is_ok() {
                put(&mut file.durable, offset, &bytes);
            }
        }
        synced
    }
}

impl Disk for MemDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut inner = self.inner.lock();
        inner.operation()?;
        if inner.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let index = inner.files.len();
        inner.files.push(FileState::default());
        inner.change_names(|names| _ = names.insert(path.into(), index));
        Ok(Box::new(MemFile { disk: self.clone(), index }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let index = self.inner.lock().index(path)?;
        Ok(Box::new(MemFile { disk: self.clone(), index }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.operation()?;
        let index = inner.index(from)?;
        inner.change_names(|names| {
            names.remove(from);
            names.insert(to.into(), index);
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.operation()?;
        let index = inner.index(path)?;
        let freed = inner.files[index].cached.len() as u64;
        inner.space_left = inner.space_left.map(|left| left + freed);
        inner.change_names(|names| _ = names.remove(path));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inner = self.inner.lock();
        let names = inner.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.map(|path| path.file_name().unwrap().to_str().unwrap().to_string()).collect())
    }

    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        self.inner.lock().operation()
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let synced = inner.operation();
        inner.unsynced_names.clear();
        if synced.is_ok() {
            inner.durable_names = inner.names.clone();
        }
        synced
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let inner = self.disk.inner.lock();
        let bytes = &inner.files[self.index].cached;
        let range = offset as usize..offset as usize + buffer.len();
        buffer.copy_from_slice(bytes.get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        let allowed = inner.operation();
        // A failing write gets half of its bytes through.
        let bytes = if allowed.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        let index = self.index;
        let grows = (offset as usize + bytes.len()).saturating_sub(inner.files[index].cached.len()) as u64;
        if inner.space_left.is_some_and(|left| left < grows) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.space_left = inner.space_left.map(|left| left - grows);
        let file = &mut inner.files[index];
        put(&mut file.cached, offset as usize, bytes);
        file.unsynced.push((offset as usize, bytes.to_vec()));
        allowed
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        inner.syncs += 1;
        self.disk.released.notify_all();
        while inner.hold_syncs {
            self.disk.released.wait(&mut inner);
        }
        inner.sync_file(self.index)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.disk.inner.lock().sync_file(self.index)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        inner.operation()?;
        inner.files[self.index].cached.resize(bytes as usize, 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.inner.lock().files[self.index].cached.len() as u64)
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}
