//! Worlds: what they are and how they are.

use super::{App, problem::Problem};
use crate::host::WorldHandle;
use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) fn summary(world: &WorldHandle) -> Value {
    let status = &world.status;
    let (state, reason) = status.state();
    let rate_hz = status.millihertz() as f64 / 1e3;
    let mut summary = json!({
        "world": world.name,
        "state": state,
        "tick": status.tick(),
        "rate_hz": rate_hz,
        "entities": status.entities(),
        "lag_ms": status.lag_nanos() as f64 / 1e6,
        "last_snapshot": status.last_snapshot(),
    });
    if let Some(reason) = reason {
        summary["reason"] = reason.into();
    }
    if let Some(running) = world.running() {
        summary["scenario"] = running.scenario.0.as_str().into();
        summary["seed"] = running.scenario.1.into();
        summary["inputs_waiting"] = running.sequencer.queue_len().into();
        // The hash belongs to the mirror's view, which may be some ticks old: it comes with its tick.
        if let Some(view) = running.mirror.view() {
            summary["state_hash"] = view.hash.to_string().into();
            summary["state_hash_tick"] = view.tick.0.into();
            summary["memory_bytes"] = view.bytes().into();
        }
    }
    summary
}

pub(super) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let items: Vec<Value> = app.worlds.iter().map(summary).collect();
    Json(json!({"items": items, "next": null}))
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
    let view = running.mirror.view().ok_or_else(|| Problem::unavailable("there is no view yet"))?;
    let one = |resource: &everworld_engine::ResourceInfo| {
        let value = view.resource(resource.name).map(|stored| (resource.to_json)(&stored.bytes));
        json!({"name": resource.name, "version": resource.version, "value": value})
    };
    let items: Vec<Value> = running.registry.resources().iter().map(one).collect();
    Ok(Json(json!({"items": items, "next": null, "tick": view.tick})))
}
