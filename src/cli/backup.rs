//! `everworld backup` and `everworld restore`: all of a data directory somewhere else, and back.
//!
//! A stopped directory is copied file by file; a running server copies complete epochs and its log up to what is durable
//! (`POST /v1/backup`), into a directory of its own machine. Either way the copy is a data directory.

use super::{Failed, exit, past::names};
use crate::{
    catalogue::{Catalogue, Event, Origin},
    cli::source::{Source, SourceArgs},
    history::History,
    spine::{self, SpineOptions},
};
use anyhow::{Context as _, anyhow};
use clap::Args;
use everworld_persistence::{Disk, RealDisk};
use everworld_systems::Plugin;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Copy all worlds of a data directory, also of a running server
#[derive(Args, Debug)]
pub struct BackupArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// The directory of the backup, which must not exist; with --url on the server's machine
    #[arg(long, value_name = "DIR2")]
    to: PathBuf,
}

/// Make a data directory of a backup
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The backup
    #[arg(long, value_name = "DIR2")]
    from: PathBuf,
    /// The data directory, which must have no worlds
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn backup(args: &BackupArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    let answer = if let Some(data) = &args.source.data {
        if args.to.exists() {
            return Err(exit::usage(&format!("--to: \"{}\" is there already", args.to.display())));
        }
        let worlds = names(data)?;
        if !data.join("LOCK").exists() && worlds.is_empty() {
            return Err(exit::usage(&format!("--data: there is no world in \"{}\"", data.display())));
        }
        let _lock = spine::lock(data).map_err(|error| match error.exit_code() {
            75 => {
                Failed::new(75, anyhow!("{error}: a server is running, ask it with --url instead of --data"))
            }
            _ => error.into(),
        })?;
        let worlds = copy_worlds(data, &args.to, plugins)?;
        json!({"to": args.to, "worlds": worlds})
    } else {
        match args.source.open(plugins)? {
            Source::Live(mut remote) => {
                let to = std::path::absolute(&args.to).context("could not make the path absolute")?;
                remote.request("POST", "/v1/backup", &json!({"to": to}).to_string())?
            }
            Source::Stopped(_) => return Err(exit::usage("expected --data or --url")),
        }
    };
    args.source.print(&answer, text)
}

pub(super) fn restore(args: &RestoreArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    if !names(&args.data).unwrap_or_default().is_empty() {
        return Err(exit::usage(&format!(
            "--data: \"{}\" has worlds, and restore overwrites nothing: name another directory",
            args.data.display()
        )));
    }
    if names(&args.from)?.is_empty() {
        return Err(exit::usage(&format!("--from: there is no world in \"{}\"", args.from.display())));
    }
    let _lock = spine::lock(&args.data)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    for world in names(&args.from)? {
        Catalogue::open(&disk, &args.data)?.note(Event::begun(&world, None, Origin::Restored))?;
    }
    let worlds = copy_worlds(&args.from, &args.data, plugins)?;
    Catalogue::open(&disk, &args.data)?.reconcile()?;
    let answer = json!({"to": args.data, "worlds": worlds});
    if args.json {
        println!("{answer}");
    } else {
        print!("{}", text(&answer));
    }
    Ok(())
}

fn text(answer: &Value) -> String {
    let mut text = format!("in \"{}\":\n", answer["to"].as_str().unwrap_or_default());
    for world in answer["worlds"].as_array().into_iter().flatten() {
        let _ = writeln!(
            text,
            "  world {} up to tick {}",
            world["world"].as_str().unwrap_or_default(),
            world["tick"]
        );
    }
    text
}

/// Copies the worlds of one directory into another: durable under their names only when all of them are, and read again.
fn copy_worlds(from: &Path, to: &Path, plugins: &'static [Plugin]) -> Result<Vec<Value>, Failed> {
    let making = to.join(".worlds.new");
    if making.exists() {
        fs::remove_dir_all(&making).with_context(|| format!("could not remove \"{}\"", making.display()))?;
    }
    let mut told = Vec::new();
    for world in names(from)? {
        copy_dir(&from.join("worlds").join(&world), &making.join(&world))?;
    }
    sync(&making)?;
    let worlds = to.join("worlds");
    fs::rename(&making, &worlds)
        .with_context(|| format!("could not rename \"{}\" to \"{}\"", making.display(), worlds.display()))?;
    sync(to)?;
    sync(&to.join(".."))?;
    for world in names(to)? {
        let tick = History::open(to, &world, plugins, &SpineOptions::default())?.newest()?.target();
        told.push(json!({"world": world, "tick": tick}));
    }
    Ok(told)
}

fn copy_dir(from: &Path, to: &Path) -> Result<(), Failed> {
    fs::create_dir_all(to).with_context(|| format!("could not create \"{}\"", to.display()))?;
    let entries = fs::read_dir(from).with_context(|| format!("could not read \"{}\"", from.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("could not read \"{}\"", from.display()))?.path();
        let Some(name) = path.file_name() else { continue };
        let target = to.join(name);
        if path.is_dir() {
            copy_dir(&path, &target)?;
        } else {
            fs::copy(&path, &target).with_context(|| format!("could not copy \"{}\"", path.display()))?;
            sync(&target)?;
        }
    }
    sync(to)
}

fn sync(path: &Path) -> Result<(), Failed> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    Ok(synced.with_context(|| format!("could not sync \"{}\"", path.display()))?)
}
