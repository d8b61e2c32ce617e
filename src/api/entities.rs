//! Entities: created by an input, read from the mirror.

use super::{
    App,
    inputs::{self, WriteQuery},
    problem::Problem,
};
use crate::sequencer::Asked;
use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use everworld_engine::{Input as _, Uid, input::SpawnEntities};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A body as JSON of that shape, or 400 with the place.
pub(super) fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::malformed(format!("the body is not as expected: {error}")))
}

/// One entity, or a batch.
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    query: Result<Query<WriteQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::malformed(error.body_text()))?;
    let (handle, running) = app.running(&world)?;
    let body: Value = read_json(&body)?;
    let single = body.get("entities").is_none();
    let payload = if single { json!({"entities": [body]}) } else { body };
    let origin = app.origin(&headers);
    let asked = Asked {
        kind: SpawnEntities::KIND,
        payload: &payload,
        at_tick: query.at_tick(&app, handle)?,
        wants_outcome: query.wants_outcome(),
        idempotency_key: App::idempotency_key(&headers)?,
    };
    let submitted = running.sequencer.submit(asked, &origin);
    let submitted = submitted.map_err(|error| match error {
        // The client sent the entity itself: its pointers do not begin with the batch that we made of it.
        crate::sequencer::AdmitError::Invalid(mut faults) if single => {
            for fault in &mut faults {
                if let Some(rest) = fault.pointer.strip_prefix("/entities/0") {
                    fault.pointer = rest.to_owned();
                }
            }
            Problem::invalid(faults)
        }
        other => other.into(),
    })?;
    inputs::acknowledge(submitted, origin).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OneQuery {
    at_tick: Option<String>,
}

pub(super) async fn one(
    State(app): State<Arc<App>>,
    Path((world, uid)): Path<(String, String)>,
    query: Result<Query<OneQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::malformed(error.body_text()))?;
    let (_, running) = app.running(&world)?;
    let uid: u64 =
        uid.parse().map_err(|_| Problem::malformed(format!("\"{uid}\" is not a Uid: a decimal number")))?;
    if let Some(at) = query.at_tick {
        return super::past::entity_at(&app, &world, Uid::new(uid), &at).await;
    }
    let view = running.view().await.ok_or_else(|| Problem::unavailable("there is no view yet"))?;
    let (table, row) = running
        .mirror
        .find(&view, Uid::new(uid))
        .ok_or_else(|| Problem::not_found(format!("there is no entity {uid} at tick {}", view.tick)))?;
    let mut components = Map::new();
    for column in table.columns.iter().filter(|column| column.schema.name != "uid") {
        if let Some(info) = running.registry.column(&column.schema.name) {
            components.insert(column.schema.name.clone(), info.to_json(view.row(column, row)));
        }
    }
    let body = Json(json!({"uid": uid.to_string(), "tick": view.tick, "components": components}));
    Ok(([("x-world-tick", view.tick.to_string())], body).into_response())
}
