//! The mirror: a copy of the world at a finished tick, kept by another thread; all that readers ever see (T2).
//!
//! The tick thread hands over a capture of what changed and goes on (T1). When the mirror is still busy with the
//! last one, nothing is captured: the marks add up, the mirror is older then, never wrong. It keeps the state hash up
//! to date row by row. A *view*, an image that shares the mirror's chunks, is cut only when somebody wants one, and
//! becomes visible only up to the tick that the host allows, which it does once the log covers that tick (D2).

mod apply;

use crate::{
    capture::{Buffers, Capture},
    hash::StateHash,
    ids::{Tick, Uid},
    image::{Image, TableImage},
    pool::Pool,
    uid_map::UidMap,
};
use apply::Working;
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use std::{
    mem,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

/// The mirror's own end: one thread, one capture at a time.
pub struct Mirror {
    handle: MirrorHandle,
    captures: Option<SyncSender<Work>>,
    thread: Option<JoinHandle<()>>,
    buffers: Arc<Buffers>,
}

/// What readers hold: cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct MirrorHandle {
    shared: Arc<Shared>,
    asks: Option<SyncSender<Work>>,
}

/// What the host gives to the mirror's thread.
pub struct MirrorHooks {
    /// Runs on the thread first, for instance to set its nice value.
    pub on_thread: Box<dyn FnOnce() + Send>,
    /// Called after each piece of work: may sleep, so that the tick keeps its CPU.
    pub pace: Box<dyn FnMut() + Send>,
    /// Called when another view is visible.
    pub on_view: Box<dyn Fn() + Send + Sync>,
    /// Whose threads help with the first capture, without rests: nothing ticks yet, and everybody waits for it.
    pub pool: Option<Arc<Pool>>,
}

impl Default for MirrorHooks {
    fn default() -> Self {
        Self { on_thread: Box::new(|| ()), pace: Box::new(|| ()), on_view: Box::new(|| ()), pool: None }
    }
}

/// A state of the mirror, without the state itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The finished tick.
    pub tick: Tick,
    /// The hash of the state after it.
    pub hash: StateHash,
    /// The bytes of all rows and resources.
    pub bytes: usize,
    /// The bytes that are kept ready for the next captures and changes.
    pub spare_bytes: usize,
}

enum Work {
    Apply(Capture),
    /// Somebody wants a view that is as new as the mirror.
    Cut,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The row of each entity in its table, at the last capture that was applied.
    rows: RwLock<UidMap<u32>>,
    on_view: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    /// The newest view that may be shown.
    visible: Option<Arc<Image>>,
    /// The newest view, when it may not be shown yet.
    hidden: Option<Arc<Image>>,
    allowed: Tick,
    /// What the mirror is at.
    applied: Option<Applied>,
    /// The newest of these that may be shown.
    shown: Option<Applied>,
    /// Somebody looked since the last view was cut.
    wanted: bool,
    /// A request to cut is on its way.
    asked: bool,
    /// Captures that are under way.
    in_flight: usize,
    closed: bool,
}

