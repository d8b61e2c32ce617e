//! The one list of routes: dispatch, and what each of them is for.

use super::{
    App, bulk, changes, entities, events, imports, inputs, live, logs, map, past, process, query,
    spec::{self, Answer, LIMIT_MAX, Param},
    statistics, story, systems, ticks, traces, worlds,
};
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
    pub(super) query: &'static [Param],
    /// The shape of its body, and whether there must be one.
    pub(super) body: Option<(&'static str, bool)>,
    pub(super) answers: &'static [Answer],
    handler: fn() -> MethodRouter<Arc<App>>,
}

const fn route(
    method: &'static str,
    path: &'static str,
    role: Role,
    doc: &'static str,
    handler: fn() -> MethodRouter<Arc<App>>,
) -> Route {
    Route { method, path, role, doc, query: &[], body: None, answers: &[], handler }
}

impl Route {
    const fn query(mut self, query: &'static [Param]) -> Self {
        self.query = query;
        self
    }

    const fn takes(mut self, schema: &'static str) -> Self {
        self.body = Some((schema, true));
        self
    }

    const fn may_take(mut self, schema: &'static str) -> Self {
        self.body = Some((schema, false));
        self
    }

    const fn gives(mut self, answers: &'static [Answer]) -> Self {
        self.answers = answers;
        self
    }
}

/// Of a question about entities.
const QUESTION: &[Param] = &[
    Param::text("with", "needs,position"),
    Param::text("without", "asleep"),
    Param::text("where", "needs.hunger>0.8"),
    Param::text("select", "needs.hunger,position"),
    Param::text("sort", "-needs.hunger"),
    Param::numbers("near", 3),
    Param::numbers("bbox", 4),
    Param::text("aggregate", "avg(needs.hunger)"),
    Param::text("group_by", "faction.id"),
    Param::whole("limit", 1, LIMIT_MAX as u64),
    Param::text("cursor", "0a1b"),
    Param::place("at_tick"),
    Param::whole("min_tick", 0, TICK_MAX),
    Param::flag("count_only"),
];
const FOLLOWED: &[Param] = &[
    Param::text("with", "needs,position"),
    Param::text("without", "asleep"),
    Param::text("where", "needs.hunger>0.8"),
    Param::text("select", "needs.hunger,position"),
    Param::numbers("near", 3),
    Param::numbers("bbox", 4),
    Param::text("around", "4711,20"),
    Param::whole("after_tick", 0, TICK_MAX),
];
const MAP: &[Param] = &[
    Param::one_of("layer", &["density", "points"]),
    Param::numbers("bbox", 4),
    Param::whole("w", 1, map::SIDE_MAX as u64),
    Param::whole("h", 1, map::SIDE_MAX as u64),
    Param::whole("limit", 1, map::POINTS_MAX as u64),
    Param::text("with", "needs,position"),
    Param::text("without", "asleep"),
    Param::text("where", "needs.hunger>0.8"),
    Param::text("color_by", "needs.hunger"),
];
/// Of a write.
const WRITE: &[Param] =
    &[Param::one_of("ack", &["durable", "applied"]), Param::whole("at_tick", 0, u64::MAX)];
const CONFIRM: &[Param] = &[Param::text("confirm", "town").required()];
/// Ticks and numbers of inputs fit into the numbers of JSON.
const TICK_MAX: u64 = 1 << 53;
const ACCEPTED: &[Answer] = &[Answer::json(202, "Accepted")];
const TICKED: &[Answer] = &[Answer::json(202, "Ticked")];

