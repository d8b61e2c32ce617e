//! Why an entity did what it did: one tick, node after node, with the reasons that systems give.
//!
//! Nothing is recorded in advance: who wants to know brings back the world before the tick and runs it again with
//! [`LiveWorld::tick_explained`](crate::LiveWorld::tick_explained). In ordinary ticks [`explain!`](crate::explain!)
//! is a load and a branch, its text is never made, and neither can influence state (W2). Deliberately absent:
//! finding the world before the tick, and showing what came out.

use crate::{
    effects::{SharedRegistry, UidIndex},
    ids::Uid,
    input::{InputEnvelope, InputError, Outcome},
    plan::{NodeKind, Plan},
    pool::Pool,
    raw::{Executor, Failure, HowToRun},
};
use bevy_ecs::world::World;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    cell::RefCell,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// The components of an entity as JSON, by name.
pub type EntityRow = serde_json::Map<String, Value>;

/// One step of a tick, as far as it is about the watched entity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What ran.
    #[serde(flatten)]
    pub kind: StepKind,
    /// Why, in the words of what ran.
    pub reasons: Vec<String>,
    /// The entity before; none when it was not there.
    pub before: Option<EntityRow>,
    /// The entity after; none when it is gone.
    pub after: Option<EntityRow>,
}

/// What ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum StepKind {
    /// An input was applied.
    Input {
        /// Its number.
        seq: u64,
        /// Its kind.
        kind: String,
        /// What it says.
        payload: Value,
        /// Why it was not applied, if so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rejected: Option<String>,
    },
    /// A timer of the entity was due.
    Timer {
        /// Its kind.
        kind: u32,
    },
    /// A node of the plan ran.
    Node {
        /// Its name.
        system: String,
        /// Its phase.
        phase: String,
        /// What it is.
        kind: NodeKind,
        /// What of the entity it may write.
        writes: Vec<String>,
    },
}

impl Step {
    /// Whether the entity is another after it.
    pub fn changes(&self) -> bool {
        self.before != self.after
    }
}

/// Says why something is done to an entity, for who asks about it: `explain!(uid, "hungry: {hunger:.2}")`.
///
/// The arguments are evaluated only while that entity is watched: they must do nothing but say.
#[macro_export]
macro_rules! explain {
    ($uid:expr, $($text:tt)+) => {
        if $crate::explain::is_on() && $crate::explain::is_watched($uid) {
            $crate::explain::say(format!($($text)+));
        }
    };
}

/// How many explained ticks are running in this process: almost always none.
static RUNNING: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// What this thread watches. Only the one thread of an explained tick watches anything.
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

struct Watch {
    uid: Uid,
    said: Vec<String>,
    steps: Vec<Step>,
}

/// Whether anybody is watched: the only thing that ordinary ticks look at.
#[inline]
pub fn is_on() -> bool {
    RUNNING.load(Relaxed) != 0
}

/// Whether that entity is watched on this thread.
#[cold]
pub fn is_watched(uid: Uid) -> bool {
    with(|watch| watch.uid == uid).unwrap_or(false)
}

/// Which of these rows is the watched one: what a tight loop asks once, outside of it.
#[inline]
pub fn row(uids: &[Uid]) -> Option<usize> {
    if is_on() { uids.iter().position(|uid| is_watched(*uid)) } else { None }
}

/// A reason for the current step. Use [`explain!`](crate::explain!).
#[cold]
pub fn say(text: String) {
    with(|watch| watch.said.push(text));
}

fn with<R>(body: impl FnOnce(&mut Watch) -> R) -> Option<R> {
    WATCH.with_borrow_mut(|watch| watch.as_mut().map(body))
}

/// Counts as running until it is dropped.
struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Relaxed);
    }
}

/// Runs a body on a thread of its own that watches the entity; rows then run on that thread too, so that whatever is
/// said is said there, and nothing of another world's tick.
pub(crate) fn watch<R: Send>(uid: Uid, body: impl FnOnce() -> R + Send) -> std::io::Result<(Vec<Step>, R)> {
    let pool = Pool::start(1, "explain", |_| {})?;
    Ok(pool.install(|| {
        WATCH.set(Some(Watch { uid, said: Vec::new(), steps: Vec::new() }));
        RUNNING.fetch_add(1, Relaxed);
        let running = Running;
        let result = body();
        drop(running);
        (WATCH.take().map_or_else(Vec::new, |watch| watch.steps), result)
    }))
}

