//! What happens in a world, told when it may be seen outside (D2): ticks, what became of inputs, who came and who went,
//! long work, snapshots, systems that are left out, what somebody should look at, and what systems emit.

use crate::{
    ring::{Ring, Weigh},
    status::WorldState,
};
use everworld_engine::{EventBatch, InputError, Lives, Outcome, Tick, Uid};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{ops::Range, sync::Arc};

/// The last events of a world.
pub type Events = Ring<Event>;

/// Events of each world are kept up to this weight together (L1).
pub const EVENTS_KEPT: usize = 65_536;

/// What an event weighs beside one of those that systems emit.
const PLAIN_WEIGHT: usize = 16;

/// So many of those that systems emit are one member of the ring at most.
const TOGETHER: usize = 512;

/// What an event is about, but for those that systems emit: their topic is their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// A tick was shown; those between two of them too, when ticks come faster than syncs.
    Tick,
    /// An input was applied or rejected.
    Input,
    /// Entities came or went.
    Entity,
    /// Work beside the ticks takes long, or has come to its end.
    Job,
    /// A snapshot was written.
    Snapshot,
    /// A system is left out.
    System,
    /// The world is in another state.
    State,
    /// Somebody should look.
    Alert,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Tick,
        Self::Input,
        Self::Entity,
        Self::Job,
        Self::Snapshot,
        Self::System,
        Self::State,
        Self::Alert,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tick => "tick",
            Self::Input => "input",
            Self::Entity => "entity",
            Self::Job => "job",
            Self::Snapshot => "snapshot",
            Self::System => "system",
            Self::State => "state",
            Self::Alert => "alert",
        }
    }
}

/// An event.
#[derive(Clone, Debug)]
pub struct Event {
    /// The line of history.
    pub branch: u32,
    /// The newest tick that was shown.
    pub tick: Tick,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "see the topics")]
pub enum What {
    Tick { entities: usize },
    Input { seq: u64, outcome: Result<Outcome, InputError> },
    Entity { lives: Box<Lives> },
    Job { id: u64, kind: &'static str, state: &'static str },
    Snapshot { branch: u32, tick: Tick },
    System { fix: String },
    State { state: WorldState, reason: Option<String> },
    Alert { what: String },
    Happened(Happened),
}

/// Some of what systems emitted of one kind in one tick.
#[derive(Clone, Debug)]
pub struct Happened {
    tick: Tick,
    batch: Arc<EventBatch>,
    rows: Range<usize>,
}

impl Happened {
    /// A tick's events of a kind, cut into members of the ring.
    pub fn cut(tick: Tick, batch: EventBatch) -> impl Iterator<Item = Self> {
        let batch = Arc::new(batch);
        (0..batch.len()).step_by(TOGETHER).map(move |first| {
            let rows = first..batch.len().min(first + TOGETHER);
            Self { tick, batch: batch.clone(), rows }
        })
    }

    /// The tick in which it happened.
    pub fn tick(&self) -> Tick {
        self.tick
    }

    /// How many events it is.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True for none: never, as it is cut.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Event {
    /// What it is about.
    pub fn topic(&self) -> &'static str {
        let topic = match &self.what {
            What::Tick { .. } => Topic::Tick,
            What::Input { .. } => Topic::Input,
            What::Entity { .. } => Topic::Entity,
            What::Job { .. } => Topic::Job,
            What::Snapshot { .. } => Topic::Snapshot,
            What::System { .. } => Topic::System,
            What::State { .. } => Topic::State,
            What::Alert { .. } => Topic::Alert,
            What::Happened(happened) => return happened.batch.info.name,
        };
        topic.name()
    }

    /// Whether it is about that entity; of several together, whether one may be.
    pub fn is_about(&self, uid: Uid) -> bool {
        match &self.what {
            What::Input { outcome: Ok(outcome), .. } => outcome.created.contains(&uid),
            What::Entity { lives } => lives.born.contains(&uid) || lives.gone.contains(&uid),
            What::Happened(_) => true,
            _ => false,
        }
    }

    /// As answers have it: one, or of several together those after the first `skip` that are about `entity`.
    pub fn to_json(&self, number: u64, skip: usize, entity: Option<Uid>) -> Vec<Value> {
        let What::Happened(Happened { tick, batch, rows }) = &self.what else {
            return vec![self.one_to_json(number)];
        };
        let is_wanted = |index: &usize| entity.is_none_or(|uid| batch.is_about(rows.start + index, uid));
        let event = |index: usize| {
            let (about, event) = batch.to_json(rows.start + index);
            let mut value = json!({
                "id": format!("{tick}.{number}.{index}"), "tick": tick, "branch": self.branch,
                "topic": batch.info.name, "entity": about, "event": event,
            });
            // What is not told is said once, with the last one.
            let dropped = batch.count - batch.len() as u64;
            if dropped > 0 && rows.start + index + 1 == batch.len() {
                value["dropped"] = dropped.into();
            }
            value
        };
        (skip..rows.len()).filter(is_wanted).map(event).collect()
    }

    fn one_to_json(&self, number: u64) -> Value {
        let mut event = json!({
            "id": format!("{}.{number}", self.tick), "tick": self.tick, "branch": self.branch, "topic": self.topic(),
        });
        match &self.what {
            What::Tick { entities } => event["entities"] = (*entities).into(),
            What::Input { seq, outcome } => {
                event["seq"] = (*seq).into();
                match outcome {
                    Ok(outcome) => event["created"] = json!(outcome.created),
                    Err(error) => event["rejected"] = error.to_string().into(),
                }
            }
            What::Entity { lives } => {
                event["born"] = json!(lives.born);
                event["born_count"] = lives.born_count.into();
                event["gone"] = json!(lives.gone);
                event["gone_count"] = lives.gone_count.into();
            }
            What::Job { id, kind, state } => {
                event["job"] = id.to_string().into();
                event["kind"] = (*kind).into();
                event["state"] = (*state).into();
                event["location"] = format!("/v1/history/{id}").into();
            }
            What::Snapshot { branch, tick } => event["snapshot"] = format!("{branch}-{tick}").into(),
            What::System { fix } => event["detail"] = fix.as_str().into(),
            What::State { state, reason } => {
                event["state"] = json!(state);
                event["detail"] = json!(reason);
            }
            What::Alert { what } => event["detail"] = what.as_str().into(),
            What::Happened(_) => unreachable!("it is told one by one"),
        }
        event
    }
}

impl Weigh for Event {
    fn weight(&self) -> usize {
        match &self.what {
            What::Happened(happened) => happened.len(),
            _ => PLAIN_WEIGHT,
        }
    }
}
