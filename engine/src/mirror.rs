//! The mirror: a copy of the world at a finished tick, kept by another thread; all that readers ever see (T2).
//!
//! The tick thread hands over a capture and goes on (T1). When the mirror is still busy with the last one, the
//! new one is left out: the mirror is older then, never wrong. A view becomes visible only up to the tick that the
//! host allows, which it does once the log covers that tick (D2).

use crate::{ids::Tick, image::Image, world::Capture};
use parking_lot::{Condvar, Mutex};
use std::{
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

/// The mirror's own end: one thread, one image at a time.
pub struct Mirror {
    handle: MirrorHandle,
    captures: Option<SyncSender<Capture>>,
    thread: Option<JoinHandle<()>>,
}

/// What readers hold: cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct MirrorHandle {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The newest image that may be shown.
    visible: Option<Arc<Image>>,
    /// The newest image, when it may not be shown yet.
    hidden: Option<Arc<Image>>,
    allowed: Tick,
    /// Captures that are under way.
    in_flight: usize,
    closed: bool,
}

impl Mirror {
    /// Starts the mirror's thread. `on_thread` runs on it first, for instance to set its nice value.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(name: &str, on_thread: impl FnOnce() + Send + 'static) -> std::io::Result<Self> {
        let handle =
            MirrorHandle { shared: Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() }) };
        // One capture waits at the most (L1): a second one would only be older.
        let (captures, incoming) = sync_channel::<Capture>(1);
        let applied = handle.clone();
        let thread = std::thread::Builder::new().name(format!("mirror {name}")).spawn(move || {
            on_thread();
            for capture in incoming {
                applied.show(Arc::new(capture.into_image()), 1);
            }
        })?;
        Ok(Self { handle, captures: Some(captures), thread: Some(thread) })
    }

    /// What readers hold.
    pub fn handle(&self) -> MirrorHandle {
        self.handle.clone()
    }

    /// True when a capture would be taken.
    pub fn is_ready(&self) -> bool {
        let state = self.handle.shared.state.lock();
        // One that waits to be allowed is not replaced by a newer one, or under steady inputs none would ever be.
        state.in_flight == 0 && state.hidden.is_none()
    }

    /// Hands a capture over; false when the mirror is behind and the capture was dropped.
    pub fn offer(&self, capture: Capture) -> bool {
        let Some(captures) = &self.captures else { return false };
        self.handle.shared.state.lock().in_flight += 1;
        match captures.try_send(capture) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.handle.shared.state.lock().in_flight -= 1;
                false
            }
        }
    }

    /// Lets readers see images up to that tick.
    pub fn allow(&self, tick: Tick) {
        let mut state = self.handle.shared.state.lock();
        state.allowed = tick;
        state.settle();
        self.handle.shared.changed.notify_all();
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        drop(self.captures.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the mirror's thread has been reported by the panic hook.
            let _ = thread.join();
        }
        self.handle.shared.state.lock().closed = true;
        self.handle.shared.changed.notify_all();
    }
}

impl MirrorHandle {
    /// A mirror that shows one image and never another: for a world that does not run.
    pub fn of(image: Arc<Image>) -> Self {
        let state = State { allowed: image.tick, visible: Some(image), closed: true, ..State::default() };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }) }
    }

    /// The newest view, if there is one yet.
    pub fn view(&self) -> Option<Arc<Image>> {
        self.shared.state.lock().visible.clone()
    }

    /// Waits until every capture that was handed over is applied, and returns the newest image, shown or not.
    pub fn settled(&self) -> Option<Arc<Image>> {
        let mut state = self.shared.state.lock();
        while state.in_flight > 0 && !state.closed {
            self.shared.changed.wait(&mut state);
        }
        state.hidden.clone().or_else(|| state.visible.clone())
    }

    fn show(&self, image: Arc<Image>, applied: usize) {
        let mut state = self.shared.state.lock();
        state.in_flight -= applied;
        state.hidden = Some(image);
        state.settle();
        self.shared.changed.notify_all();
    }
}

impl State {
    fn settle(&mut self) {
        if self.hidden.as_ref().is_some_and(|image| image.tick <= self.allowed) {
            self.visible = self.hidden.take();
        }
    }
}