/// Whether the tick on this thread is explained.
pub(crate) fn is_explained() -> bool {
    is_on() && with(|_| ()).is_some()
}

/// The watched entity as it is now: before a step that [`input_applied`] tells of.
pub(crate) fn look(world: &World) -> Option<EntityRow> {
    if is_on() { current(world) } else { None }
}

/// Notes an input that did something to the watched entity, or names it.
pub(crate) fn input_applied(
    world: &World,
    before: Option<EntityRow>,
    input: &InputEnvelope,
    outcome: &Result<Outcome, InputError>,
) {
    if !is_explained() {
        return;
    }
    let payload: Value = serde_json::from_slice(&input.payload).unwrap_or(Value::Null);
    let kind = StepKind::Input {
        seq: input.seq,
        kind: input.kind.clone(),
        rejected: outcome.as_ref().err().map(ToString::to_string),
        payload: payload.clone(),
    };
    let after = current(world);
    with(|watch| {
        let reasons = std::mem::take(&mut watch.said);
        if before != after || !reasons.is_empty() || names(&payload, watch.uid) {
            watch.steps.push(Step { kind, reasons, before, after });
        }
    });
}

/// Whether a Uid, a decimal number in a string, stands anywhere in a document.
fn names(value: &Value, uid: Uid) -> bool {
    match value {
        Value::String(text) => text.parse() == Ok(uid.get()),
        Value::Array(items) => items.iter().any(|item| names(item, uid)),
        Value::Object(members) => members.values().any(|member| names(member, uid)),
        _ => false,
    }
}

/// Notes the timers of the watched entity that are due.
pub(crate) fn timers_due(world: &World, due: &[(Uid, u32)]) {
    if !is_explained() {
        return;
    }
    let row = current(world);
    with(|watch| {
        for (_, kind) in due.iter().filter(|(uid, _)| *uid == watch.uid) {
            let kind = StepKind::Timer { kind: *kind };
            watch.steps.push(Step { kind, reasons: Vec::new(), before: row.clone(), after: row.clone() });
        }
    });
}

/// Runs the nodes of a tick in total order, and notes each that may write the watched entity, or speaks of it.
pub(crate) fn run_nodes(
    executor: &mut Executor,
    world: &mut World,
    plan: &Plan,
    how: HowToRun,
) -> Result<(), Failure> {
    let mut before = current(world);
    for (at, node) in plan.nodes.iter().enumerate() {
        let ran = executor.run_one(world, at, how);
        if matches!(ran, Ok(false)) {
            continue;
        }
        let after = current(world);
        let has = |column: &&String| {
            [&before, &after].into_iter().flatten().any(|row| row.contains_key(column.as_str()))
        };
        let writes: Vec<String> = node.writes.iter().filter(has).cloned().collect();
        let may_write = !writes.is_empty() || node.kind == NodeKind::Exclusive;
        with(|watch| {
            let reasons = std::mem::take(&mut watch.said);
            if may_write || before != after || !reasons.is_empty() {
                let (system, phase, kind) = (node.name.clone(), node.phase.clone(), node.kind);
                let kind = StepKind::Node { system, phase, kind, writes };
                watch.steps.push(Step { kind, reasons, before: before.clone(), after: after.clone() });
            }
        });
        ran?;
        before = after;
    }
    Ok(())
}

/// The watched entity as it is in the world.
fn current(world: &World) -> Option<EntityRow> {
    row_of(world, with(|watch| watch.uid)?)
}

/// An entity as it is in the world.
pub(crate) fn row_of(world: &World, uid: Uid) -> Option<EntityRow> {
    let entity = world.resource::<UidIndex>().get(uid)?;
    let registry = world.resource::<SharedRegistry>().0.clone();
    let component = |(_, column): (usize, &crate::registry::ColumnInfo)| {
        (column.row_of)(world, entity).map(|row| (column.name.to_owned(), column.to_json(&row)))
    };
    Some(registry.components().filter_map(component).collect())
}
