//! Questions about a world's past, and their answers as documents: what the command line and HTTP have in common.
//!
//! They work on a [`History`]: that of a running world, or of a stopped one that is only read. A tick of the past is
//! computed again from its nearest snapshot, so an answer may take long; who asks says when it is no longer wanted.

mod diff;
mod verify;

pub use diff::{FieldDifference, ImageDiff, ItemDiff, diff_images};
pub use verify::{Mismatch, Verified, VerifyOptions};

use crate::{
    history::{Branches, History, Timeline},
    spine::{SpineError, chain, hex},
};
use everworld_engine::{
    Image, LiveWorld, Options, Registry, StateHash, Tick, TickError, Uid,
    column::value_as_written,
    explain::{EntityRow, Step, StepKind},
    migrate_image,
    query::{Filter, Select},
};
use everworld_persistence::{Retention, SnapshotMeta};
use everworld_systems::{Story, chronicle::ChronicleError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::ControlFlow,
    str::FromStr,
    sync::Arc,
};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// It was asked wrongly.
    #[error("{0}")]
    Wrong(String),
    /// There is no such thing.
    #[error("{0}")]
    Unknown(String),
    /// It was there once, and is not kept.
    #[error("{0}")]
    Gone(String),
    /// The past cannot be brought back, or not as it was.
    #[error("{}", chain(.0))]
    World(#[from] SpineError),
}

/// A tick of some line of history, as people write it: `1200`, `0/1200` with the branch, `now`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// The line; without one, that which goes on.
    pub branch: Option<u32>,
    /// The tick; without one, the newest.
    pub tick: Option<Tick>,
}

impl At {
    /// A tick of the line that goes on.
    pub fn tick(tick: u64) -> Self {
        Self { branch: None, tick: Some(Tick(tick)) }
    }
}

impl From<ChronicleError> for AskError {
    fn from(error: ChronicleError) -> Self {
        Self::Unknown(error.to_string())
    }
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("\"{text}\" is no tick: expected 1200, 0/1200 with the branch before it, or now");
        let (branch, tick) = match text.split_once('/') {
            Some((branch, tick)) => (Some(branch.parse().map_err(|_| wrong())?), tick),
            None => (None, text),
        };
        let tick = if tick == "now" { None } else { Some(Tick(tick.parse().map_err(|_| wrong())?)) };
        Ok(Self { branch, tick })
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(branch) = self.branch {
            write!(f, "{branch}/")?;
        }
        match self.tick {
            Some(tick) => write!(f, "{tick}"),
            None => write!(f, "now"),
        }
    }
}

/// Whether an answer is still wanted.
pub type Wanted = Arc<dyn Fn() -> bool + Send + Sync>;

/// Answers questions about one world.
#[derive(Clone)]
pub struct Questions {
    /// Its past.
    pub history: History,
    /// Its newest tick that may be seen, with its line of history.
    pub newest: (u32, Tick),
    /// How ticks are computed again.
    pub options: Options,
    /// Asked between two ticks.
    pub wanted: Wanted,
}

type Answer = Result<Value, AskError>;

/// An entity's history looks at so many snapshots at the most.
const HISTORY_SNAPSHOTS_MAX: usize = 256;

impl Questions {
    /// The line and the tick that are meant.
    pub fn place(&self, at: At) -> Result<(u32, Tick), AskError> {
        let branches = self.lines();
        let current = branches.current();
        let branch = at.branch.unwrap_or(current);
        let known: BTreeSet<u32> = branches.0.iter().map(|info| info.branch).chain([0]).collect();
        if !known.contains(&branch) {
            let known: Vec<_> = known.iter().map(u32::to_string).collect();
            let known = known.join(", ");
            return Err(AskError::Unknown(format!(
                "world \"{}\" has no branch {branch}; branches: {known}",
                self.history.world
            )));
        }
        let tick = at.tick.unwrap_or(if branch == current { self.newest.1 } else { Tick(u64::MAX) });
        let tick = if tick == Tick(u64::MAX) { self.end_of(branch) } else { tick };
        let last = self.end_of(branch);
        if tick > last {
            return Err(self.not_yet(branch, tick, last));
        }
        Ok((branch, tick))
    }

