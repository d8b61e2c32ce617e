//! A disk in memory for fault tests: it counts operations, fails at a chosen one, runs full, holds its syncs, and
//! loses power.
//!
//! Until a sync, data and names are only cached. A failed sync forgets what it should have written, as Linux
//! does: the cache keeps it, no later sync brings it to the disk. Each directory's names are durable by a sync of
//! that directory only; the first part of a path counts as made long ago. Nothing but tests and harnesses uses
//! this module: a server's bytes are never here.

mod bytes;
mod region;

pub use region::{REGION_BYTES, grow_past_a_region};

use crate::disk::{Disk, DiskFile};
use bytes::{Bytes, Data};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

/// What a disk writes as one: a write that is torn by a crash is torn between two of these.
pub const SECTOR_BYTES: usize = 512;

/// How long [`SimDisk::wait_for_syncs`] waits before it calls the test failed.
const SYNC_WAIT_SECS: u64 = 30;

static CHECKSUMS_SKIPPED: AtomicBool = AtomicBool::new(false);

/// A planted bug, for the canary of a harness: no checksum of a record is compared any more in this process.
pub fn skip_checksums(skip: bool) {
    CHECKSUMS_SKIPPED.store(skip, Relaxed);
}

/// Whether a harness has planted that bug.
pub(crate) fn checksums_are_skipped() -> bool {
    CHECKSUMS_SKIPPED.load(Relaxed)
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
    released: Arc<Condvar>,
}

/// What is left of unsynced data and names when the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing: only what was synced.
    Synced,
    /// All: the process died, the machine did not.
    Issued,
    /// Any sectors of any writes, in any order, and in each directory any first names; drawn from the seed.
    Any(u64),
}

/// What fails, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The number of the operation, counted from 0 as [`SimDisk::operations`] does.
    pub at: u64,
    /// Whether all later operations fail as well.
    pub for_good: bool,
    /// The error.
    pub error: FaultKind,
}

/// The error of a [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// EIO.
    Io,
    /// ENOSPC.
    NoSpace,
    /// A write of half of the bytes: the first write from then on, since other operations do not fail by it.
    Short,
}

/// Releases held syncs, also when a test fails.
pub struct HeldSyncs(SimDisk);

impl Drop for HeldSyncs {
    fn drop(&mut self) {
        self.0.inner.lock().hold_syncs = false;
        self.0.released.notify_all();
    }
}

struct Inner {
    /// The first one is the root directory.
    nodes: Vec<Node>,
    operations: u64,
    /// Whether opening and reading count, and so may fail.
    counts_reads: bool,
    fault: Option<Fault>,
    faults_fired: u64,
    space_left: Option<u64>,
    hold_syncs: bool,
    sync_delay: Duration,
    /// Syncs that came to the gate.
    syncs: u64,
    /// The operations before which an image is kept, and the images.
    images_at: BTreeSet<u64>,
    images: Vec<(u64, SimDisk)>,
}

#[derive(Clone)]
enum Node {
    Dir(DirState),
    File(FileState),
}

#[derive(Clone, Default)]
struct DirState {
    names: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    /// Steps in their order; what one step does happens at once.
    unsynced: Vec<Vec<(String, Option<usize>)>>,
}

#[derive(Clone, Default)]
struct FileState {
    cached: Bytes,
    durable: Bytes,
    unsynced: Vec<Change>,
    /// A sync has failed: what is cached may never be durable.
    forgot: bool,
}

#[derive(Clone)]
enum Change {
    Write(usize, Data),
    Length(usize),
}

struct SimFile {
    disk: SimDisk,
    node: usize,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            nodes: vec![Node::Dir(DirState::default())],
            operations: 0,
            counts_reads: false,
            fault: None,
            faults_fired: 0,
            space_left: None,
            hold_syncs: false,
            sync_delay: Duration::ZERO,
            syncs: 0,
            images_at: BTreeSet::new(),
            images: Vec::new(),
        }
    }
}

impl SimDisk {
    /// The same bytes on another disk, all of them durable, without faults.
    pub fn copy(&self) -> Self {
        self.cut(Cut::Issued)
    }

    /// What is there after the power failed: nothing unsynced, all of it, or any of it, as the seed says.
    pub fn power_cut(&self, seed: u64) -> Self {
        match seed % 4 {
            0 => self.cut(Cut::Synced),
            1 => self.cut(Cut::Issued),
            _ => self.cut(Cut::Any(seed)),
        }
    }

