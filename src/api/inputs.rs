//! Inputs of any kind, and what every write answers.

use super::{
    App,
    entities::read_json,
    media::{self, NDJSON},
    past::{Parameters, parameters},
    problem::Problem,
};
use crate::{
    host::{Running, WorldHandle},
    sequencer::{AdmitError, Applied, Asked, Fate, Known, Origin, Sequencer, Submitted},
};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use everworld_engine::{InputError, Tick, column::Fault};
use everworld_persistence::{InputRecord, LogError, Record};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Ack {
    #[default]
    Durable,
    Applied,
}

/// What a write may say in its query.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteQuery {
    #[serde(default)]
    pub(super) ack: Ack,
    pub(super) at_tick: Option<u64>,
}

impl WriteQuery {
    /// The tick that it asks for, unless that is further ahead than is kept in mind.
    pub(super) fn at_tick(&self, app: &App, world: &WorldHandle) -> Result<Option<Tick>, Problem> {
        let at = self.at_tick.map(Tick);
        match at.and_then(|at| too_far(app, world.status.tick(), at)) {
            Some(detail) => Err(Problem::invalid(vec![Fault::new("?at_tick", detail)])),
            None => Ok(at),
        }
    }

    pub(super) fn wants_outcome(&self) -> bool {
        self.ack == Ack::Applied
    }
}

/// What is wrong with asking for a tick that is further ahead than is kept in mind (L1).
pub(super) fn too_far(app: &App, now: Tick, at: Tick) -> Option<String> {
    let max = app.config.inputs.ahead_ticks_max;
    let last = Tick(now.0.saturating_add(max));
    (at > last).then(|| {
        format!(
            "expected at most {last} (the world is at tick {now}, inputs.ahead_ticks_max is {max}), found {at}"
        )
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewInput {
    kind: String,
    #[serde(default)]
    payload: Value,
}

pub(super) async fn post(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    query: Result<Query<WriteQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let write = Write::new(&app, &world, query, &headers)?;
    if media::sent(&headers) == NDJSON {
        return post_batch(&write, &body).await;
    }
    let NewInput { kind, payload } = read_json(&body)?;
    write.submit(&kind, &payload, |place| format!("/payload{place}"), Wait::AsAsked).await
}

/// What a client says of an input beside the input itself.
pub(super) struct Write<'r> {
    pub(super) app: &'r App,
    pub(super) handle: WorldHandle,
    pub(super) running: Arc<Running>,
    pub(super) query: WriteQuery,
    pub(super) headers: &'r HeaderMap,
}

/// How long an answer waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// As the query says.
    AsAsked,
    /// The same, for a change of one entity: its absence, or that it has changed, is told as HTTP does.
    OfOne,
    /// As that, and in any case for the outcome.
    OfOneForOutcome,
}

impl<'r> Write<'r> {
    pub(super) fn new(
        app: &'r App,
        world: &str,
        query: Result<Query<WriteQuery>, QueryRejection>,
        headers: &'r HeaderMap,
    ) -> Result<Self, Problem> {
        let Query(query) = query.map_err(|error| Problem::malformed(error.body_text()))?;
        let (handle, running) = app.running(world)?;
        Ok(Self { app, handle, running, query, headers })
    }

    fn at_tick(&self) -> Result<Option<Tick>, Problem> {
        self.query.at_tick(self.app, &self.handle)
    }

    /// Submits it and answers. `place` makes a place in the body of the client of one in the payload.
    pub(super) async fn submit(
        self,
        kind: &str,
        payload: &Value,
        place: impl Fn(&str) -> String,
        wait: Wait,
    ) -> Result<Response, Problem> {
        let origin = self.app.origin(self.headers);
        let asked = Asked {
            kind,
            payload,
            at_tick: self.at_tick()?,
            wants_outcome: self.query.wants_outcome() || wait == Wait::OfOneForOutcome,
            idempotency_key: App::idempotency_key(self.headers)?,
        };
        let submitted = self.running.sequencer.submit(asked, &origin).map_err(|error| match error {
            AdmitError::Invalid(faults) => {
                let within = |fault: Fault| Fault::new(place(&fault.pointer), fault.detail);
                Problem::invalid(faults.into_iter().map(within).collect())
            }
            other => other.into(),
        })?;
        acknowledge(submitted, origin, wait != Wait::AsAsked).await
    }
}

/// The tick of an input is waited for so long: a world may be slow, or paused.
const APPLIED_WAIT: Duration = Duration::from_secs(5);

/// The most inputs of a batch (L1).
const BATCH_MAX: usize = 10_000;

/// An input of a batch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchedInput {
    kind: String,
    #[serde(default)]
    payload: Value,
    idempotency_key: Option<String>,
}