    /// The lines of history up to that of the newest tick: a rewind may have begun another one meanwhile.
    pub(crate) fn lines(&self) -> Branches {
        let mut branches = self.history.branches();
        branches.0.retain(|info| info.branch <= self.newest.0);
        branches
    }

    /// The last tick of a line that was left.
    fn end_of(&self, branch: u32) -> Tick {
        self.lines().end(branch).unwrap_or(self.newest.1)
    }

    fn not_yet(&self, branch: u32, tick: Tick, last: Tick) -> AskError {
        let world = &self.history.world;
        AskError::Unknown(format!(
            "tick {tick} has not been on branch {branch} of world \"{world}\"; the last one is {last}"
        ))
    }

    fn begin(
        &self,
        branch: u32,
        tick: Tick,
    ) -> Result<(LiveWorld, Timeline, Option<SnapshotMeta>), AskError> {
        self.history.begin_before(branch, tick, &self.options).map_err(|error| match error {
            SpineError::NotKept { .. } => AskError::Gone(format!(
                "tick {tick} of branch {branch} of world \"{}\" is not kept any more; kept is {}",
                self.history.world,
                self.kept(branch)
            )),
            error => error.into(),
        })
    }

    /// What is kept of a line, in words.
    fn kept(&self, branch: u32) -> String {
        match self.oldest(branch) {
            Tick(0) => "nothing of it".into(),
            oldest => format!("what comes from tick {oldest} on"),
        }
    }

    /// The world at a tick, and how it goes on.
    pub fn world_at(&self, (branch, tick): (u32, Tick)) -> Result<(LiveWorld, Timeline), AskError> {
        let (mut live, mut timeline, _) = self.begin(branch, tick)?;
        let from = live.now();
        let mut visit =
            |_: &LiveWorld| if (self.wanted)() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        self.history.replay(&mut timeline, &mut live, tick, &mut visit)?;
        self.history.confirm(&timeline, from, tick).map_err(|error| match error {
            SpineError::NotKept { .. } => AskError::Gone(crate::spine::chain(&error)),
            error => error.into(),
        })?;
        Ok((live, timeline))
    }

    /// The state at a tick in this build's schema: as a snapshot has it, else computed again.
    pub fn image_at(&self, place: (u32, Tick)) -> Result<(Arc<Image>, Arc<Registry>), AskError> {
        let on = self.history.branches().resolve(place.0, place.1);
        let snapshots = self.history.snapshots();
        let exact = snapshots.iter().find(|meta| (meta.branch, meta.tick) == (on, place.1));
        if let Some(meta) = exact
            && let Ok(found) = self.kept_image(meta)
        {
            return Ok(found);
        }
        let (live, _) = self.world_at(place)?;
        Ok((Arc::new(live.image()), live.registry().clone()))
    }

    /// The state of a snapshot in this build's schema, verified.
    pub(crate) fn kept_image(&self, meta: &SnapshotMeta) -> Result<(Arc<Image>, Arc<Registry>), AskError> {
        let registry = self.registry()?;
        let image = self.history.stored(meta)?;
        if image.compute_hash() != meta.hash || image.hash != meta.hash {
            let detail = "its state has another hash than its header".into();
            let world = self.history.world.clone();
            return Err(SpineError::NotKept { world, tick: meta.tick, detail }.into());
        }
        let world = self.history.world.clone();
        let migrated = migrate_image(&registry, image).map_err(|source| SpineError::Schema { world, source });
        Ok((Arc::new(migrated?.0), registry))
    }

    /// What can be told of worlds of its kind.
    ///
    /// # Errors
    /// Where nothing can.
    pub fn story(&self) -> Result<Story, AskError> {
        let kind = &self.history.record()?.scenario.plugin;
        let plugin = self.history.plugins.iter().find(|plugin| plugin.name == *kind);
        let none = || AskError::Unknown(format!("nothing is told of worlds of the kind \"{kind}\""));
        plugin.and_then(|plugin| plugin.story).ok_or_else(none)
    }

    /// What the world is made of, under this build.
    pub fn registry(&self) -> Result<Arc<Registry>, AskError> {
        Ok(self.history.build(self.history.record()?, &self.options)?.registry().clone())
    }

