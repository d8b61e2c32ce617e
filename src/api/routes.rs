//! The one list of routes: dispatch, and what each of them is for.

use super::{App, bulk, changes, entities, inputs, past, process, query, systems, ticks, worlds};
use axum::{
    Router,
    routing::{MethodRouter, get, post},
};
use std::sync::Arc;

pub use crate::tokens::Role;

/// A route.
pub struct Route {
    /// The method.
    pub method: &'static str,
    /// The path, with its parameters in braces.
    pub path: &'static str,
    /// Who may use it.
    pub role: Role,
    /// What it is for.
    pub doc: &'static str,
    handler: fn() -> MethodRouter<Arc<App>>,
}

const fn route(
    method: &'static str,
    path: &'static str,
    role: Role,
    doc: &'static str,
    handler: fn() -> MethodRouter<Arc<App>>,
) -> Route {
    Route { method, path, role, doc, handler }
}

/// All of them.
#[rustfmt::skip]
pub const ROUTES: &[Route] = &[
    route("GET", "/livez", Role::Open, "200 while the process answers", || get(process::livez)),
    route("GET", "/readyz", Role::Open, "200 when every world can be used, else 503; ?verbose lists them", || get(process::readyz)),
    route("GET", "/metrics", Role::Viewer, "Metrics as OpenMetrics text", || get(process::metrics)),
    route("GET", "/v1/status", Role::Viewer, "The process and its worlds as one flat object", || get(process::status)),
    route("GET", "/v1/version", Role::Open, "The version and build id", || get(process::version)),
    route("GET", "/v1/config", Role::Admin, "The values in force and where each came from", || get(process::config)),
    route("POST", "/v1/shutdown", Role::Admin, "End the process in order, as SIGTERM does", || post(process::shutdown)),
    route("GET", "/v1/routes", Role::Open, "This list", || get(process::routes)),
    route("GET", "/v1/worlds", Role::Viewer, "All worlds", || get(worlds::list)),
    route("GET", "/v1/worlds/{w}", Role::Viewer, "A world", || get(worlds::one)),
    route("GET", "/v1/worlds/{w}/components", Role::Viewer, "The JSON Schema of every component", || get(worlds::components)),
    route("GET", "/v1/worlds/{w}/resources", Role::Viewer, "Every registered resource with its value", || get(worlds::resources)),
    route("GET", "/v1/worlds/{w}/systems", Role::Viewer, "The nodes of the plan with their times", || get(systems::list)),
    route("GET", "/v1/worlds/{w}/systems/graph", Role::Viewer, "The plan: order, edges, reasons", || get(systems::graph)),
    route("GET", "/v1/worlds/{w}/ticks", Role::Viewer, "The last ticks and how long each part took: ?last=20", || get(ticks::list)),
    route("GET", "/v1/worlds/{w}/ticks/{n}", Role::Viewer, "One of them", || get(ticks::one)),
    route("POST", "/v1/worlds/{w}/pause", Role::Operator, "Stop ticking", || post(ticks::pause)),
    route("POST", "/v1/worlds/{w}/resume", Role::Operator, "Go on ticking", || post(ticks::resume)),
    route("POST", "/v1/worlds/{w}/step", Role::Operator, "So many ticks of a paused world: {\"ticks\": n}", || post(ticks::step)),
    route("PUT", "/v1/worlds/{w}/rate", Role::Operator, "Another rate: {\"rate_hz\": x}, 0 as fast as possible", || axum::routing::put(ticks::rate)),
    route("GET", "/v1/worlds/{w}/entities", Role::Viewer, "Entities of a tick, a page at a time: ?with=&without=&where=needs.hunger>0.8&select=&sort=&near=x,y,r&bbox=&limit=&cursor=&at_tick=&min_tick=&count_only=; all rows with Accept: application/x-ndjson", || get(query::list)),
    route("POST", "/v1/worlds/{w}/query", Role::Viewer, "The same as a body, and sums: {\"aggregate\": [\"avg(needs.hunger)\"], \"group_by\": ...}", || post(query::post)),
    route("POST", "/v1/worlds/{w}/entities", Role::Operator, "Create one entity, or {\"entities\": [...]} as one batch", || post(entities::create)),
    route("POST", "/v1/worlds/{w}/inputs", Role::Operator, "Any input: {\"kind\": ..., \"payload\": ...}", || post(inputs::post)),
    route("GET", "/v1/worlds/{w}/inputs", Role::Viewer, "The inputs that the log still has, with who asked for them: ?from_seq=&limit=; next is the from_seq of the next page", || get(inputs::list)),
    route("GET", "/v1/worlds/{w}/inputs/kinds", Role::Viewer, "The kinds of input that the world knows", || get(inputs::kinds)),
    route("GET", "/v1/worlds/{w}/inputs/{id}", Role::Viewer, "What is known of an input: waiting, taken, or left behind on a former branch; its outcome where it came with an Idempotency-Key", || get(inputs::one)),
    route("GET", "/v1/worlds/{w}/entities/{uid}", Role::Viewer, "An entity with its components; ?at_tick= as it was, ?min_tick= not older than that", || get(entities::one)),
    route("GET", "/v1/worlds/{w}/changes", Role::Viewer, "Follow entities: one cut, then what changes, as server-sent events or NDJSON: ?with=&without=&where=&select=&near=x,y,r&bbox=&around=uid,r&after_tick=", || get(changes::follow)),
    route("PATCH", "/v1/worlds/{w}/entities/{uid}", Role::Operator, "Merge components into an entity (RFC 7396): {\"needs\": {\"hunger\": 0.5}}, null removes one; If-Match: its ETag", || axum::routing::patch(entities::patch)),
    route("DELETE", "/v1/worlds/{w}/entities/{uid}", Role::Operator, "Remove an entity; If-Match: its ETag", || axum::routing::delete(entities::delete)),
    route("PUT", "/v1/worlds/{w}/entities/{uid}/components/{c}", Role::Operator, "Set a component of an entity; what is not given gets its default", || axum::routing::put(entities::put_component)),
    route("DELETE", "/v1/worlds/{w}/entities/{uid}/components/{c}", Role::Operator, "Take a component from an entity", || axum::routing::delete(entities::delete_component)),
    route("GET", "/v1/worlds/{w}/entities/{uid}/history", Role::Viewer, "An entity over time: ?from=&to=, at the kept snapshots or with exact=true at each tick", || get(past::entity_history)),
    route("GET", "/v1/worlds/{w}/entities/{uid}/why", Role::Viewer, "What each system did to an entity in a tick, and why: ?tick=", || get(past::why)),
    route("GET", "/v1/worlds/{w}/inspect", Role::Viewer, "A tick: ?at=, and of it ?uid= or ?where=needs.hunger>0.8&limit=", || get(past::inspect)),
    route("GET", "/v1/worlds/{w}/branches", Role::Viewer, "The lines of history", || get(past::branches)),
    route("GET", "/v1/worlds/{w}/diff", Role::Viewer, "What differs: ?from=&to=&other_world=, ticks as 1200 or 0/1200 with the branch", || get(past::diff)),
    route("POST", "/v1/worlds/{w}/verify", Role::Operator, "Compute kept ticks again and compare every hash: {\"from\", \"to\", \"threads\"}", || post(past::verify)),
    route("GET", "/v1/worlds/{w}/snapshots", Role::Viewer, "The kept snapshots, newest first", || get(past::snapshots)),
    route("POST", "/v1/worlds/{w}/snapshots", Role::Operator, "Take a snapshot now", || post(past::create_snapshot)),
    route("GET", "/v1/worlds/{w}/snapshots/{id}/download", Role::Viewer, "A snapshot as a file", || get(past::download)),
    route("POST", "/v1/worlds/{w}/snapshots/{id}/restore", Role::Admin, "Go on from a snapshot on a new branch; needs ?confirm={w}", || post(past::restore_snapshot)),
    route("GET", "/v1/worlds/{w}/retention", Role::Viewer, "For how many seconds old snapshots, and the log with them, are kept", || get(past::retention)),
    route("PUT", "/v1/worlds/{w}/retention", Role::Admin, "Other times, also after a restart: {\"dense_secs\", \"sparse_every_secs\", \"keep_secs\"}; what is not given stays", || axum::routing::put(past::set_retention)),
    route("POST", "/v1/worlds/{w}/rewind", Role::Admin, "Go on from a former tick on a new branch: {\"tick\": n}; needs ?confirm={w}", || post(past::rewind)),
    route("POST", "/v1/worlds/{w}/fork", Role::Operator, "A new world of a former tick, beside this one: {\"at_tick\", \"name\"}", || post(past::fork)),
    route("POST", "/v1/backup", Role::Admin, "Copy all hosted worlds into a directory of the server's machine: {\"to\": \"/dir\"}", || post(past::back_up)),
    route("GET", "/v1/history/{id}", Role::Viewer, "What became of history work that took long", || get(bulk::job)),
];

/// The router of all routes.
pub(super) fn router() -> Router<Arc<App>> {
    ROUTES.iter().fold(Router::new(), |router, route| router.route(route.path, (route.handler)()))
}
