//! Worlds: what they are and how they are.

use super::{
    App,
    entities::read_json,
    past::{Confirm, Parameters, confirmed},
    problem::Problem,
};
use crate::{
    host::{Refused, Wish, WorldHandle},
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
    let mut items: Vec<Value> = app.hosting.worlds().iter().map(summary).collect();
    let hosting = app.hosting.clone();
    let stored = tokio::task::spawn_blocking(move || hosting.stored()).await;
    let stored = stored.map_err(|_| Problem::failed("listing the worlds panicked"))?;
    for (name, stored) in stored? {
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
    app.world(&world).map(|world| Json(summary(&world)))
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
pub(super) async fn create(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, Problem> {
    let new: NewWorld = read_json(&body)?;
    let record = new.record(&app)?;
    app.may_host()?;
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
        app.hosting.unload(&world).await?;
        return Ok(Json(json!({"world": world, "state": "stored"})).into_response());
    }
    let is_up = |handle: &WorldHandle| handle.status.state().0 != WorldState::Failed;
    let Some(handle) = hosted.filter(is_up) else {
        app.may_host()?;
        let handle = app.hosting.load(&world).await?;
        return Ok((StatusCode::ACCEPTED, Json(summary(&handle))).into_response());
    };
    app.running(&world)?;
    let wish = if let WantedState::Paused = state { Wish::Pause } else { Wish::Resume };
    match handle.ask(wish, app.origin(&headers)).await {
        // It is so already.
        Ok(_) | Err(Refused::WrongState(_)) => Ok(Json(summary(&handle)).into_response()),
        Err(refused) => Err(refused.into()),
    }
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
    let origin = app.origin(&headers);
    tracing::info!(world, principal = origin.principal, request_id = origin.request_id, "removing a world");
    app.hosting.remove(&world).await?;
    Ok(Json(json!({"world": world, "removed": true})))
}

impl App {
    /// Refuses one world more than may be hosted (L1).
    fn may_host(&self) -> Result<(), Problem> {
        let max = self.config.data.worlds_max;
        if self.hosting.worlds().len() < max {
            return Ok(());
        }
        Err(Problem::wrong_state(format!("{max} worlds are hosted already (data.worlds_max)")))
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