    /// A tick: which, its hash, how many live in it; with `uid` that entity, with a query those that match.
    pub fn inspect(&self, at: At, uid: Option<Uid>, query: Option<&Filter>, limit: usize) -> Answer {
        let place = self.place(at)?;
        let (image, registry) = self.image_at(place)?;
        inspect(&self.history.world, place, &image, &registry, uid, query, limit)
    }

    /// The kept snapshots, newest first.
    pub fn snapshots(&self) -> Value {
        let snapshots = self.history.store.snapshots();
        let items: Vec<Value> = snapshots.kept.iter().map(snapshot_document).collect();
        let damaged = snapshots.damaged.iter().map(|error| chain(error));
        let damaged: Vec<String> = self.history.damaged.iter().cloned().chain(damaged).collect();
        json!({"world": self.history.world, "items": items, "next": null, "damaged": damaged})
    }

    /// The lines of history.
    pub fn branches(&self) -> Value {
        let branches = self.lines();
        let current = branches.current();
        let mut items = vec![json!({"branch": 0, "parent": null, "from_tick": 0, "current": current == 0})];
        items.extend(branches.0.iter().map(|info| {
            json!({
                "branch": info.branch, "parent": info.parent, "from_tick": info.tick,
                "floor_seq": info.floor_seq, "current": info.branch == current,
            })
        }));
        json!({"world": self.history.world, "current": current, "tick": self.newest.1, "items": items})
    }

    /// One entity over time: at the kept snapshots, or at each tick at which it became another.
    pub fn entity_history(&self, uid: Uid, from: At, to: At, exact: bool) -> Answer {
        let (branch, to) = self.place(to)?;
        let from = from.tick.unwrap_or_default();
        if from > to {
            return Err(AskError::Wrong(format!("from: tick {from} comes after tick {to}")));
        }
        let mut items: Vec<Value> = Vec::new();
        let mut known: Option<Option<EntityRow>> = None;
        let mut looked = 0u64;
        let mut note = |tick: Tick, row: Option<EntityRow>| {
            looked += 1;
            let changed: Vec<FieldChange> = match &known {
                None => Vec::new(),
                Some(before) => changes(before.as_ref(), row.as_ref()),
            };
            let is_news = known.as_ref().is_none_or(|before| *before != row);
            // Before its birth there is nothing to tell.
            if is_news && (row.is_some() || known.is_some()) {
                items.push(json!({"tick": tick, "components": row, "changes": changed}));
            }
            if row.is_some() || known.is_some() {
                known = Some(row);
            }
        };
        if exact {
            let begin = self.place(At { branch: Some(branch), tick: Some(from) })?;
            let (mut live, mut timeline) = self.world_at(begin)?;
            let mut visit = |live: &LiveWorld| {
                note(live.now(), live.entity(uid));
                if (self.wanted)() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            self.history.replay(&mut timeline, &mut live, to, &mut visit)?;
        } else {
            let branches = self.history.branches();
            let mut snapshots = self.history.snapshots();
            snapshots.retain(|meta| {
                meta.tick >= from && branches.on_the_way((meta.branch, meta.tick), (branch, to))
            });
            snapshots.sort_by_key(|meta| (meta.tick, meta.branch));
            // Evenly spaced where there are too many.
            let every = snapshots.len().div_ceil(HISTORY_SNAPSHOTS_MAX).max(1);
            let last = snapshots.len().saturating_sub(1);
            let looked = snapshots.iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last);
            for (_, meta) in looked {
                if !(self.wanted)() {
                    return Err(SpineError::Interrupted.into());
                }
                // One that is damaged is told of in the list of snapshots.
                let Ok((image, registry)) = self.kept_image(meta) else { continue };
                note(meta.tick, image_row(&image, &registry, uid));
            }
            // How it ends is told also where no snapshot is.
            if snapshots.last().is_none_or(|meta| meta.tick < to) {
                note(to, self.world_at((branch, to))?.0.entity(uid));
            }
        }
        if items.is_empty() {
            return Err(AskError::Unknown(format!(
                "nobody has Uid {uid} {} from tick {from} to {to} on branch {branch}",
                if exact { "in the ticks" } else { "in the kept snapshots" }
            )));
        }
        Ok(json!({
            "world": self.history.world, "branch": branch, "uid": uid.to_string(), "from": from, "to": to,
            "exact": exact, "looked_at": looked, "items": items,
        }))
    }

