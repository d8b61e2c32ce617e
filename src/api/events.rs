//! What happens in a world: `GET /events`, a page of what is kept or a stream.

use super::{
    App,
    follow::{After, Followed, Form},
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

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    query: Parameters<EventQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let EventQuery { topic, entity, after, limit } = parameters(query)?;
    let handle = app.world(&world)?;
    let own = handle.running().into_iter().flat_map(|running| &running.registry.events);
    let known: Vec<&'static str> =
        Topic::ALL.iter().map(|topic| topic.name()).chain(own.map(|kind| kind.name)).collect();
    let topics = topic.0.iter().map(|name| {
        known.iter().find(|known| *known == name).copied().ok_or_else(|| {
            let known = known.join(", ");
            Problem::malformed(format!("topic: there is none \"{name}\"; topics: {known}"))
        })
    });
    let topics: Vec<&str> = topics.collect::<Result<_, _>>()?;
    let events = &handle.status.events;
    let form = Form::of(&headers);
    let last_id = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let after = match last_id.or(after.as_deref()).map(After::parse).transpose()? {
        Some(after) => after,
        None if form == Form::Page => After::whole(events.last(usize::MAX)),
        None => After::whole(events.newest()),
    };
    let entity = entity.map(Uid::new);
    let show = move |number: u64, event: &Event, parts: usize| {
        let is_wanted = (topics.is_empty() || topics.contains(&event.topic()))
            && entity.is_none_or(|uid| event.is_about(uid));
        if is_wanted { event.to_json(number, parts, entity) } else { Vec::new() }
    };
    let hosting = app.hosting.clone();
    let ring = move || hosting.world(&world).map(|handle| handle.status.events.clone());
    let limit = limit.unwrap_or(100).min(LIMIT_MAX);
    Followed { ring: Box::new(ring), show: Box::new(show), kind: "event", after, limit }.answer(&app, form)
}
