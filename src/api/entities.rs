//! Entities: created by an input, read from the mirror.

use super::{
    App,
    inputs::{Wait, Write, WriteQuery},
    media, past,
    problem::Problem,
};
use axum::{
    body::Bytes,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use everworld_engine::{
    Image, Input as _, Tick, Uid,
    edits::{DespawnEntities, UpdateEntities, row_hash},
    input::SpawnEntities,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A body as JSON of that shape, or 400 with the place.
pub(super) fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // To serde an array is as good as an object whose members come in order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::malformed("the body is not as expected: an object"));
    }
    serde_json::from_slice(body).or_else(|error| {
        // To JSON Schema 5.0 is an integer, to serde it is none.
        let whole = serde_json::from_slice(body).ok().and_then(|mut value: Value| {
            let found = make_whole(&mut value);
            found.then(|| serde_json::from_value(value).ok()).flatten()
        });
        whole.ok_or_else(|| Problem::malformed(format!("the body is not as expected: {error}")))
    })
}

/// Turns reals without a fraction into integers; true when there were any.
fn make_whole(value: &mut Value) -> bool {
    const EXACT_MAX: f64 = (1_u64 << 53) as f64;
    match value {
        Value::Array(items) => items.iter_mut().fold(false, |found, item| make_whole(item) | found),
        Value::Object(members) => {
            members.values_mut().fold(false, |found, member| make_whole(member) | found)
        }
        Value::Number(number) => {
            let real = number.as_f64().filter(|_| number.is_f64());
            let whole = real.filter(|real| real.fract() == 0.0 && real.abs() <= EXACT_MAX);
            whole.inspect(|real| *value = json!(*real as i64)).is_some()
        }
        _ => false,
    }
}

/// One entity, or a batch.
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    query: Result<Query<WriteQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let write = Write::new(&app, &world, query, &headers)?;
    let body: Value = read_json(&body)?;
    let single = body.get("entities").is_none();
    let payload = if single { json!({"entities": [body]}) } else { body };
    // Who sent the entity itself has no batch: his places do not begin with the one that we made of it.
    let within = if single { "/entities/0" } else { "" };
    write.submit(SpawnEntities::KIND, &payload, |place| below(place, within), Wait::AsAsked).await
}

/// A place without its beginning, if it begins so.
fn below(place: &str, within: &str) -> String {
    place.strip_prefix(within).unwrap_or(place).to_owned()
}

/// A change of one entity, as an input. Who gives `If-Match` waits for the tick, which decides.
struct Edit<'r> {
    write: Write<'r>,
    uid: Uid,
}

impl Edit<'_> {
    async fn submit(self, kind: &str, mut entity: Value, within: &str) -> Result<Response, Problem> {
        let Write { handle, running, query, headers, .. } = &self.write;
        // Whoever is not in the view may have come since: the tick knows. The view has the word where it is of the
        // newest tick and nothing waits.
        let view = running.view().await.ok_or_else(|| Problem::unavailable("there is no view yet"))?;
        let is_there = running.mirror.find(&view, self.uid).is_some();
        let is_newest = running.sequencer.queue_len() == 0 && handle.status.tick() == view.tick;
        if !is_there && is_newest {
            return Err(nobody(self.uid, &view));
        }
        entity["uid"] = json!(self.uid);
        let if_match = headers.get(header::IF_MATCH);
        if let Some(tag) = if_match {
            let tag = tag.to_str().ok().and_then(|tag| tag.strip_prefix('"')?.strip_suffix('"'));
            let wrong = || Problem::malformed("If-Match: expected one entity tag in double quotes");
            entity["if_match"] = tag.ok_or_else(wrong)?.into();
        }
        let is_unsure = !is_there && query.at_tick.is_none();
        let wait = if if_match.is_some() || is_unsure { Wait::OfOneForOutcome } else { Wait::OfOne };
        // The client's places begin where its body does.
        let payload = json!({"entities": [entity]});
        self.write.submit(kind, &payload, |place| below(place, within), wait).await
    }
}

fn nobody(uid: Uid, view: &Image) -> Problem {
    Problem::not_found(format!("there is no entity {uid} at tick {}", view.tick))
}

/// Merges components into an entity (RFC 7396).
pub(super) async fn patch(
    State(app): State<Arc<App>>,
    Path((world, uid)): Path<(String, String)>,
    query: Result<Query<WriteQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let components: Map<String, Value> = read_json(&body)?;
    let edit = Edit { uid: past::uid(&uid)?, write: Write::new(&app, &world, query, &headers)? };
    edit.submit(UpdateEntities::KIND, json!({"components": components}), "/entities/0/components").await
}

/// Removes an entity.
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Path((world, uid)): Path<(String, String)>,
    query: Result<Query<WriteQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let edit = Edit { uid: past::uid(&uid)?, write: Write::new(&app, &world, query, &headers)? };
    edit.submit(DespawnEntities::KIND, json!({}), "/entities/0").await
}

/// Sets a component of an entity; members that are left out get their default.
pub(super) async fn put_component(
    State(app): State<Arc<App>>,
    Path((world, uid, component)): Path<(String, String, String)>,
    query: Result<Query<WriteQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let value: Map<String, Value> = read_json(&body)?;
    let edit = Edit { uid: past::uid(&uid)?, write: Write::new(&app, &world, query, &headers)? };
    let within = format!("/entities/0/components/{component}");
    let mut components = Map::new();
    components.insert(component, value.into());
    edit.submit(UpdateEntities::KIND, json!({"components": components, "replace": true}), &within).await
}

/// Takes a component from an entity.
pub(super) async fn delete_component(
    State(app): State<Arc<App>>,
    Path((world, uid, component)): Path<(String, String, String)>,
    query: Result<Query<WriteQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let edit = Edit { uid: past::uid(&uid)?, write: Write::new(&app, &world, query, &headers)? };
    let mut components = Map::new();
    components.insert(component, Value::Null);
    edit.submit(UpdateEntities::KIND, json!({"components": components}), "/entities/0/components").await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OneQuery {
    at_tick: Option<String>,
    min_tick: Option<u64>,
}

/// An entity as an answer has it.
#[derive(Serialize)]
struct One<C> {
    uid: Uid,
    tick: Tick,
    components: C,
}

pub(super) async fn one(
    State(app): State<Arc<App>>,
    Path((world, uid)): Path<(String, String)>,
    query: Result<Query<OneQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::malformed(error.body_text()))?;
    let (_, running) = app.running(&world)?;
    let uid = past::uid(&uid)?;
    if let Some(at) = query.at_tick {
        return past::entity_at(&app, &world, uid, &at).await;
    }
    let view = super::query::at_least(&running, query.min_tick.map(Tick)).await?;
    let (table, row) = running.mirror.find(&view, uid).ok_or_else(|| nobody(uid, &view))?;
    let tag = format!("\"{}\"", row_hash(&view, table, row));
    let about = [("x-world-tick", view.tick.to_string()), ("etag", tag.clone())];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag.as_str()) {
        return Ok((StatusCode::NOT_MODIFIED, about).into_response());
    }
    let components = view.entity_json(&running.registry, table, row);
    Ok((about, media::json(media::to_json(&One { uid, tick: view.tick, components })?)).into_response())
}
