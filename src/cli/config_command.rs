//! `everworld config`: check, show and write the configuration.

use super::{Failed, exit};
use crate::{
    config::{self, Config, Loaded},
    worlds,
};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use everworld_systems::Plugin;
use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

/// Check, show or write the server's configuration
#[derive(Args, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Check a configuration and the scenario that it names, and report every fault
    Check(Layers),
    /// Print the effective values and where each came from
    Show {
        #[command(flatten)]
        layers: Layers,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a configuration file with every key and its meaning
    Init {
        /// Where to; `-` is standard output
        #[arg(default_value = "server.toml")]
        file: PathBuf,
    },
}

/// The layers of the configuration that a command line names.
#[derive(Args, Debug, Default)]
pub struct Layers {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override a key, for instance http.bind=127.0.0.1:8080
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

impl Layers {
    /// The effective configuration.
    pub(super) fn load(&self, flags: &[(&str, String)]) -> Result<Loaded, Failed> {
        // A variable that is not text cannot be one of ours.
        let environment =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Config::load(self.config.as_deref(), environment, &self.sets, flags).map_err(exit::config)
    }
}

pub(super) fn run(args: &ConfigArgs, plugins: &[Plugin]) -> Result<(), Failed> {
    match &args.command {
        ConfigCommand::Check(layers) => {
            let loaded = layers.load(&[])?;
            worlds::load_scenario(&loaded.config.world.scenario, plugins, &[]).map_err(exit::config)?;
            super::serve::may_listen(&loaded.config)?;
            println!("configuration ok");
        }
        ConfigCommand::Show { layers, json: false } => print!("{}", layers.load(&[])?.show()),
        ConfigCommand::Show { layers, json: true } => {
            let shown = serde_json::to_string_pretty(&layers.load(&[])?.show_json());
            println!("{}", shown.context("could not print the configuration")?);
        }
        ConfigCommand::Init { file } if file == Path::new("-") => print!("{}", config::default_file()),
        ConfigCommand::Init { file } => {
            let written = std::fs::File::create_new(file)
                .and_then(|mut out| out.write_all(config::default_file().as_bytes()));
            written.with_context(|| format!("could not write \"{}\"", file.display()))?;
            println!("wrote {}", file.display());
        }
    }
    Ok(())
}
