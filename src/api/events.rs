//! What happens in a world: `GET /events`, a page of what is kept or a stream.

use super::{
    App,
    follow::{Followed, Form},
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
use everworld_engine::Uid;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventQuery {
    #[serde(default)]
    topic: Names,
    entity: Option<u64>,
    after: Option<String>,
    limit: Option<usize>,
}

/// The number of an event, by its id.
fn number(text: &str) -> Result<u64, Problem> {
    let number = text.rsplit('.').next().and_then(|number| number.parse().ok());
    number.ok_or_else(|| {
        Problem::malformed(format!("after: expected the id of an event, tick.number, found \"{text}\""))
    })
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
                "topic: there is none \"{name}\"; topics: tick, input, entity, job, snapshot, system, state, alert"
            ))
        })
    });
    let topics: Vec<Topic> = topics.collect::<Result<_, _>>()?;
    let handle = app.world(&world)?;
    let events = &handle.status.events;
    let form = Form::of(&headers);
    let last_id = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let after = match last_id.or(after.as_deref()).map(number).transpose()? {
        Some(number) => number,
        None if form == Form::Page => events.last(usize::MAX),
        None => events.newest(),
    };
    let entity = entity.map(Uid::new);
    let show = move |number: u64, event: &Event| {
        let is_wanted = (topics.is_empty() || topics.contains(&event.topic()))
            && entity.is_none_or(|uid| event.is_about(uid));
        is_wanted.then(|| event.to_json(number))
    };
    let hosting = app.hosting.clone();
    let ring = move || hosting.world(&world).map(|handle| handle.status.events.clone());
    let limit = limit.unwrap_or(100).min(LIMIT_MAX);
    Followed { ring: Box::new(ring), show: Box::new(show), after, limit }.answer(&app, form)
}
