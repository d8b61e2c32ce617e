//! The figures that a world is measured by: `GET /statistics`, a page of what is kept or a stream.

use super::{
    App,
    follow::{After, Followed, Form},
    past::{Parameters, parameters},
    problem::Problem,
    spec::LIMIT_MAX,
};
use crate::statistician::Sample;
use axum::{
    extract::{Path, State},
    http::HeaderMap,
    response::Response,
};
use serde::Deserialize;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatisticsQuery {
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    query: Parameters<StatisticsQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let StatisticsQuery { after, limit } = parameters(query)?;
    let handle = app.world(&world)?;
    if handle.running().is_some_and(|running| !running.is_measured) {
        return Err(Problem::not_found(format!("worlds of the kind of \"{world}\" are measured by nothing")));
    }
    let limit = limit.unwrap_or(100).min(LIMIT_MAX);
    let samples = &handle.status.statistics;
    let form = Form::of(&headers);
    let last_id = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let after = match last_id.or(after.as_deref()).map(After::parse).transpose()? {
        Some(after) => after,
        // The newest of them.
        None if form == Form::Page => After::whole(samples.last(limit)),
        None => After::whole(samples.newest()),
    };
    let show = |number: u64, sample: &Sample, _: usize| vec![sample.to_json(number)];
    let hosting = app.hosting.clone();
    let ring = move || hosting.world(&world).map(|handle| handle.status.statistics.clone());
    let followed = Followed { ring: Box::new(ring), show: Box::new(show), kind: "statistics", after, limit };
    followed.answer(&app, form)
}
