//! Inputs of any kind, and what every write answers.

use super::{App, entities::read_json, problem::Problem};
use crate::sequencer::{Origin, Submitted};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use everworld_engine::{Tick, column::Fault};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Ack {
    #[default]
    Durable,
    Applied,
}

/// What a write may say in its query.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteQuery {
    #[serde(default)]
    pub(super) ack: Ack,
    pub(super) at_tick: Option<u64>,
}

impl WriteQuery {
    pub(super) fn wants_outcome(&self) -> bool {
        self.ack == Ack::Applied
    }
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
    let Query(query) = query.map_err(|error| Problem::malformed(error.body_text()))?;
    let (_, running) = app.running(&world)?;
    let NewInput { kind, payload } = read_json(&body)?;
    let origin = app.origin(&headers);
    let submitted =
        running.sequencer.submit(&kind, &payload, query.at_tick.map(Tick), query.wants_outcome(), &origin);
    let submitted = submitted.map_err(|error| match error {
        crate::sequencer::AdmitError::Invalid(faults) => {
            let within = |fault: Fault| Fault::new(format!("/payload{}", fault.pointer), fault.detail);
            Problem::invalid(faults.into_iter().map(within).collect())
        }
        other => other.into(),
    })?;
    acknowledge(submitted, origin).await
}

/// Waits as far as the client wants, and answers.
pub(super) async fn acknowledge(submitted: Submitted, origin: Origin) -> Result<Response, Problem> {
    // D1: nothing is acknowledged before it is synced.
    let durable = submitted.durable.await.map_err(|_| Problem::unavailable("the log was closed"))?;
    durable.map_err(|error| Problem::unavailable(format!("the input is not durable: {error}")))?;
    let mut answer = json!({
        "input_id": submitted.seq.to_string(),
        "seq": submitted.seq,
        "earliest_tick": submitted.earliest_tick,
    });
    if let Some(applied) = submitted.applied {
        let applied = applied.await;
        let applied =
            applied.map_err(|_| Problem::unavailable("the world stopped before the input was applied"))?;
        answer["tick"] = applied.tick.0.into();
        match applied.outcome {
            Ok(outcome) => answer["created"] = json!(outcome.created),
            Err(error) => answer["rejected"] = error.to_string().into(),
        }
    }
    Ok((StatusCode::ACCEPTED, [("x-request-id", origin.request_id)], Json(answer)).into_response())
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
