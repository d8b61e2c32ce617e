//! Worlds: what they are and how they are; making them, running, pausing and storing them, removing them.

use super::{
    App,
    entities::read_json,
    past::{Confirm, Parameters, confirmed},
    problem::Problem,
};
use crate::{
    catalogue,
    host::{Wish, WorldHandle},
    status::WorldState,
    worlds,
};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use everworld_engine::column::Fault;
use everworld_systems::{Scenario, WorldRecord};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

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
    let mut items: Vec<Value> = app.hosting.worlds().iter().map(summary).collect();
    for (name, stored) in stored(&app).await? {
        if app.hosting.world(&name).is_none() {
            items.push(stored.to_json(&name));
        }
    }
    Ok(Json(json!({"items": items, "next": null})))
}

pub(super) async fn one(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
) -> Result<Json<Value>, Problem> {
    if let Some(handle) = app.hosting.world(&world) {
        return Ok(Json(summary(&handle)));
    }
    match stored(&app).await?.get(&world).filter(|stored| stored.there) {
        Some(stored) => Ok(Json(stored.to_json(&world))),
        None => app.world(&world).map(|handle| Json(summary(&handle))),
    }
}

/// Those of the data directory.
async fn stored(app: &App) -> Result<BTreeMap<String, catalogue::Stored>, Problem> {
    let hosting = app.hosting.clone();
    let stored = tokio::task::spawn_blocking(move || hosting.stored()).await;
    Ok(stored.map_err(|_| Problem::failed("listing the worlds panicked"))??)
}

/// A world to be made.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewWorld {
    name: String,
    /// The name of a built-in scenario, or else the text of one.
    scenario: Option<String>,
    scenario_toml: Option<String>,
    seed: Option<u64>,
    population: Option<u64>,
}

impl NewWorld {
    fn record(&self, app: &App) -> Result<WorldRecord, Problem> {
        let invalid = |pointer: &str, detail: String| Problem::invalid(vec![Fault::new(pointer, detail)]);
        if !worlds::is_legal_name(&self.name) {
            return Err(invalid("/name", "expected 1 to 64 of a-z, 0-9, - and _".into()));
        }
        let mut sets = Vec::new();
        sets.extend(self.seed.map(|seed| format!("seed={seed}")));
        sets.extend(self.population.map(|population| format!("population={population}")));
        let plugins = app.hosting.shared.plugins;
        let built_in = |name: &str| plugins.iter().find(|plugin| plugin.name == name);
        let (pointer, scenario) = match (&self.scenario, &self.scenario_toml) {
            (Some(name), None) => {
                let plugin = built_in(name).ok_or_else(|| {
                    let known: Vec<&str> = plugins.iter().map(|plugin| plugin.name).collect();
                    invalid(
                        "/scenario",
                        format!("there is no scenario \"{name}\"; built in are {}", known.join(", ")),
                    )
                })?;
                ("/scenario", Scenario::parse(plugin.scenario, name, &sets))
            }
            (None, Some(text)) => ("/scenario_toml", Scenario::parse(text, "scenario_toml", &sets)),
            _ => return Err(invalid("", "expected one of scenario and scenario_toml".into())),
        };
        let faulty = |error: everworld_systems::ScenarioError| {
            Problem::invalid(error.faults.iter().map(|fault| Fault::new(pointer, fault)).collect())
        };
        let scenario = scenario.map_err(faulty)?;
        scenario.builder(plugins).map_err(faulty)?;
        Ok(WorldRecord { world: self.name.clone(), scenario })
    }
}

/// Makes a world and hosts it, from now on at each start.
pub(super) async fn create(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let new: NewWorld = read_json(&body)?;
    let record = new.record(&app)?;
    app.note(&headers, &record.world, "making a world");
    let handle = app.hosting.create(record).await?;
    let location = format!("/v1/worlds/{}", handle.name);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(summary(&handle))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    state: WantedState,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum WantedState {
    Running,
    Paused,
    Stored,
}

/// Runs, pauses, loads and unloads a world.
pub(super) async fn change(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let Change { state } = read_json(&body)?;
    let hosted = app.hosting.world(&world);
    if let WantedState::Stored = state {
        app.world(&world)?;
        app.note(&headers, &world, "unloading a world");
        app.hosting.unload(&world).await?;
        return Ok(Json(json!({"world": world, "state": "stored"})).into_response());
    }
    let is_up = |handle: &WorldHandle| handle.status.state().0 != WorldState::Failed;
    let Some(handle) = hosted.filter(is_up) else {
        app.note(&headers, &world, "loading a world");
        let handle = app.hosting.load(&world).await?;
        return Ok((StatusCode::ACCEPTED, Json(summary(&handle))).into_response());
    };
    app.running(&world)?;
    let wish = if let WantedState::Paused = state { Wish::Pause } else { Wish::Resume };
    handle.ask(wish, app.origin(&headers)).await?;
    Ok(Json(summary(&handle)).into_response())
}

/// Removes a world with all that is kept of it.
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    query: Parameters<Confirm>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    if app.hosting.world(&world).is_none() && !worlds::on_disk(&app.config.data.dir).contains(&world) {
        return Err(app.world(&world).map_or_else(|problem| problem, |_| Problem::not_found("it is gone")));
    }
    confirmed(query, &world)?;
    app.note(&headers, &world, "removing a world");
    app.hosting.remove(&world).await?;
    Ok(Json(json!({"world": world, "removed": true})))
}

impl App {
    /// What is done to worlds as a whole is in no world's log: who did it is told here.
    fn note(&self, headers: &HeaderMap, world: &str, what: &'static str) {
        let origin = self.origin(headers);
        tracing::info!(world, principal = origin.principal, request_id = origin.request_id, "{what}");
    }
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

/// The JSON Schema of a component.
pub(super) async fn component(
    State(app): State<Arc<App>>,
    Path((world, component)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let (_, running) = app.running(&world)?;
    let known = running.registry.component(&component).map_err(Problem::not_found)?;
    let column = &running.registry.columns()[known];
    let mut schema = column.json_schema();
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = column.name.into();
    schema["x-version"] = column.version.into();
    Ok(Json(schema))
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
