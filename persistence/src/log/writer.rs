//! The log behind a thread: many callers append, one thread commits for all of them at once.
//!
//! A record gets its lsn and its place under the lock, in the order of the calls, and only in space that is
//! reserved. So an accepted record can fail with the whole log only, never for want of space: that is refused
//! at the call ([`LogError::NoSpace`], or [`LogError::QueueFull`] while the thread is still reserving). No
//! caller waits for the disk under the lock.

use super::{
    DurablePoint, Files, Log, LogError, LogFault, LogStats, Record, Records, Tail,
    records::{self, Readers},
    tail::{Cursor, Encoded, PlaceError, Run},
};
use crate::{disk::Disk, panics::panic_text};
use parking_lot::{Condvar, Mutex};
use std::{
    io,
    ops::RangeInclusive,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, ThreadId},
};

/// Called once on the log's thread when the records are durable, or never will be. It must be quick and must
/// not wait for the log. A panic in it ends the log.
pub type LogDone = Box<dyn FnOnce(Result<DurablePoint, Arc<LogError>>) + Send>;

/// Starts the log's thread.
pub struct LogWriter;

/// Appends to a log from any thread. All clones share one log, which closes with the last of them.
#[derive(Clone)]
pub struct LogHandle {
    owner: Arc<Owner>,
}

struct Owner {
    shared: Arc<Shared>,
    thread: ThreadId,
}

struct Shared {
    state: Mutex<State>,
    /// There is something for the thread to do.
    work: Condvar,
    /// The durable point moved, or never will again.
    moved: Condvar,
    durable_lsn: AtomicU64,
    queue_len_max: usize,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    world: u64,
    build_id: [u8; 16],
    readers: Readers,
}

struct State {
    tail: Tail,
    /// Callbacks of what was placed and not yet taken by the thread.
    done: Vec<LogDone>,
    /// A record found no reserved space.
    space_wanted: bool,
    /// Why the last try to reserve failed.
    no_space: Option<(PathBuf, Arc<io::Error>)>,
    failed: Option<Arc<LogError>>,
    closing: bool,
    /// The thread has ended.
    closed: bool,
    stats: LogStats,
}

/// Whether the last of the room may be used.
#[derive(Clone, Copy)]
enum Room {
    Take,
    Leave,
}

/// What the thread takes at once.
struct Batch {
    runs: Vec<Run>,
    end: Cursor,
    done: Vec<LogDone>,
    /// The segment to reserve.
    reserve: Option<u64>,
}

impl LogWriter {
    /// Gives the log to a thread of its own, which begins with what was appended and not committed. At most `queue_len_max` records wait to become durable (L1).
    pub fn start(log: Log, queue_len_max: usize) -> Result<LogHandle, LogError> {
        let Log { tail, mut files, failed } = log;
        if let Some(error) = failed {
            return Err(LogError::Failed(error));
        }
        let build_id = tail.build_id();
        let shared = Arc::new(Shared {
            durable_lsn: AtomicU64::new(tail.durable.lsn),
            state: Mutex::new(State {
                stats: files.stats,
                tail,
                done: Vec::new(),
                space_wanted: false,
                no_space: None,
                failed: None,
                closing: false,
                closed: false,
            }),
            work: Condvar::new(),
            moved: Condvar::new(),
            queue_len_max,
            disk: files.disk.clone(),
            dir: files.dir.clone(),
            world: files.world,
            build_id,
            readers: Readers::default(),
        });
        let for_thread = shared.clone();
        let body = move || {
            (files.on_thread)();
            // A bug, but those who wait must hear of it.
            let result = catch_unwind(AssertUnwindSafe(|| for_thread.run(&mut files)));
            if let Err(panic) = result {
                for_thread.fail(LogError::Panicked(panic_text(&*panic)), Vec::new());
            }
            drop(files);
            for_thread.state.lock().closed = true;
            for_thread.moved.notify_all();
        };
        let thread = thread::Builder::new().name("log-writer".into()).spawn(body);
        let thread = thread.map_err(LogError::io("start the thread of log", &shared.dir))?;
        Ok(LogHandle { owner: Arc::new(Owner { shared, thread: thread.thread().id() }) })
    }
}

impl LogHandle {
    /// The build that writes it.
    pub fn build_id(&self) -> [u8; 16] {
        self.owner.shared.build_id
    }

    /// Takes a record and returns its lsn at once; `done` is called when it is durable or the log has failed.
    ///
    /// # Errors
    /// The record was not taken, and `done` is not called.
    pub fn append(&self, record: Record, done: Option<LogDone>) -> Result<u64, LogError> {
        self.owner.shared.append(&[record.encode()], done, Room::Take)
    }

    /// As [`LogHandle::append`], for what can come again later: refused while less than an eighth of the queue is free, or
    /// of the last segment when no other can be reserved; these are left to the records of who must not wait (T1).
    ///
    /// # Errors
    /// As of [`LogHandle::append`].
    pub fn append_leaving_room(&self, record: Record, done: Option<LogDone>) -> Result<u64, LogError> {
        self.owner.shared.append(&[record.encode()], done, Room::Leave)
    }

