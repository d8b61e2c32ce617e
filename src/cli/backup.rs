//! `everworld backup` and `everworld restore`: all of a data directory somewhere else, and back.
//!
//! A stopped directory is copied file by file; a running server copies complete epochs and its log up to what is durable
//! (`POST /v1/backup`), into a directory of its own machine. Either way the copy is a data directory, with the catalogue
//! that says where its worlds come from.

use super::{
    Failed, exit,
    past::{lock_if_there, names},
};
use crate::{
    catalogue::{self, Catalogue, Event, Origin},
    cli::source::{Source, SourceArgs},
    history::History,
    spine::{self, SpineOptions},
    worlds::{copy_dir, sync},
};
use anyhow::Context as _;
use clap::Args;
use everworld_persistence::{Disk, RealDisk};
use everworld_systems::Plugin;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::{
    fs,
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
    /// The data directory, which must have no worlds; with --world not that one
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Only this world
    #[arg(long, value_name = "W")]
    world: Option<String>,
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
        // Only read: also where nothing can be written.
        let _lock = lock_if_there(data).map_err(|failed| match failed.code {
            75 => Failed::new(
                75,
                failed.error.context("a server is running: ask it with --url instead of --data"),
            ),
            _ => failed,
        })?;
        fs::create_dir_all(&args.to)
            .with_context(|| format!("could not create \"{}\"", args.to.display()))?;
        catalogue::copy(data, &args.to)?;
        let worlds = copy_worlds(data, &args.to, &worlds, plugins)?;
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
    let backed_up = names(&args.from).map_err(|_| {
        exit::usage(&format!(
            "--from: \"{}\" is no backup: there is no \"worlds\" in it",
            args.from.display()
        ))
    })?;
    if backed_up.is_empty() {
        return Err(exit::usage(&format!("--from: there is no world in \"{}\"", args.from.display())));
    }
    let there = names(&args.data).unwrap_or_default();
    let wanted = match &args.world {
        Some(world) if !backed_up.contains(world) => {
            let known = backed_up.join(", ");
            return Err(exit::usage(&format!("--world: there is no \"{world}\"; the backup has: {known}")));
        }
        Some(world) => vec![world.clone()],
        None => backed_up,
    };
    let in_the_way = match &args.world {
        None => there.first(),
        Some(world) => there.iter().find(|there| *there == world),
    };
    if let Some(world) = in_the_way {
        return Err(exit::usage(&format!(
            "--data: \"{}\" has a world \"{world}\", and restore overwrites nothing: name another directory",
            args.data.display()
        )));
    }
    // Who writes the backup must not be at it.
    let _from = lock_if_there(&args.from)?;
    let _lock = spine::lock(&args.data)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    if args.world.is_none() && !args.data.join("server").exists() {
        catalogue::copy(&args.from, &args.data)?;
    }
    for world in &wanted {
        let mut catalogue = Catalogue::open(&disk, &args.data)?;
        if !catalogue.entries().contains_key(world) {
            catalogue.note(Event::begun(world, None, Origin::Restored))?;
        }
    }
    let worlds = copy_worlds(&args.from, &args.data, &wanted, plugins)?;
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
        let name = world["world"].as_str().unwrap_or_default();
        let _ = match world["tick"].as_u64() {
            Some(tick) => writeln!(text, "  world {name} up to tick {tick}"),
            None => writeln!(text, "  world {name}, which that server does not run"),
        };
    }
    text
}

/// Copies worlds of one directory into another: durable under their names only when all of them are, and read again.
fn copy_worlds(
    from: &Path,
    to: &Path,
    names: &[String],
    plugins: &'static [Plugin],
) -> Result<Vec<Value>, Failed> {
    let making = to.join(".worlds.new");
    if making.exists() {
        fs::remove_dir_all(&making).with_context(|| format!("could not remove \"{}\"", making.display()))?;
    }
    for world in names {
        copy_dir(&from.join("worlds").join(world), &making.join(world))?;
    }
    sync(&making)?;
    let worlds = to.join("worlds");
    let rename = |from: &Path, to: &Path| {
        let renamed = fs::rename(from, to);
        renamed.with_context(|| format!("could not rename \"{}\" to \"{}\"", from.display(), to.display()))
    };
    if worlds.exists() {
        // Beside others.
        names.iter().try_for_each(|world| rename(&making.join(world), &worlds.join(world)))?;
        sync(&worlds)?;
        fs::remove_dir(&making).with_context(|| format!("could not remove \"{}\"", making.display()))?;
    } else {
        rename(&making, &worlds)?;
    }
    sync(to)?;
    sync(&to.join(".."))?;
    let told = names.iter().map(|world| -> Result<Value, Failed> {
        let tick = History::open(to, world, plugins, &SpineOptions::default())?.newest()?.target();
        Ok(json!({"world": world, "tick": tick}))
    });
    told.collect()
}