/// Inputs one on each line, for speed: all are looked at before the first is logged, and one sync can acknowledge them
/// all. Each is an input by itself; where the world takes no more of them the answer tells how many it has taken.
async fn post_batch(write: &Write<'_>, body: &[u8]) -> Result<Response, Problem> {
    let at_tick = write.at_tick()?;
    if write.query.wants_outcome() {
        return Err(Problem::malformed(
            "ack: a batch is acknowledged once it is durable; GET inputs/{id} tells the rest",
        ));
    }
    if App::idempotency_key(write.headers)?.is_some() {
        return Err(Problem::malformed(
            "Idempotency-Key: in a batch each line has its own, as idempotency_key",
        ));
    }
    let sequencer = &write.running.sequencer;
    // Megabytes of JSON: other requests are not to wait for this thread.
    let inputs = tokio::task::block_in_place(|| checked(sequencer, body))?;
    let inputs = inputs.iter().map(|(BatchedInput { kind, idempotency_key, .. }, payload)| {
        let (payload, idempotency_key) = (payload.clone(), idempotency_key.as_deref());
        (1, Asked { kind, payload, at_tick, wants_outcome: false, idempotency_key })
    });
    take_all(sequencer, write.app.origin(write.headers), inputs).await
}

/// Takes inputs that were looked at, each with how many things it stands for: as many as the world takes.
pub(super) async fn take_all<'a>(
    sequencer: &Sequencer,
    origin: Origin,
    inputs: impl Iterator<Item = (usize, Asked<'a, Vec<u8>>)>,
) -> Result<Response, Problem> {
    let (mut taken, mut accepted, mut refused) = (Vec::new(), 0, None);
    for (count, asked) in inputs {
        match sequencer.submit_checked(asked, &origin) {
            Ok(submitted) => {
                taken.push(submitted);
                accepted += count;
            }
            Err(error) if taken.is_empty() => return Err(error.into()),
            Err(error) => {
                refused = Some(error.to_string());
                break;
            }
        }
    }
    let mut answer = json!({
        "accepted": accepted,
        "seqs": taken.iter().map(|submitted| submitted.seq).collect::<Vec<_>>(),
        "earliest_tick": taken.iter().map(|submitted| submitted.earliest_tick).max(),
    });
    if let Some(refused) = refused {
        answer["refused"] = refused.into();
    }
    // D1: nothing is acknowledged before it is synced.
    for submitted in taken {
        let durable = submitted.durable.await.map_err(|_| Problem::unavailable("the log was closed"))?;
        durable.map_err(|error| Problem::unavailable(format!("the inputs are not durable: {error}")))?;
    }
    Ok((StatusCode::ACCEPTED, [("x-request-id", origin.request_id)], Json(answer)).into_response())
}

/// The inputs of a batch, with their payloads as they are logged.
fn checked(sequencer: &Sequencer, body: &[u8]) -> Result<Vec<(BatchedInput, Vec<u8>)>, Problem> {
    let (mut inputs, mut faults) = (Vec::new(), Vec::new());
    let lines =
        body.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    for (number, line) in lines {
        if inputs.len() + faults.len() >= BATCH_MAX {
            return Err(Problem::malformed(format!("a batch has at most {BATCH_MAX} inputs")));
        }
        let input: BatchedInput = read_json(line).map_err(|problem| problem.at_line(number + 1))?;
        match sequencer.check(&input.kind, &input.payload) {
            Ok(payload) => inputs.push((input, payload)),
            Err(AdmitError::Invalid(found)) => faults.extend(
                found
                    .into_iter()
                    .map(|fault| Fault::new(format!("/{number}/payload{}", fault.pointer), fault.detail)),
            ),
            Err(error) => faults.push(Fault::new(format!("/{number}/kind"), error.to_string())),
        }
    }
    if !faults.is_empty() {
        return Err(Problem::invalid(faults));
    }
    if inputs.is_empty() {
        return Err(Problem::malformed("the batch has no inputs"));
    }
    Ok(inputs)
}

