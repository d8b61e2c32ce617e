//! The figures that worlds of a kind are measured by, taken from a view from time to time: a series for whoever asks, and
//! the last ones as metrics.
//!
//! Taken by a thread that has the CPU only when nobody else wants it (T4), of what may be seen outside (D2). No figure is
//! state, and none reaches a tick.

use crate::{
    host::WorldHandle,
    pool,
    ring::{Ring, Weigh},
};
use everworld_engine::{Image, Tick};
use everworld_systems::Statistic;
use serde_json::{Map, Value, json};
use std::{
    io,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

/// The last samples of a world.
pub type Samples = Ring<Sample>;

/// So many samples of each world are kept (L1).
pub const SAMPLES_KEPT: usize = 4_096;

/// The figures of a state.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The line of history.
    pub branch: u32,
    /// Of which tick.
    pub tick: Tick,
    /// The figures.
    pub statistics: Vec<Statistic>,
}

impl Weigh for Sample {}

impl Sample {
    /// As answers have it.
    pub fn to_json(&self, number: u64) -> Value {
        let figure = |statistic: &Statistic| (statistic.name.to_owned(), json!(statistic.value));
        let statistics: Map<String, Value> = self.statistics.iter().map(figure).collect();
        json!({
            "id": format!("{}.{number}", self.tick), "tick": self.tick, "branch": self.branch,
            "statistics": statistics,
        })
    }
}

/// What measures a state.
pub(crate) type Measure = fn(&Image) -> Vec<Statistic>;

/// A view is waited for so long: the mirror of a large world is a second behind.
const VIEW_WAIT: Duration = Duration::from_secs(3);
/// Between two looks for it.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// A thread that measures a world until this is dropped.
pub(crate) struct Statistician {
    _wake: Sender<()>,
}

impl Statistician {
    /// Starts one that measures so often.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(crate) fn start(world: WorldHandle, measure: Measure, pause: Duration) -> io::Result<Self> {
        let (wake, woken) = channel::<()>();
        let body = move || {
            pool::idle();
            let mut last = None;
            loop {
                if let Some(sample) = sample(&world, measure, last) {
                    last = Some((sample.branch, sample.tick));
                    world.status.statistics.push(sample);
                }
                // Nobody sends: it is over when the other end is gone.
                if woken.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("statistics".into()).spawn(body)?;
        Ok(Self { _wake: wake })
    }
}

/// The figures of the newest view; none when that was measured already.
fn sample(world: &WorldHandle, measure: Measure, last: Option<(u32, Tick)>) -> Option<Sample> {
    let mirror = &world.running()?.mirror;
    let end = Instant::now() + VIEW_WAIT;
    let wanted = if mirror.ask() { mirror.shown().map(|shown| shown.tick) } else { None };
    loop {
        let (shown, view) = world.shown_with(|| mirror.peek());
        let is_new = view.as_ref().is_some_and(|view| wanted.is_none_or(|wanted| view.tick >= wanted));
        if is_new || Instant::now() >= end {
            let view: Arc<Image> = view?;
            let of = (shown.branch, view.tick);
            return (last != Some(of)).then(|| Sample {
                branch: of.0,
                tick: of.1,
                statistics: measure(&view),
            });
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}