    /// One tick again, step by step, and what each did to one entity.
    pub fn why(&self, uid: Uid, at: At) -> Result<Explained, AskError> {
        let (branch, tick) = self.place(at)?;
        if tick.0 == 0 {
            let text = "tick 0 is the world as it was created; systems run from tick 1";
            return Err(AskError::Wrong(format!("tick: {text}")));
        }
        let (mut live, mut timeline) = self.world_at((branch, Tick(tick.0 - 1)))?;
        let inputs = timeline.prepare(&mut live)?;
        let (steps, result) = live.tick_explained(&inputs, uid);
        if result.is_ok() && live.entity(uid).is_none() && steps.iter().all(|step| step.before.is_none()) {
            return Err(unknown(&live, uid, tick));
        }
        Ok(Explained {
            world: self.history.world.clone(),
            branch,
            tick,
            uid,
            name: name(&steps),
            state_hash: result.is_ok().then(|| live.state_hash()),
            failed: result.as_ref().err().map(TickError::to_string),
            steps: steps.into_iter().map(Told::of).collect(),
        })
    }
}

/// How long a world keeps old snapshots, as a document.
pub fn retention(world: &str, retention: Retention) -> Value {
    let Retention { dense_secs, sparse_every_secs, keep_secs } = retention;
    json!({
        "world": world, "dense_secs": dense_secs, "sparse_every_secs": sparse_every_secs, "keep_secs": keep_secs,
    })
}

/// What is wrong with times: the fields, and why. The bounds are those of the configuration's keys.
pub fn retention_faults(retention: &Retention) -> Vec<(&'static str, String)> {
    let Retention { dense_secs, sparse_every_secs, keep_secs } = *retention;
    let bounded = [
        ("dense_secs", dense_secs, 0..=31_536_000),
        ("sparse_every_secs", sparse_every_secs, 1..=31_536_000),
        ("keep_secs", keep_secs, 0..=3_153_600_000),
    ];
    let wrong = bounded.into_iter().filter(|(_, found, range)| !range.contains(found));
    let told = wrong.map(|(field, found, range)| {
        (field, format!("expected {} to {} seconds, found {found}", range.start(), range.end()))
    });
    told.collect()
}

/// What a tick comes to, as a document.
pub fn inspect(
    world: &str,
    (branch, tick): (u32, Tick),
    image: &Image,
    registry: &Arc<Registry>,
    uid: Option<Uid>,
    query: Option<&Filter>,
    limit: usize,
) -> Answer {
    let mut answer = json!({
        "world": world,
        "branch": branch,
        "tick": tick,
        "state_hash": image.hash,
        "entities": image.entities(),
    });
    if let Some(uid) = uid {
        let row = image_row(image, registry, uid)
            .ok_or_else(|| AskError::Unknown(format!("nobody has Uid {uid} at tick {tick}")))?;
        answer["entity"] = json!({"uid": uid.to_string(), "components": row});
    }
    if let Some(query) = query {
        let query = query.bind(registry).map_err(|error| AskError::Wrong(error.to_string()))?;
        let (found, _) = query.page(image, None, None, limit);
        let select = Select::default();
        let items: Vec<_> = found.iter().map(|found| select.entity(image, registry, found)).collect();
        answer["matched"] = query.count(image).into();
        answer["items"] = value_as_written(&items);
    }
    Ok(answer)
}

/// An entity of an image.
pub fn image_row(image: &Image, registry: &Registry, uid: Uid) -> Option<EntityRow> {
    let (table, row) = image.find(uid)?;
    Some(image.entity_row(registry, table, row))
}

/// The name of a snapshot in paths.
pub fn snapshot_id(meta: &SnapshotMeta) -> String {
    format!("{}-{}", meta.branch, meta.tick)
}

