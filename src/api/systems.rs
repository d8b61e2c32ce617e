//! The nodes of the plan: what they are, how long they take, and whether and how often they run.

use super::{
    App,
    entities::read_json,
    inputs::{Wait, Write, WriteQuery},
    problem::Problem,
};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::HeaderMap,
    response::Response,
};
use everworld_engine::{Edge, Image, Input as _, NodeKind, Plan, PlanNode, SetSystem, SystemSettings};
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
) -> Result<Json<Value>, Problem> {
    let (handle, running) = app.running(&world)?;
    let view = running.view().await.ok_or_else(|| Problem::unavailable("there is no view yet"))?;
    let (plan, stats, settings) = (&running.plan, handle.status.systems(), settings(&view));
    let quarantined = handle.status.quarantined();
    let item = |(i, node): (usize, &PlanNode)| {
        let mut item = serde_json::to_value(node).unwrap_or_default();
        item["conflicts_with"] = conflicts(plan, i).into();
        let set = settings.systems.get(&node.name).copied().unwrap_or_default();
        let is_quarantined = quarantined.contains(&node.name);
        item["enabled"] = (!set.disabled && !is_quarantined).into();
        item["quarantined"] = is_quarantined.into();
        if let Some((every, offset)) = set.rate {
            item["declared"] = json!({"every": node.every, "offset": node.offset});
            item["every"] = every.into();
            item["offset"] = offset.into();
        }
        if let (Some(members), Some(Value::Object(figures))) =
            (item.as_object_mut(), stats.get(i).and_then(|stats| serde_json::to_value(stats).ok()))
        {
            members.extend(figures);
        }
        item
    };
    let items: Vec<Value> = plan.nodes.iter().enumerate().map(item).collect();
    Ok(Json(json!({"items": items, "next": null, "tick": view.tick})))
}

/// The names of the nodes that do not run beside one.
fn conflicts(plan: &Plan, node: usize) -> Vec<&str> {
    let other = |edge: &Edge| match node {
        from if edge.from == from => Some(edge.to),
        to if edge.to == to => Some(edge.from),
        _ => None,
    };
    plan.edges.iter().filter_map(other).map(|other| plan.nodes[other].name.as_str()).collect()
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
