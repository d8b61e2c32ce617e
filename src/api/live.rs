//! The configuration in force, and those of its keys that may change while the server runs.

use super::{App, entities::read_json, problem::Problem};
use crate::{
    config::{Config, Key},
    logs,
};
use axum::{Json, body::Bytes, extract::State, http::HeaderMap};
use everworld_engine::column::Fault;
use parking_lot::RwLock;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The configuration in force.
pub(crate) struct Live(RwLock<InForce>);

struct InForce {
    config: Arc<Config>,
    /// Key by key, as it is shown.
    shown: Value,
}

impl Live {
    pub(super) fn new(config: &Arc<Config>, shown: Value) -> Self {
        Self(RwLock::new(InForce { config: config.clone(), shown }))
    }

    /// As it is now.
    pub(super) fn config(&self) -> Arc<Config> {
        self.0.read().config.clone()
    }

    /// Changes keys until the process ends; all of them, or none.
    pub(super) fn change(&self, values: &Map<String, Value>) -> Result<(), Vec<Fault>> {
        let mut in_force = self.0.write();
        let fault = |(path, message): (String, String)| Fault::new(format!("/{path}"), message);
        let changed = in_force.config.changed(values);
        let (config, keys): (Config, Vec<&Key>) =
            changed.map_err(|faults| faults.into_iter().map(fault).collect::<Vec<_>>())?;
        if config.logging.filter != in_force.config.logging.filter {
            logs::set_filter(config.logging.filter.as_str())
                .map_err(|why| vec![Fault::new("/logging.filter", why)])?;
        }
        for key in keys {
            let rows = in_force.shown.as_array_mut().into_iter().flatten();
            if let Some(row) = rows.into_iter().find(|row| row["key"] == key.path) {
                row["value"] = values[key.path].clone();
                row["source"] = "request".into();
            }
        }
        in_force.config = Arc::new(config);
        Ok(())
    }
}

/// The values in force, and where each came from. None of them is a secret: tokens are in a file of their own.
pub(super) async fn show(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({"items": app.live.0.read().shown, "next": null}))
}

/// Other values of keys of the scope `live`, until the process ends.
pub(super) async fn change(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let values: Map<String, Value> = read_json(&body)?;
    if values.is_empty() {
        return Err(Problem::malformed("expected keys with their values: {\"http.rate_per_sec\": 100}"));
    }
    app.live.change(&values).map_err(Problem::invalid)?;
    let origin = app.origin(&headers);
    let (principal, request_id) = (origin.principal, origin.request_id);
    let values = json!(values).to_string();
    tracing::info!(values, principal, request_id, "another configuration");
    Ok(show(State(app)).await)
}
