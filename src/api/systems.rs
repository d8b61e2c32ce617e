//! The nodes of the plan: what they are, how long they take, and whether and how often they run.

use super::{
    App,
    entities::read_json,
    inputs::{Wait, Write, WriteQuery},
    media,
    problem::Problem,
    views::{Page, question_id},
};
use crate::status::SystemStats;
use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use everworld_engine::{Edge, Image, Input as _, NodeKind, Plan, PlanNode, SetSystem, SystemSettings, Tick};
use serde::Serialize;
use serde_json::{Map, Value};
use std::{borrow::Cow, sync::Arc};

/// A node as an answer has it.
#[derive(Serialize)]
struct Item<'a> {
    #[serde(flatten)]
    node: Cow<'a, PlanNode>,
    conflicts_with: Vec<&'a str>,
    enabled: bool,
    quarantined: bool,
    /// The rate that it was made with, where another one was set.
    #[serde(skip_serializing_if = "Option::is_none")]
    declared: Option<Rate>,
    #[serde(flatten)]
    stats: Option<&'a SystemStats>,
}

#[derive(Serialize)]
struct Rate {
    every: u64,
    offset: u64,
}

#[derive(Serialize)]
struct Items<'a> {
    items: Vec<Item<'a>>,
    /// There is never more of it.
    next: Option<String>,
    tick: Tick,
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
) -> Result<Response, Problem> {
    let (handle, running) = app.running(&world)?;
    let view = running.view().await.ok_or_else(|| Problem::unavailable("there is no view yet"))?;
    let ((stats_at, stats), quarantined) = (handle.status.systems(), handle.status.quarantined());
    let id = question_id(&("systems", stats_at, &quarantined));
    if let Some(known) = app.answers.get(&view, id) {
        return Ok(media::json(known.bytes).into_response());
    }
    let (plan, settings) = (&running.plan, settings(&view));
    let mut items = Vec::with_capacity(plan.nodes.len());
    for ((i, node), conflicts_with) in plan.nodes.iter().enumerate().zip(conflicts(plan)) {
        let set = settings.systems.get(&node.name).copied().unwrap_or_default();
        let is_quarantined = quarantined.contains(&node.name);
        let rate = set.rate.map(|(every, offset)| PlanNode { every, offset, ..node.clone() });
        items.push(Item {
            conflicts_with,
            enabled: !set.disabled && !is_quarantined,
            quarantined: is_quarantined,
            declared: rate.as_ref().map(|_| Rate { every: node.every, offset: node.offset }),
            node: rate.map_or(Cow::Borrowed(node), Cow::Owned),
            stats: stats.get(i),
        });
    }
    let bytes = media::to_json(&Items { items, next: None, tick: view.tick })?;
    app.answers.keep(&view, id, &Page { bytes: bytes.clone(), has_next: false });
    Ok(media::json(bytes).into_response())
}

/// The names of the nodes that do not run beside each.
fn conflicts(plan: &Plan) -> Vec<Vec<&str>> {
    let mut conflicts = vec![Vec::new(); plan.nodes.len()];
    for Edge { from, to, .. } in &plan.edges {
        conflicts[*from].push(plan.nodes[*to].name.as_str());
        conflicts[*to].push(plan.nodes[*from].name.as_str());
    }
    conflicts
}

/// What was set of systems, at the tick of the view.
fn settings(view: &Image) -> SystemSettings {
    let stored = view.resource(<SystemSettings as everworld_engine::StateResource>::NAME);
    stored.and_then(|stored| postcard::from_bytes(&stored.bytes).ok()).unwrap_or_default()
}

pub(super) async fn graph(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
) -> Result<Json<Value>, Problem> {
    let (_, running) = app.running(&world)?;
    Ok(Json(serde_json::to_value(&*running.plan).unwrap_or_default()))
}

/// Lets a system run or not, and at another rate: an input, since results depend on it.
pub(super) async fn patch(
    State(app): State<Arc<App>>,
    Path((world, system)): Path<(String, String)>,
    query: Result<Query<WriteQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let mut setting: Map<String, Value> = read_json(&body)?;
    let write = Write::new(&app, &world, query, &headers)?;
    let is_it =
        |node: &&PlanNode| node.name == system && matches!(node.kind, NodeKind::System | NodeKind::Exclusive);
    if !write.running.plan.nodes.iter().any(|node| is_it(&node)) {
        return Err(Problem::not_found(format!("world \"{world}\" has no system \"{system}\"")));
    }
    if setting.insert("system".into(), system.into()).is_some() {
        return Err(Problem::malformed("system: it is named by the path"));
    }
    write.submit(SetSystem::KIND, &setting.into(), str::to_owned, Wait::AsAsked).await
}