/// All of them.
#[rustfmt::skip]
pub const ROUTES: &[Route] = &[
    route("GET", "/livez", Role::Open, "200 while the process answers", || get(process::livez))
        .gives(&[Answer::text("text/plain")]),
    route("GET", "/readyz", Role::Open, "200 when every world can be used, else 503; ?verbose lists them", || get(process::readyz))
        .query(&[Param::switch("verbose")]).gives(&[Answer::text("text/plain"), Answer::json(200, "Ready"), Answer::json(503, "Ready"), Answer { status: 503, ..Answer::text("text/plain") }]),
    route("GET", "/metrics", Role::Viewer, "Metrics as OpenMetrics text", || get(process::metrics))
        .gives(&[Answer::text("application/openmetrics-text")]),
    route("GET", "/v1/status", Role::Viewer, "The process and its worlds as one flat object", || get(process::status))
        .gives(&[Answer::json(200, "Status")]),
    route("GET", "/v1/version", Role::Open, "The version and build id", || get(process::version))
        .gives(&[Answer::json(200, "Version")]),
    route("GET", "/v1/config", Role::Admin, "The values in force and where each came from", || get(live::show))
        .gives(&[Answer::json(200, "ConfigList")]),
    route("PATCH", "/v1/config", Role::Admin, "Other values of keys of the scope live, until the process ends: {\"http.rate_per_sec\": 100}", || axum::routing::patch(live::change))
        .takes("ConfigChange").gives(&[Answer::json(200, "ConfigList")]),
    route("POST", "/v1/shutdown", Role::Admin, "End the process in order, as SIGTERM does", || post(process::shutdown))
        .gives(&[Answer::json(202, "Stopping")]),
    route("GET", "/v1/openapi.json", Role::Open, "All of this as an OpenAPI 3.1 document", || get(spec::show))
        .gives(&[Answer::json(200, "OpenApi")]),
    route("GET", "/v1/logs", Role::Operator, "The last lines of the program's log, or with Accept: text/event-stream or application/x-ndjson a stream of them: ?after=&limit=", || get(logs::list))
        .query(&[Param::whole("after", 0, TICK_MAX), Param::whole("limit", 1, LIMIT_MAX as u64)])
        .gives(&[Answer::json(200, "LineList"), Answer::text("text/event-stream"), Answer::text("application/x-ndjson")]),
    route("PUT", "/v1/logs/filter", Role::Operator, "What is logged, until the process ends: {\"filter\": \"info,everworld=debug\"}", || axum::routing::put(logs::set_filter))
        .takes("LogFilter").gives(&[Answer::json(200, "LogFilter")]),
    route("GET", "/v1/routes", Role::Open, "This list", || get(process::routes))
        .gives(&[Answer::json(200, "Routes")]),
    route("GET", "/v1/worlds", Role::Viewer, "All worlds", || get(worlds::list))
        .gives(&[Answer::json(200, "WorldList")]),
    route("POST", "/v1/worlds", Role::Operator, "Make a world and host it, from now on at each start: {\"name\", \"scenario\": \"town\"} or the text of one in scenario_toml; seed, population", || post(worlds::create))
        .takes("NewWorld").gives(&[Answer::json(201, "World")]),
    route("PATCH", "/v1/worlds/{w}", Role::Operator, "{\"state\": \"running\"} or paused; stored ends its host and leaves it in the data directory, running loads it again", || axum::routing::patch(worlds::change))
        .takes("WorldChange").gives(&[Answer::json(200, "World"), Answer::json(202, "World")]),
    route("DELETE", "/v1/worlds/{w}", Role::Admin, "Remove a world, hosted or not, with all that is kept of it; needs ?confirm={w}", || axum::routing::delete(worlds::remove))
        .query(CONFIRM).gives(&[Answer::json(200, "Removed")]),
    route("GET", "/v1/worlds/{w}", Role::Viewer, "A world", || get(worlds::one))
        .gives(&[Answer::json(200, "World")]),
    route("GET", "/v1/worlds/{w}/components", Role::Viewer, "The JSON Schema of every component", || get(worlds::components))
        .gives(&[Answer::json(200, "ComponentList")]),
    route("GET", "/v1/worlds/{w}/components/{c}", Role::Viewer, "One of them, as JSON Schema 2020-12", || get(worlds::component))
        .gives(&[Answer::json(200, "ComponentSchema")]),
    route("GET", "/v1/worlds/{w}/resources", Role::Viewer, "Every registered resource with its value", || get(worlds::resources))
        .gives(&[Answer::json(200, "ResourceList")]),
    route("GET", "/v1/worlds/{w}/systems", Role::Viewer, "The nodes of the plan with their times", || get(systems::list))
        .gives(&[Answer::json(200, "SystemList")]),
    route("PATCH", "/v1/worlds/{w}/systems/{s}", Role::Operator, "Let a system run or not, or in every n-th tick only: {\"enabled\": false}, {\"every\": 4, \"offset\": 1}; an input, since results depend on it", || axum::routing::patch(systems::patch))
        .query(WRITE).takes("SystemSetting").gives(ACCEPTED),
    route("POST", "/v1/worlds/{w}/capture", Role::Operator, "A trace of the next ticks for Perfetto or chrome://tracing: {\"ticks\": 10}; spans of systems by thread, what they waited for, what was left out and why, the critical path; of those ticks that come within 8 s", || post(traces::capture))
        .may_take("Capture").gives(&[Answer::json(200, "Trace")]),
    route("GET", "/v1/worlds/{w}/map", Role::Viewer, "Where entities are: ?layer=density counts them by cell of w x h, points tells the places of some; ?bbox=&with=&without=&where=&color_by=needs.hunger; with Accept: application/octet-stream as little-endian numbers", || get(map::show))
        .query(MAP).gives(&[Answer::json(200, "Map"), Answer::bytes("application/octet-stream")]),
    route("GET", "/v1/worlds/{w}/systems/graph", Role::Viewer, "The plan: order, edges, reasons", || get(systems::graph))
        .gives(&[Answer::json(200, "Plan")]),
    route("GET", "/v1/worlds/{w}/ticks", Role::Viewer, "The last ticks and how long each part took: ?last=20", || get(ticks::list))
        .query(&[Param::whole("last", 1, 100_000)]).gives(&[Answer::json(200, "TickList")]),
    route("GET", "/v1/worlds/{w}/ticks/{n}", Role::Viewer, "One of them", || get(ticks::one))
        .gives(&[Answer::json(200, "TickTimes")]),
    route("POST", "/v1/worlds/{w}/pause", Role::Operator, "Stop ticking", || post(ticks::pause))
        .gives(TICKED),
    route("POST", "/v1/worlds/{w}/resume", Role::Operator, "Go on ticking", || post(ticks::resume))
        .gives(TICKED),
    route("POST", "/v1/worlds/{w}/step", Role::Operator, "So many ticks of a paused world: {\"ticks\": n}, or {\"until\": tick}", || post(ticks::step))
        .may_take("Step").gives(TICKED),
    route("PUT", "/v1/worlds/{w}/rate", Role::Operator, "Another rate: {\"rate_hz\": x}, 0 as fast as possible; or {\"mode\": \"fast\"}, manual (paused), realtime with its rate_hz", || axum::routing::put(ticks::rate))
        .takes("Rate").gives(TICKED),
    route("GET", "/v1/worlds/{w}/entities", Role::Viewer, "Entities of a tick, a page at a time: ?with=&without=&where=needs.hunger>0.8&select=&sort=&near=x,y,r&bbox=&limit=&cursor=&at_tick=&min_tick=&count_only=; all rows, in no order, with Accept: application/x-ndjson, text/csv or application/vnd.apache.arrow.stream", || get(query::list))
        .query(QUESTION).gives(&[Answer::json(200, "EntityList"), Answer::text("application/x-ndjson"), Answer::text("text/csv"), Answer::bytes("application/vnd.apache.arrow.stream")]),
    route("POST", "/v1/worlds/{w}/query", Role::Viewer, "The same as a body, and sums: {\"aggregate\": [\"avg(needs.hunger)\"], \"group_by\": ...}", || post(query::post))
        .takes("Question").gives(&[Answer::json(200, "EntityList"), Answer::text("application/x-ndjson"), Answer::text("text/csv"), Answer::bytes("application/vnd.apache.arrow.stream")]),
    route("POST", "/v1/worlds/{w}/entities", Role::Operator, "Create one entity, or {\"entities\": [...]} as one batch", || post(entities::create))
        .query(WRITE).takes("NewEntities").gives(ACCEPTED),
    route("POST", "/v1/worlds/{w}/inputs", Role::Operator, "Any input: {\"kind\": ..., \"payload\": ...}; with Content-Type: application/x-ndjson up to 10,000 of them, one on each line, each may have an idempotency_key", || post(inputs::post))
        .query(WRITE).takes("NewInput").gives(&[Answer::json(202, "Taken")]),
    route("GET", "/v1/worlds/{w}/inputs", Role::Viewer, "The inputs that the log still has, with who asked for them: ?from_seq=&limit=; next is the from_seq of the next page", || get(inputs::list))
        .query(&[Param::whole("from_seq", 0, TICK_MAX), Param::whole("limit", 1, LIMIT_MAX as u64)]).gives(&[Answer::json(200, "InputList")]),
    route("GET", "/v1/worlds/{w}/inputs/kinds", Role::Viewer, "The kinds of input that the world knows", || get(inputs::kinds))
        .gives(&[Answer::json(200, "InputKindList")]),
    route("GET", "/v1/worlds/{w}/inputs/{id}", Role::Viewer, "What is known of an input: waiting, taken, or left behind on a former branch; its outcome where it came with an Idempotency-Key", || get(inputs::one))
        .gives(&[Answer::json(200, "InputFate")]),
    route("GET", "/v1/worlds/{w}/entities/{uid}", Role::Viewer, "An entity with its components; ?at_tick= as it was, ?min_tick= not older than that", || get(entities::one))
        .query(&[Param::place("at_tick"), Param::whole("min_tick", 0, TICK_MAX)]).gives(&[Answer::json(200, "Entity"), Answer::json(202, "Job"), Answer::empty(304)]),
    route("GET", "/v1/worlds/{w}/events", Role::Viewer, "What happens, once it may be seen: ?topic=tick,input,entity,job,snapshot,system,state,alert, or what systems of this world emit&entity=&after=&limit=; a page of what is kept, or with Accept: text/event-stream or application/x-ndjson a stream", || get(events::list))
        .query(&[Param::text("topic", "input,alert"), Param::whole("entity", 0, i64::MAX as u64), Param::id("after"), Param::whole("limit", 1, LIMIT_MAX as u64)])
        .gives(&[Answer::json(200, "EventList"), Answer::text("text/event-stream"), Answer::text("application/x-ndjson")]),
    route("GET", "/v1/worlds/{w}/statistics", Role::Viewer, "What worlds of this kind are measured by, sampled each statistics.every_secs: the newest, or behind ?after=&limit=; a page of what is kept, or with Accept: text/event-stream or application/x-ndjson a stream", || get(statistics::list))
        .query(&[Param::id("after"), Param::whole("limit", 1, LIMIT_MAX as u64)])
        .gives(&[Answer::json(200, "StatisticsList"), Answer::text("text/event-stream"), Answer::text("application/x-ndjson")]),
    route("GET", "/v1/worlds/{w}/changes", Role::Viewer, "Follow entities: one cut, then what changes, as server-sent events or NDJSON: ?with=&without=&where=&select=&near=x,y,r&bbox=&around=uid,r&after_tick=", || get(changes::follow))
        .query(FOLLOWED).gives(&[Answer::text("text/event-stream"), Answer::text("application/x-ndjson")]),
    route("POST", "/v1/worlds/{w}/import", Role::Admin, "A population, with Content-Type: application/x-ndjson, an entity on each line, or text/csv with a header of fields by their paths, as they are exported; ?prototype= of rows that name none. All is looked at before the first row is taken; with an Idempotency-Key it can be tried again", || post(imports::post))
        .query(&[Param::text("prototype", "townsman"), Param::whole("at_tick", 0, u64::MAX)]).takes("Population").gives(&[Answer::json(202, "Taken")]),
    route("PATCH", "/v1/worlds/{w}/entities/{uid}", Role::Operator, "Merge components into an entity (RFC 7396): {\"needs\": {\"hunger\": 0.5}}, null removes one; If-Match: its ETag", || axum::routing::patch(entities::patch))
        .query(WRITE).takes("Components").gives(ACCEPTED),
    route("DELETE", "/v1/worlds/{w}/entities/{uid}", Role::Operator, "Remove an entity; If-Match: its ETag", || axum::routing::delete(entities::delete))
        .query(WRITE).gives(ACCEPTED),
    route("PUT", "/v1/worlds/{w}/entities/{uid}/components/{c}", Role::Operator, "Set a component of an entity; what is not given gets its default", || axum::routing::put(entities::put_component))
        .query(WRITE).takes("Component").gives(ACCEPTED),
    route("DELETE", "/v1/worlds/{w}/entities/{uid}/components/{c}", Role::Operator, "Take a component from an entity", || axum::routing::delete(entities::delete_component))
        .query(WRITE).gives(ACCEPTED),
    route("GET", "/v1/worlds/{w}/entities/{uid}/history", Role::Viewer, "An entity over time: ?from=&to=, at the kept snapshots or with exact=true at each tick", || get(past::entity_history))
        .query(&[Param::place("from"), Param::place("to"), Param::flag("exact")]).gives(&[Answer::json(200, "EntityHistory"), Answer::json(202, "Job")]),
    route("GET", "/v1/worlds/{w}/entities/{uid}/why", Role::Viewer, "What each system did to an entity in a tick, and why: ?tick=", || get(past::why))
        .query(&[Param::place("tick").required()]).gives(&[Answer::json(200, "Explained"), Answer::json(202, "Job")]),
    route("GET", "/v1/worlds/{w}/chronicle", Role::Viewer, "What happened to the cast, as a story: ?from=&to= are ticks, ?about= is one of the cast", || get(story::chronicle))
        .query(&[Param::whole("from", 0, i64::MAX as u64), Param::whole("to", 0, i64::MAX as u64), Param::text("about", "Marta Vell")]).gives(&[Answer::json(200, "Chronicle"), Answer::json(202, "Job")]),
    route("GET", "/v1/worlds/{w}/characters", Role::Viewer, "The cast", || get(story::characters))
        .gives(&[Answer::json(200, "CharacterList"), Answer::json(202, "Job")]),
    route("GET", "/v1/worlds/{w}/characters/{name}", Role::Viewer, "Somebody, by name or Uid: who they are, what they feel, want and remember, whom they like, and why they do what they do now", || get(story::character))
        .gives(&[Answer::json(200, "Character"), Answer::json(202, "Job")]),
    route("GET", "/v1/worlds/{w}/characters/{name}/memories", Role::Viewer, "What somebody remembers, what comes to mind first", || get(story::memories))
        .gives(&[Answer::json(200, "MemoryList"), Answer::json(202, "Job")]),
    route("GET", "/v1/worlds/{w}/inspect", Role::Viewer, "A tick: ?at=, and of it ?uid= or ?where=needs.hunger>0.8&limit=", || get(past::inspect))
        .query(&[Param::place("at"), Param::whole("uid", 0, i64::MAX as u64), Param::text("where", "needs.hunger>0.8"), Param::whole("limit", 0, LIMIT_MAX as u64)]).gives(&[Answer::json(200, "Inspected"), Answer::json(202, "Job")]),
    route("GET", "/v1/worlds/{w}/branches", Role::Viewer, "The lines of history", || get(past::branches))
        .gives(&[Answer::json(200, "BranchList")]),
    route("GET", "/v1/worlds/{w}/diff", Role::Viewer, "What differs: ?from=&to=&other_world=, ticks as 1200 or 0/1200 with the branch", || get(past::diff))
        .query(&[Param::place("from").required(), Param::place("to"), Param::text("other_world", "town-2"), Param::whole("limit", 0, LIMIT_MAX as u64)]).gives(&[Answer::json(200, "Diff"), Answer::json(202, "Job")]),
    route("POST", "/v1/worlds/{w}/verify", Role::Operator, "Compute kept ticks again and compare every hash: {\"from\", \"to\", \"threads\"}", || post(past::verify))
        .may_take("Verify").gives(&[Answer::json(200, "Verified"), Answer::json(202, "Job")]),
    route("GET", "/v1/worlds/{w}/snapshots", Role::Viewer, "The kept snapshots, newest first", || get(past::snapshots))
        .gives(&[Answer::json(200, "SnapshotList")]),
    route("POST", "/v1/worlds/{w}/snapshots", Role::Operator, "Take a snapshot now", || post(past::create_snapshot))
        .gives(&[Answer::json(200, "Snapshot")]),
    route("GET", "/v1/worlds/{w}/snapshots/{id}/download", Role::Viewer, "A snapshot as a file", || get(past::download))
        .gives(&[Answer::bytes("application/octet-stream")]),
    route("POST", "/v1/worlds/{w}/snapshots/{id}/restore", Role::Admin, "Go on from a snapshot on a new branch; needs ?confirm={w}", || post(past::restore_snapshot))
        .query(CONFIRM).gives(&[Answer::json(200, "Rewound")]),
    route("GET", "/v1/worlds/{w}/retention", Role::Viewer, "For how many seconds old snapshots, and the log with them, are kept", || get(past::retention))
        .gives(&[Answer::json(200, "Retention")]),
    route("PUT", "/v1/worlds/{w}/retention", Role::Admin, "Other times, also after a restart: {\"dense_secs\", \"sparse_every_secs\", \"keep_secs\"}; what is not given stays", || axum::routing::put(past::set_retention))
        .takes("NewRetention").gives(&[Answer::json(200, "Retention")]),
    route("POST", "/v1/worlds/{w}/rewind", Role::Admin, "Go on from a former tick on a new branch: {\"tick\": n}; needs ?confirm={w}", || post(past::rewind))
        .query(CONFIRM).takes("Rewind").gives(&[Answer::json(200, "Rewound")]),
    route("POST", "/v1/worlds/{w}/fork", Role::Operator, "A new world of a former tick, beside this one: {\"at_tick\", \"name\"}, and inputs, [{\"kind\", \"payload\", \"at_tick\"?}], that its first tick takes", || post(past::fork))
        .takes("Fork").gives(&[Answer::json(200, "Forked"), Answer::json(202, "Job")]),
    route("POST", "/v1/backup", Role::Admin, "Copy all hosted worlds into a directory of the server's machine: {\"to\": \"/dir\"}", || post(past::back_up))
        .takes("Backup").gives(&[Answer::json(200, "BackedUp"), Answer::json(202, "Job")]),
    route("GET", "/v1/history/{id}", Role::Viewer, "What became of history work that took long", || get(bulk::job))
        .gives(&[Answer::json(200, "Job")]),
];

/// The router of all routes.
pub(super) fn router() -> Router<Arc<App>> {
    ROUTES.iter().fold(Router::new(), |router, route| router.route(route.path, (route.handler)()))
}
