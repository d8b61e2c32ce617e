//! `everworld serve`: hosts a world and answers over HTTP until it is told to stop.

use super::{Failed, config_command::Layers, exit};
use crate::{
    api::{self, Served},
    catalogue::{self, Catalogue},
    config::Config,
    host,
    hosting::Hosting,
    logs, pool,
    spine::{self, SpineError},
    status::{Phase, WorldState, WorldStatus},
    tokens::{self, Tokens},
    worlds,
};
use anyhow::Context as _;
use clap::Args;
use everworld_persistence::{Disk, RealDisk};
use everworld_systems::{Plugin, WorldRecord};
use indicatif::{ProgressBar, ProgressStyle};
use std::{io::IsTerminal as _, path::PathBuf, sync::Arc, time::Duration};

/// Host a world and answer over HTTP until told to stop
#[derive(Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    layers: Layers,
    /// The data directory, instead of data.dir
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The world to host, of those in the data directory, instead of world.name
    #[arg(long, value_name = "W")]
    world: Option<String>,
    /// Go on with a log that another build has written, although it may replay differently
    #[arg(long)]
    accept_foreign_log: bool,
}

pub(super) fn run(args: &ServeArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    let mut flags: Vec<(&str, String)> =
        args.data.iter().map(|data| ("data.dir", data.to_string_lossy().into_owned())).collect();
    flags.extend(args.world.iter().map(|world| ("world.name", world.clone())));
    let loaded = args.layers.load(&flags)?;
    let effective = loaded.show_json();
    let config = Arc::new(loaded.config);
    let tokens = may_listen(&config)?;
    let tls = api::Tls::load(&config.http).map_err(exit::config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("http")
        .on_thread_start(pool::answer_soon)
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    // Before anything is touched: from here on the process ends in order.
    let signals = runtime.block_on(async { api::Signals::new() })?;
    let mut sets = Vec::new();
    sets.extend(config.world.seed.map(|seed| format!("seed={seed}")));
    sets.extend(config.world.population.map(|population| format!("population={population}")));
    let scenario = worlds::load_scenario(&config.world.scenario, plugins, &sets).map_err(exit::config)?;
    // A scenario that does not build is found before anything is opened.
    scenario.builder(plugins).map_err(exit::config)?;
    logs::start(&config);
    let world = match config.world.name.as_deref() {
        None => scenario.name.clone(),
        Some(name) if worlds::is_legal_name(name) => name.to_owned(),
        Some(name) => {
            return Err(exit::config(anyhow::anyhow!(
                "world.name: \"{name}\" is no name for a world: expected 1 to 64 of a-z, 0-9, - and _"
            )));
        }
    };
    let record = WorldRecord { world, scenario };
    // Before the address: two servers on one directory are told so, whatever they listen on.
    let lock = spine::lock(&config.data.dir)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let reconciled = Catalogue::open(&disk, &config.data.dir)?.reconcile()?;
    if reconciled.missing.contains(&record.world) {
        // Else a new one would begin in its place.
        let path = config.data.dir.join("worlds").join(&record.world);
        return Err(SpineError::Lost { world: record.world, what: "the directory", path }.into());
    }
    if let Some(name) = &args.world {
        let worlds = catalogue::stored(&disk, &config.data.dir)?;
        if !worlds.contains_key(name) {
            let names: Vec<_> = worlds.into_keys().collect();
            return Err(exit::usage(&format!(
                "--world: there is no \"{name}\"; this data directory has: {}",
                names.join(", ")
            )));
        }
    }
    let accept_foreign_log = args.accept_foreign_log;
    runtime.block_on(async move {
        let server = api::Server::bind(&config)?;
        tracing::info!(address = %server.address(), data = %config.data.dir.display(), "listening");
        let shared = host::Shared::new(&config, lock, plugins, accept_foreign_log)?;
        let name = record.world.clone();
        let hosting = Hosting::start(shared, record)?;
        if let Some(world) = hosting.world(&name) {
            show_recovery(&world.status);
        }
        server.run(config, hosting, Served { tokens, effective, tls }, signals).await
    })
}

/// A bar for people, for as long as a world is being brought back. The log and `/readyz?verbose` say the same.
fn show_recovery(status: &Arc<WorldStatus>) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let status = status.clone();
    let style = ProgressStyle::with_template("bringing the world back {bar:30} tick {pos}/{len}  {eta} left");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let show = move || {
        let bar = ProgressBar::new(0).with_style(style);
        while status.state().0 == WorldState::Recovering {
            let recovery = status.recovery();
            if recovery.phase == Phase::Replaying {
                bar.set_length(recovery.target.0 - recovery.from.0);
                bar.set_position(status.tick().0.saturating_sub(recovery.from.0));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bar.finish_and_clear();
    };
    // Without a thread there is no bar.
    let _ = std::thread::Builder::new().name("progress".into()).spawn(show);
}

/// The tokens, if the address and they are fit for each other.
pub(super) fn may_listen(config: &Config) -> Result<Tokens, Failed> {
    let environment = std::env::var(tokens::ENVIRONMENT).ok();
    let tokens = Tokens::load(&config.token_file(), environment.as_deref()).map_err(exit::config)?;
    let bind = config.http.bind;
    if !bind.ip().is_loopback() && tokens.is_empty() {
        return Err(exit::config(anyhow::anyhow!(
            "http.bind: {bind} is reachable from other machines, and there are no tokens: make some with everworld token \
             create, or bind a loopback address"
        )));
    }
    if !bind.ip().is_loopback() && !config.http.allow_plaintext && config.http.tls_certificate.is_none() {
        return Err(exit::config(anyhow::anyhow!(
            "http.bind: {bind} is reachable from other machines, and without TLS tokens can be read on the way: put a proxy \
             with TLS before a loopback address, or set http.allow_plaintext"
        )));
    }
    Ok(tokens)
}