/// Waits as far as the client wants, and answers. Who asked about one entity hears of its absence, or that it has
/// changed, as HTTP says it.
async fn acknowledge(submitted: Submitted, origin: Origin, of_one: bool) -> Result<Response, Problem> {
    // D1: nothing is acknowledged before it is synced.
    let durable = submitted.durable.await.map_err(|_| Problem::unavailable("the log was closed"))?;
    durable.map_err(|error| Problem::unavailable(format!("the input is not durable: {error}")))?;
    let mut answer = json!({
        "input_id": submitted.seq.to_string(),
        "seq": submitted.seq,
        "earliest_tick": submitted.earliest_tick,
    });
    if let Some(fate) = submitted.fate {
        let gone = |_| Problem::unavailable("the world stopped before the input was applied");
        let Ok(fate) = tokio::time::timeout(APPLIED_WAIT, fate).await else {
            // It is durable, and its tick will come: that is not to be told as an error.
            answer["state"] = "waiting".into();
            return Ok(
                (StatusCode::ACCEPTED, [("x-request-id", origin.request_id)], Json(answer)).into_response()
            );
        };
        match fate.map_err(gone)? {
            Fate::Applied(Applied { outcome: Err(error @ InputError::NotFound(_)), .. }) if of_one => {
                return Err(Problem::not_found(error.to_string()));
            }
            Fate::Applied(Applied { outcome: Err(error @ InputError::PreconditionFailed(_)), .. })
                if of_one =>
            {
                return Err(Problem::precondition(error.to_string()));
            }
            Fate::Applied(applied) => tell(&mut answer, &applied),
            Fate::LeftBehind(branch) => tell_left_behind(&mut answer, branch),
        }
    }
    let mut response =
        (StatusCode::ACCEPTED, [("x-request-id", origin.request_id)], Json(answer)).into_response();
    if submitted.repeated {
        response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Adds what became of an input.
fn tell(answer: &mut Value, applied: &Applied) {
    answer["tick"] = applied.tick.0.into();
    match &applied.outcome {
        Ok(outcome) => answer["created"] = json!(outcome.created),
        Err(error) => answer["rejected"] = error.to_string().into(),
    }
}

fn tell_left_behind(answer: &mut Value, branch: u32) {
    answer["left_behind_on_branch"] = branch.into();
    answer["detail"] = format!(
        "left behind on branch {branch}: the world was rewound to before it took this input; under another key it can \
         be sent again"
    )
    .into();
}

/// What is known of an input.
pub(super) async fn one(
    State(app): State<Arc<App>>,
    Path((world, id)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let (_, running) = app.running(&world)?;
    let known = id.parse().ok().and_then(|seq| Some((seq, running.sequencer.known(seq)?)));
    let (seq, known): (u64, Known) =
        known.ok_or_else(|| Problem::not_found(format!("world \"{world}\" has had no input {id}")))?;
    let mut answer = json!({"input_id": seq.to_string(), "seq": seq});
    let state = match known {
        Known::Waiting => "waiting",
        Known::Taken(applied) => {
            applied.iter().for_each(|applied| tell(&mut answer, applied));
            "taken"
        }
        Known::LeftBehind(branch, applied) => {
            applied.iter().for_each(|applied| tell(&mut answer, applied));
            tell_left_behind(&mut answer, branch);
            "left_behind"
        }
    };
    answer["state"] = state.into();
    Ok(Json(answer))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    from_seq: Option<u64>,
    limit: Option<usize>,
}

/// The inputs that the log still has, as they came: who asked for what. The log is read from its beginning.
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    query: Parameters<ListQuery>,
) -> Result<Response, Problem> {
    let ListQuery { from_seq, limit } = parameters(query)?;
    let (from_seq, limit) = (from_seq.unwrap_or(1), limit.unwrap_or(100));
    let (_, running) = app.running(&world)?;
    let (log, wanted) = (running.log.clone(), app.bulk.wanted());
    let work = move || {
        let mut items: Vec<Value> = Vec::new();
        let mut from = 1;
        'again: loop {
            for entry in log.records(from) {
                match entry {
                    Ok((_, Record::Input(input))) if input.seq >= from_seq => {
                        if items.len() == limit {
                            return Ok(json!({"items": items, "next": input.seq.to_string()}));
                        }
                        items.push(shown(&input));
                    }
                    Ok(_) if wanted() => {}
                    Ok(_) => return Err(Problem::unavailable("the server is stopping")),
                    Err(LogError::Missing { first_lsn, .. }) if from == 1 && first_lsn > 1 => {
                        from = first_lsn;
                        continue 'again;
                    }
                    Err(error) => return Err(Problem::failed(crate::spine::chain(&error))),
                }
            }
            return Ok(json!({"items": items, "next": null}));
        }
    };
    app.bulk.answer("inputs", app.about(&world), work).await
}

fn shown(input: &InputRecord) -> Value {
    json!({
        "seq": input.seq, "kind": input.kind, "at_tick": input.at_tick, "principal": input.principal,
        "request_id": input.request_id,
        "payload": serde_json::from_slice::<Value>(&input.payload).unwrap_or_default(),
    })
}

pub(super) async fn kinds(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
) -> Result<Json<Value>, Problem> {
    let (_, running) = app.running(&world)?;
    let one = |input: &everworld_engine::InputKind| json!({"kind": input.kind, "doc": input.doc});
    let items: Vec<Value> = running.registry.inputs().iter().map(one).collect();
    Ok(Json(json!({"items": items, "next": null})))
}
