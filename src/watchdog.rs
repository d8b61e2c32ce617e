//! Watches the tick from outside: a thread of its own, which sees a tick that does not end.
//!
//! Beyond the soft limit the world is degraded, visibly. Beyond the hard one nothing inside a process can stop the
//! system: a durable `Hung` record says which tick and what, and the process ends with exit 70. The next start leaves
//! that out, by policy (`history::OnPanic`). The tick itself looks at no limit.

use crate::{clock, history::hung_name, spine::append_patiently, status::WorldStatus};
use everworld_engine::{Doing, InTick, Tick, Watch};
use everworld_persistence::{LogHandle, Record};
use parking_lot::Mutex;
use std::{
    io,
    sync::{Arc, Weak, mpsc::sync_channel},
    time::Duration,
};

/// The exit code of a process that ended itself because of a hung world.
pub const EXIT_HUNG: u8 = 70;

/// So long the watchdog waits for its record to be durable.
const RECORD_WAIT: Duration = Duration::from_secs(10);

/// The world that a watchdog looks at, which recovery may replace.
#[derive(Default)]
pub struct Watched(Mutex<Option<(Watch, LogHandle)>>);

impl Watched {
    /// From now on this one.
    pub fn set(&self, watch: Watch, log: LogHandle) {
        *self.0.lock() = Some((watch, log));
    }

    /// From now on none: the log is to be closed.
    pub fn clear(&self) {
        *self.0.lock() = None;
    }

    fn look(&self) -> Option<(InTick, LogHandle)> {
        let watched = self.0.lock();
        let (watch, log) = watched.as_ref()?;
        Some((watch.look()?, log.clone()))
    }
}

/// The limits of a tick in milliseconds; 0 is none.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Beyond it the world is degraded.
    pub soft_millis: u64,
    /// Beyond it the process ends.
    pub hard_millis: u64,
}

/// Watches a world until nobody holds its status any more.
///
/// # Errors
/// When the system has no thread left.
pub fn start(world: &str, status: &Arc<WorldStatus>, limits: Limits) -> io::Result<()> {
    let Some(shortest) = [limits.soft_millis, limits.hard_millis].into_iter().filter(|ms| *ms > 0).min()
    else {
        return Ok(());
    };
    let period = Duration::from_millis((shortest / 4).clamp(5, 250));
    let (world, status) = (world.to_owned(), Arc::downgrade(status));
    let body = move || watch(&world, &status, limits, period);
    std::thread::Builder::new().name("watchdog".into()).spawn(body).map(|_| ())
}

fn watch(world: &str, status: &Weak<WorldStatus>, limits: Limits, period: Duration) {
    // The tick that was told of.
    let mut told = Tick(0);
    while let Some(status) = status.upgrade() {
        let looked = status.watched.look();
        let millis = |seen: &InTick| clock::now_nanos().saturating_sub(seen.since_nanos) / 1_000_000;
        match looked {
            Some((seen, log)) if limits.hard_millis > 0 && millis(&seen) >= limits.hard_millis => {
                end_process(world, &seen, &log, limits.hard_millis);
            }
            Some((seen, _)) if limits.soft_millis > 0 && millis(&seen) >= limits.soft_millis => {
                let why = format!(
                    "tick {} takes longer than {} ms{}",
                    seen.tick,
                    limits.soft_millis,
                    where_in(&seen.doing)
                );
                if told != seen.tick {
                    tracing::warn!(world, "{why}");
                    told = seen.tick;
                }
                status.set_degraded(Some(why));
            }
            _ if told != Tick(0) => {
                status.set_degraded(None);
                told = Tick(0);
            }
            _ => {}
        }
        drop(status);
        std::thread::sleep(period);
    }
}

fn where_in(doing: &Doing) -> String {
    match doing {
        Doing::System(system) => format!(", in system \"{system}\""),
        Doing::Input(seq) => format!(", at input {seq}"),
        Doing::Engine => String::new(),
    }
}

/// Makes known what hung, and ends the process.
fn end_process(world: &str, seen: &InTick, log: &LogHandle, hard_millis: u64) -> ! {
    let (tick, system) = (seen.tick, hung_name(&seen.doing));
    let place = where_in(&seen.doing);
    tracing::error!(world, "tick {tick} has not ended after {hard_millis} ms{place}: the process ends");
    // The log may be what hangs: the process ends all the same.
    let (done, durable) = sync_channel(1);
    let log = log.clone();
    let record = move || {
        let record = Record::Hung { tick, system };
        let appended = append_patiently(&log, &record, || None, || true);
        let result = appended.and_then(|lsn| log.wait_durable(lsn));
        // Nobody waits any more when it took too long.
        let _ = done.send(result.is_ok());
    };
    let started = std::thread::Builder::new().name("hung".into()).spawn(record);
    let known = started.is_ok() && durable.recv_timeout(RECORD_WAIT).unwrap_or(false);
    if !known {
        tracing::error!(world, "what hung could not be written to the log");
    }
    std::process::exit(i32::from(EXIT_HUNG))
}
