//! `POST /capture`: a trace of the next ticks.

use super::{App, entities::read_json, problem::Problem};
use crate::trace::{self, TICKS_MAX};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
};
use everworld_engine::column::Fault;
use serde::Deserialize;
use serde_json::Value;
use std::{sync::Arc, time::Duration};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    ticks: u64,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { ticks: 10 }
    }
}

/// The most runs of systems in one trace (L1).
const SPANS_MAX: usize = 50_000;
/// Ticks are waited for so long; then there is a trace of those that there are.
const PATIENCE: Duration = Duration::from_secs(8);
/// Between two looks whether the last of them may be seen.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

pub(super) async fn capture(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
    let Wanted { ticks } = read_json(&body)?;
    if !(1..=TICKS_MAX).contains(&ticks) {
        let detail = format!("expected 1 to {TICKS_MAX}, found {ticks}");
        return Err(Problem::invalid(vec![Fault::new("/ticks", detail)]));
    }
    let (handle, running) = app.running(&world)?;
    let most = TICKS_MAX.min((SPANS_MAX / running.plan.nodes.len().max(1)) as u64).max(1);
    if ticks > most {
        let detail = format!("expected at most {most}, with so many systems, found {ticks}");
        return Err(Problem::invalid(vec![Fault::new("/ticks", detail)]));
    }
    let tracer = &handle.status.tracer;
    let busy = || Problem::wrong_state(format!("a trace of world \"{world}\" is being taken already"));
    let mut traced = tracer.start(ticks).ok_or_else(busy)?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let in_time = tokio::time::timeout_at(deadline, &mut traced).await;
    let ticks = if let Ok(ticks) = in_time {
        ticks
    } else {
        tracer.finish();
        traced.await
    };
    let mut ticks = ticks.map_err(|_| Problem::unavailable("the world has stopped"))?;
    // D2.
    if let Some(last) = ticks.last().map(|last| last.tick) {
        while handle.status.tick() < last && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
    let shown = handle.status.tick();
    ticks.retain(|tick| tick.tick <= shown);
    if ticks.is_empty() {
        return Err(Problem::wrong_state(format!("world \"{world}\" does not tick: it may be paused")));
    }
    let plan = running.plan.clone();
    let document = app.bulk.wait_for("trace", move || trace::document(&world, &plan, &ticks)).await?;
    Ok(Json(document))
}
