//! Keyframes on a thread of their own (T1): encoding and writing never touch the tick.

use crate::{metrics::WorldMetrics, pool, spine, status::WorldStatus};
use everworld_engine::{Image, Tick};
use everworld_persistence::{KeyframeMeta, LogHandle, Store};
use parking_lot::Mutex;
use std::{
    io,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

pub(super) struct Keyframes {
    work: Option<SyncSender<(KeyframeMeta, Arc<Image>)>>,
    thread: Option<JoinHandle<()>>,
    /// Back in the host's hands once the thread has ended.
    pub(super) store: Arc<Mutex<Option<Store>>>,
    last: Option<Tick>,
    last_nanos: u64,
}

impl Keyframes {
    pub(super) fn start(
        store: Store,
        world: &str,
        status: Arc<WorldStatus>,
        metrics: WorldMetrics,
        last: Option<Tick>,
    ) -> io::Result<Self> {
        status.set_last_snapshot(last.unwrap_or_default());
        // One waits at the most (L1): while the disk is slow the period gives way, never the tick.
        let (work, incoming) = sync_channel::<(KeyframeMeta, Arc<Image>)>(0);
        let kept = Arc::new(Mutex::new(None));
        let (back, world) = (kept.clone(), world.to_owned());
        let body = move || {
            pool::stand_back();
            for (meta, image) in incoming {
                match store.write_keyframe(&meta, &image) {
                    Ok(stats) => {
                        status.set_last_snapshot(meta.tick);
                        metrics.snapshots_written.inc();
                        tracing::debug!(world, tick = %meta.tick, bytes = stats.written_bytes, "keyframe written");
                    }
                    Err(error) => {
                        metrics.snapshots_failed.inc();
                        // The log has everything: the world goes on, a recovery takes longer.
                        tracing::error!(world, tick = %meta.tick, "could not write a keyframe: {}", spine::chain(&error));
                    }
                }
            }
            *back.lock() = Some(store);
        };
        let thread = std::thread::Builder::new().name("keyframes".into()).spawn(body)?;
        let last_nanos = crate::clock::now_nanos();
        Ok(Self { work: Some(work), thread: Some(thread), store: kept, last, last_nanos })
    }

    /// Offers a visible view: what may be seen is covered by the log (D2), so its keyframe is too (D7).
    pub(super) fn offer(&mut self, view: Arc<Image>, period_secs: u64, log: &LogHandle) {
        let now = crate::clock::now_nanos();
        if now - self.last_nanos < period_secs * 1_000_000_000
            || self.last.is_some_and(|last| view.tick <= last)
        {
            return;
        }
        let Some(work) = &self.work else { return };
        let meta = spine::keyframe_meta(&view, view.taken_seq(), log.durable());
        let tick = view.tick;
        // Taken only when the thread is idle; else the next tick offers again.
        if work.try_send((meta, view)).is_ok() {
            self.last = Some(tick);
            self.last_nanos = now;
        }
    }

    /// Waits for the keyframe that is being written.
    pub(super) fn finish(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by the panic hook; the store is then left closed.
            let _ = thread.join();
        }
    }
}
