//! `everworld serve`: hosts a world and answers over HTTP until it is told to stop.

use super::{Failed, config_command::Layers, exit};
use crate::{api, host, spine, worlds};
use anyhow::Context as _;
use clap::Args;
use everworld_systems::{Plugin, WorldRecord};
use std::{io::IsTerminal as _, path::PathBuf, sync::Arc};
use tracing_subscriber::EnvFilter;

/// Host a world and answer over HTTP until told to stop
#[derive(Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    layers: Layers,
    /// The data directory, instead of data.dir
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Go on with a log that another build has written, although it may replay differently
    #[arg(long)]
    accept_foreign_log: bool,
}

pub(super) fn run(args: &ServeArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    let flags: Vec<(&str, String)> =
        args.data.iter().map(|data| ("data.dir", data.to_string_lossy().into_owned())).collect();
    let config = Arc::new(args.layers.load(&flags)?.config);
    if !config.http.bind.ip().is_loopback() {
        return Err(exit::config(anyhow::anyhow!(
            "http.bind: {} is reachable from other machines, and the API has no tokens yet: bind a loopback address",
            config.http.bind
        )));
    }
    let mut sets = Vec::new();
    sets.extend(config.world.seed.map(|seed| format!("seed={seed}")));
    sets.extend(config.world.population.map(|population| format!("population={population}")));
    let scenario = worlds::load_scenario(&config.world.scenario, plugins, &sets).map_err(exit::config)?;
    // A scenario that does not build is found before anything is opened.
    scenario.builder(plugins).map_err(exit::config)?;
    start_logging(&config);
    let record = WorldRecord { world: scenario.name.clone(), scenario };
    // Before the address: two servers on one directory are told so, whatever they listen on.
    let lock = spine::lock(&config.data.dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("http")
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    let accept_foreign_log = args.accept_foreign_log;
    runtime.block_on(async move {
        let server = api::Server::bind(&config)?;
        tracing::info!(address = %server.address(), data = %config.data.dir.display(), "listening");
        let world = host::start(&config, lock, record, plugins, accept_foreign_log)?;
        server.run(config, world).await
    })
}

fn start_logging(config: &crate::config::Config) {
    use crate::config::LogFormat;
    let filter =
        EnvFilter::try_new(config.logging.filter.as_str()).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let pretty = match config.logging.format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    // Only the first server of a process can set it; tests start several.
    let _ = if pretty { builder.try_init() } else { builder.json().try_init() };
}
