//! The nodes of the plan.

use super::{App, problem::Problem};
use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
) -> Result<Json<Value>, Problem> {
    let (handle, running) = app.running(&world)?;
    let (plan, stats) = (&running.plan, handle.status.systems());
    let item = |(i, node): (usize, &everworld_engine::PlanNode)| {
        let mut item = serde_json::to_value(node).unwrap_or_default();
        let touching = |edge: &&everworld_engine::Edge| edge.from == i || edge.to == i;
        let conflicts: Vec<&str> = plan
            .edges
            .iter()
            .filter(touching)
            .map(|edge| plan.nodes[if edge.from == i { edge.to } else { edge.from }].name.as_str())
            .collect();
        item["conflicts_with"] = conflicts.into();
        if let (Some(members), Some(Value::Object(figures))) =
            (item.as_object_mut(), stats.get(i).and_then(|stats| serde_json::to_value(stats).ok()))
        {
            members.extend(figures);
        }
        item
    };
    let items: Vec<Value> = plan.nodes.iter().enumerate().map(item).collect();
    Ok(Json(json!({"items": items, "next": null, "tick": handle.status.tick()})))
}

pub(super) async fn graph(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
) -> Result<Json<Value>, Problem> {
    let (_, running) = app.running(&world)?;
    Ok(Json(serde_json::to_value(&*running.plan).unwrap_or_default()))
}
