//! The program's log: its last lines, a stream of them, and what of it is told.

use super::{
    App,
    entities::read_json,
    follow::{After, Followed, Form},
    past::{Parameters, parameters},
    problem::Problem,
    spec::LIMIT_MAX,
};
use crate::logs::{self, Line};
use axum::{Json, body::Bytes, extract::State, http::HeaderMap, response::Response};
use everworld_engine::column::Fault;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    after: Option<u64>,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    query: Parameters<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let LogQuery { after, limit } = parameters(query)?;
    let last_id = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let limit = limit.unwrap_or(100).min(LIMIT_MAX);
    let last = || logs::lines().map_or(0, |lines| lines.last(limit));
    let after = last_id.or(after).unwrap_or_else(last);
    let show = |number: u64, line: &Line, _: usize| vec![line.to_json(number)];
    let after = After::whole(after);
    Followed { ring: Box::new(logs::lines), show: Box::new(show), kind: "line", after, limit }
        .answer(&app, Form::of(&headers))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewFilter {
    filter: String,
}

/// Another filter, until the process ends.
pub(super) async fn set_filter(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let NewFilter { filter } = read_json(&body)?;
    let mut values = Map::new();
    values.insert("logging.filter".into(), filter.as_str().into());
    let at_filter = |fault: Fault| Fault::new("/filter", fault.detail);
    let changed = app.live.change(&values);
    changed.map_err(|faults| Problem::invalid(faults.into_iter().map(at_filter).collect()))?;
    let origin = app.origin(&headers);
    tracing::info!(
        filter,
        principal = origin.principal,
        request_id = origin.request_id,
        "another log filter"
    );
    Ok(Json(json!({"filter": filter})))
}
