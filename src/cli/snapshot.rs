//! `everworld snapshot`: the kept snapshots, and single ones as files.

use super::{
    Failed, exit,
    inspect::{cells, table},
    source::{Source, SourceArgs, stopped},
};
use crate::{
    clock, history, pool,
    questions::snapshot_id,
    spine::{self, SpineError, SpineOptions},
};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use everworld_engine::{Options, Parallel};
use everworld_systems::Plugin;
use serde_json::{Value, json};
use std::path::PathBuf;

/// List snapshots, take one, or move one as a file
#[derive(Args, Debug)]
pub struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Subcommand, Debug)]
enum SnapshotCommand {
    /// List the kept snapshots, newest first
    List {
        #[command(flatten)]
        source: SourceArgs,
    },
    /// Take one now, on a running server
    Create {
        #[command(flatten)]
        source: SourceArgs,
    },
    /// Write one to a new file
    Export {
        #[command(flatten)]
        source: SourceArgs,
        /// Which one, as the list names it; the newest when not given
        #[arg(long, value_name = "ID")]
        id: Option<String>,
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Make a new world of one, in the data directory of a stopped server
    Import {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The data directory
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// The new world's name
        #[arg(long, value_name = "N")]
        name: String,
        /// Refuse a state that unpacks to more bytes: a small file can hold a large one
        #[arg(long, value_name = "B", default_value_t = IMPORT_BYTES_MAX)]
        bytes_max: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// 8 GiB: about 10,000,000 entities of 600 bytes and what is beside them.
const IMPORT_BYTES_MAX: u64 = 8 << 30;

pub(super) fn run(args: &SnapshotArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    match &args.command {
        SnapshotCommand::List { source } => {
            let answer = match source.open(plugins)? {
                Source::Stopped(past) => past.questions().snapshots(),
                Source::Live(mut remote) => remote.ask("GET", "/snapshots", &Value::Null)?,
            };
            source.print(&answer, list)
        }
        SnapshotCommand::Create { source } => match source.open(plugins)? {
            Source::Stopped(_) => Err(exit::usage(
                "a stopped world has its last tick in a snapshot already; --url asks a running server for one",
            )),
            Source::Live(mut remote) => {
                let answer = remote.ask("POST", "/snapshots", &Value::Null)?;
                source.print(&answer, |answer| format!("snapshot of tick {}\n", answer["tick"]))
            }
        },
        SnapshotCommand::Export { source, id, file } => export(source, id.as_deref(), file, plugins),
        SnapshotCommand::Import { file, data, name, bytes_max, json } => {
            legal_name(name)?;
            let _lock = spine::lock(data)?;
            let tick = history::import(
                (file, *bytes_max),
                data,
                name,
                plugins,
                &options()?,
                &SpineOptions::default(),
            )?;
            if *json {
                println!("{}", json!({"world": name, "tick": tick}));
            } else {
                println!("world \"{name}\" begins at tick {tick}; run it with: {}", serve_hint(data, name));
            }
            Ok(())
        }
    }
}

/// How a world beside the first one is run.
pub(super) fn serve_hint(data: &std::path::Path, name: &str) -> String {
    format!("everworld serve --data {} --set world.name={name}", data.display())
}

/// A name that a world may have.
pub(super) fn legal_name(name: &str) -> Result<(), Failed> {
    if crate::worlds::is_legal_name(name) {
        return Ok(());
    }
    Err(exit::usage(&format!(
        "--name: \"{name}\" is no name for a world: expected 1 to 64 of a-z, 0-9, - and _"
    )))
}

/// A pool for a command.
pub(super) fn options() -> Result<Options, Failed> {
    Ok(Options { pool: pool::start(0, false)?, parallel: Parallel::Auto, stopwatch: clock::stopwatch() })
}

fn export(
    source: &SourceArgs,
    id: Option<&str>,
    file: &std::path::Path,
    plugins: &'static [Plugin],
) -> Result<(), Failed> {
    if file.exists() {
        return Err(exit::usage(&format!("\"{}\" is there already", file.display())));
    }
    let (id, bytes) = if let Some(data) = &source.data {
        let past = stopped(data, source.world.as_deref(), plugins)?;
        let snapshots = past.history.snapshots();
        let found = snapshots.iter().find(|meta| id.is_none_or(|id| id == snapshot_id(meta)));
        let meta = found.ok_or_else(|| no_such(id, snapshots.iter().map(snapshot_id)))?;
        let exported = past.history.store.export(meta.branch, meta.tick, file);
        exported.map_err(|source| SpineError::Store { world: past.world.clone(), source })?;
        let bytes = std::fs::metadata(file).context("could not look at the new file")?.len();
        (snapshot_id(meta), bytes)
    } else {
        let Source::Live(mut remote) = source.open(plugins)? else {
            return Err(exit::usage("expected --data or --url"));
        };
        let listed = remote.ask("GET", "/snapshots", &Value::Null)?;
        let ids = || {
            let items = listed["items"].as_array().into_iter().flatten();
            items.filter_map(|item| item["id"].as_str()).map(str::to_owned)
        };
        let found = ids().find(|known| id.is_none_or(|id| id == known));
        let found = found.ok_or_else(|| no_such(id, ids()))?;
        let bytes = remote.download(&format!("/snapshots/{found}/download"), file)?;
        (found, bytes)
    };
    let answer = json!({"id": id, "file": file, "bytes": bytes});
    source.print(&answer, |_| format!("snapshot {id} is in \"{}\", {bytes} bytes\n", file.display()))
}

fn no_such(id: Option<&str>, known: impl Iterator<Item = String>) -> Failed {
    let known: Vec<String> = known.collect();
    match id {
        Some(id) => exit::usage(&format!("--id: there is no snapshot {id}; kept are {}", known.join(", "))),
        None => exit::usage("there is no snapshot yet"),
    }
}

fn list(answer: &Value) -> String {
    let keys = ["id", "branch", "tick", "entities", "state_hash", "build_id"];
    let items = answer["items"].as_array().into_iter().flatten();
    let rows: Vec<_> = items.map(|item| cells(item, &keys)).collect();
    let damaged = answer["damaged"].as_array().into_iter().flatten();
    let damaged = damaged.map(|text| format!("damaged: {}\n", text.as_str().unwrap_or_default()));
    table(&["id", "branch", "tick", "entities", "state hash", "build"], &rows) + &damaged.collect::<String>()
}