    /// What is there after the power failed in that way: another disk, without faults.
    pub fn cut(&self, cut: Cut) -> Self {
        let inner = self.inner.lock();
        let mut left = Inner::default();
        left.nodes.resize(inner.nodes.len(), Node::File(FileState::default()));
        inner.cut_node(0, cut, &mut Draws::new(cut), &mut left.nodes);
        Self { inner: Arc::new(Mutex::new(left)), released: Arc::default() }
    }

    /// Lets all operations from that one on fail with EIO, or none.
    pub fn fail_from(&self, operation: Option<u64>) {
        self.set_fault(operation.map(|at| Fault { at, for_good: true, error: FaultKind::Io }));
    }

    /// Lets that fault happen, or none.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.inner.lock().fault = fault;
    }

    /// How many operations have failed by a fault.
    pub fn faults_fired(&self) -> u64 {
        self.inner.lock().faults_fired
    }

    /// Counts opening and reading as operations, too: else only those that change something count.
    pub fn count_reads(&self, counts: bool) {
        self.inner.lock().counts_reads = counts;
    }

    /// The operations so far.
    pub fn operations(&self) -> u64 {
        self.inner.lock().operations
    }

    /// Keeps the disk as it is before each of these operations, unsynced things and all.
    pub fn keep_images_at(&self, operations: impl IntoIterator<Item = u64>) {
        self.inner.lock().images_at.extend(operations);
    }

    /// What was kept: [`SimDisk::cut`] makes crash images of it.
    pub fn take_images(&self) -> Vec<(u64, Self)> {
        std::mem::take(&mut self.inner.lock().images)
    }

    /// Lets the disk run full after so many more bytes.
    pub fn set_space_left(&self, bytes: Option<u64>) {
        self.inner.lock().space_left = bytes;
    }

    /// Lets each sync of a file take so long.
    pub fn set_sync_delay(&self, delay: Duration) {
        self.inner.lock().sync_delay = delay;
    }

    /// Lets syncs of data wait until what this returns is dropped.
    pub fn hold_syncs(&self) -> HeldSyncs {
        self.inner.lock().hold_syncs = true;
        HeldSyncs(self.clone())
    }

    /// Waits until so many syncs of data have come, held or not.
    ///
    /// # Panics
    /// When they do not come within half a minute.
    pub fn wait_for_syncs(&self, count: u64) {
        let mut inner = self.inner.lock();
        while inner.syncs < count {
            let waited = self.released.wait_for(&mut inner, Duration::from_secs(SYNC_WAIT_SECS));
            assert!(!waited.timed_out(), "sync {count} does not come");
        }
    }

    /// How many syncs of data have come.
    pub fn syncs(&self) -> u64 {
        self.inner.lock().syncs
    }

    /// The bytes of a file, as a process sees them.
    pub fn file(&self, path: &Path) -> Option<Vec<u8>> {
        let inner = self.inner.lock();
        let node = inner.find(path).ok()?;
        inner.nodes[node].as_file().map(|file| file.cached.to_vec()).ok()
    }

    /// How long a file is.
    pub fn file_len(&self, path: &Path) -> Option<u64> {
        let inner = self.inner.lock();
        let node = inner.find(path).ok()?;
        inner.nodes[node].as_file().map(|file| file.cached.len() as u64).ok()
    }

    /// Puts other bytes into a file, durably, and makes the directories above it.
    pub fn set_file(&self, path: &Path, bytes: Vec<u8>) {
        let mut inner = self.inner.lock();
        let file = FileState::durable(bytes.into());
        if let Ok(node) = inner.find(path) {
            inner.nodes[node] = Node::File(file);
            return;
        }
        let names = parts(path);
        let mut dir = 0;
        for (i, name) in names.iter().enumerate() {
            let is_file = i + 1 == names.len();
            let known = inner.nodes[dir].as_dir().ok().and_then(|state| state.names.get(name).copied());
            dir = known.unwrap_or_else(|| {
                let node = if is_file { Node::File(file.clone()) } else { Node::Dir(DirState::default()) };
                let index = inner.push(node);
                if let Ok(state) = inner.nodes[dir].as_dir_mut() {
                    state.names.insert(name.clone(), index);
                    state.durable.insert(name.clone(), index);
                }
                index
            });
        }
    }

    /// Takes a file away, durably.
    pub fn remove_file(&self, path: &Path) {
        let mut inner = self.inner.lock();
        if let Ok((dir, name)) = inner.parent(path)
            && let Ok(state) = inner.nodes[dir].as_dir_mut()
        {
            state.names.remove(&name);
            state.durable.remove(&name);
        }
    }

    /// Turns a bit of a file over, durably.
    ///
    /// # Panics
    /// When there is no such bit.
    pub fn flip(&self, path: &Path, bit: usize) {
        let mut inner = self.inner.lock();
        let node = inner.find(path).expect("the file is there");
        let file = inner.nodes[node].as_file_mut().expect("it is a file");
        let mut bytes = file.cached.clone();
        bytes.flip(bit);
        *file = FileState::durable(bytes);
    }

    /// The paths of all files.
    pub fn files(&self) -> Vec<PathBuf> {
        let inner = self.inner.lock();
        let mut paths = Vec::new();
        let mut dirs = vec![(PathBuf::new(), 0)];
        while let Some((path, node)) = dirs.pop() {
            let Ok(dir) = inner.nodes[node].as_dir() else { continue };
            for (name, node) in &dir.names {
                match inner.nodes[*node] {
                    Node::Dir(_) => dirs.push((path.join(name), *node)),
                    Node::File(_) => paths.push(path.join(name)),
                }
            }
        }
        paths.sort();
        paths
    }

    /// All files of a real directory, durable.
    pub fn read_from(dir: &Path) -> io::Result<Self> {
        let disk = Self::default();
        let mut dirs = vec![PathBuf::new()];
        while let Some(below) = dirs.pop() {
            for entry in std::fs::read_dir(dir.join(&below))? {
                let entry = entry?;
                let path = below.join(entry.file_name());
                if entry.file_type()?.is_dir() {
                    dirs.push(path);
                } else {
                    disk.set_file(&path, std::fs::read(entry.path())?);
                }
            }
        }
        Ok(disk)
    }

    /// Puts all files of this disk into a real directory.
    pub fn write_to(&self, dir: &Path) -> io::Result<()> {
        for path in self.files() {
            let target = dir.join(&path);
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(target, self.file(&path).unwrap_or_default())?;
        }
        Ok(())
    }

    /// Begins an operation that changes something: keeps an image, counts, fails if it is time to.
    fn begin(&self) -> (MutexGuard<'_, Inner>, io::Result<()>) {
        self.begin_as(false)
    }

    fn begin_as(&self, is_write: bool) -> (MutexGuard<'_, Inner>, io::Result<()>) {
        let mut inner = self.inner.lock();
        let number = inner.operations;
        if inner.images_at.remove(&number) {
            let image = Self { inner: Arc::new(Mutex::new(inner.image())), released: Arc::default() };
            inner.images.push((number, image));
        }
        inner.operations += 1;
        let fails = inner.fault.filter(|fault| {
            let is_short = fault.error == FaultKind::Short;
            let goes_on = fault.for_good || (is_short && inner.faults_fired == 0);
            (number == fault.at || (number > fault.at && goes_on)) && (is_write || !is_short)
        });
        let result = match fails {
            None => Ok(()),
            Some(fault) => {
                inner.faults_fired += 1;
                Err(match fault.error {
                    FaultKind::Io => io::Error::other("injected fault"),
                    FaultKind::NoSpace => io::ErrorKind::StorageFull.into(),
                    FaultKind::Short => io::ErrorKind::WriteZero.into(),
                })
            }
        };
        (inner, result)
    }

    fn begin_read(&self) -> io::Result<MutexGuard<'_, Inner>> {
        if !self.inner.lock().counts_reads {
            return Ok(self.inner.lock());
        }
        let (inner, begun) = self.begin();
        begun.map(|()| inner)
    }

    fn sync(&self, node: usize) -> io::Result<()> {
        let delay = self.inner.lock().sync_delay;
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let (mut inner, synced) = self.begin();
        let file = inner.nodes[node].as_file_mut()?;
        let changes = std::mem::take(&mut file.unsynced);
        match synced {
            Err(_) => file.forgot |= !changes.is_empty(),
            Ok(()) if file.forgot => changes.iter().for_each(|change| change.apply(&mut file.durable)),
            Ok(()) if !changes.is_empty() => file.durable = file.cached.clone(),
            Ok(()) => {}
        }
        synced
    }
}