impl Mirror {
    /// Starts the mirror's thread. It takes captures of one world only, from its first on.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(name: &str, buffers: Arc<Buffers>, hooks: MirrorHooks) -> std::io::Result<Self> {
        let MirrorHooks { on_thread, mut pace, on_view, mut pool } = hooks;
        let shared = Shared {
            state: Mutex::new(State { wanted: true, ..State::default() }),
            changed: Condvar::new(),
            rows: RwLock::default(),
            on_view,
        };
        // One capture waits at the most (L1), as the next is taken only when the last is applied; and one request.
        let (captures, incoming) = sync_channel::<Work>(2);
        let handle = MirrorHandle { shared: Arc::new(shared), asks: Some(captures.clone()) };
        // The thread holds no sender, so that it ends with the last one outside.
        let applied = MirrorHandle { asks: None, ..handle.clone() };
        let own = buffers.clone();
        let thread = std::thread::Builder::new().name(format!("mirror {name}")).spawn(move || {
            on_thread();
            let _closing = Closing(&applied);
            let mut working = Working::new(buffers);
            for work in incoming {
                if applied.shared.state.lock().closed {
                    return;
                }
                let was_capture = matches!(work, Work::Apply(_));
                if let Work::Apply(capture) = work {
                    let rows = &applied.shared.rows;
                    match pool.take() {
                        first @ Some(_) => working.apply(capture, rows, &mut || (), first.as_deref()),
                        None => working.apply(capture, rows, &mut *pace, None),
                    }
                }
                applied.finished(&working, was_capture);
            }
        })?;
        Ok(Self { handle, captures: Some(captures), thread: Some(thread), buffers: own })
    }

    /// What readers hold.
    pub fn handle(&self) -> MirrorHandle {
        self.handle.clone()
    }

    /// True when a capture would be taken.
    pub fn is_ready(&self) -> bool {
        let state = self.handle.shared.state.lock();
        // One that waits to be allowed is not replaced by a newer one, or under steady inputs none would ever be.
        let is_shown = state.applied.is_none_or(|applied| applied.tick <= state.allowed);
        state.in_flight == 0 && is_shown && !state.closed
    }

    /// True when the mirror's thread has died of a bug: nothing will be mirrored any more.
    pub fn has_failed(&self) -> bool {
        self.handle.shared.state.lock().closed
    }

    /// Hands a capture over. To be called only when [`Mirror::is_ready`]: what a capture took is marked nowhere else.
    ///
    /// # Panics
    /// When the mirror's thread has died: the capture would be lost. When the capture's buffers are not the mirror's,
    /// see [`crate::LiveWorld::set_buffers`]: the mirror would gather them, and the world would make new ones for ever.
    pub fn offer(&self, capture: Capture) {
        assert!(Arc::ptr_eq(&capture.buffers, &self.buffers), "a world and its mirror share their buffers");
        let captures = self.captures.as_ref().expect("the sender is there until the mirror is dropped");
        self.handle.shared.state.lock().in_flight += 1;
        assert!(captures.send(Work::Apply(capture)).is_ok(), "the mirror's thread has died");
    }

    /// Lets readers see views up to that tick.
    pub fn allow(&self, tick: Tick) {
        let mut state = self.handle.shared.state.lock();
        state.allowed = tick;
        let moved = state.settle();
        drop(state);
        self.handle.tell(moved);
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // Readers hold senders too: the thread ends by the flag, which it sees at the next message.
        self.handle.shared.state.lock().closed = true;
        if let Some(captures) = self.captures.take() {
            // An error means that it has ended already.
            let _ = captures.send(Work::Cut);
        }
        if let Some(thread) = self.thread.take() {
            // A panic of the mirror's thread has been reported by the panic hook.
            let _ = thread.join();
        }
        self.handle.shared.changed.notify_all();
    }
}

/// Tells those who wait when the mirror's thread ends, also by a panic.
struct Closing<'a>(&'a MirrorHandle);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let mut state = self.0.shared.state.lock();
        state.closed = true;
        state.in_flight = 0;
        drop(state);
        self.0.tell(true);
    }
}

