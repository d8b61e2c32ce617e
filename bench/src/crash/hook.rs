//! A disk around another one that asks before each operation that changes something.
//!
//! A hook may wait, too: [`Gate`] is one that holds the sync of a Seal.

use everworld_persistence::{Disk, DiskFile, FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use std::{
    io,
    ops::Range,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    Names,
    Write(&'a [u8]),
    Length,
    SyncData,
    SyncAll,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Do,
    /// It is left out, and looks done.
    Pretend,
    Fail(io::ErrorKind),
}

impl Verdict {
    fn apply(self, operation: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        match self {
            Self::Do => operation(),
            Self::Pretend => Ok(()),
            Self::Fail(kind) => Err(kind.into()),
        }
    }
}

/// Called with the path and the operation.
type Hook = Arc<dyn Fn(&Path, Operation<'_>) -> Verdict + Send + Sync>;

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
        hook: impl Fn(&Path, Operation<'_>) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        Self { inner, hook: Arc::new(hook) }
    }

    fn around(&self, path: &Path, inner: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(HookFile { inner, hook: self.hook.clone(), path: path.into() })
    }

    fn names(&self, path: &Path, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        (self.hook)(path, Operation::Names).apply(change)
    }
}

impl Disk for HookDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        // A file that is not made cannot be pretended to be there.
        if let Verdict::Fail(kind) = (self.hook)(path, Operation::Names) {
            return Err(kind.into());
        }
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
        (self.hook)(&self.path, Operation::Write(bytes)).apply(|| self.inner.write_at(bytes, offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        (self.hook)(&self.path, Operation::SyncData).apply(|| self.inner.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        (self.hook)(&self.path, Operation::SyncAll).apply(|| self.inner.sync_all())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        (self.hook)(&self.path, Operation::Length).apply(|| self.inner.set_len(bytes))
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
}

/// Holds the next sync of a log that would make a Seal durable, until it is told to let it go.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    armed: bool,
    /// A Seal was written and not synced.
    has_seal: bool,
    held: bool,
}

const KIND_SEAL: u8 = 3;

impl Gate {
    /// The disk with the gate in it.
    pub(crate) fn around(self: &Arc<Self>, disk: Arc<dyn Disk>) -> HookDisk {
        let gate = self.clone();
        HookDisk::new(disk, move |path, operation| {
            if path.extension().is_some_and(|extension| extension == "seg") {
                gate.pass(operation);
            }
            Verdict::Do
        })
    }

    /// From now on the sync of a Seal is held.
    pub(crate) fn arm(&self) {
        self.lock().armed = true;
    }

    /// Waits until one is held; false if none comes in time.
    pub(crate) fn wait_until_held(&self, patience: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), patience, |state| !state.held);
        waited.unwrap_or_else(PoisonError::into_inner).0.held
    }

    /// Lets it go, and those to come.
    pub(crate) fn open(&self) {
        self.lock().armed = false;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self, operation: Operation<'_>) {
        let mut state = self.lock();
        match operation {
            Operation::Write(bytes) => {
                let begin = if bytes.starts_with(SEGMENT_MAGIC) { SEGMENT_HEADER_BYTES } else { 0 };
                state.has_seal |= frames(bytes, begin).iter().any(|(kind, _)| *kind == KIND_SEAL);
            }
            Operation::SyncData if state.has_seal => {
                state.held = state.armed;
                self.changed.notify_all();
                let waited = self.changed.wait_while(state, |state| state.armed);
                let mut state = waited.unwrap_or_else(PoisonError::into_inner);
                (state.held, state.has_seal) = (false, false);
            }
            _ => {}
        }
    }
}

/// What a segment begins with.
const SEGMENT_MAGIC: &[u8] = b"EVRWSEG\0";

/// The frames of a log in bytes that begin with one at `at`: kind and place.
pub(crate) fn frames(bytes: &[u8], mut at: usize) -> Vec<(u8, Range<usize>)> {
    let mut frames = Vec::new();
    while let Some(header) = bytes.get(at..at + FRAME_HEADER_BYTES) {
        let length = u32::from_le_bytes([header[16], header[17], header[18], header[19]]) as usize;
        let end = at + FRAME_HEADER_BYTES + length.next_multiple_of(8);
        if header[..16].iter().all(|byte| *byte == 0) || end > bytes.len() {
            break;
        }
        frames.push((header[20], at..end));
        at = end;
    }
    frames
}
