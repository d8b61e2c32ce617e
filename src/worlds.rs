//! Worlds from scenarios: loading the file, building, creating.

use crate::spine::{Spine, SpineError, SpineOptions};
use anyhow::Context as _;
use everworld_engine::{LiveWorld, Options};
use everworld_systems::{Plugin, Scenario, ScenarioError, WorldRecord};
use std::{fs, fs::File, io, path::Path};

/// Whether a world may have that name: it is one of a directory, and part of paths.
pub fn is_legal_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    (1..=64).contains(&name.len()) && name.chars().all(legal)
}

/// The worlds in a data directory, by name.
pub fn on_disk(data: &Path) -> Vec<String> {
    let dir = data.join("worlds");
    let entries = std::fs::read_dir(&dir).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    // Those with a dot are not made to their end.
    let mut names: Vec<String> =
        names.filter(|name| !name.starts_with('.') && dir.join(name).join("log").is_dir()).collect();
    names.sort();
    names
}

/// Copies a directory that nobody writes into, durably but for the new directory's own name.
pub(crate) fn copy_dir(from: &Path, to: &Path) -> Result<(), SpineError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| SpineError::Io { what, path, source }
    };
    fs::create_dir_all(to).map_err(failed("create", to))?;
    for entry in fs::read_dir(from).map_err(failed("read", from))? {
        let entry = entry.map_err(failed("read", from))?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_dir(&path, &target)?;
        } else {
            fs::copy(&path, &target).map_err(failed("copy", &path))?;
            sync(&target)?;
        }
    }
    sync(to)
}

/// Makes a file, or the names in a directory, durable.
pub(crate) fn sync(path: &Path) -> Result<(), SpineError> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|source| SpineError::Io { what: "sync", path: path.to_owned(), source })
}

/// Loads the scenario that is named: the file at that path, or the built-in one of that name.
///
/// # Errors
/// Every fault with file and line.
pub fn load_scenario(name: &str, plugins: &[Plugin], sets: &[String]) -> Result<Scenario, ScenarioError> {
    if let Some(plugin) = plugins.iter().find(|plugin| plugin.name == name) {
        return Scenario::parse(plugin.scenario, &format!("{name} (built in)"), sets);
    }
    let text = std::fs::read_to_string(name).map_err(|error| {
        let known: Vec<_> = plugins.iter().map(|plugin| plugin.name).collect();
        ScenarioError::new(format!(
            "could not read scenario \"{name}\": {error}; built-in scenarios: {}",
            known.join(", ")
        ))
    })?;
    Scenario::parse(&text, name, sets)
}

/// Builds the world of a scenario, still empty.
pub fn build(scenario: &Scenario, plugins: &[Plugin], options: Options) -> anyhow::Result<LiveWorld> {
    let builder = scenario.builder(plugins)?;
    builder.build(options).with_context(|| format!("could not build world \"{}\"", scenario.name))
}

/// Builds and creates the world of a record: tick 0.
pub fn create(record: &WorldRecord, plugins: &[Plugin], options: Options) -> anyhow::Result<LiveWorld> {
    let mut world = build(&record.scenario, plugins, options)?;
    world.create().with_context(|| format!("could not create world \"{}\"", record.world))?;
    Ok(world)
}

/// A world that is ticked by hand and kept in a data directory: `run --data`.
pub struct Durable {
    spine: Spine,
    live: LiveWorld,
}

impl Durable {
    /// Opens the world of that name in a data directory, or creates it.
    pub fn open(
        data: &Path,
        record: &WorldRecord,
        plugins: &'static [Plugin],
        options: Options,
    ) -> Result<Self, SpineError> {
        let (spine, live) = Spine::open(data, record, plugins, options, &SpineOptions::default())?;
        Ok(Self { spine, live })
    }

    /// What the world was created from.
    pub fn record(&self) -> &WorldRecord {
        &self.spine.record
    }

    /// The world.
    pub fn live(&self) -> &LiveWorld {
        &self.live
    }

    /// The next tick.
    pub fn tick(&mut self) -> Result<(), SpineError> {
        self.spine.tick_by_hand(&mut self.live)
    }

    /// Writes a snapshot of the last tick and closes the log.
    pub fn close(mut self) -> Result<(), SpineError> {
        self.spine.close(&mut self.live)
    }
}
