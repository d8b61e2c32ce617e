//! Worlds: what they are and how they are.

use super::{App, problem::Problem};
use crate::{catalogue, host::WorldHandle};
use axum::{
    Json,
    extract::{Path, State},
};
use everworld_persistence::{Disk, RealDisk};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) fn summary(world: &WorldHandle) -> Value {
    let status = &world.status;
    let (state, reason) = status.state();
    // The hash belongs to the mirror, which may be some ticks behind: it comes with its tick, of the same line.
    let (shown, hashed) = world.shown_with(|| world.running().and_then(|running| running.mirror.shown()));
    let rate_hz = status.millihertz() as f64 / 1e3;
    let mut summary = json!({
        "world": world.name,
        "state": state,
        "branch": shown.branch,
        "tick": shown.tick,
        "rate_hz": rate_hz,
        "entities": shown.entities,
        "lag_ms": status.lag_nanos() as f64 / 1e6,
        "last_snapshot": status.last_snapshot(),
        "quarantined": status.quarantined(),
        "passed_over": status.passed_over(),
        "verification": status.verification(),
        "scrub": status.scrub(),
    });
    if let Some(reason) = reason {
        summary["reason"] = reason.into();
    }
    if let Some(running) = world.running() {
        summary["scenario"] = running.scenario.0.as_str().into();
        summary["seed"] = running.scenario.1.into();
        summary["inputs_waiting"] = running.sequencer.queue_len().into();
    }
    if let Some(hashed) = hashed {
        summary["state_hash"] = hashed.hash.to_string().into();
        summary["state_hash_tick"] = hashed.tick.0.into();
        summary["memory_bytes"] = hashed.bytes.into();
    }
    summary
}

/// The hosted worlds, and those that are only in the data directory.
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    let mut items: Vec<Value> = app.worlds.iter().map(summary).collect();
    let data = app.config.data.dir.clone();
    let stored = move || catalogue::stored(&(Arc::new(RealDisk) as Arc<dyn Disk>), &data);
    let stored = tokio::task::spawn_blocking(stored).await;
    let stored = stored.map_err(|_| Problem::failed("listing the worlds panicked"))?;
    for (name, stored) in stored? {
        if app.worlds.iter().all(|world| world.name != name) {
            items.push(stored.to_json(&name));
        }
    }
    Ok(Json(json!({"items": items, "next": null})))
}

pub(super) async fn one(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
) -> Result<Json<Value>, Problem> {
    app.world(&world).map(|world| Json(summary(world)))
}

pub(super) async fn components(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
) -> Result<Json<Value>, Problem> {
    let (_, running) = app.running(&world)?;
    let one = |column: &everworld_engine::ColumnInfo| json!({"name": column.name, "version": column.version, "fields": column.query_fields(), "schema": column.json_schema()});
    let items: Vec<Value> = running.registry.columns().iter().map(one).collect();
    Ok(Json(
        json!({"items": items, "next": null, "prototypes": running.registry.prototypes().collect::<Vec<_>>()}),
    ))
}

pub(super) async fn resources(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
) -> Result<Json<Value>, Problem> {
    let (_, running) = app.running(&world)?;
    let view = running.view().await.ok_or_else(|| Problem::unavailable("there is no view yet"))?;
    let one = |resource: &everworld_engine::ResourceInfo| {
        let value = view.resource(resource.name).map(|stored| (resource.to_json)(&stored.bytes));
        json!({"name": resource.name, "version": resource.version, "value": value})
    };
    let items: Vec<Value> = running.registry.resources().iter().map(one).collect();
    Ok(Json(json!({"items": items, "next": null, "tick": view.tick})))
}
