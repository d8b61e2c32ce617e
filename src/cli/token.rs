//! `everworld token`: who may use the HTTP API of a server.

use super::{Failed, config_command::Layers, exit};
use crate::tokens::{Role, Tokens};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Create, list and revoke the bearer tokens of a server
///
/// A server reads them when it starts. With none it answers this machine only.
#[derive(Args, Debug)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Subcommand, Debug)]
enum TokenCommand {
    /// Print a new token; it is kept nowhere, only its SHA-256 is
    Create {
        /// What it allows: viewer, operator or admin
        #[arg(long)]
        role: Role,
        /// Whose it is: the principal in the input log
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        layers: Layers,
    },
    /// List names and roles
    List {
        #[command(flatten)]
        layers: Layers,
    },
    /// Take a token back; servers that run have read it already
    Revoke {
        /// Its name
        name: String,
        #[command(flatten)]
        layers: Layers,
    },
}

pub(super) fn run(args: &TokenArgs) -> Result<(), Failed> {
    let (TokenCommand::Create { layers, .. }
    | TokenCommand::List { layers }
    | TokenCommand::Revoke { layers, .. }) = &args.command;
    let file: PathBuf = layers.load(&[])?.config.token_file();
    match &args.command {
        TokenCommand::Create { role, name, .. } => {
            if let Some(parent) = file.parent() {
                std::fs::create_dir_all(parent).map_err(|error| {
                    exit::config(anyhow::anyhow!("could not create \"{}\": {error}", parent.display()))
                })?;
            }
            let name = name.clone().unwrap_or_else(|| role.to_string());
            println!("{}", Tokens::create(&file, &name, *role).map_err(exit::config)?);
            eprintln!(
                "\"{name}\" ({role}) is in \"{}\"; servers that run read it when they start again",
                file.display()
            );
        }
        TokenCommand::List { .. } => {
            for token in Tokens::load(&file, None).map_err(exit::config)?.iter() {
                println!("{}  {}", token.role, token.name);
            }
        }
        TokenCommand::Revoke { name, .. } => Tokens::revoke(&file, name).map_err(exit::config)?,
    }
    Ok(())
}
