//! The process: is it alive, is it ready, what is it, how is it.

use super::{App, problem::Problem, routes::ROUTES};
use crate::status::WorldState;
use axum::{
    Json,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
};

pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Ready: each world is there, and nobody is about to stop.
pub(super) async fn readyz(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Response {
    let hosted = app.hosting.worlds();
    let worlds: Vec<Value> = hosted
        .iter()
        .map(|world| {
            let (state, reason) = world.status.state();
            json!({
                "world": world.name,
                "state": state,
                "reason": reason,
                "tick": world.status.tick(),
                "recovery_target_tick": world.status.recovery_target(),
                "recovery": world.status.recovery(),
                "tick_age_ms": world.status.age_nanos() / 1_000_000,
                "damaged_files": world.status.scrub().damaged,
            })
        })
        .collect();
    let usable = |state| matches!(state, WorldState::Running | WorldState::Degraded | WorldState::Paused);
    let draining = app.draining.load(Relaxed);
    let ready = !draining && hosted.iter().all(|world| usable(world.status.state().0));
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose =
        query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    let mut response = if verbose {
        (status, Json(json!({"ready": ready, "draining": draining, "worlds": worlds}))).into_response()
    } else {
        (status, if ready { "ok\n" } else { "not ready\n" }).into_response()
    };
    if !ready {
        response.headers_mut().insert(header::RETRY_AFTER, 1.into());
    }
    response
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let text = app.metrics.encode().map_err(|_| Problem::unavailable("a metric could not be encoded"))?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}

pub(super) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION"), "build_id": crate::spine::BUILD_ID_HEX}))
}

/// Ends the process in order, as SIGTERM does.
pub(super) async fn shutdown(State(app): State<Arc<App>>, headers: HeaderMap) -> (StatusCode, Json<Value>) {
    let origin = app.origin(&headers);
    tracing::info!(principal = origin.principal, request_id = origin.request_id, "asked to shut down");
    app.shutdown.notify_one();
    (StatusCode::ACCEPTED, Json(json!({"stopping": true})))
}

/// One flat object, for `curl | jq`: of the world that the server was told to host, and of the process.
pub(super) async fn status(State(app): State<Arc<App>>) -> Json<Value> {
    let mut flat = Map::new();
    if let Some(Value::Object(members)) = app.hosting.main().as_ref().map(super::worlds::summary) {
        flat.extend(members);
    }
    flat.insert("worlds".into(), app.hosting.worlds().len().into());
    flat.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    flat.insert("uptime_secs".into(), (crate::clock::now_nanos() / 1_000_000_000).into());
    flat.insert("draining".into(), app.draining.load(Relaxed).into());
    Json(flat.into())
}

// Boxed: the list names this function, whose type must not depend on the list.
pub(super) fn routes() -> Pin<Box<dyn Future<Output = Json<Value>> + Send>> {
    let one = |route: &super::Route| {
        let role = format!("{:?}", route.role).to_lowercase();
        json!({"method": route.method, "path": route.path, "role": role, "doc": route.doc})
    };
    Box::pin(std::future::ready(Json(ROUTES.iter().map(one).collect())))
}