impl Inner {
    fn push(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        parts(path).iter().try_fold(0, |node, name| {
            self.nodes[node].as_dir()?.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    /// The directory of a path, and the last part of it.
    fn parent(&self, path: &Path) -> io::Result<(usize, String)> {
        let name = parts(path).pop().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.find(path.parent().unwrap_or(Path::new("")))?, name))
    }

    /// Changes names of a directory in one step.
    fn change_names(&mut self, dir: usize, step: Vec<(String, Option<usize>)>) -> io::Result<()> {
        let dir = self.nodes[dir].as_dir_mut()?;
        apply_step(&mut dir.names, &step);
        dir.unsynced.push(step);
        Ok(())
    }

    fn take_space(&mut self, bytes: u64) -> io::Result<()> {
        match self.space_left {
            Some(left) if left < bytes => Err(io::ErrorKind::StorageFull.into()),
            left => {
                self.space_left = left.map(|left| left - bytes);
                Ok(())
            }
        }
    }

    /// All that can still be reached, as it is now.
    fn image(&self) -> Self {
        let mut nodes = vec![Node::File(FileState::default()); self.nodes.len()];
        let mut reached = BTreeSet::from([0]);
        let mut left = vec![0];
        while let Some(node) = left.pop() {
            nodes[node] = self.nodes[node].clone();
            if let Node::Dir(dir) = &self.nodes[node] {
                let steps = dir.unsynced.iter().flatten().filter_map(|(_, node)| node.as_ref());
                let below = dir.names.values().chain(dir.durable.values()).chain(steps);
                left.extend(below.filter(|below| reached.insert(**below)));
            }
        }
        Self { nodes, operations: self.operations, ..Self::default() }
    }

    fn free(&mut self, node: usize) {
        if let Node::File(file) = &self.nodes[node] {
            let freed = file.cached.len() as u64;
            self.space_left = self.space_left.map(|left| left + freed);
        }
    }

    /// Puts what is left of a node into `left`, and of all below it.
    fn cut_node(&self, node: usize, cut: Cut, draws: &mut Draws, left: &mut [Node]) {
        match &self.nodes[node] {
            Node::File(file) => {
                left[node] = Node::File(FileState::durable(file.cut(cut, draws)));
            }
            Node::Dir(dir) => {
                let mut names = dir.durable.clone();
                let kept = match cut {
                    Cut::Synced => 0,
                    Cut::Issued => dir.unsynced.len(),
                    Cut::Any(_) => draws.below(dir.unsynced.len() as u64 + 1) as usize,
                };
                dir.unsynced[..kept].iter().for_each(|step| apply_step(&mut names, step));
                for below in names.values() {
                    self.cut_node(*below, cut, draws, left);
                }
                left[node] = Node::Dir(DirState { durable: names.clone(), names, unsynced: Vec::new() });
            }
        }
    }
}

impl Node {
    fn as_dir(&self) -> io::Result<&DirState> {
        match self {
            Self::Dir(dir) => Ok(dir),
            Self::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn as_dir_mut(&mut self) -> io::Result<&mut DirState> {
        match self {
            Self::Dir(dir) => Ok(dir),
            Self::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn as_file(&self) -> io::Result<&FileState> {
        match self {
            Self::File(file) => Ok(file),
            Self::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn as_file_mut(&mut self) -> io::Result<&mut FileState> {
        match self {
            Self::File(file) => Ok(file),
            Self::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }
}

impl FileState {
    /// A file of which nothing can be lost.
    fn durable(bytes: Bytes) -> Self {
        Self { cached: bytes.clone(), durable: bytes, unsynced: Vec::new(), forgot: false }
    }

    fn cut(&self, cut: Cut, draws: &mut Draws) -> Bytes {
        match cut {
            Cut::Synced => self.durable.clone(),
            Cut::Issued => self.cached.clone(),
            Cut::Any(_) => {
                let mut bytes = self.durable.clone();
                for change in &self.unsynced {
                    match change {
                        Change::Write(offset, data) => {
                            for from in (0..data.len()).step_by(SECTOR_BYTES) {
                                if draws.below(2) == 1 {
                                    let count = SECTOR_BYTES.min(data.len() - from);
                                    bytes.put_part(offset + from, data, from, count);
                                }
                            }
                        }
                        Change::Length(length) if draws.below(2) == 1 => bytes.resize(*length),
                        Change::Length(_) => {}
                    }
                }
                bytes
            }
        }
    }
}

impl Change {
    fn apply(&self, file: &mut Bytes) {
        match self {
            Self::Write(offset, data) => file.put(*offset, data),
            Self::Length(length) => file.resize(*length),
        }
    }
}

impl Disk for SimDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let (mut inner, begun) = self.begin();
        begun?;
        let (dir, name) = inner.parent(path)?;
        if inner.nodes[dir].as_dir()?.names.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = inner.push(Node::File(FileState::default()));
        inner.change_names(dir, vec![(name, Some(node))])?;
        Ok(Box::new(SimFile { disk: self.clone(), node }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inner = self.begin_read()?;
        let node = inner.find(path)?;
        inner.nodes[node].as_file()?;
        Ok(Box::new(SimFile { disk: self.clone(), node }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut inner, begun) = self.begin();
        begun?;
        let node = inner.find(from)?;
        let (from_dir, from_name) = inner.parent(from)?;
        let (to_dir, to_name) = inner.parent(to)?;
        if from_dir == to_dir {
            return inner.change_names(from_dir, vec![(from_name, None), (to_name, Some(node))]);
        }
        inner.change_names(to_dir, vec![(to_name, Some(node))])?;
        inner.change_names(from_dir, vec![(from_name, None)])
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut inner, begun) = self.begin();
        begun?;
        let node = inner.find(path)?;
        inner.nodes[node].as_file()?;
        inner.free(node);
        let (dir, name) = inner.parent(path)?;
        inner.change_names(dir, vec![(name, None)])
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let (mut inner, begun) = self.begin();
        begun?;
        let node = inner.find(dir)?;
        let mut below = vec![node];
        while let Some(node) = below.pop() {
            inner.free(node);
            if let Ok(state) = inner.nodes[node].as_dir() {
                below.extend(state.names.values());
            }
        }
        let (parent, name) = inner.parent(dir)?;
        inner.change_names(parent, vec![(name, None)])
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.begin_read()?.find(path).is_ok())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inner = self.begin_read()?;
        Ok(inner.nodes[inner.find(dir)?].as_dir()?.names.keys().cloned().collect())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let (mut inner, begun) = self.begin();
        begun?;
        let mut at = 0;
        for (depth, name) in parts(dir).into_iter().enumerate() {
            if let Some(known) = inner.nodes[at].as_dir()?.names.get(&name) {
                at = *known;
                continue;
            }
            let node = inner.push(Node::Dir(DirState::default()));
            if depth == 0 {
                inner.nodes[at].as_dir_mut()?.durable.insert(name.clone(), node);
            }
            inner.change_names(at, vec![(name, Some(node))])?;
            at = node;
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let (mut inner, synced) = self.begin();
        let node = inner.find(dir)?;
        let dir = inner.nodes[node].as_dir_mut()?;
        // Names lie in the file system's journal: what a failed sync did not bring there a later one does.
        synced?;
        for step in std::mem::take(&mut dir.unsynced) {
            apply_step(&mut dir.durable, &step);
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let inner = self.disk.begin_read()?;
        let is_there = inner.nodes[self.node].as_file()?.cached.read(offset as usize, buffer);
        if is_there { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut inner, allowed) = self.disk.begin_as(true);
        // A failing write gets half of its bytes through.
        let bytes = if allowed.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        let offset = offset as usize;
        let present = inner.nodes[self.node].as_file()?.cached.len();
        inner.take_space((offset + bytes.len()).saturating_sub(present) as u64)?;
        let file = inner.nodes[self.node].as_file_mut()?;
        let data = Data::new(bytes);
        file.cached.put(offset, &data);
        file.unsynced.push(Change::Write(offset, data));
        allowed
    }

    fn sync_data(&self) -> io::Result<()> {
        {
            let mut inner = self.disk.inner.lock();
            inner.syncs += 1;
            self.disk.released.notify_all();
            while inner.hold_syncs {
                self.disk.released.wait(&mut inner);
            }
        }
        self.disk.sync(self.node)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.disk.sync(self.node)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let (mut inner, begun) = self.disk.begin();
        begun?;
        let present = inner.nodes[self.node].as_file()?.cached.len() as u64;
        inner.take_space(bytes.saturating_sub(present))?;
        let file = inner.nodes[self.node].as_file_mut()?;
        file.cached.resize(bytes as usize);
        file.unsynced.push(Change::Length(bytes as usize));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.begin_read()?.nodes[self.node].as_file()?.cached.len() as u64)
    }
}

/// Chance for cuts: the same for the same seed.
struct Draws(u64);

impl Draws {
    fn new(cut: Cut) -> Self {
        Self(if let Cut::Any(seed) = cut { seed } else { 0 })
    }

    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x ^ (x >> 31)) % below
    }
}

fn apply_step(names: &mut BTreeMap<String, usize>, step: &[(String, Option<usize>)]) {
    for (name, node) in step {
        match node {
            Some(node) => names.insert(name.clone(), *node),
            None => names.remove(name),
        };
    }
}

/// The named parts of a path.
fn parts(path: &Path) -> Vec<String> {
    let named = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    named.collect()
}
