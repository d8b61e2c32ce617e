//! What happens in a world: `GET /events`, a page of what is kept or a stream.

use super::{
    App,
    follow::Followed,
    past::{Parameters, parameters},
    problem::Problem,
    query::Names,
    spec::LIMIT_MAX,
};
use crate::events::{Event, Topic};
use axum::{
    extract::{Path, State},
    http::HeaderMap,
    response::Response,
};
use everworld_engine::{Tick, Uid};
use serde::Deserialize;
use serde_json::json;
use std::{marker::PhantomData, sync::Arc};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventQuery {
    #[serde(default)]
    topic: Names,
    entity: Option<u64>,
    after: Option<String>,
    limit: Option<usize>,
}

/// A place among the events: the number of one, with its tick before it.
fn place(text: &str) -> Result<(Option<Tick>, u64), Problem> {
    let wrong =
        || Problem::malformed(format!("after: expected the id of an event, tick.number, found \"{text}\""));
    let (tick, number) = match text.split_once('.') {
        Some((tick, number)) => (Some(Tick(tick.parse().map_err(|_| wrong())?)), number),
        None => (None, text),
    };
    Ok((tick, number.parse().map_err(|_| wrong())?))
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    query: Parameters<EventQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let EventQuery { topic, entity, after, limit } = parameters(query)?;
    let topics = topic.0.iter().map(|name| {
        serde_json::from_value::<Topic>(json!(name)).map_err(|_| {
            Problem::malformed(format!(
                "topic: there is none \"{name}\"; topics: tick, input, snapshot, system, state, alert"
            ))
        })
    });
    let topics: Vec<Topic> = topics.collect::<Result<_, _>>()?;
    let handle = app.world(&world)?;
    let newest = handle.status.events.newest();
    let last_id = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let known = last_id.or(after.as_deref()).map(place).transpose()?;
    let is_stream =
        headers.get("accept").is_some_and(|accept| accept != "application/json" && accept != "*/*");
    let (since, after) = match known {
        // Numbers begin anew with each start of the process; ticks do not.
        Some((tick, number)) if number > newest => (tick, 0),
        Some((_, number)) => (None, number),
        None => (None, if is_stream { newest } else { 0 }),
    };
    let entity = entity.map(Uid::new);
    let show = move |number: u64, event: &Event| {
        let is_wanted = (topics.is_empty() || topics.contains(&event.topic()))
            && entity.is_none_or(|uid| event.is_about(uid))
            && since.is_none_or(|tick| event.tick > tick);
        is_wanted.then(|| event.to_json(number))
    };
    let hosting = app.hosting.clone();
    let ring = move || hosting.world(&world).map(|handle| handle.status.events.clone());
    let limit = limit.unwrap_or(100).min(LIMIT_MAX);
    Followed { ring, show, after, limit, _of: PhantomData }.answer(&app, &headers)
}
