//! `everworld worlds`: what there is in a data directory, and where it comes from.

use super::{
    Failed, exit,
    past::{lock_if_there, names},
};
use crate::{
    catalogue::{self, Catalogue, Event, Origin},
    clock,
    history::History,
    spine::{self, SpineOptions, chain},
};
use anyhow::Context as _;
use clap::Args;
use everworld_persistence::{Disk, RealDisk};
use everworld_systems::Plugin;
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// List the worlds of a data directory: scenario, parent, size, last tick
#[derive(Args, Debug)]
pub struct WorldsArgs {
    /// The data directory of a stopped server
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Forget a world whose directory is gone for good
    #[arg(long, value_name = "W")]
    forget: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &WorldsArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    if let Some(name) = &args.forget {
        return forget(&disk, &args.data, name);
    }
    // Says what is wrong with a directory that is none.
    names(&args.data)?;
    let _lock = lock_if_there(&args.data)?;
    let stored = catalogue::stored(&disk, &args.data)?;
    let mut worlds = Vec::new();
    for (name, stored) in &stored {
        let mut world = stored.to_json(name);
        if stored.there {
            let dir = args.data.join("worlds").join(name);
            world["bytes"] = size(&dir).ok().into();
            // One that cannot be read does not hide the others.
            match look(&args.data, name, plugins) {
                Ok((scenario, tick)) => {
                    world["scenario"] = scenario.into();
                    world["last_tick"] = tick.into();
                }
                Err(failed) => {
                    world["state"] = "damaged".into();
                    world["reason"] = failed.into();
                }
            }
        }
        worlds.push(world);
    }
    if args.json {
        let shown = serde_json::to_string_pretty(&json!({"items": worlds}));
        println!("{}", shown.context("could not print the worlds")?);
    } else {
        print!("{}", table(&worlds));
    }
    Ok(())
}

/// Its scenario, and the last tick that may have been shown.
fn look(data: &Path, world: &str, plugins: &'static [Plugin]) -> Result<(Option<String>, u64), String> {
    let look = || {
        let history = History::open(data, world, plugins, &SpineOptions::default())?;
        let newest = history.newest()?;
        let last = history.snapshots().iter().map(|meta| meta.tick).max().unwrap_or_default();
        let scenario = newest.record.as_ref().map(|record| record.scenario.name.clone());
        // A snapshot of a line that was left may be of a later tick.
        let last = if newest.branches.0.is_empty() { last.max(newest.target()) } else { newest.target() };
        Ok((scenario, last.0))
    };
    look().map_err(|error: spine::SpineError| chain(&error))
}

fn size(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() { size(&entry.path())? } else { meta.len() };
    }
    Ok(bytes)
}

fn table(worlds: &[Value]) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut lines =
        format!("{:<20} {:<9} {:<16} {:>12} {:>9}  from\n", "world", "state", "scenario", "last tick", "MiB");
    for world in worlds {
        let origin: Option<Origin> = serde_json::from_value(world["origin"].clone()).ok();
        let from = match origin {
            None => "not written down; the next serve adopts it".to_owned(),
            Some(Origin::Created) => "its scenario".to_owned(),
            Some(Origin::Forked { parent, branch, tick }) => format!("{parent} at tick {branch}/{tick}"),
            Some(Origin::Imported { tick }) => format!("a file, at tick {tick}"),
            Some(Origin::Restored) => "a backup".to_owned(),
            Some(Origin::Adopted) => "found here".to_owned(),
        };
        let or_dash = |value: &Value| if value.is_null() { "-".to_owned() } else { text(value) };
        let mib =
            world["bytes"].as_u64().map_or_else(|| "-".into(), |b| format!("{:.1}", b as f64 / 1_048_576.0));
        let _ = writeln!(
            lines,
            "{:<20} {:<9} {:<16} {:>12} {:>9}  {from}",
            text(&world["world"]),
            text(&world["state"]),
            or_dash(&world["scenario"]),
            or_dash(&world["last_tick"]),
            mib
        );
        if let Some(reason) = world["reason"].as_str() {
            let _ = writeln!(lines, "  {reason}");
        }
    }
    lines
}

fn forget(disk: &Arc<dyn Disk>, data: &Path, name: &str) -> Result<(), Failed> {
    names(data)?;
    let _lock = spine::lock(data)?;
    match catalogue::stored(disk, data)?.get(name) {
        None => return Err(exit::usage(&format!("--forget: there is no world \"{name}\" in the catalogue"))),
        Some(stored) if stored.there => {
            return Err(exit::usage(&format!("--forget: the world \"{name}\" is there: nothing is removed")));
        }
        Some(_) => {}
    }
    let event = Event::Removed { name: name.to_owned(), unix_millis: clock::unix_millis() };
    Catalogue::open(disk, data)?.note(event)?;
    println!("forgot \"{name}\"");
    Ok(())
}