    /// Takes records so that no other comes between them, all or none; returns their lsns. `done` is called once,
    /// for the last of them.
    ///
    /// # Errors
    /// The records were not taken, and `done` is not called. More than the queue holds are always refused.
    pub fn append_all(
        &self,
        records: Vec<Record>,
        done: Option<LogDone>,
    ) -> Result<RangeInclusive<u64>, LogError> {
        let records: Vec<Encoded> = records.iter().map(Record::encode).collect();
        let last = self.owner.shared.append(&records, done, Room::Take)?;
        Ok(last + 1 - records.len() as u64..=last)
    }

    /// From now on records go into another segment. One that is damaged would be in the way of a recovery for as long as
    /// any come after it.
    ///
    /// # Errors
    /// While no other segment is reserved, and when the log has ended.
    pub fn begin_segment(&self) -> Result<(), LogError> {
        let shared = &self.owner.shared;
        let mut state = shared.state.lock();
        state.check_open()?;
        match state.tail.begin_segment() {
            Ok(()) => {
                shared.work.notify_one();
                Ok(())
            }
            Err(_) => Err(shared.want_space(&mut state)),
        }
    }

    /// The last durable record.
    pub fn durable_lsn(&self) -> u64 {
        self.owner.shared.durable_lsn.load(Ordering::Acquire)
    }

    /// The last durable record and the chain value after it.
    pub fn durable(&self) -> DurablePoint {
        self.owner.shared.state.lock().tail.durable
    }

    /// The last record that was taken, durable or not.
    pub fn last_lsn(&self) -> u64 {
        self.owner.shared.state.lock().tail.cursor.last.lsn
    }

    /// Waits until that record is durable; returns the last one that is.
    pub fn wait_durable(&self, lsn: u64) -> Result<DurablePoint, LogError> {
        let shared = &self.owner.shared;
        let mut state = shared.state.lock();
        loop {
            if state.tail.durable.lsn >= lsn {
                return Ok(state.tail.durable);
            }
            if let Some(error) = &state.failed {
                return Err(LogError::Failed(error.clone()));
            }
            if state.closed {
                return Err(LogError::Closed);
            }
            shared.moved.wait(&mut state);
        }
    }

    /// Why the log has failed, if it has.
    pub fn failed(&self) -> Option<Arc<LogError>> {
        self.owner.shared.state.lock().failed.clone()
    }

    /// What was done since the log was opened, and how many records wait (L1).
    pub fn stats(&self) -> LogStats {
        let state = self.owner.shared.state.lock();
        LogStats { queue_len: state.tail.cursor.last.lsn - state.tail.durable.lsn, ..state.stats }
    }

    /// The records from that lsn on that are durable now, read from disk on the calling thread.
    /// Nothing of them is cut while the answer is there.
    pub fn records(&self, from_lsn: u64) -> Records {
        let Shared { disk, dir, world, readers, .. } = &*self.owner.shared;
        let reader = readers.begin(from_lsn);
        Records::open(disk, dir, *world, from_lsn, self.durable_lsn()).held(reader)
    }

    /// Copies the log, up to the last record that is durable now, into a directory: it can be opened there. The
    /// caller does not cut the log meanwhile.
    pub fn copy_to(&self, target: &Path) -> Result<DurablePoint, LogError> {
        let Shared { disk, dir, world, .. } = &*self.owner.shared;
        records::copy(disk, dir, target, *world, self.durable())
    }

    /// Reads all records that are durable now again from the disk, on the calling thread, and compares every checksum.
    /// `progress` is told how many bytes come next: the place to wait; false ends it.
    ///
    /// # Errors
    /// When the segments cannot be listed; what is damaged is no error but a fault.
    pub fn scrub(&self, progress: &mut dyn FnMut(u64) -> bool) -> Result<Vec<LogFault>, LogError> {
        let Shared { disk, dir, world, .. } = &*self.owner.shared;
        records::scrub(disk, dir, *world, self.durable_lsn(), progress)
    }

    /// As [`Log::cut_before`], on the calling thread; not what somebody is reading.
    pub fn cut_before(&self, lsn: u64) -> Result<u64, LogError> {
        let Shared { disk, dir, world, readers, .. } = &*self.owner.shared;
        readers.cut_before(lsn.min(self.durable_lsn()), |lsn| records::cut_before(&**disk, dir, *world, lsn))
    }

    /// Takes no more records, makes those taken durable and ends the thread. Called in a callback it does not wait.
    pub fn close(&self) -> Result<DurablePoint, LogError> {
        self.owner.close();
        let state = self.owner.shared.state.lock();
        state.failed.as_ref().map_or(Ok(state.tail.durable), |error| Err(LogError::Failed(error.clone())))
    }
}