impl MirrorHandle {
    /// A mirror that shows one image and never another: for a world that does not run.
    pub fn of(image: Arc<Image>) -> Self {
        let mut rows = UidMap::default();
        for table in &image.tables {
            table.uids().enumerate().for_each(|(row, uid)| rows.insert(uid, row as u32));
        }
        let applied = Applied { tick: image.tick, hash: image.hash, bytes: image.bytes(), spare_bytes: 0 };
        let state = State {
            allowed: image.tick,
            applied: Some(applied),
            shown: Some(applied),
            visible: Some(image),
            closed: true,
            ..State::default()
        };
        let shared = Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            rows: RwLock::new(rows),
            on_view: Box::new(|| ()),
        };
        Self { shared: Arc::new(shared), asks: None }
    }

    /// The newest view, if there is one yet. Says that somebody looks: the next capture is followed by a view.
    pub fn view(&self) -> Option<Arc<Image>> {
        let mut state = self.shared.state.lock();
        state.wanted = true;
        state.visible.clone()
    }

    /// The newest view without wanting a newer one.
    pub fn peek(&self) -> Option<Arc<Image>> {
        self.shared.state.lock().visible.clone()
    }

    /// What the mirror is at, whether it may be shown or not.
    pub fn applied(&self) -> Option<Applied> {
        self.shared.state.lock().applied
    }

    /// The newest state of the mirror that may be shown, whether a view of it was cut or not.
    pub fn shown(&self) -> Option<Applied> {
        self.shared.state.lock().shown
    }

    /// Asks for a view as new as the mirror. False when there is nothing newer to wait for: the view is the newest,
    /// or what is newer may not be shown yet.
    pub fn ask(&self) -> bool {
        self.ask_of(&mut self.shared.state.lock())
    }

    fn ask_of(&self, state: &mut State) -> bool {
        state.wanted = true;
        let cut = state.hidden.as_ref().or(state.visible.as_ref()).map(|image| image.tick);
        if state.closed || state.applied.map(|applied| applied.tick) == cut {
            return false;
        }
        // While a capture is applied the view comes by itself.
        if state.in_flight == 0 && !state.asked {
            state.asked = self.asks.as_ref().is_some_and(|asks| asks.try_send(Work::Cut).is_ok());
        }
        true
    }

    /// Waits until every capture that was handed over is applied, and returns the newest view, shown or not.
    pub fn settled(&self) -> Option<Arc<Image>> {
        let mut state = self.shared.state.lock();
        loop {
            let cut = state.hidden.as_ref().or(state.visible.as_ref());
            let is_current = state.applied.map(|applied| applied.tick) == cut.map(|image| image.tick);
            if (state.in_flight == 0 && is_current) || state.closed {
                return cut.cloned();
            }
            // Again each time: what was asked for before may have been answered by an older view.
            self.ask_of(&mut state);
            self.shared.changed.wait(&mut state);
        }
    }

    /// The table and row of an entity in an image of this mirror.
    pub fn find<'i>(&self, image: &'i Image, uid: Uid) -> Option<(&'i TableImage, usize)> {
        let row = self.shared.rows.read().get(uid).map(|row| row as usize);
        // Nobody of that name in the newest state: no scan for who never was.
        let is_newest = || self.applied().is_some_and(|applied| applied.tick == image.tick);
        if row.is_none() && is_newest() {
            return None;
        }
        let is_there = |table: &&TableImage| row.is_some_and(|row| table.uid(row) == Some(uid));
        // The entity may have moved since the image was cut.
        let found = image.tables.iter().find(is_there).map(|table| (table, row.unwrap_or_default()));
        found.or_else(|| image.find(uid))
    }

    fn finished(&self, working: &Working, was_capture: bool) {
        let applied = working.applied();
        let mut state = self.shared.state.lock();
        // Without the lock: the tick asks for it, and this takes its time. Somebody may want it meanwhile.
        let mut view = None;
        while view.is_none() && state.wants(applied.tick) {
            view = Some(MutexGuard::unlocked(&mut state, || Arc::new(working.cut(applied.hash))));
        }
        state.in_flight -= usize::from(was_capture);
        state.asked = false;
        state.applied = Some(applied);
        let mut left = None;
        if view.is_some() {
            // Who wants one while a capture waits behind this request gets that one's, too.
            state.wanted = state.in_flight > 0;
            left = mem::replace(&mut state.hidden, view);
        }
        let moved = state.settle();
        drop(state);
        drop(left);
        self.shared.changed.notify_all();
        self.tell(moved);
    }

    fn tell(&self, moved: bool) {
        if moved {
            self.shared.changed.notify_all();
            (self.shared.on_view)();
        }
    }
}

impl State {
    /// Whether somebody wants a view of that tick that is not there yet.
    fn wants(&self, tick: Tick) -> bool {
        let cut = self.hidden.as_ref().or(self.visible.as_ref()).map(|image| image.tick);
        self.wanted && cut != Some(tick)
    }

    /// Shows what may be shown; true when another view is visible.
    fn settle(&mut self) -> bool {
        if self.applied.is_some_and(|applied| applied.tick <= self.allowed) {
            self.shown = self.applied;
        }
        let may_show = self.hidden.as_ref().is_some_and(|image| image.tick <= self.allowed);
        if may_show {
            self.visible = self.hidden.take();
        }
        may_show
    }
}