pub(crate) fn snapshot_document(meta: &SnapshotMeta) -> Value {
    json!({
        "id": snapshot_id(meta), "branch": meta.branch, "tick": meta.tick, "state_hash": meta.hash,
        "entities": meta.entities, "applied_seq": meta.applied_seq, "unix_millis": meta.unix_millis,
        "build_id": hex(meta.build_id),
    })
}

/// A tick that was told again.
#[derive(Serialize, Deserialize)]
pub struct Explained {
    /// The world.
    pub world: String,
    /// The line of history.
    pub branch: u32,
    /// The tick.
    pub tick: Tick,
    /// Whose.
    pub uid: Uid,
    /// What it is called, if it has a column `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The state after the tick.
    pub state_hash: Option<StateHash>,
    /// Why the tick failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// What ran.
    pub steps: Vec<Told>,
}

/// A step with what it changed.
#[derive(Serialize, Deserialize)]
pub struct Told {
    /// The step.
    #[serde(flatten)]
    pub step: Step,
    /// The fields that are others after it.
    pub changes: Vec<FieldChange>,
}

/// A field that is another after a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Its path: `needs.hunger`.
    pub field: String,
    /// Before; none when it was not there.
    pub before: Option<Value>,
    /// After; none when it is gone.
    pub after: Option<Value>,
}

impl Told {
    fn of(step: Step) -> Self {
        Self { changes: changes(step.before.as_ref(), step.after.as_ref()), step }
    }

    /// The name of a step that had nothing to say and changed nothing.
    pub fn quiet(&self) -> Option<&str> {
        match &self.step.kind {
            StepKind::Node { system, .. } if self.changes.is_empty() && self.step.reasons.is_empty() => {
                (self.step.before.is_some() == self.step.after.is_some()).then_some(system)
            }
            _ => None,
        }
    }
}

/// The fields of an entity that are others.
pub(crate) fn changes(before: Option<&EntityRow>, after: Option<&EntityRow>) -> Vec<FieldChange> {
    let leaves = |row: Option<&EntityRow>| {
        let mut leaves = BTreeMap::new();
        row.into_iter().flatten().for_each(|(column, value)| flatten(column.clone(), value, &mut leaves));
        leaves
    };
    let (before, after) = (leaves(before), leaves(after));
    let fields: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changed = fields.into_iter().filter(|field| before.get(*field) != after.get(*field));
    changed
        .map(|field| FieldChange {
            field: field.clone(),
            before: before.get(field).cloned(),
            after: after.get(field).cloned(),
        })
        .collect()
}

/// The leaves of a document by their paths: `needs.hunger`, `slots.3.subject`.
pub(crate) fn flatten(path: String, value: &Value, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            members.iter().for_each(|(name, value)| flatten(format!("{path}.{name}"), value, leaves));
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(i, value)| flatten(format!("{path}.{i}"), value, leaves));
        }
        leaf => {
            leaves.insert(path, leaf.clone());
        }
    }
}

/// Why nobody has that Uid.
fn unknown(live: &LiveWorld, uid: Uid, tick: Tick) -> AskError {
    let image = live.image();
    let counter = live.registry().resources().iter().find(|resource| resource.name == "uids");
    let next = counter.zip(image.resource("uids")).map(|(kind, stored)| (kind.to_json)(&stored.bytes));
    let next = next.and_then(|value| value["next"].as_u64()).unwrap_or(0);
    if uid.get() == 0 || uid.get() >= next {
        let newest = next.saturating_sub(1);
        AskError::Unknown(format!("--uid: nobody has Uid {uid} yet at tick {tick}; the newest is {newest}"))
    } else {
        AskError::Unknown(format!("--uid: who had Uid {uid} is gone before tick {tick}"))
    }
}

/// What an entity is called, if it has a column `name`.
fn name(steps: &[Step]) -> Option<String> {
    let rows = steps.iter().flat_map(|step| [&step.after, &step.before]).flatten();
    let mut names = rows.filter_map(|row| row.get("name")?.get("name")?.as_str());
    names.next().map(str::to_owned)
}

/// Puts members to an object.
pub(crate) fn extended(mut base: Value, more: Map<String, Value>) -> Value {
    if let Some(members) = base.as_object_mut() {
        members.extend(more);
    }
    base
}
