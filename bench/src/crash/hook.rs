//! A disk around another one that asks before each operation that changes something.

use everworld_persistence::{Disk, DiskFile};
use std::{io, path::Path, sync::Arc};

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Names,
    Write,
    SyncData,
    SyncAll,
}

/// Called with the path and the operation; false leaves the operation out and lets it look done.
type Hook = Arc<dyn Fn(&Path, Operation) -> bool + Send + Sync>;

/// The disk.
pub(crate) struct HookDisk {
    inner: Arc<dyn Disk>,
    hook: Hook,
}

struct HookFile {
    inner: Box<dyn DiskFile>,
    hook: Hook,
    path: Box<Path>,
}

impl HookDisk {
    pub(crate) fn new(
        inner: Arc<dyn Disk>,
        hook: impl Fn(&Path, Operation) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { inner, hook: Arc::new(hook) }
    }

    fn around(&self, path: &Path, inner: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(HookFile { inner, hook: self.hook.clone(), path: path.into() })
    }

    fn names(&self, path: &Path, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if (self.hook)(path, Operation::Names) { change() } else { Ok(()) }
    }
}

impl Disk for HookDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        (self.hook)(path, Operation::Names);
        Ok(self.around(path, self.inner.create_new(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.around(path, self.inner.open(path)?))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.inner.open_read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.names(from, || self.inner.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.names(path, || self.inner.remove(path))
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.names(dir, || self.inner.remove_dir_all(dir))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.names(dir, || self.inner.create_dir_all(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.names(dir, || self.inner.sync_dir(dir))
    }
}

impl DiskFile for HookFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if (self.hook)(&self.path, Operation::Write) { self.inner.write_at(bytes, offset) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        if (self.hook)(&self.path, Operation::SyncData) { self.inner.sync_data() } else { Ok(()) }
    }

    fn sync_all(&self) -> io::Result<()> {
        if (self.hook)(&self.path, Operation::SyncAll) { self.inner.sync_all() } else { Ok(()) }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        if (self.hook)(&self.path, Operation::Write) { self.inner.set_len(bytes) } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
}