impl Owner {
    fn close(&self) {
        let mut state = self.shared.state.lock();
        state.closing = true;
        self.shared.work.notify_all();
        // The last handle may die inside a callback, on the thread itself.
        if thread::current().id() == self.thread {
            return;
        }
        while !state.closed {
            self.shared.moved.wait(&mut state);
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    fn check_open(&self) -> Result<(), LogError> {
        match &self.failed {
            Some(error) => Err(LogError::Failed(error.clone())),
            None if self.closing => Err(LogError::Closed),
            None => Ok(()),
        }
    }
}

impl Shared {
    fn append(&self, records: &[Encoded], done: Option<LogDone>, room: Room) -> Result<u64, LogError> {
        let mut state = self.state.lock();
        state.check_open()?;
        let queue_len_max = match room {
            Room::Take => self.queue_len_max,
            Room::Leave => self.queue_len_max - self.queue_len_max / 8,
        };
        let waiting = (state.tail.cursor.last.lsn - state.tail.durable.lsn) as usize;
        if waiting + records.len() > queue_len_max {
            return Err(LogError::QueueFull { queue_len_max });
        }
        let placed = match room {
            Room::Leave if state.tail.is_nearly_full(records) => Err(PlaceError::NotReserved),
            _ => state.tail.place(records),
        };
        match placed {
            Ok(lsn) => {
                state.done.extend(done);
                self.work.notify_one();
                Ok(lsn)
            }
            Err(PlaceError::TooLarge { bytes, max }) => Err(LogError::RecordTooLarge { bytes, max }),
            Err(PlaceError::NotReserved) => Err(self.want_space(&mut state)),
        }
    }

    /// Has the thread try once more, and says why there is none.
    fn want_space(&self, state: &mut State) -> LogError {
        state.space_wanted = true;
        self.work.notify_one();
        let full = LogError::QueueFull { queue_len_max: self.queue_len_max };
        let no_space = state.no_space.clone();
        no_space.map_or(full, |(path, source)| LogError::NoSpace { path, source })
    }

    /// The thread.
    fn run(&self, files: &mut Files) {
        while let Some(batch) = self.next_batch() {
            if !batch.runs.is_empty() {
                if let Err(error) = files.commit(&batch.runs, &batch.end) {
                    self.fail(error, batch.done);
                    return;
                }
                self.committed(batch.end.last, files.stats);
            }
            if let Some(text) = call_all(batch.done, || Ok(batch.end.last)) {
                self.fail(LogError::Panicked(text), Vec::new());
                return;
            }
            // After the callbacks: nobody who is durable waits for zeros to be written.
            if let Some(number) = batch.reserve {
                self.reserve(files, number);
            }
        }
    }

    /// Waits for something to do; `None` at the end.
    fn next_batch(&self) -> Option<Batch> {
        let mut state = self.state.lock();
        while !state.tail.is_dirty() && state.done.is_empty() && !state.space_wanted {
            if state.closing {
                return None;
            }
            self.work.wait(&mut state);
        }
        // On a full disk only a refused record causes another try, not each commit.
        let wanted = state.space_wanted || state.no_space.is_none();
        state.space_wanted = false;
        let end = state.tail.cursor;
        let reserve = (wanted && state.tail.needs_segment()).then_some(end.segment + 1);
        Some(Batch { runs: state.tail.take_runs(), end, done: std::mem::take(&mut state.done), reserve })
    }

    fn committed(&self, durable: DurablePoint, stats: LogStats) {
        let mut state = self.state.lock();
        state.tail.durable = durable;
        state.stats = stats;
        self.durable_lsn.store(durable.lsn, Ordering::Release);
        drop(state);
        self.moved.notify_all();
    }

    fn reserve(&self, files: &mut Files, number: u64) {
        let reserved = files.reserve(number);
        let mut state = self.state.lock();
        state.no_space = match reserved {
            Ok(()) => None,
            Err(LogError::NoSpace { path, source }) => Some((path, source)),
            Err(other) => unreachable!("reserving fails with no space only: {other}"),
        };
        if state.no_space.is_none() {
            state.tail.reserved_to = number;
        }
    }

    /// Ends the log for good (D6) and tells all who wait.
    fn fail(&self, error: LogError, mut done: Vec<LogDone>) {
        let error = Arc::new(error);
        let mut state = self.state.lock();
        state.failed = Some(error.clone());
        done.append(&mut state.done);
        drop(state);
        self.moved.notify_all();
        let _ = call_all(done, || Err(error.clone()));
    }
}

/// Calls all of them, also when one panics; returns what the first such one said.
fn call_all(done: Vec<LogDone>, outcome: impl Fn() -> Result<DurablePoint, Arc<LogError>>) -> Option<String> {
    let mut text = None;
    for done in done {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| done(outcome()))) {
            text.get_or_insert_with(|| panic_text(&*panic));
        }
    }
    text
}
