//! Ticking: pause, resume, step, rate. Logged like inputs, acknowledged once durable.

use super::{
    App,
    entities::read_json,
    past::{Parameters, parameters},
    problem::Problem,
};
use crate::{
    host::{Wish, WorldHandle},
    status::TickTimes,
};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use everworld_engine::{Tick, column::Fault};
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
    ticks: Option<u64>,
    /// Up to this tick instead.
    until: Option<u64>,
}

pub(super) async fn step(
    state: State<Arc<App>>,
    world: Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
    let Step { ticks, until } = read_json(&body)?;
    let invalid = |place: &str, detail: String| Err(Problem::invalid(vec![Fault::new(place, detail)]));
    let now = state.0.world(&world)?.status.tick().0;
    match (ticks, until) {
        (Some(_), Some(_)) => invalid("", "expected one of ticks and until".into()),
        (None, Some(until)) if until <= now || until - now > STEP_MAX => {
            invalid("/until", format!("expected {} to {}, found {until}", now + 1, now + STEP_MAX))
        }
        (None, Some(until)) => ask(state, world, headers, Wish::StepUntil(Tick(until))).await,
        (Some(ticks), _) if !(1..=STEP_MAX).contains(&ticks) => {
            invalid("/ticks", format!("expected 1 to {STEP_MAX}, found {ticks}"))
        }
        (ticks, None) => ask(state, world, headers, Wish::Step(ticks.unwrap_or(1))).await,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rate {
    rate_hz: Option<f64>,
    mode: Option<Mode>,
}

/// How ticks are paced.
#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// At a rate.
    Realtime,
    /// One after the other.
    Fast,
    /// When somebody asks for them: paused, and stepped.
    Manual,
}

pub(super) async fn rate(
    state: State<Arc<App>>,
    world: Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let Rate { rate_hz, mode } = read_json(&body)?;
    let invalid = |place: &str, detail: String| Err(Problem::invalid(vec![Fault::new(place, detail)]));
    let rate_hz = match (mode, rate_hz) {
        (None, None) => return invalid("/rate_hz", "expected a rate, or a mode".into()),
        (Some(Mode::Realtime), None | Some(0.0)) => {
            return invalid("/rate_hz", "realtime needs one: expected 0.001 to 1000".into());
        }
        (Some(Mode::Fast | Mode::Manual), Some(rate_hz)) if rate_hz != 0.0 => {
            return invalid("/rate_hz", format!("this mode has none, found {rate_hz}"));
        }
        (Some(Mode::Manual), _) => return ask(state, world, headers, Wish::Pause).await,
        (Some(Mode::Fast), _) => 0.0,
        (_, Some(rate_hz)) => rate_hz,
    };
    if !(rate_hz == 0.0 || (0.001..=1_000.0).contains(&rate_hz)) {
        return invalid("/rate_hz", format!("expected 0, or 0.001 to 1000, found {rate_hz}"));
    }
    let wish = Wish::Rate((rate_hz * 1e3).round() as u64);
    if mode.is_none() {
        return ask(state, world, headers, wish).await;
    }
    // Whoever names a mode wants ticks, also of a world that was paused.
    let Path(name) = world;
    let _ = ask(state.clone(), Path(name.clone()), headers.clone(), wish).await?;
    ask(state, Path(name), headers, Wish::Resume).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Last {
    last: Option<usize>,
}

/// The last ticks, oldest first, and how long each part of them took.
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    query: Parameters<Last>,
) -> Result<Json<Value>, Problem> {
    let last = parameters(query)?.last.unwrap_or(20);
    let (handle, _) = app.running(&world)?;
    let times = remembered(&handle);
    let items: Vec<Value> = times[times.len().saturating_sub(last)..].iter().map(shown).collect();
    Ok(Json(json!({"items": items, "next": null, "tick": handle.status.tick()})))
}

pub(super) async fn one(
    State(app): State<Arc<App>>,
    Path((world, tick)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let (handle, _) = app.running(&world)?;
    let tick: u64 =
        tick.parse().map_err(|_| Problem::malformed(format!("\"{tick}\" is no tick: a number")))?;
    let times = remembered(&handle);
    let found = times.iter().rfind(|times| times.tick.0 == tick);
    let oldest = times.first().map_or_else(|| "none".into(), |times| times.tick.to_string());
    let found = found.ok_or_else(|| {
        Problem::not_found(format!("tick {tick} is not remembered; the oldest that is: {oldest}"))
    })?;
    Ok(Json(shown(found)))
}

/// Ticks that were computed and not shown yet are left out (D2).
fn remembered(handle: &WorldHandle) -> Vec<TickTimes> {
    let shown = handle.status.tick();
    let mut times = handle.status.recent_ticks(Tick(0));
    times.retain(|times| times.tick <= shown);
    times
}

fn shown(times: &TickTimes) -> Value {
    let micros = |nanos: u64| nanos as f64 / 1e3;
    json!({
        "tick": times.tick, "entities": times.entities, "inputs": times.inputs, "total_us": micros(times.total_nanos),
        "phases": {
            "inputs_us": micros(times.inputs_nanos), "systems_us": micros(times.systems_nanos),
            "capture_us": micros(times.capture_nanos),
        },
        "state_hash": times.hash.map(|hash| hash.to_string()),
    })
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
