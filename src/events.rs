//! What happens in a world, told when it may be seen outside (D2): ticks, what became of inputs, who came and who went,
//! long work, snapshots, systems that are left out, and what somebody should look at.

use crate::{ring::Ring, status::WorldState};
use everworld_engine::{InputError, Lives, Outcome, Tick, Uid};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The last events of a world.
pub type Events = Ring<Event>;

/// So many events of each world are kept (L1).
pub const EVENTS_KEPT: usize = 4_096;

/// What an event is about.
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
}

impl Event {
    /// What it is about.
    pub fn topic(&self) -> Topic {
        match self.what {
            What::Tick { .. } => Topic::Tick,
            What::Input { .. } => Topic::Input,
            What::Entity { .. } => Topic::Entity,
            What::Job { .. } => Topic::Job,
            What::Snapshot { .. } => Topic::Snapshot,
            What::System { .. } => Topic::System,
            What::State { .. } => Topic::State,
            What::Alert { .. } => Topic::Alert,
        }
    }

    /// Whether it is about that entity.
    pub fn is_about(&self, uid: Uid) -> bool {
        match &self.what {
            What::Input { outcome: Ok(outcome), .. } => outcome.created.contains(&uid),
            What::Entity { lives } => lives.born.contains(&uid) || lives.gone.contains(&uid),
            _ => false,
        }
    }

    /// As answers have it.
    pub fn to_json(&self, number: u64) -> Value {
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
        }
        event
    }
}
