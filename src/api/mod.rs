//! The HTTP admin API: axum as the router on hyper-util's connections (A1).
//!
//! Handlers read the mirror and published state only (T2); a write is an input. Whatever is asked, the tick does
//! not wait for it. [`routes::ROUTES`] is the one list of routes.

mod auth;
mod bulk;
mod changes;
mod document;
mod entities;
mod events;
mod follow;
mod imports;
mod inputs;
mod live;
mod logs;
mod map;
mod media;
mod past;
mod problem;
mod process;
mod query;
mod routes;
mod rows;
mod server;
mod spec;
mod statistics;
mod story;
mod systems;
mod ticks;
mod tls;
mod traces;
mod views;
mod worlds;

pub use document::document;
pub use routes::{ROUTES, Role, Route};
pub use server::{Served, Server, Signals};
pub use spec::openapi;
pub use tls::Tls;

use crate::{
    config::Config,
    host::{Running, WorldHandle},
    hosting::Hosting,
    metrics::Metrics,
    sequencer::Origin,
    spine::SpineOptions,
    tokens::Tokens,
};
use axum::http::HeaderMap;
use problem::Problem;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

/// What handlers share.
pub(crate) struct App {
    pub(crate) config: Arc<Config>,
    pub(crate) hosting: Arc<Hosting>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) draining: AtomicBool,
    pub(crate) bulk: bulk::Bulk,
    pub(crate) views: views::Views,
    pub(crate) founds: Arc<views::Founds>,
    pub(crate) firsts: views::FirstViews,
    pub(crate) answers: views::Answers,
    /// A permit for each open stream.
    pub(crate) streams: Arc<tokio::sync::Semaphore>,
    pub(crate) tokens: Tokens,
    /// The configuration in force; `config` is what the process was started with.
    pub(crate) live: live::Live,
    pub(crate) buckets: auth::Buckets,
    /// Somebody asks the process to end.
    pub(crate) shutdown: tokio::sync::Notify,
    requests: AtomicU64,
}

impl App {
    /// The world of that name.
    pub(crate) fn world(&self, name: &str) -> Result<WorldHandle, Problem> {
        let known =
            || self.hosting.worlds().into_iter().map(|world| world.name).collect::<Vec<_>>().join(", ");
        self.hosting
            .world(name)
            .ok_or_else(|| Problem::not_found(format!("there is no world \"{name}\"; worlds: {}", known())))
    }

    /// The parts of the world of that name, once it is there.
    pub(crate) fn running(&self, name: &str) -> Result<(WorldHandle, Arc<Running>), Problem> {
        let world = self.world(name)?;
        let running = world.running().cloned().ok_or_else(|| {
            let (status, target) = (&world.status, world.status.recovery_target());
            Problem::unavailable(format!(
                "world \"{name}\" is being brought back: tick {} of {target}",
                status.tick()
            ))
        })?;
        Ok((world, running))
    }

    /// Whose events tell of work about a world.
    fn about(&self, world: &str) -> Option<Arc<crate::status::WorldStatus>> {
        self.hosting.world(world).map(|handle| handle.status)
    }

    /// The sender's idempotency key, if it gives one.
    pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
        let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
        let legal =
            |key: &&str| !key.is_empty() && key.len() <= 128 && key.chars().all(|c| c.is_ascii_graphic());
        let key = key.to_str().ok().filter(legal);
        key.map(Some)
            .ok_or_else(|| Problem::malformed("Idempotency-Key: expected 1 to 128 visible ASCII characters"))
    }

    /// A number that no other request has.
    fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Relaxed)
    }

    /// How worlds are kept that are made or read beside the hosted ones.
    fn spine_options(&self) -> SpineOptions {
        crate::host::spine_options(&self.config, false, Arc::new(everworld_persistence::RealDisk))
    }

    /// Who asks. The request's id is the client's, or one of ours.
    fn origin(&self, headers: &HeaderMap) -> Origin {
        let given = headers.get("x-request-id").and_then(|id| id.to_str().ok());
        let legal = |id: &&str| !id.is_empty() && id.len() <= 128 && id.chars().all(|c| c.is_ascii_graphic());
        let request_id = given.filter(legal).map(str::to_owned);
        let request_id = request_id.unwrap_or_else(|| format!("r{}", self.next_request()));
        let principal = headers.get(auth::PRINCIPAL).and_then(|name| name.to_str().ok());
        Origin { principal: principal.unwrap_or(auth::LOCAL).into(), request_id }
    }
}
