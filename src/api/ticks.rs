//! Ticking: pause, resume, step, rate. Logged like inputs, acknowledged once durable.

use super::{App, entities::read_json, problem::Problem};
use crate::host::Wish;
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

type Answer = Result<(StatusCode, Json<Value>), Problem>;

/// The most ticks of one step (L1).
const STEP_MAX: u64 = 1_000_000;

pub(super) async fn pause(state: State<Arc<App>>, world: Path<String>, headers: HeaderMap) -> Answer {
    ask(state, world, headers, Wish::Pause).await
}

pub(super) async fn resume(state: State<Arc<App>>, world: Path<String>, headers: HeaderMap) -> Answer {
    ask(state, world, headers, Wish::Resume).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    #[serde(default = "one")]
    ticks: u64,
}

fn one() -> u64 {
    1
}

pub(super) async fn step(
    state: State<Arc<App>>,
    world: Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
    let Step { ticks } = read_json(&body)?;
    if !(1..=STEP_MAX).contains(&ticks) {
        return Err(Problem::invalid(vec![everworld_engine::column::Fault::new(
            "/ticks",
            format!("expected 1 to {STEP_MAX}, found {ticks}"),
        )]));
    }
    ask(state, world, headers, Wish::Step(ticks)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rate {
    rate_hz: f64,
}

pub(super) async fn rate(
    state: State<Arc<App>>,
    world: Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let Rate { rate_hz } = read_json(&body)?;
    if !(rate_hz == 0.0 || (0.001..=1_000.0).contains(&rate_hz)) {
        return Err(Problem::invalid(vec![everworld_engine::column::Fault::new(
            "/rate_hz",
            format!("expected 0, or 0.001 to 1000, found {rate_hz}"),
        )]));
    }
    ask(state, world, headers, Wish::Rate((rate_hz * 1e3).round() as u64)).await
}

async fn ask(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    headers: HeaderMap,
    wish: Wish,
) -> Answer {
    let (handle, _) = app.running(&world)?;
    let done = handle.ask(wish, app.origin(&headers)).await?;
    Ok((
        StatusCode::ACCEPTED,
        Json(json!({"input_id": done.seq.to_string(), "seq": done.seq, "tick": done.tick})),
    ))
}
