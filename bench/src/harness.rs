//! What the harnesses share: worlds of scenarios, inputs for them, and counting what went wrong.

use crate::{
    report::{Bound, Row},
    scenarios,
};
use everworld::{Plugin, Scenario, clock, worlds};
use everworld_engine::{
    InputEnvelope, LiveWorld, Options, Parallel, Pool, Tick, WorldBuilder, random::Draws,
};
use everworld_systems::WorldRecord;
use serde_json::{Value, json};
use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Pools by size: worlds take turns on them.
pub(crate) fn pool(threads: usize) -> anyhow::Result<Arc<Pool>> {
    static POOLS: Mutex<BTreeMap<usize, Arc<Pool>>> = Mutex::new(BTreeMap::new());
    let mut pools = POOLS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(pool) = pools.get(&threads) {
        return Ok(pool.clone());
    }
    let pool = Arc::new(Pool::start(threads, "tick", |_| {})?);
    pools.insert(threads, pool.clone());
    Ok(pool)
}

/// How worlds of a harness are run: always on all threads.
pub(crate) fn options(threads: usize) -> anyhow::Result<Options> {
    Ok(Options { pool: pool(threads)?, parallel: Parallel::Always, stopwatch: clock::stopwatch() })
}

/// A scenario by name, of that size and seed.
pub(crate) fn scenario(name: &str, npcs: u64, seed: u64) -> anyhow::Result<Scenario> {
    let sets = [format!("seed={seed}"), format!("population={npcs}")];
    Ok(worlds::load_scenario(name, scenarios::plugins(), &sets)?)
}

/// The record that a world of that scenario begins with.
pub(crate) fn record(name: &str, npcs: u64, seed: u64) -> anyhow::Result<WorldRecord> {
    let scenario = scenario(name, npcs, seed)?;
    Ok(WorldRecord { world: scenario.name.clone(), scenario })
}

/// The world of one plugin, canary or not, changed by `tamper` before it is built.
pub(crate) fn world_of(
    plugin: &Plugin,
    (npcs, seed): (u64, u64),
    threads: usize,
    tamper: impl FnOnce(&mut WorldBuilder),
) -> anyhow::Result<LiveWorld> {
    let sets = [format!("seed={seed}"), format!("population={npcs}")];
    let scenario = Scenario::parse(plugin.scenario, plugin.name, &sets)?;
    let mut builder = scenario.builder(std::slice::from_ref(plugin))?;
    tamper(&mut builder);
    Ok(builder.build(options(threads)?)?)
}

/// The plugin of that name.
pub(crate) fn plugin(name: &str) -> anyhow::Result<&'static Plugin> {
    let found = scenarios::plugins().iter().find(|plugin| plugin.name == name);
    found.ok_or_else(|| anyhow::anyhow!("unknown scenario \"{name}\""))
}

/// Numbers inputs and lets them come by chance, the same for the same seed: some wait for a later tick.
pub(crate) struct Inputs {
    seed: u64,
    next_seq: u64,
    /// Only the world that knows them gets any.
    churn: bool,
}

impl Inputs {
    pub(crate) fn new(plugin: &str, seed: u64) -> Self {
        Self { seed, next_seq: 1, churn: plugin == "churn" }
    }

    /// The inputs of a tick.
    pub(crate) fn of(&mut self, tick: Tick) -> Vec<InputEnvelope> {
        let mut draws = Draws::new(self.seed, tick.0, 1, 0);
        if !self.churn || draws.below(3) > 0 {
            return Vec::new();
        }
        let count = 1 + draws.below(3);
        let inputs = (0..count).map(|_| {
            let (kind, payload) = match draws.below(4) {
                0 => told_system(&mut draws),
                _ => churn_input(&mut draws, self.next_seq, 300),
            };
            let at_tick = (draws.below(3) == 0).then(|| Tick(tick.0 + u64::from(draws.below(20))));
            let payload = serde_json::to_vec(&payload).unwrap_or_default();
            self.next_seq += 1;
            InputEnvelope { seq: self.next_seq - 1, kind: kind.into(), at_tick, payload }
        });
        inputs.collect()
    }
}

/// Systems of `churn` are told to run, not to, or seldom.
fn told_system(draws: &mut Draws) -> (&'static str, Value) {
    let systems = ["look", "look", "look", "heed", "rest", "wake"];
    let system = format!("churn::{}", systems[draws.below(systems.len() as u32) as usize]);
    let payload = match draws.below(3) {
        0 => json!({"system": system, "enabled": false}),
        // What is rebuilt in each tick cannot be slow: refused, which is an outcome as any other.
        1 => json!({"system": system, "every": 1 + draws.below(3)}),
        _ => json!({"system": system, "enabled": true, "every": 1}),
    };
    ("set_system", payload)
}

/// An input for `churn` with that mark, with a text of up to so many bytes.
pub(crate) fn churn_input(draws: &mut Draws, mark: u64, bytes_max: u32) -> (&'static str, Value) {
    if draws.below(4) == 0 {
        return ("settle", json!({"mark": mark, "count": 1 + draws.below(9)}));
    }
    let bytes = 1 + draws.below(bytes_max) as usize;
    ("deliver", json!({"mark": mark, "text": text(draws, bytes)}))
}

/// A text of so many bytes that does not shrink to nothing.
pub(crate) fn text(draws: &mut Draws, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 8);
    while text.len() < bytes {
        let word = draws.u64();
        text.extend((0..8).map(|i| char::from(b'a' + ((word >> (8 * i)) & 15) as u8)));
    }
    text.truncate(bytes);
    text
}

/// Panics that nobody planted and nobody guards against, in any thread of this process.
static PANICS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static PANICS_HERE: Cell<u64> = const { Cell::new(0) };
}

/// Counts panics from now on, and prints those that are findings.
pub(crate) fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.payload();
            let text =
                text.downcast_ref::<String>().map(String::as_str).or(text.downcast_ref::<&str>().copied());
            let planted = text.is_some_and(|text| text.contains(scenarios::churn::PLANTED));
            if !planted && !everworld_persistence::panic_is_guarded() {
                PANICS.fetch_add(1, Relaxed);
                PANICS_HERE.set(PANICS_HERE.get() + 1);
                usual(info);
            }
        }));
    });
}

/// The panics so far.
pub(crate) fn panics() -> u64 {
    PANICS.load(Relaxed)
}

/// Those of this thread: of a recovery, but for what its log's thread and its pool do.
pub(crate) fn panics_here() -> u64 {
    PANICS_HERE.get()
}

/// What must never be: a row of 0 that is met, or missed.
pub(crate) fn none(case: &str, what: &str, count: u64, unit: &'static str) -> Row {
    Row::bounded(case, what, count as f64, unit, Bound::AtMost(0.0))
}

/// What must have happened, or the harness has not tested it.
pub(crate) fn some(case: &str, what: &str, count: u64, unit: &'static str) -> Row {
    Row::bounded(case, what, count as f64, unit, Bound::AtLeast(1.0))
}
